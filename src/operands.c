/* How a job's operands become what the verbs take: tiles of arrays, parameters as values by row or by column; and which
 * verbs these are. */
#include <stdlib.h>
#include <string.h>

#include "job.h"

enum {
    LINE = 64,        /* of a cache */
    SPLIT_ROWS = 256, /* the fewest that a copy of a parameter pays for */
    /* Shorter rows keep the plain verbs, as a walk takes longer to begin: bytes of a row that is reduced, and of one of columns. */
    ACROSS_BYTES = 512,
    ACROSS_COLUMNS_BYTES = 1024,
    /* The least arrays together of which the result goes past the caches: nearly as large as a usual last one; less where two
     * of three are read, so that the result takes the place of what is still to be read; more where several threads may
     * each have a cache. */
    PAST_BYTES = 24 << 20,
    PAST_OF_THREE_BYTES = 16 << 20,
    PAST_SHARED_BYTES = 32 << 20,
};

/* ---- verbs ------------------------------------------------------------------------------------------------------ */

/* whether rows of this input stand across cache lines: some or all of them */
static int is_across(const fn_job *job, int operand) {
    const fn_plan *plan = &job->plan;
    if (!job->data[operand] || !fn_tile_adjacent(job, operand)) return 0;
    uintptr_t bounds = (uintptr_t)(job->data[operand] + plan->offset[operand]);
    for (int i = 0; i < plan->nkept; i++) bounds |= (uintptr_t)plan->kept[i].stride[operand];
    for (int i = 0; i < plan->nreduced; i++) bounds |= (uintptr_t)plan->reduced[i].stride[operand];
    return bounds % LINE != 0;
}

const fn_verbs *fn_verbs_of(const fn_job *job) {
    const fn_verbs *across = job->verbs->across;
    const ptrdiff_t least = job->plan.cols ? ACROSS_COLUMNS_BYTES : ACROSS_BYTES;
    if (!across || job->plan.n * (ptrdiff_t)across->size < least) return job->verbs;
    return is_across(job, FN_X) || is_across(job, FN_DY) ? across : job->verbs;
}

/* ---- tiles ------------------------------------------------------------------------------------------------------ */

static ptrdiff_t element_size(const fn_job *job, int operand) {
    return operand == FN_MASK ? 1 : (ptrdiff_t)job->verbs->size;
}
int fn_tile_adjacent(const fn_job *job, int operand) {
    return job->plan.n == 1 || fn_plan_step(&job->plan, operand) == element_size(job, operand);
}

int fn_tiles_adjacent(const fn_job *job) {
    const int operands[] = {FN_X, FN_Y, FN_DY, FN_MASK};
    int adjacent = 1;
    for (int i = 0; i < 4; i++) adjacent &= !job->data[operands[i]] || fn_tile_adjacent(job, operands[i]);
    return adjacent;
}

size_t fn_tile_bytes(const fn_job *job, const fn_cut *cut, int operand) {
    if (!job->data[operand] || fn_tile_adjacent(job, operand)) return 0;
    return (size_t)(cut->block_runs * cut->block_rows * cut->split * element_size(job, operand));
}

int fn_goes_past(const fn_job *job) {
    const ptrdiff_t elements = job->plan.regions * job->plan.rows * job->plan.n;
    const ptrdiff_t arrays = 1 + (job->data[FN_X] != NULL) + (job->data[FN_DY] != NULL);
    const ptrdiff_t bytes = elements * arrays * (ptrdiff_t)job->verbs->size;
    const ptrdiff_t alone = arrays == 3 ? PAST_OF_THREE_BYTES : PAST_BYTES;
    const ptrdiff_t least = job->threads > 1 ? PAST_SHARED_BYTES : alone;
    const char *y = job->data[FN_Y];
    if (!y || !fn_tile_adjacent(job, FN_Y) || y == job->data[FN_X] || y == job->data[FN_DY]) return 0;
    return bytes < least ? 0 : bytes < PAST_SHARED_BYTES ? 1 : FN_FROM_MEMORY;
}

