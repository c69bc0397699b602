"""`tfgen serve` as a client of TF Serving sees it: the protocol, and the answers to bad input."""

import base64
import gzip
import io
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import prometheus_client.parser
import pytest
import tensorflow as tf
from PIL import Image
from serving_support import SIDE, tiny_images
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

PREDICT = "/v1/models/tiny:predict"
IMAGES = tiny_images([4, 9])

# REST ----------------------------------------------------------------------------------------


def test_status_over_rest(server):
    available = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    five, three = {"version": "5", **available}, {"version": "3", **available}
    assert server.get("/v1/models/tiny") == (200, {"model_version_status": [five, three]})
    for tail in ("versions/3", "labels/old"):
        path = f"/v1/models/tiny/{tail}"
        assert server.get(path) == (200, {"model_version_status": [three]})


def test_metadata_over_rest(server):
    status, answer = server.get("/v1/models/tiny/metadata")
    assert status == 200
    assert answer["model_spec"] == {"name": "tiny", "signature_name": "", "version": "5"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) >= {"serving_default", "sample", "complete"}
    shape = [{"size": size, "name": ""} for size in ("-1", str(SIDE), str(SIDE), "1")]
    mask = signatures["complete"]["inputs"]["mask"]
    assert mask["dtype"] == "DT_BOOL"
    assert mask["tensor_shape"] == {"dim": shape, "unknown_rank": False}
    assert signatures["complete"]["method_name"] == "tensorflow/serving/predict"
    for tail in ("versions/3", "labels/old"):
        _, old = server.get(f"/v1/models/tiny/{tail}/metadata")
        assert old["model_spec"]["version"] == "3"


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({"instances": [{"seed": 4}, {"seed": 9}]}, "predictions"),
        ({"instances": [4, 9]}, "predictions"),
        ({"inputs": {"seed": [4, 9]}}, "outputs"),
        ({"inputs": [4, 9]}, "outputs"),
    ],
)
def test_rows_and_columns(server, body, key):
    status, answer = server.post(PREDICT, body)
    assert (status, list(answer)) == (200, [key])
    np.testing.assert_array_equal(answer[key], tiny_images([4, 9], bias=5))


def test_several_inputs_and_outputs(server):
    seed, images = [8, 16], IMAGES.tolist()
    expected = -IMAGES.mean((1, 2, 3)) - np.array(seed) / 8
    rows = [{"images": image, "seed": s} for image, s in zip(images, seed, strict=True)]
    for inputs, key in (({"images": images, "seed": seed}, "inputs"), (rows, "instances")):
        np.testing.assert_allclose(server.predict(inputs, "log_likelihood", key=key), expected)
    latents = [[1.0, 0.25], [np.e, -3.5]]
    columns = server.predict({"latents": latents}, "both")
    np.testing.assert_allclose(columns["score"], [0, 1], atol=1e-6)
    np.testing.assert_array_equal(np.float32(columns["latents"]), np.float32(latents))
    rows = server.predict([{"latents": value} for value in latents], "both", key="instances")
    assert [set(row) for row in rows] == [{"score", "latents"}] * 2
    assert rows[0] == {"score": columns["score"][0], "latents": columns["latents"][0]}


def test_bytes_travel_as_base64(server):
    answers = server.predict([{"seed": 4}, {"seed": 9}], "sample_png", key="instances")
    for answer, image in zip(answers, tiny_images([4, 9], bias=5), strict=True):
        assert list(answer) == ["b64"]
        decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["b64"]))))
        np.testing.assert_array_equal(decoded, image[..., 0])
    raw = bytes(range(256))
    coded = {"b64": base64.b64encode(raw).decode()}
    assert server.predict([coded, "é"], "echo", key="instances") == [
        coded,
        {"b64": base64.b64encode("é".encode()).decode()},
    ]
    assert server.predict({"text_bytes": [coded]}, "echo") == [coded]


def test_versions_and_labels_over_rest(server):
    for tail, bias in (("", 5), ("/versions/5", 5), ("/versions/3", 3), ("/labels/old", 3)):
        status, answer = server.post(f"/v1/models/tiny{tail}:predict", {"inputs": [1]})
        assert status == 200
        np.testing.assert_array_equal(answer["outputs"], tiny_images([1], bias))


