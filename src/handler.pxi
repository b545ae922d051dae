# NumPy's allocation handler (NEP 49), exchanged for the time of one allocation.

cdef extern from "numpy/arrayobject.h":
    object PyDataMem_SetHandler(object handler)
    object PyDataMem_GetHandler()
    PyObject *PyDataMem_DefaultHandler


cdef int put_back(object before) except -1:
    """`before` is NumPy's handler again. That takes a little memory itself: where there is none, it is tried again."""
    cdef int tries
    for tries in range(100):
        try:
            PyDataMem_SetHandler(before)
            return 0
        except MemoryError:
            pass
    raise MemoryError("fastnorm could not put NumPy's allocation handler back")
