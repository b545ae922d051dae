"""Layers one after the other."""

from .layer import Layer


class Sequential(Layer):
    """Each layer reads what the one before it wrote.

    Parameters
    ----------
    *layers : Layer
        One or more, all of one dtype. A recurrent net has no place here: its output comes with a state.

    Notes
    -----
    The names of parameters and buffers begin with the layer's number: ``"0.weight"``, ``"2.running_mean"``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm import nn
    >>> net = nn.Sequential(nn.Linear(3, 8, rng=0), nn.BatchNorm(8), nn.ReLU(), nn.Linear(8, 2, rng=1))
    >>> y, backward = net(np.random.default_rng(0).random((5, 3)))
    >>> y.shape, backward(y).shape, sorted(net.params)[:3]
    ((5, 2), (5, 3), ['0.bias', '0.weight', '1.bias'])
    """

    def __init__(self, *layers):
        for number, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layer {number} is a {type(layer).__name__}, and a Layer is needed")
        if not layers:
            raise ValueError("Sequential has no layers, and needs one or more")
        super().__init__(layers[0].dtype)
        for number, layer in enumerate(layers):
            if layer.dtype != self.dtype:
                raise ValueError(f"layer {number} has dtype {layer.dtype}, and those before it {self.dtype}")
        self.layers = [self._add_layer(str(number), layer) for number, layer in enumerate(layers)]

    def __call__(self, x, training=True):
        """``y, backward = net(x)``; `training` is handed to every layer."""
        backwards = []
        for number, layer in enumerate(self.layers):
            x, backward = layer(x, training=training)
            if isinstance(x, tuple):
                raise TypeError(f"layer {number}, {type(layer).__name__}, returns a state with its output")
            backwards.append(backward)

        def backward(dy):
            for each in reversed(backwards):
                dy = each(dy)
            return dy

        return x, backward
