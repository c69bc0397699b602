"""Exports to runtimes other than TensorFlow: ONNX, LiteRT and StableHLO.

    <folder>/signatures.json    format, endpoints with their inputs and outputs, what was left out
    <folder>/sample.onnx, ...   one file per endpoint; its weights are inside
    <folder>/weights.npz        StableHLO only: the weights that its programs take as arguments

The files hold the functions that the model's methods run, and the seed is an input, so every
runtime draws the same images. An endpoint that a format cannot hold is left out, with the reason in
signatures.json; asking for it by name is an error.
"""

import contextlib
import importlib
import json
import math
import re
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import tensorflow as tf

from tfgen import checks, portable, presets, tuning
from tfgen.files import scratch, system_errors, write_json
from tfgen.weight_files import weights_digest
from tfgen_command.wording import how_to_install

if TYPE_CHECKING:
    from tfgen.models.generative import GenerativeModel

__all__ = ["FORMATS", "SIGNATURES", "check_installed", "save", "stablehlo_artifact"]

SIGNATURES = "signatures.json"
FORMATS = ("tf_saved_model", "onnx", "litert", "stablehlo")
SUFFIXES = {"onnx": ".onnx", "litert": ".tflite", "stablehlo": ".stablehlo"}
NEEDS = {"onnx": ("tf2onnx", "onnx"), "litert": (), "stablehlo": ("jaxlib",)}
OPSET = 18  # the first with bitwise xor, which the noise needs


class Unsupported(Exception):
    """An endpoint that a format cannot hold; the message is the reason."""


def save(
    model: "GenerativeModel",
    folder: str | Path,
    format: str,
    *,
    endpoints: Sequence[str] | None = None,
    temperature: float = 1.0,
    num_samples: int = 1,
    batch: int | None = None,
    opset: int = OPSET,
    version: int | None = None,
    jit_compile: bool = False,
) -> Path:
    """Writes the endpoints of a model in a format of another runtime.

    Args:
        model: A generative model.
        folder: A folder that does not exist yet.
        format: "onnx", "litert" or "stablehlo".
        endpoints: Which ones; None means every one that the format can hold.
        temperature: Fixed in `sample`, `complete` and `latents`, at least 0.
        num_samples: Importance samples, fixed in `log_likelihood`.
        batch: Images per call. None leaves it open; StableHLO needs a number, by default 16.
        opset: ONNX only: the version of its operations, at least 18.
        version: An option of SavedModels; refused.
        jit_compile: An option of SavedModels; refused.

    Returns:
        The folder.

    Raises:
        ValueError: An argument out of range, or an endpoint asked for that cannot be exported.
        ImportError: The format's packages are not installed.
        OSError: The folder cannot be written.
        MemoryError: The conversion needs more memory than there is.
    """
    folder = Path(folder).expanduser().absolute()
    _check(folder, format, temperature, num_samples, batch, opset)
    _check_foreign(model, format, version, jit_compile)
    batch = 16 if format == "stablehlo" and batch is None else batch and int(batch)
    held = model.endpoints(float(temperature), int(num_samples))
    _check_endpoints(endpoints, list(held))
    details = {
        "format": format,
        "family": type(model).__name__,
        "num_classes": model.num_classes,
        "zoo": presets.origin(model),
        "weights_sha256": weights_digest(model),
        "temperature": float(temperature),  # of NumPy, too; for JSON
        "num_samples": int(num_samples),
        "batch": batch,
        "versions": {name: version_of(name) for name in ("tfgen", "tensorflow", *NEEDS[format])},
    }
    with scratch(folder.parent) as temporary:
        (built := temporary / "export").mkdir()
        writer = _WRITERS[format](model, built, batch, int(opset))
        details |= _written(writer, held, endpoints, format)
        write_json(built / SIGNATURES, details)
        built.rename(folder)
    return folder


def _check(folder, format, temperature, num_samples, batch, opset) -> None:
    checks.one_of("format", format, FORMATS[1:])
    checks.finite(0, temperature=temperature)
    checks.at_least(1, num_samples=num_samples)
    checks.at_least(1, **({} if batch is None else {"batch": batch}))
    checks.at_least(OPSET, opset=opset)
    if folder.exists() or folder.is_symlink():
        raise ValueError(f"folder must not exist yet; {folder} does. Remove it or name another.")
    check_installed(format)


