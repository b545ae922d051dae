/* The ROWS verbs: a row reduces to one number. Written once in T; norm.c includes this file once per dtype. */

/* for j: s[lane(j)] += x[j] - c; `moved` is a constant, 0 where c is: additions are what these loops consist of */
INLINE void FN(add_deviations)(const char *x, const uint8_t *mask, ptrdiff_t n, int moved, A c, vec s[U]) {
    vec t[U] = {{0}}, centre = SPLAT(c);
    WALK walk = WALK_FROM(x);
    LANE_LOOP(
        n,
        UNROLL for (int u = 0; u < U; u++) {
            s[u] += t[u];
            t[u] = (vec){0};
        },
        {
            const vec v = FN(take)(&walk, x, at, k, c);
            t[u] += FN(zero_outside)(mask, at, k, moved ? v - centre : v);
        });
}

/* for j: d = x[j] - c; s[lane(j)] += d; q[lane(j)] += d * d; `moved` and `summed` (without: only q) are constants */
INLINE void FN(add_squares)(const char *x, const uint8_t *mask, ptrdiff_t n, int moved, int summed, A c, vec s[U],
                            vec q[U]) {
    vec t[U] = {{0}}, w[U] = {{0}}, centre = SPLAT(c);
    WALK walk = WALK_FROM(x);
    LANE_LOOP(
        n,
        UNROLL for (int u = 0; u < U; u++) {
            if (summed) s[u] += t[u];
            q[u] += w[u];
            t[u] = w[u] = (vec){0};
        },
        {
            const vec v = HELD(FN(take)(&walk, x, at, k, c)), d = FN(zero_outside)(mask, at, k, moved ? v - centre : v);
            if (summed) t[u] += d;
            w[u] += d * d;
        });
}

/* how many elements the mask lets in, and where the first one stands */
static ptrdiff_t FN(count_inside)(fn_tile mask, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t *row, ptrdiff_t *column) {
    ptrdiff_t count = 0;
    for (ptrdiff_t r = rows - 1; r >= 0; r--) {
        const uint8_t *m = FN(mask_row)(mask, r);
        ptrdiff_t inside = 0, j = 0;
        for (ptrdiff_t i = 0; i < n; i++) inside += m[i];
        if (!inside) continue;
        while (!m[j]) j++;
        *row = r;
        *column = j;
        count += inside;
    }
    return count;
}

/* A guess of the row's mean: that of two runs of its lanes, a quarter from either end, exact where all elements are
 * equal. Where it is so near 0 that squares around 0 lose next to nothing, 0. */
INLINE A FN(sample)(const char *x, ptrdiff_t n) {
    const ptrdiff_t low = n / (4 * LANES) * LANES, high = n / LANES * LANES - LANES - low;
    vec s[U], q[U];
    UNROLL for (int u = 0; u < U; u++) {
        const vec a = FN(fetch)(x, low + u * VL, VL, 0), b = FN(fetch)(x, high + u * VL, VL, 0);
        s[u] = a + b;
        q[u] = a * a + b * b;
    }
    const A share = (A)1 / (A)(2 * LANES);
    A sum, squares;
    FN(trees)(s, q, &sum, &squares);
    const A mean = sum * share;
    const int finite = squares - squares == 0; /* squares beyond the range say nothing, nor do those that are all 0 */
    return finite && mean * mean < (A)NEAR * (squares * share) ? 0 : mean;
}

/* From the lanes of s = sum(x - m) and q = sum((x - m)^2) to one cell's moments. Returns whether m was so far off that the
 * squares lost digits: the subtraction magnifies their error by 1 / (1 - FAR) at most where it was not. */
INLINE int FN(close_moments)(const vec s[U], const vec q[U], int centre, A m, double count, ptrdiff_t cell,
                             fn_moments out) {
    A of_s, of_q;
    FN(trees)(s, q, &of_s, &of_q);
    const double sum = centre ? (double)of_s : 0, rest = sum / count, squares = (double)of_q - sum * rest;
    out.mean[cell] = (double)m + rest;
    out.comp[cell] = rest - (out.mean[cell] - (double)m);
    out.m2[cell] = squares < 0 ? 0 : squares;
    return sum * rest > FAR * (double)of_q;
}

