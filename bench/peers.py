"""The implementations compared: fastnorm, NumPy, and what a peer must offer.

A peer prepares a call for a case: no argument, the results in order. Forward: (y,). Backward: (dx, dweight,
dbias), shorter where the norm has fewer parameters; what it needs from its forward is computed in preparing.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Protocol

import numpy as np

from bench.cases import Arrays, Case

EPS = {"rms": 1e-6, "standardize": 0.0}
DEFAULT_EPS = 1e-5
Call = Callable[[], tuple]


class Peer(Protocol):
    """One implementation. One whose number of threads cannot be set has it as `only_threads`."""

    name: str

    def set_threads(self, threads: int) -> None:
        """Use this many threads from now on."""

    def prepare(self, case: Case, arrays: Arrays) -> Call | None:
        """The call to check and to time, or None."""

    def to_numpy(self, result, case: Case) -> np.ndarray:
        """One of the call's results as an array."""


def eps_of(case: Case) -> float:
    """The eps of a case, the same for everyone."""
    return EPS.get(case.layout.norm, DEFAULT_EPS)


class Fastnorm:
    """fastnorm, or with `module=fastnorm.reference` the oracle: the signatures are the same."""

    def __init__(self, module: ModuleType, name: str = "fastnorm") -> None:
        self.module = module
        self.name = name

    def set_threads(self, threads: int) -> None:
        """Set the threads of the process."""
        self.module.set_num_threads(threads)

    def to_numpy(self, result, case: Case) -> np.ndarray:
        """Results are arrays already."""
        return np.asarray(result)

    def prepare(self, case: Case, arrays: Arrays) -> Call:
        """A call as a user writes it."""
        make = getattr(self, f"_{case.layout.norm}")
        return make(case, arrays, case.direction == "backward", dict(case.layout.options), eps_of(case))

    def _layer(self, case, a, backward, options, eps):
        fn = self.module
        if not backward:
            return lambda: (fn.layer_norm(a.x, a.weight, a.bias, eps=eps),)
        _, stats = fn.layer_norm(a.x, a.weight, a.bias, eps=eps, return_stats=True)
        return lambda: fn.layer_norm_backward(a.dy, a.x, stats, a.weight)

    def _rms(self, case, a, backward, options, eps):
        fn = self.module
        if not backward:
            return lambda: (fn.rms_norm(a.x, a.weight, eps=eps),)
        _, stats = fn.rms_norm(a.x, a.weight, eps=eps, return_stats=True)
        return lambda: fn.rms_norm_backward(a.dy, a.x, stats, a.weight)[:2]

    def _batch(self, case, a, backward, options, eps):
        fn = self.module
        if not backward:
            running = {"running_mean": np.zeros_like(a.weight), "running_var": np.ones_like(a.weight)}
            return lambda: (fn.batch_norm(a.x, a.weight, a.bias, eps=eps, **running, **options),)
        _, stats = fn.batch_norm(a.x, a.weight, a.bias, eps=eps, return_stats=True, **options)
        return lambda: fn.batch_norm_backward(a.dy, a.x, stats, a.weight, **options)

    def _instance(self, case, a, backward, options, eps):
        fn = self.module
        if not backward:
            return lambda: (fn.instance_norm(a.x, a.weight, a.bias, eps=eps, **options),)
        _, stats = fn.instance_norm(a.x, a.weight, a.bias, eps=eps, return_stats=True, **options)
        return lambda: fn.instance_norm_backward(a.dy, a.x, stats, a.weight, **options)

    def _group(self, case, a, backward, options, eps):
        fn, groups = self.module, options.pop("num_groups")
        if not backward:
            return lambda: (fn.group_norm(a.x, groups, a.weight, a.bias, eps=eps, **options),)
        _, stats = fn.group_norm(a.x, groups, a.weight, a.bias, eps=eps, return_stats=True, **options)
        return lambda: fn.group_norm_backward(a.dy, a.x, stats, groups, a.weight, **options)

    def _weight(self, case, a, backward, options, eps):
        fn = self.module
        if not backward:
            return lambda: (fn.weight_norm(a.x, a.weight),)
        return lambda: fn.weight_norm_backward(a.dy, a.x, a.weight)

    def _mean_only(self, case, a, backward, options, eps):
        fn = self.module
        if not backward:
            running = np.zeros_like(a.bias)
            return lambda: (fn.mean_only_batch_norm(a.x, a.bias, running_mean=running, **options),)
        return lambda: fn.mean_only_batch_norm_backward(a.dy, **options)

    def _standardize(self, case, a, backward, options, eps):
        return lambda: (self.module.standardize(a.x, 0),)

    def _axes(self, case, a, backward, options, eps):
        fn, axis = self.module, options["axis"]
        if not backward:
            return lambda: (fn.normalize(a.x, axis, a.weight, a.bias, eps=eps),)
        _, stats = fn.normalize(a.x, axis, a.weight, a.bias, eps=eps, return_stats=True)
        return lambda: fn.normalize_backward(a.dy, a.x, stats, axis, a.weight, a.bias)


