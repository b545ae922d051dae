/* The contract of the kernels: one struct of verbs per storage dtype, one table per instruction-set tier.
 *
 * T is the storage type (float, double, float16, bfloat16); A the compute type: double for double, else float.
 * A tile is `rows` rows of `n` adjacent elements of T, a byte step apart. A row reduces to one number (the ROWS verbs)
 * or every column does (the COLS verbs). Whatever varies along the tile comes as a `fn_param`. Sums leave as double.
 * Every verb gives the same bits on every tier: 32 virtual float (16 double) lanes in one fixed tree, no contraction. */
#ifndef FN_NORM_H
#define FN_NORM_H

#include <stddef.h>
#include <stdint.h>

enum fn_dtype { FN_F32, FN_F64, FN_F16, FN_BF16, FN_NDTYPES };

/* Bytes of rows and elements of one block: what one float accumulation may span before it is carried in double. */
enum { FN_BLOCK_BYTES = 16384, FN_BLOCK_ROWS = 128 };

enum { FN_TOGETHER = 2 }; /* rows that combine_cols takes at once, and so the least that is worth a call */

/* elements of a piece of a row that is longer than that, in whole virtual lanes; all as even as can be */
static inline ptrdiff_t fn_piece(ptrdiff_t n, ptrdiff_t compute_size) {
    const ptrdiff_t most = FN_BLOCK_BYTES / compute_size, lanes = 128 / compute_size, pieces = (n + most - 1) / most;
    return ((n + pieces - 1) / pieces + lanes - 1) / lanes * lanes;
}

/* Several adjoining rows of so few bytes of A, reduced down their columns, are taken as one wide row of FN_WIDE_BYTES at most;
 * a block then holds that many times FN_BLOCK_ROWS, and a sum in it spans as many rows as before. Those that do not fill the
 * widest vectors, of 64 bytes, gain longer. */
enum { FN_NARROW_BYTES = 128, FN_NARROW_RAGGED = 255, FN_WIDE_BYTES = 512 };
static inline ptrdiff_t fn_rows_in_one(ptrdiff_t row_bytes) {
    return row_bytes <= (row_bytes % 64 ? FN_NARROW_RAGGED : FN_NARROW_BYTES) ? FN_WIDE_BYTES / row_bytes : 1;
}
/* `some` of them or a few less, so that of so many rows fewer are left over than make wide ones */
static inline ptrdiff_t fn_rows_left_few(ptrdiff_t rows, ptrdiff_t some) {
    return rows % some <= rows / some ? some : rows / ((rows + some - 1) / some);
}

/* A tile in memory: element (r, j) stands at base + r * step + j * sizeof(T). base NULL: there is none. */
typedef struct {
    const char *base;
    ptrdiff_t step;
} fn_tile;

static inline fn_tile fn_tile_from(fn_tile t, ptrdiff_t row) {
    return (fn_tile){t.base ? t.base + row * t.step : NULL, t.step};
}
/* the last row first */
static inline fn_tile fn_tile_backwards(fn_tile t, ptrdiff_t rows) {
    return (fn_tile){t.base + (rows - 1) * t.step, -t.step};
}

/* Tiles alike that are taken together, those of x, dy and the result so many bytes apart: {1} is one. */
typedef struct {
    ptrdiff_t count, x, dy, y;
} fn_runs;

/* Values of A that go with a tile: (r, j) uses a[r * step + j] where `along`, else a[r * step].
 * `a` NULL stands for the operand's neutral value. */
typedef struct {
    const void *a;
    ptrdiff_t step; /* in elements of A */
    int along;
} fn_param;

/* Moments of many slices, each in four arrays: how many elements, mean = mean + comp (a double and its remainder),
 * and m2, the sum of squared deviations from it. `low` is what m2's merges rounded away: merge alone looks at it, and
 * for what a verb has taken it must be 0. */
typedef struct {
    double *count, *mean, *comp, *m2, *low;
} fn_moments;

static inline fn_moments fn_moments_at(fn_moments m, ptrdiff_t i) {
    return (fn_moments){m.count + i, m.mean + i, m.comp + i, m.m2 + i, m.low ? m.low + i : NULL};
}

enum { FN_MEAN = 2 };        /* see moments_rows */
enum { FN_FROM_MEMORY = 2 }; /* of `past`: what the result comes from is not in the last cache either */

/* The sums of the backward, g = dy * w and xhat = (x - mean) * rstd: sum g, sum g * xhat, sum xhat. */
typedef struct {
    double *g, *gx, *x;
} fn_sums;

