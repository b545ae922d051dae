"""Kills `fastnorm train` at random moments, resumes it, and holds the end to that of a run left alone.

    python -m tests.kills --kills 200 --seed 0

The tests do the same with a few kills.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# test the fastnorm that is installed, not the checkout
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent.parent]

from fastnorm import train  # noqa: E402
from fastnorm.runs import RunFolder  # noqa: E402

EVERY = 10  # steps between two checkpoints
OPTIONS = (
    "--batch 4 --length 8 --hidden 8 --embed 5 --held-out 0.1 --log-every 5 --threads 1 "
    f"--evaluate-every {EVERY}"
).split()
TEXT = "".join(f"The {n * n} cats of row {n} sat on {n % 7} mats.\n" for n in range(60))
PARTS = (".", "plain")


def command(*arguments):
    return [sys.executable, "-m", "fastnorm", "train", *map(str, arguments)]


def is_run(folder):
    return (folder / "settings.json").exists()


def numbers(folder):
    """The metrics without the times, which no two runs share."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def weights(folder):
    arrays, _ = RunFolder.open(folder).load_checkpoint()
    return {name: array.tobytes() for name, array in arrays.items()}


def check(folder, before):
    """A killed run can be read, lost only what follows its last checkpoint, and never goes back.

    `before` holds the steps of the checkpoints after the last kill, and is brought up to date.
    """
    for part in PARTS:
        run = RunFolder(folder / part)
        if not is_run(run.path):
            continue
        _, facts = run.load_checkpoint()
        train.load_model(run)
        measured = [line["step"] for line in run.metrics() if "held_out_bpc" in line]
        assert facts["steps"] >= before.get(part, 0), (part, facts["steps"], before)
        assert measured[-1:] == [] or measured[-1] - facts["steps"] <= EVERY, (part, measured[-1], facts)
        before[part] = facts["steps"]


def kill(process, folder, rng, longest):
    """Kill the process at a random moment: of its life, or after it has trained a little more."""
    end = time.monotonic() + rng.uniform(0, longest)
    if rng.random() < 0.7:
        files = [folder / part / "metrics.jsonl" for part in PARTS]

        def sizes():
            return [file.exists() and file.stat().st_size for file in files]

        start = sizes()
        while process.poll() is None and sizes() == start:
            time.sleep(0.005)
        end = time.monotonic() + rng.uniform(0, 0.3)
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    process.kill()
    _, errors = process.communicate()
    assert "Traceback" not in errors, errors
    assert process.returncode in (0, -9), errors
    return process.returncode != 0


def trial(folder, rng, kills, steps, longest=1.5):
    """One run killed `kills` times and then left to its end; returns how often it was killed in fact."""
    folder.mkdir()
    (folder / "cats.txt").write_text(TEXT)
    new = ["cats.txt", *OPTIONS, "--steps", steps, "--out"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "cwd": folder}
    run, before, done = folder / "run", {}, 0
    for _ in range(kills):
        arguments = ["--resume", "run"] if is_run(run) else [*new, "run"]
        killed = kill(subprocess.Popen(command(*arguments), **pipes), run, rng, longest)
        check(run, before)
        done += killed
        if not killed:
            break
    subprocess.run(command(*(["--resume", "run"] if is_run(run) else [*new, "run"])), **pipes, check=True)
    subprocess.run(command(*new, "whole"), **pipes, check=True)
    for part in PARTS:
        assert numbers(run / part) == numbers(folder / "whole" / part), part
        assert weights(run / part) == weights(folder / "whole" / part), part
    assert not list(run.rglob("*.tmp"))
    return done


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2000, help="of each run")
    args = parser.parse_args()
    rng, done, runs = random.Random(args.seed), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        while done < args.kills:
            done += trial(Path(folder) / str(runs), rng, args.kills - done, args.steps)
            runs += 1
            print(f"{done} kills in {runs} runs: every one was resumed and ended like a run left alone")


if __name__ == "__main__":
    main()
