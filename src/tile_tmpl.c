/* The verbs that write a tile, apply and combine. Written once in T; norm.c includes this file once per dtype. */

/* Rows that share a load of what varies along the row: all that goes with four is too much for the registers; but for results
 * of columns so few that to begin a row is much of it. Longer rows of slices are written one by one: two results at once come
 * into the cache more slowly than the shared loads are worth. */
enum {
    FN(TOGETHER) = FN_TOGETHER,
    FN(MOST_TOGETHER) = 2 * FN_TOGETHER,
    FN(FEW_COLUMNS) = 128,
    FN(IN_PAIRS) = 2048 / sizeof(A), /* the most elements of a slice's row that shares its loads */
};

/* how a weight or a bias varies: it is not there, has a value for each row, or for each element of it */
enum { FN(ABSENT), FN(BY_ROW), FN(ALONG) };
INLINE int FN(way_of)(fn_param p) { return !p.a ? FN(ABSENT) : p.along ? FN(ALONG) : FN(BY_ROW); }

/* `rows` rows at once, so that what varies along the row is loaded once for all of them. Constants wherever this is inlined:
 * `rows`, `along` (mean, comp, rstd and prescale), `centred` (whether there is a mean), `compensated` (any comp that is not 0),
 * `prescaled`, `scaled` (rstd, prescale or weight), and how `weight` and `bias` vary; those that vary along the row must not
 * vary between these rows. What is not there is left out: in 16-bit rows an operation that changes nothing is a tenth of all.
 * All pointers and scalars are fetched before the loop, as the compiler must assume that y holds them. */
INLINE void FN(apply_this_way)(fn_tile x, fn_tile y, ptrdiff_t r0, int rows, ptrdiff_t n, const fn_affine *p, int past,
                               int along, int centred, int compensated, int prescaled, int scaled, int weight,
                               int bias) {
    const int weight_along = weight == FN(ALONG), bias_along = bias == FN(ALONG);
    const ptrdiff_t ahead = p->ahead;
    const char *xs[FN(MOST_TOGETHER)];
    char *ys[FN(MOST_TOGETHER)];
    WALK walks[FN(MOST_TOGETHER)];
    vec mean[FN(MOST_TOGETHER)], comp[FN(MOST_TOGETHER)], rstd[FN(MOST_TOGETHER)], prescale[FN(MOST_TOGETHER)];
    vec of_weight[FN(MOST_TOGETHER)], of_bias[FN(MOST_TOGETHER)];
    UNROLL for (int i = 0; i < rows; i++) {
        xs[i] = x.base + (r0 + i) * x.step;
        walks[i] = WALK_FROM(xs[i]);
        ys[i] = (char *)y.base + (r0 + i) * y.step;
        mean[i] = FN(param_splat)(p->mean, r0 + i, 0);
        comp[i] = FN(param_splat)(p->comp, r0 + i, 0);
        rstd[i] = FN(param_splat)(p->rstd, r0 + i, 1);
        prescale[i] = FN(param_splat)(p->prescale, r0 + i, 1);
        of_weight[i] = FN(param_splat)(p->weight, r0 + i, 1);
        of_bias[i] = FN(param_splat)(p->bias, r0 + i, (A)-0.0); /* what changes nothing, not even a sign */
    }
    const A *means = FN(param_row)(p->mean, r0), *comps = FN(param_row)(p->comp, r0);
    const A *rstds = FN(param_row)(p->rstd, r0), *prescales = FN(param_row)(p->prescale, r0);
    const A *weights = FN(param_row)(p->weight, r0), *biases = FN(param_row)(p->bias, r0);
    VECTOR_LOOP(n, {
        vec m = {0}, c = {0}, s = {0}, pre = {0}, w = {0}, b = {0};
        if (along) {
            m = FN(fetch_a)(means, at, k);
            if (compensated) c = FN(fetch_a)(comps, at, k);
            s = FN(fetch_a)(rstds, at, k);
            if (prescaled) pre = FN(fetch_a)(prescales, at, k);
        }
        if (weight_along) w = FN(fetch_a)(weights, at, k);
        if (bias_along) b = FN(fetch_a)(biases, at, k);
        UNROLL for (int i = 0; i < rows; i++) {
            if (past) FN(ask_ahead)(xs[i], at, ahead);
            vec v = FN(take)(&walks[i], xs[i], at, k, 0);
            if (prescaled) v *= along ? pre : prescale[i];
            if (centred) v -= along ? m : mean[i];
            if (compensated) v -= along ? c : comp[i];
            if (scaled) v *= along ? s : rstd[i];
            if (weight) v *= weight_along ? w : of_weight[i];
            if (bias) v += bias_along ? b : of_bias[i];
            FN(put_result)(ys[i], at, k, v, past);
        }
    });
}

