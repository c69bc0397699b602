"""What every side does: train for some minutes, draw, and write down what it took.

A side is a script with a function `build(data, given) -> Side`. It is run in its own environment,
from benchmarks/, as

    python -m peers.NAME DATA.npz FOLDER --minutes 3

DATA.npz holds uint8 images and int64 labels: x_train (N, 28, 28, 1), y_train, x_test. The side
writes into FOLDER:

    samples.npz   uint8 images (num_samples, 28, 28, 1); fewer where --sampling-seconds are over,
                  and none where a batch, pixel by pixel, would take more than half of them
    figures.json  what `measure` returns

What stands above the line `# What the comparison adds` is what a user would write as well: run.py
counts its lines. This file needs numpy only, since each environment has it.

How it measures:
- One training step comes before the clock, so building and compiling do not count, nor does what
  Keras' `fit` does before its first step and after its last one. Training ends with the step in
  which the time is over.
- The machine's rate, multiply-adds a second in NumPy's products of matrices, is measured right
  before, since not every machine that is called the same is as fast.
- `seconds for 1,000`: the median of at least five batches after the first, in which functions are
  traced; a side that is drawn pixel by pixel and would not finish gets the time of one pass through
  its network at this batch size, again the median of five, times the number of passes.
- `seconds for one`: the median of five; of one if it takes more than 5 seconds.
- The model is saved and loaded again after all of that, which is not in the peak.
- Peak memory is that of the process and includes the packages, the data, the samples drawn in
  batches of `Side.batch`, and the nats of the test images; that up to the end of training is noted
  as well.
"""

import argparse
import dataclasses
import datetime
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

NUM_SAMPLES = 2000
SAMPLING_SECONDS = 120.0
NUM_TEST = 500  # test images for nats
SHORT = 5.0  # seconds
MATRIX = 2048
REPEATS = 5  # of what is timed; the result is the median


class Data(NamedTuple):
    """The images that every side gets: uint8 (N, 28, 28, 1), and the labels of the train split."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray

    @property
    def is_binary(self) -> bool:
        return bool(np.isin(self.x_train[:1000], (0, 255)).all())


@dataclasses.dataclass
class Side:
    """A model that is ready to be trained.

    Args:
        train: Trains for some seconds, at least one step, and returns the images seen; or a pair of
            these and the seconds up to the end of the last step.
        sample: A number -> that many uint8 images (number, 28, 28, 1).
        save: A folder -> nothing; writes what `reload` needs.
        reload: That folder -> a function as `sample`.
        parameters: How many numbers train.
        packages: Those whose versions belong to the result.
        batch: Images per call of `sample`.
        nats: uint8 images -> their negative log-likelihood, mean, or a bound of it.
        nats_kind: "exact", or how the bound is made.
        one_pass: For a side that is drawn pixel by pixel: a number of images -> one pass of them
            through the network.
        passes: How many passes a batch of samples takes.
        planned_images: The images that its schedule was made for, if it knows the minutes.
    """

    train: Callable[[float], int | tuple[int, float]]
    sample: Callable[[int], np.ndarray]
    save: Callable[[Path], object]
    reload: Callable[[Path], Callable[[int], np.ndarray]]
    parameters: int
    packages: tuple[str, ...]
    batch: int = 500
    nats: Callable[[np.ndarray], float] | None = None
    nats_kind: str = ""
    one_pass: Callable[[int], object] | None = None
    passes: int = 1
    planned_images: int | None = None


class Clock:
    """Counts the steps of `fit`, and stops it after a number of seconds.

    It comes before the callback of the Keras in use: `class Own(Clock, keras.callbacks.Callback)`.
    """

    def __init__(self, seconds: float):
        super().__init__()
        self.seconds, self.steps = seconds, 0
        self.start = self.now = 0.0

    def on_train_begin(self, logs=None):
        """Starts the clock, now that `fit` has its data set."""
        self.start = self.now = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        self.now = time.perf_counter()
        if self.now >= self.start + self.seconds:
            self.model.stop_training = True


def read(path: Path) -> Data:
    with np.load(path) as arrays:
        return Data(*(arrays[name] for name in Data._fields))


def cpu_seconds() -> float:
    """Returns what this process and those that it started have used."""
    each = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in each)


def peak_megabytes() -> float:
    """Returns the most memory that this process has held, in MB."""
    # Linux hands ru_maxrss down to the processes that one starts: they would show its peak.
    if Path("/proc/self/status").is_file():
        return resident_megabytes("self")["peak"]
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def resident_megabytes(process: int | str) -> dict[str, float]:
    """Returns what a process or "self" holds "now" and at its "peak", in MB; Linux alone tells."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return {
        what: int(values[key].split()[0]) * 1024 / 1e6
        for what, key in (("now", "VmRSS"), ("peak", "VmHWM"))
    }


