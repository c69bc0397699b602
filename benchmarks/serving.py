"""What `tfgen serve` costs and withstands: overhead per request, batching, 30 seconds of load.

overhead    one request at a time, batch 1: the bare signature call of `tf.saved_model.load` in
            this process, and the whole way through REST and gRPC with the public protocol; the
            sides take turns. The difference is the cost of serving, client included.
batching    requests/s of 32 clients that ask for one image each over gRPC, with batching and
            with --max-batch-size 1; the sides take turns
health      GET /health again and again, while one client sends requests of 256 rows, which are
            allowed, and another requests of 45 MB, which are refused
load        32 clients for --seconds over all models, endpoints and both protocols, 1 to 4 rows per
            request. Every answer is checked against the bare call at batch 1 for the same seed, to
            one grey level: across batch shapes the noise is the same, float rounding may differ.
            Memory is the server's resident set.

The clients run on the same machine, in one process, and take their share of its cores.
Needs no data set. The entries are exported into a temporary folder first, or --models is used.
"""

import contextlib
import http.client
import io
import json
import math
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import common
import numpy as np

FAMILIES = {
    "ae_mnist": "reconstruct",
    "vae_mnist": "sample",
    "gan_mnist": "sample",
    "pixelcnn_binarized_mnist": "sample",
    "pixelrnn_binarized_mnist": "sample",
}
NAMES = (*FAMILIES, "vae_binarized_mnist", "vae_2d_mnist", "cvae_mnist")
CLIENTS = 32
POOL = 64  # seeds a model, whose images are known beforehand
GROWTH = 1.05  # resident memory after the load / after its first third, at most
# Over the bare call at batch 1, at most; or as this share of the call, where that is more.
OVERHEAD_MS, OVERHEAD_SHARE = {"grpc": 2.0, "rest": 2.0}, 0.2
HEALTH_MS = 50.0  # of /health under large requests, 99th percentile, at most
ROOT = Path(__file__).resolve().parents[1]


