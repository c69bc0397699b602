"""What glibc's allocator settings do to a training step, with and without XLA.

defaults      glibc as it comes
mallopt       tfgen.training.tune_allocator(), called by the running process as `tfgen train` does
environment   MALLOC_* variables, set before Python starts

Each combination with jit_compile on or off runs in a separate process. The processes stay alive,
have compiled and warmed up before the first round, and take turns to train with `model.fit`: one
works while the others sleep. Next to images/s the table shows minor page faults per step, that is
how often a step needed a new page from the system. The limit: mallopt must reach 0.95 times the
images/s of the defaults.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
from typing import Any

import common
from peers.contract import peak_megabytes

TARGET = 0.95  # mallopt / defaults in images/s, at least, whatever jit_compile is
ALLOCATORS = ("defaults", "mallopt", "environment")
ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "2147483647",
    "MALLOC_TOP_PAD_": "268435456",
}


class Worker:
    """A process that trains when told: {"steps": n} in, images/s and faults per step out.

    Args:
        allocator: One of `ALLOCATORS`.
        jit_compile: Whether XLA compiles the step.
        name: Zoo entry or recipe file.
        seconds: Approximate length of a round.
        variables: More of its environment.
    """

    def __init__(
        self,
        allocator: str,
        jit_compile: bool,
        name: str,
        seconds: float,
        variables: dict[str, str] | None = None,
    ):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
        environment |= variables or {}
        if allocator == "environment":
            environment |= ENVIRONMENT
        self.faults: list[float] = []
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", __file__, "--name", name),
                *("--seconds", str(seconds), "--worker", allocator),
                *(["--jit-worker"] if jit_compile else []),
            ],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Sends one line and waits for the answer."""
        answer = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"a worker process exited with code {self._process.wait()}")
        return json.loads(answer)

    def measure(self, steps: int) -> float:
        """Trains; returns images/s and keeps the page faults."""
        answer = self.ask({"steps": steps})
        self.faults.append(answer["faults"])
        return answer["images_per_second"]

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def work(arguments: argparse.Namespace) -> int:
    """The worker's side: sets the allocator first, then imports, compiles and answers."""
    if arguments.worker == "mallopt":
        from tfgen.training import tune_allocator

        if not tune_allocator():
            print("this C library has no mallopt; nothing was changed", file=sys.stderr)
    training = common.Training(arguments.name, arguments.jit_worker)
    steps = training.steps_for(arguments.seconds)
    for line in sys.stdin:
        asked = json.loads(line)["steps"] or steps
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        rate = training.fit(asked)
        faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / asked
        answer = {"steps": asked, "images_per_second": rate, "faults": faults}
        answer["peak_megabytes"] = peak_megabytes()
        print(json.dumps(answer), flush=True)
    return 0


def measure(arguments: argparse.Namespace, settings: list[bool]):
    """Returns steps per round, images/s by configuration, and the workers, which have ended."""
    workers: dict[tuple[str, bool], Worker] = {}
    peaks: dict[tuple[str, bool], float] = {}
    try:
        steps = 0
        for jit_compile in settings:
            for allocator in ALLOCATORS:
                key = (allocator, jit_compile)
                workers[key] = Worker(*key, arguments.name, arguments.seconds)
                # The first to answer has compiled alone, and fixes the length of a round.
                steps = workers[key].ask({"steps": steps})["steps"]
        sides = {
            key: lambda worker=worker: worker.measure(steps) for key, worker in workers.items()
        }
        rounds = common.interleaved(sides, arguments.repeats)
        for key, worker in workers.items():
            peaks[key] = worker.ask({"steps": 1})["peak_megabytes"]
    finally:
        for worker in workers.values():
            worker.close()
    return steps, rounds, {key: worker.faults for key, worker in workers.items()}, peaks


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--name", default="vae_mnist", help="zoo entry or recipe file")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds per side and round")
    parser.add_argument("--jit", choices=("off", "on", "both"), default="both")
    parser.add_argument("--worker", choices=ALLOCATORS, help=argparse.SUPPRESS)
    parser.add_argument("--jit-worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return work(arguments)
    settings = {"off": [False], "on": [True], "both": [False, True]}[arguments.jit]
    steps, rounds, faults, peaks = measure(arguments, settings)

    rows, measured, ratios = [], [], {}
    for (allocator, jit_compile), values in rounds.items():
        speed = common.summary(values)
        fault = common.summary(faults[allocator, jit_compile])
        over = common.ratio(values, rounds["defaults", jit_compile])
        if allocator == "mallopt":
            ratios[jit_compile] = over["ratio"]
        rows.append(
            [
                f"{allocator}, jit {'on' if jit_compile else 'off'}",
                f"{speed['median']:,.0f}",
                f"{speed['min']:,.0f}..{speed['max']:,.0f}",
                f"{over['ratio']:.3f}",
                f"{over['min']:.3f}..{over['max']:.3f}",
                f"{fault['median']:,.0f}",
                f"{peaks[allocator, jit_compile]:,.0f}",
            ]
        )
        measured.append(
            {
                "allocator": allocator,
                "jit_compile": jit_compile,
                "images_per_second": speed,
                "over_defaults": over,
                "page_faults_per_step": fault,
                "peak_megabytes": peaks[allocator, jit_compile],
            }
        )
    header = (
        *("images/s", "median", "min..max", "/ defaults", "min..max"),
        *("faults per step", "peak MB"),
    )
    shown = ", ".join(f"{r:.3f} with jit {'on' if jit else 'off'}" for jit, r in ratios.items())
    return common.finish(
        f"{arguments.name}: {steps} steps per round, {arguments.repeats} rounds\n\n"
        f"{common.format_table(header, rows)}",
        {"name": arguments.name, "steps": steps, "measured": measured, "target": TARGET},
        min(ratios.values()) >= TARGET,
        f"mallopt / defaults = {shown}; limit at least {TARGET}",
        arguments.json,
    )


if __name__ == "__main__":
    sys.exit(main())
