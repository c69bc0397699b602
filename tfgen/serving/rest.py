"""TF Serving's REST API, the page, a health check and Prometheus metrics.

    GET  /v1/models/NAME[/versions/V|/labels/L]             states of the versions
    GET  /v1/models/NAME[/versions/V|/labels/L]/metadata    signatures
    POST /v1/models/NAME[/versions/V|/labels/L]:predict     runs one

    {"signature_name": "sample", "instances": [{"seed": 0}, {"seed": 1}]}    row by row
    {"signature_name": "sample", "inputs": {"seed": [0, 1]}}                 column by column

Every error is {"error": message} with the HTTP status that TF Serving gives its code.
"""

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import fastapi
from fastapi.responses import Response
from google.protobuf import json_format
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tfgen.serving.backend import Backend, shorten, signature_map
from tfgen.serving.bodies import catalogue, read_body, too_large, unzip, write_outputs
from tfgen.serving.errors import ServingError, invalid

__all__ = ["build_app"]

PAGE = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.pads.js": ("page.pads.js", "text/javascript; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
}
METRICS_PATH = "/monitoring/prometheus/metrics"  # TF Serving's default
_log = logging.getLogger("tfgen.serving")

# A body's schema: FastAPI cannot infer it, as handlers take the raw request.
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
    app = fastapi.FastAPI(
        title="tfgen serve", docs_url=None, redoc_url=None, redirect_slashes=False
    )
    handler = _Handler(backend)
    for place in ("", "version", "label"):
        base = "/v1/models/{name}" + (f"/{place}s/{{{place}}}" if place else "")
        given = {"parameters": [_parameter(name) for name in ("name", place) if name]}
        for method in ("classify", "regress"):
            app.post(f"{base}:{method}", openapi_extra=given)(_answering(handler.other_method))
        app.post(f"{base}:predict", openapi_extra=given | _BODY)(_answering(handler.predict))
        app.get(f"{base}/metadata", openapi_extra=given)(_answering(handler.metadata))
        app.get(base, openapi_extra=given)(_answering(handler.status))
    own = {"/models": handler.models, "/health": handler.health, METRICS_PATH: handler.metrics}
    for path, handle in own.items():
        app.get(path)(_answering(handle))
        app.head(path, include_in_schema=False)(_answering(handle))
    for path, (file, kind) in PAGE.items():
        app.add_route(f"/{path}", _file(Path(__file__).with_name(file), kind))  # HEAD, too

    @app.exception_handler(HTTPException)
    async def unknown_path(request: fastapi.Request, error: HTTPException) -> Response:
        path = request.url.path
        if path.startswith("/v1/"):  # TF Serving's response for any wrong path
            return _error(400, f"Malformed request: {request.method} {path}")
        words = "Method not allowed" if error.status_code == 405 else "Not found"
        response = _error(error.status_code, f"{words}: {request.method} {path}")
        response.headers.update(error.headers or {})
        return response

    return app


def _parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _error(status: int, message: str) -> Response:
    return _json({"error": shorten(message)}, status)


def _json(content: Any, status: int = 200) -> Response:
    # json escapes lone surrogates, which a client may have sent.
    return Response(json.dumps(content), status, media_type="application/json")


def _answering(handle: Callable[[fastapi.Request], Awaitable[Response]]) -> Callable:
    """Turns a handler's errors into responses."""

    async def endpoint(request: fastapi.Request) -> Response:
        try:
            return await handle(request)
        except ServingError as error:
            return _error(error.http, error.message)
        except asyncio.CancelledError:  # by uvicorn, when the time to finish is over
            return _error(503, "the server is shutting down.")
        except Exception:  # internals must not be shown to a client
            _log.exception("%s %s failed", request.method, request.url.path)
            return _error(500, "internal error; see the server's log.")

    return endpoint


def _file(path: Path, kind: str) -> Callable:
    content = path.read_bytes()
    # The page needs nothing from other origins.
    policy = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'"

    async def endpoint(request: fastapi.Request) -> Response:
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
    plain = version is None or re.fullmatch("[0-9]+", version)
    if ":" in given["name"] + label or not plain:
        raise invalid(f"Malformed request: {request.method} {request.url.path}")
    if version is None:
        return given["name"], None, label
    digits = version.lstrip("0") or "0"
    if len(digits) > 19 or int(digits) >= 2**63:
        raise invalid(f"Failed to convert version: {digits[:25]} to numeric.")
    return given["name"], int(digits), label


