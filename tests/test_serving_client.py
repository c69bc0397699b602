"""The client, over both transports, against the local server and against scripted ones."""

import http.server
import itertools
import json
import pickle
import socketserver
import threading
import time
from concurrent import futures

import grpc
import numpy as np
import pytest
from serving_support import SIDE, tiny_images
from tensorflow_serving.apis import model_service_pb2_grpc

from tfgen.serving import Client, ServingError
from tfgen.serving.transports import Endpoint, Rest, TensorSpec, convert


@pytest.fixture(params=["http", "grpc"])
def client(request, server):
    port = server.port if request.param == "http" else server.grpc_port
    with Client(f"{request.param}://127.0.0.1:{port}") as made:
        yield made


def test_arrays_in_arrays_out(client):
    seed = [4, 9, -2]
    images = client.predict("tiny", {"seed": seed}, "sample")["images"]
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, tiny_images(seed, 5))
    default = client.predict("tiny", {"seed": np.array(seed)})["images"]
    np.testing.assert_array_equal(default, images)
    scores = client.predict("tiny", {"images": images, "seed": seed}, "log_likelihood")
    assert scores["log_likelihood"].dtype == np.float32
    np.testing.assert_allclose(
        scores["log_likelihood"], -images.mean((1, 2, 3)) - np.array(seed) / 8, rtol=1e-5
    )
    mask = np.zeros_like(images, bool)
    mask[:, :2] = True
    completed = client.predict(
        "tiny", {"images": images * 0, "mask": mask, "seed": seed}, "complete"
    )["images"]
    np.testing.assert_array_equal(completed, np.where(mask, 0, images))


def test_an_error_crosses_processes():
    """As out of a pool of workers that ask a server."""
    error = pickle.loads(pickle.dumps(ServingError("RESOURCE_EXHAUSTED", "busy", http=413)))
    assert (error.code, error.message, error.http) == ("RESOURCE_EXHAUSTED", "busy", 413)
    assert str(error) == "RESOURCE_EXHAUSTED: busy"


def test_both_transports_give_the_same_bytes(server):
    latents = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    with (
        Client(f"http://127.0.0.1:{server.port}") as rest,
        Client(f"grpc://127.0.0.1:{server.grpc_port}") as rpc,
    ):
        for signature in ("decode", "both"):
            a, b = (c.predict("tiny", {"latents": latents}, signature) for c in (rest, rpc))
            assert a.keys() == b.keys()
            for name in a:
                assert a[name].dtype == b[name].dtype
                np.testing.assert_array_equal(a[name], b[name])
        assert rest.metadata("tiny") == rpc.metadata("tiny")


def test_bytes(client):
    files = client.predict("tiny", {"seed": [1]}, "sample_png")["image_bytes"]
    assert files.dtype == object
    assert files[0].startswith(b"\x89PNG")
    text = [bytes(range(256)), b""]
    echoed = client.predict("tiny", {"text_bytes": text}, "echo")["text_bytes"]
    assert list(echoed) == text


def test_what_it_tells_of_a_model(client):
    assert client.status("tiny") == {5: "AVAILABLE", 3: "AVAILABLE"}
    assert client.status("tiny", version=3) == client.status("tiny", label="old")
    assert client.metadata("tiny", label="old")["log_likelihood"] == Endpoint(
        {
            "images": TensorSpec(np.dtype("uint8"), (-1, SIDE, SIDE, 1)),
            "seed": TensorSpec(np.dtype("int64"), (-1,)),
        },
        {"log_likelihood": TensorSpec(np.dtype("float32"), (-1,))},
    )


def test_versions_and_labels(client):
    for spec, bias in (({"version": 3}, 3), ({"label": "old"}, 3), ({"version": 5}, 5)):
        images = client.predict("tiny", {"seed": [1]}, **spec)["images"]
        np.testing.assert_array_equal(images, tiny_images([1], bias))
    with pytest.raises(ValueError, match="either version or label"):
        client.predict("tiny", {"seed": [1]}, version=3, label="old")


