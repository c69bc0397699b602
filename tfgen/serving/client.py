"""A client for TF Serving's REST and gRPC: arrays in, arrays out.

It speaks the public protocol only, so the local server and TensorFlow Serving are the same to it.
"""

import base64
import dataclasses
import json
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import numpy as np

from tfgen.serving.errors import ServingError, code_of_http

__all__ = ["Client", "Endpoint", "TensorSpec"]

FIRST_WAIT = 0.05  # seconds before the second attempt; doubles with each further one
LONGEST_WAIT = 2.0
_Answer = TypeVar("_Answer")

# TensorFlow's names of the types that a client may meet, and NumPy's.
_DTYPES = {
    "DT_FLOAT": "float32",
    "DT_DOUBLE": "float64",
    "DT_HALF": "float16",
    "DT_INT8": "int8",
    "DT_INT16": "int16",
    "DT_INT32": "int32",
    "DT_INT64": "int64",
    "DT_UINT8": "uint8",
    "DT_UINT16": "uint16",
    "DT_UINT32": "uint32",
    "DT_UINT64": "uint64",
    "DT_BOOL": "bool",
    "DT_STRING": "object",
}


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """dtype and shape of an input or output; -1 stands for any size."""

    dtype: np.dtype
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """The inputs and outputs of a signature, by name."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


class Client:
    """Talks to `tfgen serve` or to TensorFlow Serving; safe to share among threads.

    >>> client = Client("http://127.0.0.1:8501")  # REST; "grpc://127.0.0.1:8500" for gRPC
    >>> client.predict("vae_mnist", {"seed": [0, 1]}, "sample")["images"].shape  # doctest: +SKIP
    (2, 28, 28, 1)

    Args:
        address: "http://host:port", "https://host:port", or "grpc://host:port".
        timeout: Seconds for a call with all its attempts.
        retries: Further attempts when the server is unavailable or the connection breaks; the
            waits between them double and carry some chance, so that clients do not come back in
            step. A request may therefore run twice, which changes nothing: seeds are inputs.

    Raises:
        ValueError: An argument out of range.
        ImportError: The `serving` extra is not installed.
    """

    def __init__(
        self, address: str = "http://127.0.0.1:8501", timeout: float = 30.0, retries: int = 3
    ):
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https", "grpc") or not parts.netloc:
            raise ValueError(
                "address must be http://host:port, https://host:port or grpc://host:port; "
                f"received {address!r}."
            )
        if not timeout > 0:
            raise ValueError(f"timeout must be a positive number of seconds; received {timeout}.")
        if retries < 0:
            raise ValueError(f"retries must be at least 0; received {retries}.")
        self.address = address
        self.timeout = timeout
        self.retries = retries
        transport = _Grpc if parts.scheme == "grpc" else _Rest
        try:
            self._transport = transport(parts.netloc if parts.scheme == "grpc" else address)
        except ImportError as error:
            raise ImportError(
                f"Client needs {error.name}: pip install 'tfgen[serving]'."
            ) from error
        self._known: dict[tuple, dict[str, Endpoint]] = {}

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Any],
        signature: str = "serving_default",
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs an endpoint.

        Args:
            model: Its name on the server.
            inputs: {name: array or nested lists}, each with a leading batch axis. Numbers are
                converted where that loses nothing, e.g. [0, 1] to int64.
            signature: The endpoint, e.g. "sample".
            version: One version; None for the newest.
            label: A version label instead.
            timeout: Seconds, instead of the client's own.

        Returns:
            {name: array}; PNG files and other bytes as an object array.

        Raises:
            ValueError: An input that cannot be converted to what the endpoint takes.
            ServingError: The server's error, or DEADLINE_EXCEEDED or UNAVAILABLE.
        """
        where = _where(model, version, label)
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        known = where in self._known
        endpoint = self._endpoint(where, signature, deadline)
        try:
            return self._predict(where, signature, endpoint, inputs, deadline)
        except (ServingError, ValueError):
            # Another version may have come meanwhile, with other inputs.
            if not known:
                raise
            del self._known[where]
            fresh = self._endpoint(where, signature, deadline)
            if fresh == endpoint:
                raise
        return self._predict(where, signature, fresh, inputs, deadline)

    def metadata(
        self, model: str, *, version: int | None = None, label: str | None = None
    ) -> dict[str, Endpoint]:
        """Returns a model's endpoints by name.

        Raises:
            ServingError: See `predict`.
        """
        where = _where(model, version, label)
        deadline = time.monotonic() + self.timeout
        found = self._retrying(lambda left: self._transport.metadata(where, left), deadline)
        self._known[where] = found
        return found

    def status(
        self, model: str, *, version: int | None = None, label: str | None = None
    ) -> dict[int, str]:
        """Returns {version: state}, e.g. {1: "AVAILABLE"}.

        Raises:
            ServingError: See `predict`.
        """
        where = _where(model, version, label)
        deadline = time.monotonic() + self.timeout
        return self._retrying(lambda left: self._transport.status(where, left), deadline)

    def _endpoint(self, where: tuple, signature: str, deadline: float) -> Endpoint:
        if signature not in self._known.get(where, ()):
            self._known[where] = self._retrying(
                lambda left: self._transport.metadata(where, left), deadline
            )
        endpoints = self._known[where]
        if signature not in endpoints:
            raise ServingError(
                "INVALID_ARGUMENT",
                f"{where[0]} has no endpoint {signature!r}; it has {', '.join(sorted(endpoints))}.",
            )
        return endpoints[signature]

    def _predict(self, where, signature, endpoint, inputs, deadline) -> dict[str, np.ndarray]:
        if set(inputs) != set(endpoint.inputs):
            raise ValueError(
                f"inputs must be {', '.join(sorted(endpoint.inputs))}; received "
                f"{', '.join(sorted(inputs)) or 'none'}."
            )
        arrays = {
            name: convert(name, inputs[name], spec.dtype) for name, spec in endpoint.inputs.items()
        }
        return self._retrying(
            lambda left: self._transport.predict(where, signature, endpoint, arrays, left), deadline
        )

    def _retrying(self, call: Callable[[float], _Answer], deadline: float) -> _Answer:
        """Calls with the seconds that are left, again while the server is unavailable."""
        attempt = 0
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ServingError("DEADLINE_EXCEEDED", f"{self.address} gave no answer in time.")
            try:
                return call(left)
            except ServingError as error:
                wait = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.0)
                attempt += 1
                late = time.monotonic() + wait >= deadline
                if error.code != "UNAVAILABLE" or attempt > self.retries or late:
                    raise
            time.sleep(wait)