/* the same; NOT_PAST is a constant, so that no loop asks for it */
INLINE void FN(apply_rows)(fn_tile x, fn_tile y, ptrdiff_t r0, int rows, ptrdiff_t n, const fn_affine *p, int past,
                           int along, int centred, int compensated, int prescaled, int scaled, int weight, int bias) {
#define APPLY(way)                                                                                                     \
    FN(apply_this_way)(x, y, r0, rows, n, p, way, along, centred, compensated, prescaled, scaled, weight, bias)
    past ? APPLY(past) : APPLY(FN(NOT_PAST));
#undef APPLY
}

/* whether any of the means that these rows take has a remainder */
INLINE int FN(any_comp)(const fn_affine *p, ptrdiff_t rows, ptrdiff_t n) {
    const A *comp = p->comp.a;
    const ptrdiff_t count = !comp ? 0 : p->comp.along ? n : p->comp.step ? rows : 1;
    A any = 0;
    for (ptrdiff_t i = 0; i < count; i++) any = comp[i] != 0 ? 1 : any;
    return any != 0;
}

/* what varies along the row is the same for all rows here */
#define APPLY_TOGETHER(R, ...)                                                                                         \
    for (; r + R <= rows; r += R) FN(apply_rows)(x, y, r, R, n, p, past, __VA_ARGS__)
#define APPLY_EACH(...) APPLY_TOGETHER(1, __VA_ARGS__)