def test_numbers_that_are_none(client):
    latents = np.float32([[-1, 0], [0, 0]])
    np.testing.assert_array_equal(
        client.predict("tiny", {"latents": latents}, "both")["score"], [np.nan, -np.inf]
    )
    for value in (np.nan, np.inf):
        with pytest.raises(ServingError, match=r"INVALID_ARGUMENT: .* must be finite"):
            client.predict("tiny", {"latents": [[value, 0.0]]}, "decode")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("nothing", {"seed": [1]}), ServingError, "NOT_FOUND"),
        (("tiny", {"seed": [1]}, "smaple"), ServingError, "no endpoint 'smaple'; it has both"),
        (("tiny", {"sede": [1]}), ValueError, "inputs must be seed; received sede"),
        (("tiny", {"seed": [1.0]}), ValueError, "seed must be int64; received float64"),
        (("tiny", {"seed": [[1], []]}), ValueError, "lists of unequal lengths"),
        (("tiny", {"seed": [[1]]}), ServingError, "must have shape"),
        (("tiny", {"seed": [1] * 17}), ServingError, "maximum input batch size 16"),
        (("tiny", {"seed": [13]}, "picky"), ServingError, "13 brings bad luck"),
        (("../tiny", {"seed": [1]}), ServingError, r"NOT_FOUND|INVALID_ARGUMENT"),
        (("ti/ny:predict", {"seed": [1]}), ServingError, r"NOT_FOUND|INVALID_ARGUMENT"),
    ],
)
def test_bad_input(client, arguments, error, words):
    with pytest.raises(error, match=words):
        client.predict(*arguments)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_no_proxy_stands_before_loopback(server, monkeypatch, scheme):
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    port = server.port if scheme == "http" else server.grpc_port
    for host in ("127.0.0.1", "localhost"):
        with Client(f"{scheme}://{host}:{port}", retries=0) as client:
            assert client.status("tiny")[5] == "AVAILABLE"


def test_threads_share_a_client(client):
    def ask(seed):
        return client.predict("tiny", {"seed": [seed]})["images"][0]

    with futures.ThreadPoolExecutor(16) as pool:
        images = list(pool.map(ask, range(80)))
    np.testing.assert_array_equal(images, tiny_images(range(80), 5))


def test_threads_share_a_client_whose_calls_fail(client):
    """Each gets the error of its own call, whatever the others learn of the model meanwhile."""
    failing = (
        ({"seed": [13]}, "picky", "13 brings bad luck"),
        ({"sede": [1]}, "picky", "inputs must be seed; received sede"),
        ({"seed": [1]}, "smaple", "no endpoint 'smaple'"),
    )

    def ask(number):
        inputs, signature, words = failing[number % len(failing)]
        with pytest.raises((ServingError, ValueError), match=words):
            client.predict("tiny", inputs, signature)

    client.predict("tiny", {"seed": [1]}, "picky")  # so that it knows the model
    with futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(90)))


def test_conversion_loses_nothing():
    for value, dtype in (
        ([0, 255], "uint8"),
        (np.int32([1]), "int64"),
        ([1, 2], "float32"),
        (np.float64([0.1]), "float32"),
        ([True], "bool"),
        ([], "uint8"),
        (np.array([b"a"]), "object"),
        ("a", "object"),
    ):
        made = convert("x", value, np.dtype(dtype))
        assert made.dtype == dtype
        assert made.tolist() == pytest.approx(np.asarray(value).tolist())
    for value, dtype in (
        ([256], "uint8"),
        ([-1], "uint8"),
        (np.float32([0.5]), "uint8"),  # a float image would be black
        ([2**63], "int64"),
        ([1], "bool"),
        (["a"], "int64"),
        ([1], "object"),
        ([0.0, -1e300], "float32"),
        ([1e5], "float16"),
        (np.array([10**300], object), "float32"),
    ):
        with pytest.raises(ValueError, match=r"^x must"):
            convert("x", value, np.dtype(dtype))


# Servers that fail ---------------------------------------------------------------------------


@pytest.fixture
def scripted():
    """Starts HTTP servers that give the answers that they are told, in turn."""
    servers = []

    def start(*answers):
        turn = itertools.chain(answers)

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            seen = 0

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.do_GET()

            def do_GET(self):
                type(self).seen += 1
                status, content = next(turn)
                if status is None:  # hang up
                    self.close_connection = True
                    return
                if status == 0:  # say nothing
                    released.wait(30)
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        released = threading.Event()
        made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=made.serve_forever, daemon=True).start()
        servers.append((made, released))
        return f"http://127.0.0.1:{made.server_port}", Handler

    yield start
    for made, released in servers:
        released.set()
        made.shutdown()
        made.server_close()


STATUS = {"model_version_status": [{"version": "1", "state": "AVAILABLE", "status": {}}]}
OK = (200, json.dumps(STATUS, indent=4).encode())  # as TF Serving lays it out
BUSY = (503, b'{ "error": "busy" }')


@pytest.fixture
def waits(monkeypatch):
    """The waits between attempts, which nobody waits for here."""
    noted = []
    monkeypatch.setattr("time.sleep", noted.append)
    return noted


