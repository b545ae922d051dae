"""How elements are loaded and stored: every pattern of 16 bits, and every rounding to one.

One at a time (load1, store1), in whole vectors and in tails: apply without statistics stores 1 * weight, and
the mean of one element is that element.
"""

import numpy as np
import pytest
from kernels import KINDS, LAYOUTS, TIERS, Layout, Memory, Param, assert_same_bits, place, results, work_array

pytestmark = pytest.mark.parametrize("tier", TIERS)
each_narrow = pytest.mark.parametrize("kind", KINDS[2:], ids=lambda kind: kind.name)

PATTERNS = np.arange(2**16, dtype=np.uint16)
SIGN = np.uint16(0x8000)


def wide_values(patterns, kind):
    """Patterns as float32, which holds all of them."""
    if kind.name == "bf16":
        return (patterns.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):
        return patterns.view(np.float16).astype(np.float32)


def roundings(kind):
    """(float32, the pattern it is stored as): all numbers, all ties, and the neighbours of the ties."""
    infinity = 0x7F80 if kind.name == "bf16" else 0x7C00
    low = np.arange(
        infinity, dtype=np.uint16
    )  # every finite number but for its sign, and with + 1 the next one
    value = wide_values(low, kind)
    if kind.name == "bf16":
        tie = ((low.astype(np.uint32) << 16) + 0x8000).view(np.float32)
    else:
        above = wide_values(low + np.uint16(1), kind)
        above[-1] = 2.0**16  # what would follow if the exponents went on
        tie = (value + above) / 2
    values = [value, tie, np.nextafter(tie, np.float32(0)), np.nextafter(tie, np.float32(np.inf))]
    patterns = [low, low + (low & 1), low, low + np.uint16(1)]
    beyond = np.array([np.inf, np.finfo(np.float32).max], np.float32)
    values, patterns = np.concatenate([*values, beyond]), np.concatenate([*patterns, [infinity, infinity]])
    patterns = patterns.astype(np.uint16)
    return np.concatenate([values, -values]), np.concatenate([patterns, patterns | SIGN])


def store_by_apply(verbs, values, kind, width):
    """Stores float32 values in rows of `width`: `values` as a weight on ones."""
    values = np.resize(values, (-(-len(values) // width), width))
    ones, out = Memory(values.shape, kind.storage), Memory(values.shape, kind.storage, Layout(2, 1))
    ones.view[...] = kind.narrow(np.ones(1))
    weight = Param.of(values, True)
    verbs.apply(ones.view, out.view, weight=weight.argument)
    out.assert_guards("apply")
    return out.view


@each_narrow
def test_every_pattern_is_loaded(tier, kind):
    verbs, patterns = kind.verbs(tier), PATTERNS.view(kind.storage)
    with np.errstate(invalid="ignore"):  # signalling NaN
        expected = wide_values(PATTERNS, kind).astype(float)
    loaded = np.empty(2**16)
    verbs.load(patterns, loaded)
    assert_same_bits(loaded, expected, "load1")

    finite = np.isfinite(expected)
    expected = expected[finite] + 0.0  # a sum is not -0
    one_each, (x,) = results(4, 2**16), place(LAYOUTS[2], patterns[None])
    verbs.moments_rows(x.view.reshape(-1, 1, 1), None, True, one_each.view)
    assert_same_bits(one_each.view[1, finite], expected, "tails")
    verbs.moments_cols(x.view, None, True, work_array(verbs, 4 * 2**16).view, one_each.view)
    assert_same_bits(one_each.view[1, finite], expected, "vectors")


@each_narrow
def test_every_pattern_comes_back(tier, kind):
    verbs = kind.verbs(tier)
    for width in (1, 3, 8, 15, 16, 31, 2**16):
        patterns = np.resize(PATTERNS, (-(-(2**16) // width), width)).view(kind.storage)
        (x,), out = place(LAYOUTS[0], patterns), Memory(patterns.shape, kind.storage)
        verbs.apply(x.view, out.view)
        assert_same_bits(out.view, patterns, f"rows of {width}")


@each_narrow
def test_rounding_is_to_nearest_ties_to_even(tier, kind):
    verbs = kind.verbs(tier)
    values, expected = roundings(kind)
    expected = expected.view(kind.storage)
    stored = np.empty(len(values), kind.storage)
    verbs.store(values.astype(float), stored)
    assert_same_bits(stored, expected, "store1")
    for width in (7, 16, 32, 64, 67):
        stored = store_by_apply(verbs, values, kind, width)
        assert_same_bits(stored.ravel()[: len(values)], expected, f"rows of {width}")


@each_narrow
def test_rounding_of_any_float32(tier, kind, rng):
    verbs = kind.verbs(tier)
    values = rng.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    stored = np.empty(len(values), kind.storage)
    with np.errstate(invalid="ignore"):  # signalling NaN
        verbs.store(values.astype(float), stored)
    assert_same_bits(stored, kind.narrow(values), "store1")
    assert_same_bits(store_by_apply(verbs, values, kind, 200).ravel(), kind.narrow(values), "rows of 200")


@each_narrow
def test_nan_stays_nan(tier, kind):
    # payloads in the lower bits only must not be cut off to infinity, nor carried beyond the sign
    verbs = kind.verbs(tier)
    payloads = np.array([1, 2**13 - 1, 2**13, 2**16 - 1, 2**22, 2**23 - 1], np.uint32)
    values = np.concatenate([0x7F800000 + payloads, 0xFF800000 + payloads]).astype(np.uint32).view(np.float32)
    for width in (1, 3, 16, 32):
        stored = store_by_apply(verbs, np.resize(values, 96), kind, width)
        assert np.isnan(wide_values(stored.view(np.uint16), kind)).all(), f"rows of {width}"


def test_bfloat16_is_that_of_ml_dtypes(tier, rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = KINDS[3]
    values = rng.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    values = values[~np.isnan(values)]
    stored = store_by_apply(kind.verbs(tier), values, kind, len(values))
    assert_same_bits(stored[0], values.astype(ml_dtypes.bfloat16).view(np.uint16), "apply")


@pytest.mark.parametrize("kind", KINDS[:2], ids=lambda kind: kind.name)
def test_compute_types_are_stored_as_they_are(tier, kind, rng):
    verbs = kind.verbs(tier)
    bits = rng.integers(0, 2 ** (8 * verbs.size), 10_000, dtype=np.dtype(f"u{verbs.size}"))
    values = bits.view(kind.storage)
    loaded, stored = np.empty(len(values)), np.empty_like(values)
    verbs.load(values, loaded)
    with np.errstate(invalid="ignore"):
        assert_same_bits(loaded, values.astype(float), "load1")
    verbs.store(loaded, stored)
    assert_same_bits(stored, values, "store1")
    assert_same_bits(store_by_apply(verbs, values, kind, 25).ravel(), values, "rows of 25")
