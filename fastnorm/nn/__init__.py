"""Layers, recurrent nets, losses and optimizers on top of the array functions of fastnorm.

A layer is called with its input and returns the output and the backward that belongs to this call::

    y, backward = layer(x)
    dx = backward(dy)              # also adds to layer.grads

`layer.params` and `layer.grads` are dicts of arrays with the same keys and shapes, `layer.buffers` holds what
is not trained. Every gradient is analytic; nothing is traced or differentiated numerically.

Shape letters used throughout: T time steps, B batch rows, I input features, H hidden units, K classes, V
symbols of a vocabulary, E features of an embedding.
"""

from .activations import GELU, Dropout, ReLU, Sigmoid, Tanh
from .batch_norm import BatchNorm, MeanOnlyBatchNorm
from .embedding import Embedding
from .layer import Layer
from .linear import Linear
from .losses import mean_squared_error, softmax_cross_entropy
from .norm import GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from .optim import SGD, Adam, AdamW, RMSProp, clip_grad_norm
from .rnn import GRU, LSTM, RNN
from .sequential import Sequential

__all__ = [
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "SGD",
    "Adam",
    "AdamW",
    "BatchNorm",
    "Dropout",
    "Embedding",
    "GroupNorm",
    "InstanceNorm",
    "Layer",
    "LayerNorm",
    "Linear",
    "MeanOnlyBatchNorm",
    "RMSNorm",
    "RMSProp",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Tanh",
    "clip_grad_norm",
    "mean_squared_error",
    "softmax_cross_entropy",
]
