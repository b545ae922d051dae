"""Latency of tiny calls, where the way to the kernel costs more than the kernel.

`python -m bench.bench_calls`: one thread, best of many; microseconds for a whole call as a user writes it.
`bare` is an empty Python function with the same arguments, which no implementation can undercut.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

if not __package__:  # run as a file, not with -m
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import machine
from bench.bench_norms import optional_peers
from bench.cases import LAYOUTS, Case, Layout, make_arrays
from bench.peers import Fastnorm, NumPy
from bench.timing import Budget, interleave, looped

BUDGET = Budget(seconds=0.15, batch=0.0005, max_rounds=60)
SHAPES = (
    Layout("layer (1, 512)", "layer", (1, 512), (), ()),
    Layout("layer (64, 4)", "layer", (64, 4), (), ()),
    *LAYOUTS,
)


def main(argv: list[str] | None = None) -> int:
    """Print microseconds a call for every layout, then for the ways to call layer norm."""
    parser = argparse.ArgumentParser(prog="python -m bench.bench_calls", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    args = parser.parse_args(argv)
    import fastnorm

    optional = [peer for peer in optional_peers() if getattr(peer, "only_threads", 1) == 1]
    peers = [Fastnorm(fastnorm), NumPy(), *optional]
    names = ["fastnorm", "bare", *(peer.name for peer in peers[1:])]
    for peer in peers:
        peer.set_threads(1)
    told = machine.describe()
    print(machine.sentence(told))
    if warning := machine.warning(told):
        print(warning, file=sys.stderr)
    print(f"{'us a call':<48}" + "".join(f"{name:>10}" for name in names))
    rows = {}
    for layout in SHAPES:
        for direction in layout.directions:
            case = Case(layout, direction, "float32", "small")
            arrays, _ = make_arrays(case)
            calls = {peer.name: call for peer in peers if (call := peer.prepare(case, arrays))}
            calls["bare"] = lambda arrays=arrays: (bare(arrays.x, arrays.weight, arrays.bias, eps=1e-5),)
            rows[f"{layout.name} {direction} {case.shape}"] = time_calls(calls)
    for name, call in ways(fastnorm).items():
        rows[f"layer_norm (8, 64) {name}"] = time_calls({"fastnorm": call})
    for name, row in rows.items():
        cells = (f"{row[peer] * 1e6:>10.2f}" if peer in row else f"{'-':>10}" for peer in names)
        print(f"{name:<48}" + "".join(cells))
    if args.json:
        args.json.write_text(json.dumps({"machine": told, "seconds": rows}, indent=1) + "\n")
    return 0


def time_calls(calls: dict) -> dict[str, float]:
    """Best seconds of each call."""
    return interleave({name: looped(call) for name, call in calls.items()}, BUDGET, keep=tuple(calls))


def bare(x, weight=None, bias=None, *, axis=-1, eps=1e-5, out=None, return_stats=False):
    """The signature of layer_norm, and nothing behind it."""
    return x


def ways(fn) -> dict:
    """The ways to call layer norm: what each option costs."""
    x, out = np.zeros((8, 64), np.float32), np.empty((8, 64), np.float32)
    weight, bias = np.ones(64, np.float32), np.zeros(64, np.float32)
    wide = np.zeros((8, 128), np.float32)
    return {
        "x alone": lambda: fn.layer_norm(x),
        "weight, bias": lambda: fn.layer_norm(x, weight, bias),
        "out=": lambda: fn.layer_norm(x, weight, bias, out=out),
        "return_stats=True": lambda: fn.layer_norm(x, weight, bias, return_stats=True),
        "every second element": lambda: fn.layer_norm(wide[:, ::2], weight, bias),
        "axis=(0, 1)": lambda: fn.layer_norm(x, axis=(0, 1)),
        "moments": lambda: fn.moments(x, -1),
    }


if __name__ == "__main__":
    sys.exit(main())
