"""A small model repository, a server on it, and clients that know TF Serving's protocol alone.

The clients import nothing from tfgen: what they can do, any client of TF Serving can do.
"""

import contextlib
import http.client
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

SERVER = Path(__file__).resolve().parents[1] / "tfgen" / "serving"
READY = re.compile(r"(\d+) models? at http://(\S+):(\d+) .* (\S+):(\d+) \(gRPC\)")
SIDE = 4  # height and width of the small models' images


def tiny_images(seeds, bias: int = 0) -> np.ndarray:
    """What `sample` of a small model draws, computed without it."""
    pixel = np.arange(SIDE * SIDE).reshape(1, SIDE, SIDE, 1)
    seeds = np.asarray(seeds, np.int64).reshape(-1, 1, 1, 1)
    return ((seeds * 7 + pixel + bias) % 256).astype(np.uint8)


def write_tiny(path: Path, bias: int = 0) -> Path:
    """Writes a version with every kind of endpoint; `bias` shows in its images."""
    import tensorflow as tf

    images = tf.TensorSpec((None, SIDE, SIDE, 1), tf.uint8, "images")
    mask = tf.TensorSpec((None, SIDE, SIDE, 1), tf.bool, "mask")
    latents = tf.TensorSpec((None, 2), tf.float32, "latents")
    seed = tf.TensorSpec((None,), tf.int64, "seed")

    class Tiny(tf.Module):
        def __init__(self):
            super().__init__()
            self.bias = tf.Variable(bias, dtype=tf.int64)
            self.bulk = tf.Variable(tf.random.stateless_uniform((256, 64), (1, 2)))  # to damage

        @tf.function(input_signature=[seed])
        def sample(self, seed):
            pixel = tf.reshape(tf.range(SIDE * SIDE, dtype=tf.int64), (1, SIDE, SIDE, 1))
            grey = tf.reshape(seed, (-1, 1, 1, 1)) * 7 + pixel + self.bias
            return {"images": tf.cast(grey % 256, tf.uint8)}

        @tf.function(input_signature=[seed])
        def sample_png(self, seed):
            return {"image_bytes": tf.io.encode_png(self.sample(seed)["images"])}

        @tf.function(input_signature=[latents])
        def decode(self, latents):
            grey = tf.clip_by_value(tf.reduce_sum(latents, 1) * 10.0 + 128.0, 0.0, 255.0)
            shape = (tf.shape(latents)[0], SIDE, SIDE, 1)
            grey = tf.broadcast_to(tf.reshape(grey, (-1, 1, 1, 1)), shape)
            return {"images": tf.cast(tf.round(grey), tf.uint8)}

        @tf.function(input_signature=[images, seed])
        def log_likelihood(self, images, seed):
            ink = tf.reduce_mean(tf.cast(images, tf.float32), (1, 2, 3))
            return {"log_likelihood": -ink - tf.cast(seed, tf.float32) / 8.0}

        @tf.function(input_signature=[images, mask, seed])
        def complete(self, images, mask, seed):
            return {"images": tf.where(mask, images, self.sample(seed)["images"])}

        @tf.function(input_signature=[latents])
        def both(self, latents):
            return {"score": tf.math.log(latents[:, 0]), "latents": latents}

        @tf.function(input_signature=[seed])
        def picky(self, seed):
            with tf.control_dependencies(
                [tf.debugging.Assert(tf.reduce_all(seed != 13), ["13 brings bad luck"])]
            ):
                return {"score": tf.cast(tf.identity(seed), tf.float32)}

        @tf.function(input_signature=[seed])
        def slow(self, seed):
            steps = tf.while_loop(
                lambda i: i < tf.reduce_max(seed), lambda i: [i + 1], [tf.constant(0, tf.int64)]
            )
            return {"score": tf.cast(seed, tf.float32) + 0.0 * tf.cast(steps[0], tf.float32)}

        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "text_bytes")])
        def echo(self, text_bytes):
            return {"text_bytes": text_bytes}

    tiny = Tiny()
    names = ("sample", "sample_png", "decode", "log_likelihood", "complete", "both", "picky")
    signatures = {name: getattr(tiny, name) for name in (*names, "slow", "echo")}
    tf.saved_model.save(tiny, str(path), {**signatures, "serving_default": tiny.sample})
    return path


