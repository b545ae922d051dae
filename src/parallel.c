#include "parallel.h"

#include <pthread.h>

#include "helpers.h"

enum {
    WAKE_BYTES = 256 * 1024,   /* what one core moves about in the time that it takes to wake another, */
    ROUNDS_BYTES = 512 * 1024, /* and, in several rounds, to fetch the data from there (bench_threads.py) */
    MAX_WORKERS = 256,
};

static fn_allowed *allowed = NULL;

void fn_parallel_use(fn_allowed *most) {
    if (!allowed) pthread_atfork(NULL, NULL, fn_helpers_forget);
    allowed = most;
}

int fn_workers(int threads, ptrdiff_t tasks, ptrdiff_t bytes, int rounds) {
    ptrdiff_t worth = bytes / (rounds > 1 ? ROUNDS_BYTES : WAKE_BYTES);
    if (worth > tasks) worth = tasks;
    if (worth > threads) worth = threads;
    if (worth > MAX_WORKERS) worth = MAX_WORKERS;
    if (worth <= 1 || !allowed) return 1;
    const int most = allowed();
    return worth > most ? most : (int)worth;
}

void fn_parallel(int workers, ptrdiff_t tasks, fn_task *run, void *context) {
    if (workers > 1 && tasks > 1)
        fn_helpers_run(workers, tasks, run, context);
    else
        for (ptrdiff_t task = 0; task < tasks; task++) run(context, task, 0);
}

fn_threads fn_threads_shared(void) { return (fn_threads){fn_workers, fn_parallel}; }
