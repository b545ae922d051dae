/* Slices that the fast path cannot do: squares beyond the range of the compute type, denormal deviations with a tiny
 * eps, NaN and infinity. Scalar, in double, scaled by a power of two so that the largest element is about 1. */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "job.h"

/* One walk over a slice's elements that the mask lets in. */
typedef struct {
    const fn_job *job;
    const fn_axis *axes[FN_MAXDIM + 1];
    int naxes;
    ptrdiff_t at[FN_MAXDIM + 1];
    ptrdiff_t x, mask, dy, y;
} walk;

static walk walk_slice(const fn_job *job, const ptrdiff_t offset[FN_NOPERANDS]) {
    const fn_plan *plan = &job->plan;
    walk w = {.job = job, .x = offset[FN_X], .mask = offset[FN_MASK], .dy = offset[FN_DY], .y = offset[FN_Y]};
    for (int i = 0; i < plan->nreduced; i++) w.axes[w.naxes++] = &plan->reduced[i];
    if (!plan->cols) w.axes[w.naxes++] = &plan->inner;
    w.axes[w.naxes++] = &plan->fold;
    return w;
}

/* on to the next element; returns 0 after the last */
static int step(walk *w) {
    for (int i = w->naxes - 1; i >= 0; i--) {
        const fn_axis *a = w->axes[i];
        const ptrdiff_t ends = ++w->at[i] == a->len, by = ends ? 1 - a->len : 1;
        w->x += by * a->stride[FN_X];
        w->mask += by * a->stride[FN_MASK];
        w->dy += by * a->stride[FN_DY];
        w->y += by * a->stride[FN_Y];
        if (!ends) return 1;
        w->at[i] = 0;
    }
    return 0;
}

/* the current element, if the mask lets it in; then steps on. Returns 0 after the last. */
static int next(walk *w, double *value, int *inside, int *more) {
    const fn_job *job = w->job;
    if (!*more) return 0;
    *inside = !job->data[FN_MASK] || job->data[FN_MASK][w->mask];
    if (*inside) *value = job->verbs->load1(job->data[FN_X] + w->x);
    *more = step(w);
    return 1;
}

/* A sum that carries what its additions round away: in double there is no wider type to lean on (Neumaier 1974). */
typedef struct {
    double high, low;
} exact_sum;

static void add(exact_sum *s, double value) {
    const double high = s->high + value;
    s->low += fabs(s->high) >= fabs(value) ? (s->high - high) + value : (value - high) + s->high;
    s->high = high;
}

static double total(exact_sum s) { return isfinite(s.high) ? s.high + s.low : s.high; }

#define EACH(value, BODY)                                                                                              \
    do {                                                                                                               \
        walk w = walk_slice(job, offset);                                                                              \
        int inside, more = 1;                                                                                          \
        double value = 0;                                                                                              \
        while (next(&w, &value, &inside, &more))                                                                       \
            if (inside) BODY                                                                                           \
    } while (0)

static fn_slice not_finite(const fn_job *job, double sum, int has_nan) {
    fn_slice s = {.mean = job->centre ? sum : 0, .prescale = 1};
    s.scaled_mean = s.mean;
    s.var = job->centre || has_nan ? NAN : INFINITY;
    s.rstd = s.scaled_rstd = !job->scale ? 1 : 1 / sqrt(s.var + job->eps);
    return s;
}

void fn_bring_nearer(fn_slice *s, double top) {
    const int wanted = ilogb(s->rstd) - 126, room = s->mean == 0 ? 126 : isfinite(s->mean) ? 125 - ilogb(s->mean) : 0;
    const int most = room < 0 ? 0 : room > 126 ? 126 : room, p = wanted < 0 ? 0 : wanted < most ? wanted : most;
    s->prescale = ldexp(1, p);
    s->scaled_mean = ldexp(s->mean, p);
    s->scaled_comp = ldexp(s->comp, p);
    s->scaled_rstd = ldexp(s->rstd, -p);
    if (s->scaled_rstd > top) s->scaled_rstd = top;
}

