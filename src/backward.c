/* The backward driver. With g = dy * weight and xhat = (x - mean) * rstd, per slice of N elements:
 *
 *     dx = rstd * (g - sum(g) / N - xhat * sum(g * xhat) / N)
 *     dweight = sum(dy * xhat), dbias = sum(dy), over whatever each of them does not vary along
 *
 * The mean arrives rounded to A, up to half an ulp off; sum(xhat) / N is that error in deviations (`shift`), and every
 * xhat is corrected by it. First the sums of all blocks, then the scalars of all slices, then dx.
 *
 * Parameter gradients come from the slices' own sums where the parameter is constant in each cell the sums are taken
 * over (a row, or a column): "from sums". Else from the elements again, once the scalars are known: "from elements".
 * Either way they are added up in double within a fixed number of parts, and the parts in order. */
#include <stdlib.h>
#include <string.h>

#include "job.h"
#include "parallel.h"

enum {
    STACK_BYTES = 12288,
    LOCAL_BYTES = 2 << 20,
    LOCAL_UNITS = 16, /* enough for the threads to share units whole */
    MAX_PARTS = 64,
    PARTS_BYTES = 1 << 20, /* what the parts' accumulators may take at least */
};

typedef struct {
    fn_sums chunk; /* chunks * slots */
    fn_sums plain; /* ROWS, from sums: the chunk's sums before the rows' weights; chunks */
    fn_sums cells; /* ROWS, parameters that vary from row to row: every row's own sums */
    double *count; /* chunks * slots, with a mask */
    void *mean, *rstd, *shift, *c1, *c2; /* in A, one per slot */
} unit_state;

typedef struct {
    fn_sums rows, columns;
    void *work, *weight, *x_tile, *dy_tile, *dx_tile, *mask_tile;
} worker_state;

typedef struct {
    fn_job *job;
    fn_cut cut;
    int local;
    int has_x;         /* the sums need x */
    int needs_sums;    /* for dx, or for parameters */
    int weighted;      /* the verbs weigh each element: the weight varies inside a cell */
    int from_sums, from_elements, row_cells;
    ptrdiff_t parts;        /* that accumulate parameter gradients; without them, one to an item */
    int shared;             /* every element has a parameter of its own: one accumulator serves all items */
    double *dweight, *dbias; /* parts * their size */
    unit_state *units;
    worker_state *workers;
} backward;

static int down_rows(const fn_job *job, int operand) {
    for (int i = 0; i < job->plan.nreduced; i++)
        if (job->plan.reduced[i].stride[operand]) return 1;
    return 0;
}
static int along_row(const fn_job *job, int operand) {
    return job->plan.inner.stride[operand] || job->plan.fold.stride[operand];
}
/* does it vary inside the cells that the sums are taken over? */
static int inside_cell(const fn_job *job, int operand) {
    return job->plan.cols ? down_rows(job, operand) : along_row(job, operand);
}

/* ---- scratch ---------------------------------------------------------------------------------------------------- */

static fn_sums take_sums(fn_space *space, ptrdiff_t n) {
    const size_t bytes = (size_t)n * sizeof(double);
    fn_sums s;
    s.g = fn_take(space, bytes);
    s.gx = fn_take(space, bytes);
    s.x = fn_take(space, bytes);
    return s;
}

