"""Trains what lower.py wrote, for as long as it is told. Needs numpy and jax alone.

    python train.py FOLDER --minutes 8 --out weights.npz [--start weights.npz] [--keep last]
    python train.py FOLDER --check

The learning rate grows over `--warmup-steps` and then follows a cosine down to the recipe's final
fraction at the end of the minutes. Where there is a validation program, the weights with the best
validation loss are kept; where there is none, or with `--keep last`, the last ones. They are saved
about once a minute. `--until` is a Unix time instead of the minutes, for trainings that share a
machine.

weights.npz holds w0, w1, ...: the model's variables, averaged where the recipe averages; `log`, a
row (seconds, steps, losses...) for each validation; and `course`: the seconds and steps so far, the
step whose weights these are, and the number of images. `--check` runs one step and compares it
with the CPU's.
"""

import argparse
import json
import math
import time
from pathlib import Path

import jax
import numpy as np
import runtime


class Training:
    """A lowered training: its data, its programs and its state on the device.

    Args:
        folder: What lower.py wrote.
    """

    def __init__(self, folder: Path):
        self.program = json.loads((folder / "program.json").read_text())
        self.recipe = self.program["recipe"]
        self.captured = [tuple(kind) for kind in self.program["captured"]]
        self.place = {kind: i for i, kind in enumerate(self.captured)}
        self.aliases = {int(k): v for k, v in self.program["aliases"].items()}
        self.draw = np.random.default_rng(self.recipe["seed"])
        with np.load(folder / "state.npz") as held:
            self.state = runtime.on_device(held[f"s{i}"] for i in range(len(self.captured)))
            self.held = {k: held[k] for k in held.files if k.startswith("v")}
        with np.load(folder / "data.npz") as held:
            self.images, self.labels = held["train_images"], held["train_labels"].astype(np.int64)
            self.validation = held["validation_images"], held["validation_labels"].astype(np.int64)
        self.given = runtime.on_device([self.images, self.labels])
        self.rows = np.empty(0, np.int32)
        self.run = runtime.compiled(folder / "train.stablehlo")
        validated = self.program["validation"] is not None
        self.run_validation = runtime.compiled(folder / "validate.stablehlo") if validated else None

    def start_from(self, path: Path) -> None:
        """Takes the weights that another training left."""
        with np.load(path) as held:
            for (kind, index), at in self.place.items():
                if kind == "weight" and f"w{index}" in held.files:
                    self.state[at] = jax.device_put(held[f"w{index}"])
            for number, index in enumerate(self.program["trainable"]):
                if ("average", number) in self.place and f"w{index}" in held.files:
                    self.state[self.place["average", number]] = jax.device_put(held[f"w{index}"])

    def next_rows(self) -> np.ndarray:
        """The images of the next step: every image once, in a new order each epoch."""
        size = self.recipe["batch_size"]
        if len(self.rows) < size:
            self.rows = np.concatenate([self.rows, self.draw.permutation(len(self.images))])
            self.rows = self.rows.astype(np.int32)
        rows, self.rows = self.rows[:size], self.rows[size:]
        return rows

    def step(self, rows: np.ndarray, factor: float = 1.0):
        """Makes one step at `factor` times the peak learning rates; returns the losses."""
        for index, peak in enumerate(self.program["peak"]):
            if ("rate", index) in self.place:
                rate = np.float32(peak * factor)
                self.state[self.place["rate", index]] = jax.device_put(rate)
        results = self.run.execute([*self.given, jax.device_put(rows), *self.state])
        for result, variable in self.aliases.items():
            self.state[variable] = results[result]
        return results[0]

    def weights(self, averaged: bool = True) -> dict:
        """Returns {index of the model's variable: value}, where a step reads or writes it."""
        found = {i: self.state[at] for (kind, i), at in self.place.items() if kind == "weight"}
        for number, index in enumerate(self.program["trainable"]):
            if averaged and ("average", number) in self.place:
                found[index] = self.state[self.place["average", number]]
        return found

    def validate(self) -> np.ndarray:
        """Returns the mean losses over the validation split's whole batches."""
        described = self.program["validation"]
        size, weights = described["batch"], self.weights()
        arguments = []
        for i, (kind, index) in enumerate(described["captured"]):
            arguments.append(weights[index] if kind == "weight" else self.held[f"v{i}"])
        images, labels = self.validation
        seeds, found = np.arange(size, dtype=np.int64), []
        for begin in range(0, len(images) - size + 1, size):
            own = labels[begin : begin + size] if len(labels) > 1 else labels
            given = runtime.on_device([images[begin : begin + size], own, seeds])
            found.append(np.asarray(self.run_validation.execute([*given, *arguments])[0]))
        return np.mean(found, 0)


def factor_at(done: float, steps: int, warmup: int, final: float) -> float:
    """final + (1 - final) (1 + cos(pi t)) / 2 after the share t of the time, warmed up by steps."""
    cosine = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return cosine * min(1.0, (steps + 1) / max(warmup, 1))


