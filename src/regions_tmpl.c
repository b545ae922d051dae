/* The backward of columns, from their sums to their scalars; and all that is done to small regions of columns, while they are
 * in a near cache: group and instance norm of small images, channels last. Written once in T; norm.c includes this file
 * once per dtype. */

/* The sums of a slice's columns, each in four parts side by side: g and gx times w, if `weighs`, which is a constant wherever
 * this is inlined; and x. */
INLINE void FN(weigh_four)(ptrdiff_t n, fn_sums of, const A *w, int weighs, double *g, double *gx, double *x) {
    vf64x4 tg = {0}, tgx = {0}, tx = {0};
    ptrdiff_t j = 0;
    for (; j + 4 <= n; j += 4) {
        FOUR four;
        vf64x4 vg, vgx, vx;
        memcpy(&vg, of.g + j, sizeof vg);
        memcpy(&vgx, of.gx + j, sizeof vgx);
        memcpy(&vx, of.x + j, sizeof vx);
        if (weighs) memcpy(&four, w + j, sizeof four);
        tg += weighs ? IN_DOUBLE(four) * vg : vg;
        tgx += weighs ? IN_DOUBLE(four) * vgx : vgx;
        tx += vx;
    }
    for (int i = 0; j < n; j++, i++) {
        const double weight = weighs ? (double)w[j] : 1;
        tg[i] += weight * of.g[j];
        tgx[i] += weight * of.gx[j];
        tx[i] += of.x[j];
    }
    *g = (tg[0] + tg[2]) + (tg[1] + tg[3]);
    *gx = (tgx[0] + tgx[2]) + (tgx[1] + tgx[3]);
    *x = (tx[0] + tx[2]) + (tx[1] + tx[3]);
}

/* a slice to each column */
INLINE void FN(settle_each)(ptrdiff_t n, const fn_columns *p, fn_sums sums) {
    const double share = 1 / p->count;
    const int centre = p->centre, scale = p->scale;
    const A one = 1, *weight = p->weight.a ? p->weight.a : &one;
    const ptrdiff_t step = !p->weight.a ? 0 : p->weight.along ? 1 : p->weight.step;
    double *restrict g = sums.g, *restrict gx = sums.gx, *restrict x = sums.x;
    A *restrict shift = p->shift, *restrict c1 = p->c1, *restrict c2 = p->c2;
    for (ptrdiff_t j = 0; j < n; j++) {
        const double w = (double)weight[j * step], of_g = 0 + w * g[j], of_gx = 0 + w * gx[j];
        const double s = centre ? x[j] * share : 0, c = scale ? fn_moved(of_gx, s, of_g) * share : 0;
        gx[j] = fn_moved(gx[j], s, g[j]);
        if (shift) shift[j] = (A)s;
        c2[j] = (A)c;
        c1[j] = (A)((centre ? of_g * share : 0) - (scale ? s * c : 0)); /* s may be NaN */
    }
}

/* `fold` columns to each; `weighs`, whether they have a weight each, is a constant wherever this is inlined */
INLINE void FN(settle_folded)(ptrdiff_t n, const fn_columns *p, int weighs, fn_sums sums) {
    const ptrdiff_t fold = p->fold;
    const double share = 1 / p->count, weight = p->weight.a && !weighs ? (double)*(const A *)p->weight.a : 1;
    const A *w = p->weight.a;
    A *shift = p->shift, *c1 = p->c1, *c2 = p->c2;
    for (ptrdiff_t i = 0, j = 0; i < n / fold; i++, j += fold) {
        const fn_sums of = fn_sums_at(sums, j);
        double *restrict g = of.g, *restrict gx = of.gx, of_g, of_gx, of_x;
        FN(weigh_four)(fold, of, weighs ? w + j : NULL, weighs, &of_g, &of_gx, &of_x);
        of_g *= weight;
        of_gx *= weight;
        const double s = p->centre ? of_x * share : 0, c = p->scale ? fn_moved(of_gx, s, of_g) * share : 0;
        if (shift) FN(fill)(shift + j, fold, (A)s);
        FN(fill)(c2 + j, fold, (A)c);
        FN(fill)(c1 + j, fold, (A)((p->centre ? of_g * share : 0) - (p->scale ? s * c : 0)));
        if (p->by_slice) {
            FN(weigh_four)(fold, of, NULL, 0, &of_g, &of_gx, &of_x);
            sums.gx[i] = fn_moved(of_gx, s, of_g);
            sums.g[i] = of_g;
        } else {
            for (ptrdiff_t f = 0; s != 0 && f < fold; f++) gx[f] = fn_moved(gx[f], s, g[f]);
        }
    }
}

static void FN(settle_cols)(ptrdiff_t n, const fn_columns *p, fn_sums sums) {
    if (p->fold == 1)
        FN(settle_each)(n, p, sums);
    else if (p->weight.a && p->weight.along)
        FN(settle_folded)(n, p, 1, sums);
    else
        FN(settle_folded)(n, p, 0, sums);
}

