/* Slices that lie one after the other, a row or `per` rows each, as in layer norm and in group norm of few pixels: all
 * that is done to them, while they are in the first cache. Written once in T; norm.c includes this file once per dtype. */

enum {
    FN(MOST_ROWS) = FN_MOST_PER, /* of a tile */
    FN(FORWARD_BYTES) = 32768,   /* of a tile in all its arrays; it has at least one slice */
    FN(BACKWARD_BYTES) = sizeof(A) == 8 ? 16384 : 24576,
    FN(SUMMED_BYTES) = 196608, /* the same with sums of columns: from the second cache, but several rows at once */
    FN(PAST_BYTES) = 393216, /* the same where all is in memory, which then turns from reading to writing less often */
    FN(BACKWARDS_BYTES) = 49152, /* of a slice that leaves the first cache: its rows are written backwards */
    FN(PRODUCTS_BYTES) = 10240,  /* of x, in a tile without a mean, whose scalars are taken together */
};

/* slices of a tile */
INLINE ptrdiff_t FN(slices_together)(ptrdiff_t per, ptrdiff_t n, ptrdiff_t bytes) {
    const ptrdiff_t slices = bytes / (per * n * (ptrdiff_t)sizeof(T)), most = FN(MOST_ROWS) / per;
    const ptrdiff_t fit = slices < 1 ? 1 : slices > most ? most : slices;
    return fit >= 16 ? fit / 16 * 16 : fit >= 4 ? fit / 4 * 4 : fit; /* as many as verbs take at once */
}
/* Whether rows are written backwards, those of a slice that leaves the first cache: the last one is still there after its sums.
 * Statistics and scalars are the same for all its rows; weight and bias are turned too. */
INLINE int FN(is_backwards)(ptrdiff_t slices, ptrdiff_t per, ptrdiff_t n) {
    return slices == 1 && per > 1 && per * n * (ptrdiff_t)sizeof(T) >= FN(BACKWARDS_BYTES);
}
INLINE fn_param FN(param_backwards)(fn_param p, ptrdiff_t rows) {
    return p.a ? (fn_param){FN(param_row)(p, rows - 1), -p.step, p.along} : p;
}

/* for each row: its slice's value, in `to` unless that is the same */
INLINE fn_param FN(by_row)(const A *of_slices, ptrdiff_t slices, ptrdiff_t per, A *to) {
    if (per == 1) return (fn_param){of_slices, 1, 0};
    for (ptrdiff_t i = 0; i < slices; i++)
        for (ptrdiff_t r = 0; r < per; r++) to[i * per + r] = of_slices[i];
    return (fn_param){to, 1, 0};
}

static ptrdiff_t FN(normalize_rows)(fn_tile x, fn_tile y, ptrdiff_t slices, ptrdiff_t n, const fn_norm *p) {
    enum { MOST = FN(MOST_ROWS) };
    A high[MOST], low[MOST], rstd[MOST];
    union { /* first the moments, then the statistics by row; a stack may be small */
        double moments[4][MOST];
        A rows[3][MOST];
    } of;
    double *const mean = of.moments[0], *const comp = of.moments[1];
    const fn_moments m = {of.moments[2], mean, comp, of.moments[3], NULL};
    const fn_tile none = {0};
    const fn_param absent = {0};
    const ptrdiff_t per = p->per, most = FN(slices_together)(per, n, FN(FORWARD_BYTES) / 2);
    if (FN(is_longer_forward)(n, p)) return FN(normalize_longer)(x, y, slices, n, p);
    for (ptrdiff_t s = 0, k; s < slices; s += k) {
        k = slices - s < most ? slices - s : most;
        fn_tile from = fn_tile_from(x, s * per);
        FN(moments_rows)(from, none, k, per * x.step, 0, p->adjoin ? 1 : per, p->adjoin ? per * n : n, p->centre, m);
        if (FN(finalize)(k, m, p->eps, p->least, p->scale, high, low, rstd)) return s;
        if (p->mean)
            for (ptrdiff_t i = 0; i < k; i++) ((A *)p->mean)[s + i] = (A)(mean[i] + comp[i]);
        if (p->rstd) memcpy((A *)p->rstd + s, rstd, (size_t)k * sizeof(A));
        fn_tile to = fn_tile_from(y, s * per);
        fn_affine q = {.mean = p->centre ? FN(by_row)(high, k, per, of.rows[0]) : absent,
                       .comp = p->centre ? FN(by_row)(low, k, per, of.rows[1]) : absent,
                       .rstd = p->scale ? FN(by_row)(rstd, k, per, of.rows[2]) : absent,
                       .weight = FN(param_from)(p->weight, s * per, 0),
                       .bias = FN(param_from)(p->bias, s * per, 0),
                       .past = p->past,
                       .ahead = FN(rows_ahead)(p->past, k * per, n) * x.step};
        if (FN(is_backwards)(k, per, n)) {
            from = fn_tile_backwards(from, per);
            to = fn_tile_backwards(to, per);
            q.weight = FN(param_backwards)(q.weight, per);
            q.bias = FN(param_backwards)(q.bias, per);
        }
        FN(apply)(from, to, k * per, n, &q);
    }
    return slices;
}

