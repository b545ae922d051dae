/* Every verb for every dtype, for the one tier that this compilation is for: FN_TIER names it, its flags choose vec.h's
 * vectors. All is static; only the table at the end leaves the object, so that the linker cannot mix tiers. */
#include <float.h>
#include <math.h>

#include "norm.h"
#include "vec16.h"

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define STRING_(a) #a
#define STRING(a) STRING_(a)

static void merge(ptrdiff_t n, fn_moments into, fn_moments from) {
    for (ptrdiff_t i = 0; i < n; i++) {
        const double na = into.count[i], nb = from.count[i], total = na + nb, share = nb / (total > 0 ? total : 1);
        const double ma = into.mean[i], mb = from.mean[i], ca = into.comp[i], cb = from.comp[i];
        const double delta = (mb - ma) + (cb - ca), rest = ca + delta * share, mean = ma + rest;
        into.count[i] = total;
        into.mean[i] = na > 0 ? mean : mb;
        into.comp[i] = na > 0 ? rest - (mean - ma) : cb;

        /* equal rows again and again: without `low` every addition would round to the same side (Kahan 1965) */
        const double q = into.m2[i], between = na > 0 ? delta * delta * (na * share) : 0;
        const double more = (from.m2[i] + (from.low[i] + into.low[i])) + between, all = q + more;
        into.m2[i] = all;
        into.low[i] = all <= DBL_MAX ? more - (all - q) : 0;
    }
}

#define FN(name) JOIN(name, K)
#define LOAD JOIN(load, K)
#define LOADN JOIN(loadn, K)
#define LOAD1 JOIN(load1, K)
#define STORE JOIN(store, K)
#define STOREN JOIN(storen, K)
#define STORE1 JOIN(store1, K)
#define STREAM JOIN(stream, K)
#define STREAM16 JOIN(stream16, K)
#define STREAM16N JOIN(stream16n, K)
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
#define SPLAT JOIN(splat, KA)
#define MASK JOIN(mask, KA)
#define MASKN JOIN(maskn, KA)
#define FIRST JOIN(first, KA)
#define HELD JOIN(held, KA)

/* K the element kind and KA its compute kind as vec.h names them, T and A their C types */
#define KA f32
#define A float
#define W double /* wider than A */
#define vec vf32
#define ivec vi32

#define K f32
#define T float
#include "verbs_tmpl.c"
#undef K
#undef T

#define K f16
#define T f16
#include "verbs_tmpl.c"
#undef K
#undef T

#define K bf16
#define T bf16
#include "verbs_tmpl.c"
#undef K
#undef T

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
#define K f64
#define T double
#include "verbs_tmpl.c"

extern const fn_tier JOIN(fn_tier, FN_TIER);
const fn_tier JOIN(fn_tier, FN_TIER) = {STRING(FN_TIER), {&verbs_f32, &verbs_f64, &verbs_f16, &verbs_bf16}};
