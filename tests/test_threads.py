"""How many threads: settings, environment, affinity, cgroup; what many callers get."""

import asyncio
import contextvars
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import leaks
import numpy as np
import pytest
from interpreter import THREADS, output_of, run

import fastnorm
from fastnorm import _config, _threads

GET = "import fastnorm; print(fastnorm.get_num_threads())"
UNSET = {"FASTNORM_NUM_THREADS": None, "OMP_NUM_THREADS": None}


@pytest.fixture(autouse=True)
def default():
    """The number without any setting, which holds again after each test."""
    fastnorm.set_num_threads(None)
    yield fastnorm.get_num_threads()
    fastnorm.set_num_threads(None)


# ---- settings ----------------------------------------------------------------------------------------------


def test_set_num_threads(default):
    fastnorm.set_num_threads(5)
    assert fastnorm.get_num_threads() == 5
    fastnorm.set_num_threads(np.int64(3))
    assert fastnorm.get_num_threads() == 3
    assert type(fastnorm.get_num_threads()) is int
    fastnorm.set_num_threads(None)
    assert fastnorm.get_num_threads() == default


def test_num_threads_nests_and_ends(default):
    with fastnorm.num_threads(4):
        assert fastnorm.get_num_threads() == 4
        with fastnorm.num_threads(2):
            assert fastnorm.get_num_threads() == 2
        assert fastnorm.get_num_threads() == 4
        fastnorm.set_num_threads(9)  # of the process: the context's own number stays
        assert fastnorm.get_num_threads() == 4
    assert fastnorm.get_num_threads() == 9
    with pytest.raises(ZeroDivisionError), fastnorm.num_threads(6):
        1 / 0  # noqa: B018
    assert fastnorm.get_num_threads() == 9


def test_num_threads_holds_in_this_thread_only():
    with ThreadPoolExecutor(1) as pool, fastnorm.num_threads(7):
        assert pool.submit(fastnorm.get_num_threads).result() != 7
        fastnorm.set_num_threads(6)
        assert pool.submit(fastnorm.get_num_threads).result() == 6
        context = contextvars.copy_context()
        assert pool.submit(context.run, fastnorm.get_num_threads).result() == 7


def test_num_threads_holds_in_this_task_only():
    async def task(n, turns):
        with fastnorm.num_threads(n):
            for _ in range(turns):
                await asyncio.sleep(0)
                assert fastnorm.get_num_threads() == n

    async def main():
        await asyncio.gather(*(task(n, 5) for n in (2, 3, 4)))

    asyncio.run(main())


def test_num_threads_may_be_kept_and_entered_again(default):
    three = fastnorm.num_threads(3)
    for _ in range(2):
        with three, fastnorm.num_threads(2), three:
            assert fastnorm.get_num_threads() == 3
        assert fastnorm.get_num_threads() == default
    with three, ThreadPoolExecutor(1) as pool:

        def inside():
            with three:
                return fastnorm.get_num_threads()

        assert pool.submit(inside).result() == 3
        assert pool.submit(fastnorm.get_num_threads).result() == default
        assert fastnorm.get_num_threads() == 3
    assert three(fastnorm.get_num_threads)() == 3
    assert repr(three) == "fastnorm.num_threads(3)"


@pytest.mark.parametrize("setting", [fastnorm.set_num_threads, fastnorm.num_threads])
@pytest.mark.parametrize("wrong", [0, -1, -(10**30), True, False, np.True_, 1.5, 2.0, "3", [2], np.ones(2)])
def test_what_is_no_number_of_threads(setting, wrong, default):
    with pytest.raises((TypeError, ValueError), match=r"^n is .*, needs an int"), setting(wrong):
        pass
    assert fastnorm.get_num_threads() == default


def test_no_number_for_a_context():
    with pytest.raises(TypeError, match=r"^n is None, needs an int"), fastnorm.num_threads(None):
        pass