static inline fn_sums fn_sums_at(fn_sums s, ptrdiff_t i) { return (fn_sums){s.g + i, s.gx + i, s.x + i}; }

/* sum g * (xhat - shift) from sum g * xhat; where one factor is 0, the other may be infinite or NaN */
static inline double fn_moved(double gx, double shift, double g) { return g == 0 || shift == 0 ? gx : gx - shift * g; }

typedef struct {
    fn_param mean, comp, rstd; /* the mean as mean + comp; all three along the row, or none; then NULL: 0, 0 and 1 */
    fn_param prescale;         /* a power of two that brings extreme slices into A's range; NULL: 1 */
    fn_param weight, bias;     /* NULL: 1 and 0 */
    int past;        /* y goes past the caches, if its rows begin and end at multiples of 16 bytes; `drain` follows */
    ptrdiff_t ahead; /* past: x is asked for so many bytes ahead of where it is read; 0: it is not */
} fn_affine;

enum { FN_MOST_PER = 64 }; /* the most rows of a slice where many slices go through one call */

typedef struct {
    ptrdiff_t per;         /* rows of a slice, at most FN_MOST_PER */
    int adjoin;            /* a slice's rows adjoin in x: to the moments they are one, with one tail */
    int centre, scale;     /* subtract the mean; divide by the deviation */
    double eps, least;     /* as finalize takes them */
    fn_param weight, bias; /* NULL: 1 and 0; along the row and the same for all rows, or by row */
    void *mean, *rstd;     /* results, in A, one for each slice; NULL: not wanted */
    int past;              /* as in fn_affine */
} fn_norm;

typedef struct {
    fn_param mean, rstd, shift; /* all along the row, or none; mean and rstd are there if x is */
    fn_param weight;            /* NULL: 1 */
} fn_dots;

typedef struct {
    fn_param mean, rstd, c1, c2; /* all along the row, or none; c1 NULL: nothing is added to the product with c2;
                                  * rstd NULL, not along the row and without x: 1 */
    fn_param shift;              /* combine_cols, by row, and combine_dots, along it: as in fn_dots */
    fn_param weight;             /* NULL: 1 */
    int without_g;               /* combine_cols: the sums of dy are not wanted, and may be anything */
    int past;                    /* dx, as in fn_affine */
    ptrdiff_t ahead, ahead_dy;   /* the same of x, and of dy */
} fn_adjoint;

typedef struct {
    ptrdiff_t per; /* rows of a slice, at most FN_MOST_PER */
    int centre;
    int fresh;     /* mean and rstd are not there yet: without a mean, rstd from the rows' squares, eps being 0 */
    int undivided; /* without a mean: products of slices of a row are added up before they are divided by the deviation,
                    * where that is safe; excludes sums */
    double least;  /* as finalize takes it */
    const void *mean, *rstd; /* in A, one for each slice; mean NULL: 0 */
    fn_param weight;         /* NULL: 1; along the row and the same for all rows, or by row */
    fn_sums sums;            /* of each row without its weight: gx = g * (xhat - shift) and g; NULL: not wanted */
    void *gains;             /* undivided, in place of sums: such gx over `root` in A, so many elements apart */
    ptrdiff_t gains_step;
    double root;
    void *work;     /* as in combine_cols; NULL: no column sums */
    int without_g;  /* as in fn_adjoint */
    ptrdiff_t fold; /* so many columns after another share a parameter, of which they are added up */
    int past;       /* as in fn_affine */
} fn_slices;

/* Columns of the backward, `fold` after another to a slice of `count` elements. */
typedef struct {
    ptrdiff_t fold;
    double count;
    int centre, scale;
    int by_slice;    /* the parameters' gradients are wanted by slice */
    fn_param weight; /* NULL: 1; along the row, or one by slice, in steps of 0 where fold > 1; not in the sums yet */
    void *shift, *c1, *c2; /* results, in A, by column; shift NULL: not wanted */
} fn_columns;

/* Regions of columns, alike and a step apart, all that is done to them; their statistics alone vary from one to the next. */
typedef struct {
    ptrdiff_t count, x, y, dy; /* regions, and bytes from one to the next; y: the result */
    ptrdiff_t block_rows;      /* so many rows go into one call of a verb that sums */
    ptrdiff_t fold;            /* columns of a slice, one after another */
    int centre, scale;         /* subtract the mean; divide by the deviation, as the backward always does */
    double eps, least;         /* forward: as finalize takes them */
    void *mean, *rstd;         /* in A, one for each slice of a region: results, NULL if not wanted; the backward reads
                                * them, mean NULL: 0 */
    ptrdiff_t stats;           /* so many values from a region's to the next one's */
    fn_param weight, bias; /* NULL: 1 and 0; along the row and the same for all rows, or one for all; forward: bias */
    fn_sums sums; /* backward: columns' sums dy and dy * (xhat - shift) are added to g and gx; NULL: not wanted */
    void *work;   /* 10 * n doubles, then 7 * n values of A; backward 3 * n and 5 * n */
    int past;     /* as in fn_affine */
} fn_regions;

