/* The verbs that write a tile, apply and combine, and finalize, which makes their scalars. Written once in T. */

/* `rows` rows at once, so that what varies along the row is loaded once for all of them. `rows`, `along` (mean, comp,
 * rstd and prescale), `prescaled`, `weight_along` and `bias_along` are constants wherever this is inlined. */
INLINE void FN(apply_rows)(fn_tile x, fn_tile y, ptrdiff_t r0, int rows, ptrdiff_t n, const fn_affine *p, int along,
                           int prescaled, int weight_along, int bias_along) {
    VECTOR_LOOP(n, {
        vec mean = {0}, comp = {0}, rstd = {0}, prescale = {0};
        if (along) {
            mean = FN(fetch_a)(FN(param_row)(p->mean, r0), at, k);
            comp = FN(fetch_a)(FN(param_row)(p->comp, r0), at, k);
            rstd = FN(fetch_a)(FN(param_row)(p->rstd, r0), at, k);
            if (prescaled) prescale = FN(fetch_a)(FN(param_row)(p->prescale, r0), at, k);
        }
        UNROLL for (int i = 0; i < rows; i++) {
            const ptrdiff_t r = r0 + i;
            if (!along) {
                mean = FN(param_splat)(p->mean, r, 0);
                comp = FN(param_splat)(p->comp, r, 0);
                rstd = FN(param_splat)(p->rstd, r, 1);
                if (prescaled) prescale = FN(param_splat)(p->prescale, r, 1);
            }
            vec v = FN(fetch)(x.base + r * x.step, at, k, 0);
            if (prescaled) v *= prescale;
            v = ((v - mean) - comp) * rstd;
            v *= weight_along ? FN(fetch_a)(FN(param_row)(p->weight, r), at, k) : FN(param_splat)(p->weight, r, 1);
            v += bias_along /* -0 is what changes nothing, not even a sign */  ? FN(fetch_a)(FN(param_row)(p->bias, r), at, k) : FN(param_splat)(p->bias, r, (A)-0.0);
            FN(put)((char *)y.base + r * y.step, at, k, v);
        }
    });
}

static void FN(apply)(fn_tile x, fn_tile y, ptrdiff_t rows, ptrdiff_t n, const fn_affine *p) {
    const int along = p->rstd.along, prescaled = p->prescale.a != NULL;
    const int weight_along = p->weight.a && p->weight.along, bias_along = p->bias.a && p->bias.along;
    ptrdiff_t r = 0;
    if (along && !prescaled && !weight_along && !bias_along)
        for (; r + 4 <= rows; r += 4) FN(apply_rows)(x, y, r, 4, n, p, 1, 0, 0, 0);
    if (along && !prescaled && weight_along && bias_along && !p->weight.step && !p->bias.step)
        for (; r + 4 <= rows; r += 4) FN(apply_rows)(x, y, r, 4, n, p, 1, 0, 1, 1);
    for (; r < rows; r++) {
        if (prescaled)
            along ? FN(apply_rows)(x, y, r, 1, n, p, 1, 1, weight_along, bias_along)
                  : FN(apply_rows)(x, y, r, 1, n, p, 0, 1, weight_along, bias_along);
        else if (along)
            FN(apply_rows)(x, y, r, 1, n, p, 1, 0, weight_along, bias_along);
        else if (weight_along && bias_along)
            FN(apply_rows)(x, y, r, 1, n, p, 0, 0, 1, 1);
        else if (!weight_along && !bias_along)
            FN(apply_rows)(x, y, r, 1, n, p, 0, 0, 0, 0);
        else
            FN(apply_rows)(x, y, r, 1, n, p, 0, 0, weight_along, bias_along);
    }
}

/* `rows`, `has_x`, `along` (mean, rstd, c1, c2), `weight_along` and a NULL mask are constants wherever this is
 * inlined. */
