/* Slices of one row each, longer than the short ones, from their sums to their results: a few at a time where those stay in the
 * first cache, else one after the other; no scalars are handed from verb to verb through memory. The same bits as by those
 * verbs. The backward's are of one accumulation at most. Written once in T; norm.c includes this file once per dtype. */

enum {
    FN(LEAST_BYTES) = 2048,  /* of a row in the forward: verbs for tiles take more than four shorter ones at a time */
    FN(FOUR_BYTES) = 4096,   /* of a row at most, of which four stay in the first cache in the forward */
    FN(SOME_BYTES) = 2048,   /* of a row at most, of which two or four are taken at once in the backward */
    FN(AHEAD_BYTES) = 16384, /* to ask ahead for */
};

/* How many rows ahead to ask for while `rows` of them are written past the caches: those of the next tile, or some tiles of
 * few bytes on. Rows that are longer than that are long enough to be read by themselves. */
INLINE ptrdiff_t FN(rows_ahead)(int past, ptrdiff_t rows, ptrdiff_t n) {
    const ptrdiff_t row_bytes = n * (ptrdiff_t)sizeof(T);
    if (!past || row_bytes > FN(AHEAD_BYTES)) return 0;
    const ptrdiff_t least = (FN(AHEAD_BYTES) + row_bytes - 1) / row_bytes;
    return rows > least ? rows : least;
}

/* The forward of four rows at a time. Returns how many are done: the next are too few, or beyond the fast path, or their means
 * were ill guessed. `centre`, and how `weight` and `bias` vary, are constants wherever this is inlined. */
INLINE ptrdiff_t FN(normalize_four)(fn_tile x, fn_tile y, ptrdiff_t first, ptrdiff_t rows, ptrdiff_t n,
                                    const fn_norm *p, int centre, int weight, int bias) {
    const int in_pairs = weight == FN(ALONG) && bias == FN(ALONG) && n <= FN(IN_PAIRS); /* the shortest of these rows */
    const vf64x4 count = splat_four((double)n);
    ptrdiff_t r = first;
    for (; r + 4 <= rows; r += 4) {
        const fn_tile from = fn_tile_from(x, r), to = fn_tile_from(y, r);
        const char *of_rows[4];
        UNROLL for (int i = 0; i < 4; i++) of_rows[i] = from.base + i * x.step;
        const FN(moments_of_four) of = FN(four_moments)(of_rows, n, centre);
        FOUR high, low, rstd;
        const vi64x4 fine =
            FN(finalize_four)(count, of.mean, of.comp, of.m2, p->eps, p->least, p->scale, &high, &low, &rstd);
        if (of.far || !all_of_four(fine)) break;
        const FOUR mean = ROUND_FOUR(of.mean + of.comp);
        if (p->mean) memcpy((A *)p->mean + r, &mean, sizeof mean);
        if (p->rstd) memcpy((A *)p->rstd + r, &rstd, sizeof rstd);
        const fn_affine q = {.mean = {&high, 1, 0},
                             .comp = {&low, 1, 0},
                             .rstd = {&rstd, 1, 0},
                             .weight = FN(param_from)(p->weight, r, 0),
                             .bias = FN(param_from)(p->bias, r, 0)};
#define APPLY(k, comp) FN(apply_rows)(from, to, i, k, n, &q, FN(NOT_PAST), 0, centre, comp, 0, 1, weight, bias)
        for (int i = 0, k; i < 4; i += k) { /* a pair is of the first two or the last two */
            k = in_pairs && i % 2 == 0 && low[i] == 0 && low[i + 1] == 0 ? 2 : 1;
            if (k == 2)
                APPLY(2, 0);
            else if (centre && low[i] != 0)
                APPLY(1, 1);
            else
                APPLY(1, 0);
        }
#undef APPLY
    }
    return r - first;
}

/* Rows r to before `rows` one after the other: while one's result is stored, the next one's statistics are on the way. Returns
 * the first that is beyond the fast path, or `rows`. */
