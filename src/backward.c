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
#include "backward.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "parallel.h"

enum {
    STACK_BYTES = 7168, /* with what the verbs take, it fits a thread's smallest stack */
    LOCAL_BYTES = 2 << 20,
    LOCAL_UNITS = 33, /* enough for the threads to share units whole, and to be worth a part's accumulators */
    MAX_PARTS = 64,
    FEW_PARTS = 8,         /* so many there may be, for the threads, even if adding them up costs something: */
    SHARE_PARTS = 64,      /* this share of the arrays is what the parts' accumulators should take, */
    PARTS_BYTES = 1 << 20, /* and this is what they may take at least */
};

/* does it vary inside the cells that the sums are taken over? */
static int inside_cell(const fn_job *job, int operand) {
    return job->plan.cols ? fn_down_rows(job, operand) : fn_along_row(job, operand);
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

static void layout(fn_backward_job *b, int workers, fn_space *space) {
    const fn_job *job = b->job;
    const fn_cut *cut = &b->cut;
    const ptrdiff_t states = b->local ? workers * b->abreast : cut->units,
                    compute = (ptrdiff_t)job->verbs->compute_size;
    const ptrdiff_t records = cut->many_rows ? cut->slots * job->per : cut->chunks * cut->slots;
    const size_t slots = (size_t)(cut->slots * compute);
    b->units = fn_take(space, (size_t)states * sizeof *b->units);
    b->workers = fn_take(space, (size_t)workers * sizeof *b->workers);
    fn_unit_sums unit; /* where there is no room for what there should be */
    fn_worker_space worker;
    for (ptrdiff_t i = 0; i < states; i++) {
        fn_unit_sums *u = b->units ? &b->units[i] : &unit; /* in its place: a copy would wait for what it is made of */
        *u = (fn_unit_sums){0};
        if (!b->gains) u->chunk = take_sums(space, records);
        if (!job->plan.cols && b->from_sums && !cut->many_rows && !cut->interleaved) {
            u->plain = take_sums(space, records);
            if (b->row_cells) u->cells = take_sums(space, job->plan.rows * cut->splits);
        }
        if (job->data[FN_MASK]) u->count = fn_take(space, (size_t)records * sizeof(double));
        u->mean = fn_take(space, slots);
        u->rstd = fn_take(space, slots);
        u->shift = fn_take(space, job->whole_rows ? 0 : slots);
        u->c1 = fn_take(space, job->whole_rows ? 0 : slots);
        u->c2 = fn_take(space, job->whole_rows ? 0 : slots);
    }
    for (int i = 0; i < workers; i++) {
        fn_worker_space *w = b->workers ? &b->workers[i] : &worker;
        *w = (fn_worker_space){0};
        if (!job->whole_rows) w->rows = take_sums(space, cut->block_rows);
        if (job->plan.cols || b->from_elements) {
            w->columns = take_sums(space, cut->split);
            const ptrdiff_t doubles = b->whole_cols ? 3 : 0, values = b->whole_cols ? 5 : 3;
            w->work = fn_take(space, (size_t)(cut->split * (doubles * (ptrdiff_t)sizeof(double) + values * compute)));
        }
        if (job->plan.fold.len > 1) w->weight = fn_take(space, (size_t)(cut->split * compute));
        w->x_tile = fn_take(space, fn_tile_bytes(job, cut, FN_X));
        w->dy_tile = fn_take(space, fn_tile_bytes(job, cut, FN_DY));
        w->dx_tile = fn_take(space, fn_tile_bytes(job, cut, FN_Y));
        w->mask_tile = fn_take(space, fn_tile_bytes(job, cut, FN_MASK));
    }
    if (b->direct || b->by_pieces || b->gains) return;
    if (job->dweight) b->dweight = fn_take(space, (size_t)(fn_accumulators(b) * job->ndweight) * sizeof(double));
    if (job->dbias) b->dbias = fn_take(space, (size_t)(fn_accumulators(b) * job->ndbias) * sizeof(double));
}

/* ---- tasks ------------------------------------------------------------------------------------------------------ */

/* parts share the items out evenly, in order */
static ptrdiff_t first_item(const fn_backward_job *b, ptrdiff_t items, ptrdiff_t part) {
    return items / b->parts * part + items % b->parts * part / b->parts;
}

static void many_rows_part(void *context, ptrdiff_t part, int worker) {
    fn_backward_job *b = context;
    for (ptrdiff_t i = first_item(b, b->cut.chunks, part); i < first_item(b, b->cut.chunks, part + 1); i++)
        fn_many_rows_chunk(b, i, part, &b->units[worker], &b->workers[worker]);
    fn_drain(b->job);
}

static void units_abreast(fn_backward_job *b, ptrdiff_t from, ptrdiff_t units, ptrdiff_t part, int worker) {
    const fn_cut *cut = &b->cut;
    fn_unit_sums *u = &b->units[worker * b->abreast];
    const fn_worker_space *w = &b->workers[worker];
    for (ptrdiff_t j = 0; j < units; j++) {
        u[j].unit = fn_cut_unit(b->job, cut, from + j);
        fn_load_unit(b, &u[j].unit, &u[j]);
    }
    for (ptrdiff_t c = 0; b->needs_sums && c < cut->chunks; c++)
        for (ptrdiff_t i = c * cut->chunk_blocks; i < fn_chunk_end(cut, c); i++)
            for (ptrdiff_t j = 0; j < units; j++) fn_sums_of_block(b, &u[j].unit, c, i, &u[j], w);
    for (ptrdiff_t j = 0; j < units; j++) fn_settle_unit(b, &u[j].unit, part, &u[j], w);
    /* backwards: the last blocks are those still in cache */
    for (ptrdiff_t c = cut->chunks - 1; c >= 0; c--)
        for (ptrdiff_t j = 0; j < units; j++)
            fn_combine_blocks(b, &u[j].unit, c * cut->chunk_blocks, fn_chunk_end(cut, c), part, &u[j], w);
}

static void units_part(void *context, ptrdiff_t part, int worker) {
    fn_backward_job *b = context;
    const ptrdiff_t last = first_item(b, b->cut.units, part + 1);
    ptrdiff_t i = first_item(b, b->cut.units, part);
    if (b->whole_cols) {
        fn_whole_units(b, i, last, part, &b->workers[worker]);
        i = last;
    }
    for (; b->cut.interleaved && i < last; i++) fn_interleaved_unit(b, i, part, &b->units[worker], &b->workers[worker]);
    for (; i < last; i += b->abreast) units_abreast(b, i, last - i < b->abreast ? last - i : b->abreast, part, worker);
    fn_drain(b->job);
}

static void load_task(void *context, ptrdiff_t index, int worker) {
    fn_backward_job *b = context;
    const fn_unit unit = fn_cut_unit(b->job, &b->cut, index);
    (void)worker;
    fn_load_unit(b, &unit, &b->units[index]);
}

static void sums_task(void *context, ptrdiff_t task, int worker) {
    fn_backward_job *b = context;
    const fn_cut *cut = &b->cut;
    const ptrdiff_t unit = task / cut->chunks, chunk = task % cut->chunks;
    const fn_unit of = fn_cut_unit(b->job, cut, unit);
    for (ptrdiff_t i = chunk * cut->chunk_blocks; i < fn_chunk_end(cut, chunk); i++)
        fn_sums_of_block(b, &of, chunk, i, &b->units[unit], &b->workers[worker]);
}

static void settle_part(void *context, ptrdiff_t part, int worker) {
    fn_backward_job *b = context;
    for (ptrdiff_t i = first_item(b, b->cut.units, part); i < first_item(b, b->cut.units, part + 1); i++) {
        const fn_unit unit = fn_cut_unit(b->job, &b->cut, i);
        fn_settle_unit(b, &unit, part, &b->units[i], &b->workers[worker]);
    }
}

static void combine_item(fn_backward_job *b, ptrdiff_t item, ptrdiff_t part, int worker) {
    const fn_cut *cut = &b->cut;
    const ptrdiff_t chunk = item % cut->chunks;
    const fn_unit unit = fn_cut_unit(b->job, cut, item / cut->chunks);
    fn_combine_blocks(b, &unit, chunk * cut->chunk_blocks, fn_chunk_end(cut, chunk), part,
                      &b->units[item / cut->chunks], &b->workers[worker]);
}

static void combine_task(void *context, ptrdiff_t item, int worker) {
    fn_backward_job *b = context;
    combine_item(b, item, 0, worker);
    fn_drain(b->job);
}

static void combine_part(void *context, ptrdiff_t part, int worker) {
    fn_backward_job *b = context;
    const ptrdiff_t items = b->cut.units * b->cut.chunks;
    for (ptrdiff_t i = first_item(b, items, part); i < first_item(b, items, part + 1); i++)
        combine_item(b, i, part, worker);
    fn_drain(b->job);
}

static void piece_task(void *context, ptrdiff_t piece, int worker) {
    fn_backward_job *b = context;
    fn_piece_of_rows(b, piece, &b->workers[worker]);
    fn_drain(b->job);
}

static void run(fn_backward_job *b, int workers) {
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
        if (b->by_pieces)
            fn_parallel(workers, cut->splits, piece_task, b);
        else if (b->from_elements)
            fn_parallel(workers, b->parts, combine_part, b);
        else
            fn_parallel(workers, items, combine_task, b);
    }
}