typedef struct fn_verbs {
    const char *name;
    size_t size, compute_size;     /* sizeof(T), sizeof(A) */
    const struct fn_verbs *across; /* the same, faster where long rows stand across cache lines; NULL: there are none */

    double (*load1)(const void *p);
    void (*store1)(void *p, double value);

    /* `centre`: 0 takes squares around 0 and no mean, 1 both, FN_MEAN the mean alone (m2 may then be anything).
     * for each of `cells` cells, x[c] = x + c * cell_step, a tile of rows x n:
     *     m = a guess of the mean from a few elements                 (m = 0 unless `centre`)
     *     s = sum(x - m); q = sum((x - m)^2); again with m = m + s / count if the guess was far off
     *     mean + comp = m + s / count; m2 = q - s * s / count
     * A mask tile (bytes 0 and 1) leaves elements out; a cell without any has count 0. A cell of more than a block's bytes
     * is taken as several, merged, and so is a row. */
    void (*moments_rows)(fn_tile x, fn_tile mask, ptrdiff_t cells, ptrdiff_t cell_step, ptrdiff_t mask_cell_step,
                         ptrdiff_t rows, ptrdiff_t n, int centre, fn_moments out);

    /* the same down the n columns of several tiles, with a mask of one, `fold` after another being a cell; work: 4 * n values
     * of A. `out`: the first n / fold of n places. */
    void (*moments_cols)(fn_tile x, fn_tile mask, fn_runs runs, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t fold, int centre,
                         void *work, fn_moments out);

    /* y = (((x * prescale - mean) - comp) * rstd) * weight + bias; mean and comp come prescaled, y may be x */
    void (*apply)(fn_tile x, fn_tile y, ptrdiff_t rows, ptrdiff_t n, const fn_affine *p);

    /* the same of several tiles, if nothing varies by row */
    void (*apply_runs)(fn_tile x, fn_tile y, fn_runs runs, ptrdiff_t rows, ptrdiff_t n, const fn_affine *p);

    /* The same where x may be so far from the statistics that an xhat beyond A comes back into it by its weight or bias. */
    void (*apply_far)(fn_tile x, fn_tile y, ptrdiff_t rows, ptrdiff_t n, const fn_affine *p);

    /* y of slices of whole rows, one after the other: moments, finalize and apply of tile after tile. Returns how many are
     * done: fewer than `slices` where the next ones are beyond the fast path. */
    ptrdiff_t (*normalize_rows)(fn_tile x, fn_tile y, ptrdiff_t slices, ptrdiff_t n, const fn_norm *p);

    /* per row, with xhat = (x - mean) * rstd and g = dy * weight:
     *     out.g = sum g; out.gx = sum g * (xhat - shift); out.x = sum xhat
     * out.x is 0 where the mean is 0 (no rounding of it is to be corrected), and left alone where the mean varies along
     * the row. Without x only out.g is written. out.g may be NULL, not wanted, where there are x and
     * rstd by row, but no mean, shift or mask. */
    void (*dots_rows)(fn_tile dy, fn_tile x, fn_tile mask, ptrdiff_t rows, ptrdiff_t n, const fn_dots *p, fn_sums out);

    /* the same down each column, added to `out`; out.x only where the mean varies along the row, that is by column.
     * Of several tiles, without a mask, if nothing varies by row. work: 3 * n values of A */
    void (*dots_cols)(fn_tile dy, fn_tile x, fn_tile mask, fn_runs runs, ptrdiff_t rows, ptrdiff_t n, const fn_dots *p,
                      void *work, fn_sums out);

    /* dx = (dy * weight - (c1 + ((x - mean) * rstd) * c2)) * rstd, without x the product with c2 falls away;
     * where the mask is 0: dx = dy * weight * rstd. dx may be dy or x. */
    void (*combine)(fn_tile dy, fn_tile x, fn_tile mask, fn_tile dx, ptrdiff_t rows, ptrdiff_t n, const fn_adjoint *p);

    /* the same of several tiles, without a mask, if nothing varies by row */
    void (*combine_runs)(fn_tile dy, fn_tile x, fn_tile dx, fn_runs runs, ptrdiff_t rows, ptrdiff_t n,
                         const fn_adjoint *p);

    /* The same, and down each column, with xhat as above, added to work[0..n): dy, to work[n..2n): dy * (xhat - shift),
     * until carry_cols adds them to `out`, `fold` after another to one, and clears them. For rows that share parameters.
     * carry_cols returns 1 if some are not finite: those it leaves away, and clears nothing. Then resum_cols adds them,
     * from all the slices that they are of, in a wider type; work must be cleared after that. */
    void (*combine_cols)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t rows, ptrdiff_t n, const fn_adjoint *p,
                         void *work);
    int (*carry_cols)(ptrdiff_t n, ptrdiff_t fold, void *work, fn_sums out);
    void (*resum_cols)(fn_tile dy, fn_tile x, ptrdiff_t slices, ptrdiff_t n, const fn_slices *p, fn_sums out);

    /* combine where all but the weight varies by column, and the weight by row; and per row, as dots_rows, without the weight:
     *     out.g = sum dy; out.gx = sum dy * (xhat - shift)
     * All but the weight and the shift must be there. Rows of one block's bytes at most; dx may overlap neither dy nor x. */
    void (*combine_dots)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t rows, ptrdiff_t n, const fn_adjoint *p,
                         fn_sums out);

    /* Such sums as results in A, where there are no others to carry them to; NULL: not wanted. Returns 1, and does
     * nothing, if some are not finite. */
    int (*finish_cols)(ptrdiff_t n, const void *work, void *g, void *gx);

    /* dx of such slices: dots_rows, their scalars, and combine or combine_cols of tile after tile. Returns how many are
     * done: fewer where statistics that are taken here are beyond the fast path. */
    ptrdiff_t (*adjoint_rows)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t slices, ptrdiff_t n, const fn_slices *p);

    /* From the sums of n columns, as dots_cols leaves them, to the scalars of combine: of each slice, for all of its columns.
     * Then sums.gx[j] = sum dy * (xhat - shift); or `by_slice` that and sums.g of slices, in the first n / fold of n places. */
    void (*settle_cols)(ptrdiff_t n, const fn_columns *p, fn_sums sums);

    /* y of regions of columns, one after the other: moments_cols, finalize and apply. Returns how many are done: fewer where
     * the next one is beyond the fast path. */
    ptrdiff_t (*normalize_cols)(fn_tile x, fn_tile y, ptrdiff_t rows, ptrdiff_t n, const fn_regions *p);

    /* dx of such regions: dots_cols, settle_cols and combine */
    void (*adjoint_cols)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t rows, ptrdiff_t n, const fn_regions *p);

    /* From n moments: rstd = 1 / sqrt(m2 / count + eps) (1 unless `scale`), mean and comp split anew in A; a comp of
     * less than half an ulp of a quarter, in deviations, is left away.
     * Returns 1 if some slice is beyond the fast path: m2 / count not finite, or not above `least`, rstd outside
     * 2^-100..2^100, or mean and deviation near the denormals; such a slice's values are then not to be used. */
    int (*finalize)(ptrdiff_t n, fn_moments in, double eps, double least, int scale, void *mean, void *comp,
                    void *rstd);

    /* to[i] = from[i], of A */
    void (*expand)(ptrdiff_t n, const void *from, void *to);

    /* to[i] = a[i] / by, taken in double; a is float, or if `wide` double. `to`, of A, may be a. */
    void (*divide)(ptrdiff_t n, const void *a, int wide, double by, void *to);

    /* r = (1 - share) * r + share * batch[i], in double, for r of T at running + i * step, in bytes; with `count`, batch[i]
     * comes times count[i] / (count[i] - 1). */
    void (*blend)(ptrdiff_t n, double share, const double *batch, const double *count, void *running, ptrdiff_t step);

    /* rstd[i] = 1 / sqrt(var[i] + eps), in double, of A to A. Returns 1 if one is beyond float's range, A being float. */
    int (*invert)(ptrdiff_t n, const void *var, double eps, void *rstd);

    /* after the last result that went past the caches, before another thread may read it */
    void (*drain)(void);

    /* into[i] <- the moments of into[i] and from[i] together (Chan, Golub & LeVeque 1983, eq. 2.1) */
    void (*merge)(ptrdiff_t n, fn_moments into, fn_moments from);
} fn_verbs;

/* one table per tier, indexed by fn_dtype; cpu.c chooses among them */
typedef struct {
    const char *name;
    const fn_verbs *verbs[FN_NDTYPES];
} fn_tier;

#endif
