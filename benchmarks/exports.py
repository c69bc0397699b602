"""Exports side by side: size against the weights, images/s, time to the first image of a process.

    TFGEN_RUNTIMES=ENVIRONMENT python benchmarks/exports.py [--name vae_2d_mnist] [--repeats 5]

ENVIRONMENT is a virtual environment without TensorFlow that has the packages of tests/runtimes.py;
without the variable one is made. Each measurement is a process of its own that loads one file,
draws a batch with `sample`, and then draws for a second: the sides take turns. The SavedModel runs
in this Python with TensorFlow alone. Sizes are those of `sample`, with its weights, against the
bytes of the weights that it reads; the limit is 1.3.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import runtimes

TARGET = 1.3
CLIENT = Path(__file__).with_name("exports_client.py")
SAVED = "tf_saved_model"
SIDES = {SAVED: SAVED} | {r: format for format, rs in runtimes.RUNTIMES.items() for r in rs}


def size_of(folder: Path, format: str) -> int:
    """Bytes of what `sample` needs."""
    if format == SAVED:
        paths = [folder / "saved_model.pb", *folder.glob("variables/*")]
    else:
        paths = [path for path in folder.glob("*.*") if path.suffix not in (".json", "")]
    return sum(path.stat().st_size for path in paths)


def exported(model, root: Path, batch: int) -> dict[str, Path]:
    """Writes every format that can hold `sample`; returns its folder."""
    folders = {SAVED: model.export(root / "model")}
    for format in runtimes.RUNTIMES:
        options = {"batch": batch} if format == "stablehlo" else {}
        folder = root / format
        try:
            folders[format] = model.export(folder, format=format, endpoints=["sample"], **options)
        except ValueError as refused:
            print(refused)
    return folders


def measured(python: Path | str, runtime: str, folder: Path, batch: int) -> dict[str, float]:
    """One process: seconds from its start to its first images, and images/s after."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    begin = time.perf_counter()
    command = [str(python), str(CLIENT), runtime, str(folder), str(batch)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    first = process.stdout.readline()
    seconds = time.perf_counter() - begin
    rest = process.stdout.read()
    if process.wait() or not first.startswith("first"):
        raise SystemExit(f"{runtime} failed on {folder.name}; its error is above.")
    return {"first": seconds, "rate": float(rest)}


def main() -> int:
    parser = common.parser(__doc__, repeats=5)
    parser.add_argument("--name", default="vae_2d_mnist", help="zoo entry without classes")
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root, batch = Path(scratch), arguments.batch_size
        python = runtimes.environment(root / "environment")
        folders = exported(common.zoo_model(arguments.name), root, batch)
        with np.load(folders["stablehlo"] / "weights.npz") as held:
            weights = sum(held[name].nbytes for name in held.files)
        sizes = {format: size_of(folder, format) for format, folder in folders.items()}
        own = {runtime: sys.executable if runtime == SAVED else python for runtime in SIDES}

        def side(runtime, format):
            return lambda: measured(own[runtime], runtime, folders[format], batch)

        sides = {runtime: side(runtime, format) for runtime, format in SIDES.items()}
        sides = {runtime: call for runtime, call in sides.items() if SIDES[runtime] in folders}
        rounds = common.interleaved(sides, arguments.repeats)
    rows, figures = [], {"weights": weights, "sizes": sizes, "runtimes": {}}
    base = [round_["rate"] for round_ in rounds[SAVED]]
    for runtime, found in rounds.items():
        rates = [round_["rate"] for round_ in found]
        first = common.summary([round_["first"] for round_ in found])
        against, size = common.ratio(rates, base), sizes[SIDES[runtime]]
        median = common.summary(rates)["median"]
        figures["runtimes"][runtime] = {"rates": rates, "against": against, "first": first}
        cells = (f"{size:,}", f"{size / weights:.2f}", f"{median:,.0f}")
        rows.append([runtime, *cells, f"{against['ratio']:.2f}", f"{first['median']:.1f} s"])
    header = ["runtime", "bytes", "of weights", "images/s", "of SavedModel", "first images"]
    table = common.format_table(header, rows)
    # The SavedModel holds every endpoint, so the limit is for the others.
    most = max(size / weights for format, size in sizes.items() if format != SAVED)
    verdict = f"{arguments.name}: files are at most {most:.2f} times the weights (limit {TARGET})"
    return common.finish(table, figures, most <= TARGET, verdict, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
