"""Every layout against the oracle: parameters, statistics, dtypes, memory, the channel axis anywhere."""

import numpy as np
import pytest
from layouts import LAYOUTS
from strategies import Arrangement, values
from tolerances import FLOAT32, FLOAT64, assert_close, stats_dtype

import fastnorm
from fastnorm import reference

# x as it comes, transposed, and strided and misaligned; the numbers must not notice.
ARRANGEMENTS = ["contiguous", "reversed order", "strided"]


def arranged(a, how):
    if how == "contiguous":
        return a
    if how == "reversed order":
        return np.asfortranarray(a)
    steps = (-1,) * (a.ndim - 1) + (2,)
    return Arrangement(tuple(range(a.ndim)), steps, 1).of(a)


def params_of(layout, rng, dtype, which="both"):
    weight = values(rng, layout.param_shape(), dtype, 1, 0.5) if which != "none" else None
    bias = values(rng, layout.param_shape(), dtype, 0, 0.5) if which == "both" and layout.has_bias else None
    return weight, bias


def y_scale(layout, x, weight=None, bias=None, **more):
    """As in tolerances.py, for a layout."""
    terms = np.abs(layout.forward(reference, x, **more))
    terms = terms if weight is None else terms * np.abs(layout.along(weight).astype(np.float64))
    terms = terms if bias is None else terms + np.abs(layout.along(bias).astype(np.float64))
    return layout.largest(terms)


def assert_grads_close(layout, actual, expected, x, dy, dtype):
    assert actual[0].dtype == dtype
    assert_close(actual[0], expected[0], "dx", layout.largest(expected[0]))
    for grad, right in zip(actual[1:], expected[1:], strict=True):
        assert (grad is None) == (right is None)
        if grad is not None:
            assert grad.dtype == stats_dtype(dtype)
            # |xhat| may reach the root of n, but a handful is typical: the terms of the sums are dy and 4 dy.
            terms = np.abs(dy.astype(np.float64)).sum(
                tuple(a for a in range(x.ndim) if a not in layout.params)
            )
            assert_close(grad, right, "total", 4 * np.broadcast_to(terms.max(), right.shape))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