def train(training: Training, seconds: float, out: Path, warmup: int, keep: str) -> None:
    """Trains for that long; writes the best or the last weights, meanwhile too."""
    recipe, names = training.recipe, training.program["losses"]
    size, count = recipe["batch_size"], len(training.images)
    best, kept, kept_at, log = math.inf, None, 0, []

    def save_all() -> None:
        course = [now - begin, steps, kept_at or steps, count]
        save(out, kept or training.weights(), log=log, course=course)

    begin = told = saved = time.monotonic()
    measured, steps, now = begin, 0, begin
    while now - begin < seconds:
        factor = factor_at((now - begin) / seconds, steps, warmup, recipe["final_fraction"])
        losses = training.step(training.next_rows(), factor)
        steps += 1
        if steps % 8 == 0:
            losses.block_until_ready()  # keeps the queue of steps short
        if now - told > 15 or steps == 1:
            told, values = now, np.asarray(losses)
            rate = steps * size / (time.monotonic() - begin)
            print(f"{now - begin:6.0f} s  step {steps}  {rate:.0f} images/s  {values}", flush=True)
            if not np.isfinite(values).all():
                if kept:
                    save_all()
                raise SystemExit(
                    f"diverged at step {steps}: {dict(zip(names, values, strict=True))}"
                )
            if now - saved > 60:  # here, where the losses are known to be finite
                saved = now
                save_all()
        now = time.monotonic()
        last = now - begin >= seconds
        if training.run_validation and (now - measured > max(15.0, seconds / 14) or last):
            found, measured = training.validate(), time.monotonic()
            log.append([now - begin, steps, *map(float, found)])
            print(f"{now - begin:6.0f} s  epoch {steps * size / count:.1f}  validation {found}")
            if found[0] < best or (keep == "last" and np.isfinite(found).all()):
                best, kept_at = found[0], steps
                kept = {k: np.asarray(v) for k, v in training.weights().items()}
    if not kept and not np.isfinite(np.asarray(losses)).all():
        before = f"; {out} holds the weights of a minute before" if saved > begin else ""
        raise SystemExit(f"diverged by step {steps}{before}")
    save_all()
    print(f"{steps} steps, {steps * size / count:.1f} epochs; {out}")


def save(out: Path, weights: dict, **more: list) -> None:
    temporary = out.with_name(f".{out.name}")
    arrays = {f"w{index}": np.asarray(value) for index, value in weights.items()}
    np.savez(temporary, **arrays, **{name: np.array(value) for name, value in more.items()})
    Path(f"{temporary}" if temporary.suffix == ".npz" else f"{temporary}.npz").rename(out)


def check(folder: Path, training: Training) -> dict:
    """Makes the first step and compares it with the CPU's in TensorFlow.

    Adam's first step moves every weight by about the learning rate, so that is the unit of the
    weights' differences; where a gradient is all rounding, its sign and so the step is a toss-up.
    """
    rows = np.arange(training.recipe["batch_size"], dtype=np.int32)
    begin = time.perf_counter()
    losses = np.asarray(training.step(rows), np.float64)
    seconds = time.perf_counter() - begin
    unit, close, total, most = max(training.program["peak"]), 0, 0, 0.0
    with np.load(folder / "step.npz") as held:
        wanted = held["losses"].astype(np.float64)
        weights = training.weights(averaged=False)
        for index in training.program["trainable"]:
            value = weights[index]
            error = np.abs(np.asarray(value, np.float64) - held[f"w{index}"]) / unit
            close, total = close + int((error < 0.05).sum()), total + error.size
            most = max(most, float(error.max()))
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        training.step(training.next_rows()).block_until_ready()
        times.append(time.perf_counter() - begin)
    rate = training.recipe["batch_size"] / float(np.median(times))
    names = training.program["losses"]
    # An accuracy may well be 0.
    units = [1.0 if "accuracy" in name else abs(w) for name, w in zip(names, wanted, strict=True)]
    flops = runtime.gigaflops(training.run)
    return {
        "training": folder.name,
        "precision": training.recipe["precision"],
        "losses": dict(zip(names, losses.tolist(), strict=True)),
        "losses_relative_difference": float(np.max(np.abs(losses - wanted) / units)),
        "weights_within_5_percent_of_a_step": close / total,
        "weights_most_steps_apart": most,
        "first_step_seconds": round(seconds, 3),
        "images_per_second": round(rate, 1),
        "gigaflops_per_second": flops and round(flops / float(np.median(times)), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--until", type=float, help="Unix time at which to end")
    parser.add_argument("--out", type=Path, default=Path("weights.npz"))
    parser.add_argument("--warmup-steps", type=int, default=200)
    parser.add_argument("--start", type=Path, help="weights.npz of the stage before")
    parser.add_argument("--keep", choices=("best", "last"), default="best")
    parser.add_argument("--check", action="store_true", help="one step against the CPU's, and out")
    options = parser.parse_args()
    begin = time.monotonic()
    training = Training(options.folder)
    if options.start:
        training.start_from(options.start)
    device = jax.devices()[0].device_kind
    print(f"{device}: ready after {time.monotonic() - begin:.1f} s", flush=True)
    if options.check:
        print(json.dumps(check(options.folder, training)))
    else:
        seconds = 60 * options.minutes
        if options.until:
            seconds = options.until - time.time()
        if seconds <= 0:
            raise SystemExit("--until or --minutes leaves no time to train")
        options.out.parent.mkdir(parents=True, exist_ok=True)
        train(training, seconds, options.out, options.warmup_steps, options.keep)


if __name__ == "__main__":
    main()
