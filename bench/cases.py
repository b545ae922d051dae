"""What is measured: the table of layouts, sizes and dtypes, and the arrays that belong to each case."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import numpy as np

DIRECTIONS = ("forward", "backward")
DTYPES = ("float32", "float64", "float16", "bfloat16")
SIZES = ("small", "cache", "large")  # a call's overhead; fits a last-level cache; larger than one

# Large arrays repeat their first part along axis 0 so often; the oracle, slow in its float64, computes the
# part: the whole has its statistics where axis 0 is reduced, and more of its slices where axis 0 is kept.
REPEATS = {"small": 1, "cache": 1, "large": 8}

# Bytes past a cache line at which x and dy begin. Left to an allocator it is a multiple of 16, so that every
# load of 64 bytes crosses a line or none does, and no run is like the next; large arrays begin at 16 if their
# memory is fresh.
LINE = 64
OFFSET = 16

# Slices whose elements lie in runs shorter than this cannot be walked one by one: they are read together.
SHORT_RUN_BYTES = 1024


@dataclass(frozen=True)
class Layout:
    """One norm on one memory layout: which call it is, its options, and a shape for each size."""

    name: str
    norm: str
    small: tuple[int, ...]
    cache: tuple[int, ...]
    large: tuple[int, ...]
    options: dict = field(default_factory=dict)

    @property
    def directions(self) -> tuple[str, ...]:
        """Scores have no backward."""
        return DIRECTIONS[:1] if self.norm == "standardize" else DIRECTIONS


CHANNELS_LAST = {"channel_axis": -1}

# fmt: off
LAYOUTS = (
    Layout("layer",          "layer",     (8, 64),       (2048, 512),       (16384, 1024)),
    Layout("rms",            "rms",       (8, 64),       (2048, 512),       (16384, 1024)),
    Layout("batch NCHW",     "batch",     (4, 8, 7, 7),  (16, 64, 32, 32),  (32, 128, 64, 64)),
    Layout("batch NHWC",     "batch",     (4, 7, 7, 8),  (16, 32, 32, 64),  (32, 64, 64, 128), CHANNELS_LAST),
    Layout("batch (N, C)",   "batch",     (32, 64),      (4096, 256),       (32768, 512)),
    Layout("columns (N, C)", "standardize", (32, 64),    (4096, 256),       (32768, 512)),
    Layout("instance NCHW",  "instance",  (4, 8, 7, 7),  (16, 64, 32, 32),  (32, 128, 64, 64)),
    Layout("instance NHWC",  "instance",  (4, 7, 7, 8),  (16, 32, 32, 64),  (32, 64, 64, 128), CHANNELS_LAST),
    Layout("group NCHW",     "group",     (4, 8, 7, 7),  (16, 64, 32, 32),  (32, 128, 64, 64),
           {"num_groups": 4}),
    Layout("group NHWC",     "group",     (4, 7, 7, 8),  (16, 32, 32, 64),  (32, 64, 64, 128),
           {"num_groups": 4, **CHANNELS_LAST}),
    Layout("weight",         "weight",    (64, 64),      (1024, 1024),      (16384, 1024)),
    Layout("mean-only NCHW", "mean_only", (4, 8, 7, 7),  (16, 64, 32, 32),  (32, 128, 64, 64)),
    Layout("axis 1 of 3",    "axes",      (4, 16, 8),    (64, 128, 128),    (128, 256, 512),
           {"axis": (1,), "weight_axes": (1,)}),
    Layout("axes 0, 2 of 4", "axes",      (4, 8, 7, 7),  (16, 64, 32, 32),  (32, 128, 64, 64),
           {"axis": (0, 2), "weight_axes": (1,)}),
)
# fmt: on


@dataclass(frozen=True)
class View:
    """The shape in which a norm is plain: statistics over `axes`, the weight varying along `weight_axes`."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    weight_axes: tuple[int, ...]

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return tuple(n if a in self.weight_axes else 1 for a, n in enumerate(self.shape))


