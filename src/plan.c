#include "plan.h"

#include <stdlib.h>
#include <string.h>

/* Rows this short waste most of a vector and of the sum tree; as columns they fill both. Those of two cache lines and more
 * waste less than sums of columns cost, while there are so few of a slice that slices can be taken side by side: how few was
 * measured. Where they cannot, because more than one axis is kept, the walk from slice to slice costs more than a few tiny
 * rows do. */
enum {
    FOLD_BYTES = 512,
    FOLD_ROWS = 8,
    LONGER_BYTES = 128,
    FOLD_LONGER_ROWS = 16,
    LONG_BYTES = 256,
    FOLD_LONG_ROWS = 65,
    FOLD_BACKWARD_ROWS = 32,
    TINY_BYTES = 32,
    FOLD_TINY_ROWS = 2,
};

static int merges(const fn_axis *outer, const fn_axis *inner, int first, int last) {
    for (int o = first; o <= last; o++)
        if (outer->stride[o] != inner->stride[o] * inner->len) return 0;
    return 1;
}

/* the axis's place in memory: by x, by y where x is broadcast */
static ptrdiff_t key(const fn_axis *a) { return llabs(a->stride[FN_X] ? a->stride[FN_X] : a->stride[FN_Y]); }

/* drop, turn forwards, order, merge, all in place; returns how many are left */
static int simplify(fn_plan *plan, int ndim, fn_axis *axes) {
    int count = 0;
    for (int d = 0; d < ndim; d++) {
        if (axes[d].len == 1) continue;
        fn_axis a = axes[d];
        if (a.stride[FN_X] < 0)
            for (int o = 0; o < FN_NOPERANDS; o++) {
                plan->offset[o] += (a.len - 1) * a.stride[o];
                a.stride[o] = -a.stride[o];
            }
        int at = count++;
        for (; at > 0 && key(&axes[at - 1]) < key(&a); at--) axes[at] = axes[at - 1];
        axes[at] = a;
    }
    int left = 0;
    for (int i = 0; i < count; i++) {
        fn_axis *last = left ? &axes[left - 1] : NULL;
        if (last && last->reduced == axes[i].reduced && merges(last, &axes[i], 0, FN_NOPERANDS - 1)) {
            ptrdiff_t len = last->len * axes[i].len;
            *last = axes[i];
            last->len = len;
        } else {
            axes[left++] = axes[i];
        }
    }
    return left;
}

/* Whether the two innermost axes, kept then reduced, are better read as columns: the rows are short and lie next to
 * each other in every array, there are rows enough to go down, and the parameters do not vary down them. */
static int foldable(const fn_axis *axes, int naxes, ptrdiff_t size) {
    if (naxes < 2) return 0;
    const fn_axis *kept = &axes[naxes - 2], *inner = &axes[naxes - 1];
    if (!inner->reduced || kept->reduced || inner->len * size >= FOLD_BYTES) return 0;
    if (!merges(kept, inner, FN_X, FN_MASK)) return 0;
    ptrdiff_t rows = 1;
    int apart = 0;
    for (int i = 0; i < naxes - 2; i++)
        if (!axes[i].reduced) {
            apart = 1;
        } else {
            rows *= axes[i].len;
            for (int o = FN_WEIGHT; o < FN_NOPERANDS; o++)
                if (axes[i].stride[o]) return 0;
        }
    const ptrdiff_t compute = size < (ptrdiff_t)sizeof(float) ? (ptrdiff_t)sizeof(float) : size;
    const int backward = inner->stride[FN_X] && inner->stride[FN_DY];
    const ptrdiff_t bytes = inner->len * compute;
    if (apart) return rows >= (bytes <= TINY_BYTES ? FOLD_TINY_ROWS : FOLD_ROWS);
    if (bytes < LONGER_BYTES) return rows >= FOLD_ROWS;
    return rows >= (backward ? FOLD_BACKWARD_ROWS : bytes < LONG_BYTES ? FOLD_LONGER_ROWS : FOLD_LONG_ROWS);
}

/* the kept ones first, each kind in its order; returns how many those are */
static int kept_first(int naxes, fn_axis *axes) {
    int kept = 0;
    for (int i = 0; i < naxes; i++) {
        if (axes[i].reduced) continue;
        const fn_axis a = axes[i];
        for (int at = i; at > kept; at--) axes[at] = axes[at - 1];
        axes[kept++] = a;
    }
    return kept;
}

void fn_plan_make(fn_plan *plan, int ndim, fn_axis *axes, ptrdiff_t size) {
    memset(plan->offset, 0, sizeof plan->offset);
    int left = simplify(plan, ndim, axes);
    plan->inner = plan->fold = (fn_axis){.len = 1, .reduced = 1};
    if (foldable(axes, left, size)) plan->fold = axes[--left];
    if (left) plan->inner = axes[--left];
    plan->cols = !plan->inner.reduced;
    plan->n = plan->inner.len * plan->fold.len;
    plan->nkept = kept_first(left, axes);
    plan->nreduced = left - plan->nkept;
    plan->kept = axes;
    plan->reduced = axes + plan->nkept;
    plan->regions = plan->rows = 1;
    for (int i = 0; i < plan->nkept; i++) plan->regions *= plan->kept[i].len;
    for (int i = 0; i < plan->nreduced; i++) plan->rows *= plan->reduced[i].len;
    plan->count = plan->rows * (plan->cols ? plan->fold.len : plan->n);
}

int fn_plan_params_vary(const fn_axis *axis) {
    return axis->stride[FN_WEIGHT] || axis->stride[FN_BIAS] || axis->stride[FN_DWEIGHT] || axis->stride[FN_DBIAS];
}

void fn_plan_merge_rows(fn_plan *plan) {
    plan->fold = plan->inner;
    plan->inner = plan->reduced[0];
    plan->n = plan->count;
    plan->nreduced = 0;
    plan->rows = 1;
    int varied = 0;
    for (int i = 0; i < plan->nkept; i++) {
        if (!fn_plan_params_vary(&plan->kept[i])) continue;
        const fn_axis a = plan->kept[i];
        for (int at = i; at > varied; at--) plan->kept[at] = plan->kept[at - 1];
        plan->kept[varied++] = a;
    }
}

void fn_plan_seek(const fn_axis *axes, int naxes, ptrdiff_t index, ptrdiff_t offset[FN_NOPERANDS]) {
    for (int i = naxes - 1; i >= 0 && index; i--) {
        ptrdiff_t at = index % axes[i].len;
        index /= axes[i].len;
        for (int o = 0; o < FN_NOPERANDS; o++) offset[o] += at * axes[i].stride[o];
    }
}
