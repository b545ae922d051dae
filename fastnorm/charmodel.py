"""The character model: an embedding, an LSTM and a linear map to the next character's logits."""

import numpy as np

from .nn import LSTM, Embedding, Layer, Linear, softmax_cross_entropy


class CharModel(Layer):
    """Scores for the next character at every step.

    Parameters
    ----------
    vocabulary_size, embed, hidden : int
        V, E and H.
    norm : None or "layer"
        What the LSTM normalizes with.
    dtype : float32 or float64
    rng : None, int or numpy.random.Generator

    Notes
    -----
    The forget gates' biases start one higher than LSTM's own start, whatever the norm (Jozefowicz et al.
    2015).
    """

    def __init__(self, vocabulary_size, embed, hidden, *, norm=None, dtype=np.float32, rng=None):
        super().__init__(dtype)
        # One generator for each layer: a norm, which draws fewer numbers, changes no other layer's start.
        rngs = np.random.default_rng(rng).spawn(3)
        self.embedding = self._add_layer(
            "embedding", Embedding(vocabulary_size, embed, dtype=dtype, rng=rngs[0])
        )
        self.lstm = self._add_layer("lstm", LSTM(embed, hidden, norm=norm, dtype=dtype, rng=rngs[1]))
        self.linear = self._add_layer("linear", Linear(hidden, vocabulary_size, dtype=dtype, rng=rngs[2]))
        self.lstm.params["bias_ih"][hidden : 2 * hidden] += 1

    def __call__(self, x, state=None):
        """Read the symbols x (T, B) on from `state`.

        Returns
        -------
        (logits, state) : logits (T, B, V), state (h, c)
        backward : callable
            ``backward(dlogits) -> None``; no gradient goes back into the state, as truncated backpropagation
            wants.
        """
        embedded, embedding_backward = self.embedding(x)
        (h, state), lstm_backward = self.lstm(embedded, state)
        logits, linear_backward = self.linear(h)

        def backward(dlogits):
            dembedded, _ = lstm_backward(linear_backward(dlogits))
            embedding_backward(dembedded)

        return (logits, state), backward

    def bits_per_character(self, x, target, counts, *, steps=100):
        """The mean of -log2 of the probability given to each target that counts.

        x, target and counts have shape (n, B), and each column starts from a state of zeros. They are read in
        pieces of `steps`, which bounds the memory and changes nothing else.
        """
        total, state = 0.0, None
        for t in range(0, len(x), steps):
            piece = slice(t, t + steps)
            (logits, state), _ = self(x[piece], state)
            counted = counts[piece].sum()
            if counted:
                loss, _ = softmax_cross_entropy(logits, target[piece], counts[piece])
                total += loss * counted
        return float(total / counts.sum() / np.log(2))

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
            (logits, state), _ = self(symbols, state)
            last = logits[-1, 0].astype(np.float64)
            if temperature > 0:
                # The largest of log p + Gumbel noise is a draw from p.
                last = (last - last.max()) / temperature + rng.gumbel(size=last.shape)
            symbol = int(np.argmax(last))
            symbols = np.array([[symbol]])
            yield symbol
