/* Results of rows of few vectors: what varies along the row stays in registers, as to begin a row is much of it. They do
 * not go past the caches. The same bits as in tile_tmpl.c. Written once in T; norm.c includes this file once per dtype. */

/* apply of rows of V vectors. `V`, `centred` (there is a mean, a comp or a bias), `weight_along` and `bias_along` are
 * constants. */
INLINE void FN(apply_few)(fn_tile x, fn_tile y, ptrdiff_t rows, ptrdiff_t n, int V, const fn_affine *p, int centred,
                          int weight_along, int bias_along) {
    const char *row = x.base;
    char *to = (char *)y.base;
    vec w[FN(MOST_VECTORS)], b[FN(MOST_VECTORS)];
    const ptrdiff_t x_step = x.step, y_step = y.step;
    const A zero = 0, minus_zero = (A)-0.0, one = 1;
    const fn_param means = FN(param_or)(p->mean, &zero), comps = FN(param_or)(p->comp, &zero);
    const fn_param rstds = FN(param_or)(p->rstd, &one), weights = FN(param_or)(p->weight, &one);
    const fn_param biases = FN(param_or)(p->bias, &minus_zero);
    FEW_LOOP(V, n, {
        w[u] = weight_along ? FN(fetch_a)(p->weight.a, at, k) : (vec){0};
        b[u] = bias_along ? FN(fetch_a)(p->bias.a, at, k) : (vec){0};
    });
    for (ptrdiff_t r = 0; r < rows; r++, row += x_step, to += y_step) {
        const vec rstd = FN(param_load)(rstds, r), mean = centred ? FN(param_load)(means, r) : rstd;
        const vec comp = centred ? FN(param_load)(comps, r) : rstd;
        const vec weight = weight_along ? rstd : FN(param_load)(weights, r);
        const vec bias = bias_along || !centred ? rstd : FN(param_load)(biases, r);
        FEW_LOOP(V, n, {
            const vec v = FN(fetch)(row, at, k, 0), d = centred ? (v - mean) - comp : v;
            const vec xhat = d * rstd * (weight_along ? w[u] : weight);
            FN(put)(to, at, k, centred ? xhat + (bias_along ? b[u] : bias) : xhat);
        });
    }
}
/* the same of few vectors; returns how many rows are done: all, or none of parameters that it does not know */
OUTLINE ptrdiff_t FN(apply_short)(fn_tile x, fn_tile y, ptrdiff_t rows, ptrdiff_t n, const fn_affine *p,
                                  int weight_along, int bias_along) {
    const int centred = p->mean.a || p->comp.a || p->bias.a;
    if (bias_along > weight_along) return 0;
#define APPLY_FEW(V)                                                                                                   \
    (weight_along && bias_along) ? FN(apply_few)(x, y, rows, n, V, p, 1, 1, 1)                                         \
    : (centred && weight_along)  ? FN(apply_few)(x, y, rows, n, V, p, 1, 1, 0)                                         \
    : centred                    ? FN(apply_few)(x, y, rows, n, V, p, 1, 0, 0)                                         \
    : weight_along               ? FN(apply_few)(x, y, rows, n, V, p, 0, 1, 0)                                         \
                                 : FN(apply_few)(x, y, rows, n, V, p, 0, 0, 0)
    BY_FEW_VECTORS(n, APPLY_FEW);
#undef APPLY_FEW
    return rows;
}

