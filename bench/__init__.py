"""Benchmarks of fastnorm against other implementations; `python -m bench.bench_norms` runs them."""

import sys
from pathlib import Path

# Measure the fastnorm that is installed: the checkout, whose fastnorm/ has no compiled modules, goes last.
_root = Path(__file__).resolve().parent.parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _root] + [str(_root)]
