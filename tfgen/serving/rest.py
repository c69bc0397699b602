"""TF Serving's REST API, the page, a health check and Prometheus metrics.

    GET  /v1/models/NAME[/versions/V|/labels/L]             states of the versions
    GET  /v1/models/NAME[/versions/V|/labels/L]/metadata    signatures
    POST /v1/models/NAME[/versions/V|/labels/L]:predict     runs one

    {"signature_name": "sample", "instances": [{"seed": 0}, {"seed": 1}]}    row by row
    {"signature_name": "sample", "inputs": {"seed": [0, 1]}}                 column by column

Every error is {"error": message} with the HTTP status that TF Serving gives its code.
"""

import json
import logging
import re
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import fastapi
import numpy as np
import orjson
from fastapi.responses import Response
from google.protobuf import json_format
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tfgen.serving.backend import Backend, shorten, signature_map
from tfgen.serving.errors import ServingError
from tfgen.serving.servable import Signature
from tfgen.serving.tensors import from_json, to_json

__all__ = ["build_app"]

PAGE = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
}
METRICS_PATH = "/monitoring/prometheus/metrics"  # TF Serving's default
_VERSION = re.compile(r"[0-9]+")
_log = logging.getLogger("tfgen.serving")

# The schema of a body that FastAPI cannot infer, as handlers take the raw request.
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "signature_name": {"type": "string"},
                        "instances": {"type": "array", "items": {}, "minItems": 1},
                        "inputs": {},
                    },
                }
            }
        },
    }
}


def build_app(backend: Backend) -> fastapi.FastAPI:
    """Returns the web application."""
    app = fastapi.FastAPI(title="tfgen serve", docs_url=None, redoc_url=None)
    handler = _Handler(backend)
    for place in ("", "version", "label"):
        base = "/v1/models/{name}" + (f"/{place}s/{{{place}}}" if place else "")
        given = {"parameters": [_parameter(name) for name in ("name", place) if name]}
        for method in ("classify", "regress"):
            app.post(f"{base}:{method}", openapi_extra=given)(_answering(handler.other_method))
        app.post(f"{base}:predict", openapi_extra=given | _BODY)(_answering(handler.predict))
        app.get(f"{base}/metadata", openapi_extra=given)(_answering(handler.metadata))
        app.get(base, openapi_extra=given)(_answering(handler.status))
    app.get("/models")(_answering(handler.models))
    app.get("/health")(_answering(handler.health))
    app.get(METRICS_PATH)(_answering(handler.metrics))
    for path, (file, kind) in PAGE.items():
        app.get(f"/{path}", include_in_schema=False)(_file(Path(__file__).with_name(file), kind))

    @app.exception_handler(HTTPException)
    async def unknown_path(request: fastapi.Request, error: HTTPException) -> Response:
        path = request.url.path
        if path.startswith("/v1/"):  # TF Serving's response, whatever is wrong with the path
            return _error(400, f"Malformed request: {request.method} {path}")
        return _error(error.status_code, f"Not found: {request.method} {path}")

    return app


def _parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _error(status: int, message: str) -> Response:
    # json escapes lone surrogates, which a client may have sent.
    content = json.dumps({"error": shorten(message)})
    return Response(content, status, media_type="application/json")


def _answering(handle: Callable[[fastapi.Request], Awaitable[Response]]) -> Callable:
    """Turns a handler's errors into responses."""

    async def endpoint(request: fastapi.Request) -> Response:
        try:
            return await handle(request)
        except ServingError as error:
            return _error(error.http, error.message)
        except ClientDisconnect:
            return _error(499, "the client disconnected.")
        except Exception:  # internals must not be shown to a client
            _log.exception("%s %s failed", request.method, request.url.path)
            return _error(500, "internal error; see the server's log.")

    return endpoint