@dataclass(frozen=True)
class Case:
    """One line of the table, apart from the number of threads."""

    layout: Layout
    direction: str
    dtype: str
    size: str

    @property
    def shape(self) -> tuple[int, ...]:
        return getattr(self.layout, self.size)

    @property
    def name(self) -> str:
        return f"{self.layout.name} {self.direction} {self.dtype} {self.size} {self.shape}"

    @property
    def itemsize(self) -> int:
        return dtype_of(self.dtype).itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of x."""
        return math.prod(self.shape) * self.itemsize

    @property
    def arrays_read(self) -> int:
        """Arrays of x's size that the call reads; it writes one."""
        return 1 if self.direction == "forward" or self.layout.norm == "mean_only" else 2

    @property
    def traffic(self) -> int:
        """Bytes that have to move: every array read once, the result written once."""
        return (self.arrays_read + 1) * self.nbytes

    @property
    def view(self) -> View:
        """How the layout's statistics and weight lie on x."""
        shape, options = self.shape, self.layout.options
        every = range(len(shape))
        channel = options.get("channel_axis", 1) % len(shape)
        match self.layout.norm:
            case "layer" | "rms":
                return View(shape, (len(shape) - 1,), (len(shape) - 1,))
            case "batch" | "mean_only":
                return View(shape, tuple(a for a in every if a != channel), (channel,))
            case "instance":
                return View(shape, tuple(a for a in every if a not in (0, channel)), (channel,))
            case "group":
                groups = options["num_groups"]
                split = (*shape[:channel], groups, shape[channel] // groups, *shape[channel + 1 :])
                axes = tuple(a for a in range(len(split)) if a not in (0, channel))
                return View(split, axes, (channel, channel + 1))
            case "standardize":
                return View(shape, (0,), (1,))
            case "weight":
                return View(shape, tuple(every[1:]), (0,))
            case _:
                return View(shape, options["axis"], options["weight_axes"])

    @property
    def unit_nbytes(self) -> int:
        """Bytes of x that must stay in cache between the statistics and the result to be read only once.

        One slice, and with it the slices that share its cache lines: every kept axis inside a reduced one
        whose stride is short.
        """
        shape, axes = self.view.shape, self.view.axes
        unit = math.prod(shape[a] for a in axes)
        stride = self.itemsize
        for a in reversed(range(len(shape))):
            if a not in axes and a > min(axes) and stride < SHORT_RUN_BYTES:
                unit *= shape[a]
            stride *= shape[a]
        return unit * self.itemsize


@dataclass
class Arrays:
    """The inputs of one case. `weight` is g for weight norm; statistics are each implementation's own."""

    x: np.ndarray
    dy: np.ndarray
    weight: np.ndarray
    bias: np.ndarray


def all_cases(dtypes=DTYPES, sizes=SIZES) -> Iterator[Case]:
    """Every case, those on the same arrays next to each other."""
    for layout in LAYOUTS:
        for size in sizes:
            for dtype in dtypes:
                for direction in layout.directions:
                    yield Case(layout, direction, dtype, size)


def dtype_of(name: str) -> np.dtype:
    """The NumPy dtype of a name of `DTYPES`."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def make_arrays(case: Case, offset: int = OFFSET) -> tuple[Arrays, Arrays]:
    """Draw the inputs of a case, and the part that they repeat along axis 0.

    x has mean 0.5 and deviation 2; the parameters are float32 for 16-bit x. x and dy begin `offset` bytes
    past a cache line.
    """
    repeats = REPEATS[case.size]
    view, dtype = case.view, dtype_of(case.dtype)
    part_shape = (case.shape[0] // repeats, *case.shape[1:])
    noise = _noise(max(math.prod(part_shape), 1 << 20))[:, : math.prod(part_shape)]
    param_shape = tuple(view.shape[a] for a in view.weight_axes)
    if case.layout.norm == "axes":  # normalize() takes any shape that broadcasts
        param_shape = view.weight_shape
    elif case.layout.norm == "group":
        param_shape = (math.prod(param_shape),)
    elif case.layout.norm == "weight":
        param_shape = part_shape[:1]
    param_dtype = np.float64 if case.dtype == "float64" else np.float32
    rng = np.random.default_rng(0)
    part = Arrays(
        x=(2 * noise[0] + np.float32(0.5)).astype(dtype).reshape(part_shape),
        dy=noise[1].astype(dtype).reshape(part_shape),
        weight=rng.uniform(0.5, 1.5, param_shape).astype(param_dtype),
        bias=rng.standard_normal(param_shape).astype(param_dtype),
    )
    along = repeats if case.layout.norm == "weight" else 1  # its parameters lie along axis 0
    whole = Arrays(
        x=_placed(part.x, repeats, offset),
        dy=_placed(part.dy, repeats, offset),
        weight=np.concatenate([part.weight] * along),
        bias=np.concatenate([part.bias] * along),
    )
    return whole, part


def expected(case: Case, exact: tuple) -> list[tuple[str, np.ndarray, int]]:
    """Name, true value and repetitions along axis 0 of each result, given the oracle's for the part."""
    repeats = REPEATS[case.size]
    if case.direction == "forward":
        return [("y", exact[0], repeats)]
    dx, *grads = exact
    if case.layout.norm == "weight":
        return [("dx", dx, repeats), ("dweight", grads[0], repeats)]
    named = zip(("dweight", "dbias"), grads, strict=False)
    return [("dx", dx, repeats), *((name, repeats * grad, 1) for name, grad in named if grad is not None)]


def _placed(part: np.ndarray, repeats: int, offset: int) -> np.ndarray:
    """The part so many times along axis 0, beginning so many bytes past a cache line."""
    memory = np.empty(repeats * part.nbytes + LINE, np.uint8)
    first = (offset - memory.ctypes.data) % LINE
    whole = np.ndarray((repeats * part.shape[0], *part.shape[1:]), part.dtype, memory, first)
    return np.concatenate([part] * repeats, out=whole)


@cache
def _noise(count: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, count), dtype=np.float32)
