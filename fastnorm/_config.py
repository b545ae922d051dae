"""What this build is and what it chose: `show_config`, and the loading of the OpenMP module."""

import importlib
import os
import sys
import warnings

import numpy as np

from . import _memory, _norm, _threads

_openmp = None
_openmp_state = "not built in"


def load_openmp():
    """Hand the kernels their threads; without the runtime they stay serial, with one warning."""
    global _openmp, _openmp_state
    try:
        module = importlib.import_module("fastnorm._openmp")
    except ModuleNotFoundError as error:
        if error.name != "fastnorm._openmp":
            raise
        return
    except ImportError as error:
        _openmp_state = f"could not be loaded ({error})"
        warnings.warn(
            f"fastnorm runs on one thread: its OpenMP runtime {_openmp_state}", RuntimeWarning, stacklevel=3
        )
        return
    _openmp, _openmp_state = module, "loaded"
    _norm.use_threads(module.allowed_capsule)
    _threads.use_limit(module.limit)


def _runtime_path():
    """The OpenMP runtime's file, as this process has it mapped."""
    if _openmp is None:
        return None
    try:
        with open("/proc/self/maps") as maps:
            paths = {line.split(maxsplit=5)[5].strip() for line in maps if line.count("/")}
    except OSError:
        return None
    names = ("libgomp", "libomp", "libiomp")
    found = sorted(p for p in paths if os.path.basename(p).startswith(names))
    return ", ".join(found) or None


def show_config(file=None):
    """Print version, compiler, instruction-set tiers, OpenMP runtime, threads and retained memory.

    Parameters
    ----------
    file : file object, optional
        Where to print; standard output by default.

    Examples
    --------
    >>> import fastnorm
    >>> fastnorm.show_config()  # doctest: +ELLIPSIS
    fastnorm    ...
    """
    rows = {
        "fastnorm": _norm.VERSION,
        "python": f"{sys.version.split()[0]}, NumPy {np.__version__}",
        "compiler": _norm.COMPILER,
        "tiers": f"{', '.join(_norm.isa_tiers())}; in use: {_norm.isa()}"
        + (" (FASTNORM_ISA is set)" if os.environ.get("FASTNORM_ISA") else ""),
        "openmp": _openmp_state + (f": {_runtime_path()}" if _runtime_path() else ""),
        "threads": f"{_threads.get_num_threads()} ({_threads.why_num_threads()})"
        if _openmp
        else "1 (no OpenMP)",
        "pool": _memory.describe(),
    }
    for name, value in rows.items():
        print(f"{name:<11} {value}", file=file)
