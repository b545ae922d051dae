/* Rows of at least twice as many elements as there are virtual lanes, and of one block at most, four at a time: their
 * samples, trees and moments are taken together, as a row by itself would wait for each. The same bits as row by row. Written
 * once in T; norm.c includes this file once per dtype. */

enum { FN(WALKED_BYTES) = 2048 }; /* of a row, at least, that is better walked than added up beside others */

/* Whether moments_rows takes such rows here. Vectors of less than 64 bytes need all registers for the lanes of one row, and
 * leave those of one run alone. */
INLINE int FN(is_middle)(ptrdiff_t n) {
    return n >= 2 * LANES && (n > RUN * LANES ? n * (ptrdiff_t)sizeof(A) <= FN_BLOCK_BYTES : VBYTES == 64);
}

/* add_squares of four rows. `moved` and `summed` are constants wherever this is inlined. */
INLINE void FN(add_four)(const char *const rows[4], ptrdiff_t n, int moved, int summed, FOUR c, vec s[4][U],
                         vec q[4][U]) {
    vec centre[4];
    UNROLL for (int i = 0; i < 4; i++) centre[i] = SPLAT(c[i]);
    RUN_LOOP(n, {
        UNROLL for (int i = 0; i < 4; i++) {
            const vec v = HELD(FN(fetch)(rows[i], at, k, c[i])), d = moved ? v - centre[i] : v;
            if (summed) s[i][u] += d;
            q[i][u] += d * d;
        }
    });
}

/* the guesses of four means, as FN(sample) */
INLINE FOUR FN(sample_four)(const char *const rows[4], ptrdiff_t n) {
    const ptrdiff_t low = n / (4 * LANES) * LANES, high = n / LANES * LANES - LANES - low;
    vec s[4], q[4];
    UNROLL for (int i = 0; i < 4; i++) {
        vec sums[U], squares[U];
        UNROLL for (int u = 0; u < U; u++) {
            const vec a = FN(fetch)(rows[i], low + u * VL, VL, 0), b = FN(fetch)(rows[i], high + u * VL, VL, 0);
            sums[u] = a + b;
            squares[u] = a * a + b * b;
        }
        s[i] = FN(folded)(sums);
        q[i] = FN(folded)(squares);
    }
    const FOUR sum = SUMFOUR(s), squares = SUMFOUR(q), none = {0};
    const A share = (A)1 / (A)(2 * LANES);
    const FOUR mean = sum * share;
    return (FOUR)((IFOUR)mean & ~((squares - squares == none) & (mean * mean < (A)NEAR * (squares * share))));
}

/* Whether four are added up side by side: those of one run, if the lanes of all fit the registers. Rows across cache lines that
 * are not too short are better walked one after the other. */
INLINE int FN(is_side_by_side)(ptrdiff_t n) {
    return VBYTES == 64 && n <= RUN * LANES && !(WALKS && n * (ptrdiff_t)sizeof(T) >= FN(WALKED_BYTES));
}

/* moments_cell of four rows, side by side or one after the other, each to a vector. `centre` (0 or 1) is a constant. */
INLINE FN(moments_of_four) FN(four_moments)(const char *const rows[4], ptrdiff_t n, int centre) {
    vec of_s[4], of_q[4];
    const FOUR m = centre ? FN(sample_four)(rows, n) : (FOUR){0};
    if (FN(is_side_by_side)(n)) {
        vec s[4][U] = {{{0}}}, q[4][U] = {{{0}}};
        if (m[0] == 0 && m[1] == 0 && m[2] == 0 && m[3] == 0)
            FN(add_four)(rows, n, 0, centre, m, s, q);
        else
            FN(add_four)(rows, n, 1, centre, m, s, q);
        UNROLL for (int i = 0; i < 4; i++) {
            of_s[i] = FN(folded)(s[i]);
            of_q[i] = FN(folded)(q[i]);
        }
    } else {
        for (int i = 0; i < 4; i++) {
            vec s[U] = {{0}}, q[U] = {{0}};
            if (m[i] == 0)
                FN(add_squares)(rows[i], NULL, n, 0, centre, 0, s, q);
            else
                FN(add_squares)(rows[i], NULL, n, 1, centre, m[i], s, q);
            of_s[i] = FN(folded)(s);
            of_q[i] = FN(folded)(q);
        }
    }
    return FN(close_four)(m, centre ? SUMFOUR(of_s) : (FOUR){0}, SUMFOUR(of_q), n);
}

/* moments_rows where every cell is one such row, without a mask: of four at a time; returns how many those are */
OUTLINE ptrdiff_t FN(middle_cells)(const char *x, ptrdiff_t step, ptrdiff_t cells, ptrdiff_t n, int centre,
                                   fn_moments out) {
    const fn_tile none = {0};
    for (ptrdiff_t c = 0; c + 4 <= cells; c += 4) {
        const char *row = x + c * step, *rows[4] = {row, row + step, row + 2 * step, row + 3 * step};
        const FN(moments_of_four) of = centre ? FN(four_moments)(rows, n, 1) : FN(four_moments)(rows, n, 0);
        FN(put_moments)(of, n, c, out);
        for (int i = 0; of.far && i < 4; i++) FN(moments_cell)((fn_tile){rows[i], 0}, none, 1, n, centre, c + i, out);
    }
    return cells / 4 * 4;
}
