"""JSON bodies: of TF Serving's predict requests and responses, and of what the page asks for."""

import gc
import json
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from tfgen.serving.backend import RequestRecord
from tfgen.serving.batching import Batcher
from tfgen.serving.errors import ServingError, invalid
from tfgen.serving.pieces import TooManyValues, loads
from tfgen.serving.repository import Repository
from tfgen.serving.servable import Servable, Signature
from tfgen.serving.tensors import from_json, to_json

__all__ = [
    "catalogue",
    "parse_body",
    "read_body",
    "read_inputs",
    "too_large",
    "unzip",
    "write_outputs",
]

PACKAGE = Path(__file__).resolve().parents[1]
ZOOS = (PACKAGE / "_zoo", PACKAGE.parent / "zoo")  # installed; in a clone
QUALITY = "Frechet distance, samples / real images"
ENOUGH = "Frechet distance, 10000 images against 10000 test images"  # fewer images flatter
EXTRA_VALUES = 1000  # values that a body may hold besides the inputs
_pausing, _pauses = threading.Lock(), 0  # bodies that are being read, in several threads


def unzip(body: bytes, limit: int) -> bytes:
    """Returns what was compressed with gzip.

    Raises:
        ServingError: It is larger than `limit` bytes, or is not valid gzip.
    """
    decompressor = zlib.decompressobj(wbits=31)
    try:
        plain = decompressor.decompress(body, limit + 1)
    except zlib.error as error:
        raise invalid(f"the body is not valid gzip: {error}.") from None
    if len(plain) > limit:
        raise too_large(limit)
    if not decompressor.eof:
        raise invalid("the body is not valid gzip: it ends too early.")
    if decompressor.unused_data:
        raise invalid("the body is not one gzip stream: bytes follow it.")
    return plain


def too_large(limit: int) -> ServingError:
    """Returns the error for a body of more than `limit` bytes."""
    message = f"the body is larger than the limit of {limit} bytes; send fewer rows per request."
    return ServingError("RESOURCE_EXHAUSTED", message, http=413)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keeps Python's garbage collector from searching many new lists, none of them in a cycle.

    It would hold the global lock eight times as long as the parsing.
    """
    global _pauses
    with _pausing:
        _pauses += 1
        gc.disable()
    try:
        yield
    finally:
        with _pausing:
            _pauses -= 1
            if not _pauses:
                gc.enable()


def read_body(
    servable: Servable, batcher: Batcher, record: RequestRecord, body: bytes
) -> tuple[dict[str, np.ndarray], bool]:
    """Returns the inputs of a predict request, and whether they are in row format.

    Limits are checked before parsing; `record` receives the name of the signature.

    Raises:
        ServingError: The body is not a valid request for the model, or too large.
    """
    counts = [s.values_per_row for s in servable.signatures.values()]
    most = None  # values of the largest request, if known
    if counts and None not in counts:
        most = max(counts) * batcher.max_rows + EXTRA_VALUES
    with _collector_paused():
        given = parse_body(body, most)
        signature = servable.signature(given.get("signature_name", ""))
        record.signature = signature.name
        return read_inputs(given, signature, batcher)


def parse_body(body: bytes, max_values: int | None = None) -> dict[str, Any]:
    """Returns the JSON object of a predict request.

    Raises:
        ServingError: It is not a JSON object, its `signature_name` is not a string, or it holds
            more than `max_values` values.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        given = loads(body, max_values)
    except TooManyValues:
        raise invalid(
            f"the body holds more than {max_values} values, more than the maximum input batch "
            "size of any endpoint takes; send fewer rows per request.",
        ) from None
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from None
    if not isinstance(given, dict):
        raise invalid(
            f"JSON Value: the body must be an object; received {type(given).__name__}.",
        )
    if not isinstance(given.get("signature_name", ""), str):
        raise invalid(
            "JSON Value: not formatted correctly. 'signature_name' key must be a string value.",
        )
    return given


