"""Every error: one sentence that names the argument, what it got and what it needs, before anything is written."""

import re

import numpy as np
import pytest

import fastnorm
from fastnorm import reference

Stats = reference.Stats
X = np.arange(24, dtype=np.float32).reshape(4, 6) ** 1.5
IMAGES = np.arange(4 * 6 * 5, dtype=np.float32).reshape(4, 6, 5) ** 1.5
STATS = reference.normalize(X, return_stats=True)[1]
CHANNEL_STATS = reference.batch_norm(X, return_stats=True)[1]
ONES, ZEROS = np.ones(6, np.float32), np.zeros(6, np.float32)
MASK = np.ones((4, 6), bool)




ERRORS = {}


def error(name, call, kind, *patterns):
    """`call` raises `kind`, and every pattern is found in the message."""
    assert name not in ERRORS
    ERRORS[name] = (call, kind, patterns)


# --- x

for bad in (np.ones((2, 3), np.complex64), np.array([[object()]]), np.array([["a"]]), np.array(["2020"], "M8[D]")):
    kind = bad.dtype.kind
    error(f"normalize x {kind}", lambda b=bad: fastnorm.normalize(b), TypeError, r"\bx\b", str(bad.dtype)[:6])
    error(f"moments x {kind}", lambda b=bad: fastnorm.moments(b), TypeError, r"\bx\b", str(bad.dtype)[:6])
    error(f"batch_norm x {kind}", lambda b=bad: fastnorm.batch_norm(b), (TypeError, ValueError), r"\bx\b")
error("weight_norm v complex", lambda: fastnorm.weight_norm(X * 1j, np.ones(4)), TypeError, r"\bv\b", "complex")
error("structured", lambda: fastnorm.normalize(np.zeros(3, "f4,f4")), TypeError, r"\bx\b")

# --- axis

error("axis too large", lambda: fastnorm.normalize(X, 2), ValueError, "axis", r"\b2\b")
error("axis too small", lambda: fastnorm.normalize(X, -3), ValueError, "axis", "-3")
error("axis repeated", lambda: fastnorm.normalize(X, (1, 1)), ValueError, "axis", r"\(1, 1\)|repeat")
error("axis repeated by its negative", lambda: fastnorm.normalize(X, (1, -1)), ValueError, "axis")
error("axis empty", lambda: fastnorm.normalize(X, ()), ValueError, "axis", r"\(\)|empty")
error("axis a float", lambda: fastnorm.normalize(X, 1.0), TypeError, "axis", r"1\.0|float")
error("axis None", lambda: fastnorm.normalize(X, None), TypeError, "axis", "None")
error("axis a string", lambda: fastnorm.normalize(X, "1"), TypeError, "axis", "1|str")
error("axis of 0-d", lambda: fastnorm.normalize(np.float32(1)), ValueError, "axis|dimension")
error("moments axis too large", lambda: fastnorm.moments(X, 5), ValueError, "axis", r"\b5\b")
error("moments axis empty", lambda: fastnorm.moments(X, ()), ValueError, "axis", r"\(\)|empty")
error("moments axis repeated", lambda: fastnorm.moments(X, (0, 0)), ValueError, "axis")
error("layer axis too large", lambda: fastnorm.layer_norm(X, axis=2), ValueError, "axis", r"\b2\b")
error("layer axis empty", lambda: fastnorm.layer_norm(X, axis=()), ValueError, "axis")
error("layer axis repeated", lambda: fastnorm.layer_norm(X, axis=(0, -2)), ValueError, "axis")
error("rms axis too large", lambda: fastnorm.rms_norm(X, axis=7), ValueError, "axis", r"\b7\b")
error("weight_norm axis too large", lambda: fastnorm.weight_norm(X, ONES, axis=2), ValueError, "axis", r"\b2\b")
error("backward axis", lambda: fastnorm.normalize_backward(X, X, STATS, 3), ValueError, "axis", r"\b3\b")
error("l2 axis", lambda: fastnorm.l2_normalize(X, 4), ValueError, "axis", r"\b4\b")
error("standardize axis", lambda: fastnorm.standardize(X, 4), ValueError, "axis", r"\b4\b")