@pytest.mark.parametrize("many", [1000, 2**31, 2**63, 10**30])
def test_more_threads_than_work(many):
    # the number is a limit; what is not used need not exist
    x = np.arange(12.0).reshape(3, 4)
    with fastnorm.num_threads(many):
        fastnorm.layer_norm(x)


# ---- defaults ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fastnorm_variable", "omp_variable", "expected"),
    [("3", None, 3), (None, "5", 5), ("3", "5", 3), (None, "4,2", 4), (" 6 ", "5", 6), ("", "5", 5)],
)
def test_environment(fastnorm_variable, omp_variable, expected):
    environment = {"FASTNORM_NUM_THREADS": fastnorm_variable, "OMP_NUM_THREADS": omp_variable}
    assert output_of(GET, **environment) == str(expected)


@pytest.mark.parametrize("nonsense", ["0", "-2", "many", "1.5", "0,2"])
def test_nonsense_in_the_environment_is_no_setting_and_warns(nonsense):
    done = run(GET, FASTNORM_NUM_THREADS=nonsense, OMP_NUM_THREADS="5")
    assert done.stdout.strip() == "5"
    warning = f"RuntimeWarning: FASTNORM_NUM_THREADS is '{nonsense}', needs an int of 1 or more: ignored"
    assert done.stderr.count("Warning") == 1
    assert warning in done.stderr


@pytest.mark.parametrize("nonsense", ["0", "many"])
def test_nonsense_for_the_openmp_runtime_is_no_setting(nonsense):
    done = run(GET, **UNSET | {"OMP_NUM_THREADS": nonsense})  # the runtime may complain itself
    assert done.stdout.strip() == output_of(GET, **UNSET)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs processor affinity")
def test_affinity_limits_the_default():
    code = (
        f"import os; os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}}); {GET}; fastnorm.show_config()"
    )
    lines = output_of(code, **UNSET).splitlines()
    assert lines[0] == "1"
    assert any(
        line.startswith("threads") and "1 (processors of this process's affinity)" in line for line in lines
    )


@pytest.mark.skipif(not shutil.which("taskset"), reason="needs taskset")
def test_taskset_limits_the_default():
    env = {k: v for k, v in os.environ.items() if k not in UNSET}
    processor = str(min(os.sched_getaffinity(0)))
    command = ["taskset", "-c", processor, sys.executable, "-P", "-c", GET]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "1"


def tree(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


V1 = "12:pids:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"
CGROUPS = {
    "nothing at all": ({}, None),
    "version 2": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 1.5),
    "version 2, no limit": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, None),
    "version 2, root": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
    "version 2, no file": ({"proc/self/cgroup": "0::/a/b\n"}, None),
    "version 2, an ancestor's limit": (
        {
            "proc/self/cgroup": "0::/a/b/c\n",
            "sys/fs/cgroup/a/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            "sys/fs/cgroup/a/b/c/cpu.max": "300000 100000\n",
        },
        2.0,
    ),
    "version 2, the path is not visible inside a container": (
        {"proc/self/cgroup": "0::/docker/abc\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"},
        2.5,
    ),
    "version 2, a path above the namespace": (
        {"proc/self/cgroup": "0::/../x\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"},
        1.0,
    ),
    "version 1": (
        {
            "proc/self/cgroup": V1,
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
        },
        2.5,
    ),
    "version 1, no limit": (
        {
            "proc/self/cgroup": V1,
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
        },
        None,
    ),
    "version 1, mounted as cpu, the root's limit": (
        {
            "proc/self/cgroup": V1,
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000\n",
        },
        2.0,
    ),
    "version 1, nested": (
        {
            "proc/self/cgroup": V1,
            "sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us": "120000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "800000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
        },
        1.2,
    ),
    "both versions": (
        {
            "proc/self/cgroup": V1 + "0::/x\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
        },
        4.0,
    ),
    "garbage": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "what is this\n"}, None),
    "an empty file": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": ""}, None),
    "a period of 0": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "100 0\n"}, None),
    "garbage in proc": ({"proc/self/cgroup": "nonsense\n"}, None),
}


