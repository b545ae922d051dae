"""What the kernel tests share: dtypes as their bits, memory with guard zones, every verb called the same way.

Inputs lie in NaN, so that an element read beyond the tile shows in the result; results are NaN before the
call, and everything around them must still be the same NaN after it.
"""

from itertools import chain, cycle
from math import prod
from typing import NamedTuple

import numpy as np

import fastnorm
from fastnorm import _norm, _verbs

# the tables of verbs: one of every tier, and that for rows across cache lines where it has one
ACROSS = " across"
TIERS = [
    *fastnorm.isa_tiers(),
    *(t + ACROSS for t in fastnorm.isa_tiers() if _verbs.Verbs(_norm.tier_capsule(t), 0, True).across),
]
WIDE = np.longdouble  # of the oracle; where it is no wider than float64 the bounds still hold

# every length up to 200, and lane multiples with their neighbours beyond that
LENGTHS = [*range(1, 201), *(m + d for m in (224, 256, 512, 1024) for d in (-1, 0, 1))]
ROWS = [1, 2, 3, 4, 8, 9, 17]
LONG = [2047, 2049, 4096, 4097, 8195, 12289]  # around what one accumulation may span, and several of it
NARROW = [1, 2, 3, 4, 5, 7, 8, 11, 15, 16, 19, 31]  # columns of which so many rows make a wide one:
MANY_ROWS = [47, 48, 49, 100, 257, 1000]
GUARD = 64


def bfloat16_to_float32(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float32_to_bfloat16(a):
    """To nearest, ties to even; a NaN stays one."""
    bits = np.atleast_1d(a).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(a), 0x7FC0, rounded).astype(np.uint16).reshape(np.shape(a))


class Kind(NamedTuple):
    """A storage dtype as fn_dtype counts them. bfloat16 is its bits, so that no test needs ml_dtypes."""

    name: str
    code: int
    storage: type
    compute: type

    @property
    def unit(self):
        """The relative rounding error of one operation."""
        return WIDE(np.finfo(self.compute).eps) / 2

    @property
    def lanes(self):
        return 128 // np.dtype(self.compute).itemsize

    def narrow(self, a):
        """Values of the compute dtype, or float64, as they are stored."""
        with np.errstate(over="ignore", invalid="ignore"):
            a = np.asarray(a).astype(self.compute)
            return float32_to_bfloat16(a) if self.name == "bf16" else a.astype(self.storage)

    def widen(self, a):
        """Stored values in the compute dtype: what the kernels compute with."""
        with np.errstate(invalid="ignore"):  # signalling NaN
            return bfloat16_to_float32(a) if self.name == "bf16" else a.astype(self.compute)

    def verbs(self, tier):
        return _verbs.Verbs(_norm.tier_capsule(tier.removesuffix(ACROSS)), self.code, tier.endswith(ACROSS))


KINDS = [
    Kind("f32", 0, np.float32, np.float32),
    Kind("f64", 1, np.float64, np.float64),
    Kind("f16", 2, np.float16, np.float32),
    Kind("bf16", 3, np.uint16, np.float32),
]


class Layout(NamedTuple):
    """How a tile lies in memory."""

    pad: int  # bytes between rows
    offset: int  # bytes of misalignment
    backwards: bool = False


LAYOUTS = [Layout(0, 0), Layout(24, 0), Layout(0, 1), Layout(5, 3), Layout(8, 0, True), Layout(0, 2, True)]


