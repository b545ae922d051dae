"""The oracle: every norm of this package in plain NumPy float64, with the same signatures.

Read it beside the papers; the tests hold the compiled kernels to it. It is slow, copies freely, expects
valid arguments and returns float64 (running statistics are updated in place in their own dtype).

    IS15   Ioffe & Szegedy 2015, Batch Normalization, arXiv:1502.03167
    SK16   Salimans & Kingma 2016, Weight Normalization, arXiv:1602.07868
    BKH16  Ba, Kiros & Hinton 2016, Layer Normalization, arXiv:1607.06450
    UVL16  Ulyanov, Vedaldi & Lempitsky 2016, Instance Normalization, arXiv:1607.08022
    WH18   Wu & He 2018, Group Normalization, arXiv:1803.08494
    ZS19   Zhang & Sennrich 2019, Root Mean Square Layer Normalization, arXiv:1910.07467

Shapes: N batch, C channels, G groups. Everything else follows from the axes.
"""

from math import prod

import numpy as np

from ._types import Grads, Moments, Stats

# Not-a-number and infinity are data here: they flow to the results of their own slice without a warning.
_quiet = np.errstate(all="ignore")


# --- Core: any axes


@_quiet
def moments(x, axis=None, *, correction=0, keepdims=False, where=None):
    """mean = sum(x) / n and var = sum((x - mean)^2) / (n - correction) over `axis`."""
    x, axes, where, n = _slices(x, axis, where)
    mean, d, scale = _centred(x, axes, where, n)
    var = _total(d * d, axes, where) / np.maximum(n - correction, 0) * scale * scale
    if not keepdims:
        mean, var = np.squeeze(mean, axes)[()], np.squeeze(var, axes)[()]
    return Moments(mean, var)


@_quiet
def normalize(x, axis=-1, weight=None, bias=None, *, eps=1e-5, with_mean=True, with_std=True,
              where=None, out=None, return_stats=False):  # fmt: skip
    """y = (x - mean) / sqrt(var + eps) * weight + bias, the statistics over `axis` (IS15, algorithm 1).

    Without `with_mean` the root mean square takes the place of the deviation (ZS19, eq. 4).
    """
    x, axes, where, n = _slices(x, axis, where)
    mean, d, scale = _centred(x, axes, where, n) if with_mean else (None, *_scaled(x, axes, where))
    rstd = None
    if with_std:
        # hypot(std, sqrt(eps)) = sqrt(var + eps), but no square of it leaves the range of float64.
        std = np.sqrt(_total(d * d, axes, where) / n)
        y = d / np.hypot(std, np.sqrt(eps) / scale)
        rstd = 1 / np.hypot(std * scale, np.sqrt(eps))
    else:
        y = d * scale
    y = _affine(y, weight, bias)
    if not np.all(where):  # what is left out may be so far away that only its weight brings it back
        d = np.longdouble(x) - (0 if mean is None else mean)
        far = _affine(d * (1 if rstd is None else rstd), weight, bias)
        y = np.where(np.isfinite(x) & ~np.isfinite(y), far, y).astype(np.float64)
    return _give(y, Stats(mean, rstd), out, return_stats)


@_quiet
def normalize_backward(dy, x, stats, axis=-1, weight=None, bias=None, *, with_mean=True, with_std=True,
                       where=None):  # fmt: skip
    """The chain rule through `normalize` (IS15, section 3, the gradients after algorithm 1).

    With xhat = (x - mean) * rstd and g = dy * weight::

        dx = rstd * (g - mean(g) - xhat * mean(g * xhat)),  dweight = sum(dy * xhat),  dbias = sum(dy)

    mean(g) comes from the mean of x, mean(g * xhat) from its deviation: each is gone when its statistic is.
    An element outside `where` enters no sum, and to it the statistics are constants: dx = rstd * g.
    The statistics are used as given, so pass those of this module's `normalize`.
    """
    x, axes, where, n = _slices(x, axis, where)
    dy = _float64(dy)
    g = dy if weight is None else dy * _float64(weight)
    xhat = x
    if with_mean:
        xhat = xhat - _float64(stats.mean)
    if with_std:
        xhat = xhat * _float64(stats.rstd)

    through_stats = np.zeros_like(x)
    if with_mean:
        through_stats = through_stats + _total(g, axes, where) / n
    if with_std:
        through_stats = through_stats + xhat * (_total(g * xhat, axes, where) / n)
    dx = g - np.where(where, through_stats, 0)
    if with_std:
        dx = dx * _float64(stats.rstd)
    return Grads(dx, *_parameter_grads(dy, xhat, where, weight, bias))


