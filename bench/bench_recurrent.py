"""Recurrent nets against PyTorch and JAX, a training and a streaming step: `python -m bench.bench_recurrent`.

A training step is forward and backward, float32. Before anything is timed, outputs and all gradients of one
family are held to ours; a wrong one ends the command with exit code 1. No time is ever asserted.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

if not __package__:  # run as a file, not with -m
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import machine, recurrent_memory, recurrent_report
from bench.peers_recurrent import FAMILIES, LAYER_LSTM, LSTM, Fastnorm, Shape, largest_error, make_problem
from bench.timing import Budget, interleave, looped

SHAPES = (Shape(50, 32, 64, 128), Shape(100, 32, 128, 256), Shape(100, 64, 256, 512))
STREAM = Shape(1, 1, 128, 256)
TOLERANCE = 1e-4  # of a result's largest value: T steps of float32 roundings, summed in another order
OPTIONAL = (
    ("PyTorch", "bench.peers_recurrent_torch", "Torch"),
    ("JAX", "bench.peers_recurrent_jax", "Jax"),
)
BUDGET = Budget(seconds=8, min_rounds=3, max_rounds=60)
QUICK_BUDGET = Budget(seconds=2, min_rounds=3, max_rounds=20)
STREAM_BUDGET = Budget(seconds=2, batch=0.002, max_rounds=200)


def main(argv: list[str] | None = None) -> int:
    """Check, measure, print, and write what was asked for."""
    args = parse(argv)
    ours = Fastnorm()
    peers = [ours, *optional_peers()]
    threads = args.threads or sorted({1, machine.processors()})
    told = machine.describe()
    print(machine.sentence(told))
    if warning := machine.warning(told):
        print(warning, file=sys.stderr)
    budget = QUICK_BUDGET if args.quick else BUDGET
    run = {"machine": told, "steps": [], "stream": [], "memory": []}
    for shape in SHAPES[:2] if args.quick else SHAPES:
        for peer in peers:
            peer.set_threads(max(threads))
        steps = {family: prepare(peers, family, shape) for family in FAMILIES}
        if errors := [error for family in FAMILIES for error in check(steps[family])]:
            print(*(f"WRONG {tuple(shape)}: {error}" for error in errors), sep="\n")
            return 1
        for count in threads:
            for peer in peers:
                peer.set_threads(count)
            seconds = time_steps(steps, count, budget, args.wait)
            run["steps"].append({"shape": shape, "threads": count, "seconds": seconds})
            print(recurrent_report.line(run["steps"][-1]), flush=True)
    for count in threads:
        run["stream"].append({"shape": STREAM, "threads": count, "seconds": time_stream(peers, count)})
        print(recurrent_report.line(run["stream"][-1], unit=1e-6), flush=True)
    if recurrent_memory.available():
        for shape in SHAPES[:2] if args.quick else SHAPES:
            nbytes = {name: recurrent_memory.measure(name, shape) for name in recurrent_memory.NETS}
            run["memory"].append(
                {"shape": shape, "nbytes": {k: v for k, v in nbytes.items() if v is not None}}
            )
    table = recurrent_report.markdown(run)
    print(f"\n{table}")
    if args.json:
        args.json.write_text(json.dumps(run, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(table + "\n")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.bench_recurrent", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="the two smaller shapes, fewer rounds")
    parser.add_argument("--threads", type=int, nargs="+", metavar="N", help="default: 1 and all")
    parser.add_argument(
        "--wait", type=float, default=0, metavar="S", help="wait so long for idle processors before a turn"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table of the README")
    return parser.parse_args(argv)


def optional_peers() -> Iterator:
    """The implementations that are installed."""
    for name, module, make in OPTIONAL:
        try:
            yield getattr(importlib.import_module(module), make)()
        except ImportError as error:
            print(f"without {name}: {error}")


def prepare(peers: list, family, shape: Shape) -> list:
    """Everyone's training step of one family, ours first."""
    steps = [step for peer in peers for step in peer.prepare(make_problem(family, shape))]
    if family is LAYER_LSTM:
        steps += peers[0].prepare(make_problem(family, shape), recompute=True)
    return steps


def check(steps: list) -> list[str]:
    """A sentence for every implementation that disagrees with ours."""
    truth = steps[0].read(steps[0].call())
    errors = []
    for step in steps[1:]:
        error, name = largest_error(step.read(step.call()), truth)
        if not error <= TOLERANCE:
            errors.append(f"{step.name}'s {name} is off by {error:.1e} of its largest")
    return errors


def time_steps(steps: dict, threads: int, budget: Budget, wait: float = 0) -> dict[str, float]:
    """Best seconds of everyone's training step, by implementation and family."""

    def contestant(call):
        turn = looped(call)

        def seconds(loops: int, warm: int) -> float:
            machine.wait_for_idle(wait)
            return turn(loops, 1)  # in training one step follows another: threads are awake

        return seconds

    contestants = {
        f"{step.name} {family.name}": contestant(step.call)
        for family, of_family in steps.items()
        for step in of_family
        if step.only_threads in (None, threads)
    }
    return interleave(contestants, budget, keep=tuple(contestants))


def time_stream(peers: list, threads: int) -> dict[str, float]:
    """Best seconds of the next step of one sequence."""
    contestants = {}
    for peer in peers:
        peer.set_threads(threads)
        if hasattr(peer, "prepare_stream"):
            contestants[f"{peer.name} {LSTM.name}"] = looped(peer.prepare_stream(LSTM, STREAM))
    contestants[f"fastnorm {LAYER_LSTM.name}"] = looped(peers[0].prepare_stream(LAYER_LSTM, STREAM))
    return interleave(contestants, STREAM_BUDGET, keep=tuple(contestants))


if __name__ == "__main__":
    sys.exit(main())
