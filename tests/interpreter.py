"""Running code in a fresh interpreter, for what is decided at import or may hang."""

import os
import subprocess
import sys


def run(code, *arguments, timeout=60, **environment):
    """The finished process. Variables that are None are unset; -P keeps the checkout from being imported."""
    env = {k: v for k, v in (os.environ | environment).items() if v is not None}
    command = [sys.executable, "-P", "-c", code, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)


def output_of(code, *arguments, timeout=60, **environment):
    """What the code prints; it must succeed, and print nothing to stderr."""
    done = run(code, *arguments, timeout=timeout, **environment)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.strip()
