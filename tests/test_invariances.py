"""Ba, Kiros & Hinton 2016, table 1: what batch, weight and layer norm do not notice, and what they do."""

import numpy as np
import pytest

import fastnorm

CASES, INPUTS, HIDDEN = 24, 10, 16
DELTA = 3.7


def batch(x, w):
    return fastnorm.batch_norm(x @ w.T, eps=0.0)


def weight(x, w):
    return x @ fastnorm.weight_norm(w, np.linspace(0.5, 2, HIDDEN), axis=0).T


def layer(x, w):
    return fastnorm.layer_norm(x @ w.T, eps=0.0)


def matrix_rescaled(x, w, shift):
    return x, DELTA * w


def matrix_recentred(x, w, shift):
    return x, w + shift


def vector_rescaled(x, w, shift):
    w = w.copy()
    w[3] *= DELTA
    return x, w


def dataset_rescaled(x, w, shift):
    return DELTA * x, w


def dataset_recentred(x, w, shift):
    return x + shift, w


def case_rescaled(x, w, shift):
    x = x.copy()
    x[5] *= DELTA
    return x, w


CHANGES = [
    matrix_rescaled,
    matrix_recentred,
    vector_rescaled,
    dataset_rescaled,
    dataset_recentred,
    case_rescaled,
]
TABLE_1 = {
    batch: [True, False, True, True, True, False],
    weight: [True, False, True, False, False, False],
    layer: [True, True, False, True, False, True],
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("norm", TABLE_1, ids=lambda f: f.__name__)
def test_table_1(norm, change, rng):
    x, w, shift = (
        rng.standard_normal((CASES, INPUTS)),
        rng.standard_normal((HIDDEN, INPUTS)),
        rng.standard_normal(INPUTS),
    )
    before, after = norm(x, w), norm(*change(x, w, shift))
    difference = np.abs(after - before).max()
    if TABLE_1[norm][CHANGES.index(change)]:
        assert difference < 1e-11
    else:
        assert difference > 1e-2


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**7, 2.0**40])
def test_a_power_of_two_changes_no_bit(scale, dtype, rng):
    # Nothing rounds differently when only the exponent moves (eps = 0, and no number leaves its range).
    if dtype.name == "float16":
        scale = min(max(scale, 2.0), 2.0**7)
    x = rng.standard_normal((6, 50)).astype(dtype)
    for axis in (0, 1):
        y = fastnorm.normalize(x, axis, eps=0.0)
        scaled = fastnorm.normalize(x * np.asarray(scale, dtype), axis, eps=0.0)
        np.testing.assert_array_equal(scaled, y)
