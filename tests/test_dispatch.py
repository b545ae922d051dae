"""Which tier runs: the best one, unless FASTNORM_ISA names another."""

import os
from pathlib import Path

import numpy as np
import pytest
from interpreter import output_of, run

import fastnorm
from fastnorm import _norm

TIERS = fastnorm.isa_tiers()

# what meson.build compiles each tier for; a processor that says it has all of it must get the tier
FLAGS = {
    "baseline": set(),
    "avx2": {"avx2", "f16c", "bmi2"},
    "avx512": {"avx512f", "avx512bw", "avx512vl", "avx512dq", "f16c", "bmi2"},
    "avx512bf16": {"avx512f", "avx512bw", "avx512vl", "avx512dq", "f16c", "bmi2", "avx512_bf16"},
}


@pytest.fixture
def restored():
    """The tier in use before the test is in use again after it."""
    before = fastnorm.isa()
    yield
    _norm.set_isa(before)


def test_tiers_are_named_worst_first():
    assert TIERS[0] == "baseline"
    assert [name for name in FLAGS if name in TIERS] == TIERS


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs /proc/cpuinfo")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the tiers beyond the baseline are x86-64's")
def test_every_tier_that_the_processor_can_run():
    flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    assert [name for name, needed in FLAGS.items() if needed <= set(flags)] == TIERS


def test_the_best_is_chosen_at_import():
    for nothing in (None, ""):
        assert output_of("import fastnorm; print(fastnorm.isa())", FASTNORM_ISA=nothing) == TIERS[-1]


@pytest.mark.parametrize("tier", TIERS)
def test_the_environment_forces_a_tier(tier):
    code = "import fastnorm; print(fastnorm.isa(), fastnorm.isa_tiers()); fastnorm.show_config()"
    lines = output_of(code, FASTNORM_ISA=tier).splitlines()
    assert lines[0] == f"{tier} {TIERS}"
    assert any(line.endswith(f"in use: {tier} (FASTNORM_ISA is set)") for line in lines)


@pytest.mark.parametrize("name", ["sse9", "AVX2", "avx512 "])
def test_an_unknown_tier_is_an_import_error(name):
    done = run("import fastnorm", FASTNORM_ISA=name)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith(f"ImportError: FASTNORM_ISA: isa is {name!r}, needs one of {', '.join(TIERS)}")


def test_set_isa(restored):
    for tier in TIERS:
        _norm.set_isa(tier)
        assert fastnorm.isa() == tier
    with pytest.raises(ValueError, match=f"isa is 'mmx', needs one of {', '.join(TIERS)}"):
        _norm.set_isa("mmx")
    assert fastnorm.isa() == TIERS[-1]
    with pytest.raises(ValueError, match="name is 'mmx'"):
        _norm.tier_capsule("mmx")


@pytest.mark.skipif(len(TIERS) < 2, reason="there is one tier only")
def test_another_tier_is_other_code():
    # a tier that were the baseline under another name would pass every other test
    from fastnorm import _verbs

    for code, name in enumerate(("f32", "f64", "f16", "bf16")):
        # avx512bf16 differs from avx512 in that dtype alone
        tiers = [tier for tier in TIERS if name == "bf16" or tier != "avx512bf16"]
        verbs = [_verbs.Verbs(_norm.tier_capsule(tier), code) for tier in tiers]
        assert [v.name for v in verbs] == [name] * len(tiers)
        assert len({v.address for v in verbs}) == len(tiers)


def test_every_tier_gives_the_same_result(restored, rng):
    x = rng.standard_normal((33, 77)).astype(np.float32)
    results = []
    for tier in TIERS:
        _norm.set_isa(tier)
        results.append(fastnorm.layer_norm(x).tobytes())
    assert len(set(results)) == 1
