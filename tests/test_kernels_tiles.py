"""The verbs that write tiles, apply and combine, bit by bit: NumPy rounds each operation as they do. And
those on statistics, finalize and merge.
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
    Memory,
    Param,
    assert_all_same_bits,
    assert_same_bits,
    assert_within,
    column_cases,
    finish,
    make_mask,
    place,
    views,
    work_array,
)

pytestmark = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
each_tier = pytest.mark.parametrize("tier", TIERS)

SPECIAL = [np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-7, 6e4, 2.0**-133, 2.0**-1074]


def with_specials(rng, shape, kind):
    """Normal numbers, among them zeros of both signs, denormals, infinity and NaN."""
    values = rng.standard_normal(shape)
    return kind.narrow(np.where(rng.random(shape) < 0.1, rng.choice(SPECIAL, shape), values))


def make_params(rng, names, form, shape, kind):
    """Statistics: all along the row, or each one in a way of its own."""
    forms = [form] * len(names) if form == "along" else rng.choice(["absent", "one", "by row"], len(names))
    return {name: Param(rng, f, shape, kind, 0.5) for name, f in zip(names, forms, strict=True)}


def call(verbs, name, inputs, params, layout, in_place=None):
    """The result of one call. Inputs: (x,) or (dy, x, mask); `in_place`: which of them is the output too."""
    memories = place(layout, *inputs)
    arguments = {key: param.argument for key, param in params.items()}
    if in_place is None:
        out = Memory(inputs[0].shape, inputs[0].dtype, layout)
    else:
        out = memories[in_place] = Memory(inputs[0].shape, inputs[0].dtype, layout)
        out.view[...] = inputs[in_place]
    getattr(verbs, name)(*views(memories), out.view, **arguments)
    unwritten = [m for m in memories if m is not out] + [param.memory for param in params.values()]
    finish(name, unwritten, out)
    return out.view


@each_tier
def test_apply(tier, kind, rng):
    verbs, one, zero = kind.verbs(tier), kind.compute(1), kind.compute(0)
    forms = list(product(("along", "by row"), (False, True), Param.FORMS, Param.FORMS))
    for i, (rows, n, layout, _) in enumerate(column_cases(each=4)):
        statistics, prescaled, weight, bias = forms[i % len(forms)]
        x = with_specials(rng, (rows, n), kind)
        params = make_params(rng, ("mean", "comp", "rstd"), statistics, x.shape, kind)
        if prescaled:
            params["prescale"] = Param.of(
                np.ldexp(one, rng.integers(-99, 99, (1, n) if statistics == "along" else (rows, 1))),
                statistics == "along",
            )
        params |= {
            name: Param(rng, form, x.shape, kind) for name, form in (("weight", weight), ("bias", bias))
        }
        actual = call(verbs, "apply", (x,), params, layout, in_place=None if i % 3 else 0)
        with np.errstate(all="ignore"):
            v = kind.widen(x) * (params["prescale"].values if prescaled else one)
            v = ((v - params["mean"].or_(zero)) - params["comp"].or_(zero)) * params["rstd"].or_(one)
            v = v * params["weight"].or_(one) + params["bias"].or_(-zero)
        assert v.dtype == kind.compute
        assert_same_bits(actual, kind.narrow(v), f"apply, {rows} x {n}, {forms[i % len(forms)]}")


@each_tier
def test_combine(tier, kind, rng):
    verbs, one, zero = kind.verbs(tier), kind.compute(1), kind.compute(0)
    forms = list(product(("along", "by row"), Param.FORMS, (True, False, False)))
    for i, (rows, n, layout, _) in enumerate(column_cases(each=4)):
        statistics, weight, has_mask = forms[i % len(forms)]
        dy, x = with_specials(rng, (rows, n), kind), with_specials(rng, (rows, n), kind)
        x = None if i % 7 == 0 else x
        mask = make_mask(rng, dy.shape) if has_mask else None
        params = make_params(rng, ("mean", "rstd", "c1", "c2"), statistics, dy.shape, kind)
        params["weight"] = Param(rng, weight, dy.shape, kind)
        in_place = [None, 0, None if x is None else 1][i % 3]
        actual = call(verbs, "combine", (dy, x, mask), params, layout, in_place)
        with np.errstate(all="ignore"):
            rstd, taken = params["rstd"].or_(one), params["c1"].or_(-zero)
            if x is not None:
                taken = taken + ((kind.widen(x) - params["mean"].or_(zero)) * rstd) * params["c2"].or_(zero)
            taken = taken if mask is None else np.where(mask, taken, zero)
            dx = (kind.widen(dy) * params["weight"].or_(one) - taken) * rstd
        assert dx.dtype == kind.compute
        assert_same_bits(actual, kind.narrow(dx), f"combine, {rows} x {n}, {forms[i % len(forms)]}")


@each_tier
def test_apply_to_several_tiles(tier, kind, rng):
    verbs = kind.verbs(tier)
    for i, (runs, rows, n) in enumerate(SEVERAL_TILES):
        x, layout = with_specials(rng, (runs, rows, n), kind), LAYOUTS[i % len(LAYOUTS)]
        params = make_params(rng, ("mean", "comp", "rstd"), "along", x.shape[1:], kind)
        for name in ("weight", "bias"):
            params[name] = Param(rng, ("absent", "one", "along")[i % 3], x.shape[1:], kind)
        actual = call(verbs, "apply", (x,), params, layout, in_place=None if i % 3 else 0)
        for k in range(runs):
            expected = call(verbs, "apply", (x[k],), params, LAYOUTS[0])
            assert_same_bits(actual[k], expected, f"apply, run {k} of {runs} x {rows} x {n}")


@each_tier
def test_combine_of_several_tiles(tier, kind, rng):
    verbs = kind.verbs(tier)
    for i, (runs, rows, n) in enumerate(SEVERAL_TILES):
        dy, x = with_specials(rng, (runs, rows, n), kind), with_specials(rng, (runs, rows, n), kind)
        x, layout = None if i % 5 == 0 else x, LAYOUTS[i % len(LAYOUTS)]
        params = make_params(rng, ("mean", "rstd", "c1", "c2"), "along", dy.shape[1:], kind)
        params["weight"] = Param(rng, ("absent", "one", "along")[i % 3], dy.shape[1:], kind)
        actual = call(verbs, "combine", (dy, x, None), params, layout, in_place=(None, 0)[i % 2])
        for k in range(runs):
            inputs = dy[k], None if x is None else x[k], None
            expected = call(verbs, "combine", inputs, params, LAYOUTS[0])
            assert_same_bits(actual[k], expected, f"combine, run {k} of {runs} x {rows} x {n}")


# ---- statistics --------------------------------------------------------------------------------------------


def finalize(verbs, moments, eps, least, scale):
    """Whether something is beyond the fast path, and mean, comp, rstd."""
    inputs = Memory.holding(np.array(moments, np.float64))
    out = [work_array(verbs, inputs.view.shape[1]) for _ in range(3)]
    beyond = verbs.finalize(inputs.view, eps, least, scale, *views(out))
    finish("finalize", [inputs], *out)
    return beyond, views(out)


def make_moments(rng, n):
    count = rng.integers(1, 1000, n).astype(float)
    mean = rng.standard_normal(n) * 10.0 ** rng.integers(-3, 6, n)
    comp = np.spacing(np.abs(mean)) * rng.uniform(-0.5, 0.5, n)
    return np.array([count, mean, comp, count * rng.chisquare(3, n) * 10.0 ** rng.integers(-6, 6, n)])


@each_tier
def test_finalize(tier, kind, rng):
    for n in (1, 2, 3, 7, 8, 9, 31, 64, 65):
        for eps, scale in product((1e-5, 0.0), (True, False)):
            count, mean, comp, m2 = moments = make_moments(rng, n)
            beyond, (hi, lo, rstd) = finalize(kind.verbs(tier), moments, eps, 0.0, scale)
            assert not beyond
            assert_same_bits(hi, mean.astype(kind.compute), "mean")
            expected = 1 / np.sqrt(m2 / count + eps) if scale else np.ones(n)
            rest = (mean - hi) + comp
            rest[rest**2 < (kind.unit / 4) ** 2 * (m2 / count)] = 0  # less than half an ulp of a quarter
            assert_same_bits(lo, rest.astype(kind.compute), "comp")
            assert_same_bits(rstd, expected.astype(kind.compute), "rstd")


@each_tier
@pytest.mark.parametrize(
    ("m2", "eps", "least"),
    [(np.nan, 1e-5, -1), (np.inf, 1e-5, -1), (0, 0, 0), (0, 0, -1), (2.0**-101, 0, 2.0**-100),
     (1, 2.0**201, -1), (2.0**-203, 2.0**-203, -1)],
)  # fmt: skip
def test_finalize_tells_what_is_beyond_the_fast_path(tier, kind, m2, eps, least, rng):
    for n in (1, 5, 8, 17):
        moments = make_moments(rng, n)
        moments[:, :] = [[1], [0], [0], [1]]
        assert not finalize(kind.verbs(tier), moments, min(eps, 1), least, True)[0]
        for at in range(n):
            changed = moments.copy()
            changed[3, at] = m2
            assert finalize(kind.verbs(tier), changed, eps, least, True)[0], f"{at} of {n}"


@each_tier
def test_finalize_leaves_room_for_comp(tier, kind):
    # a mean whose remainder would be a denormal of A is for the slow path, unless the deviation hides it
    for exponent in (-90, -110, -1000):
        for var in (2.0**exponent, 2.0**-60):
            moments = np.array([[1.0], [2.0**exponent], [0.0], [var]])
            near = exponent < (-960 if kind.compute is np.float64 else -100)
            beyond = finalize(kind.verbs(tier), moments, 1.0, -1.0, True)[0]
            assert bool(beyond) is (near and var == 2.0**exponent)


def merge(verbs, into, other):
    result, other = Memory(into.shape, into.dtype), Memory.holding(other)
    result.view[...] = into
    verbs.merge(result.view, other.view)
    finish("merge", [other], result)
    return result.view


def make_merged(rng, n):
    """The same, and what earlier merges rounded away."""
    moments = make_moments(rng, n)
    return np.vstack([moments, np.spacing(moments[3]) * rng.uniform(-0.5, 0.5, n)])


@each_tier
def test_merge(tier, kind, rng):
    unit = 2.0**-53
    for n in (1, 2, 3, 7, 8, 9, 31, 64, 65):
        a, b = make_merged(rng, n), make_merged(rng, n)
        b[1, ::2] = a[1, ::2] * (1 + 1e-9 * rng.standard_normal(len(b[1, ::2])))  # means that nearly agree
        actual = merge(kind.verbs(tier), a, b)
        (na, ma, ca, qa, la), (nb, mb, cb, qb, lb) = a.astype(WIDE), b.astype(WIDE)
        delta = (mb - ma) + (cb - ca)
        assert_same_bits(actual[0], a[0] + b[0], "count")
        # the remainder carries what the mean alone loses: the error is a part of delta, not of the mean
        bound = 4 * unit * (np.abs(delta) + np.abs(ca) + np.abs(cb))
        moved = (actual[1] - ma) + (actual[2] - ca)
        assert_within(moved, delta * nb / (na + nb), bound, "the way from a's mean")
        between = delta**2 * na * nb / (na + nb)
        squares = qa + la + qb + lb + between
        rounded = np.where(qb + between < qa, qb, squares)  # to add the smaller to the larger costs nothing
        bound = 8 * unit * between + 4 * unit * rounded + 2.0**-61 * squares
        assert_within(actual[3].astype(WIDE) + actual[4], squares, bound, "m2 + low")
        assert_within(actual[3], squares, 8 * unit * between + 4 * unit * squares, "m2")
        expected = merge(kind.verbs("baseline"), a, b)
        assert_all_same_bits(actual, expected, ("count", "mean", "comp", "m2", "low"), f"{n}")


@each_tier
def test_merge_with_nothing(tier, kind, rng):
    verbs, some = kind.verbs(tier), make_merged(rng, 9)
    some[4] = 0
    nothing = np.zeros_like(some)
    assert_same_bits(merge(verbs, nothing, some), some, "nothing and some")
    assert_same_bits(merge(verbs, some, nothing), some, "some and nothing")
    assert_same_bits(merge(verbs, nothing, nothing), nothing, "nothing and nothing")


@each_tier
def test_merge_of_too_much(tier, kind, rng):
    verbs, a = kind.verbs(tier), make_merged(rng, 9)
    b = a.copy()
    a[3], b[3] = np.inf, [1, 0, np.inf, 1e308] * 2 + [3]
    merged = merge(verbs, a, b)
    assert (merged[3] == np.inf).all()
    assert (merged[4] == 0).all()
    a[3] = b[3] = 1e308
    assert (merge(verbs, a, b)[3] == np.inf).all()
