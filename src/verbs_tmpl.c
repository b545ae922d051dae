/* All verbs of one dtype, and their table. norm.c has named T, A, K and the vectors. */
#if !defined(T) || !defined(A) || !defined(K) || !defined(KA)
#error "norm.c defines T, A, K and KA before it includes this template"
#endif

#include "lanes.h"
#include "resum_tmpl.c"
#include "short_tmpl.c"
#include "narrow_tmpl.c"
#include "rows_tmpl.c"
#include "cols_tmpl.c"
#include "tile_tmpl.c"
#include "slices_tmpl.c"

static double FN(read)(const void *p) { return (double)LOAD1(p); }
static void FN(write)(void *p, double value) { STORE1(p, (A)value); }

#define verbs FN(verbs)
static const fn_verbs verbs = {
    .name = STRING(K),
    .size = sizeof(T),
    .compute_size = sizeof(A),
    .load1 = FN(read),
    .store1 = FN(write),
    .moments_rows = FN(moments_rows),
    .moments_cols = FN(moments_cols),
    .apply = FN(apply),
    .apply_far = FN(apply_far),
    .normalize_rows = FN(normalize_rows),
    .dots_rows = FN(dots_rows),
    .dots_cols = FN(dots_cols),
    .combine = FN(combine),
    .combine_cols = FN(combine_cols),
    .carry_cols = FN(carry_cols),
    .resum_cols = FN(resum_cols),
    .adjoint_rows = FN(adjoint_rows),
    .finalize = FN(finalize),
    .drain = stream_end,
    .merge = merge,
};
#undef verbs
