"""What is wrong with an argument, in one sentence; and the conversions that only unusual arguments need.

`_norm.pyx` decides on the fast path and comes here for the rest, so nothing in this file is quick.
"""

import math
import operator
import sys

import numpy as np

_KNOWN = "float32, float64, float16 or bfloat16, or integers or booleans (computed as float64)"


def _is_known(dtype):
    return (dtype.kind == "f" and dtype.itemsize <= 8) or dtype.name == "bfloat16"


def _bfloat16_tensor(x):
    """A PyTorch tensor that NumPy cannot read, by its bits; None for anything else."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(x, torch.Tensor) or x.dtype is not torch.bfloat16 or x.requires_grad:
        return None
    import ml_dtypes

    return np.asarray(x.view(torch.int16)).view(ml_dtypes.bfloat16)


def _plain(x, name):
    """Any array-like as a base-class ndarray."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, needs a plain one: pass its data, and where=~{name}.mask")
    try:
        if (bits := _bfloat16_tensor(x)) is not None:
            return bits
        if hasattr(x, "__dlpack__") and not hasattr(x, "__array__"):
            return np.from_dlpack(x)
        return np.asarray(x)
    except RecursionError:
        raise
    except (TypeError, ValueError, RuntimeError, BufferError, ImportError) as error:
        raise TypeError(f"{name} cannot be read as an array, needs one: {error}") from error


def to_array(x, name):
    """Any array-like as an ndarray of a known dtype; integers and booleans as float64."""
    x = _plain(x, name)
    if x.dtype.kind in "biu":
        return x.astype(np.float64)
    if not _is_known(x.dtype):
        raise TypeError(f"{name} has dtype {x.dtype}, needs {_KNOWN}")
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def to_values(a, name, dtype):
    """A parameter or a statistic as an aligned array of the compute dtype, whatever real dtype it has."""
    a = _plain(a, name)
    if not (a.dtype.kind in "biuf" or a.dtype.name == "bfloat16"):
        raise TypeError(f"{name} has dtype {a.dtype}, needs real numbers")
    with np.errstate(all="ignore"):  # what is beyond float32 is infinite there
        return np.require(a.astype(dtype, copy=False), requirements="A")


def to_gradient(dy, x, name="dy"):
    """dy as an ndarray of x's dtype and shape."""
    if not hasattr(dy, "dtype") and not hasattr(dy, "__dlpack__"):
        try:
            dy = np.asarray(dy, dtype=x.dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(f"{name} cannot be read as an array of {x.dtype}, needs one: {error}") from error
    dy = to_array(dy, name)
    if dy.dtype != x.dtype:
        raise TypeError(f"{name} has dtype {dy.dtype}, needs x's dtype {x.dtype}")
    if dy.shape != x.shape:
        raise ValueError(f"{name} has shape {dy.shape}, needs x's shape {x.shape}")
    return dy


def to_stats(a, name, shape, dtype):
    """Saved statistics as a C-ordered array of the compute dtype, of exactly this shape."""
    if a is None:
        raise ValueError(f"{name} is None, needs an array of shape {shape}")
    a = to_values(a, name, dtype)
    if a.shape != shape:
        raise ValueError(f"{name} has shape {a.shape}, needs {shape}")
    return np.ascontiguousarray(a)


def to_pair(stats):
    """(mean, rstd) as the forward returned them."""
    try:
        mean, rstd = stats
    except (TypeError, ValueError):
        raise TypeError(
            f"stats is {type(stats).__name__}, needs the Stats(mean, rstd) of the forward"
        ) from None
    return mean, rstd


def to_mask(where, shape):
    """`where` as a boolean view of x's shape."""
    where = _plain(where, "where")
    if where.dtype != np.bool_:
        raise TypeError(f"where has dtype {where.dtype}, needs bool")
    if where.view(np.uint8).max(initial=0) > 1:  # a view of other bytes, all of which but 0 are true
        where = where.view(np.uint8) != 0
    try:
        return np.broadcast_to(where, shape)
    except ValueError:
        raise ValueError(f"where has shape {where.shape}, needs one that broadcasts to x's {shape}") from None


def no_empty_slice(mask, axes):
    """Raise for the first slice over `axes` that the mask leaves empty."""
    some = mask.any(axis=axes, keepdims=True)
    if some.size and not some.all():
        first = np.argwhere(~some)[0]
        index = ", ".join(":" if d in axes else str(i) for d, i in enumerate(first))
        raise ValueError(
            f"where selects no element of the slice x[{index}], needs at least one in every slice"
        )


def to_axis(axis, name):
    """An int, or with "axis" a tuple of them; what they mean for x is another matter."""
    if isinstance(axis, tuple) and name == "axis":
        return tuple(to_int(a, name) for a in axis)
    return to_int(axis, name, "an int or a tuple of ints" if name == "axis" else "an int")


def empty_axis(shape, axes, name="x"):
    """Raise for a normalized axis of length 0."""
    raise ValueError(
        f"{name} has shape {shape}, no element along the normalized axes {tuple(axes)}; needs at least one"
    )


def bad_broadcast(got, name, shape):
    raise ValueError(
        f"{name} has shape {got}, needs one that broadcasts against x's {shape} without enlarging it"
    )


def bad_param(got, name, shape, wanted):
    of = "v" if name == "g" else "x"
    raise ValueError(f"{name} has shape {got}, needs {wanted} for {of} of shape {shape}")


def bad_groups(groups, channels):
    raise ValueError(f"num_groups is {groups}, needs a positive divisor of the {channels} channels of x")


def _bounds(a):
    return np.lib.array_utils.byte_bounds(a)


def _overlap(a, b):
    if not a.size or not b.size or not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)
    except np.exceptions.TooHardError:
        return True


