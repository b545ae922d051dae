"""NaN and infinity are data: they reach the results of their own slice and no other. And 16-bit storage."""

import numpy as np
import pytest
from layouts import LAYOUTS
from strategies import values
from tolerances import DTYPES, FLOAT32, assert_close, largest

import fastnorm
from fastnorm import reference

BAD = [np.nan, np.inf, -np.inf]
HALVES = [d for d in DTYPES if d.itemsize == 2]


def first_of_a_slice(layout):
    """An index of x, and all of x that shares its slice."""
    index = tuple(n // 2 for n in layout.shape)
    marked = np.zeros(layout.shape, bool)
    marked[index] = True
    return index, layout.largest(marked) > 0


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("bad", BAD)
def test_forward_keeps_them_in_their_slice(layout, bad, dtype, rng):
    x = values(rng, layout.shape, dtype)
    index, mine = first_of_a_slice(layout)
    clean, stats = layout.forward(fastnorm, x, return_stats=True)
    x[index] = bad
    with np.errstate(all="raise"):
        y, dirty = layout.forward(fastnorm, x, return_stats=True)
    np.testing.assert_array_equal(y[~mine], clean[~mine])
    np.testing.assert_array_equal(np.isnan(y), np.isnan(layout.forward(reference, x)))
    for a, b in zip(stats, dirty, strict=True):
        assert a is None or (a != b).sum() == 1


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("where_", ["x", "dy"])
def test_backward_keeps_them_in_their_slice(layout, bad, where_, dtype, rng):
    x, dy = values(rng, layout.shape, dtype), values(rng, layout.shape, dtype)
    weight = np.ones(layout.param_shape(), dtype)
    index, mine = first_of_a_slice(layout)
    _, stats = layout.forward(fastnorm, x, weight, return_stats=True)
    clean = layout.backward(fastnorm, dy, x, stats, weight)
    if where_ == "x":
        x[index] = bad
        _, stats = layout.forward(fastnorm, x, weight, return_stats=True)
    else:
        dy[index] = bad
    dirty = layout.backward(fastnorm, dy, x, stats, weight)
    np.testing.assert_array_equal(dirty[0][~mine], clean[0][~mine])
    # A parameter's gradient is touched where its element has a part in this slice, and nowhere else.
    reached = np.zeros(layout.shape, bool)
    reached[mine if where_ == "x" else index] = True
    reached = np.moveaxis(reached, layout.params, range(len(layout.params)))
    reached = reached.reshape(*layout.param_shape(), -1).any(-1)
    np.testing.assert_array_equal(dirty[1][~reached], clean[1][~reached])
    # And where the oracle has no number, there is none.
    _, exact = layout.forward(reference, x, weight, return_stats=True)
    expected = layout.backward(reference, dy, x, exact, weight)
    assert not np.isfinite(expected[0][index])
    np.testing.assert_array_equal(np.isfinite(dirty[0]), np.isfinite(expected[0]))
    np.testing.assert_array_equal(np.isfinite(dirty[1]), np.isfinite(expected[1]))


def test_both_infinities_have_an_infinite_mean_square(dtype):
    x = np.array([[1, np.inf, -np.inf, -2], [1, 2, 3, 4]], dtype)
    y, stats = fastnorm.rms_norm(x, return_stats=True)
    np.testing.assert_array_equal(y[0].astype(float), [0, np.nan, np.nan, 0])
    np.testing.assert_array_equal(stats.rstd[0], [0])
    assert np.isfinite(y[1].astype(float)).all()


def test_an_infinite_mean_does_not_reach_the_gradient_of_the_mean(dtype):
    # dx = dy - mean(dy), whatever x was
    x, dy = np.array([[1, np.inf, 3, 4]], dtype), np.array([[1, 2, 3, 6]], dtype)
    _, stats = fastnorm.normalize(x, with_std=False, return_stats=True)
    grads = fastnorm.normalize_backward(dy, x, stats, -1, np.ones(4), with_std=False)
    np.testing.assert_array_equal(grads.dx, [[-2, -1, 0, 3]])


def test_moments_of_not_finite_slices():
    x = np.zeros((5, 40), np.float32)
    x[1, 3], x[2, 5], x[3, 7] = np.nan, np.inf, -np.inf
    x[4, 1], x[4, 2] = np.inf, -np.inf
    for axis, a in [(1, x), (0, np.ascontiguousarray(x.T))]:
        with np.errstate(all="raise"):
            mean, var = fastnorm.moments(a, axis)
        np.testing.assert_array_equal(mean, [0, np.nan, np.inf, -np.inf, np.nan])
        np.testing.assert_array_equal(var, [0, np.nan, np.nan, np.nan, np.nan])


def test_eps_zero_without_variance_follows_ieee(dtype):
    x = np.array([[3, 3, 3, 3], [1, 2, 3, 4]], dtype)
    with np.errstate(all="raise"):
        y, stats = fastnorm.normalize(x, eps=0.0, return_stats=True)
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1]).all()
    assert np.isinf(stats.rstd[0]).all()
    y = fastnorm.rms_norm(np.array([[0, 0], [3, 4]], dtype), eps=0.0)
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1]).all()


