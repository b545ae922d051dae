"""Errors of what is written to, `out` and running statistics; and that nothing is written before an error."""

import re

import numpy as np
import pytest
from layouts import LAYOUTS
from strategies import values
from tolerances import FLOAT32

import fastnorm

X = np.arange(24, dtype=np.float32).reshape(4, 6) ** 1.5


def read_only(a):
    a.flags.writeable = False
    return a


def aliased(shape):
    """A writeable array whose elements all share one address."""
    return np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), shape, (0,) * len(shape), writeable=True)


BAD_OUTS = {
    "read-only": (read_only(np.empty_like(X)), ValueError, "writ|read-only"),
    "shape": (np.empty((6, 4), np.float32), ValueError, r"\(6, 4\).*\(4, 6\)"),
    "broadcastable shape": (np.empty((1, 6), np.float32), ValueError, r"\(1, 6\).*\(4, 6\)"),
    "larger shape": (np.empty((1, 4, 6), np.float32), ValueError, r"\(1, 4, 6\).*\(4, 6\)"),
    "float64": (np.empty((4, 6)), (TypeError, ValueError), "float64.*float32"),
    "float16": (np.empty((4, 6), np.float16), (TypeError, ValueError), "float16.*float32"),
    "list": ([[0.0] * 6] * 4, TypeError, "list|ndarray|array"),
    "byte-swapped": (X.astype(X.dtype.newbyteorder()), TypeError, ".f4.*float32"),
    "masked": (np.ma.masked_array(X), TypeError, "MaskedArray"),
    "overlaps itself": (aliased((4, 6)), ValueError, "overlap|same memory|memory"),
}


@pytest.mark.parametrize("kind", BAD_OUTS)
@pytest.mark.parametrize(
    "function", ["normalize", "layer_norm", "rms_norm", "batch_norm", "l2_normalize", "standardize"]
)
def test_bad_out(function, kind):
    out, errors, pattern = BAD_OUTS[kind]
    before = np.array(out)
    with pytest.raises(errors) as info:
        getattr(fastnorm, function)(X, out=out)
    message = str(info.value)
    assert re.search(rf"\bout\b.*({pattern})", message), message
    assert "\n" not in message
    assert ". " not in message
    np.testing.assert_array_equal(np.array(out), before)


def overlapping():
    memory = np.arange(64, dtype=np.float32)
    x = memory[:24].reshape(4, 6)
    yield "shifted", memory, x, memory[1:25].reshape(4, 6)
    yield "one element", memory, x, memory[23:47].reshape(4, 6)
    yield "transposed", memory, memory[:36].reshape(6, 6), memory[:36].reshape(6, 6).T
    yield "reversed", memory, x, x[::-1]
    yield "by bytes", memory, x, memory[:26].view(np.uint8)[2:98].view(np.float32).reshape(4, 6)


@pytest.mark.parametrize("index", range(5), ids=[case[0] for case in overlapping()])
def test_out_that_overlaps_x(index):
    _, memory, x, out = list(overlapping())[index]
    before = memory.copy()
    with pytest.raises(ValueError, match=r"\bout\b.*(overlap|memory)"):
        fastnorm.normalize(x, out=out)
    np.testing.assert_array_equal(memory, before)


def test_out_may_interleave_with_x():
    # Rows of one memory taken in turn share a range of addresses, and no byte.
    memory = np.arange(48, dtype=np.float32).reshape(8, 6) ** 1.5
    expected = fastnorm.normalize(memory[::2].copy())
    out = memory[1::2]
    np.testing.assert_array_equal(fastnorm.normalize(memory[::2], out=out), expected)
    np.testing.assert_array_equal(memory[1::2], expected)


@pytest.mark.parametrize("name", ["weight", "bias", "where"])
def test_out_that_overlaps_another_input(name):
    out = np.zeros((4, 6), np.float32)
    other = out[1] if name != "where" else out.view(bool)[:, :6]
    with pytest.raises(ValueError, match=r"\bout\b"):
        fastnorm.normalize(X, **{name: other}, out=out)
    assert (out == 0).all()


# --- Running statistics

BAD_RUNNING = {
    "size": (np.ones(5, np.float32), ValueError, r"\(5,\).*\(6,\)"),
    "laid out": (np.ones((1, 6), np.float32), ValueError, r"\(1, 6\).*\(6,\)"),
    "scalar": (np.ones((), np.float32), ValueError, r"\(\).*\(6,\)"),
    "float64": (np.ones(6), (TypeError, ValueError), "float64.*float32"),
    "float16": (np.ones(6, np.float16), (TypeError, ValueError), "float16.*float32"),
    "int": (np.ones(6, np.int32), (TypeError, ValueError), "int32.*float32"),
    "complex": (np.ones(6, np.complex64), (TypeError, ValueError), "complex64"),
    "list": ([1.0] * 6, TypeError, "list|ndarray|array"),
    "masked": (np.ma.masked_array(np.ones(6, np.float32), [True] + [False] * 5), TypeError, "MaskedArray"),
    "read-only": (read_only(np.ones(6, np.float32)), ValueError, "writ|read-only"),
    "overlaps itself": (aliased((6,)), ValueError, "overlap|memory"),
}


