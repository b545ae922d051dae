/* The backward of small slices whose rows lie between each other's, as the channels of small images do: tile by tile, of a
 * row of each of a unit's slices. */
#include "backward.h"

/* adds the sums of a row of each of n slices to theirs */
static void add_rows(const fn_backward_job *b, ptrdiff_t n, fn_param weight, fn_sums rows, fn_unit_sums *u) {
    for (ptrdiff_t i = 0; i < n; i++) {
        const double w = weight.a ? fn_get(b->job, weight.a, i * weight.step) : 1;
        u->chunk.g[i] += w * rows.g[i];
        if (b->from_sums) u->plain.g[i] += rows.g[i];
        if (!b->has_x) continue;
        u->chunk.gx[i] += w * rows.gx[i];
        u->chunk.x[i] += rows.x[i];
        if (b->from_sums) u->plain.gx[i] += rows.gx[i];
    }
}

static void settle(const fn_backward_job *b, const fn_unit *unit, ptrdiff_t part, fn_unit_sums *u) {
    const fn_plan *plan = &b->job->plan;
    const fn_axis *slices = &plan->kept[0];
    for (ptrdiff_t i = 0; i < unit->slices; i++) {
        const fn_sums all = fn_sums_at(u->chunk, i);
        const fn_scalars s = fn_scalars_of(b, *all.g, *all.gx, *all.x, (double)plan->count);
        fn_put_scalars(b->job, u, i, s);
        if (b->from_sums)
            fn_add_params(b, part, unit->offset[FN_DWEIGHT] + i * slices->stride[FN_DWEIGHT],
                          unit->offset[FN_DBIAS] + i * slices->stride[FN_DBIAS], u->plain.g[i],
                          fn_moved(u->plain.gx[i], s.shift, u->plain.g[i]));
    }
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
    if (b->from_sums) fn_clear_sums(u->plain, n);
    for (ptrdiff_t r = 0; b->needs_sums && r < plan->rows; r++) {
        const fn_tile x = b->has_x ? fn_interleaved_row(job, &unit, r, FN_X) : none;
        job->verbs->dots_rows(fn_interleaved_row(job, &unit, r, FN_DY), x, none, n, plan->n, &dots, w->rows);
        add_rows(b, n, weight, w->rows, u);
    }
    settle(b, &unit, part, u);
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