/* one tile as it stands */
static void FN(apply_tile)(fn_tile x, fn_tile y, ptrdiff_t rows, ptrdiff_t n, const fn_affine *p) {
    enum { R = FN(TOGETHER), MOST = FN(MOST_TOGETHER), ABSENT = FN(ABSENT), BY_ROW = FN(BY_ROW), ALONG = FN(ALONG) };
    const int along = p->rstd.along, prescaled = p->prescale.a != NULL;
    const int weight = FN(way_of)(p->weight), bias = FN(way_of)(p->bias);
    const int steady = !(weight == ALONG && p->weight.step) && !(bias == ALONG && p->bias.step);
    const int both = weight == ALONG && bias == ALONG, neither = weight != ALONG && bias != ALONG;
    const int none = weight == ABSENT && bias == ABSENT;
    /* for what is seldom: of two ways alone */
    const int scale = weight == ALONG ? ALONG : BY_ROW, offset = bias == ALONG ? ALONG : BY_ROW;
    const int compensated = prescaled || FN(any_comp)(p, rows, n), past = FN(way_past)(p->past, y, rows, n);
    ptrdiff_t r = 0;
    if (FN(is_few)(n) && !along && !prescaled && !past && p->rstd.a && steady)
        r = FN(apply_short)(x, y, rows, n, p, weight == ALONG, bias == ALONG);
    if (prescaled && along)
        APPLY_EACH(1, 1, 1, 1, 1, scale, offset);
    else if (prescaled)
        APPLY_EACH(0, 1, 1, 1, 1, scale, offset);
    else if (along && compensated) {
        if (steady && none) APPLY_TOGETHER(R, 1, 1, 1, 0, 1, ABSENT, ABSENT);
        if (steady && neither) APPLY_TOGETHER(R, 1, 1, 1, 0, 1, BY_ROW, BY_ROW);
        if (steady && both) APPLY_TOGETHER(R, 1, 1, 1, 0, 1, ALONG, ALONG);
        APPLY_EACH(1, 1, 1, 0, 1, scale, offset);
    } else if (along && steady && (none || both) && !past && FN(has_few_cols)(rows, n)) {
        FN(apply_few_cols)(x, y, rows, n, p, both);
    } else if (along) {
        if (steady && neither && n <= FN(FEW_COLUMNS)) APPLY_TOGETHER(MOST, 1, 1, 0, 0, 1, BY_ROW, BY_ROW);
        if (steady && both && n <= FN(FEW_COLUMNS)) APPLY_TOGETHER(MOST, 1, 1, 0, 0, 1, ALONG, ALONG);
        if (steady && none) APPLY_TOGETHER(R, 1, 1, 0, 0, 1, ABSENT, ABSENT);
        if (steady && neither) APPLY_TOGETHER(R, 1, 1, 0, 0, 1, BY_ROW, BY_ROW);
        if (steady && both) APPLY_TOGETHER(R, 1, 1, 0, 0, 1, ALONG, ALONG);
        APPLY_EACH(1, 1, 0, 0, 1, scale, offset);
    } else if (!p->rstd.a && !p->weight.a && neither) { /* the mean alone is taken away */
        if (compensated)
            APPLY_EACH(0, 1, 1, 0, 0, ABSENT, BY_ROW);
        else
            APPLY_EACH(0, 1, 0, 0, 0, ABSENT, BY_ROW);
    } else if (compensated && both) {
        APPLY_EACH(0, 1, 1, 0, 1, ALONG, ALONG);
    } else if (compensated && neither) {
        APPLY_EACH(0, 1, 1, 0, 1, BY_ROW, BY_ROW);
    } else if (compensated) {
        APPLY_EACH(0, 1, 1, 0, 1, scale, offset);
    } else if (both) {
        if (steady && n <= FN(IN_PAIRS)) APPLY_TOGETHER(R, 0, 1, 0, 0, 1, ALONG, ALONG);
        APPLY_EACH(0, 1, 0, 0, 1, ALONG, ALONG);
    } else if (!p->mean.a && bias == ABSENT) { /* RMS norm, weight norm */
        if (weight == ALONG)
            APPLY_EACH(0, 0, 0, 0, 1, ALONG, ABSENT);
        else
            APPLY_EACH(0, 0, 0, 0, 1, BY_ROW, ABSENT);
    } else if (none) {
        APPLY_EACH(0, 1, 0, 0, 1, ABSENT, ABSENT);
    } else if (neither) {
        APPLY_EACH(0, 1, 0, 0, 1, BY_ROW, BY_ROW);
    } else {
        APPLY_EACH(0, 1, 0, 0, 1, scale, offset);
    }
}
#undef APPLY_TOGETHER
#undef APPLY_EACH

static void FN(apply_tiles)(fn_tile x, fn_tile y, fn_runs runs, ptrdiff_t rows, ptrdiff_t n, const fn_affine *p) {
    fn_tile none = {0};
    rows = FN(turn_runs)(&runs, rows, &x, &none, &y);
    for (ptrdiff_t i = 0; i < runs.count; i++)
        FN(apply_tile)(FN(run_of)(x, i, runs.x), FN(run_of)(y, i, runs.y), rows, n, p);
}

static void FN(apply_runs)(fn_tile x, fn_tile y, fn_runs runs, ptrdiff_t rows, ptrdiff_t n, const fn_affine *p) {
    const ptrdiff_t many = FN(rows_in_one)(runs, rows, n);
    const ptrdiff_t wide = many ? FN(apply_narrow)(x, y, runs, rows, n, many, p) : 0;
    if (wide < rows) FN(apply_tiles)(fn_tile_from(x, wide), fn_tile_from(y, wide), runs, rows - wide, n, p);
}

static void FN(apply)(fn_tile x, fn_tile y, ptrdiff_t rows, ptrdiff_t n, const fn_affine *p) {
    if (p->rstd.along)
        FN(apply_runs)(x, y, (fn_runs){.count = 1}, rows, n, p);
    else
        FN(apply_tile)(x, y, rows, n, p);
}

/* the largest size of a value among those that these rows take */
static A FN(largest)(fn_param p, ptrdiff_t rows, ptrdiff_t n) {
    const A *a = p.a;
    const ptrdiff_t count = !a ? 0 : p.along ? n : p.step ? rows : 1;
    A most = 0;
    for (ptrdiff_t i = 0; i < count; i++) most = a[i] > most ? a[i] : -a[i] > most ? -a[i] : most;
    return most;
}

