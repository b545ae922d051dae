/* The backward on one unit: sums block by block, added in a fixed order; the slices' scalars; dx. */
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
    return (fn_slices){
        .per = job->per,
        .centre = job->centre,
        .fresh = job->fresh,
        .undivided = job->undivided,
        .least = FN_LEAST_VARIANCE,
        .mean = job->mean ? (char *)job->mean + at : NULL,
        .rstd = (char *)job->rstd + at,
        .weight = fn_param_by_row(job, &b->cut, FN_WEIGHT, k->offset, k->width, w->weight),
        .sums = b->from_sums ? u->chunk : (fn_sums){0},
        .work = job->column_sums ? w->work : NULL,
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
    if (b->from_sums) fn_add_rows(b, part, k->offset, axis, k->rows * job->per, u->chunk);
}

/* brings the column sums of these blocks from w->work to the part's accumulators */
static void carry_columns(const fn_backward_job *b, ptrdiff_t first, ptrdiff_t last, ptrdiff_t part, fn_unit_sums *u,
                          const fn_worker_space *w) {
    const fn_job *job = b->job;
    const fn_unit all = fn_cut_unit(job, &b->cut, 0);
    const fn_sums into = fn_column_sums(b, w, part);
    if (!job->verbs->carry_cols(job->plan.n, w->work, into)) return;
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
        if (!job->column_sums || (summed + k.rows <= FN_MOST_SUMMED && i + 1 < last)) continue;
        carry_columns(b, since, i, part, u, w);
        summed = 0;
        since = i + 1;
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

static void add_chunks(const fn_backward_job *b, fn_unit_sums *u, ptrdiff_t slots) {
    for (ptrdiff_t c = 1; c < b->cut.chunks; c++) {
        const fn_sums from = fn_sums_at(u->chunk, c * b->cut.slots);
        for (ptrdiff_t j = 0; j < slots; j++) {
            u->chunk.g[j] += from.g[j];
            u->chunk.gx[j] += from.gx[j];
            u->chunk.x[j] += from.x[j];
        }
        for (ptrdiff_t j = 0; u->count && j < slots; j++) u->count[j] += u->count[c * b->cut.slots + j];
        if (u->plain.g) {
            u->plain.g[0] += u->plain.g[c];
            u->plain.gx[0] += u->plain.gx[c];
        }
    }
}

static void settle_rows(const fn_backward_job *b, const fn_unit *unit, ptrdiff_t part, fn_unit_sums *u) {
    const fn_job *job = b->job;
    const fn_plan *plan = &job->plan;
    const double count = u->count ? u->count[0] : (double)plan->count;
    const fn_scalars s = fn_scalars_of(b, u->chunk.g[0], u->chunk.gx[0], u->chunk.x[0], count);
    fn_put_scalars(job, u, 0, s);
    if (!b->from_sums) return;
    if (!b->row_cells) {
        fn_add_params(b, part, unit->offset[FN_DWEIGHT], unit->offset[FN_DBIAS], u->plain.g[0],
                      fn_moved(u->plain.gx[0], s.shift, u->plain.g[0]));
        return;
    }
    for (ptrdiff_t r = 0; r < plan->rows; r++) {
        ptrdiff_t offset[FN_NOPERANDS];
        memcpy(offset, unit->offset, sizeof offset);
        fn_plan_seek(plan->reduced, plan->nreduced, r, offset);
        for (ptrdiff_t piece = 0; piece < b->cut.splits; piece++) {
            const double g = u->cells.g[r * b->cut.splits + piece], gx = u->cells.gx[r * b->cut.splits + piece];
            fn_add_params(b, part, offset[FN_DWEIGHT], offset[FN_DBIAS], g, fn_moved(gx, s.shift, g));
        }
    }
}

/* Each column a slice whose elements all count: as in settle_cols and fn_scalars_of. The shifts take the place of x. */
#define SETTLE(A)                                                                                                      \
    do {                                                                                                               \
        const A one = 1, *weight = weights ? (const A *)weights : &one;                                                \
        const ptrdiff_t step = weights ? plan->inner.stride[FN_WEIGHT] / (ptrdiff_t)sizeof(A) : 0;                     \
        A *restrict shift = u->shift, *restrict c1 = u->c1, *restrict c2 = u->c2;                                      \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                            \
            const double w = (double)weight[i * step], of_g = 0 + w * g[i], of_gx = 0 + w * gx[i];                     \
            const double s = moved ? x[i] / count : 0, c = scale ? fn_moved(of_gx, s, of_g) / count : 0;               \
            x[i] = s;                                                                                                  \
            shift[i] = (A)s;                                                                                           \
            c2[i] = (A)c;                                                                                              \
            c1[i] = (A)((centre ? of_g / count : 0) - (scale ? s * c : 0));                                            \
        }                                                                                                              \
    } while (0)
