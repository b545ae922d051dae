"""Bad luck while training: kills, full disks, changed files, and two who want the same run."""

import os
import random
import subprocess
import sys

import kills
import numpy as np
import pytest

from fastnorm import checkpoint, cli, train
from fastnorm.errors import UserError
from fastnorm.runs import RunFolder

pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")
pytest.importorskip("threadpoolctl")
posix = pytest.mark.skipif(os.name != "posix", reason="signals, limits and locks of POSIX")

SMALL = [*kills.OPTIONS, "--steps", "20", "--norm", "layer"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cats.txt").write_text(kills.TEXT)
    return tmp_path


@pytest.fixture
def trained(here, capsys):
    assert cli.main(["train", "cats.txt", *SMALL, "--out", "one"]) == 0
    capsys.readouterr()
    return here


# The file


def test_arrays_and_facts_come_back(tmp_path, rng):
    arrays = {"a": rng.standard_normal((3, 4)), "b.c": np.array(7), "text": np.array("é")}
    facts = {"steps": 3, "rng": np.random.default_rng(0).bit_generator.state}
    checkpoint.save(tmp_path / "c.npz", arrays, facts)
    back, told = checkpoint.load(tmp_path / "c.npz")
    assert told == facts | {"format": checkpoint.FORMAT}
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
    with np.load(tmp_path / "c.npz", allow_pickle=False) as plain:  # an ordinary .npz as well
        np.testing.assert_array_equal(plain["a"], arrays["a"])


def test_every_changed_byte_and_every_cut_is_noticed(tmp_path):
    path = tmp_path / "c.npz"
    checkpoint.save(path, {"a": np.arange(3)}, {})
    content = path.read_bytes()
    for place in range(len(content)):
        for bad in (content[:place], content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]):
            path.write_bytes(bad)
            with pytest.raises(UserError, match=r"c\.npz is damaged and cannot be read"):
                checkpoint.load(path)
    path.write_bytes(content + b"\n")
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(path)


def test_a_checkpoint_written_anew_with_other_numbers_is_refused(trained, capsys):
    path = trained / "one" / "checkpoint.npz"
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["model.linear.bias"] += 1
    np.savez(path, **arrays)
    for command in (["train", "--resume", "one"], ["sample", "one"]):
        assert cli.main(command) == 2
        assert "one/checkpoint.npz is damaged and cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", "4", "steps is '4'"),
        ("steps", -1, "steps is '-1'"),
        ("seconds", float("nan"), "seconds is 'nan'"),
        ("losses", {}, "losses is"),
        ("losses", ["x"], "losses is"),
        ("batches", [], "batches is"),
        ("batches", {"offset": 0, "done": 0}, "it has no 'rng'"),
        ("batches", {"offset": 0, "done": 10**9}, "done of the batches is 1000000000"),
        ("batches", {"offset": -1, "done": 0}, "offset of the batches is -1"),
        ("batches", {"offset": 0, "done": 1.5}, "done of the batches is 1.5"),
        ("batches", {"offset": 0, "done": 0, "rng": {"bit_generator": "PCG64", "state": 5}}, "."),
        ("pair", 1, "pair is '1'"),
        ("pair", False, "state"),
        ("best", [1.0], "best is"),
        ("best", [1.0, 4], "state has no"),
        ("waited", None, "waited is 'None'"),
        ("stopped", "no", "stopped is 'no'"),
        ("metrics_size", "0", "metrics_size are missing"),
        ("settings", None, "its settings"),
    ],
)
def test_a_forged_fact_is_refused(trained, name, value, message):
    """Under a right seal: with another value, and missing."""
    path = trained / "one" / "checkpoint.npz"
    arrays, facts = checkpoint.load(path)
    checkpoint.save(path, arrays, facts | {name: value})
    with pytest.raises(UserError, match=f"does not fit the run: .*{message}") as caught:
        train.resume("one", kills.TEXT)
    assert "\n" not in str(caught.value)
    del facts[name]
    checkpoint.save(path, arrays, facts)
    with pytest.raises(UserError, match=f"does not fit the run: .*{name}"):
        train.resume("one", kills.TEXT)


def test_loading_runs_no_code(trained, capsys):
    """A pickle under a right seal is refused before it is read."""

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(trained / "was here"),)

    path = trained / "one" / "checkpoint.npz"
    np.savez(path, facts=np.array([Payload()], object))
    content = path.read_bytes()[:-2] + b"\x40\x00"  # room for the seal, as the archive's comment
    path.write_bytes(content + checkpoint.hashlib.sha256(content).hexdigest().encode())
    assert cli.main(["train", "--resume", "one"]) == 2
    assert "is damaged" in capsys.readouterr().err
    assert not (trained / "was here").exists()


# Kills and full disks


