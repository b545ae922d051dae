"""The named tuples that the public functions return."""

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """What `fastnorm.moments` returns: the mean and the variance of every slice."""

    mean: np.ndarray
    var: np.ndarray


class Stats(NamedTuple):
    """What a forward saves for its backward: the mean and ``1 / sqrt(var + eps)`` of every slice.

    `mean` is None where the forward did not centre, `rstd` where it did not scale.
    """

    mean: np.ndarray | None
    rstd: np.ndarray | None


class Grads(NamedTuple):
    """What `fastnorm.normalize_backward` returns: the gradients of x, weight and bias."""

    dx: np.ndarray
    dweight: np.ndarray | None
    dbias: np.ndarray | None
