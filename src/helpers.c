#define _GNU_SOURCE /* pthread_setname_np */
#include "helpers.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#include "floats.h"
#include "pull.h"
#include "wait.h"

enum {
    MAX_JOBS = 64, /* callers beyond these work alone */
    MAX_HELPERS = 256,
    STACK_BYTES = 1 << 20,
    SPIN_NS = 50000,          /* about what it costs to wake a sleeping thread */
    LOOK_NS = 10000,          /* how often a caller that waits looks whether its helpers run, awake, */
    DOZE_NS = 200000,         /* and asleep */
    ONE_CALLER_NS = 10000000, /* callers this close to each other are at work at once */
    MAX_BALANCE_NS = 1000000, /* what a helper may lose before it rests, however much it won before */
    REST_FACTOR = 16,         /* for the time that callers lost they are spared the helper the same many times over */
    MAX_REST_NS = 125000000,
    RETRY_NS = 1000000000, /* before threads are asked for again, when there were none to be had */
};

/* job.state: the helpers inside, the places left for more, and two flags */
#define INSIDE 0x7fffu
#define PLACE 0x8000u
#define PLACES (INSIDE * PLACE)
#define WAITED_FOR 0x40000000u /* the caller sleeps until the last helper leaves */

typedef struct {
    _Alignas(128) atomic_uint state;
    atomic_int taken; /* by a caller, */
    atomic_int cpu;   /* who runs here */
    int workers;
    ptrdiff_t tasks;
    ptrdiff_t run_of; /* so many tasks are taken at a time: 1 but where they could not be counted in 32 bits */
    fn_task *run;
    void *context;
    atomic_llong closed;              /* when the caller had nothing more to do; 0: it has */
    _Alignas(128) atomic_ullong left; /* runs of tasks: the first, and the one after the last, 32 bits each */
} job;

/* where a helper is, from before it enters a job until it left */
typedef struct {
    _Alignas(128) _Atomic(job *) job;
    fn_thread helper;
} place;

static job jobs[MAX_JOBS];
static place places[MAX_HELPERS]; /* of the helpers in the order they were made */
static atomic_uint posted;        /* counts jobs; what idle helpers watch */
static atomic_int sleeping;       /* helpers in the kernel, */
static atomic_int spinning;       /* and those still awake */
static atomic_int busy;           /* callers and helpers at work */
static atomic_int made;           /* helpers there are */
static atomic_int making;         /* some caller makes helpers */
static _Atomic(char *) last_caller;
static atomic_llong caller_changed; /* when last_caller was another one */
static atomic_llong retry_at;       /* when to ask for threads again */

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t cpu_time(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* whether *word becomes something else within so many nanoseconds */
static int spin_while(atomic_uint *word, unsigned value, int64_t ns) {
    const int64_t end = now() + ns;
    do {
        for (int i = 0; i < 32; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != value) return 1;
            relax();
        }
    } while (now() < end);
    return 0;
}

/* ---- who runs ----------------------------------------------------------------------------------------------------- */

static void note_caller(void) {
    static _Thread_local char this_thread;
    if (atomic_load_explicit(&last_caller, memory_order_relaxed) == &this_thread) return;
    atomic_store(&last_caller, &this_thread);
    atomic_store(&caller_changed, now());
}

/* Whether calls have come from one thread for some time: then whoever else takes processors is not one of ours. */
static int one_caller(void) { return now() - atomic_load(&caller_changed) > ONE_CALLER_NS; }

/* Gives this processor, whose thread is about to sleep, to helpers of the job that do not run. Returns whether there were. */
static int pull_helpers(const job *j) {
    const int n = atomic_load(&made);
    int pulled = 0;
    for (int i = 0; i < n && one_caller(); i++)
        if (atomic_load(&places[i].job) == j) pulled |= fn_pull(&places[i].helper);
    return pulled;
}

/* ---- helpers ---------------------------------------------------------------------------------------------------- */

/* What time a helper spared its callers, less what they lost by waiting for it. Once they lose, it rests, longer each time in
 * a row. Where several threads call, what it spares one it mostly takes from another, and nothing is to its credit. */
