"""What can go wrong around a call: signals, recursion, odd arrays, arrays that change, other libraries."""

import ctypes
import gc
import platform
import signal
import sysconfig
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from interpreter import output_of, run

import fastnorm
from fastnorm import nn

# ---- signals -----------------------------------------------------------------------------------------------

INTERRUPT = """
import os, signal, threading
import numpy as np, fastnorm

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
x = np.random.default_rng(0).standard_normal((4000, 1000)).astype(np.float32)
fastnorm.set_num_threads(3)
expected = fastnorm.layer_norm(x)
caught = 0
while caught < 3:  # once the signal may come before the call, or after it
    out = np.zeros_like(x)
    begin = threading.Event()

    def interrupt():
        begin.wait()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        begin.set()
        fastnorm.layer_norm(x, out=out)
        thread.join()
    except KeyboardInterrupt:
        if out[-1].any():
            assert (out == expected).all()
            caught += 1
    thread.join()
    assert fastnorm.layer_norm(x).tobytes() == expected.tobytes()
print("honoured after the call")
"""


def test_ctrl_c_is_honoured_after_the_call():
    assert output_of(INTERRUPT) == "honoured after the call"


def test_ctrl_c_without_a_handler_ends_the_process():
    code = "import fastnorm, numpy as np, os, signal; fastnorm.set_num_threads(3)\n"
    code += "x = np.zeros((3000, 400), np.float32); fastnorm.layer_norm(x)\n"
    code += "signal.signal(signal.SIGINT, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGINT)\n"
    code += "while True: fastnorm.layer_norm(x)"
    assert run(code).returncode == -signal.SIGINT


@pytest.mark.parametrize("timer", [signal.ITIMER_REAL, signal.ITIMER_PROF], ids=["real", "profiling"])
def test_signals_that_keep_coming_change_nothing(timer, rng):
    x = rng.standard_normal((3000, 300)).astype(np.float32)
    expected = fastnorm.layer_norm(x).tobytes()
    came = []
    number = signal.SIGALRM if timer == signal.ITIMER_REAL else signal.SIGPROF
    before = signal.signal(number, lambda *_: came.append(fastnorm.rms_norm(np.ones((3, 4)))))
    try:
        signal.setitimer(timer, 2e-4, 2e-4)
        with fastnorm.num_threads(3):
            while len(came) < 20:
                assert fastnorm.layer_norm(x).tobytes() == expected
    finally:
        signal.setitimer(timer, 0)
        signal.signal(number, before)


# ---- recursion ---------------------------------------------------------------------------------------------


class Array:
    """An array-like that calls fastnorm while it is read."""

    def __init__(self, a, depth):
        self.a, self.depth = a, depth

    def __array__(self, dtype=None, copy=None):
        if self.depth:
            inner = Array(self.a, self.depth - 1)
            _, stats = fastnorm.normalize(inner, 0, inner, where=self.a > -9, return_stats=True)
            fastnorm.normalize_backward(inner, self.a, stats, 0, inner)
            fastnorm.batch_norm(inner, channel_axis=1)
        return self.a


class Number(float):
    """A number that calls fastnorm when it is asked for."""

    def __float__(self):
        fastnorm.layer_norm(np.ones((5, 7, 2), np.float16), axis=(0, 2))
        return float.__float__(self)


class Index:
    """The same for an axis."""

    def __index__(self):
        fastnorm.layer_norm(np.ones((5, 7, 2)), axis=(0, 2))
        return 1


def test_a_call_inside_a_call(rng):
    x = rng.standard_normal((6, 9)).astype(np.float32)
    expected = fastnorm.normalize(x, 1, x, x, eps=0.5, where=x > -9).tobytes()
    once = Array(x, 2)
    where = Array(x > -9, 0)
    for _ in range(3):
        y = fastnorm.normalize(once, Index(), once, once, eps=Number(0.5), where=where)
        assert y.tobytes() == expected


def test_endless_recursion_is_an_error():
    class Endless:
        def __array__(self, dtype=None, copy=None):
            return fastnorm.layer_norm(self)

    with pytest.raises(RecursionError):
        fastnorm.layer_norm(Endless())
    assert (fastnorm.layer_norm(np.ones((2, 3))) == 0).all()


@pytest.mark.skipif(sysconfig.get_config_var("Py_GIL_DISABLED"), reason="collects when it likes")
def test_results_may_be_collected_in_a_call(rng):
    # a finalizer that runs while the next result is allocated, and calls again
    x = rng.standard_normal((600, 700)).astype(np.float32)
    expected = fastnorm.layer_norm(x).tobytes()
    calls = []

    class Cycle:
        def __init__(self):
            self.me, self.y = self, fastnorm.layer_norm(x)

        def __del__(self):
            calls.append(fastnorm.batch_norm(x[:40]))

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(20):
            Cycle()
            assert fastnorm.layer_norm(x).tobytes() == expected
    finally:
        gc.set_threshold(*threshold)
    assert calls