def _file(path: Path, kind: str) -> Callable:
    content = path.read_bytes()
    # The page may load nothing from other origins, and needs nothing.
    policy = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'"

    async def endpoint() -> Response:
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-cache"}
        return Response(content, media_type=kind, headers=headers)

    return endpoint


def _model_spec(request: fastapi.Request) -> tuple[str, int | None, str]:
    """Returns name, version and label of the path.

    Raises:
        ServingError: The version is not a number.
    """
    given = request.path_params
    version, label = given.get("version"), given.get("label", "")
    if (
        ":" in given["name"]
        or ":" in label
        or not (version is None or (_VERSION.fullmatch(version) and version.isascii()))
    ):
        raise ServingError(
            "INVALID_ARGUMENT", f"Malformed request: {request.method} {request.url.path}"
        )
    if version is None:
        return given["name"], None, label
    digits = version.lstrip("0") or "0"
    if len(digits) > 19 or int(digits) >= 2**63:
        raise ServingError(
            "INVALID_ARGUMENT", f"Failed to convert version: {digits[:25]} to numeric."
        )
    return given["name"], int(digits), label


class _Handler:
    def __init__(self, backend: Backend):
        self._backend = backend

    async def predict(self, request: fastapi.Request) -> Response:
        backend = self._backend
        body = await _read(request, backend.max_bytes)
        with backend.counted("rest") as counted:
            name, version, label = _model_spec(request)
            with backend.repository.use(name, version, label) as servable:
                counted.model = name
                given = parse_body(body)
                signature = servable.signature(given.get("signature_name", ""))
                counted.signature = signature.name
                arrays, by_rows = read_inputs(given, signature)
                outputs = await backend.run(servable, signature, arrays, backend.timeout)
            content = write_outputs(outputs, by_rows)
        return Response(content, media_type="application/json")

    async def other_method(self, request: fastapi.Request) -> Response:
        name, version, label = _model_spec(request)
        method = request.url.path.rpartition(":")[2]
        with self._backend.repository.use(name, version, label):
            raise ServingError(
                "INVALID_ARGUMENT",
                f"Expected {method} signature method_name to be tensorflow/serving/{method}. "
                f"Was: tensorflow/serving/predict. Use :predict.",
            )

    async def status(self, request: fastapi.Request) -> Response:
        return _proto(self._backend.repository.status(*_model_spec(request)))

    async def metadata(self, request: fastapi.Request) -> Response:
        with self._backend.repository.use(*_model_spec(request)) as servable:
            spec = {
                "name": servable.model,
                "signature_name": "",
                "version": str(servable.version),
            }
            signatures = _plain(signature_map(servable))
        content = {"model_spec": spec, "metadata": {"signature_def": signatures}}
        return Response(json.dumps(content), media_type="application/json")

    async def models(self, request: fastapi.Request) -> Response:
        """Lists the models, which the page needs and TF Serving's API does not offer."""
        found = self._backend.repository.models().items()
        listed = [{"name": name, "versions": versions} for name, versions in found]
        return Response(json.dumps({"models": listed}), media_type="application/json")

    async def health(self, request: fastapi.Request) -> Response:
        if self._backend.draining:
            raise ServingError("UNAVAILABLE", "the server is shutting down.")
        return Response(b'{"status": "ok"}', media_type="application/json")

    async def metrics(self, request: fastapi.Request) -> Response:
        return Response(self._backend.metrics.page(), media_type="text/plain; version=0.0.4")


def _plain(message) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _proto(message) -> Response:
    return Response(json.dumps(_plain(message)), media_type="application/json")


# Bodies --------------------------------------------------------------------------------------


