#include "parallel.h"

#include <stdatomic.h>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#define HAVE_FORK 1
#endif

/* Waking a worker costs a few microseconds, in which one core moves about this much. */
enum { WAKE_BYTES = 128 * 1024, MAX_WORKERS = 256 };

static fn_runner *runner = NULL;
static atomic_int used = 0;    /* the runtime has threads, which a forked child would wait for in vain */
static atomic_int working = 0; /* workers of all callers */

#ifdef HAVE_FORK
static void after_fork_in_child(void) {
    atomic_store(&working, 0);
    if (atomic_load(&used)) runner = NULL;
}
#endif

void fn_parallel_use(fn_runner *run) {
#ifdef HAVE_FORK
    static int watching = 0;
    if (!watching) watching = !pthread_atfork(NULL, NULL, after_fork_in_child);
#endif
    runner = run;
}

static void serial(ptrdiff_t tasks, fn_task *run, void *context) {
    for (ptrdiff_t task = 0; task < tasks; task++) run(context, task, 0);
}

void fn_parallel(int workers, ptrdiff_t tasks, fn_task *run, void *context) {
    if (workers > 1 && tasks > 1 && runner) {
        /* what other callers have at work is taken off, so that many callers share the processors */
        const int left = workers - atomic_fetch_add(&working, workers);
        if (left > 1) {
            atomic_store(&used, 1);
            runner(left, tasks, run, context);
        } else {
            serial(tasks, run, context);
        }
        atomic_fetch_sub(&working, workers);
        return;
    }
    serial(tasks, run, context);
}

int fn_workers(int threads, ptrdiff_t tasks, ptrdiff_t bytes) {
    ptrdiff_t worth = bytes / WAKE_BYTES;
    if (worth > tasks) worth = tasks;
    if (worth > threads) worth = threads;
    if (worth > MAX_WORKERS) worth = MAX_WORKERS;
    return worth < 1 ? 1 : (int)worth;
}