/* From the sums of a slice's rows to its scalars; what goes to p->sums is of rows and not weighed. */
INLINE void FN(scalars)(const fn_slices *p, ptrdiff_t n, ptrdiff_t first, fn_sums of_rows, A *shift, A *c1, A *c2) {
    const double share = 1 / ((double)p->per * (double)n);
    const int weighs = p->weight.a && !p->weight.along;
    double g = 0, gx = 0, x = 0;
    for (ptrdiff_t r = 0; r < p->per; r++) {
        const double w = weighs ? (double)*FN(param_row)(p->weight, first + r) : 1;
        g += w * of_rows.g[r];
        gx += w * of_rows.gx[r];
        x += of_rows.x[r];
    }
    const double s = p->centre ? x * share : 0, c = fn_moved(gx, s, g) * share;
    *shift = (A)s;
    *c2 = (A)c;
    *c1 = p->centre ? (A)(g * share - s * c) : 0; /* xhat - shift, folded: (g - c1) - xhat * c2 */
    if (p->gains) ((A *)p->gains)[first * p->gains_step] = (A)((double)(A)of_rows.gx[0] / p->root);
    if (!p->sums.g) return;
    for (ptrdiff_t r = 0; r < p->per; r++) {
        p->sums.g[first + r] = of_rows.g[r];
        p->sums.gx[first + r] = fn_moved(of_rows.gx[r], s, of_rows.g[r]);
    }
}

/* the same of k slices of a row each, whose parameters' gradients are not from sums */
static void FN(scalars_of_rows)(ptrdiff_t k, ptrdiff_t n, int centre, const double *g, const double *gx,
                                const double *sx, A *restrict shift, A *restrict c1, A *restrict c2) {
    const double share = 1 / (double)n;
    for (ptrdiff_t i = 0; i < k; i++) {
        const double s = centre ? sx[i] * share : 0, c = fn_moved(gx[i], s, g[i]) * share;
        shift[i] = (A)s;
        c2[i] = (A)c;
        c1[i] = centre ? (A)(g[i] * share - s * c) : 0;
    }
}

/* for j: q[lane(j)] += x[j]^2; c[lane(j)] += dy[j] * x[j] */
INLINE void FN(add_products)(const char *dy, const char *x, ptrdiff_t n, vec q[U], vec c[U]) {
    vec t[U] = {{0}}, w[U] = {{0}};
    WALK walk_dy = WALK_FROM(dy), walk_x = WALK_FROM(x);
    LANE_LOOP(
        n,
        UNROLL for (int u = 0; u < U; u++) {
            q[u] += t[u];
            c[u] += w[u];
            t[u] = w[u] = (vec){0};
        },
        {
            const vec v = HELD(FN(take)(&walk_x, x, at, k, 0)), g = FN(take)(&walk_dy, dy, at, k, 0);
            t[u] += v * v;
            w[u] += FN(inside_row)(k, g * v);
        });
}

