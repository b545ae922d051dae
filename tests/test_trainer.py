"""The loop on data of one's own: it learns, measures, stops early, and goes on bit for bit."""

import doctest
import importlib

import numpy as np
import pytest
from projection import assert_gradients

from fastnorm import checkpoint, nn, schedules, train
from fastnorm.errors import UserError


@pytest.mark.parametrize("module", ["trainer", "models", "evaluation"])
def test_examples(module):
    assert doctest.testmod(importlib.import_module(f"fastnorm.{module}")).failed == 0


def data(rng, count=60):
    """Sequences of unequal length whose class is the sign of the sum of their first feature."""
    sequences = [rng.standard_normal((n, 3)) for n in rng.integers(3, 12, count)]
    return sequences, [int(each[:, 0].sum() > 0) for each in sequences]


def classifier(norm="layer", cell=nn.LSTM, seed=0, dropout=0.2, **options):
    net = cell(3, 12, norm=norm, num_layers=2, dropout=dropout, rng=seed)
    model = train.SequenceModel(net, 2, dropout=dropout, rng=seed + 1)
    sequences, labels = data(np.random.default_rng(7))
    batches = train.PaddedBatches(sequences[20:], labels[20:], 8, rng=seed + 2)
    held_out = train.PaddedBatches(sequences[:20], labels[:20], 8, shuffle=False)
    optimizer = nn.AdamW(model.params, model.grads, lr=0.02)
    options = {"schedule": schedules.cosine(80, warmup=5), "clip": 1.0, "evaluation": held_out} | options
    return train.Trainer(model, batches, nn.softmax_cross_entropy, optimizer, **options)


def assert_same(one, two):
    (arrays, facts), (other_arrays, other_facts) = one.snapshot(), two.snapshot()
    assert arrays.keys() == other_arrays.keys()
    for name, array in arrays.items():
        assert array.tobytes() == other_arrays[name].tobytes(), name
    assert facts | {"seconds": 0} == other_facts | {"seconds": 0}


# Learning


@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("norm", [None, "layer", "rms", "batch", "weight"])
def test_every_net_learns_to_classify(cell, norm):
    trainer = classifier(norm, cell, dropout=0.0)
    before = trainer.evaluate()
    assert trainer.fit(80)
    assert trainer.steps == len(trainer.losses) == 80
    assert np.mean(trainer.losses[-8:]) < 0.5 * before.loss


def test_regression_at_every_step(rng):
    """The running sum of the inputs so far, sequences padded."""
    sequences = [0.5 * rng.standard_normal((n, 1)) for n in rng.integers(3, 12, 64)]
    targets = [each.cumsum(axis=0) for each in sequences]
    model = train.SequenceModel(nn.GRU(1, 16, norm="layer", rng=0), 1, read="every", rng=1)
    batches = train.PaddedBatches(sequences, targets, 16, per_step=True, rng=2)
    optimizer = nn.RMSProp(model.params, model.grads, lr=0.01)
    trainer = train.Trainer(model, batches, nn.mean_squared_error, optimizer, evaluation=batches)
    before = trainer.evaluate()
    assert before.accuracy is None
    trainer.fit(150)
    assert trainer.evaluate().loss < 0.3 * before.loss


def test_tokens_in_a_stream(rng):
    """Any tokens, not only characters: here the words of a sentence that repeats."""
    words = ["one", "two", "three", "two", "one", "four"]
    numbers = np.array([sorted(set(words)).index(word) for word in words] * 50)
    model = train.CharModel(4, 8, 16, norm="layer", rng=0)
    optimizer = nn.SGD(model.params, model.grads, lr=0.5, momentum=0.9)
    held_out = train.evaluation_streams(numbers[:60], 2)
    trainer = train.Trainer(
        model, train.Streams(numbers, 4, 12, 0), nn.softmax_cross_entropy, optimizer, clip=1.0,
        evaluation=held_out,
    )  # fmt: skip
    trainer.fit(60)
    assert trainer.evaluate().accuracy > 0.9


