#define _GNU_SOURCE /* sched_getcpu, syscall */
#include "pull.h"

#ifdef __linux__

#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Some thread has set a mask that it will set back. One at a time, or they would take each other's for the one to set back. */
static atomic_int masked;

static int begin(void) { return !atomic_exchange(&masked, 1); }
static void end(void) { atomic_store(&masked, 0); }

int fn_this_cpu(void) { return sched_getcpu(); }

void fn_thread_is_this(fn_thread *t) {
    clockid_t clock;
    const int known = !pthread_getcpuclockid(pthread_self(), &clock);
    atomic_store(&t->used, -1);
    atomic_store(&t->clock, known ? clock : 0);
    atomic_store(&t->id, known ? (int)syscall(SYS_gettid) : 0);
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
    if (!id || has_run(t) || cpu < 0 || cpu >= CPU_SETSIZE || !begin()) return 0;
    const int moved = move_here(id, cpu);
    end();
    return moved;
}

static int move_from(int cpu) {
    cpu_set_t own, others;
    if (sched_getaffinity(0, sizeof own, &own)) return 0;
    others = own;
    CPU_CLR(cpu, &others);
    if (!CPU_COUNT(&others) || sched_setaffinity(0, sizeof others, &others)) return 0;
    sched_setaffinity(0, sizeof own, &own);
    return sched_getcpu() != cpu;
}

int fn_move_off(int cpu) {
    if (cpu < 0 || sched_getcpu() != cpu) return 1;
    if (cpu >= CPU_SETSIZE || !begin()) return 0;
    const int moved = move_from(cpu);
    end();
    return moved;
}

void fn_pull_forget(void) { end(); }

#else

int fn_this_cpu(void) { return -1; }
void fn_thread_is_this(fn_thread *t) { (void)t; }
int fn_pull(fn_thread *t) { return (void)t, 0; }
int fn_move_off(int cpu) { return (void)cpu, 1; }
void fn_pull_forget(void) {}

#endif
