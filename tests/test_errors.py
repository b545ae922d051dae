"""Every error: one sentence that names the argument, what it got and what it needs."""

import re

import numpy as np
import pytest

import fastnorm
from fastnorm import reference

Stats = reference.Stats
X = np.arange(24, dtype=np.float32).reshape(4, 6) ** 1.5
IMAGES = np.arange(4 * 6 * 5, dtype=np.float32).reshape(4, 6, 5) ** 1.5
MEAN, RSTD = reference.normalize(X, return_stats=True)[1]
STATS = Stats(MEAN, RSTD)
CHANNELS = reference.batch_norm(X, return_stats=True)[1]
MASK = np.ones((4, 6), bool)
EITHER = (TypeError, ValueError)

CASES = []


def refused(kind, patterns, function, *args, **kwargs):
    """This call raises `kind`, and each of the patterns is found in its message."""
    name = f"{function}-{len(CASES)}-{'-'.join(patterns)}"
    CASES.append(pytest.param(kind, patterns, function, args, kwargs, id=name))


def ones(*shape):
    return np.ones(shape, np.float32)


# --- x: dtypes

for bad in [
    np.ones((2, 3), np.complex64),
    np.array([[object()]]),
    np.array([["a"]]),
    np.zeros((1, 2), "M8[D]"),
]:
    dtype = str(bad.dtype)[:6]
    for function in [
        "normalize",
        "moments",
        "layer_norm",
        "rms_norm",
        "batch_norm",
        "l2_normalize",
        "standardize",
    ]:
        refused(TypeError, [r"\bx\b", dtype], function, bad)
    refused(TypeError, [r"\bx\b", dtype], "group_norm", bad, 1)
    refused(TypeError, [r"\bx\b", dtype], "instance_norm", bad[..., None])
    refused(TypeError, [r"\bx\b", dtype], "mean_only_batch_norm", bad)
    refused(TypeError, [r"\bv\b", dtype], "weight_norm", bad, ones(len(bad)))
    refused(TypeError, [r"\bdy\b", dtype], "mean_only_batch_norm_backward", bad)
refused(TypeError, [r"\bx\b"], "normalize", np.zeros(3, "f4,f4"))

# --- axis

for function in ["normalize", "moments", "l2_normalize", "standardize", "layer_norm", "rms_norm"]:
    for axis, kind, got in [
        (2, ValueError, r"\b2\b"),
        (-3, ValueError, "-3"),
        ((0, 5), ValueError, r"\b5\b"),
        ((1, 1), ValueError, r"1"),
        ((1, -1), ValueError, r"-1|\b1\b"),
        ((), ValueError, r"\(\)|empty"),
        (1.0, TypeError, r"1\.0|float"),
        ("1", TypeError, "1|str"),
        ((0, None), TypeError, "None"),
        ([0], TypeError, r"\[0\].*tuple of ints"),
        (True, TypeError, "True"),
        ((0, True), TypeError, "True"),
        (np.True_, TypeError, "True"),
    ]:
        refused(kind, [r"\baxis\b", got], function, X, axis=axis)
refused(TypeError, ["axis", "None"], "normalize", X, None)
refused(ValueError, ["axis|dimension"], "normalize", np.float32(1))
refused(ValueError, ["axis", r"\b3\b"], "normalize_backward", X, X, STATS, 3)
refused(ValueError, ["axis", r"\b3\b"], "layer_norm_backward", X, X, STATS, axis=3)
refused(ValueError, ["axis", r"\b2\b"], "weight_norm", X, ones(6), axis=2)
refused(TypeError, ["channel_axis", "True"], "batch_norm", X, channel_axis=True)
refused(TypeError, ["num_groups", "True"], "group_norm", X, True)

# --- Nothing to normalize over

EMPTY = [r"\bx\b|axis|batch", r"\b0\b|empty|no element"]
for function in ["normalize", "moments", "layer_norm", "rms_norm", "l2_normalize"]:
    refused(ValueError, EMPTY, function, np.empty((3, 0)), axis=1)
refused(ValueError, EMPTY, "moments", np.empty((3, 0)))
refused(ValueError, EMPTY, "standardize", np.empty((0, 3)))
refused(ValueError, EMPTY, "normalize", np.empty((2, 0, 3)), (1, 2))
refused(ValueError, EMPTY, "instance_norm", np.empty((2, 3, 0)))
refused(ValueError, EMPTY, "group_norm", np.empty((2, 4, 0)), 2)
refused(ValueError, EMPTY, "batch_norm", np.empty((2, 3, 0)))
for function in ["batch_norm", "mean_only_batch_norm"]:
    refused(ValueError, EMPTY, function, np.empty((0, 3)))
refused(ValueError, EMPTY, "batch_norm_backward", np.empty((0, 6)), np.empty((0, 6)), CHANNELS)

# --- weight and bias

