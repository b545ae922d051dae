"""Running code in a fresh interpreter, for what is decided at import or may hang."""

import os
import subprocess
import sys

# For code that runs there: the names of the process's threads, and how many of them are fastnorm's helpers.
# A thread that ends between the listing and the reading has no name any more.
THREADS = """
import os

def names():
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/comm") as file:
                yield file.read().strip()
        except (FileNotFoundError, ProcessLookupError):
            pass

def helpers():
    return list(names()).count("fastnorm")
"""

# from 3.12 on, CPython warns of every fork beside other threads
QUIET = "ignore:This process:DeprecationWarning"


def run(code, *arguments, timeout=60, **environment):
    """The finished process. Variables that are None are unset; -P keeps the checkout from being imported."""
    env = {k: v for k, v in (os.environ | environment).items() if v is not None}
    command = [sys.executable, "-P", "-W", QUIET, "-c", code, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)


def output_of(code, *arguments, timeout=60, **environment):
    """What the code prints; it must succeed, and print nothing to stderr."""
    done = run(code, *arguments, timeout=timeout, **environment)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.strip()
