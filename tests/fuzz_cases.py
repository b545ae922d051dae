"""What the fuzzer tries: a case is a dictionary that JSON can hold, drawn from a seed and built into arrays.

A case says everything about a call but its numbers, and of these how they are drawn: so it can be kept in the
corpus, read by a person, and made smaller while it still fails.
"""

from math import prod

import numpy as np
from strategies import Arrangement
from tolerances import DTYPES

SIZES = [1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 31, 33, 64, 67, 129, 257, 1000]
SMALL, LARGE = 2_000, 400_000  # elements: a call on one thread, and one that is worth seven
BY_NAME = {d.name: d for d in DTYPES}

FUNCTIONS = {  # how often each is drawn
    "normalize": 10,
    "layer_norm": 4,
    "rms_norm": 3,
    "batch_norm": 5,
    "instance_norm": 3,
    "group_norm": 4,
    "weight_norm": 3,
    "mean_only_batch_norm": 2,
    "moments": 3,
    "standardize": 2,
    "l2_normalize": 2,
}
LEAST_DIMS = {"batch_norm": 2, "mean_only_batch_norm": 2, "instance_norm": 3, "group_norm": 2}
BY_CHANNEL = tuple(LEAST_DIMS)
TAKES_BIAS = ("normalize", "layer_norm", "batch_norm", "instance_norm", "group_norm", "mean_only_batch_norm")
TAKES_WEIGHT = ("normalize", "layer_norm", "rms_norm", "batch_norm", "instance_norm", "group_norm")
TAKES_WHERE = ("normalize", "batch_norm", "moments", "standardize")
TAKES_OUT = (*TAKES_WEIGHT, "standardize", "l2_normalize")
TAKES_EPS = TAKES_OUT

# name: (mean, deviation), or a rule of its own in `draw_values`
VALUES = {
    "normal": (0, 1),
    "shifted": (3, 1),
    "far": (1e6, 1),
    "close": (-100, 1e-3),
    "large": (0, 1e30),
    "small": (1e-30, 1e-30),
    "denormal": (0, 1e-41),
    "constant": (-7.3, 0),
    "zero": (0, 0),
    "integers": None,
    "mixed": None,
}
SPECIAL = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "0": 0.0, "-0": -0.0, "tiny": 1e-45, "huge": 3e38}
EPS = [1e-5, 1e-5, 1e-5, 1e-3, 1e-12, 0.0, 10.0, 1e-30, 1e-80]


# ---- drawing -----------------------------------------------------------------------------------------------


def draw(seed):
    """The case of this seed."""
    rng = np.random.default_rng([seed])
    chance = lambda p: bool(rng.random() < p)  # noqa: E731
    pick = lambda a: a[int(rng.integers(len(a)))]  # noqa: E731

    function = str(rng.choice(list(FUNCTIONS), p=np.array([*FUNCTIONS.values()]) / sum(FUNCTIONS.values())))
    shape = draw_shape(rng, LEAST_DIMS.get(function, 1))[: 63 if function == "group_norm" else 64]
    ndim = len(shape)
    case = {
        "function": function,
        "shape": shape,
        "dtype": pick([d.name for d in DTYPES] + ["float32"]),
        "data": int(rng.integers(2**32)),
        "values": pick(["normal", "shifted", *VALUES]),
        "special": [pick(list(SPECIAL)) for _ in range(int(rng.integers(1, 4)))] if chance(0.15) else [],
        "swapped": chance(0.05),
        "x": draw_arrangement(rng, ndim),
        "repeated": [i for i in range(ndim) if chance(0.3)] if chance(0.1) else [],
        "dy": draw_arrangement(rng, ndim),
        "out": pick([None, None, "x", "new"]) if function in TAKES_OUT else None,
        "y": draw_arrangement(rng, ndim),
        "weight": draw_param(rng, ndim) if function in TAKES_WEIGHT and chance(0.7) else None,
        "bias": draw_param(rng, ndim) if function in TAKES_BIAS and chance(0.6) else None,
        "where": None,
        "options": {},
    }
    if function in TAKES_WHERE and chance(0.25):
        along = [chance(0.7) for _ in shape]
        case["where"] = {"along": along, "share": pick([0.1, 0.6, 0.95]), "hide": chance(0.5)}
        case["where"]["true"] = pick([1, 1, 1, 2, 255])  # what stands for it in memory
    options = case["options"]
    if function in TAKES_EPS and chance(0.6):
        options["eps"] = pick(EPS)
    if function in BY_CHANNEL:
        channel = int(rng.integers(1, ndim))
        options["channel_axis"] = channel - ndim if chance(0.3) else channel
        if function == "group_norm":
            c = max(shape[channel], 1)
            options["num_groups"] = pick([g for g in range(1, c + 1) if c % g == 0])
    elif function == "moments" and chance(0.2):
        options["axis"] = None
    else:
        options["axis"] = draw_axis(rng, ndim)
    if function == "normalize":
        left_out = pick([(), (), (), ("with_mean",), ("with_std",), ("with_mean", "with_std")])
        options |= dict.fromkeys(left_out, False)
    if function == "moments":
        options |= {"correction": pick([0, 0, 1, 0.5, -1, 3]), "keepdims": chance(0.5)}
    if function == "standardize":
        options["ddof"] = pick([0, 1]) if case["where"] is None else 0
    if function in ("batch_norm", "mean_only_batch_norm"):
        case["running"] = pick([None, None, "training", "training", "evaluation"])
        case["running dtype"] = pick(["float32", case["dtype"]]) if case["dtype"] != "float64" else "float64"
        options["momentum"] = pick([0.1, 0.0, 1.0, -0.5])
    return case