static void add_parts(const fn_backward_job *b, double *parts, ptrdiff_t n, void *out) {
    for (ptrdiff_t p = 1; p < fn_accumulators(b); p++)
        for (ptrdiff_t i = 0; i < n; i++) parts[i] += parts[p * n + i];
    if (b->job->verbs->compute_size == sizeof(double))
        memcpy(out, parts, (size_t)n * sizeof(double));
    else
        for (ptrdiff_t i = 0; i < n; i++) ((float *)out)[i] = (float)parts[i];
}

/* whether the verbs can do a block of many rows by themselves; merges rows for them to do so */
static int can_be_whole(fn_job *job) {
    const fn_plan *plan = &job->plan;
    if (job->data[FN_MASK] || !job->data[FN_X] || !job->scale || job->given) return 0;
    if (!job->rstd && !job->fresh) return 0;
    if (!fn_tile_adjacent(job, FN_DY) || !fn_tile_adjacent(job, FN_X) || !fn_tile_adjacent(job, FN_Y)) return 0;
    if (!job->undivided) fn_merge_rows(job);
    return fn_rows_of_slice(job) && !(job->fresh && plan->nreduced);
}

/* whether all rows have the same one along them, element by element; merged rows do by blocks */
static int shared_by_rows(const fn_plan *plan, int operand) {
    if (!plan->cols && plan->fold.len > 1) return 1;
    for (int i = 0; i < plan->nkept; i++)
        if (plan->kept[i].stride[operand]) return 0;
    for (int i = 0; i < plan->nreduced; i++)
        if (plan->reduced[i].stride[operand]) return 0;
    return plan->inner.stride[operand] != 0;
}

