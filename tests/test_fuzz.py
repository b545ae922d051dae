"""The fuzzer's corpus once more, and some hundred new cases; `python -m tests.fuzz` draws more of them."""

import json
from pathlib import Path

import pytest
from fuzz_cases import FUNCTIONS, draw
from fuzz_checks import check
from fuzz_errors import check_errors

CORPUS = [json.loads(line) for line in (Path(__file__).parent / "fuzz_corpus.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("index", range(len(CORPUS)), ids=lambda i: f"{i}-{CORPUS[i]['function']}")
def test_corpus(index):
    check(CORPUS[index])


def test_the_corpus_has_every_function():
    assert {case["function"] for case in CORPUS} == set(FUNCTIONS)


@pytest.mark.parametrize("seed", range(0, 240, 20))
def test_new_cases(seed):
    for i in range(seed, seed + 20):
        check(draw(i))


@pytest.mark.parametrize("seed", range(1000, 1060, 20))
def test_errors_of_cases(seed):
    assert sum(check_errors(draw(i)) for i in range(seed, seed + 20)) > 200
