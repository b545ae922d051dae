/* Columns that are too few to fill vectors: rows that adjoin are taken several as one wide row, in which each column stands
 * several times. The verbs on columns begin with these, and do what they leave. Written once in T; norm.c includes this
 * file once per dtype. */

enum {
    FN(WIDE) = FN_WIDE_BYTES / (int)sizeof(A), /* elements of a wide row, at most */
    FN(WIDE_ROWS) = 24,                        /* the fewest that are worth their beginning and end */
};

static void FN(moments_cols)(fn_tile x, fn_tile mask, ptrdiff_t rows, ptrdiff_t n, int centre, void *work,
                             fn_moments out);
static void FN(dots_cols)(fn_tile dy, fn_tile x, fn_tile mask, ptrdiff_t rows, ptrdiff_t n, const fn_dots *p,
                          void *work, fn_sums out);
static void FN(apply)(fn_tile x, fn_tile y, ptrdiff_t rows, ptrdiff_t n, const fn_affine *p);
static void FN(combine)(fn_tile dy, fn_tile x, fn_tile mask, fn_tile dx, ptrdiff_t rows, ptrdiff_t n,
                        const fn_adjoint *p);

/* so many rows make a wide one; 0: they stay as they are */
INLINE ptrdiff_t FN(rows_in_one)(ptrdiff_t rows, ptrdiff_t n) {
    const ptrdiff_t most = fn_rows_in_one(n * (ptrdiff_t)sizeof(A)), many = rows / FN(WIDE_ROWS);
    return most == 1 || many < 2 ? 0 : many < most ? many : most;
}
INLINE int FN(adjoins)(fn_tile t, ptrdiff_t n, ptrdiff_t size) { return !t.base || t.step == n * size; }
INLINE fn_tile FN(widened)(fn_tile t, ptrdiff_t many) { return (fn_tile){t.base, many * t.step}; }

/* whether every one of them is the same for all rows */
INLINE int FN(are_steady)(const fn_param *params, int count) {
    int steady = 1;
    for (int i = 0; i < count; i++) steady &= !params[i].a || params[i].step == 0;
    return steady;
}

/* the parameter of a wide row; what varies along the row is repeated, in `to` */
static fn_param FN(repeated)(fn_param p, ptrdiff_t n, ptrdiff_t many, A *to) {
    if (!p.a || !p.along) return p;
    for (ptrdiff_t i = 0; i < many; i++) memcpy(to + i * n, p.a, (size_t)n * sizeof(A));
    return (fn_param){to, 0, 1};
}

static ptrdiff_t FN(apply_narrow)(fn_tile x, fn_tile y, ptrdiff_t rows, ptrdiff_t n, const fn_affine *p) {
    const ptrdiff_t many = FN(rows_in_one)(rows, n), size = sizeof(T);
    if (!many || !p->rstd.along || !FN(adjoins)(x, n, size) || !FN(adjoins)(y, n, size)) return 0;
    const fn_param params[] = {p->mean, p->comp, p->rstd, p->prescale, p->weight, p->bias};
    if (!FN(are_steady)(params, 6)) return 0;
    A of[6][FN(WIDE)];
    const fn_affine q = {.mean = FN(repeated)(p->mean, n, many, of[0]),
                         .comp = FN(repeated)(p->comp, n, many, of[1]),
                         .rstd = FN(repeated)(p->rstd, n, many, of[2]),
                         .prescale = FN(repeated)(p->prescale, n, many, of[3]),
                         .weight = FN(repeated)(p->weight, n, many, of[4]),
                         .bias = FN(repeated)(p->bias, n, many, of[5]),
                         .past = p->past};
    FN(apply)(FN(widened)(x, many), FN(widened)(y, many), rows / many, many * n, &q);
    return rows / many * many;
}

