"""What must hold of every case: right by the oracle, inputs untouched, the same bits on threads and tiers."""

import numpy as np
from fuzz_cases import Call
from tolerances import (
    FLOAT32,
    FLOAT64,
    assert_close,
    dx_scale,
    largest,
    parameter_scales,
    stats_dtype,
    y_scale,
)

import fastnorm
from fastnorm import _norm, reference

WORTH_THREADS = 1 << 18  # bytes of x below which everything runs on one thread anyway
# the least normal number: eps of it is the distance between denormal ones, in which rounding is counted there
FLOOR = {d: float(np.finfo(d).smallest_normal) for d in (FLOAT32, FLOAT64)}
NO_EPS = ("weight_norm", "mean_only_batch_norm", "moments")


def check(case):
    """Raise AssertionError if anything is wrong with what fastnorm makes of this case."""
    call = Call(case)
    before = [None if a is None else a.tobytes() for a in inputs(call)]
    try:
        with fastnorm.num_threads(1):
            results = run(fastnorm, call)
    except ValueError:
        if has_no_variance(call) or 0 in case["shape"]:
            return
        raise
    for name, a, old in zip(INPUTS, inputs(call), before, strict=True):
        assert a is None or a is call.out or a.tobytes() == old, f"{name} was written"
    check_beside_out(call, results["y"] if call.out is not None else None)
    check_dtypes(call, results)
    if 0 in case["shape"]:
        return
    check_close(call, results)
    for what, again in others(call):
        assert_same_bits(again, results, what)


def has_no_variance(call):
    """Whether running_var is to move by the variance of one value, which is an error."""
    return "running_var" in call.running and call.x.size == len(call.running["running_var"])


INPUTS = ("x", "dy", "weight", "bias", "where")


def inputs(call):
    return [getattr(call, name) for name in INPUTS]


# ---- running -----------------------------------------------------------------------------------------------


def run(module, call):
    """Everything that the function and its backward return, by name; None is left out."""
    f, options, x, dy = call.function, call.options, call.x, call.dy
    with_out = {"out": call.out} if call.out is not None and module is fastnorm else {}
    where = call.given_where if module is fastnorm else call.where
    if f == "moments":
        return named(module.moments(x, where=where, **options)._asdict())
    if f == "standardize":
        return {"y": module.standardize(x, where=where, **with_out, **options)}
    if f == "l2_normalize":
        return {"y": module.l2_normalize(x, **with_out, **options)}
    if f == "weight_norm":
        dv, dg = module.weight_norm_backward(dy, x, call.g, **options)
        return {"y": module.weight_norm(x, call.g, **options), "dx": dv, "dweight": dg}
    if f == "mean_only_batch_norm":
        return run_mean_only(module, call)
    if f == "batch_norm":
        return run_batch(module, call, with_out)

    params = {"weight": call.weight} if f == "rms_norm" else {"weight": call.weight, "bias": call.bias}
    more = {"where": where} if f == "normalize" else {}
    given = call.x.copy() if with_out and call.out is call.x else x  # the backward needs x as it was
    y, stats = getattr(module, f)(x, **params, **more, **options, **with_out, return_stats=True)
    if f == "normalize":
        more["bias"] = call.bias
    back = {k: v for k, v in options.items() if k != "eps"} | {"weight": call.weight}
    grads = getattr(module, f + "_backward")(dy, given, stats, **back, **more)
    return named({"y": y, **stats._asdict(), **grads._asdict()})


def run_batch(module, call, with_out):
    options = {k: v for k, v in call.options.items() if k not in ("eps", "momentum")}
    training = call.case["running"] != "evaluation"
    where = call.given_where if module is fastnorm else call.where
    running = {k: a.copy() for k, a in call.running.items()}
    given = call.x.copy() if with_out and call.out is call.x else call.x
    y, stats = module.batch_norm(
        call.x, call.weight, call.bias, **running, **call.options, training=training, where=where,
        return_stats=True, **with_out,
    )  # fmt: skip
    grads = module.batch_norm_backward(
        call.dy, given, stats, call.weight, training=training, where=where, **options
    )
    return named({"y": y, **stats._asdict(), **grads._asdict(), **running})


