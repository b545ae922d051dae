"""Ill-conditioned data: a mean far from zero, long slices, and numbers at the ends of a dtype."""

import numpy as np
import pytest
from layouts import LAYOUTS
from strategies import values
from tolerances import (
    DTYPES,
    FLOAT32,
    FLOAT64,
    TOLERANCES,
    assert_close,
    assert_moments_close,
    largest,
    stats_dtype,
)

import fastnorm
from fastnorm import reference

# Slices of 33 elements and more: long enough that no slice is degenerate.
PRECISE = [
    layout.of_shape(shape)
    for layout, shape in zip(
        LAYOUTS,
        [(9, 768), (3, 5, 64), (4, 5, 7, 13), (5, 16, 17), (65, 4, 3), (17, 4, 9), (9, 768), (65, 4, 3),
         (257, 10), (8, 6, 33), (8, 3, 14, 14), (8, 7, 7, 18), (8, 7, 5, 7), (3, 5, 129), (3, 4, 9, 11),
         (3, 9, 11, 4), (9, 240), (3, 8, 7, 5), (9, 12, 2, 3), (3, 7, 5, 16)],
        strict=True,
    )
]  # fmt: skip
CENTRED = [layout for layout in PRECISE if layout.function != "rms_norm"]

LONG = [
    (LAYOUTS[0], (3, 100_000)),
    (LAYOUTS[4], (100_000, 3, 1)),
    (LAYOUTS[5], (400, 2, 250)),
    (LAYOUTS[6], (3, 100_000)),
    (LAYOUTS[8], (100_000, 3)),
    (LAYOUTS[10], (40, 2, 50, 50)),
    (LAYOUTS[11], (40, 50, 50, 2)),
    (LAYOUTS[14], (1, 2, 250, 400)),
    (LAYOUTS[15], (1, 250, 400, 2)),
    (LAYOUTS[17], (1, 4, 250, 200)),
    (LAYOUTS[19], (1, 250, 200, 8)),
]


def check(layout, x, rng, dtype, eps=1e-5, backward=True):
    """Forward and backward with parameters, held to the largest value and gradient of each slice."""
    weight = values(rng, layout.param_shape(), dtype, 1, 0.25)
    bias = values(rng, layout.param_shape(), dtype, 0, 0.25) if layout.has_bias else None
    y, stats = layout.forward(fastnorm, x, weight, bias, eps=eps, return_stats=True)
    expected, exact = layout.forward(reference, x, weight, bias, eps=eps, return_stats=True)
    assert_close(y, expected, "y", layout.largest(expected))
    assert_close(stats.rstd, exact.rstd, "rstd", exact.rstd)
    if exact.mean is not None:
        assert_close(stats.mean, exact.mean, "mean", layout.per_slice(x))
    if not backward:
        return
    dy = values(rng, layout.shape, dtype)
    grads = layout.backward(fastnorm, dy, x, stats, weight)
    right = layout.backward(reference, dy, x, exact, weight)
    assert_close(grads[0], right[0], "dx", layout.largest(right[0]))
    size = np.abs(dy.astype(np.float64)).sum(tuple(a for a in range(x.ndim) if a not in layout.params)).max()
    assert_close(grads[1], right[1], "total", size)
    if layout.has_bias:
        assert_close(grads[2], right[2], "total", size)


@pytest.mark.parametrize("layout", PRECISE, ids=str)
@pytest.mark.parametrize("mean", [0, 1, 1e2, 1e4, 1e5, 1e6, -1e6])
def test_means_far_from_zero(layout, mean, rng):
    for deviation in (1.0, 1e-3, 1e4):
        check(layout, values(rng, layout.shape, FLOAT32, mean * deviation, deviation), rng, FLOAT32)


