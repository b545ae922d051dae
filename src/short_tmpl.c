/* Rows of no more elements than there are virtual lanes, four at a time: they stay in registers between their passes, and
 * their trees, for which a row by itself would wait, grow together. The same bits as row by row. Written once in T. */

/* A row's vectors, V of them, 0 beyond its end. V is a constant wherever this is inlined for one or two. */
INLINE void FN(short_row)(const char *row, ptrdiff_t n, int V, vec v[U]) {
    UNROLL for (int u = 0; u < U; u++) {
        if (u < V) v[u] = FN(fetch)(row, u * VL, u + 1 < V ? VL : n - u * VL, 0);
    }
}
/* the lanes as one vector (FN(folded)), those beyond the row's end left out */
INLINE vec FN(short_folded)(const vec d[U], int V, ivec inside) {
    vec t[U];
    UNROLL for (int u = 0; u < U; u++) t[u] = u + 1 < V ? d[u] : u < V ? (vec)((ivec)d[u] & inside) : (vec){0};
    t[0] += (vec){0}; /* -0 to 0, as where 0 is what is added to */
    return FN(folded)(t);
}
INLINE vf64x4 FN(wide)(FOUR a) { return __builtin_convertvector(a, vf64x4); }
INLINE void FN(put_four)(double *to, vf64x4 v) { memcpy(to, &v, sizeof v); }

/* moments_cell of four rows. `V` and `centre` (0 or 1) are constants wherever this is inlined for one
 * vector or two. */
INLINE void FN(short_moments)(const char *const rows[4], ptrdiff_t n, int V, int centre, double *count, double *mean,
                              double *comp, double *m2) {
    const ivec inside = FIRST(n - (V - 1) * VL);
    FOUR m = {0};
    vec v[4][U] = {{{0}}}, d[U], s[4], q[4];
    for (int i = 0; i < 4; i++) {
        if (centre) m[i] = LOAD1(rows[i]);
        FN(short_row)(rows[i], n, V, v[i]);
    }
    if (centre) { /* around the first element, to learn the mean */
        UNROLL for (int i = 0; i < 4; i++) {
            UNROLL for (int u = 0; u < U; u++) d[u] = u < V ? v[i][u] - SPLAT(m[i]) : (vec){0};
            s[i] = FN(short_folded)(d, V, inside);
        }
        m += SUMFOUR(s) / (FOUR){(A)n, (A)n, (A)n, (A)n};
    }
    UNROLL for (int i = 0; i < 4; i++) {
        UNROLL for (int u = 0; u < U; u++) d[u] = u >= V ? (vec){0} : centre ? v[i][u] - SPLAT(m[i]) : v[i][u];
        if (centre) s[i] = FN(short_folded)(d, V, inside);
        UNROLL for (int u = 0; u < U; u++) d[u] *= d[u];
        q[i] = FN(short_folded)(d, V, inside);
    }
    /* close_moments of all four */
    const vf64x4 all = {(double)n, (double)n, (double)n, (double)n}, from = FN(wide)(m);
    const vf64x4 sum = centre ? FN(wide)(SUMFOUR(s)) : (vf64x4){0}, rest = sum / all, at = from + rest;
    vf64x4 squares = FN(wide)(SUMFOUR(q)) - sum * rest;
    squares = (vf64x4)((vi64x4)squares & ~(squares < 0));
    FN(put_four)(count, all);
    FN(put_four)(mean, at);
    FN(put_four)(comp, rest - (at - from));
    FN(put_four)(m2, squares);
}

/* moments_rows where every cell is one short row, without a mask */
static void FN(short_cells)(const char *x, ptrdiff_t step, ptrdiff_t cells, ptrdiff_t n, int centre, fn_moments out) {
    double left[4][4];
    for (ptrdiff_t c = 0; c < cells; c += 4) {
        const char *rows[4];
        const int whole = cells - c >= 4;
        for (int i = 0; i < 4; i++) rows[i] = x + (c + i < cells ? c + i : cells - 1) * step;
        double *count = whole ? out.count + c : left[0], *mean = whole ? out.mean + c : left[1];
        double *comp = whole ? out.comp + c : left[2], *m2 = whole ? out.m2 + c : left[3];
#define SHORT_MOMENTS(V, centre) FN(short_moments)(rows, n, V, centre, count, mean, comp, m2)
        if (n <= VL)
            centre ? SHORT_MOMENTS(1, 1) : SHORT_MOMENTS(1, 0);
        else if (n <= 2 * VL)
            centre ? SHORT_MOMENTS(2, 1) : SHORT_MOMENTS(2, 0);
        else
            SHORT_MOMENTS((int)((n + VL - 1) / VL), centre);
#undef SHORT_MOMENTS
        for (ptrdiff_t i = 0; !whole && i < cells - c; i++) {
            out.count[c + i] = count[i];
            out.mean[c + i] = mean[i];
            out.comp[c + i] = comp[i];
            out.m2[c + i] = m2[i];
        }
    }
}

