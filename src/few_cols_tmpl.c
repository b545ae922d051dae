/* Tiles of few columns: what belongs to a column stays in registers down the rows, as to begin a row of few vectors is much of
 * it; or on the stack, of more than fit, which is still sooner. The same bits as by what takes all others: sweep_moments and
 * sweep_dots of cols_tmpl.c, apply_this_way and combine_this_way of tile_tmpl.c; who changes one changes both. `V`, the vectors
 * of a row, `some`, the rows of a sweep, and how parameters vary are constants wherever these are inlined. Written once in T;
 * norm.c includes this file once per dtype, before those that call it. */

enum {
    FN(SWEEP) = 8, /* rows taken per sweep of columns */
};

/* Asks for what the next sweep reads of a row: several short rows in turn are no pattern by which the processor fetches
 * ahead. Columns that stand in the last cache or in memory gain 10 to 40 %, those in L2 lose nothing. */
INLINE void FN(ask_next)(const char *row, ptrdiff_t at, int rows, ptrdiff_t step) {
    if (rows > 1)
        __builtin_prefetch((const void *)((uintptr_t)row + (uintptr_t)(at * (ptrdiff_t)sizeof(T) + rows * step)));
}

/* Shorter vectors have half the registers, and fewer rows than a sweep do not make up for the columns' loads. */
INLINE int FN(has_few_cols)(ptrdiff_t rows, ptrdiff_t n) { return VBYTES == 64 && rows >= FN(SWEEP) && FN(is_few)(n); }

/* sweep_moments of all rows */
INLINE void FN(moments_down)(fn_tile x, ptrdiff_t rows, ptrdiff_t n, int V, const A *c, A *s, A *q) {
    vec centre[FN(MOST_VECTORS)], sum[FN(MOST_VECTORS)], squares[FN(MOST_VECTORS)];
    FN(fetch_few)(c, n, V, centre);
    FN(fetch_few)(s, n, V, sum);
    FN(fetch_few)(q, n, V, squares);
    ptrdiff_t r = 0;
#define SWEEP_ROWS(some)                                                                                               \
    for (; r + (some) <= rows; r += (some)) {                                                                          \
        const char *row = x.base + r * x.step;                                                                         \
        FEW_LOOP(V, n, {                                                                                               \
            vec t = {0}, w = {0};                                                                                      \
            UNROLL for (int i = 0; i < (some); i++) FN(ask_next)(row + i * x.step, at, some, x.step);                  \
            UNROLL for (int i = 0; i < (some); i++) {                                                                  \
                const vec d = FN(fetch)(row + i * x.step, at, k, 0) - centre[u];                                       \
                t += d;                                                                                                \
                w += d * d;                                                                                            \
            }                                                                                                          \
            sum[u] += t;                                                                                               \
            squares[u] += w;                                                                                           \
        });                                                                                                            \
    }
    SWEEP_ROWS(FN(SWEEP))
    SWEEP_ROWS(FN(SWEEP) / 2)
    SWEEP_ROWS(FN(SWEEP) / 4)
    SWEEP_ROWS(1)
#undef SWEEP_ROWS
    FN(put_few)(s, n, V, sum);
    FN(put_few)(q, n, V, squares);
}

/* sweep_dots of all rows, where mean and rstd vary by column, and there is nothing else */
INLINE void FN(dots_down)(fn_tile dy, fn_tile x, ptrdiff_t rows, ptrdiff_t n, int V, const fn_dots *p, A *sg, A *sgx,
                          A *sx) {
    vec mean[FN(MOST_VECTORS)], rstd[FN(MOST_VECTORS)], g[FN(MOST_VECTORS)], gx[FN(MOST_VECTORS)], xs[FN(MOST_VECTORS)];
    FN(fetch_few)(p->mean.a, n, V, mean);
    FN(fetch_few)(p->rstd.a, n, V, rstd);
    FN(fetch_few)(sg, n, V, g);
    FN(fetch_few)(sgx, n, V, gx);
    FN(fetch_few)(sx, n, V, xs);
    ptrdiff_t r = 0;
#define SWEEP_ROWS(some)                                                                                               \
    for (; r + (some) <= rows; r += (some)) {                                                                          \
        const char *of_dy = dy.base + r * dy.step, *of_x = x.base + r * x.step;                                        \
        FEW_LOOP(V, n, {                                                                                               \
            vec tg = {0}, tgx = {0}, tx = {0};                                                                         \
            UNROLL for (int i = 0; i < (some); i++) {                                                                  \
                FN(ask_next)(of_dy + i * dy.step, at, some, dy.step);                                                  \
                FN(ask_next)(of_x + i * x.step, at, some, x.step);                                                     \
            }                                                                                                          \
            UNROLL for (int i = 0; i < (some); i++) {                                                                  \
                const vec d = FN(fetch)(of_dy + i * dy.step, at, k, 0);                                                \
                const vec xhat = (FN(fetch)(of_x + i * x.step, at, k, 0) - mean[u]) * rstd[u];                         \
                tg += d;                                                                                               \
                tgx += d * xhat;                                                                                       \
                tx += xhat;                                                                                            \
            }                                                                                                          \
            g[u] += tg;                                                                                                \
            gx[u] += tgx;                                                                                              \
            xs[u] += tx;                                                                                               \
        });                                                                                                            \
    }
    SWEEP_ROWS(FN(SWEEP) / 2)
    SWEEP_ROWS(FN(SWEEP) / 4)
    SWEEP_ROWS(1)
#undef SWEEP_ROWS
    FN(put_few)(sg, n, V, g);
    FN(put_few)(sgx, n, V, gx);
    FN(put_few)(sx, n, V, xs);
}