@pytest.mark.parametrize(("layout", "shape"), LONG, ids=lambda v: str(v))
@pytest.mark.parametrize("mean", [0, 1e4, 1e6])
def test_long_slices(layout, shape, mean, rng):
    layout = layout.of_shape(shape)
    check(layout, values(rng, shape, FLOAT32, mean), rng, FLOAT32)


@pytest.mark.parametrize("n", [3, 31, 32, 33, 127, 1024, 4096, 4097, 20_011])
@pytest.mark.parametrize("mean", [0, 1e6])
def test_lengths_around_lanes_and_blocks(n, mean, rng):
    for axis, shape in [(1, (3, n)), (0, (n, 3)), (0, (n, 35))]:
        x = values(rng, shape, FLOAT32, mean)
        expected = reference.normalize(x, axis)
        assert_close(fastnorm.normalize(x, axis), expected, "y", largest(expected, axis))


@pytest.mark.parametrize("n", [100, 128, 256, 1024, 3900, 4096, 20_000])
@pytest.mark.parametrize("axis", [0, 1, (0, 2)], ids=str)
def test_equal_terms_do_not_add_up_their_rounding(n, axis, rng):
    # Data of two values, as masks and one-hot codes are: every square is the same, their sum rounds in the
    # same direction at each step, where the roundings of random data cancel.
    sign = np.where(np.arange(n) % 2, 1.0, -1.0)
    size = rng.uniform(1, 2, 300)
    if axis == 0:
        x = sign[:, None] * size
    elif axis == 1:
        x = size[:, None] * sign
    else:
        x = sign[: n // 50 * 50].reshape(-1, 1, 50) * size[:30, None]
    x = x.astype(np.float32)
    expected, exact = reference.normalize(x, axis, return_stats=True)
    y, stats = fastnorm.normalize(x, axis, return_stats=True)
    assert_close(y, expected, "y", largest(expected, axis))
    assert_close(fastnorm.moments(x, axis, keepdims=True).var, 1 / exact.rstd**2 - 1e-5, "var")
    dy = rng.choice(np.array([0.3, -0.1], np.float32), x.shape)
    right = reference.normalize_backward(dy, x, exact, axis).dx
    assert_close(fastnorm.normalize_backward(dy, x, stats, axis).dx, right, "dx", largest(right, axis))


@pytest.mark.parametrize("run", [2, 3, 4, 5, 7, 8, 9, 17])
@pytest.mark.parametrize("n", [257, 1000, 10_000])
def test_equal_terms_in_many_short_runs(run, n, rng):
    # A long axis and a short one that do not merge: batch norm of short sequences, and cuts of larger arrays.
    whole = (1.3 * rng.choice([-1.0, 1.0], (n, 3, run + 2))).astype(np.float32)
    repeated = np.broadcast_to(whole[:, :1, 0, None], (n, 3, run))
    for x in (whole[:, :, :run].copy(), whole[:, :, :run], repeated):
        expected, exact = reference.normalize(x, (0, 2), return_stats=True)
        y, stats = fastnorm.normalize(x, (0, 2), return_stats=True)
        assert_close(y, expected, "y", largest(expected, (0, 2)))
        assert_close(stats.rstd, exact.rstd, "rstd", exact.rstd)
        dy = rng.choice(np.array([0.3, -0.1], np.float32), x.shape)
        right = reference.normalize_backward(dy, x, exact, (0, 2), np.ones((3, 1)))
        grads = fastnorm.normalize_backward(dy, x, stats, (0, 2), np.ones((3, 1)))
        assert_close(grads.dx, right.dx, "dx", largest(right.dx, (0, 2)))
        assert_close(grads.dbias, right.dbias, "total", np.abs(dy.astype(np.float64)).sum((0, 2))[:, None])
        assert_close(
            grads.dweight, right.dweight, "total", np.abs(dy.astype(np.float64)).sum((0, 2))[:, None]
        )


@pytest.mark.parametrize("columns", [1, 3, 10, 31])
@pytest.mark.parametrize("weights", ["of rows", "of columns", "of elements"])
def test_equal_terms_of_few_columns(columns, weights, rng):
    # rows that share a weight are summed several at a time; where they do not, blocks must be short
    x = rng.standard_normal((5000, columns), np.float32)
    shape = {"of rows": (5000, 1), "of columns": (1, columns), "of elements": x.shape}[weights]
    weight, dy = np.ones(shape, np.float32), np.full(x.shape, 1.1, np.float32)
    stats, exact = (f.normalize(x, 0, return_stats=True)[1] for f in (fastnorm, reference))
    right = reference.normalize_backward(dy, x, exact, 0, weight).dx
    actual = fastnorm.normalize_backward(dy, x, stats, 0, weight).dx
    assert_close(actual, right, "dx", np.float64(1.1) * exact.rstd)


@pytest.mark.parametrize(("n", "axis"), [(1541, (0, 1, 3)), (20_000, (1, 3)), (3001, (0, 1))], ids=str)
def test_equal_rows_again_and_again(n, axis, rng):
    # Equal moments merged again and again: in float64 too, their additions round to the same side. So do the
    # oracle's where it gets all the rows.
    once = rng.normal(size=(2, 1, 64, 2))
    x = np.broadcast_to(once, (2, n, 64, 2))
    expected, exact = reference.normalize(once, axis, return_stats=True)
    y, stats = fastnorm.normalize(x, axis, return_stats=True)
    assert_close(y[:, :1], expected, "y", largest(expected, axis))
    assert_close(stats.rstd, exact.rstd, "rstd", exact.rstd / 4)


@pytest.mark.parametrize("layout", CENTRED, ids=str)
def test_each_slice_has_its_own_mean(layout, rng):
    # Neighbouring rows and columns with quite different means and deviations: nothing is shared between them.
    sliced = layout.sliced_shape()
    small = [1 if i in layout.reduced else n for i, n in enumerate(sliced)]
    means, deviations = 10 ** rng.uniform(-3, 6, small), 10 ** rng.uniform(-3, 3, small)
    x = (deviations * (means + rng.standard_normal(sliced))).astype(np.float32).reshape(layout.shape)
    check(layout, x, rng, FLOAT32, eps=1e-12)


@pytest.mark.parametrize("layout", CENTRED, ids=str)
@pytest.mark.parametrize("mean", [0, 1e3, 1e6, 1e9])
def test_float64_means_far_from_zero(layout, mean, rng):
    # On a grid of 2^-20 the shifted numbers are exact, so that the unshifted ones give the right answer.
    near = np.round(rng.standard_normal(layout.shape) * 2**20) / 2**20
    far = near + mean
    expected, exact = layout.forward(reference, near, return_stats=True)
    y, stats = layout.forward(fastnorm, far, return_stats=True)
    assert_close(y, expected, "y", layout.largest(expected))
    dy = rng.standard_normal(layout.shape)
    right = layout.backward(reference, dy, near, exact)
    assert_close(layout.backward(fastnorm, dy, far, stats)[0], right[0], "dx", layout.largest(right[0]))


@pytest.mark.parametrize("layout", CENTRED, ids=str)
@pytest.mark.parametrize("value", [0.0, 0.1, -3.3, 1e-7, 1000.06, 60000.0])
@pytest.mark.parametrize("eps", [1e-5, 1e-12])
def test_a_constant_slice_gives_exactly_the_bias(layout, value, eps, dtype, rng):
    x = np.full(layout.shape, value, dtype)
    weight, bias = values(rng, layout.param_shape(), dtype), values(rng, layout.param_shape(), dtype)
    y = layout.forward(fastnorm, x, weight, bias, eps=eps)
    np.testing.assert_array_equal(y, np.broadcast_to(layout.along(bias), y.shape))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 31, 33, 100, 1000, 4097, 100_000])
