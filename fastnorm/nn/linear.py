"""The affine map."""

import numpy as np

from .layer import Layer, as_real, check_shape, check_size


class Linear(Layer):
    """``y = x @ weight.T + bias``.

    Parameters
    ----------
    in_features, out_features : int
        I and K, the sizes of the last axis of x and of y.
    bias : bool
        Whether there is a bias.
    dtype : float32 or float64
    rng : None, int or numpy.random.Generator
        Where the initial weight and bias are drawn from, uniform within ``1 / sqrt(I)`` of zero.

    Notes
    -----
    Parameters: `weight` (K, I) and `bias` (K,), as in torch.nn.Linear.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm.nn import Linear
    >>> layer = Linear(3, 2, rng=0)
    >>> y, backward = layer(np.ones((5, 3)))
    >>> y.shape, backward(y).shape, layer.grads["weight"].shape
    ((5, 2), (5, 3), (2, 3))
    """

    def __init__(self, in_features, out_features, *, bias=True, dtype=np.float32, rng=None):
        super().__init__(dtype)
        self.in_features = check_size("in_features", in_features)
        self.out_features = check_size("out_features", out_features)
        rng = np.random.default_rng(rng)
        bound = 1 / np.sqrt(self.in_features)
        self._add_param("weight", rng.uniform(-bound, bound, (self.out_features, self.in_features)))
        if bias:
            self._add_param("bias", rng.uniform(-bound, bound, self.out_features))

    def __call__(self, x):
        """Apply the map to the last axis of x.

        Parameters
        ----------
        x : array_like, (..., I)

        Returns
        -------
        y : ndarray, (..., K)
        backward : callable
            ``backward(dy) -> dx``, with dx in the shape of x.

        Raises
        ------
        ValueError, TypeError
            For an x of the wrong shape or without real numbers.
        """
        x = as_real("x", x, self.dtype)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"x has shape {x.shape}, and its last axis needs size {self.in_features}")
        weight = self.params["weight"]
        rows = x.reshape(-1, self.in_features)
        y = rows @ weight.T
        if "bias" in self.params:
            y += self.params["bias"]
        y = y.reshape(*x.shape[:-1], self.out_features)

        def backward(dy):
            dy = as_real("dy", dy, self.dtype)
            check_shape("dy", dy, y_shape)
            dy = dy.reshape(-1, self.out_features)
            self.grads["weight"] += dy.T @ rows
            if "bias" in self.params:
                self.grads["bias"] += dy.sum(axis=0)
            return (dy @ weight).reshape(x.shape)

        y_shape = y.shape
        return y, backward
