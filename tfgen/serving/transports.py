"""REST and gRPC, as `Client` uses them: one class for each."""

import base64
import dataclasses
import ipaddress
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

import numpy as np
from google.protobuf.message import Message

from tfgen.serving.errors import ServingError, code_of_http

__all__ = ["Endpoint", "Grpc", "ModelSpec", "Rest", "TensorSpec", "convert"]

Arrays = dict[str, np.ndarray]

# TensorFlow's name of each dtype -> NumPy's; all others are objects.
_DTYPES = {"DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_HALF": "float16", "DT_BOOL": "bool"}
_DTYPES |= {
    f"DT_{kind.upper()}{bits}": f"{kind}{bits}"
    for kind in ("int", "uint")
    for bits in (8, 16, 32, 64)
}


_Read = TypeVar("_Read")


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """The dtype and shape of an input or output; -1 means any size."""

    dtype: np.dtype
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """The inputs and outputs of a signature, by name."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


class ModelSpec(NamedTuple):
    """A model on a server; its newest version unless one is given."""

    name: str
    version: int | None = None
    label: str | None = None


# REST ----------------------------------------------------------------------------------------


class Rest:
    """TF Serving's REST API. Its methods, which `Grpc` has too, raise ServingError.

    A `timeout` is in seconds.

    Args:
        address: "http://host:port" or "https://host:port".
    """

    def __init__(self, address: str):
        import orjson
        import urllib3

        self._json = orjson
        self._errors, self._timeout = urllib3.exceptions, urllib3.Timeout
        self._base = address.rstrip("/")
        self._pool = urllib3.PoolManager(maxsize=32, retries=False)

    def close(self) -> None:
        self._pool.clear()

    def _url(self, model_spec: ModelSpec, tail: str = "") -> str:
        url = f"{self._base}/v1/models/{quote(model_spec.name, safe='')}"
        if model_spec.version is not None:
            url += f"/versions/{model_spec.version}"
        if model_spec.label is not None:
            url += f"/labels/{quote(model_spec.label, safe='')}"
        return url + tail

    def _call(
        self, method: str, url: str, read: Callable[..., _Read], timeout: float, body: bytes = b""
    ) -> _Read:
        try:
            response = self._pool.request(
                method,
                url,
                body=body or None,
                timeout=self._timeout(total=timeout),
                headers={"Content-Type": "application/json"},
            )
        except self._errors.NewConnectionError as error:
            raise ServingError(
                "UNAVAILABLE", f"no server responds at {self._base}: {error}"
            ) from None
        except self._errors.TimeoutError:
            raise ServingError(
                "DEADLINE_EXCEEDED", f"{self._base} did not respond within {timeout:.3g} seconds."
            ) from None
        except self._errors.HTTPError as error:
            raise ServingError("UNAVAILABLE", f"the connection broke: {error}") from None
        try:
            answer = self._json.loads(response.data)
        except ValueError:
            answer = _slow_json(response.data)
        if response.status == 200:
            try:
                return read(answer)
            except (AttributeError, KeyError, TypeError, ValueError):
                message = f"{url} did not answer as TensorFlow Serving's REST API does."
                raise ServingError("INTERNAL", message) from None
        message = answer.get("error") if isinstance(answer, dict) else None
        raise ServingError(
            code_of_http(response.status),
            message or f"{url} answered with HTTP status {response.status}.",
            response.status,
        )

    def predict(
        self,
        model_spec: ModelSpec,
        signature: str,
        endpoint: Endpoint,
        arrays: Arrays,
        timeout: float,
    ) -> Arrays:
        values = {name: _jsonable(array) for name, array in arrays.items()}
        if all(a.dtype.kind != "f" or np.isfinite(a).all() for a in arrays.values()):
            request = {"signature_name": signature, "inputs": values}
            body = self._json.dumps(request, option=self._json.OPT_SERIALIZE_NUMPY)
        else:  # orjson cannot write NaN
            values = {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in values.items()}
            body = json.dumps({"signature_name": signature, "inputs": values}).encode()
        url = self._url(model_spec, ":predict")
        outputs = self._call("POST", url, lambda answer: answer["outputs"], timeout, body)
        if len(endpoint.outputs) == 1:
            outputs = dict.fromkeys(endpoint.outputs, outputs)
        if not isinstance(outputs, dict) or outputs.keys() != endpoint.outputs.keys():
            raise ValueError(
                f"{signature} of {model_spec.name} must answer with {', '.join(endpoint.outputs)}; "
                "the server's answer holds something else."
            )
        specs = endpoint.outputs.items()
        return {name: _from_json(name, outputs[name], spec.dtype) for name, spec in specs}

    def metadata(self, model_spec: ModelSpec, timeout: float) -> dict[str, Endpoint]:
        def read(answer: Any) -> dict[str, Endpoint]:
            signatures = answer["metadata"]["signature_def"]["signature_def"]
            return {
                name: Endpoint(_rest_specs(found["inputs"]), _rest_specs(found["outputs"]))
                for name, found in signatures.items()
                if found["method_name"].endswith("/predict")
            }

        return self._call("GET", self._url(model_spec, "/metadata"), read, timeout)

    def status(self, model_spec: ModelSpec, timeout: float) -> dict[int, str]:
        def read(answer: Any) -> dict[int, str]:
            return {int(v["version"]): v["state"] for v in answer["model_version_status"]}

        return self._call("GET", self._url(model_spec), read, timeout)


def convert(name: str, value: Any, dtype: np.dtype) -> np.ndarray:
    """Returns `value` as an array of `dtype`.

    Raises:
        ValueError: It does not fit: a float image or 300 as uint8, 1e300 as float32.
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
    with np.errstate(over="ignore"):
        converted = array.astype(dtype, copy=False)
    if dtype.kind == "f" and array.dtype.kind in "iuf":
        lost = np.isfinite(array) & ~np.isfinite(converted)
        if lost.any():
            raise ValueError(
                f"{name} must be within the range of {dtype}, at most {np.finfo(dtype).max:.3g} "
                f"in size; received {array[lost][0]:.3g}."
            )
    return converted


