"""The command line as a user types it: what it leaves, and every wrong input in one sentence."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

import fastnorm
from fastnorm import cli, train
from fastnorm.runs import RunFolder

pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")
pytest.importorskip("threadpoolctl")

TEXT = "".join(f"The {n * n} cats of row {n} sat on {n % 7} mats.\n" for n in range(60))
SMALL = [
    "--steps",
    "12",
    "--batch",
    "4",
    "--length",
    "8",
    "--hidden",
    "8",
    "--embed",
    "5",
    "--log-every",
    "2",
    "--evaluate-every",
    "4",
    "--held-out",
    "0.1",
    "--threads",
    "1",
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of one's own to work in, with a text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cats.txt").write_text(TEXT)
    return tmp_path


@pytest.fixture
def trained(here, capsys):
    """The same with a finished run in it."""
    assert run("train", "cats.txt", *SMALL, "--norm", "layer", "--out", "one") == 0
    capsys.readouterr()
    return here


def run(*arguments):
    """The exit code of the command."""
    try:
        return cli.main([str(each) for each in arguments])
    except SystemExit as stop:
        return stop.code


def contents(folder):
    return {str(path): path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") and path.stat().st_size > 5000


def numbers(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


# What works


def test_without_a_norm_both_are_trained_and_compared(here, capsys):
    assert run("train", "cats.txt", *SMALL) == 0
    first, second = here / "runs" / "1", here / "runs" / "1" / "plain"
    assert sorted(os.listdir(first)) == [
        "checkpoint.npz",
        "learning_curve.png",
        "metrics.jsonl",
        "plain",
        "settings.json",
    ]
    assert sorted(os.listdir(second)) == ["checkpoint.npz", "metrics.jsonl", "settings.json"]
    assert is_png(first / "learning_curve.png")
    one, two = RunFolder.open(first).settings(), RunFolder.open(second).settings()
    assert (one.norm, two.norm, one.seed, one.steps) == ("layer", None, two.seed, two.steps)
    output = capsys.readouterr()
    assert re.search(r"At step 12, held out, runs/1\S* is lower by", output.out)
    assert "fastnorm sample runs/1" in output.out
    assert "bits/char" in output.err
    assert "char/s" in output.err
    assert "held out" in output.err
    assert run("train", "cats.txt", *SMALL, "--norm", "none") == 0
    assert RunFolder.open("runs/2").settings().norm is None
    assert not (here / "runs" / "2" / "plain").exists()


def test_two_runs_are_the_same(here):
    for name in ("a", "b"):
        assert run("train", "cats.txt", *SMALL, "--norm", "layer", "--out", name) == 0
    assert numbers(here / "a") == numbers(here / "b")
    assert run("train", "cats.txt", *SMALL, "--norm", "layer", "--seed", 1, "--out", "c") == 0
    assert numbers(here / "a") != numbers(here / "c")


def test_the_novel_is_the_default(here):
    assert run("train", *SMALL, "--norm", "layer", "--held-out", "0.001", "--out", "novel") == 0
    assert len(RunFolder.open("novel").settings().vocabulary) == 76


def test_sample(trained, capsys):
    texts = []
    for more in (
        (),
        (),
        ("--seed", 1),
        ("--prompt", "The cats", "--temperature", 0),
        ("--length", 1, "--prompt", "T"),
    ):
        assert run("sample", "one", "--length", 50, *more) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0]) == 51
    assert texts[3].startswith("The cats")
    assert len(texts[3]) == 59
    assert len(texts[4]) == 3
    assert texts[4].startswith("T")
    assert set("".join(texts)) <= set(TEXT)


def test_compare(trained, capsys):
    assert run("train", "cats.txt", *SMALL, "--norm", "none", "--seed", 7, "--out", "two") == 0
    capsys.readouterr()
    before = contents(trained)
    assert run("compare", "one", "two", "--out", "both.png") == 0
    output = capsys.readouterr().out
    assert is_png(trained / "both.png")
    assert "differ in: seed (0 and 7)" in output
    assert "At step 12, held out, " in output
    (trained / "both.png").unlink()
    assert contents(trained) == before
    assert run("compare", "one", "two", "one") == 0
    assert is_png(trained / "compare.png")


def test_compare_at_equal_steps(trained, capsys):
    assert run("train", "cats.txt", *SMALL, "--norm", "none", "--steps", 30, "--out", "longer") == 0
    capsys.readouterr()
    assert run("compare", "one", "longer") == 0
    assert "At step 12, " in capsys.readouterr().out


def test_version_info_and_help(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"fastnorm {fastnorm.__version__}\n"
    assert run("info") == 0
    assert capsys.readouterr().out
    for command in ((), ("train",), ("sample",), ("compare",), ("info",)):
        assert run(*command, "--help") == 0


def test_python_m(here):
    result = subprocess.run(
        [sys.executable, "-m", "fastnorm", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("fastnorm ")


# Stopping and going on


def wait_for(condition, process):
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.skipif(os.name == "nt", reason="no such signals")
def test_a_stopped_run_goes_on_with_the_same_numbers(here):
    options = ["cats.txt", *SMALL, "--steps", "800", "--evaluate-every", "100"]
    assert run("train", *options, "--out", "whole") == 0
    for stop, where in ((signal.SIGINT, ""), (signal.SIGTERM, "plain")):
        out = f"stopped-{stop}"
        command = [sys.executable, "-m", "fastnorm", "train", *options, "--out", out]
        metrics = here / out / where / "metrics.jsonl"
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **pipes) as process:
            try:
                wait_for(lambda metrics=metrics: metrics.exists() and metrics.stat().st_size, process)
                process.send_signal(stop)
                output, errors = process.communicate(timeout=120)
            finally:
                process.kill()
        assert process.returncode == 128 + stop, errors
        assert f"stopped and saved; go on with: fastnorm train --resume {out}" in output
        assert "Traceback" not in errors
        assert numbers(here / out / where)[-1]["step"] < 800
        assert run("train", "--resume", out) == 0
        for folder in ("", "plain"):
            assert numbers(here / out / folder) == numbers(here / "whole" / folder)
            models = [train.load_model(RunFolder.open(here / name / folder))[0] for name in (out, "whole")]
            one, two = (model.state_dict() for model in models)
            assert all(one[name].tobytes() == two[name].tobytes() for name in one)
        assert is_png(here / out / "learning_curve.png")


def test_resume_accepts_what_agrees(trained, capsys):
    before = numbers(trained / "one")
    assert run("train", "cats.txt", "--resume", "one", "--hidden", 8, "--norm", "layer") == 0
    assert numbers(trained / "one") == before


def test_resume_finds_the_text_from_anywhere(trained, monkeypatch):
    (trained / "elsewhere").mkdir()
    monkeypatch.chdir(trained / "elsewhere")
    assert run("train", "--resume", "../one") == 0


def test_a_longer_run(here):
    constant = [*SMALL, "--norm", "layer", "--schedule", "constant"]
    assert run("train", "cats.txt", *constant, "--out", "one") == 0
    assert run("train", "--resume", "one", "--steps", 20) == 0
    assert numbers(here / "one")[-1]["step"] == 20


# What does not


def test_wrong_inputs_are_one_sentence_and_change_nothing(trained, capsys):
    (trained / "short.txt").write_text("Too short.")
    (trained / "empty.txt").write_text("")
    (trained / "latin.txt").write_bytes(b"caf\xe9 " * 1000)
    (trained / "folder").mkdir()
    (trained / "full").mkdir()
    (trained / "full" / "precious").write_text("mine")
    (trained / "not.png").write_text("mine")
    norm = ("--norm", "layer")
    cases = [
        (("train", "short.txt"), "the text is too short: its training part has"),
        (("train", "empty.txt"), "the text is too short"),
        (("train", "latin.txt"), "latin.txt is not UTF-8 text: byte 3"),
        (("train", "missing.txt"), "missing.txt cannot be read: No such file"),
        (("train", "cats.txt", "missing.txt"), "missing.txt cannot be read"),
        (("train", "folder"), "folder cannot be read: Is a directory"),
        (("train", "cats.txt", "--batch", 1000), "needs at least 64064"),
        (("train", "cats.txt", *SMALL, "--out", "full"), "full is not empty"),
        (("train", "cats.txt", *SMALL, "--out", "one"), "go on with --resume one"),
        (("train", "cats.txt", *SMALL, "--out", "cats.txt"), "cats.txt is a file"),
        (("train", "cats.txt", *SMALL, "--out", "cats.txt/run"), "cats.txt/run cannot be made a run folder"),
        (("train", "--resume", "missing"), "missing is not a run folder: there is no such folder"),
        (("train", "--resume", "full"), "full is not a run folder: it has no settings.json"),
        (("train", "--resume", "cats.txt"), "cats.txt is not a run folder: a file"),
        (
            ("train", "--resume", "one", "--hidden", 9),
            "one was started with hidden = 8, and cannot go on with 9",
        ),
        (("train", "--resume", "one", "--steps", 20), "one was started with steps = 12"),
        (("train", "--resume", "one", "--norm", "none"), "one was started with norm = layer"),
        (("train", "latin.txt", "--resume", "one"), "latin.txt is not UTF-8"),
        (("train", "short.txt", "--resume", "one"), "not the one that the run was started with"),
        (("train", "--resume", "one", "--out", "two"), "not allowed with"),
        (("train", "--nonsense"), "unrecognized arguments: --nonsense"),
        (("train", "--step", 4), "unrecognized arguments: --step"),
        (("train", "--steps", 0), "'0' is not a whole number of at least 1"),
        (("train", "--steps", 1.5), "'1.5' is not a whole number"),
        (("train", "--lr", "nan"), "'nan' is not a number above 0"),
        (("train", "--lr", "inf"), "'inf' is not a number above 0"),
        (("train", "--held-out", 1), "'1' is not a number above 0 and below 1"),
        (("train", "--norm", "group"), "invalid choice: 'group'"),
        (("train", "cats.txt", *SMALL, "--norm", "batch"), "--task text carries its state on"),
        (("train", "--task", "vowels", "--embed", 3), "--embed belongs to text, and --task is vowels"),
        (("train", "--task", "vowels", "cats.txt"), "--task vowels reads no files, and got cats.txt"),
        (("train", "cats.txt", *SMALL, "--warmup", 12), "--warmup 12 leaves none of the 12 steps"),
        (("train", "--resume", "one", "--task", "vowels"), "one was started with task = text"),
        (("train", "--hidden", 10**15), "is not a whole number of at least 1 and below 1000000"),
        (("train", "cats.txt", *SMALL, "--out", ""), "is not empty"),
        (("train", "--resume", ""), "is not a run folder"),
        (("train", "--seed", -1), "'-1' is not a whole number of at least 0"),
        (("train", "cats.txt", *SMALL, *norm, "--held-out", 0.0001), "2 are needed"),
        (("sample", "missing"), "missing is not a run folder"),
        (("sample", "full"), "full is not a run folder"),
        (("sample", "one", "--prompt", "The café"), "the model does not know the character 'é'"),
        (("sample", "one", "--temperature", -1), "'-1' is not a number of at least 0"),
        (("sample", "one", "--length", 0), "'0' is not a whole number of at least 1"),
        (("sample",), "required: RUN"),
        (("compare", "one", "full", "--out", "c.png"), "full is not a run folder"),
        (("compare", "one", "one", "--out", "cats.txt"), "needs to end in .png"),
        (("compare", "one", "one", "--out", "not.png"), "not.png exists and is not a picture"),
        (("compare", "one", "one", "--out", "missing/c.png"), "missing"),
        (("dance",), "invalid choice: 'dance'"),
        ((), "required: COMMAND"),
    ]
    before = contents(trained)
    for arguments, message in cases:
        assert run(*arguments) == 2, arguments
        output = capsys.readouterr()
        assert message in output.err, arguments
        assert output.err.startswith("fastnorm"), arguments
        assert output.err.count("\n") == 1, output.err
        assert not output.out, output.out
        assert contents(trained) == before, arguments


@pytest.mark.parametrize("command", [("train", "--resume"), ("sample",)], ids=["resume", "sample"])
def test_damaged_runs(trained, command, capsys):
    content = (trained / "one" / "checkpoint.npz").read_bytes()
    settings = (trained / "one" / "settings.json").read_text()
    cases = [
        ("checkpoint.npz", content[: len(content) // 2], "one/checkpoint.npz is damaged"),
        ("checkpoint.npz", b"", "one/checkpoint.npz is damaged"),
        ("checkpoint.npz", content[:3000] + b"\xff" * 50 + content[3050:], "one/checkpoint.npz is damaged"),
        ("settings.json", settings[:-20].encode(), "one/settings.json cannot be read as JSON"),
        ("settings.json", b"[]", "one/settings.json does not hold settings"),
        (
            "settings.json",
            settings.replace('"seed": 0', '"seed": 1').encode(),
            "changed since the checkpoint: seed",
        ),
        ("settings.json", settings.replace('"hidden": 8', '"hidden": "8"').encode(), "hidden = '8'"),
    ]
    whole = contents(trained)
    for name, bad, message in cases:
        path = trained / "one" / name
        path.write_bytes(bad)
        before = contents(trained)
        assert run(*command, "one") == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert contents(trained) == before
        path.write_bytes(whole[str(path)])


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MemoryError(), 2, "there is not enough memory for a net of this size"),
        (OSError(28, "No space left on device", "some/file"), 2, "some/file: No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_fails_on_the_way_is_one_sentence(here, monkeypatch, capsys, error, code, message):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(cli, "fit", fail)
    assert run("train", "cats.txt", *SMALL, "--out", "new") == code
    assert capsys.readouterr().err.splitlines()[-1] == f"fastnorm: {message}"


def test_divergence(here, capsys):
    assert (
        run(
            "train",
            "cats.txt",
            *SMALL,
            "--norm",
            "none",
            "--optimizer",
            "sgd",
            "--lr",
            "1e38",
            "--clip",
            "1e38",
        )
        == 1
    )
    assert "not finite" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("missing", ["tqdm", "matplotlib", "threadpoolctl"])
def test_what_is_not_installed_is_said(here, missing, monkeypatch, capsys):
    found = cli.importlib.util.find_spec
    monkeypatch.setattr(
        cli.importlib.util, "find_spec", lambda name: None if name == missing else found(name)
    )
    assert run("train", "cats.txt", *SMALL) == 2
    assert (
        f"fastnorm train needs {missing}, not installed here: pip install {missing}\n"
        in capsys.readouterr().err
    )
    assert not (here / "runs").exists()


@pytest.mark.skipif(os.name == "nt", reason="no head")
def test_a_closed_output_is_no_traceback(trained):
    command = f"{sys.executable} -m fastnorm sample one --length 20000 | head -c 10"
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert len(result.stdout) == 10
    assert result.stderr == ""
