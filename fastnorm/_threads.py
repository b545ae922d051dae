"""How many threads the kernels may use: a setting of the process, and one of the caller's context."""

import contextlib
import contextvars
import os
import warnings

from . import _checks as checks
from ._cgroup import limits

_MOST = 2**31 - 1  # a C int; the kernels start no more than they have work for
_scoped = contextvars.ContextVar("fastnorm_num_threads", default=())  # the numbers entered, innermost last


def _positive(value, name):
    n = checks.to_int(value, name)
    if isinstance(value, bool) or n < 1:
        raise ValueError(f"{name} is {checks.shown(value)}, needs an int of 1 or more")
    return min(n, _MOST)


def _from_environment(name):
    text = os.environ.get(name, "").strip()
    first = text.split(",")[0].strip()
    if first.isdecimal() and int(first) > 0:
        return min(int(first), _MOST)
    if text and name.startswith("FASTNORM"):  # of the others their runtimes complain
        warnings.warn(f"{name} is {text!r}, needs an int of 1 or more: ignored", RuntimeWarning, stacklevel=2)
    return None


def cgroup_quota(root="/"):
    """The processors that the cgroup's quota allows, as a float, or None; `root` stands for / in tests."""
    v2 = ["cpu.max"], lambda m: None if m[0] == "max" else int(m[0]) / int(m[1])
    v1 = (
        ["cpu.cfs_quota_us", "cpu.cfs_period_us"],
        lambda q, p: None if int(q[0]) <= 0 else int(q[0]) / int(p[0]),
    )
    return min(limits("cpu", v2, v1, root), default=None)


def default_threads():
    """(number, why): the environment's, else what affinity and cgroup leave to this process."""
    for name in ("FASTNORM_NUM_THREADS", "OMP_NUM_THREADS"):
        n = _from_environment(name)
        if n:
            return n, f"{name} is set"
    if hasattr(os, "sched_getaffinity"):
        n, why = len(os.sched_getaffinity(0)), "processors of this process's affinity"
    else:
        n, why = os.cpu_count() or 1, "processors of this machine"
    quota = cgroup_quota()
    if quota is not None and quota < n:
        n, why = max(1, int(quota)), f"cgroup quota of {quota:g} processors"
    return n, why


_default, _why = default_threads()
_process = None
_outside = (_default,)  # what holds outside every num_threads()
_limit = None  # asks the OpenMP runtime


def use_limit(limit):
    """Let `limit()` cap what get_num_threads tells; the kernels ask it themselves."""
    global _limit
    _limit = limit


def wanted_threads():
    """The number that was set, for the kernels, which cap it where they start more than one thread."""
    return (_scoped.get() or _outside)[-1]


def get_num_threads():
    """How many threads a kernel called here may use.

    That is the number set by `num_threads`, `set_num_threads` or the environment, or less: inside an OpenMP
    parallel region it is 1, and a lower number set on the OpenMP runtime, by `threadpoolctl` say, is a limit.
    The runtime is the one that `show_config` names. Inside a region of another one holds what holds for all
    callers at once: they share this number, and helpers are added only as far as callers leave room in it.

    Examples
    --------
    >>> import fastnorm
    >>> with fastnorm.num_threads(1):
    ...     fastnorm.get_num_threads()
    1
    """
    n = wanted_threads()
    return n if _limit is None else min(n, _limit())


def set_num_threads(n):
    """Set the number of threads for the whole process.

    Parameters
    ----------
    n : int or None
        None goes back to the default: FASTNORM_NUM_THREADS, else OMP_NUM_THREADS, else the processors that
        affinity and the cgroup quota leave to this process.

    Raises
    ------
    TypeError, ValueError
        If n is not an int of 1 or more.

    Examples
    --------
    >>> import fastnorm
    >>> fastnorm.set_num_threads(None)
    """
    global _process, _outside
    process = None if n is None else _positive(n, "n")
    _process, _outside = process, (process or _default,)


class num_threads(contextlib.ContextDecorator):
    """Use n threads in this ``with`` block, in this thread and context only.

    The object may be kept and entered again, also inside itself and by several threads at once.

    Parameters
    ----------
    n : int

    Raises
    ------
    TypeError, ValueError
        If n is not an int of 1 or more.

    Examples
    --------
    >>> import fastnorm
    >>> with fastnorm.num_threads(2):
    ...     fastnorm.get_num_threads()
    2
    """

    def __init__(self, n):
        self._n = _positive(n, "n")

    def __repr__(self):
        return f"fastnorm.num_threads({self._n})"

    def __enter__(self):
        _scoped.set((*_scoped.get(), self._n))

    def __exit__(self, *error):
        _scoped.set(_scoped.get()[:-1])


def why_num_threads():
    """One phrase that says where the number comes from."""
    if get_num_threads() < wanted_threads():
        return "a limit set on the OpenMP runtime"
    if _scoped.get():
        return "num_threads() in this context"
    return "set_num_threads()" if _process else _why
