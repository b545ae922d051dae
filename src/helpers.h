/* Threads that help a caller with its tasks. The caller works too, and at the end waits for nobody but a helper that is
 * in the middle of a task: one that another process keeps from running never took any. */
#ifndef FN_HELPERS_H
#define FN_HELPERS_H

#include "parallel.h"

/* run(context, 0..tasks-1, worker), each once, worker < workers: 0 is the caller. Threads are made when they are first
 * wanted; where there are none to be had, the caller does the work alone. */
void fn_helpers_run(int workers, ptrdiff_t tasks, fn_task *run, void *context);

/* in a forked child: the threads stayed with the parent, so forget them */
void fn_helpers_forget(void);

#endif