@pytest.mark.parametrize("correction", [3, 4, 3.5, 7])
def test_too_large_a_correction_gives_what_numpy_gives(correction, recwarn):
    x = np.array([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]])
    with np.errstate(all="ignore"):
        expected = np.var(x, axis=1, correction=correction)
    recwarn.clear()
    np.testing.assert_array_equal(fastnorm.moments(x, 1, correction=correction).var, expected)
    assert not recwarn


def test_a_variance_below_all_numbers_is_still_more_than_none():
    x = np.array([[1e-200, 3e-200], [1e-200, 1e-200]])
    mean, var = fastnorm.moments(x, 1, correction=2)
    np.testing.assert_array_equal(mean, x.mean(1))
    np.testing.assert_array_equal(var, [np.inf, np.nan])
    for correction in (0, 1):
        var = fastnorm.moments(x, 1, correction=correction).var
        assert not var.any()
        assert not np.signbit(var).any()


def test_infinities_of_both_signs_in_rows_far_apart_have_no_sum(rng):
    dy = values(rng, (4096, 40), FLOAT32)
    x, weight = values(rng, dy.shape, FLOAT32), np.ones(40, np.float32)
    _, stats = fastnorm.layer_norm(x, weight, return_stats=True)
    plain = fastnorm.layer_norm_backward(dy, x, stats, weight)
    dy[3, :2], dy[4000, 0], dy[70, 2] = np.inf, -np.inf, np.nan
    dy[100:110, 3], dy[110:120, 3] = 3e38, -3e38
    grads = fastnorm.layer_norm_backward(dy, x, stats, weight)
    np.testing.assert_array_equal(grads.dbias[:3], [np.nan, np.inf, np.nan])
    assert not np.isfinite(grads.dweight[:3]).any()
    assert_close(grads.dbias[3], dy[:, 3].astype(np.float64).sum(), "total", 20 * 3e38)
    assert np.isfinite(grads.dbias[3])
    np.testing.assert_array_equal(grads.dbias[4:], plain.dbias[4:])
    np.testing.assert_array_equal(grads.dweight[4:], plain.dweight[4:])


# --- 16-bit storage: what is loaded and what is stored, over all numbers there are


def all_numbers(dtype):
    return np.arange(2**16, dtype=np.uint16).view(dtype).reshape(256, 256)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("weight", [1.0, 0.7, -1 / 3, 1e-3, 3e4])
def test_every_16_bit_number_is_loaded_and_rounded_rightly(dtype, weight):
    x, weight = all_numbers(dtype), np.float32(weight)
    for a in (x, x.T, x[:, ::-3]):
        with np.errstate(all="ignore"):
            expected = (a.astype(np.float32) * weight).astype(dtype)
        y = fastnorm.normalize(a, -1, weight, with_mean=False, with_std=False)
        nan = np.isnan(expected)
        np.testing.assert_array_equal(np.isnan(y), nan)
        np.testing.assert_array_equal(y[~nan].view(np.uint16), expected[~nan].view(np.uint16))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_16_bit_results_that_are_too_large_become_infinite(dtype):
    top = np.finfo(dtype).max if dtype.name == "float16" else 3e38
    x = np.array([[-1, 1, -1, 1]], dtype)
    y = fastnorm.normalize(x, -1, np.float32(top), np.array([top, top, 0, 0], np.float32))
    assert np.isposinf(y[0, 1])
    assert not np.isposinf(y[0, [0, 2, 3]]).any()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("mean", [0, 1, 100, 2000, 60000])
