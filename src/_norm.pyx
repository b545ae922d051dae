# cython: cdivision=True
"""The boundary between NumPy and C: checks arguments, describes them as a job, allocates results, runs the driver."""

cimport cython
cimport numpy as cnp
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_GetPointer, PyCapsule_New
from libc.math cimport INFINITY, isfinite, signbit, sqrt
from libc.string cimport memcmp, memset

from _job cimport *

import os

import numpy as np

from fastnorm import _checks as checks
from fastnorm._threads import get_num_threads
from fastnorm._types import Grads, Moments, Stats

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

cdef extern from "numpy/arrayobject.h":
    object PyArray_NewLikeArray(cnp.ndarray prototype, cnp.NPY_ORDER order, void *dtype, int subok)

cdef extern from *:
    """
    #define tuple_new PyTuple_Type.tp_new
    """
    object tuple_new(type kind, tuple arguments, PyObject *keywords)

cnp.import_array()

include "tiers.pxi"
include "handler.pxi"
include "arrays.pxi"
include "layout.pxi"


def as_input(x, str name="x"):
    """x as an ndarray of a dtype that the kernels know; integers and booleans become float64."""
    return to_input(x, name)


# ---- jobs -------------------------------------------------------------------------------------------------------

cdef enum:
    SERIAL_BYTES = 32768  # below this no number of threads pays, so nobody is asked for it,
    HELD_BYTES = 16384    # and up to this it is over before another Python thread would run


cdef int start(fn_job *job, Axes *axes, cnp.ndarray x, Layout layout, bint centre, bint scale) except -1:
    """A job on x, whose plan is still to be made: it is the bulk of the struct, and nothing reads it before."""
    cdef int code = dtype_code(x)
    memset(job, 0, <char *> &job.plan - <char *> job)
    memset(&job.plan + 1, 0, <char *> (job + 1) - <char *> (&job.plan + 1))
    job.verbs = tier.verbs[code]
    job.centre, job.scale = centre, scale
    job.threads = 1 if cnp.PyArray_NBYTES(x) < SERIAL_BYTES else get_num_threads()
    if layout.split_axis >= 0:
        check_groups(layout, x)
    lay_axes(axes, x, layout, FN_X)
    lay_stats(axes)
    return code


cdef cnp.ndarray add_param(fn_job *job, Axes *axes, Layout layout, param, str name, cnp.ndarray x, int operand,
                           int code):
    """Checks weight or bias and puts it into the job; returns the array that the job points into."""
    cdef cnp.ndarray a = to_values(param, name, code)
    check_param(a, name, x, layout)
    lay_param(axes, layout, cnp.PyArray_NDIM(a), <const Py_ssize_t *> cnp.PyArray_DIMS(a),
              <const Py_ssize_t *> cnp.PyArray_STRIDES(a), operand)
    job.data[operand] = <char *> cnp.PyArray_DATA(a)
    return a


cdef int add_mask(fn_job *job, Axes *axes, cnp.ndarray mask, Layout layout) except -1:
    """Puts a mask of x's shape into the job; where statistics come from it, no slice may be empty.

    The caller keeps the mask: it may be a conversion that nobody else holds.
    """
    if not job.given:
        checks.no_empty_slice(mask, tuple([d for d in range(layout.ndim) if layout.is_reduced[d]]))
    lay_like(axes, mask, layout, FN_MASK)
    job.data[FN_MASK] = <char *> cnp.PyArray_DATA(mask)
    return 0


cdef cnp.ndarray add_gradient(fn_job *job, Axes *axes, Layout layout, cnp.ndarray like, int operand, int code):
    """Zeros for the gradient of a parameter of this shape, where the job will add it up."""
    cdef cnp.ndarray gradient = new_values(like, code)
    cdef Py_ssize_t size = lay_gradient(axes, layout, like, operand)
    if operand == FN_DWEIGHT:
        job.dweight, job.ndweight = cnp.PyArray_DATA(gradient), size
    else:
        job.dbias, job.ndbias = cnp.PyArray_DATA(gradient), size
    return gradient


cdef int drive(fn_job *job, Axes *axes, bint forward) noexcept nogil:
    cdef fn_floats floats = fn_floats_enter()
    cdef int status
    fn_plan_make(&job.plan, axes.ndim, axes.axis, job.verbs.size)
    status = fn_forward(job) if forward else fn_backward(job)
    fn_floats_leave(floats)
    return status


