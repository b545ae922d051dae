/* float16 and bfloat16 for vec.h's vocabulary: two bytes in memory, float in registers. With K = f16 or bf16, narrow_K(v)
 * is what is stored of a vector, widen_K(h) the vector that is loaded from it. */
#ifndef FN_VEC16_H
#define FN_VEC16_H

#include "vec.h"

INLINE vu16 load_u16(const void *p) {
    vu16 h;
    MOVE(h, p);
    return h;
}
INLINE void store_u16(void *p, vu16 h) { memcpy(p, &h, sizeof h); }

/* lanes of 16 bits to lanes of 32, and back where they fit; AVX-512 has shorter ways below */
#if defined(FN_AVX2)
INLINE vu32 widen_u16(vu16 h) { return (vu32)_mm256_cvtepu16_epi32((__m128i)h); }
INLINE vu16 lower_u16(vu32 u) {
    const __m256i packed = _mm256_packus_epi32((__m256i)u, (__m256i)u);
    return (vu16)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}
#elif !defined(FN_AVX512)
INLINE vu32 widen_u16(vu16 h) { return __builtin_convertvector(h, vu32); }
INLINE vu16 lower_u16(vu32 u) { return __builtin_convertvector(u, vu16); }
#endif

#if defined(FN_AVX512)
INLINE vf32 widen_f16(vu16 h) { return (vf32)_mm512_cvtph_ps((__m256i)h); }
INLINE vu16 narrow_f16(vf32 v) {
    return (vu16)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#elif defined(FN_AVX2)
INLINE vf32 widen_f16(vu16 h) { return (vf32)_mm256_cvtph_ps((__m128i)h); }
INLINE vu16 narrow_f16(vf32 v) {
    return (vu16)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#else
/* Shifted into a float's place a half is 2^112 too small, denormals included: one product mends all but inf and NaN. */
INLINE vf32 widen_f16(vu16 halves) {
    vu32 h = widen_u16(halves);
    vu32 magnitude = (h & 0x7fff) << 13;
    vi32 special = (vi32)magnitude >= 0x0f800000;
    vu32 bits = (vu32)((vf32)magnitude * 0x1p112f) | ((vu32)special & 0x7f800000u);
    return (vf32)(bits | (h & 0x8000) << 16);
}
/* Three ranges: below 2^-14 the adder rounds for us (0.5 has the half's denormal spacing as its last bit); normal
 * numbers round by integer carry, which runs over into infinity at 65520; from 65536 on, infinity or NaN. */
INLINE vu16 narrow_f16(vf32 v) {
    vu32 u = (vu32)v, sign = u & 0x80000000u, a = u ^ sign;
    vi32 special = (vi32)a >= 0x47800000, tiny = (vi32)a < 0x38800000, nan = (vi32)a > 0x7f800000;
    vu32 small = (vu32)((vf32)a + 0.5f) - 0x3f000000u;
    vu32 normal = (a + 0xc8000fffu + ((a >> 13) & 1)) >> 13;
    vu32 h = ((vu32)tiny & small) | ((vu32)~tiny & normal);
    h = ((vu32)special & (0x7c00u | ((vu32)nan & 0x0200u))) | ((vu32)~special & h);
    return lower_u16(h | sign >> 16);
}
#endif

/* bfloat16 is a float's upper half. Stored: to nearest even by integer carry; a NaN stays one (its quiet bit is set lest
 * the carry or the cut lose it).
 *     r = u + 0x7fff + (u >> 16 & 1); h = (NaN ? u | 0x400000 : r) >> 16 */
#if defined(FN_AVX512)
/* one permutation of 16-bit words does what widening and shifting, or shifting and narrowing, would take two or three for */
static const uint16_t to_upper[32] = {0, 0, 0, 1, 0, 2,  0, 3,  0, 4,  0, 5,  0, 6,  0, 7,
                                      0, 8, 0, 9, 0, 10, 0, 11, 0, 12, 0, 13, 0, 14, 0, 15};
static const uint16_t from_upper[32] = {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
#define UPPER_WORDS 0xaaaaaaaau
INLINE vf32 widen_bf16(vu16 h) {
    const __m512i words = _mm512_castsi256_si512((__m256i)h);
    return (vf32)_mm512_maskz_permutexvar_epi16(UPPER_WORDS, _mm512_loadu_si512(to_upper), words);
}
INLINE vu16 round_bf16(vf32 v) {
    const __m512i u = (__m512i)v;
    const __mmask16 odd = _mm512_test_epi32_mask(u, _mm512_set1_epi32(0x10000));
    const __mmask16 nan = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
    __m512i r = _mm512_add_epi32(u, _mm512_set1_epi32(0x7fff));
    r = _mm512_mask_add_epi32(r, odd, u, _mm512_set1_epi32(0x8000));
    r = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
    return (vu16)_mm512_castsi512_si256(_mm512_permutexvar_epi16(_mm512_loadu_si512(from_upper), r));
}
#undef UPPER_WORDS
#if defined(__AVX512BF16__)
/* One instruction does it, but takes denormals for 0: of a vector in which some are it is no good. */
INLINE vu16 converted_bf16(vf32 v) { return (vu16)_mm512_cvtneps_pbh((__m512)v); }
OUTLINE __attribute__((cold)) vu16 narrow_small_bf16(vf32 v) {
    const __m512i u = (__m512i)v, exponent = _mm512_set1_epi32(0x7f800000), fraction = _mm512_set1_epi32(0x007fffff);
    const __mmask16 denormal = _mm512_mask_test_epi32_mask(_mm512_testn_epi32_mask(u, exponent), u, fraction);
    return denormal ? round_bf16(v) : converted_bf16(v);
}
INLINE vu16 narrow_bf16(vf32 v) {
    const int small = _mm512_testn_epi32_mask((__m512i)v, _mm512_set1_epi32(0x7f800000));
    return __builtin_expect(small, 0) ? narrow_small_bf16(v) : converted_bf16(v);
}
#else
INLINE vu16 narrow_bf16(vf32 v) { return round_bf16(v); }
#endif
#else
INLINE vf32 widen_bf16(vu16 h) { return (vf32)(widen_u16(h) << 16); }
INLINE vu16 narrow_bf16(vf32 v) {
    const vu32 u = (vu32)v, r = u + 0x7fffu + ((u >> 16) & 1), nan = (vu32)(v != v);
    return lower_u16(((nan & (u | 0x400000u)) | (~nan & r)) >> 16);
}
#endif

#if defined(FN_AVX512)
#define TAIL_MASK(k) ((__mmask16)((1u << (k)) - 1))
#define TAIL(K)                                                                                                        \
    INLINE vf32 loadn_##K(const void *p, ptrdiff_t k, float fill) {                                                    \
        const vu16 h = (vu16)_mm256_maskz_loadu_epi16(TAIL_MASK(k), p);                                                \
        return select_f32(first_f32(k), widen_##K(h), splat_f32(fill));                                                \
    }                                                                                                                  \
    INLINE void storen_##K(void *p, vf32 v, ptrdiff_t k) {                                                             \
        _mm256_mask_storeu_epi16(p, TAIL_MASK(k), (__m256i)narrow_##K(v));                                             \
    }
#else
/* the general tail: through a small array, element by element */
#define TAIL(K)                                                                                                        \
    OUTLINE vf32 loadn_##K(const void *p, ptrdiff_t k, float fill) {                                                   \
        uint16_t h[VL_f32] = {0};                                                                                      \
        float t[VL_f32];                                                                                               \
        for (ptrdiff_t i = 0; i < k; i++) memcpy(h + i, (const uint16_t *)p + i, 2);                                   \
        store_f32(t, widen_##K(load_u16(h)));                                                                          \
        for (ptrdiff_t i = k; i < VL_f32; i++) t[i] = fill;                                                            \
        return load_f32(t);                                                                                            \
    }                                                                                                                  \
    OUTLINE void storen_##K(void *p, vf32 v, ptrdiff_t k) {                                                            \
        uint16_t h[VL_f32];                                                                                            \
        store_u16(h, narrow_##K(v));                                                                                   \
        for (ptrdiff_t i = 0; i < k; i++) memcpy((uint16_t *)p + i, h + i, 2);                                         \
    }
#endif
#if defined(FN_AVX512)
#define HALF(h) ((__m256i)(h))
#elif defined(FN_AVX2)
#define HALF(h) ((__m128i)(h))
#elif defined(__x86_64__)
#define HALF(h) ((long long)(h))
#else
#define HALF(h) (h)
#endif
#define STORAGE(K)                                                                                                     \
    INLINE vf32 load_##K(const void *p) { return widen_##K(load_u16(p)); }                                             \
    INLINE void store_##K(void *p, vf32 v) { store_u16(p, narrow_##K(v)); }                                            \
    INLINE void stream_##K(void *p, vf32 v) { stream_half(p, HALF(narrow_##K(v))); }                                   \
    INLINE void stream16_##K(void *p, vf32 v) { stream16_half(p, HALF(narrow_##K(v))); }                               \
    INLINE void stream16n_##K(void *p, vf32 v, ptrdiff_t k) {                                                          \
        const vu16 h = narrow_##K(v);                                                                                  \
        stream16_bytes(p, (const char *)&h, k * 2);                                                                    \
    }                                                                                                                  \
    TAIL(K)                                                                                                            \
    INLINE float load1_##K(const void *p) {                                                                            \
        uint16_t h;                                                                                                    \
        memcpy(&h, p, 2);                                                                                              \
        return widen_##K((vu16){h})[0]; /* not through memory: a vector read over a single store waits for it */       \
    }                                                                                                                  \
    INLINE void store1_##K(void *p, float a) {                                                                         \
        const uint16_t h = narrow_##K(splat_f32(a))[0];                                                                \
        memcpy(p, &h, 2);                                                                                              \
    }
STORAGE(f16)
STORAGE(bf16)
#undef STORAGE
#undef HALF
#undef TAIL
#undef TAIL_MASK

#endif
