"""Arrays of every extent: empty and size-1 axes, strides beyond 32 bits, more than 2^31 elements.

The last need much memory and are left out unless FASTNORM_TEST_GIB says how much of it they may have:

    FASTNORM_TEST_GIB=11 pytest tests/test_sizes.py
"""

import itertools
import mmap
import os

import numpy as np
import pytest
from layouts import Layout
from numpy.lib.stride_tricks import as_strided
from strategies import values
from tolerances import DTYPES, FLOAT16, FLOAT32, assert_close, assert_moments_close, y_scale

import fastnorm
from fastnorm import reference

GIB = 1 << 30
ROOM = float(os.environ.get("FASTNORM_TEST_GIB", 0))

# ---- empty and size-1 axes ---------------------------------------------------------------------------------

# every extent at every place, for each kind of layout
SMALL = [shape for ndim in (1, 2, 3, 4) for shape in itertools.product((0, 1, 3), repeat=ndim)]


def layouts_of(shape):
    """The layouts that this shape can have, all axes named from the front."""
    ndim = len(shape)
    for axes in ((0,), (ndim - 1,), tuple(range(ndim))):
        for function in ("layer_norm", "rms_norm"):
            yield Layout("", function, shape, axes, axes, {"axis": axes})
    for c in range(1, ndim):
        options = {"channel_axis": c}
        batch = tuple(a for a in range(ndim) if a != c)
        yield Layout("", "batch_norm", shape, batch, (c,), options)
        if ndim > 2:
            yield Layout("", "instance_norm", shape, batch[1:], (c,), options)
        for groups in {1, shape[c]} - {0}:
            reduced = tuple(a for a in range(1, ndim + 1) if a != c)
            yield Layout("", "group_norm", shape, reduced, (c,), options | {"num_groups": groups})


@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_empty_and_single_axes_of_the_layouts(shape, rng):
    for layout in layouts_of(shape):
        x, dy = values(rng, shape, FLOAT32), values(rng, shape, FLOAT32)
        weight = values(rng, layout.param_shape(), FLOAT32)
        sizes = layout.sliced_shape()
        if 0 in (sizes[a] for a in layout.reduced):
            with pytest.raises(ValueError, match=r"^x has shape"):
                layout.forward(fastnorm, x, weight)
            continue
        y, stats = layout.forward(fastnorm, x, weight, return_stats=True)
        assert y.shape == shape
        assert [s.shape for s in stats if s is not None] == (1 + layout.has_bias) * [layout.stats_shape()]
        grads = layout.backward(fastnorm, dy, x, stats, weight)
        assert (grads.dx.shape, grads.dweight.shape) == (shape, weight.shape)
        if x.size:
            exact, exact_stats = layout.forward(reference, x, weight, return_stats=True)
            assert_close(y, exact, "y")
            assert_close(grads.dbias, layout.backward(reference, dy, x, exact_stats, weight).dbias, "total")
        else:
            assert not grads.dweight.any()


@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_empty_and_single_axes_of_the_core(shape, rng):
    x = values(rng, shape, FLOAT32)
    for axis in [(a,) for a in range(len(shape))] + [tuple(range(len(shape))), tuple(range(len(shape)))[::2]]:
        if 0 in (shape[a] for a in axis):
            for call in (fastnorm.moments, fastnorm.normalize, fastnorm.standardize, fastnorm.l2_normalize):
                with pytest.raises(ValueError, match=r"^x has shape"):
                    call(x, axis)
            continue
        assert_moments_close(
            fastnorm.moments(x, axis), reference.moments(x, axis), x, axis
        ) if x.size else None
        y, stats = fastnorm.normalize(x, axis, return_stats=True)
        kept = tuple(1 if a in axis else n for a, n in enumerate(shape))
        assert stats.mean.shape == stats.rstd.shape == kept
        assert fastnorm.moments(x, axis, keepdims=True).mean.shape == kept
        dx, dweight, dbias = fastnorm.normalize_backward(x, x, stats, axis, np.float32(2))
        assert (dx.shape, dweight.shape, dbias.shape) == (shape, (), ())
        if x.size:
            assert_moments_close(fastnorm.moments(x, axis), reference.moments(x, axis), x, axis)
            assert_close(y, reference.normalize(x, axis), "y", y_scale(x, axis))
        others = tuple(a for a in range(len(shape)) if a not in axis)
        if others:
            g = np.ones([shape[a] for a in others], np.float32)
            assert fastnorm.weight_norm(x, g, axis=others).shape == shape
            assert [a.shape for a in fastnorm.weight_norm_backward(x, x, g, axis=others)] == [shape, g.shape]


