"""Normalization statistics and gradients over any axes of any NumPy array, on the CPU.

>>> import numpy as np, fastnorm
>>> x = np.arange(6, dtype=np.float32).reshape(2, 3)
>>> fastnorm.layer_norm(x).round(3)
array([[-1.225,  0.   ,  1.225],
       [-1.225,  0.   ,  1.225]], dtype=float32)
"""

try:
    from . import _norm
except ModuleNotFoundError as error:
    if error.name != "fastnorm._norm":
        raise
    raise ImportError(
        "fastnorm's compiled modules are missing: this is a checkout that has not been built; "
        "run `pip install .` in it, or leave its folder to import an installed fastnorm"
    ) from None

from ._config import load_openmp, show_config

load_openmp()

from . import nn, reference
from ._norm import isa, isa_tiers
from ._threads import get_num_threads, num_threads, set_num_threads
from ._types import Grads, Moments, Stats
from ._version import __version__
from .core import *
from .norms import *
