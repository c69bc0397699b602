"""Exports to other formats, run in an environment of their own that has no TensorFlow.

`python tests/runtimes.py docs/exports.md [CONFIGURATION...]` exports each family, runs every file
in every runtime that reads it, and writes the table between the markers of that page. Without names
of configurations, the first one of each family.
"""

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import exported
import numpy as np

PACKAGES = ("onnxruntime==1.32.0", "openvino==2026.4.1", "ai-edge-litert==2.3.0", "jax==0.10.2")
RUNTIMES = {"onnx": ("onnxruntime", "openvino"), "litert": ("litert",), "stablehlo": ("jax",)}
CLIENT = Path(__file__).with_name("runtime_client.py")
BEGIN, END = "<!-- runtimes: begin -->", "<!-- runtimes: end -->"
BATCH = 32  # many draws show a sampler that is slightly wrong


def environment(folder: Path) -> Path:
    """Makes the environment, or takes the one that TFGEN_RUNTIMES names; returns its Python."""
    if "TFGEN_RUNTIMES" in os.environ:
        return Path(os.environ["TFGEN_RUNTIMES"]) / "bin" / "python"
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-q", *PACKAGES], check=True)
    return folder / "bin" / "python"


def export(model, folder: Path, format: str) -> dict:
    """Writes an export and, next to it, inputs and what the model itself answers to them."""
    options = {"batch": BATCH} if format == "stablehlo" else {}
    model.export(folder, format=format, **options)
    described = json.loads((folder / "signatures.json").read_text())
    answers = {}
    for name, endpoint in described["endpoints"].items():
        given = exported.inputs_for(endpoint["inputs"], model.num_classes, BATCH)
        outputs = model.signatures()[name](*given.values())
        answers |= {f"{name}.in.{key}": value for key, value in given.items()}
        for key, value in zip(sorted(endpoint["outputs"]), outputs.values(), strict=True):
            answers[f"{name}.out.{key}"] = value.numpy()
    np.savez(folder / "answers.npz", **answers)
    return described


def run(python: Path, runtime: str, folders: list[Path]) -> list[dict]:
    """Returns a row for each endpoint of each folder, as runtime_client.py prints them."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [python, CLIENT, runtime, *folders], text=True, capture_output=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def agrees(row: dict) -> bool:
    """Images to one grey level; latents, scores and log-likelihoods to rounding: float32 has 24
    bits, and sums over an image lose a few of them."""
    if "failed" in row:
        return False
    return row["difference"] <= (1 if row["endpoint"] in IMAGES else 1e-5 * max(1, row["scale"]))


IMAGES = {"sample", "decode", "reconstruct", "complete"}


def main() -> None:
    import conftest
    import laws

    page = Path(sys.argv[1])
    asked = sys.argv[2:]
    chosen = [case for case in conftest.CASES if case.name in asked or case.is_first > bool(asked)]
    lines = [
        "| family, configuration | endpoint | ONNX Runtime | OpenVINO | LiteRT | JAX (StableHLO) |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        python = environment(root / "environment")
        for case in chosen:
            model, cells, endpoints = laws.randomised(case()), {}, []
            for format, runtimes in RUNTIMES.items():
                folder = root / f"{case.family}.{case.name}.{format}"
                described = export(model, folder, format)
                endpoints = list(model.endpoints())
                for runtime in runtimes:
                    for name in described["left_out"]:
                        cells[name, runtime] = "left out"
                    for row in run(python, runtime, [folder]):
                        cells[row["endpoint"], runtime] = told(row)
            for name in endpoints:
                found = [cells[name, r] for rs in RUNTIMES.values() for r in rs]
                lines.append(f"| {case.family}, {case.name} | `{name}` | {' | '.join(found)} |")
                print(lines[-1], flush=True)
    text = page.read_text()
    head, tail = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    page.write_text(head + "\n" + "\n".join(lines) + "\n" + tail)


def told(row: dict) -> str:
    """What a cell of the table says."""
    if "failed" in row:
        print(row["failed"], file=sys.stderr)
        return "cannot read it"
    if row["difference"] == 0:
        return "same bytes"
    level = row["endpoint"] in IMAGES
    return f"{row['difference']:.0f} grey level" if level else f"{row['difference']:.0e}"


if __name__ == "__main__":
    main()
