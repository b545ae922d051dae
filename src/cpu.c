#include "cpu.h"

/* meson.build defines FN_HAVE_* for each tier that it compiled (the table there) */
extern const fn_tier fn_tier_baseline;
#ifdef FN_HAVE_AVX2
extern const fn_tier fn_tier_avx2;
#endif
#ifdef FN_HAVE_AVX512
extern const fn_tier fn_tier_avx512;
#endif
#ifdef FN_HAVE_AVX512BF16
extern const fn_verbs *const fn_bf16_avx512bf16;
static fn_tier avx512bf16;
#endif

int fn_cpu_tiers(const fn_tier *tiers[], int most) {
    int count = 0;
    if (count < most) tiers[count++] = &fn_tier_baseline;
#ifdef FN_HAVE_AVX2
    if (count < most && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c") &&
        __builtin_cpu_supports("bmi2"))
        tiers[count++] = &fn_tier_avx2;
#endif
#ifdef FN_HAVE_AVX512
    if (count < most && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("f16c") &&
        __builtin_cpu_supports("bmi2"))
        tiers[count++] = &fn_tier_avx512;
#endif
#ifdef FN_HAVE_AVX512BF16
    if (count < most && tiers[count - 1] == &fn_tier_avx512 && __builtin_cpu_supports("avx512bf16")) {
        avx512bf16 = fn_tier_avx512;
        avx512bf16.name = "avx512bf16";
        avx512bf16.verbs[FN_BF16] = fn_bf16_avx512bf16;
        tiers[count++] = &avx512bf16;
    }
#endif
    return count;
}
