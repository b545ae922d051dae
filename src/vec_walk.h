/* Rows that are read in order, vector by vector: a part of vec.h's vocabulary. Two ways, HOW = plain or walk:
 *
 *     HOW_K                       where such a reading is
 *     HOW_K HOW_from_K(p)         its beginning: the row's first element stands at p
 *     vec   HOW_on_K(&w, at)      elements at .. at + VL - 1, for at = 0, VL, 2 * VL, ... in turn, as long as all are the row's
 *
 * A plain one loads the vectors where they stand. NumPy's large arrays stand 16 bytes past a cache line: every load of 64
 * bytes is two there. A walk reads the lines as they stand, each once, and picks a vector from two of them, which makes a
 * pass 10 to 30 % faster on such rows and slower on others. With shorter vectors, and with 16-bit numbers, fewer loads cross
 * a line, and picking costs more than it gains. */
#ifndef FN_VEC_WALK_H
#define FN_VEC_WALK_H

#include "vec.h"

#define PLAIN(K, V, BYTES)                                                                                             \
    typedef struct {                                                                                                   \
        const char *row;                                                                                               \
    } plain_##K;                                                                                                       \
    INLINE plain_##K plain_from_##K(const void *p) { return (plain_##K){p}; }                                          \
    INLINE V plain_on_##K(const plain_##K *w, ptrdiff_t at) { return load_##K(w->row + at * (BYTES)); }
PLAIN(f32, vf32, 4)
PLAIN(f64, vf64, 8)
PLAIN(f16, vf32, 2)
PLAIN(bf16, vf32, 2)
#undef PLAIN

#if defined(FN_AVX512)
#define FN_WALKS 1

/* `low` holds the line before that at next + at; `pick`: which elements of the two are the vector. A row that begins with a
 * line, or between two elements' places, has its whole vector in the second. No line is read that holds nothing of the row. */
#define WALK(K, V, INDEX, INT, A, FIRST_LANES, PERMUTE)                                                                \
    typedef struct {                                                                                                   \
        const char *next;                                                                                              \
        V low;                                                                                                         \
        INDEX pick;                                                                                                    \
    } walk_##K;                                                                                                        \
    INLINE walk_##K walk_from_##K(const void *p) {                                                                     \
        const uintptr_t past = (uintptr_t)p % VBYTES, split = past % sizeof(A) ? 0 : past;                             \
        const char *line = (const char *)p - past;                                                                     \
        const INDEX lane = {FIRST_LANES};                                                                              \
        const INT first = (INT)((split ? split : VBYTES) / sizeof(A));                                                 \
        return (walk_##K){split ? line + VBYTES : (const char *)p, load_##K(line), lane + first};                      \
    }                                                                                                                  \
    INLINE V walk_on_##K(walk_##K *w, ptrdiff_t at) {                                                                  \
        const V high = held_##K(load_##K(w->next + at * (ptrdiff_t)sizeof(A))), low = w->low;                          \
        w->low = high;                                                                                                 \
        return (V)PERMUTE(low, w->pick, high);                                                                         \
    }
#define PERMUTE_F32(low, pick, high) _mm512_permutex2var_ps((__m512)(low), (__m512i)(pick), (__m512)(high))
#define PERMUTE_F64(low, pick, high) _mm512_permutex2var_pd((__m512d)(low), (__m512i)(pick), (__m512d)(high))
#define EIGHT 0, 1, 2, 3, 4, 5, 6, 7
#define SIXTEEN EIGHT, 8, 9, 10, 11, 12, 13, 14, 15
WALK(f32, vf32, vi32, int32_t, float, SIXTEEN, PERMUTE_F32)
WALK(f64, vf64, vi64, int64_t, double, EIGHT, PERMUTE_F64)
#undef SIXTEEN
#undef EIGHT
#undef PERMUTE_F64
#undef PERMUTE_F32
#undef WALK
#endif

#endif