class Memory:
    """An array of `shape` inside a larger one of nothing but 0xff bytes: NaN in every dtype."""

    def __init__(self, shape, dtype, layout=LAYOUTS[0]):
        dtype = np.dtype(dtype)
        rows, n = shape[-2:] if len(shape) > 1 else (1, *shape)
        step = n * dtype.itemsize + layout.pad
        self.start = GUARD + layout.offset
        strides = [step, dtype.itemsize]
        if layout.backwards:
            self.start += (rows - 1) * step
            strides[0] = -step
        if len(shape) > 2:
            strides.insert(0, rows * step)
        self.raw = np.empty(prod(shape[:-1]) * step + layout.offset + 2 * GUARD, np.uint8)
        self.raw.fill(0xFF)
        self.view = np.ndarray(shape, dtype, self.raw, self.start, strides[-len(shape) :])

    @classmethod
    def holding(cls, a, layout=LAYOUTS[0]):
        """An input: `a`, its neighbours NaN; it may not be written."""
        memory = cls(a.shape, a.dtype, layout)
        memory.view[...] = a
        memory.before = memory.raw.tobytes()
        memory.raw.flags.writeable = memory.view.flags.writeable = False
        return memory

    def assert_unchanged(self, what):
        assert self.raw.tobytes() == self.before, f"{what}: an input was written"

    def assert_guards(self, what):
        raw = self.raw.copy()
        bits = np.dtype(f"u{self.view.itemsize}")
        np.ndarray(self.view.shape, bits, raw, self.start, self.view.strides).fill(np.iinfo(bits).max)
        assert raw.min() == 0xFF, f"{what}: written outside, at bytes {np.flatnonzero(raw != 0xFF)[:8]}"


def results(count, n):
    """`count` rows of n float64, NaN, each between guards."""
    return Memory((count, n), np.float64, Layout(GUARD, 0))


def work_array(verbs, n):
    return Memory((n,), np.float64 if verbs.compute_size == 8 else np.float32)


def is_nan(a):
    return np.isnan(bfloat16_to_float32(a) if a.dtype == np.uint16 else a)


