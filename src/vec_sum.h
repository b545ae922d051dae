/* The sum tree of vec.h's vectors: lane k meets lane k + half, from the widest half down, on every tier alike. And vectors of four. */
#ifndef FN_VEC_SUM_H
#define FN_VEC_SUM_H

#include <math.h>

#include "vec.h"

INLINE float sum_f32(vf32 v) {
#if VBYTES == 64
    vf32x8 h = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
               __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
#elif VBYTES == 32
    vf32x8 h = v;
#endif
#if VBYTES >= 32
    vf32x4 q = __builtin_shufflevector(h, h, 0, 1, 2, 3) + __builtin_shufflevector(h, h, 4, 5, 6, 7);
#else
    vf32x4 q = v;
#endif
    q += __builtin_shufflevector(q, q, 2, 3, 0, 1);
    return q[0] + q[1];
}

INLINE double sum_f64(vf64 v) {
#if VBYTES == 64
    vf64x4 h = __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
#elif VBYTES == 32
    vf64x4 h = v;
#endif
#if VBYTES >= 32
    vf64x2 q = __builtin_shufflevector(h, h, 0, 1) + __builtin_shufflevector(h, h, 2, 3);
#else
    vf64x2 q = v;
#endif
    return q[0] + q[1];
}

/* sum_K(a) and sum_K(b), each by its own tree, for little more than the work of one */
INLINE void sumpair_f32(vf32 a, vf32 b, float *of_a, float *of_b) {
#if VBYTES == 64
    vf32 h = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
             __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    h += __builtin_shufflevector(h, h, 4, 5, 6, 7, 4, 5, 6, 7, 12, 13, 14, 15, 12, 13, 14, 15);
    h += __builtin_shufflevector(h, h, 2, 3, 2, 3, 2, 3, 2, 3, 10, 11, 10, 11, 10, 11, 10, 11);
#elif VBYTES == 32
    vf32 h = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
             __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    h += __builtin_shufflevector(h, h, 2, 3, 2, 3, 6, 7, 6, 7);
#else
    vf32 h = __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
#endif
    *of_a = h[0] + h[1];
    *of_b = h[VL_f32 / 2] + h[VL_f32 / 2 + 1];
}
INLINE void sumpair_f64(vf64 a, vf64 b, double *of_a, double *of_b) {
#if VBYTES == 64
    vf64 h = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
             __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    h += __builtin_shufflevector(h, h, 2, 3, 2, 3, 6, 7, 6, 7);
    *of_a = h[0] + h[1];
    *of_b = h[4] + h[5];
#elif VBYTES == 32
    vf64 h = __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
    *of_a = h[0] + h[1];
    *of_b = h[2] + h[3];
#else
    vf64 h = __builtin_shufflevector(a, b, 0, 2) + __builtin_shufflevector(a, b, 1, 3);
    *of_a = h[0];
    *of_b = h[1];
#endif
}

