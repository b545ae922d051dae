"""Fixtures and settings that the tests share."""

import os
import sys
import zlib
from pathlib import Path

# `python -m pytest` puts the checkout on sys.path, whose fastnorm/ may not be built: test what is installed.
if (checkout := str(Path(__file__).resolve().parent.parent)) in sys.path:
    sys.path.remove(checkout)

import hypothesis
import numpy as np
import pytest
from tolerances import DTYPES

from fastnorm import _norm

# The tests draw the same cases every time; FASTNORM_TEST_SEED=random or a number draws others.
SEED = os.environ.get("FASTNORM_TEST_SEED", "0")
SEED = int.from_bytes(os.urandom(4)) if SEED == "random" else int(SEED)

hypothesis.settings.register_profile(
    "fastnorm",
    max_examples=int(os.environ.get("FASTNORM_TEST_EXAMPLES", "250")),
    deadline=None,
    print_blob=True,
    database=None,
    derandomize=SEED == 0,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("fastnorm")


def pytest_collection_modifyitems(items):
    """Hypothesis draws from the same seed; with seed 0 it draws from the name of the test alone."""
    for item in items:
        if SEED and hasattr(item.obj, "hypothesis"):
            hypothesis.seed(SEED)(getattr(item.obj, "__func__", item.obj))


def pytest_report_header():
    return f"FASTNORM_TEST_SEED={SEED}"


@pytest.fixture
def rng(request):
    """A generator of its own for every test, whatever else runs."""
    return np.random.default_rng([SEED, zlib.crc32(request.node.nodeid.encode())])


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


@pytest.fixture(params=_norm.isa_tiers())
def tier_in_use(request):
    """Every tier in turn, in use for the time of the test."""
    before = _norm.isa()
    _norm.set_isa(request.param)
    yield request.param
    _norm.set_isa(before)
