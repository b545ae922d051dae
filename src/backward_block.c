/* The backward on one block, and the scalars of one slice. */
#include <string.h>

#include "backward.h"

int fn_along_row(const fn_job *job, int operand) {
    return job->plan.inner.stride[operand] || job->plan.fold.stride[operand];
}
fn_inputs fn_inputs_of(const fn_backward_job *b, const fn_block *k, const fn_worker_space *w) {
    const fn_job *job = b->job;
    fn_inputs in = {.runs.count = k->runs};
    in.dy = fn_runs_in(job, &b->cut, FN_DY, k, w->dy_tile, &in.runs.dy);
    in.x = fn_runs_in(job, &b->cut, FN_X, k, w->x_tile, &in.runs.x);
    in.mask = fn_tile_in(job, &b->cut, FN_MASK, k->offset, k->rows, k->width, w->mask_tile);
    return in;
}

/* how the block's statistics vary: by row (many rows), by column, or not at all */
fn_param fn_by_slot(const fn_backward_job *b, const void *a) {
    return (fn_param){a, b->cut.many_rows, b->job->plan.cols};
}

static fn_adjoint adjoint_of_block(const fn_backward_job *b, const fn_block *k, const fn_unit_sums *u,
                                   const fn_worker_space *w) {
    return (fn_adjoint){.mean = fn_by_slot(b, u->mean),
                        .rstd = fn_takes_rstd(b) ? fn_by_slot(b, u->rstd) : (fn_param){0},
                        .c1 = fn_by_slot(b, u->c1),
                        .c2 = fn_by_slot(b, u->c2),
                        .weight = fn_param_at(b->job, &b->cut, FN_WEIGHT, k->offset, k->width, w->weight),
                        .past = b->job->past};
}

void fn_combine_block(const fn_backward_job *b, const fn_block *k, const fn_inputs *in, const fn_unit_sums *u,
                      const fn_worker_space *w) {
    const fn_job *job = b->job;
    const fn_adjoint p = adjoint_of_block(b, k, u, w);
    fn_tile x = job->scale && !job->given ? in->x : (fn_tile){0}, dy = in->dy;
    if (k->runs > 1 && fn_tile_adjacent(job, FN_Y)) {
        const fn_runs runs = {k->runs, in->runs.x, in->runs.dy, fn_run_axis(job)->stride[FN_Y]};
        const fn_tile dx = fn_tile_out(job, &b->cut, k->offset, k->width, NULL);
        job->verbs->combine_runs(dy, x, dx, runs, k->rows, k->width, &p);
        return;
    }
    fn_block run = *k;
    for (ptrdiff_t i = 0; i < k->runs; i++) {
        fn_tile dx = fn_tile_out(job, &b->cut, run.offset, k->width, w->dx_tile);
        job->verbs->combine(dy, x, in->mask, dx, k->rows, k->width, &p);
        fn_tile_flush(job, &b->cut, dx, run.offset, k->rows, k->width);
        if (x.base) x.base += in->runs.x;
        dy.base += in->runs.dy;
        fn_next_run(job, &run);
    }
}

static fn_param param_row(fn_param p, ptrdiff_t r, ptrdiff_t size) {
    return (fn_param){p.a ? (const char *)p.a + r * p.step * size : NULL, p.step, p.along};
}

/* a part's accumulator, of n elements */
static double *part_of(const fn_backward_job *b, double *sums, ptrdiff_t n, ptrdiff_t part) {
    return sums && !b->apart ? sums + part * n : sums;
}

/* adds to the part's accumulators, or writes what is no sum */
static void add_dweight(const fn_backward_job *b, ptrdiff_t part, ptrdiff_t at, double value) {
    if (b->direct)
        fn_set(b->job, b->job->dweight, at, value);
    else
        part_of(b, b->dweight, b->job->ndweight, part)[at] += value;
}
static void add_dbias(const fn_backward_job *b, ptrdiff_t part, ptrdiff_t at, double value) {
    if (b->direct)
        fn_set(b->job, b->job->dbias, at, value);
    else
        part_of(b, b->dbias, b->job->ndbias, part)[at] += value;
}

/* the same for the sums of n columns, whose elements of the part's accumulators or of the result stand a step apart */
static void add_columns(const fn_backward_job *b, double *part, void *result, ptrdiff_t at, ptrdiff_t step,
                        const double *sums, ptrdiff_t n) {
    if (!b->direct)
        for (ptrdiff_t j = 0; j < n; j++) part[at + j * step] += sums[j];
    else if (b->job->verbs->compute_size == sizeof(double))
        for (ptrdiff_t j = 0; j < n; j++) ((double *)result)[at + j * step] = sums[j];
    else
        for (ptrdiff_t j = 0; j < n; j++) ((float *)result)[at + j * step] = (float)sums[j];
}

