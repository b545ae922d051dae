"""The layouts: each function names its axes (`layouts.py`) and makes one call.

Shapes: N batch, C channels, G groups, S spatial axes. x is float32, float64, float16 or bfloat16 of any
strides; integers and booleans are taken as float64. weight and bias are any real numbers. Statistics and
parameter gradients are float32 for 16- and 32-bit x, else float64. Everything that cannot be used raises
TypeError or ValueError, in one sentence, before anything is written. `out` is x itself or memory of its own,
of x's shape and dtype.
"""

from . import _norm, layouts

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "mean_only_batch_norm",
    "mean_only_batch_norm_backward",
    "rms_norm",
    "rms_norm_backward",
    "weight_norm",
    "weight_norm_backward",
]


# ---- layer and RMS norm -----------------------------------------------------------------------------------


def layer_norm(x, weight=None, bias=None, *, axis=-1, eps=1e-5, out=None, return_stats=False):
    """Layer normalization.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias``, mean and variance over `axis` (Ba, Kiros & Hinton
    2016, eq. 3 and 4).

    Parameters
    ----------
    x : array_like
    weight, bias : array_like, optional
        Shape ``[x.shape[a] for a in axis]``.
    axis : int or tuple of int
    eps : float
    out : ndarray, optional
    return_stats : bool

    Returns
    -------
    y : ndarray
        Like x.
    stats : Stats
        With `return_stats`; mean and rstd in x's shape with `axis` at length 1.

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> fastnorm.layer_norm(np.array([[1.0, 3.0], [2.0, 6.0]]), eps=0)
    array([[-1.,  1.],
           [-1.,  1.]])
    """
    return _norm.forward(x, layouts.layer, axis, weight, bias, eps, True, True, None, out, return_stats)


def layer_norm_backward(dy, x, stats, weight=None, *, axis=-1):
    """Gradients of `layer_norm`: ``(dx, dweight, dbias)``, the last two None without weight.

    Parameters
    ----------
    dy : array_like
        x's shape and dtype.
    x, weight, axis
        As given to `layer_norm`.
    stats : Stats
        As returned by it.

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> x = np.array([[1.0, 2.0, 6.0]])
    >>> y, stats = fastnorm.layer_norm(x, return_stats=True)
    >>> fastnorm.layer_norm_backward(np.ones((1, 3)), x, stats, np.ones(3)).dbias
    array([1., 1., 1.])
    """
    return _norm.backward(dy, x, stats, layouts.layer, axis, weight, None, True, True, None)


def rms_norm(x, weight=None, *, axis=-1, eps=1e-6, out=None, return_stats=False):
    """RMS normalization: ``y = x / sqrt(mean(x**2) + eps) * weight`` (Zhang & Sennrich 2019, eq. 4).

    Parameters and results are those of `layer_norm`; `stats.mean` is None.

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> fastnorm.rms_norm(np.array([3.0, 3.0, 3.0]), eps=0)
    array([1., 1., 1.])
    """
    return _norm.forward(x, layouts.layer, axis, weight, None, eps, False, True, None, out, return_stats)


def rms_norm_backward(dy, x, stats, weight=None, *, axis=-1):
    """Gradients of `rms_norm`: ``(dx, dweight, dbias)``.

    dbias, the sum of dy in weight's shape, belongs to a bias added after it; it comes with dweight, as
    everywhere. Parameters are those of `layer_norm_backward`.

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> x = np.array([[3.0, 4.0]])
    >>> y, stats = fastnorm.rms_norm(x, eps=0, return_stats=True)
    >>> bool(abs((fastnorm.rms_norm_backward(y, x, stats).dx * x).sum()) < 1e-15)
    True
    """
    return _norm.backward(dy, x, stats, layouts.layer, axis, weight, None, False, True, None)


# ---- batch norm -------------------------------------------------------------------------------------------