def assert_same_bits(actual, expected, what):
    """Equal bit by bit, signs of zeros too; any NaN is as good as another."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    bits = f"u{actual.itemsize}"
    actual, expected = np.ascontiguousarray(actual), np.ascontiguousarray(expected)
    same = actual.view(bits) == expected.view(bits)
    if not same.all():
        same |= is_nan(actual) & is_nan(expected)
    if not same.all():
        at = tuple(np.argwhere(~same)[0])
        raise AssertionError(
            f"{what}: {(~same).sum()} of {same.size} differ, first at {at}: {actual[at]!r}, "
            f"needs {expected[at]!r}"
        )


def assert_all_same_bits(actual, expected, names, what):
    for a, e, name in zip(actual, expected, names, strict=True):
        assert_same_bits(a, e, f"{name} of {what}")


def assert_within(actual, expected, bound, what):
    """|actual - expected| <= bound, all in wide arithmetic; NaN is never within."""
    error = np.abs(actual.astype(WIDE) - expected)
    bad = ~(error <= bound)
    if bad.any():
        at = tuple(np.argwhere(bad)[0])
        raise AssertionError(
            f"{what} at {at} of {bad.shape}: {actual[at]!r}, needs {expected[at]!r}; off by {error[at]:.3g}, "
            f"allowed {np.broadcast_to(bound, bad.shape)[at]:.3g}"
        )


def make_values(rng, shape, kind, mean=0.0, deviation=1.0):
    """Normal numbers that fit into every dtype."""
    return kind.narrow(np.clip(mean + deviation * rng.standard_normal(shape), -6e4, 6e4))


def make_mask(rng, shape):
    """Some in, some out; rarely nothing is in."""
    return rng.random(shape) < rng.choice([0.1, 0.5, 0.9])


def hide(x, mask, kind):
    """x with NaN and infinity where the mask is False: what stands there must not matter."""
    x = x.copy()
    x[~mask] = kind.narrow(np.resize([np.nan, np.inf, -np.inf], (~mask).sum()))
    return x


def cases(lengths=LENGTHS, rows=ROWS, each=2):
    """(rows, n, layout): every length with `each` of the rows and layouts, which take turns."""
    turn = cycle(range(len(rows) * len(LAYOUTS)))
    for n in lengths:
        for _ in range(each):
            i = next(turn)
            yield rows[i % len(rows)], n, LAYOUTS[i % len(LAYOUTS)]


MANY = [
    (150, 5, 0),
    (70, 33, 0),
    (9, 1000, 0.3),
    (11, 300, 3.0),  # this one and the one above by four, as the dtype has it
    (5, 4097, 0),
    (11, 6000, 0.3),  # beyond four rows of the tiles with column sums
    (130, 64, 40.0),
]  # rows of more tiles than one

LARGE = [(2, 9, 4100), (1, 9, 4100), (2, 17, 2101), (1, 16, 2200)]  # of slices that leave the first cache


def shapes(each=1):
    """(slices, rows of each, n, layout, mean of x in deviations)."""
    for rows, n, layout in cases(each=each):
        per = (1, 1, 2, 5)[n % 4]
        yield rows, per, n, layout, (0, 0.1, 3)[n % 3]
    yield from ((rows, 1, n, next(cases())[2], mean) for rows, n, mean in MANY)
    yield from (
        (slices, per, n, next(cases())[2], 0.1)
        for slices, per, n in ((40, 16, 49), (3, 64, 9), (150, 3, 1), *LARGE)
    )


def row_cases(each=2):
    """The same with long rows, and how the same bits may lie."""
    for rows, n, layout in chain(cases(each=each), cases(LONG, [1, 3], each)):
        yield rows, n, layout, LAYOUTS[0]


def column_cases(each=2):
    """(rows, n, layout, another layout that gives the same bits): tiles that reduce down their columns. Few
    columns of many rows add up wide rows where rows adjoin, else one row after the other.
    """
    for rows, n, layout in cases(each=each):
        yield rows, n, layout, LAYOUTS[0]
    for rows, n, layout in cases(NARROW, MANY_ROWS, each=3 * each):
        yield rows, n, layout, LAYOUTS[0] if layout.pad == 0 and not layout.backwards else LAYOUTS[1]


# (runs, rows, n): more rows than runs and fewer, of columns that make wide rows, fill vectors, or neither
SEVERAL_TILES = [
    (runs, rows, n)
    for runs, rows in ((2, 30), (3, 5), (9, 1), (9, 3), (20, 7), (20, 9), (70, 2))
    for n in (1, 3, 17, 32, 33, 64, 130)
]


# ---- calls -------------------------------------------------------------------------------------------------


class Param:
    """A fn_param in memory of its own, and what it stands for: `form` says along what it varies."""

    FORMS = ("absent", "one", "by row", "along", "both")

    def __init__(self, rng, form, shape, kind, mean=0.0, deviation=1.0):
        rows, n = shape
        size = {"one": (1, 1), "by row": (rows, 1), "along": (1, n), "both": (rows, n)}.get(form, (0, 0))
        values = (mean + deviation * rng.standard_normal(size)).astype(kind.compute)
        self._set(None if form == "absent" else values, form in ("along", "both"), int(rng.integers(3)))

    @classmethod
    def of(cls, values, along=False):
        """These values: (1 or rows, 1 or n)."""
        self = cls.__new__(cls)
        self._set(values, along, 0)
        return self

    def _set(self, values, along, pad):
        self.values = values  # broadcasts against the tile
        self.memory = self.argument = None
        if values is not None:
            step = values.shape[1] + pad
            stored = np.full((len(values), step), np.nan, values.dtype)
            stored[:, : values.shape[1]] = values
            self.memory = Memory.holding(stored.ravel()[: stored.size - pad])  # nothing follows the last row
            self.argument = (self.memory.view, step if len(values) > 1 else 0, along)

    def or_(self, neutral):
        return neutral if self.values is None else self.values


def place(layout, *arrays):
    """Inputs in memory, a mask as bytes; absent ones stay None."""
    arrays = [a.view(np.uint8) if a is not None and a.dtype == np.bool_ else a for a in arrays]
    return [None if a is None else Memory.holding(a, layout) for a in arrays]


def views(memories):
    return [m and m.view for m in memories]


def finish(what, inputs, *outputs):
    """Check that no input was written, and nothing around the outputs."""
    for memory in inputs:
        if memory is not None:
            memory.assert_unchanged(what)
    for memory in outputs:
        memory.assert_guards(what)
