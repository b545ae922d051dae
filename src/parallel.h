/* Running independent tasks, on one thread or many. Which thread runs which task never shows in the results. */
#ifndef FN_PARALLEL_H
#define FN_PARALLEL_H

#include <stddef.h>

typedef void fn_task(void *context, ptrdiff_t task, int worker);
typedef void fn_runner(int workers, ptrdiff_t tasks, fn_task *run, void *context);

/* The OpenMP module, if it can be loaded, hands in its runner (_openmp.pyx); NULL: serial. A child forked after the
 * runner was first used goes on serially, since libgomp would wait there for threads that only the parent has. */
void fn_parallel_use(fn_runner *runner);

/* run(context, 0..tasks-1, worker), worker < workers; one worker enters no parallel region at all. Callers that run at
 * the same time share their workers instead of adding them up. */
void fn_parallel(int workers, ptrdiff_t tasks, fn_task *run, void *context);

/* how many workers `bytes` of memory traffic are worth: none is woken for less than its wake-up costs */
int fn_workers(int threads, ptrdiff_t tasks, ptrdiff_t bytes);

#endif
