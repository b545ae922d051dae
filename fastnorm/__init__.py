"""Normalization statistics and gradients over any axes of any NumPy array, on the CPU.

>>> import numpy as np, fastnorm
>>> x = np.arange(6, dtype=np.float32).reshape(2, 3)
>>> fastnorm.layer_norm(x).round(3)
array([[-1.225,  0.   ,  1.225],
       [-1.225,  0.   ,  1.225]], dtype=float32)
"""

import importlib

try:
    importlib.import_module("fastnorm._norm")  # first: without it nothing else can be imported
except ModuleNotFoundError as error:
    if error.name != "fastnorm._norm":
        raise
    raise ImportError(
        "fastnorm's compiled modules are missing: this is a checkout that has not been built; "
        "run `pip install .` in it, or leave its folder to import an installed fastnorm"
    ) from None

from . import core, nn, norms, reference
from ._config import load_openmp, show_config
from ._memory import get_pool_bytes, set_pool_bytes
from ._norm import VERSION as __version__
from ._norm import isa, isa_tiers
from ._threads import get_num_threads, num_threads, set_num_threads
from ._types import Grads, Moments, Stats
from .core import *  # noqa: F403
from .norms import *  # noqa: F403

__all__ = [
    "Grads",
    "Moments",
    "Stats",
    "__version__",
    "get_num_threads",
    "get_pool_bytes",
    "isa",
    "isa_tiers",
    "nn",
    "num_threads",
    "reference",
    "set_num_threads",
    "set_pool_bytes",
    "show_config",
    *core.__all__,
    *norms.__all__,
]

load_openmp()
del importlib, load_openmp