/* combine of such rows, without a mask. `V`, `centred` and `weight_along` are constants. */
INLINE void FN(combine_few)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t rows, ptrdiff_t n, int V, const fn_adjoint *p,
                            int centred, int weight_along) {
    const char *gs = dy.base, *xs = x.base;
    char *ds = (char *)dx.base;
    const ptrdiff_t dy_step = dy.step, x_step = x.step, dx_step = dx.step;
    const A zero = 0, minus_zero = (A)-0.0, one = 1;
    const fn_param means = FN(param_or)(p->mean, &zero), rstds = FN(param_or)(p->rstd, &one);
    const fn_param c1s = FN(param_or)(p->c1, &minus_zero), c2s = FN(param_or)(p->c2, &zero);
    const fn_param weights = FN(param_or)(p->weight, &one);
    vec w[FN(MOST_VECTORS)];
    FEW_LOOP(V, n, { w[u] = weight_along ? FN(fetch_a)(p->weight.a, at, k) : (vec){0}; });
    for (ptrdiff_t r = 0; r < rows; r++, gs += dy_step, xs += x_step, ds += dx_step) {
        const vec rstd = FN(param_load)(rstds, r), mean = centred ? FN(param_load)(means, r) : rstd;
        const vec c2 = FN(param_load)(c2s, r), c1 = centred ? FN(param_load)(c1s, r) : rstd;
        const vec weight = weight_along ? rstd : FN(param_load)(weights, r);
        FEW_LOOP(V, n, {
            const vec g = FN(fetch)(gs, at, k, 0) * (weight_along ? w[u] : weight), v = FN(fetch)(xs, at, k, 0);
            const vec share = ((centred ? v - mean : v) * rstd) * c2;
            FN(put)(ds, at, k, (g - (centred ? c1 + share : share)) * rstd);
        });
    }
}
/* the same, of statistics by row and with x; returns how many are done */
OUTLINE ptrdiff_t FN(combine_short)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t rows, ptrdiff_t n,
                                    const fn_adjoint *p) {
    const int centred = p->mean.a || p->c1.a, weight_along = p->weight.a && p->weight.along;
    if (weight_along && p->weight.step) return 0;
#define COMBINE_FEW(V)                                                                                                 \
    (centred && weight_along) ? FN(combine_few)(dy, x, dx, rows, n, V, p, 1, 1)                                        \
    : centred                 ? FN(combine_few)(dy, x, dx, rows, n, V, p, 1, 0)                                        \
    : weight_along            ? FN(combine_few)(dy, x, dx, rows, n, V, p, 0, 1)                                        \
                              : FN(combine_few)(dy, x, dx, rows, n, V, p, 0, 0)
    BY_FEW_VECTORS(n, COMBINE_FEW);
#undef COMBINE_FEW
    return rows;
}

/* combine_cols of such rows; the sums stay in registers as well. `V` and `centred` are constants wherever this is inlined. */
INLINE void FN(combine_cols_few)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t rows, ptrdiff_t n, int V,
                                 const fn_adjoint *p, int centred, A *sg, A *sgx) {
    const A zero = 0, minus_zero = (A)-0.0, one = 1;
    const fn_param means = FN(param_or)(p->mean, &zero), rstds = FN(param_or)(p->rstd, &one);
    const fn_param c1s = FN(param_or)(p->c1, &minus_zero), c2s = FN(param_or)(p->c2, &zero);
    const fn_param shifts = FN(param_or)(p->shift, &zero);
    vec w[FN(MOST_VECTORS)], sum_g[FN(MOST_VECTORS)], sum_gx[FN(MOST_VECTORS)];
    FEW_LOOP(V, n, {
        w[u] = p->weight.a && p->weight.along ? FN(fetch_a)(p->weight.a, at, k) : FN(param_splat)(p->weight, 0, 1);
    });
    FN(fetch_few)(sg, n, V, sum_g);
    FN(fetch_few)(sgx, n, V, sum_gx);
    TWICE for (ptrdiff_t r = 0; r < rows; r++) {
        const char *gs = dy.base + r * dy.step, *xs = x.base + r * x.step;
        char *ds = (char *)dx.base + r * dx.step;
        const vec rstd = FN(param_load)(rstds, r), mean = centred ? FN(param_load)(means, r) : rstd;
        const vec c2 = FN(param_load)(c2s, r), c1 = centred ? FN(param_load)(c1s, r) : rstd;
        const vec shift = centred ? FN(param_load)(shifts, r) : rstd;
        FEW_LOOP(V, n, {
            const vec g = FN(fetch)(gs, at, k, 0), v = FN(fetch)(xs, at, k, 0);
            const vec xhat = (centred ? v - mean : v) * rstd, gx = g * (centred ? xhat - shift : xhat);
            sum_g[u] += g;
            sum_gx[u] += gx;
            const vec d = centred ? c1 + xhat * c2 : xhat * c2;
            FN(put)(ds, at, k, (g * w[u] - d) * rstd);
        });
    }
    FN(put_few)(sg, n, V, sum_g);
    FN(put_few)(sgx, n, V, sum_gx);
}
/* the same where the weight, if there is one, varies along the rows alone; returns how many are done */
OUTLINE ptrdiff_t FN(combine_cols_short)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t rows, ptrdiff_t n,
                                         const fn_adjoint *p, A *sg, A *sgx) {
    if (p->weight.a && p->weight.step) return 0;
#define COMBINE_FEW(V)                                                                                                 \
    p->mean.a || p->c1.a ? FN(combine_cols_few)(dy, x, dx, rows, n, V, p, 1, sg, sgx)                                  \
                         : FN(combine_cols_few)(dy, x, dx, rows, n, V, p, 0, sg, sgx)
    BY_FEW_VECTORS(n, COMBINE_FEW);
#undef COMBINE_FEW
    return rows;
}
