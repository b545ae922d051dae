"""Recurrent nets to compare: what a training step of each is, and ours.

A training step is one forward over x (T, B, I) and one backward from dy (T, B, H), from gradients set to
nothing, to the gradients of x and of every parameter. All of a family start from the same parameters and
arrays, so their results can be held to each other.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Results = dict[str, np.ndarray]  # y, dx, and the gradient of every parameter by its name here
EPS = 1e-5


class Shape(NamedTuple):
    """T steps, B rows, I inputs, H units."""

    T: int
    B: int
    I: int  # noqa: E741
    H: int


@dataclass(frozen=True)
class Family:
    """What a net computes: those of one family agree."""

    cell: str
    norm: str | None

    @property
    def name(self) -> str:
        return f"{'LayerNorm-' if self.norm == 'layer' else ''}{self.cell}"


LAYER_LSTM, LSTM, GRU = Family("LSTM", "layer"), Family("LSTM", None), Family("GRU", None)
FAMILIES = (LAYER_LSTM, LSTM, GRU)


@dataclass(frozen=True)
class Step:
    """One implementation of a family: its training step, and how to read what a call returns."""

    name: str
    call: Callable[[], object]
    read: Callable[[object], Results]
    only_threads: int | None = None  # where their number cannot be set


@dataclass(frozen=True)
class Problem:
    """The arrays that everyone of a family gets."""

    family: Family
    shape: Shape
    x: np.ndarray
    dy: np.ndarray
    params: dict[str, np.ndarray]


def make_problem(family: Family, shape: Shape) -> Problem:
    """Standard normal x and dy; matrices and biases uniform within 1 / sqrt(H), gains around a half.

    A layer-normalized LSTM with gains of 1 is chaotic before it is trained: after 100 steps roundings differ
    by a thousandth of the largest output in every implementation, and agreement says little.
    """
    rng = np.random.default_rng(0)
    T, B, I, H = shape  # noqa: E741
    gates = 3 if family.cell == "GRU" else 4
    bound = 1 / math.sqrt(H)

    def uniform(*size, around=0.0):
        return (around + rng.uniform(-bound, bound, size)).astype(np.float32)

    params = {"weight_ih": uniform(gates * H, I), "weight_hh": uniform(gates * H, H)}
    params |= {"bias_ih": uniform(gates * H), "bias_hh": uniform(gates * H)}
    if family.norm == "layer":
        params |= {"gain_ih": uniform(gates * H, around=0.5), "gain_hh": uniform(gates * H, around=0.5)}
        params |= {"gain_c": uniform(H, around=0.5), "bias_c": uniform(H)}
    x = rng.standard_normal((T, B, I), dtype=np.float32)
    return Problem(family, shape, x, rng.standard_normal((T, B, H), dtype=np.float32), params)


class Fastnorm:
    """fastnorm.nn's nets."""

    name = "fastnorm"

    def __init__(self) -> None:
        import fastnorm
        from fastnorm import nn

        self._fastnorm, self._nn = fastnorm, nn

    def set_threads(self, threads: int) -> None:
        """Set the threads of the process."""
        self._fastnorm.set_num_threads(threads)

    def prepare(self, problem: Problem, recompute: bool = False) -> list[Step]:
        """The step of every family; with less kept for the backward if asked for."""
        name = f"{self.name} recompute" if recompute else self.name
        family, shape = problem.family, problem.shape
        net = getattr(self._nn, family.cell)(
            shape.I, shape.H, norm=family.norm, eps=EPS, recompute=recompute, rng=0
        )
        net.load_state_dict(problem.params)

        def call():
            net.zero_grad()
            (y, _state), backward = net(problem.x)
            dx, _dstate = backward(problem.dy)
            return y, dx

        return [Step(name, call, lambda result: {"y": result[0], "dx": result[1], **net.grads})]

    def prepare_stream(self, family: Family, shape: Shape) -> Callable[[], object]:
        """The next step of one sequence."""
        problem = make_problem(family, shape)
        net = getattr(self._nn, family.cell)(shape.I, shape.H, norm=family.norm, rng=0)
        net.load_state_dict(problem.params)
        stream, x = net.stream(), problem.x[0, :1]
        return lambda: stream(x)


def largest_error(results: Results, truth: Results) -> tuple[float, str]:
    """The largest error of any result over the largest value of that result, and its name."""
    if results.keys() != truth.keys():
        return math.inf, "the set of results"
    errors = {}
    for name, expected in truth.items():
        if results[name].shape != expected.shape:
            return math.inf, name
        errors[name] = float(np.abs(results[name] - expected).max() / np.abs(expected).max())
    worst = max(errors, key=lambda name: errors[name] if errors[name] == errors[name] else math.inf)
    return errors[worst], worst
