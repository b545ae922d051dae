#define _GNU_SOURCE /* sched_getcpu, syscall */
#include "pull.h"

#ifdef __linux__

#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static _Thread_local int this_id;
static _Thread_local clockid_t this_clock;
static atomic_int
    pulling; /* some thread does, one at a time: two would take each other's mask for the one to restore */

void fn_thread_is_this(fn_thread *t) {
    if (!this_id && !pthread_getcpuclockid(pthread_self(), &this_clock)) this_id = (int)syscall(SYS_gettid);
    atomic_store_explicit(&t->id, this_id, memory_order_relaxed);
    atomic_store_explicit(&t->clock, this_clock, memory_order_relaxed);
    atomic_store_explicit(&t->used, -1, memory_order_relaxed);
}

static int has_run(fn_thread *t) {
    struct timespec clock;
    if (clock_gettime(atomic_load(&t->clock), &clock)) return 1;
    const long long used = (long long)clock.tv_sec * 1000000000 + clock.tv_nsec;
    return atomic_exchange(&t->used, used) != used;
}

/* A mask of this processor alone moves a thread that waits, and it stays where it was put when it has its own mask again. */
static int move_here(int id, int cpu) {
    cpu_set_t own, here;
    if (sched_getaffinity(id, sizeof own, &own) || !CPU_ISSET(cpu, &own)) return 0;
    CPU_ZERO(&here);
    CPU_SET(cpu, &here);
    return !sched_setaffinity(id, sizeof here, &here) && !sched_setaffinity(id, sizeof own, &own);
}

int fn_pull(fn_thread *t) {
    const int id = atomic_load(&t->id), cpu = sched_getcpu();
    if (!id || has_run(t) || cpu < 0 || cpu >= CPU_SETSIZE || atomic_exchange(&pulling, 1)) return 0;
    const int moved = move_here(id, cpu);
    atomic_store(&pulling, 0);
    return moved;
}

void fn_pull_forget(void) {
    this_id = 0;
    atomic_store(&pulling, 0);
}

#else

void fn_thread_is_this(fn_thread *t) { (void)t; }
int fn_pull(fn_thread *t) { return (void)t, 0; }
void fn_pull_forget(void) {}

#endif