def batch_norm(
    x, weight=None, bias=None, *, running_mean=None, running_var=None, training=True, momentum=0.1, eps=1e-5,
    channel_axis=1, where=None, out=None, return_stats=False,
):  # fmt: skip
    """Batch normalization.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias``, mean and variance of each channel over N and S
    (Ioffe & Szegedy 2015, algorithm 1); with ``training=False`` the running statistics (algorithm 2).

    Parameters
    ----------
    x : array_like, 2 or more dimensions
        N first, C at `channel_axis`.
    weight, bias : array_like, shape (C,), optional
    running_mean, running_var : ndarray, shape (C,), optional
        x's dtype or float32 (float64 for float64 x). In training updated in place: ``running = (1 -
        momentum) * running + momentum * batch``, with the unbiased variance m / (m - 1) of the m values of
        a channel.
    training : bool
    momentum : float
        Any finite number.
    eps : float
    channel_axis : int
        Any axis but 0.
    where : array_like of bool, optional
        Which elements enter the batch statistics; every element is normalized.
    out : ndarray, optional
    return_stats : bool

    Returns
    -------
    y : ndarray
        Like x.
    stats : Stats
        With `return_stats`; mean and rstd of shape (C,).

    Raises
    ------
    ValueError
        Also for one value per channel with running_var, and an empty batch in training.

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> running_mean, running_var = np.zeros(2), np.ones(2)
    >>> x = np.array([[1.0, 2.0], [3.0, 6.0]])
    >>> fastnorm.batch_norm(x, running_mean=running_mean, running_var=running_var, eps=0)
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> running_mean
    array([0.2, 0.4])
    """
    return _norm.batch_forward(
        x, layouts.batch, channel_axis, weight, bias, running_mean, running_var, training, momentum, eps,
        True, where, out, return_stats,
    )  # fmt: skip


def batch_norm_backward(dy, x, stats, weight=None, *, channel_axis=1, training=True, where=None):
    """Gradients of `batch_norm`: ``(dx, dweight, dbias)``, the last two None without weight.

    Ioffe & Szegedy 2015, section 3. With ``training=False`` the statistics are constants, ``dx = dy *
    weight * rstd``; `stats` is then ``Stats(running_mean, 1 / sqrt(running_var + eps))``.

    Parameters
    ----------
    dy : array_like
        x's shape and dtype.
    x, weight, channel_axis, training, where
        As given to `batch_norm`. Elements outside `where` enter no sum and get ``dx = dy * weight * rstd``.
    stats : Stats
        As returned by it.

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> x = np.array([[1.0, 2.0], [3.0, 6.0]])
    >>> y, stats = fastnorm.batch_norm(x, return_stats=True)
    >>> fastnorm.batch_norm_backward(np.ones((2, 2)), x, stats, np.ones(2)).dbias
    array([2., 2.])
    """
    return _norm.backward(
        dy, x, stats, layouts.batch, channel_axis, weight, None, True, True, where, not training
    )


def mean_only_batch_norm(x, bias=None, *, running_mean=None, training=True, momentum=0.1, channel_axis=1):
    """Mean-only batch normalization: ``y = x - mean + bias`` (Salimans & Kingma 2016, section 4).

    Parameters are those of `batch_norm`; ``training=False`` subtracts running_mean.

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> fastnorm.mean_only_batch_norm(np.array([[1.0, 2.0], [3.0, 6.0]]))
    array([[-1., -2.],
           [ 1.,  2.]])
    """
    return _norm.batch_forward(
        x, layouts.batch, channel_axis, None, bias, running_mean, None, training, momentum, 0.0, False,
        None, None, False,
    )  # fmt: skip


def mean_only_batch_norm_backward(dy, *, channel_axis=1, training=True):
    """Gradients of `mean_only_batch_norm`: ``(dx, dbias)``, ``dx = dy - mean(dy)`` in training, else dy.

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> dx, dbias = fastnorm.mean_only_batch_norm_backward(np.array([[1.0, 0.0], [3.0, 0.0]]))
    >>> dx
    array([[-1.,  0.],
           [ 1.,  0.]])
    """
    return _norm.mean_backward(dy, layouts.batch, channel_axis, not training)


# ---- instance and group norm ------------------------------------------------------------------------------


