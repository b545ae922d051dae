/* What the files of the backward share: backward.c decides and runs, backward_unit.c takes a unit's sums, scalars and
 * result, backward_settle.c the scalars between them, backward_block.c one block's;
 * backward_pieces.c takes few long rows. */
#ifndef FN_BACKWARD_H
#define FN_BACKWARD_H

#include "job.h"

/* What a unit keeps; where its task is all of it, a worker has as many as it takes abreast. */
typedef struct {
    fn_unit unit;
    fn_sums chunk;                       /* chunks * slots */
    fn_sums plain;                       /* ROWS, from sums: the chunk's sums before the rows' weights; as many */
    fn_sums cells;                       /* ROWS, parameters that vary from row to row: every row's own sums */
    double *count;                       /* chunks * slots, with a mask */
    void *mean, *rstd, *shift, *c1, *c2; /* in A, one per slot */
} fn_unit_sums;

typedef struct {
    fn_sums rows, columns;
    void *work, *weight, *x_tile, *dy_tile, *dx_tile, *mask_tile;
} fn_worker_space;

typedef struct {
    fn_job *job;
    fn_cut cut;
    int local;
    ptrdiff_t abreast; /* local: units of a task */
    int whole_cols;    /* local: a verb does all that is done to a unit of columns, and to the next ones */
    int has_x;         /* the sums need x */
    int needs_sums;    /* for dx, or for parameters */
    int weighted;      /* the verbs weigh each element: the weight varies inside a cell */
    int from_sums, from_elements, row_cells;
    ptrdiff_t parts;         /* that accumulate parameter gradients; without them, one to an item */
    int sums_rows;           /* gradients from elements are sums of columns' rows, taken with dx */
    int direct;              /* every element has parameters of its own: their gradients are no sums */
    int by_pieces;           /* a task is one piece of all rows, with all of its columns' sums (backward_pieces.c) */
    int apart;               /* no two slices share a parameter, so no two parts do: one accumulator serves them all */
    int gains;               /* the verbs write every row's own dweight themselves, and there is no dbias */
    double *dweight, *dbias; /* fn_accumulators() times their size */
    int beyond;              /* statistics on the way came out beyond the fast path: all over again, with given ones */
    fn_unit_sums *units;
    fn_worker_space *workers;
} fn_backward_job;

enum { FN_MOST_SUMMED = 128 }; /* rows whose column sums are added up in A before they are carried */

/* whether all rows share the parameters along them, whose gradients (arrays of results) stand in steps of 1 */
int fn_shares_gradients(const fn_job *job);

static inline ptrdiff_t fn_accumulators(const fn_backward_job *b) { return b->apart ? 1 : b->parts; }

/* ---- one block (backward_block.c) -------------------------------------------------------------------------------- */

typedef struct {
    fn_tile dy, x, mask; /* of the first of the block's runs */
    fn_runs runs;
} fn_inputs;

fn_inputs fn_inputs_of(const fn_backward_job *b, const fn_block *k, const fn_worker_space *w);

/* whether an operand varies along the row */
int fn_along_row(const fn_job *job, int operand);

/* how the block's statistics vary: by row (many rows), by column, or not at all */
fn_param fn_by_slot(const fn_backward_job *b, const void *a);
/* whether combine is to take the rstd: where all are 1 it needs none, unless they go along the row */
static inline int fn_takes_rstd(const fn_backward_job *b) { return b->job->rstd || b->job->plan.cols; }

/* dx of the block */
void fn_combine_block(const fn_backward_job *b, const fn_block *k, const fn_inputs *in, const fn_unit_sums *u,
                      const fn_worker_space *w);

/* the part's accumulators of what the block's rows add up column by column */
fn_sums fn_column_sums(const fn_backward_job *b, const fn_block *k, const fn_worker_space *w, ptrdiff_t part);

/* parameter gradients "from elements": adds the block's share to the part's accumulators */
void fn_elements_block(const fn_backward_job *b, const fn_block *k, const fn_inputs *in, const fn_unit_sums *u,
                       const fn_worker_space *w, ptrdiff_t part);

