/* From any axes of any array to the two kernel shapes.
 *
 * Every axis is reduced (R) or kept (K). A plan drops axes of length 1, walks all of them forwards, orders them as x
 * lies in memory and merges neighbours; the innermost run becomes the columns of a tile:
 *
 *     innermost reduced: ROWS    layer norm K R, batch norm NCHW R K R, instance norm NCHW K R
 *     innermost kept:    COLS    batch norm (N, C) and NHWC R K, instance norm NHWC K R K
 *
 * A short innermost reduced run next to a kept one, inside more reduced rows, counts as columns as well, `fold.len`
 * adjacent ones to a slice: group norm NHWC K R K' R', batch norm NCHW over few pixels. And two innermost reduced runs can
 * count as one row: group norm NCHW K R R' over few pixels.
 *
 * A plan is pure: it looks at lengths and strides, never at data. */
#ifndef FN_PLAN_H
#define FN_PLAN_H

#include <stddef.h>

enum { FN_MAXDIM = 65 }; /* NumPy's 64, and one more where channels split into groups */

/* What may go with x, each with its own stride along every axis (0: does not vary). The last three index arrays of
 * results and are counted in elements; the others in bytes. */
enum fn_operand { FN_X, FN_Y, FN_DY, FN_MASK, FN_WEIGHT, FN_BIAS, FN_STAT, FN_DWEIGHT, FN_DBIAS, FN_NOPERANDS };

typedef struct {
    ptrdiff_t len;
    int reduced;
    ptrdiff_t stride[FN_NOPERANDS];
} fn_axis;

typedef struct {
    ptrdiff_t offset[FN_NOPERANDS]; /* of the first element in walking order, for axes that x holds backwards */
    int cols;                       /* the inner axis is kept */
    fn_axis inner, fold;            /* fold: len 1 but for adjacent columns of a slice, and for rows that were merged */
    ptrdiff_t n;                    /* elements of a tile's row: inner.len * fold.len */
    int nkept, nreduced;
    fn_axis *kept, *reduced; /* the other axes, outermost first */
    ptrdiff_t regions;       /* product of kept: regions that share no slice */
    ptrdiff_t rows;          /* product of reduced: rows of one region */
    ptrdiff_t count;         /* elements of one slice */
} fn_plan;

/* axes: `ndim` of them in the array's own order; what is left of them, rearranged, the plan goes on using (a stack may
 * be small). `size`: bytes of an element of x. */
void fn_plan_make(fn_plan *plan, int ndim, fn_axis *axes, ptrdiff_t size);

/* add to `offset` what `index`, counted over these axes with the last one fastest, means for every operand */
void fn_plan_seek(const fn_axis *axes, int naxes, ptrdiff_t index, ptrdiff_t offset[FN_NOPERANDS]);

/* Takes the rows of each region, which adjoin, as one. Parameters vary from row to row, and so along the new one, each for
 * `fold.len` elements. Kept axes along which they do not vary come last: regions that share them follow one another. */
void fn_plan_merge_rows(fn_plan *plan);
/* whether any parameter varies along the axis */
int fn_plan_params_vary(const fn_axis *axis);

/* stride between neighbouring columns of a tile */
static inline ptrdiff_t fn_plan_step(const fn_plan *plan, int operand) {
    return plan->fold.len > 1 ? plan->fold.stride[operand] : plan->inner.stride[operand];
}

#endif
