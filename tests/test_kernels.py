"""The verbs that reduce, moments and dots: against sums in wider arithmetic, and bit by bit between tiers.

A sum of k additions in A errs by at most k roundings of its absolute terms; no bound here is looser.
"""

from itertools import product

import numpy as np
import pytest
from kernels import (
    KINDS,
    LAYOUTS,
    SEVERAL_TILES,
    TIERS,
    WIDE,
    Param,
    assert_all_same_bits,
    assert_same_bits,
    assert_within,
    cases,
    column_cases,
    finish,
    hide,
    make_mask,
    make_values,
    place,
    results,
    row_cases,
    views,
    work_array,
)

pytestmark = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
each_tier = pytest.mark.parametrize("tier", TIERS)


def additions(rows, n, kind):
    """How many a term takes part in: its run of up to 17, the runs of its lane, the tree of the lanes."""
    steps = -(-n // kind.lanes)
    return min(steps, 17) + rows * -(-steps // 16) + rows + 5


def as_slices(x, mask, slices):
    return x.reshape(slices, -1), None if mask is None else mask.reshape(slices, -1)


# ---- moments -----------------------------------------------------------------------------------------------


def moments_rows(verbs, x, mask, centre, layout):
    """x and mask of shape (cells, rows, n); count, mean, comp and m2 of every cell."""
    inputs, out = place(layout, x, mask), results(4, len(x))
    verbs.moments_rows(*views(inputs), centre, out.view)
    finish("moments_rows", inputs, out)
    return out.view


def moments_cols(verbs, x, mask, centre, layout, fold=1):
    """x and mask of shape (rows, n), or x of several such tiles; count, mean, comp and m2 of each cell."""
    n = x.shape[-1]
    inputs, out, work = place(layout, x, mask), results(4, n), work_array(verbs, 4 * n)
    verbs.moments_cols(*views(inputs), centre, work.view, out.view, fold)
    finish("moments_cols", inputs, out, work)
    return out.view[:, : n // fold]


def check_moments(actual, x, mask, centre, steps, kind):
    """actual: four arrays of as many slices as x has along axis 0; x: (slices, elements), a mask as well."""
    count, mean, comp, m2 = actual
    inside = np.ones(x.shape, bool) if mask is None else mask
    x = np.where(inside, kind.widen(x), 0).astype(WIDE)
    expected = inside.sum(axis=1)
    assert (count == expected).all(), "count"
    n = np.maximum(expected, 1)
    true_mean = x.sum(axis=1) / n if centre else np.zeros(len(x), WIDE)
    if not centre:
        assert not mean.any()
        assert not comp.any()
    deviations = np.where(inside, x - true_mean[:, None], 0)
    # the provisional mean m is off by `off`: its own rounding, and that of the sum about the first element
    first = np.take_along_axis(x, np.argmax(inside, axis=1)[:, None], axis=1)
    spread = np.abs(np.where(inside, x - first, 0)).sum(axis=1) / n
    unit = kind.unit * (1 if centre else 0)
    off = 2 * unit * (np.abs(true_mean) + (steps + 2) * spread)
    allowed = (steps + 2) * unit * (np.abs(deviations).sum(axis=1) / n + off)
    allowed += 4 * np.finfo(WIDE).eps * np.abs(true_mean)  # the oracle's own
    assert_within(mean.astype(WIDE) + comp, true_mean, allowed, "mean + comp")
    assert (np.abs(comp) <= np.spacing(np.abs(mean))).all(), "comp is no remainder"
    squares = (deviations**2).sum(axis=1)
    assert_within(m2, squares, 2 * (steps + 4) * kind.unit * (squares + n * off**2), "m2")


MOMENTS = ("count", "mean", "comp", "m2")
VALUES = [(0, 1), (100, 1), (0, 1e-3), (-3e4, 1), (5e4, 0.05)]  # mean and deviation


@each_tier
def test_moments_of_rows(tier, kind, rng):
    verbs, baseline = kind.verbs(tier), kind.verbs("baseline")
    for i, (rows, n, layout, other) in enumerate(row_cases()):
        x = make_values(rng, ((1, 2, 5)[i % 3], rows, n), kind, *VALUES[i % 5])
        masks = None, make_mask(rng, x.shape)
        for mask, centre in product(masks, (True, False)):
            shown = x if mask is None else hide(x, mask, kind)
            actual = moments_rows(verbs, shown, mask, centre, layout)
            if tier == "baseline":
                steps = additions(rows, n, kind)
                check_moments(actual, *as_slices(shown, mask, len(x)), centre, steps, kind)
            else:
                expected = moments_rows(baseline, shown, mask, centre, other)
                assert_all_same_bits(actual, expected, MOMENTS, f"{rows} x {n}")


@each_tier
def test_moments_of_columns(tier, kind, rng):
    verbs, baseline = kind.verbs(tier), kind.verbs("baseline")
    for i, (rows, n, layout, other) in enumerate(column_cases()):
        x = make_values(rng, (rows, n), kind, *VALUES[i % 5])
        masks = None, make_mask(rng, x.shape)
        for mask, centre in product(masks, (True, False)):
            shown = x if mask is None else hide(x, mask, kind)
            actual = moments_cols(verbs, shown, mask, centre, layout)
            if tier == "baseline":
                check_moments(actual, shown.T, None if mask is None else mask.T, centre, rows, kind)
            else:
                expected = moments_cols(baseline, shown, mask, centre, other)
                assert_all_same_bits(actual, expected, MOMENTS, f"{rows} x {n}")


def as_cells(a, fold):
    """(rows, n) with `fold` columns after another to a cell -> (cells, elements)"""
    return None if a is None else a.reshape(len(a), -1, fold).transpose(1, 0, 2).reshape(-1, len(a) * fold)


@each_tier
def test_moments_of_several_columns(tier, kind, rng):
    verbs, baseline = kind.verbs(tier), kind.verbs("baseline")
    shapes = product((1, 2, 9, 40), ((2, 3), (3, 5), (7, 1), (16, 8), (49, 2)))
    for i, (rows, (fold, cells)) in enumerate(shapes):
        x = make_values(rng, (rows, fold * cells), kind, *VALUES[i % 5])
        layout, other = LAYOUTS[i % len(LAYOUTS)], LAYOUTS[0]
        masks = None, make_mask(rng, x.shape)
        for mask, centre in product(masks, (True, False)):
            shown, what = x if mask is None else hide(x, mask, kind), f"{rows} x {cells} x {fold}"
            actual = moments_cols(verbs, shown, mask, centre, layout, fold)
            if tier == "baseline":
                check_moments(actual, as_cells(shown, fold), as_cells(mask, fold), centre, rows * fold, kind)
            else:
                expected = moments_cols(baseline, shown, mask, centre, other, fold)
                assert_all_same_bits(actual, expected, MOMENTS, what)
        same = np.full_like(x, kind.narrow(1 / 3))
        _, mean, comp, m2 = moments_cols(verbs, same, None, True, layout, fold)
        assert np.all(mean == kind.widen(same[0, 0]))
        assert not np.any([comp, m2])


@each_tier
def test_moments_of_constants(tier, kind):
    # x - m is exactly 0, so nothing may be left over, whatever the number and however many
    verbs = kind.verbs(tier)
    for i, (rows, n, layout) in enumerate(cases(each=1)):
        value = kind.narrow([0.0, 1 / 3, -1e4 / 3, 6e4][i % 4])
        x = np.full((1, rows, n), value)
        for result, slices in (
            (moments_rows(verbs, x, None, True, layout), 1),
            (moments_cols(verbs, x[0], None, True, layout), n),
        ):
            expected = np.repeat(
                np.array([[rows * n // slices], [kind.widen(value)], [0], [0]], float), slices, 1
            )
            assert_all_same_bits(result, expected, MOMENTS, f"{rows} x {n}")


@each_tier
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_special_values_stay_in_their_slice(tier, kind, special, rng):
    verbs = kind.verbs(tier)
    for n in (1, 3, 16, 31, 32, 33, 70):
        x = make_values(rng, (3, 2, n), kind)
        for at in range(n):
            y = x.copy()
            y[1, at % 2, at] = kind.narrow(special)
            for centre in (True, False):
                plain, spoiled = (moments_rows(verbs, a, None, centre, LAYOUTS[0]) for a in (x, y))
                assert_all_same_bits(spoiled[:, ::2], plain[:, ::2], MOMENTS, "the other cells")
                assert np.isnan(spoiled[3, 1]) if centre or np.isnan(special) else spoiled[3, 1] == np.inf
                plain, spoiled = (moments_cols(verbs, a[1], None, centre, LAYOUTS[0]) for a in (x, y))
                others = np.arange(n) != at
                assert_all_same_bits(spoiled[:, others], plain[:, others], MOMENTS, "the other columns")
                assert np.isnan(spoiled[3, at]) if centre or np.isnan(special) else spoiled[3, at] == np.inf


# ---- dots --------------------------------------------------------------------------------------------------


def dots(verbs, columns, dy, x, mask, params, layout, before=None):
    """g, gx and x of every row or column; those of columns are added to `before`."""
    rows, n = dy.shape[-2:]
    inputs, out = place(layout, dy, x, mask), results(3, n if columns else rows)
    dy, x, mask = views(inputs)
    arguments = {name: param.argument for name, param in params.items()}
    inputs += [param.memory for param in params.values()]
    if columns:
        out.view[...] = before
        work = work_array(verbs, 3 * n)
        verbs.dots_cols(dy, x, mask, work.view, out.view, **arguments)
        finish("dots_cols", inputs, out, work)
    else:
        verbs.dots_rows(dy, x, mask, out.view, **arguments)
        finish("dots_rows", inputs, out)
    return out.view


def terms_of(dy, x, mask, params, kind):
    """g, g * (xhat - shift) and xhat of every element in A: exactly what the verbs add up."""
    with np.errstate(all="ignore"):
        g = kind.widen(dy) * params["weight"].or_(kind.compute(1))
        if x is None:
            xhat = moved = np.zeros_like(g)
        else:
            xhat = (kind.widen(x) - params["mean"].or_(kind.compute(0))) * params["rstd"].or_(kind.compute(1))
            moved = xhat - params["shift"].or_(kind.compute(0))
        terms = np.stack([g, g * moved, xhat])
    assert terms.dtype == kind.compute
    return terms if mask is None else np.where(mask, terms, 0)


def is_centred(params, shape, kind):
    """Whether the mean is 0, so that no rounding of it is to be corrected."""
    return np.broadcast_to(params["mean"].or_(kind.compute(0)) == 0, shape)


def make_params(rng, statistics, weight, shape, kind):
    """What goes with a call of dots; `statistics` and `weight` say along what each varies."""
    forms = {"mean": statistics, "rstd": statistics, "shift": rng.choice([statistics, "absent"])}
    params = {name: Param(rng, form, shape, kind, 0.5, 0.7) for name, form in forms.items()}
    return params | {"weight": Param(rng, weight, shape, kind, 1.0, 1.0)}


def check_dots(actual, before, terms, written, axis, steps, kind):
    terms = terms.astype(WIDE)
    total, size = terms.sum(axis=axis + 1), np.abs(terms).sum(axis=axis + 1)
    for i, name in enumerate(("g", "gx", "x")):
        if i in written:
            bound = steps * kind.unit * size[i] + 2.0**-52 * np.abs(before[i])
            assert_within(actual[i], before[i] + total[i], bound, name)
        else:
            assert_same_bits(actual[i], before[i], f"{name}, which is not to be written")


@each_tier
@pytest.mark.parametrize("columns", [False, True], ids=["rows", "columns"])
def test_dots(tier, columns, kind, rng):
    verbs, baseline = kind.verbs(tier), kind.verbs("baseline")
    forms = list(product(("one", "by row", "along"), Param.FORMS, (True, False)))
    axis = 0 if columns else 1
    tiles = column_cases if columns else row_cases
    for i, (rows, n, layout, other) in enumerate(tiles(each=4)):
        statistics, weight, has_mask = forms[i % len(forms)]
        has_x = i % 7 > 0
        dy, x = make_values(rng, (rows, n), kind), make_values(rng, (rows, n), kind, 0.3)
        mask = make_mask(rng, x.shape) if has_mask else None
        if has_mask:
            dy, x = hide(dy, mask, kind), hide(x, mask, kind)
        x = x if has_x else None
        params = make_params(rng, statistics, weight, (rows, n), kind)
        before = rng.standard_normal((3, n)) if columns else np.full((3, rows), results(1, 1).view)
        actual = dots(verbs, columns, dy, x, mask, params, layout, before)
        if tier == "baseline":
            # the sum of xhat is wanted where it tells something about the mean of that very sum
            written = {0, 1, 2} if has_x and (statistics == "along") == columns else {0, 1} if has_x else {0}
            steps = rows if columns else additions(1, n, kind)
            start = before if columns else np.where([[k in written] for k in range(3)], 0, before)
            terms = terms_of(dy, x, mask, params, kind)
            if 2 in written:
                terms[2][is_centred(params, dy.shape, kind)] = 0
            check_dots(actual, start, terms, written, axis, steps, kind)
        else:
            expected = dots(baseline, columns, dy, x, mask, params, other, before)
            assert_all_same_bits(actual, expected, ("g", "gx", "x"), f"{rows} x {n}")


@each_tier
def test_columns_of_several_tiles(tier, kind, rng):
    verbs, baseline = kind.verbs(tier), kind.verbs("baseline")
    for i, (runs, rows, n) in enumerate(SEVERAL_TILES):
        layout, what = LAYOUTS[i % len(LAYOUTS)], f"{runs} x {rows} x {n}"
        x, dy = (
            make_values(rng, (runs, rows, n), kind, *VALUES[i % 5]),
            make_values(rng, (runs, rows, n), kind),
        )
        x[-1] = kind.narrow(kind.widen(x[-1]) + 3)  # no tile tells another's mean
        for centre in (True, False):
            actual = moments_cols(verbs, x, None, centre, layout)
            check_moments(actual, x.reshape(-1, n).T, None, centre, runs * rows, kind)
            assert_all_same_bits(actual, moments_cols(baseline, x, None, centre, layout), MOMENTS, what)
        params = make_params(rng, "along", "one", (rows, n), kind)
        before = rng.standard_normal((3, n))
        actual = dots(verbs, True, dy, x, None, params, layout, before)
        terms = terms_of(dy.reshape(-1, n), x.reshape(-1, n), None, params, kind)
        check_dots(actual, before, terms, {0, 1, 2}, 0, runs * rows, kind)
        expected = dots(baseline, True, dy, x, None, params, layout, before)
        assert_all_same_bits(actual, expected, ("g", "gx", "x"), what)


@each_tier
def test_columns_of_several_tiles_that_leave_the_range_on_the_way(tier, kind):
    # but for float16 the first tile's sum is beyond the range of the compute dtype; that of all tiles is 8
    verbs = kind.verbs(tier)
    top = {"f32": 3e38, "f64": 1.5e308, "f16": 6e4, "bf16": 3e38}[kind.name]
    dy = np.repeat(kind.narrow(np.array([top, -top, 1.0])), 16).reshape(3, 8, 2)
    mean, one = (Param.of(np.full((1, 2), value, kind.compute), along=True) for value in (0, 1))
    x = kind.narrow(np.ones(dy.shape))
    g, gx, _ = dots(verbs, True, dy, x, None, {"mean": mean, "rstd": one}, LAYOUTS[0], np.zeros((3, 2)))
    assert (g == 8).all()
    assert (gx == 8).all()


@each_tier
def test_equal_terms_do_not_pile_up_rounding(tier, kind, rng):
    # equal terms round alike at every step: a running sum of k is off by about k / 4 units, short runs by few
    verbs, count = kind.verbs(tier), 300
    value = kind.narrow(1 + rng.random(count))
    exact = kind.widen(value).astype(WIDE)
    params = {name: Param.of(np.full((1, 1), v, kind.compute)) for name, v in (("mean", 0), ("rstd", 1))}
    params |= {name: Param(rng, "absent", (1, 1), kind) for name in ("shift", "weight")}
    for length in (512, 1024, 2048, 4096):
        rows = np.repeat(value[:, None], length, axis=1)
        g = dots(verbs, False, rows, rows, None, params, LAYOUTS[0])[0]
        assert_within(g, exact * length, 12 * kind.unit * exact * length, f"rows of {length}")
    columns = np.repeat(value[None], 128, axis=0)
    g = dots(verbs, True, columns, columns, None, params, LAYOUTS[0], np.zeros((3, count)))[0]
    assert_within(g, exact * 128, 12 * kind.unit * exact * 128, "columns")


@each_tier
def test_the_tail_adds_nothing(tier, kind):
    # the lanes beyond a row's end are no elements: 0 * inf must not arise there
    verbs = kind.verbs(tier)
    infinite = Param.of(np.full((1, 1), np.inf, kind.compute))
    for n in range(1, 70):
        dy, x = (kind.narrow(np.full((2, n), value)) for value in (2.0, 3.0))
        params = {"mean": Param.of(np.ones((1, 1), kind.compute)), "rstd": infinite}
        assert (dots(verbs, False, dy, x, None, params, LAYOUTS[0])[1:] == np.inf).all(), f"rstd, {n}"
        assert (dots(verbs, False, dy, None, None, {"weight": infinite}, LAYOUTS[0])[0] == np.inf).all(), (
            f"weight, {n}"
        )
