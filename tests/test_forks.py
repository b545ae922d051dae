"""Forked children and worker processes: right bits and no hang, whatever the parent did with threads."""

import importlib.util
import os
import subprocess
import sys

import pytest
from interpreter import output_of

from fastnorm import _config

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
counts_threads = pytest.mark.skipif(
    not os.path.exists("/proc/self/task") or not _config._openmp, reason="needs /proc/self/task and OpenMP"
)

FORK = """
import os, sys, threading, warnings
import numpy as np, fastnorm
warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is the point
x = np.random.default_rng(0).standard_normal((4000, 200)).astype(np.float32)
fastnorm.set_num_threads(4)
expected = fastnorm.layer_norm(x).tobytes()
busy = threading.Event()
stop = threading.Event()

def work():
    while not stop.is_set():
        fastnorm.layer_norm(x)
        busy.set()

def child(depth):
    right = fastnorm.layer_norm(x).tobytes() == expected
    if right and depth:
        right = fork(depth - 1)
    os._exit(0 if right else 1)

def fork(depth):
    pid = os.fork()
    if pid == 0:
        child(depth)
    return os.waitpid(pid, 0)[1] == 0

results = [fork(1)]
if sys.argv[1] == "beside a busy thread":
    thread = threading.Thread(target=work)
    thread.start()
    busy.wait()
    results += [fork(0) for _ in range(10)]
    stop.set()
    thread.join()
results.append(fastnorm.layer_norm(x).tobytes() == expected)
print(all(results))
"""


@pytest.mark.parametrize("when", ["idle", "beside a busy thread"])
def test_a_forked_child_works(when):
    assert output_of(FORK, when) == "True"


BEFORE = """
import os
import subprocess
import sys
import numpy as np, fastnorm
fastnorm.set_num_threads(3)
pid = os.fork()
x = np.zeros((4000, 200), np.float32)
fastnorm.layer_norm(x)
count = len(os.listdir("/proc/self/task"))
if pid == 0:
    os._exit(count)
print(count, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(
    not os.path.exists("/proc/self/task") or not _config._openmp, reason="needs /proc and OpenMP"
)
def test_a_child_of_a_process_without_threads_has_its_own():
    assert output_of(BEFORE, OPENBLAS_NUM_THREADS="1") == "3 3"


AFTER = """
import os
import subprocess
import sys
import numpy as np, fastnorm
fastnorm.set_num_threads(3)
x = np.zeros((4000, 200), np.float32)
fastnorm.layer_norm(x)
pid = os.fork()
if pid == 0:
    alone = len(os.listdir("/proc/self/task"))
    fastnorm.layer_norm(x)
    os._exit(10 * alone + len(os.listdir("/proc/self/task")))
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(
    not os.path.exists("/proc/self/task") or not _config._openmp, reason="needs /proc and OpenMP"
)
def test_a_child_of_a_process_with_threads_makes_new_ones():
    assert output_of(AFTER, OPENBLAS_NUM_THREADS="1") == "13"


WORKERS = """
import os, sys, warnings
import numpy as np, fastnorm

def work(seed):
    x = np.random.default_rng(seed).standard_normal((3000, 200)).astype(np.float32)
    fastnorm.set_num_threads(3)
    y, stats = fastnorm.layer_norm(x, return_stats=True)
    dx = fastnorm.layer_norm_backward(y, x, stats).dx
    return y.tobytes() + fastnorm.batch_norm(x).tobytes() + dx.tobytes()

if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is the point
    expected = [work(seed) for seed in range(6)]
    if sys.argv[1] == "loky":
        import joblib
        results = joblib.Parallel(n_jobs=2, backend="loky")(joblib.delayed(work)(seed) for seed in range(6))
    else:
        import multiprocessing
        with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
            results = pool.map(work, range(6))
    print(results == expected)
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn", "loky"])
def test_worker_processes(method, tmp_path):
    if method == "loky" and not importlib.util.find_spec("joblib"):
        pytest.skip("joblib is not installed")
    script = tmp_path / "workers.py"  # spawned workers import the main module from its file
    script.write_text(WORKERS)
    done = subprocess.run(
        [sys.executable, "-P", str(script), method], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"
