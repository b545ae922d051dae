/* Squares of vectors turned: lane j of v[i] becomes lane i of v[j]. First within parts of 16 bytes, then those parts. */
#ifndef FN_VEC_TURN_H
#define FN_VEC_TURN_H

#include "vec.h"

/* of every part of 16 bytes the lower or the upper halves, in turn */
#if VBYTES == 64
#define LOWER_f32(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define UPPER_f32(a, b) __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define LOWER_f64(a, b) __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14)
#define UPPER_f64(a, b) __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15)
#elif VBYTES == 32
#define LOWER_f32(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13)
#define UPPER_f32(a, b) __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15)
#define LOWER_f64(a, b) __builtin_shufflevector(a, b, 0, 4, 2, 6)
#define UPPER_f64(a, b) __builtin_shufflevector(a, b, 1, 5, 3, 7)
#else
#define LOWER_f32(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define UPPER_f32(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#define LOWER_f64(a, b) __builtin_shufflevector(a, b, 0, 2)
#define UPPER_f64(a, b) __builtin_shufflevector(a, b, 1, 3)
#endif

/* Part g of v[step * q] to part q of v[step * g], for as many as a vector has parts. */
INLINE void turn_parts(vf64 *v, int step) {
#if VBYTES == 64
#define EVEN(a, b) __builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13)
#define ODD(a, b) __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15)
    const vf64 a = EVEN(v[0], v[step]), b = EVEN(v[2 * step], v[3 * step]);
    const vf64 c = ODD(v[0], v[step]), d = ODD(v[2 * step], v[3 * step]);
    v[0] = EVEN(a, b);
    v[step] = EVEN(c, d);
    v[2 * step] = ODD(a, b);
    v[3 * step] = ODD(c, d);
#undef ODD
#undef EVEN
#elif VBYTES == 32
    const vf64 a = v[0], b = v[step];
    v[0] = __builtin_shufflevector(a, b, 0, 1, 4, 5);
    v[step] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
#else
    (void)v;
    (void)step;
#endif
}

INLINE void turn_f64(vf64 v[VL_f64]) {
    _Pragma("GCC unroll 8") for (int i = 0; i < VL_f64; i += 2) {
        const vf64 a = v[i], b = v[i + 1];
        v[i] = LOWER_f64(a, b);
        v[i + 1] = UPPER_f64(a, b);
    }
    for (int i = 0; i < 2; i++) turn_parts(v + i, 2);
}
/* four vectors turned within each part */
INLINE void turn_within(const vf32 v[4], vf64 t[4]) {
    const vf64 a = (vf64)LOWER_f32(v[0], v[1]), b = (vf64)LOWER_f32(v[2], v[3]);
    const vf64 c = (vf64)UPPER_f32(v[0], v[1]), d = (vf64)UPPER_f32(v[2], v[3]);
    t[0] = LOWER_f64(a, b);
    t[1] = UPPER_f64(a, b);
    t[2] = LOWER_f64(c, d);
    t[3] = UPPER_f64(c, d);
}
INLINE void turn_f32(vf32 v[VL_f32]) {
    vf64 t[VL_f32];
    _Pragma("GCC unroll 4") for (int i = 0; i < VL_f32; i += 4) turn_within(v + i, t + i);
    for (int i = 0; i < 4; i++) turn_parts(t + i, 4);
    _Pragma("GCC unroll 16") for (int i = 0; i < VL_f32; i++) v[i] = (vf32)t[i];
}

/* The lower halves of both; and vectors of two rows each, i and i + VL / 2, turned as if each row had half a vector's lanes.
 * For rows of 8 columns in vectors of 16 lanes; others never ask. */
#if VBYTES == 64
INLINE vf32 halves_f32(vf32 a, vf32 b) {
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
}
INLINE void turn_halves_f32(vf32 v[VL_f32 / 2]) {
    vf64 t[VL_f32 / 2];
    _Pragma("GCC unroll 2") for (int i = 0; i < VL_f32 / 2; i += 4) turn_within(v + i, t + i);
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
        v[i] = (vf32)__builtin_shufflevector(t[i], t[i + 4], 0, 1, 8, 9, 4, 5, 12, 13);
        v[i + 4] = (vf32)__builtin_shufflevector(t[i], t[i + 4], 2, 3, 10, 11, 6, 7, 14, 15);
    }
}
#else
INLINE vf32 halves_f32(vf32 a, vf32 b) { return (void)b, a; }
INLINE void turn_halves_f32(vf32 *v) { (void)v; }
#endif
INLINE vf64 halves_f64(vf64 a, vf64 b) { return (void)b, a; }
INLINE void turn_halves_f64(vf64 *v) { (void)v; }
#undef LOWER_f32
#undef UPPER_f32
#undef LOWER_f64
#undef UPPER_f64

#endif
