"""For tests only: every verb of norm.h, of any tier and dtype, on NumPy buffers, and the planner without a kernel.

Nothing in the package imports this module. It owns no kernel: `_norm` hands out its tiers (`tier_capsule`). Dtypes are
codes here, the index in fn_tier.verbs, and arrays are memory: only their item size has to fit.

    tile     (rows, n) array whose elements are adjacent along a row, in any steps between rows; None: no tile
    param    (array of A, step, along), as in fn_param; None: absent
    moments  four, and sums three, float64 arrays
"""

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stddef cimport ptrdiff_t
from libc.string cimport memset

cdef extern from "norm.h":
    ctypedef struct fn_tile:
        const char *base
        ptrdiff_t step
    ctypedef struct fn_runs:
        ptrdiff_t count, x, dy, y
    ctypedef struct fn_param:
        const void *a
        ptrdiff_t step
        int along
    ctypedef struct fn_moments:
        double *count
        double *mean
        double *comp
        double *m2
        double *low
    ctypedef struct fn_sums:
        double *g
        double *gx
        double *x
    ctypedef struct fn_affine:
        fn_param mean, comp, rstd, prescale, weight, bias
        int past
    ctypedef struct fn_dots:
        fn_param mean, rstd, shift, weight
    ctypedef struct fn_adjoint:
        fn_param mean, rstd, c1, c2, shift, weight
        int past
    ctypedef struct fn_norm:
        ptrdiff_t per
        int adjoin, centre, scale
        double eps, least
        fn_param weight, bias
        void *mean
        void *rstd
        int past
    ctypedef struct fn_slices:
        ptrdiff_t per
        int centre, fresh, undivided
        double least
        const void *mean
        const void *rstd
        fn_param weight
        fn_sums sums
        void *gains
        ptrdiff_t gains_step
        double root
        void *work
        int past
    ctypedef struct fn_verbs:
        const char *name
        size_t size
        size_t compute_size
        const fn_verbs *across
        double (*load1)(const void *p) noexcept
        void (*store1)(void *p, double value) noexcept
        void (*moments_rows)(fn_tile x, fn_tile mask, ptrdiff_t cells, ptrdiff_t cell_step, ptrdiff_t mask_cell_step,
                             ptrdiff_t rows, ptrdiff_t n, int centre, fn_moments out) noexcept
        void (*moments_cols)(fn_tile x, fn_tile mask, fn_runs runs, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t fold,
                             int centre, void *work, fn_moments out) noexcept
        void (*apply)(fn_tile x, fn_tile y, ptrdiff_t rows, ptrdiff_t n, const fn_affine *p) noexcept
        void (*apply_runs)(fn_tile x, fn_tile y, fn_runs runs, ptrdiff_t rows, ptrdiff_t n,
                           const fn_affine *p) noexcept
        void (*dots_rows)(fn_tile dy, fn_tile x, fn_tile mask, ptrdiff_t rows, ptrdiff_t n, const fn_dots *p,
                          fn_sums out) noexcept
        void (*dots_cols)(fn_tile dy, fn_tile x, fn_tile mask, fn_runs runs, ptrdiff_t rows, ptrdiff_t n,
                          const fn_dots *p, void *work, fn_sums out) noexcept
        void (*combine)(fn_tile dy, fn_tile x, fn_tile mask, fn_tile dx, ptrdiff_t rows, ptrdiff_t n,
                        const fn_adjoint *p) noexcept
        void (*combine_runs)(fn_tile dy, fn_tile x, fn_tile dx, fn_runs runs, ptrdiff_t rows, ptrdiff_t n,
                             const fn_adjoint *p) noexcept
        void (*combine_cols)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t rows, ptrdiff_t n, const fn_adjoint *p,
                             void *work) noexcept
        void (*combine_dots)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t rows, ptrdiff_t n, const fn_adjoint *p,
                             fn_sums out) noexcept
        int (*carry_cols)(ptrdiff_t n, ptrdiff_t fold, void *work, fn_sums out) noexcept
        int (*finish_cols)(ptrdiff_t n, const void *work, void *g, void *gx) noexcept
        ptrdiff_t (*normalize_rows)(fn_tile x, fn_tile y, ptrdiff_t slices, ptrdiff_t n, const fn_norm *p) noexcept
        ptrdiff_t (*adjoint_rows)(fn_tile dy, fn_tile x, fn_tile dx, ptrdiff_t slices, ptrdiff_t n,
                                  const fn_slices *p) noexcept
        int (*finalize)(ptrdiff_t n, fn_moments moments, double eps, double least, int scale, void *mean, void *comp,
                        void *rstd) noexcept
        void (*merge)(ptrdiff_t n, fn_moments into, fn_moments other) noexcept
    ctypedef struct fn_tier:
        const fn_verbs *verbs[4]

