"""What this build is: show_config, a build without OpenMP or at all, the types that come with it."""

import ast
import contextlib
import importlib
import importlib.metadata
import inspect
import io
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from interpreter import output_of, run

import fastnorm
from fastnorm import _config, _norm

PACKAGE = Path(fastnorm.__file__).parent
ROWS = ["fastnorm", "python", "compiler", "tiers", "openmp", "threads", "pool"]
UNSET = {"FASTNORM_NUM_THREADS": None, "OMP_NUM_THREADS": None}


def config():
    """show_config's rows."""
    file = io.StringIO()
    assert fastnorm.show_config(file) is None
    return parse(file.getvalue())


def parse(text):
    rows = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert list(rows) == ROWS
    return rows


def test_show_config_prints_each_row():
    rows = config()
    assert rows["fastnorm"] == fastnorm.__version__ == importlib.metadata.version("fastnorm")
    assert rows["python"] == f"{sys.version.split()[0]}, NumPy {np.__version__}"
    assert rows["compiler"].startswith(("GCC ", "Clang "))
    tiers = f"{', '.join(fastnorm.isa_tiers())}; in use: {fastnorm.isa()}"
    assert rows["tiers"].removesuffix(" (FASTNORM_ISA is set)") == tiers
    assert rows["threads"].split()[0] == str(fastnorm.get_num_threads() if _config._openmp else 1)


def test_show_config_goes_to_standard_output(capsys):
    fastnorm.show_config()
    assert parse(capsys.readouterr().out) == config()


@pytest.mark.skipif(not _config._openmp, reason="built without OpenMP")
def test_show_config_names_the_openmp_runtime():
    state, _, path = config()["openmp"].partition(": ")
    assert state == "loaded"
    if Path("/proc/self/maps").exists():
        assert all(Path(p).is_file() for p in path.split(", "))


@pytest.mark.skipif(not _config._openmp, reason="built without OpenMP")
def test_show_config_says_why_so_many_threads():
    fastnorm.set_num_threads(3)
    try:
        assert config()["threads"] == "3 (set_num_threads())"
        with fastnorm.num_threads(2):
            assert config()["threads"] == "2 (num_threads() in this context)"
    finally:
        fastnorm.set_num_threads(None)
    for name in ("FASTNORM_NUM_THREADS", "OMP_NUM_THREADS"):
        text = output_of("import fastnorm; fastnorm.show_config()", **UNSET | {name: "2"})
        assert parse(text)["threads"] == f"2 ({name} is set)"


# ---- without OpenMP ----------------------------------------------------------------------------------------

SERIAL = """
import os, sys, warnings
import numpy as np

class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "fastnorm._openmp":
            raise ImportError("libgomp.so.1: cannot open shared object file")

if sys.argv[1] == "broken":
    sys.meta_path.insert(0, Broken())
else:
    sys.modules["fastnorm._openmp"] = None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fastnorm
    fastnorm.set_num_threads(4)
    before = len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 0
    y = fastnorm.layer_norm(np.arange(900_000, dtype=np.float32).reshape(3000, 300))
    after = len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 0
print(after - before, len(caught), *[f"{w.category.__name__}: {w.message}" for w in caught], sep="\\n")
fastnorm.show_config()
"""


def test_built_without_openmp():
    started, warned, *rows = output_of(SERIAL, "missing").splitlines()
    assert (started, warned) == ("0", "0")
    assert parse("\n".join(rows))["openmp"] == "not built in"
    assert parse("\n".join(rows))["threads"].startswith("1 ")


def test_openmp_runtime_that_cannot_be_loaded():
    started, warned, warning, *rows = output_of(SERIAL, "broken").splitlines()
    assert (started, warned) == ("0", "1")
    assert warning == (
        "RuntimeWarning: fastnorm runs on one thread: its OpenMP runtime could not be loaded "
        "(libgomp.so.1: cannot open shared object file)"
    )
    assert "could not be loaded" in parse("\n".join(rows))["openmp"]
    assert parse("\n".join(rows))["threads"].startswith("1 ")


# ---- without a build ---------------------------------------------------------------------------------------

IMPORT = """
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
sys.meta_path[:] = [BuiltinImporter, FrozenImporter, PathFinder]  # not that of an editable install
sys.path.insert(0, sys.argv[1])
import fastnorm
"""


@pytest.fixture
def checkout(tmp_path):
    """The package's Python files alone."""
    shutil.copytree(
        PACKAGE, tmp_path / "fastnorm", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    )
    return tmp_path


def test_a_checkout_says_what_to_run(checkout):
    done = run(IMPORT, str(checkout))
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "ImportError: fastnorm's compiled modules are missing: this is a checkout that has not been built; "
        "run `pip install .` in it, or leave its folder to import an installed fastnorm"
    )
    assert "During handling" not in done.stderr


def test_another_missing_module_is_not_taken_for_a_missing_build(checkout):
    (checkout / "fastnorm" / "_norm.py").write_text("import a_module_that_nobody_has\n")
    done = run(IMPORT, str(checkout))
    last = done.stderr.strip().splitlines()[-1]
    assert last == "ModuleNotFoundError: No module named 'a_module_that_nobody_has'"


# ---- types -------------------------------------------------------------------------------------------------

STUBS = sorted(path.stem for path in PACKAGE.glob("*.pyi"))


def test_types_are_installed():
    assert (PACKAGE / "py.typed").is_file()
    assert "_norm" in STUBS


@pytest.mark.parametrize("name", STUBS)
def test_stubs_are_true(name):
    module = importlib.import_module(f"fastnorm.{name}")
    for node in ast.parse((PACKAGE / f"{name}.pyi").read_text()).body:
        if isinstance(node, ast.FunctionDef):
            assert arguments(node) == runtime_arguments(getattr(module, node.name)), node.name
        elif isinstance(node, ast.ClassDef):
            assert inspect.isclass(getattr(module, node.name))
        elif isinstance(node, ast.AnnAssign) and not node.target.id.startswith("_"):  # an alias of the stub's
            assert hasattr(module, node.target.id), node.target.id


def arguments(node):
    """The names of a stub's parameters, and how each may be passed."""
    plain = [(a.arg, "plain") for a in node.args.posonlyargs + node.args.args]
    return plain + [(a.arg, "keyword") for a in node.args.kwonlyargs]


def runtime_arguments(function):
    with contextlib.suppress(ValueError):
        kinds = {inspect.Parameter.KEYWORD_ONLY: "keyword"}
        return [(p.name, kinds.get(p.kind, "plain")) for p in inspect.signature(function).parameters.values()]
    pytest.skip(f"{function.__name__} tells no signature")


def test_the_private_modules_of_the_tests_are_not_public():
    assert not hasattr(fastnorm, "tier_capsule")
    assert hasattr(_norm, "tier_capsule")
    assert "fastnorm._verbs" not in output_of("import sys, fastnorm; print(*sys.modules)").split()
