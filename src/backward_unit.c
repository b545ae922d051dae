/* The backward on one unit: sums block by block; dx. */
#include <string.h>

#include "backward.h"

/* ---- many rows -------------------------------------------------------------------------------------------------- */

static void scalars_of_block(const fn_backward_job *b, const fn_block *k, const fn_inputs *in, ptrdiff_t part,
                             fn_unit_sums *u) {
    const fn_job *job = b->job;
    const fn_axis *axis = fn_row_axis(job, &b->cut);
    for (ptrdiff_t r = 0; r < k->rows; r++) {
        fn_scalars s = {0};
        if (b->needs_sums) {
            const double g = u->chunk.g[r], gx = b->has_x ? u->chunk.gx[r] : 0, x = b->has_x ? u->chunk.x[r] : 0;
            const double count = in->mask.base ? fn_count_row(in->mask, r, k->width) : (double)job->plan.count;
            const double weight = fn_row_weight(b, k, r);
            s = fn_scalars_of(b, weight * g, weight * gx, x, count);
            if (b->from_sums)
                fn_add_params(b, part, k->offset[FN_DWEIGHT] + r * axis->stride[FN_DWEIGHT],
                              k->offset[FN_DBIAS] + r * axis->stride[FN_DBIAS], g, fn_moved(gx, s.shift, g));
        }
        fn_put_scalars(job, u, r, s);
    }
}

static fn_slices slices_of_block(const fn_backward_job *b, const fn_block *k, fn_unit_sums *u,
                                 const fn_worker_space *w) {
    const fn_job *job = b->job;
    const ptrdiff_t at = k->offset[FN_STAT] * (ptrdiff_t)job->verbs->compute_size;
    const fn_axis *axis = fn_row_axis(job, &b->cut);
    const int apart = axis->stride[FN_STAT] != 1 && !job->fresh;
    if (apart) fn_load_stats(job, axis, k->offset[FN_STAT], k->rows, u);
    const void *mean = !job->mean ? NULL : apart ? u->mean : (char *)job->mean + at;
    const void *rstd = !job->rstd ? NULL : apart ? u->rstd : (char *)job->rstd + at;
    return (fn_slices){
        .per = job->per,
        .centre = job->centre,
        .fresh = job->fresh,
        .undivided = job->undivided,
        .least = FN_LEAST_VARIANCE,
        .mean = mean,
        .rstd = rstd,
        .weight = fn_param_by_row(job, &b->cut, FN_WEIGHT, k->offset, k->width, w->weight),
        .sums = b->from_sums && !b->gains ? u->chunk : (fn_sums){0},
        .gains = b->gains ? (char *)job->dweight + k->offset[FN_DWEIGHT] * (ptrdiff_t)job->verbs->compute_size : NULL,
        .gains_step = axis->stride[FN_DWEIGHT],
        .root = job->root,
        .work = job->column_sums ? w->work : NULL,
        .without_g = !job->dbias,
        .fold = job->plan.fold.len,
        .past = job->past,
    };
}

static fn_tile rows_at(const fn_backward_job *b, const fn_block *k, int operand) {
    return (fn_tile){b->job->data[operand] + k->offset[operand], fn_whole_axis(b->job, &b->cut)->stride[operand]};
}

/* the block's rows, all that is done to them; what the sums of columns leave in w->work is the caller's to carry */
static void whole_rows(fn_backward_job *b, const fn_block *k, ptrdiff_t part, fn_unit_sums *u,
                       const fn_worker_space *w) {
    const fn_job *job = b->job;
    const fn_axis *axis = fn_whole_axis(job, &b->cut);
    const fn_slices p = slices_of_block(b, k, u, w);
    const fn_tile dx = rows_at(b, k, FN_Y);
    if (job->verbs->adjoint_rows(rows_at(b, k, FN_DY), rows_at(b, k, FN_X), dx, k->rows, k->width, &p) < k->rows)
        __atomic_store_n(&b->beyond, 1, __ATOMIC_RELAXED);
    if (b->from_sums && !b->gains) fn_add_rows(b, part, k->offset, axis, k->rows * job->per, u->chunk);
}

/* brings the column sums of these blocks from w->work to the part's accumulators */
static void carry_columns(const fn_backward_job *b, ptrdiff_t first, ptrdiff_t last, ptrdiff_t part, fn_unit_sums *u,
                          const fn_worker_space *w) {
    const fn_job *job = b->job;
    const fn_unit all = fn_cut_unit(job, &b->cut, 0);
    const fn_block begin = fn_cut_block(job, &b->cut, &all, first);
    const fn_sums into = fn_column_sums(b, &begin, w, part);
    if (!job->verbs->carry_cols(job->plan.n, job->plan.fold.len, w->work, into)) return;
    for (ptrdiff_t i = first; i <= last; i++) {
        const fn_block k = fn_cut_block(job, &b->cut, &all, i);
        const fn_slices p = slices_of_block(b, &k, u, w);
        job->verbs->resum_cols(rows_at(b, &k, FN_DY), rows_at(b, &k, FN_X), k.rows, k.width, &p, into);
    }
    memset(w->work, 0, (size_t)(2 * job->plan.n) * job->verbs->compute_size);
}