def test_a_net_without_a_state(rng):
    x = rng.standard_normal((32, 3))

    class Same:
        def next(self):
            return train.Batch(x, x.sum(axis=1, keepdims=True))

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    net = nn.Sequential(nn.Linear(3, 16, rng=0), nn.BatchNorm(16), nn.ReLU(), nn.Linear(16, 1, rng=1))
    model = train.FeedForward(net)
    trainer = train.Trainer(model, Same(), nn.mean_squared_error, nn.Adam(model.params, model.grads, lr=0.02))
    trainer.fit(100)
    assert trainer.losses[-1] < 0.1 * trainer.losses[0]


# The loop


def test_a_callback_is_told_everything_and_may_stop():
    trainer, told = classifier(), []
    assert not trainer.fit(
        80, evaluate_every=4, callback=lambda progress: told.append(progress) or len(told) == 10
    )
    assert [each.step for each in told] == list(range(1, 11))
    assert [each.step for each in told if each.evaluation] == [4, 8]
    assert told[0].lr == pytest.approx(0.02 / 5)
    assert told[3].loss == trainer.losses[3]
    assert all(each.grad_norm > 0 and not each.last for each in told)
    assert trainer.fit(12, callback=told.append)
    assert told[-1].last
    assert told[-1].evaluation == trainer.evaluate()


def test_early_stopping_puts_the_best_back():
    trainer, losses, states = classifier(patience=3, schedule=None), [], []
    trainer.optimizer.lr = trainer.lr = 0.3  # too much to go on getting better

    def note(progress):
        if progress.evaluation:
            losses.append(progress.evaluation.loss)
            states.append(None if progress.last else trainer.model.state_dict())

    assert trainer.fit(1000, evaluate_every=2, callback=note)
    assert trainer.steps < 1000
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 3
    for name, array in trainer.model.state_dict().items():
        np.testing.assert_array_equal(array, states[best][name])
    steps = trainer.steps
    assert trainer.fit(1000)
    assert trainer.steps == steps


def test_divergence_changes_nothing():
    trainer = classifier(schedule=None)
    trainer.fit(2)
    trainer.model.params["linear.bias"][0] = np.inf
    before = trainer.model.state_dict()
    with pytest.raises(train.Diverged, match="not finite at step 3"):
        trainer.fit(5)
    for name, array in trainer.model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


# Going on


@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("stop", [1, 5, 6, 13, 29])
def test_a_loaded_checkpoint_has_the_same_bits(tmp_path, norm, stop):
    """Dropout, bucketed order, warm-up, optimizer, running statistics and patience included."""
    options = {"patience": 50}
    whole = classifier(norm, **options)
    whole.fit(30, evaluate_every=6)
    first = classifier(norm, **options)
    path = tmp_path / "half.npz"
    first.fit(30, evaluate_every=6, checkpoint=path, callback=lambda progress: progress.step == stop)
    second = classifier(norm, seed=100, **options)
    second.load(path)
    assert second.steps == stop
    second.fit(30, evaluate_every=6)
    assert_same(second, whole)


def test_a_stream_goes_on_with_its_state(tmp_path):
    def new():
        model = train.CharModel(5, 4, 6, net=nn.GRU, num_layers=2, dropout=0.1, rng=0)
        streams = train.Streams(np.arange(200) % 5, 2, 7, 1)
        optimizer = nn.Adam(model.params, model.grads, lr=0.01)
        return train.Trainer(model, streams, nn.softmax_cross_entropy, optimizer)

    whole, first, second = new(), new(), new()
    whole.fit(25)
    first.fit(9, checkpoint=tmp_path / "c.npz")
    second.load(tmp_path / "c.npz")
    second.fit(25)
    assert_same(second, whole)


def test_a_checkpoint_of_another_model(tmp_path):
    classifier().save(tmp_path / "c.npz")
    with pytest.raises(UserError, match="does not fit the run: state has no"):
        classifier("batch").load(tmp_path / "c.npz")


def test_a_checkpoint_that_does_not_fit_changes_nothing(tmp_path):
    trainer, twin = classifier(), classifier()
    arrays, facts = trainer.snapshot()
    checkpoint.save(tmp_path / "c.npz", arrays, facts | {"batches": facts["batches"] | {"done": 10**6}})
    trainer.fit(5)
    twin.fit(5)
    with pytest.raises(UserError, match="done of the batches is 1000000"):
        trainer.load(tmp_path / "c.npz")
    assert_same(trainer, twin)