def test_numbers_that_are_none(server):
    """TF Serving writes NaN and Infinity, which JSON lacks and Python's parser knows."""
    answer = server.predict({"latents": [[-1.0, 0.0], [0.0, 0.0], [1.0, 0.5]]}, "both")
    np.testing.assert_array_equal(answer["score"], [np.nan, -np.inf, 0.0])
    assert answer["latents"][2] == [1.0, 0.5]


def test_zipped_bodies(server):
    body, headers = (
        gzip.compress(json.dumps({"inputs": [1]}).encode()),
        {"Content-Encoding": "gzip"},
    )
    status, content = server.request("POST", PREDICT, body, headers)
    assert status == 200
    np.testing.assert_array_equal(json.loads(content)["outputs"], tiny_images([1], 5))
    assert server.request("POST", PREDICT, body, {"Content-Encoding": "GZIP"})[0] == 200
    for broken in (body[:-9], b"no gzip", body + body, body + b"x"):
        status, content = server.request("POST", PREDICT, broken, headers)
        assert status == 400
        assert "gzip" in json.loads(content)["error"]
    bomb = gzip.compress(b" " * 2**24)
    assert server.request("POST", PREDICT, bomb, headers)[0] == 413


# gRPC ----------------------------------------------------------------------------------------


def test_predict_over_grpc(server):
    response = server.rpc({"seed": np.array([4, 9])})
    np.testing.assert_array_equal(
        tf.make_ndarray(response.outputs["images"]), tiny_images([4, 9], 5)
    )
    assert response.model_spec.name == "tiny"
    assert response.model_spec.version.value == 5
    assert response.model_spec.signature_name == "serving_default"
    images = response.outputs["images"]  # value by value, where TF Serving puts them
    assert list(images.int_val) == tiny_images([4, 9], 5).ravel().tolist()
    assert not images.tensor_content
    both = server.rpc({"latents": np.float32([[1, 2]])}, "both").outputs
    assert list(both["latents"].float_val) == [1, 2]
    for spec in ({"version": 3}, {"label": "old"}):
        old = server.rpc({"seed": np.array([4])}, "sample", **spec)
        np.testing.assert_array_equal(tf.make_ndarray(old.outputs["images"]), tiny_images([4], 3))
        assert old.model_spec.version.value == 3


def test_values_in_each_field_of_a_proto(server):
    """Clients may send a number per element, or one that stands for all."""
    proto = tensor_pb2.TensorProto(dtype=9, int64_val=[4, 9])
    proto.tensor_shape.dim.add(size=2)
    images = tf.make_ndarray(server.rpc({"seed": proto}).outputs["images"])
    np.testing.assert_array_equal(images, tiny_images([4, 9], 5))
    same = tensor_pb2.TensorProto(dtype=9, int64_val=[4])
    same.tensor_shape.dim.add(size=3)
    images = tf.make_ndarray(server.rpc({"seed": same}).outputs["images"])
    np.testing.assert_array_equal(images, tiny_images([4, 4, 4], 5))


def test_output_filter(server):
    latents = np.float32([[1, 2]])
    assert set(server.rpc({"latents": latents}, "both").outputs) == {"score", "latents"}
    assert set(server.rpc({"latents": latents}, "both", outputs=["score"]).outputs) == {"score"}
    for outputs, words in ((["nothing"], "alias not found"), (["score"] * 2, "duplicate")):
        error = refused(lambda o=outputs: server.rpc({"latents": latents}, "both", outputs=o))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert words in error.details()


def test_bytes_over_grpc(server):
    files = tf.make_ndarray(
        server.rpc({"seed": np.array([4])}, "sample_png").outputs["image_bytes"]
    )
    assert files[0].startswith(b"\x89PNG")
    text = np.array([b"\x00\xff", b""], object)
    answer = server.rpc({"text_bytes": text}, "echo").outputs["text_bytes"]
    assert list(tf.make_ndarray(answer)) == [b"\x00\xff", b""]


