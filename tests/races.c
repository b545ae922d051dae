/* Threads at work, for ThreadSanitizer: callers at once, memory that changes hands, and the drivers, whose workers
 * write beside each other. Compiled and run by tests/sanitizers.py; prints "done" when every result was right. */
#define _GNU_SOURCE /* sched_getaffinity */
#include <pthread.h>
#ifdef __linux__
#include <sched.h>
#endif
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/helpers.h"
#include "../src/job.h"
#include "../src/parallel.h"
#include "../src/pool.h"
#include "../src/pull.h"

extern const fn_tier fn_tier_baseline;

enum { CALLERS = 5, ROUNDS = 200, TASKS = 40, BLOCKS = 6 };

static int all(void) { return 1 << 20; }

static void expect(int right, const char *what) {
    if (right) return;
    printf("wrong: %s\n", what);
    exit(1);
}

static void at_once(void *(*work)(void *)) {
    pthread_t threads[CALLERS];
    for (intptr_t i = 0; i < CALLERS; i++) pthread_create(&threads[i], NULL, work, (void *)i);
    for (int i = 0; i < CALLERS; i++) pthread_join(threads[i], NULL);
}

/* ---- helpers: every task once, what it wrote seen by its caller, one worker in one task at a time ----------------- */

typedef struct {
    int done[TASKS], of_worker[8];
} tally;

static void count(void *context, ptrdiff_t task, int worker) {
    tally *t = context;
    t->done[task]++;
    t->of_worker[worker]++;
}

static void *call_helpers(void *seed) {
    for (int round = 0; round < ROUNDS; round++) {
        tally t = {0};
        const int workers = 2 + (round + (int)(intptr_t)seed) % 4;
        fn_helpers_run(workers, TASKS, count, &t);
        int total = 0;
        for (int w = 0; w < 8; w++) total += t.of_worker[w];
        for (int i = 0; i < TASKS; i++) expect(t.done[i] == 1, "a task ran more or less than once");
        expect(total == TASKS, "a worker's count");
    }
    return NULL;
}

/* ---- pull: threads that do not run are moved, and may run where they might before --------------------------------- */

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static fn_thread held;
static atomic_int is_known, done_work;

static void *wait_at_the_gate(void *unused) {
    fn_thread_is_this(&held);
    atomic_store(&is_known, 1);
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    for (volatile int i = 0; i < 1000000; i++) continue;
    atomic_store(&done_work, 1);
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    return unused;
}

/* Looked at until it was seen not to run. */
static void pull_it(void) {
    while (!fn_pull(&held)) continue;
}

static void pull_a_thread(void) {
#ifdef __linux__
    cpu_set_t before, after;
    pthread_t thread;
    pthread_mutex_lock(&gate);
    pthread_create(&thread, NULL, wait_at_the_gate, NULL);
    while (!atomic_load(&is_known)) continue;
    sched_getaffinity(atomic_load(&held.id), sizeof before, &before);
    expect(!fn_pull(&held), "a thread pulled at first sight");
    pull_it();
    sched_getaffinity(atomic_load(&held.id), sizeof after, &after);
    expect(CPU_EQUAL(&before, &after), "a pulled thread's processors");
    pthread_mutex_unlock(&gate);
    while (!atomic_load(&done_work)) continue;
    pthread_mutex_lock(&gate);
    expect(!fn_pull(&held), "a thread pulled that had run");
    pthread_mutex_unlock(&gate);
    pthread_join(thread, NULL);
    expect(!fn_pull(&held), "a thread pulled that has ended");
    fn_thread nobody = {0};
    expect(!fn_pull(&nobody) && !fn_pull(&nobody), "nobody pulled");
#endif
}

/* ---- pool: blocks written by one thread and given back by another ------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *shelf[BLOCKS];

static void *swap_blocks(void *seed) {
    unsigned state = (unsigned)(intptr_t)seed + 1;
    for (int round = 0; round < ROUNDS; round++) {
        state = state * 1664525u + 1013904223u;
        char *mine = fn_pool_take(((size_t)(state >> 16) % 5 + 1) * FN_POOL_LEAST);
        memset(mine, round, 4096);
        const unsigned place = (state >> 8) % BLOCKS;
        pthread_mutex_lock(&lock);
        char *other = shelf[place];
        shelf[place] = mine;
        pthread_mutex_unlock(&lock);
        if (other) other[0]++;
        fn_pool_give(other);
        if (round % 50 == 0) fn_pool_bound((state % 3) * 4 * FN_POOL_LEAST);
    }
    return NULL;
}

/* ---- drivers: forward and backward on several threads, the same bits as on one ------------------------------------ */

typedef struct {
    const char *name;
    ptrdiff_t outer, middle, inner;
    int reduced[3];  /* of the three axes */
    int weighted[3]; /* along which weight and bias vary */
} shape;