static void copy_strided(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step, ptrdiff_t n,
                         ptrdiff_t size) {
#define COPY(bytes)                                                                                                    \
    for (ptrdiff_t j = 0; j < n; j++) memcpy(to + j * to_step, from + j * from_step, bytes)
    if (size == 1)
        COPY(1);
    else if (size == 2)
        COPY(2);
    else if (size == 4)
        COPY(4);
    else
        COPY(8);
#undef COPY
}

fn_tile fn_tile_in(const fn_job *job, const fn_cut *cut, int operand, const ptrdiff_t offset[FN_NOPERANDS],
                   ptrdiff_t rows, ptrdiff_t width, void *scratch) {
    if (!job->data[operand]) return (fn_tile){0};
    const char *from = job->data[operand] + offset[operand];
    const ptrdiff_t step = fn_row_axis(job, cut)->stride[operand], size = element_size(job, operand);
    if (fn_tile_adjacent(job, operand)) return (fn_tile){from, step};
    for (ptrdiff_t r = 0; r < rows; r++)
        copy_strided((char *)scratch + r * width * size, size, from + r * step, fn_plan_step(&job->plan, operand),
                     width, size);
    return (fn_tile){scratch, width * size};
}

fn_tile fn_runs_in(const fn_job *job, const fn_cut *cut, int operand, const fn_block *b, void *scratch,
                   ptrdiff_t *step) {
    *step = b->runs > 1 ? fn_run_axis(job)->stride[operand] : 0;
    if (!*step || !job->data[operand] || fn_tile_adjacent(job, operand))
        return fn_tile_in(job, cut, operand, b->offset, b->rows, b->width, scratch);
    *step = b->rows * b->width * element_size(job, operand);
    fn_block run = *b;
    for (ptrdiff_t i = 0; i < b->runs; i++, fn_next_run(job, &run))
        fn_tile_in(job, cut, operand, run.offset, b->rows, b->width, (char *)scratch + i * *step);
    return (fn_tile){scratch, b->width * element_size(job, operand)};
}

fn_tile fn_tile_out(const fn_job *job, const fn_cut *cut, const ptrdiff_t offset[FN_NOPERANDS], ptrdiff_t width,
                    void *scratch) {
    if (fn_tile_adjacent(job, FN_Y))
        return (fn_tile){job->data[FN_Y] + offset[FN_Y], fn_row_axis(job, cut)->stride[FN_Y]};
    return (fn_tile){scratch, width * element_size(job, FN_Y)};
}

void fn_tile_flush(const fn_job *job, const fn_cut *cut, fn_tile tile, const ptrdiff_t offset[FN_NOPERANDS],
                   ptrdiff_t rows, ptrdiff_t width) {
    if (fn_tile_adjacent(job, FN_Y)) return;
    const ptrdiff_t step = fn_row_axis(job, cut)->stride[FN_Y], size = element_size(job, FN_Y);
    for (ptrdiff_t r = 0; r < rows; r++)
        copy_strided(job->data[FN_Y] + offset[FN_Y] + r * step, fn_plan_step(&job->plan, FN_Y),
                     tile.base + r * tile.step, size, width, size);
}

/* ---- parameters ------------------------------------------------------------------------------------------------- */

int fn_param_varies(const fn_job *job, int operand) {
    return job->data[operand] && (job->plan.inner.stride[operand] || job->plan.fold.stride[operand]);
}

int fn_down_rows(const fn_job *job, int operand) {
    for (int i = 0; i < job->plan.nreduced; i++)
        if (job->plan.reduced[i].stride[operand]) return 1;
    return 0;
}

/* whether many rows share a parameter of adjacent elements that stands across cache lines: every vector of it is then two
 * loads, and a copy would be one */
