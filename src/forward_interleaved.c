/* The forward of small slices whose rows lie between each other's, as the channels of small images do: the moments of a
 * unit's slices at a time, and its result tile by tile, of a row of each. */
#include <string.h>

#include "forward.h"

static void settle(const fn_job *job, const fn_unit *unit, fn_unit_state *u) {
    const fn_plan *plan = &job->plan;
    const fn_axis *slices = &plan->kept[0], *rows = &plan->reduced[0];
    if (job->given) {
        fn_load_given(job, slices, unit->offset, unit->slices, &u->stats);
        return;
    }
    const fn_tile x = {job->data[FN_X] + unit->offset[FN_X], rows->stride[FN_X]}, none = {0};
    memset(u->chunk.low, 0, (size_t)unit->slices * sizeof(double));
    job->verbs->moments_rows(x, none, unit->slices, slices->stride[FN_X], 0, rows->len, plan->n, fn_wanted(job),
                             u->chunk);
    fn_settle(job, slices, unit->offset, unit->slices, u->chunk, &u->stats);
}

static fn_param by_slice(const fn_job *job, const fn_unit *unit, int operand) {
    const char *a = job->data[operand];
    const ptrdiff_t step = job->plan.kept[0].stride[operand] / (ptrdiff_t)job->verbs->compute_size;
    return (fn_param){a ? a + unit->offset[operand] : NULL, step, 0};
}

void fn_interleaved(void *context, ptrdiff_t task, int worker) {
    fn_forward_job *f = context;
    const fn_job *job = f->job;
    const fn_plan *plan = &job->plan;
    const fn_unit unit = fn_cut_unit(job, &f->cut, task);
    fn_unit_state *u = &f->units[worker];
    settle(job, &unit, u);
    if (!job->data[FN_Y]) return;
    const fn_param absent = {0};
    const fn_affine p = {
        .mean = {u->stats.mean, 1, 0},
        .comp = {u->stats.comp, 1, 0},
        .rstd = fn_has_rstd(job, &u->stats) ? (fn_param){u->stats.rstd, 1, 0} : absent,
        .prescale = u->stats.prescaled ? (fn_param){u->stats.prescale, 1, 0} : absent,
        .weight = by_slice(job, &unit, FN_WEIGHT),
        .bias = by_slice(job, &unit, FN_BIAS),
        .past = job->past,
    };
    for (ptrdiff_t r = plan->rows - 1; r >= 0; r--) { /* backwards: the last rows are those still in cache */
        const fn_tile x = fn_interleaved_row(job, &unit, r, FN_X), y = fn_interleaved_row(job, &unit, r, FN_Y);
        job->verbs->apply(x, y, unit.slices, plan->n, &p);
    }
    fn_drain(job);
}
