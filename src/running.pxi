# Batch norm: the running statistics, what updates them, and what they stand in for.


@cython.final
cdef class Running:
    """Running statistics of one call: to be updated, or frozen, then (mean, rstd) of the compute type."""

    cdef cnp.ndarray mean, var, wide  # wide, in double: the batch's statistics, or a frozen rstd beyond float32
    cdef double momentum
    cdef bint frozen


cdef bint is_running(object a, cnp.ndarray x, Py_ssize_t channels) noexcept:
    """A running statistic as it should be; False: ask `checks`."""
    cdef cnp.ndarray b
    cdef int num
    if not is_plain(a):
        return False
    b = a
    num = cnp.PyArray_TYPE(b)
    return ((num == cnp.PyArray_TYPE(x) or (num == cnp.NPY_FLOAT and cnp.PyArray_TYPE(x) != cnp.NPY_DOUBLE))
            and cnp.PyArray_NDIM(b) == 1 and cnp.PyArray_DIM(b, 0) == channels and cnp.PyArray_ISALIGNED(b))


cdef bint can_update(cnp.ndarray a, object out) noexcept:
    """It may be written, and is apart from `out`; False: ask `checks`."""
    if not cnp.PyArray_ISWRITEABLE(a) or not cnp.PyArray_IS_C_CONTIGUOUS(a):
        return False
    return out is None or (type(out) is cnp.ndarray and apart(a, out))


cdef Running to_update(object mean, object var, double momentum, cnp.ndarray x, Py_ssize_t channels, Layout layout,
                       object out, object where):
    """The arrays that this batch will update; either may be None."""
    cdef Running running = Running.__new__(Running)
    cdef bint good = where is None or var is None
    for a in (mean, var):
        good = good and (a is None or (is_running(a, x, channels) and can_update(a, out)))
    if good and mean is not None and var is not None:
        good = apart(mean, var)
    if good and var is not None and channels:
        good = cnp.PyArray_SIZE(x) != channels
    if not good:
        checks.running_update(mean, var, x, channels, layout.params[0], out, where)
    running.mean, running.var, running.momentum = mean, var, momentum
    return running


cdef cnp.ndarray frozen_values(object a, str name, cnp.ndarray x, Py_ssize_t channels):
    """A running statistic that is read, C-ordered."""
    if not is_running(a, x, channels):
        a = checks.to_frozen(a, name, x, channels)
    return cnp.PyArray_GETCONTIGUOUS(<cnp.ndarray> a)


cdef Running to_frozen(object mean, object var, bint scale, double eps, cnp.ndarray x, Py_ssize_t channels):
    """The running statistics as (mean, rstd), of memory of their own."""
    cdef Running running = Running.__new__(Running)
    running.frozen = True
    running.mean = expanded(frozen_values(mean, "running_mean", x, channels))
    if scale:
        invert(frozen_values(var, "running_var", x, channels), eps, running)
    return running


cdef int invert(cnp.ndarray var, double eps, Running running) except -1:
    """rstd of a running variance; also in double where float32 is too narrow."""
    cdef cnp.npy_intp i, n = cnp.PyArray_SIZE(var)
    cdef int code = dtype_code(var)
    cdef cnp.ndarray values = as_float(var)
    cdef const float *narrow = <const float *> cnp.PyArray_DATA(values)
    cdef double *wide
    cdef fn_floats floats
    cdef bint far
    running.var = new_of(var, compute_num(code))
    floats = fn_floats_enter()
    far = tier.verbs[code].invert(n, cnp.PyArray_DATA(values), eps, cnp.PyArray_DATA(running.var))
    fn_floats_leave(floats)
    if far:
        running.wide = new_of(var, cnp.NPY_DOUBLE)
        wide = <double *> cnp.PyArray_DATA(running.wide)
        floats = fn_floats_enter()
        for i in range(n):
            wide[i] = 1 / sqrt(narrow[i] + eps)
        fn_floats_leave(floats)
    return 0


cdef int prepare_running(Running running, fn_job *job, Axes *axes) except -1:
    """Room for the batch's statistics in double."""
    cdef cnp.npy_intp size = count_slices(axes)
    cdef cnp.npy_intp thrice = 3 * size
    running.wide = cnp.PyArray_EMPTY(1, &thrice, cnp.NPY_DOUBLE, 0)
    job.mean64 = <double *> cnp.PyArray_DATA(running.wide)
    job.var64 = job.mean64 + size
    job.count64 = job.var64 + size
    return 0


cdef void update_running(Running running) noexcept:
    """running <- (1 - momentum) * running + momentum * batch, the variance unbiased (Ioffe & Szegedy, algorithm 2)."""
    cdef Py_ssize_t n = cnp.PyArray_DIM(running.wide, 0) // 3
    cdef const double *values = <const double *> cnp.PyArray_DATA(running.wide)
    cdef const double *count = values + 2 * n
    cdef cnp.ndarray target
    cdef int which
    cdef fn_floats floats = fn_floats_enter()
    for which in range(2):
        target = running.var if which else running.mean
        if target is not None:
            tier.verbs[dtype_code(target)].blend(n, running.momentum, values + which * n, count if which else NULL,
                                                 cnp.PyArray_DATA(target), cnp.PyArray_STRIDE(target, 0))
    fn_floats_leave(floats)


def batch_forward(x, Family family, axis, weight, bias, mean, var, bint training, momentum, eps, bint with_std,
                  where, out, bint return_stats):
    """Batch norm with running statistics; `mean` and `var` may be None in training."""
    cdef cnp.ndarray a = to_input(x, "x")
    cdef Layout layout = find(family, cnp.PyArray_NDIM(a), axis, None)
    cdef Py_ssize_t channels = param_length(layout, a, layout.params[0])
    cdef Running running = None
    cdef double least = to_eps(eps)
    if not training:
        running = to_frozen(mean, var, with_std, least, a, channels)
    elif mean is not None or var is not None:
        running = to_update(mean, var, to_real(momentum, "momentum"), a, channels, layout, out, where)
    return normalize(a, layout, weight, bias, least, True, with_std, where, out, return_stats, running)


def mean_backward(dy, Family family, axis, bint given):
    """The gradients of mean-only batch norm: (dx, dbias)."""
    cdef cnp.ndarray g = to_input(dy, "dy"), bias
    cdef Layout layout = find(family, cnp.PyArray_NDIM(g), axis, None)
    cdef cnp.npy_intp channels = param_length(layout, g, layout.params[0])
    if not given and channels and not cnp.PyArray_SIZE(g):
        checks.empty_axis((<object> g).shape, [d for d in range(layout.ndim) if layout.is_reduced[d]], "dy")
    bias = cnp.PyArray_EMPTY(1, &channels, compute_num(dtype_code(g)), 0)  # only its shape counts
    grads = gradients(g, None, None, layout, None, bias, True, False, None, given)
    return grads[0], grads[2]
