"""What the trainer reads: streams of symbols, padded sequences, learning rates."""

import doctest
import itertools

import numpy as np
import pytest

from fastnorm import batches, schedules
from fastnorm.batches import Batch, PaddedBatches, Streams, evaluation_streams
from fastnorm.errors import UserError


@pytest.mark.parametrize("module", [batches, schedules])
def test_examples(module):
    assert doctest.testmod(module).failed == 0


# Streams


@pytest.mark.parametrize("size", [100, 101, 126, 127, 128, 140])
def test_streams_read_on_and_predict_the_next(size):
    B, T = 3, 5
    streams = Streams(np.arange(size), B, T, np.random.default_rng(0))
    before = None
    for _ in range(60):
        batch = streams.next()
        assert batch.x.shape == batch.target.shape == (T, B)
        assert batch.count == T * B
        np.testing.assert_array_equal(batch.target, batch.x + 1)
        assert batch.fresh == (before is None or (batch.x[0] != before + 1).any())
        if batch.fresh:
            assert 0 <= batch.x[0, 0] < T
            assert len(np.unique(np.diff(batch.x[0]))) == 1
        before = batch.x[-1]


def test_streams_of_the_least_text():
    with pytest.raises(UserError, match="19 characters, and --batch 3 with --length 5 needs at least 20"):
        Streams(np.arange(19), 3, 5, np.random.default_rng(0))
    streams = Streams(np.arange(20), 3, 5, np.random.default_rng(0))
    for _ in range(50):
        assert streams.next().target.max() <= 19


@pytest.mark.parametrize("steps", [1, 7, 100])
@pytest.mark.parametrize(("size", "batch"), [(2, 64), (10, 3), (10, 9), (1000, 64), (65, 64), (66, 64)])
def test_every_held_out_symbol_but_the_first_is_predicted_once(size, batch, steps):
    pieces = evaluation_streams(np.arange(size), batch, steps)
    assert [piece.fresh for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert all(len(piece.x) <= steps for piece in pieces)
    targets = np.concatenate([piece.target[piece.mask] for piece in pieces])
    inputs = np.concatenate([piece.x[piece.mask] for piece in pieces])
    np.testing.assert_array_equal(np.sort(targets), np.arange(1, size))
    np.testing.assert_array_equal(targets, inputs + 1)


# Padded sequences


def sequences(rng, count=50, features=3):
    """Sequences that tell their number in every step."""
    return [np.full((n, features), float(i)) for i, n in enumerate(rng.integers(1, 30, count))]


def one_pass(source):
    return [source.next() for _ in range(len(source))]


@pytest.mark.parametrize("batch", [1, 7, 50, 64])
def test_a_pass_holds_every_sequence_once_padded_with_zeros(batch, rng):
    data = sequences(rng)
    source = PaddedBatches(data, np.arange(50), batch, rng=0)
    for _ in range(3):
        seen = []
        for each in one_pass(source):
            T, B, _ = each.x.shape
            assert each.x.dtype == np.float32
            assert each.lengths.max() == T
            assert each.count == B <= batch
            inside = np.arange(T)[:, None] < each.lengths
            np.testing.assert_array_equal(each.x, np.where(inside, each.target, 0)[..., None].repeat(3, 2))
            assert [len(data[i]) for i in each.target] == each.lengths.tolist()
            seen += each.target.tolist()
        assert sorted(seen) == list(range(50))


def test_sequences_of_similar_length_come_together(rng):
    data = sequences(rng, 500)

    def padding(**options):
        made = one_pass(PaddedBatches(data, np.arange(500), 10, rng=0, **options))
        return sum(each.x.shape[0] * each.x.shape[1] - each.lengths.sum() for each in made)

    assert padding(pool=16) < 0.2 * padding(pool=1)


def test_every_pass_has_its_own_order_and_the_seed_tells_it(rng):
    data = sequences(rng)

    def orders(seed):
        source = PaddedBatches(data, np.arange(50), 8, rng=seed)
        return [[each.target.tolist() for each in one_pass(source)] for _ in range(2)]

    first, second = orders(0)
    assert first != second
    assert orders(0) == [first, second]
    assert orders(1) != [first, second]
    still = PaddedBatches(data, np.arange(50), 8, shuffle=False)
    assert [i for each in one_pass(still) for i in each.target] == list(range(50))


@pytest.mark.parametrize("done", [0, 1, 6, 7, 9])
def test_padded_batches_go_on_where_they_were(done, rng):
    data = sequences(rng)
    source = PaddedBatches(data, np.arange(50), 8, rng=0)
    for _ in range(done):
        source.next()
    state = source.state_dict()
    expected = [source.next().target.tolist() for _ in range(20)]
    other = PaddedBatches(data, np.arange(50), 8, rng=5)
    other.load_state_dict(state)
    assert [other.next().target.tolist() for _ in range(20)] == expected


def test_targets_of_every_step_are_padded_and_masked():
    data = [np.array([3, 4]), np.array([5, 6, 7])]  # symbols
    targets = [np.ones((2, 2)), 2 * np.ones((3, 2))]
    batch = PaddedBatches(data, targets, 2, per_step=True, shuffle=False).next()
    assert batch.x.tolist() == [[3, 5], [4, 6], [0, 7]]
    assert batch.target[:, :, 0].tolist() == [[1, 2], [1, 2], [0, 2]]
    assert batch.mask.tolist() == [[True, True], [True, True], [False, True]]
    assert batch.count == 5


def test_an_evaluation_reads_all_in_any_number_of_passes(rng):
    source = PaddedBatches(sequences(rng), np.arange(50), 8, rng=0)
    for _ in range(2):
        assert sorted(i for each in source for i in each.target) == list(range(50))
    assert source.state_dict()["done"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], 2), "sequences is empty"),
        (([np.ones((2, 3))], [0], 0), "batch is 0"),
        (([np.ones((2, 3)), np.ones((2, 4))], [0, 1], 2), r"sequence 1 has shape \(2, 4\)"),
        (([np.ones((0, 3))], [0], 2), r"sequence 0 has shape \(0, 3\), and one step or more"),
        (([np.ones((2, 3))], [0, 1], 2), "2 targets for 1 sequences"),
        (([np.ones(3)], [0], 2), "need two axes"),
        (([np.ones((2, 3))] * 2, [[0], 1], 2), "target 1 has shape"),
    ],
)
def test_sequences_that_do_not_belong_together(arguments, message):
    with pytest.raises(ValueError, match=message):
        PaddedBatches(*arguments)


def test_a_batch_counts_its_targets():
    assert Batch(None, np.zeros((5, 4), int)).count == 20
    assert Batch(None, np.zeros((5, 4), int), mask=np.eye(5, 4, dtype=bool)).count == 4


# Learning rates


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_warm_up_rises_to_the_full_rate(name):
    schedule = schedules.SCHEDULES[name](100, warmup=10)
    rates = [schedule(step) for step in range(100)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    assert rates[10] == 1
    assert all(a >= b > 0 for a, b in itertools.pairwise(rates[9:]))
    assert (rates[-1] < 0.1) == (name != "constant")


def test_a_warm_up_without_an_end():
    for warmup in (-1, 100):
        with pytest.raises(ValueError, match=f"warmup is {warmup}, and needs to be at least 0 and less than"):
            schedules.linear(100, warmup=warmup)
