"""Runs what ../gpu.py prepared on this machine's first device. Needs numpy and jax alone.

    python measure.py OUT [--minutes 5] [--teraflops 495]

Prints a row of JSON per endpoint and batch: the share of values equal to the CPU's, the largest
difference, seconds of compilation, images per second (the median of 20 calls), the arithmetic per
second as XLA counts it, and with `--teraflops`, the card's limit, its share of that. XLA counts the
body of a loop once, so the arithmetic of a pixel model's `sample` is more. Then a row per training
step (train.py's `--check`). Stops after `--minutes`.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np
import runtime
import train


def measure(folder: Path, name: str, endpoint: dict, teraflops: float | None) -> dict:
    with np.load(folder / "answers.npz") as answers, np.load(folder / "weights.npz") as held:
        given = runtime.on_device(answers[f"{name}.in.{key}"] for key in endpoint["inputs"])
        weights = runtime.on_device(held[key] for key in endpoint["weights"])
        wanted = answers[f"{name}.out"].astype(np.float64)
    begin = time.perf_counter()
    run = runtime.compiled(folder / endpoint["file"])
    compile_seconds = time.perf_counter() - begin
    found = np.asarray(run.execute([*given, *weights])[0])
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        run.execute([*given, *weights])[0].block_until_ready()
        times.append(time.perf_counter() - begin)
    seconds, gigaflops = float(np.median(times)), runtime.gigaflops(run)
    rate = gigaflops and gigaflops / seconds
    error = np.abs(found.astype(np.float64) - wanted)
    return {
        "entry": folder.name.rpartition(".")[0],
        "endpoint": name,
        "batch": len(wanted),
        "equal": float(np.mean(error == 0)),
        "difference": float(error.max()),
        "compile_seconds": round(compile_seconds, 2),
        "images_per_second": round(len(wanted) / seconds, 1),
        "gigaflops_per_second": rate and round(rate, 1),
        "share_of_limit": rate and teraflops and round(rate / (1000 * teraflops), 4),
    }


def tasks(out: Path, teraflops: float | None):
    """Yields a function for each row, small batches first, then the trainings."""
    folders = [path.parent for path in out.glob("[!.]*/answers.npz")]
    for folder in sorted(folders, key=lambda path: int(path.suffix[1:])):
        described = json.loads((folder / "signatures.json").read_text())["endpoints"]
        for name, endpoint in described.items():
            yield lambda f=folder, n=name, e=endpoint: measure(f, n, e, teraflops)
    for path in sorted(out.glob("train.*/program.json")):
        yield lambda f=path.parent: train.check(f, train.Training(f))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--teraflops", type=float, help="the limit, e.g. 495 of an H100 in TF32")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    print(json.dumps({"device": str(jax.devices()[0].device_kind)}), flush=True)
    for task in tasks(options.out, options.teraflops):
        if time.monotonic() > end:
            print(json.dumps({"stopped": f"after {options.minutes} minutes"}))
            return
        print(json.dumps(task()), flush=True)


if __name__ == "__main__":
    main()