def _slow_json(data: bytes) -> Any:
    """Parses JSON with NaN and Infinity, which TF Serving writes and orjson refuses."""
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

    def encoded(item: Any) -> Any:
        if isinstance(item, list):
            return [encoded(inner) for inner in item]
        raw = item.encode() if isinstance(item, str) else item
        return {"b64": base64.b64encode(raw).decode()}

    return encoded(array.tolist())


def _from_json(name: str, value: Any, dtype: np.dtype) -> np.ndarray:
    if dtype.kind != "O":
        return convert(f"the server's {name}", value, dtype)

    def decoded(item: Any) -> Any:
        if isinstance(item, list):
            return [decoded(inner) for inner in item]
        return base64.b64decode(item["b64"]) if isinstance(item, dict) else item.encode()

    return np.array(decoded(value), object)


# gRPC ----------------------------------------------------------------------------------------


def _is_loopback(target: str) -> bool:
    """Returns whether "host:port" is this machine.

    >>> _is_loopback("127.0.0.1:8500"), _is_loopback("[::1]:8500"), _is_loopback("host:8500")
    (True, True, False)
    """
    host = urlsplit(f"//{target}").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class Grpc:
    """TF Serving's gRPC API.

    Args:
        target: "host:port".
    """

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
                ("grpc.enable_retries", 0),  # `Client` retries, as for REST
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
                # A proxy cannot reach this machine's own loopback address.
                ("grpc.enable_http_proxy", int(not _is_loopback(target))),
            ],
        )
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def _call(
        self, method: Callable, request: Message, model_spec: ModelSpec, timeout: float
    ) -> Message:
        request.model_spec.name = model_spec.name
        if model_spec.version is not None:
            request.model_spec.version.value = model_spec.version
        if model_spec.label is not None:
            request.model_spec.version_label = model_spec.label
        try:
            return method(request, timeout=timeout)
        except self._grpc.RpcError as error:
            details = error.details() or f"{self._target} gave no reason."
            raise ServingError(error.code().name, details) from None

    def predict(
        self,
        model_spec: ModelSpec,
        signature: str,
        endpoint: Endpoint,
        arrays: Arrays,
        timeout: float,
    ) -> Arrays:
        request = self._predict_pb2.PredictRequest()
        request.model_spec.signature_name = signature
        for name, array in arrays.items():
            request.inputs[name].CopyFrom(self._tensors.to_proto(array))
        response = self._call(self._prediction.Predict, request, model_spec, timeout)
        return {name: self._tensors.read_proto(proto) for name, proto in response.outputs.items()}

    def metadata(self, model_spec: ModelSpec, timeout: float) -> dict[str, Endpoint]:
        request = self._metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        response = self._call(self._prediction.GetModelMetadata, request, model_spec, timeout)
        signatures = self._metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return {
            name: Endpoint(self._specs(found.inputs), self._specs(found.outputs))
            for name, found in signatures.signature_def.items()
            if found.method_name.endswith("/predict")
        }

    def _specs(self, infos: Mapping) -> dict[str, TensorSpec]:
        return {
            name: TensorSpec(
                np.dtype(_DTYPES.get(self._types.Name(info.dtype), "object")),
                tuple(axis.size for axis in info.tensor_shape.dim),
            )
            for name, info in infos.items()
        }

    def status(self, model_spec: ModelSpec, timeout: float) -> dict[int, str]:
        request = self._status_pb2.GetModelStatusRequest()
        response = self._call(self._models.GetModelStatus, request, model_spec, timeout)
        states = self._status_pb2.ModelVersionStatus.State
        return {found.version: states.Name(found.state) for found in response.model_version_status}