cdef extern from "plan.h":
    enum: FN_DY, FN_NOPERANDS, FN_MAXDIM
    ctypedef struct fn_axis:
        ptrdiff_t len
        int reduced
        ptrdiff_t stride[9]
    ctypedef struct fn_plan:
        ptrdiff_t offset[9]
        int cols
        fn_axis inner, fold
        ptrdiff_t n
        int nkept, nreduced
        fn_axis *kept
        fn_axis *reduced
        ptrdiff_t regions, rows, count
    void fn_plan_make(fn_plan *plan, int ndim, fn_axis *axes, ptrdiff_t size) noexcept
    ptrdiff_t fn_plan_step(const fn_plan *plan, int operand) noexcept

cdef extern from "job.h":
    ctypedef struct fn_job:
        const fn_verbs *verbs
        fn_plan plan
        char *data[9]
    ctypedef struct fn_cut:
        int many_rows, interleaved
        ptrdiff_t blocks, chunk_blocks, chunks, units
    ctypedef struct fn_unit:
        ptrdiff_t slices, width
    ctypedef struct fn_block:
        ptrdiff_t offset[9]
        ptrdiff_t rows, width, runs
    fn_cut fn_cut_make(const fn_job *job) noexcept
    fn_unit fn_cut_unit(const fn_job *job, const fn_cut *cut, ptrdiff_t unit) noexcept
    fn_block fn_cut_block(const fn_job *job, const fn_cut *cut, const fn_unit *unit, ptrdiff_t block) noexcept
    const fn_axis *fn_row_axis(const fn_job *job, const fn_cut *cut) noexcept
    const fn_axis *fn_run_axis(const fn_job *job) noexcept
    fn_tile fn_interleaved_row(const fn_job *job, const fn_unit *unit, ptrdiff_t r, int operand) noexcept

cnp.import_array()

# fn_operand, in its order
OPERANDS = ("x", "y", "dy", "mask", "weight", "bias", "stat", "dweight", "dbias")


include "structs.pxi"
include "plans.pxi"


# ---- verbs ------------------------------------------------------------------------------------------------------