static const shape SHAPES[] = {
    {"many short rows", 1, 5000, 70, {0, 0, 1}, {0, 0, 1}},
    {"long rows", 1, 3, 120001, {0, 0, 1}, {0, 0, 1}},
    {"one row", 1, 1, 400003, {0, 0, 1}, {0, 0, 0}},
    {"columns", 1, 2500, 150, {0, 1, 0}, {0, 0, 1}},
    {"channels of several rows", 7, 33, 1500, {1, 0, 1}, {0, 1, 0}},
    {"columns of many samples", 14, 260, 96, {0, 1, 0}, {0, 0, 1}},
    {"parameters of each row", 1, 5000, 70, {0, 0, 1}, {0, 1, 0}},
};

typedef struct {
    float *x, *dy, *weight, *y, *dx, *mean, *rstd, *dweight, *dbias;
    ptrdiff_t size, slices, params;
} arrays;

static float *zeros(ptrdiff_t n) { return calloc((size_t)n, sizeof(float)); }

static fn_job job_of(const shape *s, arrays *a, fn_axis axes[3], int threads, int backward) {
    const ptrdiff_t len[3] = {s->outer, s->middle, s->inner};
    ptrdiff_t step = 1, stat = 1, param = 1;
    memset(axes, 0, 3 * sizeof *axes);
    for (int d = 2; d >= 0; d--) {
        fn_axis *axis = &axes[d];
        axis->len = len[d];
        axis->reduced = s->reduced[d];
        axis->stride[FN_X] = axis->stride[FN_Y] = axis->stride[FN_DY] = step * (ptrdiff_t)sizeof(float);
        if (!axis->reduced) axis->stride[FN_STAT] = stat;
        if (s->weighted[d]) {
            axis->stride[FN_WEIGHT] = axis->stride[FN_BIAS] = param * (ptrdiff_t)sizeof(float);
            axis->stride[FN_DWEIGHT] = axis->stride[FN_DBIAS] = param;
            param *= len[d];
        }
        step *= len[d];
        if (!axis->reduced) stat *= len[d];
    }
    a->size = step, a->slices = stat, a->params = param;
    fn_job job = {.verbs = fn_tier_baseline.verbs[FN_F32], .threads = threads, .centre = 1, .scale = 1, .eps = 1e-5};
    if (!a->x) return job;
    job.data[FN_X] = (char *)a->x;
    job.data[FN_Y] = (char *)(backward ? a->dx : a->y);
    job.data[FN_WEIGHT] = (char *)a->weight;
    if (backward) {
        job.data[FN_DY] = (char *)a->dy;
        job.dweight = a->dweight, job.dbias = a->dbias;
        job.ndweight = job.ndbias = param;
    } else {
        job.data[FN_BIAS] = (char *)a->weight;
    }
    job.mean = a->mean, job.rstd = a->rstd;
    fn_plan_make(&job.plan, 3, axes, sizeof(float));
    return job;
}

static arrays run_drivers(const shape *s, int threads) {
    arrays a = {0};
    fn_axis axes[3];
    job_of(s, &a, axes, threads, 0); /* for the sizes */
    a.x = zeros(a.size), a.dy = zeros(a.size), a.y = zeros(a.size), a.dx = zeros(a.size);
    a.weight = zeros(a.params), a.dweight = zeros(a.params), a.dbias = zeros(a.params);
    a.mean = zeros(a.slices), a.rstd = zeros(a.slices);
    uint32_t state = 1;
    for (ptrdiff_t i = 0; i < a.size; i++) {
        state = state * 1664525u + 1013904223u;
        a.x[i] = (float)(state >> 8) * 0x1p-20f;
        a.dy[i] = (float)(state >> 16) * 0x1p-16f - 0.5f;
    }
    for (ptrdiff_t i = 0; i < a.params; i++) a.weight[i] = 1 + (float)(i % 7);
    fn_job forward = job_of(s, &a, axes, threads, 0);
    expect(fn_forward(&forward) == FN_OK, s->name);
    fn_job backward = job_of(s, &a, axes, threads, 1);
    expect(fn_backward(&backward) == FN_OK, s->name);
    return a;
}

static void free_arrays(arrays *a) {
    float *every[] = {a->x, a->dy, a->weight, a->y, a->dx, a->mean, a->rstd, a->dweight, a->dbias};
    for (size_t i = 0; i < sizeof every / sizeof *every; i++) free(every[i]);
}

static int same(const float *p, const float *q, ptrdiff_t n) { return !memcmp(p, q, (size_t)n * sizeof(float)); }

static void *call_drivers(void *seed) {
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++) {
        const shape *s = &SHAPES[i];
        arrays one = run_drivers(s, 1), many = run_drivers(s, 3 + (int)(intptr_t)seed);
        expect(same(one.y, many.y, one.size) && same(one.dx, many.dx, one.size), s->name);
        expect(same(one.mean, many.mean, one.slices) && same(one.rstd, many.rstd, one.slices), s->name);
        expect(same(one.dweight, many.dweight, one.params) && same(one.dbias, many.dbias, one.params), s->name);
        free_arrays(&one), free_arrays(&many);
    }
    return NULL;
}

int main(void) {
    fn_parallel_use(all);
    call_helpers(NULL);
    at_once(call_helpers);
    pull_a_thread();
    fn_pool_bound(16 * FN_POOL_LEAST);
    at_once(swap_blocks);
    call_drivers(NULL);
    at_once(call_drivers);
    puts("done");
    return 0;
}