class Server:
    """`tfgen serve` on free ports."""

    def __init__(self, models: Path, *options: str):
        command = [sys.executable, "-m", "tfgen_command", "serve", "--engine", "local"]
        command += ["--models", str(models), "--port", "0", "--grpc-port", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        for line in self.process.stderr:
            if found := re.search(r"models? at http://[^:]+:(\d+) .*:(\d+) \(gRPC\)", line):
                self.port, self.grpc_port = int(found[1]), int(found[2])
                break
        else:
            raise RuntimeError("the server did not start")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def metric(self, name: str) -> float:
        """Returns the sum of a metric over its labels."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        with contextlib.closing(connection):
            connection.request("GET", "/monitoring/prometheus/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if re.match(rf"{name}[ {{]", line))

    def stop(self) -> None:
        self.process.terminate()
        if self.process.wait(60):
            raise RuntimeError(f"the server ended with code {self.process.returncode}")


@contextlib.contextmanager
def serving(models: Path, *options: str):
    server = Server(models, *options)
    try:
        yield server
    finally:
        server.stop()


class Rest:
    """A client of the public REST protocol, on one connection that it reopens when closed."""

    def __init__(self, server: Server):
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self._connection.connect()

    def __call__(self, name: str, signature: str, inputs: dict[str, np.ndarray]) -> list:
        values = {key: value.tolist() for key, value in inputs.items()}
        body = json.dumps({"signature_name": signature, "inputs": values})
        path = f"/v1/models/{name}:predict"
        try:
            self._connection.request("POST", path, body)
            response = self._connection.getresponse()
        except ConnectionError:  # it was idle for longer than the server keeps connections
            self._connection.close()
            self._connection.request("POST", path, body)
            response = self._connection.getresponse()
        answer = json.loads(response.read())
        if response.status != 200:
            raise RuntimeError(answer["error"])
        return answer["outputs"]


class Grpc:
    """A client of the public gRPC protocol."""

    def __init__(self, server: Server):
        import grpc
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

        # A connection of its own: channels to one address share one otherwise.
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options)
        self._request = predict_pb2.PredictRequest
        self._call = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict

    def __call__(self, name: str, signature: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        import tensorflow as tf

        request = self._request()
        request.model_spec.name, request.model_spec.signature_name = name, signature
        for key, value in inputs.items():
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
        (output,) = self._call(request, timeout=60).outputs.values()
        return tf.make_ndarray(output)


class Known:
    """A model's answers at batch 1, from the bare signatures."""

    def __init__(self, name: str, path: Path):
        import tensorflow as tf

        self.name = name
        self.loaded = tf.saved_model.load(str(path))
        self.signatures = self.loaded.signatures
        self.signature = "sample" if "sample" in self.signatures else "reconstruct"
        keys = self.signatures[self.signature].structured_input_signature[1]
        generator = np.random.default_rng(0)
        self.rows = {}
        if "seed" in keys:
            self.rows["seed"] = np.arange(POOL)
        if "images" in keys:
            self.rows["images"] = generator.integers(0, 256, (POOL, 28, 28, 1)).astype(np.uint8)
        if "labels" in keys:
            self.rows["labels"] = np.arange(POOL) % 10
        self.images = np.concatenate([self.bare([i]) for i in range(POOL)])
        self.binary = len(np.unique(self.images)) == 2

    def inputs(self, which: list[int]) -> dict[str, np.ndarray]:
        return {key: values[which] for key, values in self.rows.items()}

    def bare(self, which: list[int]) -> np.ndarray:
        import tensorflow as tf

        inputs = {key: tf.constant(value) for key, value in self.inputs(which).items()}
        return self.signatures[self.signature](**inputs)["images"].numpy()

    def agrees(self, which: list[int], found) -> bool:
        """To one grey level; in a binary image, a few pixels at the edge between two may differ."""
        difference = np.abs(np.asarray(found, int) - self.images[which].astype(int))
        if self.binary:
            return bool((difference > 0).reshape(len(which), -1).mean(1).max() < 0.02)
        return bool(difference.max() <= 1)


def overhead(models: Path, known: dict[str, Known], repeats: int, seconds: float):
    """Returns {model: {side: milliseconds in each round}}."""
    found = {}
    with serving(models) as server:
        rest, rpc = Rest(server), Grpc(server)
        for name, signature in FAMILIES.items():
            model = known[name]

            def timed(call) -> float:
                call(0)
                taken, stop = [], time.perf_counter() + seconds
                while time.perf_counter() < stop:
                    index = len(taken) % POOL
                    start = time.perf_counter()
                    call(index)
                    taken.append(1000 * (time.perf_counter() - start))
                return statistics.median(taken)

            sides = {
                "bare": lambda m=model: timed(lambda i: m.bare([i])),
                "grpc": lambda m=model, n=name, s=signature: timed(
                    lambda i: rpc(n, s, m.inputs([i]))
                ),
                "rest": lambda m=model, n=name, s=signature: timed(
                    lambda i: rest(n, s, m.inputs([i]))
                ),
            }
            found[name] = common.interleaved(sides, repeats)
    return found


def many(seconds: float, work) -> float:
    """Runs `work(client)` over and over in CLIENTS threads; returns calls per second."""
    counts, errors = [0] * CLIENTS, []
    ready, stop = threading.Barrier(CLIENTS + 1), threading.Event()

    def client(index: int) -> None:
        try:
            call = work(index)
            ready.wait()
            while not stop.is_set():
                call()
                counts[index] += 1
        except Exception as error:
            errors.append(error)
            stop.set()
            ready.abort()  # the others wait no longer for a client that cannot begin

    threads = [threading.Thread(target=client, args=(index,)) for index in range(CLIENTS)]
    for thread in threads:
        thread.start()
    with contextlib.suppress(threading.BrokenBarrierError):
        ready.wait()
    start = time.perf_counter()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(counts) / (time.perf_counter() - start)


def batching(models: Path, known: dict[str, Known], repeats: int, seconds: float):
    """Returns {model: {side: requests per second in each round}}."""
    found = {}
    with serving(models) as together, serving(models, "--max-batch-size", "1") as alone:
        for name, signature in FAMILIES.items():
            model = known[name]

            def asking(server: Server, name=name, signature=signature, model=model):
                def work(index: int):
                    call, turn = Grpc(server), random.Random(index)
                    return lambda: call(name, signature, model.inputs([turn.randrange(POOL)]))

                return lambda: many(seconds, work)

            sides = {"batched": asking(together), "alone": asking(alone)}
            found[name] = common.interleaved(sides, repeats)
    return found


def health(models: Path, seconds: float) -> list[float]:
    """Returns milliseconds of /health while large requests arrive, some of them refused."""
    refused = b'{"signature_name": "reconstruct", "inputs": [' + b"0, " * 15_000_000 + b"0]}"
    images = np.random.default_rng(0).integers(0, 256, (256, 28, 28, 1))
    allowed = json.dumps({"signature_name": "reconstruct", "inputs": images.tolist()}).encode()
    stop, answers, faults = threading.Event(), {200: 0, 400: 0}, []

    with serving(models) as server:

        def send(body: bytes, expected: int) -> None:
            while not stop.is_set():
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
                try:
                    connection.request("POST", "/v1/models/ae_mnist:predict", body)
                    status = connection.getresponse().status
                except (OSError, http.client.HTTPException) as error:
                    status = repr(error)
                finally:
                    connection.close()
                if status != expected:
                    faults.append(f"status {status} instead of {expected}")
                    return
                answers[status] += 1

        work = [threading.Thread(target=send, args=a) for a in ((refused, 400), (allowed, 200))]
        for thread in work:
            thread.start()
        waits, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end and not faults:
            start = time.perf_counter()
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            with contextlib.closing(connection):
                connection.request("GET", "/health")
                connection.getresponse().read()
            waits.append(1000 * (time.perf_counter() - start))
            time.sleep(0.01)
        stop.set()
        for thread in work:
            thread.join()
    if faults or not all(answers.values()):
        raise RuntimeError(f"{faults or answers}")
    return waits


def load(models: Path, known: dict[str, Known], seconds: float):
    """Returns latencies in milliseconds, faults, and the server's memory in MB over time."""
    from PIL import Image

    latencies, faults, memory = [], [], []

    def unpacked(found, protocol: str) -> np.ndarray:
        files = found if protocol == "grpc" else [_decoded(value) for value in found]
        return np.stack([np.asarray(Image.open(io.BytesIO(file)))[..., None] for file in files])

    with serving(models) as server:

        def work(index: int):
            turn = random.Random(index)
            protocol = "grpc" if index % 2 else "rest"
            call = (Grpc if index % 2 else Rest)(server)

            def once() -> None:
                model = known[turn.choice(NAMES)]
                which = [turn.randrange(POOL) for _ in range(turn.randint(1, 4))]
                png = "sample_png" in model.signatures and turn.random() < 0.3
                signature = "sample_png" if png else model.signature
                start = time.perf_counter()
                try:
                    found = call(model.name, signature, model.inputs(which))
                except Exception as error:
                    faults.append(f"{model.name} {signature}: {error}")
                    return
                latencies.append(1000 * (time.perf_counter() - start))
                if not model.agrees(which, unpacked(found, protocol) if png else found):
                    faults.append(f"{model.name} {signature}: wrong image for {which}")

            return once

        def resident() -> float:
            return server.metric("process_resident_memory_bytes") / 1e6

        memory.append(resident())
        many(seconds / 3, work)
        memory.append(resident())
        latencies.clear()
        rate = many(seconds, work)
        memory.append(resident())
        requests = server.metric("tfgen_serving_batch_requests_sum")
        calls = server.metric("tfgen_serving_batch_requests_count")
    return latencies, faults, memory, rate, requests / calls


def _decoded(value: dict[str, str]) -> bytes:
    import base64

    return base64.b64decode(value["b64"])


def main() -> int:
    parser = common.parser(__doc__, repeats=3)
    parser.add_argument("--models", type=Path, help="a repository with the entries, exported")
    parser.add_argument("--seconds", type=float, default=30.0, help="of load (default %(default)s)")
    parser.add_argument("--slice", type=float, default=2.0, help="seconds per side and round")
    parser.add_argument("--only", choices=("overhead", "batching", "load", "health"))
    arguments = parser.parse_args()

    with contextlib.ExitStack() as stack:
        models = arguments.models
        if models is None:
            models = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for name in NAMES:
                common.zoo_model(name).export(models / name)
        paths = {
            name: max((models / name).glob("[0-9]*"), key=lambda p: int(p.name)) for name in NAMES
        }
        known = {name: Known(name, path) for name, path in paths.items()}
        wanted = [arguments.only] if arguments.only else ["overhead", "batching", "load", "health"]
        tables, figures, verdicts = [], {}, []
        if "overhead" in wanted:
            report_overhead(
                overhead(models, known, arguments.repeats, arguments.slice),
                tables,
                figures,
                verdicts,
            )
        if "batching" in wanted:
            report_batching(
                batching(models, known, arguments.repeats, arguments.slice), tables, figures
            )
        if "load" in wanted:
            report_load(load(models, known, arguments.seconds), tables, figures, verdicts)
        if "health" in wanted:
            report_health(health(models, arguments.seconds), tables, figures, verdicts)
    passed = all(good for good, _ in verdicts)
    verdict = "; ".join(text for _, text in verdicts) or "for information"
    return common.finish("\n\n".join(tables), figures, passed, verdict, arguments.json)


def report_overhead(found, tables, figures, verdicts) -> None:
    rows, figures["overhead_ms"] = [], {}
    worst = dict.fromkeys(OVERHEAD_MS, (-math.inf, 0.0, 0.0))  # excess, milliseconds, limit
    for name, rounds in found.items():
        medians = {side: statistics.median(values) for side, values in rounds.items()}
        over = {side: medians[side] - medians["bare"] for side in OVERHEAD_MS}
        for side, limit in OVERHEAD_MS.items():
            limit = max(limit, OVERHEAD_SHARE * medians["bare"])
            worst[side] = max(worst[side], (over[side] - limit, over[side], limit))
        figures["overhead_ms"][name] = {"milliseconds": rounds, "over": over}
        cells = [f"{medians[side]:.2f}" for side in ("bare", "grpc", "rest")]
        rows.append([name, *cells, *(f"{over[side]:.2f}" for side in ("grpc", "rest"))])
    header = ("ms a request, batch 1", "bare call", "gRPC", "REST", "gRPC adds", "REST adds")
    tables.append(common.format_table(header, rows))
    for side, (excess, added, limit) in worst.items():
        verdicts.append((excess <= 0, f"{side} adds at worst {added:.2f} ms, limit {limit:.2f}"))


def report_batching(found, tables, figures) -> None:
    rows, figures["requests_per_second"] = [], found
    for name, rounds in found.items():
        gain = common.ratio(rounds["batched"], rounds["alone"])
        medians = [f"{statistics.median(rounds[side]):.0f}" for side in ("batched", "alone")]
        spread = f"{gain['min']:.2f}..{gain['max']:.2f}"
        rows.append([name, *medians, f"{gain['ratio']:.2f}", spread])
    header = (f"requests/s, {CLIENTS} clients", "batched", "one by one", "ratio", "min..max")
    tables.append(common.format_table(header, rows))


def report_health(waits: list[float], tables, figures, verdicts) -> None:
    p50, p99, most = np.percentile(waits, [50, 99, 100])
    figures["health_ms"] = {"requests": len(waits), "p50": p50, "p99": p99, "max": most}
    row = [f"{len(waits):,}", f"{p50:.1f}", f"{p99:.1f}", f"{most:.1f}"]
    tables.append(common.format_table(("/health, ms", "p50", "p99", "max"), [row]))
    verdicts.append((p99 <= HEALTH_MS, f"/health within {p99:.1f} ms (p99), limit {HEALTH_MS:g}"))


def report_load(measured, tables, figures, verdicts) -> None:
    latencies, faults, memory, rate, mean_batch = measured
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99])
    growth = memory[2] / memory[1]
    figures["load"] = {
        "requests": len(latencies),
        "requests_per_second": rate,
        "milliseconds": {"p50": p50, "p95": p95, "p99": p99},
        "memory_mb": dict(zip(("start", "after warm-up", "end"), memory, strict=True)),
        "requests_a_call": mean_batch,
        "faults": faults[:20],
    }
    header = (f"{CLIENTS} clients, all models", "figure")
    rows = [
        ["requests, all checked", f"{len(latencies):,}"],
        ["requests/s", f"{rate:.0f}"],
        ["p50 / p95 / p99 ms", f"{p50:.1f} / {p95:.1f} / {p99:.1f}"],
        ["requests a call, mean", f"{mean_batch:.2f}"],
        ["memory MB: start, warm, end", " ".join(f"{value:.0f}" for value in memory)],
    ]
    tables.append(common.format_table(header, rows))
    verdicts.append((not faults, f"{len(faults)} errors or wrong images, limit 0 {faults[:1]}"))
    verdicts.append((growth <= GROWTH, f"memory grew {growth:.3f}x, limit {GROWTH}"))


if __name__ == "__main__":
    sys.exit(main())
