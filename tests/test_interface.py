"""What may be passed as an array, and what comes back."""

import array
import warnings

import numpy as np
import pytest
from strategies import values
from tolerances import BFLOAT16, DTYPES, FLOAT32, FLOAT64, assert_close

import fastnorm
from fastnorm import reference

ROWS = [[1, 2, 6], [0, 0, 3]]


class OnlyDLPack:
    """An array of another library: it speaks DLPack and nothing else."""

    def __init__(self, a):
        self.a = a

    def __dlpack__(self, **options):
        return self.a.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.a.__dlpack_device__()


class ArrayInterface:
    def __init__(self, a):
        self.a = a

    def __array__(self, dtype=None, copy=None):
        return self.a


@pytest.mark.parametrize(
    "like",
    [ROWS, tuple(map(tuple, ROWS)), np.array(ROWS), np.array(ROWS, np.int8), np.array(ROWS, np.uint64),
     np.array(ROWS, ">i4"), [array.array("d", row) for row in ROWS], np.array(ROWS, dtype=float)],
    ids=lambda v: f"{type(v).__name__} {getattr(v, 'dtype', '')}",
)  # fmt: skip
def test_array_likes_and_integers_become_float64(like):
    y, stats = fastnorm.normalize(like, return_stats=True)
    assert y.dtype == stats.mean.dtype == stats.rstd.dtype == FLOAT64
    assert_close(y, reference.normalize(np.array(ROWS, float)), "y")
    assert fastnorm.layer_norm(like).dtype == fastnorm.batch_norm(like).dtype == FLOAT64
    assert_close(fastnorm.moments(like).var, np.var(np.array(ROWS, float)), "var")
    dx = fastnorm.normalize_backward(like, like, stats).dx
    assert dx.dtype == FLOAT64
    assert_close(
        dx,
        reference.normalize_backward(like, like, reference.normalize(ROWS, return_stats=True)[1]).dx,
        "dx",
        10,
    )


def test_booleans_become_float64():
    x = np.array([[True, False, True], [True, True, False]])
    y = fastnorm.normalize(x)
    assert y.dtype == FLOAT64
    assert_close(y, reference.normalize(x), "y")
    np.testing.assert_array_equal(fastnorm.moments(x, 1).mean, x.mean(1))


def test_parameters_may_be_array_likes(rng):
    x = values(rng, (4, 3), FLOAT32)
    y = fastnorm.layer_norm(x, [1, 2, 3], (0.5, 0.25, 0))
    assert y.dtype == FLOAT32
    assert_close(y, reference.layer_norm(x, [1, 2, 3], (0.5, 0.25, 0)), "y")
    assert_close(fastnorm.normalize(x, -1, 2.0, 1), reference.normalize(x, -1, 2.0, 1), "y")
    assert_close(
        fastnorm.normalize(x, where=[True, True, False]),
        reference.normalize(x, where=[True, True, False]),
        "y",
    )


def test_parameter_gradients_of_scalars_are_scalar_arrays(rng):
    x, dy = values(rng, (4, 3), FLOAT32), values(rng, (4, 3), FLOAT32)
    _, stats = fastnorm.normalize(x, return_stats=True)
    grads = fastnorm.normalize_backward(dy, x, stats, -1, 2.0, 1)
    assert np.shape(grads.dweight) == np.shape(grads.dbias) == ()
    assert_close(grads.dbias, dy.sum(dtype=float), "total", np.abs(dy).sum())


def test_eps_and_momentum_may_be_numpy_scalars_or_integers(rng):
    x = values(rng, (4, 3), FLOAT32)
    for one in (1, 1.0, np.float32(1), np.int64(1), np.array(1.0)[()]):
        assert_close(fastnorm.normalize(x, np.int64(1), eps=one), reference.normalize(x, 1, eps=1.0), "y")
    mean = np.zeros(3, np.float32)
    fastnorm.batch_norm(x, running_mean=mean, momentum=np.float32(0.5))
    assert (mean != 0).all()


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != BFLOAT16], ids=str)
def test_dlpack(dtype, rng):
    x, dy = values(rng, (4, 6), dtype), values(rng, (4, 6), dtype)
    y, stats = fastnorm.layer_norm(OnlyDLPack(x), return_stats=True)
    np.testing.assert_array_equal(y, fastnorm.layer_norm(x))
    dx = fastnorm.layer_norm_backward(OnlyDLPack(dy), OnlyDLPack(x), stats).dx
    np.testing.assert_array_equal(dx, fastnorm.layer_norm_backward(dy, x, stats).dx)
    np.testing.assert_array_equal(fastnorm.moments(OnlyDLPack(x), 1).mean, fastnorm.moments(x, 1).mean)
    np.testing.assert_array_equal(fastnorm.batch_norm(OnlyDLPack(x.T)), fastnorm.batch_norm(x.T))