typedef struct {
    int64_t balance, rest, until;
} account;

static void settle(account *a, int64_t gain) {
    a->balance += gain;
    const int64_t most = one_caller() ? MAX_BALANCE_NS : 0;
    if (a->balance > most) a->balance = most;
    if (a->balance >= 0) return;
    const int64_t t = now(), again = t - a->until < 4 * a->rest ? 2 * a->rest : 0, due = -REST_FACTOR * a->balance;
    a->rest = due > again ? due : again;
    if (a->rest > MAX_REST_NS) a->rest = MAX_REST_NS;
    a->until = t + a->rest;
    a->balance = 0;
    fn_sleep(a->rest);
}

/* Takes a place, and by that keeps the job where it is. Returns how many there were: none, and the helper is not in. */
static int enter(job *j) {
    unsigned state = atomic_load_explicit(&j->state, memory_order_relaxed);
    while (state & PLACES)
        if (atomic_compare_exchange_weak(&j->state, &state, state - PLACE + 1)) return (int)((state & PLACES) / PLACE);
    return 0;
}

static void leave(job *j) {
    if (atomic_fetch_sub(&j->state, 1) == (WAITED_FOR | 1)) fn_wake(&j->state, 1);
}

/* The next run of tasks, or -1. The caller takes them from the front and helpers from the back: what it worked on in one
 * call, and in one phase of a call, it will mostly work on in the next, and so will they, each in its own cache. */
static ptrdiff_t take(job *j, int worker) {
    unsigned long long left = atomic_load_explicit(&j->left, memory_order_relaxed), rest;
    uint32_t first, end;
    do {
        first = (uint32_t)(left >> 32), end = (uint32_t)left;
        if (first == end) return -1;
        rest = worker ? left - 1 : left + ((unsigned long long)1 << 32);
    } while (!atomic_compare_exchange_weak_explicit(&j->left, &left, rest, memory_order_relaxed, memory_order_relaxed));
    return worker ? (ptrdiff_t)end - 1 : (ptrdiff_t)first;
}

/* The job's tasks, until none is left or so many callers have come that the processors are all taken. */
static void work(job *j, int worker) {
    ptrdiff_t taken;
    while ((taken = take(j, worker)) >= 0) {
        const ptrdiff_t first = taken * j->run_of, end = first + j->run_of < j->tasks ? first + j->run_of : j->tasks;
        for (ptrdiff_t task = first; task < end; task++) j->run(j->context, task, worker);
        if (worker && atomic_load_explicit(&busy, memory_order_relaxed) > j->workers) return;
    }
}

/* What is measured after it has left costs the caller nothing. */
static void help_with(job *j, place *p, account *a) {
    if (!(atomic_load_explicit(&j->state, memory_order_relaxed) & PLACES)) return;
    if (!fn_move_off(atomic_load_explicit(&j->cpu, memory_order_relaxed))) return;
    const int64_t used = cpu_time();
    atomic_store(&p->job, j);
    const int free = enter(j);
    int64_t gain = 0;
    if (free) {
        if (atomic_fetch_add(&busy, 1) < j->workers) work(j, j->workers - free);
        atomic_fetch_sub(&busy, 1);
        const int64_t closed = atomic_load(&j->closed), late = closed ? now() - closed : 0;
        leave(j);
        gain = cpu_time() - used - late;
    }
    atomic_store(&p->job, NULL);
    settle(a, gain);
}

static void *helper(void *where) {
    place *p = where;
    account a = {0};
    fn_thread_is_this(&p->helper);
    fn_floats_enter(); /* not what the caller that made this thread had */
    for (;;) {
        const unsigned seen = atomic_load(&posted);
        for (int i = 0; i < MAX_JOBS; i++) help_with(&jobs[i], p, &a);
        atomic_fetch_add(&spinning, 1);
        const int more = spin_while(&posted, seen, SPIN_NS);
        atomic_fetch_sub(&spinning, 1);
        if (more) continue;
        atomic_fetch_add(&sleeping, 1);
        fn_wait(&posted, seen, 0);
        atomic_fetch_sub(&sleeping, 1);
    }
    return NULL;
}

/* ---- callers ---------------------------------------------------------------------------------------------------- */

