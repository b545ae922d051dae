"""The trainer: text, batches, the run folder, and going on bit for bit."""

import dataclasses
import json
import os

import numpy as np
import pytest

from fastnorm import checkpoint, data, runs, train
from fastnorm.charmodel import CharModel
from fastnorm.errors import UserError
from fastnorm.nn import softmax_cross_entropy

TEXT = "".join(f"The {n * n} cats of row {n} sat on {n % 7} mats.\n" for n in range(60))


def settings(text=TEXT, **changes):
    """Settings of a run that takes a moment."""
    values = {
        "task": "text",
        "norm": "layer",
        "cell": "lstm",
        "layers": 1,
        "dropout": 0.0,
        "warmup": 0,
        "weight_decay": 0.01,
        "patience": None,
        "steps": 12,
        "batch": 4,
        "length": 8,
        "hidden": 8,
        "embed": 5,
        "optimizer": "adam",
        "lr": 0.01,
        "schedule": "linear",
        "momentum": 0.9,
        "clip": 1.0,
        "seed": 3,
        "held_out": 0.1,
        "log_every": 2,
        "evaluate_every": 4,
        "threads": 1,
        "compare": False,
        "files": (),
        "fingerprint": data.fingerprint(text),
        "vocabulary": data.Vocabulary.of(text).characters,
        "version": "test",
    }
    return runs.Settings(**values | changes)


def numbers(run):
    """The metrics without the times, which no two runs share."""
    return [{name: value for name, value in line.items() if name != "seconds"} for line in run.metrics()]


def assert_same_model(one, two):
    arrays, facts = one.snapshot()
    other_arrays, other_facts = two.snapshot()
    assert arrays.keys() == other_arrays.keys()
    for name, array in arrays.items():
        assert array.tobytes() == other_arrays[name].tobytes(), name
    assert facts | {"seconds": 0} == other_facts | {"seconds": 0}


# Text


def test_the_novel():
    text = data.read_text()
    assert data.fingerprint(text) == "7c67b5985c6d0de1efaeb5d342d52cb82c38083c40e2295129e30e87ee690ebe"
    assert text.startswith("EMMA\n")
    assert text.endswith("FINIS\n")
    assert len(text) == 883028


def test_files_are_joined_and_line_ends_made_equal(tmp_path):
    (tmp_path / "one").write_bytes(b"\xef\xbb\xbfa\r\nb\r")
    (tmp_path / "two").write_bytes("ü\n".encode())
    assert data.read_text([tmp_path / "one", tmp_path / "two"]) == "a\nb\nü\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"caf\xe9 au lait", "not UTF-8 text: byte 3"), (None, "cannot be read: No such file")],
)
def test_files_that_cannot_be_read(tmp_path, content, message):
    path = tmp_path / "text"
    if content:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        data.read_text([path])
    with pytest.raises(UserError, match="Is a directory"):
        data.read_text([tmp_path])


def test_vocabulary_of_any_characters():
    text = "zaß\U0001f600\n中z"
    vocabulary = data.Vocabulary.of(text)
    assert len(vocabulary) == 6
    assert vocabulary.decode(vocabulary.encode(text)) == text
    for unknown in ("b", "\x00", "\U0010ffff"):
        with pytest.raises(UserError, match="does not know the character"):
            vocabulary.encode("z" + unknown)
    assert len(vocabulary.encode("")) == 0


def test_split_takes_the_end():
    training, held_out = data.split(np.arange(100), 0.05)
    assert training.tolist() == list(range(95))
    assert held_out.tolist() == list(range(95, 100))


# The model


def test_bits_per_character_of_a_model_that_knows_nothing():
    model = CharModel(8, 4, 6, norm="layer", rng=0)
    model.params["linear.weight"][...] = 0
    model.params["linear.bias"][...] = 0
    held_out = train.evaluation_streams(np.arange(400) % 8, 16, steps=7)
    measured = train.evaluate(model, held_out, softmax_cross_entropy)
    assert measured.loss / np.log(2) == pytest.approx(3, abs=1e-6)


def test_the_norm_changes_no_other_start():
    plain, normed = CharModel(8, 4, 6, rng=0), CharModel(8, 4, 6, norm="layer", rng=0)
    for name in ("embedding.weight", "lstm.weight_ih", "lstm.weight_hh", "linear.weight", "linear.bias"):
        np.testing.assert_array_equal(plain.params[name], normed.params[name])


