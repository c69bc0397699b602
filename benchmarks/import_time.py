"""What `import tfgen` costs over `import keras` with the TensorFlow backend.

Each measurement is a new process, `python -c "import ..."`, from its start to its end; the two take
turns. One import of each goes first, so byte code and disk cache are warm for both. The limit:
1.05 times the wall time of Keras; the table also shows processor time (user + system), which other
work on the machine affects less.
"""

import os
import resource
import subprocess
import sys
import time

import common

TARGET = 1.05  # tfgen / keras, at most
MODULES = ("keras", "tfgen")


def seconds(module: str) -> tuple[float, float]:
    """Imports a module in a fresh process and returns (wall, processor) seconds."""
    command = [sys.executable, "-W", "ignore", "-c", f"import {module}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    arguments = common.parser(__doc__, repeats=11).parse_args()
    processor: common.Rounds = {module: [] for module in MODULES}

    def side(module: str):
        def measure() -> float:
            wall, cpu = seconds(module)
            processor[module].append(cpu)
            return wall

        return measure

    for module in MODULES:
        seconds(module)
    wall = common.interleaved({module: side(module) for module in MODULES}, arguments.repeats)
    rows, figures = [], {"target": TARGET}
    for kind, rounds in (("wall", wall), ("processor", processor)):
        over = common.ratio(rounds["tfgen"], rounds["keras"])
        figures[kind] = {module: common.summary(rounds[module]) for module in MODULES}
        figures[kind]["tfgen_over_keras"] = over
        for module in MODULES:
            measured = figures[kind][module]
            row = [
                f"import {module}, {kind}",
                f"{measured['median']:.3f}",
                f"{measured['min']:.3f}..{measured['max']:.3f}",
            ]
            if module == "tfgen":
                row += [f"{over['ratio']:.3f}", f"{over['min']:.3f}..{over['max']:.3f}"]
            else:
                row += ["", ""]
            rows.append(row)
    table = common.format_table(("seconds", "median", "min..max", "ratio", "min..max"), rows)
    figure = figures["wall"]["tfgen_over_keras"]["ratio"]
    return common.finish(
        f"{arguments.repeats} rounds, KERAS_BACKEND={os.environ['KERAS_BACKEND']}\n\n{table}",
        figures,
        figure <= TARGET,
        f"import tfgen / import keras = {figure:.3f}, limit at most {TARGET}",
        arguments.json,
    )


if __name__ == "__main__":
    sys.exit(main())
