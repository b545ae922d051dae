/* Rows that are read in order, vector by vector: a part of vec.h's vocabulary.
 *
 *     walk_K walk_from_K(p)      a walk along a row whose first element stands at p
 *     vec    walk_on_K(&w, at)   elements at .. at + VL - 1, in turn: at = 0, VL, 2 * VL, ...; load_K(p + at) elsewhere
 *
 * NumPy's large arrays stand 16 bytes past a cache line: every load of 64 bytes is two there. AVX-512 reads the lines as they
 * stand, each once, and picks a vector from two of them: 10 to 30 % of a pass. No line is read in which the row has no
 * element. Halves of a line in every other load cost less than picking, and so do 16-bit numbers. */
#ifndef FN_VEC_WALK_H
#define FN_VEC_WALK_H

#include "vec.h"

#if defined(FN_AVX512)
/* `low` holds the line before that at next + at; `pick`: which elements of the two are the vector. A row that begins with a
 * line, or between two elements' places, has its whole vector in the second. */
typedef struct {
    const char *next;
    vf32 low;
    vi32 pick;
} walk_f32;
typedef struct {
    const char *next;
    vf64 low;
    vi64 pick;
} walk_f64;

INLINE walk_f32 walk_from_f32(const void *p) {
    const uintptr_t past = (uintptr_t)p % VBYTES, split = past % sizeof(float) ? 0 : past;
    const char *line = (const char *)p - past;
    const vi32 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const int32_t first = split ? (int32_t)(split / sizeof(float)) : VL_f32;
    return (walk_f32){split ? line + VBYTES : (const char *)p, load_f32(line), lane + first};
}
INLINE vf32 walk_on_f32(walk_f32 *w, ptrdiff_t at) {
    const vf32 high = held_f32(load_f32(w->next + at * (ptrdiff_t)sizeof(float)));
    const vf32 v = (vf32)_mm512_permutex2var_ps((__m512)w->low, (__m512i)w->pick, (__m512)high);
    w->low = high;
    return v;
}
INLINE walk_f64 walk_from_f64(const void *p) {
    const uintptr_t past = (uintptr_t)p % VBYTES, split = past % sizeof(double) ? 0 : past;
    const char *line = (const char *)p - past;
    const vi64 lane = {0, 1, 2, 3, 4, 5, 6, 7};
    const int64_t first = split ? (int64_t)(split / sizeof(double)) : VL_f64;
    return (walk_f64){split ? line + VBYTES : (const char *)p, load_f64(line), lane + first};
}
INLINE vf64 walk_on_f64(walk_f64 *w, ptrdiff_t at) {
    const vf64 high = held_f64(load_f64(w->next + at * (ptrdiff_t)sizeof(double)));
    const vf64 v = (vf64)_mm512_permutex2var_pd((__m512d)w->low, (__m512i)w->pick, (__m512d)high);
    w->low = high;
    return v;
}
#endif

/* a walk that is plain loads */
#define PLAIN_WALK(K, V, BYTES)                                                                                        \
    typedef struct {                                                                                                   \
        const char *row;                                                                                               \
    } walk_##K;                                                                                                        \
    INLINE walk_##K walk_from_##K(const void *p) { return (walk_##K){p}; }                                             \
    INLINE V walk_on_##K(const walk_##K *w, ptrdiff_t at) { return load_##K(w->row + at * (BYTES)); }
#if !defined(FN_AVX512)
PLAIN_WALK(f32, vf32, 4)
PLAIN_WALK(f64, vf64, 8)
#endif
PLAIN_WALK(f16, vf32, 2)
PLAIN_WALK(bf16, vf32, 2)
#undef PLAIN_WALK

#endif
