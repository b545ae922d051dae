/* What the forward and backward drivers share: the job that the boundary hands them, how a job is cut into units,
 * chunks and blocks, scratch memory, and tiles of arrays whose innermost stride is not one element.
 *
 *     region   one index of the outer kept axes; regions share no slice
 *     unit     a region, or a strip of its columns, or where slices are interleaved so many of them; whose statistics
 *              are kept together
 *     chunk    a run of a unit's blocks: the grain of the threads inside a unit
 *     block    a tile: what one accumulation spans before it is carried in double
 *
 * All of it follows from shape and strides alone, and so does the order in which results are merged: the same bits for any
 * number of threads. */
#ifndef FN_JOB_H
#define FN_JOB_H

#include "norm.h"
#include "plan.h"

enum { FN_OK = 0, FN_NO_MEMORY = -1 };

typedef struct {
    const fn_verbs *verbs;
    fn_plan plan;
    char *data[FN_NOPERANDS]; /* x, y (dx), dy, mask, weight, bias; NULL: absent */
    int threads;
    int centre, scale; /* subtract the mean; divide by the deviation */
    int given;         /* the statistics are given: forward uses them, backward holds them constant */
    double eps;
    void *mean, *rstd;      /* statistics in A, read where given and in the backward, else written; may be NULL */
    const double *far_rstd; /* given: rstd in double, where A is too narrow for some; else NULL */
    double *mean64, *var64; /* forward: the same in double, biased variance (fn_slice); may be NULL */
    double *count64;        /* forward: how many elements entered; may be NULL */
    void *dweight, *dbias;  /* backward: results in A; NULL: not wanted */
    ptrdiff_t ndweight, ndbias;
    int fresh;       /* backward: there are no rstd, but they are taken here, without a mean and with eps 0 */
    int undivided;   /* backward: it began so; see fn_slices */
    double root;     /* backward of such a job: what dweight is divided by */
    int past;        /* the result goes past the caches (fn_goes_past) */
    ptrdiff_t per;   /* many rows: so many make a slice (fn_rows_of_slice) */
    int whole_rows;  /* many rows: a verb does all that is done to a tile, and needs no tiles from here */
    int column_sums; /* backward: the columns of many rows are added up on the way to dx: smaller blocks will do */
} fn_job;

/* Below eps * 2^-40 a variance changes no bit of var + eps, so squares that underflow need no rescue then. */
#define FN_NEGLIGIBLE_EPS 0x1p-60
#define FN_LEAST_VARIANCE 0x1p-100

int fn_forward(fn_job *job);
int fn_backward(fn_job *job);

/* ---- cutting ---------------------------------------------------------------------------------------------------- */

typedef struct {
    int many_rows;        /* ROWS, one row to a slice, or a few that adjoin: many slices to a tile */
    int interleaved;      /* ROWS, slices that fit L2 whose rows lie between each other's: a strip of them to a unit */
    int by_slices;        /* interleaved, the backward: units of one slice, whose rows a verb takes at once */
    ptrdiff_t strips;     /* of each region's columns, or of the slices */
    ptrdiff_t strip;      /* columns, or slices, of a strip; the last may be narrower */
    ptrdiff_t slots;      /* slices' worth of records of a unit: columns, slices, or 1 */
    ptrdiff_t run;        /* rows that follow at one step: the innermost reduced axis (the innermost kept one) */
    ptrdiff_t row_blocks; /* blocks of one run */
    ptrdiff_t block_rows;
    /* short runs of columns: so many to a block, along the axis outside the innermost reduced one, and blocks along that */
    ptrdiff_t block_runs, run_blocks;
    ptrdiff_t splits, split;                /* pieces of a long row, and their length */
    ptrdiff_t blocks, chunk_blocks, chunks; /* of a unit */
    ptrdiff_t units;
} fn_cut;

typedef struct {
    ptrdiff_t offset[FN_NOPERANDS]; /* of the unit's first element; statistics and gradients in elements */
    ptrdiff_t width;                /* columns, or the row's length */
    ptrdiff_t slices;               /* width / fold.len, those of a strip, or 1 */
} fn_unit;

typedef struct {
    ptrdiff_t offset[FN_NOPERANDS];
    ptrdiff_t first_row, rows, width; /* first_row: counted over all of the unit's rows */
    ptrdiff_t runs;                   /* so many times these rows, along fn_run_axis */
    ptrdiff_t piece;                  /* which split of the row */
} fn_block;

/* How many rows make a slice where slices of few rows, without a mask, follow one another as their rows do, and their
 * parameters with them: so many slices can be taken as rows. 1 where a slice is one row; 0 where none of this holds. */
