/* All verbs of one dtype, and their table. norm.c has named T, A, S, K, HOW and the vectors. */
#if !defined(T) || !defined(A) || !defined(S) || !defined(K) || !defined(KA) || !defined(HOW)
#error "norm.c defines T, A, S, K, KA and HOW before it includes this template"
#endif

#include "lanes.h"
#include "resum_tmpl.c"
#include "turned_tmpl.c"
#include "short_tmpl.c"
#include "narrow_tmpl.c"
#include "rows_tmpl.c"
#include "few_cols_tmpl.c"
#include "cols_tmpl.c"
#include "few_tmpl.c"
#include "tile_tmpl.c"
#include "summing_tmpl.c"
#include "finalize_tmpl.c"
#include "params_tmpl.c"
#include "longer_tmpl.c"
#include "slices_tmpl.c"
#include "regions_tmpl.c"

static double FN(read)(const void *p) { return (double)LOAD1(p); }
static void FN(write)(void *p, double value) { STORE1(p, (A)value); }

#define verbs FN(verbs)
static const fn_verbs verbs = {
    .name = STRING(S),
    .size = sizeof(T),
    .compute_size = sizeof(A),
    .across = ACROSS,
    .load1 = FN(read),
    .store1 = FN(write),
    .moments_rows = FN(moments_rows),
    .moments_cols = FN(moments_cols),
    .apply = FN(apply),
    .apply_runs = FN(apply_runs),
    .apply_far = FN(apply_far),
    .normalize_rows = FN(normalize_rows),
    .dots_rows = FN(dots_rows),
    .dots_cols = FN(dots_cols),
    .combine = FN(combine),
    .combine_runs = FN(combine_runs),
    .combine_cols = FN(combine_cols),
    .combine_dots = FN(combine_dots),
    .carry_cols = FN(carry_cols),
    .resum_cols = FN(resum_cols),
    .finish_cols = FN(finish_cols),
    .adjoint_rows = FN(adjoint_rows),
    .settle_cols = FN(settle_cols),
    .normalize_cols = FN(normalize_cols),
    .adjoint_cols = FN(adjoint_cols),
    .finalize = FN(finalize),
    .expand = FN(expand),
    .divide = FN(divide),
    .blend = FN(blend),
    .invert = FN(invert),
    .drain = stream_end,
    .merge = merge,
};
#undef verbs
