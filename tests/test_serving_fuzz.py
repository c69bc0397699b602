"""Whatever is sent to `tfgen serve`, it answers as TF Serving would, and keeps running."""

import http.client
import json

import grpc
import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import schemathesis
import tensorflow as tf
from serving_support import tiny_images
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2

# Codes with which a server says that the fault is its own.
OWN_FAULTS = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS}
EXAMPLES = 150


def fuzzing(examples: int = EXAMPLES):
    return hypothesis.settings(
        deadline=None,
        max_examples=examples,
        derandomize=True,  # the same cases in every run
        suppress_health_check=list(hypothesis.HealthCheck),
    )


class Rest:
    """One kept connection."""

    def __init__(self, server):
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

    def send(self, method: str, path: str, body: bytes, headers=None) -> tuple[int, bytes]:
        self.connection.request(method, path, body, headers or {})
        response = self.connection.getresponse()
        return response.status, response.read()

    def check(self, method: str, path: str, body: bytes, headers=None) -> None:
        status, content = self.send(method, path, body, headers)
        answer = json.loads(content)
        if status == 200:
            assert set(answer) & {"predictions", "outputs", "model_version_status", "metadata"}
        else:
            assert 400 <= status < 500, (status, answer)
            assert list(answer) == ["error"]
            assert "Traceback" not in answer["error"]


@pytest.fixture(scope="module")
def rest(server):
    made = Rest(server)
    yield made
    made.connection.close()
    # After all that it still does its work.
    np.testing.assert_array_equal(server.predict([1]), tiny_images([1], 5))


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 300),
    st.floats(),
    st.text(max_size=8),
    st.just({"b64": "aGk="}),
    st.just({"b64": "?"}),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=12,
)
INPUTS = ("seed", "images", "latents", "mask", "labels", "text_bytes")
SIGNATURES = st.sampled_from(
    ["", "sample", "sample_png", "decode", "log_likelihood", "complete", "both", "picky", "echo"]
)
NAMED = st.dictionaries(st.sampled_from(INPUTS), JSON, max_size=4)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "signature_name": st.one_of(SIGNATURES, JSON),
        "inputs": st.one_of(JSON, NAMED),
        "instances": st.one_of(JSON, st.lists(NAMED, max_size=4), st.lists(JSON, max_size=4)),
        "other": JSON,
    },
)


@fuzzing()
@hypothesis.given(body=st.one_of(BODIES, JSON))
def test_json_of_any_shape(rest, body):
    rest.check("POST", "/v1/models/tiny:predict", json.dumps(body).encode())


@fuzzing()
@hypothesis.given(text=st.text(st.characters(), max_size=5), depth=st.integers(0, 110))
@hypothesis.example(text="\ud800", depth=1)
@hypothesis.example(text="a", depth=70)
def test_strings_of_any_characters_and_depth(rest, text, depth):
    value = text
    for _ in range(depth):
        value = [value]
    for name in ("inputs", "instances"):  # NaN is read by another parser
        body = {"other": float("nan"), "signature_name": "echo", name: value}
        rest.check("POST", "/v1/models/tiny:predict", json.dumps(body).encode())


@fuzzing()
@hypothesis.given(body=st.binary(max_size=300), headers=st.booleans())
def test_bytes_of_any_kind(rest, body, headers):
    encoded = {"Content-Encoding": "gzip"} if headers else {}
    rest.check("POST", "/v1/models/tiny:predict", body, encoded)


VALID = json.dumps(
    {
        "signature_name": "log_likelihood",
        "instances": [{"images": tiny_images([3])[0].tolist(), "seed": 1}],
    }
).encode()


@fuzzing()
@hypothesis.given(data=st.data())
def test_a_valid_body_with_a_few_bytes_changed(rest, data):
    body = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    rest.check("POST", "/v1/models/tiny:predict", bytes(body))


PARTS = st.one_of(
    st.sampled_from(["v1", "models", "tiny", "versions", "labels", "5", "3", "old", "metadata"]),
    st.sampled_from(["", "tiny:predict", ":predict", "5:predict", "old:predict", "9" * 20]),
    st.sampled_from(["..", ".", "%2e%2e", "%2f", "%00", "%ff", "%C3%A9", "etc", ";", "?", "#"]),
)