/* `centre` is a constant wherever this is inlined without a mask */
INLINE void FN(moments_cell)(fn_tile x, fn_tile mask, ptrdiff_t rows, ptrdiff_t n, int centre, ptrdiff_t cell,
                             fn_moments out) {
    ptrdiff_t row = 0, column = 0, inside = rows * n;
    if (mask.base) inside = FN(count_inside)(mask, rows, n, &row, &column);
    double count = (double)inside;
    out.count[cell] = count;
    out.mean[cell] = out.comp[cell] = out.m2[cell] = 0;
    if (!inside) return;

    A m = 0;
    vec s[U] = {{0}}, q[U] = {{0}};
    if (centre) {
        const int sampled = !mask.base && n >= 2 * LANES;
        m = sampled ? FN(sample)(x.base, n) : LOAD1(x.base + row * x.step + column * (ptrdiff_t)sizeof(T));
        if (sampled && centre == FN_MEAN) {
            if (m == 0)
                for (ptrdiff_t r = 0; r < rows; r++) FN(add_deviations)(x.base + r * x.step, NULL, n, 0, 0, s);
            else
                for (ptrdiff_t r = 0; r < rows; r++) FN(add_deviations)(x.base + r * x.step, NULL, n, 1, m, s);
            FN(close_moments)(s, q, 1, m, count, cell, out);
            return;
        }
        if (sampled) {
            if (m == 0)
                for (ptrdiff_t r = 0; r < rows; r++) FN(add_squares)(x.base + r * x.step, NULL, n, 0, 1, 0, s, q);
            else
                for (ptrdiff_t r = 0; r < rows; r++) FN(add_squares)(x.base + r * x.step, NULL, n, 1, 1, m, s, q);
            if (!FN(close_moments)(s, q, 1, m, count, cell, out)) return;
            m = (A)out.mean[cell];
            UNROLL for (int u = 0; u < U; u++) s[u] = q[u] = (vec){0};
        } else {
            for (ptrdiff_t r = 0; r < rows; r++)
                FN(add_deviations)(x.base + r * x.step, FN(mask_row)(mask, r), n, 1, m, s);
            m += FN(tree)(s) / (A)count;
            UNROLL for (int u = 0; u < U; u++) s[u] = (vec){0};
        }
    }
    for (ptrdiff_t r = 0; r < rows; r++)
        FN(add_squares)(x.base + r * x.step, FN(mask_row)(mask, r), n, centre, centre, m, s, q);
    FN(close_moments)(s, q, centre, m, count, cell, out);
}

#include "middle_tmpl.c"

static void FN(moments_rows)(fn_tile x, fn_tile mask, ptrdiff_t cells, ptrdiff_t cell_step, ptrdiff_t mask_cell_step,
                             ptrdiff_t rows, ptrdiff_t n, int centre, fn_moments out) {
    ptrdiff_t first = 0;
    if (rows == 1 && !mask.base && (centre ? n < 2 * LANES : n <= 2 * LANES)) { /* from there on the mean is sampled */
        first = FN(short_cells)(x.base, cell_step, cells, n, centre != 0, out);
        x.base += first * cell_step;
    } else if (rows == 1 && !mask.base && centre != FN_MEAN && FN(is_middle)(n)) {
        first = FN(middle_cells)(x.base, cell_step, cells, n, centre, out);
        x.base += first * cell_step;
    }
    double count, mean, comp, m2, low, none_low = 0;
    const fn_moments more = {&count, &mean, &comp, &m2, &none_low};
    const fn_tile none = {0};
    /* rows, or elements of a row, as one accumulation may span: all as even as can be */
    const ptrdiff_t fit = FN_BLOCK_BYTES / (n * (ptrdiff_t)sizeof(A)), runs = fit < 1 ? rows : (rows + fit - 1) / fit;
    const ptrdiff_t most = (rows + runs - 1) / runs, piece = fit < 1 ? fn_piece(n, (ptrdiff_t)sizeof(A)) : n;
    for (ptrdiff_t c = first; c < cells; c++) {
        low = 0;
        for (ptrdiff_t r = 0, at = 0; r < rows; at + piece < n ? (at += piece) : (at = 0, r += most)) {
            const fn_tile from = FN(tile_at)(x, r, at, sizeof(T)), inside = FN(tile_at)(mask, r, at, 1);
            const ptrdiff_t k = rows - r < most ? rows - r : most, width = n - at < piece ? n - at : piece;
            const int begun = r > 0 || at > 0;
            const ptrdiff_t cell = begun ? 0 : c;
            const fn_moments into = begun ? more : out;
            if (mask.base)
                FN(moments_cell)(from, inside, k, width, centre, cell, into);
            else if (centre == FN_MEAN)
                FN(moments_cell)(from, none, k, width, FN_MEAN, cell, into);
            else if (centre)
                FN(moments_cell)(from, none, k, width, 1, cell, into);
            else
                FN(moments_cell)(from, none, k, width, 0, cell, into);
            if (begun) merge(1, (fn_moments){out.count + c, out.mean + c, out.comp + c, out.m2 + c, &low}, more);
        }
        x.base += cell_step;
        if (mask.base) mask.base += mask_cell_step;
    }
}

