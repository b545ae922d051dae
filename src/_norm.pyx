"""The boundary between NumPy and C: checks arguments, describes them as a job, allocates results, runs the driver."""

cimport cython
cimport numpy as cnp
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.string cimport memset

from _job cimport *

import os

import numpy as np

from fastnorm import _checks as checks
from fastnorm._types import Grads, Moments, Stats

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

cdef extern from "numpy/arrayobject.h":
    object PyArray_NewLikeArray(cnp.ndarray prototype, cnp.NPY_ORDER order, void *dtype, int subok)
    object PyDataMem_SetHandler(object handler)
    object PyDataMem_GetHandler()
    PyObject *PyDataMem_DefaultHandler

cnp.import_array()

# ---- tiers and threads ------------------------------------------------------------------------------------------

cdef const fn_tier *tiers[8]
cdef int ntiers = fn_cpu_tiers(tiers, 8)
cdef const fn_tier *tier = tiers[ntiers - 1]


def isa_tiers():
    """The instruction-set tiers this build holds and this processor runs, worst first."""
    return [tiers[i].name.decode() for i in range(ntiers)]


def isa():
    """The tier in use."""
    return tier.name.decode()


def set_isa(str name):
    """Use another tier from now on, for the whole process; for tests and measurements."""
    global tier
    for i in range(ntiers):
        if tiers[i].name.decode() == name:
            tier = tiers[i]
            return
    raise ValueError(f"isa is {name!r}, needs one of {', '.join(isa_tiers())}: what this build and processor have")


def tier_capsule(str name):
    """This tier's table of verbs (fn_tier), as `_verbs` takes it; for tests."""
    for i in range(ntiers):
        if tiers[i].name.decode() == name:
            return PyCapsule_New(<void *> tiers[i], "fastnorm.tier", NULL)
    raise ValueError(f"name is {name!r}, needs one of {', '.join(isa_tiers())}")


if os.environ.get("FASTNORM_ISA"):
    try:
        set_isa(os.environ["FASTNORM_ISA"])
    except ValueError as error:
        raise ImportError(f"FASTNORM_ISA: {error}") from None


cdef extern from *:
    """
    #if defined(__clang__)
    #define FN_COMPILER "Clang " __clang_version__
    #elif defined(__GNUC__)
    #define FN_COMPILER "GCC " __VERSION__
    #else
    #define FN_COMPILER "unknown"
    #endif
    """
    const char *FN_COMPILER
    const char *FN_VERSION  # meson.build passes the project's

COMPILER = FN_COMPILER.decode()
VERSION = FN_VERSION.decode()


def use_threads(capsule):
    """Use as many threads as the function in this capsule of _openmp allows; without this call, one."""
    fn_parallel_use(<fn_allowed *> PyCapsule_GetPointer(capsule, "fastnorm.allowed"))


# ---- layouts ----------------------------------------------------------------------------------------------------

@cython.final
cdef class Layout:
    """Which axes of an array are reduced, and along which ones weight and bias lie.

    Parameters
    ----------
    ndim : int
    reduced : iterable of int
        Axes of the array as the kernels see it: after the split, where there is one.
    params : tuple of int or None
        Axis i of weight and bias lies along axis params[i]; None: they broadcast against x.
    keepdims : bool
        Whether statistics keep reduced axes at length 1.
    split_axis, groups : int
        Split this axis into (groups, the rest); reduced and params then count the two axes apart, and a param that
        names the first of the two lies along both.
    """

    cdef readonly int ndim, split_axis
    cdef readonly Py_ssize_t groups
    cdef readonly object params
    cdef readonly bint keepdims
    cdef unsigned char is_reduced[65]

    def __init__(self, int ndim, reduced, params=None, *, bint keepdims=True, int split_axis=-1, Py_ssize_t groups=0):
        self.ndim = ndim
        self.params = params
        self.keepdims = keepdims
        self.split_axis = split_axis
        self.groups = groups
        memset(self.is_reduced, 0, sizeof(self.is_reduced))
        for axis in reduced:
            self.is_reduced[axis] = 1


