"""What the norms owe to each other: one is often another with other axes."""

import numpy as np
import pytest
from layouts import LAYOUTS
from strategies import values
from tolerances import FLOAT64, assert_close

import fastnorm


def assert_same(a, b, what):
    assert_close(a, np.asarray(b, np.float64), what, np.abs(np.asarray(b, np.float64)).max())


@pytest.fixture
def data(rng, dtype):
    """x, dy, and parameters of the channels on axis 1."""
    shape = (4, 6, 3, 5)
    return (*(values(rng, shape, dtype, 1, 2) for _ in "xd"), *(values(rng, 6, dtype) for _ in "wb"))


def test_group_norm_of_one_group_is_layer_norm(data):
    x, dy, weight, bias = data
    wide = [np.broadcast_to(p[:, None, None], x.shape[1:]) for p in (weight, bias)]
    y, stats = fastnorm.group_norm(x, 1, weight, bias, return_stats=True)
    z, layer_stats = fastnorm.layer_norm(x, *wide, axis=(1, 2, 3), return_stats=True)
    assert_same(y, z, "y")
    assert_same(stats.rstd.ravel(), layer_stats.rstd.ravel(), "rstd")
    a = fastnorm.group_norm_backward(dy, x, stats, 1, weight)
    b = fastnorm.layer_norm_backward(dy, x, layer_stats, wide[0], axis=(1, 2, 3))
    assert_same(a.dx, b.dx, "dx")
    for per_channel, per_element in zip(a[1:], b[1:], strict=True):
        terms = np.abs(dy.astype(np.float64)).sum((0, 2, 3)).max()
        assert_close(per_channel, per_element.sum((1, 2), dtype=np.float64), "total", 4 * terms)


def test_group_norm_of_one_channel_each_is_instance_norm(data):
    x, dy, weight, bias = data
    y, stats = fastnorm.group_norm(x, 6, weight, bias, return_stats=True)
    z, instance_stats = fastnorm.instance_norm(x, weight, bias, return_stats=True)
    assert_same(y, z, "y")
    assert_same(stats.mean, instance_stats.mean, "mean")
    assert_same(stats.rstd, instance_stats.rstd, "rstd")
    a = fastnorm.group_norm_backward(dy, x, stats, 6, weight)
    b = fastnorm.instance_norm_backward(dy, x, instance_stats, weight)
    for grad, other, what in zip(a, b, ("dx", "total", "total"), strict=True):
        assert_same(grad, other, what)


def test_instance_norm_of_one_case_is_batch_norm(data):
    x, dy, weight, bias = data
    x, dy = x[:1], dy[:1]
    y, stats = fastnorm.instance_norm(x, weight, bias, return_stats=True)
    z, batch_stats = fastnorm.batch_norm(x, weight, bias, return_stats=True)
    assert_same(y, z, "y")
    a = fastnorm.instance_norm_backward(dy, x, stats, weight)
    b = fastnorm.batch_norm_backward(dy, x, batch_stats, weight)
    for grad, other, what in zip(a, b, ("dx", "total", "total"), strict=True):
        assert_same(grad, other, what)


def test_batch_norm_of_two_dimensions_is_that_of_four(data):
    x, dy, weight, bias = data
    x, dy = x.reshape(-1, 6), dy.reshape(-1, 6)
    y, stats = fastnorm.batch_norm(x, weight, bias, return_stats=True)
    z, stats4 = fastnorm.batch_norm(x[:, :, None, None], weight, bias, return_stats=True)
    np.testing.assert_array_equal(y, z[:, :, 0, 0])
    a = fastnorm.batch_norm_backward(dy, x, stats, weight)
    b = fastnorm.batch_norm_backward(dy[:, :, None, None], x[:, :, None, None], stats4, weight)
    np.testing.assert_array_equal(a.dx, b.dx[:, :, 0, 0])
    np.testing.assert_array_equal(a.dweight, b.dweight)
    np.testing.assert_array_equal(a.dbias, b.dbias)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_layout_is_the_core_over_its_axes(layout, dtype, rng):
    x = values(rng, layout.shape, dtype, 1, 2)
    eps = 1e-6 if layout.function == "rms_norm" else 1e-5
    y = layout.forward(fastnorm, x)
    with_mean = layout.function != "rms_norm"
    z = fastnorm.normalize(x.reshape(layout.sliced_shape()), layout.reduced, eps=eps, with_mean=with_mean)
    assert_same(y, z.reshape(layout.shape), "y")


def test_mean_only_batch_norm_is_the_core_without_scale(data):
    x, _, _, bias = data
    y = fastnorm.mean_only_batch_norm(x, bias)
    z = fastnorm.normalize(x, (0, 2, 3), None, bias[:, None, None], with_std=False)
    assert_same(y, z, "y")


def test_rms_norm_is_the_unit_norm_times_the_root_of_n(rng):
    x = values(rng, (5, 40), FLOAT64)
    assert_same(fastnorm.rms_norm(x, eps=0.0), fastnorm.l2_normalize(x) * np.sqrt(40), "y")
    assert_same(fastnorm.weight_norm(x, np.full(5, 3.0)), fastnorm.l2_normalize(x) * 3, "y")


def test_layer_norm_of_the_transpose_is_the_transpose(data):
    x = data[0]
    y = fastnorm.layer_norm(x, axis=1)
    z = fastnorm.layer_norm(np.ascontiguousarray(np.moveaxis(x, 1, -1)))
    assert_same(np.moveaxis(y, 1, -1), z, "y")


@pytest.mark.parametrize("layout", [la for la in LAYOUTS if la.function != "rms_norm"], ids=str)
def test_results_have_mean_0_and_deviation_1_and_stay_so(layout, rng):
    x = values(rng, layout.shape, FLOAT64, 3, 5)
    y = layout.forward(fastnorm, x, eps=0.0)
    sliced = y.reshape(layout.sliced_shape())
    np.testing.assert_allclose(sliced.mean(layout.reduced), 0, atol=1e-14)
    np.testing.assert_allclose(sliced.var(layout.reduced), 1, rtol=1e-14)
    np.testing.assert_allclose(layout.forward(fastnorm, y, eps=0.0), y, atol=1e-13)


def test_backward_is_linear_in_dy(data):
    x, dy, weight, _ = data
    x, dy, weight = (a.astype(np.float64) for a in (x, dy, weight))
    other = np.sin(np.arange(dy.size)).reshape(dy.shape)
    _, stats = fastnorm.batch_norm(x, weight, return_stats=True)
    a, b, c = (fastnorm.batch_norm_backward(d, x, stats, weight) for d in (dy, other, 2 * dy - 3 * other))
    for from_dy, from_other, from_both in zip(a, b, c, strict=True):
        np.testing.assert_allclose(from_both, 2 * from_dy - 3 * from_other, atol=1e-12)
