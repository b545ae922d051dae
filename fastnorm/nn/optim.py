"""Optimizers: they change parameters in place by their gradients."""

import numpy as np


def clip_grad_norm(grads, max_norm):
    """Scale all gradients together so that their global norm is at most `max_norm`.

    Parameters
    ----------
    grads : dict of str to ndarray
        Changed in place, all by the same factor ``min(1, max_norm / norm)``.
    max_norm : float
        Above 0; infinity only measures.

    Returns
    -------
    float
        The norm before clipping, ``sqrt(sum of the squares of every element of every gradient)``. When it is
        not finite the gradients are left as they are.

    Raises
    ------
    ValueError
        When `max_norm` is not above 0.

    References
    ----------
    Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural networks", algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm.nn import clip_grad_norm
    >>> grads = {"a": np.array([3.0]), "b": np.array([4.0])}
    >>> clip_grad_norm(grads, 1.0)
    5.0
    >>> round(float(grads["a"][0]), 6), round(float(grads["b"][0]), 6)
    (0.6, 0.8)
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm is {max_norm!r}, and needs to be above 0")
    # In float64, where the square of a float32 cannot overflow.
    square = sum(float(np.square(grad, dtype=np.float64).sum()) for grad in grads.values())
    norm = float(np.sqrt(square))
    if max_norm < norm < np.inf:
        for grad in grads.values():
            grad *= grad.dtype.type(max_norm / norm)
    return norm


class Optimizer:
    """What SGD and Adam share: parameters, gradients, the learning rate, and slots for running averages.

    Parameters
    ----------
    params, grads : dict of str to ndarray
        The same keys and shapes, as `Layer.params` and `Layer.grads`.
    lr : float
        The learning rate; the attribute of this name may be changed between steps.
    """

    slots = ()

    def __init__(self, params, grads, lr):
        if params.keys() != grads.keys():
            odd = min(params.keys() ^ grads.keys())
            raise ValueError(f"params and grads need the same keys, and {odd!r} is in one of them only")
        if not 0 <= lr < np.inf:
            raise ValueError(f"lr is {lr!r}, and needs to be a finite number of at least 0")
        self.params, self.grads, self.lr = params, grads, lr
        self.steps = 0
        self.state = {slot: {name: np.zeros_like(p) for name, p in params.items()} for slot in self.slots}

    def step(self):
        """Change every parameter once."""
        self.steps += 1
        for name, param in self.params.items():
            self._update(param, self.grads[name], *(self.state[slot][name] for slot in self.slots))

    def state_dict(self):
        """Copies of all running averages as ``slot.name``, and the number of steps as `steps`."""
        arrays = {
            f"{slot}.{name}": a.copy() for slot, named in self.state.items() for name, a in named.items()
        }
        return arrays | {"steps": np.array(self.steps)}

    def load_state_dict(self, state):
        """Take what `state_dict` returned; ValueError, naming it, for a key missing, unknown or misshapen."""
        own = {f"{slot}.{name}": a for slot, named in self.state.items() for name, a in named.items()}
        for name in [*own, "steps"]:
            if name not in state:
                raise ValueError(f"the optimizer's state has no {name!r}")
            shape, needed = np.shape(state[name]), own[name].shape if name in own else ()
            if shape != needed:
                raise ValueError(
                    f"{name!r} in the optimizer's state has shape {shape}, and {needed} is needed"
                )
            dtype, needed = np.asarray(state[name]).dtype, own[name].dtype if name in own else np.dtype(int)
            if not np.can_cast(dtype, needed, "same_kind"):
                raise ValueError(
                    f"{name!r} in the optimizer's state has dtype {dtype}, and {needed} is needed"
                )
        for name in state:
            if name not in own and name != "steps":
                raise ValueError(
                    f"the optimizer's state has {name!r}, which {type(self).__name__} does not know"
                )
        if state["steps"] < 0:
            raise ValueError(
                f"'steps' in the optimizer's state is {state['steps']}, and at least 0 is needed"
            )
        for name, array in own.items():
            array[...] = state[name]
        self.steps = int(state["steps"])


class SGD(Optimizer):
    """Gradient descent, with momentum if wanted.

    ``velocity <- momentum * velocity + grad``, ``param <- param - lr * velocity``

    Parameters
    ----------
    params, grads : dict of str to ndarray
    lr : float
    momentum : float
        At least 0 and less than 1.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm.nn import SGD
    >>> params, grads = {"w": np.array([1.0])}, {"w": np.array([0.5])}
    >>> SGD(params, grads, lr=0.1).step()
    >>> float(params["w"][0])
    0.95
    """

    slots = ("velocity",)

    def __init__(self, params, grads, lr=0.1, momentum=0.0):
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum!r}, and needs to be at least 0 and less than 1")
        super().__init__(params, grads, lr)
        self.momentum = momentum

    def _update(self, param, grad, velocity):
        velocity *= self.momentum
        velocity += grad
        param -= self.lr * velocity


class Adam(Optimizer):
    """Adam: steps scaled by running averages of the gradient and of its square.

    ``mean <- b1 * mean + (1 - b1) * grad``, ``square <- b2 * square + (1 - b2) * grad**2``,
    ``param <- param - lr * mean / (1 - b1**t) / (sqrt(square / (1 - b2**t)) + eps)`` at step t = 1, 2, ...

    Parameters
    ----------
    params, grads : dict of str to ndarray
    lr : float
    betas : pair of float
        b1 and b2, each at least 0 and less than 1.
    eps : float

    References
    ----------
    Kingma & Ba 2015, "Adam: a method for stochastic optimization", algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm.nn import Adam
    >>> params, grads = {"w": np.array([1.0])}, {"w": np.array([123.0])}
    >>> Adam(params, grads, lr=0.25).step()            # the first step is lr, whatever the scale
    >>> round(float(params["w"][0]), 6)
    0.75
    """

    slots = ("mean", "square")

    def __init__(self, params, grads, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"betas are {betas!r}, and need to be two numbers, each at least 0 and less than 1"
            )
        if not 0 <= eps < np.inf:
            raise ValueError(f"eps is {eps!r}, and needs to be a finite number of at least 0")
        super().__init__(params, grads, lr)
        self.betas, self.eps = tuple(betas), eps

    def _update(self, param, grad, mean, square):
        b1, b2 = self.betas
        mean *= b1
        mean += (1 - b1) * grad
        square *= b2
        square += (1 - b2) * np.square(grad)
        size = np.sqrt(square)
        size *= (1 - b2**self.steps) ** -0.5
        size += self.eps
        param -= np.divide(mean, size, out=size) * (self.lr / (1 - b1**self.steps))


class AdamW(Adam):
    """Adam with weight decay beside it: ``param <- (1 - lr * weight_decay) * param``, then a step of `Adam`.

    Parameters
    ----------
    params, grads : dict of str to ndarray
    lr : float
    betas : pair of float
    eps : float
    weight_decay : float
        At least 0. It reaches every parameter, biases and gains too.

    References
    ----------
    Loshchilov & Hutter 2019, "Decoupled weight decay regularization", algorithm 2; the decay is scaled by the
    learning rate of the step.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm.nn import AdamW
    >>> params, grads = {"w": np.array([1.0])}, {"w": np.array([0.0])}
    >>> AdamW(params, grads, lr=0.25, weight_decay=0.5).step()
    >>> float(params["w"][0])
    0.875
    """

    def __init__(self, params, grads, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        if not 0 <= weight_decay < np.inf:
            raise ValueError(
                f"weight_decay is {weight_decay!r}, and needs to be a finite number of at least 0"
            )
        super().__init__(params, grads, lr, betas, eps)
        self.weight_decay = weight_decay

    def _update(self, param, grad, mean, square):
        param *= 1 - self.lr * self.weight_decay
        super()._update(param, grad, mean, square)


class RMSProp(Optimizer):
    """Steps divided by a running root mean square of the gradient.

    ``square <- decay * square + (1 - decay) * grad**2``,
    ``param <- param - lr * grad / (sqrt(square) + eps)``

    Parameters
    ----------
    params, grads : dict of str to ndarray
    lr : float
    decay : float
        At least 0 and less than 1.
    eps : float

    References
    ----------
    Tieleman & Hinton 2012, lecture 6.5 of "Neural networks for machine learning".

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm.nn import RMSProp
    >>> params, grads = {"w": np.array([1.0])}, {"w": np.array([123.0])}
    >>> RMSProp(params, grads, lr=0.25, decay=0).step()
    >>> round(float(params["w"][0]), 6)
    0.75
    """

    slots = ("square",)

    def __init__(self, params, grads, lr=1e-3, decay=0.99, eps=1e-8):
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay!r}, and needs to be at least 0 and less than 1")
        if not 0 <= eps < np.inf:
            raise ValueError(f"eps is {eps!r}, and needs to be a finite number of at least 0")
        super().__init__(params, grads, lr)
        self.decay, self.eps = decay, eps

    def _update(self, param, grad, square):
        square *= self.decay
        square += (1 - self.decay) * np.square(grad)
        size = np.sqrt(square)
        size += self.eps
        param -= np.divide(grad, size, out=size) * self.lr
