"""The character model: an embedding, a recurrent net and a linear map to the next character's logits."""

import numpy as np

from .nn import LSTM, Dropout, Embedding, Layer, Linear


class CharModel(Layer):
    """Scores for the next character at every step.

    Parameters
    ----------
    vocabulary_size, embed, hidden : int
        V, E and H.
    norm : None or str
        What the net normalizes with.
    net : type
        LSTM, or another recurrent net of `fastnorm.nn`.
    dropout : float
        The share of the net's outputs that are dropped in training.
    dtype : float32 or float64
    rng : None, int or numpy.random.Generator
    **options
        What else the net takes, such as `num_layers`.

    Notes
    -----
    The biases of an LSTM's forget gates start one higher than otherwise, whatever the norm (Jozefowicz et al.
    2015).
    """

    def __init__(
        self, vocabulary_size, embed, hidden, *, norm=None, net=LSTM, dropout=0.0, dtype=np.float32,
        rng=None, **options
    ):  # fmt: skip
        super().__init__(dtype)
        # One generator for each layer: a norm, which draws fewer numbers, changes no other layer's start.
        rngs = np.random.default_rng(rng).spawn(4)
        self.embedding = self._add_layer(
            "embedding", Embedding(vocabulary_size, embed, dtype=dtype, rng=rngs[0])
        )
        if net is LSTM:
            options = {"forget_bias": 1.0} | options
        self.net = self._add_layer(
            net.__name__.lower(), net(embed, hidden, norm=norm, dtype=dtype, rng=rngs[1], **options)
        )
        self.dropout = self._add_layer("dropout", Dropout(dropout, dtype=dtype, rng=rngs[3]))
        self.linear = self._add_layer("linear", Linear(hidden, vocabulary_size, dtype=dtype, rng=rngs[2]))

    def __call__(self, x, state=None, lengths=None, training=True):
        """Read the symbols x (T, B) on from `state`.

        Returns
        -------
        (logits, state) : logits (T, B, V), and the state as the net has it
        backward : callable
            ``backward(dlogits) -> None``; no gradient goes back into the state, as truncated backpropagation
            wants.
        """
        embedded, embedding_backward = self.embedding(x)
        (h, state), net_backward = self.net(embedded, state, lengths, training)
        h, dropout_backward = self.dropout(h, training)
        logits, linear_backward = self.linear(h)

        def backward(dlogits):
            dembedded, _ = net_backward(dropout_backward(linear_backward(dlogits)))
            embedding_backward(dembedded)

        return (logits, state), backward

    def sample(self, prompt, length, *, temperature=1.0, rng=None):
        """Go on after the symbols `prompt`, one symbol at a time.

        Parameters
        ----------
        prompt : sequence of int, not empty
        length : int
            How many symbols to write.
        temperature : float
            The logits are divided by it; 0 takes the likeliest symbol every time.
        rng : None, int or numpy.random.Generator

        Yields
        ------
        int
        """
        rng = np.random.default_rng(rng)
        symbols, state = np.asarray(prompt)[:, None], None
        for _ in range(length):
            (logits, state), _ = self(symbols, state, training=False)
            last = logits[-1, 0].astype(np.float64)
            if temperature > 0:
                # The largest of log p + Gumbel noise is a draw from p.
                last = (last - last.max()) / temperature + rng.gumbel(size=last.shape)
            symbol = int(np.argmax(last))
            symbols = np.array([[symbol]])
            yield symbol
