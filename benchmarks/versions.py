"""Installs tfgen with each version of TensorFlow on each Python, and runs the contract's tests.

    python benchmarks/versions.py [--tensorflow 2.19 2.20] [--python 3.11 3.12] [--whole]

Each pair gets an environment of its own, `pip install ".[test]" "tensorflow==2.19.*"`, and runs
the fast tests of tests/test_contract.py on saving, loading, sampling, likelihoods, training and
exports. `--whole` runs all of that file, the slow ones too. An environment takes about 3 GB,
and is removed before the next one is made. Pythons are found as python3.11, ... on the PATH.

Prints one line per pair and then a table. Exits with 1 if a pair fails, or none could be run.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TENSORFLOW = ("2.19", "2.20", "2.21")
PYTHON = ("3.11", "3.12", "3.13")
NOT_MADE = {("2.19", "3.13"): "TensorFlow 2.19 was not built for Python 3.13"}
CHOSEN = "keras_file or preset or sampling or likelihood or overfits or exported_signatures"
CHOSEN += " or documented"


def run(*command, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def tried(tensorflow: str, python: str, whole: bool) -> str:
    """Returns what a pair gave: "passed", or what was in the way."""
    if reason := NOT_MADE.get((tensorflow, python)):
        return f"none: {reason}"
    interpreter = shutil.which(f"python{python}")
    if interpreter is None:
        return f"not run: no python{python} on the PATH"
    with tempfile.TemporaryDirectory() as scratch:
        made = run(interpreter, "-m", "venv", Path(scratch) / "environment")
        own = Path(scratch) / "environment" / "bin" / "python"
        if not made.returncode:
            wanted = (f"{ROOT}[test]", f"tensorflow=={tensorflow}.*")
            made = run(own, "-m", "pip", "install", "--quiet", *wanted)
        if made.returncode:
            return f"FAILED to install: {made.stdout.strip().splitlines()[-1]}"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        chosen = ("-m", "not nightly") if whole else ("-k", CHOSEN)
        done = run(
            *(own, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_contract.py"),
            *chosen,
            cwd=ROOT,
            env=environment,
        )
    print(done.stdout[-6000:] if done.returncode else "", end="", file=sys.stderr, flush=True)
    counts = re.findall(r"\d+ (?:passed|failed|error)", done.stdout)
    return f"{'FAILED' if done.returncode else 'passed'}: {', '.join(counts)}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tensorflow", nargs="+", default=TENSORFLOW)
    parser.add_argument("--python", nargs="+", default=PYTHON)
    parser.add_argument("--whole", action="store_true", help="all of tests/test_contract.py")
    options = parser.parse_args()
    found = {}
    for python in options.python:
        for tensorflow in options.tensorflow:
            begin = time.monotonic()
            found[tensorflow, python] = tried(tensorflow, python, options.whole)
            minutes = (time.monotonic() - begin) / 60
            print(
                f"TensorFlow {tensorflow}, Python {python}: {found[tensorflow, python]} "
                f"({minutes:.1f} min)",
                flush=True,
            )
    print(f"\n| | {' | '.join(f'Python {python}' for python in options.python)} |")
    print(f"|---|{'---|' * len(options.python)}")
    for tensorflow in options.tensorflow:
        cells = [found[tensorflow, python].partition(":")[0] for python in options.python]
        print(f"| TensorFlow {tensorflow} | {' | '.join(cells)} |")
    ran = [result for result in found.values() if result.startswith(("passed", "FAILED"))]
    return int(not ran or any(result.startswith("FAILED") for result in ran))


if __name__ == "__main__":
    sys.exit(main())
