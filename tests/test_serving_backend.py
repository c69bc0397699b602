"""The server's handlers in this process: what the event loop must not do, and labels."""

import asyncio
import contextlib
import gc
import gzip
import json
import threading

import numpy as np
import pytest
import tensorflow as tf
from serving_support import tiny_images, write_labelled
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2

from tfgen.serving import bodies, pieces, rest, rpc
from tfgen.serving.backend import Backend, Metrics
from tfgen.serving.batching import Batcher
from tfgen.serving.errors import ServingError
from tfgen.serving.repository import Repository
from tfgen.serving.servable import Servable
from tfgen.serving.tensors import Spec, from_proto

PATIENCE = 120  # seconds after which a test that hangs has failed


@pytest.fixture(scope="module")
def backend(repository, tmp_path_factory):
    root = tmp_path_factory.mktemp("in_process")
    (root / "tiny").symlink_to(repository / "tiny")
    write_labelled(root / "labelled" / "1", num_classes=3)
    models, batcher = Repository(root), Batcher(max_rows=300)
    models.refresh()
    yield Backend(models, batcher, Metrics(), max_bytes=2**26, timeout=60.0)
    batcher.stop()
    models.stop()


class Context:
    """What a gRPC handler asks about its call."""

    def time_remaining(self):
        return None


async def ask(
    app, method: str, path: str, body: bytes = b"", hangs_up: bool = False, **headers: str
) -> tuple[int, dict]:
    """Sends one request to a web application, in the event loop that is running."""
    sent, request = [], {"type": "http.request", "body": body}
    messages = iter([request])

    async def receive():
        return next(messages, {"type": "http.disconnect"} if hangs_up else request)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "scheme": "http",
        "query_string": b"",
        "raw_path": path.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def proto_request(model: str, **inputs) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


# The event loop


@pytest.fixture
def health_comes_first(backend):
    """Runs a request that must not end before the server has said that it is well."""
    app = rest.build_app(backend)

    def run(request) -> object:
        async def both():
            work = asyncio.ensure_future(request(app))
            while not waiting.is_set():  # until the request waits in the middle of its work
                await asyncio.sleep(0.001)
            assert (await ask(app, "GET", "/health"))[0] == 200
            answered.set()
            return await work

        return asyncio.run(asyncio.wait_for(both(), PATIENCE))

    waiting, answered = threading.Event(), threading.Event()

    def held(work):
        def wrapped(*arguments):
            waiting.set()
            assert answered.wait(PATIENCE), "the event loop did the work itself"
            return work(*arguments)

        return wrapped

    run.held = held
    return run


SEEDS = list(range(300))
LARGE = json.dumps({"inputs": SEEDS, "padding": " " * pieces.PIECE}).encode()


@pytest.mark.parametrize("stage", ["unzip", "parse_body", "read_inputs", "write_outputs"])
def test_large_json_is_read_and_written_beside_the_event_loop(
    stage, health_comes_first, monkeypatch
):
    place = rest if stage in ("unzip", "write_outputs") else bodies
    monkeypatch.setattr(place, stage, health_comes_first.held(getattr(place, stage)))
    monkeypatch.setattr("tfgen.serving.backend.PIECE", 1000)  # also for the small images
    headers = {"content-encoding": "gzip"} if stage == "unzip" else {}
    body = gzip.compress(LARGE) if stage == "unzip" else LARGE
    status, answer = health_comes_first(
        lambda app: ask(app, "POST", "/v1/models/tiny:predict", body, **headers)
    )
    assert status == 200
    np.testing.assert_array_equal(answer["outputs"], tiny_images(SEEDS, 5))


def test_large_messages_are_read_beside_the_event_loop(backend, health_comes_first, monkeypatch):
    monkeypatch.setattr(rpc, "from_proto", health_comes_first.held(rpc.from_proto))
    monkeypatch.setattr("tfgen.serving.backend.PIECE", 1000)
    request = proto_request("tiny", seed=np.arange(300))
    response = health_comes_first(lambda _: rpc._Service(backend).predict(request, Context()))
    images = tf.make_ndarray(response.outputs["images"])
    np.testing.assert_array_equal(images, tiny_images(SEEDS, 5))


