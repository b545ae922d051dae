#include "job.h"

#include <string.h>

enum {
    SHORT_ROWS = 64,           /* of one block: a lane adds up one sum of each, and long sums round more */
    STRIP_BYTES = 4096,        /* a strip of columns is a page wide at least: narrower ones lose to the TLB */
    COLS_BLOCK_BYTES = 262144, /* a block of whole rows stays in L2 between its two passes */
    CHUNK_BYTES = 131072,      /* the least that is handed to a thread at a time */
    MAX_CHUNKS = 64,
    TILE_BYTES = 8192,           /* many rows: what stays in L1 between statistics and result */
    SLICE_BYTES = 65536,         /* of several rows: its x and dy stay in L2 between their two passes */
    MERGED_ROW = 512,            /* the longest rows of a slice that is better taken as one, */
    MERGED_SLICES = 8,           /* and how many slices must share their parameters for that */
    BACKWARD_TILE_BYTES = 65536, /* and enough rows for the column sums of a parameter's gradient */
    TILE_ROWS = 128,
    ROWS_AT_ONCE = 16, /* by a verb, at most */
    ROW_BYTES = 192,   /* what to begin and end one of many rows costs, in bytes that could be moved meanwhile */
    SUMMED_ROWS = 32,  /* the least of a chunk with column sums: then they are brought to a part's */
    WHOLE_ROWS_BYTES = 131072, /* the same where the verb tiles the rows itself */
    /* Bytes of a row that is still one of many: as long as two passes over it are from L2, or as a part's accumulators
     * stay in cache, where more is gained: by column sums of rows enough to share, by squares taken on the way. Of few
     * rows, which threads could hardly share: of one block. */
    LONGEST_ROW = 1 << 20,
    LONG_ROW = 131072,
    FEW_ROWS = 8,
    /* units abreast: their rows span RUN_BYTES at most; two of them and more stay in L2 between their passes, or where a unit
     * fills that, in the last cache; and a worker has some tasks, as the last one is waited for */
    RUN_BYTES = 32768,
    ABREAST_L2_BYTES = 1 << 20,
    ABREAST_BYTES = 4 << 20,
    WORKER_TASKS = 4,
    /* Slices of so many bytes are interleaved, that some stay in L2 between their passes; smaller ones if their rows are
     * short, as then it takes more side by side. A unit of them: so many, as long as their x has so many bytes, or of so many
     * bytes of input, or this share of all, which leaves the threads enough; and it stays in L2 itself. But a few where rows
     * are large, whatever L2 holds: they are read in long runs without company, and the result is written backwards, from
     * what is still there; three in the backward, and so many as have LARGE_RUN bytes of adjoining rows in the forward. And
     * one if it is large itself, in the backward: a verb takes all of its rows at once. */
    INTERLEAVED_SLICE = 262144,
    INTERLEAVED_SHORT_SLICE = 32768,
    INTERLEAVED_LONG_ROW = 4096,
    INTERLEAVED_SLICES = 8,
    INTERLEAVED_LARGE_ROW = 4096,
    INTERLEAVED_LARGE_SLICES = 3,
    INTERLEAVED_LARGE_RUN = 8192,
    INTERLEAVED_LARGE_SLICE = 65536, /* of x */
    INTERLEAVED_X_BYTES = 131072,
    INTERLEAVED_BYTES = 65536,
    INTERLEAVED_SHARE = 16,
    INTERLEAVED_L2_BYTES = 524288,
};