/* Signals are the caller's business, so helpers are born with all of them blocked. */
static int make_one(place *p) {
    pthread_t thread;
    pthread_attr_t how;
    sigset_t all, before;
    if (pthread_attr_init(&how)) return 0;
    pthread_attr_setdetachstate(&how, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&how, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int failed = pthread_create(&thread, &how, helper, p);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&how);
#ifdef __linux__
    if (!failed) pthread_setname_np(thread, "fastnorm");
#endif
    return !failed;
}

static void make_helpers(int wanted) {
    if (wanted > MAX_HELPERS) wanted = MAX_HELPERS;
    if (atomic_load(&made) >= wanted || now() < atomic_load(&retry_at) || atomic_exchange(&making, 1)) return;
    while (atomic_load(&made) < wanted) {
        if (!make_one(&places[atomic_load(&made)])) {
            atomic_store(&retry_at, now() + RETRY_NS);
            break;
        }
        atomic_fetch_add(&made, 1);
    }
    atomic_store(&making, 0);
}

static job *take_job(void) {
    for (int i = 0; i < MAX_JOBS; i++)
        if (!atomic_load_explicit(&jobs[i].taken, memory_order_relaxed) && !atomic_exchange(&jobs[i].taken, 1))
            return &jobs[i];
    return NULL;
}

static void post(job *j, int helpers) {
    atomic_store(&j->state, (unsigned)helpers * PLACE);
    atomic_fetch_add(&posted, 1);
    const int asleep = atomic_load(&sleeping), wanted = helpers - atomic_load(&spinning);
    if (asleep > 0 && wanted > 0) fn_wake(&posted, wanted);
}

/* Awake, whether the job's state changes. */
static int changes(job *j, unsigned state) {
    const int64_t end = now() + SPIN_NS;
    do {
        if (spin_while(&j->state, state, LOOK_NS)) return 1;
    } while (!pull_helpers(j) && now() < end);
    return 0;
}

static void close_and_wait(job *j) {
    unsigned state = atomic_fetch_and(&j->state, ~PLACES) & ~PLACES;
    if (state) atomic_store(&j->closed, now());
    for (; state & INSIDE; state = atomic_load(&j->state)) {
        if (changes(j, state)) continue;
        if (state & WAITED_FOR || atomic_compare_exchange_strong(&j->state, &state, state | WAITED_FOR))
            fn_wait(&j->state, state | WAITED_FOR, DOZE_NS);
    }
}

void fn_helpers_run(int workers, ptrdiff_t tasks, fn_task *run, void *context) {
    job *j = NULL;
    if (workers > tasks) workers = (int)tasks;
    /* what other callers have at work is taken off, so that many callers share the processors */
    if (atomic_fetch_add(&busy, 1) + 1 < workers) {
        make_helpers(workers - 1);
        if (atomic_load(&made)) j = take_job();
    }
    if (j) {
        note_caller();
        j->workers = workers;
        j->tasks = tasks;
        j->run = run;
        j->context = context;
        atomic_store(&j->cpu, fn_this_cpu());
        atomic_store(&j->closed, 0);
        j->run_of = tasks / UINT32_MAX + 1;
        atomic_store(&j->left, (unsigned long long)((tasks + j->run_of - 1) / j->run_of));
        post(j, workers - 1);
        work(j, 0);
        close_and_wait(j);
        atomic_store(&j->taken, 0);
    } else {
        for (ptrdiff_t task = 0; task < tasks; task++) run(context, task, 0);
    }
    atomic_fetch_sub(&busy, 1);
}

void fn_helpers_forget(void) {
    for (int i = 0; i < MAX_JOBS; i++) {
        atomic_store(&jobs[i].state, 0);
        atomic_store(&jobs[i].taken, 0);
    }
    for (int i = 0; i < MAX_HELPERS; i++) atomic_store(&places[i].job, NULL);
    fn_pull_forget();
    atomic_store(&sleeping, 0);
    atomic_store(&spinning, 0);
    atomic_store(&busy, 0);
    atomic_store(&made, 0);
    atomic_store(&making, 0);
    atomic_store(&retry_at, 0);
}
