/* Columns of tiles of few elements. Where columns are too few to fill vectors, rows that adjoin are taken several as one wide
 * row, in which each column stands several times; where rows are too few to be worth their beginning, tiles that are taken
 * together are turned. The verbs on columns begin with these, and do what they leave. Written once in T; norm.c includes
 * this file once per dtype. What widens is out of line, and called only where it does, as its copies of parameters and sums
 * take 3 KB of stack. */

enum {
    FN(WIDE) = FN_WIDE_BYTES / (int)sizeof(A), /* elements of a wide row, at most */
    FN(WIDE_ROWS) = 24,                        /* the fewest that are worth their beginning and end */
    FN(FEW_ROWS) = 8,                          /* as many as are swept at once: tiles of fewer are turned */
};

static void FN(sweep_tiles_moments)(fn_tile x, fn_tile mask, fn_runs runs, ptrdiff_t rows, ptrdiff_t n, const A *c,
                                    A *s, A *q);
static void FN(sweep_tiles_dots)(fn_tile dy, fn_tile x, fn_tile mask, fn_runs runs, ptrdiff_t rows, ptrdiff_t n,
                                 const fn_dots *p, A *sg, A *sgx, A *sx);
static void FN(apply_tiles)(fn_tile x, fn_tile y, fn_runs runs, ptrdiff_t rows, ptrdiff_t n, const fn_affine *p);
static void FN(combine_tiles)(fn_tile dy, fn_tile x, fn_tile dx, fn_runs runs, ptrdiff_t rows, ptrdiff_t n,
                              const fn_adjoint *p);

/* so many rows of each tile make a wide one; 0: they stay as they are */
INLINE ptrdiff_t FN(rows_in_one)(fn_runs runs, ptrdiff_t rows, ptrdiff_t n) {
    const ptrdiff_t fit = fn_rows_in_one(n * (ptrdiff_t)sizeof(A));
    if (fit == 1) return 0;
    const ptrdiff_t worth = runs.count * rows / FN(WIDE_ROWS), some = worth < fit ? worth : fit;
    return some < 2 || rows < 2 ? 0 : fn_rows_left_few(rows, some);
}

/* Tiles of fewer rows than there are tiles as others, which have one row of each of them. */
INLINE ptrdiff_t FN(turn_runs)(fn_runs *runs, ptrdiff_t rows, fn_tile *x, fn_tile *dy, fn_tile *y) {
    const fn_runs of = *runs;
    if (of.count <= rows || rows >= FN(FEW_ROWS)) return rows;
    *runs = (fn_runs){rows, x->step, dy->step, y->step};
    x->step = of.x;
    dy->step = of.dy;
    y->step = of.y;
    return of.count;
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

/* the rows of each tile that make whole wide ones; returns how many those are */
OUTLINE ptrdiff_t FN(apply_narrow)(fn_tile x, fn_tile y, fn_runs runs, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t many,
                                   const fn_affine *p) {
    const ptrdiff_t size = sizeof(T);
    if (!p->rstd.along || !FN(adjoins)(x, n, size) || !FN(adjoins)(y, n, size)) return 0;
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
    FN(apply_tiles)(FN(widened)(x, many), FN(widened)(y, many), runs, rows / many, many * n, &q);
    return rows / many * many;
}

OUTLINE ptrdiff_t FN(combine_narrow)(fn_tile dy, fn_tile x, fn_tile dx, fn_runs runs, ptrdiff_t rows, ptrdiff_t n,
                                     ptrdiff_t many, const fn_adjoint *p) {
    const ptrdiff_t size = sizeof(T);
    const fn_param params[] = {p->mean, p->rstd, p->c1, p->c2, p->weight};
    if (!p->rstd.along || !FN(are_steady)(params, 5)) return 0;
    if (!FN(adjoins)(dy, n, size) || !FN(adjoins)(x, n, size) || !FN(adjoins)(dx, n, size)) return 0;
    A of[5][FN(WIDE)];
    const fn_adjoint q = {.mean = FN(repeated)(p->mean, n, many, of[0]),
                          .rstd = FN(repeated)(p->rstd, n, many, of[1]),
                          .c1 = FN(repeated)(p->c1, n, many, of[2]),
                          .c2 = FN(repeated)(p->c2, n, many, of[3]),
                          .weight = FN(repeated)(p->weight, n, many, of[4]),
                          .past = p->past};
    FN(combine_tiles)(FN(widened)(dy, many), FN(widened)(x, many), FN(widened)(dx, many), runs, rows / many, many * n,
                      &q);
    return rows / many * many;
}

/* adds to each of n sums those of its columns in a wide row */
static void FN(add_narrow)(const A *wide, ptrdiff_t n, ptrdiff_t many, A *sums) {
    for (ptrdiff_t j = 0; j < n; j++) {
        double sum = (double)sums[j];
        for (ptrdiff_t i = j; i < many * n; i += n) sum += (double)wide[i];
        sums[j] = (A)sum;
    }
}

/* adds to the sums of sweep_tiles_moments those of rows that make whole wide ones */
OUTLINE void FN(moments_narrow)(fn_tile x, fn_runs runs, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t many, const A *c, A *s,
                                A *q) {
    const fn_tile none = {0};
    const fn_param centre = {c, 0, 1};
    A of_c[FN(WIDE)], of[2][FN(WIDE)] = {{0}};
    FN(repeated)(centre, n, many, of_c);
    FN(sweep_tiles_moments)(FN(widened)(x, many), none, runs, rows / many, many * n, of_c, of[0], of[1]);
    FN(add_narrow)(of[0], n, many, s);
    FN(add_narrow)(of[1], n, many, q);
}

INLINE int FN(dots_widen)(fn_tile dy, fn_tile x, fn_tile mask, ptrdiff_t n, const fn_dots *p) {
    const fn_param params[] = {p->mean, p->rstd, p->shift, p->weight};
    return !mask.base && FN(adjoins)(dy, n, sizeof(T)) && FN(adjoins)(x, n, sizeof(T)) && FN(are_steady)(params, 4);
}
/* adds to the sums of sweep_tiles_dots those of rows that make whole wide ones */
OUTLINE void FN(dots_narrow)(fn_tile dy, fn_tile x, fn_runs runs, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t many,
                             const fn_dots *p, A *sg, A *sgx, A *sx) {
    const fn_tile none = {0};
    A of[3][FN(WIDE)] = {{0}}, wide[4][FN(WIDE)];
    const fn_dots q = {.mean = FN(repeated)(p->mean, n, many, wide[0]),
                       .rstd = FN(repeated)(p->rstd, n, many, wide[1]),
                       .shift = FN(repeated)(p->shift, n, many, wide[2]),
                       .weight = FN(repeated)(p->weight, n, many, wide[3])};
    FN(sweep_tiles_dots)(FN(widened)(dy, many), FN(widened)(x, many), none, runs, rows / many, many * n, &q, of[0],
                         of[1], of[2]);
    FN(add_narrow)(of[0], n, many, sg);
    FN(add_narrow)(of[1], n, many, sgx);
    FN(add_narrow)(of[2], n, many, sx);
}
