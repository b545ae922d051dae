/* The COLS verbs: every column of a tile reduces to one number. Written once in T; norm.c includes this file once per
 * dtype. A column adds its rows in order, so neither lanes nor tiers can change a bit; several rows are added up per
 * sweep, and added to the accumulators as one: fewer loads and stores, and short sums, which round less. */

/* Columns of one sweep. `rows` (SWEEP or 1) and a NULL mask are constants wherever this is inlined.
 *     for r, j: d = x[r][j] - c[j]; s[j] += d; q[j] += d * d */
INLINE void FN(sweep_moments)(fn_tile x, fn_tile mask, ptrdiff_t r0, int rows, ptrdiff_t n, const A *c, A *s, A *q) {
    const char *xs[FN(SWEEP)];
    UNROLL for (int i = 0; i < rows; i++) xs[i] = x.base + (r0 + i) * x.step;
    VECTOR_LOOP(n, {
        vec centre = FN(fetch_a)(c, at, k), t = {0}, w = {0};
        UNROLL for (int i = 0; i < rows; i++) FN(ask_next)(xs[i], at, rows, x.step);
        UNROLL for (int i = 0; i < rows; i++) {
            vec d = FN(fetch)(xs[i], at, k, 0) - centre;
            d = FN(zero_outside)(FN(mask_row)(mask, r0 + i), at, k, d);
            t += d;
            w += d * d;
        }
        FN(put_a)(s, at, k, FN(fetch_a)(s, at, k) + t);
        FN(put_a)(q, at, k, FN(fetch_a)(q, at, k) + w);
    });
}

static void FN(sweep_all_moments)(fn_tile x, fn_tile mask, ptrdiff_t rows, ptrdiff_t n, const A *c, A *s, A *q) {
    const fn_tile none = {0};
    if (!mask.base && FN(has_few_cols)(rows, n)) {
        FN(moments_few_cols)(x, rows, n, c, s, q);
        return;
    }
    ptrdiff_t r = 0;
#define SWEEP_ROWS(some)                                                                                               \
    for (; r + (some) <= rows; r += (some)) FN(sweep_moments)(x, none, r, some, n, c, s, q)
    if (!mask.base) {
        SWEEP_ROWS(FN(SWEEP));
        SWEEP_ROWS(FN(SWEEP) / 2);
        SWEEP_ROWS(FN(SWEEP) / 4);
    }
#undef SWEEP_ROWS
    for (; r < rows; r++) {
        if (mask.base)
            FN(sweep_moments)(x, mask, r, 1, n, c, s, q);
        else
            FN(sweep_moments)(x, none, r, 1, n, c, s, q);
    }
}

/* the same over several tiles */
static void FN(sweep_tiles_moments)(fn_tile x, fn_tile mask, fn_runs runs, ptrdiff_t rows, ptrdiff_t n, const A *c,
                                    A *s, A *q) {
    fn_tile none = {0};
    rows = FN(turn_runs)(&runs, rows, &x, &none, &none);
    for (ptrdiff_t i = 0; i < runs.count; i++) FN(sweep_all_moments)(FN(run_of)(x, i, runs.x), mask, rows, n, c, s, q);
}

/* the same, narrow rows several as one */
static void FN(sweep_runs_moments)(fn_tile x, fn_tile mask, fn_runs runs, ptrdiff_t rows, ptrdiff_t n, const A *c, A *s,
                                   A *q) {
    const ptrdiff_t many = !mask.base && FN(adjoins)(x, n, sizeof(T)) ? FN(rows_in_one)(runs, rows, n) : 0;
    const ptrdiff_t single = many ? rows % many : rows; /* these first, while the sums are small */
    if (single) FN(sweep_tiles_moments)(x, mask, runs, single, n, c, s, q);
    if (many) FN(moments_narrow)(fn_tile_from(x, single), runs, rows - single, n, many, c, s, q);
}

/* count and first element of each column, through the mask */
static void FN(first_inside)(fn_tile x, fn_tile mask, ptrdiff_t rows, ptrdiff_t n, A *c, double *count) {
    for (ptrdiff_t j = 0; j < n; j++) {
        count[j] = 0;
        c[j] = 0;
    }
    for (ptrdiff_t r = rows - 1; r >= 0; r--) {
        const uint8_t *m = FN(mask_row)(mask, r);
        for (ptrdiff_t j = 0; j < n; j++)
            if (m[j]) {
                count[j] += 1;
                c[j] = LOAD1(x.base + r * x.step + j * (ptrdiff_t)sizeof(T));
            }
    }
}

