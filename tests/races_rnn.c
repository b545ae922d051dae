/* The recurrent engine at work, for ThreadSanitizer: forward and backward on several threads, by one caller and by many,
 * the same bits as on one. Compiled and run by tests/sanitizers.py beside races.c; prints "done" when all was right. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/parallel.h"
#include "../src/rnn.h"

enum { CALLERS = 3, MOST_ARRAYS = 48, RESULTS = 9 };

typedef struct {
    const char *name;
    int cell, norm, recompute;
    ptrdiff_t T, B, I, H;
} net;

static const net NETS[] = {
    {"plain RNN", FN_RNN, FN_NO_NORM, 0, 37, 26, 35, 50},
    {"plain GRU", FN_GRU, FN_NO_NORM, 0, 37, 26, 35, 50},
    {"plain LSTM of many chunks", FN_LSTM, FN_NO_NORM, 0, 130, 30, 17, 33},
    {"LSTM with layer norm", FN_LSTM, FN_LAYER, 0, 37, 26, 35, 50},
    {"GRU with RMS norm, computed again", FN_GRU, FN_RMS, 1, 90, 26, 35, 50},
    {"LSTM with layer norm, computed again", FN_LSTM, FN_LAYER, 1, 90, 26, 35, 50},
};

typedef struct {
    void *arrays[MOST_ARRAYS];
    int count;
    const float *results[RESULTS];
    ptrdiff_t sizes[RESULTS];
} run;

static int all(void) { return 1 << 20; }

static void expect(int right, const char *what) {
    if (right) return;
    printf("wrong: %s\n", what);
    exit(1);
}

/* zeros, at a cache line */
static float *take(run *u, ptrdiff_t n) {
    const size_t bytes = ((size_t)n * sizeof(float) + 127) / 64 * 64;
    float *a = aligned_alloc(64, bytes);
    memset(a, 0, bytes);
    expect(u->count < MOST_ARRAYS, "the number of arrays");
    return u->arrays[u->count++] = a;
}

static float *numbers(run *u, ptrdiff_t n, float scale) {
    float *a = take(u, n);
    uint32_t state = (uint32_t)n;
    for (ptrdiff_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        a[i] = scale * ((float)(state >> 8) * 0x1p-23f - 1);
    }
    return a;
}

static float *result(run *u, int i, ptrdiff_t n) {
    float *a = take(u, n);
    u->results[i] = a, u->sizes[i] = n;
    return a;
}

static run work(const net *n, int threads) {
    run u = {.count = 0};
    fn_rnn r = {.cell = n->cell, .norm = n->norm, .recompute = n->recompute, .eps = 1e-5};
    r.T = n->T, r.B = n->B, r.I = n->I, r.H = n->H;
    r.G = n->cell == FN_RNN ? 1 : n->cell == FN_GRU ? 3 : 4;
    r.P = fn_rnn_ceil(r.H, FN_PAD) * FN_PAD;
    ptrdiff_t rows = r.T * r.B / 16;
    rows = rows < FN_CHUNK_LEAST ? FN_CHUNK_LEAST : rows > FN_CHUNK_MOST ? FN_CHUNK_MOST : rows;
    r.chunk = rows / r.B < r.T ? rows / r.B : r.T;
    r.slices = fn_rnn_slices(&r, threads);
    expect(r.slices == threads, "what the work is worth");
    const ptrdiff_t gates = r.G * r.P, states = r.B * r.H, steps = r.recompute ? r.chunk : r.T;
    const fn_rnn_kernels *k = fn_rnn_find_tier("baseline")->kernels[0];

    ptrdiff_t *lengths = (ptrdiff_t *)take(&u, 2 * r.B);
    for (ptrdiff_t b = 0; b < r.B; b++) lengths[b] = b % 5 ? r.T : r.T / 2;
    r.lengths = lengths;
    r.x = numbers(&u, r.T * r.B * r.I, 1), r.h0 = numbers(&u, states, 0.5f);
    r.c0 = numbers(&u, states, 0.5f);
    r.weight_ih = numbers(&u, r.G * r.H * r.I, 0.2f), r.weight_hh = numbers(&u, r.G * r.H * r.H, 0.2f);
    r.bias_ih = take(&u, gates), r.bias_hh = take(&u, gates), r.gain_c = numbers(&u, r.P, 1);
    r.gain_ih = numbers(&u, gates, 1), r.gain_hh = numbers(&u, gates, 1), r.bias_c = take(&u, r.P);
    r.pack_ih = take(&u, fn_rnn_packed(r.I, gates)), r.pack_hh = take(&u, fn_rnn_packed(r.H, gates));
    r.px_steps = r.ph_steps = steps;
    r.px = take(&u, steps * r.B * gates), r.ph = take(&u, steps * r.B * gates);
    r.h = take(&u, (r.T + 1) * r.B * r.P), r.c = take(&u, (r.T + 1) * r.B * r.P);
    r.stats = take(&u, r.T * r.B * FN_STATS);
    r.y = result(&u, 0, r.T * states), r.h_end = result(&u, 1, states), r.c_end = result(&u, 2, states);
    fn_rnn_pack(k, &r, 0, threads);
    fn_rnn_forward(k, &r);

    r.dy = numbers(&u, r.T * states, 1), r.dh_end = numbers(&u, states, 1), r.dc_end = numbers(&u, states, 1);
    r.dx = result(&u, 3, r.T * r.B * r.I), r.dh0 = result(&u, 4, states), r.dc0 = result(&u, 5, states);
    r.dweight_ih = result(&u, 6, r.G * r.H * r.I), r.dweight_hh = result(&u, 7, r.G * r.H * r.H);
    r.sums = result(&u, 8, fn_rnn_ceil(r.B, FN_ROW_GROUP) * fn_rnn_sums(&r));
    r.dh = take(&u, r.B * r.P), r.dc = take(&u, r.B * r.P);
    r.dax = take(&u, gates * (r.chunk * r.B + 1));
    r.dah = r.norm || r.cell == FN_GRU ? take(&u, gates * (r.chunk * r.B + 1)) : r.dax;
    r.panels_x = take(&u, fn_rnn_packed(r.chunk * r.B, r.I));
    r.panels_h = take(&u, fn_rnn_packed(r.chunk * r.B, r.H));
    r.scratch = take(&u, r.slices * fn_rnn_scratch(&r));
    r.back_ih = take(&u, fn_rnn_packed(gates, r.I)), r.back_hh = take(&u, fn_rnn_packed(gates, r.H));
    fn_rnn_pack(k, &r, 1, threads);
    fn_rnn_backward(k, &r, threads);
    return u;
}

static void *compare(void *seed) {
    for (size_t i = 0; i < sizeof NETS / sizeof *NETS; i++) {
        run one = work(&NETS[i], 1), many = work(&NETS[i], 2 + (int)(intptr_t)seed);
        for (int j = 0; j < RESULTS; j++)
            expect(!memcmp(one.results[j], many.results[j], (size_t)one.sizes[j] * sizeof(float)), NETS[i].name);
        for (int j = 0; j < one.count; j++) free(one.arrays[j]);
        for (int j = 0; j < many.count; j++) free(many.arrays[j]);
    }
    return NULL;
}

int main(void) {
    fn_parallel_use(all);
    const fn_threads threads = fn_threads_shared();
    fn_rnn_use(&threads);
    compare((void *)1);
    pthread_t callers[CALLERS];
    for (intptr_t i = 0; i < CALLERS; i++) pthread_create(&callers[i], NULL, compare, (void *)i);
    for (int i = 0; i < CALLERS; i++) pthread_join(callers[i], NULL);
    puts("done");
    return 0;
}
