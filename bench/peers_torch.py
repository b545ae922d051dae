"""PyTorch's eager CPU operators as a peer.

The native backward operators are called directly, so autograd costs nothing; it serves where PyTorch has no
such operator (RMS norm, instance norm, any axes). Channels-last arrays go in as channels_last tensors.
"""

import math

import ml_dtypes
import numpy as np
import torch
from torch.nn import functional

from bench.cases import Arrays, Case
from bench.peers import Call, eps_of

aten = torch.ops.aten
ALL = [True, True, True]


class Torch:
    """PyTorch, recording no gradients in the forward."""

    name = "torch"

    def __init__(self) -> None:
        torch.set_grad_enabled(False)

    def set_threads(self, threads: int) -> None:
        """Set PyTorch's intra-operator threads."""
        torch.set_num_threads(threads)

    def to_numpy(self, result: torch.Tensor, case: Case) -> np.ndarray:
        """The result as an array with the axes in the case's order."""
        result = result.detach()
        if _channels_last(case) and result.ndim == len(case.shape):
            result = result.movedim(1, -1)
        if result.dtype == torch.bfloat16:
            return result.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return result.numpy()

    def prepare(self, case: Case, arrays: Arrays) -> Call:
        """A call on tensors that share the arrays' memory."""
        x, dy, weight, bias = map(_tensor, (arrays.x, arrays.dy, arrays.weight, arrays.bias))
        if _channels_last(case):  # shape (N, C, ...), memory (N, ..., C)
            x, dy = x.movedim(-1, 1), dy.movedim(-1, 1)
        make = getattr(self, f"_{case.layout.norm}_{case.direction}")
        return make(case, x, dy, weight, bias)

    def _layer_forward(self, case, x, dy, weight, bias):
        shape, eps = x.shape[-1:], eps_of(case)
        return lambda: (functional.layer_norm(x, shape, weight, bias, eps),)

    def _layer_backward(self, case, x, dy, weight, bias):
        shape = x.shape[-1:]
        _, mean, rstd = torch.native_layer_norm(x, shape, weight, bias, eps_of(case))
        op = aten.native_layer_norm_backward.default
        return lambda: op(dy, x, shape, mean, rstd, weight, bias, ALL)

    def _rms_forward(self, case, x, dy, weight, bias):
        # With a weight of another dtype than x, PyTorch falls back to a slower composition.
        shape, eps, weight = x.shape[-1:], eps_of(case), weight.to(x.dtype)
        return lambda: (functional.rms_norm(x, shape, weight, eps),)

    def _rms_backward(self, case, x, dy, weight, bias):
        weight = weight.to(x.dtype)
        return _autograd(lambda x, w: functional.rms_norm(x, x.shape[-1:], w, eps_of(case)), dy, x, weight)

    def _batch_forward(self, case, x, dy, weight, bias):
        mean, var, eps = torch.zeros_like(weight), torch.ones_like(weight), eps_of(case)
        return lambda: (functional.batch_norm(x, mean, var, weight, bias, True, 0.1, eps),)

    def _batch_backward(self, case, x, dy, weight, bias):
        eps = eps_of(case)
        _, mean, rstd = torch.native_batch_norm(x, weight, bias, None, None, True, 0.1, eps)
        op = aten.native_batch_norm_backward.default
        return lambda: op(dy, x, weight, None, None, mean, rstd, True, eps, ALL)

    def _instance_forward(self, case, x, dy, weight, bias):
        eps = eps_of(case)
        return lambda: (functional.instance_norm(x, None, None, weight, bias, True, 0.1, eps),)

    def _instance_backward(self, case, x, dy, weight, bias):
        def forward(x, weight, bias):
            return functional.instance_norm(x, None, None, weight, bias, True, 0.1, eps_of(case))

        return _autograd(forward, dy, x, weight, bias)

    def _group_forward(self, case, x, dy, weight, bias):
        groups, eps = case.layout.options["num_groups"], eps_of(case)
        return lambda: (functional.group_norm(x, groups, weight, bias, eps),)

    def _group_backward(self, case, x, dy, weight, bias):
        sizes = (x.shape[0], x.shape[1], math.prod(x.shape[2:]), case.layout.options["num_groups"])
        _, mean, rstd = torch.native_group_norm(x, weight, bias, *sizes, eps_of(case))
        op = aten.native_group_norm_backward.default
        return lambda: op(dy, x, mean, rstd, weight, *sizes, ALL)

    def _weight_forward(self, case, x, dy, weight, bias):
        g = weight.to(x.dtype).reshape(-1, 1)
        return lambda: (torch._weight_norm(x, g, 0),)

    def _weight_backward(self, case, x, dy, weight, bias):
        g = weight.to(x.dtype).reshape(-1, 1)
        _, norms = torch._weight_norm_interface(x, g, 0)
        op = aten._weight_norm_interface_backward.default
        return lambda: op(dy, x, g, norms, 0)

    def _mean_only_forward(self, case, x, dy, weight, bias):
        dims, bias, running = case.view.axes, bias.reshape(case.view.weight_shape), torch.zeros_like(bias)

        def call():
            mean = x.mean(dims, keepdim=True)
            running.lerp_(mean.flatten().to(running.dtype), 0.1)
            return ((x - (mean - bias)).to(x.dtype),)

        return call

    def _mean_only_backward(self, case, x, dy, weight, bias):
        dims, count = case.view.axes, dy.numel() // bias.numel()

        def call():
            total = dy.sum(dims, keepdim=True, dtype=bias.dtype)
            return dy - (total / count).to(dy.dtype), total

        return call

    def _standardize_forward(self, case, x, dy, weight, bias):
        def call():
            var, mean = torch.var_mean(x, 0, correction=0)
            return ((x - mean) * torch.rsqrt(var),)

        return call

    def _axes_forward(self, case, x, dy, weight, bias):
        dims, eps = case.layout.options["axis"], eps_of(case)
        return lambda: (_normalize(x, weight, bias, dims, eps),)

    def _axes_backward(self, case, x, dy, weight, bias):
        dims, eps = case.layout.options["axis"], eps_of(case)
        return _autograd(lambda x, w, b: _normalize(x, w, b, dims, eps), dy, x, weight, bias)


def _normalize(x, weight, bias, dims, eps):
    """Any axes, as a PyTorch user composes it."""
    var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return ((x - mean) * torch.rsqrt(var + eps) * weight + bias).to(x.dtype)


def _autograd(forward, dy, *inputs) -> Call:
    inputs = [t.detach().requires_grad_() for t in inputs]
    with torch.enable_grad():
        y = forward(*inputs)
    return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)


def _channels_last(case: Case) -> bool:
    return case.layout.options.get("channel_axis") == -1


def _tensor(array: np.ndarray) -> torch.Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
