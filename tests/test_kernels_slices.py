"""The verbs that do all of a row at once, or column sums on the way: bit by bit what they consist of."""

import numpy as np
import pytest
from kernels import (
    KINDS,
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
    views,
    work_array,
)

pytestmark = [
    pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name),
    pytest.mark.parametrize("tier", TIERS),
]

WEIGHTS = ("absent", "one", "by row", "along")
MANY = [
    (150, 5, 0),
    (70, 33, 0),
    (9, 1000, 0.3),
    (5, 4097, 0),
    (130, 64, 40.0),
]  # rows of more tiles than one


def shapes(each=1):
    """(rows, n, layout, mean of x in deviations)."""
    yield from ((rows, n, layout, (0, 0.1, 3)[n % 3]) for rows, n, layout in cases(each=each))
    yield from ((rows, n, next(cases())[2], mean) for rows, n, mean in MANY)


def normalized(verbs, x, layout, centre, scale, weight, bias, eps=1e-5, least=-1.0):
    """rows done, y, mean, rstd."""
    inputs = place(layout, x)
    y = Memory(x.shape, x.dtype, layout)
    mean, rstd = (work_array(verbs, len(x)) for _ in range(2))
    done = verbs.normalize_rows(
        inputs[0].view,
        y.view,
        eps,
        least,
        centre,
        scale,
        mean.view,
        rstd.view,
        weight.argument,
        bias.argument,
    )
    finish("normalize_rows", [*inputs, weight.memory, bias.memory], y, mean, rstd)
    return done, y.view, mean.view, rstd.view


def step_by_step(verbs, x, centre, scale, weight, bias, eps=1e-5):
    """The same by moments_rows, finalize and apply."""
    moments = results(4, len(x))
    verbs.moments_rows(Memory.holding(x[:, None]).view, None, centre, moments.view)
    mean, comp, rstd = (work_array(verbs, len(x)) for _ in range(3))
    verbs.finalize(moments.view, eps, -1.0, scale, mean.view, comp.view, rstd.view)
    by_row = {name: (m.view, 1, False) for name, m in (("mean", mean), ("comp", comp), ("rstd", rstd))}
    y = Memory(x.shape, x.dtype)
    verbs.apply(Memory.holding(x).view, y.view, **by_row, weight=weight.argument, bias=bias.argument)
    kept = (moments.view[1] + moments.view[2]).astype(mean.view.dtype)
    return y.view, kept, rstd.view