def test_samples():
    model = CharModel(8, 4, 6, rng=0)
    draws = [list(model.sample([1, 2], 40, rng=seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert len(draws[0]) == 40
    likeliest = list(model.sample([1, 2], 3, temperature=0))
    (logits, state), _ = model(np.array([[1], [2]]))
    for symbol in likeliest:
        assert symbol == logits[-1, 0].argmax()
        (logits, state), _ = model(np.array([[symbol]]), state)


# Going on


def whole_run(tmp_path, chosen):
    run, trainer = train.start(tmp_path / "whole", chosen, TEXT)
    assert train.fit(run, trainer)
    return run, trainer


@pytest.mark.parametrize("norm", [None, "layer"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_a_resumed_run_has_the_same_bits(tmp_path, norm, optimizer, schedule):
    # 80 pieces of text a pass: 90 steps go through the end of one and a new offset.
    chosen = settings(norm=norm, optimizer=optimizer, schedule=schedule, steps=90, evaluate_every=20)
    whole, expected = whole_run(tmp_path, chosen)
    assert expected.batches.offset
    run, trainer = train.start(tmp_path / "broken", chosen, TEXT)
    stops = iter([1, 6, 7, 41, 89])
    while True:
        stop = next(stops, None)
        if train.fit(run, trainer, stop=lambda trainer=trainer, stop=stop: trainer.steps == stop):
            break
        assert trainer.steps == stop
        run, trainer = train.resume(run.path, TEXT)
    assert_same_model(trainer, expected)
    assert numbers(run) == numbers(whole)


def test_a_killed_run_drops_what_it_wrote_after_its_checkpoint(tmp_path):
    whole, expected = whole_run(tmp_path, settings())

    class Killed(BaseException):
        pass

    def kill(bits, held_out):
        if trainer.steps == 7:
            raise Killed

    run, trainer = train.start(tmp_path / "killed", settings(), TEXT)
    with pytest.raises(Killed):
        train.fit(run, trainer, report=kill)
    with open(run.metrics_path, "ab") as file:
        file.write(b'{"step": 8, "tra')
    assert run.metrics()[-1]["step"] == 6
    run, trainer = train.resume(run.path, TEXT)
    assert trainer.steps == 4
    assert run.metrics()[-1]["step"] == 4
    assert train.fit(run, trainer)
    assert_same_model(trainer, expected)
    assert numbers(run) == numbers(whole)


def test_a_run_killed_before_its_first_evaluation_starts_over(tmp_path):
    _whole, expected = whole_run(tmp_path, settings())
    train.start(tmp_path / "killed", settings(), TEXT)
    run, trainer = train.resume(tmp_path / "killed", TEXT)
    assert train.fit(run, trainer)
    assert_same_model(trainer, expected)


def test_a_run_with_a_constant_rate_made_longer(tmp_path):
    long = settings(schedule="constant", steps=19)
    _, expected = whole_run(tmp_path, long)
    run, trainer = train.start(tmp_path / "short", dataclasses.replace(long, steps=5), TEXT)
    assert train.fit(run, trainer)
    run, trainer = train.resume(run.path, TEXT, steps=19)
    assert train.fit(run, trainer)
    assert_same_model(trainer, expected)
    assert run.settings() == long
    with pytest.raises(UserError, match="cannot go on to step 7"):
        train.resume(run.path, TEXT, steps=7)


def test_a_finished_run_stays_as_it_is(tmp_path):
    run, trainer = whole_run(tmp_path, settings())
    before = run.metrics_path.read_bytes()
    run, again = train.resume(run.path, TEXT)
    assert train.fit(run, again)
    assert run.metrics_path.read_bytes() == before
    assert_same_model(trainer, again)


def test_it_learns(tmp_path):
    run, _ = train.start(tmp_path / "run", settings(steps=1), TEXT)
    chosen = settings(steps=150, hidden=32, lr=0.02, evaluate_every=50)
    run, trainer = train.start(tmp_path / "learns", chosen, TEXT)
    train.fit(run, trainer)
    held_out = [line["held_out_bpc"] for line in run.metrics() if "held_out_bpc" in line]
    assert len(held_out) == 3
    assert held_out[-1] < 2.0 < np.log2(len(chosen.vocabulary))


def test_divergence_is_said_and_keeps_the_last_checkpoint(tmp_path):
    chosen = settings(optimizer="sgd", lr=1e38, clip=1e38, norm=None, steps=50)
    run, trainer = train.start(tmp_path / "run", chosen, TEXT)
    with pytest.raises(train.Diverged, match="not finite at step"):
        train.fit(run, trainer)
    arrays, _ = run.load_checkpoint()
    assert all(np.isfinite(array).all() for array in arrays.values())


# The run folder


def test_a_checkpoint_is_old_or_new_never_half(tmp_path, monkeypatch):
    """Whatever fails while it is written, the one from before is there and nothing else is left."""
    run, trainer = whole_run(tmp_path, settings())
    before, files = run.checkpoint_path.read_bytes(), sorted(os.listdir(run.path))
    arrays, facts = trainer.snapshot()

    def fail(*arguments, **others):
        raise OSError("no space left")

    def half(file, **arrays):
        file.write(b"PK half of it")
        raise KeyboardInterrupt

    for module, name, replacement, error in (
        (np, "savez", half, KeyboardInterrupt),
        (os, "fsync", fail, OSError),
        (os, "replace", fail, OSError),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, replacement)
            with pytest.raises(error):
                run.save_checkpoint(arrays, **facts)
        assert run.checkpoint_path.read_bytes() == before
        assert sorted(os.listdir(run.path)) == files


def test_a_checkpoint_holds_no_pickle(tmp_path):
    run, _ = whole_run(tmp_path, settings())
    with np.load(run.checkpoint_path, allow_pickle=False) as file:
        assert all(file[name].dtype.kind in "fiU" for name in file.files)


def test_a_damaged_checkpoint_is_noticed(tmp_path, rng):
    run, _ = whole_run(tmp_path, settings())
    content = run.checkpoint_path.read_bytes()
    cut = [content[:n] for n in (0, 1, 100, len(content) // 2, len(content) - 1)]
    flipped = []
    with np.load(run.checkpoint_path) as file:
        weights = file["model.lstm.weight_hh"].tobytes()
    inside = content.index(weights)
    for place in (inside, inside + len(weights) // 2, inside + len(weights) - 1):
        flipped.append(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, facts=np.array([{}], object))
    other = tmp_path / "other.npz"
    np.savez(other, a=np.zeros(3))
    for bad in [*cut, *flipped, pickled.read_bytes(), other.read_bytes(), b"text"]:
        run.checkpoint_path.write_bytes(bad)
        with pytest.raises(UserError, match=r"checkpoint\.npz is damaged and cannot be read"):
            train.resume(run.path, TEXT)
        assert run.checkpoint_path.read_bytes() == bad
    run.checkpoint_path.unlink()
    with pytest.raises(UserError, match=r"has no checkpoint\.npz"):
        train.resume(run.path, TEXT)


def rewrite(run, change):
    arrays, facts = checkpoint.load(run.checkpoint_path)
    change(arrays)
    checkpoint.save(run.checkpoint_path, arrays, facts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("model.lstm.gain_c"), "no 'lstm.gain_c'"),
        (lambda a: a.update({"model.more": np.zeros(1)}), "'more'"),
        (lambda a: a.update({"optimizer.mean.lstm.bias_c": np.zeros(1)}), "'mean.lstm.bias_c' .* shape"),
        (lambda a: a.update({"optimizer.steps": np.array("x")}), "'steps' .* dtype <U1"),
        (lambda a: a.update({"optimizer.steps": np.array(-1)}), "'steps' .* is -1"),
        (
            lambda a: a.update({"model.linear.bias": np.full_like(a["model.linear.bias"], 1j, complex)}),
            "dtype",
        ),
        (lambda a: a.pop("state.0"), "it has no '0'"),
        (lambda a: a.update({"state.0": np.zeros((1, 1))}), r"has shape \(1, 1\)"),
        (lambda a: a.update({"state.1": np.array("x")}), "dtype <U1"),
    ],
)
def test_a_checkpoint_that_does_not_fit(tmp_path, change, message):
    run, _ = whole_run(tmp_path, settings())
    rewrite(run, change)
    with pytest.raises(UserError, match=f"does not fit the run: .*{message}") as caught:
        train.resume(run.path, TEXT)
    assert "\n" not in str(caught.value)


def test_changed_settings_text_and_metrics_are_noticed(tmp_path):
    run, _ = whole_run(tmp_path, settings())
    with pytest.raises(UserError, match="not the one that the run was started with"):
        train.resume(run.path, TEXT + "x")
    metrics = run.metrics_path.read_bytes()
    run.metrics_path.write_bytes(metrics[:-1])
    with pytest.raises(UserError, match="shorter than it was at the checkpoint"):
        train.resume(run.path, TEXT)
    run.metrics_path.write_bytes(metrics)
    run.write_settings(settings(lr=0.02))
    with pytest.raises(UserError, match="changed since the checkpoint: lr differs"):
        train.resume(run.path, TEXT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("lr"), "no setting 'lr'"),
        (lambda s: s.update(beta=1), "a setting 'beta', which is not known"),
        (lambda s: s.update(hidden="8"), "hidden = '8', which it cannot be"),
        (lambda s: s.update(batch=True), "batch = True"),
        (lambda s: s.update(batch=4.5), "batch = 4.5"),
        (lambda s: s.update(files="a"), "files = 'a'"),
    ],
)
def test_odd_settings(tmp_path, change, message):
    run, _ = train.start(tmp_path / "run", settings(), TEXT)
    values = json.loads(run.settings_path.read_text())
    change(values)
    run.settings_path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=message):
        run.settings()


def test_settings_go_through_their_file(tmp_path):
    for number, chosen in enumerate((settings(), settings(norm=None, files=("a", "b")))):
        run, _ = train.start(tmp_path / str(number), chosen, TEXT)
        assert run.settings() == chosen


def test_too_little_text_leaves_no_folder(tmp_path):
    for text, message in (("", "too short"), ("a", "too short"), (TEXT[:40], "needs at least 40")):
        with pytest.raises(UserError, match=message):
            train.start(tmp_path / "run", settings(text), text)
        assert not (tmp_path / "run").exists()
    for share, left in ((1e-9, 0), (1 / len(TEXT), 1)):
        with pytest.raises(UserError, match=f"leave {left} held out, and 2 are needed"):
            train.start(tmp_path / "run", settings(held_out=share), TEXT)
        assert not (tmp_path / "run").exists()
