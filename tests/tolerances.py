"""The one table of tolerances, and the comparisons that use it.

Every number is a multiple of the rounding step (eps) of a dtype, times the size of what was rounded. A result
in 16-bit storage is held to that storage's eps: it was computed in float32, and only the store rounds.
Statistics and parameter gradients of 16-bit inputs are float32, and are held to what float32 can do.
"""

from typing import NamedTuple

import numpy as np

from fastnorm import reference

try:
    import ml_dtypes

    BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
except ImportError:
    BFLOAT16 = None

FLOAT16, FLOAT32, FLOAT64 = (np.dtype(t) for t in (np.float16, np.float32, np.float64))
DTYPES = [FLOAT32, FLOAT64, FLOAT16] + [BFLOAT16] * (BFLOAT16 is not None)


class Tolerance(NamedTuple):
    eps: float  # the distance from 1 to the next number
    tiny: float  # the smallest positive number: below it nothing can be told
    largest: float  # what is larger rounds to infinity
    y: float  # times the largest value of the slice
    dx: float  # times the largest gradient of the slice
    mean: float  # times the largest |x| of the slice
    var: float  # times the variance
    rstd: float  # times rstd
    total: float  # of a parameter gradient, times the sum of its absolute terms


TOLERANCES = {
    "float64": Tolerance(
        2.0**-52, 2.0**-1074, np.finfo(FLOAT64).max, y=16, dx=64, mean=4, var=16, rstd=16, total=64
    ),
    "float32": Tolerance(
        2.0**-23, 2.0**-149, 2.0**128 - 2.0**104, y=16, dx=64, mean=4, var=16, rstd=16, total=64
    ),
    "float16": Tolerance(2.0**-10, 2.0**-24, 65504.0, y=1, dx=1, mean=4, var=16, rstd=16, total=64),
    "bfloat16": Tolerance(
        2.0**-7, 2.0**-133, 2.0**128 - 2.0**120, y=1, dx=1, mean=4, var=16, rstd=16, total=64
    ),
}


def stats_dtype(dtype):
    """The dtype of statistics and parameter gradients for an input of `dtype`."""
    return FLOAT64 if dtype == FLOAT64 else FLOAT32


def assert_close(actual, expected, what, scale=None):
    """|actual - expected| <= multiple * eps * scale: `what` is a column of the table, eps that of actual.

    `scale` is the largest |expected| unless given. NaN and infinity must be the same on both sides; what is
    too large for the dtype counts as its largest number, as rounding decides on which side a result falls.
    """
    actual, expected = np.asarray(actual), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{what} has shape {actual.shape}, expected {expected.shape}"
    table = TOLERANCES[actual.dtype.name]
    actual = actual.astype(np.float64)
    finite = np.isfinite(expected)
    expected = np.where(finite, np.clip(expected, -table.largest, table.largest), expected)
    actual = np.where(finite & np.isinf(actual), np.copysign(table.largest, actual), actual)
    np.testing.assert_array_equal(actual[~finite], expected[~finite], f"{what}, where it is not finite")
    if not finite.any():
        return
    if scale is None:
        scale = np.abs(expected[finite]).max()
    bound = np.broadcast_to(getattr(table, what) * table.eps * np.asarray(scale, np.float64), actual.shape)
    error = np.abs(actual[finite] - expected[finite])
    bound = bound[finite] + table.tiny
    worst = np.nanargmax(np.where(np.isnan(error), np.inf, error / bound))
    assert error[worst] <= bound[worst], (
        f"{what} at {tuple(np.argwhere(finite)[worst])} of {actual.shape}: {actual[finite][worst]!r}, "
        f"expected {expected[finite][worst]!r}: {error[worst] / bound[worst] * getattr(table, what):.3g} eps "
        f"of its scale, {getattr(table, what)} allowed"
    )


def largest(a, axis, where=True):
    """The largest finite |a| of every slice; the axes stay with size 1."""
    a = np.abs(np.asarray(a, np.float64))
    return np.where(np.isfinite(a) & where, a, 0).max(axis=axis, keepdims=True, initial=0)


def y_scale(x, axis, weight=None, bias=None, **options):
    """The largest |xhat * weight| + |bias| of every slice: what rounds, even where the two cancel."""
    terms = np.abs(reference.normalize(x, axis, **options))
    terms = terms if weight is None else terms * np.abs(np.asarray(weight, np.float64))
    terms = terms if bias is None else terms + np.abs(np.asarray(bias, np.float64))
    return largest(terms, axis)


@np.errstate(all="ignore")
def dx_scale(dy, x, stats, axis, weight=None, where=None):
    """The largest sum of the absolute terms of dx in every slice: what rounds, even where they cancel."""
    where = np.broadcast_to(True if where is None else where, np.shape(x))
    terms = g = np.abs(np.asarray(dy, np.float64) * (1 if weight is None else np.asarray(weight, np.float64)))
    if stats.mean is not None:
        terms = terms + np.mean(g, axis=axis, keepdims=True, where=where)
    if stats.rstd is not None:
        xhat = np.abs((np.asarray(x, np.float64) - (0 if stats.mean is None else stats.mean)) * stats.rstd)
        terms = terms + xhat * np.mean(g * xhat, axis=axis, keepdims=True, where=where)
    terms = np.where(where, terms, g)  # outside the mask nothing is taken away
    return largest(terms if stats.rstd is None else terms * stats.rstd, axis)


def centred(x, stats, axis, where=None):
    """x - mean and the statistics that belong to it, for the oracle's backward.

    A mean far from zero is rounded when it is stored, in float64 too. The kernels put that right, the oracle
    takes statistics as they are given; around a mean of 0 there is nothing to put right.
    """
    if stats.mean is None:
        return x, stats
    x = reference.normalize(x, axis, with_std=False, where=where)
    return x, reference.Stats(np.zeros_like(stats.mean), stats.rstd)


def parameter_scales(dy, x, stats, axis, weight, bias, where=None):
    """The sums of absolute terms of dweight and dbias, None where there is no gradient.

    An xhat near 0 is right to eps of the largest of its slice, not of itself: that one stands for all.
    """
    xhat = np.asarray(x, np.float64) - (0 if stats.mean is None else stats.mean)
    xhat = largest(xhat * (1 if stats.rstd is None else stats.rstd), axis, True if where is None else where)
    options = {"with_mean": False, "with_std": False, "where": where}
    xhat, none = np.broadcast_to(xhat, np.shape(x)), reference.Stats(None, None)
    grads = reference.normalize_backward(np.abs(dy), xhat, none, axis, weight, bias, **options)
    return grads.dweight, grads.dbias


def assert_moments_close(actual, expected, x, axis, where=True):
    """The mean and the variance of x over `axis`; `expected` keeps its dimensions or not."""
    assert_close(actual.mean, expected.mean, "mean", largest(x, axis, where).reshape(np.shape(expected.mean)))
    assert_close(actual.var, expected.var, "var", np.abs(expected.var))


def assert_stats_close(actual, expected, x, axis, where=True):
    """Statistics with the normalized axes at size 1."""
    assert type(actual).__name__ == "Stats"
    for name in ("mean", "rstd"):
        assert (getattr(actual, name) is None) == (getattr(expected, name) is None), name
    if expected.mean is not None:
        assert_close(actual.mean, expected.mean, "mean", largest(x, axis, where))
    if expected.rstd is not None:
        assert_close(actual.rstd, expected.rstd, "rstd", np.abs(expected.rstd))
