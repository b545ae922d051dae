/* The vector vocabulary. This file, vec16.h (float16 and bfloat16), vec_walk.h (rows read in order) and vec_fma.h hold all
 * intrinsics but a few of vec_sum.h's, and alone know how an element is stored; vec_sum.h has the sums, and vectors of four.
 *
 * A vector holds VBYTES bytes of the compute type A (float, or double for float64 storage). + - * and comparisons are
 * the compiler's own on GNU vector types; what is missing there stands here, once per element kind K:
 *
 *     A    load1_K(p)             one element, at any address            void store1_K(p, a)
 *     vec  load_K(p)              VL elements                            void store_K(p, v)
 *     vec  loadn_K(p, k, fill)    k < VL elements, `fill` in the rest    void storen_K(p, v, k)
 *     past the caches, at the bounds of VL elements                      void stream_K(p, v)
 *     the same at multiples of 16 bytes; of a vector's first k lanes     void stream16_K(p, v), stream16n_K(p, v, k)
 *     stream_end()                before another thread reads what was streamed
 *
 *     vec  splat_A(a)             A sum_A(v): the lanes added as a fixed tree, k with k + half
 *     sumpair_A(a, b, &p, &q)     p = sum_A(a), q = sum_A(b)
 *     sumfour_A(v)                sum_A of each of four, as a vector of four
 *     in_double_A(f)              such a vector in double
 *     part_A(v, i)                from lane i on as many as there are doubles in a vector, in double
 *     put_part_A(p, d)            so many doubles rounded to A and stored; returns what they became
 *     turn_A(v)                   lane j of v[i] becomes lane i of v[j] (vec_turn.h)
 *     mask_A(p), maskn_A(p, k)    VL (k) bytes of a boolean mask as all-ones / all-zeros lanes
 *     first_A(k)                  the first k lanes, as a mask        select_A(m, a, b)      m ? a : b
 *     held_A(v)                   v, out of one load
 *
 * Addresses need no alignment. Conversions round to nearest even, keep denormals, and agree bit by bit on every tier;
 * nothing here contracts to fma. To add a tier: teach the three files' `#if` blocks, and add a row in meson.build. */
#ifndef FN_VEC_H
#define FN_VEC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include <immintrin.h>
#define FN_AVX512 1
#define VBYTES 64
#elif defined(__AVX2__) && defined(__F16C__)
#include <immintrin.h>
#define FN_AVX2 1
#define VBYTES 32
#else
#ifdef __x86_64__
#include <emmintrin.h>
#endif
#define VBYTES 16
#endif

#define VL_f32 (VBYTES / 4)
#define VL_f64 (VBYTES / 8)
#define LANES_BYTES 128 /* virtual lanes of a sum, whatever the tier: 32 floats or 16 doubles */

typedef uint16_t f16;  /* IEEE binary16, as its bits */
typedef uint16_t bf16; /* the upper half of a float, as its bits */

typedef float vf32 __attribute__((vector_size(VBYTES)));
typedef double vf64 __attribute__((vector_size(VBYTES)));
typedef int32_t vi32 __attribute__((vector_size(VBYTES)));
typedef uint32_t vu32 __attribute__((vector_size(VBYTES)));
typedef int64_t vi64 __attribute__((vector_size(VBYTES)));
typedef uint16_t vu16 __attribute__((vector_size(VBYTES / 2))); /* as many lanes as vu32 */
typedef uint8_t vm32 __attribute__((vector_size(VBYTES / 4)));
typedef uint8_t vm64 __attribute__((vector_size(VBYTES / 8)));
typedef float vf32x4 __attribute__((vector_size(16)));
typedef float vf32x8 __attribute__((vector_size(32)));
typedef double vf64x2 __attribute__((vector_size(16)));
typedef double vf64x4 __attribute__((vector_size(32)));
typedef int64_t vi64x4 __attribute__((vector_size(32)));
typedef vf32x4 four_f32; /* four numbers of the compute type */
typedef vf64x4 four_f64;
typedef int32_t ifour_f32 __attribute__((vector_size(16)));
typedef vi64x4 ifour_f64;

#define INLINE static inline __attribute__((always_inline, unused))
/* by itself: tails that go element by element, and loops that would crowd their callers' registers */
#define OUTLINE static __attribute__((noinline, unused))

/* memcpy of a constant size is one unaligned move: the portable way to read at any address */
#define MOVE(dst, src) memcpy(&(dst), (src), sizeof(dst))

INLINE vf32 splat_f32(float a) { return a - (vf32){0}; }
INLINE vf64 splat_f64(double a) { return a - (vf64){0}; }

INLINE vf32 select_f32(vi32 m, vf32 a, vf32 b) { return (vf32)((m & (vi32)a) | (~m & (vi32)b)); }
INLINE vf64 select_f64(vi64 m, vf64 a, vf64 b) { return (vf64)((m & (vi64)a) | (~m & (vi64)b)); }

/* In a register before it is used, or the compiler loads twice what is used twice: a load that crosses a line costs more
 * than an addition. */
