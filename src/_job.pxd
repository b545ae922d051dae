"""The C side as Cython sees it: norm.h, plan.h, job.h, cpu.h, floats.h, parallel.h."""

cdef extern from "norm.h" nogil:
    enum: FN_F32, FN_F64, FN_F16, FN_BF16, FN_NDTYPES
    ctypedef struct fn_verbs:
        const char *name
        size_t size
        size_t compute_size
        void (*expand)(Py_ssize_t n, const void *a, void *to) noexcept
        void (*divide)(Py_ssize_t n, const void *a, int wide, double by, void *to) noexcept
        void (*blend)(Py_ssize_t n, double share, const double *batch, const double *count, void *running,
                      Py_ssize_t step) noexcept
        int (*invert)(Py_ssize_t n, const void *var, double eps, void *rstd) noexcept
    ctypedef struct fn_tier:
        const char *name
        const fn_verbs *verbs[4]

cdef extern from "cpu.h" nogil:
    int fn_cpu_tiers(const fn_tier **tiers, int most) noexcept

cdef extern from "plan.h" nogil:
    enum: FN_X, FN_Y, FN_DY, FN_MASK, FN_WEIGHT, FN_BIAS, FN_STAT, FN_DWEIGHT, FN_DBIAS, FN_NOPERANDS, FN_MAXDIM
    ctypedef struct fn_axis:
        Py_ssize_t len
        int reduced
        Py_ssize_t stride[9]
    ctypedef struct fn_plan:
        Py_ssize_t offset[9]
        int cols
        fn_axis inner, fold
        Py_ssize_t n
        int nkept, nreduced
        fn_axis *kept
        fn_axis *reduced
        Py_ssize_t regions, rows, count
    void fn_plan_make(fn_plan *plan, int ndim, fn_axis *axes, Py_ssize_t size) noexcept

cdef extern from "job.h" nogil:
    enum: FN_OK, FN_NO_MEMORY
    ctypedef struct fn_job:
        const fn_verbs *verbs
        fn_plan plan
        char *data[9]
        int threads
        int centre, scale, given, fresh
        double eps, root
        void *mean
        void *rstd
        const double *far_rstd
        double *mean64
        double *var64
        double *count64
        void *dweight
        void *dbias
        Py_ssize_t ndweight, ndbias
    int fn_forward(fn_job *job) noexcept
    int fn_backward(fn_job *job) noexcept

cdef extern from "floats.h" nogil:
    ctypedef unsigned long fn_floats
    fn_floats fn_floats_enter() noexcept
    void fn_floats_leave(fn_floats before) noexcept

cdef extern from "parallel.h" nogil:
    ctypedef int fn_allowed() noexcept
    void fn_parallel_use(fn_allowed *allowed) noexcept
    ctypedef struct fn_threads:
        pass
    fn_threads fn_threads_shared() noexcept
