"""Memory stays flat however often a function is called: `python -m tests.leaks --calls 1000000`.

Each of `calls` is repeated that often; what Python's allocator, the C library's and the process hold may not
grow meanwhile. The suite does the same with some hundred calls.
"""

import argparse
import ctypes
import gc
import sys
import time
from pathlib import Path
from typing import ClassVar

TESTS = Path(__file__).resolve().parent
# test the fastnorm that is installed, not the checkout
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != TESTS.parent]

import numpy as np  # noqa: E402

import fastnorm  # noqa: E402
from fastnorm import nn  # noqa: E402

BLOCKS, HEAP, RESIDENT = (
    100,
    32 << 10,
    4 << 20,
)  # of noise: Python's blocks, bytes of the C library, of the process


def calls():
    """Every public function, by name: a call on small arrays."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 6, 10)).astype(np.float32)
    pixels, channels, g = x.reshape(2, 6, 5), rng.standard_normal(10).astype(np.float32), x[:, 0].copy()
    six, where = channels[:6].copy(), x > -0.5
    where[0] = where[:, 0] = True
    half, large = x.astype(np.float16), rng.standard_normal((300, 300)).astype(np.float32)
    running = {"running_mean": np.zeros(10, np.float32), "running_var": np.ones(10, np.float32)}
    options = {"axis": (0, 1), "weight": channels, "bias": g[:, None], "where": where}

    def of(name, x, dy, *arguments, weight):
        forward, backward = getattr(fastnorm, name), getattr(fastnorm, name + "_backward")
        stats = forward(x, *arguments, return_stats=True)[1]
        yield name, lambda: forward(x, *arguments, weight, return_stats=True)
        yield name + "_backward", lambda: backward(dy, x, stats, *arguments, weight=weight)

    yield from of("layer_norm", x, dy, weight=channels)
    yield from of("rms_norm", x, dy, weight=channels)
    yield from of("batch_norm", x, dy, weight=channels)
    yield from of("instance_norm", pixels, pixels, weight=six)
    yield from of("group_norm", pixels, pixels, 2, weight=six)
    yield "batch_norm, training", lambda: fastnorm.batch_norm(x, **running)
    yield "batch_norm, evaluation", lambda: fastnorm.batch_norm(x, **running, training=False)
    yield "weight_norm", lambda: fastnorm.weight_norm(x, g)
    yield "weight_norm_backward", lambda: fastnorm.weight_norm_backward(dy, x, g)
    yield "mean_only_batch_norm", lambda: fastnorm.mean_only_batch_norm(x, channels)
    yield "mean_only_batch_norm_backward", lambda: fastnorm.mean_only_batch_norm_backward(dy)
    yield "moments", lambda: fastnorm.moments(x, 0, correction=1)
    yield "normalize", lambda: fastnorm.normalize(x, **options, return_stats=True)
    stats = fastnorm.normalize(x, **options, return_stats=True)[1]
    yield "normalize_backward", lambda: fastnorm.normalize_backward(dy, x, stats, **options)
    yield "standardize", lambda: fastnorm.standardize(x, ddof=1)
    yield "l2_normalize", lambda: fastnorm.l2_normalize(x)
    yield "conversions", lambda: fastnorm.layer_norm(half[:, ::-1], half[0], [0.0] * 10)
    yield "large results", lambda: fastnorm.layer_norm(large)
    yield "errors", lambda: refused(x, channels)
    yield "num_threads", lambda: limited(x)
    sequence, turn = x.reshape(3, 2, 10), dy.reshape(3, 2, 10)
    for cell, norm in (
        (nn.RNN, "rms"),
        (nn.GRU, None),
        (nn.LSTM, "layer"),
        (nn.LSTM, "batch"),
        (nn.GRU, "weight"),
    ):
        net = cell(10, 10, norm=norm, rng=0)
        yield f"{cell.__name__}, norm={norm}", lambda net=net: net(sequence)[1](turn)
        stream = net.stream(2)
        yield f"{cell.__name__}.stream, norm={norm}", lambda stream=stream: stream(sequence[0])


def refused(x, channels):
    for wrong in ({"weight": channels[:3]}, {"axis": 7}, {"out": channels}, {"eps": -1.0}):
        try:
            fastnorm.layer_norm(x, **wrong)
        except (TypeError, ValueError):
            pass
        else:
            raise AssertionError(f"{wrong} passed")


def limited(x):
    with fastnorm.num_threads(2):
        fastnorm.layer_norm(x)


class Heap(ctypes.Structure):
    """mallinfo2 of the C library: `mapped` and `used` are what is in use."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in ("arena", "free", "small", "maps", "mapped", "top", "fast", "used", "available", "left")
    ]


def held():
    """Python's blocks, the C library's bytes, the process's resident ones; 0 for what cannot be known."""
    gc.collect()
    heap, resident = 0, 0
    if hasattr(library := ctypes.CDLL(None), "mallinfo2"):
        library.mallinfo2.restype = Heap
        now = library.mallinfo2()
        heap = now.used + now.mapped
    if (statm := Path("/proc/self/statm")).exists():
        resident = int(statm.read_text().split()[1]) << 12
    return sys.getallocatedblocks(), heap, resident


def growth(call, times):
    """By how much what is held grows while the call is repeated."""
    for _ in range(min(times, 1000)):
        call()
    before = held()
    for _ in range(times):
        call()
    return [b - a for a, b in zip(before, held(), strict=True)]


def leaks(grown):
    return any(g > noise for g, noise in zip(grown, (BLOCKS, HEAP, RESIDENT), strict=True))


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m tests.leaks", description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=1_000_000, help="of each function")
    parser.add_argument("--only", metavar="WORD", default="", help="functions whose name holds this")
    args = parser.parse_args(argv)
    bad = []
    for name, call in calls():
        if args.only in name:
            start = time.monotonic()
            grown = growth(call, args.calls)
            print(f"{name:32}{grown[0]:8} blocks{grown[1]:10} bytes of heap{grown[2]:10} resident"
                  f"{time.monotonic() - start:8.0f} s{'   LEAKS' * leaks(grown)}", flush=True)  # fmt: skip
            bad += [name] * leaks(grown)
    print(f"{args.calls} calls of each: {', '.join(bad) + ' leak' if bad else 'memory flat'}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