/* sum x^2 and sum dy * x of a row. Pieces add up as merge adds them: the same rstd as by moments_rows, to which a caller turns
 * where some other row is beyond the fast path. */
INLINE void FN(products)(const char *dy, const char *x, ptrdiff_t n, double *squares, double *products) {
    const ptrdiff_t piece = n * (ptrdiff_t)sizeof(A) > FN_BLOCK_BYTES ? fn_piece(n, (ptrdiff_t)sizeof(A)) : n;
    double low = 0;
    *squares = *products = 0;
    for (ptrdiff_t at = 0; at < n; at += piece) {
        const ptrdiff_t k = n - at < piece ? n - at : piece, skipped = at * (ptrdiff_t)sizeof(T);
        vec q[U] = {{0}}, c[U] = {{0}};
        A of_q, of_c;
        FN(add_products)(dy + skipped, x + skipped, k, q, c);
        FN(trees)(q, c, &of_q, &of_c);
        const double more = (double)of_q + low, all = *squares + more;
        low = more - (all - *squares);
        *squares = all;
        *products += (double)of_c;
    }
}

/* What belongs to slices of one row without a mean while they are in the first cache: up to MOST_ROWS each. */
typedef struct {
    double *squares, *products;
    A *rstd, *c2;
} FN(undivided);

/* whether products of what is not yet divided by the deviation have kept their digits */
INLINE int FN(is_safe)(double var, double size) {
    return (var * 0x1p48 > 1) & (var < 0x1p48) & (size > 0x1p-64) & (size * 0x1p-64 < 1);
}
/* From the products of row r, i of `of`, to its scalars; returns whether these may be used. */
INLINE int FN(divide_one)(ptrdiff_t n, const fn_slices *p, ptrdiff_t r, ptrdiff_t i, FN(undivided) of) {
    const double var = of.squares[i] / (double)n, share = 1 / (double)n;
    const double weight = p->weight.a ? (double)*FN(param_row)(p->weight, r) : 1;
    of.rstd[i] = (A)(1 / sqrt(var));
    const double gx = of.products[i] * (double)of.rstd[i];
    of.c2[i] = (A)(weight * gx * share);
    if (p->gains) ((A *)p->gains)[r * p->gains_step] = (A)((double)(A)gx / p->root);
    return FN(is_safe)(var, fabs(of.products[i]));
}
/* the same of VL_f64 rows from r on, whose weights and gains stand one after the other; -1 where they may be used */
INLINE vi64 FN(divide_some)(ptrdiff_t n, const fn_slices *p, ptrdiff_t r, ptrdiff_t i, FN(undivided) of) {
    const vf64 one = splat_f64(1), var = load_f64(of.squares + i) / splat_f64((double)n);
    const vf64 share = splat_f64(1 / (double)n), products = load_f64(of.products + i);
    const vf64 size = (vf64)((vi64)products & INT64_MAX);
    const vf64 weight = p->weight.a ? LOAD_PART((const A *)p->weight.a + r) : one;
    const vf64 gx = products * PUT_PART(of.rstd + i, one / root_f64(var));
    PUT_PART(of.c2 + i, weight * gx * share);
    if (p->gains) {
        A *const gains = (A *)p->gains + r;
        PUT_PART(gains, PUT_PART(gains, gx) / splat_f64(p->root));
    }
    return (var * splat_f64(0x1p48) > one) & (var < splat_f64(0x1p48)) & (size > splat_f64(0x1p-64)) &
           (size * splat_f64(0x1p-64) < one);
}
/* The same of k rows. Returns how many may be used, up to the first that may not. */
INLINE ptrdiff_t FN(divide_products)(ptrdiff_t k, ptrdiff_t n, const fn_slices *p, ptrdiff_t r, FN(undivided) of) {
    const int adjoin = (!p->weight.a || p->weight.step == 1) && (!p->gains || p->gains_step == 1);
    vi64 some = ~(vi64){0};
    int rest = 1;
    ptrdiff_t i = 0;
    for (; adjoin && i + VL_f64 <= k; i += VL_f64) some &= FN(divide_some)(n, p, r + i, i, of);
    for (; i < k; i++) rest &= FN(divide_one)(n, p, r + i, i, of);
    if (rest && all_of(some)) return k;
    for (i = 0; i < k && FN(is_safe)(of.squares[i] / (double)n, fabs(of.products[i]));) i++;
    return i;
}

