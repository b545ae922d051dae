"""Batch norm and mean-only batch norm with running statistics: how they move, and how they are used."""

import numpy as np
import pytest
from layouts import LAYOUTS
from strategies import Arrangement, values
from tolerances import DTYPES, FLOAT32, FLOAT64, assert_close, stats_dtype

import fastnorm
from fastnorm import reference

BATCH = [layout for layout in LAYOUTS if layout.function == "batch_norm"]

# x's dtype beside what its running statistics may be.
PAIRS = [(d, r) for d in DTYPES for r in dict.fromkeys((d, stats_dtype(d)))]


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0]}-running-{pair[1]}")
def pair(request):
    return request.param


def running(layout, rng, dtype):
    c = layout.param_shape()
    return values(rng, c, dtype), np.abs(values(rng, c, dtype)) + dtype.type(0.5)


@pytest.mark.parametrize("layout", BATCH, ids=str)
@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0, 0.25, -0.5, 2.0])
def test_training_moves_them_in_place(layout, momentum, pair, rng):
    dtype, running_dtype = pair
    x = values(rng, layout.shape, dtype, 1, 2)
    mean, var = running(layout, rng, running_dtype)
    # The new values from the formula itself; m / (m - 1) makes the variance of a batch of m unbiased.
    batch = reference.moments(x, layout.reduced, correction=1)
    right_mean = (1 - momentum) * mean.astype(np.float64) + momentum * batch.mean
    right_var = (1 - momentum) * var.astype(np.float64) + momentum * batch.var
    size = np.abs(right_mean) + np.abs(mean.astype(np.float64)) + np.abs(momentum * batch.mean) + 1

    y = layout.forward(fastnorm, x, running_mean=mean, running_var=var, momentum=momentum)
    np.testing.assert_array_equal(y, layout.forward(fastnorm, x))
    assert mean.dtype == var.dtype == running_dtype
    which = "y" if running_dtype.itemsize == 2 else "var"
    assert_close(mean, right_mean, which, size)
    assert_close(
        var, right_var, which, np.abs(right_var) + var.astype(np.float64) + np.abs(momentum) * batch.var
    )


@pytest.mark.parametrize("layout", BATCH, ids=str)
def test_evaluation_uses_them(layout, pair, rng):
    dtype, running_dtype = pair
    x, dy = values(rng, layout.shape, dtype, 1, 2), values(rng, layout.shape, dtype)
    weight, bias = values(rng, layout.param_shape(), dtype), values(rng, layout.param_shape(), dtype)
    mean, var = running(layout, rng, running_dtype)
    before = mean.copy(), var.copy()
    mean.flags.writeable = var.flags.writeable = False
    more = {"running_mean": mean, "running_var": var, "training": False}
    y, stats = layout.forward(fastnorm, x, weight, bias, return_stats=True, **more)
    expected, exact = layout.forward(reference, x, weight, bias, return_stats=True, **more)
    assert y.dtype == dtype
    terms = np.abs(layout.forward(reference, x, weight, **more)) + np.abs(
        layout.along(bias).astype(np.float64)
    )
    # (x - mean) rounds in proportion to the larger of the two.
    terms = terms + np.abs(layout.along(weight * exact.rstd * mean).astype(np.float64))
    assert_close(y, expected, "y", layout.largest(terms))
    assert_close(stats.mean, exact.mean, "mean", np.abs(exact.mean) + 0.0)
    assert_close(stats.rstd, exact.rstd, "rstd", exact.rstd)
    assert stats.mean.dtype == stats.rstd.dtype == stats_dtype(dtype)
    assert not np.shares_memory(stats.mean, mean)
    for now, then in zip((mean, var), before, strict=True):
        np.testing.assert_array_equal(now, then)

    grads = layout.backward(fastnorm, dy, x, stats, weight, training=False)
    right = layout.backward(reference, dy, x, exact, weight, training=False)
    assert_close(grads.dx, right.dx, "dx", layout.largest(right.dx))
    size = np.abs(dy.astype(np.float64)).sum(layout.reduced)
    assert_close(grads.dbias, right.dbias, "total", size)
    xhat = (x.astype(np.float64) - layout.along(exact.mean)) * layout.along(exact.rstd)
    assert_close(
        grads.dweight, right.dweight, "total", np.abs(xhat * dy.astype(np.float64)).sum(layout.reduced)
    )


def test_evaluation_backward_treats_the_statistics_as_constants(rng):
    x, dy = values(rng, (5, 3, 4), FLOAT64), values(rng, (5, 3, 4), FLOAT64)
    mean, var, weight = values(rng, 3, FLOAT64), np.array([0.5, 1.0, 2.0]), values(rng, 3, FLOAT64)
    _, stats = fastnorm.batch_norm(
        x, weight, running_mean=mean, running_var=var, training=False, return_stats=True
    )
    dx = fastnorm.batch_norm_backward(dy, x, stats, weight, training=False).dx
    expected = dy * (weight / np.sqrt(var + 1e-5))[:, None]
    assert_close(dx, expected, "dx")


def test_evaluation_takes_an_empty_batch(rng):
    mean, var = running(BATCH[0], rng, FLOAT32)
    c = mean.size
    y = fastnorm.batch_norm(np.empty((0, c), np.float32), running_mean=mean, running_var=var, training=False)
    assert y.shape == (0, c)


def test_evaluation_takes_one_value_per_channel(rng):
    mean, var = np.zeros(4, np.float32), np.ones(4, np.float32)
    x = values(rng, (1, 4), FLOAT32)
    y = fastnorm.batch_norm(x, running_mean=mean, running_var=var, training=False, eps=0.0)
    assert_close(y, x, "y")