/* whether any finite element is beyond the limit */
static int FN(any_beyond)(fn_tile x, ptrdiff_t rows, ptrdiff_t n, A limit) {
    const vec top = SPLAT(limit), bottom = SPLAT(-limit), zero = {0};
    ivec beyond = {0};
    for (ptrdiff_t r = 0; r < rows; r++) {
        const char *row = x.base + r * x.step;
        VECTOR_LOOP(n, {
            const vec v = FN(fetch)(row, at, k, 0);
            beyond |= ((v > top) | (v < bottom)) & (v - v == zero);
        });
    }
    int any = 0;
    for (int i = 0; i < VL; i++) any |= beyond[i] != 0;
    return any;
}

/* the first of a row's vectors, from `at` on, in which one is; n: none */
static ptrdiff_t FN(next_beyond)(const char *row, ptrdiff_t at, ptrdiff_t n, A limit) {
    for (; at < n; at += VL) {
        const fn_tile one = {row + at * (ptrdiff_t)sizeof(T), 0};
        if (FN(any_beyond)(one, 1, n - at < VL ? n - at : VL, limit)) return at;
    }
    return n;
}

/* row r's parameters from element j on */
INLINE fn_affine FN(affine_from)(const fn_affine *p, ptrdiff_t r, ptrdiff_t j) {
    return (fn_affine){.mean = FN(param_from)(p->mean, r, j),
                       .comp = FN(param_from)(p->comp, r, j),
                       .rstd = FN(param_from)(p->rstd, r, j),
                       .prescale = FN(param_from)(p->prescale, r, j),
                       .weight = FN(param_from)(p->weight, r, j),
                       .bias = FN(param_from)(p->bias, r, j)};
}

/* elements `from` to before `to` of row r, those that left A on the way once more in a wider type */
static void FN(apply_wide)(fn_tile x, fn_tile y, ptrdiff_t r, ptrdiff_t from, ptrdiff_t to, const fn_affine *p) {
    for (ptrdiff_t j = from; j < to; j++) {
        const ptrdiff_t at = j * (ptrdiff_t)sizeof(T);
        const A e = LOAD1(x.base + r * x.step + at), pre = FN(param_value)(p->prescale, r, j, 1);
        const A mean = FN(param_value)(p->mean, r, j, 0), comp = FN(param_value)(p->comp, r, j, 0);
        const A rstd = FN(param_value)(p->rstd, r, j, 1), weight = FN(param_value)(p->weight, r, j, 1);
        const A bias = FN(param_value)(p->bias, r, j, (A)-0.0);
        A v = ((e * pre - mean) - comp) * rstd * weight + bias;
        if (!FN(is_finite)(v) && FN(is_finite)(e)) v = (A)((((W)e * pre - mean) - comp) * rstd * weight + bias);
        STORE1((char *)y.base + r * y.step + at, v);
    }
}

static void FN(apply_far)(fn_tile x, fn_tile y, ptrdiff_t rows, ptrdiff_t n, const fn_affine *p) {
    const A largest = sizeof(A) == sizeof(double) ? (A)DBL_MAX : (A)FLT_MAX, rstds = FN(largest)(p->rstd, rows, n);
    const A room = largest / 4 / (rstds > 1 ? rstds : 1);
    const int all = p->prescale.a || !(FN(largest)(p->mean, rows, n) < room);
    if ((!p->weight.a && !p->bias.a) || (!all && !FN(any_beyond)(x, rows, n, room))) {
        FN(apply)(x, y, rows, n, p);
        return;
    }
    for (ptrdiff_t r = 0; r < rows; r++) {
        const char *row = x.base + r * x.step;
        for (ptrdiff_t at = 0, stop; at < n; at = stop) { /* x may be y: an element is looked at before it is written */
            const ptrdiff_t far = all ? at : FN(next_beyond)(row, at, n, room);
            const fn_affine q = FN(affine_from)(p, r, at);
            const fn_tile of_x = {row + at * (ptrdiff_t)sizeof(T), 0};
            const fn_tile of_y = {y.base + r * y.step + at * (ptrdiff_t)sizeof(T), 0};
            if (far > at) FN(apply)(of_x, of_y, 1, far - at, &q);
            stop = all || far + VL > n ? n : far + VL;
            FN(apply_wide)(x, y, r, far, stop, p);
        }
    }
}

