/* The processor's floating-point mode belongs to the thread, and other libraries change it: some flush denormals to
 * zero as soon as they are loaded. The results here are those of the default, round to nearest and flush nothing, on
 * the caller as on the helpers. */
#ifndef FN_FLOATS_H
#define FN_FLOATS_H

#include <stdint.h>

typedef uint64_t fn_floats;

#if defined(__x86_64__) && defined(__GNUC__)
enum { FN_FLOATS_MODE = 0xffc0, FN_FLOATS_DEFAULT = 0x1f80 }; /* of MXCSR: all but the flags of what has happened */
static inline fn_floats fn_floats_now(void) { return __builtin_ia32_stmxcsr(); }
static inline void fn_floats_set(fn_floats mode) { __builtin_ia32_ldmxcsr((unsigned)mode); }
#elif defined(__aarch64__) && defined(__GNUC__)
enum { FN_FLOATS_MODE = 0x07c00000, FN_FLOATS_DEFAULT = 0 }; /* of FPCR */
static inline fn_floats fn_floats_now(void) {
    fn_floats mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static inline void fn_floats_set(fn_floats mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
#else
enum { FN_FLOATS_MODE = 0, FN_FLOATS_DEFAULT = 0 };
static inline fn_floats fn_floats_now(void) { return 0; }
static inline void fn_floats_set(fn_floats mode) { (void)mode; }
#endif

/* the compiler, which does not know what the mode does, moves no load or store across this */
#define FN_FLOATS_FENCE __asm__ volatile("" : : : "memory")

/* what holds now, for fn_floats_leave, and the default from here on */
static inline fn_floats fn_floats_enter(void) {
    const fn_floats before = fn_floats_now();
    if ((before & FN_FLOATS_MODE) != FN_FLOATS_DEFAULT) fn_floats_set(FN_FLOATS_DEFAULT);
    FN_FLOATS_FENCE;
    return before;
}
static inline void fn_floats_leave(fn_floats before) {
    FN_FLOATS_FENCE;
    if ((before & FN_FLOATS_MODE) != FN_FLOATS_DEFAULT) fn_floats_set(before);
}

#endif
