"""weight_norm, l2_normalize and standardize: what else the same kernels compute."""

import numpy as np
import pytest
from strategies import Arrangement, values
from tolerances import FLOAT32, FLOAT64, assert_close, largest, stats_dtype

import fastnorm
from fastnorm import reference

WEIGHTS = [
    ((7, 12), 0),
    ((7, 12), 1),
    ((4, 3, 5, 5), 0),
    ((4, 3, 5, 5), 1),
    ((4, 3, 5), (0, 1)),
    ((4, 3, 5), (2, 0)),
]


@pytest.mark.parametrize(("shape", "axis"), WEIGHTS)
@pytest.mark.parametrize("strided", [False, True])
def test_weight_norm(shape, axis, strided, dtype, rng):
    axes = tuple(a % len(shape) for a in np.atleast_1d(axis))
    v, dw = values(rng, shape, dtype), values(rng, shape, dtype)
    g = values(rng, [shape[a] for a in axes], dtype)
    if strided:
        v, dw = (Arrangement(tuple(range(len(shape)))[::-1], (-2,) * len(shape), 1).of(a) for a in (v, dw))
    others = tuple(a for a in range(len(shape)) if a not in axes)

    w = fastnorm.weight_norm(v, g, axis=axis)
    expected = reference.weight_norm(v, g, axis=axis)
    assert w.dtype == dtype
    assert_close(w, expected, "y", largest(expected, others))

    dv, dg = fastnorm.weight_norm_backward(dw, v, g, axis=axis)
    right_dv, right_dg = reference.weight_norm_backward(dw, v, g, axis=axis)
    assert dv.dtype == dtype
    assert dg.dtype == stats_dtype(dtype)
    assert dg.shape == g.shape
    # What is left of dw beside v may be little: the scale is that of g / ||v|| * dw itself.
    scaled_dw = reference.weight_norm(v, g, axis=axis) / v.astype(np.float64) * dw.astype(np.float64)
    assert_close(dv, right_dv, "dx", largest(scaled_dw, others))
    assert_close(dg, right_dg, "total", np.sqrt((dw.astype(np.float64) ** 2).sum()))


def test_weight_norm_has_the_norm_g(rng):
    v, g = values(rng, (5, 4, 3), FLOAT64), values(rng, 5, FLOAT64)
    norms = np.linalg.norm(fastnorm.weight_norm(v, g).reshape(5, -1), axis=1)
    assert_close(norms, np.abs(g), "y")


def test_weight_norm_with_g_of_another_dtype(dtype, rng):
    v, g = values(rng, (5, 4), dtype), values(rng, 5, FLOAT32)
    w = fastnorm.weight_norm(v, g)
    assert w.dtype == dtype
    assert_close(w, reference.weight_norm(v, g), "y")


@pytest.mark.parametrize(("shape", "axis"), WEIGHTS)
def test_gradients_of_vectors_whose_inverse_is_out_of_range(shape, axis, dtype, rng):
    if dtype == np.float16:
        pytest.skip("its least number has an inverse in float32")
    axes = tuple(a % len(shape) for a in np.atleast_1d(axis))
    others = tuple(a for a in range(len(shape)) if a not in axes)
    small = np.where(rng.random([1 if a in others else n for a, n in enumerate(shape)]) < 0.5, 1, 1e-39)
    if dtype == np.float64:
        small = np.where(small < 1, 1e-309, 1)
    v = (values(rng, shape, FLOAT64) * small).astype(dtype)
    dw, g = values(rng, shape, dtype), values(rng, [shape[a] for a in axes], FLOAT64) * 1e-10
    dv, dg = fastnorm.weight_norm_backward(dw, v, g, axis=axis)
    right_dv, right_dg = reference.weight_norm_backward(dw, v, g, axis=axis)
    assert_close(dg, right_dg, "total", np.sqrt((dw.astype(np.float64) ** 2).sum()))
    assert_close(dv, right_dv, "dx", largest(right_dv, others))


@pytest.mark.parametrize("size", [1, 1e-39])
def test_an_infinite_gradient_of_a_vector(size):
    v, dw = np.full((1, 4), size, FLOAT32), np.array([[1, np.inf, 2, 3]], FLOAT32)
    dv, dg = fastnorm.weight_norm_backward(dw, v, np.ones(1, FLOAT32))
    assert dg == np.inf
    np.testing.assert_array_equal(dv, [[-np.inf, np.nan, -np.inf, -np.inf]])


@pytest.mark.parametrize("size", [1e-30, 1e30, 1e-41])
def test_weight_norm_of_extreme_vectors(size, rng):
    v, g = values(rng, (5, 40), FLOAT32, 0, size), values(rng, 5, FLOAT32)
    expected = reference.weight_norm(v, g)
    assert_close(fastnorm.weight_norm(v, g), expected, "y", largest(expected, 1))


def test_weight_norm_of_a_zero_vector_follows_ieee():
    with np.errstate(all="raise"):
        w = fastnorm.weight_norm(np.array([[0.0, 0.0], [3.0, 4.0]]), np.ones(2))
    assert np.isnan(w[0]).all()
    assert_close(w[1], np.array([0.6, 0.8]), "y")


@pytest.mark.parametrize("axis", [-1, 0, (0, 2), (1, 2)])
@pytest.mark.parametrize("eps", [0.0, 1e-6, 1.0])
def test_l2_normalize(axis, eps, dtype, rng):
    x = values(rng, (4, 5, 6), dtype, 1, 2)
    y = fastnorm.l2_normalize(x, axis, eps=eps)
    expected = reference.l2_normalize(x, axis, eps=eps)
    assert y.dtype == dtype
    assert_close(y, expected, "y", largest(expected, axis))
    out = np.empty_like(x)
    assert fastnorm.l2_normalize(x, axis, eps=eps, out=out) is out
    np.testing.assert_array_equal(out, y)


def test_l2_normalize_neither_overflows_nor_underflows(rng):
    for size in (1e30, 1e-30):
        x = values(rng, (3, 50), FLOAT32, 0, size)
        expected = reference.l2_normalize(x)
        assert_close(fastnorm.l2_normalize(x), expected, "y", largest(expected, -1))


@pytest.mark.parametrize("axis", [0, -1, (0, 1)])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_standardize(axis, ddof, eps, dtype, rng):
    x = values(rng, (4, 5, 6), dtype, 1, 2)
    where = rng.random(x.shape) < 0.8
    where[:2], where[..., :2] = True, True
    for mask in (None, where):
        if mask is not None and ddof and eps:
            # One eps for slices of unequal n - ddof: refused rather than approximated.
            with pytest.raises(ValueError, match=r"\beps\b"):
                fastnorm.standardize(x, axis, ddof=ddof, eps=eps, where=mask)
            continue
        y = fastnorm.standardize(x, axis, ddof=ddof, eps=eps, where=mask)
        expected = reference.standardize(x, axis, ddof=ddof, eps=eps, where=mask)
        assert y.dtype == dtype
        assert_close(y, expected, "y", largest(expected, axis))
    out = np.empty_like(x)
    assert fastnorm.standardize(x, axis, ddof=ddof, eps=eps, out=out) is out
    assert_close(out, reference.standardize(x, axis, ddof=ddof, eps=eps), "y")


def test_standardize_is_the_z_score(rng):
    stats = pytest.importorskip("scipy.stats")
    x = values(rng, (30, 4), FLOAT64, 100, 2)
    for axis in (0, 1):
        for ddof in (0, 1):
            y = fastnorm.standardize(x, axis, ddof=ddof)
            np.testing.assert_allclose(y, stats.zscore(x, axis, ddof=ddof), rtol=1e-9)