def processor() -> str:
    """Returns the processor's name, as far as Linux tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def numpy_rate() -> float:
    """Returns multiply-adds a second in NumPy's products of matrices, the best of five."""
    matrix = np.ones((MATRIX, MATRIX), np.float32)
    matrix @ matrix
    return MATRIX**3 / min(timed(lambda: matrix @ matrix) for _ in range(5))


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median_time(work: Callable[[], object], repeats: int = REPEATS) -> float:
    return statistics.median(timed(work) for _ in range(repeats))


def ticks(seconds: float) -> Iterator[int]:
    """Yields 0, 1, ... until the time is over, at least once."""
    end, number = time.perf_counter() + seconds, 0
    while number == 0 or time.perf_counter() < end:
        yield number
        number += 1


def trained(side: Side, seconds: float) -> dict[str, float]:
    side.train(0.0)  # one step, in which it compiles
    return paced(side, seconds) | {"training_megabytes": peak_megabytes()}


def paced(side: Side, seconds: float) -> dict[str, float]:
    """Trains a side that is compiled and returns what it saw and took."""
    start, used = time.perf_counter(), cpu_seconds()
    images = side.train(seconds)
    taken, used = time.perf_counter() - start, cpu_seconds() - used
    if isinstance(images, tuple):
        images, taken = images
    return {
        "images": images,
        "seconds": taken,
        "images_per_second": images / taken,
        "cpu_seconds": used,
    }


def passed(side: Side, number: int) -> float:
    """Returns the seconds that the passes of so many images take, by the median of one pass."""
    return side.passes * median_time(lambda: side.one_pass(number))


def drawing(side: Side) -> dict[str, float]:
    """Returns what samples cost a side that has drawn before.

    Pixel by pixel it is the time of one pass, times the passes.
    """

    def seconds(number: int) -> float:
        if side.one_pass is None:
            return median_time(lambda: side.sample(number))
        return passed(side, number)

    return {
        "seconds_1000": seconds(side.batch) * 1000 / side.batch,
        "seconds_1": seconds(1),
        "estimated": side.one_pass is not None,
    }


def drawn(side: Side, num_samples: int, limit: float) -> tuple[np.ndarray, dict[str, float]]:
    """Returns samples, at most `num_samples` and `limit` seconds of them, and their cost."""
    batch = min(side.batch, num_samples)
    if side.one_pass is not None:
        side.one_pass(batch)
        per_batch = passed(side, batch)
        if per_batch > limit / 2:
            side.one_pass(1)
            one = passed(side, 1)
            cost = {"seconds_1000": per_batch * 1000 / batch, "seconds_1": one, "estimated": True}
            return np.zeros((0, 28, 28, 1), np.uint8), cost
    start = time.perf_counter()
    batches, times = [], []
    while sum(map(len, batches)) < num_samples or len(times) <= REPEATS:
        begin = time.perf_counter()
        batches.append(side.sample(batch))
        times.append(time.perf_counter() - begin)
        if time.perf_counter() - start + times[-1] > limit:
            break
    first = timed(lambda: side.sample(1))  # traces, too
    one = median_time(lambda: side.sample(1), 1 if first > SHORT else REPEATS)
    return np.concatenate(batches)[:num_samples], {
        "seconds_1000": statistics.median(times[1:] or times) * 1000 / batch,
        "seconds_1": one,
        "estimated": False,
    }


