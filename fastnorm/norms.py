"""The layouts: each function checks what only it knows, names its axes (`layouts.py`), and makes one call.

Shapes: N batch, C channels, G groups, S spatial axes. x is float32, float64, float16 or bfloat16 of any
strides; integers and booleans are taken as float64. weight and bias are any real numbers. Statistics and
parameter gradients are float32 for 16- and 32-bit x, else float64. Everything that cannot be used raises
TypeError or ValueError, in one sentence, before anything is written. `out` is x itself or memory of its own,
of x's shape and dtype.
"""

import numpy as np

from . import _checks as checks
from . import _norm, layouts
from ._norm import as_input
from ._threads import get_num_threads

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


def _forward(x, layout, weight, bias, eps, out, return_stats, with_mean=True):
    if type(eps) is not float or not eps >= 0:
        eps = checks.to_eps(eps)
    return _norm.forward(
        x, layout, weight, bias, eps, with_mean, True, None, out, return_stats, threads=get_num_threads()
    )


def _backward(dy, x, stats, layout, weight, with_mean=True):
    return _norm.backward(
        dy, x, stats, layout, weight, None, True, with_mean, True, None, threads=get_num_threads()
    )


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
    x = as_input(x)
    return _forward(x, layouts.layer(x.ndim, axis), weight, bias, eps, out, return_stats)


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
    x = as_input(x)
    return _backward(checks.to_gradient(dy, x), x, stats, layouts.layer(x.ndim, axis), weight)


def rms_norm(x, weight=None, *, axis=-1, eps=1e-6, out=None, return_stats=False):
    """RMS normalization: ``y = x / sqrt(mean(x**2) + eps) * weight`` (Zhang & Sennrich 2019, eq. 4).

    Parameters and results are those of `layer_norm`; `stats.mean` is None.

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> fastnorm.rms_norm(np.array([3.0, 3.0, 3.0]), eps=0)
    array([1., 1., 1.])
    """
    x = as_input(x)
    return _forward(x, layouts.layer(x.ndim, axis), weight, None, eps, out, return_stats, with_mean=False)


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
    x = as_input(x)
    return _backward(
        checks.to_gradient(dy, x), x, stats, layouts.layer(x.ndim, axis), weight, with_mean=False
    )


# ---- batch norm -------------------------------------------------------------------------------------------


def _check_running(running, x, layout, out, where, momentum):
    """The running statistics as (array or None, ..., momentum), ready to be updated."""
    momentum = checks.to_real(momentum, "momentum")
    channels = x.shape[layout.params[0]]
    for name, a in running.items():
        if a is not None:
            checks.to_running_update(a, name, x, channels)
            if isinstance(out, np.ndarray) and checks.overlap(a, out):
                raise ValueError(f"out overlaps {name}, needs memory of its own")
    mean, var = running.get("running_mean"), running.get("running_var")
    if mean is not None and var is not None and checks.overlap(mean, var):
        raise ValueError("running_var overlaps running_mean, needs memory of its own")
    if var is not None and channels:
        if where is None:
            least = x.size // channels
        else:
            axes = tuple(a for a in range(x.ndim) if a != layout.params[0])
            least = checks.to_mask(where, x.shape).sum(axis=axes).min()
        if least == 1:
            raise ValueError(
                f"x has shape {x.shape}, one value for a channel, of which running_var has no variance; "
                "needs two or more"
            )
    return mean, var, momentum