@pytest.mark.parametrize("axis", [30, 31, (63, 32), tuple(range(64))])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_many_dimensions_as_numpy_has(axis, dtype, rng):
    x = values(rng, (1,) * 30 + (2, 1, 3) + (1,) * 29 + (5, 2), dtype)
    assert x.ndim == 64
    weight = values(rng, x.shape, dtype)
    keepdims = fastnorm.moments(x, axis, keepdims=True)
    assert keepdims.mean.ndim == 64
    assert_moments_close(keepdims, reference.moments(x, axis, keepdims=True), x, axis)
    assert_moments_close(fastnorm.moments(x, axis), reference.moments(x, axis), x, axis)
    y, stats = fastnorm.normalize(x, axis, weight, return_stats=True)
    assert_close(y, reference.normalize(x, axis, weight), "y", y_scale(x, axis, weight))
    grads = fastnorm.normalize_backward(x, x, stats, axis, weight)
    assert grads.dweight.shape == grads.dx.shape == x.shape
    channels = values(rng, (2,), dtype)
    batch, axes = fastnorm.batch_norm(x, channels, channel_axis=-1), tuple(range(63))
    assert_close(batch, reference.batch_norm(x, channels, channel_axis=-1), "y", y_scale(x, axes, channels))


# ---- strides beyond 32 bits --------------------------------------------------------------------------------

# Steps that 32 bits, signed or not, would turn into others, 0 among them.
STEPS = {"2^31": 1 << 31, "2^32": 1 << 32, "beyond": (1 << 32) + 4096 + 8}


class Sparse:
    """Arrays whose elements lie gigabytes apart, in memory of which only the touched pages exist."""

    def __init__(self, nbytes):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
        self.memory = np.frombuffer(mmap.mmap(-1, nbytes, flags=flags), np.uint8)
        self.used = 0

    def like(self, a, strides):
        """An array of this shape and dtype with these strides; negative ones walk back from the end."""
        reach = [(n - 1) * s for n, s in zip(a.shape, strides, strict=True)]
        start = self.used - sum(r for r in reach if r < 0)
        self.used += 1 << 16
        view = as_strided(self.memory[start:][: a.itemsize].view(a.dtype), a.shape, strides)
        view[...] = a
        return view


@pytest.fixture
def sparse():
    try:
        return Sparse(40 * GIB)
    except OSError as error:
        pytest.skip(f"no address space of 40 GiB: {error}")


def strides_of(shape, itemsize, far, step):
    """C order, but for the axis `far` with a step of its own."""
    strides, size = [], itemsize
    for i in reversed(range(len(shape))):
        strides.insert(0, step if i == far else size)
        size *= 1 if i == far else shape[i]
    return strides