def test_constant_rows_and_columns_of_any_length(n, dtype):
    for value in [0.1, 1 / 3, -77.7, 1e4 / 3]:
        for axis, shape in [(1, (2, n)), (0, (n, 2))]:
            y, stats = fastnorm.normalize(np.full(shape, value, dtype), axis, return_stats=True)
            assert (y == 0).all()
            np.testing.assert_array_equal(stats.mean, np.asarray(value, dtype).astype(stats.mean.dtype))


EXTREMES = [
    (np.dtype(dtype), size)
    for dtype, sizes in {
        "float32": [1e30, 1e-30, 5e37, 1e-41, 3e-44],
        "float64": [1e200, 1e-200, 1e307],
        "float16": [1e4, 2e-6],
        "bfloat16": [5e37, 1e-39],
    }.items()
    for size in sizes
    if dtype in map(str, DTYPES)
]


@pytest.mark.parametrize("layout", PRECISE, ids=str)
@pytest.mark.parametrize(("dtype", "size"), EXTREMES, ids=str)
def test_the_ends_of_a_dtype(layout, dtype, size, rng):
    x = values(rng, layout.shape, dtype, 0.3 * size, size)
    table = TOLERANCES[stats_dtype(dtype).name]
    # Where 1 / deviation leaves the dtype of the statistics, only the forward has an answer.
    backward = 1e-30 < size < 1e30 or (dtype == FLOAT64 and 1e-290 < size < 1e290)
    if not backward:
        y = layout.forward(fastnorm, x, eps=0.0)
        expected = layout.forward(reference, x, eps=0.0)
        assert_close(y, expected, "y", layout.largest(expected))
    else:
        check(layout, x, rng, dtype, eps=0.0)
    y = layout.forward(fastnorm, x, eps=1e-5)
    expected = layout.forward(reference, x, eps=1e-5)
    assert_close(y, expected, "y", layout.largest(expected) + table.tiny)


