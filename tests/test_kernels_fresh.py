"""adjoint_rows of slices of one row whose statistics are not given, as in weight norm: dx and the gains."""

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
    finish,
    make_values,
    place,
    shapes,
    views,
)

pytestmark = [
    pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name),
    pytest.mark.parametrize("tier", TIERS),
]


def test_adjoint_rows_of_fresh_statistics(tier, kind, rng):
    # a slice of one row, without a mean: its squares and its products in one pass
    for i, (rows, _, n, layout, _) in enumerate(shapes()):
        dy, x = make_values(rng, (rows, n), kind), make_values(rng, (rows, n), kind)
        scale = 2.0 ** (i % 3 * 5 - 5) if kind.name != "f16" else 1.0
        x = kind.narrow(kind.widen(x) * scale)
        weight = Param(rng, ("absent", "by row", "one")[i % 3], x.shape, kind, 1.0)
        results_of = {}
        for name in {tier, "baseline"}:
            inputs, dx = place(layout, dy, x), Memory(x.shape, x.dtype, layout)
            gains = Memory((rows,), kind.compute)
            done = kind.verbs(name).adjoint_rows(
                *views(inputs), dx.view, 1, False, gains.view, None, None, weight.argument, None
            )
            assert done == rows
            finish("adjoint_rows", inputs, dx, gains)
            results_of[name] = dx.view, gains.view
        for a, e, what in zip(results_of[tier], results_of["baseline"], ("dx", "gains"), strict=True):
            assert_same_bits(a, e, f"{what} of {rows} x {n}")

        g, v = kind.widen(dy).astype(WIDE), kind.widen(x).astype(WIDE)
        rstd = 1 / np.sqrt((v * v).mean(axis=1, keepdims=True))
        terms, steps = g * v * rstd, -(-n // kind.lanes) + 16  # additions of a lane, its tree, a few products
        slack = steps * kind.unit * np.abs(terms).sum(axis=1)
        assert_within(results_of[tier][1], terms.sum(axis=1) / 0.75, slack / 0.75, f"gains of {rows} x {n}")
        w = np.broadcast_to(weight.or_(kind.compute(1)), x.shape).astype(WIDE)
        c2 = (w * terms).mean(axis=1, keepdims=True)
        expected = (g * w - v * rstd * c2) * rstd
        size = (np.abs(g * w) + np.abs(v * rstd) * np.abs(w * terms).mean(axis=1, keepdims=True)) * rstd
        least, most = (kind.widen(kind.narrow(expected + s * steps * kind.unit * size)) for s in (-1, 1))
        actual = kind.widen(results_of[tier][0])
        assert ((least <= actual) & (actual <= most)).all(), f"dx of {rows} x {n}"


def test_adjoint_rows_of_fresh_statistics_far_from_one(tier, kind, rng):
    # products that would lose digits before they are divided by the deviation are taken after it
    if kind.name not in ("f32", "f64"):
        return
    tiny = 2.0**-100 if kind.name == "f32" else 2.0**-1000
    for scale, factor in ((2.0**-40, tiny), (2.0**40, 1)):
        dy = kind.narrow(kind.widen(make_values(rng, (5, 300), kind)) * factor)
        x = kind.narrow(kind.widen(make_values(rng, (5, 300), kind)) * scale)
        dx, gains = Memory(x.shape, x.dtype), np.empty((2, 5), kind.compute)
        verbs = kind.verbs(tier)
        absent = Param(rng, "absent", x.shape, kind)
        assert verbs.adjoint_rows(dy, x, dx.view, 1, False, gains[0], None, None, absent.argument, None) == 5
        near = Memory(x.shape, x.dtype)
        y = kind.narrow(kind.widen(x) / scale)
        verbs.adjoint_rows(dy, y, near.view, 1, False, gains[1], None, None, absent.argument, None)
        size = np.abs(kind.widen(near.view)).max()
        assert_within(
            kind.widen(dx.view) * scale, kind.widen(near.view).astype(WIDE), 40 * kind.unit * size, "dx"
        )
        assert_within(gains[0], gains[1].astype(WIDE), 40 * kind.unit * np.abs(gains[1]).max(), "gains")


def test_adjoint_rows_of_fresh_statistics_ends_before_a_row_of_zeros(tier, kind, rng):
    rows, n = 19, 16  # whole vectors of rows on every tier, and some rows more
    dy, x = make_values(rng, (rows, n), kind), make_values(rng, (rows, n), kind)
    absent = Param(rng, "absent", x.shape, kind).argument
    for row in range(rows):
        dx, gains, with_zeros = Memory(x.shape, x.dtype), np.empty(rows, kind.compute), x.copy()
        with_zeros[row] = 0
        done = kind.verbs(tier).adjoint_rows(
            dy, with_zeros, dx.view, 1, False, gains, None, None, absent, None
        )
        assert done == row


def test_adjoint_rows_writes_gains_apart(tier, kind, rng):
    rows = 19
    dy, x = make_values(rng, (rows, 16), kind), make_values(rng, (rows, 16), kind)
    absent = Param(rng, "absent", x.shape, kind).argument
    together, apart = np.empty(rows, kind.compute), np.full(3 * rows, 7, kind.compute)
    for gains in (together, apart):
        dx = Memory(x.shape, x.dtype)
        assert (
            kind.verbs(tier).adjoint_rows(dy, x, dx.view, 1, False, gains, None, None, absent, None) == rows
        )
    np.testing.assert_array_equal(apart[::3], together)
    assert (apart[1::3] == 7).all()
    assert (apart[2::3] == 7).all()
