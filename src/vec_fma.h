/* Fused multiply and add for vec.h's vocabulary: fma_A(a, b, c), a * b + c rounded once, where a kernel asks for it by
 * name. */
#ifndef FN_VEC_FMA_H
#define FN_VEC_FMA_H

#include "vec.h"

#if defined(FN_AVX512)
INLINE vf32 fma_f32(vf32 a, vf32 b, vf32 c) { return (vf32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE vf64 fma_f64(vf64 a, vf64 b, vf64 c) { return (vf64)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
#elif defined(FN_AVX2) && defined(__FMA__)
INLINE vf32 fma_f32(vf32 a, vf32 b, vf32 c) { return (vf32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE vf64 fma_f64(vf64 a, vf64 b, vf64 c) { return (vf64)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
#elif VBYTES == 16 && !defined(__FP_FAST_FMAF)
#define FN_FMA_CALLS /* no instruction does it: calls of short code instead */
/* In double the product is exact. The sum is rounded to odd there, so that only the rounding to float counts (Boldo and
 * Melquiond, "Emulation of FMA and correctly rounded sums", 2008). */
INLINE vf64 fma_odd(vf64 a, vf64 b, vf64 c) {
    const vf64 product = a * b, sum = product + c, added = sum - product;
    const vf64 rest = (product - (sum - added)) + (c - added), zero = {0};
    const vi64 even = ~(vi64)sum & 1, inexact = (vi64)(rest > zero) | (vi64)(rest < zero);
    const vi64 shrinks = ~((vi64)(rest > zero) ^ (vi64)(sum < zero)), step = inexact & even;
    return (vf64)((vi64)sum + ((step ^ shrinks) - shrinks));
}
#define LOW(v) __builtin_convertvector(__builtin_shufflevector(v, v, 0, 1), vf64)
#define HIGH(v) __builtin_convertvector(__builtin_shufflevector(v, v, 2, 3), vf64)
OUTLINE vf32 fma_f32(vf32 a, vf32 b, vf32 c) {
    typedef float half __attribute__((vector_size(8)));
    const half low = __builtin_convertvector(fma_odd(LOW(a), LOW(b), LOW(c)), half);
    const half high = __builtin_convertvector(fma_odd(HIGH(a), HIGH(b), HIGH(c)), half);
    return __builtin_shufflevector(low, high, 0, 1, 2, 3);
}
#undef LOW
#undef HIGH
OUTLINE vf64 fma_f64(vf64 a, vf64 b, vf64 c) {
    for (int i = 0; i < VL_f64; i++) c[i] = __builtin_fma(a[i], b[i], c[i]);
    return c;
}
#else
INLINE vf32 fma_f32(vf32 a, vf32 b, vf32 c) {
    for (int i = 0; i < VL_f32; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
}
INLINE vf64 fma_f64(vf64 a, vf64 b, vf64 c) {
    for (int i = 0; i < VL_f64; i++) c[i] = __builtin_fma(a[i], b[i], c[i]);
    return c;
}
#endif

#endif