# --- Size 0

E = np.empty((3, 0), np.float32)
for name, call in {
    "normalize": lambda: fastnorm.normalize(E),
    "moments": lambda: fastnorm.moments(E, 1),
    "moments of all": lambda: fastnorm.moments(E),
    "layer_norm": lambda: fastnorm.layer_norm(E),
    "rms_norm": lambda: fastnorm.rms_norm(E),
    "standardize": lambda: fastnorm.standardize(E, 1),
    "instance_norm": lambda: fastnorm.instance_norm(np.empty((2, 3, 0), np.float32)),
    "group_norm": lambda: fastnorm.group_norm(np.empty((2, 4, 0), np.float32), 2),
    "batch_norm": lambda: fastnorm.batch_norm(np.empty((2, 3, 0), np.float32)),
    "batch_norm of no case": lambda: fastnorm.batch_norm(np.empty((0, 3), np.float32)),
    "mean_only of no case": lambda: fastnorm.mean_only_batch_norm(np.empty((0, 3), np.float32)),
}.items():
    error(f"size 0: {name}", call, ValueError, r"\bx\b|axis|batch", r"\b0\b|empty|no element")

# --- weight and bias

for p in ("weight", "bias"):
    def bad(function, shape, p=p, **options):
        return lambda: function(X if function is not fastnorm.instance_norm else IMAGES,
                                **{p: np.ones(shape, np.float32)}, **options)  # fmt: skip

    error(f"{p} of another size", bad(fastnorm.normalize, 5), ValueError, p, r"\(5,\)", r"\(4, 6\)")
    error(f"{p} that enlarges x", bad(fastnorm.normalize, (2, 4, 6)), ValueError, p, r"\(2, 4, 6\)", r"\(4, 6\)")
    error(f"{p} that enlarges x by a 1", bad(fastnorm.normalize, (1, 4, 6)), ValueError, p, r"\(1, 4, 6\)")
    error(f"{p} layer", bad(fastnorm.layer_norm, 4), ValueError, p, r"\(4,\)", r"\(6,\)")
    error(f"{p} layer with a 1 before", bad(fastnorm.layer_norm, (1, 6)), ValueError, p, r"\(1, 6\)", r"\(6,\)")
    error(f"{p} layer scalar", bad(fastnorm.layer_norm, ()), ValueError, p, r"\(\)", r"\(6,\)")
    error(f"{p} layer, axes reversed", bad(fastnorm.layer_norm, (4, 6), axis=(1, 0)), ValueError, p, r"\(6, 4\)")
    error(f"{p} batch", bad(fastnorm.batch_norm, 4), ValueError, p, r"\(4,\)", r"\(6,\)")
    error(f"{p} batch of size 1", bad(fastnorm.batch_norm, 1), ValueError, p, r"\(1,\)", r"\(6,\)")
    error(f"{p} batch laid out", bad(fastnorm.batch_norm, (1, 6)), ValueError, p, r"\(1, 6\)", r"\(6,\)")
    error(f"{p} instance", bad(fastnorm.instance_norm, 5), ValueError, p, r"\(5,\)", r"\(6,\)")
    error(f"{p} group", bad(fastnorm.group_norm, 2, num_groups=2), ValueError, p, r"\(2,\)", r"\(6,\)")
    for dtype in ("complex64", "O", "U1"):
        def call(p=p, dtype=dtype):
            return fastnorm.normalize(X, **{p: np.ones(6, dtype)})

        error(f"{p} {dtype}", call, TypeError, p, {"complex64": "complex64", "O": "object", "U1": "U1|str"}[dtype])
error("rms weight", lambda: fastnorm.rms_norm(X, np.ones(5)), ValueError, "weight", r"\(5,\)", r"\(6,\)")
error("g of another size", lambda: fastnorm.weight_norm(X, np.ones(6)), ValueError, r"\bg\b", r"\(6,\)", r"\(4,\)")
error("g scalar", lambda: fastnorm.weight_norm(X, 1.0), ValueError, r"\bg\b", r"\(\)", r"\(4,\)")
error("g complex", lambda: fastnorm.weight_norm(X, np.ones(4) * 1j), TypeError, r"\bg\b", "complex128")
error(
    "mean-only bias", lambda: fastnorm.mean_only_batch_norm(X, np.ones(4)), ValueError, "bias", r"\(4,\)", r"\(6,\)"
)

