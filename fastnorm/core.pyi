from typing import Literal, TypeAlias, overload

from numpy import ndarray
from numpy.typing import ArrayLike

from ._types import Grads, Moments, Stats

__all__: list[str]

_Axis: TypeAlias = int | tuple[int, ...]
_Stats: TypeAlias = Stats | tuple[ArrayLike | None, ArrayLike | None]

def moments(
    x: ArrayLike,
    axis: _Axis | None = None,
    *,
    correction: float = 0,
    keepdims: bool = False,
    where: ArrayLike | None = None,
) -> Moments: ...
@overload
def normalize(
    x: ArrayLike,
    axis: _Axis = -1,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    with_mean: bool = True,
    with_std: bool = True,
    where: ArrayLike | None = None,
    out: ndarray | None = None,
    return_stats: Literal[False] = False,
) -> ndarray: ...
@overload
def normalize(
    x: ArrayLike,
    axis: _Axis = -1,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    with_mean: bool = True,
    with_std: bool = True,
    where: ArrayLike | None = None,
    out: ndarray | None = None,
    return_stats: Literal[True],
) -> tuple[ndarray, Stats]: ...
@overload
def normalize(
    x: ArrayLike,
    axis: _Axis = -1,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    with_mean: bool = True,
    with_std: bool = True,
    where: ArrayLike | None = None,
    out: ndarray | None = None,
    return_stats: bool,
) -> ndarray | tuple[ndarray, Stats]: ...
def normalize_backward(
    dy: ArrayLike,
    x: ArrayLike,
    stats: _Stats,
    axis: _Axis = -1,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    with_mean: bool = True,
    with_std: bool = True,
    where: ArrayLike | None = None,
) -> Grads: ...
def standardize(
    x: ArrayLike,
    axis: _Axis = 0,
    *,
    ddof: float = 0,
    eps: float = 0.0,
    where: ArrayLike | None = None,
    out: ndarray | None = None,
) -> ndarray: ...
def l2_normalize(
    x: ArrayLike,
    axis: _Axis = -1,
    *,
    eps: float = 0.0,
    out: ndarray | None = None,
) -> ndarray: ...
