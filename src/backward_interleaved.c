/* The backward of small slices whose rows lie between each other's, as the channels of small images do: tile by tile, of a
 * row of each of a unit's slices. */
#include "backward.h"

/* adds the sums of a row of each of n slices to theirs */
static void add_rows(ptrdiff_t n, fn_sums row, int has_x, fn_sums all) {
    for (ptrdiff_t i = 0; i < n; i++) all.g[i] += row.g[i];
    for (ptrdiff_t i = 0; has_x && i < n; i++) all.gx[i] += row.gx[i];
    for (ptrdiff_t i = 0; has_x && i < n; i++) all.x[i] += row.x[i];
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
    const fn_param mean = {u->mean, 1, 0}, rstd = {u->rstd, 1, 0};
    const fn_dots dots = {.mean = mean, .rstd = rstd};
    const fn_tile none = {0};
    fn_load_stats(job, slices, unit.offset[FN_STAT], n, u);
    fn_clear_sums(u->chunk, n);
    for (ptrdiff_t r = 0; b->needs_sums && r < plan->rows; r++) {
        const fn_tile x = b->has_x ? fn_interleaved_row(job, &unit, r, FN_X) : none;
        job->verbs->dots_rows(fn_interleaved_row(job, &unit, r, FN_DY), x, none, n, plan->n, &dots, w->rows);
        add_rows(n, w->rows, b->has_x, u->chunk);
    }
    fn_settle_slices(b, slices, unit.offset, n, part, u);
    const fn_param absent = {0};
    const fn_adjoint adjoint = {.mean = mean,
                                .rstd = fn_takes_rstd(b) ? rstd : absent,
                                .c1 = {u->c1, 1, 0},
                                .c2 = {u->c2, 1, 0},
                                .weight = weight,
                                .past = job->past};
    for (ptrdiff_t r = plan->rows - 1; r >= 0; r--) { /* backwards: the last rows are those still in cache */
        const fn_tile x = job->scale && !job->given ? fn_interleaved_row(job, &unit, r, FN_X) : none;
        const fn_tile dy = fn_interleaved_row(job, &unit, r, FN_DY), dx = fn_interleaved_row(job, &unit, r, FN_Y);
        job->verbs->combine(dy, x, none, dx, n, plan->n, &adjoint);
    }
}
