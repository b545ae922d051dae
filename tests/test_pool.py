"""The memory of large results: taken from the pool, given back, bounded, switched off; threads and forks."""

import gc
import os
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from interpreter import output_of, run
from tolerances import DTYPES

import fastnorm
from fastnorm import _memory, _pool

MIB = 1 << 20
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs anonymous mappings")


@pytest.fixture(autouse=True)
def empty_pool():
    """Nothing retained, and room for a few results."""
    gc.collect()
    fastnorm.set_pool_bytes(0)
    fastnorm.set_pool_bytes(64 * MIB)
    yield
    fastnorm.set_pool_bytes(None)


def rows(nbytes, dtype=np.float32):
    """An input of so many bytes."""
    x = np.arange(nbytes // np.dtype(dtype).itemsize, dtype=np.float32) % 251
    return x.astype(dtype).reshape(-1, 1024)


def retained():
    return _pool.state()["retained"]


def counts():
    """(fresh, reused) requests so far."""
    state = _pool.state()
    return np.array([state["fresh"], state["reused"]])


# ---- reuse -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("nbytes", [_pool.LEAST, MIB, 5 * MIB])
def test_the_memory_of_the_last_result_serves_the_next(nbytes, dtype):
    x = rows(nbytes, dtype)
    before = counts()
    y = fastnorm.layer_norm(x)
    first, expected = y.ctypes.data, y.copy()
    assert retained() == 0
    del y
    assert nbytes <= retained() < nbytes * 9 / 8
    y = fastnorm.layer_norm(x)
    assert y.ctypes.data == first
    assert retained() == 0
    np.testing.assert_array_equal(y.view(np.uint8), expected.view(np.uint8))
    assert (counts() - before).tolist() == [1, 1]


def test_a_gradient_takes_the_memory_of_a_result():
    x = rows(MIB)
    y, stats = fastnorm.layer_norm(x, return_stats=True)
    first = y.ctypes.data
    del y
    assert fastnorm.layer_norm_backward(x, x, stats).dx.ctypes.data == first


def test_memory_with_a_view_on_it_is_not_handed_out():
    x = rows(MIB)
    y = fastnorm.layer_norm(x)
    view = y[3:5, ::2]
    expected = view.copy()
    del y
    others = [fastnorm.layer_norm(2 * x + 1) for _ in range(3)]
    assert retained() == 0
    np.testing.assert_array_equal(view, expected)
    assert not any(np.shares_memory(view, other) for other in others)


def test_a_block_serves_a_slightly_smaller_result_only():
    fastnorm.layer_norm(rows(8 * MIB))
    before = counts()
    fastnorm.layer_norm(rows(8 * MIB - 4096))
    assert (counts() - before).tolist() == [0, 1]
    fastnorm.layer_norm(rows(7 * MIB - 4096))
    assert (counts() - before).tolist() == [1, 1]


def test_small_results_are_numpys():
    before = counts()
    fastnorm.layer_norm(rows(_pool.LEAST // 2))
    assert (counts() - before).tolist() == [0, 0]


# ---- the bound ---------------------------------------------------------------------------------------------


def test_no_more_is_retained_than_the_bound():
    fastnorm.set_pool_bytes(3 * MIB)
    results = [fastnorm.layer_norm(rows(MIB)) for _ in range(8)]
    newest = results[-1].ctypes.data
    while results:
        del results[0]
        assert retained() <= 3 * MIB
    assert retained() == 3 * MIB
    assert fastnorm.layer_norm(rows(MIB)).ctypes.data == newest
    fastnorm.layer_norm(rows(4 * MIB))  # larger than the bound: not retained, and nothing makes room for it
    assert retained() == 3 * MIB
    fastnorm.set_pool_bytes(MIB)
    assert fastnorm.get_pool_bytes() == retained() == MIB


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_what_is_beyond_the_bound_goes_back_to_the_system():
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    x = rows(32 * MIB)
    y = fastnorm.layer_norm(x)
    with_result = resident()
    del y
    assert resident() > with_result - 8 * MIB  # retained
    fastnorm.set_pool_bytes(0)
    assert resident() < with_result - 24 * MIB
    fastnorm.set_pool_bytes(MIB)
    for _ in range(10):
        fastnorm.layer_norm(x)
    assert resident() < with_result - 24 * MIB


@pytest.mark.parametrize("wrong", [-1, 1.5, "3", True, [2]])
def test_what_is_no_bound(wrong):
    with pytest.raises((TypeError, ValueError), match=r"^n is .*, needs an int"):
        fastnorm.set_pool_bytes(wrong)
    assert fastnorm.get_pool_bytes() == 64 * MIB


def test_the_default_bound_is_a_share_of_the_memory(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a\n")
    (tmp_path / "sys/fs/cgroup/a").mkdir(parents=True)
    limit = tmp_path / "sys/fs/cgroup/a/memory.max"
    limit.write_text(f"{256 * MIB}\n")
    assert _memory.memory_limit(tmp_path) == 256 * MIB
    limit.write_text("max\n")
    assert _memory.memory_limit(tmp_path) == _memory.memory_limit()
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/a\n")
    (tmp_path / "sys/fs/cgroup/memory/a").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory/a/memory.limit_in_bytes").write_text(f"{128 * MIB}\n")
    assert _memory.memory_limit(tmp_path) == 128 * MIB


def test_environment_and_show_config():
    code = "import fastnorm; fastnorm.show_config()"
    assert output_of(code, FASTNORM_POOL_BYTES="1234567").splitlines()[-1] == (
        "pool        0 of at most 1234567 bytes retained (FASTNORM_POOL_BYTES is set)"
    )
    done = run(code, FASTNORM_POOL_BYTES="1e9")
    assert done.stderr.splitlines()[-1] == (
        "ImportError: FASTNORM_POOL_BYTES is '1e9', needs a number of bytes, 0 for no pool"
    )


# ---- the off switch ----------------------------------------------------------------------------------------


def test_switched_off_results_are_numpys():
    x = rows(2 * MIB)
    kept = fastnorm.layer_norm(x)
    fastnorm.set_pool_bytes(0)
    before = counts()
    expected = fastnorm.layer_norm(x)
    assert (counts() - before).tolist() == [0, 0]
    np.testing.assert_array_equal(kept, expected)
    del kept  # made before: its memory goes back to the system
    assert retained() == 0
    assert output_of(
        "import numpy as np, fastnorm; from fastnorm import _pool\n"
        "fastnorm.layer_norm(np.ones((1024, 1024))); print(_pool.state()['fresh'])",
        FASTNORM_POOL_BYTES="0",
    ) == "0"  # fmt: skip


# ---- as NumPy's arrays -------------------------------------------------------------------------------------


def test_a_result_can_be_resized():
    x = rows(MIB)
    y = fastnorm.layer_norm(x)
    expected = y.copy()
    y.resize((x.shape[0] * 3, 1024), refcheck=False)
    np.testing.assert_array_equal(y[: x.shape[0]], expected)
    assert not y[x.shape[0] :].any()
    y.resize((2, 1024), refcheck=False)
    np.testing.assert_array_equal(y, expected[:2])
    y.resize((0, 1024), refcheck=False)
    assert y.size == 0
    del y
    assert retained() <= 64 * MIB


def test_a_result_owns_its_memory():
    y = fastnorm.layer_norm(rows(MIB))
    assert y.flags.owndata
    assert y.base is None
    assert y.flags.aligned
    assert y.flags.writeable


def test_tracemalloc_sees_results():
    x = rows(4 * MIB)
    tracemalloc.start()
    try:
        for _ in range(2):  # fresh memory, and reused
            before = tracemalloc.get_traced_memory()[0]
            y = fastnorm.layer_norm(x)
            assert tracemalloc.get_traced_memory()[0] - before >= x.nbytes
            del y
            assert tracemalloc.get_traced_memory()[0] - before < MIB
    finally:
        tracemalloc.stop()


def test_other_arrays_do_not_come_from_the_pool():
    before = counts()
    fastnorm.layer_norm(rows(MIB))
    during = counts()
    assert during.sum() == before.sum() + 1
    np.ones(MIB)
    assert (counts() == during).all()


def test_memory_order_and_broadcast_inputs():
    x = rows(MIB)
    y = fastnorm.layer_norm(x.T, axis=0)
    assert y.flags.f_contiguous
    np.testing.assert_array_equal(y.T, fastnorm.layer_norm(x))
    wide = np.broadcast_to(x[0], x.shape)
    np.testing.assert_array_equal(fastnorm.layer_norm(wide), fastnorm.layer_norm(wide.copy()))


# ---- threads and forks -------------------------------------------------------------------------------------


def test_many_threads_take_and_give():
    inputs = [rows(n * MIB // 4) + n for n in range(1, 9)]
    expected = [fastnorm.layer_norm(x) for x in inputs]
    fastnorm.set_pool_bytes(4 * MIB)
    start = threading.Barrier(4)

    def work(seed):
        rng = np.random.default_rng(seed)
        start.wait()
        held = []
        for _ in range(60):
            i = int(rng.integers(len(inputs)))
            held.append((i, fastnorm.layer_norm(inputs[i])))
            if len(held) > 3:
                i, y = held.pop(int(rng.integers(len(held))))
                if not np.array_equal(y, expected[i]):
                    return False
        return all(np.array_equal(y, expected[i]) for i, y in held)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    gc.collect()
    assert retained() <= 4 * MIB


def test_a_result_may_die_in_another_thread():
    results = [fastnorm.layer_norm(rows(MIB))]
    thread = threading.Thread(target=results.clear)
    thread.start()
    thread.join()
    assert retained() == MIB


FORK = """
import os, numpy as np, fastnorm
from fastnorm import _pool
x = np.random.default_rng(0).standard_normal((512, 1024))
expected = fastnorm.layer_norm(x)
kept = fastnorm.layer_norm(x)
fastnorm.layer_norm(x)
before = _pool.state()["retained"]
child = os.fork()
if child == 0:
    good = _pool.state()["retained"] == 0
    good &= np.array_equal(fastnorm.layer_norm(x), expected)
    del kept
    good &= np.array_equal(fastnorm.layer_norm(x), expected)
    good &= _pool.state()["reused"] > 0 and _pool.state()["retained"] > 0
    os._exit(0 if good else 1)
status = os.waitpid(child, 0)[1]
print(status, before == _pool.state()["retained"] > 0, np.array_equal(kept, expected))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_starts_with_an_empty_pool():
    assert output_of(FORK) == "0 True True"


USER_HANDLER = """
import numpy as np, fastnorm
from numpy._core.multiarray import get_handler_name
y = fastnorm.layer_norm(np.ones((1024, 1024)))
print(get_handler_name(y), get_handler_name(np.ones(3)))
"""


def test_the_handler_stays_with_its_arrays():
    assert output_of(USER_HANDLER) == "fastnorm_pool default_allocator"
