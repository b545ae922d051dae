# The tiers of kernels, and the threads that run them.

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


cdef fn_threads threads_of_all = fn_threads_shared()
threads_capsule = PyCapsule_New(&threads_of_all, "fastnorm.threads", NULL)  # for the other extension modules
