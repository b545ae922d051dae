"""What RNN, GRU and LSTM share: layers, directions, states, lengths, and the names of the parameters."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from .. import norms
from . import rnn_engine, rnn_plain
from .activations import Dropout
from .layer import Layer, as_real, check_shape, check_size
from .rnn_init import INITS, NORMS, parameters, running_statistics, suffixes
from .stream import Stream


class Spec(NamedTuple):
    """What a layer in one direction computes."""

    cell: str
    norm: str | None
    eps: float
    momentum: float
    recompute: bool


class Recurrent(Layer):
    """The base of RNN, GRU and LSTM, which say what they compute."""

    _cell = None

    def __init__(
        self,
        input_size,
        hidden_size,
        *,
        num_layers=1,
        bidirectional=False,
        dropout=0.0,
        norm=None,
        init="uniform",
        forget_bias=0.0,
        eps=1e-5,
        momentum=0.1,
        max_steps=256,
        recompute=False,
        dtype=np.float32,
        rng=None,
    ):
        super().__init__(dtype)
        for name, value, known in (("norm", norm, NORMS), ("init", init, INITS)):
            if value not in known:
                raise ValueError(f"{name} is {value!r}, and needs to be one of {', '.join(map(repr, known))}")
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = H = check_size("hidden_size", hidden_size)
        self.num_layers = check_size("num_layers", num_layers)
        self.bidirectional = bool(bidirectional)
        self.norm = norm
        cell = rnn_plain.CELLS[self._cell]
        if forget_bias and not cell.has_c:
            raise ValueError(f"forget_bias is {forget_bias!r}, and only an LSTM has forget gates")
        self._spec = Spec(self._cell, norm, float(eps), float(momentum), bool(recompute))
        self._has_c = cell.has_c
        self._suffixes = suffixes(self.num_layers, self.bidirectional)
        rng = np.random.default_rng(rng)
        self._dropout = Dropout(dropout, dtype=dtype, rng=rng.spawn(1)[0]) if dropout else None
        if dropout:
            self.generators["dropout"] = self._dropout.generators["rng"]
        directions = 1 + self.bidirectional
        for k, suffix in enumerate(self._suffixes):
            size = self.input_size if k < directions else H * directions
            drawn = parameters(cell.gates, cell.has_c, size, H, norm, init, forget_bias, rng)
            for name, value in drawn.items():
                self._add_param(name + suffix, value)
            if norm == "batch":
                kept = running_statistics(
                    cell.gates, cell.has_c, H, check_size("max_steps", max_steps), self.dtype
                )
                self.buffers.update((name + suffix, value) for name, value in kept.items())

    @property
    def momentum(self):
        """The share of the batch in batch norm's running statistics after a call in training."""
        return self._spec.momentum

    @momentum.setter
    def momentum(self, value):
        self._spec = self._spec._replace(momentum=float(value))

    def __call__(self, x, state=None, lengths=None, training=True):
        """Run over a batch of sequences.

        Parameters
        ----------
        x : array_like, (T, B, I)
        state : h, or (h, c) for LSTM, each array_like (B, H), optional
            The state before the first step; zeros if not given. (num_layers * directions, B, H), in the order
            of torch.nn, with several layers or directions.
        lengths : array_like of int, (B,), optional
            The valid steps of each sequence, from 0 to T. Beyond them y is 0, the state stays, no gradient
            flows, and x may hold anything.
        training : bool
            Whether batch norm takes the batch's statistics (and updates the running ones), and whether there
            is dropout. Without either it makes no difference.

        Returns
        -------
        (y, state) : y (T, B, H), or (T, B, 2 H) in both directions
            The outputs of all steps, and the state after the last (valid) one in the shapes of `state`.
        backward : callable
            ``backward(dy, dstate=None) -> dx, dstate0``; `dstate` and `dstate0` have the form of `state`.
            To train on pieces of a long sequence (truncated backpropagation), hand the state of one piece to
            the next and leave `dstate` out.

        Raises
        ------
        ValueError, TypeError
            For a wrong shape, a length that is not a whole number from 0 to T, or an x without real numbers.
        """
        x = as_real("x", x, self.dtype)
        if x.ndim != 3 or x.shape[2] != self.input_size:
            raise ValueError(f"x has shape {x.shape}, and (T, B, {self.input_size}) is needed")
        T, B, _ = x.shape
        H = self.hidden_size
        h0, c0 = self._read_state("state", state, B)
        lengths = _read_lengths(lengths, T, B)
        directions = 1 + self.bidirectional
        h_end, c_end = np.empty_like(h0), None if c0 is None else np.empty_like(c0)
        tapes, drops = [], []

        below = x
        for layer in range(self.num_layers):
            if layer and self._dropout is not None:
                below, drop = self._dropout(below, training)
                drops.append(drop)
            outputs = []
            for k in range(layer * directions, (layer + 1) * directions):
                turned = below if k % 2 * self.bidirectional == 0 else _turn(below, lengths)
                y, h_end[k], c, tape = self._run(k, turned, h0[k], _at(c0, k), lengths, training)
                if c0 is not None:
                    c_end[k] = c
                tapes.append(tape)
                outputs.append(y if turned is below else _turn(y, lengths))
            below = outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=2)
        y = below

        def backward(dy, dstate=None):
            dy = as_real("dy", dy, self.dtype)
            check_shape("dy", dy, y_shape)
            dh, dc = self._read_state("dstate", dstate, B)
            dh0, dc0 = np.empty_like(dh), None if dc is None else np.empty_like(dc)
            for layer in reversed(range(self.num_layers)):
                dbelow = None
                for d in range(directions):
                    k = layer * directions + d
                    part = dy[:, :, d * H : (d + 1) * H]
                    part = part if d == 0 else _turn(part, lengths)
                    dpart, dh0[k], dc_k = tapes[k](part, dh[k], _at(dc, k))
                    if dc is not None:
                        dc0[k] = dc_k
                    dpart = dpart if d == 0 else _turn(dpart, lengths)
                    dbelow = dpart if dbelow is None else dbelow + dpart
                dy = drops[layer - 1](dbelow) if layer and drops else dbelow
            return dy, self._shape_state(dh0, dc0)

        y_shape = y.shape
        return (y, self._shape_state(h_end, c_end)), backward

    def _run(self, k, x, h0, c0, lengths, training):
        """The net of layer and direction k over x: y, h, c and a backward that adds to the gradients."""
        p, running = self._values(k)
        y, h, c, tape = rnn_engine.forward(self._spec, x, h0, c0, p, running, lengths, training)

        def backward(dy, dh, dc):
            dx, dh0, dc0, grads = tape(dy, dh, dc, self._weight_grads(k))
            if self.norm == "weight":
                for which in ("ih", "hh"):
                    own = (self._own("params", k)[f"{part}_{which}"] for part in ("weight", "gain"))
                    grads[f"weight_{which}"], grads[f"gain_{which}"] = norms.weight_norm_backward(
                        grads[f"weight_{which}"], *own
                    )
            for name, grad in grads.items():
                self.grads[name + self._suffixes[k]] += grad
            return dx, dh0, dc0

        return y, h, c, backward

    def _weight_grads(self, k):
        """The matrices' gradients, to be added to in place; None where something comes in between."""
        grads = self._own("grads", k)
        into = {name: grads[name] for name in ("weight_ih", "weight_hh")}
        usable = (array.flags.c_contiguous and array.dtype == self.dtype for array in into.values())
        return into if self.norm != "weight" and all(usable) else None

    def _values(self, k):
        """Parameters and running statistics of layer and direction k, without suffix; weight norm is done."""
        p = self._own("params", k)
        if self.norm == "weight":
            for which in ("ih", "hh"):
                p[f"weight_{which}"] = norms.weight_norm(p[f"weight_{which}"], p.pop(f"gain_{which}"))
        return p, self._own("buffers", k) if self.norm == "batch" else None

    def _own(self, kind, k):
        """The parameters or buffers of layer and direction k, without their suffix."""
        suffix, arrays = self._suffixes[k], getattr(self, kind)
        return {name.removesuffix(suffix): array for name, array in arrays.items() if name.endswith(suffix)}

    def stream(self, batch_size=1, state=None):
        """The net for one step at a time, with its parameters as they are now.

        Parameters
        ----------
        batch_size : int
            B, the rows of each step.
        state : as in a call, optional

        Returns
        -------
        Stream
            ``stream(x) -> y`` for x (B, I) and y (B, H): inference, with no allocation from step to step (but
            for norm="batch").

        Raises
        ------
        ValueError
            For a net in both directions, which needs the whole sequence, or a wrong size or state.
        """
        if self.bidirectional:
            raise ValueError("bidirectional is True, and a stream needs a net in one direction")
        return Stream(self, check_size("batch_size", batch_size), state)

    def load_state_dict(self, state):
        """As `Layer.load_state_dict`; a single layer also takes torch's names, which end in ``_l0``."""
        if isinstance(state, Mapping) and self._suffixes == [""]:
            short = {name: name.removesuffix("_l0") for name in state}
            if len(set(short.values())) == len(short):
                state = {short[name]: state[name] for name in state}
        super().load_state_dict(state)

    def _read_state(self, name, state, B):
        """h and c as (L, B, H) of the layer's dtype, L being 1 for a single layer; zeros for None."""
        parts = (state,)
        if self._has_c:
            parts = (None, None) if state is None else state
            if len(parts) != 2:
                raise ValueError(f"{name} holds {len(parts)} arrays, and needs two, of h and of c")
        shape = (
            (B, self.hidden_size) if self._suffixes == [""] else (len(self._suffixes), B, self.hidden_size)
        )
        arrays = []
        for k, part in enumerate(parts):
            label = f"{name}[{k}]" if self._has_c else name
            array = np.zeros(shape, self.dtype) if part is None else as_real(label, part, self.dtype)
            check_shape(label, array, shape)
            arrays.append(array.reshape(len(self._suffixes), *shape[-2:]))
        return arrays[0], arrays[1] if self._has_c else None

    def _shape_state(self, h, c):
        """The state as the caller sees it."""
        if self._suffixes == [""]:
            h, c = h[0], _at(c, 0)
        return (h, c) if self._has_c else h


def _at(arrays, k):
    return None if arrays is None else arrays[k]


def _read_lengths(lengths, T, B):
    """(B,) ints, or None where every step is valid."""
    if lengths is None:
        return None
    lengths = np.asarray(lengths)
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"lengths have dtype {lengths.dtype}, and integers are needed")
    check_shape("lengths", lengths, (B,))
    if B and not 0 <= lengths.min() <= lengths.max() <= T:
        bad = lengths.min() if lengths.min() < 0 else lengths.max()
        raise ValueError(f"lengths hold {bad}, and need to be from 0 to {T}, the steps of x")
    return lengths.astype(np.intp) if (lengths < T).any() else None


def _turn(x, lengths):
    """The valid part of every sequence from its end to its start; what lies beyond stays where it is."""
    if lengths is None:
        return np.ascontiguousarray(x[::-1])
    step = np.arange(len(x))[:, None]
    turned = np.where(step < lengths, lengths - 1 - step, step)
    return np.take_along_axis(x, turned[:, :, None], axis=0)