@_quiet
def standardize(x, axis=0, *, ddof=0, eps=0.0, where=None, out=None):
    """z = (x - mean) / sqrt(sum((x - mean)^2) / (n - ddof) + eps): the z-score."""
    x, axes, where, n = _slices(x, axis, where)
    _, d, scale = _centred(x, axes, where, n)
    std = np.sqrt(_total(d * d, axes, where) / np.maximum(n - ddof, 0))
    return _give(d / np.hypot(std, np.sqrt(eps) / scale), None, out)


@_quiet
def l2_normalize(x, axis=-1, *, eps=0.0, out=None):
    """y = x / sqrt(sum(x^2) + eps)."""
    x, axes, where, _ = _slices(x, axis, None)
    x, scale = _scaled(x, axes, where)
    return _give(x / np.hypot(np.sqrt(_total(x * x, axes)), np.sqrt(eps) / scale), None, out)


# --- The layouts: each names its axes, then asks the core


def layer_norm(x, weight=None, bias=None, *, axis=-1, eps=1e-5, out=None, return_stats=False):
    """BKH16, eq. 3 and 4: one mean and deviation for each case, over the features in `axis`."""
    ndim, axes = np.ndim(x), _axes(x, axis)
    weight, bias = _lay(weight, axes, ndim), _lay(bias, axes, ndim)
    return normalize(x, axes, weight, bias, eps=eps, out=out, return_stats=return_stats)


def layer_norm_backward(dy, x, stats, weight=None, *, axis=-1):
    """The gradients of `layer_norm`; dweight and dbias have weight's shape."""
    axes = _axes(x, axis)
    grads = normalize_backward(dy, x, stats, axes, _lay(weight, axes, np.ndim(x)))
    return _gathered(grads, axes)


def rms_norm(x, weight=None, *, axis=-1, eps=1e-6, out=None, return_stats=False):
    """ZS19, eq. 4: x / RMS(x) * weight, RMS(x) = sqrt(sum(x^2) / n + eps)."""
    axes = _axes(x, axis)
    weight = _lay(weight, axes, np.ndim(x))
    return normalize(x, axes, weight, eps=eps, with_mean=False, out=out, return_stats=return_stats)


def rms_norm_backward(dy, x, stats, weight=None, *, axis=-1):
    """The gradients of `rms_norm`."""
    axes = _axes(x, axis)
    grads = normalize_backward(dy, x, stats, axes, _lay(weight, axes, np.ndim(x)), with_mean=False)
    return _gathered(grads, axes)


