"""Runs what ../gpu.py prepared on this machine's first device. Needs numpy and jax alone.

    python measure.py OUT [--minutes 5]

Prints a row per endpoint and batch: the share of values equal to the CPU's, the largest difference,
seconds of compilation, images per second (the median of 20 calls). Stops after `--minutes`.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np
from jax._src.lib import xla_client
from jaxlib.mlir.dialects import stablehlo

jax.config.update("jax_enable_x64", True)


def compiled(path: Path):
    """The executable of a StableHLO artifact on the first device."""
    program = stablehlo.deserialize_portable_artifact_str(path.read_bytes())
    devices = xla_client._xla.DeviceList(tuple(jax.devices()[:1]))
    options = xla_client.CompileOptions()
    return jax.devices()[0].client.compile_and_load(program, devices, options)


def measure(folder: Path, name: str, endpoint: dict) -> dict:
    with np.load(folder / "answers.npz") as answers, np.load(folder / "weights.npz") as held:
        given = [jax.device_put(answers[f"{name}.in.{key}"]) for key in endpoint["inputs"]]
        weights = [jax.device_put(held[key]) for key in endpoint["weights"]]
        wanted = answers[f"{name}.out"].astype(np.float64)
    begin = time.perf_counter()
    run = compiled(folder / endpoint["file"])
    compile_seconds = time.perf_counter() - begin
    found = np.asarray(run.execute([*given, *weights])[0])
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        run.execute([*given, *weights])[0].block_until_ready()
        times.append(time.perf_counter() - begin)
    error = np.abs(found.astype(np.float64) - wanted)
    return {
        "entry": folder.name.rpartition(".")[0],
        "endpoint": name,
        "batch": len(wanted),
        "equal": float(np.mean(error == 0)),
        "difference": float(error.max()),
        "compile_seconds": round(compile_seconds, 2),
        "images_per_second": round(len(wanted) / float(np.median(times)), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0)
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    print(json.dumps({"device": str(jax.devices()[0].device_kind)}), flush=True)
    folders = [path.parent for path in options.out.glob("[!.]*/answers.npz")]
    folders.sort(key=lambda path: int(path.suffix[1:]))
    for folder in folders:
        described = json.loads((folder / "signatures.json").read_text())
        for name, endpoint in described["endpoints"].items():
            if time.monotonic() > end:
                print(json.dumps({"stopped": f"after {options.minutes} minutes"}))
                return
            print(json.dumps(measure(folder, name, endpoint)), flush=True)


if __name__ == "__main__":
    main()
