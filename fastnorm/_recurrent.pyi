from typing import Final

from numpy import ndarray

CELLS: Final[dict[str, int]]
NORMS: Final[dict[str | None, int]]
PAD: Final[int]

def use_handler(capsule: object, least: int) -> None: ...
def apply(name: str, x: ndarray, isa: str) -> ndarray: ...

class Tape:
    @property
    def nbytes(self) -> int: ...
    def backward(
        self,
        dy: ndarray,
        dh: ndarray,
        dc: ndarray | None,
        dweight_ih: ndarray,
        dweight_hh: ndarray,
        isa: str,
        threads: int,
    ) -> tuple[ndarray, ndarray, ndarray | None, ndarray]: ...

def forward(
    cell: str,
    norm: str | None,
    eps: float,
    recompute: bool,
    x: ndarray,
    h0: ndarray,
    c0: ndarray | None,
    lengths: ndarray | None,
    weight_ih: ndarray,
    weight_hh: ndarray,
    vectors: ndarray,
    isa: str,
    threads: int,
) -> tuple[ndarray, ndarray, ndarray | None, Tape]: ...

class Step:
    h: Final[ndarray]
    c: Final[ndarray | None]
    y: Final[ndarray]
    def __init__(
        self,
        cell: str,
        norm: str | None,
        eps: float,
        rows: int,
        weight_ih: ndarray,
        weight_hh: ndarray,
        vectors: ndarray,
        isa: str,
        threads: int,
    ) -> None: ...
    def __call__(self, x: ndarray) -> ndarray: ...
