"""Masks: which elements enter the statistics, and that the others reach nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import LAYOUTS
from strategies import axes, dtypes, generators, masks, shapes, statistics, values
from tolerances import FLOAT32, FLOAT64, assert_close, assert_moments_close, y_scale

import fastnorm
from fastnorm import reference

JUNK = [np.nan, np.inf, -np.inf, 6e4]


@st.composite
def masked_cases(draw):
    dtype, shape, rng = draw(dtypes), draw(shapes(max_dims=4)), draw(generators())
    axis = draw(axes(len(shape)))
    mask = draw(masks(shape, axis, rng))
    options = draw(statistics)
    return (
        values(rng, shape, dtype, 1, 2),
        axis,
        np.ones((1,) * len(shape), bool) if mask is None else mask,
        options,
        rng,
    )


@given(masked_cases(), st.sampled_from(JUNK))
def test_what_stands_under_the_mask_reaches_nothing_else(case, junk):
    x, axis, mask, options, rng = case
    outside = ~np.broadcast_to(mask, x.shape)
    dy = values(rng, x.shape, x.dtype)
    # One parameter of x's shape is per element, one of size 1 sums over all: junk must not reach the second.
    weight, bias = np.ones((1,) * x.ndim, x.dtype), np.zeros((1,) * x.ndim, x.dtype)
    bad_x, bad_dy = x.copy(), dy.copy()
    bad_x[outside], bad_dy[outside] = junk, junk

    more = {"axis": axis, "where": mask, "weight": weight, "bias": bias, **options}
    y, stats = fastnorm.normalize(x, **more, return_stats=True)
    bad_y, bad_stats = fastnorm.normalize(bad_x, **more, return_stats=True)
    np.testing.assert_array_equal(bad_y[~outside], y[~outside])
    for good, bad in zip(stats, bad_stats, strict=True):
        np.testing.assert_array_equal(bad, good)

    grads = fastnorm.normalize_backward(dy, x, stats, **more)
    bad_grads = fastnorm.normalize_backward(bad_dy, bad_x, stats, **more)
    np.testing.assert_array_equal(bad_grads.dx[~outside], grads.dx[~outside])
    np.testing.assert_array_equal(bad_grads.dweight, grads.dweight)
    np.testing.assert_array_equal(bad_grads.dbias, grads.dbias)

    good, bad = (fastnorm.moments(a, axis, where=mask) for a in (x, bad_x))
    np.testing.assert_array_equal(bad.mean, good.mean)
    np.testing.assert_array_equal(bad.var, good.var)


ALL, FIRST, SECOND = slice(None), 0, 1


@pytest.mark.parametrize(
    ("shape", "axis", "weight_shape", "nan", "outside"),
    [
        ((4, 6), -1, (6,), (ALL, FIRST), (ALL, SECOND)),
        ((4, 6), 0, (4, 1), (FIRST, ALL), (SECOND, ALL)),
        ((4, 6), (0, 1), (4, 1), (FIRST, ALL), (SECOND, ALL)),
        ((4, 6), (0, 1), (4, 6), (FIRST, ALL), (SECOND, ALL)),
        ((2, 5000), -1, (5000,), (ALL, FIRST), (ALL, SECOND)),
        ((7, 33, 1100), (0, 2), (7, 33, 1), (FIRST, ALL, ALL), (SECOND, ALL, ALL)),
        ((40, 3, 4), (0, 2), (4,), (ALL, ALL, FIRST), (ALL, ALL, SECOND)),
        ((40, 3, 4), (0, 2), (40, 1, 1), (FIRST, ALL, ALL), (SECOND, ALL, ALL)),
    ],
)
def test_a_parameter_outside_has_no_gradient_in_a_slice_of_nan(shape, axis, weight_shape, nan, outside, rng):
    x, dy, mask = values(rng, shape, FLOAT32), values(rng, shape, FLOAT32), np.ones(shape, bool)
    x[nan], mask[outside] = np.nan, False
    weight = np.ones(weight_shape, np.float32)
    _, stats = fastnorm.normalize(x, axis, where=mask, return_stats=True)
    dweight = fastnorm.normalize_backward(dy, x, stats, axis, weight, where=mask).dweight
    assert np.isnan(stats.mean).all()
    assert (np.broadcast_to(dweight, shape)[outside] == 0).all()
    assert np.isnan(np.broadcast_to(dweight, shape)[nan]).all()


@pytest.mark.parametrize(
    ("shape", "axis", "weight_shape", "outside"),
    [
        ((4, 6), -1, (6,), (ALL, SECOND)),
        ((4, 6), 0, (4, 1), (SECOND, ALL)),
        ((4, 6), (0, 1), (4, 1), (SECOND, ALL)),
        ((2, 5, 2), (0, 2), (2, 5, 1), (SECOND, ALL, ALL)),
        ((5, 3, 2), (0, 2), (5, 1, 1), (SECOND, ALL)),
        ((3, 9000), (0, 1), (3, 1), (SECOND, ALL)),
        ((9, 6, 4), (0, 2), (1, 1, 4), (ALL, ALL, SECOND)),
        ((40, 3, 4, 5), (0, 3), (4, 5), (ALL, ALL, ALL, SECOND)),
        ((4, 6, 5), (0, 2), (5,), (ALL, ALL, SECOND)),
    ],
)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_only_outside_reaches_no_other_dx(shape, axis, weight_shape, outside, bad, rng):
    x, dy, mask = values(rng, shape, FLOAT32), values(rng, shape, FLOAT32), np.ones(shape, bool)
    mask[outside] = False
    weight = values(rng, weight_shape, FLOAT32)
    _, stats = fastnorm.normalize(x, axis, where=mask, return_stats=True)
    good = fastnorm.normalize_backward(dy, x, stats, axis, weight, where=mask).dx
    weight[~used_by(mask, weight_shape)] = bad
    dx = fastnorm.normalize_backward(dy, x, stats, axis, weight, where=mask).dx
    np.testing.assert_array_equal(dx[mask], good[mask])


def used_by(mask, param_shape):
    """Which elements of a parameter belong to an element inside."""
    full = (1,) * (mask.ndim - len(param_shape)) + param_shape
    return mask.any(axis=tuple(i for i, n in enumerate(full) if n == 1)).reshape(param_shape)


@given(masked_cases())
def test_every_element_is_normalized_with_the_statistics(case):
    x, axis, mask, options, _ = case
    expected = reference.normalize(x, axis, where=mask, **options)
    scale = y_scale(x, axis, where=mask, **options)
    assert_close(fastnorm.normalize(x, axis, where=mask, **options), expected, "y", scale)


@given(masked_cases())
def test_moments_are_numpys(case):
    x, axis, mask, _, _ = case
    full = np.broadcast_to(mask, x.shape)
    wide, axes_ = x.astype(np.float64), axis if isinstance(axis, int) else tuple(axis)
    expected = reference.Moments(np.mean(wide, axes_, where=full), np.var(wide, axes_, where=full))
    assert_moments_close(fastnorm.moments(x, axis, where=mask), expected, x, axis, mask)


@given(masked_cases())
def test_a_masked_element_takes_the_statistics_as_constants(case):
    x, axis, mask, options, rng = case
    dy, weight = values(rng, x.shape, x.dtype), values(rng, x.shape[-1:], x.dtype)
    _, stats = fastnorm.normalize(x, axis, where=mask, **options, return_stats=True)
    dx = fastnorm.normalize_backward(dy, x, stats, axis, weight, where=mask, **options).dx
    rstd = 1 if stats.rstd is None else stats.rstd.astype(np.float64)
    outside = ~np.broadcast_to(mask, x.shape)
    expected = dy.astype(np.float64) * weight * rstd
    assert_close(dx[outside], expected[outside], "dx", np.abs(expected[outside]))


@pytest.mark.parametrize("value", [3.0, 0.0, -1e38])
@pytest.mark.parametrize("axis", [0, 1])
def test_elements_outside_a_constant_slice_go_where_a_tiny_eps_sends_them(axis, value):
    x = np.full((3, 5, 40), value, np.float32)
    mask = np.zeros(x.shape, bool)
    mask.swapaxes(axis, -1)[..., :2] = True
    outside = np.argwhere(~mask)
    x[tuple(outside[0])], x[tuple(outside[1])], x[tuple(outside[2])] = value + 1, value - 1, 1e-10
    y = fastnorm.normalize(x, axis, eps=1e-80, where=mask)
    expected = reference.normalize(x, axis, eps=1e-80, where=mask)
    assert_close(y, expected, "y", np.abs(expected))


@pytest.mark.parametrize("axis", [0, 1, (0, 2)], ids=str)
@pytest.mark.parametrize("weight_shape", [(), (40,), (5, 1), (3, 1, 1)], ids=str)
@pytest.mark.parametrize("deviation", [0, 1e-3])
def test_a_small_weight_brings_a_far_element_outside_back(axis, weight_shape, deviation, dtype, rng):
    x = values(rng, (3, 5, 40), dtype, 0, deviation)
    mask = np.ones(x.shape, bool)
    mask[2, 1], mask[1, 4, 30:] = False, False
    far = {"float16": 6e4, "float64": 1.7e308}.get(dtype.name, 3e38)
    x[2, 1, ::3], x[1, 4, 39] = far, -far
    weight = np.asarray(rng.uniform(0.001, 0.002, weight_shape)).astype(dtype)
    bias = values(rng, weight_shape, dtype)
    _, stats = reference.normalize(x, axis, where=mask, return_stats=True)
    wide = [a.astype(np.longdouble) for a in (x, weight, bias)]
    expected = (wide[0] - stats.mean) * stats.rstd * wide[1] + wide[2]
    expected = np.clip(expected, np.finfo(FLOAT64).min, np.finfo(FLOAT64).max).astype(FLOAT64)
    alone = fastnorm.normalize(x, axis, weight, bias, where=mask)
    assert_close(alone, expected, "y", np.abs(expected) + 1e-2)
    fastnorm.normalize(x, axis, weight, bias, where=mask, out=x)
    np.testing.assert_array_equal(x, alone)


def test_a_bias_alone_brings_a_far_element_outside_back(rng):
    x, inside = np.array([[1e-3, -1e-3, 2e-3, 3e38]], np.float32), np.array([[True, True, True, False]])
    bias = np.float32(-3e38)
    y = fastnorm.normalize(x, -1, None, bias, where=inside, eps=0.3)
    expected = reference.normalize(x, -1, None, bias, where=inside, eps=0.3)
    assert np.isfinite(y).all()
    assert_close(y, expected, "y", np.full(x.shape, 3e38))


@pytest.mark.parametrize("far", [np.inf, -np.inf, np.nan, np.finfo(np.float32).min, 3e38])
def test_padding_of_any_size_leaves_its_neighbours_alone(far, rng):
    x, weight = values(rng, (6, 75), FLOAT32), values(rng, (75,), FLOAT32)
    inside = np.ones(x.shape, bool)
    inside[1:, 70:] = inside[3, :20] = False
    expected = fastnorm.normalize(x, -1, weight, weight, where=inside)
    x[~inside] = far
    y = fastnorm.normalize(x, -1, weight, weight, where=inside)
    np.testing.assert_array_equal(y[inside], expected[inside])
    fastnorm.normalize(x, -1, weight, weight, where=inside, out=x)
    np.testing.assert_array_equal(x, y)


def test_a_mask_of_ones_is_no_mask(dtype, rng):
    x = values(rng, (4, 5, 33), dtype, 3)
    for mask in (True, np.True_, np.ones((1, 1, 1), bool), np.ones((4, 5, 33), bool)):
        y = fastnorm.normalize(x, (0, 2), where=mask)
        assert_close(y, reference.normalize(x, (0, 2)), "y", y_scale(x, (0, 2)))


@pytest.mark.parametrize("true", [2, 128, 255])
@pytest.mark.parametrize("axis", [0, 1])
def test_every_byte_but_0_is_true(true, axis, rng):
    # bytes that something else wrote, seen as booleans
    x, dy = values(rng, (9, 70), FLOAT32), values(rng, (9, 70), FLOAT32)
    mask = rng.random((9, 70)) < 0.7
    mask[0] = mask[:, 0] = True
    results = []
    for where in (mask, (mask * np.uint8(true)).view(bool)):
        y, stats = fastnorm.normalize(x, axis, where=where, return_stats=True)
        grads = fastnorm.normalize_backward(dy, x, stats, axis, np.ones(70, np.float32), where=where)
        results.append([y, *stats, *grads, *fastnorm.moments(x, axis, correction=1, where=where)])
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    "as_what", [np.ndarray.tolist, memoryview, lambda mask: (mask * np.uint8(2)).view(bool)]
)
def test_a_mask_that_has_to_be_converted_lasts_for_the_call(as_what, rng):
    # nobody but the call holds what it was converted to
    x = values(rng, (64, 200), FLOAT32)
    mask = rng.random((64, 200)) < 0.5
    mask[:, :2] = True
    _, stats = fastnorm.normalize(x, where=mask, return_stats=True)
    expected = fastnorm.moments(x, 1, where=mask), fastnorm.normalize_backward(x, x, stats, where=mask).dx
    for _ in range(20):
        np.testing.assert_array_equal(fastnorm.moments(x, 1, where=as_what(mask)), expected[0])
        np.testing.assert_array_equal(
            fastnorm.normalize_backward(x, x, stats, where=as_what(mask)).dx, expected[1]
        )


def test_masked_rows_are_the_rows_cut_short(dtype, rng):
    # Padded sequences: the statistics of the valid part alone, whatever lies beyond.
    x = values(rng, (6, 40), dtype, 2)
    lengths = np.array([1, 2, 8, 17, 39, 40])
    mask = np.arange(40) < lengths[:, None]
    y = fastnorm.normalize(np.where(mask, x, np.asarray(np.nan, dtype)), where=mask)
    for row, n in enumerate(lengths):
        short = x[row : row + 1, :n]
        assert_close(y[row : row + 1, :n], reference.normalize(short), "y", y_scale(short, -1))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x, mask: fastnorm.moments(x, 1, where=mask), "moments"),
        (lambda x, mask: fastnorm.normalize(x, 1, where=mask), "normalize"),
        (lambda x, mask: fastnorm.normalize(x, 1, where=mask, with_std=False), "centre only"),
        (lambda x, mask: fastnorm.normalize(x, 1, where=mask, with_mean=False), "rms"),
        (lambda x, mask: fastnorm.standardize(x, 1, where=mask), "standardize"),
        (lambda x, mask: fastnorm.standardize(x, -1, where=mask, ddof=1, eps=0.1), "standardize, ddof"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_slice_without_an_element_is_named(call, name, rng):
    x, mask = values(rng, (4, 6), FLOAT32), np.ones((4, 6), bool)
    mask[2] = False
    with pytest.raises(ValueError, match=r"where.*\b2\b"):
        call(x, mask)


def test_a_channel_without_an_element_is_named(rng):
    x, mask = values(rng, (4, 6), FLOAT32), np.ones((4, 6), bool)
    mask[:, 5] = False
    mean, var = np.zeros(6, np.float32), np.ones(6, np.float32)
    with pytest.raises(ValueError, match=r"where.*\b5\b"):
        fastnorm.batch_norm(x, where=mask, running_mean=mean, running_var=var)
    assert (mean == 0).all(), "running_mean moved before the error"
    assert (var == 1).all(), "running_var moved before the error"


def test_an_empty_slice_in_the_backward_is_named(rng):
    x, mask = values(rng, (4, 6), FLOAT32), np.ones((4, 6), bool)
    _, stats = fastnorm.normalize(x, return_stats=True)
    mask[1] = False
    with pytest.raises(ValueError, match=r"where.*\b1\b"):
        fastnorm.normalize_backward(x, x, stats, where=mask)


@pytest.mark.parametrize("layout", [la for la in LAYOUTS if la.function == "batch_norm"], ids=str)
def test_batch_norm_of_padded_steps(layout, dtype, rng):
    # Whole cases of the batch masked, as padding does: NaN there touches no statistic and no gradient.
    x, dy = values(rng, layout.shape, dtype, 1, 2), values(rng, layout.shape, dtype)
    mask = np.ones(layout.shape[:1] + (1,) * (x.ndim - 1), bool)
    mask[-1] = False
    bad_x, bad_dy = x.copy(), dy.copy()
    bad_x[-1] = bad_dy[-1] = np.nan
    weight = np.ones(layout.param_shape(), dtype)
    y, stats = layout.forward(fastnorm, bad_x, weight, where=mask, return_stats=True)
    expected, exact = layout.forward(reference, x[:-1], weight, return_stats=True)
    cut = layout.of_shape((layout.shape[0] - 1, *layout.shape[1:]))
    assert_close(y[:-1], expected, "y", cut.largest(expected))
    grads = layout.backward(fastnorm, bad_dy, bad_x, stats, weight, where=mask)
    right = layout.backward(reference, dy[:-1], x[:-1], exact, weight)
    assert_close(grads.dx[:-1], right.dx, "dx", cut.largest(right.dx))
    size = np.abs(dy[:-1].astype(np.float64)).sum(layout.reduced)
    assert_close(grads.dweight, right.dweight, "total", 4 * size)
    assert_close(grads.dbias, right.dbias, "total", size)
    assert np.isnan(y[-1]).all()


def test_one_element_per_slice_gives_zero_there(rng):
    x = values(rng, (5, 7), FLOAT64)
    mask = np.zeros((5, 7), bool)
    mask[np.arange(5), [0, 3, 6, 2, 1]] = True
    y = fastnorm.normalize(x, where=mask)
    np.testing.assert_array_equal(y[mask], 0)
