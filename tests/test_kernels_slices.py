"""The verbs that do all of a row at once, or column sums on the way: bit by bit what they consist of."""

import numpy as np
import pytest
from kernels import (
    KINDS,
    LARGE,
    MANY,
    TIERS,
    WIDE,
    Memory,
    Param,
    assert_same_bits,
    assert_within,
    cases,
    finish,
    make_values,
    place,
    results,
    shapes,
    views,
    work_array,
)

pytestmark = [
    pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name),
    pytest.mark.parametrize("tier", TIERS),
]

WEIGHTS = ("absent", "one", "by row", "along")


def normalized(verbs, x, per, layout, centre, scale, weight, bias):
    """slices done, y, mean, rstd."""
    inputs, slices = place(layout, x), len(x) // per
    y = Memory(x.shape, x.dtype, layout)
    mean, rstd = (work_array(verbs, slices) for _ in range(2))
    done = verbs.normalize_rows(
        inputs[0].view, y.view, per, 1e-5, -1.0, centre, scale, mean.view, rstd.view,
        weight.argument, bias.argument,
    )  # fmt: skip
    finish("normalize_rows", [*inputs, weight.memory, bias.memory], y, mean, rstd)
    return done, y.view, mean.view, rstd.view


def by_row(of_slices, per):
    """An argument: each slice's value for all of its rows."""
    return np.repeat(of_slices, per), 1, False


def step_by_step(verbs, x, per, centre, scale, weight, bias):
    """The same by moments_rows, finalize and apply."""
    slices = len(x) // per
    moments = results(4, slices)
    tiles = Memory.holding(x.reshape(slices, per, -1))
    verbs.moments_rows(tiles.view, None, centre, moments.view)
    stats = [work_array(verbs, slices) for _ in range(3)]
    verbs.finalize(moments.view, 1e-5, -1.0, scale, *views(stats))
    mean, comp, rstd = (by_row(stat.view, per) for stat in stats)
    y = Memory(x.shape, x.dtype)
    verbs.apply(x, y.view, mean, comp, rstd, None, weight.argument, bias.argument)
    return y.view, (moments.view[1] + moments.view[2]).astype(stats[0].view.dtype), stats[2].view


