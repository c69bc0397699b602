"""One version of one model: a SavedModel in its own session.

A session runs the graph as TF Serving and the C API do, costs less per call than eager functions,
and frees its memory when closed.
"""

import itertools
import json
import math
import re
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import prediction_log_pb2

from tfgen.files import NOT_JSON
from tfgen.model_repository import METADATA, WARMUP
from tfgen.serving.errors import CODES, ServingError, invalid
from tfgen.serving.tensors import Spec, from_proto

__all__ = ["Servable", "Signature"]

DEFAULT_SIGNATURE = "serving_default"
MOST_WARMUP_BYTES = 2**28
_NAMES = {number: name for name, (number, _) in CODES.items()}


class Signature:
    """A named endpoint: maps named arrays to named arrays.

    Args:
        name: Its name.
        definition: Its definition in the SavedModel.
        session: The session it runs in.
        compiled: Whether XLA compiles the graph, once for each batch size.
        num_classes: The number of classes, of which `labels` must be; None if it is unknown.
    """

    def __init__(
        self,
        name: str,
        definition: meta_graph_pb2.SignatureDef,
        session: tf.compat.v1.Session,
        compiled: bool = False,
        num_classes: int | None = None,
    ):
        self.name = name
        self.definition = definition
        self.compiled = compiled
        self.num_classes = num_classes
        self.inputs = {n: Spec.from_info(n, i) for n, i in sorted(definition.inputs.items())}
        self.outputs = {n: Spec.from_info(n, i) for n, i in sorted(definition.outputs.items())}
        self.batched = all(spec.batched for spec in (*self.inputs.values(), *self.outputs.values()))
        self._run = session.make_callable(
            [spec.tensor for spec in self.outputs.values()],
            [spec.tensor for spec in self.inputs.values()],
        )

    @property
    def values_per_row(self) -> int | None:
        """How many numbers a row of the inputs holds; None if that is not declared."""
        shapes = [spec.shape for spec in self.inputs.values() if spec.dtype != tf.string]
        if not self.batched or len(shapes) < len(self.inputs):
            return None
        sizes = [size for shape in shapes for size in shape[1:]]
        return None if None in sizes else sum(math.prod(shape[1:]) for shape in shapes)

    def check(self, arrays: dict[str, np.ndarray]) -> int:
        """Returns the number of rows; 1 if the signature has no batch axis.

        Raises:
            ServingError: Inputs are missing or unknown, have the wrong dtype or shape, are not
                finite, have different numbers of rows, or have none.
        """
        if arrays.keys() != self.inputs.keys():
            raise self.wrong_names(arrays)
        for name, array in arrays.items():
            dtype = tf.string if array.dtype == object else tf.as_dtype(array.dtype)
            self.inputs[name].check(dtype, array.shape)
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise invalid(
                    f"input {name!r} must be finite; received NaN or infinity.",
                )
        self._check_labels(arrays.get("labels"))
        if not self.batched:
            return 1
        rows = {len(array) for array in arrays.values()}
        if len(rows) != 1:
            sizes = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
            raise invalid(
                f"Batching input tensors must have equal 0th-dimension size; received {sizes}.",
            )
        (count,) = rows
        if not count:
            raise invalid("the batch has no rows; send at least one.")
        return count

    def _check_labels(self, labels: np.ndarray | None) -> None:
        """A graph would draw an image of no class for a label that is out of range."""
        if labels is None or self.num_classes is None or labels.dtype.kind not in "iu":
            return
        outside = labels[(labels < 0) | (labels >= self.num_classes)]
        if outside.size:
            raise invalid(
                f"input 'labels' must be in [0, {self.num_classes - 1}]; received {outside[0]}.",
            )

    def wrong_names(self, given: Iterable[str]) -> ServingError:
        """Returns TF Serving's error for missing or unknown inputs."""
        given, wanted = sorted(given), sorted(self.inputs)
        extra, missing = sorted(set(given) - set(wanted)), sorted(set(wanted) - set(given))
        return invalid(
            f"input size does not match signature {self.name!r}: {len(given)}!={len(wanted)} "
            f"len({{{','.join(given)}}}) != len({{{','.join(wanted)}}}). Sent extra: "
            f"{{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}.",
        )

    def run(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the graph on inputs that `check` has accepted.

        Raises:
            ServingError: The graph failed.
        """
        try:
            values = self._run(*(arrays[name] for name in self.inputs))
        except tf.errors.OpError as error:
            raise ServingError(_NAMES.get(error.error_code, "UNKNOWN"), _reason(error)) from None
        return dict(zip(self.outputs, values, strict=True))


class Servable:
    """A loaded SavedModel.

    `details` is what the export recorded in `assets.extra/tfgen.json`.

    Args:
        model: Its name.
        version: Its number.
        path: The version's directory.
        call_seconds: A call that takes longer is cancelled, but never before 30 seconds.

    Raises:
        ServingError: The directory is not a complete SavedModel, or its warm-up fails.
    """

    def __init__(self, model: str, version: int, path: Path, call_seconds: float = 30.0):
        self.model = model
        self.version = version
        self._changed = threading.Condition()
        self._users = 0
        self.details = _details(path / METADATA)
        graph = tf.Graph()
        # Restoring and warm-up are calls too, and may take longer.
        limit = tf.compat.v1.ConfigProto(operation_timeout_in_ms=int(1000 * max(call_seconds, 30)))
        self._session = tf.compat.v1.Session(graph=graph, config=limit)
        try:
            with graph.as_default():
                loaded = self._load(path)
                compiled = _is_compiled(loaded.graph_def)
                num_classes = self.details.get("num_classes")
                self.signatures = {
                    name: Signature(name, definition, self._session, compiled, num_classes)
                    for name, definition in loaded.signature_def.items()
                    if definition.method_name == tf.saved_model.PREDICT_METHOD_NAME
                }
            self._warm_up(path / WARMUP)
        except Exception as error:  # damaged files make TensorFlow raise various errors
            self._session.close()
            code, reason = "INVALID_ARGUMENT", str(error)
            if isinstance(error, ServingError):
                code, reason = error.code, error.message
            elif isinstance(error, MemoryError):
                code = "RESOURCE_EXHAUSTED"
            elif isinstance(error, tf.errors.OpError):
                code, reason = _NAMES.get(error.error_code, "UNKNOWN"), _reason(error)
            reason = " ".join(reason.split())[:300]
            if code == "DEADLINE_EXCEEDED":
                reason += ". Raise --timeout."
            raise ServingError(
                code, f"{model} version {version} cannot be loaded from {path}: {reason}"
            ) from error

    def _load(self, path: Path) -> meta_graph_pb2.MetaGraphDef:
        if not re.search(r"[][*?\\]", str(path)):
            loader = tf.compat.v1.saved_model.loader
            return loader.load(self._session, [tf.saved_model.SERVING], str(path))
        with tempfile.TemporaryDirectory() as folder:  # TensorFlow would take it for a pattern
            link = Path(folder, "link")
            link.symlink_to(path.resolve())
            return self._load(link)

    def signature(self, name: str) -> Signature:
        """Returns a signature; "" stands for `serving_default`.

        Raises:
            ServingError: There is no signature of that name.
        """
        name = name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise invalid(
                f'Serving signature name: "{name}" not found in signature def. {self.model} has '
                f"{', '.join(sorted(self.signatures))}.",
            )
        return self.signatures[name]

    def _warm_up(self, path: Path) -> None:
        """Runs the export's warm-up requests, so no user waits for first-call work."""
        if not path.is_file():
            return
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if not log.HasField("predict_log"):
                continue
            request = log.predict_log.request
            signature = self.signature(request.model_spec.signature_name)
            if request.inputs.keys() != signature.inputs.keys():
                raise signature.wrong_names(request.inputs)
            arrays = {
                name: from_proto(proto, signature.inputs[name], MOST_WARMUP_BYTES)
                for name, proto in request.inputs.items()
            }
            signature.check(arrays)
            signature.run(arrays)

    def acquire(self) -> bool:
        """Keeps the session open until `release`; returns False if it is already closed."""
        with self._changed:
            if self._session is not None:
                self._users += 1
            return self._session is not None

    def hold(self) -> None:
        """Keeps the session open until one more `release`, for one who has acquired it.

        Unlike `acquire`, also while `close` waits, so that it waits for this user too.
        """
        with self._changed:
            self._users += 1

    def release(self) -> None:
        """Ends one `acquire` or `hold`."""
        with self._changed:
            self._users -= 1
            self._changed.notify_all()

    def close(self, timeout: float | None = None) -> None:
        """Waits up to `timeout` seconds for running calls, then closes the session.

        Calls that are still running are cancelled.
        """
        with self._changed:
            session, self._session = self._session, None
            self._changed.wait_for(lambda: not self._users, timeout)
        if session is not None:
            self.signatures = {}
            session.close()


def _details(path: Path) -> dict[str, Any]:
    """Returns what the export recorded about a model; nothing for models from elsewhere."""
    try:
        details = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, *NOT_JSON):
        return {}
    if not isinstance(details, dict) or not isinstance(details.get("num_classes"), int | None):
        return {}
    return details


def _reason(error: tf.errors.OpError) -> str:
    """Returns the line of TensorFlow's message that states the problem; others list nodes."""
    lines = [line.strip() for line in error.message.split("\n")]
    told = [line for line in lines if line and line != "Graph execution error:"]
    return told[0] if told else "the graph failed without a reason."


def _is_compiled(graph_def) -> bool:
    """Returns whether any part of a graph requires XLA."""
    functions = graph_def.library.function
    nodes = itertools.chain(graph_def.node, *(function.node_def for function in functions))
    return any(
        "_XlaMustCompile" in part.attr and part.attr["_XlaMustCompile"].b
        for part in itertools.chain(functions, nodes)
    )