INLINE ptrdiff_t FN(normalize_single)(fn_tile x, fn_tile y, ptrdiff_t r, ptrdiff_t rows, ptrdiff_t n, const fn_norm *p,
                                      int centre, int weight, int bias) {
    const fn_tile none = {0};
    const int past = FN(way_past)(p->past, y, rows, n), is_long = n * (ptrdiff_t)sizeof(A) > FN_BLOCK_BYTES;
    double count, mean, comp, m2;
    const fn_moments m = {&count, &mean, &comp, &m2, NULL};
    A high, low, rstd;
    for (; r < rows; r++) {
        const fn_tile from = fn_tile_from(x, r), to = fn_tile_from(y, r);
        if (is_long)
            FN(moments_rows)(from, none, 1, 0, 0, 1, n, centre, m);
        else
            FN(moments_cell)(from, none, 1, n, centre, 0, m);
        if (FN(finalize)(1, m, p->eps, p->least, p->scale, &high, &low, &rstd)) return r;
        if (p->mean) ((A *)p->mean)[r] = (A)(mean + comp);
        if (p->rstd) ((A *)p->rstd)[r] = rstd;
        const fn_affine q = {.mean = {&high, 1, 0},
                             .comp = {&low, 1, 0},
                             .rstd = {&rstd, 1, 0},
                             .weight = FN(param_from)(p->weight, r, 0),
                             .bias = FN(param_from)(p->bias, r, 0),
                             .ahead = FN(rows_ahead)(past, 1, n) * x.step};
        if (centre && low != 0)
            FN(apply_rows)(from, to, 0, 1, n, &q, past, 0, 1, 1, 0, 1, weight, bias);
        else
            FN(apply_rows)(from, to, 0, 1, n, &q, past, 0, centre, 0, 0, 1, weight, bias);
    }
    return rows;
}

/* call(centre, weight, bias) with constants in their places, of those that occur; else `otherwise` */
#define BY_PARAMETERS(call, otherwise)                                                                                 \
    do {                                                                                                               \
        enum { ABSENT = FN(ABSENT), BY_ROW = FN(BY_ROW), ALONG = FN(ALONG) };                                          \
        const int weight = FN(way_of)(p->weight), bias = FN(way_of)(p->bias);                                          \
        if (p->centre == 1 && weight == ALONG && bias == ALONG) {                                                      \
            call(1, ALONG, ALONG);                                                                                     \
        } else if (p->centre == 1 && weight == ABSENT && bias == ABSENT) {                                             \
            call(1, ABSENT, ABSENT);                                                                                   \
        } else if (p->centre == 1 && weight != ALONG && bias != ALONG) {                                               \
            call(1, BY_ROW, BY_ROW);                                                                                   \
        } else if (!p->centre && weight == ALONG && bias == ABSENT) {                                                  \
            call(0, ALONG, ABSENT);                                                                                    \
        } else if (!p->centre && weight != ALONG && bias == ABSENT) {                                                  \
            call(0, BY_ROW, ABSENT);                                                                                   \
        } else {                                                                                                       \
            otherwise;                                                                                                 \
        }                                                                                                              \
    } while (0)

/* normalize_single, where is_longer_forward */
OUTLINE ptrdiff_t FN(normalize_each)(fn_tile x, fn_tile y, ptrdiff_t r, ptrdiff_t rows, ptrdiff_t n, const fn_norm *p) {
#define EACH(...) return FN(normalize_single)(x, y, r, rows, n, p, __VA_ARGS__)
    BY_PARAMETERS(EACH, return r);
#undef EACH
}

/* Whether normalize_longer takes such rows. Results that go past the caches are written by the verbs for tiles until a row is
 * long enough to be read while the one before it is written. */
INLINE int FN(is_longer_forward)(ptrdiff_t n, const fn_norm *p) {
    const ptrdiff_t least = p->past ? FN(FOUR_BYTES) : FN(LEAST_BYTES);
#define LONGER(...) return 1
    if (p->per == 1 && n * (ptrdiff_t)sizeof(T) >= least) BY_PARAMETERS(LONGER, return 0);
#undef LONGER
    return 0;
}

