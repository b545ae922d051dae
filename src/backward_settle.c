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

/* n slices along `axis`, a slot each, all of whose elements count, as in settle_cols and fn_scalars_of; their sums are
 * without the slices' weights. The shifts take the place of x. */
#define SETTLE(A)                                                                                                      \
    do {                                                                                                               \
        const A one = 1, *weight = weights ? (const A *)weights : &one;                                                \
        const ptrdiff_t step = weights ? axis->stride[FN_WEIGHT] / (ptrdiff_t)sizeof(A) : 0;                           \
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
void fn_settle_slices(const fn_backward_job *b, const fn_axis *axis, const ptrdiff_t offset[FN_NOPERANDS], ptrdiff_t n,
                      ptrdiff_t part, fn_unit_sums *u) {
    const fn_job *job = b->job;
    const int by_slice = !b->weighted && job->data[FN_WEIGHT];
    const char *weights = by_slice ? job->data[FN_WEIGHT] + offset[FN_WEIGHT] : NULL;
    double *restrict g = u->chunk.g, *restrict gx = u->chunk.gx, *restrict x = u->chunk.x;
    const double count = (double)job->plan.count;
    const int centre = job->centre && !job->given, scale = job->scale && !job->given, moved = centre && b->has_x;
    if (job->verbs->compute_size == sizeof(double))
        SETTLE(double);
    else
        SETTLE(float);
    if (!b->from_sums) return;
    for (ptrdiff_t i = 0; i < n; i++) gx[i] = fn_moved(gx[i], x[i], g[i]);
    fn_add_rows(b, part, offset, axis, n, u->chunk);
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

/* in four parts, which the processor adds up side by side */
static double sum_of(const double *a, ptrdiff_t n) {
    double a0 = 0, a1 = 0, a2 = 0, a3 = 0;
    ptrdiff_t i = 0;
    for (; i + 4 <= n; i += 4) {
        a0 += a[i];
        a1 += a[i + 1];
        a2 += a[i + 2];
        a3 += a[i + 3];
    }
    for (; i < n; i++) a0 += a[i];
    return (a0 + a2) + (a1 + a3);
}

/* sums of n columns' g and gx with their weights, in two parts */
#define WEIGH(A)                                                                                                       \
    do {                                                                                                               \
        const A *weight = (const A *)weights;                                                                          \
        ptrdiff_t i = 0;                                                                                               \
        for (; i + 2 <= n; i += 2, weight += 2 * step) {                                                               \
            g0 += (double)weight[0] * g[i];                                                                            \
            g1 += (double)weight[step] * g[i + 1];                                                                     \
            gx0 += (double)weight[0] * gx[i];                                                                          \
            gx1 += (double)weight[step] * gx[i + 1];                                                                   \
        }                                                                                                              \
        if (i < n) g0 += (double)weight[0] * g[i], gx0 += (double)weight[0] * gx[i];                                   \
    } while (0)
static void weigh(const fn_job *job, const char *weights, ptrdiff_t n, const double *g, const double *gx, double *of_g,
                  double *of_gx) {
    const ptrdiff_t step = job->plan.fold.stride[FN_WEIGHT] / (ptrdiff_t)job->verbs->compute_size;
    double g0 = 0, g1 = 0, gx0 = 0, gx1 = 0;
    if (!weights || step == 0) {
        const double weight = weights ? fn_get(job, weights, 0) : 1;
        g0 = weight * sum_of(g, n);
        gx0 = weight * sum_of(gx, n);
    } else if (job->verbs->compute_size == sizeof(double)) {
        WEIGH(double);
    } else {
        WEIGH(float);
    }
    *of_g = g0 + g1;
    *of_gx = gx0 + gx1;
}
#undef WEIGH

/* slices of several columns all of whose elements count */
static void settle_folded_cols(const fn_backward_job *b, const fn_unit *unit, ptrdiff_t part, fn_unit_sums *u) {
    const fn_job *job = b->job;
    const fn_axis *inner = &job->plan.inner, *fold = &job->plan.fold;
    const char *weights = !b->weighted && job->data[FN_WEIGHT] ? job->data[FN_WEIGHT] + unit->offset[FN_WEIGHT] : NULL;
    const int by_slice = !fold->stride[FN_DWEIGHT] && !fold->stride[FN_DBIAS];
    for (ptrdiff_t i = 0; i < unit->slices; i++) {
        const fn_sums of = fn_sums_at(u->chunk, i * fold->len);
        double g, gx;
        weigh(job, weights ? weights + i * inner->stride[FN_WEIGHT] : NULL, fold->len, of.g, of.gx, &g, &gx);
        const double x = job->centre && b->has_x ? sum_of(of.x, fold->len) : 0;
        const fn_scalars s = fn_scalars_of(b, g, gx, x, (double)job->plan.count);
        fn_put_scalars(job, u, i, s);
        if (b->from_sums && by_slice) {
            g = sum_of(of.g, fold->len);
            fn_add_params(b, part, unit->offset[FN_DWEIGHT] + i * inner->stride[FN_DWEIGHT],
                          unit->offset[FN_DBIAS] + i * inner->stride[FN_DBIAS], g,
                          fn_moved(sum_of(of.gx, fold->len), s.shift, g));
        }
        for (ptrdiff_t c = 0; b->from_sums && !by_slice && s.shift != 0 && c < fold->len; c++)
            of.gx[c] = fn_moved(of.gx[c], s.shift, of.g[c]);
    }
    if (b->from_sums && !by_slice) add_columns(b, unit, part, u->chunk);
}

/* The scalars of columns; beside the plain and the folded ones those that are given, or not all of whose elements count. */
static void settle_cols(const fn_backward_job *b, const fn_unit *unit, ptrdiff_t part, fn_unit_sums *u) {
    const fn_job *job = b->job;
    const fn_plan *plan = &job->plan;
    const ptrdiff_t fold = plan->fold.len;
    const int by_column = !b->weighted && job->data[FN_WEIGHT];
    if (!u->count && !job->given) {
        if (fold == 1) {
            fn_settle_slices(b, &plan->inner, unit->offset, unit->width, part, u);
            return;
        }
        settle_folded_cols(b, unit, part, u);
        fn_spread(job, u->c1, unit->slices, fold);
        fn_spread(job, u->c2, unit->slices, fold);
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
