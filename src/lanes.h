/* The loops that every template is written in; included once per dtype, after norm.c has named T, A and their vectors.
 *
 * Within a STEP, `at` is the first element of the current vector, `k` how many of its lanes are inside the row (VL in
 * the body, fewer in the tail) and, in LANE_LOOP, `u` the accumulator it belongs to. */

#undef VL
#define VL (VBYTES / (ptrdiff_t)sizeof(A))
#define LANES (LANES_BYTES / (ptrdiff_t)sizeof(A))
#define U (LANES_BYTES / VBYTES) /* vectors that together hold the virtual lanes */

#define UNROLL _Pragma("GCC unroll 8")
#define UNROLL_ALL _Pragma("GCC unroll 32")
#define TWICE _Pragma("GCC unroll 2") /* of loops over rows: 3 to 8 % of layer norm; four times is no faster */

#undef NEAR
#undef FAR
#undef FAR_COLS
/* The most of a sum of squares that may be due to the distance of a guessed mean from the mean: what is left keeps all
 * but 1 / (1 - FAR) of its digits. Columns guess from fewer elements, and all of a block pay for one that is far. */
#define FAR 0.25
#define NEAR 0.125 /* the same of a sample, from which 0 will do as the guess */
#define FAR_COLS 0.5

#undef RUN
#define RUN 16 /* what a virtual lane adds up before it is carried to the next sum: short runs round less */

/* Element j of a row belongs to virtual lane j % LANES. CARRY follows every RUN steps of the lanes, the last run taking
 * the tail with it. */
#define LANE_LOOP(n, CARRY, ...)                                                                                       \
    do {                                                                                                               \
        ptrdiff_t first = 0;                                                                                           \
        const ptrdiff_t full = (n) / LANES * LANES;                                                                    \
        while (first < full) {                                                                                         \
            const ptrdiff_t stop = first + RUN * LANES < full ? first + RUN * LANES : full;                            \
            for (; first < stop; first += LANES) {                                                                     \
                UNROLL for (int u = 0; u < U; u++) {                                                                   \
                    const ptrdiff_t at = first + u * VL, k = VL;                                                       \
                    __VA_ARGS__                                                                                        \
                }                                                                                                      \
            }                                                                                                          \
            if (stop < full) {                                                                                         \
                CARRY                                                                                                  \
            }                                                                                                          \
        }                                                                                                              \
        UNROLL for (int u = 0; u < U; u++) {                                                                           \
            const ptrdiff_t at = first + u * VL, k = (n) - at;                                                         \
            if (k > 0) {                                                                                               \
                __VA_ARGS__                                                                                            \
            }                                                                                                          \
        }                                                                                                              \
        CARRY                                                                                                          \
    } while (0)

