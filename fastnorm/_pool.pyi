from typing import Final

handler: Final[object]
LEAST: Final[int]

def set_bound(nbytes: int) -> None: ...
def state() -> dict[str, int]: ...