def test_normalize_rows(tier, kind, rng):
    verbs = kind.verbs(tier)
    for i, (rows, n, layout, mean) in enumerate(shapes()):
        x = make_values(rng, (rows, n), kind, mean)
        weight, bias = (Param(rng, WEIGHTS[k % 4], x.shape, kind, 1.0) for k in (i, i // 4))
        centre, scale = i % 5 > 0, i % 7 > 0
        done, *actual = normalized(verbs, x, layout, centre, scale, weight, bias)
        assert done == rows
        expected = step_by_step(verbs, x, centre, scale, weight, bias)
        for a, e, what in zip(actual, expected, ("y", "mean", "rstd"), strict=True):
            assert_same_bits(a, e, f"{what} of {rows} x {n}")


def test_normalize_rows_stops_before_what_is_beyond(tier, kind, rng):
    verbs, absent = kind.verbs(tier), Param(rng, "absent", (1, 1), kind)
    for rows, n in ((1, 7), (9, 100), (100, 33), (6, 4096)):
        for at in {0, rows // 2, rows - 1}:
            x = make_values(rng, (rows, n), kind)
            x[at, n // 2] = kind.narrow(np.nan)
            done, y, mean, rstd = normalized(verbs, x, next(cases())[2], True, True, absent, absent)
            assert done <= at
            expected = step_by_step(verbs, x, True, True, absent, absent)
            for a, e, what in zip((y, mean, rstd), expected, ("y", "mean", "rstd"), strict=True):
                assert_same_bits(a[:done], e[:done], f"{what} before row {at} of {rows}")


def statistics(rng, rows, mean, kind):
    return {
        "mean": Param.of((mean + 0.3 * rng.standard_normal((rows, 1))).astype(kind.compute)),
        "rstd": Param.of((1 + 0.1 * rng.random((rows, 1))).astype(kind.compute)),
    }


def test_combine_cols(tier, kind, rng):
    verbs = kind.verbs(tier)
    for i, (rows, n, layout, mean) in enumerate(shapes()):
        if rows > 130:
            continue
        dy, x = make_values(rng, (rows, n), kind), make_values(rng, (rows, n), kind, mean)
        params = statistics(rng, rows, mean, kind)
        params |= {name: Param(rng, "by row", x.shape, kind, 0.0, 0.1) for name in ("c1", "c2")}
        params["weight"] = Param(rng, ("absent", "one", "along")[i % 3], x.shape, kind, 1.0)
        shift = Param.of((i % 2 * 1e-3 * rng.standard_normal((rows, 1))).astype(kind.compute))
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
        xhat = (kind.widen(x) - params["mean"].values) * params["rstd"].values - shift.values
        terms = np.stack([g, g * xhat]).astype(WIDE)
        bound = (rows + 1) * kind.unit * (np.abs(terms).sum(axis=1) + np.abs(before))
        assert_within(work.view.reshape(2, n), before + terms.sum(axis=1), bound, f"sums of {rows} x {n}")

        out, sums = results(3, n), work.view.reshape(2, n).astype(np.float64)
        out.view[:2] = 1.5
        verbs.carry_cols(work.view, out.view)
        finish("carry_cols", [], out, work)
        assert_same_bits(out.view[:2], 1.5 + sums, "carried")
        assert not work.view.any()


def test_adjoint_rows(tier, kind, rng):
    verbs = kind.verbs(tier)
    for i, (rows, n, layout, mean) in enumerate(shapes()):
        dy, x = make_values(rng, (rows, n), kind), make_values(rng, (rows, n), kind, mean)
        params = statistics(rng, rows, mean, kind)
        centre = i % 5 > 0
        if not centre:
            params["mean"] = Param(rng, "absent", x.shape, kind)
        weight = Param(rng, WEIGHTS[i % 4], x.shape, kind, 1.0)
        with_sums = i % 2 == 0 and WEIGHTS[i % 4] != "by row"
        work = work_array(verbs, 2 * n)
        work.view[...] = 0
        inputs, dx, sums = place(layout, dy, x), Memory(x.shape, x.dtype, layout), results(3, rows)
        arguments = {name: param.argument for name, param in params.items()}
        verbs.adjoint_rows(
            *views(inputs), dx.view, centre, sums.view, **arguments, weight=weight.argument,
            work=work.view if with_sums else None,
        )  # fmt: skip
        finish("adjoint_rows", inputs, dx, sums, work)

        # sums, scalars, result, one after the other
        by_row = weight.values is not None and not weight.argument[2]
        alone = results(3, rows)
        verbs.dots_rows(dy, x, None, alone.view, **arguments, weight=None if by_row else weight.argument)
        g, gx, sum_x = alone.view
        w = np.broadcast_to(weight.values[:, 0] if by_row else 1.0, rows).astype(np.float64) * (1 / n)
        shift = sum_x * (1 / n) if centre else np.zeros(rows)
        moved = gx - shift * g
        c2 = w * moved
        c1 = w * g - shift * c2 if centre else np.zeros(rows)
        scalars = {
            name: Param.of(c[:, None].astype(kind.compute)).argument for name, c in (("c1", c1), ("c2", c2))
        }
        expected = Memory(x.shape, x.dtype)
        verbs.combine(dy, x, None, expected.view, **arguments, **scalars, weight=weight.argument)
        assert_same_bits(dx.view, expected.view, f"dx of {rows} x {n}")
        assert_same_bits(sums.view[0], g, "g")
        assert_same_bits(sums.view[1], moved, "gx")
        if with_sums:
            assert_within(
                work.view[:n], kind.widen(dy).astype(WIDE).sum(axis=0),
                rows * kind.unit * np.abs(kind.widen(dy)).sum(axis=0), "column sums",
            )  # fmt: skip