def test_metadata_and_status_over_grpc(server):
    with server.channel() as channel:
        prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = "tiny"
        response = prediction.GetModelMetadata(request)
        assert response.model_spec.version.value == 5
        signatures = get_model_metadata_pb2.SignatureDefMap()
        assert response.metadata["signature_def"].Unpack(signatures)
        assert signatures.signature_def["sample"].inputs["seed"].dtype == tf.int64.as_datatype_enum
        for fields, words in (([], "at least one"), (["weights"], "weights is not supported")):
            request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
            request.model_spec.name = "tiny"
            error = refused(lambda r=request: prediction.GetModelMetadata(r))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert words in error.details()
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "tiny"
        found = models.GetModelStatus(request).model_version_status
        available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        assert [(v.version, v.state, v.status.error_code) for v in found] == [
            (5, available, 0),
            (3, available, 0),
        ]


def test_a_client_that_waits_no_longer(server):
    error = refused(lambda: server.rpc({"seed": np.array([500_000])}, "slow", timeout=0.1))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


# Bad input -----------------------------------------------------------------------------------


def refused(call) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


LONG = "x" * 5000
FLAT = [[[0] * SIDE] * SIDE] * 2  # an axis short
REST_FAULTS = {
    "unknown_model": ("/v1/models/nothing:predict", {"inputs": [1]}, 404, "Latest(nothing)"),
    "models_are_listed": ("/v1/models/nothing:predict", {"inputs": [1]}, 404, "other, tiny"),
    "long_name": (f"/v1/models/{LONG}:predict", {"inputs": [1]}, 404, "not found"),
    "unknown_version": ("/v1/models/tiny/versions/9:predict", {"inputs": [1]}, 404, "tiny, 9"),
    "huge_version": (f"/v1/models/tiny/versions/{2**63}:predict", {}, 400, "numeric"),
    "longest_version": (f"/v1/models/tiny/versions/{'9' * 4500}:predict", {}, 400, "numeric"),
    "zeros_before_a_version": (
        f"/v1/models/tiny/versions/{'0' * 5000}9:predict",
        {},
        404,
        "Specific(tiny, 9)",
    ),
    "word_for_a_version": ("/v1/models/tiny/versions/five:predict", {}, 400, "Malformed"),
    "unknown_label": ("/v1/models/tiny/labels/new:predict", {"inputs": [1]}, 400, "label: new"),
    "path_up": ("/v1/models/../tiny:predict", {"inputs": [1]}, 400, "Malformed"),
    "coded_path_up": ("/v1/models/%2e%2e%2f%2e%2e%2fetc:predict", {}, 400, "Malformed"),
    "dots": ("/v1/models/..:predict", {"inputs": [1]}, 404, "not found"),
    "zero_byte": ("/v1/models/tiny%00:predict", {"inputs": [1]}, 404, "not found"),
    "no_text": ("/v1/models/%ff%fe:predict", {"inputs": [1]}, 404, "not found"),
    "absolute_path": ("/v1/models//etc/passwd:predict", {}, 400, "Malformed"),
    "unknown_method": ("/v1/models/tiny:explain", {}, 400, "Malformed"),
    "classify": ("/v1/models/tiny:classify", {}, 400, "tensorflow/serving/classify"),
    "unknown_signature": (
        PREDICT,
        {"signature_name": "smaple", "inputs": [1]},
        400,
        '"smaple" not found in signature def. tiny has both, complete',
    ),
    "signature_no_string": (PREDICT, {"signature_name": 3, "inputs": [1]}, 400, "string"),
    "lone_surrogate": (PREDICT, b'{"signature_name": "\\ud800", "inputs": [NaN]}', 400, "found"),
    "unknown_input": (PREDICT, {"inputs": {"sede": [1]}}, 400, "Missing but required: {seed}"),
    "extra_input": (PREDICT, {"inputs": {"seed": [1], "x": [1]}}, 400, "Sent extra: {x}"),
    "missing_key_in_a_row": (PREDICT, {"instances": [{"seed": 1}, {}]}, 400, "element: 1"),
    "mixed_rows": (PREDICT, {"instances": [{"seed": 1}, 2]}, 400, "element: 1"),
    "plain_list_for_two": (
        PREDICT,
        {"signature_name": "log_likelihood", "instances": [1]},
        400,
        "images, seed",
    ),
    "plain_value_for_two": (
        PREDICT,
        {"signature_name": "log_likelihood", "inputs": [1]},
        400,
        "images, seed",
    ),
    "float_for_int": (PREDICT, {"inputs": [1.5]}, 400, "not of expected type: int64"),
    "text_for_int": (PREDICT, {"inputs": ["1"]}, 400, "not of expected type: int64"),
    "bool_for_int": (PREDICT, {"inputs": [True]}, 400, "not of expected type: int64"),
    "bool_among_ints": (PREDICT, {"inputs": [True, 2]}, 400, "not of expected type: int64"),
    "null": (PREDICT, {"inputs": [None]}, 400, "not of expected type: int64"),
    "object": (PREDICT, {"inputs": {"seed": {"a": 1}}}, 400, "not of expected type: int64"),
    "beyond_int64": (PREDICT, {"inputs": [2**63]}, 400, "int64"),
    "far_beyond_int64": (PREDICT, {"inputs": [10**400]}, 400, "JSON Parse error"),
    "beyond_uint8": (
        PREDICT,
        {"signature_name": "log_likelihood", "inputs": {"images": [[[[256]]]], "seed": [1]}},
        400,
        "256 is not of expected type: uint8",
    ),
    "int_for_bool": (
        PREDICT,
        {
            "signature_name": "complete",
            "inputs": {"images": IMAGES.tolist(), "mask": IMAGES.tolist(), "seed": [1, 2]},
        },
        400,
        "bool",
    ),
    "text_for_bytes": (
        PREDICT,
        {"signature_name": "echo", "inputs": [{"b64": "$"}]},
        400,
        "base64",
    ),
    "number_for_bytes": (PREDICT, {"signature_name": "echo", "inputs": [3]}, 400, "string"),
    "beyond_float32": (
        PREDICT,
        {"signature_name": "decode", "inputs": [[1e300, 0.0]]},
        400,
        "too large",
    ),
    "rank": (PREDICT, {"inputs": 1}, 400, "shape [-1]"),
    "deeper_rank": (PREDICT, {"inputs": [[1]]}, 400, "shape [-1]"),
    "shape": (
        PREDICT,
        {"signature_name": "log_likelihood", "inputs": {"images": FLAT, "seed": [1, 2]}},
        400,
        "input 'images' must have shape [-1,4,4,1], -1 for any size; received [2,4,4]",
    ),
    "ragged": (PREDICT, {"signature_name": "decode", "inputs": [[1, 2], [3]]}, 400, "equal"),
    "ragged_bytes": (PREDICT, {"signature_name": "echo", "inputs": [["a"], "b"]}, 400, "equal"),
    "unequal_batches": (
        PREDICT,
        {"signature_name": "log_likelihood", "inputs": {"images": IMAGES.tolist(), "seed": [1]}},
        400,
        "images 2, seed 1",
    ),
    "nan": (
        PREDICT,
        b'{"signature_name": "decode", "inputs": [[NaN, 0.0]]}',
        400,
        "must be finite; received NaN",
    ),
    "infinity": (
        PREDICT,
        b'{"signature_name": "decode", "inputs": [[-Infinity, 0.0]]}',
        400,
        "must be finite",
    ),
    "no_rows": (PREDICT, {"inputs": []}, 400, "no rows"),
    "no_instances": (PREDICT, {"instances": []}, 400, "at least one"),
    "instances_no_list": (PREDICT, {"instances": 3}, 400, "list"),
    "too_many_rows": (PREDICT, {"inputs": [0] * 17}, 400, "maximum input batch size 16"),
    "both_forms": (PREDICT, {"inputs": [1], "instances": [1]}, 400, "either"),
    "neither_form": (PREDICT, {"seed": [1]}, 400, "'instances' or an 'inputs'"),
    "empty_body": (PREDICT, b"", 400, "empty"),
    "broken_json": (PREDICT, b'{"inputs": [1', 400, "JSON Parse error"),
    "no_utf8": (PREDICT, b'{"inputs": "\xff"}', 400, "JSON Parse error"),
    "no_object": (PREDICT, [1, 2], 400, "object"),
    "deep": (PREDICT, b'{"inputs": ' + b"[" * 10000 + b"]" * 10000 + b"}", 400, ""),
    "deep_with_nan": (PREDICT, b"NaN" + b"[" * 100000, 400, "JSON Parse error"),
    "large_body": (PREDICT, b'{"inputs": [' + b"1," * 2**17 + b"1]}", 413, "limit of 262144"),
    "the_graph_refuses": (
        PREDICT,
        {"signature_name": "picky", "inputs": [1, 13]},
        400,
        "13 brings bad luck",
    ),
}


