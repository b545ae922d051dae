#define _DEFAULT_SOURCE 1 /* anonymous mappings, madvise */
#include "pool.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <sys/mman.h>

enum {
    LINE = 64,
    PAGE = 4096,
    CLOSE = 1024, /* so far behind, loads still wait */
    AWAY = 2560,  /* not a power of two, which may be the length of a row */
    HUGE_PAGE = 2 << 20,
    STEPS = 8, /* sizes of blocks between one power of two and the next */
    SIZES = 64 * STEPS,
};

/* Stands on a page of its own before that in which the data start, or that could not be a huge one. */
typedef struct block {
    void *map;
    size_t mapped;               /* bytes of the mapping */
    size_t size;                 /* bytes of the data */
    struct block *newer, *older; /* of all retained blocks */
    struct block *above, *below; /* of those of the same size */
} block;

static _Thread_local uintptr_t next_offset; /* in a page, of this thread's next block */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static block *newest, *oldest, *top[SIZES];
static fn_pool_state state;

/* ---- sizes ------------------------------------------------------------------------------------------------------ */

static int log2_of(size_t n) {
    int k = 0;
    while (n >>= 1) k++;
    return k;
}

/* The size of the blocks that serve a request: up to an eighth more. What nobody touches takes no memory. */
static size_t size_for(size_t bytes) {
    if (bytes <= PAGE) return PAGE;
    const size_t power = (size_t)1 << log2_of(bytes), step = power / STEPS > PAGE ? power / STEPS : PAGE;
    return (bytes + step - 1) / step * step;
}

static block **top_of(size_t size) {
    const int k = log2_of(size);
    return &top[k * STEPS + (int)((size - ((size_t)1 << k)) / (((size_t)1 << k) / STEPS))];
}

/* ---- one block -------------------------------------------------------------------------------------------------- */

static block *block_of(void *data) { return (block *)((char *)data - (uintptr_t)data % PAGE - PAGE); }
static void *data_of(block *b, size_t offset) { return (char *)b + PAGE + offset; }

static block *map_block(size_t size) {
    const size_t align = size >= HUGE_PAGE ? HUGE_PAGE : PAGE, mapped = size + align + PAGE;
    char *map = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return NULL;
    char *data = map + PAGE;
    data += (align - (uintptr_t)data % align) % align;
#ifdef MADV_HUGEPAGE
    /* whole huge pages only: the rest of another one would be memory that nobody asked for */
    if (align == HUGE_PAGE) madvise(data, size / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#endif
    block *b = block_of(data);
    *b = (block){.map = map, .mapped = mapped, .size = size};
    return b;
}

static void unmap(block *b) { munmap(b->map, b->mapped); }

/* ---- the retained ones, under the lock -------------------------------------------------------------------------- */

static void retain(block *b) {
    block **place = top_of(b->size);
    b->newer = b->above = NULL;
    b->older = newest;
    b->below = *place;
    *(newest ? &newest->newer : &oldest) = b;
    if (*place) (*place)->above = b;
    newest = *place = b;
    state.retained += b->size;
    state.blocks++;
}

static void unlink_block(block *b) {
    *(b->newer ? &b->newer->older : &newest) = b->older;
    *(b->older ? &b->older->newer : &oldest) = b->newer;
    *(b->above ? &b->above->below : top_of(b->size)) = b->below;
    if (b->below) b->below->above = b->above;
    state.retained -= b->size;
    state.blocks--;
}

/* takes the longest unused ones off until `bytes` are left; returns them as a list */
static block *shrink(size_t bytes) {
    block *released = NULL;
    while (state.retained > bytes) {
        block *b = oldest;
        unlink_block(b);
        b->older = released;
        released = b;
    }
    return released;
}

static void unmap_all(block *list) {
    while (list) {
        block *next = list->older;
        unmap(list);
        list = next;
    }
}

/* ---- fork ------------------------------------------------------------------------------------------------------- */

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }

/* Retained blocks are the parent's: a child that wrote into them, or only kept them, would have them copied. */
static void after_fork_in_child(void) {
    block *inherited = shrink(0);
    pthread_mutex_unlock(&lock);
    unmap_all(inherited);
}

__attribute__((constructor)) static void watch_forks(void) {
    pthread_atfork(before_fork, after_fork, after_fork_in_child);
}

/* ---- what is called --------------------------------------------------------------------------------------------- */

static void release_all(void) {
    pthread_mutex_lock(&lock);
    block *released = shrink(0);
    pthread_mutex_unlock(&lock);
    unmap_all(released);
}

void fn_pool_beside(const void *a, const void *b) {
    const uintptr_t of_a = (uintptr_t)a / LINE * LINE, of_b = (uintptr_t)b / LINE * LINE;
    next_offset = (of_a + AWAY) % PAGE;
    if (b && (next_offset - of_b) % PAGE < CLOSE) next_offset = (of_a + AWAY / 2) % PAGE;
}

void *fn_pool_take(size_t bytes) {
    const uintptr_t offset = next_offset;
    next_offset = 0;
    if (bytes > SIZE_MAX / 4) return NULL;
    const size_t size = size_for(bytes);
    pthread_mutex_lock(&lock);
    block *b = *top_of(size); /* the last one given back, which may still be in cache */
    if (b) unlink_block(b);
    *(b ? &state.reused : &state.fresh) += 1;
    pthread_mutex_unlock(&lock);
    if (!b && !(b = map_block(size))) {
        release_all(); /* the retained ones may be just what is missing */
        b = map_block(size);
    }
    return b ? data_of(b, offset) : NULL;
}

void fn_pool_give(void *data) {
    if (!data) return;
    block *b = block_of(data), *released = b;
    b->older = NULL;
    pthread_mutex_lock(&lock);
    if (b->size >= FN_POOL_LEAST && b->size <= state.bound) {
        retain(b);
        released = shrink(state.bound);
    }
    pthread_mutex_unlock(&lock);
    unmap_all(released);
}

void *fn_pool_resize(void *data, size_t bytes) {
    if (!data) return fn_pool_take(bytes);
    const size_t size = block_of(data)->size;
    if (bytes <= size && bytes >= size / 2) return data;
    void *moved = fn_pool_take(bytes);
    if (!moved) return NULL;
    memcpy(moved, data, bytes < size ? bytes : size);
    fn_pool_give(data);
    return moved;
}

void fn_pool_bound(size_t bytes) {
    pthread_mutex_lock(&lock);
    state.bound = bytes;
    block *released = shrink(bytes);
    pthread_mutex_unlock(&lock);
    unmap_all(released);
}

fn_pool_state fn_pool_now(void) {
    pthread_mutex_lock(&lock);
    const fn_pool_state now = state;
    pthread_mutex_unlock(&lock);
    return now;
}

#else /* no mappings: every result is the C library's, nothing is retained */

void fn_pool_beside(const void *a, const void *b) { (void)a, (void)b; }
void *fn_pool_take(size_t bytes) { return malloc(bytes ? bytes : 1); }
void fn_pool_give(void *data) { free(data); }
void *fn_pool_resize(void *data, size_t bytes) { return realloc(data, bytes ? bytes : 1); }
void fn_pool_bound(size_t bytes) { (void)bytes; }
fn_pool_state fn_pool_now(void) { return (fn_pool_state){0}; }

#endif
