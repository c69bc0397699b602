"""What happens after each step and each epoch: averaged weights, the log, pictures."""

import contextlib
import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfgen import checks, pictures, plots
from tfgen.arrays import write_weights
from tfgen.devices import move_averages, unscaled
from tfgen.files import replacing

__all__ = ["AveragedWeights", "CSVLog", "DrawSamples", "KeepWeights"]


class AveragedWeights(keras.callbacks.Callback):
    """Keeps an exponential moving average of the weights (`devices.move_averages`).

    The average stands in for the weights during every evaluation, from an epoch's end to the next
    epoch, and after training: callbacks behind it in the list store what was validated. Unlike
    Keras' `use_ema`, its momentum is warmed up: a constant one would still hold the initial weights
    after a short run.

    Args:
        momentum: In [0, 1).
    """

    def __init__(self, momentum: float):
        super().__init__()
        checks.fraction(momentum=momentum)
        self.momentum = momentum
        self.averages: list[tf.Variable] = []
        self._swapped = self._for_test = False
        self._left: list[np.ndarray] = []
        self._weights: list[keras.Variable] = []

    def start(self, model: keras.Model) -> None:
        """Starts the average at the weights."""
        self.set_model(model)
        self._weights, self._swapped = model.trainable_variables, False
        self.averages = [tf.Variable(v.numpy()) for v in self._weights]

    def check_with_others(self, model: keras.Model, callbacks: list) -> None:
        """Raises ValueError next to what would mix the weights up; `fit` calls it first.

        Args:
            model: The model that trains.
            callbacks: All that `fit` was given.
        """
        for other in callbacks:
            name = type(other).__name__
            if isinstance(other, keras.callbacks.BackupAndRestore):
                raise ValueError(
                    f"callbacks: {name} keeps no average, so that a run which goes on would begin "
                    "it again. Use tfgen.training.Checkpoint(folder, averages), which keeps both."
                )
            averages = isinstance(other, (keras.callbacks.SwapEMAWeights, AveragedWeights))
            if averages and other is not self:
                raise ValueError(
                    f"callbacks: AveragedWeights and {name} would each put another average into "
                    "the model. Leave one of them out."
                )
        for other in callbacks[: callbacks.index(self)]:
            if isinstance(other, (keras.callbacks.EarlyStopping, keras.callbacks.ModelCheckpoint)):
                raise ValueError(
                    f"callbacks: {type(other).__name__} in front of AveragedWeights stores other "
                    "weights than the average that was validated. Put AveragedWeights first."
                )
        if model.compiled and any(unscaled(each).use_ema for each, _ in model.optimizers.values()):
            raise ValueError(
                "callbacks: AveragedWeights must be left out for an optimizer with use_ema=True, "
                "whose own average replaces the weights. Compile with use_ema=False."
            )

    def on_train_begin(self, logs=None):
        """Makes the average, unless a checkpoint or an earlier `fit` has filled it."""
        if list(map(id, self._weights)) != list(map(id, self.model.trainable_variables)):
            self.start(self.model)
        if self._swapped and self._left_alone():
            self._hold(average=False)  # an earlier `fit` left the average in the model
        elif self._swapped:
            self.start(self.model)
        self._trace()

    def _trace(self) -> None:
        """Makes the graph that moves the average by the optimizer's counts."""
        averages, weights = self.averages, [v.value for v in self._weights]
        # Keras' own `iterations` is no variable while it accumulates gradients.
        self._counts = unscaled(self.model.optimizer)._iterations
        iterations, momentum = self._counts.value, self.momentum
        # Keras calls `on_train_batch_end` once for so many steps, or fewer at an epoch's end.
        max_steps = self.model.steps_per_execution
        last_step = tf.Variable(iterations.numpy()) if max_steps > 1 else None

        @tf.function(autograph=False)
        def update():
            step = tf.identity(iterations)
            move_averages(averages, weights, step, momentum, last_step, max_steps)
            if last_step is not None:
                last_step.assign(step)

        self._update = update.get_concrete_function()

    def on_epoch_begin(self, epoch, logs=None):
        """Goes on from the weights."""
        self._hold(average=False)

    def on_train_batch_begin(self, batch, logs=None):
        """Goes on from the weights."""
        self._hold(average=False)
        if self._counts is not unscaled(self.model.optimizer)._iterations:
            self._take_in()
            self._trace()

    def _take_in(self) -> None:
        """Averages what a callback has let train, too."""
        held = {id(w): (w, a) for w, a in zip(self._weights, self.averages, strict=True)}
        trained = {id(v): (v, tf.Variable(v.numpy())) for v in self.model.trainable_variables}
        if trained.keys() - held.keys():
            pairs = {key: held.get(key, new) for key, new in trained.items()} | held
            self._weights, self.averages = map(list, zip(*pairs.values(), strict=True))

    def on_train_batch_end(self, batch, logs=None):
        """Moves the average by the steps since the last call."""
        self._update()

    def on_epoch_end(self, epoch, logs=None):
        """Leaves the average in the model for the callbacks that follow."""
        self._hold(average=True)

    def _hold(self, *, average: bool) -> None:
        """Has the average in the model; if False, the weights."""
        if not self.averages or average == self._swapped:
            return
        for own, weight in zip(self.averages, self._weights, strict=True):
            held = own.numpy()
            own.assign(weight.numpy())
            weight.assign(held)
        self._swapped = average
        if average:
            self._left = [weight.numpy() for weight in self._weights]

    @contextlib.contextmanager
    def holding(self, *, average: bool) -> Iterator[None]:
        """Has the average in the model for a while; if False, the weights."""
        before = self._swapped
        self._hold(average=average)
        try:
            yield
        finally:
            self._hold(average=before)

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Evaluates with the average, there already once `fit` has ended."""
        self._for_test = not self._swapped
        self._hold(average=True)

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        """Takes out what `on_test_begin` has put in."""
        if self._for_test:
            self._hold(average=False)
        self._for_test = False

    def on_train_end(self, logs=None):
        """Leaves the average in the model."""
        self._hold(average=True)

    def _left_alone(self) -> bool:
        """Whether the model still has the average left in it."""
        weights = [v.numpy() for v in self._weights]
        return len(weights) == len(self._left) and all(map(np.array_equal, weights, self._left))


def with_averages(
    averages: AveragedWeights | None, *, average: bool = True
) -> contextlib.AbstractContextManager[None]:
    """Returns `averages.holding(average=average)`; does nothing without averages."""
    return contextlib.nullcontext() if averages is None else averages.holding(average=average)


class CSVLog(keras.callbacks.Callback):
    """Appends a row to `path` at each epoch's end; a resumed run repeats and misses none.

    Keras' CSVLogger repeats rows of epochs trained again.

    Args:
        path: The file.
        columns: Gives what a row holds between its epoch and the losses, such as the time.
    """

    def __init__(self, path: str | Path, columns: Callable[[], dict[str, float]] = dict):
        super().__init__()
        self.path, self.columns = Path(path).expanduser(), columns

    def on_epoch_end(self, epoch, logs=None):
        """Rewrites the file with the rows before this epoch and this one.

        The columns are those of all rows: not every epoch need have a validation.
        """
        rows = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < epoch]
        losses = {name: float(value) for name, value in (logs or {}).items()}
        rows.append({"epoch": epoch, **self.columns(), **losses})
        with replacing(self.path) as path, path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)


class KeepWeights(keras.callbacks.Callback):
    """Keeps the (averaged) weights of every n-th epoch, to measure a training afterwards.

    Args:
        folder: Files epoch_0001.npz, ... go here, as `tfgen.arrays.write_weights` writes them.
        every: n, at least 1.
        averages: The run's `AveragedWeights`, or None.
    """

    def __init__(self, folder: str | Path, every: int, averages: AveragedWeights | None = None):
        super().__init__()
        checks.at_least(1, every=every)
        self.folder, self.every = Path(folder).expanduser(), every
        self.averages = averages

    def on_epoch_end(self, epoch, logs=None):
        """Writes the epoch's weights."""
        if (epoch + 1) % self.every == 0:
            with with_averages(self.averages):
                write_weights(self.folder / f"epoch_{epoch + 1:04d}.npz", self.model)


class DrawSamples(keras.callbacks.Callback):
    """Draws images from the same seeds after each epoch, or reconstructs the same images.

    Args:
        folder: PNG files epoch_0001.png, ... go here.
        images: Images to reconstruct.
        averages: The run's `AveragedWeights`, whose weights draw.
        board: Folder of TensorBoard, which gets the same pictures; None for none.
    """

    def __init__(
        self,
        folder: str | Path,
        images: np.ndarray,
        averages: AveragedWeights | None = None,
        board: str | Path | None = None,
    ):
        super().__init__()
        self.folder, self.averages = Path(folder).expanduser(), averages
        self.images = images
        self._writer = None
        if board is not None:
            self._writer = tf.summary.create_file_writer(str(Path(board).expanduser() / "pictures"))

    def on_epoch_end(self, epoch, logs=None):
        """Writes the epoch's picture."""
        with with_averages(self.averages):
            picture = pictures.fixed_picture(self.model, self.images)
        plots.save(picture, self.folder / f"epoch_{epoch + 1:04d}.png", scale=pictures.SCALE)
        if self._writer is not None:
            with self._writer.as_default(step=epoch):
                tf.summary.image("samples", picture[None])
            self._writer.flush()
