"""PyTorch's recurrent nets: torch.nn.LSTM, GRU and LSTMCell, and the layer-normalized LSTM that it lacks.

The latter is written as well as PyTorch allows: the projections of all inputs and their norm in one piece
before the loop, its fused layer_norm inside; the same function eagerly and compiled by TorchScript.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from bench.peers_recurrent import EPS, LAYER_LSTM, Family, Problem, Shape, Step, make_problem


def layer_lstm(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    gain_ih: Tensor,
    bias_ih: Tensor,
    gain_hh: Tensor,
    bias_hh: Tensor,
    gain_c: Tensor,
    bias_c: Tensor,
    eps: float,
) -> Tensor:
    """Ba, Kiros & Hinton 2016, supplementary equations 20 to 22, from a state of zeros."""
    four, units = weight_hh.shape[0], weight_hh.shape[1]
    projected = functional.layer_norm(functional.linear(x, weight_ih), [four], gain_ih, bias_ih, eps)
    h = torch.zeros(x.shape[1], units, dtype=x.dtype)
    c = h
    turned = weight_hh.t()
    outputs: list[Tensor] = []
    for a in projected.unbind(0):
        a = a + functional.layer_norm(torch.mm(h, turned), [four], gain_hh, bias_hh, eps)
        i, f, g, o = a.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(functional.layer_norm(c, [units], gain_c, bias_c, eps))
        outputs.append(h)
    return torch.stack(outputs)


ORDER = ("weight_ih", "weight_hh", "gain_ih", "bias_ih", "gain_hh", "bias_hh", "gain_c", "bias_c")


class Torch:
    """The nets of PyTorch."""

    name = "torch"

    def set_threads(self, threads: int) -> None:
        """Set PyTorch's intra-operator threads."""
        torch.set_num_threads(threads)

    def prepare(self, problem: Problem) -> list[Step]:
        """torch.nn's net, or both ways to run the layer-normalized one."""
        if problem.family != LAYER_LSTM:
            return [self._step(problem, *self._module(problem))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is to go; it is what there is to compile loops well
            compiled = torch.jit.script(layer_lstm)
        ways = (("torch eager", layer_lstm), ("torch script", compiled))
        steps = []
        for name, function in ways:
            leaves = _leaves(problem)
            arguments = [leaves[key] for key in ORDER]

            def forward(x, function=function, arguments=arguments):
                return function(x, *arguments, EPS)

            steps.append(self._step(problem, forward, leaves, name))
        return steps

    def prepare_stream(self, family: Family, shape: Shape) -> Callable[[], object]:
        """torch.nn.LSTMCell in inference mode, its state carried."""
        problem = make_problem(family, shape)
        cell = torch.nn.LSTMCell(shape.I, shape.H)
        with torch.no_grad():
            for key, value in problem.params.items():
                getattr(cell, key).copy_(torch.tensor(value))
        x = torch.tensor(problem.x[0, :1])
        state = [torch.zeros(1, shape.H), torch.zeros(1, shape.H)]

        @torch.inference_mode()
        def step():
            state[:] = cell(x, state)
            return state[0]

        return step

    def _module(self, problem: Problem):
        family, shape = problem.family, problem.shape
        module = getattr(torch.nn, family.cell)(shape.I, shape.H)
        with torch.no_grad():
            for key, value in problem.params.items():
                getattr(module, f"{key}_l0").copy_(torch.tensor(value))
        leaves = {key: getattr(module, f"{key}_l0") for key in problem.params}
        return (lambda x: module(x)[0]), leaves

    def _step(self, problem: Problem, forward, leaves: dict[str, Tensor], name: str = "torch") -> Step:
        x, dy = torch.from_numpy(problem.x).requires_grad_(), torch.from_numpy(problem.dy)

        def call():
            x.grad = None
            for leaf in leaves.values():
                leaf.grad = None
            y = forward(x)
            y.backward(dy)
            return y.detach()

        def read(y):
            grads = {key: leaf.grad.numpy() for key, leaf in leaves.items()}
            return {"y": y.numpy(), "dx": x.grad.numpy(), **grads}

        return Step(name, call, read)


def _leaves(problem: Problem) -> dict[str, Tensor]:
    return {key: torch.tensor(value, requires_grad=True) for key, value in problem.params.items()}