/* `rows`, `has_x`, `centred` (there are mean and c1), `along` (mean, rstd, c1, c2), `scaled` (there is rstd or weight),
 * `weight_along` and a NULL mask are constants wherever this is inlined; a weight that varies along the row must not vary
 * between these rows. */
INLINE void FN(combine_this_way)(fn_tile dy, fn_tile x, fn_tile mask, fn_tile dx, ptrdiff_t r0, int rows, ptrdiff_t n,
                                 const fn_adjoint *p, int past, int has_x, int centred, int along, int scaled,
                                 int weight_along) {
    const int asks = past && FN(ASKS_FOR_BOTH);
    const int walks_both = along || past; /* else dy alone: rows in a near cache come faster so */
    const ptrdiff_t ahead_x = p->ahead, ahead_g = p->ahead_dy;
    const char *gs[FN(TOGETHER)], *xs[FN(TOGETHER)];
    char *ds[FN(TOGETHER)];
    WALK walks_g[FN(TOGETHER)], walks_x[FN(TOGETHER)];
    vec mean[FN(TOGETHER)], rstd[FN(TOGETHER)], c1[FN(TOGETHER)], c2[FN(TOGETHER)], weight[FN(TOGETHER)];
    UNROLL for (int i = 0; i < rows; i++) {
        gs[i] = dy.base + (r0 + i) * dy.step;
        xs[i] = has_x ? x.base + (r0 + i) * x.step : NULL;
        walks_g[i] = WALK_FROM(gs[i]);
        walks_x[i] = WALK_FROM(has_x ? xs[i] : gs[i]);
        ds[i] = (char *)dx.base + (r0 + i) * dx.step;
        mean[i] = FN(param_splat)(p->mean, r0 + i, 0);
        rstd[i] = FN(param_splat)(p->rstd, r0 + i, 1);
        c1[i] = FN(param_splat)(p->c1, r0 + i, (A)-0.0);
        c2[i] = FN(param_splat)(p->c2, r0 + i, 0);
        weight[i] = FN(param_splat)(p->weight, r0 + i, 1);
    }
    const A *means = FN(param_row)(p->mean, r0), *rstds = FN(param_row)(p->rstd, r0);
    const A *c1s = FN(param_row)(p->c1, r0), *c2s = FN(param_row)(p->c2, r0), *weights = FN(param_row)(p->weight, r0);
    VECTOR_LOOP(n, {
        vec m = {0}, s = {0}, a = {0}, b = {0}, w = {0};
        if (along) {
            if (has_x) m = FN(fetch_a)(means, at, k);
            s = FN(fetch_a)(rstds, at, k);
            a = FN(fetch_a)(c1s, at, k);
            if (has_x) b = FN(fetch_a)(c2s, at, k);
        }
        if (weight_along) w = FN(fetch_a)(weights, at, k);
        UNROLL for (int i = 0; i < rows; i++) {
            const uint8_t *inside = FN(mask_row)(mask, r0 + i);
            const vec scale = along ? s : rstd[i];
            if (asks) FN(ask_ahead)(gs[i], at, ahead_g);
            if (asks && has_x) FN(ask_ahead)(xs[i], at, ahead_x);
            vec g = FN(take)(&walks_g[i], gs[i], at, k, 0);
            if (scaled) g *= weight_along ? w : weight[i];
            vec d = along ? a : c1[i];
            if (has_x) {
                const vec v = walks_both ? FN(take)(&walks_x[i], xs[i], at, k, 0) : FN(fetch)(xs[i], at, k, 0);
                const vec share = ((centred ? v - (along ? m : mean[i]) : v) * scale) * (along ? b : c2[i]);
                d = centred ? d + share : share;
            }
            const vec of = g - FN(zero_outside)(inside, at, k, d);
            FN(put_result)(ds[i], at, k, scaled ? of * scale : of, past);
        }
    });
}

/* the same; NOT_PAST is a constant, so that no loop asks for it */
INLINE void FN(combine_rows)(fn_tile dy, fn_tile x, fn_tile mask, fn_tile dx, ptrdiff_t r0, int rows, ptrdiff_t n,
                             const fn_adjoint *p, int past, int has_x, int centred, int along, int scaled,
                             int weight_along) {
#define COMBINE(way)                                                                                                   \
    FN(combine_this_way)(dy, x, mask, dx, r0, rows, n, p, way, has_x, centred, along, scaled, weight_along)
    past ? COMBINE(past) : COMBINE(FN(NOT_PAST));
#undef COMBINE
}