def _where(model: str, version: int | None, label: str | None) -> tuple:
    if version is not None and label is not None:
        raise ValueError(
            f"give either version or label, not both; received {version} and {label!r}."
        )
    return model, version, label


def convert(name: str, value: Any, dtype: np.dtype) -> np.ndarray:
    """Returns `value` as an array of `dtype`.

    Raises:
        ValueError: That would lose something: a float image as uint8, 300 as uint8.
    """
    if dtype.kind == "O":
        array = np.asarray(value, object)
        if not all(isinstance(item, (bytes, str)) for item in array.flat):
            raise ValueError(f"{name} must hold bytes or str; received {value!r:.60}.")
        return array
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} must be an array; received lists of unequal lengths.") from None
    whole = array.dtype.kind in "iu" and dtype.kind in "iu"
    allowed = (
        array.dtype == dtype
        or not array.size
        or (dtype.kind == "f" and array.dtype.kind in "iuf")
        or (whole and np.iinfo(dtype).min <= array.min() and array.max() <= np.iinfo(dtype).max)
    )
    if not allowed:
        within = f", in [{array.min()}, {array.max()}]" if array.dtype.kind in "iuf" else ""
        raise ValueError(f"{name} must be {dtype}; received {array.dtype}{within}.")
    return array.astype(dtype, copy=False)


# REST ----------------------------------------------------------------------------------------


class _Rest:
    def __init__(self, address: str):
        import orjson
        import urllib3

        self._json = orjson
        self._errors = urllib3.exceptions
        self._base = address.rstrip("/")
        self._pool = urllib3.PoolManager(maxsize=32, retries=False)

    def close(self) -> None:
        self._pool.clear()

    def _url(self, where: tuple, tail: str = "") -> str:
        name, version, label = where
        url = f"{self._base}/v1/models/{quote(name, safe='')}"
        if version is not None:
            url += f"/versions/{version}"
        if label is not None:
            url += f"/labels/{quote(label, safe='')}"
        return url + tail

    def _call(self, method: str, url: str, timeout: float, body: bytes | None = None) -> Any:
        try:
            response = self._pool.request(
                method,
                url,
                body=body,
                timeout=timeout,
                headers={"Content-Type": "application/json"},
            )
        except self._errors.NewConnectionError as error:
            raise ServingError("UNAVAILABLE", f"nothing answers at {self._base}: {error}") from None
        except self._errors.TimeoutError:
            raise ServingError(
                "DEADLINE_EXCEEDED", f"{self._base} gave no answer within {timeout:.3g} seconds."
            ) from None
        except self._errors.HTTPError as error:
            raise ServingError("UNAVAILABLE", f"the connection broke: {error}") from None
        try:
            answer = self._json.loads(response.data)
        except ValueError:
            answer = _slow_json(response.data)
        if response.status == 200 and isinstance(answer, dict):
            return answer
        message = answer.get("error") if isinstance(answer, dict) else None
        raise ServingError(
            code_of_http(response.status),
            message or f"{url} answered with HTTP status {response.status}.",
            response.status,
        )

    def predict(self, where, signature, endpoint, arrays, timeout) -> dict[str, np.ndarray]:
        values = {name: _jsonable(array) for name, array in arrays.items()}
        if all(a.dtype.kind != "f" or np.isfinite(a).all() for a in arrays.values()):
            request = {"signature_name": signature, "inputs": values}
            body = self._json.dumps(request, option=self._json.OPT_SERIALIZE_NUMPY)
        else:  # orjson has no word for NaN
            values = {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in values.items()}
            body = json.dumps({"signature_name": signature, "inputs": values}).encode()
        outputs = self._call("POST", self._url(where, ":predict"), timeout, body)["outputs"]
        if len(endpoint.outputs) == 1:
            outputs = dict.fromkeys(endpoint.outputs, outputs)
        return {
            name: _from_json(outputs[name], spec.dtype) for name, spec in endpoint.outputs.items()
        }

    def metadata(self, where, timeout) -> dict[str, Endpoint]:
        answer = self._call("GET", self._url(where, "/metadata"), timeout)
        signatures = answer["metadata"]["signature_def"]["signature_def"]
        return {
            name: Endpoint(_rest_specs(found["inputs"]), _rest_specs(found["outputs"]))
            for name, found in signatures.items()
            if found["method_name"].endswith("/predict")
        }

    def status(self, where, timeout) -> dict[int, str]:
        answer = self._call("GET", self._url(where), timeout)
        return {int(found["version"]): found["state"] for found in answer["model_version_status"]}