def draw_shape(rng, least):
    """Mostly a handful of sizes; sometimes many dimensions, an empty one, or enough elements for threads."""
    kind = rng.random()
    if kind < 0.08:
        ndim = int(rng.integers(max(least, 6), 65))
        full = rng.permutation(ndim)[: int(rng.integers(1, 9))]
        return [int(rng.integers(2, 4)) if i in full else 1 for i in range(ndim)]
    room = LARGE if kind > 0.9 else SMALL
    shape = []
    for _ in range(max(least, int(rng.choice([1, 2, 2, 3, 3, 4, 5])))):
        fits = [s for s in SIZES if s <= room]
        size = int(fits[int(rng.integers(len(fits)))])
        shape.append(size)
        room //= size
    if kind > 0.9:
        shape[int(rng.integers(len(shape)))] *= min(room, 70_000)
    if 0.08 < kind < 0.12:
        shape[int(rng.integers(len(shape)))] = 0
    return [shape[i] for i in rng.permutation(len(shape))]


def draw_axis(rng, ndim):
    count = int(rng.integers(1, min(ndim, 6) + 1))
    axes = [int(a) - ndim * bool(rng.random() < 0.3) for a in rng.permutation(ndim)[:count]]
    return axes[0] if count == 1 and rng.random() < 0.7 else axes


def draw_arrangement(rng, ndim):
    """None for contiguous, else what `Arrangement` takes."""
    if rng.random() < 0.4:
        return None
    order, steps = np.arange(ndim), np.ones(ndim, int)
    if rng.random() < 0.5:
        order = rng.permutation(ndim)
    if rng.random() < 0.5 and ndim < 20:
        steps = rng.choice([1, 1, -1, 2, -3], ndim)
    return {"order": order.tolist(), "steps": steps.tolist(), "offset": int(rng.choice([0, 0, 1, 2]))}


def draw_param(rng, ndim):
    """Along which axes it varies and how many it lacks, for `normalize` alone; dtype and memory."""
    return {
        "along": [bool(rng.random() < 0.5) for _ in range(ndim)],
        "drop": int(rng.integers(0, ndim + 1)) if rng.random() < 0.5 else 0,
        "dtype": str(rng.choice(["x", "x", "float32", "float64", "int8"])),
        "step": int(rng.choice([1, 1, -1, 2])),
        "special": str(rng.choice(["nan", "inf", "0"])) if rng.random() < 0.05 else None,
    }


# ---- building ----------------------------------------------------------------------------------------------