/* for j: c[j] = the mean of sixteen of column j's rows, a quarter from either end; of few rows, of all of them around
 * the first: exact where all elements are equal */
static void FN(guess_cols)(fn_tile x, ptrdiff_t rows, ptrdiff_t n, A *c) {
    const int few = rows < 4 * FN(SWEEP);
    const ptrdiff_t low = rows / 4, high = rows - low - FN(SWEEP);
    VECTOR_LOOP(n, {
        const char *p = x.base + at * (ptrdiff_t)sizeof(T);
        vec first = FN(fetch)(p, 0, k, 0), t = {0};
        if (few) {
            for (ptrdiff_t r = 1; r < rows; r++) t += FN(fetch)(p + r * x.step, 0, k, 0) - first;
            t = first + t / SPLAT((A)rows);
        } else {
            vec v[FN(SWEEP)]; /* added as a tree: sums of equal numbers by doubling are exact */
            UNROLL for (int i = 0; i < FN(SWEEP); i++) {
                v[i] = FN(fetch)(p + (low + i) * x.step, 0, k, 0) + FN(fetch)(p + (high + i) * x.step, 0, k, 0);
            }
            t = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
            t *= SPLAT((A)1 / (2 * FN(SWEEP)));
        }
        FN(put_a)(c, at, k, t);
    });
}

/* to[i] = the sum of `fold` values after another */
INLINE void FN(fold_sums)(ptrdiff_t n, ptrdiff_t fold, const A *a, double *to) {
    for (ptrdiff_t j = 0; fold == 1 && j < n; j++) to[j] = (double)a[j];
    for (ptrdiff_t i = 0; fold > 1 && i < n / fold; i++) to[i] = FN(sum_of)(a + i * fold, fold);
}

/* all columns of a cell around one guess: the mean of theirs, exact where they are equal */
static void FN(share_guesses)(ptrdiff_t n, ptrdiff_t fold, A *c) {
    for (ptrdiff_t i = 0; i < n / fold; i++, c += fold) {
        const double first = (double)c[0];
        double t[4] = {0};
        ptrdiff_t f = 0;
        for (; f + 4 <= fold; f += 4) {
            UNROLL for (int k = 0; k < 4; k++) t[k] += (double)c[f + k] - first;
        }
        for (; f < fold; f++) t[f % 4] += (double)c[f] - first;
        FN(fill)(c, fold, (A)(first + ((t[0] + t[2]) + (t[1] + t[3])) / (double)fold));
    }
}
/* the same through a mask: the first of those whose columns have an element; and the cells' counts of them */
static void FN(share_inside)(ptrdiff_t n, ptrdiff_t fold, A *c, double *count) {
    for (ptrdiff_t i = 0; i < n / fold; i++, c += fold) {
        const double *of = count + i * fold;
        double all = 0;
        A guess = 0;
        for (ptrdiff_t f = fold - 1; f >= 0; f--) {
            all += of[f];
            if (of[f] > 0) guess = c[f];
        }
        FN(fill)(c, fold, guess);
        count[i] = all;
    }
}

/* Columns' sums around c[j] to their cells' moments; returns how many c[j] were too far from the mean (see close_moments). */
static ptrdiff_t FN(close_columns)(ptrdiff_t n, ptrdiff_t fold, int centre, const A *c, const A *s, const A *q,
                                   fn_moments out) {
    ptrdiff_t far = 0;
    FN(fold_sums)(n, fold, s, out.mean);
    FN(fold_sums)(n, fold, q, out.m2);
    for (ptrdiff_t i = 0; i < n / fold; i++) {
        const double count = out.count[i] > 0 ? out.count[i] : 1, sum = centre ? out.mean[i] : 0, rest = sum / count;
        const double guess = (double)c[i * fold], mean = guess + rest, taken = sum * rest, squares = out.m2[i] - taken;
        far += taken > FAR_COLS * out.m2[i];
        out.mean[i] = mean;
        out.comp[i] = rest - (mean - guess);
        out.m2[i] = squares < 0 ? 0 : squares;
    }
    return far;
}

