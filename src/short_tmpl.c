/* Rows of no more elements than there are virtual lanes, four at a time: they stay in registers between their passes, and
 * their trees, for which a row by itself would wait, grow together. The same bits as row by row. Written once in T. */

/* A row's vectors, V of them, with `fill` beyond its end. V is a constant wherever this is inlined, but for long rows. */
INLINE void FN(short_row)(const char *row, ptrdiff_t n, int V, A fill, vec v[U]) {
    UNROLL for (int u = 0; u < U; u++) {
        if (u < V) v[u] = FN(fetch)(row, u * VL, u + 1 < V ? VL : n - u * VL, fill);
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

/* moments_cell of four rows. `V` and `centre` (0 or 1) are constants wherever this is inlined. */
INLINE void FN(short_moments)(const char *const rows[4], ptrdiff_t n, int V, int centre, double *count, double *mean,
                              double *comp, double *m2) {
    const ivec inside = FIRST(n - (V - 1) * VL);
    FOUR m = {0};
    vec v[4][U], d[U], s[4], q[4];
    for (int i = 0; i < 4; i++) {
        if (centre) m[i] = LOAD1(rows[i]);
        FN(short_row)(rows[i], n, V, 0, v[i]);
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
    double last[4][4];
    for (ptrdiff_t c = 0; c < cells; c += 4) {
        const char *rows[4];
        const ptrdiff_t left = cells - c;
        for (int i = 0; i < 4; i++) rows[i] = x + (c + (i < left ? i : left - 1)) * step;
        double *count = left < 4 ? last[0] : out.count + c, *mean = left < 4 ? last[1] : out.mean + c;
        double *comp = left < 4 ? last[2] : out.comp + c, *m2 = left < 4 ? last[3] : out.m2 + c;
#define SHORT_MOMENTS(V, centre) FN(short_moments)(rows, n, V, centre, count, mean, comp, m2)
        if (n <= VL)
            centre ? SHORT_MOMENTS(1, 1) : SHORT_MOMENTS(1, 0);
        else if (n <= 2 * VL)
            centre ? SHORT_MOMENTS(2, 1) : SHORT_MOMENTS(2, 0);
        else
            SHORT_MOMENTS((int)((n + VL - 1) / VL), centre);
#undef SHORT_MOMENTS
        for (ptrdiff_t i = 0; left < 4 && i < left; i++) {
            out.count[c + i] = last[0][i];
            out.mean[c + i] = last[1][i];
            out.comp[c + i] = last[2][i];
            out.m2[c + i] = last[3][i];
        }
    }
}