def _same_view(a, b):
    return a.ctypes.data == b.ctypes.data and a.shape == b.shape and a.strides == b.strides


def _overlaps_itself(a):
    """Whether two elements may share memory. Strides that nest, each past all the inner ones, never do."""
    reach = a.itemsize
    for stride, length in sorted((abs(s), n) for s, n in zip(a.strides, a.shape, strict=True) if n > 1):
        if stride < reach:
            return True
        reach = stride * (length - 1) + reach
    return False


def check_out(out, x, others):
    """Raise unless `out` can take the result: x's shape and dtype, writeable, apart from other inputs."""
    if not isinstance(out, np.ndarray) or isinstance(out, (np.matrix, np.ma.MaskedArray)):
        raise TypeError(f"out is {type(out).__name__}, needs a numpy.ndarray")
    if out.shape != x.shape:
        raise ValueError(f"out has shape {out.shape}, needs x's shape {x.shape}")
    if out.dtype != x.dtype or not out.dtype.isnative:
        raise TypeError(f"out has dtype {out.dtype}, needs the result's dtype {x.dtype}")
    if not out.flags.writeable:
        raise ValueError("out is read-only, needs a writeable array")
    if out.size and _overlaps_itself(out):
        raise ValueError(f"out overlaps itself (strides {out.strides}), needs an array of distinct elements")
    if not _same_view(out, x) and _overlap(out, x):
        raise ValueError("out overlaps x without being x, needs x itself or memory of its own")
    for name, other in others:
        if other is not None and _overlap(out, other):
            raise ValueError(f"out overlaps {name}, needs memory of its own")


def shown(value):
    """A wrong value as it fits into a sentence."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of shape {value.shape}"
    text = repr(value)
    return text if len(text) <= 100 and "\n" not in text else f"a long {type(value).__name__}"


def _to_float(value, name):
    if isinstance(value, (str, bytes)) or np.iscomplexobj(value):
        raise TypeError(f"{name} is {shown(value)}, needs a real number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is beyond the range of float64, needs a number within it") from None
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {shown(value)}, needs a real number") from None


def to_eps(eps):
    """A number that is neither negative nor NaN."""
    value = _to_float(eps, "eps")
    if not value >= 0:
        raise ValueError(f"eps is {shown(eps)}, needs a number that is not negative and not NaN")
    return value


def to_real(value, name):
    """A finite number."""
    number = _to_float(value, name)
    if not math.isfinite(number):
        raise ValueError(f"{name} is {shown(value)}, needs a finite number")
    return number


def to_int(value, name, needed="an int"):
    """An int, or what stands for one; a bool counts nothing."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{name} is {shown(value)}, needs {needed}")


def to_running(a, name, x, channels):
    """A running statistic: x's dtype or float32 (float64 for float64), one value per channel."""
    allowed = (x.dtype,) if x.dtype == np.float64 else (x.dtype, np.dtype(np.float32))
    if not isinstance(a, np.ndarray) or isinstance(a, np.ma.MaskedArray):
        raise TypeError(f"{name} is {type(a).__name__}, needs a numpy.ndarray to update in place")
    if a.dtype not in allowed or not a.dtype.isnative:
        raise TypeError(f"{name} has dtype {a.dtype}, needs {' or '.join(dict.fromkeys(map(str, allowed)))}")
    if a.shape != (channels,):
        raise ValueError(f"{name} has shape {a.shape}, needs ({channels},), one value per channel")
    return a


def to_frozen(a, name, x, channels):
    """A running statistic to be used, not updated."""
    if a is None:
        raise ValueError(f"{name} is None, needs an array with training=False")
    return np.require(to_running(a, name, x, channels), requirements="A")


def _to_updated(a, name, x, channels, out):
    a = to_running(a, name, x, channels)
    if not a.flags.writeable:
        raise ValueError(f"{name} is read-only, needs a writeable array to update in place")
    if _overlaps_itself(a):
        raise ValueError(f"{name} overlaps itself (strides {a.strides}), needs distinct elements")
    if isinstance(out, np.ndarray) and _overlap(a, out):
        raise ValueError(f"out overlaps {name}, needs memory of its own")


def running_update(mean, var, x, channels, channel_axis, out, where):
    """Raise unless a batch can update its running statistics; either may be None."""
    for name, a in (("running_mean", mean), ("running_var", var)):
        if a is not None:
            _to_updated(a, name, x, channels, out)
    if mean is not None and var is not None and _overlap(mean, var):
        raise ValueError("running_var overlaps running_mean, needs memory of its own")
    if var is None or not channels:
        return
    if where is None:
        least = x.size // channels
    else:
        axes = tuple(a for a in range(x.ndim) if a != channel_axis)
        least = to_mask(where, x.shape).sum(axis=axes).min()
    if least == 1:
        raise ValueError(
            f"x has shape {x.shape}, one value for a channel, of which running_var has no variance; "
            "needs two or more"
        )