for p in ["weight", "bias"]:
    for shape in [(5,), (2, 4, 6), (1, 4, 6), (4, 1, 1)]:
        refused(ValueError, [p, re.escape(str(shape)), r"\(4, 6\)"], "normalize", X, **{p: ones(*shape)})
    for shape in [(4,), (1, 6), (4, 6), (), (1,)]:
        got = re.escape(str(shape))
        refused(ValueError, [p, got, r"\(6,\)"], "layer_norm", X, **{p: ones(*shape)})
        refused(ValueError, [p, got, r"\(6,\)"], "batch_norm", X, **{p: ones(*shape)})
        refused(ValueError, [p, got, r"\(6,\)"], "instance_norm", IMAGES, **{p: ones(*shape)})
        refused(ValueError, [p, got, r"\(6,\)"], "group_norm", X, 2, **{p: ones(*shape)})
    refused(ValueError, [p, r"\(2,\)", r"\(6,\)"], "group_norm", X, 2, **{p: ones(2)})
    refused(ValueError, [p, r"\(4, 6\)", r"\(6, 4\)"], "layer_norm", X, axis=(1, 0), **{p: ones(4, 6)})
    for dtype, got in [("complex64", "complex64"), ("O", "object"), ("U1", "U1|str")]:
        refused(TypeError, [p, got], "normalize", X, **{p: np.ones(6, dtype)})
        refused(TypeError, [p, got], "batch_norm", X, **{p: np.ones(6, dtype)})
refused(ValueError, ["weight", r"\(5,\)", r"\(6,\)"], "rms_norm", X, ones(5))
refused(ValueError, ["weight", r"\(5,\)", r"\(6,\)"], "layer_norm_backward", X, X, STATS, ones(5))
refused(ValueError, ["weight", r"\(5,\)", r"\(6,\)"], "rms_norm_backward", X, X, Stats(None, RSTD), ones(5))
refused(ValueError, ["weight", r"\(5,\)", r"\(6,\)"], "batch_norm_backward", X, X, CHANNELS, ones(5))
refused(ValueError, ["weight", r"\(5,\)"], "normalize_backward", X, X, STATS, -1, ones(5))
refused(ValueError, ["bias", r"\(5,\)"], "normalize_backward", X, X, STATS, -1, None, ones(5))
refused(ValueError, ["bias", r"\(4,\)", r"\(6,\)"], "mean_only_batch_norm", X, ones(4))
for shape in [(6,), (), (4, 1)]:
    refused(ValueError, [r"\bg\b", re.escape(str(shape)), r"\(4,\)"], "weight_norm", X, ones(*shape))
refused(ValueError, [r"\bg\b", r"\(6,\)", r"\(4,\)"], "weight_norm_backward", X, X, ones(6))
refused(TypeError, [r"\bg\b", "complex128"], "weight_norm", X, np.ones(4) * 1j)

# --- eps, momentum, correction, ddof

for function in ["normalize", "layer_norm", "rms_norm", "batch_norm", "l2_normalize", "standardize"]:
    for eps, kind, got in [
        (-1e-5, ValueError, "-1e-05"),
        (np.nan, ValueError, "nan"),
        ("1", TypeError, "1|str"),
        (None, TypeError, "None"),
        (1j, TypeError, "1j|complex"),
    ]:
        refused(kind, ["eps", got], function, X, eps=eps)
refused(ValueError, ["eps", "-1"], "instance_norm", IMAGES, eps=-1.0)
refused(ValueError, ["eps", "nan"], "group_norm", X, 2, eps=np.nan)
for function in ["batch_norm", "mean_only_batch_norm"]:
    for momentum in [np.nan, np.inf, -np.inf]:
        refused(ValueError, ["momentum", str(momentum)], function, X, running_mean=ones(6), momentum=momentum)
    refused(TypeError, ["momentum", "a|str"], function, X, running_mean=ones(6), momentum="a")
for number, got in [("1", "1|str"), (1j, "1j|complex")]:
    refused(TypeError, ["correction", got], "moments", X, correction=number)
    refused(TypeError, ["ddof", got], "standardize", X, ddof=number)

# --- where

for function in ["normalize", "moments", "batch_norm", "standardize"]:
    refused(TypeError, ["where", "float64", "bool"], function, X, where=np.ones((4, 6)))
    refused(TypeError, ["where", "int64", "bool"], function, X, where=np.ones((4, 6), int))
    refused(ValueError, ["where", r"\(3, 6\)", r"\(4, 6\)"], function, X, where=MASK[:3])
    refused(ValueError, ["where", r"\(1, 4, 6\)", r"\(4, 6\)"], function, X, where=MASK[None])
    refused(ValueError, ["where", r"\b0\b|all|every"], function, X, where=False)