ptrdiff_t fn_rows_of_slice(const fn_job *job);
/* Takes slices of short rows that adjoin, and whose parameters vary from row to row (group norm of small images), as one row
 * each, if they are many that share those. For a job all of whose tiles the verbs can do by themselves. */
void fn_merge_rows(fn_job *job);
/* whether it did */
static inline int fn_is_merged(const fn_job *job) { return !job->plan.cols && job->plan.fold.len > 1; }

/* of what is not negative; a small call would feel the divisions */
static inline ptrdiff_t fn_ceil_div(ptrdiff_t a, ptrdiff_t b) { return a <= b ? a > 0 : (a + b - 1) / b; }

fn_cut fn_cut_make(const fn_job *job);
/* The work in bytes of input, for the choice of workers: those of its arrays, and what rows cost beside. */
ptrdiff_t fn_bytes_of_work(const fn_job *job, const fn_cut *cut);
fn_unit fn_cut_unit(const fn_job *job, const fn_cut *cut, ptrdiff_t unit);
fn_block fn_cut_block(const fn_job *job, const fn_cut *cut, const fn_unit *unit, ptrdiff_t block);
/* the block after a chunk's last */
static inline ptrdiff_t fn_chunk_end(const fn_cut *cut, ptrdiff_t chunk) {
    const ptrdiff_t end = (chunk + 1) * cut->chunk_blocks;
    return end < cut->blocks ? end : cut->blocks;
}
/* interleaved, in place of blocks: row r of each of the unit's slices */
static inline fn_tile fn_interleaved_row(const fn_job *job, const fn_unit *unit, ptrdiff_t r, int operand) {
    const fn_plan *plan = &job->plan;
    return (fn_tile){job->data[operand] + unit->offset[operand] + r * plan->reduced[0].stride[operand],
                     plan->kept[0].stride[operand]};
}
/* the axis along which a block's runs follow each other, and on to the next of them */
static inline const fn_axis *fn_run_axis(const fn_job *job) { return &job->plan.reduced[job->plan.nreduced - 2]; }
static inline void fn_next_run(const fn_job *job, fn_block *b) {
    if (b->runs == 1) return;
    for (int o = 0; o < FN_NOPERANDS; o++) b->offset[o] += fn_run_axis(job)->stride[o];
}
/* as many of the blocks from `first` to before `last` as follow at one step, as one; `count` says how many */
fn_block fn_cut_blocks(const fn_job *job, const fn_cut *cut, const fn_unit *unit, ptrdiff_t first, ptrdiff_t last,
                       ptrdiff_t *count);

/* How many units a worker takes abreast, block by block: units whose rows lie between each other's (the channels of NCHW)
 * are then read and written in runs that are long enough for the processor to fetch ahead. Changes no bit. */
ptrdiff_t fn_abreast(const fn_job *job, const fn_cut *cut, int workers);

/* Whether each region of columns is one unit of one chunk, and a verb can take those along the innermost kept axis one after
 * the other: their rows follow at one step, all arrays hold them as they are, and they share their parameters. */
int fn_regions_adjoin(const fn_job *job, const fn_cut *cut);
/* how many of them, from `first` to before `last`, are along one such axis */
ptrdiff_t fn_regions_from(const fn_job *job, ptrdiff_t first, ptrdiff_t last);

/* the axis along which a block's rows follow each other, and that of the rows of which its slices consist */
const fn_axis *fn_row_axis(const fn_job *job, const fn_cut *cut);
const fn_axis *fn_whole_axis(const fn_job *job, const fn_cut *cut);

/* ---- verbs ------------------------------------------------------------------------------------------------------ */

/* those of the job's dtype, or where its long rows stand across cache lines those that are made for that; the same bits */
const fn_verbs *fn_verbs_of(const fn_job *job);

/* ---- scratch ---------------------------------------------------------------------------------------------------- */

/* Cuts aligned pieces off `size` bytes at `base`. Beyond them it only counts: `used` then says how many there must be. */
typedef struct {
    char *base;
    size_t size, used;
} fn_space;

static inline void *fn_take(fn_space *space, size_t bytes) {
    const size_t at = space->used;
    space->used += (bytes + 63) / 64 * 64;
    return space->used <= space->size ? space->base + at : NULL;
}

/* ---- tiles ------------------------------------------------------------------------------------------------------ */

/* A tile of an input as the verbs want it: where it stands if its columns are adjacent, else copied to `scratch`. */
fn_tile fn_tile_in(const fn_job *job, const fn_cut *cut, int operand, const ptrdiff_t offset[FN_NOPERANDS],
                   ptrdiff_t rows, ptrdiff_t width, void *scratch);
