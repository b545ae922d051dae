"""Every layout, forward and backward, against the other implementations: `python -m bench.bench_norms`.

Each result is checked against fastnorm.reference before anything is timed; a wrong one ends its case, and the
command with exit code 1. No time is ever asserted.
"""

import argparse
import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

if not __package__:  # run as a file, not with -m
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import machine, report
from bench.cases import DTYPES, LINE, OFFSET, SIZES, Arrays, Case, all_cases, expected, make_arrays
from bench.peers import Fastnorm, NumPy, Peer
from bench.report import OURS
from bench.roofline import Memory, limit_passes
from bench.timing import Budget, interleave, looped

# Largest error allowed, relative to the largest true value: some roundings of the result's dtype.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
# The peers may be off by so many times more: PyTorch sums 16-bit parameter gradients in 16 bits.
PEER_SLACK = 10

# Peers that are measured where they are installed: what they are called, where they are written.
OPTIONAL = (
    ("PyTorch", "bench.peers_torch", "Torch"),
    ("numba", "bench.peers_numba", "Numba"),
    ("ONNX Runtime", "bench.peers_more", "OnnxRuntime"),
    ("JAX", "bench.peers_more", "Jax"),
    ("scikit-learn", "bench.peers_more", "scikit_learn"),
    ("SciPy", "bench.peers_more", "scipy_zscore"),
)

DEFAULT_BUDGET = Budget(seconds=0.25, batch=0.001, max_rounds=20)
QUICK_BUDGET = Budget(seconds=0.05, batch=0.0005, max_rounds=10)


def main(argv: list[str] | None = None) -> int:
    """Measure, or compare two earlier runs."""
    args = parse(argv)
    if args.compare:
        print(report.compare(*(json.loads(path.read_text()) for path in args.compare)))
        return 0
    import fastnorm
    from fastnorm import reference

    peers: list[Peer] = [Fastnorm(fastnorm), NumPy(), *optional_peers()]
    others = [peer.name for peer in peers[1:]]
    threads = args.threads or sorted({1, fastnorm.get_num_threads()})
    told = machine.describe()
    print(machine.sentence(told))
    if warning := machine.warning(told):
        print(warning, file=sys.stderr)
    print(report.header(others), flush=True)
    results, wrong = [], 0
    for case in select(args):
        arrays, part = make_arrays(case, args.offset)
        calls = {peer: call for peer in peers if (call := prepare(peer, case, arrays, max(threads)))}
        if errors := check(case, calls, Fastnorm(reference).prepare(case, part)()):
            print(*errors, sep="\n", flush=True)
            wrong += 1
            continue
        for count in threads:
            results.append(measure(case, calls, count, QUICK_BUDGET if args.quick else DEFAULT_BUDGET, told))
            print(report.line(results[-1], others), flush=True)
    if results:
        print(report.summary(results, others))
        write(args, told, results, others)
    elif not wrong:
        print("no case matches", file=sys.stderr)
        return 2
    if wrong:
        print(f"{wrong} cases gave a wrong result and were not timed", file=sys.stderr)
    return 1 if wrong else 0


def write(args: argparse.Namespace, told: dict, results: list[report.Result], others: list[str]) -> None:
    """The files asked for."""
    if args.json:
        run = {"machine": told, "offset": args.offset, "results": [r.to_json() for r in results]}
        args.json.write_text(json.dumps(run, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(report.markdown(results, others) + "\n")
    if args.chart:
        from bench import chart

        chart.draw(results, machine.sentence(told), args.chart)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.bench_norms", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="float32, small and cache-resident only")
    parser.add_argument("--filter", type=re.compile, metavar="REGEX", help="only cases whose name matches")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="default: all")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="default: all")
    parser.add_argument("--threads", type=int, nargs="+", metavar="N", help="default: 1 and all")
    parser.add_argument(
        "--offset",
        type=int,
        choices=range(0, LINE, 8),
        default=OFFSET,
        help=f"bytes past a cache line at which x and dy begin; default: {OFFSET}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw the results (needs matplotlib)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table of the README")
    parser.add_argument("--compare", type=Path, nargs=2, metavar="FILE", help="what changed between two runs")
    return parser.parse_args(argv)


def select(args: argparse.Namespace) -> Iterator[Case]:
    """The cases asked for."""
    dtypes = args.dtypes or (("float32",) if args.quick else DTYPES)
    if "bfloat16" in dtypes and importlib.util.find_spec("ml_dtypes") is None:
        print("without bfloat16: ml_dtypes is not installed")
        dtypes = [dtype for dtype in dtypes if dtype != "bfloat16"]
    sizes = args.sizes or (("small", "cache") if args.quick else SIZES)
    for case in all_cases(dtypes, sizes):
        if args.filter is None or args.filter.search(case.name):
            yield case


def optional_peers() -> Iterator[Peer]:
    """The implementations that are installed."""
    for name, module, make in OPTIONAL:
        try:
            yield getattr(importlib.import_module(module), make)()
        except ImportError as error:
            print(f"without {name}: {error}")


def prepare(peer: Peer, case: Case, arrays: Arrays, threads: int):
    """The peer's call, with its threads set."""
    peer.set_threads(threads)
    return peer.prepare(case, arrays)


def check(case: Case, calls: dict, exact: tuple) -> list[str]:
    """A sentence for every result that is not the oracle's."""
    errors = []
    for peer, call in calls.items():
        for result, (name, truth, repeats) in zip(call(), expected(case, exact), strict=False):
            error = relative_error(peer.to_numpy(result, case), truth, repeats)
            if not error <= TOLERANCES[case.dtype] * (1 if peer.name == OURS else PEER_SLACK):
                errors.append(f"WRONG {case.name}: {peer.name}'s {name} is off by {error:.1e} of its largest")
    return errors


def relative_error(result: np.ndarray, truth: np.ndarray, repeats: int) -> float:
    """Largest error over the largest true value; infinite for a wrong number of elements."""
    if result.size != repeats * truth.size:
        return np.inf
    difference = result.reshape(repeats, *truth.shape).astype(truth.dtype) - truth
    return float(np.abs(difference).max() / np.abs(truth).max())


def measure(case: Case, calls: dict, threads: int, budget: Budget, told: dict) -> report.Result:
    """Time everyone, and the memory limit among them."""
    memory = Memory(case.nbytes, threads)
    passes = limit_passes(case.arrays_read, case.unit_nbytes, told["l2_nbytes"])
    contestants = {"limit": lambda loops, warm: memory.seconds(passes, loops, warm)}
    for peer, call in calls.items():
        if getattr(peer, "only_threads", threads) == threads:
            peer.set_threads(threads)
            contestants[peer.name] = looped(call)
    seconds = interleave(contestants, budget, keep=("limit", OURS))
    memory.close()
    return report.Result(
        layout=case.layout.name,
        direction=case.direction,
        dtype=case.dtype,
        size=case.size,
        shape=case.shape,
        threads=threads,
        traffic=case.traffic,
        limit=seconds.pop("limit"),
        seconds=seconds,
    )


if __name__ == "__main__":
    sys.exit(main())