/* The same where parameters vary from row to row of columns, with dx of the block; and whether that is so. */
int fn_sums_rows(const fn_backward_job *b);
void fn_combine_and_sum(const fn_backward_job *b, const fn_block *k, const fn_inputs *in, const fn_unit_sums *u,
                        const fn_worker_space *w, ptrdiff_t part);

/* the weight of row r where the verbs did not weigh its elements; how many of row r's elements the mask lets in */
double fn_row_weight(const fn_backward_job *b, const fn_block *k, ptrdiff_t r);
double fn_count_row(fn_tile mask, ptrdiff_t r, ptrdiff_t n);

/* ---- one slice (backward_block.c) -------------------------------------------------------------------------------- */

typedef struct {
    double shift, c1, c2;
} fn_scalars;

fn_scalars fn_scalars_of(const fn_backward_job *b, double g, double gx, double x, double count);
void fn_put_scalars(const fn_job *job, fn_unit_sums *u, ptrdiff_t i, fn_scalars s);

/* n slices' saved statistics, from `at` on along the axis */
void fn_load_stats(const fn_job *job, const fn_axis *axis, ptrdiff_t at, ptrdiff_t n, fn_unit_sums *u);

/* parameter gradients "from sums": adds one cell's to the part's accumulators */
void fn_add_params(const fn_backward_job *b, ptrdiff_t part, ptrdiff_t weight_at, ptrdiff_t bias_at, double g,
                   double gx);
/* the same of n rows along the axis, whose sums stand one after the other */
void fn_add_rows(const fn_backward_job *b, ptrdiff_t part, const ptrdiff_t offset[FN_NOPERANDS], const fn_axis *axis,
                 ptrdiff_t n, fn_sums sums);

/* ---- small slices between each other (backward_interleaved.c) ------------------------------------------------------ */

void fn_interleaved_unit(const fn_backward_job *b, ptrdiff_t unit, ptrdiff_t part, fn_unit_sums *u,
                         const fn_worker_space *w);

/* ---- long rows that share parameters (backward_pieces.c) ------------------------------------------------------------ */

/* whether gradients from elements are taken so, if the units are not local */
int fn_goes_by_pieces(const fn_backward_job *b);
/* with the sums settled: dx and the parameters' gradients of one piece of every row */
void fn_piece_of_rows(const fn_backward_job *b, ptrdiff_t piece, const fn_worker_space *w);

/* ---- units (backward_unit.c) ------------------------------------------------------------------------------------- */

/* many rows: all of it, for the blocks of one chunk */
void fn_many_rows_chunk(fn_backward_job *b, ptrdiff_t chunk, ptrdiff_t part, fn_unit_sums *u, const fn_worker_space *w);

/* columns: all of it, for these units; and whether the verbs can do so, if they are local */
void fn_whole_units(const fn_backward_job *b, ptrdiff_t first, ptrdiff_t last, ptrdiff_t part,
                    const fn_worker_space *w);
int fn_units_can_be_whole(const fn_backward_job *b);

/* else, in this order: statistics, sums of every block, scalars (and parameter gradients from sums), dx of every block
 * (and parameter gradients from elements) */
void fn_load_unit(const fn_backward_job *b, const fn_unit *unit, fn_unit_sums *u);
void fn_clear_sums(fn_sums s, ptrdiff_t n);
void fn_sums_of_block(const fn_backward_job *b, const fn_unit *unit, ptrdiff_t chunk, ptrdiff_t i, fn_unit_sums *u,
                      const fn_worker_space *w);
/* backward_settle.c */
void fn_settle_unit(const fn_backward_job *b, const fn_unit *unit, ptrdiff_t part, fn_unit_sums *u,
                    const fn_worker_space *w);
/* n slices along the axis, a slot each, all of whose elements count, from sums without their weights */
void fn_settle_slices(const fn_backward_job *b, const fn_axis *axis, const ptrdiff_t offset[FN_NOPERANDS], ptrdiff_t n,
                      ptrdiff_t part, fn_unit_sums *u);
void fn_combine_blocks(const fn_backward_job *b, const fn_unit *unit, ptrdiff_t first, ptrdiff_t last, ptrdiff_t part,
                       const fn_unit_sums *u, const fn_worker_space *w);

#endif
