/* Rows of up to twice as many elements as there are virtual lanes, four at a time: they stay in registers between their
 * passes, and their trees, for which a row by itself would wait, grow together. The same bits as row by row. Written once
 * in T. */

enum { FN(MOST_V) = 2 * U }; /* vectors of such a row */

/* A row's vectors, V of them, 0 beyond its end. V is a constant wherever this is inlined for four or fewer. */
INLINE void FN(short_row)(const char *row, ptrdiff_t n, int V, vec v[FN(MOST_V)]) {
    UNROLL for (int u = 0; u < FN(MOST_V); u++) {
        if (u < V) v[u] = FN(fetch)(row, u * VL, u + 1 < V ? VL : n - u * VL, 0);
    }
}
/* the lanes' sums over V vectors as one vector (FN(folded)) */
INLINE vec FN(short_tree)(vec t[U], int V) {
    if (V >= U) t[0] += (vec){0}; /* -0 to 0, as where 0 is what is added to */
    return FN(folded)(t);
}
/* the same of the vectors themselves, without what stands beyond the row's end */
INLINE vec FN(short_folded)(const vec d[FN(MOST_V)], int V, ivec inside) {
    vec t[U];
    UNROLL for (int u = 0; u < U; u++) {
        t[u] = u + 1 < V ? d[u] : u < V ? (vec)((ivec)d[u] & inside) : (vec){0};
        if (U + u < V) t[u] += U + u + 1 < V ? d[U + u] : (vec)((ivec)d[U + u] & inside);
    }
    return FN(short_tree)(t, V);
}
INLINE void FN(store_four)(double *to, vf64x4 v) { memcpy(to, &v, sizeof v); }

typedef struct {
    vf64x4 mean, comp, m2;
    int far; /* whether some m was far off */
} FN(moments_of_four);

/* close_moments of four rows, whose sums around m these are */
INLINE FN(moments_of_four) FN(close_four)(FOUR m, FOUR of_s, FOUR of_q, ptrdiff_t n) {
    const vf64x4 all = splat_four((double)n), from = IN_DOUBLE(m), sum = IN_DOUBLE(of_s);
    const vf64x4 rest = sum / all, at = from + rest, q = IN_DOUBLE(of_q), squares = q - sum * rest;
    const vi64x4 far = sum * rest > FAR * q;
    return (FN(moments_of_four)){.mean = at,
                                 .comp = rest - (at - from),
                                 .m2 = (vf64x4)((vi64x4)squares & ~(squares < 0)),
                                 .far = (far[0] | far[1] | far[2] | far[3]) != 0};
}
INLINE void FN(put_moments)(FN(moments_of_four) of, ptrdiff_t n, ptrdiff_t cell, fn_moments out) {
    FN(store_four)(out.count + cell, splat_four((double)n));
    FN(store_four)(out.mean + cell, of.mean);
    FN(store_four)(out.comp + cell, of.comp);
    FN(store_four)(out.m2 + cell, of.m2);
}

/* moments_cell of four rows. `V` and `centre` (0 or 1) are constants wherever this is inlined for four
 * vectors or fewer. */
INLINE FN(moments_of_four) FN(short_moments)(const char *const rows[4], ptrdiff_t n, int V, int centre) {
    const ivec inside = FIRST(n - (V - 1) * VL);
    FOUR m = {0};
    enum { MOST = FN(MOST_V) };
    vec v[4][MOST] = {{{0}}}, d[MOST], s[4], q[4];
    for (int i = 0; i < 4; i++) {
        if (centre) m[i] = LOAD1(rows[i]);
        FN(short_row)(rows[i], n, V, v[i]);
    }
    if (centre) { /* around the first element, to learn the mean */
        UNROLL for (int i = 0; i < 4; i++) {
            UNROLL for (int u = 0; u < MOST; u++) d[u] = u < V ? v[i][u] - SPLAT(m[i]) : (vec){0};
            s[i] = FN(short_folded)(d, V, inside);
        }
        m += SUMFOUR(s) / (FOUR){(A)n, (A)n, (A)n, (A)n};
    }
    UNROLL for (int i = 0; i < 4; i++) {
        UNROLL for (int u = 0; u < MOST; u++) d[u] = u >= V ? (vec){0} : centre ? v[i][u] - SPLAT(m[i]) : v[i][u];
        if (centre) s[i] = FN(short_folded)(d, V, inside);
        UNROLL for (int u = 0; u < MOST; u++) d[u] *= d[u];
        q[i] = FN(short_folded)(d, V, inside);
    }
    return FN(close_four)(m, centre ? SUMFOUR(s) : (FOUR){0}, SUMFOUR(q), n);
}

/* call(V) for rows of n elements */
#define BY_VECTORS(n, call)                                                                                            \
    do {                                                                                                               \
        const int V = (int)(((n) + VL - 1) / VL);                                                                      \
        ONE_OF_FOUR(V, 1, call, call(V));                                                                              \
    } while (0)