def test_it_tries_again(scripted, waits):
    address, handler = scripted(BUSY, (None, b""), (502, b"<html>"), OK)
    assert Client(address).status("tiny") == {1: "AVAILABLE"}
    assert handler.seen == 4
    assert len(waits) == 3
    for attempt, wait in enumerate(waits):
        assert 0.5 <= wait / (0.05 * 2**attempt) <= 1.0


def test_it_gives_up_in_the_end(scripted, waits):
    address, handler = scripted(BUSY, BUSY, BUSY, OK)
    with pytest.raises(ServingError, match="UNAVAILABLE: busy") as caught:
        Client(address, retries=2).status("tiny")
    assert (caught.value.code, caught.value.http) == ("UNAVAILABLE", 503)
    assert handler.seen == 3
    with pytest.raises(ServingError, match="UNAVAILABLE: no server responds at http://127"):
        Client("http://127.0.0.1:1", retries=1).status("tiny")
    with pytest.raises(ServingError, match="UNAVAILABLE"):
        Client("grpc://127.0.0.1:1", retries=1).status("tiny")
    assert len(waits) == 2 + 1 + 1


def test_it_tries_again_more_often_than_a_float_can_double(waits, monkeypatch):
    def busy(*_):
        raise ServingError("UNAVAILABLE", "busy")

    monkeypatch.setattr(Rest, "status", busy)
    with pytest.raises(ServingError, match="UNAVAILABLE: busy"):
        Client(timeout=600, retries=1100).status("tiny")
    assert len(waits) == 1100
    assert max(waits) <= 2.0


def test_what_is_not_tried_again(scripted, waits):
    for status, code in ((400, "INVALID_ARGUMENT"), (404, "NOT_FOUND"), (500, "INTERNAL")):
        address, handler = scripted((status, b'{"error": "no"}'), OK)
        with pytest.raises(ServingError, match=f"{code}: no"):
            Client(address).status("tiny")
        assert handler.seen == 1
    assert not waits


def described(inputs: list[str]) -> tuple[int, bytes]:
    """What a server says of a model with the endpoint sample."""
    infos = {name: {"dtype": "DT_INT64", "tensor_shape": {"dim": []}} for name in inputs}
    signature = {
        "inputs": infos,
        "outputs": {"images": {"dtype": "DT_UINT8", "tensor_shape": {"dim": []}}},
        "method_name": "tensorflow/serving/predict",
    }
    answer = {"metadata": {"signature_def": {"signature_def": {"sample": signature}}}}
    return 200, json.dumps(answer).encode()


def test_it_asks_no_more_often_where_it_knows_the_endpoint(scripted, waits):
    """An overloaded server gets as many requests as `retries` says, whatever came before."""
    drawn = (200, b'{"outputs": [1]}')
    address, handler = scripted(described(["seed"]), drawn, *[BUSY] * 20)
    client = Client(address, retries=2)
    client.predict("tiny", {"seed": [1]}, "sample")
    assert handler.seen == 2
    for _ in range(2):
        before = handler.seen
        with pytest.raises(ServingError, match="UNAVAILABLE: busy"):
            client.predict("tiny", {"seed": [1]}, "sample")
        assert handler.seen == before + 3


@pytest.mark.parametrize(
    "content", [b"<html>", b"[]", b'{"metadata": 1, "model_version_status": [2]}']
)
def test_an_answer_of_another_server(scripted, waits, content):
    answers = [(200, content)] * 3 + [described(["seed"])] + [(200, content)] * 2
    client = Client(scripted(*answers)[0])
    for call in (
        lambda: client.status("tiny"),
        lambda: client.metadata("tiny"),
        lambda: client.predict("tiny", {"seed": [1]}, "sample"),  # asks for metadata
        lambda: client.predict("tiny", {"seed": [1]}, "sample"),
    ):
        with pytest.raises(ServingError, match="did not answer as TensorFlow Serving's") as caught:
            call()
        assert caught.value.code == "INTERNAL"
    assert not waits


def test_it_does_not_wait_for_ever(scripted):
    address, _ = scripted((0, b""))
    with pytest.raises(ServingError, match="DEADLINE_EXCEEDED"):
        Client(address, timeout=0.3).status("tiny")
    address, _ = scripted(*[BUSY] * 1000)
    with pytest.raises(ServingError, match=r"UNAVAILABLE: busy|DEADLINE_EXCEEDED"):
        Client(address, timeout=0.5, retries=10**6).status("tiny")


