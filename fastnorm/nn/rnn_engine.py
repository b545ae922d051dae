"""The fused engine under the recurrent layers: the interface of `rnn_plain`, in C for a whole sequence."""

import numpy as np

from .. import _norm, _recurrent
from .._threads import get_num_threads
from . import rnn_plain

GATES = {name: cell.gates for name, cell in rnn_plain.CELLS.items()}


def forward(spec, x, h0, c0, p, running=None, lengths=None, training=True):
    """As `rnn_plain.forward`, which serves where rows depend on each other (batch norm) or there are none.

    Its backward may add the gradients of weight_ih and weight_hh to the contiguous arrays of these names in
    `into` (the plain one does not), and leaves them out of what it returns then.
    """
    if spec.norm == "batch" or not x.shape[0] or not x.shape[1]:
        return rnn_plain.forward(spec, x, h0, c0, p, running, lengths, training)
    H, dtype = h0.shape[1], x.dtype
    weights = [np.ascontiguousarray(p[name]) for name in ("weight_ih", "weight_hh")]
    norm = None if spec.norm == "weight" else spec.norm
    arrays = [None if array is None else np.ascontiguousarray(array) for array in (x, h0, c0, lengths)]
    vectors = _vectors(spec.cell, norm, p, H, dtype)
    y, h, c, tape = _recurrent.forward(
        spec.cell, norm, spec.eps, spec.recompute, *arrays, *weights, vectors, _norm.isa(), get_num_threads()
    )

    def backward(dy, dh, dc, into=None):
        grads = (
            {name: np.zeros_like(p[name]) for name in ("weight_ih", "weight_hh")} if into is None else into
        )
        arrays = [None if array is None else np.ascontiguousarray(array) for array in (dy, dh, dc)]
        dx, dh0, dc0, sums = tape.backward(
            *arrays, grads["weight_ih"], grads["weight_hh"], _norm.isa(), get_num_threads()
        )
        sums = _read_sums(spec.cell, norm, sums[:, :H])
        return dx, dh0, dc0, sums if into is not None else grads | sums

    return y, h, c, backward


def make_step(spec, p, running, rows, dtype):
    """A `_recurrent.Step` over `rows` rows with the parameters p as they are now."""
    weights = [np.ascontiguousarray(p[name]) for name in ("weight_ih", "weight_hh")]
    norm = None if spec.norm == "weight" else spec.norm
    vectors = _vectors(spec.cell, norm, p, weights[1].shape[1], dtype)
    return _recurrent.Step(spec.cell, norm, spec.eps, rows, *weights, vectors, _norm.isa(), get_num_threads())


def _vectors(cell, norm, p, H, dtype):
    """Biases and gains, gate by gate, each padded: (4 G + 2, P)."""
    G, pad = GATES[cell], _recurrent.PAD
    vectors = np.zeros((4 * G + 2, -(-H // pad) * pad), dtype)
    inside = vectors[:, :H]
    for k, name in enumerate(("bias_ih", "bias_hh", "gain_ih", "gain_hh")):
        if name in p:
            inside[k * G : (k + 1) * G] = p[name].reshape(G, H)
    summed = G if cell != "gru" else 2  # a GRU's n multiplies the state's share by r first
    inside[:summed] += inside[G : G + summed]
    for k, name in enumerate(("gain_c", "bias_c")):
        if name in p:
            inside[4 * G + k] = p[name]
    return vectors


def _read_sums(cell, norm, sums):
    """The gradients of biases and gains by name."""
    G = GATES[cell]
    blocks = {name: sums[k * G : (k + 1) * G].ravel() for k, name in enumerate(("bias_ih", "bias_hh"))}
    if cell != "gru":
        blocks["bias_hh"] = blocks["bias_ih"]
    if norm is not None:
        blocks["gain_ih"], blocks["gain_hh"] = sums[2 * G : 3 * G].ravel(), sums[3 * G : 4 * G].ravel()
        if cell == "lstm":
            blocks["gain_c"], blocks["bias_c"] = sums[4 * G], sums[4 * G + 1]
    return blocks
