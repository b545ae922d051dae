"""Plans and their blocks: every element once, in the right slice, and no axis more than needed."""

from itertools import pairwise
from math import prod

import numpy as np
import pytest
from fastnorm._verbs import OPERANDS, cut, plan
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import arrangements

FLOAT = np.dtype(np.float32)


def stat_strides(shape, reduced):
    """Statistics lie in C order over the kept axes, counted in elements."""
    strides, step = [], 1
    for i in reversed(range(len(shape))):
        strides.append(0 if i in reduced or shape[i] == 1 else step)
        step *= 1 if i in reduced else shape[i]
    return strides[::-1]


def axes_of(x, reduced, **others):
    """The axes of x for `plan`; `others`: arrays of x's shape or broadcast to it, by operand."""
    others = {"x": x} | others
    strides = {name: a.strides for name, a in others.items()} | {"stat": stat_strides(x.shape, reduced)}
    axes = []
    for i, n in enumerate(x.shape):
        axes.append((n, i in reduced, {name: strides[name][i] for name in strides if n > 1}))
    return axes


def offsets(axes, operand, start=0):
    """The offsets of an operand over these axes, the last one fastest."""
    total = np.array([start])
    for length, _, strides in axes:
        total = np.add.outer(total, np.arange(length) * strides.get(operand, 0)).ravel()
    return total


def check_plan(axes, size):
    """Every element is visited once, with what belongs to it of every operand; returns the plan."""
    p = plan(axes, size)
    slices = [*p["kept"], p["inner"]] if p["cols"] else p["kept"]
    inside = [*p["reduced"], p["fold"]] if p["cols"] else [*p["reduced"], p["inner"]]
    assert not any(reduced for _, reduced, _ in slices)
    assert all(reduced for _, reduced, _ in inside)
    assert p["regions"] == prod(n for n, _, _ in p["kept"])
    assert p["rows"] == prod(n for n, _, _ in p["reduced"])
    assert p["n"] == p["inner"][0] * p["fold"][0]
    assert p["count"] == prod(n for n, reduced, _ in axes if reduced)
    assert p["cols"] or p["fold"][0] == 1

    visited = [offsets([*slices, *inside], name, p["offset"].get(name, 0)) for name in OPERANDS]
    expected = [offsets(axes, name) for name in OPERANDS]
    assert sorted(zip(*visited, strict=True)) == sorted(zip(*expected, strict=True))
    # a slice is one index of the statistics
    stat = visited[OPERANDS.index("stat")].reshape(-1, p["count"])
    assert (stat == stat[:, :1]).all()
    assert sorted(stat[:, 0]) == list(range(len(stat)))
    return p


def merges(outer, inner):
    return all(outer[2].get(name, 0) == inner[2].get(name, 0) * inner[0] for name in OPERANDS)


def check_nothing_left_to_merge(p):
    axes = [*p["kept"], *p["reduced"], p["inner"]]
    if p["fold"][0] > 1:
        axes.append(p["fold"])
    if len(axes) > 1:
        assert all(length > 1 for length, _, _ in axes)
    if all(strides.get("x") for _, _, strides in axes):
        axes.sort(key=lambda axis: -axis[2]["x"])
        for outer, inner in pairwise(axes):
            assert outer[1] != inner[1] or not merges(outer, inner), (outer, inner)


