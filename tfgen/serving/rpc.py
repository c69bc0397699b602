"""TF Serving's gRPC API: Predict and GetModelMetadata, GetModelStatus."""

import logging
from collections.abc import Awaitable, Callable

import grpc
import numpy as np
from google.protobuf.message import DecodeError, Message
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)

from tfgen.serving.backend import Backend, shorten, signature_map
from tfgen.serving.errors import ServingError, invalid
from tfgen.serving.servable import DEFAULT_SIGNATURE, Signature
from tfgen.serving.tensors import from_proto, to_proto

__all__ = ["handlers"]

_log = logging.getLogger("tfgen.serving")
Context = grpc.aio.ServicerContext


def handlers(backend: Backend) -> list[grpc.GenericRpcHandler]:
    """Returns the two services, for `grpc.aio.Server.add_generic_rpc_handlers`."""
    service = _Service(backend)
    return [
        grpc.method_handlers_generic_handler(
            "tensorflow.serving.PredictionService",
            {
                "Predict": _method(service.predict, predict_pb2.PredictRequest),
                "GetModelMetadata": _method(
                    service.metadata, get_model_metadata_pb2.GetModelMetadataRequest
                ),
            },
        ),
        grpc.method_handlers_generic_handler(
            "tensorflow.serving.ModelService",
            {"GetModelStatus": _method(service.status, get_model_status_pb2.GetModelStatusRequest)},
        ),
    ]


def _method(
    handle: Callable[[Message, Context], Awaitable[Message]], request_type: type[Message]
) -> grpc.RpcMethodHandler:
    """Turns a method's errors, and messages that cannot be parsed, into gRPC statuses."""

    def read(data: bytes) -> Message | DecodeError:
        try:
            return request_type.FromString(data)
        except DecodeError as error:
            return error

    async def answer(request: Message | DecodeError, context: Context) -> Message:
        try:
            if isinstance(request, DecodeError):
                raise invalid(
                    f"the message is not a valid {request_type.__name__}: {request}.",
                )
            return await handle(request, context)
        except ServingError as error:
            status = getattr(grpc.StatusCode, error.code), shorten(error.message)
        except Exception:  # internals must not be shown to a client
            _log.exception("%s failed", request_type.__name__)
            status = grpc.StatusCode.INTERNAL, "internal error; see the server's log."
        await context.abort(*status)

    return grpc.unary_unary_rpc_method_handler(
        answer, read, lambda response: response.SerializeToString()
    )


def _model_spec(request: Message) -> tuple[str, int | None, str]:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    spec: model_pb2.ModelSpec = request.model_spec
    return spec.name, spec.version.value if spec.HasField("version") else None, spec.version_label


class _Service:
    def __init__(self, backend: Backend):
        self._backend = backend

    async def predict(self, request: predict_pb2.PredictRequest, context: Context) -> Message:
        backend = self._backend
        left = context.time_remaining()
        timeout = backend.timeout if left is None else min(left, backend.timeout)
        with backend.counted("grpc") as record:
            name, version, label = _model_spec(request)
            with backend.repository.use(name, version, label) as servable:
                record.model = name
                signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
                if signature_name not in servable.signatures:
                    raise ServingError(
                        "FAILED_PRECONDITION",
                        f'Serving signature key "{signature_name}" not found. {name} has '
                        f"{', '.join(sorted(servable.signatures))}.",
                    )
                signature = servable.signature(signature_name)
                record.signature = signature_name
                if request.inputs.keys() != signature.inputs.keys():
                    raise signature.wrong_names(request.inputs)
                wanted = _filtered(request, signature.outputs)
                arrays = await backend.by_size(request.ByteSize(), self._read, request, signature)
                outputs = await backend.run(servable, signature, arrays, timeout)
            response = predict_pb2.PredictResponse()
            response.model_spec.name = name
            response.model_spec.version.value = servable.version
            response.model_spec.signature_name = signature_name
            for key in wanted:
                output = outputs[key]
                proto = await backend.by_size(output.nbytes, to_proto, output, True)
                response.outputs[key].CopyFrom(proto)
            return response

    def _read(
        self, request: predict_pb2.PredictRequest, signature: Signature
    ) -> dict[str, np.ndarray]:
        """Returns the inputs of a request."""
        backend, arrays = self._backend, {}
        for name, spec in signature.inputs.items():
            proto = request.inputs[name]
            if signature.batched and proto.tensor_shape.dim:
                backend.batcher.check_rows(proto.tensor_shape.dim[0].size)
            arrays[name] = from_proto(proto, spec, backend.max_bytes)
        return arrays

    async def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: Context
    ) -> Message:
        spec = _model_spec(request)
        if not request.metadata_field:
            raise invalid(
                "GetModelMetadataRequest must specify at least one metadata_field",
            )
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(
                    f"Metadata field {field} is not supported; ask for signature_def.",
                )
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        with self._backend.repository.use(*spec) as servable:
            response.model_spec.name = servable.model
            response.model_spec.version.value = servable.version
            response.metadata["signature_def"].Pack(signature_map(servable))
        return response

    async def status(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: Context
    ) -> Message:
        return self._backend.repository.status(*_model_spec(request))


def _filtered(request: predict_pb2.PredictRequest, outputs) -> list[str]:
    """Returns the outputs that a request asks for; all if it names none."""
    wanted = list(request.output_filter) or list(outputs)
    for index, name in enumerate(wanted):
        if name not in outputs:
            raise invalid(
                f"output tensor alias not found in signature: {name} Outputs expected to be in "
                f"the set {{{','.join(outputs)}}}.",
            )
        if name in wanted[:index]:
            raise invalid(f"duplicate output tensor alias: {name}")
    return wanted
