"""Beside others in one process: OpenMP's limits and regions, threadpoolctl, and no threads to be had."""

import itertools
import os

import numpy as np
import pytest
from interpreter import THREADS, output_of

import fastnorm
from fastnorm import _config

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/self/task") or not _config._openmp, reason="needs /proc/self/task and OpenMP"
)

HELPERS = f"""{THREADS}
import numpy as np, fastnorm

x = np.random.default_rng(0).standard_normal((3000, 300)).astype(np.float32)
fastnorm.set_num_threads(1)
expected = fastnorm.layer_norm(x).tobytes()
fastnorm.set_num_threads(3)
"""

# ---- the OpenMP runtime ------------------------------------------------------------------------------------

THREADPOOLCTL = """
from threadpoolctl import threadpool_info, threadpool_limits
print([pool["user_api"] for pool in threadpool_info()].count("openmp") > 0)
with threadpool_limits(1):
    assert fastnorm.layer_norm(x).tobytes() == expected
    print(fastnorm.get_num_threads(), helpers())
with threadpool_limits(1, user_api="openmp"):
    print(fastnorm.get_num_threads())
assert fastnorm.layer_norm(x).tobytes() == expected
print(fastnorm.get_num_threads(), helpers())
"""


def test_threadpoolctl_sees_and_limits():
    pytest.importorskip("threadpoolctl")
    lines = output_of(HELPERS + THREADPOOLCTL, OMP_NUM_THREADS="3").splitlines()
    assert lines == ["True", "1 0", "1", "3 2"]


REGION = """
import ctypes
results = []

@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def body(unused):
    results.append((fastnorm.get_num_threads(), fastnorm.layer_norm(x).tobytes() == expected))

gomp = ctypes.CDLL("libgomp.so.1")
gomp.GOMP_parallel(body, None, 2, 0)
print(results == 2 * [(1, True)], helpers())
"""


def test_serial_inside_another_parallel_region():
    with open("/proc/self/maps") as maps:
        if "libgomp.so.1" not in maps.read():
            pytest.skip("the runtime is not libgomp")
    assert output_of(HELPERS + REGION) == "True 0"


# ---- processors that others keep busy ----------------------------------------------------------------------

CROWDED = """
import subprocess, sys
mine = os.sched_getaffinity(0)
busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in mine]
try:
    right = all(
        fastnorm.layer_norm(x).tobytes() == expected and os.sched_getaffinity(0) == mine
        for _ in range(2000)
    )
finally:
    for other in busy:
        other.kill()
masks = [os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")]
print(right, helpers(), all(mask == mine for mask in masks))
"""


def test_beside_busy_processes_every_thread_may_run_where_it_might_before():
    assert output_of(HELPERS + CROWDED) == "True 2 True"


# ---- no threads to be had ----------------------------------------------------------------------------------

FORBIDDEN = """
import resource, sys, threading
if sys.argv[1] == "processes":
    os.setuid(65534)  # the limit does not bind root
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
else:  # no room for another stack
    nbytes = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + (600 << 10)
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (nbytes, before[1]))
try:
    threading.Thread(target=int).start()
    forbidden = False
except RuntimeError:
    forbidden = True
fastnorm.layer_norm(x, out=y)
if sys.argv[1] == "memory":
    resource.setrlimit(resource.RLIMIT_AS, before)
print(forbidden, y.tobytes() == expected, helpers())
"""


@pytest.mark.parametrize("limit", ["processes", "memory"])
def test_without_threads_the_caller_works_alone(limit):
    if limit == "processes" and os.geteuid() != 0:
        pytest.skip("needs a user without other processes: root becomes one")
    printed = output_of(HELPERS + "y = np.empty_like(x)\n" + FORBIDDEN, limit)
    if printed.startswith("False"):
        pytest.skip("this limit keeps no thread from being made here")
    assert printed == "True True 0"


# ---- other libraries ---------------------------------------------------------------------------------------

OTHERS = {
    "torch": "import torch; torch.nn.functional.layer_norm(torch.zeros(3000, 300), (300,))",
    "sklearn": "import sklearn.cluster; sklearn.cluster.KMeans(3, n_init=1).fit(np.eye(300))",
    "numba": """
import numba
@numba.njit(parallel=True)
def total(a):
    s = 0.0
    for i in numba.prange(a.size):
        s += a[i]
    return s
assert total(np.ones(1000)) == 1000
""",
    "fastnorm": "import fastnorm; fastnorm.layer_norm(np.zeros((3000, 300), np.float32))",
}


@pytest.mark.parametrize("order", list(itertools.permutations(OTHERS)), ids="-".join)
def test_import_orders(order):
    for name in order:
        pytest.importorskip(name)
    work = "\n".join(OTHERS[name] for name in order)
    code = f"import os\nimport numpy as np\n{work}\n{HELPERS}\n{work}\n"
    code += (
        "print(fastnorm.layer_norm(x).tobytes() == expected, helpers(), len(os.listdir('/proc/self/task')))"
    )
    right, ours, every = output_of(code, timeout=200, PYTHONWARNINGS="ignore").split()
    assert (right, ours) == ("True", "2")
    # each of the others has pools of its own: OpenMP's twice, BLAS's, numba's
    assert int(every) <= 3 + 8 * len(os.sched_getaffinity(0)) + 8


def test_the_helpers_of_this_process_bear_a_name():
    x = np.zeros((3000, 300), np.float32)
    with fastnorm.num_threads(2):
        fastnorm.layer_norm(x)
    defined = {}
    exec(THREADS, defined)
    assert defined["helpers"]() >= 1
