"""The boundary between NumPy and the fused engine of recurrent layers (rnn.h): memory, pointers, one call.

Arrays that come in are C-contiguous, of one dtype, and of the right shape: `fastnorm.nn.rnn_engine` sees to it.
"""

cimport cython
cimport numpy as cnp
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uintptr_t
from libc.string cimport memset

import numpy as np

from fastnorm import _norm

include "handler.pxi"

cdef extern from "parallel.h" nogil:
    ctypedef struct fn_threads:
        pass

cdef extern from "rnn.h" nogil:
    enum: FN_RNN, FN_GRU, FN_LSTM, FN_PAD, FN_ROW_GROUP, FN_CHUNK_LEAST, FN_CHUNK_MOST, FN_STATS
    ctypedef struct fn_rnn:
        int cell, norm
        ptrdiff_t T, B, I, H, G, P, chunk
        ptrdiff_t slices
        double eps
        const void *x
        const void *h0
        const void *c0
        const ptrdiff_t *lengths
        const void *weight_ih
        const void *weight_hh
        void *y
        void *h_end
        void *c_end
        void *pack_ih
        void *pack_hh
        void *back_ih
        void *back_hh
        const void *bias_ih
        const void *bias_hh
        const void *gain_ih
        const void *gain_hh
        const void *gain_c
        const void *bias_c
        void *px
        void *ph
        ptrdiff_t px_steps, ph_steps
        void *h
        void *c
        void *stats
        int recompute
        const void *dy
        const void *dh_end
        const void *dc_end
        void *dx
        void *dh0
        void *dc0
        void *dweight_ih
        void *dweight_hh
        void *dh
        void *dc
        void *dax
        void *dah
        void *panels_x
        void *panels_h
        void *sums
        void *scratch
    ctypedef struct fn_rnn_kernels:
        size_t size
        void (*sigmoid)(const void *x, void *y, ptrdiff_t n) noexcept
        void (*tanh)(const void *x, void *y, ptrdiff_t n) noexcept
    ctypedef struct fn_rnn_tier:
        const char *name
        const fn_rnn_kernels *kernels[2]
    ptrdiff_t fn_rnn_ceil(ptrdiff_t n, ptrdiff_t to) noexcept
    ptrdiff_t fn_rnn_packed(ptrdiff_t K, ptrdiff_t N) noexcept
    ptrdiff_t fn_rnn_sums(const fn_rnn *r) noexcept
    ptrdiff_t fn_rnn_scratch(const fn_rnn *r) noexcept
    void fn_rnn_use(const fn_threads *threads) noexcept
    const fn_rnn_tier *fn_rnn_find_tier(const char *name) noexcept
    void fn_rnn_pack(const fn_rnn_kernels *k, fn_rnn *r, int back, int threads) noexcept
    ptrdiff_t fn_rnn_slices(const fn_rnn *r, int threads) noexcept
    void fn_rnn_forward(const fn_rnn_kernels *k, fn_rnn *r) noexcept
    void fn_rnn_backward(const fn_rnn_kernels *k, fn_rnn *r, int threads) noexcept

cnp.import_array()

CELLS = {"rnn": FN_RNN, "gru": FN_GRU, "lstm": FN_LSTM}
NORMS = {None: 0, "layer": 1, "rms": 2}
PAD = FN_PAD

cdef object handler = None  # NumPy's allocation handler over the pool, for so many bytes and more
cdef Py_ssize_t handler_least = 0


fn_rnn_use(<const fn_threads *> PyCapsule_GetPointer(_norm.threads_capsule, "fastnorm.threads"))


def use_handler(capsule, Py_ssize_t least):
    """Allocate `least` bytes and more by this handler (NEP 49); None: as NumPy does it."""
    global handler, handler_least
    handler, handler_least = capsule, least


cdef const fn_rnn_kernels *kernels_of(str isa, cnp.ndarray x) except NULL:
    return fn_rnn_find_tier(isa.encode()).kernels[cnp.PyArray_TYPE(x) == cnp.NPY_DOUBLE]


