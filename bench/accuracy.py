"""Largest float32 error when the mean is far from zero: `python -m bench.accuracy`.

Layer norm of (64, 768) values with deviation 1, against fastnorm.reference in float64 on the same
float32 input; the forward's error as it is, the backward's as a share of the largest dx.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

if not __package__:  # run as a file, not with -m
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.bench_norms import optional_peers
from bench.cases import Arrays, Case, Layout
from bench.peers import Fastnorm, NumPy

SHAPE = (64, 768)
DIRECTIONS = ("forward", "backward")
MEANS = (0, 1e2, 1e4, 1e6)


def main(argv: list[str] | None = None) -> int:
    """Print the errors of every implementation as a Markdown table."""
    argparse.ArgumentParser(prog="python -m bench.accuracy", description=__doc__.split("\n")[0]).parse_args(
        argv
    )
    import fastnorm
    from fastnorm import reference

    cases = [Case(Layout("layer", "layer", SHAPE, (), ()), each, "float32", "small") for each in DIRECTIONS]
    peers = [
        peer
        for peer in (Fastnorm(fastnorm), NumPy(), *optional_peers())
        if any(peer.prepare(case, draw(0)) for case in cases)  # some only know other norms
    ]
    print("| direction | mean | " + " | ".join(peer.name for peer in peers) + " |")
    print("| --- | --- |" + " --- |" * len(peers))
    for case in cases:
        for mean in MEANS:
            arrays = draw(mean)
            truth = Fastnorm(reference).prepare(case, arrays)()[0]
            scale = 1.0 if case.direction == "forward" else np.abs(truth).max()
            cells = []
            for peer in peers:
                call = peer.prepare(case, arrays)
                error = np.abs(peer.to_numpy(call()[0], case) - truth).max() / scale if call else None
                cells.append("" if error is None else f"{error:.1e}")
            print(f"| {case.direction} | {mean:,.0f} | " + " | ".join(cells) + " |")
    return 0


def draw(mean: float) -> Arrays:
    """Inputs with this mean; the parameters are 1 and 0, so that the errors are those of the norm itself."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(SHAPE) + mean).astype(np.float32)
    dy = rng.standard_normal(SHAPE, dtype=np.float32)
    return Arrays(x, dy, np.ones(SHAPE[-1], np.float32), np.zeros(SHAPE[-1], np.float32))


if __name__ == "__main__":
    sys.exit(main())