/* Rows of a slice each, four at a time; or one after the other, where four leave the first cache, and where results go past the
 * caches: each is better written while the next row is read. Returns how many are done: the next one is beyond the fast
 * path. */
static ptrdiff_t FN(normalize_longer)(fn_tile x, fn_tile y, ptrdiff_t rows, ptrdiff_t n, const fn_norm *p) {
    if (p->past || n * (ptrdiff_t)sizeof(T) > FN(FOUR_BYTES)) return FN(normalize_each)(x, y, 0, rows, n, p);
    for (ptrdiff_t r = 0, end;; r = end) {
#define FOURS(...) r += FN(normalize_four)(x, y, r, rows, n, p, __VA_ARGS__)
        BY_PARAMETERS(FOURS, (void)0); /* there are no others here */
#undef FOURS
        end = rows - r < 4 ? rows : r + 4;
        r = FN(normalize_each)(x, y, r, end, n, p);
        if (r < end || r == rows) return r;
    }
}

/* Whether adjoint_longer takes such slices: those of layer and RMS norm, whose weight varies along the row and whose sums are of
 * columns, and those of a mean whose weight is of the row, if there is one. Results that go past the caches do so row by row,
 * without asking ahead, as all is in the last cache; those from memory by tiles. */
INLINE int FN(is_longer_backward)(const fn_slices *p, ptrdiff_t n, int past) {
    if (past && (p->past == FN_FROM_MEMORY || n * (ptrdiff_t)sizeof(T) <= FN(SOME_BYTES))) return 0;
    const int along = p->weight.a && p->weight.along, by_column = along && p->work && !p->sums.g;
    const int by_row = !along && !p->work && p->centre;
    return p->per == 1 && n > 2 * LANES && n * (ptrdiff_t)sizeof(A) <= FN_BLOCK_BYTES && !p->fresh && !p->gains &&
           !p->centre == !p->mean && (by_column || by_row);
}

/* `some` of A, the rest of four is 0 */
INLINE FOUR FN(some_of)(const A *a, int some) {
    FOUR v = {0};
    UNROLL for (int i = 0; i < some; i++) v[i] = a[i];
    return v;
}

/* adjoint_rows of `some` (1, 2 or 4) rows at a time; `past` counts for single ones alone. Returns how many are done: the next
 * are too few, or their sums not finite. `some`, `centre` and `along` (a weight varies along the row, and sums of columns are
 * wanted) are constants wherever this is inlined. */
