/* The verbs that write dx and take the sums of parameters' gradients on the way, and those that carry such sums. Written once in
 * T; norm.c includes this file once per dtype. */

enum { FN(DOTS_TOGETHER) = VBYTES == 64 ? 2 : 1 }; /* rows of combine_dots whose sums fit the registers */

/* The sums of columns add up row by row, so that how many rows are taken at once, here and by a caller, is free. `rows`,
 * `with_g`, `centred`, `shifted` and `weight_along` are constants wherever this is inlined. */
INLINE void FN(combine_cols_rows)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t r0, int rows, ptrdiff_t n,
                                  const fn_adjoint *p, int past, int with_g, int centred, int shifted, int weight_along,
                                  A *sg, A *sgx) {
    const char *gs[FN(TOGETHER)], *xs[FN(TOGETHER)];
    char *ds[FN(TOGETHER)];
    WALK walks_g[FN(TOGETHER)], walks_x[FN(TOGETHER)];
    vec mean[FN(TOGETHER)], rstd[FN(TOGETHER)], c1[FN(TOGETHER)], c2[FN(TOGETHER)], shift[FN(TOGETHER)];
    const vec weight = FN(param_splat)(p->weight, r0, 1);
    const int asks = past && FN(ASKS_FOR_BOTH);
    const ptrdiff_t ahead_x = p->ahead, ahead_g = p->ahead_dy;
    UNROLL for (int i = 0; i < rows; i++) {
        gs[i] = dy.base + (r0 + i) * dy.step;
        xs[i] = x.base + (r0 + i) * x.step;
        walks_g[i] = WALK_FROM(gs[i]);
        walks_x[i] = WALK_FROM(xs[i]);
        ds[i] = (char *)dx.base + (r0 + i) * dx.step;
        mean[i] = FN(param_splat)(p->mean, r0 + i, 0);
        rstd[i] = FN(param_splat)(p->rstd, r0 + i, 1);
        c1[i] = FN(param_splat)(p->c1, r0 + i, (A)-0.0);
        c2[i] = FN(param_splat)(p->c2, r0 + i, 0);
        shift[i] = FN(param_splat)(p->shift, r0 + i, 0);
    }
    const A *weights = FN(param_row)(p->weight, r0);
    VECTOR_LOOP(n, {
        const vec w = weight_along ? FN(fetch_a)(weights, at, k) : weight;
        vec sum_g = with_g ? FN(fetch_a)(sg, at, k) : (vec){0}, sum_gx = FN(fetch_a)(sgx, at, k);
        UNROLL for (int i = 0; i < rows; i++) {
            if (asks) FN(ask_ahead)(gs[i], at, ahead_g);
            if (asks) FN(ask_ahead)(xs[i], at, ahead_x);
            const vec g = FN(take)(&walks_g[i], gs[i], at, k, 0), v = FN(take)(&walks_x[i], xs[i], at, k, 0);
            const vec xhat = (centred ? v - mean[i] : v) * rstd[i], gx = g * (shifted ? xhat - shift[i] : xhat);
            if (with_g) sum_g += g;
            sum_gx += gx;
            const vec d = centred ? c1[i] + xhat * c2[i] : xhat * c2[i];
            FN(put_result)(ds[i], at, k, (g * w - d) * rstd[i], past);
        }
        if (with_g) FN(put_a)(sg, at, k, sum_g);
        FN(put_a)(sgx, at, k, sum_gx);
    });
}

static void FN(combine_cols)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t rows, ptrdiff_t n, const fn_adjoint *p,
                             void *work) {
    enum { R = FN(TOGETHER) };
    const int weight_along = p->weight.a && p->weight.along;
    const int past = FN(way_past)(p->past, dx, rows, n);
    A *sg = work, *sgx = sg + n;
    ptrdiff_t r = FN(is_few)(n) && !past ? FN(combine_cols_short)(dy, x, dx, rows, n, p, sg, sgx) : 0;
    const int centred = p->mean.a || p->c1.a;
#define COMBINE_COLS(rows, ...) FN(combine_cols_rows)(dy, x, dx, r, rows, n, p, past, __VA_ARGS__, sg, sgx)
    for (; r + R <= rows; r += R) {
        const A *shift = FN(param_row)(p->shift, r);
        int shifted = 0;
        for (int i = 0; shift && i < R; i++) shifted |= shift[i * p->shift.step] != 0;
        if (shifted)
            COMBINE_COLS(R, 1, 1, 1, weight_along);
        else if (centred)
            weight_along ? COMBINE_COLS(R, 1, 1, 0, 1) : COMBINE_COLS(R, 1, 1, 0, 0);
        else if (p->without_g && weight_along)
            COMBINE_COLS(R, 0, 0, 0, 1);
        else
            weight_along ? COMBINE_COLS(R, 1, 0, 0, 1) : COMBINE_COLS(R, 1, 0, 0, 0);
    }
    for (; r < rows; r++) COMBINE_COLS(1, 1, 1, 1, weight_along);
#undef COMBINE_COLS
}