# Unloading


def test_an_unload_waits_for_a_call_that_runs(backend, repository, monkeypatch):
    """Also when requests that were read as it began have come and gone meanwhile."""
    servable = Servable("tiny", 3, repository / "tiny" / "3")
    signature = servable.signature("picky")
    began, released, run = threading.Event(), threading.Event(), signature.run

    def held(arrays):
        began.set()
        assert released.wait(PATIENCE)
        return run(arrays)

    async def request(name: str, seed: int):
        try:
            arrays = {"seed": np.array([seed])}
            return await backend.run(servable, servable.signature(name), arrays, PATIENCE)
        finally:
            servable.release()

    async def requests():
        assert all(servable.acquire() for _ in range(3))  # one runs, two are being read
        running = asyncio.ensure_future(request("picky", 7))
        assert await asyncio.to_thread(began.wait, PATIENCE)
        unload.start()
        while servable.acquire():  # until the unload has begun
            servable.release()
            await asyncio.sleep(0.001)
        for seed in (1, 2):
            images = (await request("sample", seed))["images"]
            np.testing.assert_array_equal(images, tiny_images([seed], 3))
        await asyncio.to_thread(unload.join, 0.2)
        waits = unload.is_alive()
        released.set()
        return waits, (await running)["score"].tolist()

    monkeypatch.setattr(signature, "run", held)
    unload = threading.Thread(target=servable.close, args=(PATIENCE,))
    assert asyncio.run(asyncio.wait_for(requests(), PATIENCE)) == (True, [7.0])
    unload.join(PATIENCE)
    assert not unload.is_alive()


# Limits


def test_limits_are_checked_before_parsing(backend, monkeypatch):
    """Of JSON the number of values, of a message its shape."""
    app, rows = rest.build_app(backend), 10_000
    body = json.dumps({"inputs": {"seed": list(range(rows)), "labels": [0] * rows}}).encode()
    monkeypatch.setattr(pieces, "_parse", lambda _: pytest.fail("it was parsed"))
    status, answer = asyncio.run(ask(app, "POST", "/v1/models/labelled:predict", body))
    assert status == 400
    assert "maximum input batch size" in answer["error"]
    monkeypatch.setattr(rpc, "from_proto", lambda *_: pytest.fail("it was parsed"))
    request = proto_request("labelled", seed=np.arange(rows), labels=np.zeros(rows, np.int64))
    with pytest.raises(ServingError, match="maximum input batch size 300"):
        asyncio.run(rpc._Service(backend).predict(request, Context()))


def test_a_body_that_does_not_arrive(backend, monkeypatch):
    """A client that sends a part and then nothing holds neither memory nor a place for ever."""
    monkeypatch.setattr(backend, "timeout", 0.05)

    class Stalled:
        def __init__(self):
            self.headers = {}

        async def stream(self):
            yield b"x" * 1000
            assert backend._held == 1000
            await asyncio.sleep(PATIENCE)

    async def read():
        with backend.holding() as hold:
            await rest._body(Stalled(), backend, hold)

    with pytest.raises(ServingError, match="DEADLINE_EXCEEDED: the body did not arrive"):
        asyncio.run(read())
    assert backend._held == 0


def test_many_large_bodies_at_once(backend, monkeypatch):
    monkeypatch.setattr(backend, "max_bytes", 1000)
    with backend.holding() as hold, backend.holding() as another:
        for _ in range(8):
            hold(1000)
            another(1000)
        with pytest.raises(ServingError, match="UNAVAILABLE: too many large requests"):
            hold(1)
    assert backend._held == 0