@pytest.mark.parametrize("size", [1e30, 1e38])
def test_backward_of_large_numbers(size, rng):
    for layout in PRECISE:
        x = values(rng, layout.shape, FLOAT64, 0, size)
        check(layout, np.clip(x, -3e38, 3e38).astype(np.float32), rng, FLOAT32)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_sums_that_leave_the_range_only_on_the_way(layout, rng):
    top = float(np.finfo(FLOAT32).max)
    axes = tuple(i for i in range(len(layout.shape)) if i not in layout.params)
    x = values(rng, layout.shape, FLOAT32)
    xhat, stats = layout.forward(fastnorm, x, return_stats=True)
    dy = rng.choice([-1.0, 1.0], layout.shape)
    for direction in (
        xhat.astype(np.float64),
        np.ones(layout.shape),
    ) * 2:  # nearly: each makes way for the other
        dy -= (
            direction * (dy * direction).mean(axes, keepdims=True) / (direction**2).mean(axes, keepdims=True)
        )
    dy = (0.9 * top * (dy / np.abs(dy).max() + 0.1 / np.sqrt(dy.size))).astype(np.float32)
    weight = np.ones(layout.param_shape(), np.float32)
    actual = layout.backward(fastnorm, dy, x, stats, weight)
    expected = layout.backward(reference, dy, x, stats, weight)
    for name in ("dweight", "dbias"):
        a, e = getattr(actual, name), getattr(expected, name)
        if e is not None and (np.abs(e) < 0.9 * top).all():
            assert_close(a, e, "total", 3 * np.abs(dy.astype(np.float64)).sum(axes).max())
            assert np.isfinite(a).all(), name


