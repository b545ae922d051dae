"""Arrays large enough to be cut: right, and the same bits for any number of threads and on every tier."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from layouts import LAYOUTS
from tolerances import (
    DTYPES,
    FLOAT32,
    FLOAT64,
    assert_close,
    assert_stats_close,
    centred,
    dx_scale,
    parameter_scales,
    y_scale,
)

import fastnorm
from fastnorm import _norm, reference

THREADS = [1, 2, 3, 7, 64]

# x's shape, the normalized axes, those along which the parameters vary; about 1 MB each: work for 7 threads
CASES = {
    "short rows": ((3500, 70), 1, (1,)),
    "short rows, parameters of each row": ((3500, 70), 1, (0,)),
    "short rows, parameters of each element": ((3500, 70), 1, (0, 1)),
    "short rows of many axes": ((9, 50, 8, 70), (0, 3), (3,)),
    "long rows": ((12, 20_001), 1, (1,)),
    "many long rows, parameters of each row": ((12, 20_001), 1, (0,)),
    "channels of long rows": ((3, 9, 9001), (0, 2), (1,)),
    "two long rows": ((2, 120_001), 1, (1,)),
    "long rows, parameters of each row": ((3, 80_003), 1, (0,)),
    "long rows of some slices": ((11, 40_001), 1, (1,)),
    "many long rows of few slices": ((2, 65, 4203), (1, 2), (2,)),
    "one long row": ((240_007,), 0, (0,)),
    "channels of several rows": ((7, 33, 1100), (0, 2), (1,)),
    "channels of many rows": ((70, 9, 400), (0, 2), (1,)),
    "channels of several rows, parameters of each row": ((7, 33, 1100), (0, 2), (0, 1)),
    "channels of several rows, parameters of each sample": ((7, 33, 1100), (0, 2), (0,)),
    "few channels": ((50, 3, 40, 40), (0, 2, 3), (1,)),
    "few channels, few long rows": ((5, 3, 130, 130), (0, 2, 3), (1,)),
    "few pixels of few samples": ((6, 850, 7, 7), (0, 2, 3), (1,)),
    "few pixels": ((1700, 24, 3, 2), (0, 2, 3), (1,)),
    "columns": ((1700, 150), 0, (1,)),
    "columns, parameters of each row": ((1700, 150), 0, (0,)),
    "columns, parameters of each element": ((1700, 150), 0, (0, 1)),
    "wide columns": ((80, 3001), 0, (1,)),
    "short runs of columns": ((60, 5, 9, 90), (0, 2), (1,)),
    "short runs of few columns": ((400, 7, 5, 17), (0, 2), (1, 3)),
    "short runs of few columns, parameters of each row": ((400, 7, 5, 17), (0, 2), (2,)),
    "short runs of columns, parameters of each sample": ((60, 5, 9, 90), (0, 2), (0,)),
    "short runs of columns, parameters of each row": ((60, 5, 9, 90), (0, 2), (2,)),
    "columns of many samples": ((14, 180, 96), 1, (2,)),
    "groups, channels last": ((7, 280, 8, 16), (1, 3), (2, 3)),
    "groups, channels second": ((7, 4, 9, 33, 31), (2, 3, 4), (1, 2)),
    "groups of few pixels": ((400, 8, 5, 4, 3), (2, 3, 4), (1, 2)),
    "groups of few pixels, channels last": ((400, 12, 8, 5), (1, 3), (2, 3)),
}


def strided(a):
    """The same values, every other element of rows that lie backwards."""
    memory = np.zeros((*a.shape[:-1], 2 * a.shape[-1] + 1), a.dtype)
    view = memory[..., -2::-2]
    view[...] = a
    return view


def inputs(rng, name, variant, dtype=FLOAT32):
    """x, dy and the keywords of `normalize`."""
    shape, axis, along = CASES[name]
    x, dy = rng.standard_normal((2, *shape)).astype(dtype)
    x += dtype.type(1)
    weight, bias = 1 + rng.standard_normal((2, *(n if i in along else 1 for i, n in enumerate(shape))))
    options = {"axis": axis, "weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}
    if variant == "strided":
        x, dy = strided(x), np.asfortranarray(dy)
    if variant == "masked":
        options["where"] = rng.random(shape) < 0.7
        x[~options["where"]] = np.nan
    if variant == "transposed":
        x, dy = np.asfortranarray(x), np.asfortranarray(dy)
    return x, dy, options


def forward_and_backward(x, dy, options):
    y, stats = fastnorm.normalize(x, return_stats=True, **options)
    return y, *stats, *fastnorm.normalize_backward(dy, x, stats, **options)


NAMES = ("y", "mean", "rstd", "dx", "dweight", "dbias")


def assert_same(actual, expected, names, what):
    for name, a, e in zip(names, actual, expected, strict=True):
        assert (a is None) == (e is None)
        if a is not None:
            assert a.dtype == e.dtype
            assert a.tobytes() == e.tobytes(), f"{name} differs: {what}"


@pytest.fixture
def tiers():
    before = fastnorm.isa()
    yield fastnorm.isa_tiers()
    _norm.set_isa(before)


@pytest.mark.parametrize("variant", ["plain", "double", "strided", "masked"])
@pytest.mark.parametrize("name", CASES)
def test_threads_and_tiers_change_no_bit(name, variant, tiers, rng):
    # in double another order of additions shows, which the rounding to float32 mostly hides
    x, dy, options = inputs(rng, name, variant, FLOAT64 if variant == "double" else FLOAT32)
    with fastnorm.num_threads(1):
        expected = forward_and_backward(x, dy, options)
    for threads in THREADS[1:] if variant in ("plain", "double") else [3, 7]:
        with fastnorm.num_threads(threads):
            assert_same(forward_and_backward(x, dy, options), expected, NAMES, f"{threads} threads")
    for i, tier in enumerate(tiers):
        _norm.set_isa(tier)
        with fastnorm.num_threads(1 + i):
            assert_same(forward_and_backward(x, dy, options), expected, NAMES, tier)


def standing(a, past):
    """The same array, whose first element stands so many bytes past a cache line."""
    memory = np.empty(a.nbytes + 128, np.uint8)
    start = (past - memory.ctypes.data) % 64
    view = np.ndarray(a.shape, a.dtype, memory, start)
    view[...] = a
    return view


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_where_arrays_stand_changes_no_bit(name, dtype, rng):
    x, dy, options = inputs(rng, name, "plain", dtype)
    expected = forward_and_backward(standing(x, 0), standing(dy, 0), options)
    # across cache lines, one of them or both, at multiples of an element and between
    for past, of_dy in ((16, 16), (0, 48), (60, 0), (8, 24), (1, 2)):
        actual = forward_and_backward(standing(x, past), standing(dy, of_dy), options)
        assert_same(actual, expected, NAMES, f"{past} and {of_dy} bytes past a line")


RUNS = [name for name in CASES if name.startswith("short runs")]


@pytest.mark.parametrize("name", RUNS)
def test_how_arrays_lie_decides_no_statistics(name, rng):
    x, _, options = inputs(rng, name, "plain")
    y, stats = fastnorm.normalize(x, return_stats=True, **options)
    wide = np.empty((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    for out in (wide[..., ::2], np.empty_like(x)[::-1], np.asfortranarray(x)):
        assert fastnorm.normalize(x, out=out, **options).tobytes() == y.tobytes()
    for lying in (strided(x), np.repeat(x, 2, axis=-1)[..., ::2]):  # columns apart
        assert_same(fastnorm.normalize(lying, return_stats=True, **options)[1], stats, ("mean", "rstd"), "x")
    bare = fastnorm.normalize(x, options["axis"], return_stats=True)[1]
    assert_same(bare, stats, ("mean", "rstd"), "without parameters")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", list(CASES)[::3])
def test_every_dtype(name, dtype, tiers, rng):
    x, dy, options = inputs(rng, name, "plain", dtype)
    expected = None
    for tier in tiers:
        _norm.set_isa(tier)
        for threads in (1, 3):
            with fastnorm.num_threads(threads):
                actual = forward_and_backward(x, dy, options)
            expected = expected or actual
            assert_same(actual, expected, NAMES, f"{tier}, {threads} threads")


@pytest.mark.parametrize("variant", ["plain", "masked", "transposed"])
@pytest.mark.parametrize("name", CASES)
def test_large_arrays_are_right(name, variant, rng):
    x, dy, options = inputs(rng, name, variant)
    where = options.get("where")
    y, *stats, dx, dweight, dbias = forward_and_backward(x, dy, options)
    expected, exact = reference.normalize(x, return_stats=True, **options)
    assert_close(y, expected, "y", y_scale(x, **options))
    assert_stats_close(fastnorm.Stats(*stats), exact, x, options["axis"], True if where is None else where)
    centre, exact = centred(x, exact, options["axis"], where)
    grads = reference.normalize_backward(dy, centre, exact, **options)
    keys = options["axis"], options["weight"]
    assert_close(dx, grads.dx, "dx", dx_scale(dy, centre, exact, *keys, where))
    scales = parameter_scales(dy, centre, exact, *keys, options["bias"], where)
    assert_close(dweight, grads.dweight, "total", scales[0])
    assert_close(dbias, grads.dbias, "total", scales[1])


def large(layout):
    """The layout on an array of about 1 MB, by a longer batch."""
    return layout.of_shape((layout.shape[0] * (250_000 // np.prod(layout.shape)), *layout.shape[1:]))


@pytest.mark.parametrize("layout", [large(layout) for layout in LAYOUTS], ids=str)
def test_threads_change_no_bit_of_a_layout(layout, rng):
    x, dy = rng.standard_normal((2, *layout.shape)).astype(np.float32)
    weight, bias = rng.standard_normal((2, *layout.param_shape())).astype(np.float32)
    expected = None
    for threads in THREADS:
        more, running = {}, ()
        if layout.function == "batch_norm":
            running = np.zeros_like(weight), np.ones_like(weight)
            more = {"running_mean": running[0], "running_var": running[1]}
        with fastnorm.num_threads(threads):
            y, stats = layout.forward(fastnorm, x, weight, bias, return_stats=True, **more)
            actual = [y, *stats, *layout.backward(fastnorm, dy, x, stats, weight), *running]
            if layout.function == "batch_norm":
                evaluated = {"running_mean": stats.mean, "running_var": running[1], "training": False}
                actual.append(layout.forward(fastnorm, x, weight, bias, **evaluated))
                actual += layout.backward(fastnorm, dy, x, stats, weight, training=False)
        expected = expected or actual
        assert_same(actual, expected, range(len(actual)), f"{threads} threads")


def test_threads_change_no_bit_of_the_others(rng):
    x = rng.standard_normal((2400, 110)).astype(np.float32)
    g, bias = rng.standard_normal(2400).astype(np.float32), rng.standard_normal(110).astype(np.float32)
    expected = None
    for threads in THREADS:
        with fastnorm.num_threads(threads):
            actual = [
                *fastnorm.moments(x),
                *fastnorm.moments(x, axis=0),
                *fastnorm.moments(x, axis=1),
                fastnorm.weight_norm(x, g),
                *fastnorm.weight_norm_backward(x, x[::-1], g),
                fastnorm.mean_only_batch_norm(x, bias),
                *fastnorm.mean_only_batch_norm_backward(x),
                fastnorm.standardize(x),
                fastnorm.l2_normalize(x),
            ]
        expected = expected or actual
        assert_same(actual, expected, range(len(actual)), f"{threads} threads")


def test_callers_at_once_change_no_bit(rng):
    # every kind of cut, on 8 threads of Python at a time, each of which asks for helpers
    cases = [(name, *inputs(rng, name, variant)) for name in CASES for variant in ("plain", "masked")]

    def work(case, threads):
        with fastnorm.num_threads(threads):
            return forward_and_backward(*case[1:])

    expected = [work(case, 1) for case in cases]
    with ThreadPoolExecutor(8) as pool:
        for threads in (2, 3, 64):
            actual = pool.map(work, cases, [threads] * len(cases))
            for case, a, e in zip(cases, actual, expected, strict=True):
                assert_same(a, e, NAMES, f"{case[0]}, {threads} threads beside other callers")


def test_the_same_bits_from_run_to_run(rng):
    x, dy, options = inputs(rng, "channels of several rows", "plain")
    with fastnorm.num_threads(3):
        expected = forward_and_backward(x, dy, options)
        for _ in range(20):
            assert_same(forward_and_backward(x, dy, options), expected, NAMES, "the same call again")


@pytest.mark.parametrize(("shape", "axis"), [((30_000, 72), 1), ((2, 1_100_003), 1), ((7500, 300), 0)])
def test_enough_for_64_threads(shape, axis, rng):
    x, dy = rng.standard_normal((2, *shape)).astype(np.float32)
    options = {"axis": axis, "weight": np.ones(shape[1], np.float32), "bias": np.ones(shape[1], np.float32)}
    results = []
    for threads in (1, 5, 64):
        with fastnorm.num_threads(threads):
            results.append(forward_and_backward(x, dy, options))
        assert_same(results[-1], results[0], NAMES, f"{threads} threads")


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
def test_statistics_do_not_depend_on_where_the_result_goes(dtype, rng):
    # channels between each other's in `out`, and not in x, whose rows adjoin
    x = np.broadcast_to((rng.standard_normal((13, 1, 49)) + 3).astype(dtype), (13, 8, 49))
    y, stats = fastnorm.batch_norm(x, return_stats=True)
    out, into = fastnorm.batch_norm(x, out=np.empty((13, 8, 49), dtype), return_stats=True)
    np.testing.assert_array_equal(out, y)
    np.testing.assert_array_equal(into.mean, stats.mean)
    np.testing.assert_array_equal(into.rstd, stats.rstd)


# of these samples one is taken by itself as a unit, and many are taken in one call
REGIONS = {
    "groups": ((40, 3, 7, 40), 8),
    "groups of odd channels, several blocks": ((9, 14, 13, 21), 3),
    "groups of two channels": ((11, 4, 4, 66), 33),
    "instances": ((23, 5, 3, 37), 37),
    "instances of several blocks": ((6, 13, 17, 45), 45),
}


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", REGIONS)
def test_small_regions_of_columns_have_the_bits_of_each_alone(name, dtype, affine, rng):
    (samples, *of_one), groups = REGIONS[name]
    x, dy = rng.standard_normal((2, samples, *of_one)).astype(dtype)
    x[1] += dtype.type(100)
    x[2] = dtype.type(3)
    x[3] *= dtype.type(1e30 if dtype in (FLOAT32, FLOAT64) else 100)  # a square beyond float32
    x[4, 1, 1, 1] = np.nan
    dy[5, 0, 2, 3] = np.inf
    compute = FLOAT64 if dtype == FLOAT64 else FLOAT32
    weight, bias = rng.standard_normal((2, of_one[-1])).astype(compute) if affine else (None, None)

    def both_ways(x, dy):
        with np.errstate(all="ignore"):
            y, stats = fastnorm.group_norm(x, groups, weight, bias, channel_axis=-1, return_stats=True)
            return y, *stats, *fastnorm.group_norm_backward(dy, x, stats, groups, weight, channel_axis=-1)

    for threads in (1, 3):
        with fastnorm.num_threads(threads):
            together = both_ways(x, dy)
        for i in range(samples):
            one = slice(i, i + 1)
            alone = both_ways(x[one], dy[one])
            for part, a, e in zip(NAMES[:4], together, alone, strict=False):
                assert a[one].tobytes() == e.tobytes(), f"{part} of sample {i} differs, {threads} threads"
    if affine:
        each = [both_ways(x[i : i + 1], dy[i : i + 1])[4:] for i in range(4)]
        for actual, *parts in zip(both_ways(x[:4], dy[:4])[4:], *each, strict=True):
            expected = np.sum(parts, axis=0, dtype=np.float64)
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * np.abs(parts).max())