# ---- arrays -----------------------------------------------------------------------------------------------------

cdef int bfloat16_num = -1  # ml_dtypes gives it out at run time


cdef int dtype_code(cnp.ndarray a) noexcept:
    """FN_F32 ... of this array, or -1."""
    global bfloat16_num
    cdef int num = cnp.PyArray_TYPE(a)
    if num == cnp.NPY_FLOAT:
        return FN_F32
    if num == cnp.NPY_DOUBLE:
        return FN_F64
    if num == cnp.NPY_FLOAT16:
        return FN_F16
    if num == bfloat16_num:
        return FN_BF16
    if num >= 256 and a.dtype.name == "bfloat16":
        bfloat16_num = num
        return FN_BF16
    return -1


cdef inline bint is_native(cnp.ndarray a) noexcept:
    return cnp.PyArray_ISNOTSWAPPED(a)


def as_input(x, str name="x"):
    """x as an ndarray of a dtype that the kernels know; integers and booleans become float64."""
    if type(x) is cnp.ndarray and dtype_code(x) >= 0 and is_native(x):
        return x
    return checks.to_array(x, name)


cdef cnp.ndarray as_values(a, str name, int code):
    """Parameters and statistics as an aligned native array of the compute type."""
    cdef int num = cnp.NPY_DOUBLE if code == FN_F64 else cnp.NPY_FLOAT
    if (type(a) is cnp.ndarray and cnp.PyArray_TYPE(a) == num and is_native(a)
            and cnp.PyArray_ISALIGNED(a)):
        return a
    return checks.to_values(a, name, np.float64 if code == FN_F64 else np.float32)


cdef object compute_dtype(int code):
    return np.dtype(np.float64) if code == FN_F64 else np.dtype(np.float32)


# ---- jobs -------------------------------------------------------------------------------------------------------

cdef struct Axes:
    int ndim
    fn_axis axis[65]


