"""The norms as layers: parameters, and running statistics in buffers, over the functions of fastnorm.

Shape letters: N samples, C channels, S any further axes (pixels, steps), G groups.
"""

import numpy as np

from .. import norms
from .layer import Layer, as_real, check_shape, check_size


class _Norm(Layer):
    """What all norms share: a weight that starts at 1 and a bias that starts at 0, and eps."""

    def __init__(self, shape, *, weight=True, bias=True, eps=1e-5, dtype=np.float32):
        super().__init__(dtype)
        if isinstance(eps, bool) or not isinstance(eps, (int, float, np.number)) or not 0 <= eps < np.inf:
            raise ValueError(f"eps is {eps!r}, and needs to be a finite number of at least 0")
        self.eps = float(eps)
        if weight:
            self._add_param("weight", np.ones(shape))
        if bias:
            self._add_param("bias", np.zeros(shape))

    def _input(self, x, axes):
        """x in the layer's dtype; ValueError unless its `axes` have the sizes that the dict says."""
        x = as_real("x", x, self.dtype)
        for axis, size in axes.items():
            if not -x.ndim <= axis < x.ndim or x.shape[axis] != size:
                raise ValueError(f"x has shape {x.shape}, and its axis {axis} needs size {size}")
        return x

    def _affine(self):
        return self.params.get("weight"), self.params.get("bias")

    def _backward(self, x, gradients):
        """A backward around ``gradients(dy, weight) -> Grads``."""
        weight = self.params.get("weight")
        # A bias without a weight has its gradient from a weight of ones.
        weight = np.ones_like(self.params["bias"]) if weight is None and "bias" in self.params else weight

        def backward(dy):
            dy = as_real("dy", dy, self.dtype)
            check_shape("dy", dy, x.shape)
            grads = gradients(dy, weight)
            for name, grad in (("weight", grads.dweight), ("bias", grads.dbias)):
                if name in self.grads:
                    self.grads[name] += grad
            return grads.dx

        return backward


class LayerNorm(_Norm):
    """Layer normalization over the last axes of x (Ba, Kiros & Hinton 2016): see `fastnorm.layer_norm`.

    Parameters
    ----------
    normalized_shape : int or tuple of int
        The sizes of the last axes, over which mean and variance are taken.
    eps : float
    weight, bias : bool
        Whether there is one; both have shape `normalized_shape`.
    dtype : float32 or float64

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm.nn import LayerNorm
    >>> layer = LayerNorm(4)
    >>> y, backward = layer(np.arange(8.0).reshape(2, 4))
    >>> bool(abs(y.mean(axis=1)).max() < 1e-6), backward(y).shape, sorted(layer.grads)
    (True, (2, 4), ['bias', 'weight'])
    """

    def __init__(self, normalized_shape, *, eps=1e-5, weight=True, bias=True, dtype=np.float32):
        self.normalized_shape = _shape(normalized_shape)
        super().__init__(self.normalized_shape, weight=weight, bias=bias, eps=eps, dtype=dtype)

    def __call__(self, x, training=True):
        """``y, backward = layer(x)`` for x (..., *normalized_shape); `training` makes no difference."""
        axes = range(-len(self.normalized_shape), 0)
        x = self._input(x, dict(zip(axes, self.normalized_shape, strict=True)))
        options = {"axis": tuple(axes)}
        y, stats = norms.layer_norm(x, *self._affine(), eps=self.eps, return_stats=True, **options)
        return y, self._backward(
            x, lambda dy, weight: norms.layer_norm_backward(dy, x, stats, weight, **options)
        )