/* one tile as it stands */
static void FN(combine_tile)(fn_tile dy, fn_tile x, fn_tile mask, fn_tile dx, ptrdiff_t rows, ptrdiff_t n,
                             const fn_adjoint *p) {
    enum { R = FN(TOGETHER) };
    const fn_tile none = {0};
    const int weight_along = p->weight.a && p->weight.along, has_x = x.base != NULL, along = p->rstd.along;
    const int scaled = p->rstd.a || p->weight.a;
    const int past = FN(way_past)(p->past, dx, rows, n);
    ptrdiff_t r = 0;
    if (FN(is_few)(n) && !mask.base && has_x && !along && !past && scaled) r = FN(combine_short)(dy, x, dx, rows, n, p);
    const int together = !mask.base && has_x && along && !(weight_along && p->weight.step);
    if (together && !past && (weight_along || !p->weight.a) && FN(has_few_cols)(rows, n)) {
        FN(combine_few_cols)(dy, x, dx, rows, n, p, weight_along);
        return;
    }
    for (; together && r + R <= rows; r += R) {
        if (weight_along)
            FN(combine_rows)(dy, x, none, dx, r, R, n, p, past, 1, 1, 1, 1, 1);
        else
            FN(combine_rows)(dy, x, none, dx, r, R, n, p, past, 1, 1, 1, 1, 0);
    }
    const int centred = p->mean.a || p->c1.a;
#define COMBINE_ROW(mask, ...) FN(combine_rows)(dy, x, mask, dx, r, 1, n, p, past, __VA_ARGS__)
    for (; r < rows; r++) {
        if (mask.base)
            COMBINE_ROW(mask, has_x, 1, along, 1, weight_along);
        else if (has_x && !along && centred)
            weight_along ? COMBINE_ROW(none, 1, 1, 0, 1, 1) : COMBINE_ROW(none, 1, 1, 0, 1, 0);
        else if (has_x && !along)
            weight_along ? COMBINE_ROW(none, 1, 0, 0, 1, 1) : COMBINE_ROW(none, 1, 0, 0, 1, 0);
        else if (!scaled)
            COMBINE_ROW(none, 0, 1, 0, 0, 0);
        else if (!along && !weight_along)
            COMBINE_ROW(none, 0, 1, 0, 1, 0);
        else
            COMBINE_ROW(none, has_x, 1, along, 1, weight_along);
    }
#undef COMBINE_ROW
}

static void FN(combine_tiles)(fn_tile dy, fn_tile x, fn_tile dx, fn_runs runs, ptrdiff_t rows, ptrdiff_t n,
                              const fn_adjoint *p) {
    const fn_tile none = {0};
    rows = FN(turn_runs)(&runs, rows, &x, &dy, &dx);
    for (ptrdiff_t i = 0; i < runs.count; i++)
        FN(combine_tile)(FN(run_of)(dy, i, runs.dy), FN(run_of)(x, i, runs.x), none, FN(run_of)(dx, i, runs.y), rows, n,
                         p);
}

static void FN(combine_runs)(fn_tile dy, fn_tile x, fn_tile dx, fn_runs runs, ptrdiff_t rows, ptrdiff_t n,
                             const fn_adjoint *p) {
    const ptrdiff_t many = FN(rows_in_one)(runs, rows, n);
    const ptrdiff_t wide = many ? FN(combine_narrow)(dy, x, dx, runs, rows, n, many, p) : 0;
    if (wide < rows)
        FN(combine_tiles)(fn_tile_from(dy, wide), fn_tile_from(x, wide), fn_tile_from(dx, wide), runs, rows - wide, n,
                          p);
}

static void FN(combine)(fn_tile dy, fn_tile x, fn_tile mask, fn_tile dx, ptrdiff_t rows, ptrdiff_t n,
                        const fn_adjoint *p) {
    if (p->rstd.along && !mask.base)
        FN(combine_runs)(dy, x, dx, (fn_runs){.count = 1}, rows, n, p);
    else
        FN(combine_tile)(dy, x, mask, dx, rows, n, p);
}