/* The same of a block's runs: the first one's tile, and in *step the bytes from one to the next. */
fn_tile fn_runs_in(const fn_job *job, const fn_cut *cut, int operand, const fn_block *b, void *scratch,
                   ptrdiff_t *step);
/* A tile for an output, and bringing it home after a verb has filled it. */
fn_tile fn_tile_out(const fn_job *job, const fn_cut *cut, const ptrdiff_t offset[FN_NOPERANDS], ptrdiff_t width,
                    void *scratch);
void fn_tile_flush(const fn_job *job, const fn_cut *cut, fn_tile tile, const ptrdiff_t offset[FN_NOPERANDS],
                   ptrdiff_t rows, ptrdiff_t width);
/* scratch of the tiles of one block: 0 where none is needed */
size_t fn_tile_bytes(const fn_job *job, const fn_cut *cut, int operand);
int fn_tile_adjacent(const fn_job *job, int operand); /* the tiles stand in the array itself */
int fn_tiles_adjacent(const fn_job *job);             /* those of all arrays that there are */

/* Whether the result goes past the caches, and FN_FROM_MEMORY: large, adjacent along the row, and not written over an input,
 * which is in cache when it is overwritten. */
int fn_goes_past(const fn_job *job);
/* at the end of every task that writes such a result */
static inline void fn_drain(const fn_job *job) {
    if (job->past) job->verbs->drain();
}

/* ---- parameters ------------------------------------------------------------------------------------------------- */

/* Replaces a parameter that varies along the row in other steps than one element by a copy that does not, and one that
 * many rows share and that stands across cache lines by one that does not; the copy, for the caller to free, is left in
 * *memory. FN_OK or FN_NO_MEMORY. */
int fn_param_pack(fn_job *job, int operand, void **memory);

/* Values of A as the verbs want them; where columns are folded, first spread out to `columns`, one value each. */
fn_param fn_param_at(const fn_job *job, const fn_cut *cut, int operand, const ptrdiff_t offset[FN_NOPERANDS],
                     ptrdiff_t width, void *columns);
/* the same by the rows of fn_whole_axis */
fn_param fn_param_by_row(const fn_job *job, const fn_cut *cut, int operand, const ptrdiff_t offset[FN_NOPERANDS],
                         ptrdiff_t width, void *columns);
int fn_param_varies(const fn_job *job, int operand); /* along the row */
int fn_down_rows(const fn_job *job, int operand);    /* whether it varies from row to row of a region */

static inline double fn_get(const fn_job *job, const void *a, ptrdiff_t i) {
    return job->verbs->compute_size == sizeof(double) ? ((const double *)a)[i] : (double)((const float *)a)[i];
}
static inline void fn_set(const fn_job *job, void *a, ptrdiff_t i, double value) {
    if (job->verbs->compute_size == sizeof(double))
        ((double *)a)[i] = value;
    else
        ((float *)a)[i] = (float)value;
}
/* one value of A for each slice to one for each of its `fold` columns, in place */
static inline void fn_spread(const fn_job *job, void *a, ptrdiff_t slices, ptrdiff_t fold) {
    double *doubles = a;
    float *floats = a;
    for (ptrdiff_t s = slices - 1; s >= 0; s--) {
        if (job->verbs->compute_size == sizeof(double)) {
            const double value = doubles[s];
            for (ptrdiff_t i = 0; i < fold; i++) doubles[s * fold + i] = value;
        } else {
            const float value = floats[s];
            for (ptrdiff_t i = 0; i < fold; i++) floats[s * fold + i] = value;
        }
    }
}

/* ---- slices beyond the fast path -------------------------------------------------------------------------------- */

typedef struct {
    double mean, comp, var, rstd; /* var is -0.0 where one above 0 is too small for a double */
    double prescale;              /* a power of two; times it, or for rstd over it, where the plain ones lose digits: */
    double scaled_mean, scaled_comp, scaled_rstd;
} fn_slice;

/* The statistics of one slice by scaled scalar arithmetic: for squares beyond the floating range either way, and for
 * NaN and infinity. `offset` is the slice's first element. */
fn_slice fn_rescue(const fn_job *job, const ptrdiff_t offset[FN_NOPERANDS]);

/* The gradients of one slice of a job that began without statistics, whose rstd A cannot hold. */
void fn_rescue_gradients(const fn_job *job, const ptrdiff_t offset[FN_NOPERANDS]);

/* Sets prescale and what goes with it, for an rstd beyond `top`, A's largest number: the data come nearer by a power of
 * two, as far as the mean can follow. */
void fn_bring_nearer(fn_slice *s, double top);

#endif