OUTLINE void FN(moments_few_cols)(fn_tile x, ptrdiff_t rows, ptrdiff_t n, const A *c, A *s, A *q) {
#define FEW_COLS(V) FN(moments_down)(x, rows, n, V, c, s, q)
    BY_FEW_VECTORS(n, FEW_COLS);
#undef FEW_COLS
}

OUTLINE void FN(dots_few_cols)(fn_tile dy, fn_tile x, ptrdiff_t rows, ptrdiff_t n, const fn_dots *p, A *sg, A *sgx,
                               A *sx) {
#define FEW_COLS(V) FN(dots_down)(dy, x, rows, n, V, p, sg, sgx, sx)
    BY_FEW_VECTORS(n, FEW_COLS);
#undef FEW_COLS
}

/* apply_this_way of all rows, with weight and bias along the row, or neither */
INLINE void FN(apply_down)(fn_tile x, fn_tile y, ptrdiff_t rows, ptrdiff_t n, int V, const fn_affine *p, int both) {
    const char *row = x.base;
    char *to = (char *)y.base;
    const ptrdiff_t x_step = x.step, y_step = y.step;
    vec mean[FN(MOST_VECTORS)], rstd[FN(MOST_VECTORS)], weight[FN(MOST_VECTORS)], bias[FN(MOST_VECTORS)];
    FN(fetch_few)(p->mean.a, n, V, mean);
    FN(fetch_few)(p->rstd.a, n, V, rstd);
    if (both) FN(fetch_few)(p->weight.a, n, V, weight);
    if (both) FN(fetch_few)(p->bias.a, n, V, bias);
    for (ptrdiff_t r = 0; r < rows; r++, row += x_step, to += y_step) {
        FEW_LOOP(V, n, {
            const vec xhat = (FN(fetch)(row, at, k, 0) - mean[u]) * rstd[u];
            FN(put)(to, at, k, both ? xhat * weight[u] + bias[u] : xhat);
        });
    }
}

OUTLINE void FN(apply_few_cols)(fn_tile x, fn_tile y, ptrdiff_t rows, ptrdiff_t n, const fn_affine *p, int both) {
#define FEW_COLS(V) both ? FN(apply_down)(x, y, rows, n, V, p, 1) : FN(apply_down)(x, y, rows, n, V, p, 0)
    BY_FEW_VECTORS(n, FEW_COLS);
#undef FEW_COLS
}

/* combine_this_way of all rows, with x, and a weight along the row or none */
INLINE void FN(combine_down)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t rows, ptrdiff_t n, int V, const fn_adjoint *p,
                             int weight_along) {
    const char *of_dy = dy.base, *of_x = x.base;
    char *to = (char *)dx.base;
    const ptrdiff_t dy_step = dy.step, x_step = x.step, dx_step = dx.step;
    vec mean[FN(MOST_VECTORS)], rstd[FN(MOST_VECTORS)], c1[FN(MOST_VECTORS)], c2[FN(MOST_VECTORS)],
        weight[FN(MOST_VECTORS)];
    FN(fetch_few)(p->mean.a, n, V, mean);
    FN(fetch_few)(p->rstd.a, n, V, rstd);
    FN(fetch_few)(p->c1.a, n, V, c1);
    FN(fetch_few)(p->c2.a, n, V, c2);
    if (weight_along) FN(fetch_few)(p->weight.a, n, V, weight);
    for (ptrdiff_t r = 0; r < rows; r++, of_dy += dy_step, of_x += x_step, to += dx_step) {
        FEW_LOOP(V, n, {
            const vec g = FN(fetch)(of_dy, at, k, 0), xhat = (FN(fetch)(of_x, at, k, 0) - mean[u]) * rstd[u];
            const vec of = (weight_along ? g * weight[u] : g) - (c1[u] + xhat * c2[u]);
            FN(put)(to, at, k, of * rstd[u]);
        });
    }
}

OUTLINE void FN(combine_few_cols)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t rows, ptrdiff_t n, const fn_adjoint *p,
                                  int weight_along) {
#define FEW_COLS(V)                                                                                                    \
    weight_along ? FN(combine_down)(dy, x, dx, rows, n, V, p, 1) : FN(combine_down)(dy, x, dx, rows, n, V, p, 0)
    BY_FEW_VECTORS(n, FEW_COLS);
#undef FEW_COLS
}