def apply(str name, cnp.ndarray x, str isa):
    """sigmoid or tanh of a contiguous array by the kernels of a tier; for tests."""
    cdef cnp.ndarray y = np.empty_like(x)
    cdef const fn_rnn_kernels *k = kernels_of(isa, x)
    if name == "sigmoid":
        k.sigmoid(cnp.PyArray_DATA(x), cnp.PyArray_DATA(y), x.size)
    else:
        k.tanh(cnp.PyArray_DATA(x), cnp.PyArray_DATA(y), x.size)
    return y


# ---- memory -----------------------------------------------------------------------------------------------------

cdef struct part:
    void **to
    ptrdiff_t size


cdef empty(shape, dtype, Py_ssize_t nbytes):
    """numpy.empty; what is large comes from the pool."""
    if handler is None or nbytes < handler_least:
        return np.empty(shape, dtype)
    current = PyDataMem_GetHandler()
    if <PyObject *> current is not PyDataMem_DefaultHandler:  # whoever set another one wants it to be used
        return np.empty(shape, dtype)
    PyDataMem_SetHandler(handler)
    try:
        return np.empty(shape, dtype)
    finally:
        put_back(current)


cdef carve(part *parts, int count, size_t size):
    """One block of memory for all parts, `size` bytes an element, each at a cache line; empty parts are NULL."""
    cdef size_t whole = 64
    cdef int i
    for i in range(count):
        whole += (parts[i].size * size + 63) // 64 * 64
    memory = empty(whole, np.uint8, whole)
    cdef uintptr_t at = (<uintptr_t> cnp.PyArray_DATA(memory) + 63) // 64 * 64
    for i in range(count):
        parts[i].to[0] = <void *> at if parts[i].size else NULL
        at += (parts[i].size * size + 63) // 64 * 64
    return memory


cdef inline void *data(cnp.ndarray a) noexcept:
    return NULL if a is None else cnp.PyArray_DATA(a)


cdef void point_vectors(fn_rnn *r, cnp.ndarray vectors, size_t size) noexcept:
    """Where each parameter stands among `vectors`, as `forward` describes them."""
    cdef char *row = <char *> data(vectors)
    cdef ptrdiff_t gates = r.G * r.P * size
    r.bias_ih, r.bias_hh, r.gain_ih, r.gain_hh = row, row + gates, row + 2 * gates, row + 3 * gates
    r.gain_c, r.bias_c = row + 4 * gates, row + 4 * gates + r.P * size


# ---- a sequence -------------------------------------------------------------------------------------------------

@cython.final
cdef class Tape:
    """What the backward of one forward needs."""

    cdef fn_rnn r
    cdef object dtype, arrays, weights

    def __init__(self):
        raise TypeError("forward makes tapes")

    @property
    def nbytes(self):
        """Bytes kept for the backward beside x and the weights."""
        return self.arrays[0].nbytes

    def backward(self, cnp.ndarray dy, cnp.ndarray dh, cnp.ndarray dc, cnp.ndarray dweight_ih, cnp.ndarray dweight_hh,
                 str isa, int threads):
        """dx, dh0, dc0, and the sums (4 G + 2, P) that are the gradients of biases and gains; adds to dweight_*."""
        cdef fn_rnn r = self.r  # a copy: two backward calls may run at the same time
        cdef const fn_rnn_kernels *k = kernels_of(isa, dy)
        cdef ptrdiff_t GP = r.G * r.P, rows = r.chunk * r.B, groups = fn_rnn_ceil(r.B, FN_ROW_GROUP)
        cdef bint apart = r.norm or r.cell == FN_GRU  # the gradients at both projections differ
        cdef bint again = r.recompute and (r.norm or r.cell != FN_RNN)
        cdef part parts[14]
        dx = empty((r.T, r.B, r.I), self.dtype, r.T * r.B * r.I * k.size)
        dh0 = np.empty((r.B, r.H), self.dtype)
        dc0 = None if dc is None else np.empty((r.B, r.H), self.dtype)
        sums = np.zeros((groups, 4 * r.G + 2, r.P), self.dtype)
        r.slices = fn_rnn_slices(&r, threads)
        parts[0] = part(&r.back_ih, fn_rnn_packed(GP, r.I))
        parts[1] = part(&r.back_hh, fn_rnn_packed(GP, r.H))
        parts[2] = part(&r.dh, r.B * r.P)
        parts[3] = part(&r.dc, r.B * r.P if dc is not None else 0)
        parts[4] = part(&r.dax, GP * (rows + 1))
        parts[5] = part(&r.dah, GP * (rows + 1) if apart else 0)
        parts[6] = part(&r.panels_x, fn_rnn_packed(rows, r.I))
        parts[7] = part(&r.panels_h, fn_rnn_packed(rows, r.H))
        parts[8] = part(&r.scratch, r.slices * fn_rnn_scratch(&r))
        parts[9] = part(&r.pack_ih, fn_rnn_packed(r.I, GP) if again else 0)
        parts[10] = part(&r.pack_hh, fn_rnn_packed(r.H, GP) if again else 0)
        parts[11] = part(&r.px, rows * GP)
        parts[12] = part(&r.ph, rows * GP)
        memory = carve(parts, 13 if again else 11, k.size)
        if again:
            r.px_steps = r.ph_steps = r.chunk
        if not apart:
            r.dah = r.dax
        r.weight_ih, r.weight_hh = data(self.weights[0]), data(self.weights[1])
        r.dy, r.dh_end, r.dc_end = data(dy), data(dh), data(dc)
        r.dx, r.dh0, r.dc0 = data(dx), data(dh0), data(dc0)
        r.dweight_ih, r.dweight_hh, r.sums = data(dweight_ih), data(dweight_hh), data(sums)
        with nogil:
            fn_rnn_pack(k, &r, True, threads)
            if again:
                fn_rnn_pack(k, &r, False, threads)
            fn_rnn_backward(k, &r, threads)
        del memory
        return dx, dh0, dc0, sums.sum(axis=0)


