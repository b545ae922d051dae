/* Which processor a helper is on. Where other libraries' threads spin after their calls, or other processes are busy, the
 * kernel lets a helper wait for one for milliseconds, while the caller that waits for it has another. A helper may run where
 * it might before when these return; the caller's processors are its own business, and left alone. Linux alone. */
#ifndef FN_PULL_H
#define FN_PULL_H

#include <stdatomic.h>

typedef struct {
    atomic_int id, clock; /* id 0: not known, and never pulled */
    atomic_llong used;    /* its processor time when last looked at, in nanoseconds; -1: not yet */
} fn_thread;

int fn_this_cpu(void); /* -1: not known */

void fn_thread_is_this(fn_thread *t);

/* Takes t to this processor, for this thread to leave it to t by sleeping, if t was looked at before and has not run since.
 * Returns whether it did. */
int fn_pull(fn_thread *t);

/* A helper that is woken while every processor has work may find itself on its caller's, which it would only take from
 * it. Returns whether it is on another one now. */
int fn_move_off(int cpu);

/* in a forked child: nobody pulls */
void fn_pull_forget(void);

#endif
