"""Laws of batching, on signatures that only record what was run."""

import threading
import time

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tfgen.serving.batching import Batcher
from tfgen.serving.errors import ServingError


class Doubling:
    """A signature that doubles `x`, refuses 13, and notes the shapes that it ran on."""

    inputs = outputs = ("x",)
    name = "doubling"

    def __init__(self, batched=True, compiled=False):
        self.batched, self.compiled = batched, compiled
        self.calls: list[tuple[int, ...]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def check(self, arrays):
        return len(arrays["x"]) if self.batched else 1

    def run(self, arrays):
        self.calls.append(arrays["x"].shape)
        self.entered.release()
        assert self.gate.wait(30)
        if (arrays["x"] == 13).any():
            raise ServingError("INVALID_ARGUMENT", "13 brings bad luck")
        return {"x": 2 * arrays["x"]}


@pytest.fixture
def batcher():
    made = Batcher(max_rows=8, threads=1)
    yield made
    made.stop()


def submit(batcher, signature, rows, timeout=30.0):
    return batcher.submit(signature, {"x": np.asarray(rows)}, timeout)


class Blocked:
    """Holds a batcher's one thread, so that what comes meanwhile gathers."""

    def __init__(self, batcher):
        self.signature = Doubling()
        self.signature.gate.clear()
        self.future = submit(batcher, self.signature, [0])
        assert self.signature.entered.acquire(timeout=30)

    def release(self):
        self.signature.gate.set()
        self.future.result(30)


ROWS = st.lists(st.integers(0, 20), min_size=1, max_size=8)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    requests=st.lists(st.tuples(ROWS, st.integers(1, 3)), min_size=1, max_size=12),
    compiled=st.booleans(),
)
def test_every_request_gets_its_own_rows(requests, compiled):
    """Whatever arrives together: rows of any number, shapes that differ, some of them refused."""
    batcher = Batcher(max_rows=8, threads=1)
    blocked, signature = Blocked(batcher), Doubling(compiled=compiled)
    arrays = [np.repeat(np.array(rows)[:, None], width, 1) for rows, width in requests]
    futures = [submit(batcher, signature, array) for array in arrays]
    blocked.release()
    for array, future in zip(arrays, futures, strict=True):
        if (array == 13).any():
            with pytest.raises(ServingError, match="bad luck"):
                future.result(30)
        else:
            np.testing.assert_array_equal(future.result(30)["x"], 2 * array)
    batcher.stop()
    assert all(shape[0] <= 8 for shape in signature.calls)
    if compiled:
        assert all(shape[0] in (1, 2, 4, 8) for shape in signature.calls)
    if not any((array == 13).any() for array in arrays):
        rows = sum(shape[0] for shape in signature.calls)
        assert rows >= sum(map(len, arrays))
        assert compiled or rows == sum(map(len, arrays))


def test_mates_run_in_one_call(batcher):
    blocked, signature = Blocked(batcher), Doubling()
    futures = [submit(batcher, signature, [i, i]) for i in range(6)]
    blocked.release()
    for i, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(30)["x"], [2 * i, 2 * i])
    assert signature.calls == [(8,), (4,)]  # as many as max_rows allows


def test_strangers_never_meet(batcher):
    """Other signatures, other shapes, and signatures without a batch axis."""
    blocked = Blocked(batcher)
    one, other, alone = Doubling(), Doubling(), Doubling(batched=False)
    given = [(one, [1]), (other, [1]), (one, [[1, 1]]), (alone, [1]), (alone, [1]), (one, [2])]
    futures = [submit(batcher, signature, rows) for signature, rows in given]
    blocked.release()
    for future in futures:
        future.result(30)
    assert sorted(one.calls) == [(1, 2), (2,)]
    assert other.calls == [(1,)]
    assert alone.calls == [(1,), (1,)]


