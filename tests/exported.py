"""Runs SavedModels without tfgen: in C, and in a Python that cannot import Keras.

Inputs and outputs are {signature: {name: array}}; strings are arrays of bytes objects.
"""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

SOURCE = Path(__file__).with_name("saved_model.c")

# A Python that loads and runs SavedModels, and in which nothing can import what made them.
BARE = """
import pickle, sys

BLOCKED = {"keras", "tf_keras", "tensorflow_probability", "tfgen"}

class Without:
    # Finds none of them, as if they were not installed.
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in BLOCKED:
            return self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
import tensorflow as tf

with open(sys.argv[1], "rb") as file:
    jobs = pickle.load(file)
results = []
for folder, calls in jobs:
    loaded = tf.saved_model.load(folder)
    results.append({
        name: {
            key: value.numpy()
            for key, value in loaded.signatures[name](
                **{argument: tf.constant(value) for argument, value in given.items()}
            ).items()
        }
        for name, given in calls.items()
    })
if BLOCKED & {name.split(".")[0] for name in sys.modules}:
    raise SystemExit("something of Keras was imported")
with open(sys.argv[2], "wb") as file:
    pickle.dump(results, file)
"""


def meta_graph(folder: Path):
    """The MetaGraphDef of a SavedModel."""
    model = saved_model_pb2.SavedModel()
    model.ParseFromString((folder / "saved_model.pb").read_bytes())
    (graph,) = model.meta_graphs
    return graph


def run_bare(jobs: list[tuple[Path, dict]], folder: Path) -> list[dict]:
    """Runs {signature: inputs} for each SavedModel in one process without Keras."""
    asked, answered = folder / "jobs.pickle", folder / "results.pickle"
    asked.write_bytes(pickle.dumps([(str(path), calls) for path, calls in jobs]))
    subprocess.run([sys.executable, "-c", BARE, asked, answered], check=True)
    return pickle.loads(answered.read_bytes())


def compiler() -> str | None:
    return shutil.which("gcc") or shutil.which("cc")


def build(program: Path) -> Path:
    """Compiles saved_model.c against the installed TensorFlow."""
    include, library = tf.sysconfig.get_include(), tf.sysconfig.get_lib()
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-isystem", include]
    libraries = ["-L", library, f"-Wl,-rpath,{library}"]
    libraries += ["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"]
    subprocess.run([compiler(), *flags, SOURCE, "-o", program, *libraries], check=True)
    return program


def run_in_c(
    program: Path, jobs: list[tuple[Path, dict]], folder: Path, verbatim: bool = False
) -> list[dict]:
    """The same by the C program, which gets the operations' names from the signatures.

    A session rewrites the graphs that XLA compiles, unlike Python, unless it is told to leave them.
    """
    plan, results = [], []
    for number, (path, calls) in enumerate(jobs):
        plan.append(f"{'verbatim' if verbatim else 'model'} {path}")
        signatures = meta_graph(path).signature_def
        results.append({})
        for name, given in calls.items():
            stem = folder / f"{number}_{name}"
            for key, value in given.items():
                operation, index = signatures[name].inputs[key].name.split(":")
                file = f"{stem}_{key}.in"
                Path(file).write_bytes(np.ascontiguousarray(value).tobytes())
                shape = " ".join(map(str, (value.ndim, *value.shape)))
                kind = tf.as_dtype(value.dtype).as_datatype_enum
                plan.append(f"input {operation} {index} {kind} {file} {shape}")
            for key, spec in signatures[name].outputs.items():
                operation, index = spec.name.split(":")
                plan.append(f"output {operation} {index} {stem}_{key}.out")
            plan.append("run")
            results[-1][name] = (stem, signatures[name].outputs)
    run = subprocess.run([program], input="\n".join(plan), text=True, capture_output=True)
    assert run.returncode == 0, run.stderr
    return [
        {
            name: {key: _read(Path(f"{stem}_{key}.out"), spec) for key, spec in outputs.items()}
            for name, (stem, outputs) in calls.items()
        }
        for calls in results
    ]


def _read(path: Path, spec) -> np.ndarray:
    content = path.read_bytes()
    kind = tf.as_dtype(spec.dtype)
    if kind != tf.string:
        shape = [size.size for size in spec.tensor_shape.dim]
        return np.frombuffer(content, kind.as_numpy_dtype).reshape(shape)
    strings = []
    while content:
        end = 8 + int.from_bytes(content[:8], sys.byteorder)
        strings.append(content[8:end])
        content = content[end:]
    return np.array(strings, object)


def inputs_for(specs: dict, num_classes: int | None, batch: int, seed: int = 0) -> dict:
    """Made-up inputs of a signature, from the specs in its metadata."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, spec in specs.items():
        shape = (batch, *spec["shape"][1:])
        if name == "seed":
            value = np.arange(20, 20 + batch)
        elif name == "labels":
            value = np.arange(batch) % num_classes
        elif name == "latents":
            value = rng.standard_normal(shape)
        else:
            value = rng.integers(0, 256 if spec["dtype"] == "uint8" else 2, shape)
        made[name] = value.astype(spec["dtype"])
    return made


def metadata(folder: Path) -> dict:
    return json.loads((folder / "assets.extra" / "tfgen.json").read_text())
