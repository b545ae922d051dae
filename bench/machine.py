"""The machine and the versions that a result belongs to."""

import os
import platform
import time
from importlib import metadata
from pathlib import Path

CACHE_DIR = Path("/sys/devices/system/cpu/cpu0/cache")
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100  # a second
TOLD_FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16", "avx512_fp16", "asimd", "sve")
TOLD_PACKAGES = ("fastnorm", "numpy", "torch", "numba", "onnxruntime", "jax", "scikit-learn", "scipy")


def processors() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_nbytes(level: int, default: int) -> int:
    """Size of one data cache of a level; `default` where the system does not tell."""
    for index in sorted(CACHE_DIR.glob("index*")):
        if _read(index / "level") == str(level) and _read(index / "type") != "Instruction":
            size = _read(index / "size")
            if size.endswith("K"):
                return int(size[:-1]) << 10
    return default


def busy(seconds: float = 0.5) -> float:
    """How many processors other processes use, while this one sleeps; 0 where nobody tells."""
    before = _busy_ticks()
    time.sleep(seconds)
    return max(0.0, (_busy_ticks() - before) / TICKS / seconds)


def wait_for_idle(limit: float, moments: int = 3) -> None:
    """Sleep until a few looks in a row find no other process running, or for `limit` seconds; Linux only."""
    end, quiet = time.perf_counter() + limit, 0
    while quiet < moments and time.perf_counter() < end:
        running = _read(Path("/proc/loadavg")).split("/")[0].split()[-1:]
        quiet = quiet + 1 if running <= ["1"] else 0  # the one is this process
        time.sleep(0.0005)


def describe() -> dict:
    """CPU, caches, and the versions of everything compared."""
    cpu = _cpuinfo()
    flags = cpu.get("flags", cpu.get("Features", "")).split()
    versions = {"python": platform.python_version()}
    for package in TOLD_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu.get("model name", platform.processor() or platform.machine()),
        "family_model": f"{cpu.get('cpu family', '?')}/{cpu.get('model', '?')}",
        "flags": [flag for flag in TOLD_FLAGS if flag in flags],
        "processors": processors(),
        "busy_elsewhere": round(busy(), 2),
        "l2_nbytes": cache_nbytes(2, 1 << 20),
        "l3_nbytes": cache_nbytes(3, 0),
        "versions": versions,
    }


def warning(machine: dict) -> str:
    """A sentence if other processes disturb the measurement, else nothing."""
    if machine["busy_elsewhere"] < 0.1:
        return ""
    return (
        f"warning: other processes use {machine['busy_elsewhere']} of {machine['processors']} processors; "
        "times with all threads will be wrong by whole scheduler slices"
    )


def sentence(machine: dict) -> str:
    """One line for the head of a table."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['cpu']} (family/model {machine['family_model']}), {machine['processors']} processors, "
        f"L2 {machine['l2_nbytes'] >> 10} KiB each, L3 {machine['l3_nbytes'] >> 20} MiB; "
        f"{' '.join(machine['flags'])}; {versions}"
    )


def _cpuinfo() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo."""
    pairs = (line.partition(":") for line in _read(Path("/proc/cpuinfo")).split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _busy_ticks() -> int:
    """Clock ticks that all processors together have worked, from /proc/stat."""
    fields = _read(Path("/proc/stat")).split("\n")[0].split()[1:]
    user, nice, system, _idle, _wait, *interrupts = (
        (int(field) for field in fields[:8]) if fields else [0] * 8
    )
    return user + nice + system + sum(interrupts)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