int fn_shares_gradients(const fn_job *job) {
    const fn_plan *plan = &job->plan;
    if (job->dweight && !(shared_by_rows(plan, FN_DWEIGHT) && plan->inner.stride[FN_DWEIGHT] == 1)) return 0;
    return !job->dbias || (shared_by_rows(plan, FN_DBIAS) && plan->inner.stride[FN_DBIAS] == 1);
}

/* many rows that share the parameters of their columns: sums of columns on the way to dx */
static int with_column_sums(const fn_job *job) {
    const fn_plan *plan = &job->plan;
    if (!(job->dweight || job->dbias) || plan->n == 1 || plan->regions == 1 || plan->nreduced || job->undivided)
        return 0;
    return fn_shares_gradients(job) && (!job->data[FN_WEIGHT] || shared_by_rows(plan, FN_WEIGHT));
}

/* whether no two slices have one of its elements in common: then no two parts have */
static int apart(const fn_job *job, int operand) {
    const fn_plan *plan = &job->plan;
    for (int i = 0; i < plan->nkept; i++)
        if (!plan->kept[i].stride[operand]) return 0;
    return !plan->cols || plan->inner.stride[operand];
}

/* What the sums are for, and how parameter gradients are come by. Nothing here looks at the number of threads, except
 * where the order of additions does not depend on it. */