@pytest.mark.parametrize(("axis", "shape"), [(1, (5, 3000)), (0, (3000, 5)), ((0, 2), (60, 3, 50))])
def test_16_bit_sums_do_not_saturate(dtype, mean, axis, shape, rng):
    x = values(rng, shape, dtype, mean, max(1, mean / 50))
    y, stats = fastnorm.normalize(x, axis, return_stats=True)
    expected, exact = reference.normalize(x, axis, return_stats=True)
    assert_close(y, expected, "y", largest(expected, axis))
    assert stats.mean.dtype == stats.rstd.dtype == FLOAT32
    assert_close(stats.mean, exact.mean, "mean", largest(x, axis))
    assert_close(stats.rstd, exact.rstd, "rstd", exact.rstd)
    dy = values(rng, shape, dtype)
    grads = fastnorm.normalize_backward(dy, x, stats, axis, np.ones((1,) * x.ndim, dtype))
    right = reference.normalize_backward(dy, x, exact, axis, np.ones((1,) * x.ndim, dtype))
    assert_close(grads.dx, right.dx, "dx", largest(right.dx, axis))
    assert grads.dweight.dtype == FLOAT32
    assert_close(grads.dweight, right.dweight, "total", np.abs(dy.astype(np.float64)).sum())
    assert_close(grads.dbias, right.dbias, "total", np.abs(dy.astype(np.float64)).sum())


@pytest.mark.parametrize("change", ["a zero gradient", "zeros", "tiny", "huge", "nan", "inf"])
@pytest.mark.parametrize("n", [256, 8193, 36_001], ids=["short", "long", "very long"])
def test_a_slice_of_weight_norm_depends_on_no_other(change, n, dtype, rng):
    dw, v = values(rng, (40, n), dtype), values(rng, (40, n), dtype)
    g, small = np.ones(40, np.float64 if dtype == np.float64 else np.float32), 2.0**-13
    clean = fastnorm.weight_norm_backward(dw, v, g)
    if change == "a zero gradient":
        dw[5] = 0
    else:
        v[5] *= {"zeros": 0, "tiny": small, "huge": 1 / small, "nan": np.nan, "inf": np.inf}[change]
        v[5] *= {"tiny": small, "huge": 1 / small}.get(change, 1) if dtype.itemsize > 2 else 1
    with np.errstate(all="ignore"):
        dirty = fastnorm.weight_norm_backward(dw, v, g)
    others = np.arange(40) != 5
    for before, after in zip(clean, dirty, strict=True):
        np.testing.assert_array_equal(after[others], before[others])


@pytest.mark.parametrize("overflow", [300, 10])
def test_an_infinite_gradient_outlasts_sums_that_overflow(overflow, rng):
    x, weight = rng.standard_normal((4000, 40), np.float32), np.ones(40, np.float32)
    dy = rng.standard_normal(x.shape, np.float32)
    dy[100, 0] = np.inf
    dy[overflow : overflow + 10, 0] = -3e38
    _, stats = fastnorm.layer_norm(x, weight, return_stats=True)
    assert fastnorm.layer_norm_backward(dy, x, stats, weight).dbias[0] == np.inf


def test_gradients_of_few_long_rows_that_overflow_on_the_way(rng):
    x, weight = rng.standard_normal((6, 20_001), np.float32), np.full(20_001, 1e-9, np.float32)
    dy = rng.standard_normal(x.shape, np.float32)
    dy[:, 5000] = [3e38, 3e38, 1, -3e38, -3e38, 1]
    dy[2, 9000], dy[3, 9001] = np.inf, np.nan
    _, stats = fastnorm.layer_norm(x, weight, return_stats=True)
    dbias = fastnorm.layer_norm_backward(dy, x, stats, weight).dbias
    assert abs(dbias[5000]) < 1e31
    assert dbias[9000] == np.inf
    assert np.flatnonzero(~np.isfinite(dbias)).tolist() == [9000, 9001]


def test_gradients_of_few_slices_of_long_rows_that_overflow_on_the_way(rng):
    x, weight = rng.standard_normal((2, 90, 5001), np.float32), np.full(5001, 1e-9, np.float32)
    dy = rng.standard_normal(x.shape, np.float32)
    dy[1, :6, 4000] = [3e38, 3e38, 0, -2e38, -2e38, 0]
    _, stats = fastnorm.normalize(x, (1, 2), weight, weight, return_stats=True)
    dbias = fastnorm.normalize_backward(dy, x, stats, (1, 2), weight, weight).dbias
    expected = dy.astype(np.float64).sum((0, 1))
    np.testing.assert_allclose(dbias, expected, rtol=1e-4, atol=1e-3)


def test_an_infinite_gradient_without_a_mean(rng):
    dw, v = rng.standard_normal((2, 4, 64))
    dw[1, 3] = np.inf
    g = np.ones(4)
    actual, expected = (f.weight_norm_backward(dw, v, g)[1] for f in (fastnorm, reference))
    assert np.isinf(expected[1])
    assert actual[1] == expected[1]