/* moments_rows where every cell is one short row, without a mask: of four at a time; returns how many those are */
static ptrdiff_t FN(short_cells)(const char *x, ptrdiff_t step, ptrdiff_t cells, ptrdiff_t n, int centre,
                                 fn_moments out) {
#define SHORT_CELLS(V, centre)                                                                                         \
    for (ptrdiff_t c = turned; c + 4 <= cells; c += 4) {                                                               \
        const char *row = x + c * step, *rows[4] = {row, row + step, row + 2 * step, row + 3 * step};                  \
        FN(put_moments)(FN(short_moments)(rows, n, V, centre), n, c, out);                                             \
    }
    const ptrdiff_t turned = FN(is_turned)(n) ? FN(turned_cells)(x, step, cells, n, centre, out) : 0;
#define SHORT_CENTRED(V) SHORT_CELLS(V, 1)
#define SHORT_PLAIN(V) SHORT_CELLS(V, 0)
    if (centre)
        BY_VECTORS(n, SHORT_CENTRED);
    else
        BY_VECTORS(n, SHORT_PLAIN);
#undef SHORT_PLAIN
#undef SHORT_CENTRED
#undef SHORT_CELLS
    return turned + (cells - turned) / 4 * 4;
}

/* dots_row of rows r to r + 3: with x, without a mask, one mean and rstd to a row. `V`, `centred` and
 * `weight_along` are constants wherever this is inlined. */
INLINE void FN(short_dots)(fn_tile dy, fn_tile x, ptrdiff_t r, ptrdiff_t n, int V, const fn_dots *p, int centred,
                           int weight_along, fn_sums out) {
    const ivec inside = FIRST(n - (V - 1) * VL);
    vec of_g[4], of_gx[4], of_x[4];
    UNROLL for (int i = 0; i < 4; i++) {
        const ptrdiff_t row = r + i;
        const char *dys = dy.base + row * dy.step, *xs = x.base + row * x.step;
        const A *weights = FN(param_row)(p->weight, row);
        const vec mean = FN(param_splat)(p->mean, row, 0), rstd = FN(param_splat)(p->rstd, row, 1);
        const vec weight = FN(param_splat)(p->weight, row, 1);
        vec tg[U] = {{0}}, tgx[U] = {{0}}, tx[U] = {{0}};
        UNROLL for (int u = 0; u < FN(MOST_V); u++) {
            if (u >= V) continue;
            const int last = u + 1 == V;
            const ptrdiff_t at = u * VL, k = last ? n - at : VL;
            vec g = FN(fetch)(dys, at, k, 0) * (weight_along ? FN(fetch_a)(weights, at, k) : weight);
            vec v = FN(fetch)(xs, at, k, 0), gx;
            v = (centred ? v - mean : v) * rstd;
            gx = g * v;
            if (last) {
                g = (vec)((ivec)g & inside);
                gx = (vec)((ivec)gx & inside);
                v = (vec)((ivec)v & inside);
            }
            tg[u % U] = u < U ? g : tg[u % U] + g;
            tgx[u % U] = u < U ? gx : tgx[u % U] + gx;
            if (centred) tx[u % U] = u < U ? v : tx[u % U] + v;
        }
        of_g[i] = FN(short_tree)(tg, V);
        of_gx[i] = FN(short_tree)(tgx, V);
        if (centred) of_x[i] = FN(short_tree)(tx, V);
    }
    if (out.g) FN(store_four)(out.g + r, IN_DOUBLE(SUMFOUR(of_g)));
    FN(store_four)(out.gx + r, IN_DOUBLE(SUMFOUR(of_gx)));
    const vf64x4 sums = centred ? IN_DOUBLE(SUMFOUR(of_x)) : (vf64x4){0};
    for (int i = 0; i < 4; i++) {
        const int slight = !centred || FN(is_slight)(*FN(param_row)(p->mean, r + i) * *FN(param_row)(p->rstd, r + i));
        out.x[r + i] = slight ? 0 : sums[i];
    }
}

/* dots_rows of short rows, as short_dots wants them; returns how many rows that are */
static ptrdiff_t FN(short_dots_rows)(fn_tile dy, fn_tile x, ptrdiff_t rows, ptrdiff_t n, const fn_dots *p,
                                     fn_sums out) {
    const int weight_along = p->weight.a && p->weight.along, centred = p->mean.a != NULL;
#define SHORT_ROWS(V, centred, weight_along)                                                                           \
    for (ptrdiff_t r = 0; r + 4 <= rows; r += 4) FN(short_dots)(dy, x, r, n, V, p, centred, weight_along, out)
#define SHORT_CENTRED(V) SHORT_ROWS(V, 1, 0)
#define SHORT_WEIGHED(V) SHORT_ROWS(V, 1, 1)
#define SHORT_OTHERS(V) SHORT_ROWS(V, 0, weight_along)
    if (centred && weight_along)
        BY_VECTORS(n, SHORT_WEIGHED);
    else if (centred)
        BY_VECTORS(n, SHORT_CENTRED);
    else
        BY_VECTORS(n, SHORT_OTHERS);
#undef SHORT_OTHERS
#undef SHORT_WEIGHED
#undef SHORT_CENTRED
#undef SHORT_ROWS
    return rows / 4 * 4;
}
#undef BY_VECTORS