/* dots_row on the way: the same lanes, carried alike. `rows` and `shifted` are constants wherever this is inlined. */
INLINE void FN(combine_dots_rows)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t r0, int rows, ptrdiff_t n,
                                  const fn_adjoint *p, int past, int shifted, fn_sums out) {
    enum { MOST = FN(DOTS_TOGETHER) };
    char *ds[MOST];
    WALK walks_g[MOST], walks_x[MOST];
    const char *gs[MOST], *xs[MOST];
    vec weight[MOST], sg[MOST][U], sgx[MOST][U], tg[MOST][U], tgx[MOST][U];
    UNROLL for (int i = 0; i < rows; i++) {
        gs[i] = dy.base + (r0 + i) * dy.step;
        xs[i] = x.base + (r0 + i) * x.step;
        ds[i] = (char *)dx.base + (r0 + i) * dx.step;
        walks_g[i] = WALK_FROM(gs[i]);
        walks_x[i] = WALK_FROM(xs[i]);
        weight[i] = FN(param_splat)(p->weight, r0 + i, 1);
        UNROLL for (int u = 0; u < U; u++) sg[i][u] = sgx[i][u] = tg[i][u] = tgx[i][u] = (vec){0};
    }
    const A *means = p->mean.a, *rstds = p->rstd.a, *c1s = p->c1.a, *c2s = p->c2.a, *shifts = p->shift.a;
    LANE_LOOP(
        n,
        UNROLL for (int i = 0; i < rows; i++) {
            UNROLL for (int u = 0; u < U; u++) {
                sg[i][u] += tg[i][u];
                sgx[i][u] += tgx[i][u];
                tg[i][u] = tgx[i][u] = (vec){0};
            }
        },
        {
            const vec m = FN(fetch_a)(means, at, k), s = FN(fetch_a)(rstds, at, k);
            const vec a = FN(fetch_a)(c1s, at, k), b = FN(fetch_a)(c2s, at, k);
            const vec h = shifted ? FN(fetch_a)(shifts, at, k) : s;
            UNROLL for (int i = 0; i < rows; i++) {
                const vec g = FN(take)(&walks_g[i], gs[i], at, k, 0);
                const vec xhat = (FN(take)(&walks_x[i], xs[i], at, k, 0) - m) * s;
                tg[i][u] += g;
                tgx[i][u] += FN(inside_row)(k, g * (shifted ? xhat - h : xhat));
                FN(put_result)(ds[i], at, k, (g * weight[i] - (a + xhat * b)) * s, past);
            }
        });
    vec of[4] = {{0}};
    UNROLL for (int i = 0; i < rows; i++) {
        of[i] = FN(folded)(sg[i]);
        of[2 + i] = FN(folded)(sgx[i]);
    }
    const FOUR sums = SUMFOUR(of);
    for (int i = 0; i < rows; i++) {
        out.g[r0 + i] = (double)sums[i];
        out.gx[r0 + i] = (double)sums[2 + i];
    }
}

static void FN(combine_dots)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t rows, ptrdiff_t n, const fn_adjoint *p,
                             fn_sums out) {
    enum { R = FN(DOTS_TOGETHER) };
    const fn_tile none = {0};
    const fn_dots dots = {.mean = p->mean, .rstd = p->rstd, .shift = p->shift};
    const int shifted = p->shift.a != NULL, past = FN(way_past)(p->past, dx, rows, n);
    ptrdiff_t r = 0;
#define COMBINE_DOTS(rows, shifted) FN(combine_dots_rows)(dy, x, dx, r, rows, n, p, past, shifted, out)
    for (; r + R <= rows; r += R) shifted ? COMBINE_DOTS(R, 1) : COMBINE_DOTS(R, 0);
    for (; r < rows; r++) shifted ? COMBINE_DOTS(1, 1) : COMBINE_DOTS(1, 0);
#undef COMBINE_DOTS
    int all = 1;
    for (r = 0; r < rows; r++) all &= (out.g[r] - out.g[r] == 0) & (out.gx[r] - out.gx[r] == 0);
    if (!all) FN(resum_rows)(dy, x, none, rows, n, &dots, out);
}