def _check_foreign(
    model: "GenerativeModel", format: str, version: int | None, jit_compile: bool
) -> None:
    if version is not None or jit_compile:
        raise ValueError(
            f"version and jit_compile are options of format 'tf_saved_model'; received format "
            f"{format!r}. Leave them out."
        )
    tuning.refuse_quantized(model)
    # NumPy, and so weights.npz, has no bfloat16.
    held = format == "stablehlo" and model.variable_dtype != "bfloat16"
    if not held and model.compute_dtype != "float32":
        raise ValueError(
            f"format {format!r} needs a model that computes in float32; this one computes in "
            f"{model.compute_dtype}. Load it so: tfgen.load(folder, dtype='float32')."
        )


def _check_endpoints(endpoints: Sequence[str] | None, held: list[str]) -> None:
    if endpoints is None:
        return
    is_list = isinstance(endpoints, Collection) and not isinstance(endpoints, str)
    if not is_list or len(endpoints) == 0:
        raise ValueError(
            f"endpoints must be a list of names, or None for all; received {endpoints!r}."
        )
    for name in endpoints:
        checks.one_of("endpoints", name, held)


def _written(writer, held, endpoints: Sequence[str] | None, format: str) -> dict[str, Any]:
    """Writes the endpoints; returns what signatures.json says of them."""
    written, left_out = {}, {}
    for name in held if endpoints is None else endpoints:
        try:
            written[name] = writer.write(name, *held[name])
        except Unsupported as reason:
            if endpoints is not None:
                raise ValueError(f"{format} cannot hold {name!r}: {reason}") from reason
            left_out[name] = str(reason)
    if not written:
        raise ValueError(f"{format} can hold no endpoint of this model: {left_out}")
    writer.finish()
    return {"endpoints": written, "left_out": left_out}


def check_installed(format: str) -> None:
    """Raises ImportError, with the command to type, for a format whose package is missing."""
    for package in NEEDS[format]:
        try:
            importlib.import_module(package)
        except ImportError:
            raise ImportError(
                f"format {format!r} needs {package}, which is not installed. "
                f"{how_to_install(format)}"
            ) from None


class _Writer:
    """Writes endpoints into a folder, one at a time."""

    suffix: str
    options: ClassVar[dict[str, Any]] = {}  # of the tf.function

    def __init__(self, model, folder: Path, batch: int | None, opset: int):
        self.model, self.folder, self.batch, self.opset = model, folder, batch, opset

    def write(self, name: str, function: Callable, specs: dict[str, tf.TensorSpec]) -> dict:
        """Writes an endpoint and returns its description, or raises `Unsupported`."""
        fixed = [tf.TensorSpec((self.batch, *s.shape[1:]), s.dtype, s.name) for s in specs.values()]

        def by_name(*tensors):
            with portable.without_gradients():
                outputs = function(**dict(zip(specs, tensors, strict=True)))
            # No two tensors of a file may share a name: `reconstruct` takes and returns images.
            return {f"output_{k}" if k in specs else k: v for k, v in outputs.items()}

        graph = tf.function(by_name, input_signature=fixed, autograph=False, **self.options)
        path = self.folder / (name + self.suffix)
        held = self.convert(graph, fixed, path)
        outputs = graph.get_concrete_function().structured_outputs
        inputs = listed({spec.name: spec for spec in fixed})
        return {"file": path.name, "inputs": inputs, "outputs": listed(outputs), **held}

    def finish(self) -> None:
        """Writes what the endpoints share."""


