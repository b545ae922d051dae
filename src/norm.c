/* Every verb for every dtype, for the one tier that this compilation is for: FN_TIER names it, its flags choose vec.h's
 * vectors. All is static; only the table at the end leaves the object, so that the linker cannot mix tiers. */
#include <float.h>
#include <math.h>

#include "norm.h"
#include "vec16.h"
#include "vec_turn.h"
#include "vec_walk.h"

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define STRING_(a) #a
#define STRING(a) STRING_(a)

/* of one slice; `low`: equal rows again and again, without it every addition would round to the same side (Kahan 1965) */
INLINE void merge_one(ptrdiff_t i, fn_moments into, fn_moments from) {
    const double na = into.count[i], nb = from.count[i], total = na + nb, share = nb / (total > 0 ? total : 1);
    const double ma = into.mean[i], mb = from.mean[i], ca = into.comp[i], cb = from.comp[i];
    const double delta = (mb - ma) + (cb - ca), rest = ca + delta * share, mean = ma + rest;
    const double q = into.m2[i], between = na > 0 ? delta * delta * (na * share) : 0;
    const double more = (from.m2[i] + (from.low[i] + into.low[i])) + between, all = q + more;
    into.count[i] = total;
    into.mean[i] = na > 0 ? mean : mb;
    into.comp[i] = na > 0 ? rest - (mean - ma) : cb;
    into.m2[i] = all;
    into.low[i] = all <= DBL_MAX ? more - (all - q) : 0;
}
/* the same of VL_f64: the compiler cannot know that the arrays are apart */
INLINE void merge_some(ptrdiff_t i, fn_moments into, fn_moments from) {
    const vf64 zero = {0}, one = splat_f64(1);
    const vf64 na = load_f64(into.count + i), nb = load_f64(from.count + i), total = na + nb;
    const vf64 share = nb / select_f64(total > zero, total, one);
    const vf64 ma = load_f64(into.mean + i), mb = load_f64(from.mean + i);
    const vf64 ca = load_f64(into.comp + i), cb = load_f64(from.comp + i);
    const vf64 delta = (mb - ma) + (cb - ca), rest = ca + delta * share, mean = ma + rest, q = load_f64(into.m2 + i);
    const vf64 between = (vf64)((vi64)(delta * delta * (na * share)) & (na > zero));
    const vf64 more = (load_f64(from.m2 + i) + (load_f64(from.low + i) + load_f64(into.low + i))) + between;
    const vf64 all = q + more;
    store_f64(into.count + i, total);
    store_f64(into.mean + i, select_f64(na > zero, mean, mb));
    store_f64(into.comp + i, select_f64(na > zero, rest - (mean - ma), cb));
    store_f64(into.m2 + i, all);
    store_f64(into.low + i, (vf64)((vi64)(more - (all - q)) & (all <= splat_f64(DBL_MAX))));
}
static void merge(ptrdiff_t n, fn_moments into, fn_moments from) {
    ptrdiff_t i = 0;
    for (; i + VL_f64 <= n; i += VL_f64) merge_some(i, into, from);
    for (; i < n; i++) merge_one(i, into, from);
}

enum { WALKS_plain, WALKS_walk }; /* what WALKS is, by HOW */

#define FN(name) JOIN(name, K)
#define LOAD JOIN(load, S)
#define LOADN JOIN(loadn, S)
#define LOAD1 JOIN(load1, S)
#define WALK JOIN(HOW, S)
#define WALK_FROM JOIN(JOIN(HOW, from), S)
#define WALK_ON JOIN(JOIN(HOW, on), S)
#define WALKS JOIN(WALKS, HOW)
#define STORE JOIN(store, S)
#define STOREN JOIN(storen, S)
#define STORE1 JOIN(store1, S)
#define STREAM JOIN(stream, S)
#define STREAM16 JOIN(stream16, S)
#define STREAM16N JOIN(stream16n, S)
#define LOAD_A JOIN(load, KA)
#define LOADN_A JOIN(loadn, KA)
#define STORE_A JOIN(store, KA)
#define STOREN_A JOIN(storen, KA)
#define SUM JOIN(sum, KA)
#define SUMPAIR JOIN(sumpair, KA)
#define SUMFOUR JOIN(sumfour, KA)
#define FOUR JOIN(four, KA)
#define IFOUR JOIN(ifour, KA)
#define IN_DOUBLE JOIN(in_double, KA)
#define ROUND_FOUR JOIN(round_four, KA)
#define PUT_FOUR JOIN(put_four, KA)
#define SPLAT JOIN(splat, KA)
#define TURN JOIN(turn, KA)
#define HALVES JOIN(halves, KA)
#define TURN_HALVES JOIN(turn_halves, KA)
#define PART JOIN(part, KA)
#define LOAD_PART JOIN(load_part, KA)
#define PUT_PART JOIN(put_part, KA)
#define MASK JOIN(mask, KA)
#define MASKN JOIN(maskn, KA)
#define FIRST JOIN(first, KA)
#define HELD JOIN(held, KA)

/* S is the element kind and KA its compute kind as vec.h names them, T and A their C types. K names the verbs: those of S,
 * or in the tiers that gain by it another table of them, for rows across cache lines. HOW: rows are read in order so. */
#define ACROSS NULL

#define KA f32
#define A float
#define W double /* wider than A */
#define vec vf32
#define ivec vi32

#define HOW plain
#define S bf16
#define K bf16
#define T bf16
#include "verbs_tmpl.c"
#undef K
#undef S
#undef T

#ifdef FN_BF16_ALONE
extern const fn_verbs *const JOIN(fn_bf16, FN_TIER);
const fn_verbs *const JOIN(fn_bf16, FN_TIER) = &verbs_bf16;
#else

#define S f16
#define K f16
#define T f16
#include "verbs_tmpl.c"
#undef K
#undef S
#undef T
#undef HOW

#define S f32
#define T float
#ifdef FN_WALKS
#define HOW walk
#define K f32_across
#include "verbs_tmpl.c"
#undef K
#undef HOW
#undef ACROSS
#define ACROSS &verbs_f32_across
#endif
#define HOW plain
#define K f32
#include "verbs_tmpl.c"
#undef K
#undef S
#undef T
#undef ACROSS
#define ACROSS NULL

#undef HOW
#undef KA
#undef A
#undef W
#undef vec
#undef ivec

#define KA f64
#define A double
#define W long double
#define vec vf64
#define ivec vi64

#define S f64
#define T double
#ifdef FN_WALKS
#define HOW walk
#define K f64_across
#include "verbs_tmpl.c"
#undef K
#undef HOW
#undef ACROSS
#define ACROSS &verbs_f64_across
#endif
#define HOW plain
#define K f64
#include "verbs_tmpl.c"

extern const fn_tier JOIN(fn_tier, FN_TIER);
const fn_tier JOIN(fn_tier, FN_TIER) = {STRING(FN_TIER), {&verbs_f32, &verbs_f64, &verbs_f16, &verbs_bf16}};
#endif