@st.composite
def walks(draw):
    """Axes of an array and of what goes with it, in any order and strides."""
    ndim = draw(st.integers(1, 5))
    shape, room = [], 800
    for _ in range(ndim):
        shape.append(draw(st.sampled_from([n for n in (1, 2, 3, 4, 7, 8, 13, 64) if n <= room])))
        room //= shape[-1]
    shape = tuple(draw(st.permutations(shape)))
    reduced = draw(st.sets(st.integers(0, ndim - 1), min_size=1))
    plain = np.zeros(shape, np.float32)
    x = draw(arrangements(ndim)).of(plain)
    repeated = [draw(st.integers(0, 9)) == 0 for _ in shape]
    x = np.broadcast_to(x[tuple(slice(0, 1) if r else slice(None) for r in repeated)], shape)
    others = {"y": draw(st.sampled_from([np.empty_like(x), np.empty(shape, np.float32)]))}
    if draw(st.booleans()):
        others["mask"] = draw(arrangements(ndim)).of(plain.astype(bool))
    if draw(st.booleans()):
        varies = [draw(st.booleans()) for _ in shape]
        weight = np.zeros([n if v else 1 for n, v in zip(shape, varies, strict=True)], np.float32)
        others["weight"] = np.broadcast_to(weight, shape)
        gradient = np.broadcast_to(weight.astype(np.int8), shape)  # strides in elements
        others["dweight"] = gradient
    return axes_of(x, reduced, **others)


@given(walks())
@example([(1, True, {})])
@example([(3, False, {"x": -4, "y": 4, "stat": 1})])
def test_every_element_once_in_its_slice(axes):
    check_nothing_left_to_merge(check_plan(axes, FLOAT.itemsize))


# ---- standard layouts --------------------------------------------------------------------------------------

N, C, H, W, G = 9, 12, 14, 15, 3
NCHW, NHWC = np.empty((N, C, H, W), np.float32), np.empty((N, H, W, C), np.float32)


def along(x, *axes):
    """A parameter of x's shape along these axes, broadcast to x."""
    a = np.empty([x.shape[i] if i in axes else 1 for i in range(x.ndim)], np.float32)
    return np.broadcast_to(a, x.shape)