# ---- arrays that are not what they seem --------------------------------------------------------------------


class Tagged(np.ndarray):
    """A subclass that refuses all of NumPy's own work."""

    def __array_ufunc__(self, *inputs, **options):
        raise AssertionError("a subclass was computed with")

    def __array_function__(self, *inputs, **options):
        raise AssertionError("a subclass was computed with")


def every_function(x, dy, channels, where, out):
    """All public functions on these arrays, of two dimensions and 4 columns; plain results."""
    y, stats = fastnorm.normalize(x, -1, channels, channels, where=where, out=out, return_stats=True)
    yield from (y, *stats, *fastnorm.normalize_backward(dy, x, stats, -1, channels, where=where))
    yield from (*fastnorm.moments(x, 0), *fastnorm.moments(x, 1, where=where))
    for name in ("layer_norm", "rms_norm", "batch_norm"):
        y, stats = getattr(fastnorm, name)(x, channels, return_stats=True)
        yield from (y, *stats, *getattr(fastnorm, name + "_backward")(dy, x, stats, channels))
    y, stats = fastnorm.group_norm(x, 2, channels, return_stats=True)
    yield from (y, *stats, *fastnorm.group_norm_backward(dy, x, stats, 2, channels))
    yield from (
        fastnorm.weight_norm(x, channels, axis=1),
        *fastnorm.weight_norm_backward(dy, x, channels, axis=1),
    )
    yield from (fastnorm.mean_only_batch_norm(x, channels), *fastnorm.mean_only_batch_norm_backward(dy))
    yield from (fastnorm.standardize(x), fastnorm.l2_normalize(x))
    running = np.array(channels, np.float64 if y.dtype == np.float64 else np.float32)
    running = {"running_mean": running, "running_var": running}
    yield fastnorm.batch_norm(x, **running, training=False)