static void FN(moments_cols)(fn_tile x, fn_tile mask, fn_runs runs, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t fold,
                             int centre, void *work, fn_moments out) {
    A *c = work, *s = c + n, *q = s + n, *m = q + n;
    memset(c, 0, 3 * (size_t)n * sizeof(A));
    if (mask.base) {
        FN(first_inside)(x, mask, rows, n, c, out.count);
        if (fold > 1) FN(share_inside)(n, fold, c, out.count);
        if (!centre) memset(c, 0, (size_t)n * sizeof(A));
    } else {
        for (ptrdiff_t i = 0; i < n / fold; i++) out.count[i] = (double)(runs.count * rows * fold);
        if (centre) FN(guess_cols)(FN(run_of)(x, runs.count / 2, runs.x), rows, n, c);
        if (centre && fold > 1) FN(share_guesses)(n, fold, c);
    }
    FN(sweep_runs_moments)(x, mask, runs, rows, n, c, s, q);
    if (!FN(close_columns)(n, fold, centre, c, s, q, out)) return;

    /* once more around the means; where the guess was good, around the same guess, so that cells stay independent */
    for (ptrdiff_t i = 0; i < n / fold; i++) {
        const double sum = FN(sum_of)(s + i * fold, fold), squares = FN(sum_of)(q + i * fold, fold);
        const A next = sum * (sum / out.count[i]) > FAR_COLS * squares ? (A)out.mean[i] : c[i * fold];
        FN(fill)(m + i * fold, fold, next);
    }
    memset(s, 0, 2 * (size_t)n * sizeof(A));
    FN(sweep_runs_moments)(x, mask, runs, rows, n, m, s, q);
    FN(close_columns)(n, fold, centre, m, s, q, out);
}

/* One sweep of the backward's sums. `rows`, `has_x`, `along`, `weight_along` (with one row only), `shifted`
 * and a NULL mask are constants wherever this is inlined. */
INLINE void FN(sweep_dots)(fn_tile dy, fn_tile x, fn_tile mask, ptrdiff_t r0, int rows, ptrdiff_t n, const fn_dots *p,
                           int has_x, int along, int weight_along, int shifted, A *sg, A *sgx, A *sx) {
    const char *gs[FN(SWEEP)], *xs[FN(SWEEP)];
    WALK walks_g[FN(SWEEP)], walks_x[FN(SWEEP)];
    vec mean[FN(SWEEP)], rstd[FN(SWEEP)], shift[FN(SWEEP)], weight[FN(SWEEP)];
    UNROLL for (int i = 0; i < rows; i++) {
        gs[i] = dy.base + (r0 + i) * dy.step;
        xs[i] = has_x ? x.base + (r0 + i) * x.step : NULL;
        walks_g[i] = WALK_FROM(gs[i]);
        walks_x[i] = WALK_FROM(has_x ? xs[i] : gs[i]);
        mean[i] = FN(param_splat)(p->mean, r0 + i, 0);
        rstd[i] = FN(param_splat)(p->rstd, r0 + i, 1);
        shift[i] = FN(param_splat)(p->shift, r0 + i, 0);
        weight[i] = FN(param_splat)(p->weight, r0 + i, 1);
    }
    const A *means = FN(param_row)(p->mean, r0), *rstds = FN(param_row)(p->rstd, r0);
    const A *shifts = p->shift.a ? FN(param_row)(p->shift, r0) : NULL, *weights = FN(param_row)(p->weight, r0);
    VECTOR_LOOP(n, {
        vec tg = {0}, tgx = {0}, tx = {0}, m = {0}, s = {0}, h = {0};
        if (has_x && along) {
            m = FN(fetch_a)(means, at, k);
            s = FN(fetch_a)(rstds, at, k);
            if (shifted) h = FN(fetch_a)(shifts, at, k);
        }
        UNROLL for (int i = 0; i < rows; i++) {
            FN(ask_next)(gs[i], at, rows, dy.step);
            if (has_x) FN(ask_next)(xs[i], at, rows, x.step);
        }
        UNROLL for (int i = 0; i < rows; i++) {
            const uint8_t *inside = FN(mask_row)(mask, r0 + i);
            vec g = FN(take)(&walks_g[i], gs[i], at, k, 0) * (weight_along ? FN(fetch_a)(weights, at, k) : weight[i]);
            g = FN(zero_outside)(inside, at, k, g);
            tg += g;
            if (has_x) {
                vec xhat = (FN(take)(&walks_x[i], xs[i], at, k, 0) - (along ? m : mean[i])) * (along ? s : rstd[i]);
                xhat = FN(zero_outside)(inside, at, k, xhat);
                tgx += g * (shifted ? FN(zero_outside)(inside, at, k, xhat - (along ? h : shift[i])) : xhat);
                if (along) tx += xhat;
            }
        }
        FN(put_a)(sg, at, k, FN(fetch_a)(sg, at, k) + tg);
        if (has_x) FN(put_a)(sgx, at, k, FN(fetch_a)(sgx, at, k) + tgx);
        if (has_x && along) FN(put_a)(sx, at, k, FN(fetch_a)(sx, at, k) + tx);
    });
}