static void settle_plain_cols(const fn_backward_job *b, const fn_unit *unit, ptrdiff_t part, fn_unit_sums *u) {
    const fn_job *job = b->job;
    const fn_plan *plan = &job->plan;
    const ptrdiff_t n = unit->width;
    const int by_column = !b->weighted && job->data[FN_WEIGHT];
    const char *weights = by_column ? job->data[FN_WEIGHT] + unit->offset[FN_WEIGHT] : NULL;
    double *restrict g = u->chunk.g, *restrict gx = u->chunk.gx, *restrict x = u->chunk.x;
    const double count = (double)plan->count;
    const int centre = job->centre, scale = job->scale, moved = centre && b->has_x;
    if (job->verbs->compute_size == sizeof(double))
        SETTLE(double);
    else
        SETTLE(float);
    if (!b->from_sums) return;
    for (ptrdiff_t i = 0; i < n; i++) gx[i] = fn_moved(gx[i], x[i], g[i]);
    fn_add_rows(b, part, unit->offset, &plan->inner, n, u->chunk);
}
#undef SETTLE

/* the gradients of the parameters of columns whose sums these are, gx without the shift */
static void add_columns(const fn_backward_job *b, const fn_unit *unit, ptrdiff_t part, fn_sums sums) {
    const fn_axis *inner = &b->job->plan.inner, *fold = &b->job->plan.fold;
    const ptrdiff_t weight = fold->stride[FN_DWEIGHT], bias = fold->stride[FN_DBIAS];
    if (inner->stride[FN_DWEIGHT] == fold->len * weight && inner->stride[FN_DBIAS] == fold->len * bias) {
        fn_add_rows(b, part, unit->offset, fold, unit->width, sums);
        return;
    }
    for (ptrdiff_t i = 0; i < unit->slices; i++)
        for (ptrdiff_t f = 0; f < fold->len; f++)
            fn_add_params(b, part, unit->offset[FN_DWEIGHT] + i * inner->stride[FN_DWEIGHT] + f * weight,
                          unit->offset[FN_DBIAS] + i * inner->stride[FN_DBIAS] + f * bias, sums.g[i * fold->len + f],
                          sums.gx[i * fold->len + f]);
}

/* slices of several columns, or that are given, or not all of whose elements count */
static void settle_cols(const fn_backward_job *b, const fn_unit *unit, ptrdiff_t part, fn_unit_sums *u) {
    const fn_job *job = b->job;
    const fn_plan *plan = &job->plan;
    const ptrdiff_t fold = plan->fold.len;
    const int by_column = !b->weighted && job->data[FN_WEIGHT];
    if (fold == 1 && !u->count && !job->given) {
        settle_plain_cols(b, unit, part, u);
        return;
    }
    for (ptrdiff_t i = 0; i < unit->slices; i++) {
        double g = 0, gx = 0, x = 0, count = u->count ? 0 : (double)plan->count;
        for (ptrdiff_t c = i * fold; c < (i + 1) * fold; c++) {
            const ptrdiff_t at = unit->offset[FN_WEIGHT] + i * plan->inner.stride[FN_WEIGHT] +
                                 (c - i * fold) * plan->fold.stride[FN_WEIGHT];
            const int inside = !u->count || u->count[c] > 0;
            const double weight = by_column && inside ? fn_get(job, job->data[FN_WEIGHT] + at, 0) : inside;
            g += weight * u->chunk.g[c];
            gx += weight * u->chunk.gx[c];
            x += u->chunk.x[c];
            if (u->count) count += u->count[c];
        }
        const fn_scalars s = fn_scalars_of(b, g, gx, x, count);
        fn_put_scalars(job, u, i, s);
        for (ptrdiff_t c = i * fold; c < (i + 1) * fold; c++)
            u->chunk.gx[c] = fn_moved(u->chunk.gx[c], s.shift, u->chunk.g[c]);
    }
    fn_spread(job, u->shift, unit->slices, fold);
    fn_spread(job, u->c1, unit->slices, fold);
    fn_spread(job, u->c2, unit->slices, fold);
    if (b->from_sums) add_columns(b, unit, part, u->chunk);
}

void fn_settle_unit(const fn_backward_job *b, const fn_unit *unit, ptrdiff_t part, fn_unit_sums *u) {
    const ptrdiff_t slots = b->job->plan.cols ? unit->width : 1;
    if (!b->needs_sums) {
        for (ptrdiff_t i = 0; i < slots; i++) fn_put_scalars(b->job, u, i, (fn_scalars){0});
        return;
    }
    add_chunks(b, u, slots);
    if (b->job->plan.cols)
        settle_cols(b, unit, part, u);
    else
        settle_rows(b, unit, part, u);
}

void fn_combine_blocks(const fn_backward_job *b, const fn_unit *unit, ptrdiff_t first, ptrdiff_t last, ptrdiff_t part,
                       const fn_unit_sums *u, const fn_worker_space *w) {
    const int together = !b->from_elements && fn_tiles_adjacent(b->job);
    for (ptrdiff_t i = first, count; i < last; i += count) {
        const fn_block k = fn_cut_blocks(b->job, &b->cut, unit, i, together ? last : i + 1, &count);
        const fn_inputs in = fn_inputs_of(b, &k, w);
        if (b->from_elements) fn_elements_block(b, &k, &in, u, w, part);
        fn_combine_block(b, &k, &in, u, w);
    }
}
