/* The sums of rows of no more than 32 elements, as many rows at a time as a vector has lanes, turned: each column is a
 * vector then, and trees are sums of vectors. The same bits as row by row. Written once in T; norm.c includes this file once
 * per dtype. */

enum { FN(MOST_COLUMNS) = 32 };

/* whether they are, but for the last ones */
INLINE int FN(is_turned)(ptrdiff_t n) { return n <= FN(MOST_COLUMNS); }

/* The columns of VL rows, P of them, from n on without sense. P, a constant, is the power of two from n on, 8 at least. */
INLINE void FN(turn_in)(const char *row, ptrdiff_t step, ptrdiff_t n, int P, vec columns[FN(MOST_COLUMNS)]) {
    if (P < VL) { /* two rows to a vector, and half as many of them */
        enum { HALF = VL / 2 };
        vec v[HALF];
        UNROLL_ALL for (int i = 0; i < HALF; i++) v[i] =
            HALVES(LOADN(row + i * step, n, 0), LOADN(row + (i + HALF) * step, n, 0));
        TURN_HALVES(v);
        UNROLL_ALL for (int i = 0; i < HALF; i++) columns[i] = v[i];
        return;
    }
    UNROLL_ALL for (int at = 0; at < P; at += VL) {
        const ptrdiff_t k = n - at;
        vec v[VL];
        if (k >= VL) {
            UNROLL_ALL for (int i = 0; i < VL; i++) v[i] = FN(fetch)(row + i * step, at, VL, 0);
        } else if (k > 0) {
            UNROLL_ALL for (int i = 0; i < VL; i++) v[i] = LOADN(row + i * step + at * (ptrdiff_t)sizeof(T), k, 0);
        } else {
            UNROLL_ALL for (int i = 0; i < VL; i++) v[i] = (vec){0};
        }
        TURN(v);
        UNROLL_ALL for (int i = 0; i < VL; i++) {
            if (at + i < P) columns[at + i] = v[i];
        }
    }
}

/* v where column j is one of n, else 0 */
INLINE vec FN(inside_columns)(int j, int P, ptrdiff_t n, vec v) {
    return j < (P == 8 ? 1 : P / 2) ? v : (vec)((ivec)v & FIRST(j < n ? VL : 0));
}

/* FN(tree) of every row at once: column j belongs to virtual lane j % LANES */
INLINE vec FN(tree_of_columns)(const vec columns[FN(MOST_COLUMNS)], int P) {
    vec t[FN(MOST_COLUMNS) / 2];
    UNROLL_ALL for (int j = 0; j < P / 2; j++) t[j] = columns[j] + columns[j + P / 2];
    UNROLL_ALL for (int half = P / 4; half > 0; half /= 2) {
        UNROLL_ALL for (int j = 0; j < half; j++) t[j] += t[j + half];
    }
    return t[0] + (vec){0}; /* -0 to 0, as where 0 is what is added to */
}

/* short_moments of VL rows. `P` and `centre` (0 or 1) are constants. */
INLINE void FN(moments_turned)(const char *row, ptrdiff_t step, ptrdiff_t n, int P, int centre, double *count,
                               double *mean, double *comp, double *m2) {
    vec m = {0}, s = {0}, columns[FN(MOST_COLUMNS)], d[FN(MOST_COLUMNS)];
    FN(turn_in)(row, step, n, P, columns);
    if (centre) {
        UNROLL_ALL for (int j = 0; j < P; j++) d[j] = FN(inside_columns)(j, P, n, columns[j] - columns[0]);
        m = columns[0] + FN(tree_of_columns)(d, P) / SPLAT((A)n);
    }
    UNROLL_ALL for (int j = 0; j < P; j++) d[j] = FN(inside_columns)(j, P, n, centre ? columns[j] - m : columns[j]);
    if (centre) s = FN(tree_of_columns)(d, P);
    UNROLL_ALL for (int j = 0; j < P; j++) d[j] *= d[j];
    const vec q = FN(tree_of_columns)(d, P);
    UNROLL for (int i = 0; i < VL; i += VL_f64) { /* close_moments */
        const vf64 all = splat_f64((double)n), from = PART(m, i), sum = PART(s, i), rest = sum / all, at = from + rest;
        const vf64 squares = PART(q, i) - sum * rest;
        store_f64(count + i, all);
        store_f64(mean + i, at);
        store_f64(comp + i, rest - (at - from));
        store_f64(m2 + i, (vf64)((vi64)squares & ~(squares < (vf64){0})));
    }
}

/* moments_rows where every cell is one row, without a mask, and they are turned; returns how many cells are done */
OUTLINE ptrdiff_t FN(turned_cells)(const char *x, ptrdiff_t step, ptrdiff_t cells, ptrdiff_t n, int centre,
                                   fn_moments out) {
    ptrdiff_t c = 0;
#define TURNED_CELLS(P, centre)                                                                                        \
    for (; c + VL <= cells; c += VL)                                                                                   \
    FN(moments_turned)(x + c * step, step, n, P, centre, out.count + c, out.mean + c, out.comp + c, out.m2 + c)
    if (n <= 8 && centre)
        TURNED_CELLS(8, 1);
    else if (n <= 8)
        TURNED_CELLS(8, 0);
    else if (n <= 16 && centre)
        TURNED_CELLS(16, 1);
    else if (n <= 16)
        TURNED_CELLS(16, 0);
    else if (centre)
        TURNED_CELLS(32, 1);
    else
        TURNED_CELLS(32, 0);
#undef TURNED_CELLS
    return c;
}

/* sum x^2 and sum dy * x of VL rows, for rows of one piece as slices_tmpl.c has them. `P` is a constant. */
INLINE void FN(products_turned)(const char *dy, ptrdiff_t dy_step, const char *x, ptrdiff_t x_step, ptrdiff_t n, int P,
                                double *squares, double *products) {
    vec g[FN(MOST_COLUMNS)], v[FN(MOST_COLUMNS)];
    FN(turn_in)(dy, dy_step, n, P, g);
    FN(turn_in)(x, x_step, n, P, v);
    UNROLL_ALL for (int j = 0; j < P; j++) {
        g[j] = FN(inside_columns)(j, P, n, g[j] * v[j]);
        v[j] = FN(inside_columns)(j, P, n, v[j] * v[j]);
    }
    const vec q = FN(tree_of_columns)(v, P), c = FN(tree_of_columns)(g, P);
    UNROLL for (int i = 0; i < VL; i += VL_f64) {
        store_f64(squares + i, PART(q, i));
        store_f64(products + i, PART(c, i));
    }
}
/* the same of up to `rows` rows that are turned; returns how many are done */
OUTLINE ptrdiff_t FN(turned_products)(fn_tile dy, fn_tile x, ptrdiff_t rows, ptrdiff_t n, double *squares,
                                      double *products) {
    ptrdiff_t r = 0;
    for (; r + VL <= rows; r += VL) {
        const char *gs = dy.base + r * dy.step, *xs = x.base + r * x.step;
        if (n <= 8)
            FN(products_turned)(gs, dy.step, xs, x.step, n, 8, squares + r, products + r);
        else if (n <= 16)
            FN(products_turned)(gs, dy.step, xs, x.step, n, 16, squares + r, products + r);
        else
            FN(products_turned)(gs, dy.step, xs, x.step, n, 32, squares + r, products + r);
    }
    return r;
}