def read_inputs(
    given: dict[str, Any], signature: Signature, batcher: Batcher
) -> tuple[dict[str, np.ndarray], bool]:
    """Returns the inputs of a predict request, and whether they are in row format.

    Raises:
        ServingError: Both or neither of `instances` and `inputs`, too many rows, or values that
            do not fit.
    """
    if ("instances" in given) == ("inputs" in given):
        found = "both" if "inputs" in given else f"{sorted(given)[:5]}"
        raise invalid(
            f"the body must have either an 'instances' or an 'inputs' key; received {found}.",
        )
    if "instances" in given:
        columns = _columns(given["instances"], signature)
    else:
        columns = given["inputs"]
        if not isinstance(columns, dict) or columns.keys() == {"b64"}:
            if len(signature.inputs) != 1:
                raise invalid(
                    "inputs is a plain value/list, but expecting an object as multiple input "
                    f"tensors are required: {', '.join(signature.inputs)}.",
                )
            columns = dict.fromkeys(signature.inputs, columns)
    if columns.keys() != signature.inputs.keys():
        raise signature.wrong_names(columns)
    if signature.batched:
        for rows in columns.values():
            batcher.check_rows(len(rows) if isinstance(rows, list) else 1)
    arrays = {name: from_json(columns[name], spec) for name, spec in signature.inputs.items()}
    return arrays, "instances" in given


def _columns(instances: Any, signature: Signature) -> dict[str, list]:
    """Turns a list of {name: value}, or of values for a single input, into {name: values}."""
    if not isinstance(instances, list) or not instances:
        raise invalid("'instances' must be a list/array of at least one element.")
    plain = [not isinstance(row, dict) or row.keys() == {"b64"} for row in instances]
    if all(plain):
        if len(signature.inputs) != 1:
            raise invalid(
                "instances is a plain list, but expecting list of objects as multiple input "
                f"tensors are required: {', '.join(signature.inputs)}.",
            )
        return dict.fromkeys(signature.inputs, instances)
    for index, row in enumerate(instances):
        if plain[index] or row.keys() != signature.inputs.keys():
            keys = "" if plain[index] else ",".join(sorted(row))
            raise invalid(
                f"Failed to process element: {index} of 'instances' list. JSON object keys must "
                f"be equal to: {','.join(signature.inputs)}; received: {keys or 'a plain value'}.",
            )
    return {name: [row[name] for row in instances] for name in signature.inputs}


def write_outputs(outputs: dict[str, np.ndarray], by_rows: bool) -> bytes:
    """Returns the JSON of a predict response, in the format of the request."""
    finite = all(v.dtype.kind != "f" or np.isfinite(v).all() for v in outputs.values())
    values = {name: to_json(value, name) for name, value in outputs.items()}
    if not finite:  # orjson writes null where TF Serving writes NaN
        values = {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in values.items()}
    if len(values) == 1:
        (shown,) = values.values()
    elif by_rows:
        sizes = {name: len(value) for name, value in values.items()}
        if len(set(sizes.values())) != 1:
            raise ServingError("INTERNAL", f"the outputs have unequal batch sizes: {sizes}.")
        rows = zip(*values.values(), strict=True)
        shown = [dict(zip(values, row, strict=True)) for row in rows]
    else:
        shown = values
    answer = {"predictions" if by_rows else "outputs": shown}
    if not finite:
        return json.dumps(answer).encode()
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


# The page -----------------------------------------------------------------------------------


def catalogue(repository: Repository) -> list[dict[str, Any]]:
    """Returns name and versions of each model, and what more is known of it.

    `num_classes` is that of a conditional model, `score_border` the `score` between images that a
    GAN takes for real and for drawn. `quality` is how far samples are from test images, as a
    ratio: 1 for training images. It is given if enough images were measured to rank models by it.
    """
    models = []
    for name, versions in repository.models().items():
        model: dict[str, Any] = {"name": name, "versions": versions}
        try:
            with repository.use(name) as servable:
                details = servable.details
        except ServingError:  # it was unloaded meanwhile
            continue
        if details.get("num_classes") is not None:
            model["num_classes"] = details["num_classes"]
        # None for a critic; absent from older exports.
        if "score_border" in details:
            model["score_border"] = details["score_border"]
        if (quality := _quality(details)) is not None:
            model["quality"] = quality
        models.append(model)
    return models


def _quality(details: dict[str, Any]) -> float | None:
    """Returns the measured quality of the zoo's entry that a model was exported from.

    None if other weights, settings or temperature make it draw other samples than the entry, or if
    it does not tell. A user's own model may have an entry's name.
    """
    try:
        entry = str(details["zoo"]["name"])
        folder = next(zoo / entry for zoo in ZOOS if (zoo / entry).is_dir())
        measured = json.loads((folder / "metadata.json").read_text(encoding="utf-8-sig"))
        results = measured["results"]
        exported = {"config_sha256": measured["config_sha256"]} | details["zoo"]  # older lack it
        same = all(exported[key] == measured[key] for key in ("sha256", "config_sha256"))
        if ENOUGH not in results or not same or details["temperature"] != 1.0:
            return None
        return float(results[QUALITY]["value"])
    except (KeyError, TypeError, ValueError, OSError, StopIteration):
        return None
