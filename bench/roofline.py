"""How fast this machine moves memory: the limit that a norm is measured against.

Plain reads and copies in Python threads, each on its own part of warm arrays (NumPy gives the GIL up inside).
Every thread does its passes back to back without meeting the others, so the limit is a strict one: it pays no
page fault, no allocation and no thread start. `python -m bench.roofline` prints it for a range of sizes.
"""

import argparse
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise, repeat
from pathlib import Path
from time import perf_counter

import numpy as np

if not __package__:  # run as a file, not with -m
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import machine

# What one thread does to its parts of two inputs and a result, all as 64-bit words.
PASSES = {
    "read x": lambda x, dy, y: np.bitwise_or.reduce(x),
    "read dy": lambda x, dy, y: np.bitwise_or.reduce(dy),
    "copy": lambda x, dy, y: np.copyto(y, x),
    "merge": lambda x, dy, y: np.bitwise_or(x, dy, out=y),
}
# Arrays that a pass moves.
MOVED = {"read x": 1, "read dy": 1, "copy": 2, "merge": 3}


def limit_passes(arrays_read: int, unit_nbytes: int, l2_nbytes: int) -> tuple[str, ...]:
    """The passes that a norm cannot avoid.

    Where a slice of every array read stays in L2 between its statistics and its result: one pass that reads
    them and writes the result. Where it cannot: all of them are read once more before.
    """
    last = "copy" if arrays_read == 1 else "merge"
    if arrays_read * unit_nbytes < l2_nbytes:
        return (last,)
    return (*("read x", "read dy")[:arrays_read], last)


class Memory:
    """Three warm buffers of `nbytes` each, and `threads` threads that pass over them."""

    def __init__(self, nbytes: int, threads: int) -> None:
        words = max(nbytes // 8, threads)
        buffers = _buffers(words)
        bounds = [words * i // threads for i in range(threads + 1)]
        self._parts = [[b[lo:hi] for b in buffers] for lo, hi in pairwise(bounds)]
        self._pool = ThreadPoolExecutor(threads)

    def seconds(self, passes: tuple[str, ...], loops: int, warm: int = 1) -> float:
        """Time of one round of `passes` over the whole arrays, mean of `loops`, after `warm` untimed ones."""
        steps = [PASSES[name] for name in passes]
        together = threading.Barrier(len(self._parts))
        jobs = [self._pool.submit(_walk, steps, part, loops, warm, together) for part in self._parts]
        spans = [job.result() for job in jobs]
        return (max(stop for _, stop in spans) - min(start for start, _ in spans)) / loops

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


@lru_cache(maxsize=1)  # the cases of one size follow each other
def _buffers(words: int) -> list[np.ndarray]:
    return [np.full(words, fill, dtype=np.int64) for fill in range(3)]


def _walk(
    steps: list[Callable], part: list[np.ndarray], loops: int, warm: int, together: threading.Barrier
) -> tuple[float, float]:
    for step in steps * warm:
        step(*part)
    together.wait()
    start = perf_counter()
    for _ in repeat(None, loops):
        for step in steps:
            step(*part)
    return start, perf_counter()


def main() -> None:
    """Print the bandwidth of this machine."""
    parser = argparse.ArgumentParser(prog="python -m bench.roofline", description=main.__doc__)
    parser.add_argument(
        "--mib", type=float, nargs="+", default=[1, 4, 16, 64, 128], help="size of each array"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, machine.processors()}))
    args = parser.parse_args()
    print(machine.sentence(machine.describe()))
    print(f"{'MiB':>8} {'threads':>8} {'copy':>16} {'read + copy':>16} {'read 2, write 1':>16}")
    for mib in args.mib:
        for threads in args.threads:
            nbytes = int(mib * 2**20)
            memory = Memory(nbytes, threads)
            cells = []
            for passes in (("copy",), ("read x", "copy"), ("merge",)):
                loops = max(1, int(5e8 / (nbytes * sum(MOVED[name] for name in passes))))
                seconds = min(memory.seconds(passes, loops) for _ in range(7))
                moved = nbytes * sum(MOVED[name] for name in passes)
                cells.append(f"{moved / seconds / 1e9:>11.1f} GB/s")
            memory.close()
            print(f"{mib:>8g} {threads:>8}", *cells)


if __name__ == "__main__":
    main()