@pytest.mark.parametrize("name", CGROUPS)
def test_cgroup_quota(name, tmp_path):
    files, expected = CGROUPS[name]
    assert _threads.cgroup_quota(tree(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("quota", "expected"), [(0.5, 1), (1.9, 1), (2.5, 2), (3.0, 3), (4.0, 4), (99.0, 4), (None, 4)]
)
def test_quota_and_affinity(quota, expected, monkeypatch):
    for name in UNSET:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(_threads, "cgroup_quota", lambda: quota)
    n, why = _threads.default_threads()
    assert n == expected
    assert ("cgroup" in why) == (quota is not None and quota < 4)


counts_threads = pytest.mark.skipif(
    not os.path.exists("/proc/self/task") or not _config._openmp, reason="needs /proc/self/task and OpenMP"
)


# ---- threads at work ---------------------------------------------------------------------------------------

TASKS = """
import os, sys
import numpy as np, fastnorm
count = lambda: len(os.listdir("/proc/self/task"))
before = count()
x = np.zeros((4000, 200), np.float32)
with fastnorm.num_threads(int(sys.argv[1])):
    fastnorm.batch_norm(x[:100].reshape(5, 40, 100))
    small = count()
    fastnorm.layer_norm(x)
    print(small - before, count() - before)
"""


@counts_threads
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_are_started_for_large_arrays_only(threads):
    assert output_of(TASKS, str(threads)) == f"0 {threads - 1}"


SHARED = """
import threading
import numpy as np, fastnorm

x = np.zeros((3000, 300), np.float32)
start = threading.Barrier(12)

def work():
    start.wait()
    for _ in range(30):
        fastnorm.layer_norm(x)

fastnorm.set_num_threads(3)
threads = [threading.Thread(target=work) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(helpers())
"""


@counts_threads
def test_many_callers_share_the_helpers():
    # 12 callers with 3 threads each: not 24 more threads, but the 2 that one caller may have
    assert output_of(THREADS + SHARED) == "2"


def test_concurrent_callers_get_the_right_bits(rng):
    arrays = [rng.standard_normal((900 + 100 * i, 90)).astype(np.float32) for i in range(8)]
    weight = rng.standard_normal(90).astype(np.float32)

    def work(x):
        y, stats = fastnorm.layer_norm(x, weight, weight, return_stats=True)
        columns, saved = fastnorm.batch_norm(x, weight, weight, return_stats=True)
        grads = fastnorm.layer_norm_backward(y, x, stats, weight)
        return b"".join(
            a.tobytes() for a in (y, columns, *grads, *fastnorm.batch_norm_backward(y, x, saved, weight))
        )

    with fastnorm.num_threads(1):
        expected = [work(x) for x in arrays]
    start = threading.Barrier(8)

    def repeat(i):
        start.wait()
        with fastnorm.num_threads(1 + i % 4):
            return all(work(arrays[i]) == expected[i] for _ in range(12))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(repeat, range(8)))


def test_every_function_from_many_threads_at_once():
    calls = [call for _, call in leaks.calls()]
    start = threading.Barrier(8)

    def work(i):
        start.wait()
        for call in calls[i:] + calls[:i]:
            call()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL")
def test_the_gil_stays_off():
    code = "import sys, fastnorm, fastnorm.nn, fastnorm.train; print(sys._is_gil_enabled())"
    assert output_of(code, PYTHON_GIL=None) == "False"


def test_the_gil_is_released(rng):
    # without forced switches another thread can run during a call only if the call lets it
    x, counted, stop = rng.standard_normal((3000, 1000)), [0], threading.Event()

    def count():
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0)

    thread, interval = threading.Thread(target=count), sys.getswitchinterval()
    sys.setswitchinterval(1000)
    thread.start()
    try:
        during = 0
        for _ in range(200):  # on a busy machine the other thread may not wake in time
            before = counted[0]
            with fastnorm.num_threads(1):
                fastnorm.layer_norm(x)
            during = during or counted[0] - before
            if during:
                break
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()
    assert during
