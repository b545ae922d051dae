"""Batch norm and mean-only batch norm as layers, their running statistics in buffers.

Shape letters: N samples, C channels, S any further axes (pixels, steps).
"""

import numpy as np

from .. import norms
from .layer import as_real, check_shape, check_size
from .norm import _Norm


class _BatchStatistics(_Norm):
    """A norm with statistics over the batch: channels, and how fast the running statistics move."""

    def __init__(self, num_features, channel_axis, momentum, **options):
        self.num_features = check_size("num_features", num_features)
        self.channel_axis = channel_axis
        if isinstance(momentum, bool) or not isinstance(momentum, (int, float, np.number)):
            raise ValueError(f"momentum is {momentum!r}, and needs to be a number from 0 to 1")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum is {momentum!r}, and needs to be from 0 to 1")
        self.momentum = float(momentum)
        super().__init__(self.num_features, **options)
        self.buffers["running_mean"] = np.zeros(self.num_features, self.dtype)


class BatchNorm(_BatchStatistics):
    """Batch normalization (Ioffe & Szegedy 2015): see `fastnorm.batch_norm`.

    Parameters
    ----------
    num_features : int
        C.
    channel_axis : int
        Any axis but 0; -1 for channels last.
    momentum : float
        The share of the batch in the running statistics after a call in training, from 0 to 1; the
        attribute of this name may be changed between calls.
    eps : float
    weight, bias : bool
        Whether there is one, of shape (C,).
    dtype : float32 or float64

    Notes
    -----
    Buffers: `running_mean` (C,), which starts at 0, and `running_var` (C,), which starts at 1.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm.nn import BatchNorm
    >>> layer = BatchNorm(2, momentum=1)
    >>> y, backward = layer(np.array([[1.0, 2.0], [3.0, 6.0]]))
    >>> layer.buffers["running_mean"].tolist(), layer.buffers["running_var"].tolist()
    ([2.0, 4.0], [2.0, 8.0])
    >>> y, backward = layer(np.array([[2.0, 4.0]]), training=False)
    >>> y.tolist()
    [[0.0, 0.0]]
    """

    def __init__(
        self, num_features, *, channel_axis=1, momentum=0.1, eps=1e-5, weight=True, bias=True,
        dtype=np.float32,
    ):  # fmt: skip
        super().__init__(num_features, channel_axis, momentum, weight=weight, bias=bias, eps=eps, dtype=dtype)
        self.buffers["running_var"] = np.ones(self.num_features, self.dtype)

    def __call__(self, x, training=True, where=None):
        """Normalize every channel.

        Parameters
        ----------
        x : array_like, (N, C, *S)
            C at `channel_axis`.
        training : bool
            True: the statistics of the batch, which move the running ones; False: the running ones.
        where : array_like of bool, broadcastable to x, optional
            Which elements enter the statistics, such as the valid steps of padded sequences. What the others
            hold, and their dy, reaches no other element.

        Returns
        -------
        y : ndarray, in the shape of x
        backward : callable
            ``backward(dy) -> dx``. With ``training=False`` the statistics are constants.

        Raises
        ------
        ValueError, TypeError
            As `fastnorm.batch_norm`: also for an empty batch, or one value per channel, in training.
        """
        x = self._input(x, {self.channel_axis: self.num_features})
        options = {"channel_axis": self.channel_axis, "training": bool(training), "where": where}
        y, stats = norms.batch_norm(
            x, *self._affine(), **self.buffers, momentum=self.momentum, eps=self.eps, return_stats=True,
            **options,
        )  # fmt: skip
        return y, self._backward(
            x, lambda dy, weight: norms.batch_norm_backward(dy, x, stats, weight, **options)
        )


class MeanOnlyBatchNorm(_BatchStatistics):
    """Mean-only batch normalization (Salimans & Kingma 2016): see `fastnorm.mean_only_batch_norm`.

    Parameters
    ----------
    num_features : int
        C.
    channel_axis : int
        Any axis but 0; -1 for channels last.
    momentum : float
        As in `BatchNorm`.
    bias : bool
        Whether there is one, of shape (C,).
    dtype : float32 or float64

    Notes
    -----
    Buffers: `running_mean` (C,), which starts at 0. It goes well with ``Linear(norm="weight")``, which
    bounds the scale while this takes the mean.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm.nn import MeanOnlyBatchNorm
    >>> y, backward = MeanOnlyBatchNorm(2)(np.array([[1.0, 2.0], [3.0, 6.0]]))
    >>> y.tolist(), backward(y).tolist()
    ([[-1.0, -2.0], [1.0, 2.0]], [[-1.0, -2.0], [1.0, 2.0]])
    """

    def __init__(self, num_features, *, channel_axis=1, momentum=0.1, bias=True, dtype=np.float32):
        super().__init__(num_features, channel_axis, momentum, weight=False, bias=bias, dtype=dtype)

    def __call__(self, x, training=True):
        """``y, backward = layer(x)`` for x (N, C, *S); with ``training=False`` by the running mean."""
        x = self._input(x, {self.channel_axis: self.num_features})
        options = {"channel_axis": self.channel_axis, "training": bool(training)}
        y = norms.mean_only_batch_norm(
            x, self.params.get("bias"), **self.buffers, momentum=self.momentum, **options
        )

        def backward(dy):
            dy = as_real("dy", dy, self.dtype)
            check_shape("dy", dy, x.shape)
            dx, dbias = norms.mean_only_batch_norm_backward(dy, **options)
            if "bias" in self.grads:
                self.grads["bias"] += dbias
            return dx

        return y, backward
