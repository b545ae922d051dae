"""The one place where threads are started.

Linked with the compiler's OpenMP runtime; `_norm` is not. Where this module cannot be loaded, fastnorm stays serial.
"""

cimport openmp
from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport prange, threadid

from _job cimport fn_task


cdef void run(int workers, Py_ssize_t tasks, fn_task *task, void *context) noexcept nogil:
    cdef Py_ssize_t i
    if openmp.omp_in_parallel():
        for i in range(tasks):
            task(context, i, 0)
        return
    # Dynamic: a core that another process keeps busy takes fewer tasks instead of holding up the rest.
    for i in prange(tasks, schedule="dynamic", num_threads=workers):
        task(context, i, threadid())


runner = PyCapsule_New(<void *> run, "fastnorm.runner", NULL)
