"""A learned vector for every symbol."""

import numpy as np

from .layer import Layer, as_real, check_shape, check_size


class Embedding(Layer):
    """``y = weight[x]``: row x of a table.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
        V symbols, E features each.
    dtype : float32 or float64
    rng : None, int or numpy.random.Generator
        Where the initial weight is drawn from, standard normal.

    Notes
    -----
    Parameters: `weight` (V, E), as in torch.nn.Embedding.

    Examples
    --------
    >>> from fastnorm.nn import Embedding
    >>> layer = Embedding(10, 4, rng=0)
    >>> y, backward = layer([[1, 2, 2]])
    >>> y.shape
    (1, 3, 4)
    >>> backward(y) is None                  # a symbol has no gradient
    True
    """

    def __init__(self, num_embeddings, embedding_dim, *, dtype=np.float32, rng=None):
        super().__init__(dtype)
        self.num_embeddings = check_size("num_embeddings", num_embeddings)
        self.embedding_dim = check_size("embedding_dim", embedding_dim)
        rng = np.random.default_rng(rng)
        self._add_param("weight", rng.standard_normal((self.num_embeddings, self.embedding_dim)))

    def __call__(self, x, training=True):
        """Look up the symbols x.

        Parameters
        ----------
        x : array_like of int, any shape
            Each at least 0 and less than V.
        training : bool
            Makes no difference.

        Returns
        -------
        y : ndarray, x.shape + (E,)
        backward : callable
            ``backward(dy) -> None``.

        Raises
        ------
        TypeError
            When x does not hold integers.
        ValueError
            When a symbol is out of range (a negative one too).
        """
        x = np.asarray(x)
        if x.dtype.kind not in "iu":
            raise TypeError(f"x has dtype {x.dtype}, and integers are needed")
        if x.size and not 0 <= x.min() <= x.max() < self.num_embeddings:
            bad = x.min() if x.min() < 0 else x.max()
            raise ValueError(f"x holds {bad}, and its symbols need to be from 0 to {self.num_embeddings - 1}")
        x = x.copy()
        y = self.params["weight"][x]
        y_shape = y.shape

        def backward(dy):
            dy = as_real("dy", dy, self.dtype)
            check_shape("dy", dy, y_shape)
            if x.size == 0:
                return
            # Equal symbols side by side, then one sum for each run of them.
            order = np.argsort(x, axis=None, kind="stable")
            symbols = x.ravel()[order]
            starts = np.flatnonzero(np.r_[True, symbols[1:] != symbols[:-1]])
            rows = dy.reshape(-1, self.embedding_dim)[order]
            self.grads["weight"][symbols[starts]] += np.add.reduceat(rows, starts, axis=0)

        return y, backward