# Measuring


def test_evaluation_weighs_every_target_alike():
    trainer = classifier()
    sequences, labels = data(np.random.default_rng(7))
    for batch in (1, 7, 20):
        held_out = train.PaddedBatches(sequences[:20], labels[:20], batch, shuffle=False)
        measured = train.evaluate(trainer.model, held_out, nn.softmax_cross_entropy)
        expected = trainer.evaluate()
        assert measured.loss == pytest.approx(expected.loss, rel=1e-5)
        assert measured.accuracy == expected.accuracy


def test_evaluation_changes_nothing():
    trainer = classifier("batch")
    trainer.fit(3)
    before = trainer.snapshot()
    saved = train.estimate_statistics(trainer.model, trainer.batches)
    trainer.evaluate(saved)
    arrays, facts = trainer.snapshot()
    assert facts == before[1]
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, before[0][name])


def test_saved_statistics_are_the_mean_over_batches(rng):
    layer = nn.BatchNorm(3)
    model = train.FeedForward(layer)
    batches = [train.Batch(rng.standard_normal((20, 3)), np.zeros(20, int)) for _ in range(5)]
    saved = train.estimate_statistics(model, batches)
    np.testing.assert_allclose(
        saved["layer.running_mean"],
        np.mean([b.x.mean(axis=0) for b in batches], axis=0),
        rtol=1e-5,
        atol=1e-7,
    )
    np.testing.assert_allclose(
        saved["layer.running_var"], np.mean([b.x.var(axis=0, ddof=1) for b in batches], axis=0), rtol=1e-5
    )
    assert layer.momentum == 0.1
    assert not layer.buffers["running_mean"].any()


def test_saved_statistics_serve_the_evaluation():
    """Right after a large change of the weights the running statistics are stale, and fresh ones are not."""
    trainer = classifier("batch", dropout=0.0)
    trainer.fit(80)
    for name, param in trainer.model.params.items():
        if "weight" in name and name.startswith("net"):
            param *= 3
    saved = train.estimate_statistics(trainer.model, trainer.batches)
    assert trainer.evaluate(saved).loss < trainer.evaluate().loss
    with pytest.raises(ValueError, match="buffers hold"):
        trainer.evaluate({"other": np.zeros(3)})


# Models


@pytest.mark.parametrize("read", ["last", "mean", "every"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradients_of_sequence_models(read, bidirectional, rng):
    net = nn.GRU(3, 4, norm="layer", bidirectional=bidirectional, dtype=np.float64, rng=0)
    model = train.SequenceModel(net, 2, read=read, rng=1)
    x, lengths = rng.standard_normal((6, 4, 3)), [6, 1, 4, 3]
    (output, _), backward = model(x, lengths=lengths)
    seed = rng.standard_normal(output.shape)
    assert output.shape == ((6, 4, 2) if read == "every" else (4, 2))
    dx = backward(seed)
    if read != "every":
        assert not dx[1:, 1].any()

    def value():
        return float((model(x, lengths=lengths)[0][0] * seed).sum())

    assert_gradients(value, {"x": x, **model.params}, {"x": dx, **model.grads}, rng)


def test_gradients_of_the_character_model(rng):
    model = train.CharModel(5, 3, 4, norm="layer", dtype=np.float64, rng=0)
    x = rng.integers(5, size=(6, 2))
    (logits, _), backward = model(x)
    seed = rng.standard_normal(logits.shape)
    backward(seed)
    assert_gradients(lambda: float((model(x)[0][0] * seed).sum()), model.params, model.grads, rng)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: train.SequenceModel(nn.LSTM(2, 2), 2, read="first"), "read is 'first'"),
        (lambda: train.SequenceModel(nn.LSTM(2, 2), 2)(np.ones((3, 2, 2)), lengths=[3, 0]), "lengths hold 0"),
        (lambda: classifier(patience=0), "patience is 0"),
        (lambda: classifier(evaluation=None, patience=2), "patience is 2"),
        (lambda: classifier(clip=0), "clip is 0"),
        (lambda: train.evaluate(classifier().model, [], nn.softmax_cross_entropy), "nothing to evaluate"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