def every_result(x, dy, out, options):
    """Copies of all that the core makes of these arrays."""
    y, stats = fastnorm.normalize(x, **options, return_stats=True)
    fastnorm.normalize(x, **options, out=out)
    grads = fastnorm.normalize_backward(dy, x, stats, **options)
    results = [y, out, *stats, *grads, *fastnorm.moments(x, options["axis"], where=options["where"])]
    return [np.array(a).astype(np.float64) for a in results]


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("sign", [1, -1], ids=["forwards", "backwards"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strides_beyond_32_bits(step, sign, dtype, sparse, rng):
    # the same bits as with a step of a few KB: one that is longer than all the others, and merges with none
    for far, axis, along in itertools.product((0, 1, 2), (0, 1, 2, (0, 2), (0, 1)), (0, 2)):
        shape = (3, 2, 4) if far == 2 else (3, 2, 70)
        where = np.ones(shape, bool)
        where[0, 0, 0] = axis == 1
        weight = values(rng, [n if i == along else 1 for i, n in enumerate(shape)], FLOAT32)
        options = {"axis": axis, "weight": weight, "bias": weight}
        plain = values(rng, (3, *shape), dtype)
        for options["where"] in (None, where):
            results = []
            for size in (sign * step, sign * 4104):
                strides = strides_of(shape, dtype.itemsize, far, size)
                sparse.used = 0
                results.append(every_result(*(sparse.like(a, strides) for a in plain), options))
            for actual, expected in zip(*results, strict=True):
                np.testing.assert_array_equal(
                    actual, expected, f"axis {far} far, {axis} reduced, {along} weighted"
                )


def test_parameters_and_masks_of_strides_beyond_32_bits(sparse, rng):
    x, weight, bias = values(rng, (5, 4), FLOAT32), *values(rng, (2, 4), FLOAT32)
    gain = np.arange(5, dtype=np.float32)
    where = rng.random((5, 4)) < 0.8
    where[:2] = True

    def every_result(to_memory):
        w, b = (to_memory(a, [STEPS["beyond"]]) for a in (weight, bias))
        mean, var = (to_memory(np.ones(4, np.float32), [STEPS["2^32"]]) for _ in range(2))
        mask, g = to_memory(where, [STEPS["2^31"], 1]), to_memory(gain, [STEPS["2^32"]])
        running = {"running_mean": mean, "running_var": var}
        return [
            fastnorm.batch_norm(x, w, b, **running, where=mask),
            fastnorm.batch_norm(x, **running, training=False),
            *(np.array(a) for a in (mean, var)),
            fastnorm.layer_norm(x, w, b),
            fastnorm.weight_norm(x, g),
        ]

    for actual, expected in zip(every_result(sparse.like), every_result(lambda a, _: a.copy()), strict=True):
        np.testing.assert_array_equal(actual, expected)


# ---- more than 2^31 elements -------------------------------------------------------------------------------


def needs(gib):
    return pytest.mark.skipif(gib > ROOM, reason=f"needs FASTNORM_TEST_GIB={gib}")


def alternating(shape):
    """Float16 of 1, -1, 1, -1, ... in C order: mean 0, variance 1."""
    x = np.empty(shape, FLOAT16)
    flat = x.reshape(-1)
    flat[0::2], flat[1::2] = 1, -1
    return x


LONG = (1 << 31) + 6  # elements, 4 GiB of float16


@needs(9)
def test_a_row_longer_than_31_bits():
    x = alternating((1, LONG))
    x[0, [5, LONG - 1]] = 60_000  # after these what is lost of the tail shows
    var = 1 + 2 * (60_000.0**2 - 1) / LONG
    mean = 2 * 60_000 / LONG
    moments = fastnorm.moments(x, 1)
    np.testing.assert_allclose(moments.var, var, rtol=1e-6)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-4)
    dx = fastnorm.rms_norm_backward(x, x, fastnorm.rms_norm(x[:, :2], return_stats=True)[1])[0]
    assert np.isfinite(dx[0, ::1_000_003]).all()
    del dx
    y, stats = fastnorm.layer_norm(x, out=x, return_stats=True)
    assert y is x
    np.testing.assert_allclose(stats.rstd, (var + 1e-5) ** -0.5, rtol=1e-6)
    for i in (0, 5, (1 << 31) - 1, 1 << 31, LONG - 2, LONG - 1):
        value = 60_000 if i in (5, LONG - 1) else 1 - 2 * (i % 2)
        np.testing.assert_allclose(x[0, i], (value - mean) / var**0.5, rtol=2e-3)


@needs(11)
@pytest.mark.parametrize("n", [64, 4098])
def test_rows_of_more_than_31_bits_of_elements(n):
    rows = (1 << 31) // n + 5
    x = np.empty((rows, n), FLOAT16)
    pattern = np.random.default_rng(0).standard_normal((16, n)).astype(FLOAT16)
    for first in range(0, rows, 16):
        x[first : first + 16] = pattern[: rows - first]
    x[-1] = pattern[7]
    expected = fastnorm.layer_norm(pattern)
    weight = np.ones(n, np.float32)
    mean, var = fastnorm.moments(x, 1, keepdims=True)
    grads = fastnorm.layer_norm_backward(x, x, (mean, (var + 1e-5) ** -0.5), weight)
    mean, var = fastnorm.moments(pattern, 1, keepdims=True)
    exact = fastnorm.layer_norm_backward(pattern, pattern, (mean, (var + 1e-5) ** -0.5), weight)
    assert np.isfinite(grads.dweight).all()
    np.testing.assert_array_equal(grads.dx[:16], exact.dx)
    np.testing.assert_array_equal(grads.dx[-1], exact.dx[7])
    np.testing.assert_array_equal(grads.dx[(rows - 17) // 16 * 16], exact.dx[0])
    del grads
    fastnorm.layer_norm(x, out=x)
    for first in (0, rows // 32 * 16, (rows - 17) // 16 * 16):
        np.testing.assert_array_equal(x[first : first + 16], expected)
    np.testing.assert_array_equal(x[-1], expected[7])


@needs(5)
@pytest.mark.parametrize("c", [2, 48, 4098])
def test_columns_of_more_than_31_bits_of_elements(c):
    rows = (1 << 31) // c + 3
    rows += rows % 2  # 1 and -1 alternate down the column
    x = np.empty((rows, c), FLOAT16)
    x[0::2], x[1::2] = 1, -1
    x[[1, -1]] = 60_000
    mean, var = 2 * 60_001 / rows, 1 + 2 * (60_000.0**2 - 1) / rows - (2 * 60_001 / rows) ** 2
    y, stats = fastnorm.batch_norm(x, out=x, return_stats=True)
    np.testing.assert_allclose(stats.mean, np.full(c, mean), rtol=1e-4)
    np.testing.assert_allclose(stats.rstd, np.full(c, (var + 1e-5) ** -0.5), rtol=1e-5)
    expected = (np.array([1, 1, -1, 60_000]) - mean) / var**0.5
    np.testing.assert_allclose(y[[0, 2, -3, -1]].T, np.tile(expected, (c, 1)), rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(fastnorm.moments(x, 0).var, np.ones(c), rtol=1e-3)