class TestEveryLayout:
    @pytest.mark.parametrize("how", ARRANGEMENTS)
    @pytest.mark.parametrize("which", ["none", "weight", "both"])
    def test_forward_and_backward(self, layout, which, how, dtype, rng):
        x = arranged(values(rng, layout.shape, dtype, 2, 3), how)
        dy = arranged(values(rng, layout.shape, dtype), how)
        weight, bias = params_of(layout, rng, dtype, which)
        y, stats = layout.forward(fastnorm, x, weight, bias, return_stats=True)
        expected, exact = layout.forward(reference, x, weight, bias, return_stats=True)
        assert y.dtype == dtype
        assert_close(y, expected, "y", y_scale(layout, x, weight, bias))
        self.check_stats(layout, stats, exact, x, dtype)

        grads = layout.backward(fastnorm, dy, x, stats, weight)
        right = layout.backward(reference, dy, x, exact, weight)
        assert_grads_close(layout, grads, right, x, dy, dtype)

    @staticmethod
    def check_stats(layout, stats, exact, x, dtype):
        assert type(stats).__name__ == "Stats"
        if layout.function == "rms_norm":
            assert stats.mean is None
        else:
            assert stats.mean.dtype == stats_dtype(dtype)
            assert stats.mean.shape == layout.stats_shape()
            assert_close(stats.mean, exact.mean, "mean", layout.per_slice(x))
        assert stats.rstd.dtype == stats_dtype(dtype)
        assert stats.rstd.shape == layout.stats_shape()
        assert_close(stats.rstd, exact.rstd, "rstd", exact.rstd)

    @pytest.mark.parametrize("param_dtype", [np.float32, np.float64, np.float16, np.int16, np.bool_])
    def test_parameters_of_another_dtype(self, layout, param_dtype, dtype, rng):
        x, dy = values(rng, layout.shape, dtype), values(rng, layout.shape, dtype)
        weight, bias = params_of(layout, rng, np.dtype(param_dtype))
        y, stats = layout.forward(fastnorm, x, weight, bias, return_stats=True)
        expected, exact = layout.forward(reference, x, weight, bias, return_stats=True)
        assert y.dtype == dtype
        assert_close(y, expected, "y", y_scale(layout, x, weight, bias))
        grads = layout.backward(fastnorm, dy, x, stats, weight)
        assert grads[1].dtype == stats_dtype(dtype)
        right = layout.backward(reference, dy, x, exact, weight)
        assert_close(grads[0], right[0], "dx", layout.largest(right[0]) + layout.largest(dy))

    def test_strided_parameters(self, layout, rng):
        x = values(rng, layout.shape, FLOAT32)
        weight, bias = params_of(layout, rng, FLOAT32)
        strided = Arrangement(tuple(range(weight.ndim))[::-1], (-2,) * weight.ndim, 1)
        y = layout.forward(fastnorm, x, strided.of(weight), None if bias is None else strided.of(bias))
        np.testing.assert_array_equal(y, layout.forward(fastnorm, x, weight, bias))

    def test_out_and_in_place(self, layout, dtype, rng):
        x = values(rng, layout.shape, dtype)
        weight, bias = params_of(layout, rng, dtype)
        expected, scale = layout.forward(reference, x, weight, bias), y_scale(layout, x, weight, bias)
        out = Arrangement(tuple(range(x.ndim))[::-1], (2,) * x.ndim, 0).of(np.full_like(x, np.nan))
        assert layout.forward(fastnorm, x, weight, bias, out=out) is out
        assert_close(out, expected, "y", scale)
        assert layout.forward(fastnorm, x, weight, bias, out=x) is x
        assert_close(x, expected, "y", scale)

    def test_inputs_may_be_read_only_and_stay_as_they_are(self, layout, dtype, rng):
        weight, bias = params_of(layout, rng, dtype)
        inputs = [values(rng, layout.shape, dtype), values(rng, layout.shape, dtype), weight]
        inputs += [bias] if layout.has_bias else []
        before = [a.copy() for a in inputs]
        for a in inputs:
            a.flags.writeable = False
        _, stats = layout.forward(fastnorm, inputs[0], weight, bias, return_stats=True)
        for s in stats:
            if s is not None:
                s.flags.writeable = False
        layout.backward(fastnorm, inputs[1], inputs[0], stats, weight)
        for a, b in zip(inputs, before, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_eps_is_added_to_the_variance(self, layout, rng):
        x = values(rng, layout.shape, FLOAT32)
        for eps in (0.0, 1e-3, 2.0, 1e6):
            y, stats = layout.forward(fastnorm, x, eps=eps, return_stats=True)
            expected, exact = layout.forward(reference, x, eps=eps, return_stats=True)
            assert_close(y, expected, "y", layout.largest(expected))
            assert_close(stats.rstd, exact.rstd, "rstd", exact.rstd)

    def test_an_empty_batch_gives_an_empty_result(self, layout, dtype):
        if 0 in layout.reduced:
            pytest.skip("the batch is normalized over")
        empty = layout.of_shape((0, *layout.shape[1:]))
        weight = np.ones(empty.param_shape(), dtype)
        x = np.empty(empty.shape, dtype)
        y, stats = empty.forward(fastnorm, x, weight, return_stats=True)
        assert y.shape == empty.shape
        assert y.dtype == dtype
        assert stats.rstd.shape == empty.stats_shape()
        dx, dweight, *_ = empty.backward(fastnorm, x, x, stats, weight)
        assert dx.shape == empty.shape
        np.testing.assert_array_equal(dweight, np.zeros(empty.param_shape()))


@pytest.mark.parametrize("name", ["batch_norm", "instance_norm", "group_norm"])
@pytest.mark.parametrize("ndim", [3, 4, 5])
def test_the_channel_axis_may_be_any_but_the_first(name, ndim, rng):
    shape = (3, 4, 2, 5, 3)[:ndim]
    options = {"num_groups": 2} if name == "group_norm" else {}
    x, dy = values(rng, shape, FLOAT64), values(rng, shape, FLOAT64)
    weight, bias = values(rng, 4, FLOAT64), values(rng, 4, FLOAT64)
    forward, backward = getattr(fastnorm, name), getattr(fastnorm, name + "_backward")
    y, stats = forward(x, **options, weight=weight, bias=bias, return_stats=True)
    grads = backward(dy, x, stats, **options, weight=weight)
    for axis in [*range(1, ndim), *range(1 - ndim, 0)]:
        moved, moved_dy = np.moveaxis(x, 1, axis), np.moveaxis(dy, 1, axis)
        options["channel_axis"] = axis
        y2, stats2 = forward(moved, **options, weight=weight, bias=bias, return_stats=True)
        assert_close(np.moveaxis(y2, axis, 1), y, "y")
        for a, b in zip(stats2, stats, strict=True):
            assert_close(a, b, "rstd")
        grads2 = backward(moved_dy, moved, stats2, **options, weight=weight)
        assert_close(np.moveaxis(grads2[0], axis, 1), grads[0], "dx")
        for a, b in zip(grads2[1:], grads[1:], strict=True):
            assert_close(a, b, "total")


def test_layer_norm_takes_one_axis_as_an_int_or_a_tuple(rng):
    x, weight = values(rng, (4, 6), FLOAT32), values(rng, 6, FLOAT32)
    np.testing.assert_array_equal(
        fastnorm.layer_norm(x, weight, axis=(1,)), fastnorm.layer_norm(x, weight, axis=-1)
    )