def test_dlpack_integers_become_float64():
    y = fastnorm.normalize(OnlyDLPack(np.array(ROWS, np.int32)))
    assert y.dtype == FLOAT64
    np.testing.assert_array_equal(y, fastnorm.normalize(ROWS))


def test_array_method(rng):
    x = values(rng, (4, 6), FLOAT32)
    np.testing.assert_array_equal(fastnorm.normalize(ArrayInterface(x)), fastnorm.normalize(x))


def test_bfloat16_needs_no_import(rng):
    if BFLOAT16 is None:
        pytest.skip("ml_dtypes is not installed")
    x = values(rng, (4, 6), BFLOAT16)
    y, stats = fastnorm.normalize(x, return_stats=True)
    assert y.dtype == BFLOAT16
    assert stats.rstd.dtype == FLOAT32


def test_another_16_bit_extension_type_is_refused():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for other in (ml_dtypes.float8_e4m3fn, ml_dtypes.int4):
        with pytest.raises(TypeError, match=r"\bx\b"):
            fastnorm.normalize(np.ones((2, 3), other))


def test_long_double_is_refused_or_exact():
    # Not among the dtypes of the contract: no silent change of dtype may happen.
    x = np.ones((2, 3), np.longdouble)
    if x.dtype != FLOAT64:
        with pytest.raises(TypeError, match=r"\bx\b.*(longdouble|float128|float96)"):
            fastnorm.normalize(x)


def test_subclasses_give_plain_arrays(rng):
    class Named(np.ndarray):
        pass

    x = values(rng, (4, 6), FLOAT32)
    y = fastnorm.normalize(x.view(Named))
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, fastnorm.normalize(x))


def test_memory_maps(tmp_path, rng):
    x = values(rng, (4, 6), FLOAT32)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    y = fastnorm.normalize(mapped)
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, fastnorm.normalize(x))
    out = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", x.dtype, x.shape)
    assert fastnorm.normalize(x, out=out) is out
    np.testing.assert_array_equal(out, y)


def test_zero_dimensions():
    mean, var = fastnorm.moments(np.float32(3))
    assert (mean, var) == (3, 0)
    assert mean.dtype == FLOAT32
    assert fastnorm.moments(5).mean.dtype == FLOAT64


def test_one_dimension(dtype, rng):
    x = values(rng, 33, dtype, 2)
    for axis in (0, -1, (0,)):
        y, stats = fastnorm.normalize(x, axis, return_stats=True)
        assert stats.mean.shape == (1,)
        assert_close(y, reference.normalize(x), "y")


def test_many_dimensions(rng):
    # More than any layout needs: NumPy's own limit is 64.
    x = values(rng, (1, 2) * 5 + (1,) * 20 + (2, 3), FLOAT64)
    axis = (1, 5, -1)
    y = fastnorm.normalize(x, axis)
    assert_close(y, reference.normalize(x, axis), "y")


def test_return_values():
    x = np.ones((2, 3))
    assert type(fastnorm.normalize(x)) is np.ndarray
    y, stats = fastnorm.normalize(x, return_stats=True)
    assert type(y) is np.ndarray
    assert stats._fields == ("mean", "rstd")
    assert fastnorm.moments(x, 1)._fields == ("mean", "var")
    assert fastnorm.normalize_backward(x, x, stats)._fields == ("dx", "dweight", "dbias")
    assert fastnorm.normalize(x, with_mean=False, return_stats=True)[1].mean is None
    assert fastnorm.normalize(x, with_std=False, return_stats=True)[1].rstd is None


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf, 1e-45, 3e38])
def test_no_warning_for_any_data(bad, dtype):
    x = np.full((3, 4), 1, dtype)
    with np.errstate(all="ignore"):
        x[1, 2] = bad
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        y, stats = fastnorm.normalize(x, eps=0.0, return_stats=True)
        fastnorm.normalize_backward(x, x, stats, -1, np.ones(4))
        fastnorm.moments(x, correction=99)
        fastnorm.batch_norm(x, running_mean=np.zeros(4, x.dtype), running_var=np.ones(4, x.dtype))
        fastnorm.weight_norm(np.zeros_like(x), np.ones(3))
    assert y.shape == x.shape


def test_results_do_not_depend_on_the_memory_order(dtype, rng):
    x = values(rng, (5, 33, 4), dtype, 2)
    for axis in (0, 1, 2, (0, 1), (1, 2), (0, 2)):
        y, z = fastnorm.normalize(x, axis), fastnorm.normalize(np.asfortranarray(x), axis)
        assert_close(z, y.astype(np.float64), "y")