cdef int run(fn_job *job, Axes *axes, Layout layout, cnp.ndarray x, bint forward) except -1:
    """Makes the plan and runs the job. Returns 0 where there was nothing to do: some length is 0."""
    cdef int d, status
    cdef bint empty = False
    for d in range(axes.ndim):
        if axes.axis[d].len == 0:
            if axes.axis[d].reduced and not job.given:
                checks.empty_axis((<object> x).shape, reduced_axes(layout))
            empty = True
    if empty:
        return 0
    if cnp.PyArray_NBYTES(x) <= HELD_BYTES:
        status = drive(job, axes, forward)
    else:
        with nogil:
            status = drive(job, axes, forward)
    if status != FN_OK:
        raise MemoryError("fastnorm could not allocate its scratch memory")
    return 1


cdef double to_eps(object eps) except? -1:
    return eps if type(eps) is float and <double> eps >= 0 else checks.to_eps(eps)


cdef double to_real(object value, str name) except? -1:
    if type(value) is float and isfinite(<double> value):
        return value
    return checks.to_real(value, name)


cdef Py_ssize_t count_slices(Axes *axes) noexcept:
    cdef Py_ssize_t size = 1
    cdef int d
    for d in range(axes.ndim):
        if not axes.axis[d].reduced:
            size *= axes.axis[d].len
    return size


# ---- forward ----------------------------------------------------------------------------------------------------

cdef object normalize(cnp.ndarray x, Layout layout, object weight, object bias, double eps, bint centre, bint scale,
                      object where, object out, bint return_stats, Running running):
    """Normalize x in this layout; with `running` update its arrays, or where it is frozen use them as statistics."""
    cdef fn_job job
    cdef Axes axes
    cdef cnp.npy_intp dims[65]
    cdef int ndim, code = start(&job, &axes, x, layout, centre, scale)
    cdef cnp.ndarray y, w = None, b = None, mask = None, mean = None, rstd = None
    job.eps = eps
    job.data[FN_X] = <char *> cnp.PyArray_DATA(x)
    if weight is not None:
        w = add_param(&job, &axes, layout, weight, "weight", x, FN_WEIGHT, code)
    if bias is not None:
        b = add_param(&job, &axes, layout, bias, "bias", x, FN_BIAS, code)
    if where is not None:
        mask = checks.to_mask(where, (<object> x).shape)
    y = new_like(x) if out is None else to_out(out, x, w, b, mask)
    lay_like(&axes, y, layout, FN_Y)
    job.data[FN_Y] = <char *> cnp.PyArray_DATA(y)
    if running is not None and running.frozen:
        job.given = 1
        mean, rstd = running.mean, running.var
        if running.wide is not None:
            job.far_rstd = <const double *> cnp.PyArray_DATA(running.wide)
    else:
        if mask is not None:
            add_mask(&job, &axes, mask, layout)
        if return_stats:
            ndim = stats_dims(&axes, layout.keepdims, dims)
            if centre:
                mean = cnp.PyArray_EMPTY(ndim, dims, compute_num(code), 0)
            if scale:
                rstd = cnp.PyArray_EMPTY(ndim, dims, compute_num(code), 0)
        if running is not None:
            prepare_running(running, &job, &axes)
    if mean is not None:
        job.mean = cnp.PyArray_DATA(mean)
    if rstd is not None:
        job.rstd = cnp.PyArray_DATA(rstd)
    if run(&job, &axes, layout, x, True) and running is not None and not running.frozen:
        update_running(running)
    if return_stats:
        return y, new_tuple(Stats, (mean, rstd))
    return y


def forward(x, Family family, axis, weight, bias, eps, bint with_mean, bint with_std, where, out, bint return_stats,
            groups=None):
    """Normalize x in the layout of this family. Returns y, or (y, Stats)."""
    cdef cnp.ndarray a = to_input(x, "x")
    cdef Layout layout = find(family, cnp.PyArray_NDIM(a), axis, groups)
    return normalize(a, layout, weight, bias, to_eps(eps), with_mean, with_std, where, out, return_stats, None)