def write_labelled(path: Path, num_classes: int | None) -> Path:
    """Writes a class-conditional version, with what `tfgen export` records about it."""
    import tensorflow as tf

    spec = [tf.TensorSpec((None,), tf.int64, name) for name in ("labels", "seed")]
    module = tf.Module()
    module.run = tf.function(
        lambda labels, seed: {"score": tf.cast(10 * labels + seed, tf.float32)},
        input_signature=spec,
    )
    tf.saved_model.save(module, str(path), {"serving_default": module.run})
    (path / "assets.extra").mkdir()
    details = {"name": path.parent.name, "num_classes": num_classes}
    (path / "assets.extra" / "tfgen.json").write_text(json.dumps(details))
    return path


@pytest.fixture(scope="session")
def repository(tmp_path_factory) -> Path:
    """Folder with `tiny`, versions 3 and 5, whose images differ by 2; 3 has the label "old"."""
    folder = tmp_path_factory.mktemp("repository")
    write_tiny(folder / "tiny" / "3", bias=3)
    write_tiny(folder / "tiny" / "5", bias=5)
    write_tiny(folder / "other" / "1", bias=100)
    (folder / "models.config").write_text(
        'model_config_list { config { name: "tiny" base_path: "/models/tiny" '
        'model_platform: "tensorflow" model_version_policy { all {} } '
        'version_labels { key: "old" value: 3 } } }'
    )
    return folder


class Server:
    """A server's process; `log` holds the lines that it wrote."""

    def __init__(self, models: Path, arguments=(), environment=None, wait=True, **settings):
        given = {"models": str(models), "port": 0, "grpc_port": 0, **settings}
        self.log: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, *arguments, str(SERVER), json.dumps(given)],
            env={**os.environ, **(environment or {})},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if wait:
            found = self.wait_for(READY)
            self.host, self.port, self.grpc_port = found[2], int(found[3]), int(found[5])

    def _read(self) -> None:
        for line in self.process.stderr:
            self.log.append(line)
            self._lines.put(line)
        self._lines.put("")

    def wait_for(self, pattern) -> re.Match:
        """Returns the match of the next line that has one."""
        while line := self._lines.get(timeout=300):
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"{pattern} never came:\n{''.join(self.log)}")

    def stop(self) -> int:
        """Tells it to stop; returns its exit code."""
        self.process.terminate()
        code = self.process.wait(timeout=60)
        self._reader.join()
        self.process.stderr.close()
        return code

    # A REST client of the public protocol

    def request(self, method: str, path: str, body=None, headers=None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()

    def get(self, path: str) -> tuple[int, dict]:
        status, content = self.request("GET", path)
        return status, json.loads(content)

    def post(self, path: str, body) -> tuple[int, dict]:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, content = self.request("POST", path, raw, {"Content-Type": "application/json"})
        return status, json.loads(content)

    def predict(self, inputs, signature="serving_default", model="tiny", key="inputs"):
        """Runs an endpoint over REST; returns what is under "outputs" or "predictions"."""
        body = {"signature_name": signature, key: inputs}
        status, answer = self.post(f"/v1/models/{model}:predict", body)
        assert status == 200, answer
        (value,) = answer.values()
        return value

    # A gRPC client of the public protocol

    @contextlib.contextmanager
    def channel(self):
        import grpc

        with grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            yield channel

    def rpc(self, inputs, signature="", model="tiny", outputs=(), timeout=60.0, **spec):
        """Runs an endpoint over gRPC; returns the response."""
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = signature
        if "version" in spec:
            request.model_spec.version.value = spec["version"]
        if "label" in spec:
            request.model_spec.version_label = spec["label"]
        for name, value in inputs.items():
            proto = value if hasattr(value, "dtype") and not isinstance(value, np.ndarray) else None
            request.inputs[name].CopyFrom(proto or tf.make_tensor_proto(value))
        request.output_filter.extend(outputs)
        with self.channel() as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            return stub.Predict(request, timeout=timeout)


@contextlib.contextmanager
def running(models: Path, **options):
    """A server that is stopped at the end and has shown no traceback."""
    served = Server(models, **options)
    try:
        yield served
    finally:
        code = served.stop()
    log = "".join(served.log)
    assert "Traceback" not in log, log
    assert code == 0, log


@pytest.fixture(scope="session")
def server(repository):
    """The server that all tests share which leave it as it is."""
    with running(repository, max_batch_size=16, max_body_mb=0.25) as served:
        yield served


def copy_version(source: Path, target: Path) -> None:
    """Puts a whole version into place at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    waiting = target.parent / f".{target.name}"
    shutil.copytree(source, waiting)
    waiting.rename(target)