/* a[i] of each slice to its `fold` columns; `to` may be a */
INLINE void FN(by_column)(ptrdiff_t n, ptrdiff_t fold, const A *a, A *to) {
    if (fold == 1 && to != a) memcpy(to, a, (size_t)n * sizeof(A));
    for (ptrdiff_t i = n / fold - 1; fold > 1 && i >= 0; i--) FN(fill)(to + i * fold, fold, a[i]);
}

/* a tile of the next region */
INLINE fn_tile FN(next_tile)(fn_tile t, ptrdiff_t bytes) { return (fn_tile){t.base + bytes, t.step}; }

static ptrdiff_t FN(normalize_cols)(fn_tile x, fn_tile y, ptrdiff_t rows, ptrdiff_t n, const fn_regions *p) {
    const fn_tile none = {0};
    const ptrdiff_t fold = p->fold, slices = n / fold;
    double *const d = p->work;
    const fn_moments all = {d, d + n, d + 2 * n, d + 3 * n, d + 4 * n};
    const fn_moments more = {d + 5 * n, d + 6 * n, d + 7 * n, d + 8 * n, d + 9 * n};
    A *const high = (A *)(d + 10 * n), *const low = high + n, *const rstd = low + n, *const work = rstd + n;
    const fn_affine affine = {.mean = {high, 0, 1},
                              .comp = {low, 0, 1},
                              .rstd = {rstd, 0, 1},
                              .weight = p->weight,
                              .bias = p->bias,
                              .past = p->past};
    for (ptrdiff_t i = 0; i < p->count; i++) {
        for (ptrdiff_t r = 0, k; r < rows; r += k) {
            const fn_moments out = r ? more : all;
            k = rows - r < p->block_rows ? rows - r : p->block_rows;
            memset(out.low, 0, (size_t)slices * sizeof(double));
            FN(moments_cols)(fn_tile_from(x, r), none, (fn_runs){.count = 1}, k, n, fold, p->centre, work, out);
            if (r) merge(slices, all, more);
        }
        if (FN(finalize)(slices, all, p->eps, p->least, p->scale, high, low, rstd)) return i;
        A *mean = p->mean, *to = p->rstd;
        for (ptrdiff_t s = 0; mean && s < slices; s++) mean[i * p->stats + s] = (A)(all.mean[s] + all.comp[s]);
        if (to) memcpy(to + i * p->stats, rstd, (size_t)slices * sizeof(A));
        FN(by_column)(n, fold, high, high);
        FN(by_column)(n, fold, low, low);
        FN(by_column)(n, fold, rstd, rstd);
        FN(apply)(x, y, rows, n, &affine);
        x = FN(next_tile)(x, p->x);
        y = FN(next_tile)(y, p->y);
    }
    return p->count;
}

static void FN(adjoint_cols)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t rows, ptrdiff_t n, const fn_regions *p) {
    const fn_tile none = {0};
    const ptrdiff_t fold = p->fold;
    const A *mean = p->mean, *rstd = p->rstd;
    double *const sums = p->work;
    const fn_sums of = {sums, sums + n, sums + 2 * n};
    A *const means = (A *)(sums + 3 * n), *const rstds = means + n, *const work = rstds + n;
    A *const c1 = work, *const c2 = work + n;
    const fn_dots dots = {.mean = {means, 0, 1}, .rstd = {rstds, 0, 1}};
    const fn_columns columns = {.fold = fold,
                                .count = (double)rows * (double)fold,
                                .centre = p->centre,
                                .scale = 1,
                                .weight = p->weight,
                                .c1 = c1,
                                .c2 = c2};
    const fn_adjoint adjoint = {
        .mean = dots.mean, .rstd = dots.rstd, .c1 = {c1, 0, 1}, .c2 = {c2, 0, 1}, .weight = p->weight, .past = p->past};
    if (!mean) memset(means, 0, (size_t)n * sizeof(A));
    for (ptrdiff_t i = 0; i < p->count; i++) {
        if (mean) FN(by_column)(n, fold, mean + i * p->stats, means);
        FN(by_column)(n, fold, rstd + i * p->stats, rstds);
        memset(sums, 0, 3 * (size_t)n * sizeof(double));
        for (ptrdiff_t r = 0, k; r < rows; r += k) {
            k = rows - r < p->block_rows ? rows - r : p->block_rows;
            FN(dots_cols)(fn_tile_from(dy, r), fn_tile_from(x, r), none, (fn_runs){.count = 1}, k, n, &dots, work, of);
        }
        FN(settle_cols)(n, &columns, of);
        for (ptrdiff_t j = 0; p->sums.g && j < n; j++) p->sums.g[j] += of.g[j];
        for (ptrdiff_t j = 0; p->sums.gx && j < n; j++) p->sums.gx[j] += of.gx[j];
        FN(combine)(dy, x, none, dx, rows, n, &adjoint);
        dy = FN(next_tile)(dy, p->dy);
        x = FN(next_tile)(x, p->x);
        dx = FN(next_tile)(dx, p->y);
    }
}
