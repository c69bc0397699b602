"""Batching: requests that arrive together run together.

Requests for the same signature of the same version, whose inputs have equal shapes apart from the
batch axis, run in one call. While nothing is running, a request starts at once; otherwise it waits
for others to batch with, for at most `window` seconds or until the batch has `max_rows` rows. If a
batch fails, unless by taking too long, each of its requests runs alone.
"""

import collections
import dataclasses
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future

import numpy as np

from tfgen import checks
from tfgen.serving.errors import ServingError, invalid
from tfgen.serving.servable import Signature

__all__ = ["Batcher"]

Arrays = dict[str, np.ndarray]
TOO_LATE = ("CANCELLED", "DEADLINE_EXCEEDED")  # nobody waits for these any more


@dataclasses.dataclass
class _Task:
    signature: Signature
    arrays: Arrays
    rows: int
    arrived: float
    deadline: float
    future: Future


class Batcher:
    """Runs signatures in a few threads.

    Args:
        max_rows: Maximum rows per batch and per request.
        window: Maximum seconds to wait for other requests to batch with, while another call
            runs; 0 never waits.
        threads: Calls that run at the same time.
        max_waiting: Maximum number of waiting requests; more are refused.
        on_batch: Called with (requests, rows) for each call.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        max_rows: int = 256,
        window: float = 0.002,
        threads: int = 2,
        max_waiting: int = 1000,
        on_batch: Callable[[int, int], None] = lambda *_: None,
    ):
        checks.at_least(1, max_rows=max_rows, threads=threads, max_waiting=max_waiting)
        checks.finite(0, window=window)
        self.max_rows = max_rows
        self._window = window
        self._max_waiting = max_waiting
        self._on_batch = on_batch
        self._changed = threading.Condition()
        self._queues: dict[Hashable, collections.deque[_Task]] = {}
        self._waiting = 0
        self._running = 0
        self._stopping = False
        for index in range(threads):
            threading.Thread(target=self._work, name=f"batcher-{index}", daemon=True).start()

    def submit(self, signature: Signature, arrays: Arrays, timeout: float) -> Future:
        """Checks and queues inputs; the future holds the outputs.

        Args:
            signature: The signature to run.
            arrays: Its inputs.
            timeout: Seconds after which a request that has not started is dropped.

        Raises:
            ServingError: The inputs do not fit the signature or have more rows than `max_rows`,
                or too many requests are already waiting.
        """
        rows = signature.check(arrays)
        self.check_rows(rows)
        now = time.monotonic()
        task = _Task(signature, arrays, rows, now, now + timeout, Future())
        shapes = tuple((name, array.shape[1:]) for name, array in sorted(arrays.items()))
        # A signature belongs to one version; a request without a batch axis runs alone.
        key = (id(signature), shapes) if signature.batched else id(task)
        with self._changed:
            if self._stopping:
                raise ServingError("UNAVAILABLE", "the server is shutting down.")
            if self._waiting >= self._max_waiting:
                raise ServingError(
                    "UNAVAILABLE",
                    "The batch scheduling queue to which this task was submitted is full; try "
                    "again later.",
                )
            self._queues.setdefault(key, collections.deque()).append(task)
            self._waiting += 1
            self._changed.notify()
        return task.future

    def check_rows(self, rows: int) -> None:
        """Raises INVALID_ARGUMENT if a request has more than `max_rows` rows."""
        if rows > self.max_rows:
            raise invalid(
                f"Task size {rows} is larger than maximum input batch size {self.max_rows}. "
                "Send fewer rows per request.",
            )

    def stop(self) -> None:
        """Accepts no more requests; those waiting still run, then the threads end."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _work(self) -> None:
        while tasks := self._next():
            try:
                self._run(tasks)
            finally:
                with self._changed:
                    self._running -= 1
                    self._changed.notify()

    def _next(self) -> list[_Task]:
        """Waits for a batch that is due; [] once stopped."""
        with self._changed:
            while True:
                now = time.monotonic()
                wake = None
                for key, queue in self._queues.items():  # ordered by their oldest request
                    due = queue[0].arrived + self._window
                    full = sum(task.rows for task in queue) >= self.max_rows
                    if now >= due or full or not self._running or self._stopping:
                        self._running += 1
                        return self._take(key)
                    wake = due if wake is None else min(wake, due)
                if self._stopping:
                    return []
                self._changed.wait(None if wake is None else wake - now)

    def _take(self, key: Hashable) -> list[_Task]:
        queue = self._queues.pop(key)
        tasks, rows = [], 0
        while queue and rows + queue[0].rows <= self.max_rows:
            task = queue.popleft()
            rows += task.rows
            tasks.append(task)
        self._waiting -= len(tasks)
        if queue:
            self._queues[key] = queue  # now last in line
            self._changed.notify()
        return tasks

    def _run(self, tasks: list[_Task]) -> None:
        now = time.monotonic()
        live = []
        for task in tasks:
            if not task.future.set_running_or_notify_cancel():
                continue  # its client disconnected
            if now > task.deadline:
                task.future.set_exception(_overdue())
                continue
            live.append(task)
        if not live:
            return
        try:
            outputs = self._call(live)
        except Exception as error:
            late = isinstance(error, ServingError) and error.code in TOO_LATE
            for task in live:
                if late or len(live) == 1:
                    task.future.set_exception(error)
                else:
                    self._alone(task)
            return
        for task, output in zip(live, outputs, strict=True):
            task.future.set_result(output)

    def _alone(self, task: _Task) -> None:
        if time.monotonic() > task.deadline:
            task.future.set_exception(_overdue())
            return
        try:
            (output,) = self._call([task])
        except Exception as error:
            task.future.set_exception(error)
        else:
            task.future.set_result(output)

    def _call(self, tasks: list[_Task]) -> list[Arrays]:
        signature = tasks[0].signature
        rows = sum(task.rows for task in tasks)
        self._on_batch(len(tasks), rows)
        padded = self._padded(signature, rows)
        if len(tasks) == 1 and padded == rows:
            return [signature.run(tasks[0].arrays)]
        stacked = {}
        for name in signature.inputs:
            parts = [task.arrays[name] for task in tasks]
            stacked[name] = np.concatenate([*parts, *[parts[-1][-1:]] * (padded - rows)])
        together = signature.run(stacked)
        for name, output in together.items():
            if len(output) != padded:
                raise ServingError(
                    "INTERNAL", f"output {name!r} has {len(output)} rows for {padded} of input."
                )
            together[name] = output[:rows]
        ends = np.cumsum([task.rows for task in tasks])[:-1]
        split = {name: np.split(output, ends) for name, output in together.items()}
        return [{name: parts[i] for name, parts in split.items()} for i in range(len(tasks))]

    def _padded(self, signature: Signature, rows: int) -> int:
        """Rounds up to a power of two for XLA, which compiles each size."""
        if not (signature.compiled and signature.batched):
            return rows
        return min(1 << (rows - 1).bit_length(), max(rows, self.max_rows))


def _overdue() -> ServingError:
    return ServingError("DEADLINE_EXCEEDED", "the request waited past its deadline.")