static void layout(backward *b, int workers, fn_space *space) {
    const fn_job *job = b->job;
    const fn_cut *cut = &b->cut;
    const ptrdiff_t states = b->local ? workers : cut->units, compute = (ptrdiff_t)job->verbs->compute_size;
    const ptrdiff_t records = cut->many_rows ? cut->slots : cut->chunks * cut->slots;
    const size_t slots = (size_t)(cut->slots * compute);
    b->units = fn_take(space, (size_t)states * sizeof *b->units);
    b->workers = fn_take(space, (size_t)workers * sizeof *b->workers);
    for (ptrdiff_t i = 0; i < states; i++) {
        unit_state u = {0};
        u.chunk = take_sums(space, records);
        if (!job->plan.cols && b->from_sums && !cut->many_rows) {
            u.plain = take_sums(space, cut->chunks);
            if (b->row_cells) u.cells = take_sums(space, job->plan.rows * cut->splits);
        }
        if (job->data[FN_MASK]) u.count = fn_take(space, (size_t)records * sizeof(double));
        u.mean = fn_take(space, slots);
        u.rstd = fn_take(space, slots);
        u.shift = fn_take(space, slots);
        u.c1 = fn_take(space, slots);
        u.c2 = fn_take(space, slots);
        if (space->base) b->units[i] = u;
    }
    for (int i = 0; i < workers; i++) {
        worker_state w = {0};
        w.rows = take_sums(space, cut->block_rows);
        if (job->plan.cols || b->from_elements) {
            w.columns = take_sums(space, cut->split);
            w.work = fn_take(space, (size_t)(3 * cut->split * compute));
        }
        if (job->plan.fold.len > 1) w.weight = fn_take(space, slots);
        w.x_tile = fn_take(space, fn_tile_bytes(job, cut, FN_X));
        w.dy_tile = fn_take(space, fn_tile_bytes(job, cut, FN_DY));
        w.dx_tile = fn_take(space, fn_tile_bytes(job, cut, FN_Y));
        w.mask_tile = fn_take(space, fn_tile_bytes(job, cut, FN_MASK));
        if (space->base) b->workers[i] = w;
    }
    const ptrdiff_t sums = b->shared ? 1 : b->parts;
    if (job->dweight) b->dweight = fn_take(space, (size_t)(sums * job->ndweight) * sizeof(double));
    if (job->dbias) b->dbias = fn_take(space, (size_t)(sums * job->ndbias) * sizeof(double));
}

/* ---- one block -------------------------------------------------------------------------------------------------- */

typedef struct {
    fn_tile dy, x, mask;
} inputs;

static inputs inputs_of(const backward *b, const fn_block *k, const worker_state *w) {
    const fn_job *job = b->job;
    return (inputs){.dy = fn_tile_in(job, &b->cut, FN_DY, k->offset, k->rows, k->width, w->dy_tile),
                    .x = fn_tile_in(job, &b->cut, FN_X, k->offset, k->rows, k->width, w->x_tile),
                    .mask = fn_tile_in(job, &b->cut, FN_MASK, k->offset, k->rows, k->width, w->mask_tile)};
}

/* how the block's statistics vary: by row (many short rows), by column, or not at all */
static fn_param by_slot(const backward *b, const void *a) {
    return (fn_param){a, b->cut.many_rows, b->job->plan.cols};
}

static void combine_block(const backward *b, const fn_block *k, const inputs *in, const unit_state *u,
                          const worker_state *w) {
    const fn_job *job = b->job;
    const fn_adjoint p = {.mean = by_slot(b, u->mean),
                          .rstd = by_slot(b, u->rstd),
                          .c1 = by_slot(b, u->c1),
                          .c2 = by_slot(b, u->c2),
                          .weight = fn_param_at(job, &b->cut, FN_WEIGHT, k->offset, k->width, w->weight)};
    const fn_tile x = job->scale && !job->given ? in->x : (fn_tile){0};
    fn_tile dx = fn_tile_out(job, &b->cut, k->offset, k->width, w->dx_tile);
    job->verbs->combine(in->dy, x, in->mask, dx, k->rows, k->width, &p);
    fn_tile_flush(job, &b->cut, dx, k->offset, k->rows, k->width);
}

static fn_tile tile_row(fn_tile t, ptrdiff_t r) { return (fn_tile){t.base ? t.base + r * t.step : NULL, t.step}; }
static fn_param param_row(fn_param p, ptrdiff_t r, ptrdiff_t size) {
    return (fn_param){(const char *)p.a + r * p.step * size, p.step, p.along};
}