#if defined(__x86_64__) || defined(__SSE2__)
#define HOLD(v) __asm__("" : "+v"(v))
#else
#define HOLD(v) (void)(v)
#endif
INLINE vf32 held_f32(vf32 v) {
    HOLD(v);
    return v;
}
INLINE vf64 held_f64(vf64 v) {
    HOLD(v);
    return v;
}

/* the first k lanes */
INLINE vi32 first_f32(ptrdiff_t k) {
#if VBYTES == 64
    const vi32 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif VBYTES == 32
    const vi32 lane = {0, 1, 2, 3, 4, 5, 6, 7};
#else
    const vi32 lane = {0, 1, 2, 3};
#endif
    return lane < (int32_t)k;
}
INLINE vi64 first_f64(ptrdiff_t k) {
#if VBYTES == 64
    const vi64 lane = {0, 1, 2, 3, 4, 5, 6, 7};
#elif VBYTES == 32
    const vi64 lane = {0, 1, 2, 3};
#else
    const vi64 lane = {0, 1};
#endif
    return lane < (int64_t)k;
}

#include "vec_sum.h"

/* ---- masks: bytes 0 and 1 to lanes of zeros and ones ----------------------------------------------------------- */

INLINE vi32 mask_f32(const uint8_t *p) {
    vm32 m;
    MOVE(m, p);
    return __builtin_convertvector(m, vi32) != 0;
}
INLINE vi64 mask_f64(const uint8_t *p) {
    vm64 m;
    MOVE(m, p);
    return __builtin_convertvector(m, vi64) != 0;
}
OUTLINE vi32 maskn_f32(const uint8_t *p, ptrdiff_t k) {
    uint8_t m[VL_f32] = {0};
    for (ptrdiff_t i = 0; i < k; i++) m[i] = p[i];
    return mask_f32(m);
}
OUTLINE vi64 maskn_f64(const uint8_t *p, ptrdiff_t k) {
    uint8_t m[VL_f64] = {0};
    for (ptrdiff_t i = 0; i < k; i++) m[i] = p[i];
    return mask_f64(m);
}

/* ---- float32 and float64: storage is the compute type ---------------------------------------------------------- */

INLINE float load1_f32(const void *p) {
    float a;
    MOVE(a, p);
    return a;
}
INLINE void store1_f32(void *p, float a) { memcpy(p, &a, sizeof a); }
INLINE vf32 load_f32(const void *p) {
    vf32 v;
    MOVE(v, p);
    return v;
}
INLINE void store_f32(void *p, vf32 v) { memcpy(p, &v, sizeof v); }

INLINE double load1_f64(const void *p) {
    double a;
    MOVE(a, p);
    return a;
}
INLINE void store1_f64(void *p, double a) { memcpy(p, &a, sizeof a); }
INLINE vf64 load_f64(const void *p) {
    vf64 v;
    MOVE(v, p);
    return v;
}
INLINE void store_f64(void *p, vf64 v) { memcpy(p, &v, sizeof v); }

#if defined(FN_AVX512)
INLINE vf32 loadn_f32(const void *p, ptrdiff_t k, float fill) {
    return (vf32)_mm512_mask_loadu_ps(_mm512_set1_ps(fill), (__mmask16)((1u << k) - 1), p);
}
INLINE void storen_f32(void *p, vf32 v, ptrdiff_t k) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << k) - 1), (__m512)v);
}
INLINE vf64 loadn_f64(const void *p, ptrdiff_t k, double fill) {
    return (vf64)_mm512_mask_loadu_pd(_mm512_set1_pd(fill), (__mmask8)((1u << k) - 1), p);
}
INLINE void storen_f64(void *p, vf64 v, ptrdiff_t k) {
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << k) - 1), (__m512d)v);
}
#elif defined(FN_AVX2)
static const int32_t first32[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
static const int64_t first64[8] = {-1, -1, -1, -1, 0, 0, 0, 0};
INLINE vi32 firstn_f32(ptrdiff_t k) {
    vi32 m;
    MOVE(m, first32 + 8 - k);
    return m;
}
INLINE vi64 firstn_f64(ptrdiff_t k) {
    vi64 m;
    MOVE(m, first64 + 4 - k);
    return m;
}
INLINE vf32 loadn_f32(const void *p, ptrdiff_t k, float fill) {
    vi32 m = firstn_f32(k);
    return select_f32(m, (vf32)_mm256_maskload_ps(p, (__m256i)m), splat_f32(fill));
}
INLINE void storen_f32(void *p, vf32 v, ptrdiff_t k) { _mm256_maskstore_ps(p, (__m256i)firstn_f32(k), (__m256)v); }
INLINE vf64 loadn_f64(const void *p, ptrdiff_t k, double fill) {
    vi64 m = firstn_f64(k);
    return select_f64(m, (vf64)_mm256_maskload_pd(p, (__m256i)m), splat_f64(fill));
}
INLINE void storen_f64(void *p, vf64 v, ptrdiff_t k) { _mm256_maskstore_pd(p, (__m256i)firstn_f64(k), (__m256d)v); }
#else
/* the general tail: through a small array, element by element */
#define TAIL(K, V, A, VLEN)                                                                                            \
    OUTLINE V loadn_##K(const void *p, ptrdiff_t k, A fill) {                                                          \
        A t[VLEN];                                                                                                     \
        for (ptrdiff_t i = 0; i < VLEN; i++) t[i] = i < k ? load1_##K((const A *)p + i) : fill;                        \
        return load_##K(t);                                                                                            \
    }                                                                                                                  \
    OUTLINE void storen_##K(void *p, V v, ptrdiff_t k) {                                                               \
        for (ptrdiff_t i = 0; i < k; i++) store1_##K((A *)p + i, v[i]);                                                \
    }