@pytest.mark.parametrize("name", REST_FAULTS)
def test_faults_over_rest(server, name):
    path, body, status, words = REST_FAULTS[name]
    found, answer = server.post(path, body)
    assert (found, list(answer)) == (status, ["error"])
    assert words in answer["error"]
    assert len(answer["error"]) <= 1000
    np.testing.assert_array_equal(server.predict([1]), tiny_images([1], 5))  # it lives on


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models/nothing", 404),
        ("GET", "/v1/models/nothing/metadata", 404),
        ("GET", "/v1/models/tiny/versions/4", 404),
        ("GET", "/v1/models/tiny/labels/new", 400),
        ("GET", "/v1/models", 400),
        ("GET", "/v1/", 400),
        ("GET", "/v1/models/tiny:predict", 400),
        ("DELETE", "/v1/models/tiny", 400),
        ("POST", "/v1/models/tiny", 400),
        ("GET", "/v1/models/tiny/", 400),
        ("POST", "/v1/models/tiny:predict/", 400),
        ("GET", "/health/", 404),
        ("GET", "/elsewhere", 404),
        ("GET", "/page.html", 404),
        ("GET", "/../serving/server.py", 404),
        ("POST", "/health", 405),
    ],
)
def test_paths_that_are_none(server, method, path, status):
    found, content = server.request(method, path)
    assert found == status
    assert list(json.loads(content)) == ["error"]
    assert ("Method not allowed" in json.loads(content)["error"]) == (status == 405)


