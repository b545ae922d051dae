# Arrays: quick answers about those that need no conversion, and the memory of results. `checks` has the slow answers.

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


cdef inline int compute_num(int code) noexcept:
    return cnp.NPY_DOUBLE if code == FN_F64 else cnp.NPY_FLOAT


cdef inline bint is_plain(object a) noexcept:
    """An ndarray, no subclass, in this machine's byte order."""
    return type(a) is cnp.ndarray and cnp.PyArray_ISNOTSWAPPED(<cnp.ndarray> a)


cdef inline bint same_shape(cnp.ndarray a, cnp.ndarray b) noexcept:
    return (cnp.PyArray_NDIM(a) == cnp.PyArray_NDIM(b)
            and memcmp(cnp.PyArray_DIMS(a), cnp.PyArray_DIMS(b), cnp.PyArray_NDIM(a) * sizeof(cnp.npy_intp)) == 0)


cdef inline bint same_view(cnp.ndarray a, cnp.ndarray b) noexcept:
    """The same elements in the same places, given the same shape."""
    return (cnp.PyArray_DATA(a) == cnp.PyArray_DATA(b)
            and memcmp(cnp.PyArray_STRIDES(a), cnp.PyArray_STRIDES(b),
                       cnp.PyArray_NDIM(a) * sizeof(cnp.npy_intp)) == 0)


cdef void extent(cnp.ndarray a, char **low, char **high) noexcept:
    """The first byte of an array's elements, and the one after the last."""
    cdef int d
    cdef Py_ssize_t reach
    low[0] = <char *> cnp.PyArray_DATA(a)
    high[0] = low[0] + cnp.PyArray_ITEMSIZE(a)
    for d in range(cnp.PyArray_NDIM(a)):
        reach = (cnp.PyArray_DIM(a, d) - 1) * cnp.PyArray_STRIDE(a, d)
        if reach < 0:
            low[0] += reach
        else:
            high[0] += reach


cdef bint apart(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether the memory between their ends is apart; either may be None, which is apart from everything."""
    cdef char *a_low
    cdef char *a_high
    cdef char *b_low
    cdef char *b_high
    if a is None or b is None:
        return True
    extent(a, &a_low, &a_high)
    extent(b, &b_low, &b_high)
    return a_high <= b_low or b_high <= a_low


cdef cnp.ndarray to_input(object x, str name):
    """x as an ndarray of a dtype that the kernels know; integers and booleans become float64."""
    if is_plain(x) and dtype_code(x) >= 0:
        return x
    return checks.to_array(x, name)


cdef cnp.ndarray to_gradient(object dy, cnp.ndarray x, str name):
    """dy as an ndarray of x's dtype and shape."""
    if is_plain(dy) and cnp.PyArray_TYPE(<cnp.ndarray> dy) == cnp.PyArray_TYPE(x) and same_shape(dy, x):
        return dy
    return checks.to_gradient(dy, x, name)


cdef inline cnp.ndarray new_of(cnp.ndarray a, int num):
    return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), num, 0)


cdef cnp.ndarray expanded(cnp.ndarray a):
    """A C-ordered array in its compute type, copied. NumPy takes 16-bit numbers one after the other."""
    cdef int code = dtype_code(a)
    cdef cnp.ndarray to = new_of(a, compute_num(code))
    cdef fn_floats floats = fn_floats_enter()
    tier.verbs[code].expand(cnp.PyArray_SIZE(a), cnp.PyArray_DATA(a), cnp.PyArray_DATA(to))
    fn_floats_leave(floats)
    return to


cdef inline cnp.ndarray as_float(cnp.ndarray a):
    """A C-ordered array as it is, or as float32 if it is of 16 bits."""
    return expanded(a) if dtype_code(a) in (FN_F16, FN_BF16) else a