def unaligned(a):
    memory = np.zeros(a.nbytes + 1, np.uint8)
    view = memory[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


KINDS = {
    "a subclass": lambda a: a.view(Tagged),
    "np.matrix": lambda a: a.view(np.matrix) if a.ndim == 2 else a,
    "np.memmap": lambda a: a.view(np.memmap),
    "np.recarray": lambda a: a.view(np.recarray),
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "byte-swapped and unaligned": lambda a: unaligned(a.astype(a.dtype.newbyteorder())),
    "unaligned": unaligned,
    "read-only": read_only,
    "of objects' buffers": memoryview,
}


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_other_arrays_give_plain_results(kind, dtype, rng):
    x, dy = rng.standard_normal((2, 6, 4)).astype(dtype)
    channels, where = np.abs(rng.standard_normal(4)).astype(np.float32), rng.random((6, 4)) < 0.7
    where[:, 0] = True
    expected = list(every_function(x, dy, channels, where, None))
    made = [KINDS[kind](a) for a in (x, dy, channels, where)]
    for actual, plain in zip(every_function(*made, None), expected, strict=True):
        assert type(actual) is type(plain)
        if plain is not None:
            assert actual.dtype == plain.dtype
            assert actual.dtype.isnative
            np.testing.assert_array_equal(actual, plain)


@pytest.mark.parametrize("position", range(5), ids=["x", "dy", "channels", "where", "out"])
def test_masked_arrays_are_refused(position, rng):
    x, dy, out = rng.standard_normal((3, 6, 4))
    arrays = [x, dy, rng.random(4), x > -9, out]
    arrays[position] = np.ma.masked_array(arrays[position], mask=False)
    with pytest.raises(TypeError, match=r"masked array|MaskedArray"):
        list(every_function(*arrays))


# ---- arrays that change ------------------------------------------------------------------------------------


def test_arrays_that_another_thread_changes(rng):
    # Whatever the results are: no crash, nothing written beyond them, and right again when the arrays rest.
    shape = (700, 96)
    x, dy = rng.standard_normal((2, *shape)).astype(np.float32)
    channels, where = np.abs(rng.standard_normal(96)).astype(np.float32), np.ones(shape, bool)
    rest = [a.copy() for a in (x, dy, channels, where)]
    expected = [np.asarray(a).tobytes() for a in every_function(*rest, None) if a is not None]
    stop = threading.Event()

    def change():
        odd = np.array([np.nan, np.inf, -np.inf, 3e38, 1e-45, 0, -1], np.float32)
        turn = np.random.default_rng(1)
        while not stop.is_set():
            row = turn.integers(700)
            x[row] = turn.choice(odd)
            dy[:, row % 96] = turn.choice(odd)
            channels[row % 96] = turn.choice(odd)
            where.view(np.uint8)[row, 1:] = turn.integers(256)  # the first column keeps every slice alive
            x[(row + 1) % 700] = row

    threads = [threading.Thread(target=change) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        with fastnorm.num_threads(3), np.errstate(all="ignore"):
            for _ in range(15):
                list(every_function(x, dy, channels, where, None))
                list(every_function(x, dy, channels, where, x))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    after = [np.asarray(a).tobytes() for a in every_function(*rest, None) if a is not None]
    assert after == expected


def test_running_statistics_of_many_threads(rng):
    # the same arrays updated by all: some order of updates, never a torn or a lost array
    x = rng.standard_normal((400, 64)).astype(np.float32)
    mean, var = np.zeros(64, np.float32), np.ones(64, np.float32)
    expected = fastnorm.moments(x, 0, correction=1)

    def work(_):
        for _ in range(30):
            fastnorm.batch_norm(x, running_mean=mean, running_var=var, momentum=0.5)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    np.testing.assert_allclose(mean, expected.mean, atol=1e-5)
    np.testing.assert_allclose(var, expected.var, rtol=1e-5)


# ---- the processor's floating-point mode -------------------------------------------------------------------

MODES = {"flushes denormals": 0x8040, "rounds up": 0x4000, "rounds down": 0x2000, "rounds to zero": 0x6000}


class Mode:
    """A mode of this thread, by its bits of MXCSR, as other libraries leave it behind."""

    def __init__(self, bits):
        self.bits, self.libm = bits, ctypes.CDLL("libm.so.6")

    def change(self, bits):
        environment = (ctypes.c_uint32 * 8)()  # glibc's fenv_t; MXCSR is the last of it
        self.libm.fegetenv(environment)
        environment[7] ^= bits
        self.libm.fesetenv(environment)

    def __enter__(self):
        self.change(self.bits)

    def __exit__(self, *error):
        self.change(self.bits)


modes = pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc",
    reason="knows glibc's fenv_t of x86-64",
)


@modes
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [1, 1e-40], ids=["normal", "denormal"])
def test_a_mode_that_another_library_set_changes_no_bit(mode, scale, rng):
    x, dy = rng.standard_normal((2, 4000, 64)).astype(np.float32)
    small = (x * scale).astype(np.float32)
    channels, where = np.abs(rng.standard_normal(64)).astype(np.float32), rng.random(x.shape) < 0.7
    where[:, 0] = where[0] = True
    net, sequence, turn = (
        nn.LSTM(16, 16, norm="layer", rng=0),
        x.reshape(200, 80, 16),
        dy.reshape(200, 80, 16),
    )

    def results():
        (h, _), backward = net(sequence)
        running = [np.zeros(64, np.float32), np.ones(64, np.float32)]
        fastnorm.batch_norm(small, running_mean=running[0], running_var=running[1])
        arrays = [*every_function(small, dy, channels, where, None), *running, h, backward(turn)[0]]
        return [np.asarray(a).tobytes() for a in arrays if a is not None]

    with fastnorm.num_threads(1):
        expected = results()
    for threads in (1, 3):
        with fastnorm.num_threads(threads), Mode(MODES[mode]):
            actual = results()
        assert actual == expected
    assert np.float32(1) + np.float32(1e-8) == 1  # the mode was put back


@modes
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.usefixtures("tier_in_use")
def test_nor_one_of_parameters_and_running_statistics(mode):
    small = np.linspace(-6e-8, 6e-6, 37)  # denormals of float16
    mean, var = small.astype(np.float16), np.abs(small).astype(np.float16)
    zeros, x = np.zeros(37, np.float32), np.zeros((4, 37), np.float32)

    def results():
        frozen = {"training": False, "return_stats": True}
        y, stats = fastnorm.batch_norm(
            x.astype(np.float16), running_mean=mean, running_var=var, eps=0, **frozen
        )
        # beyond float32: a deviation in double
        far, _ = fastnorm.batch_norm(x + 1e-30, running_mean=zeros, running_var=zeros, eps=1e-310, **frozen)
        moved = [mean.copy(), var.copy()]
        fastnorm.batch_norm(x.astype(np.float16), running_mean=moved[0], running_var=moved[1])
        weighted = [fastnorm.layer_norm(x, None, small.astype(d)) for d in (np.float16, np.float64)]
        return [a.tobytes() for a in (y, *stats, far, *moved, *weighted)]

    expected = results()
    with Mode(MODES[mode]):
        actual = results()
    assert actual == expected