def instance_norm(x, weight=None, bias=None, *, channel_axis=1, eps=1e-5, out=None, return_stats=False):
    """Instance normalization: mean and variance of each channel of each sample over S (Ulyanov 2016, eq. 3).

    Parameters
    ----------
    x : array_like, 3 or more dimensions
        N first, C at `channel_axis`.
    weight, bias : array_like, shape (C,), optional
    channel_axis : int
        Any axis but 0.
    eps, out, return_stats
        As for `layer_norm`; the statistics have shape (N, C).

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> fastnorm.instance_norm(np.array([[[1.0, 3.0], [2.0, 6.0]]]), eps=0)
    array([[[-1.,  1.],
            [-1.,  1.]]])
    """
    return _norm.forward(
        x, layouts.instance, channel_axis, weight, bias, eps, True, True, None, out, return_stats
    )


def instance_norm_backward(dy, x, stats, weight=None, *, channel_axis=1):
    """Gradients of `instance_norm`: ``(dx, dweight, dbias)``, the last two None without weight.

    Parameters are those of `batch_norm_backward`.

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> x = np.array([[[1.0, 3.0], [2.0, 6.0]]])
    >>> y, stats = fastnorm.instance_norm(x, return_stats=True)
    >>> fastnorm.instance_norm_backward(np.ones_like(x), x, stats, np.ones(2)).dbias
    array([2., 2.])
    """
    return _norm.backward(dy, x, stats, layouts.instance, channel_axis, weight, None, True, True, None)


def group_norm(
    x, num_groups, weight=None, bias=None, *, channel_axis=1, eps=1e-5, out=None, return_stats=False
):
    """Group normalization: mean and variance of each sample's groups of C / G channels (Wu & He 2018, eq. 7).

    Parameters
    ----------
    x : array_like, 2 or more dimensions
        N first, C at `channel_axis`.
    num_groups : int
        G, a divisor of C.
    weight, bias : array_like, shape (C,), optional
    channel_axis : int
        Any axis but 0.
    eps, out, return_stats
        As for `layer_norm`; the statistics have shape (N, G).

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> fastnorm.group_norm(np.array([[1.0, 3.0, 2.0, 6.0]]), 2, eps=0)
    array([[-1.,  1., -1.,  1.]])
    """
    return _norm.forward(
        x, layouts.group, channel_axis, weight, bias, eps, True, True, None, out, return_stats, num_groups
    )


def group_norm_backward(dy, x, stats, num_groups, weight=None, *, channel_axis=1):
    """Gradients of `group_norm`: ``(dx, dweight, dbias)``, the last two None without weight.

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> x = np.array([[1.0, 3.0, 2.0, 6.0]])
    >>> y, stats = fastnorm.group_norm(x, 2, return_stats=True)
    >>> fastnorm.group_norm_backward(np.ones_like(x), x, stats, 2, np.ones(4)).dbias
    array([1., 1., 1., 1.])
    """
    return _norm.backward(
        dy, x, stats, layouts.group, channel_axis, weight, None, True, True, None, False, num_groups
    )


# ---- weight norm ------------------------------------------------------------------------------------------


def weight_norm(v, g, *, axis=0):
    """Weight normalization: ``w = g * v / ||v||``, a norm per index of `axis` (Salimans & Kingma 2016, (2)).

    Parameters
    ----------
    v : array_like
    g : array_like
        Shape ``[v.shape[a] for a in axis]``.
    axis : int or tuple of int

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> fastnorm.weight_norm(np.array([[3.0, 4.0]]), np.array([10.0]))
    array([[6., 8.]])
    """
    return _norm.weight_forward(v, g, layouts.weight, axis)


def weight_norm_backward(dw, v, g, *, axis=0):
    """Gradients of `weight_norm`: ``(dv, dg)`` (Salimans & Kingma 2016, eq. 3).

    Parameters
    ----------
    dw : array_like
        v's shape and dtype.
    v, g, axis
        As given to `weight_norm`.

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> dw, v, g = np.array([[1.0, 0.0]]), np.array([[3.0, 4.0]]), np.array([10.0])
    >>> dv, dg = fastnorm.weight_norm_backward(dw, v, g)
    >>> dg
    array([0.6])
    """
    return _norm.weight_backward(dw, v, g, layouts.weight, axis)
