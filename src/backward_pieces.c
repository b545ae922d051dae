/* The backward of long rows that share the parameters of their columns: dx, and with it those parameters' gradients,
 * piece by piece of all rows. Accumulators of whole rows, a part each, would take more time than the rows, as long as
 * these are few. */
#include <string.h>

#include "backward.h"

int fn_goes_by_pieces(const fn_backward_job *b) {
    const fn_job *job = b->job;
    return b->from_elements && b->cut.splits > 1 && fn_shares_gradients(job);
}

/* whether the sums of columns can be taken on the way to dx */
static int on_the_way(const fn_backward_job *b) {
    const fn_job *job = b->job;
    return job->data[FN_X] && job->scale && !job->given && job->rstd && !job->data[FN_MASK];
}

/* elements `first` to before `last` of a row */
static fn_block block_of(const fn_backward_job *b, ptrdiff_t row, ptrdiff_t first, ptrdiff_t last) {
    const fn_plan *plan = &b->job->plan;
    fn_block k = {.rows = 1, .width = last - first, .runs = 1};
    memcpy(k.offset, plan->offset, sizeof k.offset);
    fn_plan_seek(plan->kept, plan->nkept, row / plan->rows, k.offset);
    fn_plan_seek(plan->reduced, plan->nreduced, row % plan->rows, k.offset);
    for (int o = 0; o < FN_NOPERANDS; o++) k.offset[o] += first * plan->inner.stride[o];
    return k;
}

/* dx of a block, with the sums of its columns into w->work */
static void combine_columns(const fn_backward_job *b, const fn_block *k, const fn_inputs *in, const fn_unit_sums *u,
                            const fn_worker_space *w) {
    const fn_job *job = b->job;
    const fn_adjoint p = {.mean = fn_by_slot(b, u->mean),
                          .rstd = fn_by_slot(b, u->rstd),
                          .c1 = fn_by_slot(b, u->c1),
                          .c2 = fn_by_slot(b, u->c2),
                          .shift = fn_by_slot(b, u->shift),
                          .weight = fn_param_at(job, &b->cut, FN_WEIGHT, k->offset, k->width, w->weight),
                          .past = job->past};
    const fn_tile dx = fn_tile_out(job, &b->cut, k->offset, k->width, w->dx_tile);
    job->verbs->combine_cols(in->dy, in->x, dx, k->rows, k->width, &p, w->work);
    fn_tile_flush(job, &b->cut, dx, k->offset, k->rows, k->width);
}

/* the sums of these rows' columns, added to w->columns */
static void add_rows(const fn_backward_job *b, ptrdiff_t row, ptrdiff_t end, ptrdiff_t first, ptrdiff_t last,
                     const fn_worker_space *w) {
    for (; row < end; row++) {
        const fn_unit_sums *u = &b->units[row / b->job->plan.rows];
        const fn_block k = block_of(b, row, first, last);
        const fn_inputs in = fn_inputs_of(b, &k, w);
        const fn_dots p = {
            .mean = fn_by_slot(b, u->mean), .rstd = fn_by_slot(b, u->rstd), .shift = fn_by_slot(b, u->shift)};
        b->job->verbs->dots_cols(in.dy, b->has_x ? in.x : (fn_tile){0}, in.mask, in.runs, 1, k.width, &p, w->work,
                                 w->columns);
    }
}

static void store(const fn_job *job, void *result, ptrdiff_t at, const double *sums, ptrdiff_t n) {
    for (ptrdiff_t j = 0; result && j < n; j++) fn_set(job, result, at + j, sums[j]);
}

/* elements `first` to before `last` of every row */
static void columns(const fn_backward_job *b, ptrdiff_t first, ptrdiff_t last, const fn_worker_space *w) {
    const fn_job *job = b->job;
    const fn_verbs *verbs = job->verbs;
    const ptrdiff_t rows = b->cut.units * job->plan.rows, size = (ptrdiff_t)verbs->compute_size, n = last - first;
    const ptrdiff_t dweight = job->plan.offset[FN_DWEIGHT] + first, dbias = job->plan.offset[FN_DBIAS] + first;
    const int together = on_the_way(b);
    for (ptrdiff_t row = 0, end; row < rows; row = end) {
        end = rows - row < FN_MOST_SUMMED ? rows : row + FN_MOST_SUMMED;
        memset(w->work, 0, (size_t)(2 * n * size));
        for (ptrdiff_t i = row; i < end; i++) {
            const fn_block k = block_of(b, i, first, last);
            const fn_inputs in = fn_inputs_of(b, &k, w);
            const fn_unit_sums *u = &b->units[i / job->plan.rows];
            if (together)
                combine_columns(b, &k, &in, u, w);
            else
                fn_combine_block(b, &k, &in, u, w);
        }
        if (together && end - row == rows &&
            !verbs->finish_cols(n, w->work, job->dbias ? (char *)job->dbias + dbias * size : NULL,
                                job->dweight ? (char *)job->dweight + dweight * size : NULL))
            return;
        if (row == 0) {
            memset(w->columns.g, 0, (size_t)n * sizeof(double));
            memset(w->columns.gx, 0, (size_t)n * sizeof(double));
        }
        if (!together || verbs->finish_cols(n, w->work, NULL, NULL))
            add_rows(b, row, end, first, last, w);
        else
            verbs->carry_cols(n, 1, w->work, w->columns);
    }
    store(job, job->dbias, dbias, w->columns.g, n);
    store(job, job->dweight, dweight, w->columns.gx, n);
}

void fn_piece_of_rows(const fn_backward_job *b, ptrdiff_t piece, const fn_worker_space *w) {
    const ptrdiff_t first = piece * b->cut.split, end = first + b->cut.split, n = b->job->plan.n;
    columns(b, first, end < n ? end : n, w);
}