def test_the_collector_runs_again_after_the_last_body():
    """Whatever the order in which threads begin and end."""
    assert gc.isenabled()
    with contextlib.ExitStack() as second:
        with bodies._collector_paused():
            second.enter_context(bodies._collector_paused())
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_small_message_of_a_huge_tensor():
    spec = Spec("seed", "seed:0", tf.int64, (None,))
    proto = tf.make_tensor_proto(np.zeros(1, np.int64))
    proto.tensor_shape.dim[0].size = 2**62
    with pytest.raises(ServingError, match="the limit is 1000"):
        from_proto(proto, spec, limit=1000)
    proto = tensor_pb2.TensorProto(dtype=tf.int64.as_datatype_enum, int64_val=range(5))
    proto.tensor_shape.dim.add(size=4)
    with pytest.raises(ServingError, match="must hold 4 values; received 5"):
        from_proto(proto, spec, limit=1000)


def test_a_client_that_hangs_up_waits_for_nothing(backend, monkeypatch):
    """So a page that goes on to another model is not kept waiting by the one before."""
    cancelled = []

    async def never(*_):
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    monkeypatch.setattr(backend, "run", never)
    path, body = "/v1/models/tiny:predict", b'{"inputs": [1]}'
    status, answer = asyncio.run(ask(rest.build_app(backend), "POST", path, body, hangs_up=True))
    assert (status, cancelled) == (499, [True])
    assert "the client disconnected" in answer["error"]


def test_a_call_that_takes_too_long(backend, monkeypatch):
    """Whichever is shorter: what the server grants or what the client waits."""
    monkeypatch.setattr(backend, "timeout", 0.1)
    body = json.dumps({"signature_name": "slow", "inputs": [500_000]}).encode()
    app, path = rest.build_app(backend), "/v1/models/tiny:predict"
    status, answer = asyncio.run(ask(app, "POST", path, body))
    assert status == 504
    assert "no answer within 0.1 seconds" in answer["error"]
    request = proto_request("tiny", seed=np.array([500_000]))
    request.model_spec.signature_name = "slow"
    for granted, left in ((0.1, None), (0.1, 60.0), (60.0, 0.1)):
        monkeypatch.setattr(backend, "timeout", granted)
        monkeypatch.setattr(Context, "time_remaining", lambda self, left=left: left)
        with pytest.raises(ServingError, match=r"no answer within 0\.1 seconds") as caught:
            asyncio.run(rpc._Service(backend).predict(request, Context()))
        assert caught.value.code == "DEADLINE_EXCEEDED"


# What a page is told


def test_models_are_listed_with_what_is_known_of_them(backend):
    status, answer = asyncio.run(ask(rest.build_app(backend), "GET", "/models"))
    assert status == 200
    assert answer["models"] == [
        {"name": "labelled", "versions": [1], "num_classes": 3},
        {"name": "tiny", "versions": [5]},
    ]


# Labels


@pytest.mark.parametrize("label", [-3, -1, 3, 12, 2**62])
def test_labels_out_of_range(backend, label):
    words = rf"input 'labels' must be in \[0, 2\]; received {label}"
    app = rest.build_app(backend)
    for body in (
        {"inputs": {"seed": [1, 2], "labels": [0, label]}},
        {"instances": [{"seed": 1, "labels": 0}, {"seed": 2, "labels": label}]},
    ):
        raw = json.dumps(body).encode()
        status, answer = asyncio.run(ask(app, "POST", "/v1/models/labelled:predict", raw))
        assert status == 400
        assert words.replace("\\", "") in answer["error"]
    request = proto_request("labelled", seed=np.array([1, 2]), labels=np.array([0, label]))
    with pytest.raises(ServingError, match=words) as caught:
        asyncio.run(rpc._Service(backend).predict(request, Context()))
    assert caught.value.code == "INVALID_ARGUMENT"


def test_labels_in_range(backend):
    request = proto_request("labelled", seed=np.arange(3), labels=np.arange(3))
    response = asyncio.run(rpc._Service(backend).predict(request, Context()))
    assert tf.make_ndarray(response.outputs["score"]).tolist() == [0, 11, 22]
