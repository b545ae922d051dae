"""A recurrent net that is given one step at a time."""

import numpy as np

from . import rnn_engine, rnn_plain
from .layer import as_real, check_shape


class Stream:
    """What `stream` of RNN, GRU and LSTM returns: a net that carries its state from call to call.

    Attributes
    ----------
    state : h, or (h, c) for LSTM
        A copy of the state after the last step, in the form in which the net takes it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm.nn import GRU
    >>> net = GRU(3, 4, norm="layer", rng=0)
    >>> x = np.ones((7, 1, 3), np.float32)
    >>> stream = net.stream()
    >>> steps = [stream(x[t]).copy() for t in range(7)]
    >>> bool((np.stack(steps) == net(x, training=False)[0][0]).all())
    True
    """

    def __init__(self, net, rows, state):
        self._net, self._rows = net, rows
        self._shape = (rows, net.input_size)
        make = _PlainStep if net.norm == "batch" else rnn_engine.make_step
        self._steps = [make(net._spec, *net._values(k), rows, net.dtype) for k in range(net.num_layers)]
        self.reset(state)

    def __call__(self, x):
        """The output of the next step.

        Parameters
        ----------
        x : array_like, (B, I)
            Read in place if it is C-contiguous and of the net's dtype.

        Returns
        -------
        y : ndarray, (B, H)
            The same array in every call: copy what has to last.

        Raises
        ------
        ValueError, TypeError
            For a wrong shape, or an x without real numbers. The state is as before then.
        """
        if type(x) is not np.ndarray or x.dtype != self._net.dtype or not x.flags.c_contiguous:
            x = np.ascontiguousarray(as_real("x", x, self._net.dtype))
        if x.shape != self._shape:
            check_shape("x", x, self._shape)
        for step in self._steps:
            x = step(x)
        return x

    @property
    def state(self):
        h = np.stack([step.h for step in self._steps])
        c = np.stack([step.c for step in self._steps]) if self._net._has_c else None
        return self._net._shape_state(h, c)

    def reset(self, state=None):
        """Begin again from `state`, as a net takes it; zeros if not given."""
        h, c = self._net._read_state("state", state, self._rows)
        for k, step in enumerate(self._steps):
            step.h[...] = h[k]
            if c is not None:
                step.c[...] = c[k]
            if isinstance(step, _PlainStep):
                step.t = 0


class _PlainStep:
    """Batch norm, whose running statistics differ from step to step, by the plain layers."""

    def __init__(self, spec, p, running, rows, dtype):
        self._spec, self._p, self._running = spec, {name: array.copy() for name, array in p.items()}, running
        H = p["weight_hh"].shape[1]
        self.t, self.h, self.c = 0, np.zeros((rows, H), dtype), None
        if spec.cell == "lstm":
            self.c = np.zeros((rows, H), dtype)

    def __call__(self, x):
        at = min(self.t, max(int(self._running["num_steps"]), 1) - 1)
        running = {name: array[at:] for name, array in self._running.items() if name != "num_steps"}
        running["num_steps"] = np.ones((), int)
        y, h, c, _ = rnn_plain.forward(self._spec, x[None], self.h, self.c, self._p, running, training=False)
        self.h[...] = h
        if c is not None:
            self.c[...] = c
        self.t += 1
        return y[0]
