"""Parameters and running statistics of any dtype and length, on every tier: as NumPy converts them."""

import numpy as np
import pytest
from strategies import values
from tolerances import DTYPES, FLOAT32, FLOAT64, stats_dtype

import fastnorm

pytestmark = pytest.mark.usefixtures("tier_in_use")

LENGTHS = [*range(1, 40), 70, 257]  # shorter than every vector, and with every remainder
EXTREMES = [0.0, -0.0, 1e-7, 6e-8, 1e-40, 5e-324, 65504.0, 3e38, 1e300, -1e300, np.inf, np.nan]


def as_numpy_has_it(a, dtype):
    with np.errstate(all="ignore"):  # beyond float32 is infinite
        return a.astype(dtype)


def same(a, b):
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.signbit(a) & ~np.isnan(a), np.signbit(b) & ~np.isnan(b))


@pytest.mark.parametrize("given", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weight_and_bias(dtype, given, rng):
    for n in LENGTHS:
        x = values(rng, (3, n), dtype)
        weight, bias = values(rng, n, given), values(rng, n, given)
        converted = [a.astype(stats_dtype(dtype)) for a in (weight, bias)]
        y, stats = fastnorm.layer_norm(x, weight, bias, return_stats=True)
        same(y, fastnorm.layer_norm(x, *converted))
        grads = fastnorm.layer_norm_backward(x, x, stats, weight)
        for got, expected in zip(grads, fastnorm.layer_norm_backward(x, x, stats, converted[0]), strict=True):
            same(got, expected)


@pytest.mark.parametrize("given", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_extreme_weights(dtype, given):
    weight = as_numpy_has_it(np.resize(EXTREMES, 50), given)
    y = fastnorm.normalize(np.ones(50, dtype), axis=0, weight=weight, with_mean=False, with_std=False)
    same(y, as_numpy_has_it(weight, dtype))


@pytest.mark.parametrize("given", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gains(dtype, given, rng):
    for n in LENGTHS:
        v, g = values(rng, (n, 5), dtype), values(rng, n, given)
        same(fastnorm.weight_norm(v, g), fastnorm.weight_norm(v, g.astype(np.float64)))


@pytest.mark.parametrize("stored", DTYPES, ids=str)
@pytest.mark.parametrize("momentum", [0.1, 0.7])
def test_running_statistics_move_as_doubles_and_are_rounded_once(stored, momentum, rng):
    for n in LENGTHS:
        batch, off = rng.integers(-8, 8, n).astype(np.float64), rng.integers(1, 8, n).astype(np.float64)
        mean, var = values(rng, n, stored), np.abs(values(rng, n, stored))
        expected = [
            as_numpy_has_it(
                as_numpy_has_it(
                    (1 - momentum) * old.astype(np.float64) + momentum * new, stats_dtype(stored)
                ),
                stored,
            )
            for old, new in ((mean, batch), (var, 2 * off * off))  # of two values, unbiased
        ]
        x = np.stack([batch - off, batch + off]).astype(stored)
        fastnorm.batch_norm(x, running_mean=mean, running_var=var, momentum=momentum)
        same(mean, expected[0])
        same(var, expected[1])


@pytest.mark.parametrize("stored", DTYPES, ids=str)
def test_frozen_statistics(stored, rng):
    for n in LENGTHS:
        mean, var = values(rng, n, stored), np.abs(values(rng, n, stored))
        x = values(rng, (2, n), stored)
        more = {"running_mean": mean, "running_var": var, "training": False, "eps": 1e-5}
        _, stats = fastnorm.batch_norm(x, return_stats=True, **more)
        same(stats.mean, mean.astype(stats_dtype(stored)))
        same(stats.rstd, (1 / np.sqrt(var.astype(np.float64) + 1e-5)).astype(stats_dtype(stored)))
        before = stats.mean.copy()
        mean[...] = 7
        same(stats.mean, before)


def test_a_frozen_rstd_beyond_float32_is_used_in_double():
    for n in (1, 7, 16, 33):
        for at in range(n):
            var = np.ones(n, np.float32)
            var[at] = 0
            x = np.full((2, n), 1e-42, np.float32)
            y = fastnorm.batch_norm(
                x, running_mean=np.zeros(n, np.float32), running_var=var, training=False, eps=1e-80
            )
            expected = x.astype(np.float64) / np.sqrt(var.astype(np.float64) + 1e-80)
            same(y, expected.astype(np.float32))