def test_connecting_counts_for_the_time_that_a_call_may_take(scripted, monkeypatch):
    from urllib3.connection import HTTPConnection

    connect, address = HTTPConnection.connect, scripted((0, b""))[0]
    monkeypatch.setattr(HTTPConnection, "connect", lambda s: (time.sleep(0.6), connect(s))[1])
    begin = time.monotonic()
    with pytest.raises(ServingError, match="DEADLINE_EXCEEDED"):
        Client(address, timeout=1.0, retries=0).status("tiny")
    assert time.monotonic() - begin < 1.55  # 1.6 if connecting did not count


def metadata(**outputs: str) -> tuple[int, bytes]:
    """TF Serving's answer on a model with an input `x` and these outputs."""
    shape = {"dim": [{"size": "-1"}], "unknown_rank": False}
    found = {
        "inputs": {"x": {"dtype": "DT_INT64", "tensor_shape": shape}},
        "outputs": {name: {"dtype": kind, "tensor_shape": shape} for name, kind in outputs.items()},
        "method_name": "tensorflow/serving/predict",
    }
    signatures = {"signature_def": {"signature_def": {"serving_default": found}}}
    return 200, json.dumps({"metadata": signatures}).encode()


def answer(outputs) -> tuple[int, bytes]:
    return 200, json.dumps({"outputs": outputs}).encode()


@pytest.mark.parametrize(
    ("before", "after", "outputs", "expected"),
    [
        ({"a": "DT_UINT8"}, {"a": "DT_FLOAT"}, [0.5], {"a": [0.5]}),
        ({"a": "DT_UINT8"}, {"a": "DT_UINT8", "b": "DT_INT64"}, {"a": [1], "b": [2]}, None),
        ({"a": "DT_UINT8", "b": "DT_INT64"}, {"a": "DT_UINT8"}, [7], {"a": [7]}),
        ({"a": "DT_UINT8", "b": "DT_INT64"}, {"c": "DT_UINT8", "b": "DT_INT64"}, None, None),
        ({"a": "DT_INT64"}, {"a": "DT_STRING"}, ["x"], {"a": [b"x"]}),
    ],
)
def test_a_new_version_has_other_outputs(scripted, before, after, outputs, expected):
    """A client that knows the old ones asks again, and converts by the new ones."""
    first = {name: [0] for name in before} if len(before) > 1 else [0]
    outputs = {name: [3] for name in after} if outputs is None else outputs
    served = [metadata(**before), answer(first), answer(outputs), metadata(**after)]
    address, _ = scripted(*served, answer(outputs))
    client = Client(address)
    client.predict("tiny", {"x": [1]})
    found = client.predict("tiny", {"x": [1]})
    assert {name: array.tolist() for name, array in found.items()} == (expected or outputs)


def test_an_answer_that_fits_no_metadata(scripted):
    address, _ = scripted(*[metadata(a="DT_UINT8"), answer([0.5])] * 3)
    with pytest.raises(ValueError, match="the server's a must be uint8; received float64"):
        Client(address).predict("tiny", {"x": [1]})


def test_a_retry_over_grpc_connects_again():
    """And does not wait for gRPC's own second, or for two minutes after a long outage."""
    seen = []

    class Close(socketserver.BaseRequestHandler):
        def handle(self):
            seen.append(1)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Close) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        address = f"grpc://127.0.0.1:{made.server_address[1]}"
        with (
            Client(address, retries=3) as client,  # within 0.35 s
            pytest.raises(ServingError, match="UNAVAILABLE"),
        ):
            client.status("tiny")
        made.shutdown()
    assert len(seen) > 1


def test_grpc_is_tried_again(waits):
    class Flaky(model_service_pb2_grpc.ModelServiceServicer):
        seen = 0

        def GetModelStatus(self, request, context):
            self.seen += 1
            code = grpc.StatusCode.UNAVAILABLE if self.seen < 3 else grpc.StatusCode.NOT_FOUND
            context.abort(code, "no luck")

    service = Flaky()
    made = grpc.server(futures.ThreadPoolExecutor(1))
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(service, made)
    port = made.add_insecure_port("127.0.0.1:0")
    made.start()
    with pytest.raises(ServingError, match="NOT_FOUND: no luck"):
        Client(f"grpc://127.0.0.1:{port}").status("tiny")
    assert service.seen == 3
    assert len(waits) == 2
    made.stop(None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"address": "127.0.0.1:8501"}, "address must be http"),
        ({"address": "ftp://x"}, "address must be http"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"timeout": None}, "timeout"),
        ({"timeout": "30"}, "timeout"),
        ({"retries": -1}, "retries"),
        ({"retries": 1.5}, "retries"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        Client(**arguments)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_bad_timeout_of_one_call(timeout):
    with pytest.raises(ValueError, match="timeout must be seconds in"):
        Client("http://127.0.0.1:1").predict("tiny", {}, timeout=timeout)
