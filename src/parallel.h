/* Running independent tasks, on one thread or many. Which thread runs which task never shows in the results. */
#ifndef FN_PARALLEL_H
#define FN_PARALLEL_H

#include <stddef.h>

typedef void fn_task(void *context, ptrdiff_t task, int worker);
typedef int fn_allowed(void);

/* Without this everything is serial. `allowed` is asked for the most threads that a caller may have at the moment. */
void fn_parallel_use(fn_allowed *allowed);

/* How many workers `bytes` of memory traffic are worth: none is woken for less than its wake-up costs. `rounds`: how
 * often fn_parallel goes over the data; from the second time on much of it is in another core's cache. */
int fn_workers(int threads, ptrdiff_t tasks, ptrdiff_t bytes, int rounds);

/* run(context, 0..tasks-1, worker), worker < workers, as told by fn_workers; with 1 it is a plain loop. Callers that run
 * at the same time share their workers instead of adding them up. A forked child makes threads of its own. */
void fn_parallel(int workers, ptrdiff_t tasks, fn_task *run, void *context);

/* both, as one extension module hands them to another, so that all of them share one set of threads */
typedef struct {
    int (*workers)(int threads, ptrdiff_t tasks, ptrdiff_t bytes, int rounds);
    void (*parallel)(int workers, ptrdiff_t tasks, fn_task *run, void *context);
} fn_threads;
fn_threads fn_threads_shared(void);

#endif