INLINE void FN(combine_rows)(fn_tile dy, fn_tile x, fn_tile mask, fn_tile dx, ptrdiff_t r0, int rows, ptrdiff_t n,
                             const fn_adjoint *p, int has_x, int along, int weight_along) {
    VECTOR_LOOP(n, {
        vec mean = {0}, rstd = SPLAT(1), c1 = {0}, c2 = {0};
        if (along) {
            if (p->rstd.a) rstd = FN(fetch_a)(FN(param_row)(p->rstd, r0), at, k);
            if (p->c1.a) c1 = FN(fetch_a)(FN(param_row)(p->c1, r0), at, k);
            if (has_x) mean = FN(fetch_a)(FN(param_row)(p->mean, r0), at, k);
            if (has_x) c2 = FN(fetch_a)(FN(param_row)(p->c2, r0), at, k);
        }
        UNROLL for (int i = 0; i < rows; i++) {
            const ptrdiff_t r = r0 + i;
            const uint8_t *m = FN(mask_row)(mask, r);
            if (!along) {
                rstd = FN(param_splat)(p->rstd, r, 1);
                c1 = FN(param_splat)(p->c1, r, 0);
                mean = FN(param_splat)(p->mean, r, 0);
                c2 = FN(param_splat)(p->c2, r, 0);
            }
            vec g = FN(fetch)(dy.base + r * dy.step, at, k, 0);
            g = g * (weight_along ? FN(fetch_a)(FN(param_row)(p->weight, r), at, k)
                                  : FN(param_splat)(p->weight, r, 1));
            vec d = c1;
            if (has_x) d += ((FN(fetch)(x.base + r * x.step, at, k, 0) - mean) * rstd) * c2;
            FN(put)((char *)dx.base + r * dx.step, at, k, (g - FN(zero_outside)(m, at, k, d)) * rstd);
        }
    });
}

static void FN(combine)(fn_tile dy, fn_tile x, fn_tile mask, fn_tile dx, ptrdiff_t rows, ptrdiff_t n,
                        const fn_adjoint *p) {
    const fn_tile none = {0};
    const int weight_along = p->weight.a && p->weight.along, has_x = x.base != NULL;
    const int along = (p->rstd.a && p->rstd.along) || (p->c1.a && p->c1.along);
    ptrdiff_t r = 0;
    if (!mask.base && has_x && along && (!weight_along || !p->weight.step)) {
        if (weight_along)
            for (; r + 4 <= rows; r += 4) FN(combine_rows)(dy, x, none, dx, r, 4, n, p, 1, 1, 1);
        else
            for (; r + 4 <= rows; r += 4) FN(combine_rows)(dy, x, none, dx, r, 4, n, p, 1, 1, 0);
    }
    for (; r < rows; r++) {
        if (mask.base)
            FN(combine_rows)(dy, x, mask, dx, r, 1, n, p, has_x, along, weight_along);
        else if (has_x && !along && weight_along)
            FN(combine_rows)(dy, x, none, dx, r, 1, n, p, 1, 0, 1);
        else if (has_x && !along)
            FN(combine_rows)(dy, x, none, dx, r, 1, n, p, 1, 0, 0);
        else
            FN(combine_rows)(dy, x, none, dx, r, 1, n, p, has_x, along, weight_along);
    }
}

static int FN(finalize)(ptrdiff_t n, fn_moments in, double eps, double least, int scale, void *mean, void *comp,
                        void *rstd) {
    A *hi = mean, *lo = comp, *s = rstd;
    int beyond = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        double var = in.m2[i] / in.count[i], r = scale ? 1 / sqrt(var + eps) : 1;
        beyond |= !(var > least && var < DBL_MAX && r > 0x1p-100 && r < 0x1p100);
        hi[i] = (A)in.mean[i];
        lo[i] = (A)((in.mean[i] - (double)hi[i]) + in.comp[i]);
        s[i] = (A)r;
    }
    return beyond;
}