def _slow_json(data: bytes) -> Any:
    """TF Serving writes NaN and Infinity, which only Python's own parser reads."""
    try:
        return json.loads(data)
    except ValueError:
        return None


def _rest_specs(infos: dict[str, dict]) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(
            np.dtype(_DTYPES.get(info["dtype"], "object")),
            tuple(int(axis["size"]) for axis in info["tensor_shape"].get("dim", ())),
        )
        for name, info in infos.items()
    }


def _jsonable(array: np.ndarray) -> Any:
    if array.dtype.kind != "O":
        return np.ascontiguousarray(array) if array.ndim else array.item()

    def convert(item: Any) -> Any:
        if isinstance(item, list):
            return [convert(inner) for inner in item]
        raw = item.encode() if isinstance(item, str) else item
        return {"b64": base64.b64encode(raw).decode()}

    return convert(array.tolist())


def _from_json(value: Any, dtype: np.dtype) -> np.ndarray:
    if dtype.kind != "O":
        return np.array(value, dtype)

    def convert(item: Any) -> Any:
        if isinstance(item, list):
            return [convert(inner) for inner in item]
        return base64.b64decode(item["b64"]) if isinstance(item, dict) else item.encode()

    return np.array(convert(value), object)


# gRPC ----------------------------------------------------------------------------------------


class _Grpc:
    def __init__(self, target: str):
        import grpc
        from tensorflow.core.framework import types_pb2
        from tensorflow_serving.apis import (
            get_model_metadata_pb2,
            get_model_status_pb2,
            model_service_pb2_grpc,
            predict_pb2,
            prediction_service_pb2_grpc,
        )

        from tfgen.serving import tensors

        self._grpc, self._predict_pb2, self._tensors = grpc, predict_pb2, tensors
        self._metadata_pb2, self._status_pb2 = get_model_metadata_pb2, get_model_status_pb2
        self._types = types_pb2.DataType
        self._target = target
        self._channel = grpc.insecure_channel(
            target,
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.enable_retries", 0),  # `Client` retries, the same way for REST
            ],
        )
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def _call(self, method, request, where, timeout):
        name, version, label = where
        request.model_spec.name = name
        if version is not None:
            request.model_spec.version.value = version
        if label is not None:
            request.model_spec.version_label = label
        try:
            return method(request, timeout=timeout)
        except self._grpc.RpcError as error:
            details = error.details() or f"{self._target} gave no reason."
            raise ServingError(error.code().name, details) from None

    def predict(self, where, signature, endpoint, arrays, timeout) -> dict[str, np.ndarray]:
        request = self._predict_pb2.PredictRequest()
        request.model_spec.signature_name = signature
        for name, array in arrays.items():
            request.inputs[name].CopyFrom(self._tensors.to_proto(array))
        response = self._call(self._prediction.Predict, request, where, timeout)
        return {name: self._tensors.read_proto(proto) for name, proto in response.outputs.items()}

    def metadata(self, where, timeout) -> dict[str, Endpoint]:
        request = self._metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        response = self._call(self._prediction.GetModelMetadata, request, where, timeout)
        signatures = self._metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return {
            name: Endpoint(self._specs(found.inputs), self._specs(found.outputs))
            for name, found in signatures.signature_def.items()
            if found.method_name.endswith("/predict")
        }

    def _specs(self, infos) -> dict[str, TensorSpec]:
        return {
            name: TensorSpec(
                np.dtype(_DTYPES.get(self._types.Name(info.dtype), "object")),
                tuple(axis.size for axis in info.tensor_shape.dim),
            )
            for name, info in infos.items()
        }

    def status(self, where, timeout) -> dict[int, str]:
        request = self._status_pb2.GetModelStatusRequest()
        response = self._call(self._models.GetModelStatus, request, where, timeout)
        states = self._status_pb2.ModelVersionStatus.State
        return {found.version: states.Name(found.state) for found in response.model_version_status}