/* into[i] += those of `fold` sums after another that are finite; `all` are. The same bits whatever others are. */
INLINE void FN(carry)(ptrdiff_t n, ptrdiff_t fold, int all, const A *sums, double *into) {
    for (ptrdiff_t i = 0; i < n / fold; i++) {
        double sum = FN(sum_of)(sums + i * fold, fold);
        if (!all && sum - sum != 0) {
            sum = 0;
            for (ptrdiff_t j = i * fold; j < (i + 1) * fold; j++) sum += FN(is_finite)(sums[j]) ? (double)sums[j] : 0;
        }
        into[i] += sum;
    }
}

static int FN(carry_cols)(ptrdiff_t n, ptrdiff_t fold, void *work, fn_sums out) {
    A *sg = work, *sgx = sg + n;
    const int all = FN(all_finite)(2 * n, sg);
    if (fold == 1) {
        FN(carry)(n, 1, all, sg, out.g);
        FN(carry)(n, 1, all, sgx, out.gx);
    } else {
        FN(carry)(n, fold, all, sg, out.g);
        FN(carry)(n, fold, all, sgx, out.gx);
    }
    if (all) memset(work, 0, 2 * (size_t)n * sizeof(A));
    return !all;
}

static int FN(finish_cols)(ptrdiff_t n, const void *work, void *g, void *gx) {
    const A *sums = work;
    if (!FN(all_finite)(2 * n, sums)) return 1;
    if (g) memcpy(g, sums, (size_t)n * sizeof(A));
    if (gx) memcpy(gx, sums + n, (size_t)n * sizeof(A));
    return 0;
}

/* whether some sum that is not finite may still change `into`, which is not NaN there */
static int FN(any_left)(ptrdiff_t n, ptrdiff_t fold, const A *sums, const double *into) {
    int any = 0;
    for (ptrdiff_t j = 0; j < n; j++) any |= !FN(is_finite)(sums[j]) & (into[j / fold] == into[j / fold]);
    return any;
}

/* the sums of columns in p->work that are not finite, from these slices */
static void FN(resum_cols)(fn_tile dy, fn_tile x, ptrdiff_t slices, ptrdiff_t n, const fn_slices *p, fn_sums out) {
    const ptrdiff_t per = p->per, fold = p->fold;
    const fn_tile none = {0};
    const A *sg = p->work, *sgx = sg + n, *mean = p->mean, *rstd = p->rstd;
    for (ptrdiff_t s = 0; s < slices; s++) {
        if (!FN(any_left)(n, fold, sg, out.g) && !FN(any_left)(n, fold, sgx, out.gx)) return;
        const fn_tile of_dy = fn_tile_from(dy, s * per), of_x = fn_tile_from(x, s * per);
        double sum = 0;
        for (ptrdiff_t r = 0; p->centre && r < per; r++)
            for (ptrdiff_t j = 0; j < n; j++)
                sum += (double)LOAD1(of_x.base + r * x.step + j * (ptrdiff_t)sizeof(T)) - (double)mean[s];
        const A shift = (A)(sum * (double)rstd[s] / ((double)per * (double)n));
        const fn_dots q = {.mean = {mean ? mean + s : NULL, 0, 0}, .rstd = {rstd + s, 0, 0}, .shift = {&shift, 0, 0}};
        for (ptrdiff_t j = 0; j < n; j++) {
            double g = (double)sg[j], gx = (double)sgx[j];
            if (!FN(is_finite)(sg[j])) {
                g = (double)FN(resum)(of_dy, none, none, 0, per, j, j + 1, &q);
                out.g[j / fold] += g;
            }
            if (!FN(is_finite)(sgx[j])) {
                gx = (double)FN(resum)(of_dy, of_x, none, 0, per, j, j + 1, &q);
                out.gx[j / fold] += gx;
            }
        }
    }
}