/* The lanes of one row of the backward's sums. `has_x`, `along` (mean, rstd, shift vary along the row), `weight_along`,
 * `shifted`, `centred` (there is a mean), `with_g` (sg is wanted) and a NULL mask are constants wherever this is inlined. */
INLINE void FN(add_dots)(const char *dy, const char *x, const uint8_t *mask, ptrdiff_t n, const fn_dots *p, ptrdiff_t r,
                         int has_x, int with_g, int centred, int along, int weight_along, int shifted, vec sg[U],
                         vec sgx[U], vec sx[U]) {
    vec tg[U] = {{0}}, tgx[U] = {{0}}, tx[U] = {{0}};
    const A *mean = FN(param_row)(p->mean, r), *rstd = FN(param_row)(p->rstd, r);
    const A *shift = FN(param_row)(p->shift, r), *weight = FN(param_row)(p->weight, r);
    const vec mean0 = FN(param_splat)(p->mean, r, 0), rstd0 = FN(param_splat)(p->rstd, r, 1);
    const vec shift0 = FN(param_splat)(p->shift, r, 0), weight0 = FN(param_splat)(p->weight, r, 1);
    WALK walk_dy = WALK_FROM(dy), walk_x = WALK_FROM(has_x ? x : dy);
    LANE_LOOP(
        n,
        UNROLL for (int u = 0; u < U; u++) {
            sg[u] += tg[u];
            sgx[u] += tgx[u];
            sx[u] += tx[u];
            tg[u] = tgx[u] = tx[u] = (vec){0};
        },
        {
            vec g = FN(take)(&walk_dy, dy, at, k, 0);
            g *= weight_along ? FN(fetch_a)(weight, at, k) : weight0;
            g = FN(inside_row)(k, FN(zero_outside)(mask, at, k, g));
            if (with_g) tg[u] += g;
            if (has_x) {
                vec m = along ? FN(fetch_a)(mean, at, k) : mean0, s = along ? FN(fetch_a)(rstd, at, k) : rstd0;
                const vec v = FN(take)(&walk_x, x, at, k, 0);
                vec xhat = FN(zero_outside)(mask, at, k, (centred ? v - m : v) * s);
                xhat = FN(inside_row)(k, xhat);
                vec moved = xhat;
                if (shifted) moved = FN(zero_outside)(mask, at, k, xhat - (along ? FN(fetch_a)(shift, at, k) : shift0));
                tgx[u] += FN(inside_row)(k, g * moved);
                if (!along && centred) tx[u] += xhat;
            }
        });
}

/* the sums themselves of one row */
INLINE void FN(dots_row)(const char *dy, const char *x, const uint8_t *mask, ptrdiff_t n, const fn_dots *p, ptrdiff_t r,
                         int has_x, int with_g, int centred, int along, int weight_along, int shifted, int slight,
                         fn_sums out) {
    vec sg[U] = {{0}}, sgx[U] = {{0}}, sx[U] = {{0}};
    FN(add_dots)(dy, x, mask, n, p, r, has_x, with_g, centred, along, weight_along, shifted, sg, sgx, sx);
    A g, gx;
    FN(trees)(sg, sgx, &g, &gx);
    if (with_g) out.g[r] = (double)g;
    if (has_x) out.gx[r] = (double)gx;
    if (has_x && !along) out.x[r] = slight ? 0 : (double)FN(tree)(sx);
}

