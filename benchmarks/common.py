"""What the benchmarks share: interleaved timing, a plain table, JSON, and the verdict.

A result is a ratio of two things measured in one run on one machine. The sides take turns, and the
side that goes first changes with each round, so a busy machine slows both equally. The result is
the ratio of the medians; its spread is that of the ratios within single rounds.

This module imports neither Keras nor TensorFlow until it must, so it can time their import.
"""

import argparse
import dataclasses
import io
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

__all__ = [
    "MARKS",
    "Training",
    "around_section",
    "finish",
    "format_table",
    "interleaved",
    "markdown",
    "parser",
    "ratio",
    "recipe_names",
    "save_chart",
    "summary",
    "write_section",
    "zoo_model",
]

MARKS = "osD^vPX*hp"  # of the lines of a chart, which can be told apart without colours

Rounds = dict[Any, list[Any]]  # {side: its measurement in each round}


def parser(description: str | None, repeats: int | None = 7) -> argparse.ArgumentParser:
    """Returns a parser with the flags that every benchmark has.

    Args:
        description: The script's docstring.
        repeats: Default of `--repeats`; None leaves the flag out.
    """
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if repeats is not None:
        made.add_argument(
            "--repeats", type=_at_least_one, default=repeats, help="rounds (default %(default)s)"
        )
    made.add_argument("--json", type=Path, metavar="PATH", help="write the results to this file")
    return made


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer, at least 1; received {text!r}")
    return int(text)


def interleaved(sides: dict[Any, Callable[[], Any]], repeats: int) -> Rounds:
    """Calls every side once per round and returns {side: its measurement in each round}.

    The side that begins changes with each round: ABC, BCA, CAB, ...
    """
    names = list(sides)
    rounds: Rounds = {name: [] for name in names}
    for index in range(repeats):
        start = index % len(names)
        for name in names[start:] + names[:start]:
            rounds[name].append(sides[name]())
    return rounds


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Returns the ratio of the medians, and the least and greatest ratio within one round."""
    each = [a / b for a, b in zip(numerator, denominator, strict=True)]
    medians = statistics.median(numerator) / statistics.median(denominator)
    return {"ratio": medians, "min": min(each), "max": max(each)}


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Returns the median, minimum, maximum and all values."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "all": list(values),
    }


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a plain text table: the first column to the left, the others to the right."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = []
    for row in cells:
        first, *rest = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        rest = [cell.strip().rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first, *rest]).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table for a page."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def around_section(page: Path, name: str) -> tuple[str, str]:
    """Returns what stands on a page before and after a section with its markers.

    Args:
        page: A file with `<!-- name: begin -->` and, later, `<!-- name: end -->`.
        name: The section's.

    Returns:
        The text before the first marker, and the text after the second.

    Raises:
        SystemExit: The page does not exist, or does not hold each marker once, in this order.
    """
    begin, end = _markers(name)
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found or text.count(begin) != 1 or text.count(end) != 1:
        raise SystemExit(
            f"the page to write must exist and hold {begin} and {end} once each, in this order; "
            f"received {page}."
        )
    return before, after


def write_section(page: Path, name: str, parts: Sequence[str]) -> None:
    """Puts paragraphs and tables between `<!-- name: begin -->` and `<!-- name: end -->`.

    Args:
        page: A page that holds both markers.
        name: The section's.
        parts: Its paragraphs and tables; what stood there before is replaced.

    Raises:
        SystemExit: As from `around_section`; the page stays as it is.
    """
    from tfgen.files import replacing

    before, after = around_section(page, name)
    begin, end = _markers(name)
    inside = "\n\n".join((begin, *parts, end))
    with replacing(page) as temporary:
        temporary.write_text(f"{before}{inside}{after}", encoding="utf-8")


def host() -> str:
    """Returns what a table was measured on, in words."""
    return f"{platform.machine()}, {STARTED_ON['cores']} CPU cores"


def save_chart(figure: Any, path: Path) -> None:
    """Writes a matplotlib figure as a small PNG, of at most 256 colours."""
    from PIL import Image

    from tfgen.files import replacing

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=100)
    few = (
        Image.open(drawn)
        .convert("RGB")
        .quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    )
    with replacing(path) as temporary:
        few.save(temporary, format="PNG", optimize=True)


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def machine() -> dict[str, Any]:
    """Returns the versions, the cores this process may use, and the load when it asks."""
    packages = ("tfgen", "keras", "tensorflow", "numpy")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "cores": cores,
        "system": f"{platform.system()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


STARTED_ON = machine()  # the load before the benchmark adds its own


def finish(
    table: str,
    figures: dict[str, Any],
    passed: bool,
    verdict: str,
    json_path: Path | None = None,
) -> int:
    """Prints table, machine and verdict, writes the JSON, and returns the exit code.

    Args:
        table: From `format_table`.
        figures: All results, as plain data.
        passed: Whether the limit is kept.
        verdict: One line with the result and the limit.
        json_path: Where the JSON goes, written whole or not at all; None for nowhere.
    """
    versions = " ".join(f"{name} {number}" for name, number in STARTED_ON["versions"].items())
    print(f"{table}\n")
    print(
        f"{versions}\n{STARTED_ON['cores']} cores, {STARTED_ON['system']}, "
        f"load average at the start {STARTED_ON['load']}"
    )
    print(f"{'PASS' if passed else 'FAIL'}: {verdict}", flush=True)
    if json_path is not None:
        from tfgen.files import replacing

        content = {
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "passed": passed,
            "verdict": verdict,
            "machine": STARTED_ON,
            "figures": figures,
        }
        with replacing(json_path) as path:
            path.write_text(json.dumps(content, indent=2) + "\n")
    return 0 if passed else 1


def recipe_names() -> list[str]:
    """Returns the checkout's zoo entries that have a recipe, trained or not."""
    zoo = Path(__file__).resolve().parents[1] / "zoo"
    return sorted(path.parent.name for path in zoo.glob("*/recipe.json"))