static int is_split(const fn_job *job, int operand) {
    const fn_plan *plan = &job->plan;
    if (plan->cols || plan->regions * plan->rows < SPLIT_ROWS) return 0; /* several rows of columns share a load */
    for (int i = 0; i < plan->nkept; i++)
        if (plan->kept[i].stride[operand]) return 0;
    return !fn_down_rows(job, operand) && (uintptr_t)(job->data[operand] + plan->offset[operand]) % LINE != 0;
}

/* A copy in walking order, so that what varies along the row does so in steps of one element. Axes along which the
 * parameter does not vary keep stride 0. */
int fn_param_pack(fn_job *job, int operand, void **memory) {
    fn_plan *plan = &job->plan;
    const ptrdiff_t size = (ptrdiff_t)job->verbs->compute_size;
    *memory = NULL;
    if (!fn_param_varies(job, operand) || plan->fold.len > 1) return FN_OK;
    if (plan->inner.stride[operand] == size && !is_split(job, operand)) return FN_OK;
    fn_axis *axes[FN_MAXDIM + 1];
    int count = 0;
    ptrdiff_t elements = 1;
    axes[count++] = &plan->inner;
    for (int i = plan->nreduced - 1; i >= 0; i--) axes[count++] = &plan->reduced[i];
    for (int i = plan->nkept - 1; i >= 0; i--) axes[count++] = &plan->kept[i];
    for (int i = 0; i < count; i++)
        if (axes[i]->stride[operand]) elements *= axes[i]->len;
    char *packed = aligned_alloc(LINE, (size_t)(fn_ceil_div(elements * size, LINE) * LINE));
    if (!packed) return FN_NO_MEMORY;
    const int adjacent = plan->inner.stride[operand] == size; /* and it varies along no other axis */
    if (adjacent) memcpy(packed, job->data[operand] + plan->offset[operand], (size_t)(elements * size));
    for (ptrdiff_t e = 0; !adjacent && e < elements; e++) {
        ptrdiff_t rest = e, from = 0;
        for (int i = 0; i < count; i++)
            if (axes[i]->stride[operand]) {
                from += rest % axes[i]->len * axes[i]->stride[operand];
                rest /= axes[i]->len;
            }
        memcpy(packed + e * size, job->data[operand] + plan->offset[operand] + from, (size_t)size);
    }
    plan->offset[operand] = 0;
    for (ptrdiff_t i = 0, step = size; i < count; i++)
        if (axes[i]->stride[operand]) {
            axes[i]->stride[operand] = step;
            step *= axes[i]->len;
        }
    job->data[operand] = *memory = packed;
    return FN_OK;
}

fn_param fn_param_at(const fn_job *job, const fn_cut *cut, int operand, const ptrdiff_t offset[FN_NOPERANDS],
                     ptrdiff_t width, void *columns) {
    if (!job->data[operand]) return (fn_param){0};
    const fn_plan *plan = &job->plan;
    const ptrdiff_t size = (ptrdiff_t)job->verbs->compute_size, fold = plan->fold.len;
    const char *from = job->data[operand] + offset[operand];
    fn_param out = {from, fn_row_axis(job, cut)->stride[operand] / size, fn_param_varies(job, operand)};
    const ptrdiff_t step = fn_plan_step(plan, operand), slice = plan->inner.stride[operand];
    if (!out.along || (step == size && slice == fold * size)) return out;
    if (step == 0) {
        copy_strided(columns, size, from, slice, width / fold, size);
        fn_spread(job, columns, width / fold, fold);
        return (fn_param){columns, 0, 1};
    }
    for (ptrdiff_t i = 0; i < fold; i++) /* fold > 1: the plan made sure that it does not vary down the rows */
        copy_strided((char *)columns + i * size, fold * size, from + i * step, slice, width / fold, size);
    return (fn_param){columns, 0, 1};
}

fn_param fn_param_by_row(const fn_job *job, const fn_cut *cut, int operand, const ptrdiff_t offset[FN_NOPERANDS],
                         ptrdiff_t width, void *columns) {
    fn_param p = fn_param_at(job, cut, operand, offset, width, columns);
    p.step /= job->per; /* the next slice's stands so many rows ahead */
    return p;
}