cdef void lay_axes(Axes *axes, cnp.ndarray x, Layout layout, int operand) noexcept:
    """Lengths, roles and the strides of `operand` along every axis, the split axis in two."""
    cdef int d, at = 0
    cdef Py_ssize_t length
    memset(axes, 0, sizeof(int))
    for d in range(layout.ndim):
        length = cnp.PyArray_DIM(x, d)
        memset(&axes.axis[at], 0, sizeof(fn_axis))
        if d == layout.split_axis:
            memset(&axes.axis[at + 1], 0, sizeof(fn_axis))
            axes.axis[at].len = layout.groups
            axes.axis[at].stride[operand] = cnp.PyArray_STRIDE(x, d) * (length // layout.groups)
            axes.axis[at].reduced = layout.is_reduced[at]
            at += 1
            axes.axis[at].len = length // layout.groups
        else:
            axes.axis[at].len = length
        axes.axis[at].stride[operand] = cnp.PyArray_STRIDE(x, d)
        axes.axis[at].reduced = layout.is_reduced[at]
        at += 1
    axes.ndim = at


cdef void lay_like(Axes *axes, cnp.ndarray a, Layout layout, int operand) noexcept:
    """The strides of an operand of x's shape."""
    cdef int d, at = 0
    for d in range(layout.ndim):
        if d == layout.split_axis:
            axes.axis[at].stride[operand] = cnp.PyArray_STRIDE(a, d) * axes.axis[at + 1].len
            at += 1
        axes.axis[at].stride[operand] = cnp.PyArray_STRIDE(a, d)
        at += 1


cdef void lay_stats(Axes *axes) noexcept:
    """Statistics lie in C order over the kept axes."""
    cdef int d
    cdef Py_ssize_t step = 1
    for d in range(axes.ndim - 1, -1, -1):
        if not axes.axis[d].reduced:
            axes.axis[d].stride[FN_STAT] = step if axes.axis[d].len > 1 else 0
            step *= axes.axis[d].len


cdef void lay_param(Axes *axes, Layout layout, int ndim, const Py_ssize_t *shape, const Py_ssize_t *strides,
                    int operand):
    """A parameter's strides along x's axes; its shape has been checked."""
    cdef int i, d
    for i in range(ndim):
        if shape[i] == 1:
            continue
        d = layout.params[i] if layout.params is not None else axes.ndim - ndim + i
        if layout.params is not None and d == layout.split_axis and layout.split_axis >= 0:
            axes.axis[d].stride[operand] = strides[i] * axes.axis[d + 1].len
            axes.axis[d + 1].stride[operand] = strides[i]
        else:
            axes.axis[d].stride[operand] = strides[i]


cdef Py_ssize_t lay_gradient(Axes *axes, Layout layout, cnp.ndarray like, int operand):
    """A parameter gradient's strides, in elements of a C-ordered array of this shape; returns its size."""
    cdef Py_ssize_t strides[64]
    cdef Py_ssize_t step = 1
    cdef int i
    for i in range(cnp.PyArray_NDIM(like) - 1, -1, -1):
        strides[i] = step
        step *= cnp.PyArray_DIM(like, i)
    lay_param(axes, layout, cnp.PyArray_NDIM(like), <const Py_ssize_t *> cnp.PyArray_DIMS(like), strides, operand)
    return step


cdef object stats_shape(Axes *axes, bint keepdims):
    cdef int d
    shape = []
    for d in range(axes.ndim):
        if not axes.axis[d].reduced:
            shape.append(axes.axis[d].len)
        elif keepdims:
            shape.append(1)
    return tuple(shape)


cdef cnp.ndarray add_param(fn_job *job, Axes *axes, Layout layout, param, str name, cnp.ndarray x, int operand,
                           int code):
    """Checks weight or bias and puts it into the job; returns the array that the job points into."""
    cdef cnp.ndarray a = as_values(param, name, code)
    check_param(a, name, x, layout)
    lay_param(axes, layout, cnp.PyArray_NDIM(a), <const Py_ssize_t *> cnp.PyArray_DIMS(a),
              <const Py_ssize_t *> cnp.PyArray_STRIDES(a), operand)
    job.data[operand] = <char *> cnp.PyArray_DATA(a)
    return a


cdef int check_param(cnp.ndarray a, str name, cnp.ndarray x, Layout layout) except -1:
    """Raises unless `a` has the layout's parameter shape, or broadcasts against x without enlarging it."""
    cdef int i, ndim = cnp.PyArray_NDIM(a), shift = layout.ndim - ndim
    cdef Py_ssize_t length
    cdef bint good
    if layout.params is None:
        good = shift >= 0
        for i in range(ndim):
            if not good:
                break
            length = cnp.PyArray_DIM(a, i)
            good = length == 1 or length == cnp.PyArray_DIM(x, shift + i)
        if not good:
            checks.bad_broadcast((<object> a).shape, name, (<object> x).shape)
        return 0
    good = ndim == len(layout.params)
    for i in range(ndim):
        if not good:
            break
        good = cnp.PyArray_DIM(a, i) == param_length(layout, x, layout.params[i])
    if not good:
        wanted = tuple([param_length(layout, x, d) for d in layout.params])
        checks.bad_param((<object> a).shape, name, (<object> x).shape, wanted)
    return 0


cdef Py_ssize_t param_length(Layout layout, cnp.ndarray x, int d) noexcept:
    """x's length along the layout's axis d; the first of two split axes stands for both."""
    return cnp.PyArray_DIM(x, d if layout.split_axis < 0 or d <= layout.split_axis else d - 1)


cdef void start(fn_job *job, int code) noexcept:
    memset(job, 0, sizeof(fn_job))
    job.verbs = tier.verbs[code]


cdef bint finish_axes(fn_job *job, Axes *axes, cnp.ndarray x, Layout layout) except -1:
    """Makes the plan. Returns False where there is nothing to do: some length is 0."""
    cdef int d
    cdef bint empty = False
    for d in range(axes.ndim):
        if axes.axis[d].len == 0:
            if axes.axis[d].reduced and not job.given:
                checks.empty_axis((<object> x).shape, [d for d in range(axes.ndim) if axes.axis[d].reduced])
            empty = True
    if empty:
        return False
    fn_plan_make(&job.plan, axes.ndim, axes.axis, job.verbs.size)
    return True


cdef int add_mask(fn_job *job, Axes *axes, cnp.ndarray mask, Layout layout) except -1:
    """Puts a mask of x's shape into the job; where statistics come from it, no slice may be empty."""
    if not job.given:
        checks.no_empty_slice(mask, tuple([d for d in range(layout.ndim) if layout.is_reduced[d]]))
    lay_like(axes, mask, layout, FN_MASK)
    job.data[FN_MASK] = <char *> cnp.PyArray_DATA(mask)
    return 0


cdef int run(fn_job *job, bint forward) except -1:
    cdef int status
    with nogil:
        status = fn_forward(job) if forward else fn_backward(job)
    if status != FN_OK:
        raise MemoryError("fastnorm could not allocate its scratch memory")
    return 0


# ---- memory of results ------------------------------------------------------------------------------------------

cdef object handler = None  # NumPy's allocation handler over a pool, for results of so many bytes and more
cdef Py_ssize_t handler_least = PY_SSIZE_T_MAX


def use_handler(capsule, Py_ssize_t least):
    """Allocate results of `least` bytes and more by this handler (NEP 49); None: as NumPy does it."""
    global handler, handler_least
    handler_least = PY_SSIZE_T_MAX
    if capsule is not None:
        handler = capsule
        handler_least = least


cdef cnp.ndarray new_like(cnp.ndarray x):
    """An array of x's shape, dtype and memory order."""
    if cnp.PyArray_NBYTES(x) < handler_least:
        return PyArray_NewLikeArray(x, cnp.NPY_KEEPORDER, NULL, 0)
    current = PyDataMem_GetHandler()
    if <PyObject *> current is not PyDataMem_DefaultHandler:  # whoever set another one wants it to be used
        return PyArray_NewLikeArray(x, cnp.NPY_KEEPORDER, NULL, 0)
    PyDataMem_SetHandler(handler)
    try:
        return PyArray_NewLikeArray(x, cnp.NPY_KEEPORDER, NULL, 0)
    finally:
        PyDataMem_SetHandler(current)


# ---- forward ----------------------------------------------------------------------------------------------------

def forward(cnp.ndarray x, Layout layout, weight, bias, double eps, bint with_mean, bint with_std, where, out,
            bint return_stats, running=None, given=None, int threads=1):
    """Normalize x in this layout.

    running : (running_mean, running_var, momentum) or None
        Updated from the batch's statistics; either array may be None.
    given : (mean, rstd) or None
        Use these statistics instead of x's own; either may be None.
    Returns y, or (y, Stats).
    """
    cdef fn_job job
    cdef Axes axes
    cdef int code = dtype_code(x)
    cdef cnp.ndarray y, w = None, b = None, mask = None, mean = None, rstd = None, wide = None
    start(&job, code)
    lay_axes(&axes, x, layout, FN_X)
    job.data[FN_X] = <char *> cnp.PyArray_DATA(x)
    job.centre, job.scale, job.eps, job.threads = with_mean, with_std, eps, threads
    if weight is not None:
        w = add_param(&job, &axes, layout, weight, "weight", x, FN_WEIGHT, code)
    if bias is not None:
        b = add_param(&job, &axes, layout, bias, "bias", x, FN_BIAS, code)
    lay_stats(&axes)
    if where is not None:
        mask = checks.to_mask(where, (<object> x).shape)
    if out is not None:
        checks.check_out(out, x, (("weight", w), ("bias", b), ("where", mask)))
        y = out
    else:
        y = new_like(x)
    lay_like(&axes, y, layout, FN_Y)
    job.data[FN_Y] = <char *> cnp.PyArray_DATA(y)
    if mask is not None and given is None:
        add_mask(&job, &axes, mask, layout)

    shape = dtype = None
    if return_stats:
        shape = stats_shape(&axes, layout.keepdims)
        dtype = compute_dtype(code)
    if given is not None:
        job.given = 1
        if given[0] is not None:
            mean = np.ascontiguousarray(as_values(given[0], "mean", code))
            job.mean = cnp.PyArray_DATA(mean)
        if given[1] is not None:
            rstd = np.ascontiguousarray(as_values(given[1], "rstd", code))
            job.rstd = cnp.PyArray_DATA(rstd)
    elif return_stats:
        if with_mean:
            mean = np.empty(shape, dtype)
            job.mean = cnp.PyArray_DATA(mean)
        if with_std:
            rstd = np.empty(shape, dtype)
            job.rstd = cnp.PyArray_DATA(rstd)
    if finish_axes(&job, &axes, x, layout):
        if running is not None:
            wide = np.empty((3, running_size(&axes)))
            job.mean64 = <double *> cnp.PyArray_DATA(wide)
            job.var64 = job.mean64 + cnp.PyArray_DIM(wide, 1)
            job.count64 = job.var64 + cnp.PyArray_DIM(wide, 1)
        run(&job, True)
        if running is not None:
            update_running(running, wide)
    if return_stats:
        return y, Stats(mean, rstd)
    return y


def statistics(cnp.ndarray x, Layout layout, double eps, bint with_mean, int threads=1):
    """The Stats that `forward` would return, without y."""
    cdef fn_job job
    cdef Axes axes
    cdef int code = dtype_code(x)
    cdef cnp.ndarray mean = None, rstd
    start(&job, code)
    lay_axes(&axes, x, layout, FN_X)
    lay_stats(&axes)
    job.data[FN_X] = <char *> cnp.PyArray_DATA(x)
    job.centre, job.scale, job.eps, job.threads = with_mean, True, eps, threads
    shape = stats_shape(&axes, layout.keepdims)
    rstd = np.empty(shape, compute_dtype(code))
    job.rstd = cnp.PyArray_DATA(rstd)
    if with_mean:
        mean = np.empty(shape, compute_dtype(code))
        job.mean = cnp.PyArray_DATA(mean)
    if finish_axes(&job, &axes, x, layout):
        run(&job, True)
    return Stats(mean, rstd)


cdef Py_ssize_t running_size(Axes *axes) noexcept:
    cdef Py_ssize_t size = 1
    cdef int d
    for d in range(axes.ndim):
        if not axes.axis[d].reduced:
            size *= axes.axis[d].len
    return size


cdef int update_running(running, cnp.ndarray wide) except -1:
    """running <- (1 - momentum) * running + momentum * batch, the variance unbiased (Ioffe & Szegedy, algorithm 2)."""
    cdef double momentum = running[2], batch
    cdef Py_ssize_t i, n = cnp.PyArray_DIM(wide, 1), step
    cdef const double *values = <const double *> cnp.PyArray_DATA(wide)
    cdef const double *count = values + 2 * n
    cdef const fn_verbs *verbs
    cdef cnp.ndarray target
    cdef char *p
    cdef int which
    for which in range(2):
        if running[which] is None:
            continue
        target = running[which]
        verbs = tier.verbs[dtype_code(target)]
        p = <char *> cnp.PyArray_DATA(target)
        step = cnp.PyArray_STRIDE(target, 0)
        for i in range(n):
            batch = values[which * n + i]
            if which == 1:
                batch *= count[i] / (count[i] - 1)
            verbs.store1(p, (1 - momentum) * verbs.load1(p) + momentum * batch)
            p += step
    return 0


def moments(cnp.ndarray x, Layout layout, double correction, bint keepdims, where, int threads=1):
    """Mean and variance of every slice, as `Moments` of the compute dtype."""
    cdef fn_job job
    cdef Axes axes
    cdef int code = dtype_code(x)
    cdef cnp.ndarray mask = None, wide
    start(&job, code)
    lay_axes(&axes, x, layout, FN_X)
    lay_stats(&axes)
    job.data[FN_X] = <char *> cnp.PyArray_DATA(x)
    job.centre, job.scale, job.eps, job.threads = True, True, 0, threads
    if where is not None:
        mask = checks.to_mask(where, (<object> x).shape)
        add_mask(&job, &axes, mask, layout)
    shape = stats_shape(&axes, keepdims)
    wide = np.zeros((3, *shape))
    if finish_axes(&job, &axes, x, layout):
        job.mean64 = <double *> cnp.PyArray_DATA(wide)
        job.var64 = job.mean64 + cnp.PyArray_SIZE(wide) // 3
        job.count64 = job.var64 + cnp.PyArray_SIZE(wide) // 3
        run(&job, True)
    mean, var, count = wide
    dtype = compute_dtype(code)
    with np.errstate(all="ignore"):
        if correction != 0:
            var = np.where(count > correction, var * (count / np.maximum(count - correction, 0)),
                           var * count / np.zeros_like(count))
        return Moments(np.asarray(mean).astype(dtype)[()], np.asarray(var).astype(dtype)[()])


# ---- backward ---------------------------------------------------------------------------------------------------

def backward(cnp.ndarray dy, x, stats, Layout layout, weight, bias, bint want_params, bint with_mean, bint with_std,
             where, bint given=False, int threads=1):
    """The gradients of `forward`, as Grads(dx, dweight, dbias).

    x : ndarray or None
        None where neither dx nor dweight needs it.
    bias : array or None
        Tells the shape of dbias; without it dbias has weight's shape.
    want_params : bool
        Whether to return parameter gradients at all.
    given : bool
        The statistics are constants.
    """
    cdef fn_job job
    cdef Axes axes
    cdef int code = dtype_code(dy)
    cdef cnp.ndarray dx, w = None, like = None, mask = None, mean = None, rstd = None, dweight = None, dbias = None
    start(&job, code)
    if x is not None:
        lay_axes(&axes, x, layout, FN_X)
        job.data[FN_X] = <char *> cnp.PyArray_DATA(<cnp.ndarray> x)
        lay_like(&axes, dy, layout, FN_DY)
    else:
        lay_axes(&axes, dy, layout, FN_X)
        lay_like(&axes, dy, layout, FN_DY)
    job.data[FN_DY] = <char *> cnp.PyArray_DATA(dy)
    job.centre, job.scale, job.given, job.threads = with_mean, with_std, given, threads
    if weight is not None:
        w = add_param(&job, &axes, layout, weight, "weight", dy, FN_WEIGHT, code)
    lay_stats(&axes)
    if where is not None:
        mask = checks.to_mask(where, (<object> dy).shape)
        add_mask(&job, &axes, mask, layout)
    shape = stats_shape(&axes, layout.keepdims)
    if x is not None:
        saved_mean, saved_rstd = checks.to_pair(stats)
        if with_mean:
            mean = checks.to_stats(saved_mean, "stats.mean", shape, compute_dtype(code))
            job.mean = cnp.PyArray_DATA(mean)
        if with_std:
            rstd = checks.to_stats(saved_rstd, "stats.rstd", shape, compute_dtype(code))
            job.rstd = cnp.PyArray_DATA(rstd)
    dx = new_like(dy if x is None else x)
    lay_like(&axes, dx, layout, FN_Y)
    job.data[FN_Y] = <char *> cnp.PyArray_DATA(dx)
    if want_params and w is not None:
        dweight = np.zeros((<object> w).shape, compute_dtype(code))
        job.ndweight = lay_gradient(&axes, layout, w, FN_DWEIGHT)
        job.dweight = cnp.PyArray_DATA(dweight)
    if want_params and (w is not None or bias is not None):
        like = w
        if bias is not None:
            like = as_values(bias, "bias", code)
            check_param(like, "bias", dy, layout)
        dbias = np.zeros((<object> like).shape, compute_dtype(code))
        job.ndbias = lay_gradient(&axes, layout, like, FN_DBIAS)
        job.dbias = cnp.PyArray_DATA(dbias)
    if finish_axes(&job, &axes, dy, layout):
        run(&job, False)
    return Grads(dx, dweight, dbias)