def zoo_model(name: str):
    """Returns an entry with its weights, or with initial ones if it is not trained yet."""
    from tfgen import training, zoo

    if (zoo.folder(name) / "config.json").is_file():
        return zoo.load(name)
    return training.build(zoo.load_recipe(name))


class Training:
    """A recipe's model and its batches, ready to be timed.

    Each pass starts at the first batch of the recipe's in-memory pipeline, whatever ran before, so
    all passes see the same images in the same order.

    Args:
        name: Zoo entry or recipe file.
        jit_compile: Whether XLA compiles the step; None leaves it to the recipe.
    """

    def __init__(self, name: str, jit_compile: bool | None = None):
        from tfgen import data, training, zoo

        recipe = zoo.load_recipe(name)
        if jit_compile is not None:
            recipe = dataclasses.replace(recipe, jit_compile=jit_compile)
        split = data.open_split(data.of_recipe(recipe), "train")
        steps_per_epoch = split.count // recipe.batch_size
        self.recipe = recipe
        self.model = training.build(recipe, steps_per_epoch)
        self.most_steps = recipe.epochs * steps_per_epoch
        self._batches = training.train_batches(recipe, split, self.model.num_classes is not None)

    def batches(self, steps: int):
        """Returns a finite dataset of the first `steps` batches, of known length."""
        import tensorflow as tf

        return self._batches.take(steps).apply(tf.data.experimental.assert_cardinality(steps))

    def fit(self, steps: int) -> float:
        """Trains with `model.fit` and returns images/s."""
        dataset = self.batches(steps)
        start = time.perf_counter()
        self.model.fit(dataset, shuffle=False, verbose=0)
        return steps * self.recipe.batch_size / (time.perf_counter() - start)

    def steps_for(self, seconds: float) -> int:
        """Compiles and warms up `fit`, and returns how many of its steps take `seconds`."""
        self.fit(2)
        steps = min(4, self.most_steps)
        while True:
            rate = self.fit(steps) / self.recipe.batch_size
            if steps / rate > seconds / 4 or steps == self.most_steps:
                return max(2, min(round(seconds * rate), self.most_steps))
            steps = min(4 * steps, self.most_steps)
