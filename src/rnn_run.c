/* What runs in parallel, and when threads meet. */
#include "rnn.h"

#include <string.h>

#include "floats.h"

static fn_threads threads_of_all;

void fn_rnn_use(const fn_threads *threads) { threads_of_all = *threads; }

extern const fn_rnn_tier fn_rnn_tier_baseline;
#ifdef FN_HAVE_AVX2
extern const fn_rnn_tier fn_rnn_tier_avx2;
#endif
#ifdef FN_HAVE_AVX512
extern const fn_rnn_tier fn_rnn_tier_avx512;
#endif

/* The names are those of cpu.c, which has made sure of the rest: avx512bf16 is avx512 here, and a few AVX2 processors have no
 * fused multiply-add. */
const fn_rnn_tier *fn_rnn_find_tier(const char *name) {
#ifdef FN_HAVE_AVX512
    if (!strncmp(name, "avx512", strlen("avx512"))) return &fn_rnn_tier_avx512;
#endif
#ifdef FN_HAVE_AVX2
    if (!strcmp(name, "avx2") && __builtin_cpu_supports("fma")) return &fn_rnn_tier_avx2;
#endif
    return &fn_rnn_tier_baseline;
}

/* A worker is worth waking for some 100,000 multiply-adds; what is asked counts the bytes that could be moved meanwhile. */
static int workers(int threads, ptrdiff_t tasks, double products) {
    return threads_of_all.workers(threads, tasks, (ptrdiff_t)(products < 1e15 ? products : 1e15), 1);
}

void fn_rnn_pack(const fn_rnn_kernels *k, fn_rnn *r, int back, int threads) {
    const ptrdiff_t gates = fn_rnn_ceil(r->G * r->P, k->width);
    const ptrdiff_t ih = back ? fn_rnn_ceil(r->I, k->width) : gates, hh = back ? fn_rnn_ceil(r->H, k->width) : gates;
    const double bytes = (double)(r->G * r->P) * (double)k->size;
    threads_of_all.parallel(workers(threads, ih, bytes * (double)r->I), ih, back ? k->pack_back_ih : k->pack_weight_ih,
                            r);
    threads_of_all.parallel(workers(threads, hh, bytes * (double)r->H), hh, back ? k->pack_back_hh : k->pack_weight_hh,
                            r);
}

ptrdiff_t fn_rnn_slices(const fn_rnn *r, int threads) {
    const double products = (double)(r->T * r->B) * (double)(r->G * r->P) * (double)(r->I + r->H);
    return workers(threads, fn_rnn_ceil(r->B, FN_ROW_GROUP), products);
}

void fn_rnn_forward(const fn_rnn_kernels *k, fn_rnn *r) {
    const fn_floats floats = fn_floats_enter();
    threads_of_all.parallel((int)r->slices, r->slices, k->forward, r);
    fn_floats_leave(floats);
}

/* ---- backward ----------------------------------------------------------------------------------------------------- */

typedef struct {
    const fn_rnn_kernels *k;
    const fn_rnn *r;
    ptrdiff_t at, weight_tasks;
} chunk;

static void rows(void *context, ptrdiff_t slice, int worker) {
    const chunk *c = context;
    (void)worker;
    c->k->backward_rows(c->r, c->at, slice);
}

static void gradients(void *context, ptrdiff_t task, int worker) {
    const chunk *c = context;
    (void)worker;
    if (task < c->weight_tasks)
        c->k->backward_weights(c->r, c->at, task);
    else
        c->k->backward_inputs(c->r, c->at, task - c->weight_tasks);
}

void fn_rnn_backward(const fn_rnn_kernels *k, fn_rnn *r, int threads) {
    chunk c = {k, r, 0, fn_rnn_weight_tasks(r)};
    const fn_floats floats = fn_floats_enter();
    for (ptrdiff_t at = (r->T - 1) / r->chunk * r->chunk; at >= 0; at -= r->chunk) {
        const ptrdiff_t steps = r->chunk < r->T - at ? r->chunk : r->T - at;
        const ptrdiff_t tasks = c.weight_tasks + fn_rnn_input_tasks(r, steps);
        const double products = (double)(steps * r->B) * (double)(r->G * r->P) * (double)(2 * r->I + r->H);
        c.at = at;
        threads_of_all.parallel((int)r->slices, r->slices, rows, &c);
        threads_of_all.parallel(workers(threads, tasks, products), tasks, gradients, &c);
    }
    fn_floats_leave(floats);
}
