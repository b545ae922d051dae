"""The public functions over any axes, under which every layout of `norms.py` is a special case."""

from math import prod, sqrt

import numpy as np

from . import _checks as checks
from . import _norm, layouts
from ._norm import as_input

__all__ = ["l2_normalize", "moments", "normalize", "normalize_backward", "standardize"]


def moments(x, axis=None, *, correction=0, keepdims=False, where=None):
    """Mean and variance over any axes.

    ``mean = sum(x) / n`` and ``var = sum((x - mean)**2) / (n - correction)``, by two passes or merged
    moments (Chan, Golub & LeVeque 1983), never by the difference of squares.

    Parameters
    ----------
    x : array_like
        float32, float64, float16 or bfloat16; integers and booleans are taken as float64.
    axis : int, tuple of int or None
        The axes to reduce, None: all.
    correction : real
        Subtracted from the number of elements n. ``n <= correction`` gives inf or NaN, as NumPy does.
    keepdims : bool
        Keep the reduced axes at length 1.
    where : array_like of bool, optional
        Which elements enter; broadcastable to x.

    Returns
    -------
    Moments
        ``(mean, var)``, float32 for 16- and 32-bit x, else float64.

    Raises
    ------
    TypeError, ValueError
        For a dtype, an axis or a mask that cannot be used, a slice of no element.

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> fastnorm.moments(np.array([[1.0, 3.0], [2.0, 6.0]]), axis=1)
    Moments(mean=array([2., 4.]), var=array([1., 4.]))
    """
    return _norm.moments(x, layouts.over_any, axis, correction, keepdims, where)


def normalize(
    x, axis=-1, weight=None, bias=None, *, eps=1e-5, with_mean=True, with_std=True, where=None, out=None,
    return_stats=False,
):  # fmt: skip
    """Normalize over any axes.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias`` with the biased variance. ``with_mean=False``
    divides by the root mean square, ``y = x / sqrt(mean(x**2) + eps)``; ``with_std=False`` only subtracts
    the mean.

    Parameters
    ----------
    x : array_like
        Any shape and strides; float32, float64, float16 or bfloat16; integers and booleans are taken as
        float64.
    axis : int or tuple of int
        The axes that each slice spans.
    weight, bias : array_like, optional
        Real numbers of any shape that broadcasts against x without enlarging it.
    eps : float
        Not negative.
    with_mean, with_std : bool
    where : array_like of bool, optional
        Which elements enter the statistics; every element is normalized with them.
    out : ndarray, optional
        Where to write: x's shape and dtype, x itself or memory of its own.
    return_stats : bool

    Returns
    -------
    y : ndarray
        x's shape, dtype and memory order.
    stats : Stats
        With `return_stats`: ``(mean, rstd)`` for `normalize_backward`, the reduced axes kept at length 1.

    Raises
    ------
    TypeError, ValueError
        Before anything is written, for arguments that cannot be used.

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> fastnorm.normalize(np.array([[1.0, 3.0], [2.0, 6.0]]), axis=1, eps=0)
    array([[-1.,  1.],
           [-1.,  1.]])
    """
    return _norm.forward(
        x, layouts.over_axes, axis, weight, bias, eps, with_mean, with_std, where, out, return_stats
    )


def normalize_backward(
    dy, x, stats, axis=-1, weight=None, bias=None, *, with_mean=True, with_std=True, where=None
):
    """Gradients of `normalize`.

    With g = dy * weight, xhat = (x - mean) * rstd and slices of n elements: ``dx = rstd * (g - sum(g) / n -
    xhat * sum(g * xhat) / n)``, ``dweight = sum(dy * xhat)``, ``dbias = sum(dy)``. Elements outside `where`
    enter no sum and get ``dx = g * rstd``.

    Parameters
    ----------
    dy : array_like
        x's shape and dtype.
    x, axis, weight, with_mean, with_std, where
        As given to `normalize`.
    stats : Stats
        As returned by it.
    bias : array_like, optional
        Only its shape counts: that of dbias. Without it dbias has weight's shape.

    Returns
    -------
    Grads
        ``(dx, dweight, dbias)``; dx like x, the others float32 for 16- and 32-bit x, else float64. dweight
        is None without weight, dbias without either.

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> x = np.array([[1.0, 2.0, 6.0]])
    >>> y, stats = fastnorm.normalize(x, return_stats=True)
    >>> fastnorm.normalize_backward(np.array([[1.0, 0.0, 0.0]]), x, stats, weight=np.ones(3)).dbias
    array([1., 0., 0.])
    """
    return _norm.backward(dy, x, stats, layouts.over_axes, axis, weight, bias, with_mean, with_std, where)


def standardize(x, axis=0, *, ddof=0, eps=0.0, where=None, out=None):
    """Scores in deviations: ``(x - mean) / sqrt(sum((x - mean)**2) / (n - ddof) + eps)``.

    Parameters
    ----------
    x, axis, where, out
        As for `normalize`.
    ddof : real
        Subtracted from the number of elements.
    eps : float
        Added to the variance; with 0 a constant slice gives NaN.

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> fastnorm.standardize(np.array([1.0, 3.0]), ddof=0)
    array([-1.,  1.])
    """
    x = as_input(x)
    layouts.over_axes(x.ndim, axis)  # checks the axis
    eps, ddof = checks.to_eps(eps), checks.to_real(ddof, "ddof")
    axes = axis if isinstance(axis, tuple) else (axis,)
    weight = None
    if ddof != 0:
        # (n - ddof) / n of the corrected variance is the biased one: scale eps with it, and the result back
        if where is None:
            n = np.float64(prod(x.shape[a] for a in axes))
        else:
            mask = checks.to_mask(where, x.shape)
            checks.no_empty_slice(mask, tuple(a % x.ndim for a in axes))
            n = mask.sum(axis=axes, keepdims=True, dtype=np.float64)
        with np.errstate(all="ignore"):
            share = np.maximum(n - ddof, 0) / n
            weight = np.sqrt(share)
        if eps:
            if np.ndim(share) and np.ptp(share) > 0:
                raise ValueError("eps is not 0 with ddof and a mask of unequal slices, needs eps=0 there")
            eps = eps * float(np.max(share))
    return _norm.forward(x, layouts.over_axes, axis, weight, None, eps, True, True, where, out, False)


def l2_normalize(x, axis=-1, *, eps=0.0, out=None):
    """Unit vectors: ``x / sqrt(sum(x**2) + eps)``.

    Parameters
    ----------
    x, axis, out
        As for `normalize`.
    eps : float
        Added to the sum of squares; with 0 a slice of zeros gives NaN.

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> fastnorm.l2_normalize(np.array([3.0, 4.0]))
    array([0.6, 0.8])
    """
    x = as_input(x)
    layouts.over_axes(x.ndim, axis)
    n = float(prod(x.shape[a] for a in (axis if isinstance(axis, tuple) else (axis,))))
    eps = checks.to_eps(eps)
    if n == 0:
        checks.empty_axis(x.shape, axis if isinstance(axis, tuple) else (axis,))
    weight, eps = 1 / sqrt(n), eps / n
    return _norm.forward(x, layouts.over_axes, axis, weight, None, eps, False, True, None, out, False)