fn_slice fn_rescue(const fn_job *job, const ptrdiff_t offset[FN_NOPERANDS]) {
    double largest = 0, unusual = 0, count = 0, c = 0;
    int has_nan = 0, has_inf = 0;
    EACH(v, {
        if (count == 0) c = v;
        count++;
        if (!isfinite(v)) {
            unusual += v;
            has_nan |= isnan(v);
            has_inf |= isinf(v);
        } else if (fabs(v) > largest) {
            largest = fabs(v);
        }
    });
    if (has_nan || has_inf) return not_finite(job, unusual, has_nan);

    /* x * 2^-e is within 1, and exact but for what falls 2^1000 below the largest */
    int e = largest > 0 ? ilogb(largest) + 1 : 0;
    exact_sum first = {0}, s = {0}, q = {0};
    double m = 0;
    if (job->centre) {
        c = ldexp(c, -e);
        EACH(v, add(&first, ldexp(v, -e) - c););
        m = c + total(first) / count;
    }
    EACH(v, {
        double d = ldexp(v, -e) - m;
        add(&s, d);
        add(&q, d * d);
    });
    const double sum = job->centre ? total(s) : 0;
    double rest = sum / count, mean = m + rest, var = (total(q) - sum * rest) / count;
    if (var < 0) var = 0;
    fn_slice out = {.mean = ldexp(mean, e), .comp = ldexp(rest - (mean - m), e), .prescale = 1};
    out.var = ldexp(var, 2 * e);
    if (var > 0 && out.var == 0) out.var = -0.0;

    /* 1 / sqrt(var * 4^e + eps) = root * 2^-k */
    double root;
    int k = 0;
    if (!job->scale) {
        root = 1;
    } else if ((e > 0 && var > 0) || job->eps == 0) {
        root = 1 / sqrt(var + ldexp(job->eps, -2 * e));
        k = e;
    } else {
        root = 1 / sqrt(out.var + job->eps);
    }
    out.rstd = ldexp(root, -k);
    out.scaled_mean = out.mean;
    out.scaled_comp = out.comp;
    out.scaled_rstd = out.rstd;
    if (isfinite(root) && root > 0 &&
        ((job->scale ? abs(e) : -e) > 90 || !(out.rstd > 0x1p-100 && out.rstd < 0x1p100))) {
        /* the data to about 1, as far as A can go; the rest stays with rstd */
        const int most = job->verbs->compute_size == sizeof(double) ? 1022 : 126;
        const int p = -e > most ? most : -e < -most ? -most : -e;
        out.prescale = ldexp(1, p);
        out.scaled_rstd = ldexp(root, -k - p);
        out.scaled_mean = ldexp(mean, e + p);
        out.scaled_comp = ldexp(rest - (mean - m), e + p);
    }
    /* a constant slice: x - mean is 0, and any finite factor leaves it so; what the mask leaves out may differ */
    const double top = job->verbs->compute_size == sizeof(float) ? FLT_MAX : DBL_MAX;
    if (var == 0 && job->eps > 0 && out.scaled_rstd > top) fn_bring_nearer(&out, top);
    return out;
}

void fn_rescue_gradients(const fn_job *job, const ptrdiff_t offset[FN_NOPERANDS]) {
    const fn_slice s = fn_rescue(job, offset);
    if (!isfinite(s.scaled_rstd)) return;
    const fn_verbs *verbs = job->verbs;
    const double weight = job->data[FN_WEIGHT] ? fn_get(job, job->data[FN_WEIGHT] + offset[FN_WEIGHT], 0) : 1;
    exact_sum sum = {0};
    walk w = walk_slice(job, offset);
    do
        add(&sum,
            verbs->load1(job->data[FN_DY] + w.dy) * (verbs->load1(job->data[FN_X] + w.x) * s.prescale * s.scaled_rstd));
    while (step(&w));
    const double gx = total(sum), c2 = weight * gx / (double)job->plan.count;
    if (job->dweight) fn_set(job, job->dweight, offset[FN_DWEIGHT], gx / job->root);
    w = walk_slice(job, offset);
    do {
        const double xhat = verbs->load1(job->data[FN_X] + w.x) * s.prescale * s.scaled_rstd;
        const double g = verbs->load1(job->data[FN_DY] + w.dy) * weight;
        verbs->store1(job->data[FN_Y] + w.y, (g - xhat * c2) * s.scaled_rstd * s.prescale);
    } while (step(&w));
}