static int decide(fn_backward_job *b) {
    fn_job *job = b->job;
    const int params = job->dweight || job->dbias;
    b->weighted = job->data[FN_WEIGHT] && inside_cell(job, FN_WEIGHT);
    b->from_elements = (job->dweight && inside_cell(job, FN_DWEIGHT)) || (job->dbias && inside_cell(job, FN_DBIAS));
    b->from_sums = params && !b->from_elements;
    b->row_cells = b->from_sums && (fn_down_rows(job, FN_DWEIGHT) || fn_down_rows(job, FN_DBIAS));
    b->has_x = job->data[FN_X] && (job->scale || job->dweight);
    b->needs_sums = b->from_sums || (!job->given && (job->centre || job->scale));
    if (!b->cut.many_rows || (b->from_elements && !job->column_sums)) job->whole_rows = 0;
    job->column_sums &= job->whole_rows;
    b->gains = job->whole_rows && job->undivided && job->dweight; /* of one row each, which has its own */

    const fn_cut *cut = &b->cut;
    const ptrdiff_t elements = job->plan.regions * job->plan.rows * job->plan.n;
    const ptrdiff_t bytes = 2 * elements * (ptrdiff_t)job->verbs->size, work = fn_bytes_of_work(job, cut);
    const int fits = bytes / cut->units <= LOCAL_BYTES;
    const ptrdiff_t tasks = cut->many_rows ? cut->chunks : cut->units * cut->chunks;
    int workers = fn_workers(job->threads, tasks, work, 1);
    b->local = cut->many_rows || cut->interleaved || (fits && cut->units >= (b->from_elements ? LOCAL_UNITS : workers));
    if (!b->local) workers = fn_workers(job->threads, tasks, work, 3);
    if (workers == 1 && !b->from_elements) b->local = 1;
    b->abreast = b->local && !b->from_elements ? fn_abreast(job, cut, workers) : 1;
    b->whole_cols = b->local && fn_units_can_be_whole(b);

    ptrdiff_t items = cut->many_rows ? cut->chunks : cut->units;
    if (b->from_elements && !b->local) items *= cut->chunks;
    b->parts = items;
    b->by_pieces = !b->local && fn_goes_by_pieces(b);
    if (params && !b->by_pieces) {
        const ptrdiff_t part_bytes = (job->ndweight + job->ndbias) * (ptrdiff_t)sizeof(double);
        const ptrdiff_t most = (2 * bytes > PARTS_BYTES ? 2 * bytes : PARTS_BYTES) / part_bytes;
        const ptrdiff_t cheap = bytes / SHARE_PARTS / part_bytes;
        b->direct = b->from_elements && (!job->dweight || job->ndweight == elements) &&
                    (!job->dbias || job->ndbias == elements);
        b->apart = b->from_sums && (!job->dweight || apart(job, FN_DWEIGHT)) && (!job->dbias || apart(job, FN_DBIAS));
        if (b->parts > MAX_PARTS) b->parts = MAX_PARTS;
        if (!b->direct && !b->apart) {
            if (b->parts > FEW_PARTS && b->parts > cheap) b->parts = cheap > FEW_PARTS ? cheap : FEW_PARTS;
            if (b->parts > most) b->parts = most > 1 ? most : 1;
        }
        if (b->parts < workers && (b->from_elements || b->local)) workers = (int)b->parts;
    }
    b->sums_rows = fn_sums_rows(b);
    if (b->abreast > 1 && (!params || b->apart)) b->parts = (cut->units + b->abreast - 1) / b->abreast;
    return workers;
}

/* the statistics of a job without any, for the caller to free */
static int take_statistics(fn_job *job, void **memory) {
    const fn_plan *plan = &job->plan;
    const ptrdiff_t slices = plan->regions * (plan->cols ? plan->inner.len : 1);
    job->rstd = *memory = malloc((size_t)slices * job->verbs->compute_size);
    if (!job->rstd) return FN_NO_MEMORY;
    job->fresh = 0;
    fn_job forward = *job;
    forward.eps = 0;
    forward.data[FN_Y] = forward.data[FN_DY] = forward.data[FN_WEIGHT] = NULL;
    return fn_forward(&forward);
}

