"""What REST and gRPC share: finding a model, running it in a batch, counting."""

import asyncio
import contextlib
import time
from collections.abc import Iterator

import numpy as np
import prometheus_client as prometheus
from tensorflow_serving.apis import get_model_metadata_pb2

from tfgen.serving.batching import Batcher
from tfgen.serving.errors import ServingError
from tfgen.serving.repository import Repository
from tfgen.serving.servable import Servable, Signature

__all__ = ["Core", "Metrics"]

OVERDUE = "overdue"
LONGEST_MESSAGE = 1000  # gRPC sends messages in a header, which is small


class Metrics:
    """Prometheus' counters, in a registry of their own."""

    def __init__(self):
        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        self.requests = prometheus.Counter(
            "tfgen_serving_requests",
            "Predict requests answered; an unknown model counts under the empty name.",
            ["model", "signature", "api", "code"],
            registry=self.registry,
        )
        self.seconds = prometheus.Histogram(
            "tfgen_serving_request_seconds",
            "Time from a request's last byte to its answer.",
            ["model", "api"],
            registry=self.registry,
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
        )
        self.batch_rows = prometheus.Histogram(
            "tfgen_serving_batch_rows",
            "Rows that ran in one call.",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
        )
        self.batch_requests = prometheus.Histogram(
            "tfgen_serving_batch_requests",
            "Requests that ran in one call.",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        )
        self.available = prometheus.Gauge(
            "tfgen_serving_model_available",
            "1 while the version is loaded.",
            ["model", "version"],
            registry=self.registry,
        )

    def count_batch(self, requests: int, rows: int) -> None:
        """Notes one call of a signature."""
        self.batch_requests.observe(requests)
        self.batch_rows.observe(rows)

    def note_version(self, model: str, version: int, available: bool) -> None:
        """Notes that a version was loaded or unloaded."""
        if available:
            self.available.labels(model, str(version)).set(1)
        else:
            self.available.remove(model, str(version))

    def page(self) -> bytes:
        """Returns everything in Prometheus' text format."""
        return prometheus.generate_latest(self.registry)


class Predict:
    """One request on its way, for the counters; filled in as its parts become known."""

    def __init__(self, api: str):
        self.api = api
        self.began = time.perf_counter()
        self.model = self.signature = ""


class Core:
    """The repository, the batcher and the limits.

    Args:
        repository: What is served.
        batcher: What runs it.
        metrics: What counts.
        max_bytes: Most bytes of a request's body.
        timeout: Most seconds for a request.
    """

    def __init__(
        self,
        repository: Repository,
        batcher: Batcher,
        metrics: Metrics,
        max_bytes: int,
        timeout: float,
    ):
        self.repository = repository
        self.batcher = batcher
        self.metrics = metrics
        self.max_bytes = max_bytes
        self.timeout = timeout
        self.draining = False

    @contextlib.contextmanager
    def counted(self, api: str) -> Iterator[Predict]:
        """Counts what happens inside, by the code of the ServingError that leaves it."""
        request = Predict(api)
        code = "INTERNAL"
        try:
            yield request
            code = "OK"
        except ServingError as error:
            code = error.code
            raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        finally:
            metrics, model = self.metrics, request.model
            metrics.requests.labels(model, request.signature, api, code).inc()
            metrics.seconds.labels(model, api).observe(time.perf_counter() - request.began)

    async def run(
        self,
        servable: Servable,
        signature: Signature,
        arrays: dict[str, np.ndarray],
        timeout: float,
    ) -> dict[str, np.ndarray]:
        """Runs a signature, together with other requests where that is possible.

        Raises:
            ServingError: From the checks or from the graph; DEADLINE_EXCEEDED after `timeout`
                seconds.
        """
        future = self.batcher.submit(signature, arrays, timeout)
        # The session stays open until the call is over, even if its client goes away meanwhile.
        servable.acquire()
        future.add_done_callback(lambda _: servable.release())
        waiting = asyncio.wrap_future(future)
        # A timer that cancels is cheaper than `asyncio.wait_for`.
        timer = asyncio.get_running_loop().call_later(timeout, waiting.cancel, OVERDUE)
        try:
            return await waiting
        except asyncio.CancelledError as error:
            if error.args != (OVERDUE,):
                raise
            raise ServingError(
                "DEADLINE_EXCEEDED", f"no answer within {timeout:.3g} seconds."
            ) from None
        finally:
            timer.cancel()


def signature_map(servable: Servable) -> get_model_metadata_pb2.SignatureDefMap:
    """Returns a version's signatures as TF Serving's metadata gives them."""
    made = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in servable.signatures.items():
        made.signature_def[name].CopyFrom(signature.definition)
    return made


def shorten(message: str) -> str:
    """Cuts a message that repeats too much of what a client sent."""
    if len(message) <= LONGEST_MESSAGE:
        return message
    return message[: LONGEST_MESSAGE - 3] + "..."