# --- eps, momentum, correction

for function in (fastnorm.normalize, fastnorm.layer_norm, fastnorm.rms_norm, fastnorm.batch_norm,
                 fastnorm.l2_normalize, fastnorm.standardize):  # fmt: skip
    name = function.__name__
    error(f"{name} eps negative", lambda f=function: f(X, eps=-1e-5), ValueError, "eps", "-1e-05")
    error(f"{name} eps NaN", lambda f=function: f(X, eps=np.nan), ValueError, "eps", "nan")
    error(f"{name} eps a string", lambda f=function: f(X, eps="1"), TypeError, "eps", "1|str")
error("instance eps", lambda: fastnorm.instance_norm(IMAGES, eps=-1.0), ValueError, "eps", "-1")
error("group eps", lambda: fastnorm.group_norm(X, 2, eps=np.nan), ValueError, "eps", "nan")
for momentum in (np.nan, np.inf, -np.inf):
    def call(m=momentum):
        return fastnorm.batch_norm(X, running_mean=ZEROS.copy(), running_var=ONES.copy(), momentum=m)

    error(f"momentum {momentum}", call, ValueError, "momentum", str(momentum))
error("momentum a string", lambda: fastnorm.batch_norm(X, momentum="a"), TypeError, "momentum", "a|str")
error(
    "mean-only momentum",
    lambda: fastnorm.mean_only_batch_norm(X, running_mean=ZEROS.copy(), momentum=np.nan),
    ValueError, "momentum", "nan",
)  # fmt: skip
error("correction a string", lambda: fastnorm.moments(X, correction="1"), TypeError, "correction", "1|str")
error("correction complex", lambda: fastnorm.moments(X, correction=1j), TypeError, "correction", "1j|complex")

# --- where

error("where floats", lambda: fastnorm.normalize(X, where=np.ones((4, 6))), TypeError, "where", "float64", "bool")
error("where ints", lambda: fastnorm.moments(X, where=np.ones((4, 6), int)), TypeError, "where", "int64", "bool")
error("where of another shape", lambda: fastnorm.normalize(X, where=MASK[:3]), ValueError, "where", r"\(3, 6\)", r"\(4, 6\)")
error("where that enlarges x", lambda: fastnorm.normalize(X, where=MASK[None]), ValueError, "where", r"\(1, 4, 6\)")
error("where batch", lambda: fastnorm.batch_norm(X, where=np.ones(5, bool)), ValueError, "where", r"\(5,\)")
error("where all False", lambda: fastnorm.normalize(X, where=np.array(False)), ValueError, "where", r"\b0\b")

# --- dy and stats

error("dy of another shape", lambda: fastnorm.normalize_backward(X[:3], X, STATS), ValueError, "dy", r"\(3, 6\)", r"\(4, 6\)")
error("dy that broadcasts", lambda: fastnorm.normalize_backward(X[:1], X, STATS), ValueError, "dy", r"\(1, 6\)")
error("dy complex", lambda: fastnorm.normalize_backward(X * 1j, X, STATS), TypeError, "dy", "complex")
for function in (fastnorm.layer_norm_backward, fastnorm.rms_norm_backward):
    error(f"dy {function.__name__}", lambda f=function: f(X.T, X, STATS), ValueError, "dy", r"\(6, 4\)", r"\(4, 6\)")