refused(ValueError, ["where", r"\(3, 6\)"], "normalize_backward", X, X, STATS, where=MASK[:3])
refused(TypeError, ["where", "float64"], "batch_norm_backward", X, X, CHANNELS, where=np.ones((4, 6)))

# --- dy and stats

for dy in [X[:3], X[:1], X.T, X[0], X[None]]:
    got = re.escape(str(dy.shape))
    refused(ValueError, ["dy", got, r"\(4, 6\)"], "normalize_backward", dy, X, STATS)
    refused(ValueError, ["dy", got, r"\(4, 6\)"], "layer_norm_backward", dy, X, STATS)
    refused(ValueError, ["dy", got, r"\(4, 6\)"], "batch_norm_backward", dy, X, CHANNELS)
    refused(ValueError, ["dw", got, r"\(4, 6\)"], "weight_norm_backward", dy, X, ones(4))
refused(TypeError, ["dy", "complex"], "normalize_backward", X * 1j, X, STATS)
for name, bad in [("mean", Stats(MEAN[:3], RSTD)), ("rstd", Stats(MEAN, RSTD[:3]))]:
    refused(ValueError, [name, r"\(3, 1\)", r"\(4, 1\)"], "normalize_backward", X, X, bad)
    refused(ValueError, [name, r"\(3, 1\)", r"\(4, 1\)"], "layer_norm_backward", X, X, bad)
for name, bad in [("mean", Stats(MEAN[:, 0], RSTD)), ("rstd", Stats(MEAN, RSTD[:, 0]))]:
    refused(ValueError, [name, r"\(4,\)", r"\(4, 1\)"], "normalize_backward", X, X, bad)
for name, bad in [("mean", Stats(None, RSTD)), ("rstd", Stats(MEAN, None))]:
    refused(EITHER, [name, "None"], "normalize_backward", X, X, bad)
    refused(EITHER, [name, "None"], "layer_norm_backward", X, X, bad)
for name, bad in [("mean", Stats(MEAN * 1j, RSTD)), ("rstd", Stats(MEAN, RSTD * 1j))]:
    refused(TypeError, [name, "complex"], "normalize_backward", X, X, bad)
refused(TypeError, ["stats", "None"], "normalize_backward", X, X, None)
refused(ValueError, ["mean", r"\(4, 1\)", r"\(6,\)"], "batch_norm_backward", X, X, STATS)
refused(ValueError, ["mean", r"\(6,\)", r"\(4, 6\)"], "instance_norm_backward", IMAGES, IMAGES, CHANNELS)
refused(ValueError, ["mean", r"\(4, 1\)", r"\(4, 2\)"], "group_norm_backward", X, X, STATS, 2)

# --- Channels, groups, dimensions

for axis, kind, got in [(0, ValueError, r"\b0\b"), (5, ValueError, "5"), (-5, ValueError, "-5"),
                        (1.0, TypeError, r"1\.0|float"), ((1,), TypeError, r"\(1,\)|tuple")]:  # fmt: skip
    refused(kind, ["channel_axis", got], "batch_norm", X, channel_axis=axis)
    refused(kind, ["channel_axis", got], "group_norm", X, 2, channel_axis=axis)
    refused(kind, ["channel_axis", got], "instance_norm", IMAGES, channel_axis=axis)
    refused(kind, ["channel_axis", got], "mean_only_batch_norm", X, channel_axis=axis)
    refused(kind, ["channel_axis", got], "batch_norm_backward", X, X, CHANNELS, channel_axis=axis)
refused(ValueError, ["channel_axis", "-2"], "batch_norm", X, channel_axis=-2)
for function in ["batch_norm", "mean_only_batch_norm"]:
    refused(ValueError, [r"\bx\b", "dimension|shape|axes", "2"], function, ones(6))
refused(ValueError, [r"\bx\b", "dimension|shape|axes", "2"], "group_norm", ones(6), 2)
refused(ValueError, [r"\bx\b", "dimension|shape|axes", "3"], "instance_norm", X)
for groups in [0, -1, 4, 7]:
    refused(ValueError, ["num_groups", str(groups)], "group_norm", X, groups)
    refused(ValueError, ["num_groups", str(groups)], "group_norm_backward", X, X, STATS, groups)
refused(ValueError, ["num_groups", "4", "6"], "group_norm", X, 4)
refused(TypeError, ["num_groups", r"2\.0|float"], "group_norm", X, 2.0)


@pytest.mark.parametrize(("kind", "patterns", "function", "args", "kwargs"), CASES)
def test_error(kind, patterns, function, args, kwargs):
    with pytest.raises(kind) as info:
        getattr(fastnorm, function)(*args, **kwargs)
    message = str(info.value)
    for pattern in patterns:
        assert re.search(pattern, message), f"{pattern!r} is not in {message!r}"
    assert message
    assert "\n" not in message, "more than one line"
    assert ". " not in message, "more than one sentence"
    assert len(message) < 200