@posix
def test_a_run_killed_again_and_again_ends_like_one_left_alone(tmp_path):
    assert kills.trial(tmp_path / "trial", random.Random(1), kills=4, steps=1500) == 4


@posix
@pytest.mark.parametrize("room", [0, 100, 3000, 6000])
def test_a_full_disk_leaves_the_last_checkpoint(trained, room):
    """A limit on the size of files fails writes in the middle, as a full disk does."""
    assert cli.main(["train", "cats.txt", *SMALL, "--schedule", "constant", "--out", "long"]) == 0
    before = (trained / "long" / "checkpoint.npz").read_bytes()
    limited = (
        "import resource, sys; from fastnorm import cli\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, resource.RLIM_INFINITY))\n"
        "sys.exit(cli.main(['train', '--resume', 'long', '--steps', '60']))"
    )
    result = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True)
    assert result.returncode == 2
    assert "File too large" in result.stderr.splitlines()[-1]
    assert "long/" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert (trained / "long" / "checkpoint.npz").read_bytes() == before
    assert not list((trained / "long").glob("*.tmp"))
    assert cli.main(["train", "--resume", "long", "--steps", "60"]) == 0
    assert (
        cli.main(["train", "cats.txt", *SMALL, "--schedule", "constant", "--steps", "60", "--out", "w"]) == 0
    )
    assert kills.weights(trained / "long") == kills.weights(trained / "w")


@posix
def test_a_full_disk_at_the_start_leaves_nothing(here):
    limited = (
        "import resource, sys; from fastnorm import cli\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))\n"
        f"sys.exit(cli.main(['train', 'cats.txt', *{SMALL!r}, '--out', 'run']))"
    )
    result = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "File too large" in result.stderr
    assert os.listdir(here) == ["cats.txt"]


def test_what_a_killed_writer_left_is_removed(trained):
    for name in ("checkpoint.npz.tmp", "settings.json.tmp"):
        (trained / "one" / name).write_bytes(b"half")
    assert cli.main(["train", "--resume", "one"]) == 0
    assert not list((trained / "one").glob("*.tmp"))


def test_a_run_in_a_folder_that_is_there_and_empty(here):
    (here / "empty").mkdir()
    assert cli.main(["train", "cats.txt", *SMALL, "--out", "empty"]) == 0
    (here / "work").mkdir()
    os.chdir("work")
    assert cli.main(["train", "../cats.txt", *SMALL, "--out", "."]) == 0
    assert kills.weights(here / "work") == kills.weights(here / "empty")
    assert sorted(os.listdir(here)) == ["cats.txt", "empty", "work"]


# Two at once


def test_of_two_who_make_one_folder_the_first_has_it(trained):
    settings = RunFolder.open("one").settings()

    def make_two():
        with RunFolder.create("two", settings), RunFolder.create("two", settings) as first:
            first.append_metrics(step=1)

    with pytest.raises(UserError, match="two is not empty"):
        make_two()
    assert RunFolder.open("two").metrics() == [{"step": 1}]
    assert sorted(os.listdir(trained)) == ["cats.txt", "one", "two"]


@posix
def test_two_cannot_go_on_with_one_run(trained, capsys):
    before = {path: path.read_bytes() for path in (trained / "one").iterdir()}
    holder = (
        "import sys; from fastnorm.runs import RunFolder\nwith RunFolder('one').locked(): print(); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", holder], **pipes) as process:
        assert process.stdout.readline()
        assert cli.main(["train", "--resume", "one"]) == 2
        error = capsys.readouterr().err
        assert error == "fastnorm: one is being trained by another process; wait until it has ended\n"
        assert {path: path.read_bytes() for path in (trained / "one").iterdir()} == before
        assert cli.main(["sample", "one", "--length", "3"]) == 0  # reading is free
        process.kill()
    assert cli.main(["train", "--resume", "one"]) == 0


def test_a_lock_ends_with_its_context(trained):
    run = RunFolder.open("one")
    for _ in range(2):
        with run.locked(), pytest.raises(UserError, match="one is being trained"), RunFolder("one").locked():
            pass


# Pictures


def test_compare_overwrites_no_picture_of_other_runs(trained, capsys):
    assert cli.main(["train", "cats.txt", *SMALL, "--seed", "1", "--out", "two"]) == 0
    for _ in range(2):  # the same runs again: the picture is brought up to date
        assert cli.main(["compare", "one", "two"]) == 0
    picture = (trained / "compare.png").read_bytes()
    capsys.readouterr()
    for runs in (["one"], ["two", "one"], ["one", "two", "one"]):
        assert cli.main(["compare", *runs]) == 2
        assert capsys.readouterr().err == (
            "fastnorm: compare.png shows other runs; choose another name with --out, or remove it\n"
        )
        assert (trained / "compare.png").read_bytes() == picture
    assert cli.main(["compare", "one", "--out", "other.png"]) == 0