def test_a_lone_request_does_not_wait():
    """A window of an hour, and still it is answered."""
    batcher = Batcher(window=3600.0, threads=2)
    signature = Doubling()
    for i in range(3):
        assert submit(batcher, signature, [i]).result(30)["x"] == [2 * i]
    batcher.stop()


def test_a_full_batch_does_not_wait():
    batcher = Batcher(max_rows=4, window=3600.0, threads=2)
    blocked, signature = Blocked(batcher), Doubling()
    futures = [submit(batcher, signature, [i, i]) for i in range(2)]
    assert [future.result(30)["x"][0] for future in futures] == [0, 2]
    assert signature.calls == [(4,)]
    blocked.release()
    batcher.stop()


def test_who_hung_up_or_is_late_is_passed_over(batcher):
    blocked, signature = Blocked(batcher), Doubling()
    gone = submit(batcher, signature, [1])
    late = submit(batcher, signature, [2], timeout=-1.0)
    kept = submit(batcher, signature, [3])
    assert gone.cancel()
    blocked.release()
    assert kept.result(30)["x"] == [6]
    with pytest.raises(ServingError, match="DEADLINE_EXCEEDED"):
        late.result(30)
    assert signature.calls == [(1,)]


class Slow(Doubling):
    """Takes as long as it is told, and then is cancelled by its session."""

    def __init__(self, code, seconds):
        super().__init__()
        self.code, self.seconds = code, seconds

    def run(self, arrays):
        self.calls.append(arrays["x"].shape)
        time.sleep(self.seconds)
        raise ServingError(self.code, "it took too long")


@pytest.mark.parametrize(
    ("code", "seconds", "timeout", "calls"),
    [
        ("DEADLINE_EXCEEDED", 0.0, 30.0, 1),  # the session cancelled it
        ("CANCELLED", 0.0, 30.0, 1),
        ("INVALID_ARGUMENT", 0.0, 30.0, 4),  # one of them is bad, so each runs alone
        ("INVALID_ARGUMENT", 0.3, 0.2, 1),  # but not for a client that has gone
    ],
)
def test_a_batch_that_took_too_long_is_not_run_again(code, seconds, timeout, calls, batcher):
    blocked, signature = Blocked(batcher), Slow(code, seconds)
    futures = [submit(batcher, signature, [i], timeout) for i in range(3)]
    blocked.release()
    for future in futures:
        with pytest.raises(ServingError):
            future.result(30)
    assert len(signature.calls) == calls


def test_limits():
    batcher = Batcher(max_rows=4, threads=1, max_waiting=2)
    blocked, signature = Blocked(batcher), Doubling()
    with pytest.raises(ServingError, match="size 5 is larger than maximum input batch size 4"):
        submit(batcher, signature, [0] * 5)
    waiting = [submit(batcher, signature, [i]) for i in range(2)]
    with pytest.raises(ServingError, match="UNAVAILABLE: The batch scheduling queue"):
        submit(batcher, signature, [0])
    batcher.stop()
    with pytest.raises(ServingError, match="UNAVAILABLE: the server is shutting down"):
        submit(batcher, signature, [0])
    blocked.release()  # what waits at the stop is still answered
    assert [future.result(30)["x"][0] for future in waiting] == [0, 2]


def test_an_output_of_another_length_is_an_error(batcher):
    class Shrinking(Doubling):
        def run(self, arrays):
            return {"x": super().run(arrays)["x"][:1]}

    blocked, signature = Blocked(batcher), Shrinking()
    futures = [submit(batcher, signature, [i]) for i in range(2)]
    blocked.release()
    # Together they fail, alone each has the length that it should.
    assert [future.result(30)["x"][0] for future in futures] == [0, 2]


@pytest.mark.parametrize(
    "wrong", [{"max_rows": 0}, {"window": -1.0}, {"threads": 0}, {"max_waiting": 0}]
)
def test_bad_arguments(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        Batcher(**wrong)