def test_normalize_rows(tier, kind, rng):
    verbs = kind.verbs(tier)
    for i, (slices, per, n, layout, mean) in enumerate(shapes()):
        x = make_values(rng, (slices * per, n), kind, mean)
        which = (2, 2) if (slices, per, n) in LARGE else (i, i // 4)
        weight, bias = (Param(rng, WEIGHTS[k % 4], x.shape, kind, 1.0) for k in which)
        centre, scale = i % 5 > 0, i % 7 > 0
        done, *actual = normalized(verbs, x, per, layout, centre, scale, weight, bias)
        assert done == slices
        expected = step_by_step(verbs, x, per, centre, scale, weight, bias)
        for a, e, what in zip(actual, expected, ("y", "mean", "rstd"), strict=True):
            assert_same_bits(a, e, f"{what} of {slices} x {per} x {n}")


def test_normalize_rows_of_which_some_means_leave_a_remainder(tier, kind, rng):
    verbs = kind.verbs(tier)
    for n in (2048 // kind.narrow(0.0).nbytes, 4096 // kind.narrow(0.0).nbytes - 5):
        j = np.arange(n)
        none = kind.narrow(np.where(j < n // 2 * 2, 1.0 - 2.0 * (j % 2), 0.0))
        for which in range(16):
            remainder = (which >> np.arange(4) & 1).astype(bool).reshape(4, 1)
            x = np.where(remainder, make_values(rng, (4, n), kind, 1000.1), none)
            if which == 15:  # a guess of the mean that is far off, for which these elements stand
                for at in (n // 4, n - n // 4):
                    x[2, at - 64 : at + 64] = kind.narrow(1300.0)
            weight, bias = (Param(rng, "along", x.shape, kind, 1.0) for _ in range(2))
            done, *actual = normalized(verbs, x, 1, next(cases())[2], True, True, weight, bias)
            assert done == 4
            expected = step_by_step(verbs, x, 1, True, True, weight, bias)
            for a, e, what in zip(actual, expected, ("y", "mean", "rstd"), strict=True):
                assert_same_bits(a, e, f"{what} of rows of {n}")


def test_normalize_rows_stops_before_what_is_beyond(tier, kind, rng):
    verbs, absent = kind.verbs(tier), Param(rng, "absent", (1, 1), kind)
    for slices, per, n in (
        (1, 1, 7),
        (9, 1, 100),
        (9, 1, 300),
        (9, 1, 1000),
        (100, 1, 33),
        (6, 1, 4096),
        (30, 5, 7),
    ):
        reach = max(4, 16384 // (per * n * kind.narrow(0.0).nbytes))  # slices that are settled together
        for at in {0, slices // 3, slices // 2, slices - 1}:
            x = make_values(rng, (slices * per, n), kind)
            x[at * per + per // 2, n // 2] = kind.narrow(np.nan)
            done, *actual = normalized(verbs, x, per, next(cases())[2], True, True, absent, absent)
            assert at - reach < done <= at
            expected = step_by_step(verbs, x, per, True, True, absent, absent)
            for a, e, what, rows in zip(actual, expected, ("y", "mean", "rstd"), (per, 1, 1), strict=True):
                assert_same_bits(a[: done * rows], e[: done * rows], f"{what} before {at} of {slices}")


def test_combine_cols(tier, kind, rng):
    verbs = kind.verbs(tier)
    for i, (rows, _, n, layout, mean) in enumerate(shapes()):
        if rows > 130:
            continue
        dy, x = make_values(rng, (rows, n), kind), make_values(rng, (rows, n), kind, mean)
        centred = i % 5 > 0
        forms = {
            name: "by row" if centred or name in ("rstd", "c2") else "absent"
            for name in ("mean", "rstd", "c1", "c2")
        }
        params = {
            name: Param(rng, form, x.shape, kind, mean * (name == "mean"), 0.3)
            for name, form in forms.items()
        }
        params["weight"] = Param(rng, ("absent", "one", "along")[i % 3], x.shape, kind, 1.0)
        shift = Param.of((i % 2 * centred * 1e-3 * rng.standard_normal((rows, 1))).astype(kind.compute))
        inputs, dx, work = place(layout, dy, x), Memory(x.shape, x.dtype, layout), work_array(verbs, 2 * n)
        before = rng.standard_normal((2, n)).astype(kind.compute)
        work.view[...] = before.ravel()
        arguments = {name: param.argument for name, param in params.items()}
        verbs.combine_cols(*views(inputs), dx.view, work.view, shift=shift.argument, **arguments)
        finish("combine_cols", inputs, dx, work)
        alone = Memory(x.shape, x.dtype)
        verbs.combine(dy, x, None, alone.view, **arguments)
        assert_same_bits(dx.view, alone.view, f"dx of {rows} x {n}")

        g = kind.widen(dy)
        xhat = (kind.widen(x) - params["mean"].or_(kind.compute(0))) * params["rstd"].values - shift.values
        terms = np.stack([g, g * xhat]).astype(WIDE)
        bound = (rows + 1) * kind.unit * (np.abs(terms).sum(axis=1) + np.abs(before))
        assert_within(work.view.reshape(2, n), before + terms.sum(axis=1), bound, f"sums of {rows} x {n}")

        finished = [Memory((n,), kind.compute) for _ in range(2)]
        assert verbs.finish_cols(work.view, *views(finished)) == 0
        finish("finish_cols", [], *finished)
        for i, of in enumerate(finished):
            assert_same_bits(of.view, work.view.reshape(2, n)[i], "finished")
        not_finite = work.view.copy()
        not_finite[rng.integers(2 * n)] = rng.choice([np.nan, np.inf, -np.inf])
        assert verbs.finish_cols(not_finite) == 1

        out, sums = results(3, n), work.view.reshape(2, n).astype(np.float64)
        out.view[:2] = 1.5
        verbs.carry_cols(work.view, out.view)
        finish("carry_cols", [], out, work)
        assert_same_bits(out.view[:2], 1.5 + sums, "carried")
        assert not work.view.any()


def test_combine_dots(tier, kind, rng):
    # dx as combine has it, and the sums as dots_rows has them, bit by bit
    verbs = kind.verbs(tier)
    for i, (rows, _, n, layout, mean) in enumerate(shapes()):
        if rows > 130 or n * kind.compute(0).itemsize > 16384:
            continue
        dy, x = make_values(rng, (rows, n), kind), make_values(rng, (rows, n), kind, mean)
        if i % 4 == 0:
            dy[rng.integers(rows), rng.integers(n)] = kind.narrow(np.array(rng.choice([np.inf, np.nan])))
        params = {
            name: Param(rng, "along", x.shape, kind, mean * (name == "mean"), 0.3)
            for name in ("mean", "rstd", "c1", "c2")
        }
        weight = Param(rng, ("absent", "one", "by row")[i % 3], x.shape, kind, 1.0)
        shift = Param(rng, ("absent", "along")[i % 2], x.shape, kind, 0.0, 1e-3)
        inputs, dx, out = place(layout, dy, x), Memory(x.shape, x.dtype, layout), results(3, rows)
        arguments = {name: param.argument for name, param in params.items()}
        verbs.combine_dots(
            *views(inputs), dx.view, out.view, shift=shift.argument, weight=weight.argument, **arguments
        )
        finish("combine_dots", inputs, dx, out)
        alone, sums = Memory(x.shape, x.dtype), results(3, rows)
        verbs.combine(dy, x, None, alone.view, weight=weight.argument, **arguments)
        assert_same_bits(dx.view, alone.view, f"dx of {rows} x {n}")
        dots = {name: arguments[name] for name in ("mean", "rstd")}
        verbs.dots_rows(dy, x, None, sums.view, shift=shift.argument, **dots)
        assert_same_bits(out.view[:2], sums.view[:2], f"sums of {rows} x {n}")


def test_carried_columns_that_share_a_parameter(tier, kind, rng):
    verbs, baseline = kind.verbs(tier), kind.verbs("baseline")
    for fold, cells in ((2, 3), (3, 5), (7, 1), (16, 8), (49, 2)):
        sums, results_of = rng.standard_normal((2, cells, fold)).astype(kind.compute), []
        for v in (verbs, baseline):
            work, out = work_array(v, sums.size), results(3, cells)
            work.view[...], out.view[:2] = sums.ravel(), 1.5
            v.carry_cols(work.view, out.view, fold)
            finish("carry_cols", [], out, work)
            assert not work.view.any()
            results_of.append(out.view[:2])
        assert_same_bits(*results_of, f"{cells} x {fold}")
        expected = 1.5 + sums.astype(WIDE).sum(axis=2)
        assert_within(results_of[0], expected, fold * 2.0**-50, f"{cells} x {fold}")


def scalars_of(sums, weight, slices, per, n, centre):
    """c1, c2 of each slice and the moved sums of its rows, in double as the kernel has them."""
    g, gx, x = (np.nan_to_num(s.reshape(slices, per)) for s in sums)
    w = np.ones((slices, per)) if weight is None else weight.astype(np.float64).reshape(slices, per)
    share, total = 1 / (float(per) * float(n)), np.zeros((3, slices))
    for r in range(per):  # in the kernel's order
        total += [w[:, r] * g[:, r], w[:, r] * gx[:, r], x[:, r]]
    shift = total[2] * share if centre else np.zeros(slices)
    c2 = (total[1] - shift * total[0]) * share
    c1 = total[0] * share - shift * c2 if centre else np.zeros(slices)
    return c1, c2, (gx - shift[:, None] * g).ravel()


def test_adjoint_rows(tier, kind, rng):
    verbs = kind.verbs(tier)
    for i, (slices, per, n, layout, mean) in enumerate(shapes()):
        shape = rows, _ = slices * per, n
        dy, x = make_values(rng, shape, kind), make_values(rng, shape, kind, mean)
        centre = i % 5 > 0
        fresh = not centre and i % 2 == 0 and (per > 1 or WEIGHTS[i % 4] == "along")
        weight = Param(rng, WEIGHTS[i % 4], shape, kind, 1.0)
        of_rows = np.broadcast_to(weight.values[:, :1], (rows, 1)) if i % 4 in (1, 2) else None
        with_sums = i % 2 == 0 and WEIGHTS[i % 4] != "by row" and per == 1
        work = work_array(verbs, 2 * n)
        work.view[...] = 0
        means = (mean + 0.3 * rng.standard_normal(slices)).astype(kind.compute) if centre else None
        rstds = (1 + 0.1 * rng.random(slices)).astype(kind.compute)
        inputs, dx, sums = place(layout, dy, x), Memory(shape, x.dtype, layout), results(3, rows)
        done = verbs.adjoint_rows(
            *views(inputs), dx.view, per, centre, sums.view, means, None if fresh else rstds,
            weight.argument, work.view if with_sums else None,
        )  # fmt: skip
        assert done == slices
        finish("adjoint_rows", inputs, dx, sums, work)

        # the sums, the scalars, the result, one after the other
        if fresh:
            moments, stats = results(4, slices), [work_array(verbs, slices) for _ in range(3)]
            verbs.moments_rows(x.reshape(slices, per, n), None, False, moments.view)
            verbs.finalize(moments.view, 0.0, -1.0, True, *views(stats))
            rstds = stats[2].view
        arguments = {"mean": by_row(means, per) if centre else None, "rstd": by_row(rstds, per)}
        alone, expected = results(3, rows), Memory(shape, x.dtype)
        weighed = weight.argument if weight.argument and weight.argument[2] else None
        verbs.dots_rows(dy, x, None, alone.view, **arguments, weight=weighed)
        c1, c2, moved = scalars_of(alone.view, of_rows, slices, per, n, centre)
        scalars = {"c1": by_row(c1.astype(kind.compute), per) if centre else None}
        scalars["c2"] = by_row(c2.astype(kind.compute), per)
        verbs.combine(dy, x, None, expected.view, **arguments, **scalars, weight=weight.argument)
        assert_same_bits(dx.view, expected.view, f"dx of {slices} x {per} x {n}")
        if not fresh:
            assert_same_bits(sums.view[0], alone.view[0], "g")
        assert_same_bits(sums.view[1], moved, "gx")
        if with_sums:
            g = kind.widen(dy).astype(WIDE)
            assert_within(
                work.view[:n], g.sum(axis=0), rows * kind.unit * np.abs(g).sum(axis=0), "column sums"
            )


def test_adjoint_rows_with_sums_of_columns_alone(tier, kind, rng):
    verbs = kind.verbs(tier)
    for i, (rows, n, mean) in enumerate(
        [*MANY, (2, 520, 0.1), (4, 129, 0.1), (7, 2050, 0.1), (1, 700, 0)] * 2
    ):
        layout, centre = next(cases())[2], i % 2 > 0
        dy, x = make_values(rng, (rows, n), kind), make_values(rng, (rows, n), kind, mean)
        far = np.arange(rows) == (rows // 2 if i % 3 == 0 else rows)  # what becomes of it is not looked at
        dy[far, n // 3] = kind.narrow(np.inf)
        if i % 3 == 1 and kind.name in ("f32", "bf16"):  # a sum leaves the range on the way, and comes back
            most = float(np.finfo(kind.compute).max) / 2
            dy[0] = kind.narrow(np.where(np.arange(n) < n // 2, most, -most))
        weight = Param(rng, "along", x.shape, kind, 1.0)
        means = (mean + 0.3 * rng.standard_normal(rows)).astype(kind.compute) if centre else None
        rstds = (1 + 0.1 * rng.random(rows)).astype(kind.compute)
        inputs, dx, work = place(layout, dy, x), Memory(x.shape, x.dtype, layout), work_array(verbs, 2 * n)
        work.view[...] = 0
        done = verbs.adjoint_rows(
            *views(inputs), dx.view, 1, centre, None, means, rstds, weight.argument, work.view
        )
        assert done == rows
        finish("adjoint_rows", [*inputs, weight.memory], dx, work)

        arguments = {"mean": by_row(means, 1) if centre else None, "rstd": by_row(rstds, 1)}
        sums, expected, columns = results(3, rows), Memory(x.shape, x.dtype), work_array(verbs, 2 * n)
        columns.view[...] = 0
        verbs.dots_rows(dy, x, None, sums.view, **arguments, weight=weight.argument)
        with np.errstate(all="ignore"):
            c1, c2, _ = scalars_of(sums.view, None, rows, 1, n, centre)
            c1, c2, shift = (a.astype(kind.compute) for a in (c1, c2, sums.view[2] * (1 / n)))
        scalars = {"c2": by_row(c2, 1)}
        if centre:
            scalars |= {"c1": by_row(c1, 1), "shift": by_row(shift, 1)}
        verbs.combine_cols(dy, x, expected.view, columns.view, **arguments, **scalars, weight=weight.argument)
        assert_same_bits(dx.view[~far], expected.view[~far], f"dx of {rows} x {n}")
        beside = np.arange(n) != n // 3
        for k in range(not centre, 2):
            sums_of, sums_expected = (a.view[k * n : (k + 1) * n][beside] for a in (work, columns))
            assert_same_bits(sums_of, sums_expected, f"sums {k} of {rows} x {n}")
