"""From a recipe to a fitted model: data order, schedule, averaged weights, exact resume.

Everything random is a pure function of numbers that a checkpoint holds: the order of the data of
(seed, epoch), noise and shifts of (seed, step, index in the global batch). A run that was killed
goes on from its newest checkpoint and ends with the weights of a run that was not.
"""

import contextlib
import csv
import ctypes
import importlib.util
import json
import math
import os
import signal
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgen import data, devices, families, noise, pixels, plots, tuning, zoo
from tfgen.devices import move_averages, num_replicas
from tfgen.files import only_writer, replacing
from tfgen.models.generative import GenerativeModel
from tfgen.recipe import Recipe

__all__ = [
    "AveragedWeights",
    "Checkpoint",
    "CosineCycles",
    "DrawSamples",
    "build",
    "train",
    "tune_allocator",
]

ORDER_FOLD = 1  # seed -> the data's order
SHIFT_FOLD = 2  # seed -> the shifts of training images
CHECK_STEPS = 50  # between two looks at whether the losses are still finite
ASK_STEPS = 10  # between two questions of several processes whether to save
STATE_BYTES = 512  # room for a checkpoint's state on its way to other processes
STOPPED = 128 + signal.SIGTERM  # exit code of a run that was asked to end, as a shell has it
# What a damaged zip archive of arrays can raise.
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError),
    *(ValueError, KeyError, TypeError, RuntimeError, MemoryError),
)
LARGEST_LOSS = 1e10
PICTURE_SCALE = 2
HIDDEN_GREY = 96  # of pixels that are to be completed
FIXED_SEEDS = 64  # images that `DrawSamples` draws, always from the seeds 0 .. 63


def tune_allocator() -> bool:
    """Tells glibc to keep freed memory, and returns whether it could be told.

    A training step frees and asks for the same large blocks again; by default glibc hands them
    back to the system each time and pays for it in page faults. This sets for the running process
    what MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_TOP_PAD_=268435456 set before
    it starts. Memory use stays near its peak. `tfgen train` calls it; `benchmarks/allocator.py`
    measures it. Elsewhere than on Linux with glibc it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    top_pad, trim_threshold, mmap_max = -2, -1, -4  # M_TOP_PAD, M_TRIM_THRESHOLD, M_MMAP_MAX
    return all((mallopt(mmap_max, 0), mallopt(trim_threshold, 2**31 - 1), mallopt(top_pad, 2**28)))


def build(recipe: Recipe) -> keras.Model:
    """Returns the recipe's model with its initial weights, compiled with its optimizer.

    The initial weights are a function of the recipe's seed.

    Raises:
        ValueError: An unknown family or a constructor argument that it does not have.
    """
    family = families.find(recipe.family)
    keras.utils.set_random_seed(recipe.seed)
    try:
        model = family(**{"seed": recipe.seed, "dtype": recipe.precision, **recipe.model})
    except TypeError as error:
        raise ValueError(f"recipe: model does not fit {recipe.family}: {error}.") from error
    steps_per_epoch = data.open_split(data.of_recipe(recipe), "train").count // recipe.batch_size
    unknown = set(recipe.learning_rates) - set(model.updates_per_step)
    if unknown:
        raise ValueError(
            f"recipe: learning_rates must name optimizers of {recipe.family}, "
            f"{', '.join(model.updates_per_step)}; received {sorted(unknown)[0]!r}."
        )
    if recipe.initial is not None:
        for kept in tuning.copy_weights(zoo.load(recipe.initial), model):
            print(f"starts anew: {kept}")
    for part, rank in recipe.lora.items():
        model.enable_lora(rank, part)
    model.freeze(*recipe.freeze)
    model.compile()  # so that the model says what each optimizer trains
    trained = {name: variables for name, (_, variables) in model.optimizers.items()}
    factors = _factors(recipe, model)
    optimizers = {
        name: _optimizer(
            recipe,
            recipe.learning_rates.get(name, recipe.learning_rate),
            n * steps_per_epoch,
            [factors.get(id(v), 1.0) for v in trained[name]] if factors else None,
        )
        for name, n in model.updates_per_step.items()
    }
    if recipe.patience is not None and "loss" not in model.loss_names:
        raise ValueError(
            f"recipe: patience must be null for {recipe.family}, which has no single loss that "
            f"could stop to fall; received {recipe.patience!r}."
        )
    # XLA on a GPU or a CPU does not compile the sums over replicas.
    jit_compile = recipe.jit_compile and num_replicas() == 1
    model.compile(**optimizers, jit_compile=jit_compile)
    model.build_optimizers()
    return model


def _factors(recipe: Recipe, model: keras.Model) -> dict[int, float]:
    """The recipe's factors on the learning rate by the id of the variable."""
    held = tuning.weights(model)
    return {
        id(held[name]): factor
        for part, factor in recipe.learning_rate_factors.items()
        for name in tuning.matching(held, [part])
    }


