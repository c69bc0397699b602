"""What REST and gRPC share: finding a model, running it in a batch, metrics."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import prometheus_client as prometheus
from tensorflow_serving.apis import get_model_metadata_pb2

from tfgen.serving.batching import Batcher
from tfgen.serving.errors import ServingError
from tfgen.serving.pieces import PIECE
from tfgen.serving.repository import Repository
from tfgen.serving.servable import Servable, Signature

__all__ = ["Backend", "Metrics", "RequestRecord"]

OVERDUE = "overdue"
READERS = 2  # threads that read and write large bodies
BODIES = 16  # of the largest size, which may be read at the same time
_Result = TypeVar("_Result")
LONGEST_MESSAGE = 1000  # gRPC sends messages in a header, which is small


class Metrics:
    """Prometheus metrics, in their own registry."""

    def __init__(self):
        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        self.requests = prometheus.Counter(
            "tfgen_serving_requests",
            "Answered predict requests; those for an unknown model have an empty model name.",
            ["model", "signature", "api", "code"],
            registry=self.registry,
        )
        self.seconds = prometheus.Histogram(
            "tfgen_serving_request_seconds",
            "Seconds from the last byte of a request to its response.",
            ["model", "api"],
            registry=self.registry,
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
        )
        self.batch_rows = prometheus.Histogram(
            "tfgen_serving_batch_rows",
            "Rows per call of a signature.",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
        )
        self.batch_requests = prometheus.Histogram(
            "tfgen_serving_batch_requests",
            "Requests per call of a signature.",
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
        """Records one call of a signature."""
        self.batch_requests.observe(requests)
        self.batch_rows.observe(rows)

    def note_version(self, model: str, version: int, available: bool) -> None:
        """Records that a version was loaded or unloaded."""
        if available:
            self.available.labels(model, str(version)).set(1)
        else:
            self.available.remove(model, str(version))

    def page(self) -> bytes:
        """Returns everything in Prometheus' text format."""
        return prometheus.generate_latest(self.registry)


class RequestRecord:
    """What the metrics record about a request; filled in as it is read."""

    def __init__(self):
        self.began = time.perf_counter()
        self.model = self.signature = ""


class Backend:
    """The repository, the batcher and the limits.

    Args:
        repository: The models.
        batcher: What runs them.
        metrics: Where requests are counted.
        max_bytes: Maximum size of a request's body in bytes.
        timeout: Maximum seconds per request.
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
        self._readers = ThreadPoolExecutor(READERS, "reader")
        self._held = 0  # bytes of bodies; only the event loop changes it

    @contextlib.contextmanager
    def counted(self, api: str) -> Iterator[RequestRecord]:
        """Counts one request, under the code of the ServingError that leaves the block."""
        record = RequestRecord()
        code = "INTERNAL"
        try:
            yield record
            code = "OK"
        except ServingError as error:
            code = error.code
            raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        finally:
            metrics, model = self.metrics, record.model
            metrics.requests.labels(model, record.signature, api, code).inc()
            metrics.seconds.labels(model, api).observe(time.perf_counter() - record.began)

    @contextlib.contextmanager
    def holding(self) -> Iterator[Callable[[int], None]]:
        """Yields a function that counts a body's bytes, held within the block.

        Raises:
            ServingError: From that function: the bodies that are being read hold too many.
        """
        own = 0

        def hold(size: int) -> None:
            nonlocal own
            own += size
            self._held += size
            if self._held > BODIES * self.max_bytes:
                raise ServingError(
                    "UNAVAILABLE", "too many large requests are being read; try again later."
                )

        try:
            yield hold
        finally:
            self._held -= own

    async def in_thread(self, work: Callable[..., _Result], *arguments: Any) -> _Result:
        """Calls `work` in a thread, so the event loop keeps answering."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work, *arguments)

    async def by_size(self, size: int, work: Callable[..., _Result], *arguments: Any) -> _Result:
        """Calls `work` in a thread if it is about many bytes; a few are done sooner here."""
        if size > PIECE:
            return await self.in_thread(work, *arguments)
        return work(*arguments)

    async def run(
        self,
        servable: Servable,
        signature: Signature,
        arrays: dict[str, np.ndarray],
        timeout: float,
    ) -> dict[str, np.ndarray]:
        """Runs a signature, batched with other requests where possible.

        The caller has acquired the servable.

        Raises:
            ServingError: From the checks or from the graph; DEADLINE_EXCEEDED after `timeout`
                seconds.
        """
        future = self.batcher.submit(signature, arrays, timeout)
        # Keeps the session open even if the client disconnects.
        servable.hold()
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
    """Returns a version's signatures in the form of TF Serving's metadata."""
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in servable.signatures.items():
        signatures.signature_def[name].CopyFrom(signature.definition)
    return signatures


def shorten(message: str) -> str:
    """Cuts a message that quotes too much."""
    if len(message) <= LONGEST_MESSAGE:
        return message
    return message[: LONGEST_MESSAGE - 3] + "..."