error("dy batch", lambda: fastnorm.batch_norm_backward(X.T, X, CHANNEL_STATS), ValueError, "dy", r"\(6, 4\)")
error("dw", lambda: fastnorm.weight_norm_backward(X.T, X, np.ones(4)), ValueError, "dw", r"\(6, 4\)", r"\(4, 6\)")
error("stats.mean shape", lambda: fastnorm.normalize_backward(X, X, Stats(STATS.mean[:3], STATS.rstd)), ValueError, "mean", r"\(3, 1\)", r"\(4, 1\)")  # fmt: skip
error("stats.rstd shape", lambda: fastnorm.normalize_backward(X, X, Stats(STATS.mean, STATS.rstd[:, 0])), ValueError, "rstd", r"\(4,\)", r"\(4, 1\)")  # fmt: skip
error("stats.mean missing", lambda: fastnorm.normalize_backward(X, X, Stats(None, STATS.rstd)), (ValueError, TypeError), "mean", "None")  # fmt: skip
error("stats.rstd missing", lambda: fastnorm.normalize_backward(X, X, Stats(STATS.mean, None)), (ValueError, TypeError), "rstd", "None")  # fmt: skip
error("stats.rstd complex", lambda: fastnorm.normalize_backward(X, X, Stats(STATS.mean, STATS.rstd * 1j)), TypeError, "rstd", "complex")  # fmt: skip
error("stats batch", lambda: fastnorm.batch_norm_backward(X, X, STATS), ValueError, "mean", r"\(4, 1\)", r"\(6,\)")
error("stats instance", lambda: fastnorm.instance_norm_backward(IMAGES, IMAGES, CHANNEL_STATS), ValueError, "mean", r"\(6,\)", r"\(4, 6\)")  # fmt: skip
error("stats group", lambda: fastnorm.group_norm_backward(X, X, STATS, 2), ValueError, "mean", r"\(4, 1\)", r"\(4, 2\)")
error("stats not stats", lambda: fastnorm.normalize_backward(X, X, None), TypeError, "stats", "None")

# --- Layouts

for name, call in {
    "batch_norm": lambda a: fastnorm.batch_norm(X, channel_axis=a),
    "group_norm": lambda a: fastnorm.group_norm(X, 2, channel_axis=a),
    "instance_norm": lambda a: fastnorm.instance_norm(IMAGES, channel_axis=a),
    "mean_only_batch_norm": lambda a: fastnorm.mean_only_batch_norm(X, channel_axis=a),
    "batch_norm_backward": lambda a: fastnorm.batch_norm_backward(X, X, CHANNEL_STATS, channel_axis=a),
}.items():
    for axis in (0, 5, -5):
        error(f"{name} channel_axis {axis}", lambda c=call, a=axis: c(a), ValueError, "channel_axis", str(axis))
    error(f"{name} channel_axis 1.0", lambda c=call: c(1.0), TypeError, "channel_axis", r"1\.0|float")
error("batch channel_axis is the batch", lambda: fastnorm.batch_norm(X, channel_axis=-2), ValueError, "channel_axis", "-2")
for name, call, need in [
    ("batch_norm", lambda: fastnorm.batch_norm(ONES), "2"),
    ("mean_only_batch_norm", lambda: fastnorm.mean_only_batch_norm(ONES), "2"),
    ("group_norm", lambda: fastnorm.group_norm(ONES, 2), "2"),
    ("instance_norm", lambda: fastnorm.instance_norm(X), "3"),
]:
    error(f"{name} dimensions", call, ValueError, r"\bx\b", "dimension|shape", need)
for groups in (0, -1, 4, 7):
    error(f"num_groups {groups}", lambda g=groups: fastnorm.group_norm(X, g), ValueError, "num_groups", str(groups))
error("num_groups a float", lambda: fastnorm.group_norm(X, 2.0), TypeError, "num_groups", r"2\.0|float")
error("num_groups backward", lambda: fastnorm.group_norm_backward(X, X, STATS, 4), ValueError, "num_groups", "4", "6")


@pytest.mark.parametrize("name", ERRORS)
def test_message(name):
    call, kind, patterns = ERRORS[name]
    with pytest.raises(kind) as info:
        call()
    message = str(info.value)
    for pattern in patterns:
        assert re.search(pattern, message), f"{pattern!r} is not in {message!r}"
    assert message and "\n" not in message and ". " not in message, f"not one sentence: {message!r}"
    assert len(message) < 200
