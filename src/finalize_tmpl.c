/* The verb finalize, from the moments of slices to the scalars of their results. Written once in T; norm.c includes this
 * file once per dtype. */

#define TINY (sizeof(A) == sizeof(double) ? 0x1p-960 : 0x1p-100) /* a mean below has no room for comp */
#define SLIGHT (sizeof(A) == sizeof(double) ? 0x1p-55 : 0x1p-26) /* deviations: half an ulp of a quarter */
INLINE int FN(finalize_one)(double count, double mean, double comp, double m2, double eps, double least, int scale,
                            A *hi, A *lo, A *s) {
    const double var = m2 / count, r = scale ? 1 / sqrt(var + eps) : 1;
    int beyond = !(var > least && var < DBL_MAX && r > 0x1p-100 && r < 0x1p100);
    beyond |= !(fabs(mean) <= DBL_MAX);
    beyond |= mean != 0 && fabs(mean) < TINY && var < TINY;
    *hi = (A)mean;
    const double rest = (mean - (double)*hi) + comp;
    *lo = (A)(rest * rest < SLIGHT * SLIGHT * var ? 0 : rest);
    *s = (A)r;
    return beyond;
}
/* The same of a vector V of them, or of four; -1 where it is not beyond. PUT rounds to A, and tells what that became. */
#define FINALIZE(NAME, V, I, ROOT, TO, PUT)                                                                            \
    INLINE I FN(NAME)(V count, V mean, V comp, V m2, double eps, double least, int scale, TO *hi, TO *lo, TO *s) {     \
        const V one = 1 - (V){0}, var = m2 / count, r = scale ? one / ROOT(var + eps) : one;                           \
        const V size = (V)((I)mean & INT64_MAX), rest = (mean - PUT(hi, mean)) + comp;                                 \
        PUT(lo, (V)((I)rest & ~(rest * rest < SLIGHT * SLIGHT * var)));                                                \
        PUT(s, r);                                                                                                     \
        return (var > least) & (var < DBL_MAX) & (r > 0x1p-100) & (r < 0x1p100) & (size <= DBL_MAX) &                  \
               ((mean == 0) | (size >= TINY) | (var >= TINY));                                                         \
    }
FINALIZE(finalize_some, vf64, vi64, root_f64, A, PUT_PART)
FINALIZE(finalize_four, vf64x4, vi64x4, root_four, FOUR, PUT_FOUR)
#undef FINALIZE

static int FN(finalize)(ptrdiff_t n, fn_moments in, double eps, double least, int scale, void *mean, void *comp,
                        void *rstd) {
    A *hi = mean, *lo = comp, *s = rstd;
    vi64 fine = ~(vi64){0};
    ptrdiff_t i = 0;
    for (; i + VL_f64 <= n; i += VL_f64)
        fine &= FN(finalize_some)(load_f64(in.count + i), load_f64(in.mean + i), load_f64(in.comp + i),
                                  load_f64(in.m2 + i), eps, least, scale, hi + i, lo + i, s + i);
    int beyond = !all_of(fine);
    for (; i < n; i++)
        beyond |=
            FN(finalize_one)(in.count[i], in.mean[i], in.comp[i], in.m2[i], eps, least, scale, hi + i, lo + i, s + i);
    return beyond;
}
#undef TINY
#undef SLIGHT
