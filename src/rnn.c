/* The fused engine for every dtype, for the one tier that this compilation is for (as norm.c). All is static but the
 * table at the end. */
#include <math.h>

#include "rnn.h"
#include "vec_fma.h"

/* mean and rstd of x's two blocks of gates, of h's two, and of c: FN_STATS numbers */
enum { MEAN_X, RSTD_X, MEAN_X2, RSTD_X2, MEAN_H, RSTD_H, MEAN_H2, RSTD_H2, MEAN_C, RSTD_C };

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define STRING_(a) #a
#define STRING(a) STRING_(a)
#ifdef FN_FMA_CALLS
#define UNROLL _Pragma("GCC unroll 1")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

#define FN(name) JOIN(name, KIND)
#define LOAD JOIN(load, KIND)
#define LOADN JOIN(loadn, KIND)
#define STORE JOIN(store, KIND)
#define STOREN JOIN(storen, KIND)
#define SUM JOIN(sum, KIND)
#define SPLAT JOIN(splat, KIND)
#define SELECT JOIN(select, KIND)
#define FIRST JOIN(first, KIND)
#define MAX JOIN(max, KIND)
#define FMA JOIN(fma, KIND)
#define VL (VBYTES / (ptrdiff_t)sizeof(A))

/* rows of a tile: as many as keep its sums in registers, 32 of them with AVX-512, else 16 */
#if VBYTES == 64
#define MOST_ROWS 8
#else
#define MOST_ROWS 4
#endif

/* Memory that will be read after a matrix product, fetched while it is computed: `bytes` at `at`, and at `too` if that is
 * not NULL */
typedef struct {
    const char *at, *too;
    ptrdiff_t bytes;
    ptrdiff_t lines; /* fetched at a time */
} fn_ahead;
enum { FN_LINE = 64 };

INLINE void fn_fetch(fn_ahead *a) {
    if (a->bytes <= 0) return;
    for (ptrdiff_t i = 0; i < a->lines; i++) __builtin_prefetch(a->at + i * FN_LINE, 0, 3);
    a->at += a->lines * FN_LINE;
    a->bytes -= a->lines * FN_LINE;
    if (!a->too) return;
    for (ptrdiff_t i = 0; i < a->lines; i++) __builtin_prefetch(a->too + i * FN_LINE, 0, 3);
    a->too += a->lines * FN_LINE;
}

#define KIND f32
#define A float
#define vec vf32
#define ivec vi32
#define ROOT sqrtf
#define EXP_MAGIC 0x1.8p23f
#define EXP_SHIFT 23
#define EXP_LN2_HIGH 0x1.62ep-1f
#define EXP_LN2_LOW 0x1.0bfbe8p-15f
#define EXP_TERMS 5
#define EXP_MOST 87.0f /* exp(-87) is normal */
#define TANH_ONE 10.0f /* from here tanh rounds to 1 */
static const float exp_q_f32[EXP_TERMS] = {0x1p-1f, 0x1.5554dcp-3f, 0x1.55551ap-5f, 0x1.120b6ep-7f, 0x1.6d110ap-10f};
#define exp_q FN(exp_q)
#include "rnn_math_tmpl.c"

#include "rnn_gemm_tmpl.c"

#include "rnn_norm_tmpl.c"

#include "rnn_cells_tmpl.c"

#include "rnn_seq_tmpl.c"
#undef KIND
#undef A
#undef vec
#undef ivec
#undef ROOT
#undef EXP_MAGIC
#undef EXP_SHIFT
#undef EXP_LN2_HIGH
#undef EXP_LN2_LOW
#undef EXP_TERMS
#undef EXP_MOST
#undef TANH_ONE

#define KIND f64
#define A double
#define vec vf64
#define ivec vi64
#define ROOT sqrt
#define EXP_MAGIC 0x1.8p52
#define EXP_SHIFT 52
#define EXP_LN2_HIGH 0x1.62e42feep-1
#define EXP_LN2_LOW 0x1.a39ef35793c76p-33
#define EXP_TERMS 10
#define EXP_MOST 708.0
#define TANH_ONE 20.0
static const double exp_q_f64[EXP_TERMS] = {
    0x1.0000000000001p-1,  0x1.5555555555556p-3,  0x1.5555555553d63p-5,  0x1.11111111109b3p-7,  0x1.6c16c1788bd90p-10,
    0x1.a01a01a7c41d5p-13, 0x1.a019b90d2ae7ap-16, 0x1.71de0dae63bb3p-19, 0x1.289185613a3d6p-22, 0x1.af38a9b0ec855p-26,
};
#include "rnn_math_tmpl.c"

#include "rnn_gemm_tmpl.c"

#include "rnn_norm_tmpl.c"

#include "rnn_cells_tmpl.c"

#include "rnn_seq_tmpl.c"

extern const fn_rnn_tier JOIN(fn_rnn_tier, FN_TIER);
const fn_rnn_tier JOIN(fn_rnn_tier, FN_TIER) = {STRING(FN_TIER), {&rnn_kernels_f32, &rnn_kernels_f64}};
