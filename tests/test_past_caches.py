"""Results that go past the caches, as those do that are larger than them: the same bits as any others."""

import numpy as np
import pytest
from kernels import KINDS, TIERS, assert_same_bits, make_values
from layouts import LAYOUTS
from strategies import values

import fastnorm

LINE = 64
ROW = 64  # elements: whole vectors, in whole cache lines, of every dtype
LEAST = 16 << 20  # bytes of a result that goes there with any threads, from one array or two


def memory(rows, n, dtype, misaligned=0):
    """(rows, n) from a cache line's bounds on or so many bytes after them, and the memory around it."""
    size = np.dtype(dtype).itemsize * rows * n
    raw = np.full(size + 3 * LINE, 0xFF, np.uint8)
    start = -raw.ctypes.data % LINE + LINE + misaligned
    return raw[start : start + size].view(dtype).reshape(rows, n), raw


def bytes_around(array, raw):
    """What stands before and after the array."""
    start = array.ctypes.data - raw.ctypes.data
    return np.concatenate([raw[:start], raw[start + array.nbytes :]])


def results(verbs, dy, x, stats, weight, misaligned):
    """What each verb writes, by its name."""
    rows, n = x.shape
    per_row, along = (stats.reshape(-1), 1, False), (weight, 0, True)
    none = (weight, 0, False)  # one weight for all
    out = {}

    def run(name, call):
        out[name], raw = memory(rows, n, x.dtype, misaligned)
        call(out[name])
        assert (bytes_around(out[name], raw) == 0xFF).all(), name

    def work():
        return np.zeros(2 * n, weight.dtype)

    def scratch():
        return np.empty(rows, weight.dtype)

    scalars = {"mean": per_row, "rstd": per_row, "c1": per_row, "c2": per_row}
    for form, w in (("one", none), ("along", along)):
        run(f"apply {form}", lambda y: verbs.apply(x, y, per_row, per_row, per_row, None, w, w))  # noqa: B023
        run(f"combine {form}", lambda dx: verbs.combine(dy, x, None, dx, **scalars, weight=w))  # noqa: B023
        run(f"normalize {form}", lambda y: verbs.normalize_rows(
            x, y, 1, 1e-5, -1.0, True, True, scratch(), scratch(), w, w))  # noqa: B023  # fmt: skip
    run("apply columns", lambda y: verbs.apply(x, y, along, along, along, None, along, along))
    run("combine columns", lambda dx: verbs.combine(
        dy, x, None, dx, **dict.fromkeys(scalars, along)))  # fmt: skip
    run("combine_cols", lambda dx: verbs.combine_cols(dy, x, dx, work(), **scalars, weight=along))
    run("combine_dots", lambda dx: verbs.combine_dots(
        dy, x, dx, np.empty((3, rows)), **dict.fromkeys(scalars, along), weight=per_row))  # fmt: skip
    run("adjoint", lambda dx: verbs.adjoint_rows(
        dy, x, dx, 1, True, np.empty((3, rows)), stats, stats, none))  # fmt: skip
    sums = work()
    run("adjoint columns", lambda dx: verbs.adjoint_rows(
        dy, x, dx, 1, True, np.empty((3, rows)), stats, stats, along, sums))  # fmt: skip
    out["sums of columns"] = sums
    run("adjoint fresh", lambda dx: verbs.adjoint_rows(
        dy, x, dx, 1, False, scratch(), None, None, none))  # fmt: skip
    return out


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("misaligned", [0, 16, 32, 2])
def test_every_verb(tier, kind, misaligned, rng):
    if misaligned % np.dtype(kind.storage).itemsize:
        pytest.skip("arrays are aligned to their elements")
    plain, past = kind.verbs(tier), kind.verbs(tier)
    shapes = [(rows, n) for rows in (1, 4, 11) for n in (ROW, 4 * ROW, ROW + 8, ROW + 12, 8, 5)]
    # from memory, in larger tiles: rows of which a small one has three, or one
    for past.past, of in (1, shapes), (2, [*shapes, (11, 5120), (7, 12288)]):
        for rows, n in of:
            dy, x = make_values(rng, (rows, n), kind), make_values(rng, (rows, n), kind)
            stats = (1 + rng.random(rows)).astype(kind.compute)
            weight = rng.standard_normal(n).astype(kind.compute)
            expected = results(plain, dy, x, stats, weight, misaligned)
            actual = results(past, dy, x, stats, weight, misaligned)
            for name, right in expected.items():
                assert_same_bits(actual[name], right, f"{name} of {rows} x {n}")


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_layout(layout, rng):
    """The pool's results begin at a cache line, NumPy's elsewhere: those go past the caches in pieces."""
    rows = (*layout.shape[:-1], 16 * layout.shape[-1])  # of whole lines
    layout = layout.of_shape((rows[0] * -(-LEAST // (4 * int(np.prod(rows)))), *rows[1:]))
    x, dy = values(rng, layout.shape, np.float32), values(rng, layout.shape, np.float32)
    weight, bias = (values(rng, layout.param_shape(), np.float32) for _ in range(2))

    def everything():
        y, stats = layout.forward(fastnorm, x, weight, bias, return_stats=True)
        return y, *layout.backward(fastnorm, dy, x, stats, weight)

    fastnorm.set_pool_bytes(0)
    expected = everything()
    fastnorm.set_pool_bytes(None)
    for threads in (1, 2):
        with fastnorm.num_threads(threads):
            actual = everything()
        for what, a, e in zip(("y", "dx", "dweight", "dbias"), actual, expected, strict=False):
            if e is not None:
                assert_same_bits(a, e, f"{what} on {threads} threads")