/* Adds the block's share of one parameter's gradient to `sum_gx` (with x) or `sum_g`, indexed by `operand`. */
static void add_elements(const backward *b, const fn_block *k, const inputs *in, const unit_state *u,
                         const worker_state *w, int operand, double *sum_g, double *sum_gx) {
    const fn_job *job = b->job;
    const fn_verbs *verbs = job->verbs;
    const ptrdiff_t size = (ptrdiff_t)verbs->compute_size;
    const ptrdiff_t row_step = fn_row_axis(job, &b->cut)->stride[operand];
    const ptrdiff_t at = k->offset[operand];
    const fn_tile x = sum_gx ? in->x : (fn_tile){0};
    const fn_dots p = {.mean = by_slot(b, u->mean), .rstd = by_slot(b, u->rstd), .shift = by_slot(b, u->shift)};
    if (!along_row(job, operand)) {
        verbs->dots_rows(in->dy, x, in->mask, k->rows, k->width, &p, w->rows);
        for (ptrdiff_t r = 0; r < k->rows; r++) {
            if (sum_g) sum_g[at + r * row_step] += w->rows.g[r];
            if (sum_gx) sum_gx[at + r * row_step] += w->rows.gx[r];
        }
        return;
    }
    const ptrdiff_t step = job->plan.inner.stride[operand], rows = row_step ? 1 : k->rows;
    for (ptrdiff_t r = 0; r < k->rows; r += rows) {
        const fn_dots q = {.mean = param_row(p.mean, r, size),
                           .rstd = param_row(p.rstd, r, size),
                           .shift = param_row(p.shift, r, size)};
        const size_t bytes = (size_t)k->width * sizeof(double);
        memset(w->columns.g, 0, bytes);
        memset(w->columns.gx, 0, bytes);
        verbs->dots_cols(tile_row(in->dy, r), tile_row(x, r), tile_row(in->mask, r), rows, k->width, &q, w->work,
                         w->columns);
        for (ptrdiff_t j = 0; sum_g && j < k->width; j++) sum_g[at + r * row_step + j * step] += w->columns.g[j];
        for (ptrdiff_t j = 0; sum_gx && j < k->width; j++) sum_gx[at + r * row_step + j * step] += w->columns.gx[j];
    }
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

static double *part_of(double *sums, ptrdiff_t n, ptrdiff_t part) { return sums ? sums + part * n : NULL; }

static void elements_block(const backward *b, const fn_block *k, const inputs *in, const unit_state *u,
                           const worker_state *w, ptrdiff_t part) {
    const fn_job *job = b->job;
    double *dweight = part_of(b->dweight, job->ndweight, part), *dbias = part_of(b->dbias, job->ndbias, part);
    if (dweight && dbias && same_strides(job, FN_DWEIGHT, FN_DBIAS)) {
        add_elements(b, k, in, u, w, FN_DWEIGHT, dbias, dweight);
        return;
    }
    if (dweight) add_elements(b, k, in, u, w, FN_DWEIGHT, NULL, dweight);
    if (dbias) add_elements(b, k, in, u, w, FN_DBIAS, dbias, NULL);
}

/* the weight of row r where the verbs did not weigh its elements */
static double row_weight(const backward *b, const fn_block *k, ptrdiff_t r) {
    const fn_job *job = b->job;
    if (b->weighted || !job->data[FN_WEIGHT]) return 1;
    return fn_get(job, job->data[FN_WEIGHT] + k->offset[FN_WEIGHT] + r * fn_row_axis(job, &b->cut)->stride[FN_WEIGHT], 0);
}

static double count_row(fn_tile mask, ptrdiff_t r, ptrdiff_t n) {
    const char *m = mask.base + r * mask.step;
    ptrdiff_t inside = 0;
    for (ptrdiff_t j = 0; j < n; j++) inside += m[j];
    return (double)inside;
}

/* ---- the scalars of a slice ------------------------------------------------------------------------------------- */

typedef struct {
    double shift, c1, c2;
} scalars;

static scalars scalars_of(const backward *b, double g, double gx, double x, double count) {
    const fn_job *job = b->job;
    scalars s = {0};
    if (job->given) return s;
    if (job->centre && b->has_x) s.shift = x / count;
    if (job->scale) s.c2 = (gx - s.shift * g) / count;
    if (job->centre) s.c1 = g / count;
    s.c1 -= s.shift * s.c2; /* xhat - shift, folded: (g - c1) - xhat * c2 */
    return s;
}

static void put_scalars(const fn_job *job, unit_state *u, ptrdiff_t i, scalars s) {
    fn_set(job, u->shift, i, s.shift);
    fn_set(job, u->c1, i, s.c1);
    fn_set(job, u->c2, i, s.c2);
}

static void load_stats(const fn_job *job, const fn_axis *axis, ptrdiff_t at, ptrdiff_t n, unit_state *u) {
    const ptrdiff_t step = axis->stride[FN_STAT];
    for (ptrdiff_t i = 0; i < n; i++) {
        fn_set(job, u->mean, i, job->mean ? fn_get(job, job->mean, at + i * step) : 0);
        fn_set(job, u->rstd, i, job->rstd ? fn_get(job, job->rstd, at + i * step) : 1);
    }
}

static void add_params(const backward *b, ptrdiff_t part, ptrdiff_t weight_at, ptrdiff_t bias_at, double g, double gx) {
    if (b->dweight) b->dweight[part * b->job->ndweight + weight_at] += gx;
    if (b->dbias) b->dbias[part * b->job->ndbias + bias_at] += g;
}

/* ---- many short rows -------------------------------------------------------------------------------------------- */

static void many_rows_chunk(const backward *b, ptrdiff_t chunk, ptrdiff_t part, unit_state *u, const worker_state *w) {
    const fn_job *job = b->job;
    const fn_cut *cut = &b->cut;
    const fn_axis *axis = fn_row_axis(job, cut);
    const fn_unit whole = fn_cut_unit(job, cut, 0);
    const ptrdiff_t first = chunk * cut->chunk_blocks;
    for (ptrdiff_t i = first; i < first + cut->chunk_blocks && i < cut->blocks; i++) {
        const fn_block k = fn_cut_block(job, cut, &whole, i);
        inputs in = inputs_of(b, &k, w);
        load_stats(job, axis, k.offset[FN_STAT], k.rows, u);
        if (b->needs_sums) {
            fn_dots p = {.mean = by_slot(b, u->mean), .rstd = by_slot(b, u->rstd)};
            if (b->weighted) p.weight = fn_param_at(job, cut, FN_WEIGHT, k.offset, k.width, w->weight);
            job->verbs->dots_rows(in.dy, b->has_x ? in.x : (fn_tile){0}, in.mask, k.rows, k.width, &p, u->chunk);
        }
        for (ptrdiff_t r = 0; r < k.rows; r++) {
            scalars s = {0};
            if (b->needs_sums) {
                const double g = u->chunk.g[r], gx = b->has_x ? u->chunk.gx[r] : 0, x = b->has_x ? u->chunk.x[r] : 0;
                const double count = in.mask.base ? count_row(in.mask, r, k.width) : (double)job->plan.count;
                const double weight = row_weight(b, &k, r);
                s = scalars_of(b, weight * g, weight * gx, x, count);
                if (b->from_sums)
                    add_params(b, part, k.offset[FN_DWEIGHT] + r * axis->stride[FN_DWEIGHT],
                               k.offset[FN_DBIAS] + r * axis->stride[FN_DBIAS], g, gx - s.shift * g);
            }
            put_scalars(job, u, r, s);
        }
        if (b->from_elements) elements_block(b, &k, &in, u, w, part); /* before combine: dx may be dy */
        combine_block(b, &k, &in, u, w);
    }
}

/* ---- units ------------------------------------------------------------------------------------------------------ */

static void rows_sums(const backward *b, const fn_block *k, const inputs *in, ptrdiff_t chunk, unit_state *u,
                      const worker_state *w) {
    const fn_job *job = b->job;
    const fn_cut *cut = &b->cut;
    fn_dots p = {.mean = by_slot(b, u->mean), .rstd = by_slot(b, u->rstd)};
    if (b->weighted) p.weight = fn_param_at(job, cut, FN_WEIGHT, k->offset, k->width, w->weight);
    job->verbs->dots_rows(in->dy, b->has_x ? in->x : (fn_tile){0}, in->mask, k->rows, k->width, &p, w->rows);
    for (ptrdiff_t r = 0; r < k->rows; r++) {
        const double g = w->rows.g[r], gx = b->has_x ? w->rows.gx[r] : 0, weight = row_weight(b, k, r);
        u->chunk.g[chunk] += weight * g;
        u->chunk.gx[chunk] += weight * gx;
        if (b->has_x) u->chunk.x[chunk] += w->rows.x[r];
        if (in->mask.base) u->count[chunk] += count_row(in->mask, r, k->width);
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

static void cols_sums(const backward *b, const fn_block *k, const inputs *in, ptrdiff_t chunk, unit_state *u,
                      const worker_state *w) {
    const fn_job *job = b->job;
    const fn_cut *cut = &b->cut;
    fn_dots p = {.mean = by_slot(b, u->mean), .rstd = by_slot(b, u->rstd)};
    if (b->weighted) p.weight = fn_param_at(job, cut, FN_WEIGHT, k->offset, k->width, w->weight);
    job->verbs->dots_cols(in->dy, b->has_x ? in->x : (fn_tile){0}, in->mask, k->rows, k->width, &p, w->work,
                          fn_sums_at(u->chunk, chunk * cut->slots));
    for (ptrdiff_t r = 0; in->mask.base && r < k->rows; r++) {
        const char *m = in->mask.base + r * in->mask.step;
        for (ptrdiff_t j = 0; j < k->width; j++) u->count[chunk * cut->slots + j] += m[j];
    }
}

static void clear_sums(fn_sums s, ptrdiff_t n) {
    memset(s.g, 0, (size_t)n * sizeof(double));
    memset(s.gx, 0, (size_t)n * sizeof(double));
    memset(s.x, 0, (size_t)n * sizeof(double));
}

static void sums_of_chunk(const backward *b, const fn_unit *unit, ptrdiff_t chunk, unit_state *u,
                          const worker_state *w) {
    const fn_job *job = b->job;
    const fn_cut *cut = &b->cut;
    const ptrdiff_t first = chunk * cut->chunk_blocks;
    clear_sums(fn_sums_at(u->chunk, chunk * cut->slots), cut->slots);
    if (u->plain.g) clear_sums(fn_sums_at(u->plain, chunk), 1);
    if (u->count) memset(u->count + chunk * cut->slots, 0, (size_t)cut->slots * sizeof(double));
    for (ptrdiff_t i = first; i < first + cut->chunk_blocks && i < cut->blocks; i++) {
        const fn_block k = fn_cut_block(job, cut, unit, i);
        const inputs in = inputs_of(b, &k, w);
        if (job->plan.cols)
            cols_sums(b, &k, &in, chunk, u, w);
        else
            rows_sums(b, &k, &in, chunk, u, w);
    }
}

/* the unit's statistics, one per slot */
static void load_unit(const backward *b, const fn_unit *unit, unit_state *u) {
    const fn_job *job = b->job;
    const ptrdiff_t fold = job->plan.fold.len;
    load_stats(job, &job->plan.inner, unit->offset[FN_STAT], unit->slices, u);
    if (fold == 1) return;
    for (ptrdiff_t s = unit->slices - 1; s >= 0; s--) {
        const double mean = fn_get(job, u->mean, s), rstd = fn_get(job, u->rstd, s);
        for (ptrdiff_t i = fold - 1; i >= 0; i--) {
            fn_set(job, u->mean, s * fold + i, mean);
            fn_set(job, u->rstd, s * fold + i, rstd);
        }
    }
}

static void add_chunks(const backward *b, unit_state *u, ptrdiff_t slots) {
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

static void settle_rows(const backward *b, const fn_unit *unit, ptrdiff_t part, unit_state *u) {
    const fn_job *job = b->job;
    const fn_plan *plan = &job->plan;
    const double count = u->count ? u->count[0] : (double)plan->count;
    const scalars s = scalars_of(b, u->chunk.g[0], u->chunk.gx[0], u->chunk.x[0], count);
    put_scalars(job, u, 0, s);
    if (!b->from_sums) return;
    if (!b->row_cells) {
        add_params(b, part, unit->offset[FN_DWEIGHT], unit->offset[FN_DBIAS], u->plain.g[0],
                   u->plain.gx[0] - s.shift * u->plain.g[0]);
        return;
    }
    for (ptrdiff_t r = 0; r < plan->rows; r++) {
        ptrdiff_t offset[FN_NOPERANDS];
        memcpy(offset, unit->offset, sizeof offset);
        fn_plan_seek(plan->reduced, plan->nreduced, r, offset);
        for (ptrdiff_t piece = 0; piece < b->cut.splits; piece++) {
            const double g = u->cells.g[r * b->cut.splits + piece], gx = u->cells.gx[r * b->cut.splits + piece];
            add_params(b, part, offset[FN_DWEIGHT], offset[FN_DBIAS], g, gx - s.shift * g);
        }
    }
}

static void settle_cols(const backward *b, const fn_unit *unit, ptrdiff_t part, unit_state *u) {
    const fn_job *job = b->job;
    const fn_plan *plan = &job->plan;
    const ptrdiff_t fold = plan->fold.len;
    const int by_column = !b->weighted && job->data[FN_WEIGHT];
    for (ptrdiff_t i = 0; i < unit->slices; i++) {
        double g = 0, gx = 0, x = 0, count = u->count ? 0 : (double)plan->count;
        for (ptrdiff_t c = i * fold; c < (i + 1) * fold; c++) {
            const ptrdiff_t at = unit->offset[FN_WEIGHT] + i * plan->inner.stride[FN_WEIGHT] +
                                 (c - i * fold) * plan->fold.stride[FN_WEIGHT];
            const double weight = by_column ? fn_get(job, job->data[FN_WEIGHT] + at, 0) : 1;
            g += weight * u->chunk.g[c];
            gx += weight * u->chunk.gx[c];
            x += u->chunk.x[c];
            if (u->count) count += u->count[c];
        }
        const scalars s = scalars_of(b, g, gx, x, count);
        for (ptrdiff_t c = i * fold; c < (i + 1) * fold; c++) {
            const ptrdiff_t in_fold = c - i * fold;
            put_scalars(job, u, c, s);
            if (b->from_sums)
                add_params(b, part,
                           unit->offset[FN_DWEIGHT] + i * plan->inner.stride[FN_DWEIGHT] +
                               in_fold * plan->fold.stride[FN_DWEIGHT],
                           unit->offset[FN_DBIAS] + i * plan->inner.stride[FN_DBIAS] +
                               in_fold * plan->fold.stride[FN_DBIAS],
                           u->chunk.g[c], u->chunk.gx[c] - s.shift * u->chunk.g[c]);
        }
    }
}

static void settle_unit(const backward *b, const fn_unit *unit, ptrdiff_t part, unit_state *u) {
    const ptrdiff_t slots = b->job->plan.cols ? unit->width : 1;
    if (!b->needs_sums) {
        for (ptrdiff_t i = 0; i < slots; i++) put_scalars(b->job, u, i, (scalars){0});
        return;
    }
    add_chunks(b, u, slots);
    if (b->job->plan.cols)
        settle_cols(b, unit, part, u);
    else
        settle_rows(b, unit, part, u);
}

static void combine_chunk(const backward *b, const fn_unit *unit, ptrdiff_t chunk, ptrdiff_t part, const unit_state *u,
                          const worker_state *w) {
    const fn_cut *cut = &b->cut;
    const ptrdiff_t first = chunk * cut->chunk_blocks;
    for (ptrdiff_t i = first; i < first + cut->chunk_blocks && i < cut->blocks; i++) {
        const fn_block k = fn_cut_block(b->job, cut, unit, i);
        const inputs in = inputs_of(b, &k, w);
        if (b->from_elements) elements_block(b, &k, &in, u, w, part);
        combine_block(b, &k, &in, u, w);
    }
}

/* ---- tasks ------------------------------------------------------------------------------------------------------ */

/* parts share the items out evenly, in order */
static ptrdiff_t first_item(const backward *b, ptrdiff_t items, ptrdiff_t part) {
    return items / b->parts * part + items % b->parts * part / b->parts;
}

/* the accumulator of a part; where all items share one, it is the first */
static ptrdiff_t sums_part(const backward *b, ptrdiff_t part) { return b->shared ? 0 : part; }

static void many_rows_part(void *context, ptrdiff_t part, int worker) {
    backward *b = context;
    for (ptrdiff_t i = first_item(b, b->cut.chunks, part); i < first_item(b, b->cut.chunks, part + 1); i++)
        many_rows_chunk(b, i, sums_part(b, part), &b->units[worker], &b->workers[worker]);
}

static void units_part(void *context, ptrdiff_t part, int worker) {
    backward *b = context;
    unit_state *u = &b->units[worker];
    const worker_state *w = &b->workers[worker];
    for (ptrdiff_t i = first_item(b, b->cut.units, part); i < first_item(b, b->cut.units, part + 1); i++) {
        const fn_unit unit = fn_cut_unit(b->job, &b->cut, i);
        load_unit(b, &unit, u);
        for (ptrdiff_t c = 0; b->needs_sums && c < b->cut.chunks; c++) sums_of_chunk(b, &unit, c, u, w);
        settle_unit(b, &unit, sums_part(b, part), u);
        for (ptrdiff_t c = b->cut.chunks - 1; c >= 0; c--) combine_chunk(b, &unit, c, sums_part(b, part), u, w);
    }
}

static void load_task(void *context, ptrdiff_t index, int worker) {
    backward *b = context;
    const fn_unit unit = fn_cut_unit(b->job, &b->cut, index);
    (void)worker;
    load_unit(b, &unit, &b->units[index]);
}

static void sums_task(void *context, ptrdiff_t task, int worker) {
    backward *b = context;
    const fn_unit unit = fn_cut_unit(b->job, &b->cut, task / b->cut.chunks);
    sums_of_chunk(b, &unit, task % b->cut.chunks, &b->units[task / b->cut.chunks], &b->workers[worker]);
}

static void settle_part(void *context, ptrdiff_t part, int worker) {
    backward *b = context;
    (void)worker;
    for (ptrdiff_t i = first_item(b, b->cut.units, part); i < first_item(b, b->cut.units, part + 1); i++) {
        const fn_unit unit = fn_cut_unit(b->job, &b->cut, i);
        settle_unit(b, &unit, sums_part(b, part), &b->units[i]);
    }
}

static void combine_item(backward *b, ptrdiff_t item, ptrdiff_t part, int worker) {
    const fn_unit unit = fn_cut_unit(b->job, &b->cut, item / b->cut.chunks);
    combine_chunk(b, &unit, item % b->cut.chunks, part, &b->units[item / b->cut.chunks], &b->workers[worker]);
}

static void combine_task(void *context, ptrdiff_t item, int worker) { combine_item(context, item, 0, worker); }

static void combine_part(void *context, ptrdiff_t part, int worker) {
    backward *b = context;
    const ptrdiff_t items = b->cut.units * b->cut.chunks;
    for (ptrdiff_t i = first_item(b, items, part); i < first_item(b, items, part + 1); i++)
        combine_item(b, i, sums_part(b, part), worker);
}

static void run(backward *b, int workers) {
    const fn_cut *cut = &b->cut;
    const ptrdiff_t items = cut->units * cut->chunks;
    if (cut->many_rows) {
        fn_parallel(workers, b->parts, many_rows_part, b);
    } else if (b->local) {
        fn_parallel(workers, b->parts, units_part, b);
    } else {
        fn_parallel(1, cut->units, load_task, b);
        if (b->needs_sums) fn_parallel(workers, items, sums_task, b);
        fn_parallel(cut->units > 1 ? workers : 1, b->parts, settle_part, b);
        if (b->from_elements)
            fn_parallel(workers, b->parts, combine_part, b);
        else
            fn_parallel(workers, items, combine_task, b);
    }
}

static void add_parts(const backward *b, const double *parts, ptrdiff_t n, void *out) {
    const ptrdiff_t count = b->shared ? 1 : b->parts;
    for (ptrdiff_t i = 0; i < n; i++) {
        double sum = parts[i];
        for (ptrdiff_t p = 1; p < count; p++) sum += parts[p * n + i];
        fn_set(b->job, out, i, sum);
    }
}

/* What the sums are for, and how parameter gradients are come by. Nothing here looks at the number of threads, except
 * where the order of additions does not depend on it. */
static int decide(backward *b) {
    const fn_job *job = b->job;
    const int params = job->dweight || job->dbias;
    b->weighted = job->data[FN_WEIGHT] && inside_cell(job, FN_WEIGHT);
    b->from_elements = (job->dweight && inside_cell(job, FN_DWEIGHT)) || (job->dbias && inside_cell(job, FN_DBIAS));
    b->from_sums = params && !b->from_elements;
    b->row_cells = b->from_sums && (down_rows(job, FN_DWEIGHT) || down_rows(job, FN_DBIAS));
    b->has_x = job->data[FN_X] && (job->scale || job->dweight);
    b->needs_sums = b->from_sums || (!job->given && (job->centre || job->scale));

    const fn_cut *cut = &b->cut;
    const ptrdiff_t elements = job->plan.regions * job->plan.rows * job->plan.n;
    const ptrdiff_t bytes = 2 * elements * (ptrdiff_t)job->verbs->size;
    const int fits = bytes / cut->units <= LOCAL_BYTES;
    int workers = fn_workers(job->threads, cut->many_rows ? cut->chunks : cut->units * cut->chunks, bytes);
    if (b->from_elements)
        b->local = fits && cut->units >= LOCAL_UNITS;
    else
        b->local = workers == 1 || (fits && cut->units >= workers);
    if (cut->many_rows) b->local = 1;

    ptrdiff_t items = cut->many_rows ? cut->chunks : cut->units;
    if (b->from_elements && !b->local) items *= cut->chunks;
    b->parts = items;
    if (params) {
        const ptrdiff_t most = (2 * bytes > PARTS_BYTES ? 2 * bytes : PARTS_BYTES) /
                               ((job->ndweight + job->ndbias) * (ptrdiff_t)sizeof(double));
        b->shared = (!job->dweight || job->ndweight == elements) && (!job->dbias || job->ndbias == elements);
        if (b->parts > MAX_PARTS) b->parts = MAX_PARTS;
        if (b->parts > most && !b->shared) b->parts = most > 1 ? most : 1;
        if (b->parts < workers && (b->from_elements || b->local)) workers = (int)b->parts;
    }
    return workers;
}

int fn_backward(fn_job *job) {
    void *packed = NULL;
    char stack[STACK_BYTES] __attribute__((aligned(64)));
    backward b = {.job = job};
    int status = fn_param_pack(job, FN_WEIGHT, &packed);
    if (status == FN_OK) {
        b.cut = fn_cut_make(job);
        const int workers = decide(&b);
        fn_space space = {0};
        layout(&b, workers, &space);
        char *memory = space.used <= sizeof stack ? stack : aligned_alloc(64, space.used);
        if (memory) {
            space = (fn_space){.base = memory};
            layout(&b, workers, &space);
            const ptrdiff_t sums = b.shared ? 1 : b.parts;
            if (b.dweight) memset(b.dweight, 0, (size_t)(sums * job->ndweight) * sizeof(double));
            if (b.dbias) memset(b.dbias, 0, (size_t)(sums * job->ndbias) * sizeof(double));
            run(&b, workers);
            if (b.dweight) add_parts(&b, b.dweight, job->ndweight, job->dweight);
            if (b.dbias) add_parts(&b, b.dbias, job->ndbias, job->dbias);
            if (memory != stack) free(memory);
        } else {
            status = FN_NO_MEMORY;
        }
    }
    free(packed);
    return status;
}