def test_training_with_one_value_per_channel_gives_the_bias(rng):
    x, bias = values(rng, (1, 4), FLOAT32), values(rng, 4, FLOAT32)
    np.testing.assert_array_equal(fastnorm.batch_norm(x, np.ones(4), bias)[0], bias)


@pytest.mark.parametrize("which", ["running_mean", "running_var"])
def test_one_of_them_alone_moves_while_training(which, rng):
    x = values(rng, (6, 4), FLOAT32)
    alone, both = (
        {k: np.ones(4, np.float32) for k in names} for names in ([which], ["running_mean", "running_var"])
    )
    fastnorm.batch_norm(x, **alone)
    fastnorm.batch_norm(x, **both)
    np.testing.assert_array_equal(alone[which], both[which])


def test_strided_running_statistics_move_in_place(rng):
    x = values(rng, (6, 4), FLOAT32)
    plain = np.zeros(4, np.float32), np.ones(4, np.float32)
    strided = [Arrangement((0,), (-2,), 1).with_memory(p) for p in plain]
    fastnorm.batch_norm(x, running_mean=plain[0], running_var=plain[1])
    fastnorm.batch_norm(x, running_mean=strided[0][0], running_var=strided[1][0])
    for expected, (view, memory) in zip(plain, strided, strict=True):
        np.testing.assert_array_equal(view, expected)
        assert np.isnan(memory).sum() == 4, "something between the elements was written"


@pytest.mark.parametrize("layout", BATCH, ids=str)
def test_masked_batch_statistics(layout, rng):
    x = values(rng, layout.shape, FLOAT32, 2, 3)
    mask = rng.random(layout.shape) < 0.5
    mask[:2] = True
    (mean, var), (right_mean, right_var) = ([np.zeros(layout.param_shape(), t) for _ in "mv"] for t in "fd")
    y, stats = layout.forward(fastnorm, x, running_mean=mean, running_var=var, where=mask, return_stats=True)
    expected, exact = layout.forward(
        reference, x, running_mean=right_mean, running_var=right_var, where=mask, return_stats=True
    )
    assert_close(y, expected, "y", layout.largest(expected))
    assert_close(stats.rstd, exact.rstd, "rstd", exact.rstd)
    assert_close(mean, right_mean, "var", 10)
    assert_close(var, right_var, "var", right_var)
    dy = values(rng, layout.shape, FLOAT32)
    grads = layout.backward(fastnorm, dy, x, stats, np.ones(layout.param_shape()), where=mask)
    right = layout.backward(reference, dy, x, exact, np.ones(layout.param_shape()), where=mask)
    assert_close(grads.dx, right.dx, "dx")
    size = np.abs(dy.astype(np.float64)).sum(layout.reduced)
    assert_close(grads.dweight, right.dweight, "total", 4 * size)
    assert_close(grads.dbias, right.dbias, "total", size)


def test_not_finite_data_reaches_the_running_statistics_of_its_own_channel(rng):
    x = values(rng, (5, 4), FLOAT32)
    x[2, 1], x[3, 2] = np.nan, np.inf
    mean, var = np.zeros(4, np.float32), np.ones(4, np.float32)
    fastnorm.batch_norm(x, running_mean=mean, running_var=var)
    np.testing.assert_array_equal(np.isfinite(var), [True, False, False, True])
    np.testing.assert_array_equal(np.isnan(mean), [False, True, False, False])


class TestMeanOnly:
    @pytest.mark.parametrize(
        ("shape", "channel_axis"), [((21, 10), 1), ((4, 6, 11), 1), ((3, 4, 5, 9), -1), ((3, 4, 5, 6), 2)]
    )
    @pytest.mark.parametrize("training", [True, False])
    def test_against_the_oracle(self, shape, channel_axis, training, pair, rng):
        dtype, running_dtype = pair
        x, dy = values(rng, shape, dtype, 2, 3), values(rng, shape, dtype)
        bias = values(rng, shape[channel_axis], dtype)
        mean = values(rng, shape[channel_axis], running_dtype)
        right_mean = mean.astype(np.float64)
        options = {"training": training, "channel_axis": channel_axis, "momentum": 0.3}
        y = fastnorm.mean_only_batch_norm(x, bias, running_mean=mean, **options)
        expected = reference.mean_only_batch_norm(x, bias, running_mean=right_mean, **options)
        assert y.dtype == dtype
        assert_close(y, expected, "y", np.abs(expected).max() + np.abs(bias.astype(np.float64)).max() + 3)
        assert_close(mean, right_mean, "y" if running_dtype.itemsize == 2 else "var", 5)

        dx, dbias = fastnorm.mean_only_batch_norm_backward(dy, channel_axis=channel_axis, training=training)
        right = reference.mean_only_batch_norm_backward(dy, channel_axis=channel_axis, training=training)
        assert dx.dtype == dtype
        assert dbias.dtype == stats_dtype(dtype)
        assert_close(dx, right[0], "dx")
        axes = tuple(a for a in range(x.ndim) if a != channel_axis % x.ndim)
        assert_close(dbias, right[1], "total", np.abs(dy.astype(np.float64)).sum(axes))

    def test_without_bias_or_running_mean(self, rng):
        x = values(rng, (8, 3), FLOAT64, 5)
        assert_close(fastnorm.mean_only_batch_norm(x), x - x.mean(0), "y", np.abs(x).max())

    def test_one_value_per_channel_moves_the_running_mean(self, rng):
        # No variance is taken, so m / (m - 1) is no question here.
        x, mean = values(rng, (1, 3), FLOAT64), np.zeros(3)
        np.testing.assert_array_equal(
            fastnorm.mean_only_batch_norm(x, running_mean=mean, momentum=1.0), 0 * x
        )
        assert_close(mean, x[0], "mean")