@_quiet
def batch_norm(x, weight=None, bias=None, *, running_mean=None, running_var=None, training=True,
               momentum=0.1, eps=1e-5, channel_axis=1, where=None, out=None, return_stats=False):  # fmt: skip
    """IS15, algorithm 1 while training, algorithm 2 (steps 8 to 11) with running statistics."""
    axes, channel, ndim = _but(x, channel_axis), _axes(x, channel_axis), np.ndim(x)
    weight, bias = _lay(weight, channel, ndim), _lay(bias, channel, ndim)
    if not training:
        mean, rstd = _float64(running_mean), 1 / np.sqrt(_float64(running_var) + eps)
        y = (_float64(x) - _lay(mean, channel, ndim)) * _lay(rstd, channel, ndim)
        y = y if weight is None else y * weight
        y = y if bias is None else y + bias
        return _give(y, Stats(mean, rstd), out, return_stats)

    y, stats = normalize(x, axes, weight, bias, eps=eps, where=where, return_stats=True)
    if running_mean is not None or running_var is not None:
        _, _, _, n = _slices(x, axes, where)
        if (n < 2).any():
            raise ValueError("running statistics need 2 or more values in every channel, x has 1")
        # The unbiased variance m / (m - 1) * var, IS15 section 3.1 and step 10 of algorithm 2.
        batch = moments(x, axes, correction=1, where=where)
        _move(running_mean, batch.mean, momentum)
        _move(running_var, batch.var, momentum)
    return _give(y, Stats(*(_gather(s, channel) for s in stats)), out, return_stats)


@_quiet
def batch_norm_backward(dy, x, stats, weight=None, *, channel_axis=1, training=True, where=None):
    """IS15, section 3; with running statistics the mean and the deviation are constants."""
    axes, channel, ndim = _but(x, channel_axis), _axes(x, channel_axis), np.ndim(x)
    weight = _lay(weight, channel, ndim)
    stats = Stats(*(_lay(s, channel, ndim) for s in stats))
    if training:
        return _gathered(normalize_backward(dy, x, stats, axes, weight, where=where), channel)

    x, dy = _float64(x), _float64(dy)
    where = np.broadcast_to(True if where is None else where, x.shape)
    dx = dy * stats.rstd if weight is None else dy * weight * stats.rstd
    xhat = (x - stats.mean) * stats.rstd
    return _gathered(Grads(dx, *_parameter_grads(dy, xhat, where, weight, None)), channel)


def instance_norm(x, weight=None, bias=None, *, channel_axis=1, eps=1e-5, out=None, return_stats=False):
    """UVL16, eq. 3: every channel of every image by itself, over its pixels."""
    axes, channel, ndim = _but(x, (0, channel_axis)), _axes(x, channel_axis), np.ndim(x)
    weight, bias = _lay(weight, channel, ndim), _lay(bias, channel, ndim)
    y, stats = normalize(x, axes, weight, bias, eps=eps, return_stats=True)
    return _give(y, Stats(*(np.squeeze(s, axes) for s in stats)), out, return_stats)


def instance_norm_backward(dy, x, stats, weight=None, *, channel_axis=1):
    """The gradients of `instance_norm`."""
    axes, channel, ndim = _but(x, (0, channel_axis)), _axes(x, channel_axis), np.ndim(x)
    stats = Stats(*(_lay(s, (0, *channel), ndim) for s in stats))
    return _gathered(normalize_backward(dy, x, stats, axes, _lay(weight, channel, ndim)), channel)


def group_norm(x, num_groups, weight=None, bias=None, *, channel_axis=1, eps=1e-5, out=None,
               return_stats=False):  # fmt: skip
    """WH18, eq. 1 and 7: the channels of a case in G groups, one mean and deviation for each group."""
    shape, group = _grouped(x, num_groups, channel_axis)
    axes, ndim = _but(np.empty(shape), (0, group)), len(shape)
    channels = (group, group + 1)
    weight, bias = (_lay(_split(p, shape, channels), channels, ndim) for p in (weight, bias))
    y, stats = normalize(np.reshape(x, shape), axes, weight, bias, eps=eps, return_stats=True)
    return _give(y.reshape(np.shape(x)), Stats(*(np.squeeze(s, axes) for s in stats)), out, return_stats)


def group_norm_backward(dy, x, stats, num_groups, weight=None, *, channel_axis=1):
    """The gradients of `group_norm`."""
    shape, group = _grouped(x, num_groups, channel_axis)
    axes, ndim = _but(np.empty(shape), (0, group)), len(shape)
    channels = (group, group + 1)
    stats = Stats(*(_lay(s, (0, group), ndim) for s in stats))
    weight = _lay(_split(weight, shape, channels), channels, ndim)
    dx, dweight, dbias = normalize_backward(np.reshape(dy, shape), np.reshape(x, shape), stats, axes, weight)
    if weight is not None:
        dweight, dbias = dweight.ravel(), dbias.ravel()
    return Grads(dx.reshape(np.shape(x)), dweight, dbias)


