"""Whether threads pay: one thread against several, at every size: `python -m bench.bench_threads`.

Layer norm over rows and batch norm over columns, forward and backward, 1 KB to 64 MB of float32. Both have
their turns in one process; the ratio is one thread's time over that of several: 1 or more where they are
never slower. `--busy` starts processes that keep a processor busy each; then the mean counts, which holds
what waiting cost.
"""

import argparse
import gc
import json
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count, repeat
from pathlib import Path
from statistics import fmean, median, quantiles
from time import perf_counter

import numpy as np

if not __package__:  # run as a file, not with -m
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import machine

NBYTES = [1 << k for k in range(10, 27)]  # of x
COLUMNS = 256
TURN = 0.0003  # seconds of one turn: short calls are repeated
LEAST_TURNS = 10


@dataclass(frozen=True)
class Timed:
    """What one call took over all turns, in seconds."""

    median: float
    mean: float
    p99: float


@dataclass(frozen=True)
class Row:
    """One case, with one thread and with several."""

    case: str
    nbytes: int
    threads: int
    one: Timed
    many: Timed

    @property
    def ratios(self) -> tuple[float, float]:
        """One thread's time over that of several: the medians, and the means."""
        return self.one.median / self.many.median, self.one.mean / self.many.mean


def main(argv: list[str] | None = None) -> int:
    """Print a line for every case and size."""
    args = parse(argv)
    import fastnorm

    threads = args.threads or max(2, fastnorm.get_num_threads())
    told = machine.describe()
    print(machine.sentence(told))
    if warning := machine.warning(told):
        print(warning, file=sys.stderr)
    spinners = [
        multiprocessing.get_context("spawn").Process(target=spin, daemon=True) for _ in range(args.busy)
    ]
    for spinner in spinners:
        spinner.start()
    print(f"1 thread against {threads}; {args.busy} other processes keep a processor busy each")
    print(f"{'':<26}{'1 thread, us':^30}{f'{threads} threads, us':^30}{'ratio':^16}")
    print(
        f"{'case':<16}{'KiB':>10}"
        + 2 * f"{'median':>10}{'mean':>10}{'p99':>10}"
        + f"{'median':>8}{'mean':>8}"
    )
    rows = []
    for nbytes in args.nbytes:
        for name, call in cases(fastnorm, nbytes):
            rows.append(Row(name, nbytes, threads, *compare(fastnorm, call, threads, args.seconds)))
            print(line(rows[-1]), flush=True)
    for spinner in spinners:
        spinner.kill()
    worst = [min(rows, key=lambda row, which=which: row.ratios[which]) for which in (0, 1)]
    for what, row, ratio in zip(
        ("median", "mean"), worst, (w.ratios[i] for i, w in enumerate(worst)), strict=True
    ):
        print(f"worst ratio of the {what}s: {ratio:.2f}, {row.case}, {row.nbytes >> 10} KiB")
    if args.json:
        run = {"machine": told, "busy": args.busy, "rows": [asdict(row) for row in rows]}
        args.json.write_text(json.dumps(run, indent=1) + "\n")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.bench_threads", description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, metavar="N", help="against one; default: all, at least 2")
    parser.add_argument(
        "--busy", type=int, nargs="?", const=1, default=0, metavar="N", help="processes beside us"
    )
    parser.add_argument("--nbytes", type=int, nargs="+", default=NBYTES, metavar="N", help="sizes of x")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each line")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    return parser.parse_args(argv)


def spin() -> None:
    """Keep a processor busy."""
    for _ in count():
        pass


def cases(fastnorm, nbytes: int) -> Iterator[tuple[str, Callable]]:
    """The calls that are timed, each with a fresh result."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, max(1, nbytes // (4 * COLUMNS)), COLUMNS), dtype=np.float32)
    weight, bias = rng.standard_normal((2, COLUMNS), dtype=np.float32)
    for name, norm, backward in (
        ("rows", fastnorm.layer_norm, fastnorm.layer_norm_backward),
        ("columns", fastnorm.batch_norm, fastnorm.batch_norm_backward),
    ):
        stats = norm(x, weight, bias, return_stats=True)[1]
        yield f"{name} forward", lambda norm=norm: norm(x, weight, bias)
        yield f"{name} backward", lambda backward=backward, stats=stats: backward(dy, x, stats, weight)


def compare(fastnorm, call: Callable, threads: int, seconds: float) -> tuple[Timed, Timed]:
    """Turns of one thread and of several, alternating."""
    spans: dict[int, list[float]] = {1: [], threads: []}
    loops = max(1, int(TURN / min(turn(fastnorm, call, 1, 1) for _ in range(3))))
    turn(fastnorm, call, threads, loops)
    collecting = gc.isenabled()
    gc.disable()
    end = perf_counter() + seconds
    while perf_counter() < end or len(spans[1]) < LEAST_TURNS:
        for n, taken in spans.items():
            taken.append(turn(fastnorm, call, n, loops))
    if collecting:
        gc.enable()
    one, many = (Timed(median(taken), fmean(taken), quantiles(taken, n=100)[-1]) for taken in spans.values())
    return one, many


def turn(fastnorm, call: Callable, threads: int, loops: int) -> float:
    """Seconds of one call, mean of a few."""
    with fastnorm.num_threads(threads):
        start = perf_counter()
        for _ in repeat(None, loops):
            call()
        return (perf_counter() - start) / loops


def line(row: Row) -> str:
    """One line of the table."""
    times = "".join(f"{s * 1e6:>10.1f}" for t in (row.one, row.many) for s in (t.median, t.mean, t.p99))
    return f"{row.case:<16}{row.nbytes >> 10:>10}{times}" + "".join(f"{ratio:>8.2f}" for ratio in row.ratios)


if __name__ == "__main__":
    sys.exit(main())