class NumPy:
    """What a careful NumPy user writes: in-place arithmetic, float32 for 16-bit data. One thread."""

    name = "numpy"

    def set_threads(self, threads: int) -> None:
        """Elementwise NumPy has one thread."""

    def to_numpy(self, result, case: Case) -> np.ndarray:
        """Results are arrays already."""
        return result

    def prepare(self, case: Case, arrays: Arrays) -> Call:
        """A call on the view in which the norm is plain."""
        view, norm, eps, axes = case.view, case.layout.norm, eps_of(case), case.view.axes
        weight, bias = arrays.weight.reshape(view.weight_shape), arrays.bias.reshape(view.weight_shape)
        others = tuple(a for a in range(len(view.shape)) if a not in view.weight_axes)
        centre, scale = norm not in ("rms", "weight"), norm != "mean_only"

        def compute(array):  # 16-bit data in float32
            return array.astype(weight.dtype, copy=False).reshape(view.shape)

        def statistics(x):
            mean = x.mean(axes, keepdims=True) if centre else 0
            d = x - mean if centre else x
            if norm == "weight":
                return mean, 1 / np.sqrt(np.sum(d * d, axes, keepdims=True))
            return mean, 1 / np.sqrt(np.mean(d * d, axes, keepdims=True) + eps) if scale else 1

        def forward():
            x = compute(arrays.x)
            mean, rstd = statistics(x)
            y = x - mean if centre else x * rstd
            if centre and scale:
                y *= rstd
            if scale and norm != "standardize":
                y *= weight
            if centre and norm != "standardize":
                y += bias
            return (y.astype(arrays.x.dtype, copy=False).reshape(case.shape),)

        if case.direction == "forward":
            return forward
        mean, rstd = statistics(compute(arrays.x))
        count = 1 if norm == "weight" else np.prod([view.shape[a] for a in axes])

        def backward():
            dy = compute(arrays.dy)
            if not scale:
                dx = dy - dy.mean(axes, keepdims=True)
                return dx.astype(arrays.x.dtype, copy=False).reshape(case.shape), dy.sum(others)
            xhat = compute(arrays.x) - mean
            xhat *= rstd
            dxhat = dy * weight
            both = dxhat * xhat
            dweight = (dy * xhat).sum(others)
            xhat *= both.sum(axes, keepdims=True) / count
            dx = np.subtract(dxhat, xhat, out=xhat)
            if centre:
                dx -= dxhat.mean(axes, keepdims=True)
            dx *= rstd
            dx = dx.astype(arrays.x.dtype, copy=False).reshape(case.shape)
            return (dx, dweight, dy.sum(others)) if centre else (dx, dweight)

        return backward
