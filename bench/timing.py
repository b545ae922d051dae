"""Interleaved timing: every contestant has its turn in every round, and its best round counts.

Other processes and clock changes then strike all contestants alike, and the best of many rounds is what the
code can do when nobody disturbs it.
"""

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from time import perf_counter

PROBES = 3  # turns of one call, to learn how long it takes: the first is slow wherever threads are started
LONG = 0.005  # seconds of a call that needs no warming up: no cache holds its data
# Untimed calls before a turn. The first wakes the threads; but a last-level cache that holds others' data
# keeps what is used again, and lets the rest in bit by bit: arrays of 8 MB take 2.0, 1.6, 1.5, 1.4 ... 1.0
# times their best.
WARM = 8

# A contestant: given a number of loops, and one of untimed calls before them, the seconds of one call.
Contestant = Callable[[int, int], float]


@dataclass(frozen=True)
class Budget:
    """How long to measure."""

    seconds: float = 0.3  # of rounds for one case
    batch: float = 0.001  # seconds of one turn, reached by repeating short calls
    min_rounds: int = 2  # even if that takes longer, on top of the first turns
    max_rounds: int = 30
    hopeless: float = 5.0  # a peer so many times slower than the fastest has no more turns,
    slow: float = 0.05  # if its call takes so many seconds


def looped(call: Callable[[], object]) -> Contestant:
    """Make a contestant of a call. Its result is dropped at once, so each call makes a fresh one."""

    def seconds(loops: int, warm: int) -> float:
        for _ in repeat(None, warm):
            call()
        start = perf_counter()
        for _ in repeat(None, loops):
            call()
        return (perf_counter() - start) / loops

    return seconds


def interleave(
    contestants: dict[str, Contestant], budget: Budget, keep: tuple[str, ...] = ()
) -> dict[str, float]:
    """Best seconds of one call of each contestant. Those to `keep` have all their turns, however slow."""
    best = dict.fromkeys(contestants, math.inf)

    def turn(name: str, loops: int) -> None:
        settle()
        warm = 1 if best[name] == math.inf else WARM if best[name] < LONG else 0
        best[name] = min(best[name], contestants[name](loops, warm))

    collecting = gc.isenabled()
    gc.disable()
    try:
        names = list(contestants)
        for _ in range(PROBES):
            for name in names:
                turn(name, 1)
            bar = max(budget.slow, budget.hopeless * min(best.values()))
            names = [name for name in names if name in keep or best[name] <= bar]
        end = perf_counter() + budget.seconds
        for done in range(budget.max_rounds):
            first = done % len(names)
            for name in names[first:] + names[:first]:
                turn(name, max(1, int(budget.batch / best[name])))
            if perf_counter() > end and done + 1 >= budget.min_rounds:
                break
        return best
    finally:
        if collecting:
            gc.enable()


def settle(quiet: float = 0.0005, limit: float = 0.02) -> None:
    """Sleep until this process uses no processor.

    The idle threads of an OpenMP runtime spin for milliseconds after their work, on the processors that the
    next contestant needs.
    """
    end = perf_counter() + limit
    while perf_counter() < end:
        used = time.process_time()
        time.sleep(quiet)
        if time.process_time() - used < quiet / 2:
            return
