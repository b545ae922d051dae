/* The verbs of what goes with slices: expand and divide parameters, blend and invert running statistics. Written once in T;
 * norm.c includes this file once per dtype. */

static void FN(expand)(ptrdiff_t n, const void *from, void *to) {
    const T *narrow = from;
    A *out = to;
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) STORE_A(out + i, LOAD(narrow + i));
    for (; i < n; i++) out[i] = LOAD1(narrow + i);
}

static void FN(divide)(ptrdiff_t n, const void *a, int wide, double by, void *to) {
    const float *floats = a;
    const double *doubles = a;
    A *out = to;
    ptrdiff_t i = 0;
    for (; i + VL_f64 <= n; i += VL_f64)
        PUT_PART(out + i, (wide ? load_part_f64(doubles + i) : load_part_f32(floats + i)) / splat_f64(by));
    for (; i < n; i++) out[i] = (A)((wide ? doubles[i] : (double)floats[i]) / by);
}

INLINE void FN(blend_one)(T *running, double share, double batch) {
    STORE1(running, (A)((1 - share) * (double)LOAD1(running) + share * batch));
}
/* the same of VL_f64, where T is A */
INLINE void FN(blend_some)(A *running, double share, vf64 batch) {
    PUT_PART(running, splat_f64(1 - share) * LOAD_PART(running) + splat_f64(share) * batch);
}

static void FN(blend)(ptrdiff_t n, double share, const double *batch, const double *count, void *running,
                      ptrdiff_t step) {
    const int whole = sizeof(T) == sizeof(A) && step == sizeof(T);
    char *at = running;
    ptrdiff_t i = 0;
    for (; whole && i + VL_f64 <= n; i += VL_f64) {
        vf64 b = load_f64(batch + i);
        if (count) b *= load_f64(count + i) / (load_f64(count + i) - 1);
        FN(blend_some)((A *)running + i, share, b);
    }
    for (; i < n; i++) {
        double b = batch[i];
        if (count) b *= count[i] / (count[i] - 1);
        FN(blend_one)((T *)(at + i * step), share, b);
    }
}

static int FN(invert)(ptrdiff_t n, const void *var, double eps, void *rstd) {
    const A *in = var;
    A *out = rstd;
    const double most = sizeof(A) == sizeof(double) ? (double)INFINITY : FLT_MAX;
    vi64 within = ~(vi64){0};
    ptrdiff_t i = 0;
    for (; i + VL_f64 <= n; i += VL_f64) {
        const vf64 r = splat_f64(1) / root_f64(LOAD_PART(in + i) + splat_f64(eps));
        within &= ~(r > splat_f64(most));
        PUT_PART(out + i, r);
    }
    int beyond = !all_of(within);
    for (; i < n; i++) {
        const double r = 1 / sqrt((double)in[i] + eps);
        beyond |= r > most;
        out[i] = (A)r;
    }
    return beyond;
}