static ptrdiff_t FN(combine_narrow)(fn_tile dy, fn_tile x, fn_tile mask, fn_tile dx, ptrdiff_t rows, ptrdiff_t n,
                                    const fn_adjoint *p) {
    const ptrdiff_t many = FN(rows_in_one)(rows, n), size = sizeof(T);
    const fn_param params[] = {p->mean, p->rstd, p->c1, p->c2, p->weight};
    if (!many || !p->rstd.along || !FN(are_steady)(params, 5)) return 0;
    if (!FN(adjoins)(dy, n, size) || !FN(adjoins)(x, n, size) || !FN(adjoins)(dx, n, size)) return 0;
    if (!FN(adjoins)(mask, n, 1)) return 0;
    A of[5][FN(WIDE)];
    const fn_adjoint q = {.mean = FN(repeated)(p->mean, n, many, of[0]),
                          .rstd = FN(repeated)(p->rstd, n, many, of[1]),
                          .c1 = FN(repeated)(p->c1, n, many, of[2]),
                          .c2 = FN(repeated)(p->c2, n, many, of[3]),
                          .weight = FN(repeated)(p->weight, n, many, of[4]),
                          .past = p->past};
    FN(combine)(FN(widened)(dy, many), FN(widened)(x, many), FN(widened)(mask, many), FN(widened)(dx, many),
                rows / many, many * n, &q);
    return rows / many * many;
}

/* moments_cols; returns 0, and nothing is written, where they are not narrow */
static int FN(moments_narrow)(fn_tile x, fn_tile mask, ptrdiff_t rows, ptrdiff_t n, int centre, fn_moments out) {
    const ptrdiff_t many = FN(rows_in_one)(rows, n), done = many ? rows / many * many : 0;
    if (!many || !FN(adjoins)(x, n, sizeof(T)) || !FN(adjoins)(mask, n, 1)) return 0;
    double of[5][FN(WIDE)], low[FN(WIDE)] = {0};
    A work[4 * FN(WIDE)];
    const fn_moments m = {of[0], of[1], of[2], of[3], of[4]};
    const fn_moments into = {out.count, out.mean, out.comp, out.m2, low};
    memset(of[4], 0, sizeof of[4]);
    FN(moments_cols)(FN(widened)(x, many), FN(widened)(mask, many), rows / many, many * n, centre, work, m);
    for (ptrdiff_t j = 0; j < n; j++) {
        into.count[j] = m.count[j];
        into.mean[j] = m.mean[j];
        into.comp[j] = m.comp[j];
        into.m2[j] = m.m2[j];
    }
    for (ptrdiff_t i = n; i < many * n; i += n)
        merge(n, into, (fn_moments){of[0] + i, of[1] + i, of[2] + i, of[3] + i, of[4]});
    if (done < rows) {
        FN(moments_cols)(fn_tile_from(x, done), fn_tile_from(mask, done), rows - done, n, centre, work, m);
        merge(n, into, m);
    }
    return 1;
}

static ptrdiff_t FN(dots_narrow)(fn_tile dy, fn_tile x, fn_tile mask, ptrdiff_t rows, ptrdiff_t n, const fn_dots *p,
                                 fn_sums out) {
    const ptrdiff_t many = FN(rows_in_one)(rows, n), size = sizeof(T);
    const int has_x = x.base != NULL, along = has_x && p->mean.a && p->mean.along;
    if (!many || !FN(adjoins)(dy, n, size) || !FN(adjoins)(x, n, size) || !FN(adjoins)(mask, n, 1)) return 0;
    const fn_param params[] = {p->mean, p->rstd, p->shift, p->weight};
    if (!FN(are_steady)(params, 4)) return 0;
    double of[3][FN(WIDE)] = {{0}};
    A work[3 * FN(WIDE)], wide[4][FN(WIDE)];
    const fn_dots q = {.mean = FN(repeated)(p->mean, n, many, wide[0]),
                       .rstd = FN(repeated)(p->rstd, n, many, wide[1]),
                       .shift = FN(repeated)(p->shift, n, many, wide[2]),
                       .weight = FN(repeated)(p->weight, n, many, wide[3])};
    FN(dots_cols)(FN(widened)(dy, many), FN(widened)(x, many), FN(widened)(mask, many), rows / many, many * n, &q, work,
                  (fn_sums){of[0], of[1], of[2]});
    for (ptrdiff_t i = 0; i < many; i++)
        for (ptrdiff_t j = 0; j < n; j++) {
            out.g[j] += of[0][i * n + j];
            if (has_x) out.gx[j] += of[1][i * n + j];
            if (along) out.x[j] += of[2][i * n + j];
        }
    return rows / many * many;
}