cdef class Verbs:
    """The verbs of one dtype on one tier. `past`: results go past the caches (2: from memory).

    across : bool
        Those for rows that stand across cache lines, where the tier has some.
    """

    cdef const fn_verbs *verbs
    cdef public int past
    cdef readonly bint across

    def __init__(self, tier, int code, bint across=False):
        self.verbs = (<const fn_tier *> PyCapsule_GetPointer(tier, "fastnorm.tier")).verbs[code]
        self.across = across and self.verbs.across is not NULL
        if self.across:
            self.verbs = self.verbs.across

    @property
    def name(self):
        return self.verbs.name.decode()

    @property
    def size(self):
        return self.verbs.size

    @property
    def compute_size(self):
        return self.verbs.compute_size

    @property
    def address(self):
        """Where the code of `apply` stands: another place on every tier."""
        return <size_t> self.verbs.apply

    def load(self, cnp.ndarray source, cnp.ndarray into):
        """load1 of every item of `source`."""
        cdef ptrdiff_t i, n = cnp.PyArray_SIZE(source)
        cdef const char *p = <const char *> values(source, n, self.verbs.size)
        cdef double *out = doubles(into, n)
        for i in range(n):
            out[i] = self.verbs.load1(p + i * <ptrdiff_t> self.verbs.size)

    def store(self, cnp.ndarray source, cnp.ndarray into):
        """store1 of every item of `source`."""
        cdef ptrdiff_t i, n = cnp.PyArray_SIZE(source)
        cdef char *p = <char *> values(into, n, self.verbs.size)
        cdef const double *a = doubles(source, n)
        for i in range(n):
            self.verbs.store1(p + i * <ptrdiff_t> self.verbs.size, a[i])

    def moments_rows(self, cnp.ndarray x, mask, bint centre, out):
        """x and mask: (cells, rows, n)."""
        cdef ptrdiff_t cells = x.shape[0], rows = x.shape[1], n = x.shape[2], mask_step = 0
        cdef fn_tile m = tile_of(None if mask is None else mask[0], rows, n, 1)
        if mask is not None:
            mask_step = mask.strides[0]
        self.verbs.moments_rows(tile_of(x[0], rows, n, self.verbs.size), m, cells, cnp.PyArray_STRIDE(x, 0), mask_step,
                                rows, n, centre, moments_of(out, cells))

    def moments_cols(self, cnp.ndarray x, mask, bint centre, work, out, ptrdiff_t fold=1):
        """x: (rows, n), or without a mask (runs, rows, n). out: the first n / fold of n places."""
        cdef fn_runs runs = runs_of(x, None)
        cdef ptrdiff_t rows = x.shape[x.ndim - 2], n = x.shape[x.ndim - 1]
        self.verbs.moments_cols(tile_of(first_run(x), rows, n, self.verbs.size), tile_of(mask, rows, n, 1), runs, rows,
                                n, fold, centre, values(work, 4 * n, self.verbs.compute_size), moments_of(out, n))

    def apply(self, cnp.ndarray x, cnp.ndarray y, mean=None, comp=None, rstd=None, prescale=None, weight=None,
              bias=None):
        """apply; of x and y (runs, rows, n) apply_runs."""
        cdef fn_runs runs = runs_of(x, None, y)
        cdef ptrdiff_t rows = x.shape[x.ndim - 2], n = x.shape[x.ndim - 1]
        cdef size_t size = self.verbs.size, compute = self.verbs.compute_size
        cdef fn_tile of_x = tile_of(first_run(x), rows, n, size), of_y = tile_of(first_run(y), rows, n, size)
        cdef fn_affine p
        memset(&p, 0, sizeof(p))
        p.mean, p.comp = param_of(mean, rows, n, compute), param_of(comp, rows, n, compute)
        p.rstd, p.prescale = param_of(rstd, rows, n, compute), param_of(prescale, rows, n, compute)
        p.weight, p.bias = param_of(weight, rows, n, compute), param_of(bias, rows, n, compute)
        p.past = self.past
        if x.ndim == 3:
            self.verbs.apply_runs(of_x, of_y, runs, rows, n, &p)
        else:
            self.verbs.apply(of_x, of_y, rows, n, &p)

    def dots_rows(self, cnp.ndarray dy, x, mask, out, mean=None, rstd=None, shift=None, weight=None):
        cdef ptrdiff_t rows = dy.shape[0], n = dy.shape[1]
        cdef size_t size = self.verbs.size, compute = self.verbs.compute_size
        cdef fn_dots p = dots_of(mean, rstd, shift, weight, rows, n, compute)
        self.verbs.dots_rows(tile_of(dy, rows, n, size), tile_of(x, rows, n, size), tile_of(mask, rows, n, 1), rows, n,
                             &p, sums_of(out, rows))

    def dots_cols(self, cnp.ndarray dy, x, mask, work, out, mean=None, rstd=None, shift=None, weight=None):
        """dy and x: (rows, n), or without a mask (runs, rows, n)."""
        cdef fn_runs runs = runs_of(x, dy)
        cdef ptrdiff_t rows = dy.shape[dy.ndim - 2], n = dy.shape[dy.ndim - 1]
        cdef size_t size = self.verbs.size, compute = self.verbs.compute_size
        cdef fn_dots p = dots_of(mean, rstd, shift, weight, rows, n, compute)
        self.verbs.dots_cols(tile_of(first_run(dy), rows, n, size), tile_of(first_run(x), rows, n, size),
                             tile_of(mask, rows, n, 1), runs, rows, n, &p, values(work, 3 * n, compute),
                             sums_of(out, n))

    def combine(self, cnp.ndarray dy, x, mask, cnp.ndarray dx, mean=None, rstd=None, c1=None, c2=None, weight=None):
        """combine; of dy, x and dx (runs, rows, n), without a mask, combine_runs."""
        cdef fn_runs runs = runs_of(x, dy, dx)
        cdef ptrdiff_t rows = dy.shape[dy.ndim - 2], n = dy.shape[dy.ndim - 1]
        cdef size_t size = self.verbs.size, compute = self.verbs.compute_size
        cdef fn_tile of_dy = tile_of(first_run(dy), rows, n, size), of_x = tile_of(first_run(x), rows, n, size)
        cdef fn_tile of_dx = tile_of(first_run(dx), rows, n, size)
        cdef fn_adjoint p = adjoint_of(mean, rstd, c1, c2, None, weight, rows, n, compute)
        p.past = self.past
        if dy.ndim == 3:
            self.verbs.combine_runs(of_dy, of_x, of_dx, runs, rows, n, &p)
        else:
            self.verbs.combine(of_dy, of_x, tile_of(mask, rows, n, 1), of_dx, rows, n, &p)

    def combine_cols(self, cnp.ndarray dy, cnp.ndarray x, cnp.ndarray dx, work, mean=None, rstd=None, c1=None, c2=None,
                     shift=None, weight=None):
        cdef ptrdiff_t rows = dy.shape[0], n = dy.shape[1]
        cdef size_t size = self.verbs.size, compute = self.verbs.compute_size
        cdef fn_adjoint p = adjoint_of(mean, rstd, c1, c2, shift, weight, rows, n, compute)
        p.past = self.past
        self.verbs.combine_cols(tile_of(dy, rows, n, size), tile_of(x, rows, n, size), tile_of(dx, rows, n, size), rows,
                                n, &p, values(work, 2 * n, compute))

    def combine_dots(self, cnp.ndarray dy, cnp.ndarray x, cnp.ndarray dx, out, mean=None, rstd=None, c1=None, c2=None,
                     shift=None, weight=None):
        cdef ptrdiff_t rows = dy.shape[0], n = dy.shape[1]
        cdef size_t size = self.verbs.size
        cdef fn_adjoint p = adjoint_of(mean, rstd, c1, c2, shift, weight, rows, n, self.verbs.compute_size)
        p.past = self.past
        self.verbs.combine_dots(tile_of(dy, rows, n, size), tile_of(x, rows, n, size), tile_of(dx, rows, n, size), rows,
                                n, &p, sums_of(out, rows))

    def carry_cols(self, work, out, ptrdiff_t fold=1):
        cdef ptrdiff_t n = out[0].size * fold
        self.verbs.carry_cols(n, fold, values(work, 2 * n, self.verbs.compute_size), sums_of(out, n // fold))

    def finish_cols(self, work, g=None, gx=None):
        cdef ptrdiff_t n = work.size // 2
        cdef size_t compute = self.verbs.compute_size
        return self.verbs.finish_cols(n, values(work, 2 * n, compute), maybe_values(g, n, compute),
                                      maybe_values(gx, n, compute))

    def normalize_rows(self, cnp.ndarray x, cnp.ndarray y, ptrdiff_t per, double eps, double least, int centre,
                       bint scale, mean, rstd, weight=None, bias=None):
        """How many slices of `per` rows are done. mean and rstd: results, (slices,)."""
        cdef ptrdiff_t rows = x.shape[0], n = x.shape[1], slices = rows // per
        cdef size_t size = self.verbs.size, compute = self.verbs.compute_size
        cdef fn_norm p
        memset(&p, 0, sizeof(p))
        p.per, p.centre, p.scale, p.eps, p.least, p.past = per, centre, scale, eps, least, self.past
        p.weight, p.bias = param_of(weight, rows, n, compute), param_of(bias, rows, n, compute)
        p.mean, p.rstd = values(mean, slices, compute), values(rstd, slices, compute)
        return self.verbs.normalize_rows(tile_of(x, rows, n, size), tile_of(y, rows, n, size), slices, n, &p)

    def adjoint_rows(self, cnp.ndarray dy, cnp.ndarray x, cnp.ndarray dx, ptrdiff_t per, bint centre, out, mean=None,
                     rstd=None, weight=None, work=None, least=-1.0):
        """How many slices are done. mean and rstd: (slices,), rstd None: fresh ones. out: the rows' sums, or of shape
        (slices * step,) the gains, of a root of 0.75; None: neither."""
        cdef ptrdiff_t rows = dy.shape[0], n = dy.shape[1], slices = rows // per
        cdef size_t size = self.verbs.size, compute = self.verbs.compute_size
        cdef fn_slices p
        memset(&p, 0, sizeof(p))
        p.per, p.centre, p.least, p.past = per, centre, least, self.past
        p.fresh = p.undivided = rstd is None
        if out is not None and out.ndim == 1:
            p.gains, p.gains_step, p.root = values(out, out.size, compute), out.size // max(slices, 1), 0.75
        elif out is not None:
            p.sums = sums_of(out, rows)
        p.mean, p.rstd = maybe_values(mean, slices, compute), maybe_values(rstd, slices, compute)
        p.weight, p.work = param_of(weight, rows, n, compute), maybe_values(work, 2 * n, compute)
        return self.verbs.adjoint_rows(tile_of(dy, rows, n, size), tile_of(x, rows, n, size),
                                       tile_of(dx, rows, n, size), slices, n, &p)

    def finalize(self, moments, double eps, double least, bint scale, mean, comp, rstd):
        cdef ptrdiff_t n = moments[0].size
        cdef size_t compute = self.verbs.compute_size
        return self.verbs.finalize(n, moments_of(moments, n), eps, least, scale, values(mean, n, compute),
                                   values(comp, n, compute), values(rstd, n, compute))

    def merge(self, into, other):
        cdef ptrdiff_t n = into[0].size
        self.verbs.merge(n, moments_of(into, n), moments_of(other, n))