def moments(x, Family family, axis, correction, bint keepdims, where):
    """Mean and variance of every slice; var divides by n - correction."""
    cdef fn_job job
    cdef Axes axes
    cdef cnp.npy_intp dims[65]
    cdef cnp.ndarray a = to_input(x, "x"), mask, mean, var, wide
    cdef Layout layout = find(family, cnp.PyArray_NDIM(a), axis, None)
    cdef int ndim, code = start(&job, &axes, a, layout, True, True)
    cdef Py_ssize_t i
    cdef double value, count, off
    cdef fn_floats floats
    cdef cnp.npy_intp size = count_slices(&axes)
    cdef cnp.npy_intp thrice = 3 * size
    off = 0.0 if type(correction) is int and correction == 0 else to_real(correction, "correction")
    job.data[FN_X] = <char *> cnp.PyArray_DATA(a)
    if where is not None:
        mask = checks.to_mask(where, (<object> a).shape)
        add_mask(&job, &axes, mask, layout)
    wide = cnp.PyArray_EMPTY(1, &thrice, cnp.NPY_DOUBLE, 0)
    job.mean64 = <double *> cnp.PyArray_DATA(wide)
    job.var64 = job.mean64 + size
    job.count64 = job.var64 + size
    ndim = stats_dims(&axes, keepdims, dims)
    mean = cnp.PyArray_EMPTY(ndim, dims, compute_num(code), 0)
    var = cnp.PyArray_EMPTY(ndim, dims, compute_num(code), 0)
    if run(&job, &axes, layout, a, True):
        floats = fn_floats_enter()
        for i in range(size):
            value, count = job.var64[i], job.count64[i]
            if off != 0 and count > off:
                value = value * (count / (count - off))
            elif off != 0:
                value = value / 0.0 if value != 0 or not signbit(value) else INFINITY
            put(cnp.PyArray_DATA(mean), i, job.mean64[i], code)
            put(cnp.PyArray_DATA(var), i, value + 0.0, code)  # -0.0 says that it is above 0, but too small
        fn_floats_leave(floats)
    if ndim == 0:
        return new_tuple(Moments, ((<object> mean)[()], (<object> var)[()]))
    return new_tuple(Moments, (mean, var))


cdef inline void put(void *a, Py_ssize_t i, double value, int code) noexcept:
    """An element of an array of the compute type."""
    if code == FN_F64:
        (<double *> a)[i] = value
    else:
        (<float *> a)[i] = <float> value


# ---- backward ---------------------------------------------------------------------------------------------------

cdef object gradients(cnp.ndarray dy, cnp.ndarray x, object stats, Layout layout, object weight, object bias,
                      bint centre, bint scale, object where, bint given, double root=0):
    """The gradients of `normalize`. x is None where neither dx nor dweight needs it; `given`: constant statistics.

    root: unless 0, there are no `stats`; it is x over its root mean square, to which nothing was added: no dbias, but
    (dx, dweight) alone, and dweight is still to be divided by it.
    """
    cdef fn_job job
    cdef Axes axes
    cdef cnp.npy_intp dims[65]
    cdef int ndim, code = start(&job, &axes, dy if x is None else x, layout, centre, scale)
    cdef cnp.ndarray dx, w = None, b = None, mask = None, mean = None, rstd = None, dweight = None, dbias = None
    cdef tuple pair
    cdef bint fresh = root != 0
    job.given, job.root = given, root
    lay_like(&axes, dy, layout, FN_DY)
    job.data[FN_DY] = <char *> cnp.PyArray_DATA(dy)
    if weight is not None:
        w = add_param(&job, &axes, layout, weight, "weight", dy, FN_WEIGHT, code)
    if where is not None:
        mask = checks.to_mask(where, (<object> dy).shape)
        add_mask(&job, &axes, mask, layout)
    if x is not None:
        job.data[FN_X] = <char *> cnp.PyArray_DATA(x)
        ndim = stats_dims(&axes, layout.keepdims, dims)
        job.fresh = fresh
        if not fresh:
            pair = <tuple> stats if type(stats) is Stats else checks.to_pair(stats)
        if centre:
            mean = to_stats(pair[0], "stats.mean", ndim, dims, code)
            job.mean = cnp.PyArray_DATA(mean)
        if scale and not fresh:
            rstd = to_stats(pair[1], "stats.rstd", ndim, dims, code)
            job.rstd = cnp.PyArray_DATA(rstd)
    dx = new_like(dy) if x is None else new_like(x, dy)
    lay_like(&axes, dx, layout, FN_Y)
    job.data[FN_Y] = <char *> cnp.PyArray_DATA(dx)
    if w is not None:
        dweight = add_gradient(&job, &axes, layout, w, FN_DWEIGHT, code)
    if bias is not None:
        b = to_values(bias, "bias", code)
        check_param(b, "bias", dy, layout)
    elif not fresh:
        b = w
    if b is not None:
        dbias = add_gradient(&job, &axes, layout, b, FN_DBIAS, code)
    run(&job, &axes, layout, dy, False)
    return (dx, dweight) if fresh else new_tuple(Grads, (dx, dweight, dbias))


def backward(dy, x, stats, Family family, axis, weight, bias, bint with_mean, bint with_std, where,
             bint given=False, groups=None):
    """The gradients of `forward`, as Grads(dx, dweight, dbias).

    bias : array or None
        Tells the shape of dbias; without it dbias has weight's shape.
    given : bool
        The statistics are constants.
    """
    cdef cnp.ndarray a = to_input(x, "x"), g = to_gradient(dy, a, "dy")
    cdef Layout layout = find(family, cnp.PyArray_NDIM(a), axis, groups)
    return gradients(g, a, stats, layout, weight, bias, with_mean, with_std, where, given)


include "running.pxi"
include "unit.pxi"