/* whether tiles are to be large: see PAST_BYTES and ask_ahead */
INLINE int FN(from_memory)(const fn_slices *p, int past) {
    return past && p->past == FN_FROM_MEMORY && !FN(ASKS_FOR_BOTH);
}
/* slices of a tile of adjoint_rows */
INLINE ptrdiff_t FN(slices_of_tile)(const fn_slices *p, ptrdiff_t n, int past) {
    const ptrdiff_t bytes = FN(from_memory)(p, past) ? FN(PAST_BYTES) : p->work ? FN(SUMMED_BYTES) : FN(BACKWARD_BYTES);
    return FN(slices_together)(p->per, n, bytes / 3);
}

/* dx of slices of one row without mean or varying weight, some rows after the other, by their undivided products. Returns
 * how many are done: the next one's are not safe. */
static ptrdiff_t FN(adjoint_each)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t first, ptrdiff_t slices, ptrdiff_t n,
                                  const fn_slices *p, int past, FN(undivided) of) {
    const fn_tile none = {0};
    const ptrdiff_t bytes = FN(from_memory)(p, past) ? FN(PAST_BYTES) / 3 : FN(PRODUCTS_BYTES);
    const ptrdiff_t most = FN(slices_together)(1, n, bytes);
    ptrdiff_t r = first;
    for (ptrdiff_t k, safe; r < slices; r += safe) {
        k = slices - r < most ? slices - r : most;
        const fn_tile of_dy = fn_tile_from(dy, r), of_x = fn_tile_from(x, r), of_dx = fn_tile_from(dx, r);
        const ptrdiff_t turned = FN(is_turned)(n) ? FN(turned_products)(of_dy, of_x, k, n, of.squares, of.products) : 0;
        for (ptrdiff_t i = turned; i < k; i++)
            FN(products)(of_dy.base + i * dy.step, of_x.base + i * x.step, n, of.squares + i, of.products + i);
        safe = FN(divide_products)(k, n, p, r, of);
        const fn_adjoint q = {.rstd = {p->fresh ? of.rstd : (const A *)p->rstd + r, 1, 0},
                              .c2 = {of.c2, 1, 0},
                              .weight = FN(param_from)(p->weight, r, 0),
                              .ahead = FN(rows_ahead)(past, k, n) * x.step,
                              .ahead_dy = FN(rows_ahead)(past, k, n) * dy.step};
        const ptrdiff_t few = FN(is_few)(n) && !past ? FN(combine_short)(of_dy, of_x, of_dx, safe, n, &q) : 0;
        for (ptrdiff_t i = few; i < safe; i++)
            FN(combine_rows)(of_dy, of_x, none, of_dx, i, 1, n, &q, past, 1, 0, 0, 1, 0);
        if (safe < k) return r + safe - first;
    }
    return r - first;
}