/* whether any of the block's means was corrected */
static int any_shift(const fn_backward_job *b, const fn_block *k, const fn_unit_sums *u) {
    const ptrdiff_t n = b->job->plan.cols ? k->width : b->cut.many_rows ? k->rows : 1;
    int any = 0;
    for (ptrdiff_t i = 0; i < n; i++) any |= fn_get(b->job, u->shift, i) != 0;
    return any;
}

/* The block's share of the weight's gradient, of the bias's, or of both where their strides, `operand`'s, are the same */
static void add_elements(const fn_backward_job *b, const fn_block *k, const fn_inputs *in, const fn_unit_sums *u,
                         const fn_worker_space *w, int operand, int dweight, int dbias, ptrdiff_t part) {
    const fn_job *job = b->job;
    const fn_verbs *verbs = job->verbs;
    const ptrdiff_t size = (ptrdiff_t)verbs->compute_size;
    const ptrdiff_t row_step = fn_row_axis(job, &b->cut)->stride[operand];
    const ptrdiff_t at = k->offset[operand];
    const fn_tile x = dweight ? in->x : (fn_tile){0};
    const fn_dots p = {.mean = fn_by_slot(b, u->mean),
                       .rstd = fn_by_slot(b, u->rstd),
                       .shift = any_shift(b, k, u) ? fn_by_slot(b, u->shift) : (fn_param){0}};
    if (!fn_along_row(job, operand)) {
        verbs->dots_rows(in->dy, x, in->mask, k->rows, k->width, &p, w->rows);
        for (ptrdiff_t r = 0; r < k->rows; r++) {
            if (dbias) add_dbias(b, part, at + r * row_step, w->rows.g[r]);
            if (dweight) add_dweight(b, part, at + r * row_step, w->rows.gx[r]);
        }
        return;
    }
    const ptrdiff_t step = job->plan.inner.stride[operand], rows = row_step ? 1 : k->rows;
    const int in_place = step == 1 && !b->direct;
    for (ptrdiff_t r = 0; r < k->rows; r += rows) {
        const fn_dots q = {.mean = param_row(p.mean, r, size),
                           .rstd = param_row(p.rstd, r, size),
                           .shift = param_row(p.shift, r, size)};
        fn_sums into = w->columns; /* what the caller does not want */
        const ptrdiff_t first = at + r * row_step;
        if (in_place) {
            if (dbias) into.g = part_of(b, b->dbias, job->ndbias, part) + first;
            if (dweight) into.gx = part_of(b, b->dweight, job->ndweight, part) + first;
        } else {
            memset(into.g, 0, (size_t)k->width * sizeof(double));
            memset(into.gx, 0, (size_t)k->width * sizeof(double));
        }
        verbs->dots_cols(fn_tile_from(in->dy, r), fn_tile_from(x, r), fn_tile_from(in->mask, r), (fn_runs){.count = 1},
                         rows, k->width, &q, w->work, into);
        if (in_place) continue;
        if (dbias) add_columns(b, part_of(b, b->dbias, job->ndbias, part), job->dbias, first, step, into.g, k->width);
        if (dweight)
            add_columns(b, part_of(b, b->dweight, job->ndweight, part), job->dweight, first, step, into.gx, k->width);
    }
}

int fn_sums_rows(const fn_backward_job *b) {
    const fn_job *job = b->job;
    const char *dx = job->data[FN_Y];
    if (!b->from_elements || b->direct || !job->plan.cols || !b->has_x || !job->scale || job->given ||
        job->data[FN_MASK])
        return 0;
    if (dx == job->data[FN_DY] || dx == job->data[FN_X] || b->cut.block_runs > 1) return 0;
    return !(job->dweight && fn_along_row(job, FN_DWEIGHT)) && !(job->dbias && fn_along_row(job, FN_DBIAS)) &&
           !(job->data[FN_WEIGHT] && fn_along_row(job, FN_WEIGHT));
}

void fn_combine_and_sum(const fn_backward_job *b, const fn_block *k, const fn_inputs *in, const fn_unit_sums *u,
                        const fn_worker_space *w, ptrdiff_t part) {
    const fn_job *job = b->job;
    const fn_tile dx = fn_tile_out(job, &b->cut, k->offset, k->width, w->dx_tile);
    fn_adjoint p = adjoint_of_block(b, k, u, w);
    if (any_shift(b, k, u)) p.shift = fn_by_slot(b, u->shift);
    job->verbs->combine_dots(in->dy, in->x, dx, k->rows, k->width, &p, w->rows);
    fn_tile_flush(job, &b->cut, dx, k->offset, k->rows, k->width);
    fn_add_rows(b, part, k->offset, fn_row_axis(job, &b->cut), k->rows, w->rows);
}

static int same_strides(const fn_job *job, int p, int q) {
    const fn_plan *plan = &job->plan;
    if (plan->inner.stride[p] != plan->inner.stride[q]) return 0;
    for (int i = 0; i < plan->nkept; i++)
        if (plan->kept[i].stride[p] != plan->kept[i].stride[q]) return 0;
    for (int i = 0; i < plan->nreduced; i++)
        if (plan->reduced[i].stride[p] != plan->reduced[i].stride[q]) return 0;
    return 1;
}

