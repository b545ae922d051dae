"""NumPy's allocation handler (NEP 49) over the pool of pool.c, for the large arrays that fastnorm makes."""

from cpython.pycapsule cimport PyCapsule_New, PyCapsule_SetContext
from libc.stdint cimport uint8_t
from libc.string cimport memset, strcpy

cdef extern from "numpy/ndarraytypes.h":
    ctypedef struct PyDataMemAllocator:
        void *ctx
        void *(*malloc)(void *ctx, size_t size) noexcept nogil
        void *(*calloc)(void *ctx, size_t n, size_t size) noexcept nogil
        void *(*realloc)(void *ctx, void *data, size_t size) noexcept nogil
        void (*free)(void *ctx, void *data, size_t size) noexcept nogil
    ctypedef struct PyDataMem_Handler:
        char name[127]
        uint8_t version
        PyDataMemAllocator allocator

cdef extern from "pool.h" nogil:
    enum: FN_POOL_LEAST
    ctypedef struct fn_pool_state:
        size_t bound, retained, blocks, fresh, reused
    void fn_pool_beside(const void *a, const void *b) noexcept
    void *fn_pool_take(size_t bytes) noexcept
    void fn_pool_give(void *data) noexcept
    void *fn_pool_resize(void *data, size_t bytes) noexcept
    void fn_pool_bound(size_t bytes) noexcept
    fn_pool_state fn_pool_now() noexcept


cdef void *take(void *ctx, size_t size) noexcept nogil:
    return fn_pool_take(size)


cdef void *take_zeros(void *ctx, size_t n, size_t size) noexcept nogil:
    cdef void *data
    if size and n > (<size_t> -1) // size:
        return NULL
    data = fn_pool_take(n * size)
    return memset(data, 0, n * size) if data else NULL


cdef void *resize(void *ctx, void *data, size_t size) noexcept nogil:
    return fn_pool_resize(data, size)


cdef void give(void *ctx, void *data, size_t size) noexcept nogil:
    fn_pool_give(data)


cdef PyDataMem_Handler table
table.version = 1
table.allocator = PyDataMemAllocator(NULL, take, take_zeros, resize, give)
strcpy(table.name, "fastnorm_pool")

handler = PyCapsule_New(&table, "mem_handler", NULL)  # each array made with it keeps it
PyCapsule_SetContext(handler, <void *> fn_pool_beside)
LEAST = FN_POOL_LEAST


def set_bound(size_t nbytes):
    """Retain no more than so many bytes from now on."""
    fn_pool_bound(nbytes)


def state():
    """The bound, the bytes and blocks retained, and how many requests took fresh and reused memory so far."""
    cdef fn_pool_state now = fn_pool_now()
    return {"bound": now.bound, "retained": now.retained, "blocks": now.blocks, "fresh": now.fresh,
            "reused": now.reused}
