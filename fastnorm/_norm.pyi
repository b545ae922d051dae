from collections.abc import Callable, Iterable
from typing import Any, Final

from numpy import ndarray

from ._types import Grads, Moments

COMPILER: Final[str]
VERSION: Final[str]
threads_capsule: Final[object]

def isa_tiers() -> list[str]: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def use_threads(capsule: object) -> None: ...
def use_handler(capsule: object, least: int) -> None: ...

class Layout:
    ndim: Final[int]
    split_axis: Final[int]
    groups: Final[int]
    asked: Final[int]
    params: Final[tuple[int, ...] | None]
    keepdims: Final[bool]
    def __init__(
        self,
        ndim: int,
        reduced: Iterable[int],
        params: tuple[int, ...] | None = None,
        *,
        keepdims: bool = True,
        split_axis: int = -1,
        groups: int = 0,
    ) -> None: ...

class Family:
    make: Final[Callable[..., Layout]]
    grouped: Final[bool]
    def __init__(self, make: Callable[..., Layout], grouped: bool = False) -> None: ...
    def __call__(self, ndim: int, axis: Any, groups: Any = None) -> Layout: ...

def as_input(x: Any, name: str = "x") -> ndarray: ...
def forward(
    x: Any,
    family: Family,
    axis: Any,
    weight: Any,
    bias: Any,
    eps: Any,
    with_mean: bool,
    with_std: bool,
    where: Any,
    out: Any,
    return_stats: bool,
    groups: Any = None,
) -> Any: ...
def batch_forward(
    x: Any,
    family: Family,
    axis: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    training: bool,
    momentum: Any,
    eps: Any,
    with_std: bool,
    where: Any,
    out: Any,
    return_stats: bool,
) -> Any: ...
def weight_forward(v: Any, g: Any, family: Family, axis: Any) -> ndarray: ...
def moments(x: Any, family: Family, axis: Any, correction: Any, keepdims: bool, where: Any) -> Moments: ...
def backward(
    dy: Any,
    x: Any,
    stats: Any,
    family: Family,
    axis: Any,
    weight: Any,
    bias: Any,
    with_mean: bool,
    with_std: bool,
    where: Any,
    given: bool = False,
    groups: Any = None,
) -> Grads: ...
def mean_backward(dy: Any, family: Family, axis: Any, given: bool) -> tuple[ndarray, ndarray]: ...
def weight_backward(dw: Any, v: Any, g: Any, family: Family, axis: Any) -> tuple[ndarray, ndarray]: ...