def _frozen(running, x, layout, eps):
    """Running statistics as constant (mean, rstd) of the compute dtype."""
    channels = x.shape[layout.params[0]]
    for name, a in running.items():
        if a is None:
            raise ValueError(f"{name} is None, needs an array with training=False")
        checks.to_running(a, name, x, channels)
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    mean = running["running_mean"].astype(dtype)
    if "running_var" not in running:
        return mean, None
    with np.errstate(all="ignore"):
        return mean, (1 / np.sqrt(running["running_var"].astype(np.float64) + eps)).astype(dtype)


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
    x = as_input(x)
    layout = layouts.batch(x.ndim, channel_axis)
    eps = checks.to_eps(eps)
    running = given = None
    if not training:
        given = _frozen({"running_mean": running_mean, "running_var": running_var}, x, layout, eps)
    elif running_mean is not None or running_var is not None:
        both = {"running_mean": running_mean, "running_var": running_var}
        running = _check_running(both, x, layout, out, where, momentum)
    return _norm.forward(
        x, layout, weight, bias, eps, True, True, where, out, bool(return_stats), running, given,
        get_num_threads()
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
    x = as_input(x)
    dy = checks.to_gradient(dy, x)
    return _norm.backward(
        dy, x, stats, layouts.batch(x.ndim, channel_axis), weight, None, True, True, True, where,
        given=not training, threads=get_num_threads(),
    )  # fmt: skip


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
    x = as_input(x)
    layout = layouts.batch(x.ndim, channel_axis)
    running = given = None
    if not training:
        given = _frozen({"running_mean": running_mean}, x, layout, 0)
    elif running_mean is not None:
        running = _check_running({"running_mean": running_mean}, x, layout, None, None, momentum)
    return _norm.forward(
        x, layout, None, bias, 0.0, True, False, None, None, False, running, given, get_num_threads()
    )


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
    dy = as_input(dy, "dy")
    layout = layouts.batch(dy.ndim, channel_axis)
    if training and dy.shape[layout.params[0]] and not dy.size:
        checks.empty_axis(dy.shape, (a for a in range(dy.ndim) if a != layout.params[0]), "dy")
    shape_of_bias = np.zeros(dy.shape[layout.params[0]], np.float32)
    grads = _norm.backward(
        dy, None, None, layout, None, shape_of_bias, True, True, False, None,
        given=not training, threads=get_num_threads(),
    )  # fmt: skip
    return grads.dx, grads.dbias


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
    x = as_input(x)
    return _forward(x, layouts.instance(x.ndim, channel_axis), weight, bias, eps, out, return_stats)


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
    x = as_input(x)
    return _backward(checks.to_gradient(dy, x), x, stats, layouts.instance(x.ndim, channel_axis), weight)


def _group_layout(x, num_groups, channel_axis):
    groups = checks.to_int(num_groups, "num_groups")
    channels = x.shape[layouts.group(x.ndim, channel_axis, 1).split_axis]
    if groups < 1 or channels % groups or groups > max(channels, 1):
        raise ValueError(f"num_groups is {groups}, needs a positive divisor of the {channels} channels of x")
    return layouts.group(x.ndim, channel_axis, groups)


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
    x = as_input(x)
    return _forward(x, _group_layout(x, num_groups, channel_axis), weight, bias, eps, out, return_stats)


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
    x = as_input(x)
    return _backward(checks.to_gradient(dy, x), x, stats, _group_layout(x, num_groups, channel_axis), weight)


# ---- weight norm ------------------------------------------------------------------------------------------


def _weight_layout(v, g, axis):
    """The layout, and g over the root of the slice's length: a norm is a root mean square times that root."""
    layout = layouts.weight(v.ndim, axis)
    g = checks.to_values(g, "g", np.float64)
    shape = tuple(v.shape[a] for a in layout.params)
    if g.shape != shape:
        raise ValueError(f"g has shape {g.shape}, needs {shape} for v of shape {v.shape}")
    if g.size and not v.size:
        checks.empty_axis(v.shape, (a for a in range(v.ndim) if a not in layout.params), "v")
    root = np.sqrt(v.size / max(g.size, 1))
    return layout, g, root


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
    v = as_input(v, "v")
    layout, g, root = _weight_layout(v, g, axis)
    return _forward(v, layout, g / root if v.size else g, None, 0.0, None, False, with_mean=False)


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
    v = as_input(v, "v")
    dw = checks.to_gradient(dw, v, "dw")
    layout, g, root = _weight_layout(v, g, axis)
    stats = _norm.statistics(v, layout, 0.0, False, threads=get_num_threads())
    grads = _backward(dw, v, stats, layout, g / root if v.size else g, with_mean=False)
    return grads.dx, np.divide(
        grads.dweight, root, dtype=grads.dweight.dtype, where=root > 0, out=grads.dweight
    )