@pytest.mark.parametrize(
    "path", ["/", "/page.js", "/health", "/models", "/monitoring/prometheus/metrics"]
)
def test_head(server, path):
    """As monitors and load balancers ask."""
    assert server.request("GET", path)[0] == 200
    assert server.request("HEAD", path) == (200, b"")


def int64(shape, **fields) -> tensor_pb2.TensorProto:
    proto = tensor_pb2.TensorProto(dtype=fields.pop("dtype", 9), **fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


SEED, DRAWN = {"seed": np.array([1])}, np.zeros((2, SIDE, SIDE, 1), np.uint8)
RPC_FAULTS = {
    "unknown_model": (SEED, {"model": "nothing"}, "NOT_FOUND", "Latest(nothing)"),
    "no_name": (SEED, {"model": ""}, "NOT_FOUND", "Latest()"),
    "path_up": (SEED, {"model": "../tiny"}, "NOT_FOUND", "not found"),
    "long_name": (SEED, {"model": LONG}, "NOT_FOUND", "not found"),
    "unknown_version": (SEED, {"version": 4}, "NOT_FOUND", "Specific(tiny, 4)"),
    "negative_version": (SEED, {"version": -1}, "NOT_FOUND", "Specific(tiny, -1)"),
    "unknown_label": (SEED, {"label": "new"}, "INVALID_ARGUMENT", "label: new"),
    "unknown_signature": (SEED, {"signature": "no"}, "FAILED_PRECONDITION", '"no" not found'),
    "unknown_input": ({"sede": np.array([1])}, {}, "INVALID_ARGUMENT", "required: {seed}"),
    "no_inputs": ({}, {}, "INVALID_ARGUMENT", "Missing but required: {seed}"),
    "dtype": ({"seed": np.int32([1])}, {}, "INVALID_ARGUMENT", "must be int64; received int32"),
    "unknown_dtype": ({"seed": int64([1], dtype=99)}, {}, "INVALID_ARGUMENT", "dtype 99"),
    "no_dtype": ({"seed": int64([1], dtype=0)}, {}, "INVALID_ARGUMENT", "dtype"),
    "rank": ({"seed": np.array([[1]])}, {}, "INVALID_ARGUMENT", "shape [-1]"),
    "shape": (
        {"images": DRAWN[:, :3], "seed": np.array([1, 2])},
        {"signature": "log_likelihood"},
        "INVALID_ARGUMENT",
        "received [2,3,4,1]",
    ),
    "unequal_batches": (
        {"images": DRAWN, "seed": np.array([1])},
        {"signature": "log_likelihood"},
        "INVALID_ARGUMENT",
        "images 2, seed 1",
    ),
    "no_rows": ({"seed": np.zeros(0, np.int64)}, {}, "INVALID_ARGUMENT", "no rows"),
    "too_many_rows": ({"seed": np.arange(17)}, {}, "INVALID_ARGUMENT", "maximum input batch size"),
    "nan": (
        {"latents": np.float32([[np.nan, 0]])},
        {"signature": "decode"},
        "INVALID_ARGUMENT",
        "must be finite",
    ),
    "too_few_bytes": (
        {"seed": int64([2], tensor_content=b"12345678")},
        {},
        "INVALID_ARGUMENT",
        "8 bytes instead of 16",
    ),
    "too_many_values": ({"seed": int64([1], int64_val=[1, 2])}, {}, "INVALID_ARGUMENT", "seed"),
    "negative_size": ({"seed": int64([-1])}, {}, "INVALID_ARGUMENT", "fully specified shape"),
    "huge_shape": (
        {"seed": int64([2**62], int64_val=[1])},
        {},
        "INVALID_ARGUMENT",
        "maximum input batch size 16",
    ),
    "missing_text": (
        {"text_bytes": int64([3], dtype=7, string_val=[b"a"])},
        {"signature": "echo"},
        "INVALID_ARGUMENT",
        "3 values",
    ),
    "large_body": ({"seed": np.zeros(2**16, np.int64)}, {}, "RESOURCE_EXHAUSTED", "larger than"),
    "the_graph_refuses": (
        {"seed": np.array([13])},
        {"signature": "picky"},
        "INVALID_ARGUMENT",
        "13 brings bad luck",
    ),
}


@pytest.mark.parametrize("name", RPC_FAULTS)
def test_faults_over_grpc(server, name):
    inputs, spec, code, words = RPC_FAULTS[name]
    error = refused(lambda: server.rpc(inputs, **spec))
    assert error.code().name == code, error.details()
    assert words in error.details()
    assert len(error.details()) <= 1000


def test_messages_that_are_none(server):
    with server.channel() as channel:
        for method in (
            "PredictionService/Predict",
            "PredictionService/GetModelMetadata",
            "ModelService/GetModelStatus",
        ):
            call = channel.unary_unary(f"/tensorflow.serving.{method}")
            for data, words in (
                (b"\xff\xff", "the message is not a valid"),
                (b"", "Missing ModelSpec"),
            ):
                error = refused(lambda c=call, d=data: c(d))
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert words in error.details()
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Classify")
        assert refused(lambda: call(b"")).code() is grpc.StatusCode.UNIMPLEMENTED


def test_clients_that_hang_up(server):
    body = json.dumps({"signature_name": "slow", "inputs": [3000]}).encode()
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for sent in (b"", b"POST /v1", head, head + body[:9], head + body):
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(sent)
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "tiny", "slow"
    request.inputs["seed"].CopyFrom(tf.make_tensor_proto(np.array([3000])))
    with server.channel() as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for call in [stub.Predict.future(request) for _ in range(5)]:
            call.cancel()
    np.testing.assert_array_equal(server.predict([1]), tiny_images([1], 5))


def test_a_body_in_pieces(server):
    """A chunked body has no length that could be looked at first."""

    def pieces(count):
        yield b'{"inputs": [1'
        for _ in range(count):
            yield b" " * 2**12
        yield b"]}"

    for count, status in ((3, 200), (100, 413)):
        try:
            found, _ = server.request("POST", PREDICT, pieces(count))
        except ConnectionError:  # it was told and closed on while it still sent
            assert status == 413
        else:
            assert found == status


# Many at once --------------------------------------------------------------------------------


def test_many_clients_each_get_their_own_answer(server):
    """Mixed endpoints, versions and sizes in flight together; some requests are bad."""

    def one(index: int) -> None:
        rng = np.random.default_rng(index)
        seeds = rng.integers(-1000, 10**6, rng.integers(1, 5))
        seeds[seeds == 13] = 0
        kind = index % 6
        if kind == 0:
            model, bias = [("tiny", 5), ("other", 100)][index // 6 % 2]
            found = server.predict({"seed": seeds.tolist()}, "sample", model)
            np.testing.assert_array_equal(found, tiny_images(seeds, bias))
        elif kind == 1:
            found = server.rpc({"seed": seeds}, "sample", version=3).outputs["images"]
            np.testing.assert_array_equal(tf.make_ndarray(found), tiny_images(seeds, 3))
        elif kind == 2:
            images = rng.integers(0, 256, (len(seeds), SIDE, SIDE, 1)).astype(np.uint8)
            inputs = {"images": images, "seed": seeds}
            found = server.rpc(inputs, "log_likelihood").outputs["log_likelihood"]
            expected = -images.mean((1, 2, 3)) - seeds / 8
            np.testing.assert_allclose(tf.make_ndarray(found), expected, rtol=1e-4)
        elif kind == 3:
            found = server.predict({"seed": seeds.tolist()}, "picky")
            np.testing.assert_array_equal(found, seeds)
        elif kind == 4:  # its mates in the batch must not notice
            error = refused(lambda: server.rpc({"seed": np.array([13])}, "picky"))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        else:
            assert server.post(PREDICT, {"inputs": ["bad"]})[0] == 400

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(one, range(360)))


def test_requests_run_in_batches(server):
    """While one call runs, others gather and then run together."""
    before = metric(server, "tfgen_serving_batch_requests_count")
    blockers = [threading.Thread(target=server.rpc, args=({"seed": np.array([500_000])}, "slow"))]
    blockers += [threading.Thread(target=server.rpc, args=({"seed": np.array([500_001])}, "slow"))]
    for thread in blockers:
        thread.start()
        time.sleep(0.1)  # so that each takes a thread of the server's, for about two seconds
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda seed: server.predict([seed])[0], range(12)))
    for thread in blockers:
        thread.join()
    np.testing.assert_array_equal(found, tiny_images(range(12), 5))
    assert metric(server, "tfgen_serving_batch_requests_count") - before < 2 + 6