#define SWEEP_STEPS(step, ...)                                                                                         \
    for (; r + (step) <= rows; r += (step)) FN(sweep_dots)(dy, x, none, r, step, n, p, 1, __VA_ARGS__, sg, sgx, sx)
#define SWEEP_TOGETHER(...)                                                                                            \
    do {                                                                                                               \
        SWEEP_STEPS(STEP, __VA_ARGS__);                                                                                \
        SWEEP_STEPS(STEP / 2, __VA_ARGS__);                                                                            \
    } while (0)
#define SWEEP_EACH(has_x, ...)                                                                                         \
    for (; r < rows; r++) FN(sweep_dots)(dy, x, mask, r, 1, n, p, has_x, __VA_ARGS__, sg, sgx, sx)

static void FN(sweep_all_dots)(fn_tile dy, fn_tile x, fn_tile mask, ptrdiff_t rows, ptrdiff_t n, const fn_dots *p,
                               A *sg, A *sgx, A *sx) {
    enum { STEP = FN(SWEEP) / 2 };
    const fn_tile none = {0};
    const int has_x = x.base != NULL, along = has_x && p->mean.a && p->mean.along;
    const int weight_along = p->weight.a && p->weight.along, shifted = p->shift.a != NULL;
    const int together = !mask.base && !weight_along && has_x;
    ptrdiff_t r = 0;
    /* of half as many columns, as there are five vectors for each of a row, which change */
    if (along && together && !shifted && !p->weight.a && FN(has_few_cols)(rows, 2 * n)) {
        FN(dots_few_cols)(dy, x, rows, n, p, sg, sgx, sx);
    } else if (!has_x) {
        SWEEP_EACH(0, 0, weight_along, 0);
    } else if (along) {
        if (together && !shifted) SWEEP_TOGETHER(1, 0, 0);
        if (together) SWEEP_TOGETHER(1, 0, 1);
        SWEEP_EACH(1, 1, weight_along, shifted);
    } else {
        if (together) SWEEP_TOGETHER(0, 0, shifted);
        SWEEP_EACH(1, 0, weight_along, shifted);
    }
}
#undef SWEEP_TOGETHER
#undef SWEEP_STEPS
#undef SWEEP_EACH

/* the same over several tiles */
static void FN(sweep_tiles_dots)(fn_tile dy, fn_tile x, fn_tile mask, fn_runs runs, ptrdiff_t rows, ptrdiff_t n,
                                 const fn_dots *p, A *sg, A *sgx, A *sx) {
    fn_tile none = {0};
    rows = FN(turn_runs)(&runs, rows, &x, &dy, &none);
    for (ptrdiff_t i = 0; i < runs.count; i++)
        FN(sweep_all_dots)(FN(run_of)(dy, i, runs.dy), FN(run_of)(x, i, runs.x), mask, rows, n, p, sg, sgx, sx);
}

/* along: the statistics vary by column, and are then the same for every row of the tile (their step is 0) */
static void FN(dots_cols)(fn_tile dy, fn_tile x, fn_tile mask, fn_runs runs, ptrdiff_t rows, ptrdiff_t n,
                          const fn_dots *p, void *work, fn_sums out) {
    const fn_tile none = {0};
    const int has_x = x.base != NULL, along = has_x && p->mean.a && p->mean.along;
    A *sg = work, *sgx = sg + n, *sx = sgx + n;
    memset(work, 0, 3 * (size_t)n * sizeof(A));
    const ptrdiff_t many = FN(dots_widen)(dy, x, mask, n, p) ? FN(rows_in_one)(runs, rows, n) : 0;
    const ptrdiff_t single = many ? rows % many : rows; /* these first, while the sums are small */
    if (single) FN(sweep_tiles_dots)(dy, x, mask, runs, single, n, p, sg, sgx, sx);
    if (many)
        FN(dots_narrow)(fn_tile_from(dy, single), fn_tile_from(x, single), runs, rows - single, n, many, p, sg, sgx,
                        sx);
    FN(add_cols)(dy, none, mask, runs, rows, n, p, sg, out.g);
    if (has_x) FN(add_cols)(dy, x, mask, runs, rows, n, p, sgx, out.gx);
    const A *mean = p->mean.a, *rstd = p->rstd.a;
    for (ptrdiff_t j = 0; along && j < n; j++) out.x[j] += FN(is_slight)(mean[j] * rstd[j]) ? 0 : (double)sx[j];
}
