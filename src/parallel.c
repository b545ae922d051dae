#include "parallel.h"

/* Waking a worker costs a few microseconds, in which one core moves about this much. */
enum { WAKE_BYTES = 128 * 1024 };

fn_runner *fn_parallel_runner = NULL;

void fn_parallel(int workers, ptrdiff_t tasks, fn_task *run, void *context) {
    if (workers > 1 && tasks > 1 && fn_parallel_runner) {
        fn_parallel_runner(workers, tasks, run, context);
        return;
    }
    for (ptrdiff_t task = 0; task < tasks; task++) run(context, task, 0);
}

int fn_workers(int threads, ptrdiff_t tasks, ptrdiff_t bytes) {
    ptrdiff_t worth = bytes / WAKE_BYTES;
    if (worth > tasks) worth = tasks;
    if (worth > threads) worth = threads;
    return worth < 1 ? 1 : (int)worth;
}