def _optimizer(
    recipe: Recipe, learning_rate: float, updates: int, factors: list[float] | None
) -> keras.optimizers.Optimizer:
    """Adam on the recipe's schedule; it makes `updates` updates an epoch."""
    ends = [updates * epoch for epoch in (*recipe.restarts, recipe.epochs)]
    warmup = min(recipe.warmup_steps, ends[0] // 2)
    schedule = CosineCycles(learning_rate, recipe.final_learning_rate, warmup, ends)
    clip_norm = recipe.clip_norm and recipe.clip_norm / num_replicas()  # see apply_gradients
    beta_1, beta_2 = recipe.betas
    settings = {
        "learning_rate": schedule,
        "beta_1": beta_1,
        "beta_2": beta_2,
        "global_clipnorm": clip_norm,
    }
    if factors is None:
        return keras.optimizers.Adam(**settings)
    return tuning.GroupedAdam(factors, **settings)


@keras.saving.register_keras_serializable("tfgen")
class CosineCycles(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then a cosine from the peak down to a fraction of it, once or several times.

        rate = peak (f + (1 - f) (1 + cos(pi t)) / 2),   t in [0, 1] within each cycle

    Keras' own schedules have the warm-up or the restarts, not both.

    Args:
        peak: The highest rate.
        final: f, the fraction of the peak at a cycle's end.
        warmup_steps: Steps of linear growth from 0 at the start of the first cycle.
        ends: The step at which each cycle ends and the next one begins.
    """

    def __init__(self, peak: float, final: float, warmup_steps: int, ends: list[int]):
        self.peak, self.final, self.warmup_steps, self.ends = peak, final, warmup_steps, ends

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        edges = tf.constant([self.warmup_steps, *self.ends], tf.float32)
        last = edges[-1]
        begin = tf.reduce_max(tf.where(edges[:-1] <= step, edges[:-1], edges[0]))
        end = tf.reduce_min(tf.where(edges[1:] > step, edges[1:], last))
        t = tf.clip_by_value((step - begin) / tf.maximum(end - begin, 1.0), 0.0, 1.0)
        rate = self.final + (1.0 - self.final) * 0.5 * (1.0 + tf.cos(math.pi * t))
        warm = step / max(self.warmup_steps, 1)
        return self.peak * tf.where(step < self.warmup_steps, warm, rate)

    def get_config(self):
        return {
            "peak": self.peak,
            "final": self.final,
            "warmup_steps": self.warmup_steps,
            "ends": self.ends,
        }


def batches(
    recipe: Recipe, images: np.ndarray, labels: np.ndarray | None, first_step: int
) -> tf.data.Dataset:
    """Yields the batches of steps first_step, first_step + 1, ... of images held in memory."""
    return split_batches(recipe, data.Arrays(images, labels), labels is not None, first_step)


def split_batches(
    recipe: Recipe, split: data.Split, labelled: bool, first_step: int
) -> tf.data.Dataset:
    """Yields the batches of steps first_step, first_step + 1, ... to the end of the run.

    Each epoch has an order of its own, drawn from (seed, epoch); the last partial batch is
    dropped. Of several processes each reads the images of its own devices alone.

    Args:
        recipe: Decides batch size, epochs, order and shifts.
        split: The images.
        labelled: Whether to yield (images, labels).
        first_step: Where to begin; the steps before are skipped unread.
    """
    size = recipe.batch_size
    per_epoch = split.count // size
    order = noise.fold(recipe.seed, ORDER_FOLD)
    own, whole = own_part(size)

    def keys_of_epoch(epoch):
        return split.keys(order, epoch).batch(size, drop_remainder=True)

    def gather(step, keys):
        images, labels = split.read(tf.gather(keys, own))
        if recipe.shift:
            seeds = noise.fold(noise.fold(recipe.seed, SHIFT_FOLD), step * size + own)
            images = shifted(images, seeds, recipe.shift)
        return (whole(images), whole(labels)) if labelled else whole(images)

    first_epoch = first_step // per_epoch
    keys = tf.data.Dataset.range(first_epoch, recipe.epochs).flat_map(keys_of_epoch)
    steps = tf.data.Dataset.range(first_epoch * per_epoch, recipe.epochs * per_epoch)
    return (
        tf.data.Dataset.zip(steps, keys)
        .skip(first_step - first_epoch * per_epoch)
        .map(gather, num_parallel_calls=split.parallel)
        .prefetch(4)
    )


def own_part(size: int) -> tuple[np.ndarray, Callable[[tf.Tensor], tf.Tensor]]:
    """Returns which places of a global batch this process reads, and how they make a batch.

    TensorFlow cuts a batch into one piece for each replica and deals the pieces to the processes
    in turn, whereas replica r shall have the r-th piece, as on one device. So the pieces are laid
    out in that order; and those of other processes, which are thrown away here, hold zeros.
    """
    workers, replicas = devices.num_workers(), num_replicas()
    places = np.arange(size, dtype=np.int64)
    if workers == 1:
        return places, lambda tensor: tensor
    each = replicas // workers
    places = places.reshape(workers, each, size // replicas)[devices.worker_index()]

    def whole(own):
        tail = own.shape[1:]
        pieces = tf.reshape(own, (each, 1, size // replicas, *tail))
        before = devices.worker_index()
        around = [[0, 0], [before, workers - 1 - before]] + [[0, 0]] * (1 + len(tail))
        return tf.reshape(tf.pad(pieces, around), (size, *tail))

    return places.reshape(-1), whole


def shifted(images: tf.Tensor, seeds: tf.Tensor, most: int) -> tf.Tensor:
    """Moves each image by up to `most` pixels each way, filling with its own edge value 0."""
    height, width = images.shape[1:3]
    offset = tf.cast(noise.uniform(seeds, (2,)) * (2 * most + 1), tf.int32)  # (batch, 2)
    padded = tf.pad(images, [[0, 0], [most, most], [most, most], [0, 0]])
    padded = tf.gather(padded, offset[:, :1] + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(padded, offset[:, 1:] + tf.range(width), axis=2, batch_dims=1)


class AveragedWeights(keras.callbacks.Callback):
    """Keeps an exponential moving average of the weights (`devices.move_averages`).

    The average stands in for the weights during every evaluation and after training.

    Args:
        momentum: In [0, 1).
    """

    def __init__(self, momentum: float):
        super().__init__()
        self.momentum = momentum
        self.averages: list[tf.Variable] = []
        self._swapped = False

    def start(self, model: keras.Model) -> None:
        """Starts the average at the weights."""
        self.averages = [tf.Variable(v.numpy()) for v in model.trainable_variables]

    def on_train_begin(self, logs=None):
        """Makes the average, unless a checkpoint has filled it."""
        if not self.averages:
            self.start(self.model)
        weights = [v.value for v in self.model.trainable_variables]
        iterations = self.model.optimizer.iterations.value
        averages, momentum = self.averages, self.momentum

        @tf.function(autograph=False)
        def update():
            move_averages(averages, weights, iterations, momentum)

        self._update = update.get_concrete_function()

    def on_train_batch_end(self, batch, logs=None):
        """Moves the average by one step."""
        self._update()

    def swap(self) -> None:
        """Exchanges weights and average."""
        for average, weight in zip(self.averages, self.model.trainable_variables, strict=True):
            held = average.numpy()
            average.assign(weight.numpy())
            weight.assign(held)
        self._swapped = not self._swapped

    def on_test_begin(self, logs=None):
        """Evaluates with the average."""
        if self.averages:
            self.swap()

    def on_test_end(self, logs=None):
        """Goes back to the weights."""
        if self._swapped:
            self.swap()

    def on_train_end(self, logs=None):
        """Leaves the average in the model."""
        if not self._swapped:
            self.swap()


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads an .npz file; raises one of `_UNREADABLE` if anything in it is not as written."""
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()  # before anything inside is believed
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} does not have the checksum it had")
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


class Checkpoint(keras.callbacks.Callback):
    """Saves the whole state of a run, and puts it back.

    State: weights, every optimizer's slots and step counts, averaged weights, the running means
    of the epoch, the best epoch so far. Written beside and renamed, the newest two kept, so that
    a kill at any moment loses at most `every` seconds and never the ability to go on.

    Args:
        folder: Where the checkpoints go.
        averages: The run's `AveragedWeights`, or None.
        every: Seconds between checkpoints inside an epoch; one is written at each epoch's end.
        patience: Epochs without a better validation loss before the run stops, or None.
    """

    def __init__(
        self,
        folder: Path,
        averages: AveragedWeights | None,
        every: float = 120.0,
        patience: int | None = None,
    ):
        super().__init__()
        self.folder, self.averages = Path(folder), averages
        self.every, self.patience = every, patience
        self.state: dict[str, Any] = {
            "step": 0,
            "epoch": 0,
            "best_epoch": -1,
            "best_loss": None,
            "seconds": 0.0,
        }
        self.stop_asked = False  # by a signal; the run then saves and ends
        self._resumed_means: list[np.ndarray] | None = None

    @property
    def best_path(self) -> Path:
        """File of the weights of the epoch with the lowest validation loss."""
        return self.folder / "best.npz"

    def _variables(self) -> dict[str, list]:
        groups = {"weight": self.model.variables, "mean": []}
        for metric in self.model.metrics:
            groups["mean"] += metric.variables
        if self.averages is not None:
            groups["average"] = self.averages.averages
        for name, (optimizer, _) in self.model.optimizers.items():
            groups[name] = optimizer.variables
        return groups

    def restore(self, model: keras.Model) -> bool:
        """Puts the newest readable checkpoint into `model`; returns whether there was one.

        A checkpoint that cannot be read is passed over with a warning. Of several processes the
        chief reads, and sends what it read to the others.
        """
        stored = self._newest() if devices.is_chief() else None
        if not devices.any_asks(stored is not None):
            return False
        self.set_model(model)
        if self.averages is not None:
            self.averages.start(model)
        if stored is not None:
            self._fill(*stored)
        self._broadcast()
        return True

    def _newest(self) -> tuple[dict[str, np.ndarray], Path] | None:
        """The content of the newest checkpoint that is whole, and its path."""
        paths = sorted(self.folder.glob("checkpoint-*.npz"), reverse=True)
        for path in paths:
            try:
                stored = _read_arrays(path)
                self.state = json.loads(bytes(stored.pop("state")))
                return stored, path
            except _UNREADABLE as error:
                print(f"warning: {path} cannot be read ({error}); trying the one before.")
        if paths:
            print(f"warning: no checkpoint in {self.folder} can be read; the run begins anew.")
        return None

    def _fill(self, stored: dict[str, np.ndarray], path: Path) -> None:
        for group, variables in self._variables().items():
            for index, variable in enumerate(variables):
                value = stored.get(f"{group}/{index:04d}")
                if value is None or value.shape != tuple(variable.shape):
                    raise ValueError(
                        f"{path} does not belong to this recipe: {group} {index} has shape "
                        f"{None if value is None else value.shape}, the model's has "
                        f"{tuple(variable.shape)}. Resume with the recipe that began the run."
                    )
                if group != "mean":
                    variable.assign(value)
        self._resumed_means = [stored[name] for name in sorted(stored) if name.startswith("mean/")]

    def _broadcast(self) -> None:
        """Gives every process the chief's variables and state."""
        if devices.num_workers() == 1:
            return
        groups = self._variables()
        means = groups.pop("mean")
        if self._resumed_means is None:
            self._resumed_means = [np.zeros(v.shape, np.float32) for v in means]
        variables = [variable for group in groups.values() for variable in group]
        state = np.frombuffer(json.dumps(self.state).encode().ljust(STATE_BYTES), np.uint8)
        values = devices.broadcast(
            [state.astype(np.int64), *self._resumed_means, *(v.numpy() for v in variables)]
        )
        self.state = json.loads(bytes(values[0].astype(np.uint8)))
        self._resumed_means = values[1 : 1 + len(means)]
        for variable, value in zip(variables, values[1 + len(means) :], strict=True):
            variable.assign(value)

    def save(self) -> None:
        """Writes a checkpoint and drops all but the newest two.

        Of several processes the chief writes; all have to call this at the same step.

        Raises:
            FloatingPointError: The losses have diverged; nothing is written then.
        """
        self._check()
        now = time.monotonic()
        self.state["seconds"] += now - self._since
        self._since = self._last = now
        arrays = {
            f"{group}/{index:04d}": variable.numpy()
            for group, variables in self._variables().items()
            for index, variable in enumerate(variables)
        }
        if not devices.is_chief():
            return
        state = np.frombuffer(json.dumps(self.state).encode(), np.uint8)
        with replacing(self.folder / f"checkpoint-{self.state['step']:09d}.npz") as path:
            np.savez(path, state=state, **arrays)
        for old in sorted(self.folder.glob("checkpoint-*.npz"))[:-2]:
            old.unlink()

    def load_best(self) -> None:
        """Puts the weights of the best epoch into the model, if there has been one.

        Raises:
            ValueError: Their file is damaged.
        """
        if not self.best_path.exists():
            return
        try:
            values = _read_arrays(self.best_path)
        except _UNREADABLE as error:
            raise ValueError(
                f"{self.best_path} holds the weights of the best epoch and cannot be read "
                f"({error}). Train again in a new folder."
            ) from error
        for index, variable in enumerate(self.model.variables):
            variable.assign(values[f"{index:04d}"])

    def on_train_begin(self, logs=None):
        """Starts the clocks."""
        self._since = self._last = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        """Puts back the running means of an epoch that was cut, after Keras has reset them."""
        self.state["epoch"] = epoch
        if self._resumed_means is not None:
            means = [v for metric in self.model.metrics for v in metric.variables]
            for variable, value in zip(means, self._resumed_means, strict=True):
                variable.assign(value)
            self._resumed_means = None

    def on_train_batch_end(self, batch, logs=None):
        """Saves when the last checkpoint is old, but not between an epoch's last step and end.

        A run resumed from there would begin the next epoch and miss this one's validation. The
        steps are counted here: an optimizer does not count those that loss scaling skips.
        """
        self.state["step"] += 1
        if (batch + 1) % CHECK_STEPS == 0:
            self._check()
        if batch + 1 == self.params["steps"]:
            return
        # Several processes may save only together, so they ask one another, and not every time.
        if devices.num_workers() == 1 or (batch + 1) % ASK_STEPS == 0:
            old = time.monotonic() - self._last > self.every
            if devices.any_asks(self.stop_asked or (old and devices.is_chief())):
                self.save()
            if self.stop_asked:
                raise SystemExit(STOPPED)

    def _check(self) -> None:
        """Raises FloatingPointError if a loss of this epoch is not finite or beyond all measure."""
        for metric in self.model.metrics:
            mean = float(metric.result())
            if not abs(mean) < LARGEST_LOSS:
                newest = max(self.folder.glob("checkpoint-*.npz"), default="none yet")
                raise FloatingPointError(
                    f"training diverged in epoch {self.state['epoch'] + 1}: {metric.name} is "
                    f"{mean:.4g}. The last good checkpoint is {newest}. Lower the learning rate "
                    "or clip_norm, in a new folder."
                )

    def on_epoch_end(self, epoch, logs=None):
        """Keeps the best weights, stops when patience is over, saves."""
        self._check()
        loss = (logs or {}).get("val_loss")
        if loss is not None and (self.state["best_loss"] is None or loss < self.state["best_loss"]):
            self.state.update(best_loss=float(loss), best_epoch=epoch)
            if devices.is_chief():
                swap = self.averages.swap if self.averages is not None else lambda: None
                swap()
                values = {f"{i:04d}": v.numpy() for i, v in enumerate(self.model.variables)}
                swap()
                with replacing(self.best_path) as path:
                    np.savez(path, **values)
        self.state["epoch"] = epoch + 1
        if self.patience is not None and epoch - self.state["best_epoch"] >= self.patience:
            self.model.stop_training = True
        self.model.reset_metrics()  # the next epoch starts with empty means, resumed or not
        self.save()


class CSVLog(keras.callbacks.Callback):
    """Appends a row to `path` at each epoch's end; a resumed run repeats and misses none."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = Path(path)

    def on_epoch_end(self, epoch, logs=None):
        """Rewrites the file with the rows before this epoch and this one."""
        rows = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < epoch]
        rows.append({"epoch": epoch, **{k: float(v) for k, v in (logs or {}).items()}})
        with replacing(self.path) as path, path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[-1]))
            writer.writeheader()
            writer.writerows(rows)


class DrawSamples(keras.callbacks.Callback):
    """Draws images from the same seeds after each epoch, or reconstructs the same images.

    Args:
        folder: PNG files epoch_0001.png, ... go here.
        images: Images to reconstruct.
        averages: The run's `AveragedWeights`, whose weights draw.
    """

    def __init__(self, folder: Path, images: np.ndarray, averages: AveragedWeights | None):
        super().__init__()
        self.folder, self.averages = Path(folder), averages
        self.images = images

    def on_epoch_end(self, epoch, logs=None):
        """Writes the epoch's picture."""
        swap = self.averages.swap if self.averages is not None else lambda: None
        swap()
        picture = fixed_picture(self.model, self.images)
        swap()
        plots.save(picture, self.folder / f"epoch_{epoch + 1:04d}.png", scale=PICTURE_SCALE)


def fixed_picture(model, images: np.ndarray) -> np.ndarray:
    """Returns the picture of a model, a uint8 array for `plots.save`.

    64 samples from fixed seeds, or 8 for each class; for a model that has no `sample`, images
    over their reconstructions.
    """
    if "sample" not in model.endpoints():
        images = model.nearest_level(tf.constant(images[: FIXED_SEEDS // 2])).numpy()
        pairs = [
            row
            for start in range(0, len(images), 8)
            for row in (images[start : start + 8], model.reconstruct(images[start : start + 8]))
        ]
        return plots.rows(*pairs)
    labels = None
    count = FIXED_SEEDS
    if model.num_classes is not None:
        count = 8 * model.num_classes
        labels = np.repeat(np.arange(model.num_classes), 8)
    return plots.grid(model.sample(count, labels=labels, seed=0), columns=8)


def latent_walks(
    model, rows: int = 6, steps: int = 10, seed: int = 0, label: int | None = None
) -> np.ndarray:
    """Returns the picture of walks between the latents of fixed seeds, a row for each pair.

    For a model without an encoder; a conditional one walks within a class, the rows taking the
    classes in turn unless `label` names one.
    """
    labels = of_ends = label
    if model.num_classes is not None and label is None:
        labels = np.arange(rows) % model.num_classes
        of_ends = np.tile(labels, 2)
    ends = model.latents(2 * rows, labels=of_ends, seed=seed)
    return plots.rows(*model.interpolate(ends[:rows], ends[rows:], steps, labels=labels))


def completions(
    model, images: np.ndarray, labels: np.ndarray | None, ways: int = 6, seed: int = 0
) -> np.ndarray:
    """Returns the picture of images completed from their upper half, a row for each image.

    From the left: what is kept, over grey; `ways` completions; the image itself.
    """
    mask = np.zeros((len(images), *model.image_shape[:2], 1), bool)
    mask[:, : model.image_shape[0] // 2] = True
    seen = np.where(mask, images, np.uint8(HIDDEN_GREY))
    drawn = model.complete(
        *(np.repeat(array, ways, 0) for array in (images, mask)),
        labels=None if labels is None else np.repeat(labels, ways),
        seed=seed,
    ).reshape(len(images), ways, *model.image_shape)
    return plots.rows(*np.concatenate([seen[:, None], drawn, images[:, None]], 1))


def draw_progress(model, folder: Path) -> None:
    """Writes progress.png into a run's folder: the same seeds after each epoch, time to the right.

    One column of the epochs' pictures, so one image for each class of a conditional model.
    """
    width = PICTURE_SCALE * (model.image_shape[1] + 2)
    plots.progress(folder / "samples", folder / "progress.png", width)


def train(
    recipe: Recipe,
    folder: str | Path,
    resume: bool = False,
    verbose: int = 1,
    tensorboard: bool = False,
    checkpoint_seconds: float = 120.0,
    strategy: tf.distribute.Strategy | None = None,
) -> keras.Model:
    """Fits the recipe's model and returns it with the best epoch's (averaged) weights.

    The folder receives recipe.json, log.csv, samples/ and checkpoints while the run goes on, and
    training.json (steps, best epoch, seconds) at its end. Of several processes only the first one
    writes, and only it needs the folder.

    Args:
        recipe: What to train.
        folder: The run's own folder.
        resume: Go on from the newest checkpoint of the folder.
        verbose: As in `keras.Model.fit`.
        tensorboard: Write TensorBoard logs to folder/tensorboard.
        checkpoint_seconds: Time between checkpoints inside an epoch.
        strategy: From `tfgen.devices.make_strategy`; None trains on one device. The recipe's
            batch is shared out among its devices.

    Raises:
        ValueError: The recipe does not fit its model, data or strategy; or the folder holds a run
            and `resume` is false, or holds a run of another recipe, or is being trained into.
        OSError: The folder cannot be written.
        ImportError: `tensorboard` is wanted and not installed.
        ConnectionError: One of several processes has stopped; all have to be started again.
        SystemExit: SIGTERM asked for the end; a checkpoint has been written. Exit code 143.
    """
    if tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ImportError(
            "tensorboard=True needs the package tensorboard, which TensorFlow does not bring: "
            "pip install tensorboard, or leave the option out (log.csv is written anyway)."
        )
    with (strategy or tf.distribute.get_strategy()).scope():
        return _train(recipe, Path(folder), resume, verbose, tensorboard, checkpoint_seconds)


def _train(recipe, folder, resume, verbose, tensorboard, checkpoint_seconds) -> keras.Model:
    if recipe.batch_size % num_replicas():
        raise ValueError(
            f"recipe: batch_size must be divisible by the {num_replicas()} devices that share it; "
            f"received {recipe.batch_size}."
        )
    chief = devices.is_chief()
    if chief:
        _check_folder(folder, recipe, resume)
    model = build(recipe)
    split = data.open_split(data.of_recipe(recipe), "train")
    validation = data.open_split(data.of_recipe(recipe), "validation")
    labelled = model.num_classes is not None
    if labelled and split.num_classes is None:
        raise ValueError(
            f"recipe: {recipe.data!r} has no labels, but model.num_classes="
            f"{model.num_classes}. Leave num_classes out or use labelled data."
        )
    if labelled and split.num_classes < 2:
        raise ValueError(
            f"recipe: {recipe.data!r} must hold at least two classes for a model of them; its "
            "train split holds one. Leave num_classes out or use other data."
        )
    first_images, _ = data.head(split, 1)
    pixels.check_images(first_images, model.image_shape, 256, f"recipe: data {recipe.data!r}")
    per_epoch = split.count // recipe.batch_size
    if not per_epoch:
        raise ValueError(
            f"recipe: batch_size must be at most the {split.count} training images; "
            f"received {recipe.batch_size}."
        )
    averages = AveragedWeights(recipe.ema_momentum) if recipe.ema_momentum else None
    checkpoint = Checkpoint(folder, averages, checkpoint_seconds, recipe.patience)
    callbacks = [] if averages is None else [averages]
    if chief:
        callbacks.append(CSVLog(folder / "log.csv"))
        if isinstance(model, GenerativeModel):
            images, _ = data.head(validation, FIXED_SEEDS)
            callbacks.append(DrawSamples(folder / "samples", images, averages))
        if tensorboard:
            callbacks.append(keras.callbacks.TensorBoard(folder / "tensorboard"))
    callbacks.append(checkpoint)  # last, so that what it calls done has its row and its picture
    with only_writer(folder) if chief else contextlib.nullcontext():
        if chief:
            _claim(folder, recipe, resume)
        checkpoint.set_model(model)
        if resume:
            checkpoint.restore(model)
        with _asked_to_stop(checkpoint), _lost_workers():
            _fit(recipe, model, split, validation, labelled, checkpoint, callbacks, verbose)
        if chief:
            checkpoint.load_best()
            with replacing(folder / "training.json") as path:
                path.write_text(json.dumps(checkpoint.state, indent=2) + "\n")
    values = devices.broadcast([variable.numpy() for variable in model.variables])
    if not chief:
        for variable, value in zip(model.variables, values, strict=True):
            variable.assign(value)
    return model


def _fit(recipe, model, split, validation, labelled, checkpoint, callbacks, verbose) -> None:
    """Trains from the checkpoint's step to the end, or until patience is over."""
    averages = checkpoint.averages
    per_epoch = split.count // recipe.batch_size
    step = checkpoint.state["step"]
    # An epoch that was cut is finished first, alone, since `fit` counts its steps from 0.
    done = step % per_epoch
    legs = [(step // per_epoch, step // per_epoch + 1, per_epoch - done)] if done else []
    legs.append((step // per_epoch + bool(done), recipe.epochs, per_epoch))
    for first, last, steps in legs:
        stopped = _patience_is_over(checkpoint, recipe)
        if first < last and not stopped:
            model.fit(
                split_batches(recipe, split, labelled, checkpoint.state["step"]),
                initial_epoch=first,
                epochs=last,
                steps_per_epoch=steps,
                validation_data=_validation(validation, labelled, recipe.batch_size),
                callbacks=callbacks,
                shuffle=False,
                verbose=verbose if devices.is_chief() else 0,
            )
            if averages is not None and (first, last, steps) != legs[-1]:
                averages.swap()  # the next leg goes on from the weights


@contextlib.contextmanager
def _asked_to_stop(checkpoint: Checkpoint) -> Iterator[None]:
    """Turns SIGTERM, as clusters send it before they kill, into a checkpoint and an end."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return

    def ask(number, frame):
        checkpoint.stop_asked = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _lost_workers() -> Iterator[None]:
    """Says in one line what TensorFlow says in a hundred when one of several processes ends."""
    try:
        yield
    except tf.errors.OpError as error:
        if devices.num_workers() == 1:
            raise
        raise ConnectionError(
            f"one of the {devices.num_workers()} workers has stopped, so this one stops too "
            f"({type(error).__name__}). Start all of them again with resume (--resume): the run "
            "goes on from its newest checkpoint."
        ) from error


def _claim(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Writes the recipe into a new run's folder, and removes what a kill left half-written."""
    _check_folder(folder, recipe, resume)  # again: another process may have begun meanwhile
    for stale in (*folder.glob(".*.tmp.*"), *folder.glob("samples/.*.tmp.*")):
        stale.unlink()
    if not (folder / "recipe.json").exists():
        with replacing(folder / "recipe.json") as path:
            path.write_text(recipe.to_json())


def provenance(recipe: Recipe, folder: str | Path) -> dict[str, Any]:
    """Returns what an entry's metadata says of how it was trained."""
    split = data.open_split(data.of_recipe(recipe), "train")
    gpus = tf.config.list_physical_devices("GPU")
    return {
        "data": {"name": recipe.data, "split": "train", "digest": split.digest()},
        "licence": {"weights": "Apache-2.0", "data": data.licence(recipe.data)},
        "training": json.loads((Path(folder) / "training.json").read_text()),
        "device": f"{len(gpus)} GPU" if gpus else f"{os.cpu_count()} CPU cores",
    }


def _patience_is_over(checkpoint: Checkpoint, recipe: Recipe) -> bool:
    state = checkpoint.state
    return (
        recipe.patience is not None
        and state["best_epoch"] >= 0
        and state["epoch"] - 1 - state["best_epoch"] >= recipe.patience
    )


def _validation(split: data.Split, labelled: bool, batch_size: int) -> tf.data.Dataset:
    """Yields a split in its order; for several replicas the last batch is filled up, weight 0."""

    def read(keys):
        images, labels = split.read(keys)
        if num_replicas() == 1:
            return (images, labels) if labelled else images
        count = tf.shape(keys)[0]
        missing = batch_size - count
        images = tf.concat([images, tf.repeat(images[:1], missing, 0)], 0)
        images = tf.ensure_shape(images, (batch_size, *split.image_shape))
        targets = tf.zeros([batch_size], tf.int64)
        if labelled:
            targets = tf.ensure_shape(tf.pad(labels, [[0, missing]]), [batch_size])
        weights = tf.cast(tf.range(batch_size) < count, tf.float32)
        return images, targets, weights

    batched = split.keys_in_order().batch(batch_size)
    batched = batched.map(read, num_parallel_calls=split.parallel)
    return batched.apply(
        tf.data.experimental.assert_cardinality(-(-split.count // batch_size))
    ).prefetch(2)


def _check_folder(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Raises ValueError if the folder holds a run, unless it is this one and to be resumed."""
    path = folder / "recipe.json"
    if path.exists():
        if not resume:
            raise ValueError(
                f"out must be a new folder: {folder} already holds a run. "
                "Pass resume (--resume) to go on with it, or name another folder."
            )
        if Recipe.load(path) != recipe:
            raise ValueError(
                f"resume needs the recipe that began the run: {path} differs from the one given."
            )