@pytest.mark.parametrize("kind", BAD_RUNNING)
@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_bad_running_statistic(name, kind):
    bad, errors, pattern = BAD_RUNNING[kind]
    other = "running_var" if name == "running_mean" else "running_mean"
    running = {name: bad, other: np.ones(6, np.float32)}
    before, out = np.array(bad), np.full((4, 6), 7, np.float32)
    with pytest.raises(errors) as info:
        fastnorm.batch_norm(X, **running, out=out)
    message = str(info.value)
    assert re.search(rf"{name}.*({pattern})", message), message
    assert "\n" not in message
    assert ". " not in message
    assert (running[other] == 1).all()
    assert (out == 7).all()
    np.testing.assert_array_equal(np.array(bad), before)


@pytest.mark.parametrize("kind", BAD_RUNNING)
def test_bad_running_mean_of_mean_only(kind):
    bad, errors, pattern = BAD_RUNNING[kind]
    with pytest.raises(errors, match=rf"running_mean.*({pattern})"):
        fastnorm.mean_only_batch_norm(X, running_mean=bad)


def test_float64_takes_float64_running_statistics_alone():
    for bad in (np.float32, np.float16):
        with pytest.raises((TypeError, ValueError), match=f"running_mean.*{bad.__name__}.*float64"):
            fastnorm.batch_norm(X.astype(float), running_mean=np.ones(6, bad), running_var=np.ones(6))


@pytest.mark.parametrize("missing", ["running_mean", "running_var"])
def test_evaluation_needs_both(missing):
    running = {"running_mean": np.ones(6, np.float32), "running_var": np.ones(6, np.float32)}
    running[missing] = None
    with pytest.raises((TypeError, ValueError), match=rf"{missing}.*None"):
        fastnorm.batch_norm(X, **running, training=False)
    with pytest.raises((TypeError, ValueError), match=r"running_mean.*None"):
        fastnorm.mean_only_batch_norm(X, training=False)


@pytest.mark.parametrize("shape", [(1, 6), (1, 6, 1, 1)])
def test_one_value_per_channel_has_no_unbiased_variance(shape):
    mean, var, out = np.zeros(6, np.float32), np.ones(6, np.float32), np.full(shape, 7, np.float32)
    with pytest.raises(ValueError, match=r"running_var|one value|\b1\b|\b2\b"):
        fastnorm.batch_norm(np.ones(shape, np.float32), running_mean=mean, running_var=var, out=out)
    assert (mean == 0).all()
    assert (var == 1).all()
    assert (out == 7).all()


def test_a_mask_that_leaves_one_value_in_a_channel():
    mean, var = np.zeros(6, np.float32), np.ones(6, np.float32)
    mask = np.ones((4, 6), bool)
    mask[1:, 2] = False
    with pytest.raises(ValueError, match=r"\b2\b|running|where"):
        fastnorm.batch_norm(X, running_mean=mean, running_var=var, where=mask)
    assert (mean == 0).all()
    assert (var == 1).all()


# --- Nothing is written before an error

WRONG = {
    "weight": np.ones(11, np.float32),
    "bias": np.ones(11, np.float32),
    "eps": -1.0,
    "channel_axis": 7,
    "axis": 7,
    "where": np.zeros((1, 1), bool),
    "momentum": np.nan,
    "num_groups": 5,
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("argument", WRONG)
def test_nothing_is_written_before_an_error(layout, argument, rng):
    import inspect

    if argument not in inspect.signature(getattr(fastnorm, layout.function)).parameters:
        pytest.skip(f"{layout.function} has no {argument}")
    if argument == "num_groups" and layout.shape[layout.params[0]] % 5 == 0:
        pytest.skip("5 divides the channels")
    x = values(rng, layout.shape, FLOAT32)
    written = {"out": np.full(layout.shape, 7, np.float32)}
    if layout.function == "batch_norm":
        written |= {n: np.full(layout.param_shape(), 7, np.float32) for n in ("running_mean", "running_var")}
    arguments = {**layout.options, argument: WRONG[argument]}
    if argument == "where":
        arguments["where"] = np.zeros((1,) * x.ndim, bool)
    with pytest.raises(ValueError, match=argument):
        getattr(fastnorm, layout.function)(x, **arguments, **written)
    for name, array in written.items():
        assert (array == 7).all(), f"{name} was written before the error"


def test_a_bad_argument_leaves_x_as_it_is_in_place(rng):
    x = values(rng, (4, 6), FLOAT32)
    before = x.copy()
    for bad in (
        {"weight": np.ones(5)},
        {"eps": np.nan},
        {"where": np.zeros((4, 6), bool)},
        {"bias": np.ones(6) * 1j},
    ):
        with pytest.raises((TypeError, ValueError)):
            fastnorm.normalize(x, **bad, out=x)
        np.testing.assert_array_equal(x, before)
