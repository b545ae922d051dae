"""moments, normalize and normalize_backward against the oracle, over everything an array can be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    Arrangement,
    arrangements,
    arrays,
    axes,
    dtypes,
    generators,
    masks,
    parameters,
    shapes,
    statistics,
    values,
)
from tolerances import (
    FLOAT16,
    FLOAT32,
    FLOAT64,
    assert_close,
    assert_moments_close,
    assert_stats_close,
    centred,
    dx_scale,
    parameter_scales,
    stats_dtype,
    y_scale,
)

import fastnorm
from fastnorm import reference

EPS = st.sampled_from([1e-5, 1e-3, 1e-12, 10.0])


@st.composite
def cases(draw):
    """The arguments of a forward: x and an axis, with all else that may come along."""
    dtype, shape, rng = draw(dtypes), draw(shapes()), draw(generators())
    axis = draw(axes(len(shape)))
    return {
        "x": draw(arrays(shape, dtype, rng)),
        "axis": axis,
        "weight": draw(parameters(shape, dtype, rng)),
        "bias": draw(parameters(shape, dtype, rng)),
        "where": draw(masks(shape, axis, rng)),
        **draw(statistics),
    }


def mask_of(case):
    return True if case["where"] is None else case["where"]


@given(cases(), st.sampled_from([0, 1, 0.5, -1, 2]), st.booleans())
def test_moments(case, correction, keepdims):
    x, axis, where = case["x"], case["axis"], case["where"]
    options = {"correction": correction, "keepdims": keepdims, "where": where}
    actual = fastnorm.moments(x, axis, **options)
    assert type(actual).__name__ == "Moments"
    assert actual.mean.dtype == actual.var.dtype == stats_dtype(x.dtype)
    assert_moments_close(actual, reference.moments(x, axis, **options), x, axis, mask_of(case))


@given(cases())
def test_moments_of_everything(case):
    x, where = case["x"], case["where"]
    actual = fastnorm.moments(x, where=where)
    assert isinstance(actual.mean, np.generic)
    assert isinstance(actual.var, np.generic)
    assert_moments_close(actual, reference.moments(x, where=where), x, None, mask_of(case))


@given(cases(), EPS)
def test_normalize(case, eps):
    x = case["x"]
    before = x.copy()
    actual, stats = fastnorm.normalize(**case, eps=eps, return_stats=True)
    expected, expected_stats = reference.normalize(**case, eps=eps, return_stats=True)

    assert type(actual) is np.ndarray
    assert actual.dtype == x.dtype
    assert not np.shares_memory(actual, x)
    assert_close(actual, expected, "y", y_scale(**case, eps=eps))
    assert all(s is None or s.dtype == stats_dtype(x.dtype) for s in stats)
    assert_stats_close(stats, expected_stats, x, case["axis"], mask_of(case))
    np.testing.assert_array_equal(x, before)


@given(cases(), st.data())
def test_normalize_backward(case, data):
    x, axis, where = case["x"], case["axis"], case["where"]
    dy = data.draw(arrays(x.shape, x.dtype, data.draw(generators())))
    before = x.copy(), dy.copy()
    _, stats = fastnorm.normalize(**case, return_stats=True)
    _, exact = reference.normalize(**case, return_stats=True)
    options = {k: v for k, v in case.items() if k != "x"}
    actual = fastnorm.normalize_backward(dy, x, stats, **options)
    centre, exact = centred(x, exact, axis, where)
    expected = reference.normalize_backward(dy, centre, exact, **options)

    assert type(actual).__name__ == "Grads"
    assert type(actual.dx) is np.ndarray
    assert actual.dx.dtype == x.dtype
    weight, bias = case["weight"], case["bias"]
    assert_close(actual.dx, expected.dx, "dx", dx_scale(dy, centre, exact, axis, weight, where))
    scales = parameter_scales(dy, centre, exact, axis, weight, bias, where)
    for grad, right, size in zip(actual[1:], expected[1:], scales, strict=True):
        assert (grad is None) == (right is None)
        if grad is not None:
            assert grad.dtype == stats_dtype(x.dtype)
            assert_close(grad, right, "total", size)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(dy, before[1])


@given(cases(), st.data())
def test_out_is_written_and_nothing_beside_it(case, data):
    x = case["x"]
    empty = np.full(x.shape, np.nan, x.dtype)
    out, memory = data.draw(arrangements(x.ndim)).with_memory(empty)
    assert fastnorm.normalize(**case, out=out) is out
    assert_close(out, reference.normalize(**case), "y", y_scale(**case))
    out[...] = np.nan
    assert np.isnan(memory).all(), "something beside out was written"


@given(cases(), st.data())
def test_in_place(case, data):
    arrangement = data.draw(arrangements(case["x"].ndim))
    x, memory = arrangement.with_memory(case["x"])
    expected, scale = reference.normalize(**case), y_scale(**case)
    case["x"] = x
    assert fastnorm.normalize(**case, out=x) is x
    assert_close(x, expected, "y", scale)
    x[...] = np.nan
    assert np.isnan(memory).all(), "something beside x was written"


@given(dtypes, shapes(), generators(), st.data())
def test_result_has_the_memory_order_of_x(dtype, shape, rng, data):
    x = data.draw(arrangements(len(shape))).of(values(rng, shape, dtype))
    axis = data.draw(axes(len(shape)))
    y, stats = fastnorm.normalize(x, axis, return_stats=True)
    dx = fastnorm.normalize_backward(x, x, stats, axis).dx
    for result in (y, dx):
        like = np.empty_like(x)
        of_size = [i for i, n in enumerate(shape) if n > 1]
        assert [result.strides[i] for i in of_size] == [like.strides[i] for i in of_size]


@given(shapes(), generators(), st.sampled_from([FLOAT16, FLOAT32, FLOAT64]), st.data())
def test_byte_swapped_input_gives_a_native_result(shape, rng, dtype, data):
    x = values(rng, shape, dtype)
    axis = data.draw(axes(len(shape)))
    y, stats = fastnorm.normalize(x.astype(dtype.newbyteorder()), axis, return_stats=True)
    assert y.dtype == dtype
    assert y.dtype.isnative
    assert_close(y, reference.normalize(x, axis), "y", y_scale(x, axis))
    dy = values(rng, shape, dtype)
    dx = fastnorm.normalize_backward(dy.astype(dtype.newbyteorder()), x, stats, axis).dx
    assert dx.dtype.isnative
    np.testing.assert_array_equal(dx, fastnorm.normalize_backward(dy, x, stats, axis).dx)


def test_every_axis_subset_of_a_transposed_array(dtype, rng):
    # What hypothesis draws at random, once for all 31 subsets of five axes.
    x = Arrangement((3, 1, 4, 0, 2), (1, 1, 2, 1, -1), 1).of(values(rng, (3, 4, 2, 5, 3), dtype, mean=2))
    dy = values(rng, x.shape, dtype)
    for subset in range(1, 32):
        axis = tuple(a for a in range(5) if subset >> a & 1)
        y, stats = fastnorm.normalize(x, axis, return_stats=True)
        _, exact = reference.normalize(x, axis, return_stats=True)
        assert_close(y, reference.normalize(x, axis), "y", y_scale(x, axis))
        dx = fastnorm.normalize_backward(dy, x, stats, axis).dx
        centre, exact = centred(x, exact, axis)
        expected = reference.normalize_backward(dy, centre, exact, axis).dx
        assert_close(dx, expected, "dx", dx_scale(dy, centre, exact, axis))


def test_the_order_and_sign_of_axes_do_not_matter(dtype, rng):
    x = values(rng, (4, 5, 6), dtype)
    expected = fastnorm.normalize(x, (0, 2))
    for axis in [(2, 0), (-1, 0), (-3, -1), [0, 2]]:
        np.testing.assert_array_equal(fastnorm.normalize(x, tuple(axis)), expected)


def test_results_own_their_memory_and_are_writeable(dtype, rng):
    x = values(rng, (4, 6), dtype)
    y, stats = fastnorm.normalize(x, return_stats=True)
    grads = fastnorm.normalize_backward(x, x, stats, -1, np.ones(6, dtype))
    for result in (y, *stats, *grads):
        assert result.flags.writeable
        assert not np.shares_memory(result, x)


@pytest.mark.parametrize("given_", ["neither", "weight", "bias", "both"])
def test_which_parameter_gradients_come_back(given_, rng):
    x, dy = values(rng, (3, 4, 5), FLOAT32), values(rng, (3, 4, 5), FLOAT32)
    weight = values(rng, (4, 1), FLOAT32) if given_ in ("weight", "both") else None
    bias = values(rng, (1, 1, 5), FLOAT32) if given_ in ("bias", "both") else None
    _, stats = fastnorm.normalize(x, return_stats=True)
    grads = fastnorm.normalize_backward(dy, x, stats, -1, weight, bias)
    shape_of = {"neither": None, "weight": (4, 1), "bias": (1, 1, 5), "both": (1, 1, 5)}
    assert (None if grads.dweight is None else grads.dweight.shape) == (None if weight is None else (4, 1))
    assert (None if grads.dbias is None else grads.dbias.shape) == shape_of[given_]


def test_no_copy_of_the_whole_array(rng):
    # A transposed view whose innermost stride is not one element: scratch may hold tiles, not the array.
    import tracemalloc

    x = rng.standard_normal((2048, 2048)).astype(np.float32)[:, ::2].T
    out = np.empty_like(x)
    for axis in (0, 1):
        fastnorm.normalize(x, axis, out=out)
        tracemalloc.start()
        fastnorm.normalize(x, axis, out=out)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < x.nbytes / 4
