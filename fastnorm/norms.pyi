from typing import Literal, TypeAlias, overload

from numpy import ndarray
from numpy.typing import ArrayLike

from ._types import Grads, Stats

__all__: list[str]

_Axis: TypeAlias = int | tuple[int, ...]
_Stats: TypeAlias = Stats | tuple[ArrayLike | None, ArrayLike | None]

@overload
def layer_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    axis: _Axis = -1,
    eps: float = 1e-5,
    out: ndarray | None = None,
    return_stats: Literal[False] = False,
) -> ndarray: ...
@overload
def layer_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    axis: _Axis = -1,
    eps: float = 1e-5,
    out: ndarray | None = None,
    return_stats: Literal[True],
) -> tuple[ndarray, Stats]: ...
@overload
def layer_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    axis: _Axis = -1,
    eps: float = 1e-5,
    out: ndarray | None = None,
    return_stats: bool,
) -> ndarray | tuple[ndarray, Stats]: ...
def layer_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    stats: _Stats,
    weight: ArrayLike | None = None,
    *,
    axis: _Axis = -1,
) -> Grads: ...
@overload
def rms_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: _Axis = -1,
    eps: float = 1e-6,
    out: ndarray | None = None,
    return_stats: Literal[False] = False,
) -> ndarray: ...
@overload
def rms_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: _Axis = -1,
    eps: float = 1e-6,
    out: ndarray | None = None,
    return_stats: Literal[True],
) -> tuple[ndarray, Stats]: ...
@overload
def rms_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: _Axis = -1,
    eps: float = 1e-6,
    out: ndarray | None = None,
    return_stats: bool,
) -> ndarray | tuple[ndarray, Stats]: ...
def rms_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    stats: _Stats,
    weight: ArrayLike | None = None,
    *,
    axis: _Axis = -1,
) -> Grads: ...
@overload
def batch_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    running_mean: ndarray | None = None,
    running_var: ndarray | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    channel_axis: int = 1,
    where: ArrayLike | None = None,
    out: ndarray | None = None,
    return_stats: Literal[False] = False,
) -> ndarray: ...
@overload
def batch_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    running_mean: ndarray | None = None,
    running_var: ndarray | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    channel_axis: int = 1,
    where: ArrayLike | None = None,
    out: ndarray | None = None,
    return_stats: Literal[True],
) -> tuple[ndarray, Stats]: ...
@overload
def batch_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    running_mean: ndarray | None = None,
    running_var: ndarray | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    channel_axis: int = 1,
    where: ArrayLike | None = None,
    out: ndarray | None = None,
    return_stats: bool,
) -> ndarray | tuple[ndarray, Stats]: ...
def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    stats: _Stats,
    weight: ArrayLike | None = None,
    *,
    channel_axis: int = 1,
    training: bool = True,
    where: ArrayLike | None = None,
) -> Grads: ...
def mean_only_batch_norm(
    x: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    running_mean: ndarray | None = None,
    training: bool = True,
    momentum: float = 0.1,
    channel_axis: int = 1,
) -> ndarray: ...
def mean_only_batch_norm_backward(
    dy: ArrayLike,
    *,
    channel_axis: int = 1,
    training: bool = True,
) -> tuple[ndarray, ndarray]: ...
@overload
def instance_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    channel_axis: int = 1,
    eps: float = 1e-5,
    out: ndarray | None = None,
    return_stats: Literal[False] = False,
) -> ndarray: ...
@overload
def instance_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    channel_axis: int = 1,
    eps: float = 1e-5,
    out: ndarray | None = None,
    return_stats: Literal[True],
) -> tuple[ndarray, Stats]: ...
@overload
def instance_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    channel_axis: int = 1,
    eps: float = 1e-5,
    out: ndarray | None = None,
    return_stats: bool,
) -> ndarray | tuple[ndarray, Stats]: ...
def instance_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    stats: _Stats,
    weight: ArrayLike | None = None,
    *,
    channel_axis: int = 1,
) -> Grads: ...
@overload
def group_norm(
    x: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    channel_axis: int = 1,
    eps: float = 1e-5,
    out: ndarray | None = None,
    return_stats: Literal[False] = False,
) -> ndarray: ...
@overload
def group_norm(
    x: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    channel_axis: int = 1,
    eps: float = 1e-5,
    out: ndarray | None = None,
    return_stats: Literal[True],
) -> tuple[ndarray, Stats]: ...
@overload
def group_norm(
    x: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    channel_axis: int = 1,
    eps: float = 1e-5,
    out: ndarray | None = None,
    return_stats: bool,
) -> ndarray | tuple[ndarray, Stats]: ...
def group_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    stats: _Stats,
    num_groups: int,
    weight: ArrayLike | None = None,
    *,
    channel_axis: int = 1,
) -> Grads: ...
def weight_norm(
    v: ArrayLike,
    g: ArrayLike,
    *,
    axis: _Axis = 0,
) -> ndarray: ...
def weight_norm_backward(
    dw: ArrayLike,
    v: ArrayLike,
    g: ArrayLike,
    *,
    axis: _Axis = 0,
) -> tuple[ndarray, ndarray]: ...
