"""No length falls off a cliff: `python -m bench.bench_scan`.

Layer norm over rows of n = 1..300 elements, batch norm over C = 1..300 columns, forward and backward, about
as many elements each; then prime lengths, one row of 10^7 and 10^6 rows of 8. A length is on a cliff if its
time per element is far above that of shorter ones, or its time per row above that of longer ones, which have
more to do. One thread, best of many rounds over all lengths.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np

if not __package__:  # run as a file, not with -m
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import machine

ELEMENTS = 1 << 16  # of an array of the scan: what is computed stays in cache
PRIMES = (307, 521, 1031, 2053, 4099, 8209, 16411, 32771, 65537)
EXTREMES = {
    "one row of 10^7": (1, 10**7),
    "10^6 rows of 8": (10**6, 8),
    "10^6 rows of 1024 bytes": (10**6, 256),
}
AROUND = 8  # lengths on either side that a length is compared with
MARKS = (1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 31, 32, 33, 48, 64, 65, 100, 127, 128, 129, 200, 256, 257, 300)


def main(argv: list[str] | None = None) -> int:
    """Print the scans, the cliffs, and the extremes against their plain neighbours."""
    parser = argparse.ArgumentParser(prog="python -m bench.bench_scan", description=__doc__.split("\n")[0])
    parser.add_argument("--last", type=int, default=300, help="the last length (300)")
    parser.add_argument("--rounds", type=int, default=15, help="turns of every length (15)")
    parser.add_argument(
        "--cliff", type=float, default=1.5, help="what counts as a cliff (1.5 times the neighbours)"
    )
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64", "float16"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the costs")
    args = parser.parse_args(argv)
    import fastnorm

    fastnorm.set_num_threads(1)
    told = machine.describe()
    print(machine.sentence(told))
    if warning := machine.warning(told):
        print(warning, file=sys.stderr)
    lengths = list(range(1, args.last + 1))
    scans = {}
    for name, make in CALLS.items():
        cost = scan(fastnorm, make, lengths, args.dtype, args.rounds)
        scans[name] = dict(zip(lengths, cost, strict=True))
        report(name, lengths, cost, args.cliff)
    print(f"\n{'lengths beyond the scan, ns per element':<48}{'prime':>8}{'even':>8}{'ratio':>8}")
    for name, make in CALLS.items():
        for prime in PRIMES:
            show(
                f"{name}, {prime}",
                *scan(fastnorm, make, [prime, prime - prime % 64], args.dtype, args.rounds),
            )
    print(f"\n{'extremes, ns per element':<48}{'this':>8}{'plain':>8}{'ratio':>8}")
    for title, shape in EXTREMES.items():
        for direction in ("forward", "backward"):
            plain = (shape[0] * shape[1] // 1024, 1024)
            calls = [row_call(fastnorm, s, args.dtype, direction) for s in (shape, plain)]
            best = rounds(calls, [s[0] * s[1] for s in (shape, plain)], max(3, args.rounds // 3))
            show(f"layer {direction}, {title}", *best)
    if args.json:
        args.json.write_text(json.dumps({"machine": told, "ns": scans}, indent=1) + "\n")
    return 0


def show(title: str, this: float, other: float) -> None:
    """A line that compares two costs."""
    print(f"{title:<48}{this:>8.3f}{other:>8.3f}{this / other:>8.2f}")


def report(name: str, lengths: list[int], cost: list[float], limit: float) -> None:
    """The line in steps, its roughness, and where it has cliffs."""
    print(f"\n{name}: ns per element")
    for n in MARKS:
        if n <= lengths[-1]:
            print(f"  {n:>4} {cost[n - 1]:>8.3f}")
    steps = [over(lengths, cost, i) for i in range(len(cost))]
    worst = max(range(len(cost)), key=steps.__getitem__)
    print(f"  furthest above its neighbours: {lengths[worst]}, {steps[worst]:.2f} times")
    cliffs = [f"{lengths[i]} ({steps[i]:.2f})" for i in range(len(cost)) if steps[i] >= limit]
    print(f"  cliffs of {limit} and more: {', '.join(cliffs) or 'none'}")


def over(lengths: list[int], cost: list[float], i: int) -> float:
    """How far a length is above its neighbours: per element above the shorter, per row above the longer.

    Rows of one element are the shorter neighbours of none: nothing has to be summed there.
    """
    shorter = [cost[j] for j in range(max(0, i - AROUND), i) if lengths[j] > 1]
    longer = [cost[j] * lengths[j] for j in range(i + 1, min(len(cost), i + 1 + AROUND))]
    return max(cost[i] / min(shorter, default=cost[i]), cost[i] * lengths[i] / min(longer, default=np.inf))


def scan(fn, make: Callable, lengths: list[int], dtype: str, turns: int) -> list[float]:
    """Nanoseconds per element of each length."""
    calls = [make(fn, length, dtype) for length in lengths]
    return rounds(calls, [max(1, ELEMENTS // n) * n for n in lengths], turns)


def rounds(calls: list[Callable], elements: list[int], turns: int) -> list[float]:
    """Best nanoseconds per element of each call, all of them taking turns."""
    best = [np.inf] * len(calls)
    for _ in range(turns):
        for i, call in enumerate(calls):
            call()
            start = perf_counter()
            call()
            best[i] = min(best[i], perf_counter() - start)
    return [seconds * 1e9 / count for seconds, count in zip(best, elements, strict=True)]


def arrays(shape: tuple[int, int], dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, dy and a weight for the last axis."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape, dtype=np.float32).astype(dtype)
    return x, x[::-1].copy(), np.ones(shape[1], np.float64 if dtype == "float64" else np.float32)


def row_call(fn, shape: tuple[int, int], dtype: str, direction: str) -> Callable:
    """Layer norm over rows."""
    x, dy, weight = arrays(shape, dtype)
    if direction == "forward":
        out = np.empty_like(x)
        return lambda: fn.layer_norm(x, weight, weight, out=out)
    _, stats = fn.layer_norm(x, weight, weight, return_stats=True)
    return lambda: fn.layer_norm_backward(dy, x, stats, weight)


def column_call(fn, shape: tuple[int, int], dtype: str, direction: str) -> Callable:
    """Batch norm over columns."""
    x, dy, weight = arrays(shape, dtype)
    if direction == "forward":
        out = np.empty_like(x)
        return lambda: fn.batch_norm(x, weight, weight, out=out)
    _, stats = fn.batch_norm(x, weight, weight, return_stats=True)
    return lambda: fn.batch_norm_backward(dy, x, stats, weight)


def _of_length(call: Callable, direction: str) -> Callable:
    return lambda fn, n, dtype: call(fn, (max(1, ELEMENTS // n), n), dtype, direction)


CALLS = {
    "rows of n, forward": _of_length(row_call, "forward"),
    "rows of n, backward": _of_length(row_call, "backward"),
    "C columns, forward": _of_length(column_call, "forward"),
    "C columns, backward": _of_length(column_call, "backward"),
}

if __name__ == "__main__":
    sys.exit(main())
