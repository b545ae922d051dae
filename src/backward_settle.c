/* The backward on one unit, from its chunks' sums: the slices' scalars, and parameter gradients from sums. */
#include <string.h>

#include "backward.h"

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

/* the scalars of columns all of whose elements count, `fold` to a slice */
static fn_columns columns_of(const fn_backward_job *b, ptrdiff_t fold, const fn_unit_sums *u) {
    const fn_job *job = b->job;
    return (fn_columns){.fold = fold,
                        .count = (double)job->plan.count,
                        .centre = job->centre && !job->given,
                        .scale = job->scale && !job->given,
                        .shift = u->shift,
                        .c1 = u->c1,
                        .c2 = u->c2};
}

static void settle_all_cols(const fn_backward_job *b, const fn_unit *unit, ptrdiff_t part, fn_unit_sums *u,
                            const fn_worker_space *w) {
    const fn_job *job = b->job;
    const fn_axis *inner = &job->plan.inner, *fold = &job->plan.fold;
    fn_columns p = columns_of(b, fold->len, u);
    p.by_slice = !fold->stride[FN_DWEIGHT] && !fold->stride[FN_DBIAS];
    if (!b->weighted) p.weight = fn_param_at(job, &b->cut, FN_WEIGHT, unit->offset, unit->width, w->weight);
    job->verbs->settle_cols(unit->width, &p, u->chunk);
    if (!b->from_sums) return;
    if (p.by_slice)
        fn_add_rows(b, part, unit->offset, inner, unit->slices, u->chunk);
    else
        add_columns(b, unit, part, u->chunk);
}

void fn_settle_slices(const fn_backward_job *b, const fn_axis *axis, const ptrdiff_t offset[FN_NOPERANDS], ptrdiff_t n,
                      ptrdiff_t part, fn_unit_sums *u) {
    const fn_job *job = b->job;
    const ptrdiff_t size = (ptrdiff_t)job->verbs->compute_size;
    fn_columns p = columns_of(b, 1, u);
    if (job->data[FN_WEIGHT])
        p.weight = (fn_param){job->data[FN_WEIGHT] + offset[FN_WEIGHT], axis->stride[FN_WEIGHT] / size, 0};
    job->verbs->settle_cols(n, &p, u->chunk);
    if (b->from_sums) fn_add_rows(b, part, offset, axis, n, u->chunk);
}

static void settle_cols(const fn_backward_job *b, const fn_unit *unit, ptrdiff_t part, fn_unit_sums *u,
                        const fn_worker_space *w) {
    const fn_job *job = b->job;
    const fn_plan *plan = &job->plan;
    const ptrdiff_t fold = plan->fold.len;
    const int by_column = !b->weighted && job->data[FN_WEIGHT];
    if (!u->count && !job->given) {
        settle_all_cols(b, unit, part, u, w);
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

void fn_settle_unit(const fn_backward_job *b, const fn_unit *unit, ptrdiff_t part, fn_unit_sums *u,
                    const fn_worker_space *w) {
    const ptrdiff_t slots = b->job->plan.cols ? unit->width : 1;
    if (!b->needs_sums) {
        for (ptrdiff_t i = 0; i < slots; i++) fn_put_scalars(b->job, u, i, (fn_scalars){0});
        return;
    }
    add_chunks(b, u, slots);
    if (b->job->plan.cols)
        settle_cols(b, unit, part, u, w);
    else
        settle_rows(b, unit, part, u);
}