static void tile_of_rows(const fn_backward_job *b, const fn_block *k, ptrdiff_t part, fn_unit_sums *u,
                         const fn_worker_space *w) {
    const fn_job *job = b->job;
    const fn_inputs in = fn_inputs_of(b, k, w);
    fn_load_stats(job, fn_row_axis(job, &b->cut), k->offset[FN_STAT], k->rows, u);
    if (b->needs_sums) {
        fn_dots p = {.mean = fn_by_slot(b, u->mean), .rstd = fn_by_slot(b, u->rstd)};
        if (b->weighted) p.weight = fn_param_at(job, &b->cut, FN_WEIGHT, k->offset, k->width, w->weight);
        job->verbs->dots_rows(in.dy, b->has_x ? in.x : (fn_tile){0}, in.mask, k->rows, k->width, &p, u->chunk);
    }
    scalars_of_block(b, k, &in, part, u);
    if (b->from_elements) fn_elements_block(b, k, &in, u, w, part); /* before combine: dx may be dy */
    fn_combine_block(b, k, &in, u, w);
}

void fn_many_rows_chunk(fn_backward_job *b, ptrdiff_t chunk, ptrdiff_t part, fn_unit_sums *u,
                        const fn_worker_space *w) {
    const fn_job *job = b->job;
    const fn_cut *cut = &b->cut;
    const fn_unit all = fn_cut_unit(job, cut, 0);
    const ptrdiff_t first = chunk * cut->chunk_blocks, last = fn_chunk_end(cut, chunk);
    ptrdiff_t summed = 0, since = first;
    if (job->column_sums) memset(w->work, 0, (size_t)(2 * job->plan.n) * job->verbs->compute_size);
    for (ptrdiff_t i = first; i < last; i++) {
        const fn_block k = fn_cut_block(job, cut, &all, i);
        if (!job->whole_rows) {
            tile_of_rows(b, &k, part, u, w);
            continue;
        }
        whole_rows(b, &k, part, u, w);
        summed += k.rows;
        const int ends =
            i + 1 == last || (fn_is_merged(job) && (i + 1) % cut->row_blocks == 0); /* what shares parameters */
        if (!job->column_sums || (summed + k.rows <= FN_MOST_SUMMED && !ends)) continue;
        carry_columns(b, since, i, part, u, w);
        summed = 0;
        since = i + 1;
    }
}

/* ---- regions of columns ----------------------------------------------------------------------------------------- */

int fn_units_can_be_whole(const fn_backward_job *b) {
    const fn_job *job = b->job;
    const fn_plan *plan = &job->plan;
    if (!fn_regions_adjoin(job, &b->cut) || !b->has_x || !job->scale || job->given || !job->rstd) return 0;
    if (b->weighted || b->from_elements) return 0;
    for (int o = FN_DWEIGHT; o <= FN_DBIAS; o++) {
        if (!(o == FN_DWEIGHT ? job->dweight : job->dbias)) continue;
        if (fn_plan_step(plan, o) != 1 || plan->inner.stride[o] != plan->fold.len) return 0;
    }
    return 1;
}

void fn_whole_units(const fn_backward_job *b, ptrdiff_t first, ptrdiff_t last, ptrdiff_t part,
                    const fn_worker_space *w) {
    const fn_job *job = b->job;
    const fn_cut *cut = &b->cut;
    const fn_axis *axis = &job->plan.kept[job->plan.nkept - 1];
    for (ptrdiff_t i = first, count; i < last; i += count) {
        count = fn_regions_from(job, i, last);
        const fn_unit unit = fn_cut_unit(job, cut, i);
        const fn_block k = fn_cut_block(job, cut, &unit, 0);
        const fn_sums into = fn_column_sums(b, &k, w, part);
        const ptrdiff_t at = unit.offset[FN_STAT] * (ptrdiff_t)job->verbs->compute_size;
        const fn_regions p = {
            .count = count,
            .x = axis->stride[FN_X],
            .y = axis->stride[FN_Y],
            .dy = axis->stride[FN_DY],
            .block_rows = cut->block_rows,
            .fold = job->plan.fold.len,
            .centre = job->centre,
            .scale = 1,
            .mean = job->mean ? (char *)job->mean + at : NULL,
            .rstd = (char *)job->rstd + at,
            .stats = axis->stride[FN_STAT],
            .weight = fn_param_at(job, cut, FN_WEIGHT, unit.offset, unit.width, w->weight),
            .sums = {b->dbias ? into.g : NULL, b->dweight ? into.gx : NULL, NULL},
            .work = w->work,
            .past = job->past,
        };
        const fn_inputs in = fn_inputs_of(b, &k, w);
        job->verbs->adjoint_cols(in.dy, in.x, fn_tile_out(job, cut, unit.offset, unit.width, NULL), job->plan.rows,
                                 unit.width, &p);
    }
}

/* ---- units ------------------------------------------------------------------------------------------------------ */