TAIL(f32, vf32, float, VL_f32)
TAIL(f64, vf64, double, VL_f64)
#undef TAIL
#endif

/* ---- stores past the caches; elsewhere plain ones --------------------------------------------------------------- */

/* stream_A at the bounds of a whole vector, stream16_A at any multiple of 16 bytes; halves of a vector's bytes alike */
#if defined(FN_AVX512)
INLINE void stream_f32(void *p, vf32 v) { _mm512_stream_ps(p, (__m512)v); }
INLINE void stream_f64(void *p, vf64 v) { _mm512_stream_pd(p, (__m512d)v); }
INLINE void stream_half(void *p, __m256i h) { _mm256_stream_si256(p, h); }
INLINE void stream16_half(void *p, __m256i h) {
    _mm_stream_si128(p, _mm256_castsi256_si128(h));
    _mm_stream_si128((__m128i *)p + 1, _mm256_extracti128_si256(h, 1));
}
INLINE void stream16_f32(void *p, vf32 v) {
    stream16_half(p, _mm512_castsi512_si256((__m512i)v));
    stream16_half((__m256i *)p + 1, _mm512_extracti64x4_epi64((__m512i)v, 1));
}
#elif defined(FN_AVX2)
INLINE void stream_f32(void *p, vf32 v) { _mm256_stream_ps(p, (__m256)v); }
INLINE void stream_f64(void *p, vf64 v) { _mm256_stream_pd(p, (__m256d)v); }
INLINE void stream_half(void *p, __m128i h) { _mm_stream_si128(p, h); }
INLINE void stream16_half(void *p, __m128i h) { _mm_stream_si128(p, h); }
INLINE void stream16_f32(void *p, vf32 v) {
    stream16_half(p, _mm256_castsi256_si128((__m256i)v));
    stream16_half((__m128i *)p + 1, _mm256_extracti128_si256((__m256i)v, 1));
}
#elif defined(__x86_64__)
INLINE void stream_f32(void *p, vf32 v) { _mm_stream_ps(p, (__m128)v); }
INLINE void stream_f64(void *p, vf64 v) { _mm_stream_pd(p, (__m128d)v); }
INLINE void stream_half(void *p, long long h) { _mm_stream_si64(p, h); }
INLINE void stream16_half(void *p, long long h) { _mm_stream_si64(p, h); }
INLINE void stream16_f32(void *p, vf32 v) { stream_f32(p, v); }
#else
INLINE void stream_f32(void *p, vf32 v) { store_f32(p, v); }
INLINE void stream_f64(void *p, vf64 v) { store_f64(p, v); }
INLINE void stream_half(void *p, vu16 h) { memcpy(p, &h, sizeof h); }
INLINE void stream16_half(void *p, vu16 h) { memcpy(p, &h, sizeof h); }
INLINE void stream16_f32(void *p, vf32 v) { store_f32(p, v); }
#endif

INLINE void stream16_f64(void *p, vf64 v) { stream16_f32(p, (vf32)v); }
INLINE void stream_end(void) {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

/* so many bytes, a multiple of 16 */
OUTLINE void stream16_bytes(char *p, const char *from, ptrdiff_t bytes) {
#if defined(__x86_64__)
    for (ptrdiff_t i = 0; i < bytes; i += 16)
        _mm_stream_si128((__m128i *)(p + i), _mm_loadu_si128((const __m128i *)(from + i)));
#else
    memcpy(p, from, (size_t)bytes);
#endif
}
INLINE void stream16n_f32(void *p, vf32 v, ptrdiff_t k) { stream16_bytes(p, (const char *)&v, k * 4); }
INLINE void stream16n_f64(void *p, vf64 v, ptrdiff_t k) { stream16_bytes(p, (const char *)&v, k * 8); }

/* ---- the larger of two; NaN if b is ------------------------------------------------------------------------------ */

#if defined(FN_AVX512)
INLINE vf32 max_f32(vf32 a, vf32 b) { return (vf32)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vf64 max_f64(vf64 a, vf64 b) { return (vf64)_mm512_max_pd((__m512d)a, (__m512d)b); }
#elif defined(FN_AVX2)
INLINE vf32 max_f32(vf32 a, vf32 b) { return (vf32)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf64 max_f64(vf64 a, vf64 b) { return (vf64)_mm256_max_pd((__m256d)a, (__m256d)b); }
#else
INLINE vf32 max_f32(vf32 a, vf32 b) { return select_f32(a > b, a, b); }
INLINE vf64 max_f64(vf64 a, vf64 b) { return select_f64(a > b, a, b); }
#endif

#endif