@pytest.mark.parametrize(("shape", "axis"), [((12120, 5), 0), ((3, 5000), 1), ((64, 3, 40), (0, 2))])
def test_an_xhat_that_leaves_the_range_only_on_the_way(shape, axis, rng):
    # under given statistics xhat = 3e38 * 1.4 is beyond float32, its product with dy is not
    x, dy = values(rng, shape, FLOAT32), values(rng, shape, FLOAT32, 0, 0.01)
    x[1] = 3e38
    kept = [1 if i in np.atleast_1d(axis) else n for i, n in enumerate(shape)]
    stats = fastnorm.Stats(np.zeros(kept, "f4"), np.full(kept, 1.4, "f4"))
    weight = np.ones(kept, np.float32)
    actual = fastnorm.normalize_backward(dy, x, stats, axis, weight).dweight
    expected = reference.normalize_backward(dy, x, stats, axis, weight).dweight
    assert_close(actual, expected, "total", np.abs(expected).max())


def test_a_variance_too_large_for_float32_is_infinite_in_moments_alone(rng):
    x = values(rng, (3, 100), FLOAT32, 0, 1e30)
    mean, var = fastnorm.moments(x, 1)
    assert_close(mean, x.astype(np.float64).mean(1), "mean", np.abs(x).max(1))
    assert np.isinf(var).all()
    y, stats = fastnorm.normalize(x, return_stats=True)
    assert_close(y, reference.normalize(x), "y")
    assert_close(stats.rstd, 1 / x.astype(np.float64).std(1, keepdims=True), "rstd")


def test_variance_of_denormals(rng):
    x = values(rng, (3, 100), FLOAT64, 0, 1e-155)
    assert_close(fastnorm.moments(x, 1).var, reference.moments(x, 1).var, "var")
    x = values(rng, (3, 100), FLOAT32, 0, 1e-20)
    var = fastnorm.moments(x, 1).var
    assert (var > 0).all()
    assert_close(var, reference.moments(x, 1).var, "var")


@pytest.mark.parametrize("mean", [0, 1e4, 1e6])
def test_moments_far_from_zero(mean, rng):
    for axis, shape in [(1, (3, 5000)), (0, (5000, 3)), (None, (70, 70)), ((0, 2), (50, 3, 70))]:
        x = values(rng, shape, FLOAT32, mean)
        assert_moments_close(fastnorm.moments(x, axis), reference.moments(x, axis), x, axis)


@pytest.mark.parametrize("mean", [1e3, 1e6])
def test_evaluation_far_from_zero(mean, rng):
    # With running statistics no cancellation is hidden: x - mean is one subtraction of two given numbers.
    x, running_mean = values(rng, (50, 8), FLOAT32, mean), np.full(8, mean, np.float32)
    var = np.full(8, 0.5, np.float32)
    more = {"running_mean": running_mean, "running_var": var, "training": False}
    expected = reference.batch_norm(x, **more)
    assert_close(fastnorm.batch_norm(x, **more), expected, "y", largest(expected, 0))


@pytest.mark.parametrize("with_std", [True, False])
@pytest.mark.parametrize("magnitude", [1e-3, 1e-20, 1e25])
def test_the_mean_keeps_its_remainder_where_the_deviation_is_a_few_ulp(magnitude, with_std, rng):
    # however small eps or a missing deviation make it look; squares may overflow or vanish meanwhile
    x = (magnitude * (1 + 2.0**-23 * rng.integers(-8, 9, (4, 100)))).astype(np.float32)
    y = fastnorm.normalize(x, -1, eps=1e-5, with_std=with_std)
    wide = x.astype(np.longdouble)
    expected = wide - wide.mean(axis=-1, keepdims=True)
    if with_std:
        expected /= np.sqrt((expected**2).mean(axis=-1, keepdims=True) + 1e-5)
    assert_close(y, expected, "y", np.abs(expected).max())


@pytest.mark.parametrize(("dtype", "value"), [("f4", 1.2345e30), ("f4", 1.2345e-30), ("f8", 1.2345e200)])
def test_constant_slices_without_a_deviation_are_exact(dtype, value):
    assert not fastnorm.normalize(np.full((2, 100), value, dtype), -1, with_std=False).any()