# Beside the protocol -------------------------------------------------------------------------


def metric(server, name: str, **labels) -> float:
    _, content = server.request("GET", "/monitoring/prometheus/metrics")
    total = 0.0
    for family in prometheus_client.parser.text_string_to_metric_families(content.decode()):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                total += sample.value
    return total


def test_metrics_count_requests(server):
    asked = {
        ("tiny", "OK"): lambda: server.predict([1]),
        ("tiny", "INVALID_ARGUMENT"): lambda: server.post(PREDICT, {"inputs": ["bad"]}),
        ("", "NOT_FOUND"): lambda: server.post("/v1/models/nothing:predict", {"inputs": [1]}),
    }
    for (model, code), ask in asked.items():
        labels = {"model": model, "code": code, "api": "rest"}
        before = metric(server, "tfgen_serving_requests_total", **labels)
        ask()
        assert metric(server, "tfgen_serving_requests_total", **labels) == before + 1
    # Also those whose body was refused.
    for headers, content in (
        ({}, b" " * 300_000),
        ({"Content-Encoding": "gzip"}, gzip.compress(b" " * 2**24)),
    ):
        labels = {"code": "RESOURCE_EXHAUSTED", "api": "rest"}
        before = metric(server, "tfgen_serving_requests_total", **labels)
        assert server.request("POST", PREDICT, content, headers)[0] == 413
        assert metric(server, "tfgen_serving_requests_total", **labels) == before + 1
    before = metric(server, "tfgen_serving_requests_total", api="grpc", code="OK")
    server.rpc(SEED)
    assert metric(server, "tfgen_serving_requests_total", api="grpc", code="OK") == before + 1
    assert metric(server, "tfgen_serving_model_available", model="tiny", version="5") == 1
    assert metric(server, "process_resident_memory_bytes") > 0


def test_health_and_models(server):
    assert server.get("/health") == (200, {"status": "ok"})
    listed = [{"name": "other", "versions": [1]}, {"name": "tiny", "versions": [3, 5]}]
    assert server.get("/models") == (200, {"models": listed, "max_batch_size": 16})


def test_it_listens_on_loopback_alone(server):
    """127.0.0.2 is this machine too, but not the address that was asked for."""
    for port in (server.port, server.grpc_port):
        socket.create_connection(("127.0.0.1", port)).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port))
