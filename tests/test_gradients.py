"""Every backward against a numerical derivative along random directions, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import LAYOUTS
from strategies import axes, generators, masks, shapes, statistics, values
from tolerances import FLOAT64, TOLERANCES

import fastnorm

H = 2.0**-9


def slope(f, at, direction):
    """The derivative of f at `at` along `direction`, by five points: exact to the fourth order."""

    def g(steps):
        return f(at + steps * H * direction)

    return (g(-2) - 8 * g(-1) + 8 * g(1) - g(2)) / (12 * H)


def assert_gradient(f, at, gradient, rng, size):
    """`gradient` tells the slope of f along random directions. `size`: what f's terms add up to."""
    for _ in range(3):
        direction = rng.standard_normal(at.shape)
        expected = slope(f, at, direction)
        assert abs((gradient * direction).sum() - expected) < 1e-8 * (abs(expected) + size)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
class TestLayouts:
    def test_backward_is_the_derivative(self, layout, rng):
        x, dy = values(rng, layout.shape, FLOAT64, 1, 2), values(rng, layout.shape, FLOAT64)
        weight = values(rng, layout.param_shape(), FLOAT64)
        bias = values(rng, layout.param_shape(), FLOAT64) if layout.has_bias else None
        _, stats = layout.forward(fastnorm, x, weight, bias, return_stats=True)
        grads = layout.backward(fastnorm, dy, x, stats, weight)
        size = np.abs(dy).sum()
        assert_gradient(
            lambda t: (dy * layout.forward(fastnorm, t, weight, bias)).sum(), x, grads[0], rng, size
        )
        assert_gradient(
            lambda t: (dy * layout.forward(fastnorm, x, t, bias)).sum(), weight, grads[1], rng, size
        )
        if layout.has_bias:
            assert_gradient(
                lambda t: (dy * layout.forward(fastnorm, x, weight, t)).sum(), bias, grads[2], rng, size
            )

    def test_without_parameters(self, layout, rng):
        x, dy = values(rng, layout.shape, FLOAT64), values(rng, layout.shape, FLOAT64)
        _, stats = layout.forward(fastnorm, x, return_stats=True)
        grads = layout.backward(fastnorm, dy, x, stats)
        assert grads[1] is None
        assert grads[2] is None
        assert_gradient(
            lambda t: (dy * layout.forward(fastnorm, t)).sum(), x, grads[0], rng, np.abs(dy).sum()
        )

    def test_dx_is_orthogonal_to_ones_and_to_xhat(self, layout, dtype, rng):
        # Moving a slice along ones or along itself does not change its result (for eps = 0).
        x, dy = values(rng, layout.shape, dtype, 0.5, 2), values(rng, layout.shape, dtype)
        xhat, stats = layout.forward(fastnorm, x, eps=0.0, return_stats=True)
        dx = layout.backward(fastnorm, dy, x, stats)[0].astype(np.float64).reshape(layout.sliced_shape())
        xhat = xhat.astype(np.float64).reshape(layout.sliced_shape())
        n = dx.size // layout.per_slice(x).size
        bound = TOLERANCES[dtype.name].dx * TOLERANCES[dtype.name].eps * np.abs(dx).max() * n
        if layout.function != "rms_norm":
            assert np.abs(dx.sum(layout.reduced)).max() < bound
        assert np.abs((dx * xhat).sum(layout.reduced)).max() < 2 * bound


@st.composite
def cases(draw):
    shape, rng = draw(shapes(max_dims=4)), draw(generators())
    axis = draw(axes(len(shape)))
    sizes = [n if draw(st.booleans()) else 1 for n in shape]
    options = {**draw(statistics), "where": draw(masks(shape, axis, rng))}
    return shape, axis, sizes, options, rng


@given(cases())
def test_normalize(case):
    shape, axis, sizes, options, rng = case
    x, dy = values(rng, shape, FLOAT64, 0.5, 1), values(rng, shape, FLOAT64)
    # To a masked element the statistics are constants by decree: take it out of what is differentiated.
    dy = dy if options["where"] is None else dy * options["where"]
    weight, bias = values(rng, sizes, FLOAT64), values(rng, sizes[1:], FLOAT64)
    # A large eps keeps short slices smooth enough for finite steps.
    _, stats = fastnorm.normalize(x, axis, weight, bias, eps=1.0, **options, return_stats=True)
    grads = fastnorm.normalize_backward(dy, x, stats, axis, weight, bias, **options)

    def loss(x=x, weight=weight, bias=bias):
        return (dy * fastnorm.normalize(x, axis, weight, bias, eps=1.0, **options)).sum()

    size = np.abs(dy).sum()
    assert_gradient(loss, x, grads.dx, rng, size)
    assert_gradient(lambda t: loss(weight=t), weight, grads.dweight, rng, size)
    assert_gradient(lambda t: loss(bias=t), bias, grads.dbias, rng, size)


@pytest.mark.parametrize(
    ("shape", "axis"), [((5, 8), 0), ((5, 8), 1), ((4, 3, 5), (0, 2)), ((4, 3, 5), (2, 1))]
)
def test_weight_norm(shape, axis, rng):
    v, dw = values(rng, shape, FLOAT64, 2, 0.5), values(rng, shape, FLOAT64)
    g = values(rng, [shape[a] for a in np.atleast_1d(axis)], FLOAT64)
    dv, dg = fastnorm.weight_norm_backward(dw, v, g, axis=axis)
    assert_gradient(
        lambda t: (dw * fastnorm.weight_norm(t, g, axis=axis)).sum(), v, dv, rng, np.abs(dw).sum()
    )
    assert_gradient(
        lambda t: (dw * fastnorm.weight_norm(v, t, axis=axis)).sum(), g, dg, rng, np.abs(dw).sum()
    )


@pytest.mark.parametrize(("shape", "channel_axis"), [((5, 8), 1), ((4, 3, 5), 1), ((4, 3, 5), -1)])
def test_mean_only_batch_norm(shape, channel_axis, rng):
    x, dy, bias = (
        values(rng, shape, FLOAT64),
        values(rng, shape, FLOAT64),
        values(rng, shape[channel_axis], FLOAT64),
    )
    dx, dbias = fastnorm.mean_only_batch_norm_backward(dy, channel_axis=channel_axis)

    def loss(x=x, bias=bias):
        return (dy * fastnorm.mean_only_batch_norm(x, bias, channel_axis=channel_axis)).sum()

    assert_gradient(loss, x, dx, rng, np.abs(dy).sum())
    assert_gradient(lambda t: loss(bias=t), bias, dbias, rng, np.abs(dy).sum())


def test_batch_norm_in_evaluation(rng):
    x, dy = values(rng, (5, 3, 4), FLOAT64), values(rng, (5, 3, 4), FLOAT64)
    weight, bias = values(rng, 3, FLOAT64), values(rng, 3, FLOAT64)
    more = {"running_mean": values(rng, 3, FLOAT64), "running_var": np.array([0.5, 1, 2]), "training": False}
    _, stats = fastnorm.batch_norm(x, weight, bias, **more, return_stats=True)
    grads = fastnorm.batch_norm_backward(dy, x, stats, weight, training=False)

    def loss(x=x, weight=weight, bias=bias):
        return (dy * fastnorm.batch_norm(x, weight, bias, **more)).sum()

    assert_gradient(loss, x, grads.dx, rng, np.abs(dy).sum())
    assert_gradient(lambda t: loss(weight=t), weight, grads.dweight, rng, np.abs(dy).sum())
    assert_gradient(lambda t: loss(bias=t), bias, grads.dbias, rng, np.abs(dy).sum())
