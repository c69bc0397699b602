"""Runs exports where there is no TensorFlow: `python runtime_client.py RUNTIME FOLDER...`.

Each folder holds signatures.json and answers.npz, with NAME.in.ARGUMENT and NAME.out.OUTPUT of
each endpoint. Prints one JSON object per endpoint: the largest difference from the answers and the
largest of them, the share of equal values, the milliseconds of a call and of loading the file.
"""

import importlib.util
import json
import sys
import time
from pathlib import Path

import numpy as np


def onnxruntime(path: Path, described: dict, held):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda given: dict(zip(names, session.run(names, given), strict=True))


def openvino(path: Path, described: dict, held):
    import openvino

    # Its default may round intermediate values to 16 bits where the processor is faster with them.
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", config)
    return lambda given: {o.any_name: value for o, value in compiled(given).items()}


def litert(path: Path, described: dict, held):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    runner = interpreter.get_signature_runner("serving_default")
    return lambda given: runner(**given)


def jax(path: Path, described: dict, held):
    import jax
    from jax._src.lib import xla_client
    from jaxlib.mlir.dialects import stablehlo

    jax.config.update("jax_enable_x64", True)
    devices = xla_client._xla.DeviceList(tuple(jax.devices()[:1]))
    program = stablehlo.deserialize_portable_artifact_str(path.read_bytes())
    options = xla_client.CompileOptions()
    run = jax.devices()[0].client.compile_and_load(program, devices, options)
    weights = [jax.device_put(held[name]) for name in described["weights"]]

    def call(given):
        tensors = [jax.device_put(given[name]) for name in described["inputs"]]
        outputs = run.execute([*tensors, *weights])
        return dict(zip(sorted(described["outputs"]), map(np.asarray, outputs), strict=True))

    return call


def main() -> None:
    runtime, *folders = sys.argv[1:]
    if importlib.util.find_spec("tensorflow"):
        raise SystemExit("this Python has TensorFlow")
    for folder in map(Path, folders):
        answers = np.load(folder / "answers.npz")
        weights = folder / "weights.npz"
        held = np.load(weights) if weights.exists() else {}
        for name, described in json.loads((folder / "signatures.json").read_text())[
            "endpoints"
        ].items():
            given = {k: answers[f"{name}.in.{k}"] for k in described["inputs"]}
            row = {"folder": folder.name, "endpoint": name, "runtime": runtime}
            try:
                begin = time.perf_counter()
                run = globals()[runtime](folder / described["file"], described, held)
                row["load_ms"] = 1000 * (time.perf_counter() - begin)
                found = run(given)
                times = []
                for _ in range(5):
                    begin = time.perf_counter()
                    run(given)
                    times.append(time.perf_counter() - begin)
                row["call_ms"] = 1000 * float(np.median(times))
                row["difference"], row["scale"], row["equal"] = 0.0, 0.0, 1.0
                for key in described["outputs"]:
                    wanted = answers[f"{name}.out.{key}"]
                    if found[key].shape != wanted.shape or found[key].dtype != wanted.dtype:
                        raise ValueError(f"{key} is {found[key].dtype} {found[key].shape}")
                    error = np.abs(found[key].astype(np.float64) - wanted)
                    row["difference"] = float(np.maximum(row["difference"], error.max()))  # or NaN
                    row["scale"] = max(row["scale"], float(np.abs(wanted).max()))
                    row["equal"] = min(row["equal"], float(np.mean(error == 0)))
            except Exception as error:
                row["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