INLINE ptrdiff_t FN(adjoint_some)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t first, ptrdiff_t slices, ptrdiff_t n,
                                  const fn_slices *p, int past, int some, int centre, int along) {
    const fn_tile none = {0};
    const fn_param absent = {0};
    const vf64x4 share = splat_four(1 / (double)n);
    const int together = some < FN_TOGETHER ? some : FN_TOGETHER, way_past = some == 1 ? past : FN(NOT_PAST);
    const int plain = along || (!p->sums.g && !p->weight.a);
    const A *const means = p->mean, *const rstds = p->rstd;
    A *const sg = p->work, *const sgx = along ? sg + n : NULL;
    ptrdiff_t r = first;
    for (; r + some <= slices; r += some) {
        const fn_tile of_dy = fn_tile_from(dy, r), of_x = fn_tile_from(x, r), of_dx = fn_tile_from(dx, r);
        const fn_param mean = centre ? (fn_param){means + r, 1, 0} : absent, rstd = {rstds + r, 1, 0};
        const fn_dots dots = {.mean = mean, .rstd = rstd, .weight = along ? p->weight : absent};
        vec of_g[4] = {{0}}, of_gx[4] = {{0}}, of_sx[4] = {{0}};
        for (int i = 0; i < some; i++) {
            vec g[U] = {{0}}, gx[U] = {{0}}, sx[U] = {{0}};
            FN(add_dots)(of_dy.base + i * dy.step, of_x.base + i * x.step, NULL, n, &dots, i, 1, centre, centre, 0,
                         along, 0, g, gx, sx);
            of_g[i] = FN(folded)(g);
            of_gx[i] = FN(folded)(gx);
            of_sx[i] = FN(folded)(sx);
        }
        vf64x4 g = {0}, gx = IN_DOUBLE(SUMFOUR(of_gx)), sx = {0};
        if (centre) {
            const FOUR deviations = FN(some_of)(means + r, some) * FN(some_of)(rstds + r, some);
            g = IN_DOUBLE(SUMFOUR(of_g));
            sx = IN_DOUBLE((FOUR)((IFOUR)SUMFOUR(of_sx) & (deviations != 0))); /* 0 of rows that are is_slight */
        }
        const vi64x4 finite = (g - g == 0) & (gx - gx == 0);
        if (!all_of_four(finite)) break;
        const vf64x4 shift = (plain ? sx : 0 + sx) * share;
        if (p->sums.g) {
            for (int i = 0; i < some; i++) {
                p->sums.g[r + i] = g[i];
                p->sums.gx[r + i] = fn_moved(gx[i], shift[i], g[i]);
            }
        }
        if (!plain) {
            vf64x4 weight = splat_four(1);
            for (int i = 0; p->weight.a && i < some; i++) weight[i] = (double)*FN(param_row)(p->weight, r + i);
            g = 0 + weight * g; /* from 0 on, as FN(scalars) adds up: -0 becomes 0 */
            gx = 0 + weight * gx;
        }
        /* fn_moved: 0 is taken away where either is 0, which leaves gx as it is, -0 too */
        const vf64x4 moved = (vf64x4)((vi64x4)(shift * g) & ((g != 0) & (shift != 0)));
        const vf64x4 c = (gx - moved) * share;
        const FOUR c2 = ROUND_FOUR(c), shifts = ROUND_FOUR(shift);
        const FOUR c1 = centre ? ROUND_FOUR(g * share - shift * c) : (FOUR){0};
        const fn_adjoint q = {.mean = mean,
                              .rstd = rstd,
                              .c1 = centre ? (fn_param){&c1, 1, 0} : absent,
                              .c2 = {&c2, 1, 0},
                              .shift = {&shifts, 1, 0},
                              .weight = FN(param_from)(p->weight, r, 0)};
        for (int i = 0; along && i < some; i += together) {
#define COMBINE_COLS(...)                                                                                              \
    FN(combine_cols_rows)(of_dy, of_x, of_dx, i, together, n, &q, way_past, __VA_ARGS__, 1, sg, sgx)
            if (!centre && p->without_g)
                COMBINE_COLS(0, 0, 0);
            else if (!centre)
                COMBINE_COLS(1, 0, 0);
            else if (shifts[i] != 0 || shifts[i + together - 1] != 0)
                COMBINE_COLS(1, 1, 1);
            else
                COMBINE_COLS(1, 1, 0);
#undef COMBINE_COLS
        }
        for (int i = 0; !along && i < some; i++)
            FN(combine_rows)(of_dy, of_x, none, of_dx, i, 1, n, &q, way_past, 1, centre, 0, 1, 0);
    }
    return r - first;
}

/* One at a time, if longer than SOME_BYTES: from the last cache rows come fastest when the same instructions read one after
 * the other. Shorter ones would wait for each other's scalars: two, or four of 16 bits or without sums of columns. */
static ptrdiff_t FN(adjoint_longer)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t first, ptrdiff_t slices, ptrdiff_t n,
                                    const fn_slices *p, int past) {
    enum { SHORT = sizeof(T) == 2 ? 4 : 2 };
#define ADJOINT_SOME(some, ...) FN(adjoint_some)(dy, x, dx, first, slices, n, p, past, some, __VA_ARGS__)
#define ADJOINT(some, ...)                                                                                             \
    n *(ptrdiff_t)sizeof(T) > FN(SOME_BYTES) ? ADJOINT_SOME(1, __VA_ARGS__) : ADJOINT_SOME(some, __VA_ARGS__)
    const int along = p->weight.a && p->weight.along;
    if (!along) return ADJOINT(4, 1, 0);
    if (p->centre) return ADJOINT(SHORT, 1, 1);
    return ADJOINT(SHORT, 0, 1);
#undef ADJOINT
#undef ADJOINT_SOME
}