GROUPS_FIRST = NCHW.reshape(N, G, C // G, H, W)
GROUPS_LAST = NHWC.reshape(N, H, W, G, C // G)
PIXELS = np.empty((N, C, 3, 2), np.float32)
SEVENS = np.empty((70, C, 7, 7), np.float32)
GROUPS_OF_FOUR = np.empty((2, 3, 2, 4), np.float32)  # (N, S, G, C / G)
SEQUENCE = np.empty((7, 5, 64), np.float32)

# x, reduced, the axes of a weight; columns?, inner, fold, kept and reduced lengths
STANDARD = {
    "layer (B, T, H)": (SEQUENCE, {2}, None, False, 64, 1, [35], []),
    "layer (B, T, H), weight": (SEQUENCE, {2}, (2,), False, 64, 1, [35], []),
    "layer, two axes": (SEQUENCE, {1, 2}, (1, 2), False, 320, 1, [7], []),
    "layer, all axes": (SEQUENCE, {0, 1, 2}, None, False, 2240, 1, [], []),
    "layer, first axis": (SEQUENCE, {0}, (0,), True, 320, 1, [], [7]),
    "layer, middle axis": (SEQUENCE, {1}, None, True, 64, 1, [7], [5]),
    "layer, outer axes": (SEQUENCE, {0, 2}, None, False, 64, 1, [5], [7]),
    "layer, Fortran order": (SEQUENCE.T, {2}, (2,), True, 64, 1, [5], [7]),  # statistics are in C order
    "batch (N, C)": (np.empty((20, 10), np.float32), {0}, (1,), True, 10, 1, [], [20]),
    "batch NCHW": (NCHW, {0, 2, 3}, (1,), False, H * W, 1, [C], [N]),
    "batch NCHW, few pixels": (PIXELS, {0, 2, 3}, (1,), True, C, 6, [], [N]),
    "batch NCHW, 7 x 7": (SEVENS[:15], {0, 2, 3}, (1,), False, 49, 1, [C], [15]),
    "batch NCHW, 7 x 7, many samples": (SEVENS[:32], {0, 2, 3}, (1,), True, C, 49, [], [32]),
    "batch NCHW, few pixels and samples": (PIXELS[:7], {0, 2, 3}, (1,), False, 6, 1, [C], [7]),
    "batch NHWC": (NHWC, {0, 1, 2}, (3,), True, C, 1, [], [N * H * W]),
    "batch, channels-last view": (NHWC.transpose(0, 3, 1, 2), {0, 2, 3}, (1,), True, C, 1, [], [N * H * W]),
    "instance NCHW": (NCHW, {2, 3}, None, False, H * W, 1, [N * C], []),
    "instance NCHW, weight": (NCHW, {2, 3}, (1,), False, H * W, 1, [N, C], []),
    "instance NHWC, weight": (NHWC, {1, 2}, (3,), True, C, 1, [N], [H * W]),
    "group NCHW": (GROUPS_FIRST, {2, 3, 4}, None, False, C // G * H * W, 1, [N * G], []),
    "group NCHW, weight": (GROUPS_FIRST, {2, 3, 4}, (1, 2), False, H * W, 1, [N, G], [C // G]),
    "group NHWC, weight": (GROUPS_LAST, {1, 2, 4}, (3, 4), True, G, C // G, [N], [H * W]),
    "group NHWC, weight, few channels": (GROUPS_OF_FOUR, {1, 3}, (2, 3), True, 2, 4, [2], [3]),
    "weight norm": (NCHW, {1, 2, 3}, (0,), False, C * H * W, 1, [N], []),
    "padded rows": (np.empty((7, 5, 80), np.float32)[..., :64], {2}, (2,), False, 64, 1, [35], []),
    "one element": (np.empty((1, 1), np.float32), {0}, (1,), False, 1, 1, [], []),
}


@pytest.mark.parametrize("name", STANDARD)
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
def test_standard_layouts(name, backwards):
    x, reduced, params, cols, inner, fold, kept, rest = STANDARD[name]
    others = {} if params is None else {"weight": along(x, *params)}
    y = np.empty_like(x)
    if backwards:  # the results of a reversed view lie forwards: nothing merges but what both sides allow
        x = x[(slice(None, None, -1),) * x.ndim]
        y = y[(slice(None, None, -1),) * x.ndim]
        others = {key: a[(slice(None, None, -1),) * x.ndim] for key, a in others.items()}
    axes = axes_of(x, reduced, y=y, **others)
    if backwards:
        axes = [(n, r, strides | {"stat": -strides.get("stat", 0)}) for n, r, strides in axes]
        p = plan(axes, FLOAT.itemsize)
        start = sum((n - 1) * strides.get("x", 0) for n, _, strides in axes)
        assert p["offset"].get("x", 0) == start, "the lowest address"
    else:
        p = check_plan(axes, FLOAT.itemsize)
    lengths = p["inner"][0], p["fold"][0], [n for n, _, _ in p["kept"]], [n for n, _, _ in p["reduced"]]
    assert (p["cols"], *lengths) == (cols, inner, fold, kept, rest)


@pytest.mark.parametrize(("size", "forward", "backward"), [(5, 8, 8), (7, 16, 32), (8, 65, 32)])
def test_the_longer_the_rows_the_more_of_them_fold(size, forward, backward):
    for least, with_dy in ((forward, False), (backward, True)):
        for rows in (least - 1, least):
            x = np.empty((rows, C, size, size), np.float32)
            axes = axes_of(x, {0, 2, 3}, dy=x) if with_dy else axes_of(x, {0, 2, 3})
            assert plan(axes, FLOAT.itemsize)["cols"] == (rows == least)


def test_the_most_dimensions():
    shape = (2,) * 5 + (1,) * 54 + (3,) * 5
    axes = axes_of(np.empty(shape, np.float32), {63, 0})
    check_plan([*axes, (1, True, {})], FLOAT.itemsize)


# ---- blocks ------------------------------------------------------------------------------------------------

BLOCK_BYTES, BLOCK_ROWS = 16384, 128  # norm.h: what one accumulation may span
LONG_ROW = 131072  # job.c: of slices that are taken whole
# adjoining rows of so few bytes are taken several as a wide one
NARROW_BYTES, RAGGED_BYTES, WIDE_BYTES = 128, 255, 512


def elements_of(block):
    """Where the block's elements of x stand."""
    _, _, runs, rows, width, start, run_step, row_step, column_step = block
    steps = ((runs, run_step), (rows, row_step), (width, column_step))
    of_run, of_row, of_column = (np.arange(count) * step for count, step in steps)
    return (start + np.add.outer(np.add.outer(of_run, of_row), of_column)).ravel()


def check_blocks(x, reduced, compute_size, backward):
    axes = axes_of(x, reduced)
    c = cut(axes, x.itemsize, compute_size, backward)
    visited = np.concatenate([elements_of(block) for block in c["blocks"]])
    np.testing.assert_array_equal(np.sort(visited), np.sort(offsets(axes, "x")))
    cols = plan(axes, x.itemsize)["cols"]
    for _, chunk, runs, rows, width, _, _, row_step, column_step in c["blocks"]:
        assert 0 <= chunk < c["chunks"]
        row_bytes = width * compute_size
        assert runs == 1 or cols
        if cols:
            adjoin = column_step != x.itemsize or row_step == width * x.itemsize  # columns apart are copied
            narrow = adjoin and row_bytes <= (RAGGED_BYTES if row_bytes % 64 else NARROW_BYTES)
            in_one = WIDE_BYTES // row_bytes if narrow else 1
            assert runs * rows <= BLOCK_ROWS * (in_one if runs == 1 else min(in_one, rows))
        elif c["whole_rows"]:  # of slices; the verbs cut a row that is longer than one accumulation may span
            assert row_bytes <= LONG_ROW
        else:
            assert row_bytes * rows <= BLOCK_BYTES + 128
    return c


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("shape", "reduced"),
    [((3, 20_000), {1}), ((20_000, 3), {0}), ((2, 9_001, 3), {1}), ((3, 5, 4_097), {0, 2}),
     ((1000, 70), {1}), ((150, 2100), {0}), ((9, 3, 7, 11), {0, 2, 3}), ((3, 50, 40, 12), {1, 3}),
     ((5, 4_096), {1}), ((40_000,), {0}), ((3, 129, 17), {1}), ((65, 2, 64, 64), {0, 2, 3}),
     ((150, 3, 6, 40), {0, 2}), ((9, 3, 5, 2, 7, 50), {0, 2, 4}), ((20, 3, 60, 7), {0, 2})],
)  # fmt: skip
@pytest.mark.parametrize(("size", "compute"), [(4, 4), (8, 8), (2, 4)])
def test_blocks_of_large_arrays(shape, reduced, size, compute, backward):
    x = np.empty(shape, f"u{size}")
    check_blocks(x, reduced, compute, backward)
    wide = np.empty((*shape[:-1], 2 * shape[-1]), x.dtype)
    check_blocks(wide[..., : shape[-1]], reduced, compute, backward)  # rows that do not adjoin
    check_blocks(wide[..., ::2], reduced, compute, backward)


@given(walks(), st.sampled_from([(4, 4), (8, 8), (2, 4)]), st.booleans())
def test_blocks_visit_every_element_once(axes, sizes, backward):
    c = cut(axes, *sizes, backward)
    visited = [element for block in c["blocks"] for element in elements_of(block)]
    assert sorted(visited) == sorted(offsets(axes, "x"))


def test_work_is_shared():
    # a large array is cut into as many pieces as threads could want, whatever its layout
    for shape, reduced in [((1, 10**6), {1}), ((10**6, 1), {0}), ((10**5, 10), {0}), ((10**5, 10), {1})]:
        c = cut(axes_of(np.empty(shape, np.float32), reduced), 4, 4)
        assert c["units"] * c["chunks"] >= 16, shape
