"""The affine map."""

import numpy as np

from .. import norms
from .layer import Layer, as_real, check_shape, check_size


class Linear(Layer):
    """``y = x @ weight.T + bias``; with weight norm ``y = x @ (gain * weight / ||weight||).T + bias``.

    Parameters
    ----------
    in_features, out_features : int
        I and K, the sizes of the last axis of x and of y.
    bias : bool
        Whether there is a bias.
    norm : None or "weight"
        "weight": one norm for each row of the weight (Salimans & Kingma 2016), see `fastnorm.weight_norm`.
    dtype : float32 or float64
    rng : None, int or numpy.random.Generator
        Where the initial weight and bias are drawn from, uniform within ``1 / sqrt(I)`` of zero.

    Notes
    -----
    Parameters: `weight` (K, I) and `bias` (K,), as in torch.nn.Linear; with weight norm also `gain` (K,),
    which starts at the norms of the rows, so that the first output is that of the plain layer.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm.nn import Linear
    >>> layer = Linear(3, 2, rng=0)
    >>> y, backward = layer(np.ones((5, 3)))
    >>> y.shape, backward(y).shape, layer.grads["weight"].shape
    ((5, 2), (5, 3), (2, 3))
    """

    def __init__(self, in_features, out_features, *, bias=True, norm=None, dtype=np.float32, rng=None):
        super().__init__(dtype)
        if norm not in (None, "weight"):
            raise ValueError(f"norm is {norm!r}, and needs to be None or 'weight'")
        self.norm = norm
        self.in_features = check_size("in_features", in_features)
        self.out_features = check_size("out_features", out_features)
        rng = np.random.default_rng(rng)
        bound = 1 / np.sqrt(self.in_features)
        self._add_param("weight", rng.uniform(-bound, bound, (self.out_features, self.in_features)))
        if bias:
            self._add_param("bias", rng.uniform(-bound, bound, self.out_features))
        if norm is not None:
            self._add_param("gain", np.linalg.norm(self.params["weight"], axis=1))

    def __call__(self, x, training=True):
        """Apply the map to the last axis of x.

        Parameters
        ----------
        x : array_like, (..., I)
        training : bool
            Makes no difference.

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
        if self.norm is not None:
            weight = norms.weight_norm(weight, self.params["gain"])
        rows = x.reshape(-1, self.in_features)
        y = rows @ weight.T
        if "bias" in self.params:
            y += self.params["bias"]
        y = y.reshape(*x.shape[:-1], self.out_features)

        def backward(dy):
            dy = as_real("dy", dy, self.dtype)
            check_shape("dy", dy, y_shape)
            dy = dy.reshape(-1, self.out_features)
            dweight = dy.T @ rows
            if self.norm is not None:
                dweight, dgain = norms.weight_norm_backward(
                    dweight, self.params["weight"], self.params["gain"]
                )
                self.grads["gain"] += dgain
            self.grads["weight"] += dweight
            if "bias" in self.params:
                self.grads["bias"] += dy.sum(axis=0)
            return (dy @ weight).reshape(x.shape)

        y_shape = y.shape
        return y, backward