def listed(specs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns dtypes and shapes by name, as JSON holds them."""
    return {k: {"dtype": s.dtype.name, "shape": s.shape.as_list()} for k, s in specs.items()}


class _Onnx(_Writer):
    suffix = SUFFIXES["onnx"]

    def convert(self, graph, specs, path):
        import logging

        import onnx
        import tf2onnx

        logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
        with _unsupported(), portable.tracing():
            proto, _ = tf2onnx.convert.from_function(graph, input_signature=specs, opset=self.opset)
        unknown = sorted(
            {
                node.op_type
                for node in _nodes(proto.graph)
                if node.domain in ("", "ai.onnx")
                and not onnx.defs.has(node.op_type, self.opset, "")
            }
        )
        if unknown:
            raise Unsupported(f"ONNX has no {', '.join(unknown)}.")
        with _unsupported():
            onnx.checker.check_model(proto, full_check=True)
        path.write_bytes(proto.SerializeToString())
        return {"opset": self.opset}


def _nodes(graph):
    """An ONNX graph's nodes, and those of loops in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


class _LiteRT(_Writer):
    suffix = SUFFIXES["litert"]

    def convert(self, graph, specs, path):
        with _unsupported(), portable.tracing():
            concrete = graph.get_concrete_function()
        module = tf.Module()
        module.held = [v.value for v in self.model.variables]
        # Not in `path`: TensorFlow takes brackets for a pattern.
        with tempfile.TemporaryDirectory() as saved:
            with system_errors(Path(saved)):
                tf.saved_model.save(module, saved, signatures={"serving_default": concrete})
            with _unsupported():
                converter = tf.lite.TFLiteConverter.from_saved_model(saved)
                converter.experimental_enable_resource_variables = False
                content = converter.convert()
                _check_litert(content)
        path.write_bytes(content)
        return {}


def _check_litert(content: bytes) -> None:
    """Raises RuntimeError for a file that cannot be run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the interpreter moves to a package of its own
        tf.lite.Interpreter(model_content=content).allocate_tensors()


class _StableHLO(_Writer):
    suffix = SUFFIXES["stablehlo"]
    options: ClassVar[dict[str, Any]] = {"jit_compile": True}

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.weights: dict[str, np.ndarray] = {}

    def convert(self, graph, specs, path):
        concrete = graph.get_concrete_function()
        # Numbered, since an encoder and a decoder may both have a "dense/kernel".
        paths = {id(v.value.handle): f"{i}/{v.path}" for i, v in enumerate(self.model.variables)}
        variables = {id(v.handle): v for v in concrete.graph.variables}
        taken = []
        for index, tensor in enumerate(concrete.captured_inputs):
            name = paths.get(id(tensor), f"{path.stem}/constant_{index}")
            self.weights[name] = variables.get(id(tensor), tensor).numpy()
            taken.append(name)
        with _unsupported():
            examples = [tf.zeros(spec.shape, spec.dtype) for spec in specs]
            text = graph.experimental_get_compiler_ir(*examples)(stage="stablehlo")
            content, version = stablehlo_artifact(text)
        path.write_bytes(content)
        return {"weights": taken, "stablehlo": version}

    def finish(self):
        np.savez(self.folder / "weights.npz", **self.weights)


# Large booleans: TensorFlow packs 8 into a byte of hex digits, and newer readers expect 1.
_PACKED = re.compile(r'dense<"0x([0-9A-F]+)"> : tensor<((?:\d+x)+)i1>')


def _spelled_out(match: re.Match) -> str:
    """Booleans as words, which every reader takes."""
    shape = [int(size) for size in match[2].rstrip("x").split("x")]
    packed = np.frombuffer(bytes.fromhex(match[1]), np.uint8)
    bits = np.unpackbits(packed, count=math.prod(shape), bitorder="little").astype(bool)
    words = json.dumps(bits.reshape(shape).tolist())
    return f"dense<{words}> : tensor<{match[2]}i1>"


def stablehlo_artifact(text: str) -> tuple[bytes, str]:
    """Returns XLA's text of a program as a portable artifact, and the version that can read it."""
    from jaxlib.mlir.dialects import stablehlo

    # XLA's own copy, which no other dialect knows; a reshape to the same shape is one.
    copy = re.compile(r"mhlo\.copy (%\S+) : (tensor<\S+>)")
    version = stablehlo.get_minimum_version()
    text = copy.sub(r"stablehlo.reshape \1 : (\2) -> \2", text)
    text = _PACKED.sub(_spelled_out, text)
    return stablehlo.serialize_portable_artifact_str(text, version), version


_WRITERS = {"onnx": _Onnx, "litert": _LiteRT, "stablehlo": _StableHLO}


@contextlib.contextmanager
def _unsupported() -> Iterator[None]:
    """Turns a converter's errors into `Unsupported`, unless a disk or the memory is full."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except tf.errors.ResourceExhaustedError as error:
        of_memory = "allocat" in error.message  # "OOM when allocating", "Cannot allocate"
        raise (MemoryError if of_memory else OSError)(error.message) from error
    except Exception as error:
        raise Unsupported(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    """The operations that a converter's message names, or its first line."""
    missing = set(re.findall(r"'tf\.(\w+)' op (?:is neither|requires)", str(error)))
    if missing:
        return f"it has no {', '.join(sorted(missing))}."
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300]