static ptrdiff_t FN(adjoint_rows)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t slices, ptrdiff_t n,
                                  const fn_slices *p) {
    enum { MOST = FN(MOST_ROWS) };
    A shift[MOST], c1[MOST], c2[MOST], fresh[MOST], means[MOST], rstds[MOST];
    union { /* first the moments of slices without statistics, then the sums, then scalars by row; a stack may be small */
        double moments[4][MOST], sums[3][MOST];
        A rows[3][MOST];
    } of;
    double *const g = of.sums[0], *const gx = of.sums[1], *const sx = of.sums[2];
    const fn_moments m = {of.moments[0], of.moments[1], of.moments[2], of.moments[3], NULL};
    const FN(undivided) each = {g, gx, fresh, c2};
    const fn_tile none = {0};
    const fn_param absent = {0};
    const int past = FN(way_past)(p->past, dx, slices * p->per, n);
    const ptrdiff_t per = p->per, most = FN(slices_of_tile)(p, n, past);
    const int with_g = p->mean || p->centre || p->sums.g;
    const int undivided = p->undivided && per == 1 && !(p->weight.a && p->weight.along);
    const int longer = !undivided && FN(is_longer_backward)(p, n, past);
    for (ptrdiff_t s = 0, k; s < slices; s += k) {
        if (undivided) s += FN(adjoint_each)(dy, x, dx, s, slices, n, p, past, each);
        /* all but the last few, or up to one whose sums are not finite */
        if (longer) s += FN(adjoint_longer)(dy, x, dx, s, slices, n, p, past);
        if (s == slices) break;
        k = undivided ? 1 : slices - s < most ? slices - s : most;
        const ptrdiff_t r = s * per, rows = k * per;
        fn_tile of_dy = fn_tile_from(dy, r), of_x = fn_tile_from(x, r), of_dx = fn_tile_from(dx, r);
        if (p->fresh) {
            FN(moments_rows)(of_x, none, k, per * x.step, 0, per, n, 0, m);
            if (FN(finalize)(k, m, 0, p->least, 1, means, rstds, fresh)) return s;
        }
        const fn_param mean = p->mean ? FN(by_row)((const A *)p->mean + s, k, per, means) : absent;
        const fn_param rstd = FN(by_row)(p->fresh ? fresh : (const A *)p->rstd + s, k, per, rstds);
        const fn_param weight = FN(param_from)(p->weight, r, 0);
        const fn_dots dots = {.mean = mean, .rstd = rstd, .weight = weight.along ? weight : absent};
        if (!with_g) memset(g, 0, (size_t)rows * sizeof(double));
        FN(dots_rows)(of_dy, of_x, none, rows, n, &dots, (fn_sums){with_g ? g : NULL, gx, sx});
        const int plain = per == 1 && !p->sums.g && !p->gains && !(p->weight.a && !p->weight.along);
        if (plain) FN(scalars_of_rows)(k, n, p->centre, g, gx, sx, shift, c1, c2);
        for (ptrdiff_t i = 0; !plain && i < k; i++)
            FN(scalars)(p, n, r + i * per, (fn_sums){g + i * per, gx + i * per, sx + i * per}, shift + i, c1 + i,
                        c2 + i);
        fn_adjoint q = {.mean = mean,
                        .rstd = rstd,
                        .c1 = p->centre ? FN(by_row)(c1, k, per, of.rows[0]) : absent,
                        .c2 = FN(by_row)(c2, k, per, of.rows[1]),
                        .shift = FN(by_row)(shift, k, per, of.rows[2]),
                        .weight = weight,
                        .without_g = p->without_g,
                        .past = p->past,
                        .ahead = FN(rows_ahead)(past, rows, n) * x.step,
                        .ahead_dy = FN(rows_ahead)(past, rows, n) * dy.step};
        if (FN(is_backwards)(k, per, n)) {
            of_dy = fn_tile_backwards(of_dy, per);
            of_x = fn_tile_backwards(of_x, per);
            of_dx = fn_tile_backwards(of_dx, per);
            q.weight = FN(param_backwards)(weight, per);
        }
        if (p->work)
            FN(combine_cols)(of_dy, of_x, of_dx, rows, n, &q, p->work);
        else
            FN(combine)(of_dy, of_x, none, of_dx, rows, n, &q);
    }
    return slices;
}