class RMSNorm(_Norm):
    """RMS normalization over the last axes of x (Zhang & Sennrich 2019): see `fastnorm.rms_norm`.

    Parameters
    ----------
    normalized_shape : int or tuple of int
    eps : float
    weight : bool
        Whether there is one, of shape `normalized_shape`.
    dtype : float32 or float64

    Examples
    --------
    >>> from fastnorm.nn import RMSNorm
    >>> y, backward = RMSNorm(2, eps=0)([[3.0, 3.0]])
    >>> y.tolist()
    [[1.0, 1.0]]
    """

    def __init__(self, normalized_shape, *, eps=1e-6, weight=True, dtype=np.float32):
        self.normalized_shape = _shape(normalized_shape)
        super().__init__(self.normalized_shape, weight=weight, bias=False, eps=eps, dtype=dtype)

    def __call__(self, x, training=True):
        """``y, backward = layer(x)`` for x (..., *normalized_shape); `training` makes no difference."""
        axes = range(-len(self.normalized_shape), 0)
        x = self._input(x, dict(zip(axes, self.normalized_shape, strict=True)))
        options = {"axis": tuple(axes)}
        y, stats = norms.rms_norm(x, self.params.get("weight"), eps=self.eps, return_stats=True, **options)
        return y, self._backward(
            x, lambda dy, weight: norms.rms_norm_backward(dy, x, stats, weight, **options)
        )


class InstanceNorm(_Norm):
    """Instance normalization (Ulyanov, Vedaldi & Lempitsky 2016): see `fastnorm.instance_norm`.

    Parameters
    ----------
    num_features : int
        C.
    channel_axis : int
        Any axis but 0; -1 for channels last.
    eps : float
    weight, bias : bool
        Whether there is one, of shape (C,).
    dtype : float32 or float64

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm.nn import InstanceNorm
    >>> y, backward = InstanceNorm(3)(np.random.default_rng(0).random((2, 3, 5, 5)))
    >>> bool(abs(y.mean(axis=(2, 3))).max() < 1e-6)
    True
    """

    def __init__(self, num_features, *, channel_axis=1, eps=1e-5, weight=True, bias=True, dtype=np.float32):
        self.num_features = check_size("num_features", num_features)
        self.channel_axis = channel_axis
        super().__init__(self.num_features, weight=weight, bias=bias, eps=eps, dtype=dtype)

    def __call__(self, x, training=True):
        """``y, backward = layer(x)`` for x (N, C, *S); `training` makes no difference."""
        x = self._input(x, {self.channel_axis: self.num_features})
        options = {"channel_axis": self.channel_axis}
        y, stats = norms.instance_norm(x, *self._affine(), eps=self.eps, return_stats=True, **options)
        return y, self._backward(
            x, lambda dy, weight: norms.instance_norm_backward(dy, x, stats, weight, **options)
        )


class GroupNorm(_Norm):
    """Group normalization (Wu & He 2018): see `fastnorm.group_norm`.

    Parameters
    ----------
    num_groups, num_channels : int
        G and C; G needs to divide C.
    channel_axis : int
        Any axis but 0; -1 for channels last.
    eps : float
    weight, bias : bool
        Whether there is one, of shape (C,).
    dtype : float32 or float64

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm.nn import GroupNorm
    >>> y, backward = GroupNorm(2, 4, eps=0)(np.array([[0.0, 2.0, 5.0, 9.0]]))
    >>> y.tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """

    def __init__(
        self, num_groups, num_channels, *, channel_axis=1, eps=1e-5, weight=True, bias=True, dtype=np.float32
    ):
        self.num_groups = check_size("num_groups", num_groups)
        self.num_channels = check_size("num_channels", num_channels)
        if self.num_channels % self.num_groups:
            raise ValueError(f"num_groups is {num_groups}, and needs to divide num_channels, {num_channels}")
        self.channel_axis = channel_axis
        super().__init__(self.num_channels, weight=weight, bias=bias, eps=eps, dtype=dtype)

    def __call__(self, x, training=True):
        """``y, backward = layer(x)`` for x (N, C, *S); `training` makes no difference."""
        x = self._input(x, {self.channel_axis: self.num_channels})
        groups, options = self.num_groups, {"channel_axis": self.channel_axis}
        y, stats = norms.group_norm(x, groups, *self._affine(), eps=self.eps, return_stats=True, **options)
        return y, self._backward(
            x, lambda dy, weight: norms.group_norm_backward(dy, x, stats, groups, weight, **options)
        )


def _shape(normalized_shape):
    """`normalized_shape` as a tuple of sizes."""
    if not isinstance(normalized_shape, (tuple, list)):
        normalized_shape = (normalized_shape,)
    if not normalized_shape:
        raise ValueError("normalized_shape is empty, and needs one size or more")
    return tuple(check_size("normalized_shape", size) for size in normalized_shape)
