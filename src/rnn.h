/* The fused engine of recurrent layers: one layer in one direction over a whole sequence, and its backward.
 *
 * Letters: T steps, B batch rows, I inputs, H units, G gates. Inside, every gate is padded to P = H rounded up to FN_PAD
 * units, so that vector loops over gates have no tails; what stands in the padding is never summed.
 *
 * Rows are independent. A slice of rows belongs to one thread for the whole forward; the backward goes in chunks of
 * steps: threads own rows while they walk back through a chunk, then they share out its weight gradients. The chunks
 * follow from the shape alone, and every sum has an order of its own: the same bits for any number of threads. */
#ifndef FN_RNN_H
#define FN_RNN_H

#include <stddef.h>

#include "parallel.h"

#undef I /* complex.h */

enum fn_cell { FN_RNN, FN_GRU, FN_LSTM };
enum fn_rnn_norm { FN_NO_NORM, FN_LAYER, FN_RMS };

enum {
    FN_PAD = 16,      /* units to which a gate is padded; also the columns of a block of gate gradients */
    FN_ROW_GROUP = 4, /* rows that share an accumulator of gains and biases: they set the order of that sum */
    /* steps * rows in a chunk, a 16th of all within these bounds: its gate gradients stay in cache until they are used
     * and are no large part of the memory, yet the weight gradients are read and written rarely */
    FN_CHUNK_LEAST = 128,
    FN_CHUNK_MOST = 512,
    FN_STATS = 10, /* numbers kept for a row of a step: mean and rstd of x's gates (2 blocks), h's, and c */
};

/* Arrays of the compute type A unless said otherwise. P and G as above, chunk = steps of a chunk. */
typedef struct {
    int cell, norm;
    ptrdiff_t T, B, I, H, G, P, chunk;
    ptrdiff_t slices; /* of rows, one for each thread */
    double eps;

    const void *x, *h0, *c0;           /* (T, B, I), (B, H), (B, H) */
    const ptrdiff_t *lengths;          /* (B,) or NULL: all T */
    const void *weight_ih, *weight_hh; /* (G H, I), (G H, H) */
    void *y, *h_end, *c_end;           /* (T, B, H), (B, H) */

    /* packed by fn_rnn_pack: weights as panels, parameters padded */
    void *pack_ih, *pack_hh;                           /* to multiply by weight.T: K = I or H, N = G P */
    void *back_ih, *back_hh;                           /* to multiply by weight: K = G P, N = I or H */
    const void *bias_ih, *bias_hh, *gain_ih, *gain_hh; /* (G, P) */
    const void *gain_c, *bias_c;                       /* (P,) */

    /* the tape: px and ph hold `px_steps` and `ph_steps` steps, T for all, else step t is at t modulo that */
    void *px, *ph; /* (px_steps, B, G P): the projections of x and h; without a norm px ends as the gates */
    ptrdiff_t px_steps, ph_steps;
    void *h, *c; /* (T + 1, B, P): before each step; c of a GRU: what r is multiplied by, at t + 1 */
    void *stats; /* (T, B, FN_STATS) */

    /* the backward */
    int recompute;                    /* px and ph of a chunk are computed again */
    const void *dy, *dh_end, *dc_end; /* (T, B, H), (B, H) */
    void *dx, *dh0, *dc0;
    void *dweight_ih, *dweight_hh; /* added to */
    void *dh, *dc;                 /* (B, P): the gradients on their way back */
    void *dax, *dah;           /* (G P / FN_PAD, chunk * B + 1, FN_PAD): a chunk's gradients at px and ph; may be one */
    void *panels_x, *panels_h; /* a chunk's x and h, packed for the weight gradients */
    void *sums;                /* (groups, fn_rnn_sums): gradients of gains and biases by groups of rows */
    void *scratch;             /* (slices, fn_rnn_scratch) */
} fn_rnn;

/* The kernels of one tier and one dtype. Those with `task` are fn_task (parallel.h), their context is the fn_rnn. */
typedef struct {
    size_t size;     /* of an element */
    ptrdiff_t width; /* columns of a panel; the last panel is narrower, a multiple of `lanes` */
    ptrdiff_t lanes;
    void (*pack_weight_ih)(void *rnn, ptrdiff_t panel, int worker);
    void (*pack_weight_hh)(void *rnn, ptrdiff_t panel, int worker);
    void (*pack_back_ih)(void *rnn, ptrdiff_t panel, int worker);
    void (*pack_back_hh)(void *rnn, ptrdiff_t panel, int worker);
    void (*forward)(void *rnn, ptrdiff_t slice, int worker);
    /* of the chunk that starts at step `at` */
    void (*backward_rows)(const fn_rnn *rnn, ptrdiff_t at, ptrdiff_t slice);
    void (*backward_weights)(const fn_rnn *rnn, ptrdiff_t at, ptrdiff_t task); /* fn_rnn_weight_tasks */
    void (*backward_inputs)(const fn_rnn *rnn, ptrdiff_t at, ptrdiff_t task);  /* fn_rnn_input_tasks */
    /* for tests: element by element */
    void (*sigmoid)(const void *x, void *y, ptrdiff_t n);
    void (*tanh)(const void *x, void *y, ptrdiff_t n);
} fn_rnn_kernels;

typedef struct {
    const char *name;
    const fn_rnn_kernels *kernels[2]; /* float, double */
} fn_rnn_tier;

/* ---- sizes ------------------------------------------------------------------------------------------------------ */

enum { FN_WEIGHT_ROWS = 64, FN_INPUT_ROWS = 32 }; /* rows of the result in a task */

static inline ptrdiff_t fn_rnn_ceil(ptrdiff_t n, ptrdiff_t to) { return (n + to - 1) / to; }
/* elements of a packed matrix with K rows and N columns: whole vectors of columns */
static inline ptrdiff_t fn_rnn_packed(ptrdiff_t K, ptrdiff_t N) { return K * fn_rnn_ceil(N, FN_PAD) * FN_PAD; }
static inline ptrdiff_t fn_rnn_weight_tasks(const fn_rnn *r) { return r->G * fn_rnn_ceil(r->H, FN_WEIGHT_ROWS); }
static inline ptrdiff_t fn_rnn_input_tasks(const fn_rnn *r, ptrdiff_t steps) {
    return fn_rnn_ceil(steps * r->B, FN_INPUT_ROWS);
}
static inline ptrdiff_t fn_rnn_sums(const fn_rnn *r) { return (4 * r->G + 2) * r->P; }
static inline ptrdiff_t fn_rnn_row_scratch(const fn_rnn *r) { return (r->G + 4) * r->P; }
static inline ptrdiff_t fn_rnn_scratch(const fn_rnn *r) { return FN_ROW_GROUP * fn_rnn_row_scratch(r); }

/* ---- running it (rnn_run.c) ------------------------------------------------------------------------------------- */

void fn_rnn_use(const fn_threads *threads);            /* before anything below */
const fn_rnn_tier *fn_rnn_find_tier(const char *name); /* NULL: this processor cannot run it */
void fn_rnn_pack(const fn_rnn_kernels *k, fn_rnn *r, int back, int threads);
ptrdiff_t fn_rnn_slices(const fn_rnn *r, int threads); /* as many as there are threads worth waking */
void fn_rnn_forward(const fn_rnn_kernels *k, fn_rnn *r);
void fn_rnn_backward(const fn_rnn_kernels *k, fn_rnn *r, int threads);

#endif