@_quiet
def weight_norm(v, g, *, axis=0):
    """SK16, eq. 2: w = g / ||v|| * v, one norm for each index of `axis`."""
    axes, ndim = _axes(v, axis), np.ndim(v)
    return l2_normalize(v, _but(v, axis)) * _lay(_float64(g), axes, ndim)


@_quiet
def weight_norm_backward(dw, v, g, *, axis=0):
    """SK16, eq. 3: dg = dw . v / ||v|| and dv = g / ||v|| * dw - g * dg / ||v||^2 * v."""
    axes, others, ndim = _axes(v, axis), _but(v, axis), np.ndim(v)
    dw, v, g = _float64(dw), _float64(v), _lay(_float64(g), axes, ndim)
    unit = l2_normalize(v, others)
    scaled, scale = _scaled(v, others, np.broadcast_to(True, v.shape))
    norm = np.sqrt(_total(scaled * scaled, others)) * scale
    dg = _total(dw * unit, others)
    return g / norm * (dw - dg * unit), _gather(dg, axes)


def mean_only_batch_norm(x, bias=None, *, running_mean=None, training=True, momentum=0.1, channel_axis=1):
    """SK16, section 4: t - mean(t) + bias, with the running mean when not training."""
    axes, channel, ndim = _but(x, channel_axis), _axes(x, channel_axis), np.ndim(x)
    if training:
        y = normalize(x, axes, with_std=False)
        if running_mean is not None:
            _move(running_mean, moments(x, axes).mean, momentum)
    else:
        y = _float64(x) - _lay(_float64(running_mean), channel, ndim)
    return y if bias is None else y + _lay(_float64(bias), channel, ndim)


def mean_only_batch_norm_backward(dy, *, channel_axis=1, training=True):
    """SK16, section 4: dx = dy - mean(dy); with a running mean dx = dy. dbias = sum(dy)."""
    dy, axes = _float64(dy), _but(dy, channel_axis)
    dx = normalize(dy, axes, with_std=False) if training else dy.copy()
    return dx, _gather(_total(dy, axes), _axes(dy, channel_axis))


# --- Arrays


def _float64(a):
    """`a` in float64; bfloat16 and float16 hold nothing that float64 does not."""
    a = np.asarray(a)
    if a.dtype.kind in "cOSUmM":
        raise TypeError(f"x has dtype {a.dtype}, a real dtype is needed")
    return a.astype(np.float64)


def _give(y, stats, out, return_stats=False):
    if out is not None:
        out[...] = y
        y = out
    return (y, stats) if return_stats else y


def _move(running, batch, momentum):
    """running <- (1 - momentum) * running + momentum * batch, in place."""
    if running is not None:
        running[...] = (1 - momentum) * _float64(running) + momentum * batch


# --- Axes


def _axes(x, axis):
    """`axis` as a tuple of numbers from 0, None for all of them."""
    ndim = np.ndim(x)
    axis = range(ndim) if axis is None else axis
    return np.lib.array_utils.normalize_axis_tuple(axis, ndim)


def _but(x, axis):
    """The other axes."""
    return tuple(a for a in range(np.ndim(x)) if a not in _axes(x, axis))


def _lay(p, axes, ndim):
    """Lay the axes of `p` along `axes` of an array with `ndim` dimensions, so that it broadcasts."""
    if p is None:
        return None
    p = np.asarray(p)
    return np.moveaxis(p.reshape(p.shape + (1,) * (ndim - p.ndim)), range(p.ndim), axes)


def _gather(a, axes):
    """The inverse of `_lay`: take `axes` out of `a`, in this order; the others have size 1."""
    a = np.moveaxis(a, axes, range(len(axes)))
    return a.reshape(a.shape[: len(axes)])


