/* Stands before the C library's allocator (LD_PRELOAD): counts the blocks that are alive, and lets one request of the
 * thread that set it fail. For test_allocations.py; glibc only. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void __libc_free(void *);

long requests_left = -1; /* before the one that fails; negative: none fails */
size_t least;            /* smaller requests never fail, and are not counted */
pthread_t whose;
atomic_long alive;

static int fails(size_t size) {
    if (requests_left < 0 || size < least || !pthread_equal(pthread_self(), whose)) return 0;
    if (requests_left-- > 0) return 0;
    errno = ENOMEM;
    return 1;
}

static void *counted(void *block) {
    if (block) atomic_fetch_add(&alive, 1);
    return block;
}

void fail_here(void) { whose = pthread_self(); }

void *malloc(size_t size) { return fails(size) ? NULL : counted(__libc_malloc(size)); }
void *calloc(size_t n, size_t size) { return fails(n * size) ? NULL : counted(__libc_calloc(n, size)); }
void *memalign(size_t align, size_t size) { return fails(size) ? NULL : counted(__libc_memalign(align, size)); }
void *aligned_alloc(size_t align, size_t size) { return memalign(align, size); }

int posix_memalign(void **block, size_t align, size_t size) {
    void *made = memalign(align, size);
    if (made) *block = made;
    return made ? 0 : ENOMEM;
}

void *realloc(void *block, size_t size) {
    if (size && fails(size)) return NULL;
    void *moved = __libc_realloc(block, size);
    if (!block) return counted(moved);
    if (!size) atomic_fetch_sub(&alive, 1);
    return moved;
}

void free(void *block) {
    if (block) atomic_fetch_sub(&alive, 1);
    __libc_free(block);
}

void *mmap(void *at, size_t size, int protection, int flags, int file, off_t offset) {
    if (fails(size)) return MAP_FAILED;
    return counted((void *)syscall(SYS_mmap, at, size, protection, flags, file, offset));
}

void *mmap64(void *at, size_t size, int protection, int flags, int file, off_t offset) {
    return mmap(at, size, protection, flags, file, offset);
}

int munmap(void *at, size_t size) {
    atomic_fetch_sub(&alive, 1);
    return (int)syscall(SYS_munmap, at, size);
}
