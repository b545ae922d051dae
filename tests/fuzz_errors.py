"""Calls with one argument that cannot be used: each raises a sentence that names it, and writes nothing."""

import numpy as np
from fuzz_cases import BY_CHANNEL, TAKES_BIAS, TAKES_EPS, TAKES_OUT, TAKES_WEIGHT, TAKES_WHERE, Call
from fuzz_checks import has_no_variance

import fastnorm

WRONG = (TypeError, ValueError)
DTYPES = ["complex64", "O", "U3", "M8[s]", "f4,i4"]


def check_errors(case):
    """Break the arguments of this case, one at a time; returns how many ways there were."""
    if 0 in case["shape"] or has_no_variance(Call(case)):
        return 0
    broken = list(breaks(Call({**case, "swapped": False, "special": []})))
    for name, value in broken:
        call = Call({**case, "swapped": False, "special": []})
        args, kwargs = arguments(call)
        kwargs |= {name: value} if name != "x" else {}
        written = [a for a in (call.out_memory, *call.running.values()) if a is not None]
        before = [a.tobytes() for a in written]
        what = f"{call.function}({name}={brief(value)})"
        try:
            getattr(fastnorm, call.function)(*((value, *args[1:]) if name == "x" else args), **kwargs)
        except WRONG as error:
            text = str(error)
            said = "v" if name == "x" and call.function == "weight_norm" else name
            assert text.startswith(said) or f"'{said}'" in text, f"{what}: {text!r}"
            assert "\n" not in text, f"{what}: {text!r}"
        else:
            raise AssertionError(f"{what} was accepted")
        assert [a.tobytes() for a in written] == before, f"{what}: written before the error"
    return len(broken) + check_backward_errors(Call({**case, "swapped": False, "special": []}))


def check_backward_errors(call):
    """The same for dy and stats of the backward."""
    f, x, shape = call.function, call.x, call.shape
    if f not in TAKES_WEIGHT:
        return 0
    _, stats = getattr(fastnorm, f)(x, **call.options, return_stats=True)
    options = {k: v for k, v in call.options.items() if k not in ("eps", "momentum")}
    bad_dy = [a for _, a in bad_arrays(shape, "dy")]
    bad_dy += [np.zeros((*shape[:-1], shape[-1] + 1), x.dtype), None, [[1], [2, 3]], "dy"]
    bad_dy += [np.zeros(shape, np.float32 if x.dtype != np.float32 else np.float64)]
    bad_stats = [None, 1, (), (*stats, None)]
    if any(s is not None for s in stats):
        spoilt = [lambda s: None, lambda s: s[..., None] if s.ndim < 64 else s[0], lambda s: s.astype("U9")]
        bad_stats += [type(stats)(*(s if s is None else spoil(s) for s in stats)) for spoil in spoilt]
    for name, bad in [("dy", b) for b in bad_dy] + [("stats", b) for b in bad_stats if x.ndim < 64]:
        args = (bad, x, stats) if name == "dy" else (call.dy, x, bad)
        try:
            getattr(fastnorm, f + "_backward")(*args, **options)
        except WRONG as error:
            text = str(error)
            assert text.startswith(name), f"{f}_backward({name}={brief(bad)}): {text!r}"
            assert "\n" not in text, text
        else:
            raise AssertionError(f"{f}_backward({name}={brief(bad)}) was accepted")
    return len(bad_dy) + len(bad_stats)


def arguments(call):
    """Positional and named arguments of the forward."""
    f, kwargs = call.function, dict(call.options)
    args = (call.x, call.g) if f == "weight_norm" else (call.x,)
    takes = {"weight": TAKES_WEIGHT, "bias": TAKES_BIAS, "where": TAKES_WHERE, "out": TAKES_OUT}
    kwargs |= {name: getattr(call, name) for name in takes if f in takes[name]}
    return args, kwargs | call.running


def brief(value):
    return f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else repr(value)[:60]


def bad_arrays(shape, name):
    for dtype in DTYPES:
        yield name, np.zeros(shape, dtype)
    yield name, np.ma.masked_array(np.ones(shape))


def breaks(call):
    """(argument, value that it cannot have) for everything that this function takes."""
    f, ndim, shape = call.function, call.x.ndim, call.shape
    yield from bad_arrays(shape, "x")
    yield "nonsense", 1
    if f in BY_CHANNEL:
        for bad in (0, -ndim, ndim, 2**70, 1.0, "1", None, (1,), True):
            yield "channel_axis", bad
    else:
        for bad in (ndim, -ndim - 1, (0, 0), (0, -ndim), (), 1.0, "1", [0], (0, None), True, 2**70):
            yield "axis", bad
    if f in TAKES_EPS:
        for bad in (-1e-9, np.nan, -np.inf, "1", None, 1j, [1e-5], np.ones(2)):
            yield "eps", bad
    for name, takes in (("weight", TAKES_WEIGHT), ("bias", TAKES_BIAS)):
        if f not in takes:
            continue
        yield from bad_arrays((1,) * ndim if f == "normalize" else call.param_shape({}), name)
        *most, last = shape if f == "normalize" else call.param_shape({})
        yield name, np.ones((*most, last + 1))
        if ndim < 64:
            yield name, np.ones((2, *shape))
    if f in TAKES_WHERE:
        yield "where", np.ones(shape)
        yield "where", np.zeros((1,) * ndim, bool)
        yield "where", np.ones((*shape[:-1], shape[-1] + 2), bool)
        yield "where", "yes"
    if f in TAKES_OUT:
        yield from bad_arrays(shape, "out")
        plain = np.zeros(shape, call.x.dtype)
        yield "out", plain[None] if ndim < 64 else plain[0]
        yield "out", plain.tolist()
        yield "out", plain.astype(np.float16 if call.x.dtype != np.float16 else np.float32)
        read_only = plain.copy()
        read_only.flags.writeable = False
        yield "out", read_only
    if f == "group_norm":
        channels = shape[call.options["channel_axis"]]
        for bad in (0, -1, channels + 1, 2**70, 1.0, "1", None, True):
            yield "num_groups", bad
    if f == "moments":
        for bad in (np.nan, np.inf, "1", 1j, None):
            yield "correction", bad
    for name, a in call.running.items():
        yield from bad_arrays(a.shape, name)
        yield name, np.ones(a.size + 1, a.dtype)
        yield name, np.ones((1, a.size), a.dtype)
        yield name, a.tolist()
        yield name, a.astype(np.int32)
    if call.running:
        for bad in (np.nan, np.inf, "0.1", None):
            yield "momentum", bad
