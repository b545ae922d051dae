/* The backward's sums whose fast path left the range of A, by a product or on the way to a sum that is within it: once
 * more, in a wider type, W. Written once in T; norm.c includes this file once per dtype. */

INLINE int FN(is_finite)(A v) { return v - v == 0; }
INLINE int FN(all_finite)(ptrdiff_t n, const A *a) {
    int all = 1;
    for (ptrdiff_t i = 0; i < n; i++) all &= FN(is_finite)(a[i]);
    return all;
}

INLINE A FN(param_value)(fn_param p, ptrdiff_t r, ptrdiff_t j, A neutral) {
    return p.a ? FN(param_row)(p, r)[p.along ? j : 0] : neutral;
}

/* the sum of g, or with x of g * (xhat - shift), over rows r to r_end and columns j to j_end, as in dots_rows; NaN as soon
 * as an element is */
static __attribute__((noinline, cold)) W FN(resum)(fn_tile dy, fn_tile x, fn_tile mask, ptrdiff_t r, ptrdiff_t r_end,
                                                   ptrdiff_t j, ptrdiff_t j_end, const fn_dots *p) {
    const ptrdiff_t first = j;
    W s = 0;
    for (; r < r_end; r++)
        for (j = first; j < j_end; j++) {
            const ptrdiff_t at = j * (ptrdiff_t)sizeof(T);
            if (mask.base && !FN(mask_row)(mask, r)[j]) continue;
            const A g = LOAD1(dy.base + r * dy.step + at), weight = FN(param_value)(p->weight, r, j, 1);
            W v = (W)g * weight;
            if (x.base) {
                const A e = LOAD1(x.base + r * x.step + at), mean = FN(param_value)(p->mean, r, j, 0);
                const A rstd = FN(param_value)(p->rstd, r, j, 1), shift = FN(param_value)(p->shift, r, j, 0);
                v *= ((W)e - mean) * rstd - shift;
            }
            s += v;
            if (s != s) break;
        }
    return s;
}

/* those sums of rows that are not finite: see dots_rows */
static __attribute__((noinline, cold)) void FN(resum_rows)(fn_tile dy, fn_tile x, fn_tile mask, ptrdiff_t rows,
                                                           ptrdiff_t n, const fn_dots *p, fn_sums out) {
    const fn_tile none = {0};
    for (ptrdiff_t r = 0; r < rows; r++) {
        if (out.g && out.g[r] - out.g[r] != 0) out.g[r] = (double)FN(resum)(dy, none, mask, r, r + 1, 0, n, p);
        if (x.base && out.gx[r] - out.gx[r] != 0) out.gx[r] = (double)FN(resum)(dy, x, mask, r, r + 1, 0, n, p);
    }
}

/* into[j] += sums[j], of the tiles' rows * n elements, or what `resum` makes of those that are not finite */
static void FN(add_cols)(fn_tile dy, fn_tile x, fn_tile mask, fn_runs runs, ptrdiff_t rows, ptrdiff_t n,
                         const fn_dots *p, const A *sums, double *into) {
    const int all = FN(all_finite)(n, sums);
    for (ptrdiff_t j = 0; all && j < n; j++) into[j] += (double)sums[j];
    for (ptrdiff_t j = 0; !all && j < n; j++) {
        W sum = sums[j];
        if (!FN(is_finite)(sums[j])) {
            sum = 0;
            for (ptrdiff_t i = 0; i < runs.count; i++)
                sum += FN(resum)(FN(run_of)(dy, i, runs.dy), FN(run_of)(x, i, runs.x), mask, 0, rows, j, j + 1, p);
        }
        into[j] += (double)sum;
    }
}
