# Layouts: which axes are reduced and along which the parameters lie; and operands laid along the axes of x.

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
    cdef readonly object params, asked
    cdef readonly bint keepdims
    cdef unsigned char is_reduced[65]

    def __init__(self, int ndim, reduced, params=None, *, bint keepdims=True, int split_axis=-1, groups=0):
        self.ndim = ndim
        self.params = params
        self.keepdims = keepdims
        self.split_axis = split_axis
        self.asked = groups
        self.groups = max(0, min(groups, PY_SSIZE_T_MAX))  # either is refused
        memset(self.is_reduced, 0, sizeof(self.is_reduced))
        for axis in reduced:
            self.is_reduced[axis] = 1


@cython.final
cdef class Family:
    """The layouts of one norm, from `layouts.py`: the last one for each number of dimensions is at hand.

    Parameters
    ----------
    make : callable
        ``make(ndim, axis)``, or if grouped ``make(ndim, axis, groups)``, to a Layout.
    grouped : bool
    """

    cdef readonly object make
    cdef readonly bint grouped
    cdef list last

    def __init__(self, make, bint grouped=False):
        self.make = make
        self.grouped = grouped
        self.last = [None] * 8

    def __call__(self, int ndim, axis, groups=None):
        """The layout for x of so many dimensions."""
        return find(self, ndim, axis, groups)


cdef bint is_lasting(object axis):
    """Whether this object will mean the same axes when it is passed again."""
    if type(axis) is tuple:
        return all([type(a) is int for a in axis])
    return type(axis) is int


cdef Layout find(Family family, int ndim, object axis, object groups):
    cdef tuple last = family.last[ndim & 7]
    cdef Layout layout
    if last is not None and last[0] is axis and last[1] is groups:
        layout = last[2]
        if layout.ndim == ndim:
            return layout
    layout = family.make(ndim, axis, groups) if family.grouped else family.make(ndim, axis)
    if is_lasting(axis) and (groups is None or type(groups) is int):
        family.last[ndim & 7] = (axis, groups, layout)
    return layout


cdef int check_groups(Layout layout, cnp.ndarray x) except -1:
    cdef Py_ssize_t channels = cnp.PyArray_DIM(x, layout.split_axis), groups = layout.groups
    if groups < 1 or groups > max(channels, 1) or channels % groups:
        checks.bad_groups(layout.asked, channels)
    return 0


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


cdef tuple reduced_axes(Layout layout):
    """x's axes that are reduced, for messages: of two split axes, the one that x has."""
    cdef int d, count = layout.ndim + (layout.split_axis >= 0)
    split = layout.split_axis if layout.split_axis >= 0 else count
    return tuple(dict.fromkeys([d if d <= split else d - 1 for d in range(count) if layout.is_reduced[d]]))


# ---- statistics -------------------------------------------------------------------------------------------------

cdef int stats_dims(Axes *axes, bint keepdims, cnp.npy_intp *dims) noexcept:
    """The shape of statistics; returns its length."""
    cdef int d, ndim = 0
    for d in range(axes.ndim):
        if not axes.axis[d].reduced or keepdims:
            dims[ndim] = 1 if axes.axis[d].reduced else axes.axis[d].len
            ndim += 1
    return ndim


cdef cnp.ndarray to_stats(object a, str name, int ndim, cnp.npy_intp *dims, int code):
    """Saved statistics as a C-ordered array of the compute type, of exactly this shape."""
    cdef cnp.ndarray b
    if is_plain(a):
        b = a
        if (cnp.PyArray_TYPE(b) == compute_num(code) and cnp.PyArray_IS_C_CONTIGUOUS(b) and cnp.PyArray_ISALIGNED(b)
                and cnp.PyArray_NDIM(b) == ndim
                and memcmp(cnp.PyArray_DIMS(b), dims, ndim * sizeof(cnp.npy_intp)) == 0):
            return b
    shape = tuple([dims[d] for d in range(ndim)])
    return checks.to_stats(a, name, shape, np.float64 if code == FN_F64 else np.float32)
