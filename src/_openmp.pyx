"""What the OpenMP runtime says about threads: how many this caller may have.

fastnorm's helpers (pool.c) are no OpenMP team, whose every region ends by waiting for its slowest thread, even for one
that found no work. But they keep to what OpenMP knows: inside a parallel region there are none, and a number set on the
runtime (omp_set_num_threads, threadpoolctl) holds for them too. Where this module cannot be loaded, fastnorm is serial.
"""

cimport openmp
from cpython.pycapsule cimport PyCapsule_New
from libc.limits cimport INT_MAX

cdef int usual = openmp.omp_get_max_threads()


cdef int allowed() noexcept nogil:
    """A number below what the runtime had at import is a limit that somebody set; any other one is nobody's wish."""
    if openmp.omp_in_parallel():
        return 1
    cdef int now = openmp.omp_get_max_threads()
    return now if now < usual else INT_MAX


def limit():
    """The most threads that the OpenMP runtime allows to a kernel called here."""
    return allowed()


allowed_capsule = PyCapsule_New(<void *> allowed, "fastnorm.allowed", NULL)
