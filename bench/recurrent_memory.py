"""Peak memory of one training step: `python -m bench.recurrent_memory NET T B I H` prints bytes.

A process for each measurement: the resident set's high-water mark once a net was made and did its first step,
less what was resident before (x and dy among it). So it holds parameters, gradients, results, and all that is
kept between forward and backward. A step in tiny shapes came before, so that no code is loaded and no thread
started meanwhile. Linux only.
"""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

if not __package__:  # run as a file, not with -m
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.peers_recurrent import LAYER_LSTM, LSTM, Fastnorm, Shape, make_problem

NETS = {
    "fastnorm LayerNorm-LSTM": (LAYER_LSTM, "fastnorm", {}),
    "fastnorm LayerNorm-LSTM, recompute": (LAYER_LSTM, "fastnorm", {"recompute": True}),
    "fastnorm LSTM": (LSTM, "fastnorm", {}),
    "torch LayerNorm-LSTM": (LAYER_LSTM, "torch", {}),
    "torch LSTM": (LSTM, "torch", {}),
}
TINY = Shape(2, 2, 4, 4)
ROOT = Path(__file__).resolve().parent.parent


def available() -> bool:
    """Whether this system tells a high-water mark and forgets it on demand."""
    return os.access("/proc/self/clear_refs", os.W_OK)


def measure(name: str, shape: Shape) -> int | None:
    """Bytes at the peak, in a process of its own; None where its packages are missing."""
    command = [sys.executable, "-m", "bench.recurrent_memory", name, *map(str, shape)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout)
    if "ModuleNotFoundError" in done.stderr:
        return None
    raise RuntimeError(f"{name} failed: {done.stderr}")


def peak(name: str, shape: Shape) -> int:
    """The same in this process."""
    family, whose, options = NETS[name]
    if whose == "torch":
        from bench.peers_recurrent_torch import Torch

        peer = Torch()
    else:
        peer = Fastnorm()
    peer.prepare(make_problem(family, TINY), **options)[0].call()
    problem = make_problem(family, shape)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _kilobytes("VmRSS")
    peer.prepare(problem, **options)[0].call()
    return (_kilobytes("VmHWM") - before) * 1024


def _kilobytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    raise KeyError(key)


if __name__ == "__main__":
    print(peak(sys.argv[1], Shape(*map(int, sys.argv[2:]))))