def run_mean_only(module, call):
    training = call.case["running"] != "evaluation"
    channel = {"channel_axis": call.options["channel_axis"]}
    running = {k: a.copy() for k, a in call.running.items()}
    y = module.mean_only_batch_norm(call.x, call.bias, **running, training=training, **call.options)
    dx, dbias = module.mean_only_batch_norm_backward(call.dy, training=training, **channel)
    return {"y": y, "dx": dx, "dbias": dbias, **running}


def named(results):
    return {k: v for k, v in results.items() if v is not None}


def others(call):
    """The same call on other threads and tiers, and with arrays one byte further on."""
    worth = call.x.nbytes >= WORTH_THREADS
    for threads in (2, 7) if worth else (2,):
        with fastnorm.num_threads(threads):
            yield f"{threads} threads", run(fastnorm, Call(call.case))
    yield "one byte further", run(fastnorm, Call(call.case, shift=1))
    before = fastnorm.isa()
    try:
        for tier in fastnorm.isa_tiers():
            if tier != before:
                _norm.set_isa(tier)
                yield tier, run(fastnorm, Call(call.case))
    finally:
        _norm.set_isa(before)


# ---- judging -----------------------------------------------------------------------------------------------


def assert_same_bits(actual, expected, what):
    """Bit by bit, but any NaN is as good as another."""
    for name, e in expected.items():
        a, e = np.asarray(actual[name]), np.asarray(e)
        assert a.dtype == e.dtype
        if a.tobytes() != e.tobytes():
            bits = f"u{a.itemsize}"
            a, e = np.ascontiguousarray(a), np.ascontiguousarray(e)
            same = (a.view(bits) == e.view(bits)) | (np.isnan(a) & np.isnan(e))
            assert same.all(), f"{name}: {what} changes {(~same).sum()} of {same.size}"


def check_beside_out(call, y):
    """Between the elements of `out` stands what stood there."""
    if y is None:
        return
    assert y is call.out, "out was not returned"
    result = y.copy()
    y[...] = np.nan
    assert np.isnan(call.out_memory).all(), "something beside out was written"
    y[...] = result


def check_dtypes(call, results):
    for name, a in results.items():
        if name.startswith("running"):
            assert a.dtype == call.running[name].dtype, name
        else:
            assert a.dtype == (call.dtype if name in ("y", "dx") else stats_dtype(call.dtype)), name
    for name in ("y", "dx"):
        assert name not in results or results[name].shape == call.shape, name


def close(actual, expected, what, scale, forgiving=False):
    """`assert_close` with a scale that need not be finite; forgiving: infinity is as good as NaN."""
    actual, expected = np.asarray(actual), np.asarray(expected, np.float64)
    scale = np.nan_to_num(np.asarray(scale, np.float64), nan=0, posinf=0, neginf=0)
    if forgiving:
        lost = ~np.isfinite(expected)
        assert not np.isfinite(actual[lost]).any(), f"{what}: a number where there is none"
        actual, expected = actual.copy(), expected.copy()
        actual[lost], expected[lost] = 0, 0
    assert actual.shape == expected.shape, f"{what} has shape {actual.shape}, expected {expected.shape}"
    # flat: NumPy names no place in more than 32 dimensions
    assert_close(actual.ravel(), expected.ravel(), what, np.broadcast_to(scale, actual.shape).ravel())