def _gathered(grads, axes):
    if grads.dweight is None:
        return grads
    return Grads(grads.dx, _gather(grads.dweight, axes), _gather(grads.dbias, axes))


def _grouped(x, num_groups, channel_axis):
    """The shape (N, ..., G, C / G, ...) and where its G is."""
    shape, (channel,) = np.shape(x), _axes(x, channel_axis)
    if num_groups < 1 or shape[channel] % num_groups:
        raise ValueError(f"num_groups is {num_groups}, it must divide {shape[channel]} channels")
    return (*shape[:channel], num_groups, shape[channel] // num_groups, *shape[channel + 1 :]), channel


def _split(p, shape, axes):
    return None if p is None else np.reshape(p, [shape[a] for a in axes])


# --- Sums and statistics. Below, `where` is a full mask and `n` counts its elements in every slice


def _slices(x, axis, where):
    """x in float64, its axes, the mask in x's shape, and the number of elements of every slice."""
    x = _float64(x)
    axes = tuple(sorted(_axes(x, axis)))
    where = np.broadcast_to(True if where is None else np.asarray(where), x.shape)
    if prod(x.shape[a] for a in axes) == 0:
        raise ValueError(f"x has shape {x.shape}, no element along axis {axes}")
    n = _total(where.astype(np.float64), axes)
    if not n.all():
        raise ValueError(f"where leaves no element in slice {tuple(int(i) for i in np.argwhere(n == 0)[0])}")
    return x, axes, where, n


def _total(a, axes, where=True):
    """Sum over `axes`, which stay with size 1. They are laid last and together: NumPy then sums in pairs."""
    a = np.where(where, a, 0)
    kept = [i for i in range(a.ndim) if i not in axes]
    rows = np.ascontiguousarray(np.transpose(a, (*kept, *axes)))
    rows = rows.reshape(prod(a.shape[i] for i in kept), prod(a.shape[i] for i in axes))
    return rows.sum(axis=1).reshape([1 if i in axes else a.shape[i] for i in range(a.ndim)])


def _scaled(x, axes, where):
    """x / scale and scale, a power of two near the largest of every slice: its squares stay in range."""
    largest = np.max(np.abs(x), axis=axes, keepdims=True, where=where, initial=0)
    _, exponent = np.frexp(largest)
    scale = np.ldexp(1.0, np.clip(exponent, -1000, 1000))
    return x / scale, scale


def _centred(x, axes, where, n):
    """The mean, (x - mean) / scale and scale.

    Taking the smallest element away first is exact for near neighbours, so a mean far from zero costs
    nothing and a constant slice is exactly 0; taking the mean of the rest away again removes its rounding.
    """
    x, scale = _scaled(x, axes, where)
    low = np.min(x, axis=axes, keepdims=True, where=where, initial=np.inf)
    low = np.where(np.isfinite(low), low, 0)
    d = x - low
    first = _total(d, axes, where) / n
    d = d - first
    rest = _total(d, axes, where) / n
    mean = low + first
    mean = mean + np.where(np.isfinite(rest), rest, 0)
    return mean * scale, d - rest, scale


def _affine(y, weight, bias):
    y = y if weight is None else y * _float64(weight)
    return y if bias is None else y + _float64(bias)


def _parameter_grads(dy, xhat, where, weight, bias):
    """dweight and dbias: sums over everything that their shapes broadcast over."""
    shape = bias if bias is not None else weight
    dbias = None if shape is None else _sum_to(dy, np.shape(shape), where)
    dweight = None if weight is None else _sum_to(dy * xhat, np.shape(weight), where)
    return dweight, dbias


def _sum_to(a, shape, where):
    """The transpose of broadcasting from `shape`."""
    full = (1,) * (a.ndim - len(shape)) + tuple(shape)
    return _total(a, tuple(i for i in range(a.ndim) if full[i] == 1), where).reshape(shape)
