# Weight norm: a norm is a root mean square times the root of the slice's length.


cdef cnp.ndarray scaled_gain(object g, cnp.ndarray v, Layout layout, double *root):
    """g over the root of the slice's length, in the compute type; its shape is checked."""
    cdef cnp.ndarray gain
    cdef int code = dtype_code(v), d
    cdef Py_ssize_t size
    if is_plain(g) and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray> g) and dtype_code(g) >= 0:
        gain = g
    else:
        gain = checks.to_values(g, "g", np.float64)
        gain = np.require(gain, requirements=["C", "A"])
    check_param(gain, "g", v, layout)
    size = cnp.PyArray_SIZE(gain)
    if size and not cnp.PyArray_SIZE(v):
        checks.empty_axis((<object> v).shape, [d for d in range(layout.ndim) if layout.is_reduced[d]], "v")
    root[0] = sqrt(cnp.PyArray_SIZE(v) / <double> size) if size else 1.0
    return divided(gain, root[0], code)


def weight_forward(v, g, Family family, axis):
    """g * v / ||v||."""
    cdef cnp.ndarray a = to_input(v, "v")
    cdef Layout layout = find(family, cnp.PyArray_NDIM(a), axis, None)
    cdef double root
    cdef cnp.ndarray gain = scaled_gain(g, a, layout, &root)
    return normalize(a, layout, gain, None, 0.0, False, True, None, None, False, None)


def weight_backward(dw, v, g, Family family, axis):
    """Its gradients (dv, dg)."""
    cdef cnp.ndarray a = to_input(v, "v"), dy = to_gradient(dw, a, "dw")
    cdef Layout layout = find(family, cnp.PyArray_NDIM(a), axis, None)
    cdef double root
    cdef cnp.ndarray gain = scaled_gain(g, a, layout, &root)
    return gradients(dy, a, None, layout, gain, None, False, True, None, False, root)
