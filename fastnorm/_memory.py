"""How much memory of past results fastnorm may retain for the next ones: the bound of the pool."""

import contextlib
import os

from . import _checks as checks
from . import _norm, _pool, _recurrent
from ._cgroup import limits

_MOST = 512 << 20
_UNLIMITED = 2**62
_SHARE = 16  # of the memory that this process may use, one part in so many


def memory_limit(root="/"):
    """Bytes that this process may use: the machine's, or what the cgroup leaves; None where nobody tells."""
    v2 = ["memory.max"], lambda m: None if m[0] == "max" else int(m[0])
    v1 = ["memory.limit_in_bytes"], lambda m: int(m[0])
    found = limits("memory", v2, v1, root)
    with contextlib.suppress(AttributeError, OSError, ValueError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def default_bytes(root="/"):
    """(bytes, why): the environment's, else a share of the memory."""
    text = os.environ.get("FASTNORM_POOL_BYTES", "").strip()
    if text:
        if not text.isdecimal():
            raise ImportError(f"FASTNORM_POOL_BYTES is {text!r}, needs a number of bytes, 0 for no pool")
        return min(int(text), _UNLIMITED), "FASTNORM_POOL_BYTES is set"
    memory = memory_limit(root)
    if memory is None or memory // _SHARE >= _MOST:
        return _MOST, "default"
    return memory // _SHARE, f"default, 1/{_SHARE} of the memory"


def get_pool_bytes():
    """How many bytes of past results may be retained for the next ones; 0: no pool.

    Examples
    --------
    >>> import fastnorm
    >>> fastnorm.get_pool_bytes() >= 0
    True
    """
    return _pool.state()["bound"]


def set_pool_bytes(n):
    """Retain no more than n bytes of past results, from now on and for the whole process.

    The memory of a result of 128 KiB and more goes back to a pool with the last array that refers to it, and
    the next result of that size, or up to an eighth less, takes it from there instead of from the system,
    which would have to hand out and clear every page. What would be retained beyond n goes to the system,
    the longest unused first. A forked child starts with an empty pool.

    Parameters
    ----------
    n : int or None
        0: no pool, results are allocated as NumPy does it. None goes back to the default:
        FASTNORM_POOL_BYTES, else 512 MiB or a 16th of the memory that this process may use, whichever is
        less.

    Raises
    ------
    TypeError, ValueError
        If n is not an int of 0 or more.

    Examples
    --------
    >>> import fastnorm
    >>> fastnorm.set_pool_bytes(64 << 20)
    >>> fastnorm.get_pool_bytes()
    67108864
    >>> fastnorm.set_pool_bytes(None)
    """
    global _why
    nbytes, why = (_default, _default_why) if n is None else (_to_bytes(n), "set_pool_bytes()")
    _pool.set_bound(nbytes)
    for user in (_norm, _recurrent):
        user.use_handler(_pool.handler if nbytes else None, _pool.LEAST)
    _why = why


def _to_bytes(n):
    nbytes = checks.to_int(n, "n")
    if isinstance(n, bool) or nbytes < 0:
        raise ValueError(f"n is {checks.shown(n)}, needs an int of 0 or more")
    return min(nbytes, _UNLIMITED)


def describe():
    """The pool in one phrase: what is retained, the bound, and where the bound comes from."""
    now = _pool.state()
    return f"{now['retained']} of at most {now['bound']} bytes retained ({_why})"


_default, _default_why = default_bytes()
set_pool_bytes(None)