def forward(str cell, norm, double eps, bint recompute, cnp.ndarray x, cnp.ndarray h0, cnp.ndarray c0,
            cnp.ndarray lengths, cnp.ndarray weight_ih, cnp.ndarray weight_hh, cnp.ndarray vectors, str isa,
            int threads):
    """Run a layer over x (T, B, I).

    lengths : (B,) intp or None
    vectors : (4 G + 2, P)
        The rows of bias_ih, bias_hh, gain_ih, gain_hh (one for each gate), gain_c, bias_c, padded with zeros.
        bias_ih is the sum of both biases, but for a GRU's n.

    Returns y, h, c, and the Tape.
    """
    cdef Tape tape = Tape.__new__(Tape)
    cdef fn_rnn *r = &tape.r
    cdef const fn_rnn_kernels *k = kernels_of(isa, x)
    cdef part kept[6]
    cdef part passing[4]
    memset(r, 0, sizeof(fn_rnn))
    r.cell, r.norm, r.eps, r.recompute = CELLS[cell], NORMS[norm], eps, recompute
    r.T, r.B, r.I, r.H = x.shape[0], x.shape[1], x.shape[2], h0.shape[1]
    r.G = weight_ih.shape[0] // r.H
    r.P = vectors.shape[1]
    r.chunk = min(r.T, max(1, min(max(r.T * r.B // 16, <ptrdiff_t> FN_CHUNK_LEAST), <ptrdiff_t> FN_CHUNK_MOST) // r.B))
    r.slices = fn_rnn_slices(r, threads)
    cdef ptrdiff_t step = r.B * r.G * r.P
    cdef bint keep_px = not recompute and (r.norm or r.cell != FN_RNN)
    cdef bint keep_ph = not recompute and r.norm
    cdef bint with_ph = r.norm or r.cell == FN_GRU
    r.px_steps = r.T if keep_px else r.chunk
    r.ph_steps = r.T if keep_ph else 1
    kept[0] = part(&r.h, (r.T + 1) * r.B * r.P)
    kept[1] = part(&r.c, (r.T + 1) * r.B * r.P if r.cell == FN_LSTM or (r.cell == FN_GRU and not r.norm) else 0)
    kept[2] = part(&r.stats, r.T * r.B * FN_STATS if r.norm else 0)
    kept[3] = part(&r.px, r.px_steps * step)
    kept[4] = part(&r.ph, r.ph_steps * step)
    passing[0] = part(&r.pack_ih, fn_rnn_packed(r.I, r.G * r.P))
    passing[1] = part(&r.pack_hh, fn_rnn_packed(r.H, r.G * r.P))
    passing[2] = part(&r.px, 0 if keep_px else r.px_steps * step)
    passing[3] = part(&r.ph, r.ph_steps * step if with_ph and not keep_ph else 0)
    # a part of neither stays NULL: those that pass are carved first
    memory = carve(passing, 4, k.size)
    cdef void *px = r.px
    cdef void *ph = r.ph
    if not keep_px:
        kept[3].size = 0
    if not keep_ph:
        kept[4].size = 0
    kept_memory = carve(kept, 5, k.size)
    if not keep_px:
        r.px = px
    if not keep_ph:
        r.ph = ph

    y = empty((r.T, r.B, r.H), x.dtype, r.T * r.B * r.H * k.size)
    h = np.empty((r.B, r.H), x.dtype)
    c = None if c0 is None else np.empty((r.B, r.H), x.dtype)
    r.x, r.h0, r.c0, r.lengths = data(x), data(h0), data(c0), <const ptrdiff_t *> data(lengths)
    r.weight_ih, r.weight_hh = data(weight_ih), data(weight_hh)
    point_vectors(r, vectors, k.size)
    r.y, r.h_end, r.c_end = data(y), data(h), data(c)
    with nogil:
        fn_rnn_pack(k, r, False, threads)
        fn_rnn_forward(k, r)
    del memory
    tape.dtype = x.dtype
    tape.arrays = (kept_memory, x, h0, c0, lengths, vectors)
    tape.weights = (weight_ih, weight_hh)
    return y, h, c, tape


# ---- one step after another -------------------------------------------------------------------------------------

@cython.final
cdef class Step:
    """A layer that is given one x (B, I) at a time and carries its state; it allocates nothing after it was made.

    h, c, y : the state and the output, (B, H), the same arrays for ever
    """

    cdef fn_rnn r
    cdef const fn_rnn_kernels *k
    cdef object memory, vectors
    cdef readonly cnp.ndarray h, c, y

    def __init__(self, str cell, norm, double eps, Py_ssize_t rows, cnp.ndarray weight_ih, cnp.ndarray weight_hh,
                 cnp.ndarray vectors, str isa, int threads):
        cdef fn_rnn *r = &self.r
        cdef part parts[7]
        cdef ptrdiff_t gates
        memset(r, 0, sizeof(fn_rnn))
        self.k = kernels_of(isa, weight_ih)
        r.cell, r.norm, r.eps = CELLS[cell], NORMS[norm], eps
        r.T, r.B, r.I, r.H = 1, rows, weight_ih.shape[1], weight_hh.shape[1]
        r.G = weight_ih.shape[0] // r.H
        r.P = vectors.shape[1]
        r.chunk = r.px_steps = r.ph_steps = 1
        r.slices = fn_rnn_slices(r, threads)
        gates = r.G * r.P
        parts[0] = part(&r.pack_ih, fn_rnn_packed(r.I, gates))
        parts[1] = part(&r.pack_hh, fn_rnn_packed(r.H, gates))
        parts[2] = part(&r.px, rows * gates)
        parts[3] = part(&r.ph, rows * gates)
        parts[4] = part(&r.h, 2 * rows * r.P)
        parts[5] = part(&r.c, 2 * rows * r.P)
        parts[6] = part(&r.stats, rows * FN_STATS)
        self.memory = carve(parts, 7, self.k.size)
        self.h, self.y = np.zeros((rows, r.H), weight_ih.dtype), np.zeros((rows, r.H), weight_ih.dtype)
        self.c = np.zeros((rows, r.H), weight_ih.dtype) if r.cell == FN_LSTM else None
        r.h0 = r.h_end = data(self.h)
        r.c0 = r.c_end = data(self.c)
        r.y = data(self.y)
        self.vectors = vectors
        point_vectors(r, vectors, self.k.size)
        r.weight_ih, r.weight_hh = data(weight_ih), data(weight_hh)
        with nogil:
            fn_rnn_pack(self.k, r, False, threads)

    def __call__(self, cnp.ndarray x):
        """y, for a contiguous x of the layer's dtype and shape."""
        self.r.x = cnp.PyArray_DATA(x)
        with nogil:
            fn_rnn_forward(self.k, &self.r)
        return self.y
