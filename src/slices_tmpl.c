/* Rows that are slices of their own, as in layer norm: all that is done to a row, while it is in the first cache.
 * Written once in T; norm.c includes this file once per dtype. */

enum {
    FN(MOST_SLICES) = 64,      /* rows of a tile */
    FN(FORWARD_BYTES) = 32768, /* of a tile in all its arrays; it has at least one row */
    FN(BACKWARD_BYTES) = 16384,
};

INLINE ptrdiff_t FN(rows_together)(ptrdiff_t n, ptrdiff_t bytes) {
    const ptrdiff_t rows = bytes / (n * (ptrdiff_t)sizeof(T));
    return rows < 1 ? 1 : rows > FN(MOST_SLICES) ? FN(MOST_SLICES) : rows;
}
INLINE fn_tile FN(from_row)(fn_tile t, ptrdiff_t r) { return (fn_tile){t.base ? t.base + r * t.step : NULL, t.step}; }
INLINE fn_param FN(param_from)(fn_param p, ptrdiff_t r) {
    return (fn_param){p.a ? FN(param_row)(p, r) : NULL, p.step, p.along};
}

static ptrdiff_t FN(normalize_rows)(fn_tile x, fn_tile y, ptrdiff_t rows, ptrdiff_t n, const fn_norm *p) {
    enum { MOST = FN(MOST_SLICES) };
    double count[MOST], mean[MOST], comp[MOST], m2[MOST];
    A high[MOST], low[MOST], rstd[MOST];
    const fn_moments m = {count, mean, comp, m2};
    const fn_tile none = {0};
    const ptrdiff_t most = FN(rows_together)(n, FN(FORWARD_BYTES) / 2);
    for (ptrdiff_t r = 0, k; r < rows; r += k) {
        k = rows - r < most ? rows - r : most;
        const fn_tile from = FN(from_row)(x, r);
        FN(moments_rows)(from, none, k, x.step, 0, 1, n, p->centre, m);
        if (FN(finalize)(k, m, p->eps, p->least, p->scale, high, low, rstd)) return r;
        if (p->mean)
            for (ptrdiff_t i = 0; i < k; i++) ((A *)p->mean)[r + i] = (A)(mean[i] + comp[i]);
        if (p->rstd) memcpy((A *)p->rstd + r, rstd, (size_t)k * sizeof(A));
        const fn_affine q = {.mean = {high, 1, 0},
                             .comp = {low, 1, 0},
                             .rstd = {rstd, 1, 0},
                             .weight = FN(param_from)(p->weight, r),
                             .bias = FN(param_from)(p->bias, r)};
        FN(apply)(from, FN(from_row)(y, r), k, n, &q);
    }
    return rows;
}

static ptrdiff_t FN(adjoint_rows)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t rows, ptrdiff_t n, const fn_slices *p) {
    enum { MOST = FN(MOST_SLICES) };
    double g[MOST], gx[MOST], sx[MOST], count[MOST], zero[MOST], comp[MOST], squares[MOST];
    A shift[MOST], c1[MOST], c2[MOST], high[MOST], low[MOST], fresh[MOST];
    const fn_moments m = {count, zero, comp, squares};
    const fn_tile none = {0};
    const fn_param absent = {0}, weight = p->weight;
    const int by_row = weight.a && !weight.along;
    const double share = 1 / (double)n;
    const ptrdiff_t most = FN(rows_together)(n, FN(BACKWARD_BYTES) / 3);
    for (ptrdiff_t r = 0, k; r < rows; r += k) {
        k = rows - r < most ? rows - r : most;
        const fn_tile of_dy = FN(from_row)(dy, r), of_x = FN(from_row)(x, r), of_dx = FN(from_row)(dx, r);
        const fn_param mean = FN(param_from)(p->mean, r);
        const fn_param rstd = p->fresh ? (fn_param){fresh, 1, 0} : FN(param_from)(p->rstd, r);
        if (p->fresh) {
            FN(moments_rows)(of_x, none, k, x.step, 0, 1, n, 0, m);
            if (FN(finalize)(k, m, 0, p->least, 1, high, low, fresh)) return r;
        }
        const fn_dots d = {.mean = mean, .rstd = rstd, .weight = by_row ? absent : weight};
        FN(dots_rows)(of_dy, of_x, none, k, n, &d, (fn_sums){g, gx, sx});
        for (ptrdiff_t i = 0; i < k; i++) {
            const double w = by_row ? share * (double)*FN(param_row)(weight, r + i) : share;
            const double s = p->centre ? sx[i] * share : 0, moved = gx[i] - s * g[i], c = w * moved;
            shift[i] = (A)s;
            c2[i] = (A)c;
            c1[i] = p->centre ? (A)(w * g[i] - s * c) : 0; /* xhat - shift, folded: (g - c1) - xhat * c2 */
            if (p->sums.g) p->sums.g[r + i] = g[i];
            if (p->sums.g) p->sums.gx[r + i] = moved;
        }
        const fn_adjoint q = {.mean = mean,
                              .rstd = rstd,
                              .c1 = p->centre ? (fn_param){c1, 1, 0} : absent,
                              .c2 = {c2, 1, 0},
                              .shift = {shift, 1, 0},
                              .weight = FN(param_from)(weight, r)};
        if (p->work)
            FN(combine_cols)(of_dy, of_x, of_dx, k, n, &q, p->work);
        else
            FN(combine)(of_dy, of_x, none, of_dx, k, n, &q);
    }
    return rows;
}