@fuzzing()
@hypothesis.given(
    parts=st.lists(PARTS, max_size=7),
    method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", "TRACE"]),
)
def test_paths_of_any_kind(rest, parts, method):
    path = "/v1/" + "/".join(parts)
    status, content = rest.send(method, path, b'{"inputs": [1]}')
    assert status == 200 or 400 <= status < 500, (status, content)
    if method != "HEAD" and status != 200:
        assert list(json.loads(content)) == ["error"]


@pytest.mark.slow
def test_requests_drawn_from_the_openapi_schema(server):
    """What schemathesis makes of the schema that the server gives of itself."""
    url = f"http://127.0.0.1:{server.port}/openapi.json"
    schema = schemathesis.openapi.from_url(url)
    drawn = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if not operation.path.startswith("/v1/"):
            continue

        @fuzzing(25)
        @hypothesis.given(case=operation.as_strategy())
        def run(case):
            response = case.call()
            assert response.status_code == 200 or 400 <= response.status_code < 500, response.text
            if response.status_code != 200:
                assert list(response.json()) == ["error"]

        run()
        drawn += 1
    assert drawn == 15


# gRPC ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def call(server):
    """Sends bytes to a method and checks that an error is the client's."""
    with server.channel() as channel:

        def send(data: bytes, method: str = "PredictionService/Predict") -> None:
            answer = channel.unary_unary(f"/tensorflow.serving.{method}").future(data, timeout=60)
            if error := answer.exception():
                assert error.code() not in OWN_FAULTS, error.details()
                assert "Traceback" not in error.details()

        yield send
    np.testing.assert_array_equal(
        tf.make_ndarray(server.rpc({"seed": np.array([1])}).outputs["images"]), tiny_images([1], 5)
    )


@fuzzing()
@hypothesis.given(
    data=st.binary(max_size=200),
    method=st.sampled_from(
        [
            "PredictionService/Predict",
            "PredictionService/GetModelMetadata",
            "ModelService/GetModelStatus",
        ]
    ),
)
def test_messages_of_any_bytes(call, data, method):
    call(data, method)


ARRAYS = hnp.arrays(
    st.sampled_from([np.int64, np.float32, np.uint8, np.bool_, np.int32, np.float64]),
    hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
)
PROTOS = st.builds(
    tensor_pb2.TensorProto,
    dtype=st.integers(0, 30),
    tensor_content=st.binary(max_size=16),
    int64_val=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    float_val=st.lists(st.floats(width=32), max_size=3),
    int_val=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
    string_val=st.lists(st.binary(max_size=4), max_size=3),
    version_number=st.integers(-(2**31), 2**31 - 1),
)


@fuzzing()
@hypothesis.given(
    inputs=st.dictionaries(
        st.sampled_from(INPUTS), st.one_of(PROTOS, ARRAYS.map(tf.make_tensor_proto)), max_size=4
    ),
    shapes=st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3), max_size=2),
    signature=st.one_of(SIGNATURES, st.text(max_size=5)),
    version=st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.just(3)),
    wanted=st.lists(st.sampled_from(["images", "score", "latents", "x"]), max_size=3),
)
def test_requests_of_any_tensors(call, inputs, shapes, signature, version, wanted):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "tiny"
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    for name, proto in inputs.items():
        request.inputs[name].CopyFrom(proto)
    for name, sizes in zip(inputs, shapes, strict=False):
        for size in sizes:
            request.inputs[name].tensor_shape.dim.add(size=size)
    request.output_filter.extend(wanted)
    call(request.SerializeToString())


@fuzzing()
@hypothesis.given(data=st.data())
def test_a_valid_message_with_a_few_bytes_changed(call, data):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "tiny", "log_likelihood"
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(tiny_images([3])))
    request.inputs["seed"].CopyFrom(tf.make_tensor_proto(np.array([1])))
    message = bytearray(request.SerializeToString(deterministic=True))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(message) - 1))
        message[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    call(bytes(message))