static ptrdiff_t min(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static ptrdiff_t max(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
/* `len` cut into pieces of at most `most`, as even as can be */
static ptrdiff_t even(ptrdiff_t len, ptrdiff_t most) {
    return len <= most ? len : fn_ceil_div(len, fn_ceil_div(len, max(most, 1)));
}
/* a is a multiple of b, mostly b itself */
static ptrdiff_t times(ptrdiff_t a, ptrdiff_t b) { return a == b ? 1 : a / b; }

static void group_chunks(fn_cut *cut, ptrdiff_t block_bytes) {
    cut->chunk_blocks = cut->chunks = 1;
    if (cut->blocks == 1) return;
    cut->chunk_blocks = max(fn_ceil_div(CHUNK_BYTES, block_bytes), fn_ceil_div(cut->blocks, MAX_CHUNKS));
    cut->chunk_blocks = even(cut->blocks, cut->chunk_blocks);
    cut->chunks = fn_ceil_div(cut->blocks, cut->chunk_blocks);
}

ptrdiff_t fn_rows_of_slice(const fn_job *job) {
    const fn_plan *plan = &job->plan;
    if (plan->cols || plan->nreduced > 1) return 0;
    if (!plan->nreduced) return 1;
    if (!plan->nkept || job->data[FN_MASK]) return 0;
    const fn_axis *rows = &plan->reduced[0], *slices = &plan->kept[plan->nkept - 1];
    const ptrdiff_t row_bytes = plan->n * (ptrdiff_t)job->verbs->compute_size;
    if (rows->len > FN_MOST_PER || row_bytes > FN_BLOCK_BYTES || rows->len * row_bytes > SLICE_BYTES) return 0;
    const int wanted[FN_NOPERANDS] = {[FN_X] = 1,
                                      [FN_Y] = 1,
                                      [FN_DY] = job->data[FN_DY] != NULL,
                                      [FN_WEIGHT] = job->data[FN_WEIGHT] != NULL,
                                      [FN_BIAS] = job->data[FN_BIAS] != NULL,
                                      [FN_DWEIGHT] = job->dweight != NULL,
                                      [FN_DBIAS] = job->dbias != NULL};
    for (int o = 0; o < FN_NOPERANDS; o++) {
        if (wanted[o] && slices->stride[o] != rows->len * rows->stride[o]) return 0;
        if (wanted[o] && o >= FN_WEIGHT && plan->inner.stride[o]) return 0;
    }
    return rows->len;
}

void fn_merge_rows(fn_job *job) {
    const fn_plan *plan = &job->plan;
    if (plan->cols || plan->nreduced != 1 || plan->n == 1) return;
    const ptrdiff_t size = (ptrdiff_t)job->verbs->size, compute = (ptrdiff_t)job->verbs->compute_size;
    const fn_axis *rows = &plan->reduced[0];
    if (plan->n * compute > MERGED_ROW || plan->count * compute > FN_BLOCK_BYTES) return;
    for (int o = FN_X; o <= FN_DY; o++)
        if (job->data[o] && rows->stride[o] != plan->n * size) return;
    if (fn_plan_params_vary(&plan->inner)) return;
    if ((job->dweight && rows->stride[FN_DWEIGHT] != 1) || (job->dbias && rows->stride[FN_DBIAS] != 1)) return;
    for (int i = 0; i < plan->nkept; i++)
        if (!fn_plan_params_vary(&plan->kept[i]) && plan->kept[i].len >= MERGED_SLICES) {
            fn_plan_merge_rows(&job->plan);
            return;
        }
}

static ptrdiff_t inputs(const fn_job *job) { return job->data[FN_X] && job->data[FN_DY] ? 2 : 1; }

/* Whether slices of few blocks each, the channels of small images, are taken row by row of each: to cut and describe each
 * by itself would cost more than its arithmetic, and what is read and written at a time would be short. */
static int is_interleaved(const fn_job *job) {
    const fn_plan *plan = &job->plan;
    if (plan->cols || plan->nkept != 1 || plan->nreduced != 1 || job->data[FN_MASK]) return 0;
    const fn_axis *slices = &plan->kept[0], *rows = &plan->reduced[0];
    const ptrdiff_t compute = (ptrdiff_t)job->verbs->compute_size;
    const ptrdiff_t largest = plan->n * compute < INTERLEAVED_LONG_ROW ? INTERLEAVED_SHORT_SLICE : INTERLEAVED_SLICE;
    if (rows->len > SHORT_ROWS || plan->count * compute > largest) return 0;
    if (slices->stride[FN_X] >= rows->stride[FN_X] || !fn_tiles_adjacent(job)) return 0;
    if (rows->stride[FN_X] == plan->n * (ptrdiff_t)job->verbs->size)
        return 0; /* rows that adjoin are one to the moments */
    for (int o = FN_WEIGHT; o < FN_NOPERANDS; o++)
        if (plan->inner.stride[o] || rows->stride[o]) return 0;
    return !(job->dweight && !slices->stride[FN_DWEIGHT]) && !(job->dbias && !slices->stride[FN_DBIAS]);
}

/* So many rows of columns are taken as one. It must be 1 wherever the verbs that sum do not do so (narrow_tmpl.c): the blocks
 * would be too long for one sum. Rows whose columns stand apart are copied, and adjoin there. */
static ptrdiff_t rows_in_one(const fn_job *job) {
    const fn_plan *plan = &job->plan;
    const fn_axis *rows = plan->nreduced ? &plan->reduced[plan->nreduced - 1] : &plan->inner;
    const ptrdiff_t row_bytes = plan->n * (ptrdiff_t)job->verbs->size;
    for (int o = FN_X; o <= FN_DY; o += FN_DY - FN_X)
        if (job->data[o] && fn_tile_adjacent(job, o) && rows->stride[o] != row_bytes) return 1;
    if (job->data[FN_MASK] || (job->data[FN_DY] && job->data[FN_WEIGHT] && fn_down_rows(job, FN_WEIGHT))) return 1;
    return fn_rows_in_one(plan->n * (ptrdiff_t)job->verbs->compute_size);
}

/* Runs of columns' rows that make a block: short ones are taken together, as to begin and end sums would cost more than the
 * sums. The backward's sums take a weight by row of one run only. */
static ptrdiff_t runs_in_block(const fn_job *job, ptrdiff_t run_bytes) {
    const fn_plan *plan = &job->plan;
    if (plan->nreduced < 2 || job->data[FN_MASK]) return 1;
    for (int o = FN_WEIGHT; job->data[FN_DY] && o < FN_NOPERANDS; o++)
        if (fn_down_rows(job, o)) return 1;
    const ptrdiff_t len = plan->reduced[plan->nreduced - 1].len;
    const ptrdiff_t in_one = fn_rows_left_few(len, min(rows_in_one(job), len));
    const ptrdiff_t most = min(FN_BLOCK_ROWS * in_one / len, COLS_BLOCK_BYTES / run_bytes);
    return even(fn_run_axis(job)->len, most);
}

fn_cut fn_cut_make(const fn_job *job) {
    const fn_plan *plan = &job->plan;
    const ptrdiff_t size = (ptrdiff_t)job->verbs->size, compute = (ptrdiff_t)job->verbs->compute_size;
    const ptrdiff_t n = plan->n;
    fn_cut cut = {.strips = 1, .strip = n, .slots = 1, .splits = 1, .split = n, .block_runs = 1, .run_blocks = 1};

    const int few = plan->regions < FEW_ROWS;
    const int long_ones = job->column_sums ? plan->regions > SUMMED_ROWS : job->undivided;
    const ptrdiff_t longest = few ? FN_BLOCK_BYTES : long_ones ? LONGEST_ROW : LONG_ROW;
    const ptrdiff_t per = job->per > 1 ? job->per : 1;
    cut.many_rows = per > 1 || fn_is_merged(job) || (!plan->cols && plan->nreduced == 0 && n * compute <= longest);
    if (cut.many_rows) {
        /* the whole array is one unit whose rows are the slices */
        const ptrdiff_t tile_bytes = job->whole_rows    ? WHOLE_ROWS_BYTES
                                     : job->data[FN_DY] ? BACKWARD_TILE_BYTES
                                                        : TILE_BYTES;
        cut.run = plan->nkept ? plan->kept[plan->nkept - 1].len : 1;
        cut.block_rows = even(cut.run, min(TILE_ROWS, tile_bytes / (per * n * size)));
        if (cut.block_rows > ROWS_AT_ONCE) cut.block_rows = fn_ceil_div(cut.block_rows, ROWS_AT_ONCE) * ROWS_AT_ONCE;
        if (job->column_sums) cut.block_rows = min(cut.run, max(cut.block_rows, FN_TOGETHER));
        cut.slots = cut.block_rows;
        cut.units = 1;
        cut.row_blocks = fn_ceil_div(cut.run, cut.block_rows);
        cut.blocks = times(plan->regions, cut.run) * cut.row_blocks;
        const ptrdiff_t block_bytes = cut.block_rows * (per * n * size + ROW_BYTES);
        group_chunks(&cut,
                     job->column_sums ? min(block_bytes, cut.block_rows * (CHUNK_BYTES / SUMMED_ROWS)) : block_bytes);
        return cut;
    }
    cut.interleaved = is_interleaved(job);
    if (cut.interleaved) {
        const ptrdiff_t of_x = plan->count * size, slice = of_x * inputs(job),
                        share = slice * plan->regions / INTERLEAVED_SHARE;
        const ptrdiff_t some = max(1, min(INTERLEAVED_SLICES, INTERLEAVED_X_BYTES / of_x));
        const ptrdiff_t least = max(INTERLEAVED_BYTES, some * slice);
        const ptrdiff_t large = job->data[FN_DY] ? INTERLEAVED_LARGE_SLICES : INTERLEAVED_LARGE_RUN / (n * size);
        const ptrdiff_t few = max(1, min(large, plan->regions / INTERLEAVED_SHARE));
        const int is_large = n * size >= INTERLEAVED_LARGE_ROW;
        cut.by_slices = is_large && job->data[FN_DY] && of_x >= INTERLEAVED_LARGE_SLICE;
        const ptrdiff_t most = cut.by_slices ? 1
                               : is_large    ? few
                                             : min(max(share, least), INTERLEAVED_L2_BYTES) / slice;
        cut.strip = cut.slots = cut.run = even(plan->regions, most);
        cut.block_rows = cut.by_slices ? plan->rows : cut.strip;
        cut.strips = cut.units = fn_ceil_div(plan->regions, cut.strip);
        cut.blocks = cut.chunk_blocks = plan->rows;
        cut.row_blocks = cut.chunks = 1;
        return cut;
    }
    cut.run = plan->nreduced ? plan->reduced[plan->nreduced - 1].len : 1;
    if (plan->cols) {
        const ptrdiff_t fold = plan->fold.len;
        cut.strip = min(n, fn_ceil_div(STRIP_BYTES, size * fold) * fold);
        cut.strips = fn_ceil_div(n, cut.strip);
        cut.slots = cut.strip;
        cut.split = cut.strip;
        cut.block_rows =
            even(cut.run, max(16, min(FN_BLOCK_ROWS * rows_in_one(job), COLS_BLOCK_BYTES / (cut.strip * size))));
        if (cut.block_rows == cut.run) cut.block_runs = runs_in_block(job, cut.run * cut.strip * size);
    } else if (n * compute > FN_BLOCK_BYTES) {
        cut.split = fn_piece(n, compute);
        cut.splits = fn_ceil_div(n, cut.split);
        cut.block_rows = 1;
    } else {
        cut.block_rows = even(cut.run, min(SHORT_ROWS, FN_BLOCK_BYTES / (n * compute)));
    }
    cut.units = plan->regions * cut.strips;
    cut.row_blocks = fn_ceil_div(cut.run, cut.block_rows);
    cut.blocks = times(plan->rows, cut.run) * cut.row_blocks * cut.splits;
    if (cut.block_runs > 1) {
        cut.run_blocks = fn_ceil_div(fn_run_axis(job)->len, cut.block_runs);
        cut.blocks = plan->rows / cut.run / fn_run_axis(job)->len * cut.run_blocks;
    }
    group_chunks(&cut, cut.block_runs * cut.block_rows * cut.split * size);
    return cut;
}

ptrdiff_t fn_bytes_of_work(const fn_job *job, const fn_cut *cut) {
    const fn_plan *plan = &job->plan;
    const ptrdiff_t row_bytes = plan->rows * plan->n * (ptrdiff_t)job->verbs->size;
    return inputs(job) * plan->regions * (row_bytes + (cut->many_rows ? ROW_BYTES : 0));
}

const fn_axis *fn_row_axis(const fn_job *job, const fn_cut *cut) {
    static const fn_axis one = {.len = 1};
    const fn_plan *plan = &job->plan;
    if (cut->many_rows || cut->interleaved) return plan->nkept ? &plan->kept[plan->nkept - 1] : &one;
    return plan->nreduced ? &plan->reduced[plan->nreduced - 1] : &one;
}

const fn_axis *fn_whole_axis(const fn_job *job, const fn_cut *cut) {
    return job->per > 1 ? &job->plan.reduced[0] : fn_row_axis(job, cut);
}

fn_unit fn_cut_unit(const fn_job *job, const fn_cut *cut, ptrdiff_t unit) {
    const fn_plan *plan = &job->plan;
    fn_unit out = {.width = plan->n, .slices = 1};
    memcpy(out.offset, plan->offset, sizeof out.offset);
    if (cut->many_rows) return out;
    if (cut->interleaved) {
        const ptrdiff_t first = unit * cut->strip;
        for (int o = 0; o < FN_NOPERANDS; o++) out.offset[o] += first * plan->kept[0].stride[o];
        out.slices = min(cut->strip, plan->regions - first);
        return out;
    }
    fn_plan_seek(plan->kept, plan->nkept, unit / cut->strips, out.offset);
    if (plan->cols) {
        const ptrdiff_t first = unit % cut->strips * cut->strip;
        for (int o = 0; o < FN_NOPERANDS; o++) out.offset[o] += first / plan->fold.len * plan->inner.stride[o];
        out.width = min(cut->strip, plan->n - first);
        out.slices = out.width / plan->fold.len;
    }
    return out;
}

fn_block fn_cut_block(const fn_job *job, const fn_cut *cut, const fn_unit *unit, ptrdiff_t block) {
    const fn_plan *plan = &job->plan;
    if (cut->block_runs > 1) {
        const ptrdiff_t first = block % cut->run_blocks * cut->block_runs;
        fn_block out = {
            .rows = cut->run, .width = unit->width, .runs = min(cut->block_runs, fn_run_axis(job)->len - first)};
        memcpy(out.offset, unit->offset, sizeof out.offset);
        fn_plan_seek(plan->reduced, plan->nreduced - 2, block / cut->run_blocks, out.offset);
        for (int o = 0; o < FN_NOPERANDS; o++) out.offset[o] += first * fn_run_axis(job)->stride[o];
        return out;
    }
    const fn_axis *axes = cut->many_rows ? plan->kept : plan->reduced, *row_axis = fn_row_axis(job, cut);
    const int naxes = cut->many_rows ? plan->nkept : plan->nreduced;
    const ptrdiff_t piece = block % cut->splits, in_rows = block / cut->splits;
    const ptrdiff_t outer = in_rows / cut->row_blocks, first = in_rows % cut->row_blocks * cut->block_rows;
    fn_block out = {.first_row = outer * cut->run + first,
                    .rows = min(cut->block_rows, cut->run - first),
                    .width = unit->width,
                    .runs = 1,
                    .piece = piece};
    memcpy(out.offset, unit->offset, sizeof out.offset);
    if (naxes > 1 && outer) fn_plan_seek(axes, naxes - 1, outer, out.offset);
    for (int o = 0; o < FN_NOPERANDS; o++) out.offset[o] += first * row_axis->stride[o];
    if (cut->splits > 1) {
        for (int o = 0; o < FN_NOPERANDS; o++) out.offset[o] += piece * cut->split * plan->inner.stride[o];
        out.width = min(cut->split, plan->n - piece * cut->split);
    }
    return out;
}

fn_block fn_cut_blocks(const fn_job *job, const fn_cut *cut, const fn_unit *unit, ptrdiff_t first, ptrdiff_t last,
                       ptrdiff_t *count) {
    fn_block out = fn_cut_block(job, cut, unit, first);
    *count = cut->splits > 1 || cut->block_runs > 1 ? 1 : min(last - first, cut->row_blocks - first % cut->row_blocks);
    if (*count > 1) out.rows = min(*count * cut->block_rows, cut->run - first % cut->row_blocks * cut->block_rows);
    return out;
}

ptrdiff_t fn_abreast(const fn_job *job, const fn_cut *cut, int workers) {
    const fn_plan *plan = &job->plan;
    if (cut->many_rows || cut->interleaved || plan->cols || !plan->nkept || !plan->nreduced) return 1;
    const ptrdiff_t next = plan->kept[plan->nkept - 1].stride[FN_X]; /* x is walked forwards */
    if (next >= plan->reduced[plan->nreduced - 1].stride[FN_X] || next == 0) return 1;
    const ptrdiff_t unit = plan->count * (ptrdiff_t)job->verbs->size * inputs(job);
    if (unit * cut->units <= ABREAST_L2_BYTES / 2) return 1; /* all of it is in L2 */
    const ptrdiff_t in_l2 = ABREAST_L2_BYTES / unit, in_cache = in_l2 > 1 ? in_l2 : ABREAST_BYTES / unit;
    const ptrdiff_t most = workers > 1 ? min(in_cache, cut->units / (workers * WORKER_TASKS)) : in_cache;
    return max(1, min(min(most, cut->units), RUN_BYTES / next));
}

int fn_regions_adjoin(const fn_job *job, const fn_cut *cut) {
    const fn_plan *plan = &job->plan;
    if (!plan->cols || cut->strips > 1 || cut->chunks > 1 || !plan->nkept || plan->nreduced != 1) return 0;
    if (job->data[FN_MASK] || !fn_tiles_adjacent(job) || plan->inner.stride[FN_STAT] != 1) return 0;
    for (int o = FN_WEIGHT; o <= FN_BIAS; o++)
        if (job->data[o] && fn_down_rows(job, o)) return 0;
    return !fn_plan_params_vary(&plan->kept[plan->nkept - 1]);
}

ptrdiff_t fn_regions_from(const fn_job *job, ptrdiff_t first, ptrdiff_t last) {
    const ptrdiff_t len = job->plan.kept[job->plan.nkept - 1].len;
    return min(last - first, len - first % len);
}