def kept(side: Side, draw: bool) -> dict[str, float]:
    """Saves the model and loads it again, and draws from the loaded one if that is not slow."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        side.save(folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        start = time.perf_counter()
        sample = side.reload(folder)
        taken = time.perf_counter() - start
        if draw and sample(2).shape != (2, 28, 28, 1):
            raise ValueError("what was loaded does not draw images as it did before")
    return {"saved_megabytes": size / 1e6, "reload_seconds": taken}


def asked(given: argparse.Namespace) -> dict[str, float]:
    """Returns the settings, beside the minutes, that decide what a side's figures are."""
    return {"sampling_seconds": given.sampling_seconds, "num_test": given.num_test}


def measure(side: Side, data: Data, given: argparse.Namespace) -> tuple[np.ndarray, dict]:
    """Trains and draws, and returns the samples and all figures."""
    figures: dict = {"minutes": given.minutes, "parameters": int(side.parameters)}
    figures["train_images"] = len(data.x_train)
    if side.planned_images is not None:
        figures["planned_images"] = side.planned_images
    figures["day"] = f"{datetime.date.today()}"
    figures |= {"processor": processor(), "commit": os.environ.get("PEERS_COMMIT", "unknown")}
    figures["rate"] = numpy_rate()
    figures["load_before"] = round(os.getloadavg()[0], 2)
    figures |= trained(side, 60.0 * given.minutes)
    figures["load_after"] = round(os.getloadavg()[0], 2)
    samples, cost = drawn(side, given.num_samples, given.sampling_seconds)
    figures |= cost | {"num_samples": len(samples)}
    figures["asked"] = asked(given)  # run.py tells a later run that asks for something else
    if side.nats is not None:
        held_out = data.x_test[: given.num_test]
        figures["nats"] = float(side.nats(held_out))
        figures |= {"nats_kind": side.nats_kind, "nats_images": len(held_out)}
    # The system's counters are approximate: a later peak may read a little lower.
    figures["peak_megabytes"] = max(peak_megabytes(), figures["training_megabytes"])
    figures |= kept(side, draw=cost["seconds_1"] < SHORT)
    names = ("numpy", *side.packages)
    figures["versions"] = {"python": platform.python_version(), **{n: version(n) for n in names}}
    return samples, figures


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("data", type=Path, help="an .npz file with x_train, y_train, x_test")
    made.add_argument("folder", type=Path, help="where samples.npz and figures.json go")
    made.add_argument("--minutes", type=float, default=3.0, help="of training")
    made.add_argument("--num-samples", type=int, default=NUM_SAMPLES)
    made.add_argument(
        "--sampling-seconds", type=float, default=SAMPLING_SECONDS, help="for samples, at most"
    )
    made.add_argument("--num-test", type=int, default=NUM_TEST, help="test images for nats")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--variant", default="", help="of a script that stands for several sides")
    made.add_argument(
        "--recipe", type=json.loads, default={}, help="what differs in ours, as JSON (speed.py)"
    )
    made.add_argument(
        "--jit-sampling", action="store_true", help="XLA compiles what ours draws with (speed.py)"
    )
    return made


def write(folder: Path, figures: dict) -> None:
    """Writes figures.json whole or not at all: a folder that has it is finished."""
    unfinished = folder / "figures.json.part"
    unfinished.write_text(json.dumps(figures, indent=2) + "\n")
    unfinished.replace(folder / "figures.json")


def main(description: str | None, build: Callable[..., Side]) -> None:
    """Runs a side from the command line."""
    given = parser(description).parse_args()
    data = read(given.data)
    side = build(data, given)
    samples, figures = measure(side, data, given)
    given.folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(given.folder / "samples.npz", images=samples)
    write(given.folder, figures)
    print(json.dumps(figures, indent=2))
