"""Layers, recurrent nets, losses and optimizers on top of the array functions of fastnorm.

A layer is called with its input and returns the output and the backward that belongs to this call::

    y, backward = layer(x)
    dx = backward(dy)              # also adds to layer.grads

`layer.params` and `layer.grads` are dicts of arrays with the same keys and shapes, `layer.buffers` holds what
is not trained. Every gradient is analytic; nothing is traced or differentiated numerically.

Shape letters used throughout: T time steps, B batch rows, I input features, H hidden units, K classes, V
symbols of a vocabulary, E features of an embedding.
"""

from .embedding import Embedding
from .layer import Layer
from .linear import Linear
from .losses import softmax_cross_entropy
from .lstm import LSTM
from .optim import SGD, Adam, clip_grad_norm

__all__ = [
    "LSTM",
    "SGD",
    "Adam",
    "Embedding",
    "Layer",
    "Linear",
    "clip_grad_norm",
    "softmax_cross_entropy",
]
