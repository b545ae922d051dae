"""No verb reads or writes beyond its arrays, or writes an input: around them memory faults when touched.

A process of its own runs the calls, so that a fault there is a failure here.
"""

import ctypes
import mmap
import os
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
from kernels import TIERS

PAGE = mmap.PAGESIZE
mprotect = ctypes.CDLL(None).mprotect


class Pages:
    """Stands for `kernels.Memory`: an array that begins or ends where memory does; inputs are read-only."""

    data_pages = 8
    at_end = True
    free: ClassVar = []  # mappings that no array uses any more

    def __init__(self, shape, dtype, layout=None):
        self.map = self.free.pop() if self.free else self.new_map()
        self.protect(mmap.PROT_READ | mmap.PROT_WRITE)
        bytes_needed = int(np.prod(shape)) * np.dtype(dtype).itemsize
        assert bytes_needed <= self.data_pages * PAGE
        offset = PAGE + (self.data_pages * PAGE - bytes_needed if self.at_end else 0)
        self.view = np.frombuffer(self.map, dtype, int(np.prod(shape)), offset).reshape(shape)

    def __del__(self):
        self.free.append(self.map)

    @classmethod
    def new_map(cls):
        new = mmap.mmap(-1, (cls.data_pages + 2) * PAGE)
        for page in (0, cls.data_pages + 1):
            cls.set_protection(new, page, 1, 0)
        return new

    @staticmethod
    def set_protection(area, page, count, protection):
        start = ctypes.addressof(ctypes.c_char.from_buffer(area)) + page * PAGE
        assert mprotect(ctypes.c_void_p(start), ctypes.c_size_t(count * PAGE), protection) == 0

    def protect(self, protection):
        self.set_protection(self.map, 1, self.data_pages, protection)

    @classmethod
    def holding(cls, a, layout=None):
        memory = cls(a.shape, a.dtype)
        memory.view[...] = a
        memory.protect(mmap.PROT_READ)
        return memory

    def assert_unchanged(self, what):
        pass

    assert_guards = assert_unchanged


def call_everything(tier):
    import kernels
    import test_kernels
    import test_kernels_tiles

    kernels.Memory = test_kernels_tiles.Memory = Pages
    rng = np.random.default_rng(0)
    for Pages.at_end in (True, False):
        for kind in kernels.KINDS:
            verbs = kind.verbs(tier)
            # any tail of any vector; before the first element there is none
            for n in [*range(1, 36), 63, 64, 65] if Pages.at_end else [1, 17, 33]:
                for rows in (1, 5) if n % 8 < 2 else (1 + n % 5,):
                    call_all_verbs(kernels, test_kernels, test_kernels_tiles, verbs, kind, (rows, n), rng)
    print("no fault")


def call_all_verbs(kernels, reducing, tiles, verbs, kind, shape, rng):
    x, dy = kernels.make_values(rng, shape, kind), kernels.make_values(rng, shape, kind)
    for mask in (None, rng.random(shape) < 0.5):
        reducing.moments_rows(verbs, x[None], mask if mask is None else mask[None], True, None)
        reducing.moments_cols(verbs, x, mask, True, None)
        for form in ("along", "by row"):
            param = {name: kernels.Param(rng, form, shape, kind) for name in ("mean", "rstd", "weight")}
            both = {"weight": kernels.Param(rng, "both", shape, kind)}
            reducing.dots(verbs, False, dy, x, mask, param | both, None)
            reducing.dots(verbs, True, dy, x, mask, param, None, 0)
            adjoint = {name: kernels.Param(rng, form, shape, kind) for name in ("c1", "c2")}
            tiles.call(verbs, "combine", (dy, x, mask), param | adjoint, None)
            affine = {name: kernels.Param(rng, form, shape, kind) for name in ("comp", "bias", "prescale")}
            tiles.call(verbs, "apply", (x,), param | affine, None)
    moments = tiles.make_moments(rng, shape[1])
    tiles.finalize(verbs, moments, 1e-5, 0, True)
    merged = tiles.make_merged(rng, shape[1])
    tiles.merge(verbs, merged, merged)


@pytest.mark.skipif(not hasattr(mmap, "PROT_READ"), reason="needs memory protection")
@pytest.mark.parametrize("tier", TIERS)
def test_nothing_outside_is_touched(tier):
    command = [sys.executable, "-X", "faulthandler", __file__, tier]
    # found even where PYTHONSAFEPATH is set
    path = os.pathsep.join(filter(None, [os.path.dirname(__file__), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "no fault"


if __name__ == "__main__":
    call_everything(sys.argv[1])
