/* The backward of small slices whose rows lie between each other's, as the channels of small images do: tile by tile, of a
 * row of each of a unit's slices, or by_slices of all rows of one. */
#include "backward.h"

/* row i of each of the unit's slices; by_slices, all rows of the one that it has */
static fn_tile tile_of(const fn_job *job, const fn_unit *unit, int by_slices, ptrdiff_t i, int operand) {
    if (!by_slices) return fn_interleaved_row(job, unit, i, operand);
    return (fn_tile){job->data[operand] + unit->offset[operand], job->plan.reduced[0].stride[operand]};
}
/* the same to be written: rows of one slice the last one first, as that is still in cache */
static fn_tile turned(const fn_job *job, const fn_unit *unit, int by_slices, ptrdiff_t i, int operand) {
    const fn_tile t = tile_of(job, unit, by_slices, i, operand);
    return by_slices ? fn_tile_backwards(t, job->plan.rows) : t;
}

/* adds the sums of n rows to those of n slices (step 1) or of one (0) */
static void add_rows(ptrdiff_t n, fn_sums row, int has_x, fn_sums sums, ptrdiff_t step) {
    for (ptrdiff_t i = 0; i < n; i++) sums.g[i * step] += row.g[i];
    for (ptrdiff_t i = 0; has_x && i < n; i++) sums.gx[i * step] += row.gx[i];
    for (ptrdiff_t i = 0; has_x && i < n; i++) sums.x[i * step] += row.x[i];
}

void fn_interleaved_unit(const fn_backward_job *b, ptrdiff_t index, ptrdiff_t part, fn_unit_sums *u,
                         const fn_worker_space *w) {
    const fn_job *job = b->job;
    const fn_plan *plan = &job->plan;
    const fn_axis *slices = &plan->kept[0];
    const fn_unit unit = fn_cut_unit(job, &b->cut, index);
    const int by_slices = b->cut.by_slices, takes_x = job->scale && !job->given;
    const ptrdiff_t n = unit.slices, tiles = by_slices ? 1 : plan->rows, rows = by_slices ? plan->rows : n;
    const ptrdiff_t step = by_slices ? 0 : 1; /* of what belongs to slices, from row to row of a tile */
    const ptrdiff_t weights = slices->stride[FN_WEIGHT] / (ptrdiff_t)job->verbs->compute_size;
    const char *const weight = job->data[FN_WEIGHT];
    const fn_param mean = {u->mean, step, 0}, rstd = {u->rstd, step, 0}, absent = {0};
    const fn_dots dots = {.mean = mean, .rstd = rstd};
    const fn_tile none = {0};
    fn_load_stats(job, slices, unit.offset[FN_STAT], n, u);
    fn_clear_sums(u->chunk, n);
    for (ptrdiff_t i = 0; b->needs_sums && i < tiles; i++) {
        const fn_tile x = b->has_x ? tile_of(job, &unit, by_slices, i, FN_X) : none;
        job->verbs->dots_rows(tile_of(job, &unit, by_slices, i, FN_DY), x, none, rows, plan->n, &dots, w->rows);
        add_rows(rows, w->rows, b->has_x, u->chunk, step);
    }
    fn_settle_slices(b, slices, unit.offset, n, part, u);
    const fn_adjoint adjoint = {.mean = mean,
                                .rstd = fn_takes_rstd(b) ? rstd : absent,
                                .c1 = {u->c1, step, 0},
                                .c2 = {u->c2, step, 0},
                                .weight = {weight ? weight + unit.offset[FN_WEIGHT] : NULL, step * weights, 0},
                                .past = job->past};
    for (ptrdiff_t i = tiles - 1; i >= 0; i--) { /* backwards: the last rows are those still in cache */
        const fn_tile dy = turned(job, &unit, by_slices, i, FN_DY), dx = turned(job, &unit, by_slices, i, FN_Y);
        const fn_tile x = takes_x ? turned(job, &unit, by_slices, i, FN_X) : none;
        job->verbs->combine(dy, x, none, dx, rows, plan->n, &adjoint);
    }
}