async def _while_connected(request: fastapi.Request, work: Awaitable[Any]) -> Any:
    """Returns what `work` does, which is cancelled when the client hangs up.

    Raises:
        ServingError: CANCELLED, or from `work`.
    """
    answer = asyncio.ensure_future(work)
    message = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({answer, message}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done() and message.result()["type"] == "http.disconnect":
            raise ServingError("CANCELLED", "the client disconnected.")
        return await answer
    finally:
        answer.cancel()
        message.cancel()


class _Handler:
    def __init__(self, backend: Backend):
        self._backend = backend

    async def predict(self, request: fastapi.Request) -> Response:
        backend = self._backend
        with contextlib.ExitStack() as held, backend.counted("rest") as record:
            hold = held.enter_context(backend.holding())
            body = await _body(request, backend, hold)
            record.began = time.perf_counter()  # the client's own time counts for refused bodies
            name, version, label = _model_spec(request)
            with backend.repository.use(name, version, label) as servable:
                record.model = name
                if request.headers.get("content-encoding", "").lower() == "gzip":
                    body = await backend.in_thread(unzip, body, backend.max_bytes)
                    hold(len(body))
                arrays, by_rows = await backend.by_size(
                    len(body), read_body, servable, backend.batcher, record, body
                )
                del body
                held.close()
                signature = servable.signatures[record.signature]
                running = backend.run(servable, signature, arrays, backend.timeout)
                outputs = await _while_connected(request, running)
            size = sum(array.nbytes for array in outputs.values())
            content = await backend.by_size(size, write_outputs, outputs, by_rows)
        return Response(content, media_type="application/json")

    async def other_method(self, request: fastapi.Request) -> Response:
        name, version, label = _model_spec(request)
        method = request.url.path.rpartition(":")[2]
        with self._backend.repository.use(name, version, label):
            raise invalid(
                f"Expected {method} signature method_name to be tensorflow/serving/{method}. "
                f"Was: tensorflow/serving/predict. Use :predict.",
            )

    async def status(self, request: fastapi.Request) -> Response:
        return _json(_plain(self._backend.repository.status(*_model_spec(request))))

    async def metadata(self, request: fastapi.Request) -> Response:
        with self._backend.repository.use(*_model_spec(request)) as servable:
            spec = {
                "name": servable.model,
                "signature_name": "",
                "version": str(servable.version),
            }
            signatures = _plain(signature_map(servable))
        return _json({"model_spec": spec, "metadata": {"signature_def": signatures}})

    async def models(self, request: fastapi.Request) -> Response:
        """Lists the models and the limit of rows: for the page, as TF Serving's API has neither."""
        backend = self._backend
        models = catalogue(backend.repository)
        return _json({"models": models, "max_batch_size": backend.batcher.max_rows})

    async def health(self, request: fastapi.Request) -> Response:
        if self._backend.draining:
            raise ServingError("UNAVAILABLE", "the server is shutting down.")
        return _json({"status": "ok"})

    async def metrics(self, request: fastapi.Request) -> Response:
        return Response(self._backend.metrics.page(), media_type="text/plain; version=0.0.4")


def _plain(message) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


# Bodies --------------------------------------------------------------------------------------


async def _body(request: fastapi.Request, backend: Backend, hold: Callable[[int], None]) -> bytes:
    """Returns a request's body as it was sent.

    Args:
        request: Of the client.
        backend: Knows how large the body may be and how long it may take.
        hold: Is told of each part.

    Raises:
        ServingError: It is too large, takes too long, does not fit next to the others, or the
            client has gone.
    """
    limit = backend.max_bytes
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limit:
        raise too_large(limit)
    parts, size = [], 0
    try:
        async with asyncio.timeout(backend.timeout):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise too_large(limit)
                hold(len(part))
                parts.append(part)
    except ClientDisconnect:
        raise ServingError("CANCELLED", "the client disconnected.") from None
    except TimeoutError:
        raise ServingError(
            "DEADLINE_EXCEEDED", f"the body did not arrive within {backend.timeout:.3g} seconds."
        ) from None
    return b"".join(parts)