cdef cnp.ndarray divided(cnp.ndarray a, double by, int code):
    """A C-ordered array over a number, in the compute type of `code`; beyond it is infinite."""
    cdef cnp.ndarray wide = as_float(a), to = new_of(a, compute_num(code))
    cdef fn_floats floats = fn_floats_enter()
    tier.verbs[code].divide(cnp.PyArray_SIZE(a), cnp.PyArray_DATA(wide), dtype_code(wide) == FN_F64, by,
                            cnp.PyArray_DATA(to))
    fn_floats_leave(floats)
    return to


cdef cnp.ndarray to_values(object a, str name, int code):
    """Parameters and statistics as an aligned native array of the compute type."""
    cdef cnp.ndarray wide
    if is_plain(a):
        if cnp.PyArray_TYPE(<cnp.ndarray> a) == compute_num(code) and cnp.PyArray_ISALIGNED(<cnp.ndarray> a):
            return a
        if dtype_code(a) >= 0 and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray> a):
            wide = as_float(a)
            return wide if cnp.PyArray_TYPE(wide) == compute_num(code) else divided(wide, 1, code)
    return checks.to_values(a, name, np.float64 if code == FN_F64 else np.float32)


cdef cnp.ndarray to_out(object out, cnp.ndarray x, cnp.ndarray weight, cnp.ndarray bias, cnp.ndarray mask):
    """`out`, if it can take the result."""
    cdef cnp.ndarray y
    if (is_plain(out) and cnp.PyArray_TYPE(<cnp.ndarray> out) == cnp.PyArray_TYPE(x) and same_shape(out, x)
            and cnp.PyArray_ISWRITEABLE(<cnp.ndarray> out)
            and (cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray> out) or cnp.PyArray_IS_F_CONTIGUOUS(<cnp.ndarray> out))):
        y = out
        if (same_view(y, x) or apart(y, x)) and apart(y, weight) and apart(y, bias) and apart(y, mask):
            return y
    checks.check_out(out, x, (("weight", weight), ("bias", bias), ("where", mask)))
    return out


# ---- new ones ---------------------------------------------------------------------------------------------------

ctypedef void (*place)(const void *a, const void *b) noexcept nogil

cdef object handler = None  # NumPy's allocation handler over a pool, for results of so many bytes and more
cdef Py_ssize_t handler_least = PY_SSIZE_T_MAX
cdef place beside = NULL    # pool.h: tells it which arrays the next result will be made from


def use_handler(capsule, Py_ssize_t least):
    """Allocate results of `least` bytes and more by this handler (NEP 49); None: as NumPy does it."""
    global handler, handler_least, beside
    handler_least = PY_SSIZE_T_MAX
    if capsule is not None:
        handler = capsule
        beside = <place> PyCapsule_GetContext(capsule)
        handler_least = least


cdef cnp.ndarray new_large(cnp.ndarray x, cnp.ndarray dy):
    current = PyDataMem_GetHandler()
    if <PyObject *> current is not PyDataMem_DefaultHandler:  # whoever set another one wants it to be used
        return PyArray_NewLikeArray(x, cnp.NPY_KEEPORDER, NULL, 0)
    PyDataMem_SetHandler(handler)
    beside(cnp.PyArray_DATA(x), NULL if dy is None else cnp.PyArray_DATA(dy))
    try:
        return PyArray_NewLikeArray(x, cnp.NPY_KEEPORDER, NULL, 0)
    finally:
        put_back(current)


cdef inline cnp.ndarray new_like(cnp.ndarray x, cnp.ndarray dy=None):
    """An array of x's shape, dtype and memory order, to be made from x and, unless None, dy."""
    if cnp.PyArray_NBYTES(x) >= handler_least:
        return new_large(x, dy)
    return PyArray_NewLikeArray(x, cnp.NPY_KEEPORDER, NULL, 0)


cdef inline cnp.ndarray new_values(cnp.ndarray like, int code):
    """Zeros of the compute type in this shape, in C order."""
    return cnp.PyArray_ZEROS(cnp.PyArray_NDIM(like), cnp.PyArray_DIMS(like), compute_num(code), 0)


cdef object new_tuple(type kind, tuple values):
    """A named tuple of this class, without its Python constructor."""
    return tuple_new(kind, (values,), NULL)