/* dots_row of rows r to r + 3, at most the last one: with x, without a mask, one mean and rstd to a row. `V`, `centred` and
 * `weight_along` are constants wherever this is inlined. */
INLINE void FN(short_dots)(fn_tile dy, fn_tile x, ptrdiff_t r, ptrdiff_t last, ptrdiff_t n, int V, const fn_dots *p,
                           int centred, int weight_along, double *g, double *gx, double *sx) {
    const ivec inside = FIRST(n - (V - 1) * VL);
    vec of_g[4], of_gx[4], of_x[4];
    UNROLL for (int i = 0; i < 4; i++) {
        const ptrdiff_t row = r + i < last ? r + i : last;
        const A *weights = FN(param_row)(p->weight, row);
        const vec mean = FN(param_splat)(p->mean, row, 0), rstd = FN(param_splat)(p->rstd, row, 1);
        const vec weight = FN(param_splat)(p->weight, row, 1);
        vec v[U] = {{0}}, d[U] = {{0}}, e[U] = {{0}};
        FN(short_row)(dy.base + row * dy.step, n, V, d);
        FN(short_row)(x.base + row * x.step, n, V, v);
        UNROLL for (int u = 0; u < U; u++) {
            if (u >= V) continue;
            const ptrdiff_t at = u * VL, k = u + 1 < V ? VL : n - at;
            d[u] *= weight_along ? FN(fetch_a)(weights, at, k) : weight;
            v[u] = (centred ? v[u] - mean : v[u]) * rstd;
            e[u] = d[u] * v[u];
        }
        of_g[i] = FN(short_folded)(d, V, inside);
        of_gx[i] = FN(short_folded)(e, V, inside);
        if (centred) of_x[i] = FN(short_folded)(v, V, inside);
    }
    FN(put_four)(g, FN(wide)(SUMFOUR(of_g)));
    FN(put_four)(gx, FN(wide)(SUMFOUR(of_gx)));
    const vf64x4 sums = centred ? FN(wide)(SUMFOUR(of_x)) : (vf64x4){0};
    for (int i = 0; i < 4; i++) {
        const ptrdiff_t row = r + i < last ? r + i : last;
        const int slight = !centred || FN(is_slight)(*FN(param_row)(p->mean, row) * *FN(param_row)(p->rstd, row));
        sx[i] = slight ? 0 : sums[i];
    }
}

/* dots_rows of short rows, as short_dots wants them */
static void FN(short_dots_rows)(fn_tile dy, fn_tile x, ptrdiff_t rows, ptrdiff_t n, const fn_dots *p, fn_sums out) {
    const int weight_along = p->weight.a && p->weight.along, centred = p->mean.a != NULL;
    const int both = centred && weight_along;
    double left[3][4];
    for (ptrdiff_t r = 0; r < rows; r += 4) {
        const int whole = rows - r >= 4;
        double *g = whole ? out.g + r : left[0], *gx = whole ? out.gx + r : left[1], *sx = whole ? out.x + r : left[2];
#define SHORT_DOTS(V, centred, weight_along)                                                                           \
    FN(short_dots)(dy, x, r, rows - 1, n, V, p, centred, weight_along, g, gx, sx)
        if (n <= VL)
            both ? SHORT_DOTS(1, 1, 1) : SHORT_DOTS(1, centred, weight_along);
        else if (n <= 2 * VL)
            both ? SHORT_DOTS(2, 1, 1) : SHORT_DOTS(2, centred, weight_along);
        else
            SHORT_DOTS((int)((n + VL - 1) / VL), centred, weight_along);
#undef SHORT_DOTS
        for (ptrdiff_t i = 0; !whole && i < rows - r; i++) {
            out.g[r + i] = g[i];
            out.gx[r + i] = gx[i];
            out.x[r + i] = sx[i];
        }
    }
}
