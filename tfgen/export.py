"""SavedModels for TensorFlow Serving, C and any process that has TensorFlow and nothing else.

A version is a folder that is written completely or not at all:

    <name>/<version>/
        saved_model.pb, variables/               one signature for each endpoint, weights once
        assets.extra/tf_serving_warmup_requests  what TensorFlow Serving runs before it is "ready"
        assets.extra/tfgen.json                  what it was made from, and its signatures

A signature takes tensors with a leading batch axis, the seed too, and returns a named dict. It is
the very graph that the method of that name runs from Python, so the bytes are the same. It holds no
Python op and names no device.

A model repository is a folder of such `<name>/`, with a models.config that lists them.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tfgen import checks, formats, presets
from tfgen.files import scratch, system_errors, write_json
from tfgen.model_repository import (
    LAST_VERSION,
    METADATA,
    MODEL_NAME,
    WARMUP,
    check_config,
    next_version,
    numbered,
    update_config,
)
from tfgen.weight_files import weights_digest

if TYPE_CHECKING:
    from tfgen.models.generative import GenerativeModel

__all__ = ["add", "save"]

BATCHES = (1, 2, 4, 8, 16, 32)  # those of saved_models/batching.config; XLA compiles each


def save(
    model: "GenerativeModel",
    folder: str | Path,
    *,
    version: int | None = None,
    temperature: float = 1.0,
    num_samples: int = 1,
    jit_compile: bool = False,
) -> Path:
    """Writes a model as the next version of a servable.

    Args:
        model: A `GenerativeModel`.
        folder: The servable's folder; its name is the model's name in TensorFlow Serving.
        version: At least 1; None is one more than the highest one there.
        temperature: Fixed in `sample`, `complete` and `latents`, at least 0.
        num_samples: Importance samples, fixed in `log_likelihood`.
        jit_compile: Whether XLA compiles every endpoint, again for each batch size.

    Returns:
        The folder of the version, `folder/<version>`, for `tf.saved_model.load`.

    Raises:
        ValueError: An argument out of range, a version that already exists, or no next one.
        OSError: The folder cannot be written.
    """
    folder = Path(os.path.abspath(Path(folder).expanduser()))
    _check_name(folder.name)
    _check_version(folder, version)
    graphs = model.signatures(temperature, num_samples, jit_compile)
    temperature, num_samples = float(temperature), int(num_samples)  # of NumPy, too; for JSON
    concrete = {name: graph.get_concrete_function() for name, graph in graphs.items()}
    module = tf.Module()
    # Not the Keras variables, which load in Python and fail in C; and only those that are used.
    module.held = _captured(model, concrete.values())
    config = model.get_config()
    details = {
        "name": folder.name,
        "family": type(model).__name__,
        "likelihood": getattr(model, "likelihood", None),
        "image_shape": list(model.image_shape),
        "num_levels": model.num_levels,
        "num_classes": model.num_classes,
        "latent_dim": getattr(model, "latent_dim", None),
        "score_border": getattr(model, "score_border", None),
        "settings": {name: config[name] for name in model.settable},
        "zoo": presets.origin(model),
        "weights_sha256": weights_digest(model),
        "temperature": temperature,
        "num_samples": num_samples,
        "jit_compile": bool(jit_compile),
        "versions": presets.versions(),
        "signatures": {name: _specs(function) for name, function in concrete.items()},
    }
    with scratch(folder) as temporary, system_errors(folder):
        built = temporary / "version"
        tf.saved_model.save(module, str(built), signatures=concrete)
        write_json(built / METADATA, details)
        _write_warmup(built / WARMUP, details["signatures"], jit_compile)
        return _publish(built, folder, version)


def add(
    repository: str | Path, name: str | Path, format: str = "tf_saved_model", **options: Any
) -> Path:
    """Exports an entry of the zoo, or a preset's folder, into a model repository.

    Args:
        repository: Its folder; made if missing. models.config there is brought up to date.
        name: An entry's name or a folder, as `tfgen.load` takes it.
        format: "tf_saved_model"; or one of `formats.FORMATS`, which goes to the folder
            `repository/<entry>.<format>` and is no part of models.config.
        **options: Those of `save`, or of `formats.save`.

    Returns:
        The folder of the new version, or of the other format.

    Raises:
        ValueError: Unknown name, a name of two models, an entry that is not a generative model,
            a bad option, or a models.config that nothing can be added to.
        OSError: The repository cannot be written.
    """
    repository = Path(repository).expanduser()
    checks.one_of("format", format, formats.FORMATS)
    entry = Path(os.path.abspath(presets.folder(name))).name
    if format == "tf_saved_model":
        _check_name(entry)
        check_config(repository)
        _check_version(repository / entry, options.get("version"))
    model = presets.load(name)
    if model.kind != "model":
        raise ValueError(
            f"{str(name)!r} is a {type(model).__name__}, which has no endpoints to serve. "
            "Export a generative model; `tfgen list` names them."
        )
    if format != "tf_saved_model":
        return formats.save(model, repository / f"{entry}.{format}", format, **options)
    written = save(model, repository / entry, **options)
    update_config(repository)
    return written


# Versions ------------------------------------------------------------------------------------


def _publish(built: Path, folder: Path, version: int | None) -> Path:
    """Moves a finished version into place; tries the next number if another export took it."""
    while True:
        target = folder / str(next_version(folder) if version is None else version)
        try:
            return built.rename(target)
        except OSError:
            if version is not None or not target.exists():
                raise


# Checks --------------------------------------------------------------------------------------


def _check_name(name: str) -> None:
    if not MODEL_NAME.fullmatch(name):
        raise ValueError(
            "the folder's name is the model's name in TensorFlow Serving and may have letters, "
            f"digits, '_', '-' and '.'; received {name!r}. Choose another folder, or link to it."
        )


def _check_version(folder: Path, version: int | None) -> None:
    if version is None:
        next_version(folder)  # raises where there is none
        return
    if not checks.is_integer(version) or not 1 <= version <= LAST_VERSION:
        raise ValueError(
            f"version must be an integer from 1 to {LAST_VERSION}; received {version!r}."
        )
    if version in numbered(folder):
        raise ValueError(
            f"version {version} of {folder.name!r} already exists; versions are never changed. "
            f"Leave version out for the next one, {next_version(folder)}."
        )


# What a version holds ------------------------------------------------------------------------


def _captured(model, functions) -> list[tf.Variable]:
    """The variables of a model that any of the functions reads."""
    handles = {id(tensor) for function in functions for tensor in function.captured_inputs}
    values = [variable.value for variable in model.variables]
    return [value for value in values if id(value.handle) in handles]


def _specs(function) -> dict[str, dict[str, Any]]:
    """Names, dtypes and shapes of a signature; the batch is null."""
    arguments = {spec.name: spec for spec in function.structured_input_signature[0]}
    outputs = formats.listed(function.structured_outputs)
    return {"inputs": formats.listed(arguments), "outputs": outputs}


def _write_warmup(path: Path, signatures: dict[str, Any], jit_compile: bool) -> None:
    """Writes requests of zeros for each signature, a TFRecord of PredictionLog messages.

    One image is enough to load every kernel; XLA compiles each batch size separately.
    """
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, specs in signatures.items():
            for batch in BATCHES if jit_compile else BATCHES[:1]:
                inputs = {
                    argument: tf.make_tensor_proto(
                        tf.zeros([batch, *spec["shape"][1:]], spec["dtype"])
                    )
                    for argument, spec in specs["inputs"].items()
                }
                writer.write(_prediction_log(name, inputs))


def _prediction_log(signature: str, inputs: dict[str, Any]) -> bytes:
    """Serialises tensorflow.serving.PredictionLog, a message of four nested ones.

    By hand, so that an export needs no tensorflow-serving-api; the tests read it with that.

        PredictionLog { PredictLog predict_log = 6 { PredictRequest request = 1 {
            ModelSpec model_spec = 1 { string signature_name = 3 }
            map<string, TensorProto> inputs = 2 } } }
    """
    request = _field(1, _field(3, signature.encode()))
    for name, tensor in inputs.items():
        request += _field(2, _field(1, name.encode()) + _field(2, tensor.SerializeToString()))
    return _field(6, _field(1, request))


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of protobuf's wire format."""
    size, length = len(content), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | 2]) + bytes(length) + content
