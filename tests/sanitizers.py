"""The C code under the compiler's sanitizers: `python -m tests.sanitizers [address] [thread]`.

address   an AddressSanitizer and UndefinedBehaviorSanitizer build with the baseline kernels alone, under the
          tests of kernels, planner, pool, masks, odd arrays and recurrent engine, and the fuzzer's corpus
thread    tests/races.c and races_rnn.c under ThreadSanitizer: helpers, pool, drivers and the recurrent
          engine, plain C without an interpreter

Both unless one is named. CONTRIBUTING.md says what they cannot see. Needs gcc with its sanitizer libraries.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = [
    *("test_kernels.py", "test_kernels_tiles.py", "test_kernels_storage.py", "test_plan.py", "test_pool.py"),
    "test_bad_luck.py::test_other_arrays_give_plain_results",
    "test_bad_luck.py::test_arrays_that_another_thread_changes",
    *("test_recurrent_engine.py", "test_where.py", "test_fuzz.py::test_corpus"),
]
FLAGS = "-std=c17 -O1 -g -ffp-contract=off -fno-math-errno -fno-trapping-math -DFN_TIER=baseline"


def main(names):
    known = {"address": address, "thread": thread}
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"no sanitizer is called {unknown[0]!r}; there are: {', '.join(known)}")
    with tempfile.TemporaryDirectory() as folder:
        failed = [name for name in names or known if known[name](Path(folder)) != 0]
    print(f"sanitizers: {', '.join(failed) + ' FAILED' if failed else 'clean'}", flush=True)
    return int(bool(failed))


def address(folder):
    target = folder / "installed"
    options = ["b_sanitize=address,undefined", "b_lundef=false", "optimization=1", "debug=true", "tiers="]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target]
    if importlib.util.find_spec("mesonpy"):  # the build tools are here
        command.append("--no-build-isolation")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(
        [*command, *(f"--config-settings=setup-args=-D{option}" for option in options), ROOT],
        check=True,
        env=os.environ | {"PATH": path},
    )
    # -S leaves out the site's .pth files, and with them an editable install of another build
    site = next(p for p in sys.path if p.endswith("site-packages"))
    env = os.environ | {
        "LD_PRELOAD": ":".join(library(name) for name in ("libasan.so", "libubsan.so")),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own; tests/leaks.py looks for ours
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": os.pathsep.join([str(target), site]),
    }
    command = [sys.executable, "-S", "-m", "pytest", "-x", "-p", "no:cacheprovider", *TESTS]
    return subprocess.run(command, cwd=ROOT / "tests", env=env).returncode


def library(name):
    return subprocess.run(
        ["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True
    ).stdout.strip()


def thread(folder):
    recurrent = {*(ROOT / "src").glob("rnn*.c")}
    plain = {*(ROOT / "src").glob("*.c")} - recurrent
    threads = {ROOT / "src" / name for name in ("helpers.c", "parallel.c", "pull.c", "wait.c")}
    return races(folder, "races.c", plain) or races(folder, "races_rnn.c", recurrent | threads)


def races(folder, test, sources):
    """Compile this test with these sources, and run it."""
    sources = sorted(file for file in sources if not file.match("*_tmpl.c"))
    program = folder / test.removesuffix(".c")
    command = ["gcc", *FLAGS.split(), "-fsanitize=thread", "-o", program, ROOT / "tests" / test, *sources]
    subprocess.run([*command, "-lm", "-pthread"], check=True)
    done = subprocess.run(
        [program], env=os.environ | {"TSAN_OPTIONS": "halt_on_error=1"}, stdout=subprocess.PIPE
    )
    return done.returncode or int(done.stdout != b"done\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