/* rows r to before `rows`, one after the other */
OUTLINE void FN(dots_each_row)(fn_tile dy, fn_tile x, fn_tile mask, ptrdiff_t r, ptrdiff_t rows, ptrdiff_t n,
                               const fn_dots *p, fn_sums out) {
    const int weight_along = p->weight.a && p->weight.along, along = p->mean.a && p->mean.along;
    const int shifted = p->shift.a != NULL;
    for (; r < rows; r++) {
        const char *g = dy.base + r * dy.step, *v = x.base ? x.base + r * x.step : NULL;
        const uint8_t *m = FN(mask_row)(mask, r);
        const A deviations = p->mean.a && !along ? *FN(param_row)(p->mean, r) * *FN(param_row)(p->rstd, r) : 0;
        const int slight = FN(is_slight)(deviations);
#define DOTS_ROW(mask, ...) FN(dots_row)(g, v, mask, n, p, r, 1, 1, __VA_ARGS__, slight, out)
        if (!v)
            FN(dots_row)(g, NULL, m, n, p, r, 0, 1, 0, 0, weight_along, 0, slight, out);
        else if (!out.g)
            weight_along ? FN(dots_row)(g, v, NULL, n, p, r, 1, 0, 0, 0, 1, 0, slight, out)
                         : FN(dots_row)(g, v, NULL, n, p, r, 1, 0, 0, 0, 0, 0, slight, out);
        else if (along && !mask.base && !weight_along)
            shifted ? DOTS_ROW(NULL, 1, 1, 0, 1) : DOTS_ROW(NULL, 1, 1, 0, 0);
        else if (along)
            DOTS_ROW(m, 1, 1, weight_along, shifted);
        else if (mask.base || shifted)
            DOTS_ROW(m, 1, 0, weight_along, shifted);
        else if (!p->mean.a)
            weight_along ? DOTS_ROW(NULL, 0, 0, 1, 0) : DOTS_ROW(NULL, 0, 0, 0, 0);
        else
            weight_along ? DOTS_ROW(NULL, 1, 0, 1, 0) : DOTS_ROW(NULL, 1, 0, 0, 0);
#undef DOTS_ROW
    }
}

static void FN(dots_rows)(fn_tile dy, fn_tile x, fn_tile mask, ptrdiff_t rows, ptrdiff_t n, const fn_dots *p,
                          fn_sums out);

/* dots_rows of rows that are longer than one accumulation may span: piece by piece, added in double */
static void FN(dots_long_rows)(fn_tile dy, fn_tile x, fn_tile mask, ptrdiff_t rows, ptrdiff_t n, const fn_dots *p,
                               fn_sums out) {
    const ptrdiff_t most = fn_piece(n, (ptrdiff_t)sizeof(A));
    const int has_x = x.base != NULL, with_x = has_x && !(p->mean.a && p->mean.along);
    for (ptrdiff_t r = 0; r < rows; r++) {
        double g = 0, gx = 0, sx = 0, of[3] = {0};
        for (ptrdiff_t at = 0; at < n; at += most) {
            const fn_dots q = {.mean = FN(param_from)(p->mean, r, at),
                               .rstd = FN(param_from)(p->rstd, r, at),
                               .shift = FN(param_from)(p->shift, r, at),
                               .weight = FN(param_from)(p->weight, r, at)};
            FN(dots_rows)(FN(tile_at)(dy, r, at, sizeof(T)), FN(tile_at)(x, r, at, sizeof(T)),
                          FN(tile_at)(mask, r, at, 1), 1, n - at < most ? n - at : most, &q,
                          (fn_sums){out.g ? of : NULL, of + 1, of + 2});
            g += of[0];
            gx += of[1];
            sx += of[2];
        }
        if (out.g) out.g[r] = g;
        if (has_x) out.gx[r] = gx;
        if (with_x) out.x[r] = sx;
    }
}

static void FN(dots_rows)(fn_tile dy, fn_tile x, fn_tile mask, ptrdiff_t rows, ptrdiff_t n, const fn_dots *p,
                          fn_sums out) {
    if (n * (ptrdiff_t)sizeof(A) > FN_BLOCK_BYTES) {
        FN(dots_long_rows)(dy, x, mask, rows, n, p, out);
        return;
    }
    const int along = p->mean.a && p->mean.along;
    const int is_short = n <= 2 * LANES && x.base && !mask.base && !along && !p->shift.a;
    const ptrdiff_t done = is_short ? FN(short_dots_rows)(dy, x, rows, n, p, out) : 0;
    if (done < rows) FN(dots_each_row)(dy, x, mask, done, rows, n, p, out);
    int all = 1;
    for (ptrdiff_t r = 0; out.g && r < rows; r++) all &= out.g[r] - out.g[r] == 0;
    for (ptrdiff_t r = 0; x.base && r < rows; r++) all &= out.gx[r] - out.gx[r] == 0;
    if (!all) FN(resum_rows)(dy, x, mask, rows, n, p, out);
}
