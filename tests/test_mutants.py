"""The seeded defects still fit the kernels; `python -m tests.mutants` builds each and sees some test fail."""

import mutants
import pytest


@pytest.mark.skipif(not (mutants.ROOT / "src").is_dir(), reason="the sources are not here")
@pytest.mark.parametrize("name", mutants.MUTANTS)
def test_what_a_mutant_replaces_is_there_once(name):
    file, text, instead = mutants.MUTANTS[name]
    assert (mutants.ROOT / file).read_text().count(text) == 1
    assert text != instead
