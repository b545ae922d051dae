"""Losses: called with a net's output and what it should be, they return a number and its backward."""

import numpy as np

from .layer import as_real, check_shape


def softmax_cross_entropy(logits, targets, mask=None):
    """The mean of ``-log softmax(logits)[target]``, in nats.

    Parameters
    ----------
    logits : array_like of float, (..., K)
    targets : array_like of int, (...)
        The right class of each row, from 0 to K - 1.
    mask : array_like of bool, (...), optional
        Which rows count. What logits and targets hold elsewhere, NaN and -1 too, reaches nothing.

    Returns
    -------
    loss : float
        Divide by ``log(2)`` for bits.
    backward : callable
        ``backward(dloss=1.0) -> dlogits``, in the shape and dtype of logits; zero where the mask is False.

    Raises
    ------
    TypeError
        For logits that are not floating, targets that are not integers, or a mask that is not boolean.
    ValueError
        For shapes that do not match, a target out of range, or no row that counts.

    Examples
    --------
    >>> import math
    >>> import numpy as np
    >>> from fastnorm.nn import softmax_cross_entropy
    >>> loss, backward = softmax_cross_entropy(np.zeros((2, 4)), [0, 3])
    >>> round(loss / math.log(2), 6)                   # four equal chances: 2 bits
    2.0
    >>> backward()[0].tolist()
    [-0.375, 0.125, 0.125, 0.125]
    """
    logits, targets = np.asarray(logits), np.asarray(targets)
    if logits.dtype.kind != "f":
        raise TypeError(f"logits have dtype {logits.dtype}, and a floating dtype is needed")
    if targets.dtype.kind not in "iu":
        raise TypeError(f"targets have dtype {targets.dtype}, and integers are needed")
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits have shape {logits.shape}, and a last axis of at least one class is needed")
    check_shape("targets", targets, logits.shape[:-1])
    if mask is not None:
        mask = np.asarray(mask)
        if mask.dtype != bool:
            raise TypeError(f"mask has dtype {mask.dtype}, and bool is needed")
        check_shape("mask", mask, targets.shape)

    classes = logits.shape[-1]
    rows = logits.reshape(-1, classes) if mask is None else logits[mask]
    right = targets.ravel() if mask is None else targets[mask]
    count = len(right)
    if count == 0:
        raise ValueError("the loss is a mean over rows, and not one row counts")
    if not 0 <= right.min() <= right.max() < classes:
        bad = right.min() if right.min() < 0 else right.max()
        raise ValueError(f"targets hold {bad}, and need to be from 0 to {classes - 1}")

    # The largest logit is subtracted first, so that no exponential overflows.
    shifted = rows - rows.max(axis=1, keepdims=True)
    each = np.arange(count)
    right_logits = shifted[each, right]
    softmax = np.exp(shifted, out=shifted)
    total = softmax.sum(axis=1, keepdims=True)
    softmax /= total
    loss = float(np.mean(np.log(total[:, 0]) - right_logits, dtype=np.float64))

    def backward(dloss=1.0):
        drows = softmax.copy()
        drows[each, right] -= 1
        drows *= drows.dtype.type(dloss / count)
        if mask is None:
            return drows.reshape(logits.shape)
        dlogits = np.zeros_like(logits)
        dlogits[mask] = drows
        return dlogits

    return loss, backward


def mean_squared_error(y, targets, mask=None):
    """The mean of ``(y - target)**2``.

    Parameters
    ----------
    y : array_like of float, any shape
    targets : array_like of real numbers, in the shape of y
    mask : array_like of bool, optional
        Which elements count. Its shape is that of the first axes of y: (T, B) for a y of (T, B, K). What y
        and targets hold elsewhere, NaN too, reaches nothing.

    Returns
    -------
    loss : float
        The mean over all elements that count.
    backward : callable
        ``backward(dloss=1.0) -> dy``, in the shape and dtype of y; zero where the mask is False.

    Raises
    ------
    TypeError
        For a y that is not floating, targets that are not real, or a mask that is not boolean.
    ValueError
        For shapes that do not match, or no element that counts.

    Examples
    --------
    >>> from fastnorm.nn import mean_squared_error
    >>> loss, backward = mean_squared_error([1.0, 5.0], [0.0, 2.0])
    >>> loss, backward().tolist()
    (5.0, [1.0, 3.0])
    """
    y = np.asarray(y)
    if y.dtype.kind != "f":
        raise TypeError(f"y has dtype {y.dtype}, and a floating dtype is needed")
    targets = as_real("targets", targets, y.dtype)
    check_shape("targets", targets, y.shape)
    error = y - targets
    if mask is not None:
        mask = np.asarray(mask)
        if mask.dtype != bool:
            raise TypeError(f"mask has dtype {mask.dtype}, and bool is needed")
        check_shape("mask", mask, y.shape[: mask.ndim])
        error = np.where(mask.reshape(mask.shape + (1,) * (y.ndim - mask.ndim)), error, y.dtype.type(0))
    count = y.size if mask is None else int(mask.sum()) * int(np.prod(y.shape[mask.ndim :]))
    if count == 0:
        raise ValueError("the loss is a mean over elements, and not one element counts")
    loss = float(np.square(error, dtype=np.float64).sum() / count)

    def backward(dloss=1.0):
        return error * y.dtype.type(2 * dloss / count)

    return loss, backward
