"""Models for the trainer: a recurrent net with a linear map on top, and layers without a state.

Shape letters: T time steps, B batch rows, I input features, H features of the net's output, K outputs.
"""

import numpy as np

from .nn import Dropout, Layer, Linear
from .nn.layer import check_size


class SequenceModel(Layer):
    """A recurrent net, and a linear map of what it says at the end, on average, or at every step.

    Parameters
    ----------
    net : RNN, GRU or LSTM of `fastnorm.nn`
    outputs : int
        K: classes for `nn.softmax_cross_entropy`, values for `nn.mean_squared_error`.
    read : "last", "mean" or "every"
        The output after each sequence's last step; the mean of the outputs of its steps; every output.
    dropout : float
        The share of the net's outputs that are dropped in training.
    rng : None, int or numpy.random.Generator

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm import nn, train
    >>> model = train.SequenceModel(nn.LSTM(3, 8, rng=0), 2, rng=1)
    >>> (output, state), backward = model(np.ones((5, 4, 3)), lengths=[5, 3, 2, 1])
    >>> output.shape
    (4, 2)
    """

    def __init__(self, net, outputs, *, read="last", dropout=0.0, rng=None):
        if read not in ("last", "mean", "every"):
            raise ValueError(f"read is {read!r}, and needs to be 'last', 'mean' or 'every'")
        super().__init__(net.dtype)
        self.read = read
        rngs = np.random.default_rng(rng).spawn(2)
        features = check_size("hidden_size", net.hidden_size) * (
            1 + bool(getattr(net, "bidirectional", False))
        )
        self.net = self._add_layer("net", net)
        self.dropout = self._add_layer("dropout", Dropout(dropout, dtype=self.dtype, rng=rngs[0]))
        self.linear = self._add_layer("linear", Linear(features, outputs, dtype=self.dtype, rng=rngs[1]))

    def __call__(self, x, state=None, lengths=None, training=True):
        """Run over a batch of sequences.

        Parameters
        ----------
        x : array_like, (T, B, I)
        state, lengths, training
            As the net takes them; "last" and "mean" need at least one step of each sequence.

        Returns
        -------
        (output, state) : output (B, K), or (T, B, K) for "every"
        backward : callable
            ``backward(doutput) -> dx``; no gradient goes back into the state.
        """
        (y, state), net_backward = self.net(x, state, lengths, training)
        T, B = y.shape[:2]
        steps = np.full(B, T) if lengths is None else np.asarray(lengths)
        if self.read != "every" and B and steps.min() < 1:
            raise ValueError(
                f"lengths hold {steps.min()}, and reading the {self.read} output needs at least 1"
            )
        if self.read == "last":
            h = y[steps - 1, np.arange(B)]
        elif self.read == "mean":
            h = y.sum(axis=0) / steps[:, None].astype(self.dtype)  # beyond its length y is 0
        else:
            h = y
        h, dropout_backward = self.dropout(h, training)
        output, linear_backward = self.linear(h)

        def backward(doutput):
            dh = dropout_backward(linear_backward(doutput))
            if self.read == "every":
                dy = dh
            elif self.read == "last":
                dy = np.zeros((T, B, dh.shape[-1]), self.dtype)
                dy[steps - 1, np.arange(B)] = dh
            else:  # the net lets no gradient flow beyond the lengths
                dy = np.broadcast_to(dh / steps[:, None].astype(self.dtype), (T, *dh.shape)).copy()
            return net_backward(dy)[0]

        return (output, state), backward


class FeedForward(Layer):
    """A layer without a state, called as a recurrent net is.

    Parameters
    ----------
    layer : Layer
        Such as a Sequential.

    Examples
    --------
    >>> from fastnorm import nn, train
    >>> (y, state), backward = train.FeedForward(nn.Linear(3, 2))([[1.0, 2.0, 3.0]])
    >>> y.shape, state
    ((1, 2), None)
    """

    def __init__(self, layer):
        super().__init__(layer.dtype)
        self.layer = self._add_layer("layer", layer)

    def __call__(self, x, state=None, lengths=None, training=True):
        """``(y, None), backward = model(x)``; there is nothing that `state` and `lengths` could change."""
        y, backward = self.layer(x, training=training)
        return (y, None), backward
