"""Memory stays flat over some hundred calls; `python -m tests.leaks` makes a million of each."""

import numpy as np
import pytest
from leaks import calls, growth, leaks

import fastnorm

CALLS = dict(calls())


@pytest.mark.parametrize("name", CALLS)
def test_memory_stays_flat(name):
    grown = growth(CALLS[name], 500)
    assert not leaks(grown), f"{grown} blocks, bytes of heap, resident bytes more"


def test_every_function_is_called():
    functions = {name for name in fastnorm.core.__all__ + fastnorm.norms.__all__ if name[0].islower()}
    assert functions <= set(CALLS)


@pytest.mark.parametrize("nbytes", [16, 600, 5000])
def test_a_leak_shows(nbytes):
    kept = []
    assert leaks(growth(lambda: kept.append(np.empty(nbytes, np.uint8)), 500))
