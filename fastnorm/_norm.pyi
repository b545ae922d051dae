from collections.abc import Iterable
from typing import Any, Final

from numpy import ndarray

from ._types import Grads, Moments, Stats

COMPILER: Final[str]
VERSION: Final[str]

def isa_tiers() -> list[str]: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def use_threads(capsule: object) -> None: ...

class Layout:
    ndim: Final[int]
    split_axis: Final[int]
    groups: Final[int]
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

def as_input(x: Any, name: str = "x") -> ndarray: ...
def forward(
    x: ndarray,
    layout: Layout,
    weight: Any,
    bias: Any,
    eps: float,
    with_mean: bool,
    with_std: bool,
    where: Any,
    out: ndarray | None,
    return_stats: bool,
    running: Any = None,
    given: Any = None,
    threads: int = 1,
) -> Any: ...
def statistics(x: ndarray, layout: Layout, eps: float, with_mean: bool, threads: int = 1) -> Stats: ...
def moments(
    x: ndarray, layout: Layout, correction: float, keepdims: bool, where: Any, threads: int = 1
) -> Moments: ...
def backward(
    dy: ndarray,
    x: ndarray | None,
    stats: Any,
    layout: Layout,
    weight: Any,
    bias: Any,
    want_params: bool,
    with_mean: bool,
    with_std: bool,
    where: Any,
    given: bool = False,
    threads: int = 1,
) -> Grads: ...
