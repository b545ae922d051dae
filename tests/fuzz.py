"""Random calls of every function against the oracle: `python -m tests.fuzz --minutes 30`.

Each case (fuzz_cases.py) is checked for right results, untouched inputs and the same bits (fuzz_checks.py),
every tenth for its errors (fuzz_errors.py). A failing case is made smaller and printed as a line for
tests/fuzz_corpus.jsonl, which the suite replays. The cases run in a process of their own, so that one that
ends it, or hangs, is named too.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent
# test the fastnorm that is installed, not the checkout; find the helpers by their plain names
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != TESTS.parent]
sys.path.insert(0, str(TESTS))

from fuzz_cases import draw, smaller  # noqa: E402
from fuzz_checks import check  # noqa: E402
from fuzz_errors import check_errors  # noqa: E402

CORPUS = TESTS / "fuzz_corpus.jsonl"
HANGS = 120  # seconds that no case takes
MANY = 20  # different failures after which it ends


def main(argv=None):
    args = parse(argv)
    if args.replay:
        return replay(args.replay)
    if args.seconds_of_child:
        return fuzz(args.seed, args.seconds_of_child, Path(args.progress))
    return watch(args.seed, 60 * args.minutes)


def parse(argv):
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0, help="the first case's; the next has the next")
    parser.add_argument("--replay", metavar="CASE", help="a case, or a file of cases, one a line")
    parser.add_argument("--seconds-of-child", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--progress", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def watch(seed, seconds):
    """Run the cases in a child; go on behind one that ends it."""
    end, failed, first = time.monotonic() + seconds, False, seed
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder) / "seed"
        while (left := end - time.monotonic()) > 0:
            progress.write_text(str(seed))
            options = ["--seed", str(seed), "--seconds-of-child", str(left), "--progress", str(progress)]
            child = subprocess.Popen([sys.executable, "-m", "tests.fuzz", *options], cwd=TESTS.parent)
            status = wait(child, progress)
            seed = int(progress.read_text()) + 1
            if status in (0, 1):
                failed |= status == 1
                break
            failed = True
            print(f"ended the process with status {status}: {json.dumps(draw(seed - 1))}", flush=True)
    print(f"{seed - first} cases from seed {first} in {seconds - max(0, end - time.monotonic()):.0f} s: "
          f"{'FAILED' if failed else 'clean'}")  # fmt: skip
    return int(failed)


def wait(child, progress):
    """The child's status; it is killed if one case takes too long."""
    while True:
        try:
            return child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            if time.time() - progress.stat().st_mtime > HANGS:
                child.kill()
                child.wait()
                return "hangs"


def fuzz(seed, seconds, progress):
    """Cases from this seed on, until the time is up."""
    end, known = time.monotonic() + seconds, set()
    with open(progress, "r+b", buffering=0) as file:
        while time.monotonic() < end and len(known) < MANY:
            os.pwrite(file.fileno(), b"%d" % seed, 0)
            case = draw(seed)
            error = failure(case, errors_too=seed % 10 == 0)
            if error and (kind := (case["function"], error[:60])) not in known:
                known.add(kind)
                case, error = minimal(case, error)
                print(f"{error}\n{json.dumps(case)}\n", flush=True)
            seed += 1
    return int(bool(known))


def failure(case, errors_too=True):
    """What is wrong with this case, or None."""
    try:
        check(case)
        if errors_too:
            check_errors(case)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


def minimal(case, error):
    """The smallest case found that fails in the same way."""
    while True:
        for simpler in smaller(case):
            again = failure(simpler)
            if again and again[:20] == error[:20]:
                case, error = simpler, again
                break
        else:
            return case, error


def replay(what):
    lines = Path(what).read_text().splitlines() if not what.startswith("{") else [what]
    cases = [json.loads(line) for line in lines if line.strip()]
    bad = [(case, error) for case in cases if (error := failure(case))]
    for case, error in bad:
        print(f"{error}\n{json.dumps(case)}\n")
    print(f"{len(cases)} cases, {len(bad)} failed")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