class Call:
    """The arrays and options of a case; `shift` moves x, dy and out by so many bytes."""

    def __init__(self, case, shift=0):
        self.case, self.function = case, case["function"]
        self.shape, self.dtype = tuple(case["shape"]), BY_NAME[case["dtype"]]
        self.options = {k: tuple(v) if isinstance(v, list) else v for k, v in case["options"].items()}
        rng = np.random.default_rng(case["data"])
        shape = self.shape
        stored = [1 if i in case["repeated"] else n for i, n in enumerate(shape)]
        x = draw_values(rng, stored, self.dtype, case["values"])
        sprinkle(rng, x, case["special"])
        dy = draw_values(rng, shape, self.dtype, "normal")
        self.where = self._mask(rng, case["where"])
        if case["where"] and case["where"]["hide"] and not case["repeated"]:
            outside = ~np.broadcast_to(self.where, shape)
            x[outside] = dy[outside] = np.nan
        self.given_where = self.where  # to fastnorm: the same in other bytes
        if case["where"]:
            self.given_where = (self.where * np.uint8(case["where"].get("true", 1))).view(bool)
        self.x, self.x_memory = arrange(x, case["x"], shift)
        if case["repeated"]:
            self.x = np.broadcast_to(self.x, shape)
        if case["swapped"] and self.dtype.name != "bfloat16":
            self.x = self.x.astype(self.x.dtype.newbyteorder())
        self.dy, _ = arrange(dy, case["dy"], shift)
        self.weight = self._param(rng, case["weight"])
        self.bias = self._param(rng, case["bias"])
        if self.function == "weight_norm":
            self.g = draw_values(rng, self.param_shape(None), self.dtype, "normal")
        self.running = self._running(rng)
        self.out, self.out_memory = None, None
        if case["out"] == "x" and self.x.flags.writeable and not case["swapped"]:
            self.out, self.out_memory = self.x, self.x_memory
        elif case["out"]:
            self.out, self.out_memory = arrange(np.full(shape, np.nan).astype(self.dtype), case["y"], shift)

    @property
    def axes(self):
        """The reduced axes, of x's shape with the channels split in two for group norm."""
        ndim, o = len(self.shape), self.options
        if self.function in BY_CHANNEL:
            channel = o["channel_axis"] % ndim
            if self.function == "group_norm":
                return tuple(a for a in range(1, ndim + 1) if a != channel)
            first = 1 if self.function == "instance_norm" else 0
            return tuple(a for a in range(first, ndim) if a != channel)
        axis = o.get("axis", -1)
        axes = tuple(range(ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        axes = tuple(a % ndim for a in axes)
        return tuple(a for a in range(ndim) if a not in axes) if self.function == "weight_norm" else axes

    @property
    def full_shape(self):
        """x's shape, the channels split in two for group norm."""
        if self.function != "group_norm":
            return self.shape
        c, groups = self.options["channel_axis"] % len(self.shape), self.options["num_groups"]
        return (*self.shape[:c], groups, self.shape[c] // groups, *self.shape[c + 1 :])

    def lay(self, p):
        """A parameter of a layout as it broadcasts against `full_shape`."""
        if p is None or self.function == "normalize":
            return p
        ndim = len(self.shape)
        if self.function in BY_CHANNEL:
            axes = (self.options["channel_axis"] % ndim,)
        else:
            axes = np.atleast_1d(self.options["axis"]) % ndim
        p = np.asarray(p)
        p = np.moveaxis(p.reshape(p.shape + (1,) * (ndim - p.ndim)), range(p.ndim), axes)
        sizes = zip(self.full_shape, self._split(p.shape), strict=True)
        return p.reshape([n if m != 1 else 1 for n, m in sizes])

    def _split(self, shape):
        if self.function != "group_norm":
            return shape
        c = self.options["channel_axis"] % len(self.shape)
        return (*shape[:c], shape[c], shape[c], *shape[c + 1 :])

    def param_shape(self, p):
        if self.function == "normalize":
            sizes = [n if a else 1 for n, a in zip(self.shape, p["along"], strict=True)]
            return sizes[p["drop"] :]
        if self.function in BY_CHANNEL:
            return [self.shape[self.options["channel_axis"]]]
        return [self.shape[a] for a in np.atleast_1d(self.options["axis"])]

    def _param(self, rng, p):
        if p is None:
            return None
        shape = self.param_shape(p)
        dtype = self.dtype if p["dtype"] == "x" else p["dtype"]
        a = np.asarray(1 + 2 * rng.standard_normal(shape)).astype(dtype)
        if p["special"] and a.size and a.dtype.kind != "i":
            a.reshape(-1)[int(rng.integers(a.size))] = SPECIAL[p["special"]]
        return arrange(a, {"order": list(range(a.ndim)), "steps": [p["step"]] * a.ndim, "offset": 0})[0]

    def _mask(self, rng, where):
        if where is None:
            return None
        sizes = [n if a else 1 for n, a in zip(self.shape, where["along"], strict=True)]
        mask = rng.random(sizes) < where["share"]
        reduced = set(self.axes)
        first = tuple(slice(0, 2) if i in reduced else slice(None) for i in range(len(self.shape)))
        mask[first] = True  # two values at least, as running statistics need
        return mask

    def _running(self, rng):
        if not self.case.get("running"):
            return {}
        c = self.shape[self.options["channel_axis"]]
        dtype = BY_NAME[self.case["running dtype"]]
        running = {"running_mean": rng.standard_normal(c).astype(dtype)}
        if self.function == "batch_norm":
            running["running_var"] = (0.5 + rng.random(c)).astype(dtype)
        return running


def draw_values(rng, shape, dtype, kind):
    """Numbers of this kind, as far as the dtype can hold them."""
    top = 0.9 * float(np.finfo(dtype).max) if dtype.name != "bfloat16" else 3e38
    if kind == "integers":
        a = rng.integers(-3, 4, shape).astype(np.float64)
    elif kind == "mixed":
        a = rng.standard_normal(shape) * 10.0 ** rng.uniform(-12, 12, shape)
    else:
        mean, deviation = VALUES[kind]
        if dtype.name == "float64" and deviation not in (0, 1, 1e-3):  # as far out as these are for float32
            mean, deviation = mean**9, deviation**7.6
        if dtype.name == "float16":
            mean = np.clip(mean, -2e3, 2e3)
            deviation = {1e30: 2e4, 1e-30: 1e-4, 1e-41: 1e-7}.get(deviation, deviation)
        a = mean + deviation * rng.standard_normal(shape)
    with np.errstate(all="ignore"):
        return np.clip(np.asarray(a), -top, top).astype(dtype)


def sprinkle(rng, x, special):
    with np.errstate(all="ignore"):
        for name in special if x.size else []:
            x[tuple(int(rng.integers(n)) for n in x.shape)] = SPECIAL[name]


def arrange(a, how, shift=0):
    """`a` in memory laid out like this, and that memory."""
    how = how or {"order": list(range(a.ndim)), "steps": [1] * a.ndim, "offset": 0}
    steps = how["steps"] if prod(abs(s) for s in how["steps"]) * a.size < 4e6 else [1] * a.ndim
    arrangement = Arrangement(how["order"], steps, how["offset"] + shift)
    if a.dtype.kind == "i":  # has no NaN to stand between its elements
        return arrangement.of(a.astype(np.float64)).astype(a.dtype), None
    return arrangement.with_memory(a)


def smaller(case):
    """Cases like this one, each simpler in one respect."""
    plain = {"special": [], "repeated": [], "swapped": False, "values": "normal"}
    plain |= dict.fromkeys(["x", "dy", "y", "out", "where", "weight", "bias", "running"])
    for key, value in plain.items():
        if key in case and case[key] != value:
            yield {**case, key: value}
    for i, n in enumerate(case["shape"]):
        for m in sorted({1, n // 2, n - 1}):
            if 0 < m < n:
                yield {**case, "shape": [*case["shape"][:i], m, *case["shape"][i + 1 :]]}
    for key in ("weight", "bias"):
        for k, v in (("dtype", "x"), ("step", 1), ("drop", 0), ("special", None)):
            if case[key] and case[key][k] != v:
                yield {**case, key: {**case[key], k: v}}
    for key in ("eps", "with_mean", "with_std", "correction", "keepdims", "momentum"):
        if key in case["options"]:
            yield {**case, "options": {k: v for k, v in case["options"].items() if k != key}}
