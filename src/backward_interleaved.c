/* The backward of small slices whose rows lie between each other's, as the channels of small images do: tile by tile, of a
 * row of each of a unit's slices, or by_slices of all rows of one. */
#include "backward.h"

/* adds the sums of n rows to those of n slices; of one, where step is 0 */
static void add_rows(ptrdiff_t n, fn_sums row, int has_x, fn_sums all, ptrdiff_t step) {
    for (ptrdiff_t i = 0; i < n; i++) all.g[i * step] += row.g[i];
    for (ptrdiff_t i = 0; has_x && i < n; i++) all.gx[i * step] += row.gx[i];
    for (ptrdiff_t i = 0; has_x && i < n; i++) all.x[i * step] += row.x[i];
}

/* row i of each of the unit's slices; by_slices, all rows of slice i, backwards the last one first */
static fn_tile tile_of(const fn_job *job, const fn_unit *unit, int by_slices, ptrdiff_t i, int operand, int backwards) {
    const fn_plan *plan = &job->plan;
    const ptrdiff_t slice = plan->kept[0].stride[operand], row = plan->reduced[0].stride[operand];
    const char *all = job->data[operand] + unit->offset[operand];
    if (!by_slices) return (fn_tile){all + i * row, slice};
    if (!backwards) return (fn_tile){all + i * slice, row};
    return (fn_tile){all + i * slice + (plan->rows - 1) * row, -row};
}

/* what belongs to slice i alone, the same for all of its rows */
static fn_param param_of(const fn_job *job, fn_param of_slices, ptrdiff_t i) {
    if (!of_slices.a) return of_slices;
    return (fn_param){(const char *)of_slices.a + i * of_slices.step * (ptrdiff_t)job->verbs->compute_size, 0, 0};
}
static fn_adjoint adjoint_of(const fn_job *job, const fn_adjoint *all, ptrdiff_t i) {
    return (fn_adjoint){.mean = param_of(job, all->mean, i),
                        .rstd = param_of(job, all->rstd, i),
                        .c1 = param_of(job, all->c1, i),
                        .c2 = param_of(job, all->c2, i),
                        .weight = param_of(job, all->weight, i),
                        .past = all->past};
}

void fn_interleaved_unit(const fn_backward_job *b, ptrdiff_t index, ptrdiff_t part, fn_unit_sums *u,
                         const fn_worker_space *w) {
    const fn_job *job = b->job;
    const fn_plan *plan = &job->plan;
    const fn_axis *slices = &plan->kept[0];
    const fn_unit unit = fn_cut_unit(job, &b->cut, index);
    const ptrdiff_t n = unit.slices, size = (ptrdiff_t)job->verbs->compute_size;
    const char *weights = job->data[FN_WEIGHT];
    const fn_param weight = {weights ? weights + unit.offset[FN_WEIGHT] : NULL, slices->stride[FN_WEIGHT] / size, 0};
    const fn_param mean = {u->mean, 1, 0}, rstd = {u->rstd, 1, 0}, absent = {0};
    const fn_tile none = {0};
    const int by_slices = b->cut.by_slices, takes_x = job->scale && !job->given;
    const ptrdiff_t tiles = by_slices ? n : plan->rows, rows = by_slices ? plan->rows : n;
    fn_load_stats(job, slices, unit.offset[FN_STAT], n, u);
    fn_clear_sums(u->chunk, n);
    fn_dots dots = {.mean = mean, .rstd = rstd};
    for (ptrdiff_t i = 0; b->needs_sums && i < tiles; i++) {
        if (by_slices) dots = (fn_dots){.mean = param_of(job, mean, i), .rstd = param_of(job, rstd, i)};
        const fn_tile x = b->has_x ? tile_of(job, &unit, by_slices, i, FN_X, 0) : none;
        job->verbs->dots_rows(tile_of(job, &unit, by_slices, i, FN_DY, 0), x, none, rows, plan->n, &dots, w->rows);
        add_rows(rows, w->rows, b->has_x, fn_sums_at(u->chunk, by_slices ? i : 0), !by_slices);
    }
    fn_settle_slices(b, slices, unit.offset, n, part, u);
    const fn_adjoint all = {.mean = mean,
                            .rstd = fn_takes_rstd(b) ? rstd : absent,
                            .c1 = {u->c1, 1, 0},
                            .c2 = {u->c2, 1, 0},
                            .weight = weight,
                            .past = job->past};
    fn_adjoint p = all;
    for (ptrdiff_t i = tiles - 1; i >= 0; i--) { /* backwards: the last rows are those still in cache */
        if (by_slices) p = adjoint_of(job, &all, i);
        const fn_tile dy = tile_of(job, &unit, by_slices, i, FN_DY, 1), dx = tile_of(job, &unit, by_slices, i, FN_Y, 1);
        const fn_tile x = takes_x ? tile_of(job, &unit, by_slices, i, FN_X, 1) : none;
        job->verbs->combine(dy, x, none, dx, rows, plan->n, &p);
    }
}