static int attempt(fn_backward_job *b, void **statistics) {
    fn_job *job = b->job;
    char stack[STACK_BYTES] __attribute__((aligned(64)));
    job->whole_rows = can_be_whole(job);
    job->per = job->whole_rows ? fn_rows_of_slice(job) : 1;
    job->verbs = fn_verbs_of(job);
    job->column_sums = job->whole_rows && with_column_sums(job);
    job->past = fn_goes_past(job);
    b->cut = fn_cut_make(job);
    const int workers = decide(b), status = job->fresh && !job->whole_rows ? take_statistics(job, statistics) : FN_OK;
    if (status != FN_OK) return status;
    fn_space space = {.base = stack, .size = sizeof stack};
    layout(b, workers, &space);
    char *memory = stack;
    if (space.used > sizeof stack) {
        memory = aligned_alloc(64, space.used);
        if (!memory) return FN_NO_MEMORY;
        space = (fn_space){.base = memory, .size = space.used};
        layout(b, workers, &space);
    }
    if (b->dweight) memset(b->dweight, 0, (size_t)(fn_accumulators(b) * job->ndweight) * sizeof(double));
    if (b->dbias) memset(b->dbias, 0, (size_t)(fn_accumulators(b) * job->ndbias) * sizeof(double));
    run(b, workers);
    if (b->dweight) add_parts(b, b->dweight, job->ndweight, job->dweight);
    if (b->dbias) add_parts(b, b->dbias, job->ndbias, job->dbias);
    if (job->root != 0 && !b->gains)
        job->verbs->divide(job->ndweight, job->dweight, job->verbs->compute_size == sizeof(double), job->root,
                           job->dweight);
    if (memory != stack) free(memory);
    return FN_OK;
}

/* whether any of n statistics is infinite */
static int any_infinite(const fn_job *job, const void *a, ptrdiff_t n) {
    const double *wide = a;
    const float *narrow = a;
    int any = 0;
    if (job->verbs->compute_size == sizeof(double))
        for (ptrdiff_t i = 0; i < n; i++) any |= fabs(wide[i]) > DBL_MAX;
    else
        for (ptrdiff_t i = 0; i < n; i++) any |= fabsf(narrow[i]) > FLT_MAX;
    return any;
}

/* slices that are so small that their rstd, which was taken here, is infinite: the verbs made NaN of them */
static void mend(const fn_job *job) {
    const fn_plan *plan = &job->plan;
    const ptrdiff_t columns = plan->cols ? plan->inner.len : 1, slices = plan->regions * columns;
    if (!any_infinite(job, job->rstd, slices)) return;
    for (ptrdiff_t i = 0; i < slices; i++) {
        ptrdiff_t offset[FN_NOPERANDS];
        memcpy(offset, plan->offset, sizeof offset);
        fn_plan_seek(plan->kept, plan->nkept, i / columns, offset);
        for (int o = 0; plan->cols && o < FN_NOPERANDS; o++) offset[o] += i % columns * plan->inner.stride[o];
        if (isinf(fn_get(job, job->rstd, offset[FN_STAT]))) fn_rescue_gradients(job, offset);
    }
}

int fn_backward(fn_job *job) {
    void *packed = NULL, *statistics = NULL;
    fn_backward_job b = {.job = job};
    job->undivided = job->fresh; /* and stays so in a second attempt: a slice must not depend on its neighbours */
    int status = fn_param_pack(job, FN_WEIGHT, &packed);
    if (status == FN_OK) status = attempt(&b, &statistics);
    if (status == FN_OK && b.beyond) {
        status = take_statistics(job, &statistics);
        b = (fn_backward_job){.job = job};
        if (status == FN_OK) status = attempt(&b, &statistics);
    }
    if (status == FN_OK && statistics) mend(job);
    free(packed);
    free(statistics);
    return status;
}