@np.errstate(all="ignore")
def check_close(call, actual):
    """Every result against the oracle, on the scale of what was rounded."""
    f, shape, axes = call.function, call.shape, call.axes
    plain = Call({**call.case, "swapped": False})
    x, dy = (np.asarray(a, np.float64).reshape(call.full_shape) for a in (plain.x, plain.dy))
    expected = run(reference, plain)
    where = True if call.where is None else call.where
    back = lambda a: np.broadcast_to(a, call.full_shape).reshape(shape)  # noqa: E731

    if f == "moments":
        kept = np.shape(expected["mean"])
        close(actual["mean"], expected["mean"], "mean", largest(x, axes, where).reshape(kept))
        denormal = call.case["values"] == "denormal"  # whose squares are 0, and n <= correction divides by 0
        close(actual["var"], expected["var"], "var", np.abs(expected["var"]), denormal)
        return
    if f in ("standardize", "l2_normalize"):
        close(actual["y"], expected["y"], "y", largest(expected["y"], axes))
        return
    if f == "weight_norm":
        check_weight_norm(call, actual, expected, x, dy)
        return
    check_running(call, actual, expected, x, axes, where)
    if call.case.get("running") == "evaluation":
        check_evaluation(call, actual, expected, x, dy, axes)
        return

    weight, bias = call.lay(call.weight), call.lay(call.bias)
    options = {"with_mean": f != "rms_norm", "with_std": f != "mean_only_batch_norm", "where": call.where}
    options |= {k: v for k, v in call.options.items() if k.startswith("with_")}
    if f not in NO_EPS:
        options["eps"] = call.options.get("eps", 1e-6 if f == "rms_norm" else 1e-5)
    # where only the mean is taken, infinity may leave infinity or NaN
    # an xhat is right to eps of the largest of its slice, whatever weight that one has
    size = y_scale(x, axes, **options) * (1 if weight is None else np.abs(np.asarray(weight, np.float64)))
    size = (
        size + y_scale(x, axes, weight, bias, **options) + FLOOR[stats_dtype(call.dtype)] * largest_of(weight)
    )
    close(actual["y"], expected["y"], "y", back(size), not options["with_std"])
    if "mean" in actual:
        size = largest(x, axes, where).reshape(actual["mean"].shape)
        close(actual["mean"], expected["mean"], "mean", size)
    if "rstd" in actual:
        close(actual["rstd"], expected["rstd"], "rstd", np.abs(expected["rstd"]))

    check_gradients(call, actual, x, dy, weight, bias, options)


def check_gradients(call, actual, x, dy, weight, bias, options):
    """dx, dweight and dbias, where the statistics are within the range of their dtype."""
    f, axes, where = call.function, call.axes, call.where
    _, exact = reference.normalize(x, axes, **options, return_stats=True)
    lost = np.zeros(call.full_shape, bool)
    for s in exact:
        if s is not None:
            lost |= ~held_in(s, stats_dtype(call.dtype))
    # from the oracle's own statistics, around a mean of 0: the mean as stored is rounded
    if exact.mean is not None:
        x = reference.normalize(x, axes, with_std=False, where=where)
        exact = reference.Stats(np.zeros_like(exact.mean), exact.rstd)
    shape_of_bias = bias if f == "normalize" else None
    if f == "mean_only_batch_norm":
        shape_of_bias = call.lay(np.zeros(actual["dbias"].shape))
    keys = {k: v for k, v in options.items() if k != "eps"}
    right = reference.normalize_backward(dy, x, exact, axes, weight, shape_of_bias, **keys)
    size = dx_scale(dy, x, exact, axes, weight, where)
    dx = actual["dx"].reshape(call.full_shape)
    if exact.rstd is None:  # dx = dy - mean(dy), whatever x and its mean are
        close(dx, right.dx, "dx", size, True)
    close(np.where(lost, 0, dx).astype(dx.dtype), np.where(lost, 0, right.dx), "dx", size, True)

    scales = parameter_scales(dy, x, exact, axes, weight, shape_of_bias, where)
    rstd = 1 if exact.rstd is None else np.where(held_in(exact.rstd, FLOAT64), exact.rstd, 0).max()
    floor = FLOOR[stats_dtype(call.dtype)] * rstd * np.nansum(np.abs(dy))
    scales = [None if s is None else s + floor for s in scales]
    for name, total, size in zip(("dweight", "dbias"), right[1:], scales, strict=True):
        assert (total is None) == (name not in actual), name
        if total is None:
            continue
        full = (1,) * (lost.ndim - total.ndim) + total.shape
        reached = tuple(i for i, n in enumerate(full) if n == 1)
        keep = ~lost.any(axis=reached, keepdims=True).reshape(total.shape)
        keep, total, size = (gather(call, a, actual[name].shape) for a in (keep, total, size))
        close(actual[name][keep], total[keep], "total", size[keep], True)


