"""Functions of each element, as layers without parameters, and dropout."""

import numpy as np
from scipy import special

from .layer import Layer, as_real, check_shape


class _Elementwise(Layer):
    """A layer that computes every element of y, and its slope, from the same element of x."""

    def __call__(self, x, training=True):
        """``y, backward = layer(x)`` for x of any shape; `training` makes no difference."""
        x = as_real("x", x, self.dtype)
        y, slope = self._value_and_slope(x)

        def backward(dy):
            dy = as_real("dy", dy, self.dtype)
            check_shape("dy", dy, x.shape)
            return dy * slope()

        return y, backward


class ReLU(_Elementwise):
    """``y = max(x, 0)``; the slope at 0 is 0.

    Examples
    --------
    >>> from fastnorm.nn import ReLU
    >>> y, backward = ReLU()([-1.0, 2.0])
    >>> y.tolist(), backward([1.0, 1.0]).tolist()
    ([0.0, 2.0], [0.0, 1.0])
    """

    def _value_and_slope(self, x):
        positive = x > 0
        return np.maximum(x, 0), lambda: positive


class Tanh(_Elementwise):
    """``y = tanh(x)``.

    Examples
    --------
    >>> from fastnorm.nn import Tanh
    >>> y, backward = Tanh()([0.0])
    >>> y.tolist(), backward([1.0]).tolist()
    ([0.0], [1.0])
    """

    def _value_and_slope(self, x):
        y = np.tanh(x)
        kept = y.copy()  # the caller may write into y
        return y, lambda: 1 - kept * kept


class Sigmoid(_Elementwise):
    """``y = 1 / (1 + exp(-x))``.

    Examples
    --------
    >>> from fastnorm.nn import Sigmoid
    >>> y, backward = Sigmoid()([0.0])
    >>> y.tolist(), backward([1.0]).tolist()
    ([0.5], [0.25])
    """

    def _value_and_slope(self, x):
        y = special.expit(x)
        kept = y.copy()
        return y, lambda: kept * (1 - kept)


class GELU(_Elementwise):
    """``y = x * P(X <= x)`` with X standard normal (Hendrycks & Gimpel 2016, not its approximations).

    Examples
    --------
    >>> from fastnorm.nn import GELU
    >>> y, backward = GELU()([0.0, 10.0])
    >>> y.tolist(), backward([1.0, 1.0]).tolist()
    ([0.0, 10.0], [0.5, 1.0])
    """

    def _value_and_slope(self, x):
        below = special.ndtr(x)
        near = np.clip(x, -40, 40)  # beyond it P is 0 or 1, and infinity times 0 would be NaN
        y = np.maximum(x, -40) * below

        def slope():
            return below + near * np.exp(-0.5 * near * near) * self.dtype.type(1 / np.sqrt(2 * np.pi))

        return y, slope


class Dropout(Layer):
    """In training every element is 0 with probability p, and divided by 1 - p otherwise.

    Parameters
    ----------
    p : float
        At least 0 and less than 1.
    dtype : float32 or float64
    rng : None, int or numpy.random.Generator
        Draws what is dropped. Its state is not in `state_dict`; `fastnorm.train` saves it with a checkpoint.

    References
    ----------
    Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting", in the form
    that scales while training.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm.nn import Dropout
    >>> layer = Dropout(0.5, rng=0)
    >>> y, backward = layer(np.ones(6))
    >>> y.tolist()
    [2.0, 2.0, 2.0, 0.0, 0.0, 0.0]
    >>> layer(np.ones(6), training=False)[0].tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, p, *, dtype=np.float32, rng=None):
        super().__init__(dtype)
        if isinstance(p, bool) or not isinstance(p, (int, float, np.number)) or not 0 <= p < 1:
            raise ValueError(f"p is {p!r}, and needs to be a number of at least 0 and less than 1")
        self.p = float(p)
        self.generators["rng"] = np.random.default_rng(rng)

    def __call__(self, x, training=True):
        """``y, backward = layer(x)`` for x of any shape; the backward drops the same elements."""
        x = as_real("x", x, self.dtype)
        if not training or self.p == 0:
            factor = None
        else:
            kept = self.generators["rng"].random(x.shape, np.float32) >= np.float32(self.p)
            factor = kept * self.dtype.type(1 / (1 - self.p))

        def backward(dy):
            dy = as_real("dy", dy, self.dtype)
            check_shape("dy", dy, x.shape)
            return dy.copy() if factor is None else dy * factor

        return x.copy() if factor is None else x * factor, backward