static void rows_sums(const fn_backward_job *b, const fn_block *k, const fn_inputs *in, ptrdiff_t chunk,
                      fn_unit_sums *u, const fn_worker_space *w) {
    const fn_job *job = b->job;
    const fn_cut *cut = &b->cut;
    fn_dots p = {.mean = fn_by_slot(b, u->mean), .rstd = fn_by_slot(b, u->rstd)};
    if (b->weighted) p.weight = fn_param_at(job, cut, FN_WEIGHT, k->offset, k->width, w->weight);
    job->verbs->dots_rows(in->dy, b->has_x ? in->x : (fn_tile){0}, in->mask, k->rows, k->width, &p, w->rows);
    for (ptrdiff_t r = 0; r < k->rows; r++) {
        const double g = w->rows.g[r], gx = b->has_x ? w->rows.gx[r] : 0;
        const double inside = in->mask.base ? fn_count_row(in->mask, r, k->width) : 1;
        const double weight = inside > 0 ? fn_row_weight(b, k, r) : 0; /* that of no element may be NaN */
        u->chunk.g[chunk] += weight * g;
        u->chunk.gx[chunk] += weight * gx;
        if (b->has_x) u->chunk.x[chunk] += w->rows.x[r];
        if (in->mask.base) u->count[chunk] += inside;
        if (!b->from_sums) continue;
        u->plain.g[chunk] += g;
        u->plain.gx[chunk] += gx;
        if (b->row_cells) {
            const ptrdiff_t cell = (k->first_row + r) * cut->splits + k->piece;
            u->cells.g[cell] = g;
            u->cells.gx[cell] = gx;
        }
    }
}

static void cols_sums(const fn_backward_job *b, const fn_block *k, const fn_inputs *in, ptrdiff_t chunk,
                      fn_unit_sums *u, const fn_worker_space *w) {
    const fn_job *job = b->job;
    const fn_cut *cut = &b->cut;
    fn_dots p = {.mean = fn_by_slot(b, u->mean), .rstd = fn_by_slot(b, u->rstd)};
    if (b->weighted) p.weight = fn_param_at(job, cut, FN_WEIGHT, k->offset, k->width, w->weight);
    job->verbs->dots_cols(in->dy, b->has_x ? in->x : (fn_tile){0}, in->mask, in->runs, k->rows, k->width, &p, w->work,
                          fn_sums_at(u->chunk, chunk * cut->slots));
    for (ptrdiff_t r = 0; in->mask.base && r < k->rows; r++) {
        const char *m = in->mask.base + r * in->mask.step;
        for (ptrdiff_t j = 0; j < k->width; j++) u->count[chunk * cut->slots + j] += m[j];
    }
}

void fn_clear_sums(fn_sums s, ptrdiff_t n) {
    memset(s.g, 0, (size_t)n * sizeof(double));
    memset(s.gx, 0, (size_t)n * sizeof(double));
    memset(s.x, 0, (size_t)n * sizeof(double));
}

void fn_sums_of_block(const fn_backward_job *b, const fn_unit *unit, ptrdiff_t chunk, ptrdiff_t i, fn_unit_sums *u,
                      const fn_worker_space *w) {
    const fn_job *job = b->job;
    const fn_cut *cut = &b->cut;
    if (i == chunk * cut->chunk_blocks) {
        fn_clear_sums(fn_sums_at(u->chunk, chunk * cut->slots), cut->slots);
        if (u->plain.g) fn_clear_sums(fn_sums_at(u->plain, chunk), 1);
        if (u->count) memset(u->count + chunk * cut->slots, 0, (size_t)cut->slots * sizeof(double));
    }
    const fn_block k = fn_cut_block(job, cut, unit, i);
    const fn_inputs in = fn_inputs_of(b, &k, w);
    if (job->plan.cols)
        cols_sums(b, &k, &in, chunk, u, w);
    else
        rows_sums(b, &k, &in, chunk, u, w);
}

/* the unit's statistics, one per slot */
void fn_load_unit(const fn_backward_job *b, const fn_unit *unit, fn_unit_sums *u) {
    const fn_job *job = b->job;
    const ptrdiff_t fold = job->plan.fold.len;
    fn_load_stats(job, &job->plan.inner, unit->offset[FN_STAT], unit->slices, u);
    if (fold == 1) return;
    fn_spread(job, u->mean, unit->slices, fold);
    fn_spread(job, u->rstd, unit->slices, fold);
}

void fn_combine_blocks(const fn_backward_job *b, const fn_unit *unit, ptrdiff_t first, ptrdiff_t last, ptrdiff_t part,
                       const fn_unit_sums *u, const fn_worker_space *w) {
    const int together = !b->from_elements && fn_tiles_adjacent(b->job);
    for (ptrdiff_t i = first, count; i < last; i += count) {
        const fn_block k = fn_cut_blocks(b->job, &b->cut, unit, i, together ? last : i + 1, &count);
        const fn_inputs in = fn_inputs_of(b, &k, w);
        if (b->sums_rows) {
            fn_combine_and_sum(b, &k, &in, u, w, part);
            continue;
        }
        if (b->from_elements) fn_elements_block(b, &k, &in, u, w, part);
        fn_combine_block(b, &k, &in, u, w);
    }
}