def held_in(a, dtype):
    """Where statistics of this dtype can stand for these: not infinite, not NaN, and rstd not denormal."""
    info = np.finfo(dtype)
    return np.isfinite(a) & (np.abs(a) <= info.max) & ((a == 0) | (np.abs(a) >= info.smallest_normal))


def largest_of(p):
    return 1 if p is None or not np.size(p) else np.nan_to_num(np.abs(np.asarray(p, np.float64))).max()


def gather(call, a, shape):
    """The inverse of `Call.lay`."""
    if call.function in ("normalize", "group_norm"):
        return a.reshape(shape)
    axes = call.options.get("axis", call.options.get("channel_axis"))
    axes = [i % len(call.shape) for i in np.atleast_1d(axes)]
    return np.moveaxis(a, axes, range(len(axes))).reshape(shape)


def check_running(call, actual, expected, x, axes, where):
    momentum = abs(call.options.get("momentum", 0.1))
    for name, old in call.running.items():
        if call.case["running"] == "evaluation":
            assert actual[name].tobytes() == old.tobytes(), f"{name} was written"
            continue
        batch = reference.moments(x, axes, correction=1, where=call.where)
        term = largest(x, axes, where).reshape(old.shape) if name == "running_mean" else np.abs(batch.var)
        size = np.abs(expected[name]) + (1 + momentum) * np.abs(old.astype(np.float64)) + momentum * term
        close(actual[name], expected[name], "y" if old.dtype.itemsize == 2 else "var", size)


def check_evaluation(call, actual, expected, x, dy, axes):
    """Running statistics: (x - mean) rounds in proportion to the larger of the two."""
    mean = call.lay(call.running["running_mean"]).astype(np.float64)
    rstd = call.lay(expected["rstd"]) if "rstd" in expected else 1.0
    weight = 1 if call.weight is None else np.abs(call.lay(call.weight).astype(np.float64))
    bias = 0 if call.bias is None else np.abs(call.lay(call.bias).astype(np.float64))
    size = (np.abs(x) + np.abs(mean)) * rstd * weight + bias
    # an xhat beyond the compute dtype is infinite, also where a small weight would bring it back
    held = np.abs(x - mean) * rstd <= np.finfo(stats_dtype(call.dtype)).max
    held = (held | ~np.isfinite(x * mean * rstd)).reshape(call.shape)
    y = np.where(held, actual["y"], 0).astype(call.dtype)
    close(y, np.where(held, expected["y"], 0), "y", largest(size, axes))
    close(actual["dx"], expected["dx"], "dx", largest(dy * weight * rstd, axes))
    for name in ("mean", "rstd"):
        if name in actual:
            close(actual[name], expected[name], name, np.abs(expected[name]))
    masked = np.where(True if call.where is None else call.where, np.abs(dy), 0)
    if "dbias" in actual:
        close(actual["dbias"], expected["dbias"], "total", masked.sum(axes), True)
    if "dweight" in actual:
        terms = np.where(masked > 0, masked * (np.abs(x) + np.abs(mean)) * rstd, 0)
        close(actual["dweight"], expected["dweight"], "total", terms.sum(axes), True)


def check_weight_norm(call, actual, expected, v, dw):
    axes = call.axes
    close(actual["y"], expected["y"], "y", largest(expected["y"], axes))
    size = largest(v, axes)
    norm = np.sqrt(((v / size) ** 2).sum(axes, keepdims=True)) * size
    held = held_in(1 / norm, stats_dtype(call.dtype))  # the backward goes through 1 / norm
    unit = np.abs(reference.l2_normalize(v, axes))
    g = np.abs(call.lay(call.g).astype(np.float64))
    along = (np.abs(dw) * unit).sum(axes, keepdims=True)
    size = largest(g / norm * (np.abs(dw) + unit * along), axes)
    dv = np.where(held, actual["dx"], 0).astype(call.dtype)
    close(dv, np.where(held, expected["dx"], 0), "dx", size, True)
    shape = actual["dweight"].shape
    held, along = gather(call, held, shape), gather(call, along, shape)
    close(actual["dweight"][held], expected["dweight"][held], "total", along[held], True)
