/* exp, the logistic function and the hyperbolic tangent, in vectors of A. The same bits on every tier: only + - * /,
 * multiply-adds that are fused by name, and bit patterns.
 *
 * With y = n ln 2 + r and |r| <= ln 2 / 2, exp(y) - 1 = 2^n p + (2^n - 1), where p = r + r^2 q(r) and q is the polynomial
 * through (exp(r) - 1 - r) / r^2 at Chebyshev's points (relative error of p: 2.4e-8 for float, 1e-17 for double).
 * Errors measured over all floats: sigmoid and tanh within 3 ulp (tests/test_recurrent_engine.py scans them). */

/* 2^n (p, and what p lacks) of exp(y), for y within the range where 2^n is a normal number */
INLINE vec FN(exp_parts)(vec y, vec *scale) {
    const vec magic = SPLAT(EXP_MAGIC);
    const vec shifted = FMA(y, SPLAT((A)0x1.71547652b82fep+0), magic); /* the last bits are n, rounded to nearest */
    const vec n = shifted - magic;
    const vec r = FMA(n, SPLAT(-EXP_LN2_LOW), FMA(n, SPLAT(-EXP_LN2_HIGH), y));
    *scale = (vec)(((ivec)shifted << EXP_SHIFT) + (ivec)SPLAT((A)1));
    vec q = SPLAT(exp_q[EXP_TERMS - 1]);
    _Pragma("GCC unroll 16") for (int i = EXP_TERMS - 2; i >= 0; i--) q = FMA(q, r, SPLAT(exp_q[i]));
    return FMA(r * r, q, r);
}

/* -|x|, but nowhere below `limit`. NaN stays NaN */
INLINE vec FN(minus_magnitude)(vec x, A limit) { return MAX(SPLAT(limit), (vec)((ivec)x | (ivec)SPLAT((A)-0.0))); }

/* with z = exp(-|x|): 1 / (1 + z), and z / (1 + z) for negative x. Beyond EXP_MOST it stays at the last value */
INLINE vec FN(sigmoid)(vec x) {
    vec scale;
    const vec p = FN(exp_parts)(FN(minus_magnitude)(x, -EXP_MOST), &scale);
    const vec z = FMA(scale, p, scale);
    return SELECT((ivec)(x < SPLAT((A)0)), z, SPLAT((A)1)) / (SPLAT((A)1) + z);
}

/* with m = exp(-2 |x|) - 1, which keeps its relative error near 0: -m / (m + 2), and the sign of x */
INLINE vec FN(tanh)(vec x) {
    vec scale;
    const vec a = FN(minus_magnitude)(x, -TANH_ONE);
    const vec p = FN(exp_parts)(a + a, &scale);
    const vec m = FMA(scale, p, scale - SPLAT((A)1));
    return SELECT((ivec)SPLAT((A)-0.0), x, m / (m + SPLAT((A)2)));
}

#define OF_ALL(f)                                                                                                      \
    static void FN(f##_all)(const void *x, void *y, ptrdiff_t n) {                                                     \
        for (ptrdiff_t at = 0; at < n; at += VL) {                                                                     \
            const ptrdiff_t k = n - at;                                                                                \
            if (k >= VL)                                                                                               \
                STORE((A *)y + at, FN(f)(LOAD((const A *)x + at)));                                                    \
            else                                                                                                       \
                STOREN((A *)y + at, FN(f)(LOADN((const A *)x + at, k, 0)), k);                                         \
        }                                                                                                              \
    }
OF_ALL(sigmoid)
OF_ALL(tanh)
#undef OF_ALL