/* the same of four */
INLINE vf32x4 sumfour_f32(const vf32 v[4]) {
#if VBYTES == 64
    const vf32 a = __builtin_shufflevector(v[0], v[1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                   __builtin_shufflevector(v[0], v[1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    const vf32 b = __builtin_shufflevector(v[2], v[3], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                   __builtin_shufflevector(v[2], v[3], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    vf32 h = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
             __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    h += __builtin_shufflevector(h, h, 2, 3, 2, 3, 6, 7, 6, 7, 10, 11, 10, 11, 14, 15, 14, 15);
    return __builtin_shufflevector(h, h, 0, 4, 8, 12) + __builtin_shufflevector(h, h, 1, 5, 9, 13);
#elif VBYTES == 32
    const vf32 a = __builtin_shufflevector(v[0], v[1], 0, 1, 2, 3, 8, 9, 10, 11) +
                   __builtin_shufflevector(v[0], v[1], 4, 5, 6, 7, 12, 13, 14, 15);
    const vf32 b = __builtin_shufflevector(v[2], v[3], 0, 1, 2, 3, 8, 9, 10, 11) +
                   __builtin_shufflevector(v[2], v[3], 4, 5, 6, 7, 12, 13, 14, 15);
    const vf32 h = __builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13) +
                   __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15);
    return __builtin_shufflevector(h, h, 0, 2, 4, 6) + __builtin_shufflevector(h, h, 1, 3, 5, 7);
#else
    const vf32 a = __builtin_shufflevector(v[0], v[1], 0, 1, 4, 5) + __builtin_shufflevector(v[0], v[1], 2, 3, 6, 7);
    const vf32 b = __builtin_shufflevector(v[2], v[3], 0, 1, 4, 5) + __builtin_shufflevector(v[2], v[3], 2, 3, 6, 7);
    return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
#endif
}
INLINE vf64x4 sumfour_f64(const vf64 v[4]) {
#if VBYTES == 64
    const vf64 a = __builtin_shufflevector(v[0], v[1], 0, 1, 2, 3, 8, 9, 10, 11) +
                   __builtin_shufflevector(v[0], v[1], 4, 5, 6, 7, 12, 13, 14, 15);
    const vf64 b = __builtin_shufflevector(v[2], v[3], 0, 1, 2, 3, 8, 9, 10, 11) +
                   __builtin_shufflevector(v[2], v[3], 4, 5, 6, 7, 12, 13, 14, 15);
    const vf64 h = __builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13) +
                   __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15);
    return __builtin_shufflevector(h, h, 0, 2, 4, 6) + __builtin_shufflevector(h, h, 1, 3, 5, 7);
#elif VBYTES == 32
    const vf64 a = __builtin_shufflevector(v[0], v[1], 0, 1, 4, 5) + __builtin_shufflevector(v[0], v[1], 2, 3, 6, 7);
    const vf64 b = __builtin_shufflevector(v[2], v[3], 0, 1, 4, 5) + __builtin_shufflevector(v[2], v[3], 2, 3, 6, 7);
    return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
#else
    const vf64 a = __builtin_shufflevector(v[0], v[1], 0, 2) + __builtin_shufflevector(v[0], v[1], 1, 3);
    const vf64 b = __builtin_shufflevector(v[2], v[3], 0, 2) + __builtin_shufflevector(v[2], v[3], 1, 3);
    return __builtin_shufflevector(a, b, 0, 1, 2, 3);
#endif
}

INLINE vf64x4 splat_four(double a) { return (vf64x4){a, a, a, a}; }

/* four numbers in double; the compiler's own conversion takes halves through memory */
INLINE vf64x4 in_double_f32(vf32x4 v) {
#if defined(FN_AVX512) || defined(FN_AVX2)
    return (vf64x4)_mm256_cvtps_pd((__m128)v);
#else
    return __builtin_convertvector(v, vf64x4);
#endif
}
INLINE vf64x4 in_double_f64(vf64x4 v) { return v; }
/* and back, rounded */
INLINE vf32x4 round_four_f32(vf64x4 v) {
#if defined(FN_AVX512) || defined(FN_AVX2)
    return (vf32x4)_mm256_cvtpd_ps((__m256d)v);
#else
    vf32x4 rounded = {(float)v[0], (float)v[1], (float)v[2], (float)v[3]};
    HOLD(rounded); /* GCC 12 would take v for what it became */
    return rounded;
#endif
}
INLINE vf64x4 round_four_f64(vf64x4 v) { return v; }
INLINE vf64x4 put_four_f32(vf32x4 *to, vf64x4 v) {
    *to = round_four_f32(v);
    return in_double_f32(*to);
}
INLINE vf64x4 put_four_f64(vf64x4 *to, vf64x4 v) { return *to = v; }
INLINE vf64x4 root_four(vf64x4 v) {
#if defined(FN_AVX512) || defined(FN_AVX2)
    return (vf64x4)_mm256_sqrt_pd((__m256d)v);
#else
    return (vf64x4){sqrt(v[0]), sqrt(v[1]), sqrt(v[2]), sqrt(v[3])};
#endif
}
/* whether all are -1, which are -1 or 0 */
INLINE int all_of_four(vi64x4 v) {
#if defined(FN_AVX512) || defined(FN_AVX2)
    return _mm256_movemask_pd((__m256d)v) == 0xf;
#else
    return (v[0] & v[1] & v[2] & v[3]) != 0;
#endif
}

/* As many numbers as there are doubles in a vector, in double: from memory; from lane i on; and doubles rounded, stored, and
 * what they became. */
INLINE vf64 load_part_f64(const double *p) {
    vf64 v;
    MOVE(v, p);
    return v;
}
INLINE vf64 part_f64(vf64 v, int i) { return i ? (vf64){0} : v; }
INLINE vf64 put_part_f64(double *p, vf64 v) {
    memcpy(p, &v, sizeof v);
    return v;
}
INLINE vf64 load_part_f32(const float *p) {
#if defined(FN_AVX512)
    return (vf64)_mm512_cvtps_pd(_mm256_loadu_ps(p));
#elif defined(FN_AVX2)
    return (vf64)_mm256_cvtps_pd(_mm_loadu_ps(p));
#else
    return (vf64){p[0], p[1]};
#endif
}
INLINE vf64 part_f32(vf32 v, int i) {
#if defined(FN_AVX512)
    return (vf64)_mm512_cvtps_pd(i ? _mm512_extractf32x8_ps((__m512)v, 1) : _mm512_castps512_ps256((__m512)v));
#elif defined(FN_AVX2)
    return (vf64)_mm256_cvtps_pd(i ? _mm256_extractf128_ps((__m256)v, 1) : _mm256_castps256_ps128((__m256)v));
#else
    return (vf64){v[i], v[i + 1]};
#endif
}
INLINE vf64 put_part_f32(float *p, vf64 v) {
#if defined(FN_AVX512)
    const __m256 rounded = _mm512_cvtpd_ps((__m512d)v);
    _mm256_storeu_ps(p, rounded);
    return (vf64)_mm512_cvtps_pd(rounded);
#elif defined(FN_AVX2)
    const __m128 rounded = _mm256_cvtpd_ps((__m256d)v);
    _mm_storeu_ps(p, rounded);
    return (vf64)_mm256_cvtps_pd(rounded);
#else
    p[0] = (float)v[0];
    p[1] = (float)v[1];
    __asm__("" ::: "memory"); /* GCC 12 would take v for what it became */
    return (vf64){p[0], p[1]};
#endif
}
/* whether every lane is -1, of lanes that are -1 or 0 */
INLINE int all_of(vi64 v) {
#if defined(FN_AVX512)
    return _mm512_movepi64_mask((__m512i)v) == 0xff;
#elif defined(FN_AVX2)
    return _mm256_movemask_pd((__m256d)v) == 0xf;
#else
    return (v[0] & v[1]) != 0;
#endif
}
INLINE vf64 root_f64(vf64 v) {
#if defined(FN_AVX512)
    return (vf64)_mm512_sqrt_pd((__m512d)v);
#elif defined(FN_AVX2)
    return (vf64)_mm256_sqrt_pd((__m256d)v);
#else
    return (vf64){sqrt(v[0]), sqrt(v[1])};
#endif
}

#endif