/* the same over rows of one run at most */
#define RUN_LOOP(n, ...)                                                                                               \
    do {                                                                                                               \
        const ptrdiff_t full = (n) / LANES * LANES;                                                                    \
        for (ptrdiff_t first = 0; first < full; first += LANES) {                                                      \
            UNROLL for (int u = 0; u < U; u++) {                                                                       \
                const ptrdiff_t at = first + u * VL, k = VL;                                                           \
                __VA_ARGS__                                                                                            \
            }                                                                                                          \
        }                                                                                                              \
        UNROLL for (int u = 0; u < U; u++) {                                                                           \
            const ptrdiff_t at = full + u * VL, k = (n) - at;                                                          \
            if (k > 0) {                                                                                               \
                __VA_ARGS__                                                                                            \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

#define VECTOR_LOOP(n, ...)                                                                                            \
    do {                                                                                                               \
        ptrdiff_t at = 0;                                                                                              \
        TWICE for (; at + VL <= (n); at += VL) {                                                                       \
            const ptrdiff_t k = VL;                                                                                    \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
        if (at < (n)) {                                                                                                \
            const ptrdiff_t k = (n) - at;                                                                              \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
    } while (0)

/* the same over a row of V vectors, a constant, of which vector u is the current one */
#define FEW_LOOP(V, n, ...)                                                                                            \
    do {                                                                                                               \
        UNROLL for (int u = 0; u < (V); u++) {                                                                         \
            const ptrdiff_t at = u * VL, k = u + 1 < (V) ? VL : (n) - at;                                              \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
    } while (0)

/* call(V) with a constant in its place, if V is one of the four from `first` on; else `otherwise` */
#define ONE_OF_FOUR(V, first, call, otherwise)                                                                         \
    do {                                                                                                               \
        if ((V) == (first)) {                                                                                          \
            call((first));                                                                                             \
        } else if ((V) == (first) + 1) {                                                                               \
            call(((first) + 1));                                                                                       \
        } else if ((V) == (first) + 2) {                                                                               \
            call(((first) + 2));                                                                                       \
        } else if ((V) == (first) + 3) {                                                                               \
            call(((first) + 3));                                                                                       \
        } else {                                                                                                       \
            otherwise;                                                                                                 \
        }                                                                                                              \
    } while (0)

/* call(V), V a constant, for rows of n elements */
#define BY_FEW_VECTORS(n, call)                                                                                        \
    do {                                                                                                               \
        const ptrdiff_t V = ((n) + VL - 1) / VL;                                                                       \
        ONE_OF_FOUR(V, 1, call, ONE_OF_FOUR(V, 5, call, (void)0));                                                     \
    } while (0)

enum { FN(MOST_VECTORS) = 8 }; /* of a row beside which those of its parameters fit the registers */

INLINE int FN(is_few)(ptrdiff_t n) { return n <= FN(MOST_VECTORS) * VL; }

INLINE vec FN(fetch)(const char *row, ptrdiff_t at, ptrdiff_t k, A fill) {
    const char *p = row + at * (ptrdiff_t)sizeof(T);
    return k >= VL ? LOAD(p) : LOADN(p, k, fill);
}
/* the same of a row that is read in order: in each of its vectors, one after the other */
INLINE vec FN(take)(WALK *walk, const char *row, ptrdiff_t at, ptrdiff_t k, A fill) {
    return k >= VL ? WALK_ON(walk, at) : LOADN(row + at * (ptrdiff_t)sizeof(T), k, fill);
}
INLINE void FN(put)(char *row, ptrdiff_t at, ptrdiff_t k, vec v) {
    char *p = row + at * (ptrdiff_t)sizeof(T);
    if (k >= VL)
        STORE(p, v);
    else
        STOREN(p, v, k);
}
/* How these rows can go past the caches, if that is wanted: a result that is larger than they are would only drive out of
 * them what it comes from, and be fetched before it is overwritten. All of a row goes there or nothing: a line that is
 * stored in part this way and in part that way takes many times longer. */
enum { FN(NOT_PAST), FN(PAST_WHOLE), FN(PAST_IN_PIECES) };
INLINE int FN(way_past)(int wanted, fn_tile y, ptrdiff_t rows, ptrdiff_t n) {
    const uintptr_t bounds = (uintptr_t)y.base | (uintptr_t)(rows > 1 ? y.step : 0) | (uintptr_t)n * sizeof(T);
    if (!wanted || bounds % 16) return FN(NOT_PAST);
    return bounds % (VL * sizeof(T)) ? FN(PAST_IN_PIECES) : FN(PAST_WHOLE);
}
INLINE void FN(put_result)(char *row, ptrdiff_t at, ptrdiff_t k, vec v, int past) {
    char *p = row + at * (ptrdiff_t)sizeof(T);
    if (!past)
        FN(put)(row, at, k, v);
    else if (past == FN(PAST_WHOLE))
        STREAM(p, v);
    else if (k >= VL)
        STREAM16(p, v);
    else
        STREAM16N(p, v, k);
}
/* Asks for what is read later, while a result goes past the caches: memory would rest from reading meanwhile. What is in the
 * last cache gains nothing by it. The backward's two inputs come more slowly so, unless they are of 16 bits, whose arithmetic
 * takes longer than memory; wider ones are taken in large tiles instead (PAST_BYTES in slices_tmpl.c). */
enum { FN(ASKS_FOR_BOTH) = sizeof(T) == 2 };
INLINE void FN(ask_ahead)(const char *row, ptrdiff_t at, ptrdiff_t bytes) {
    if (bytes)
        __builtin_prefetch((const void *)((uintptr_t)row + (uintptr_t)(at * (ptrdiff_t)sizeof(T) + bytes)), 0, 2);
}
/* the same for rows of A: parameters, statistics and work arrays */
INLINE vec FN(fetch_a)(const A *row, ptrdiff_t at, ptrdiff_t k) {
    return k >= VL ? LOAD_A(row + at) : LOADN_A(row + at, k, 0);
}
INLINE void FN(put_a)(A *row, ptrdiff_t at, ptrdiff_t k, vec v) {
    if (k >= VL)
        STORE_A(row + at, v);
    else
        STOREN_A(row + at, v, k);
}
/* and for a row of V vectors as a whole */
INLINE void FN(fetch_few)(const A *a, ptrdiff_t n, int V, vec to[FN(MOST_VECTORS)]) {
    FEW_LOOP(V, n, to[u] = FN(fetch_a)(a, at, k););
}
INLINE void FN(put_few)(A *a, ptrdiff_t n, int V, const vec from[FN(MOST_VECTORS)]) {
    FEW_LOOP(V, n, FN(put_a)(a, at, k, from[u]););
}
/* a[0..n) = value; short ones by stores of all lanes as well, since those of some take longer than a loop */
INLINE void FN(fill)(A *a, ptrdiff_t n, A value) {
    const vec v = SPLAT(value);
    const FOUR four = value - (FOUR){0};
    ptrdiff_t j = 0;
    for (; j + VL <= n; j += VL) STORE_A(a + j, v);
    for (; j + 4 <= n; j += 4) memcpy(a + j, &four, sizeof four);
    for (; j < n; j++) a[j] = value;
}
INLINE ivec FN(fetch_mask)(const uint8_t *row, ptrdiff_t at, ptrdiff_t k) {
    return k >= VL ? MASK(row + at) : MASKN(row + at, k);
}
INLINE vec FN(zero_outside)(const uint8_t *row, ptrdiff_t at, ptrdiff_t k, vec v) {
    return row ? (vec)((ivec)v & FN(fetch_mask)(row, at, k)) : v;
}

/* in a row's tail: nothing in the lanes beyond it, whatever an infinite factor made of them */
INLINE vec FN(inside_row)(ptrdiff_t k, vec v) { return k >= VL ? v : (vec)((ivec)v & FIRST(k)); }

/* the upper part of the tree: all lanes as one vector */
INLINE vec FN(folded)(const vec s[U]) {
    vec t[U];
    UNROLL for (int u = 0; u < U; u++) t[u] = s[u];
    UNROLL for (int half = U / 2; half > 0; half /= 2) { UNROLL for (int u = 0; u < half; u++) t[u] += t[u + half]; }
    return t[0];
}
INLINE A FN(tree)(const vec s[U]) { return SUM(FN(folded)(s)); }

/* both trees at once */
INLINE void FN(trees)(const vec a[U], const vec b[U], A *of_a, A *of_b) {
    SUMPAIR(FN(folded)(a), FN(folded)(b), of_a, of_b);
}

/* the sum of n values in double, in four parts side by side */
INLINE double FN(sum_of)(const A *a, ptrdiff_t n) {
    if (n == 1) return (double)a[0];
    double t[4] = {0};
    ptrdiff_t j = 0;
    for (; j + 4 <= n; j += 4) {
        UNROLL for (int i = 0; i < 4; i++) t[i] += (double)a[j + i];
    }
    for (; j < n; j++) t[j % 4] += (double)a[j];
    return (t[0] + t[2]) + (t[1] + t[3]);
}

/* a parameter's row r, its scalar for that row, its vector: from the row where `along`, else the scalar everywhere */
INLINE const A *FN(param_row)(fn_param p, ptrdiff_t r) { return (const A *)p.a + r * p.step; }
INLINE vec FN(param_splat)(fn_param p, ptrdiff_t r, A neutral) {
    return SPLAT(p.a && !p.along ? *FN(param_row)(p, r) : neutral);
}
/* One that may be loaded for every row, without asking whether it is there. `neutral` stays where it is meanwhile. */
INLINE fn_param FN(param_or)(fn_param p, const A *neutral) { return p.a && !p.along ? p : (fn_param){neutral, 0, 0}; }
INLINE vec FN(param_load)(fn_param p, ptrdiff_t r) { return SPLAT(*FN(param_row)(p, r)); }
/* a row's, from its element j on */
INLINE fn_param FN(param_from)(fn_param p, ptrdiff_t r, ptrdiff_t j) {
    return (fn_param){p.a ? FN(param_row)(p, r) + (p.along ? j : 0) : NULL, p.step, p.along};
}
INLINE fn_tile FN(tile_at)(fn_tile t, ptrdiff_t r, ptrdiff_t j, ptrdiff_t size) {
    return (fn_tile){t.base ? t.base + r * t.step + j * size : NULL, t.step};
}
/* the tile of run i */
INLINE fn_tile FN(run_of)(fn_tile t, ptrdiff_t i, ptrdiff_t bytes) {
    return (fn_tile){t.base ? t.base + i * bytes : NULL, t.step};
}
/* nothing is to be corrected for the rounding of a mean of 0 */
INLINE int FN(is_slight)(A deviations) { return deviations == 0; }
INLINE const uint8_t *FN(mask_row)(fn_tile mask, ptrdiff_t r) {
    return mask.base ? (const uint8_t *)mask.base + r * mask.step : NULL;
}
