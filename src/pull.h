/* Taking a thread to this processor. Where other libraries' threads spin after their calls, or other processes are busy, the
 * kernel lets a thread wait for its own processor for milliseconds while the one that waits for it has another. Linux alone. */
#ifndef FN_PULL_H
#define FN_PULL_H

#include <stdatomic.h>

typedef struct {
    atomic_int id, clock; /* id 0: not known, and never pulled */
    atomic_llong used;    /* its processor time when last looked at, in nanoseconds; -1: not yet */
} fn_thread;

void fn_thread_is_this(fn_thread *t);

/* Takes t to this processor, for this thread to leave it to t by sleeping, if t was looked at before and has not run since.
 * Returns whether it did. Where t may run stays as it was. */
int fn_pull(fn_thread *t);

/* in a forked child: this thread has another id */
void fn_pull_forget(void);

#endif
