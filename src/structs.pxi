# Arrays as the structs of norm.h, for _verbs.pyx. One of three axes holds runs: tiles alike.

cdef fn_tile tile_of(a, ptrdiff_t rows, ptrdiff_t n, size_t size) except *:
    cdef fn_tile tile
    cdef cnp.ndarray array
    memset(&tile, 0, sizeof(tile))
    if a is None:
        return tile
    array = a
    if a.shape != (rows, n) or a.itemsize != size or (n > 1 and a.strides[1] != <ptrdiff_t> size):
        raise ValueError(f"tile of shape {a.shape}, strides {a.strides}; needs {(rows, n)} with adjacent items")
    tile.base = <const char *> cnp.PyArray_DATA(array)
    tile.step = cnp.PyArray_STRIDE(array, 0)
    return tile


cdef fn_param param_of(p, ptrdiff_t rows, ptrdiff_t n, size_t size) except *:
    cdef fn_param param
    cdef cnp.ndarray array
    memset(&param, 0, sizeof(param))
    if p is None:
        return param
    array, param.step, param.along = p
    if p[0].itemsize != size or p[0].size <= (rows - 1) * param.step + (n - 1 if param.along else 0):
        raise ValueError(f"param of {p[0].size} items of {p[0].itemsize} bytes is too small")
    param.a = cnp.PyArray_DATA(array)
    return param


cdef double *doubles(a, ptrdiff_t n) except NULL:
    if a.dtype.char != "d" or a.shape != (n,) or not a.flags.c_contiguous:
        raise ValueError(f"results of shape {a.shape}, dtype {a.dtype}; needs {n} float64")
    return <double *> cnp.PyArray_DATA(<cnp.ndarray> a)


cdef fn_moments moments_of(arrays, ptrdiff_t n) except *:
    cdef fn_moments m
    count, mean, comp, m2 = arrays[:4]
    m.count, m.mean, m.comp, m.m2 = doubles(count, n), doubles(mean, n), doubles(comp, n), doubles(m2, n)
    m.low = doubles(arrays[4], n) if len(arrays) > 4 else NULL
    return m


cdef fn_sums sums_of(arrays, ptrdiff_t n) except *:
    cdef fn_sums s
    g, gx, x = arrays
    s.g, s.gx, s.x = doubles(g, n), doubles(gx, n), doubles(x, n)
    return s


cdef void *values(a, ptrdiff_t n, size_t size) except NULL:
    if a.itemsize != size or a.shape != (n,) or not a.flags.c_contiguous:
        raise ValueError(f"array of shape {a.shape} and {a.itemsize} bytes an item; needs {n} of {size}")
    return cnp.PyArray_DATA(<cnp.ndarray> a)


cdef void *maybe_values(a, ptrdiff_t n, size_t size) except? NULL:
    return NULL if a is None else values(a, n, size)


cdef fn_dots dots_of(mean, rstd, shift, weight, ptrdiff_t rows, ptrdiff_t n, size_t compute) except *:
    cdef fn_dots p
    memset(&p, 0, sizeof(p))
    p.mean, p.rstd = param_of(mean, rows, n, compute), param_of(rstd, rows, n, compute)
    p.shift, p.weight = param_of(shift, rows, n, compute), param_of(weight, rows, n, compute)
    return p


cdef fn_adjoint adjoint_of(mean, rstd, c1, c2, shift, weight, ptrdiff_t rows, ptrdiff_t n, size_t compute) except *:
    cdef fn_adjoint p
    memset(&p, 0, sizeof(p))
    p.mean, p.rstd = param_of(mean, rows, n, compute), param_of(rstd, rows, n, compute)
    p.c1, p.c2 = param_of(c1, rows, n, compute), param_of(c2, rows, n, compute)
    p.shift, p.weight = param_of(shift, rows, n, compute), param_of(weight, rows, n, compute)
    return p


cdef object first_run(a):
    return a[0] if a is not None and a.ndim == 3 else a


cdef ptrdiff_t run_step(a):
    return a.strides[0] if a is not None and a.ndim == 3 else 0


cdef fn_runs runs_of(x, dy, y=None):
    cdef fn_runs runs
    runs.count, runs.x, runs.dy, runs.y = 1, run_step(x), run_step(dy), run_step(y)
    for a in (x, dy):
        if a is not None and a.ndim == 3:
            runs.count = a.shape[0]
    return runs
