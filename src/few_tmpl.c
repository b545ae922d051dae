/* Results of rows of few vectors: what varies along the row stays in registers, as to begin a row is much of it. They do
 * not go past the caches. The same bits as in tile_tmpl.c. Written once in T; norm.c includes this file once per dtype. */

enum { FN(MOST_VECTORS) = 8 }; /* of a row beside which those of its parameters fit the registers */

INLINE int FN(is_few)(ptrdiff_t n) { return n <= FN(MOST_VECTORS) * VL; }

/* call(V), V a constant, for rows of n elements */
#define BY_FEW_VECTORS(n, call)                                                                                        \
    do {                                                                                                               \
        const ptrdiff_t V = ((n) + VL - 1) / VL;                                                                       \
        ONE_OF_FOUR(V, 1, call, ONE_OF_FOUR(V, 5, call, (void)0));                                                     \
    } while (0)

/* apply of rows of V vectors. `V`, `weight_along` and `bias_along` are constants. */
INLINE void FN(apply_few)(fn_tile x, fn_tile y, ptrdiff_t rows, ptrdiff_t n, int V, const fn_affine *p,
                          int weight_along, int bias_along) {
    const char *row = x.base;
    char *to = (char *)y.base;
    vec w[FN(MOST_VECTORS)], b[FN(MOST_VECTORS)];
    const ptrdiff_t x_step = x.step, y_step = y.step;
    const fn_affine of = *p; /* as the compiler must assume that y holds it */
    UNROLL for (int u = 0; u < V; u++) {
        const ptrdiff_t at = u * VL, k = u + 1 < V ? VL : n - at;
        w[u] = weight_along ? FN(fetch_a)(of.weight.a, at, k) : (vec){0};
        b[u] = bias_along ? FN(fetch_a)(of.bias.a, at, k) : (vec){0};
    }
    for (ptrdiff_t r = 0; r < rows; r++, row += x_step, to += y_step) {
        const vec mean = FN(param_splat)(of.mean, r, 0), comp = FN(param_splat)(of.comp, r, 0);
        const vec rstd = FN(param_splat)(of.rstd, r, 1);
        const vec weight = weight_along ? rstd : FN(param_splat)(of.weight, r, 1);
        const vec bias = bias_along ? rstd : FN(param_splat)(of.bias, r, (A)-0.0);
        UNROLL for (int u = 0; u < V; u++) {
            const ptrdiff_t at = u * VL, k = u + 1 < V ? VL : n - at;
            const vec v = ((FN(fetch)(row, at, k, 0) - mean) - comp) * rstd * (weight_along ? w[u] : weight);
            FN(put)(to, at, k, v + (bias_along ? b[u] : bias));
        }
    }
}
/* the same of few vectors; returns how many rows are done: all, or none of parameters that it does not know */
OUTLINE ptrdiff_t FN(apply_short)(fn_tile x, fn_tile y, ptrdiff_t rows, ptrdiff_t n, const fn_affine *p,
                                  int weight_along, int bias_along) {
    if (bias_along > weight_along) return 0;
#define APPLY_FEW(V)                                                                                                   \
    (weight_along && bias_along) ? FN(apply_few)(x, y, rows, n, V, p, 1, 1)                                            \
    : weight_along               ? FN(apply_few)(x, y, rows, n, V, p, 1, 0)                                            \
                                 : FN(apply_few)(x, y, rows, n, V, p, 0, 0)
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
    const fn_adjoint of = *p; /* as the compiler must assume that dx holds it */
    vec w[FN(MOST_VECTORS)];
    UNROLL for (int u = 0; u < V; u++) {
        const ptrdiff_t at = u * VL, k = u + 1 < V ? VL : n - at;
        w[u] = weight_along ? FN(fetch_a)(of.weight.a, at, k) : (vec){0};
    }
    for (ptrdiff_t r = 0; r < rows; r++, gs += dy_step, xs += x_step, ds += dx_step) {
        const vec mean = FN(param_splat)(of.mean, r, 0), rstd = FN(param_splat)(of.rstd, r, 1);
        const vec c1 = FN(param_splat)(of.c1, r, (A)-0.0), c2 = FN(param_splat)(of.c2, r, 0);
        const vec weight = weight_along ? rstd : FN(param_splat)(of.weight, r, 1);
        UNROLL for (int u = 0; u < V; u++) {
            const ptrdiff_t at = u * VL, k = u + 1 < V ? VL : n - at;
            const vec g = FN(fetch)(gs, at, k, 0) * (weight_along ? w[u] : weight), v = FN(fetch)(xs, at, k, 0);
            const vec share = ((centred ? v - mean : v) * rstd) * c2;
            FN(put)(ds, at, k, (g - (centred ? c1 + share : share)) * rstd);
        }
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
                              : FN(combine_few)(dy, x, dx, rows, n, V, p, 0, weight_along)
    BY_FEW_VECTORS(n, COMBINE_FEW);
#undef COMBINE_FEW
    return rows;
}

/* combine_cols of such rows, two at a time; the sums stay in registers as well. `V` and `centred` are constants. */
INLINE void FN(combine_cols_few)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t rows, ptrdiff_t n, int V,
                                 const fn_adjoint *p, int centred, A *sg, A *sgx) {
    const fn_adjoint of = *p; /* as the compiler must assume that dx holds it */
    vec w[FN(MOST_VECTORS)], all_g[FN(MOST_VECTORS)], all_gx[FN(MOST_VECTORS)];
    UNROLL for (int u = 0; u < V; u++) {
        const ptrdiff_t at = u * VL, k = u + 1 < V ? VL : n - at;
        w[u] = of.weight.a && of.weight.along ? FN(fetch_a)(of.weight.a, at, k) : FN(param_splat)(of.weight, 0, 1);
        all_g[u] = FN(fetch_a)(sg, at, k);
        all_gx[u] = FN(fetch_a)(sgx, at, k);
    }
    for (ptrdiff_t r = 0; r < rows; r += 2) {
        const int two = r + 1 < rows;
        vec tg[FN(MOST_VECTORS)], tgx[FN(MOST_VECTORS)];
        UNROLL for (int i = 0; i < 2; i++) {
            if (i && !two) break;
            const char *gs = dy.base + (r + i) * dy.step, *xs = x.base + (r + i) * x.step;
            char *ds = (char *)dx.base + (r + i) * dx.step;
            const vec mean = FN(param_splat)(of.mean, r + i, 0), rstd = FN(param_splat)(of.rstd, r + i, 1);
            const vec c1 = FN(param_splat)(of.c1, r + i, (A)-0.0), c2 = FN(param_splat)(of.c2, r + i, 0);
            const vec shift = FN(param_splat)(of.shift, r + i, 0);
            UNROLL for (int u = 0; u < V; u++) {
                const ptrdiff_t at = u * VL, k = u + 1 < V ? VL : n - at;
                const vec g = FN(fetch)(gs, at, k, 0), v = FN(fetch)(xs, at, k, 0);
                const vec xhat = (centred ? v - mean : v) * rstd, gx = g * (centred ? xhat - shift : xhat);
                tg[u] = i ? tg[u] + g : g;
                tgx[u] = i ? tgx[u] + gx : gx;
                const vec d = centred ? c1 + xhat * c2 : xhat * c2;
                FN(put)(ds, at, k, (g * w[u] - d) * rstd);
            }
        }
        UNROLL for (int u = 0; u < V; u++) {
            all_g[u] += tg[u];
            all_gx[u] += tgx[u];
        }
    }
    UNROLL for (int u = 0; u < V; u++) {
        const ptrdiff_t at = u * VL, k = u + 1 < V ? VL : n - at;
        FN(put_a)(sg, at, k, all_g[u]);
        FN(put_a)(sgx, at, k, all_gx[u]);
    }
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
#undef BY_FEW_VECTORS
