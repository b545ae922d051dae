"""Short rows, taken four at a time: bit by bit what a row gives by itself, the shortest through a mask."""

import numpy as np
import pytest
from kernels import (
    KINDS,
    LAYOUTS,
    TIERS,
    Param,
    assert_all_same_bits,
    finish,
    make_values,
    place,
    results,
    views,
)

pytestmark = [
    pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name),
    pytest.mark.parametrize("tier", TIERS),
]

COUNTS = (1, 2, 3, 4, 5, 7, 8, 11)  # rows: some and no fours, and all that may be left of them
MOMENTS = ("count", "mean", "comp", "m2")


def rows_of(rng, count, n, kind):
    """Rows of all sorts: near 0, far from it, constant, and one that is not finite."""
    x = make_values(rng, (count, n), kind, *[(0, 1), (100, 1), (-3, 1e-3)][n % 3])
    x[count // 2] = x[count // 2, 0]
    if count > 3:
        x[-2, n // 2] = kind.narrow([np.nan, np.inf, -np.inf][n % 3])
    return x


def moments(verbs, x, mask, centre, layout):
    """x and mask: (cells, 1, n)."""
    inputs, out = place(layout, x, mask), results(4, len(x))
    verbs.moments_rows(*views(inputs), centre, out.view)
    finish("moments_rows", inputs, out)
    return out.view


@pytest.mark.parametrize("centre", [True, False], ids=["around the mean", "around 0"])
def test_moments_of_short_rows(tier, kind, centre, rng):
    verbs = kind.verbs(tier)
    for n in range(1, 2 * kind.lanes + (not centre)):  # as far as a mask of ones takes the same way
        count, layout = COUNTS[n % len(COUNTS)], LAYOUTS[n % len(LAYOUTS)]
        x = rows_of(rng, count, n, kind)[:, None]
        alone = [moments(verbs, row, np.ones(row.shape, bool), centre, LAYOUTS[0]) for row in x[:, None]]
        among = moments(verbs, x, None, centre, layout)
        assert_all_same_bits(among, np.concatenate(alone, axis=1), MOMENTS, f"{count} x {n}")


def mislead(row, kind):
    """Moves the elements that the kernels sample, a quarter from either end, away from the others."""
    low = len(row) // (4 * kind.lanes) * kind.lanes
    high = len(row) // kind.lanes * kind.lanes - kind.lanes - low
    for start in (low, high):
        row[start : start + kind.lanes] = kind.narrow(kind.widen(row[start : start + kind.lanes]) + 50)


@pytest.mark.parametrize("centre", [True, False], ids=["around the mean", "around 0"])
def test_moments_of_longer_rows(tier, kind, centre, rng):
    verbs = kind.verbs(tier)
    lengths = [
        *range(2 * kind.lanes, 17 * kind.lanes, kind.lanes // 2 + 3),
        40 * kind.lanes + 7,
        128 * kind.lanes,
    ]
    for i, n in enumerate(lengths):  # to the end of a block
        count, layout = COUNTS[i % len(COUNTS)], LAYOUTS[i % len(LAYOUTS)]
        x = rows_of(rng, count, n, kind)
        mislead(x[0], kind)
        x = x[:, None]
        alone = [moments(verbs, row, None, centre, LAYOUTS[0]) for row in x[:, None]]
        among = moments(verbs, x, None, centre, layout)
        assert_all_same_bits(among, np.concatenate(alone, axis=1), MOMENTS, f"{count} x {n}")


@pytest.mark.parametrize("weight", ["absent", "by row", "along", "both"])
def test_dots_of_short_rows(tier, kind, weight, rng):
    verbs = kind.verbs(tier)
    for n in range(1, 2 * kind.lanes + 1):  # as far as a mask of ones takes the same way
        count, layout = COUNTS[n % len(COUNTS)], LAYOUTS[n % len(LAYOUTS)]
        x, dy = rows_of(rng, count, n, kind), rows_of(rng, count, n, kind)[::-1]
        params = {name: Param(rng, "by row", x.shape, kind, 0.5, 0.7) for name in ("mean", "rstd")}
        params |= {"weight": Param(rng, weight, x.shape, kind, 1.0, 1.0)}
        arguments = {name: param.argument for name, param in params.items()}

        def dots(mask, layout, dy=dy, x=x, arguments=arguments):
            inputs, out = place(layout, dy, x, mask), results(3, len(x))
            verbs.dots_rows(*views(inputs), out.view, **arguments)
            finish("dots_rows", inputs, out)
            return out.view

        alone = dots(np.ones(x.shape, bool), LAYOUTS[0])
        assert_all_same_bits(dots(None, layout), alone, ("g", "gx", "x"), f"{count} x {n}")
