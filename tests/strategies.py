"""Hypothesis strategies: arrays of every shape and memory layout, axes, masks and parameters."""

from math import prod

import numpy as np
from hypothesis import strategies as st
from tolerances import DTYPES, FLOAT32, FLOAT64

# Sizes around vector lengths and primes; the total is bounded below, so that a case stays short.
SIZES = [1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 31, 33, 64, 67, 129, 257]
MOST_ELEMENTS = 3000


@st.composite
def shapes(draw, min_dims=1, max_dims=5):
    """1 to 5 sizes with a bounded product."""
    shape, room = [], MOST_ELEMENTS
    dims = [n for n in (2, 3, 1, 4, 3, 2, 5) if min_dims <= n <= max_dims]
    for _ in range(draw(st.sampled_from(dims))):
        size = draw(st.sampled_from([s for s in SIZES if s <= room]))
        shape.append(size)
        room //= size
    return tuple(draw(st.permutations(shape)))


@st.composite
def axes(draw, ndim):
    """Any subset of the dimensions in any order, negative numbers included, or one int."""
    count = draw(st.sampled_from([*range(1, ndim), *range(1, ndim), ndim]))
    chosen = draw(st.permutations(range(ndim)))[:count]
    chosen = tuple(a - ndim if draw(st.booleans()) else a for a in chosen)
    return chosen[0] if len(chosen) == 1 and draw(st.booleans()) else chosen


def generators():
    """A NumPy generator that shrinks to seed 0."""
    return st.integers(0, 2**32 - 1).map(np.random.default_rng)


class Arrangement:
    """How the elements of an array lie in memory: the order of axes, a step for each, an offset in bytes."""

    def __init__(self, order, steps, offset):
        self.order, self.steps, self.offset = order, steps, offset

    def __repr__(self):
        return f"Arrangement(order={self.order}, steps={self.steps}, offset={self.offset})"

    def of(self, a):
        """A view with the values of `a` in memory laid out like this; what lies between them is NaN."""
        return self.with_memory(a)[0]

    def with_memory(self, a):
        """The view and the flat memory under it, without the offset."""
        sizes = [a.shape[i] * abs(self.steps[i]) for i in self.order]
        raw = np.empty(prod(sizes) * a.dtype.itemsize + self.offset, np.uint8)
        memory = raw[self.offset :].view(a.dtype)
        memory[...] = np.nan if a.dtype.kind != "b" else True
        view = memory.reshape(sizes).transpose(np.argsort(self.order))
        view = view[(..., *(slice(None, None, step) for step in self.steps))]
        view[...] = a
        return view, memory


@st.composite
def arrangements(draw, ndim):
    """Contiguous, transposed, strided forwards and backwards, misaligned by a byte, or all of it."""
    plain = tuple(range(ndim))
    order = tuple(draw(st.permutations(plain))) if draw(st.booleans()) else plain
    steps = (1,) * ndim
    if draw(st.booleans()):
        steps = tuple(draw(st.sampled_from([1, 1, -1, 2, -3])) for _ in plain)
    return Arrangement(order, steps, draw(st.sampled_from([0, 0, 1])))


def values(rng, shape, dtype, mean=0.0, deviation=1.0):
    """Normal numbers, rounded to `dtype`."""
    return np.asarray(mean + deviation * rng.standard_normal(shape)).astype(dtype)


@st.composite
def arrays(draw, shape, dtype, rng):
    """An array of `shape`, read-only: some axes may be repetitions (stride 0), the rest lies anyhow."""
    mean, deviation = draw(st.sampled_from([(0, 1), (3, 1), (-100, 1), (0, 1e-3), (20, 100), (1, 1e-3)]))
    repeated = draw(st.sets(st.integers(0, len(shape) - 1), max_size=2)) if draw(st.booleans()) else ()
    stored = tuple(1 if i in repeated else n for i, n in enumerate(shape))
    x = draw(arrangements(len(shape))).of(values(rng, stored, dtype, mean, deviation))
    x = np.broadcast_to(x, shape)
    x.flags.writeable = False
    return x


@st.composite
def parameters(draw, shape, dtype, rng):
    """None, or an array that broadcasts against `shape` without enlarging it, of a dtype allowed beside x."""
    if draw(st.booleans()):
        return None
    sizes = [n if draw(st.booleans()) else 1 for n in shape]
    sizes = sizes[draw(st.integers(0, len(shape))) :]
    kinds = [dtype, FLOAT32, FLOAT64, np.dtype(np.int8)]
    p = values(rng, sizes, draw(st.sampled_from(kinds)), 1.0, 2.0)
    return draw(arrangements(p.ndim)).of(p) if p.dtype.kind != "i" else p


@st.composite
def masks(draw, shape, axes, rng):
    """None, or a boolean array that broadcasts to `shape` and leaves every slice an element."""
    kind = draw(st.sampled_from(["none", "full", "broadcast"]))
    if kind == "none":
        return None
    sizes = [n if kind == "full" or draw(st.booleans()) else 1 for n in shape]
    mask = rng.random(sizes) < 0.6
    reduced = {a % len(shape) for a in np.atleast_1d(axes)}
    mask[tuple(0 if i in reduced else slice(None) for i in range(len(shape)))] = True
    leading = next((i for i, n in enumerate(sizes) if n != 1), len(sizes))
    return mask[(0,) * draw(st.integers(0, leading))]


dtypes = st.sampled_from(DTYPES)

# Which of the two statistics are used; both, most of the time.
statistics = st.sampled_from(
    [(True, True), (True, True), (False, True), (True, False), (True, True), (False, False)]
)
statistics = statistics.map(lambda used: {"with_mean": used[0], "with_std": used[1]})