async def _read(request: fastapi.Request, limit: int) -> bytes:
    """Returns a request's body, unzipped.

    Raises:
        ServingError: It is larger than `limit`, or is not valid gzip although declared as gzip.
    """
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
    body = b"".join(parts)
    if request.headers.get("content-encoding", "") != "gzip":
        return body
    unzip = zlib.decompressobj(wbits=31)
    try:
        plain = unzip.decompress(body, limit + 1)
    except zlib.error as error:
        raise ServingError("INVALID_ARGUMENT", f"the body is not valid gzip: {error}.") from None
    if len(plain) > limit:
        raise _too_large(limit)
    if not unzip.eof:
        raise ServingError("INVALID_ARGUMENT", "the body is not valid gzip: it ends too early.")
    return plain


def _too_large(limit: int) -> ServingError:
    message = f"the body is larger than the limit of {limit} bytes; send fewer rows per request."
    return ServingError("RESOURCE_EXHAUSTED", message, http=413)


def parse_body(body: bytes) -> dict[str, Any]:
    """Returns the JSON object of a predict request.

    Raises:
        ServingError: It is not a JSON object, or its `signature_name` is not a string.
    """
    if not body:
        raise ServingError("INVALID_ARGUMENT", "JSON Parse error: The document is empty")
    try:
        # orjson is faster, but only Python's parser accepts NaN and Infinity, as TF Serving does.
        slow = b"NaN" in body or b"Infinity" in body
        given = json.loads(body) if slow else orjson.loads(body)
    except (ValueError, RecursionError) as error:
        raise ServingError("INVALID_ARGUMENT", f"JSON Parse error: {error}") from None
    if not isinstance(given, dict):
        raise ServingError(
            "INVALID_ARGUMENT",
            f"JSON Value: the body must be an object; received {type(given).__name__}.",
        )
    if not isinstance(given.get("signature_name", ""), str):
        raise ServingError(
            "INVALID_ARGUMENT",
            "JSON Value: not formatted correctly. 'signature_name' key must be a string value.",
        )
    return given


def read_inputs(given: dict[str, Any], signature: Signature) -> tuple[dict[str, np.ndarray], bool]:
    """Returns the inputs of a predict request, and whether they are in row format.

    Raises:
        ServingError: Both or neither of `instances` and `inputs`, or values that do not fit.
    """
    if ("instances" in given) == ("inputs" in given):
        found = "both" if "inputs" in given else f"{sorted(given)[:5]}"
        raise ServingError(
            "INVALID_ARGUMENT",
            f"the body must have either an 'instances' or an 'inputs' key; received {found}.",
        )
    if "instances" in given:
        columns = _columns(given["instances"], signature)
    else:
        columns = given["inputs"]
        if not isinstance(columns, dict) or columns.keys() == {"b64"}:
            if len(signature.inputs) != 1:
                raise ServingError(
                    "INVALID_ARGUMENT",
                    "inputs is a plain value/list, but expecting an object as multiple input "
                    f"tensors are required: {', '.join(signature.inputs)}.",
                )
            columns = dict.fromkeys(signature.inputs, columns)
    if columns.keys() != signature.inputs.keys():
        raise signature.wrong_names(columns)
    arrays = {name: from_json(columns[name], spec) for name, spec in signature.inputs.items()}
    return arrays, "instances" in given


def _columns(instances: Any, signature: Signature) -> dict[str, list]:
    """Turns a list of {name: value}, or of values for a single input, into {name: values}."""
    if not isinstance(instances, list) or not instances:
        raise ServingError(
            "INVALID_ARGUMENT", "'instances' must be a list/array of at least one element."
        )
    plain = [not isinstance(row, dict) or row.keys() == {"b64"} for row in instances]
    if all(plain):
        if len(signature.inputs) != 1:
            raise ServingError(
                "INVALID_ARGUMENT",
                "instances is a plain list, but expecting list of objects as multiple input "
                f"tensors are required: {', '.join(signature.inputs)}.",
            )
        return dict.fromkeys(signature.inputs, instances)
    for index, row in enumerate(instances):
        if plain[index] or row.keys() != signature.inputs.keys():
            keys = "" if plain[index] else ",".join(sorted(row))
            raise ServingError(
                "INVALID_ARGUMENT",
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
