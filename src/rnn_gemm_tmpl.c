/* Matrix products C (+)= A B with B packed, for the shapes of recurrent nets: few rows of A, the same B many times.
 *
 * B (K, N) is packed in panels of WIDTH columns, (K, WIDTH) each, the last one narrower, zeros where there is no column.
 * Element (i, k) of A is at a[i * a_row + k / FN_PAD * a_block + k % FN_PAD * a_k]: rows, columns of a matrix, and the
 * blocks in which the gate gradients are kept are all read in place.
 *
 * Every element of C is one chain of fused multiply-adds over k, in order: its bits do not depend on the tile that it
 * is computed in, nor on the tier. */

typedef struct {
    const A *a;
    ptrdiff_t row, k, block;
} FN(left);

typedef void FN(tile)(ptrdiff_t K, const A *a, const FN(left) * s, const A *b, ptrdiff_t width, A *c, ptrdiff_t ldc,
                      ptrdiff_t n, int add, fn_ahead *ahead);

#define TILE(MR, NV)                                                                                                   \
    static void FN(tile_##MR##_##NV)(ptrdiff_t K, const A *a, const FN(left) * s, const A *b, ptrdiff_t width, A *c,   \
                                     ptrdiff_t ldc, ptrdiff_t n, int add, fn_ahead *ahead) {                           \
        vec sum[MR][NV];                                                                                               \
        const ptrdiff_t row = s->row, step = s->k, block = s->block;                                                   \
        for (int i = 0; i < MR; i++)                                                                                   \
            for (int v = 0; v < NV; v++) __builtin_prefetch(c + i * ldc + v * VL, 1);                                  \
        for (int i = 0; i < MR; i++)                                                                                   \
            for (int v = 0; v < NV; v++) sum[i][v] = SPLAT((A)0);                                                      \
        for (ptrdiff_t first = 0; first < K; first += FN_PAD, a += block) {                                            \
            const ptrdiff_t count = K - first < FN_PAD ? K - first : FN_PAD;                                           \
            const A *p = a;                                                                                            \
            fn_fetch(ahead);                                                                                           \
            for (ptrdiff_t k = 0; k < count; k++, p += step, b += width) {                                             \
                vec right[NV];                                                                                         \
                UNROLL for (int v = 0; v < NV; v++) right[v] = LOAD(b + v * VL);                                       \
                UNROLL for (int i = 0; i < MR; i++) {                                                                  \
                    const vec left = SPLAT(p[i * row]);                                                                \
                    UNROLL for (int v = 0; v < NV; v++) sum[i][v] = FMA(left, right[v], sum[i][v]);                    \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        for (int i = 0; i < MR; i++, c += ldc) {                                                                       \
            for (int v = 0; v < NV; v++) {                                                                             \
                const ptrdiff_t inside = n - v * VL;                                                                   \
                if (inside >= VL)                                                                                      \
                    STORE(c + v * VL, add ? LOAD(c + v * VL) + sum[i][v] : sum[i][v]);                                 \
                else if (inside > 0)                                                                                   \
                    STOREN(c + v * VL, add ? LOADN(c + v * VL, inside, 0) + sum[i][v] : sum[i][v], inside);            \
            }                                                                                                          \
        }                                                                                                              \
    }
#define TILES(MR) TILE(MR, 1) TILE(MR, 2) TILE(MR, 3)
#define ENTRY(MR) {FN(tile_##MR##_1), FN(tile_##MR##_2), FN(tile_##MR##_3)}
TILES(1)
TILES(2)
TILES(3)
TILES(4)
#if MOST_ROWS == 8
TILES(5)
TILES(6)
TILES(7)
TILES(8)
static FN(tile) *const
    FN(tiles)[MOST_ROWS][3] = {ENTRY(1), ENTRY(2), ENTRY(3), ENTRY(4), ENTRY(5), ENTRY(6), ENTRY(7), ENTRY(8)};
#else
static FN(tile) *const FN(tiles)[MOST_ROWS][3] = {ENTRY(1), ENTRY(2), ENTRY(3), ENTRY(4)};
#endif
#undef TILE
#undef TILES
#undef ENTRY

#define WIDTH (3 * VL)

INLINE ptrdiff_t FN(panels)(ptrdiff_t N) { return fn_rnn_ceil(N, WIDTH); }
/* columns of panel j, padding included */
INLINE ptrdiff_t FN(panel_width)(ptrdiff_t N, ptrdiff_t j) {
    const ptrdiff_t rest = N - j * WIDTH;
    return rest >= WIDTH ? WIDTH : fn_rnn_ceil(rest, VL) * VL;
}

/* `steps` times M rows; a and c move on by a_step and c_step from one to the next. Meanwhile what is `ahead` comes
 * nearer; NULL: nothing */
static void FN(gemm)(ptrdiff_t steps, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, FN(left) a, ptrdiff_t a_step, const A *b,
                     A *c, ptrdiff_t ldc, ptrdiff_t c_step, int add, const fn_ahead *ahead) {
    fn_ahead rest = {0};
    if (ahead) {
        const ptrdiff_t tiles = steps * fn_rnn_ceil(M, MOST_ROWS) * FN(panels)(N);
        rest = *ahead;
        rest.lines = fn_rnn_ceil(rest.bytes, tiles * fn_rnn_ceil(K, FN_PAD) * FN_LINE);
    }
    for (ptrdiff_t j = 0; j < FN(panels)(N); j++) {
        const ptrdiff_t width = FN(panel_width)(N, j);
        const A *panel = b + j * WIDTH * K;
        const ptrdiff_t n = N - j * WIDTH;
        for (ptrdiff_t t = 0; t < steps; t++) {
            for (ptrdiff_t i = 0; i < M; i += MOST_ROWS) {
                const ptrdiff_t rows = M - i < MOST_ROWS ? M - i : MOST_ROWS;
                const A *rows_of_a = a.a + t * a_step + i * a.row;
                A *to = c + t * c_step + i * ldc + j * WIDTH;
                FN(tile) *const tile = FN(tiles)[rows - 1][width / VL - 1];
                tile(K, rows_of_a, &a, panel, width, to, ldc, n, add, &rest);
            }
        }
    }
}

/* ---- packing weights; both matrices have G H rows, which in padded gates are G P ----------------------------------- */

/* to (4, 4) = from.T; from one row to the next */
INLINE void FN(turn)(const A *from, ptrdiff_t from_row, A *to, ptrdiff_t to_row) {
    typedef A four __attribute__((vector_size(4 * sizeof(A))));
    four a[4], b[4];
    for (int i = 0; i < 4; i++) MOVE(a[i], from + i * from_row);
    for (int i = 0; i < 4; i += 2) {
        b[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 4, 1, 5);
        b[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 2, 6, 3, 7);
    }
    for (int i = 0; i < 2; i++) {
        a[2 * i] = __builtin_shufflevector(b[i], b[i + 2], 0, 1, 4, 5);
        a[2 * i + 1] = __builtin_shufflevector(b[i], b[i + 2], 2, 3, 6, 7);
    }
    for (int i = 0; i < 4; i++) memcpy(to + i * to_row, &a[i], sizeof(four));
}

/* panel j of weight.T: (K, G P) from (G H, K) */
static void FN(pack_turned)(const fn_rnn *r, const A *weight, ptrdiff_t K, A *pack, ptrdiff_t j) {
    const ptrdiff_t width = FN(panel_width)(r->G * r->P, j);
    A *panel = pack + j * WIDTH * K;
    for (ptrdiff_t first = 0; first < K; first += FN_PAD) {
        const ptrdiff_t stop = first + FN_PAD < K ? first + FN_PAD : K;
        for (ptrdiff_t n = 0; n < width;) {
            const ptrdiff_t gate = (j * WIDTH + n) / r->P, unit = (j * WIDTH + n) % r->P;
            const int columns = n + 4 <= width && unit + 4 <= r->H ? 4 : 1;
            const A *from = weight + (gate * r->H + unit) * K;
            ptrdiff_t k = first;
            if (columns == 4)
                for (; k + 4 <= stop; k += 4) FN(turn)(from + k, K, panel + k * width + n, width);
            for (; k < stop; k++)
                for (int i = 0; i < columns; i++) panel[k * width + n + i] = unit < r->H ? from[i * K + k] : 0;
            n += columns;
        }
    }
}

/* panel j of weight: (G P, N) from (G H, N) */
static void FN(pack_straight)(const fn_rnn *r, const A *weight, ptrdiff_t N, A *pack, ptrdiff_t j) {
    const ptrdiff_t width = FN(panel_width)(N, j), inside = N - j * WIDTH < width ? N - j * WIDTH : width;
    A *panel = pack + j * WIDTH * r->G * r->P;
    for (ptrdiff_t k = 0; k < r->G * r->P; k++, panel += width) {
        const ptrdiff_t gate = k / r->P, unit = k % r->P;
        if (unit >= r->H) {
            memset(panel, 0, (size_t)width * sizeof(A));
            continue;
        }
        memcpy(panel, weight + (gate * r->H + unit) * N + j * WIDTH, (size_t)inside * sizeof(A));
        for (ptrdiff_t n = inside; n < width; n++) panel[n] = 0;
    }
}

#define PACKER(name, how, weight, columns, pack)                                                                       \
    static void FN(name)(void *rnn, ptrdiff_t j, int worker) {                                                         \
        const fn_rnn *r = rnn;                                                                                         \
        (void)worker;                                                                                                  \
        FN(how)(r, r->weight, r->columns, r->pack, j);                                                                 \
    }
PACKER(pack_weight_ih, pack_turned, weight_ih, I, pack_ih)
PACKER(pack_weight_hh, pack_turned, weight_hh, H, pack_hh)
PACKER(pack_back_ih, pack_straight, weight_ih, I, back_ih)
PACKER(pack_back_hh, pack_straight, weight_hh, H, back_hh)
#undef PACKER

/* row k of a matrix (K, N) that is packed row by row; NULL: zeros */
INLINE void FN(pack_row)(A *pack, ptrdiff_t K, ptrdiff_t N, ptrdiff_t k, const A *row) {
    for (ptrdiff_t j = 0; j < FN(panels)(N); j++) {
        const ptrdiff_t width = FN(panel_width)(N, j), inside = N - j * WIDTH < width ? N - j * WIDTH : width;
        A *to = pack + j * WIDTH * K + k * width;
        if (!row) {
            memset(to, 0, (size_t)width * sizeof(A));
            continue;
        }
        memcpy(to, row + j * WIDTH, (size_t)inside * sizeof(A));
        for (ptrdiff_t n = inside; n < width; n++) to[n] = 0;
    }
}
