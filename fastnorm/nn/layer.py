"""The base of all layers: parameters, gradients, buffers, and saving them."""

from collections.abc import Mapping

import numpy as np


class Layer:
    """Parameters, their gradients and buffers, under one set of names.

    Attributes
    ----------
    dtype : numpy.dtype
        float32 or float64: what the layer stores and computes in. Inputs are converted to it.
    params, grads : dict of str to ndarray
        The same keys and shapes. A backward adds to `grads`; optimizers change `params` in place.
    buffers : dict of str to ndarray
        What is saved but not trained.
    generators : dict of str to numpy.random.Generator
        Where a call in training draws from; a checkpoint of a training run keeps their states.
    children : dict of str to Layer
        The layers that this one is made of.

    Notes
    -----
    Write new values into the arrays (``layer.params["weight"][...] = w``) or use `load_state_dict`: a layer
    made of other layers shares their arrays, which a replaced dict entry would no longer reach.
    """

    def __init__(self, dtype=np.float32):
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise ValueError(f"dtype is {self.dtype}, and a layer needs float32 or float64")
        self.params = {}
        self.grads = {}
        self.buffers = {}
        self.generators = {}
        self.children = {}

    def _add_param(self, name, value):
        self.params[name] = np.array(value, dtype=self.dtype, order="C")
        self.grads[name] = np.zeros_like(self.params[name])

    def _add_layer(self, name, layer):
        """Share the arrays and generators of `layer`, its names prefixed with ``name.``; returns `layer`."""
        for mine, theirs in (
            (self.params, layer.params),
            (self.grads, layer.grads),
            (self.buffers, layer.buffers),
            (self.generators, layer.generators),
        ):
            mine.update((f"{name}.{key}", each) for key, each in theirs.items())
        self.children[name] = layer
        return layer

    def walk(self):
        """This layer and all that it is made of, one after the other."""
        yield self
        for child in self.children.values():
            yield from child.walk()

    def zero_grad(self):
        """Set every gradient to zero, in place."""
        for grad in self.grads.values():
            grad[...] = 0

    def state_dict(self):
        """Copies of all parameters and buffers, by name; `numpy.savez` can store the result.

        Examples
        --------
        >>> from fastnorm.nn import Linear
        >>> sorted(Linear(3, 2).state_dict())
        ['bias', 'weight']
        """
        return {name: array.copy() for name, array in (self.params | self.buffers).items()}

    def load_state_dict(self, state):
        """Copy the arrays of `state` into the parameters and buffers.

        Parameters
        ----------
        state : mapping of str to array_like
            What `state_dict` returned, or the open ``.npz`` file it was saved to.

        Raises
        ------
        ValueError
            For a missing, unknown or wrongly shaped key, naming it. Nothing has been changed then.
        TypeError
            When `state` is no mapping, or an array's dtype cannot be cast to the layer's.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state is a {type(state).__name__}, and needs to map names to arrays")
        own = self.params | self.buffers
        for name in own:
            if name not in state:
                raise ValueError(f"state has no {name!r}, which {type(self).__name__} needs")
        for name in state:
            if name not in own:
                raise ValueError(f"state has {name!r}, which {type(self).__name__} does not know")
        new = {}
        for name, array in own.items():
            value = new[name] = np.asarray(state[name])
            if value.shape != array.shape:
                raise ValueError(f"state[{name!r}] has shape {value.shape}, and {array.shape} is needed")
            if not np.can_cast(value.dtype, array.dtype, "same_kind"):
                raise TypeError(f"state[{name!r}] has dtype {value.dtype}, and {array.dtype} is needed")
        for name, array in own.items():
            array[...] = new[name]


def as_real(name, array, dtype):
    """`array` as an ndarray of `dtype`, not copied where possible; TypeError unless its numbers are real."""
    array = np.asarray(array)
    if array.dtype != dtype:
        # "V" is what NumPy calls the kind of bfloat16.
        if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
            raise TypeError(f"{name} has dtype {array.dtype}, and real numbers are needed")
        array = array.astype(dtype)
    return array


def check_shape(name, array, shape):
    """ValueError unless `array` has exactly `shape`."""
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, and {shape} is needed")


def check_size(name, value):
    """`value` as an int; ValueError unless it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} is {value!r}, and needs to be a whole number of at least 1")
    return int(value)