void fn_elements_block(const fn_backward_job *b, const fn_block *k, const fn_inputs *in, const fn_unit_sums *u,
                       const fn_worker_space *w, ptrdiff_t part) {
    const fn_job *job = b->job;
    if (job->dweight && job->dbias && same_strides(job, FN_DWEIGHT, FN_DBIAS)) {
        add_elements(b, k, in, u, w, FN_DWEIGHT, 1, 1, part);
        return;
    }
    if (job->dweight) add_elements(b, k, in, u, w, FN_DWEIGHT, 1, 0, part);
    if (job->dbias) add_elements(b, k, in, u, w, FN_DBIAS, 0, 1, part);
}

fn_sums fn_column_sums(const fn_backward_job *b, const fn_block *k, const fn_worker_space *w, ptrdiff_t part) {
    const fn_job *job = b->job;
    fn_sums into = w->columns; /* what the caller does not want */
    if (b->dweight) into.gx = part_of(b, b->dweight, job->ndweight, part) + k->offset[FN_DWEIGHT];
    if (b->dbias) into.g = part_of(b, b->dbias, job->ndbias, part) + k->offset[FN_DBIAS];
    return into;
}

/* the weight of row r where the verbs did not weigh its elements */
double fn_row_weight(const fn_backward_job *b, const fn_block *k, ptrdiff_t r) {
    const fn_job *job = b->job;
    if (b->weighted || !job->data[FN_WEIGHT]) return 1;
    return fn_get(job, job->data[FN_WEIGHT] + k->offset[FN_WEIGHT] + r * fn_row_axis(job, &b->cut)->stride[FN_WEIGHT],
                  0);
}

double fn_count_row(fn_tile mask, ptrdiff_t r, ptrdiff_t n) {
    const char *m = mask.base + r * mask.step;
    ptrdiff_t inside = 0;
    for (ptrdiff_t j = 0; j < n; j++) inside += m[j];
    return (double)inside;
}

/* ---- the scalars of a slice ------------------------------------------------------------------------------------- */

fn_scalars fn_scalars_of(const fn_backward_job *b, double g, double gx, double x, double count) {
    const fn_job *job = b->job;
    fn_scalars s = {0};
    if (job->given) return s;
    if (job->centre && b->has_x) s.shift = x / count;
    if (job->scale) s.c2 = fn_moved(gx, s.shift, g) / count;
    if (job->centre) s.c1 = g / count;
    if (job->scale) s.c1 -= s.shift * s.c2; /* xhat - shift, folded: (g - c1) - xhat * c2 */
    return s;
}

void fn_put_scalars(const fn_job *job, fn_unit_sums *u, ptrdiff_t i, fn_scalars s) {
    fn_set(job, u->shift, i, s.shift);
    fn_set(job, u->c1, i, s.c1);
    fn_set(job, u->c2, i, s.c2);
}

void fn_load_stats(const fn_job *job, const fn_axis *axis, ptrdiff_t at, ptrdiff_t n, fn_unit_sums *u) {
    const ptrdiff_t step = axis->stride[FN_STAT];
    if (step == 1 && job->mean && job->rstd) {
        const size_t size = job->verbs->compute_size;
        memcpy(u->mean, (const char *)job->mean + (size_t)at * size, (size_t)n * size);
        memcpy(u->rstd, (const char *)job->rstd + (size_t)at * size, (size_t)n * size);
        return;
    }
    for (ptrdiff_t i = 0; i < n; i++) {
        fn_set(job, u->mean, i, job->mean ? fn_get(job, job->mean, at + i * step) : 0);
        fn_set(job, u->rstd, i, job->rstd ? fn_get(job, job->rstd, at + i * step) : 1);
    }
}

void fn_add_params(const fn_backward_job *b, ptrdiff_t part, ptrdiff_t weight_at, ptrdiff_t bias_at, double g,
                   double gx) {
    if (b->dweight) part_of(b, b->dweight, b->job->ndweight, part)[weight_at] += gx;
    if (b->dbias) part_of(b, b->dbias, b->job->ndbias, part)[bias_at] += g;
}

void fn_add_rows(const fn_backward_job *b, ptrdiff_t part, const ptrdiff_t offset[FN_NOPERANDS], const fn_axis *axis,
                 ptrdiff_t n, fn_sums sums) {
    double *dweight = b->dweight ? part_of(b, b->dweight, b->job->ndweight, part) + offset[FN_DWEIGHT] : NULL;
    double *dbias = b->dbias ? part_of(b, b->dbias, b->job->ndbias, part) + offset[FN_DBIAS] : NULL;
    const ptrdiff_t weight_step = axis->stride[FN_DWEIGHT], bias_step = axis->stride[FN_DBIAS];
    for (ptrdiff_t i = 0; dweight && i < n; i++) dweight[i * weight_step] += sums.gx[i];
    for (ptrdiff_t i = 0; dbias && i < n; i++) dbias[i * bias_step] += sums.g[i];
}
