"""The state of a run: what it is, its files, and when they are written."""

import dataclasses
import json
import time
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from tfgen import devices
from tfgen.arrays import (
    UNREADABLE,
    best_path,
    checkpoint_paths,
    last_written,
    load_weights,
    raise_systems,
    read_arrays,
    write_arrays,
    write_weights,
)
from tfgen.models.base import ImageModel
from tfgen.training.callbacks import AveragedWeights, with_averages
from tfgen.training.stopping import Stop

__all__ = ["Checkpoint", "CheckpointFiles", "RunState"]

CHECK_EVERY = 50  # steps between two looks at whether the losses are still finite
AGREE_EVERY = 10  # steps between two questions of several processes whether to save
LARGEST_LOSS = 1e10
STATE_BYTES = 1024  # room for the state on its way to other processes


@dataclasses.dataclass
class RunState:
    """Where a run stands, apart from its arrays.

    Args:
        step: Training steps done.
        epoch: Epochs done; within an epoch, those before it.
        best_epoch: The epoch with the lowest validation loss in this stage, from 0; -1 for none.
        best_loss: That loss.
        seconds: Time trained, over all processes that worked on the run.
        stage: Which of the recipe's plan trains now, from 0.
        stage_step: Steps done when it began.
        stage_epoch: Epochs done when it began.
        data: The digests of the splits that the run began with, by their names, of their labels
            if it is conditional, and of its recipe.
    """

    step: int = 0
    epoch: int = 0
    best_epoch: int = -1
    best_loss: float | None = None
    seconds: float = 0.0
    stage: int = 0
    stage_step: int = 0
    stage_epoch: int = 0
    data: dict[str, str] = dataclasses.field(default_factory=dict)

    def begin_next_stage(self) -> None:
        """Goes on to the next stage of the plan."""
        self.stage += 1
        self.stage_step, self.stage_epoch = self.step, self.epoch
        self.best_epoch, self.best_loss = -1, None

    def patience_is_over(self, patience: int | None) -> bool:
        """Whether the last `patience` epochs have brought no lower validation loss."""
        if patience is None or self.best_epoch < 0:
            return False
        return self.epoch - 1 - self.best_epoch >= patience

    def to_bytes(self, size: int = 0) -> np.ndarray:
        """Returns the state as uint8 (n,), filled up with spaces to at least `size` bytes."""
        text = json.dumps(dataclasses.asdict(self))
        return np.frombuffer(text.encode().ljust(size), np.uint8)

    @classmethod
    def from_bytes(cls, stored: np.ndarray) -> "RunState":
        """Returns the state that `to_bytes` has written."""
        return cls(**json.loads(bytes(stored.astype(np.uint8))))

    def broadcast(self) -> "RunState":
        """Returns the chief's state in every process."""
        (stored,) = devices.broadcast([self.to_bytes(STATE_BYTES).astype(np.int64)])
        return RunState.from_bytes(stored)


class Stored(NamedTuple):
    """A checkpoint as it was read.

    Attributes:
        arrays: By group and index, e.g. "weight/0003".
        state: Where the run stood.
        path: Its file.
    """

    arrays: dict[str, np.ndarray]
    state: RunState
    path: Path


class CheckpointFiles:
    """The files of a run's state: the newest two checkpoints, and the best epoch's weights.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).expanduser()

    def write(self, arrays: dict[str, np.ndarray], state: RunState) -> None:
        """Writes a checkpoint and drops all but the newest two up to it.

        Later ones could not be read when the run resumed.
        """
        path = self.folder / f"checkpoint-{state.step:09d}.npz"
        write_arrays(path, state=state.to_bytes(), **arrays)
        for old in [each for each in checkpoint_paths(self.folder) if each <= path][:-2]:
            old.unlink()

    def newest(self) -> Stored | None:
        """Returns the newest checkpoint that is whole, and warns of newer ones."""
        paths = checkpoint_paths(self.folder)
        for path in reversed(paths):
            try:
                arrays = read_arrays(path)
                return Stored(arrays, RunState.from_bytes(arrays.pop("state")), path)
            except UNREADABLE as error:
                raise_systems(error)
                print(f"warning: {path} cannot be read ({error}); trying the one before.")
        if paths:
            print(f"warning: no checkpoint in {self.folder} can be read; starting from scratch.")
        return None

    def load_best(self, model: keras.Model, stage: int) -> None:
        """Puts the weights of a stage's best epoch into the model, if there has been one."""
        path = best_path(self.folder, stage)
        if path.exists():
            load_weights(path, model)


class Checkpoint(keras.callbacks.Callback):
    """Saves the whole state of a run, and puts it back.

    State: weights, every optimizer's slots and step counts, averaged weights, the running means
    of the epoch, the best epoch so far. A kill loses at most `every` seconds.

    Args:
        folder: Where the checkpoints go.
        averages: The run's `AveragedWeights`, or None.
        every: Seconds between checkpoints inside an epoch; one is written at each epoch's end.
        patience: Epochs without a better validation loss before the run stops, or None.
        state: Where the run stands; None for its beginning.
        stop: Tells whether the run is asked to end; None if nothing can ask.
    """

    def __init__(
        self,
        folder: str | Path,
        averages: AveragedWeights | None = None,
        every: float = 120.0,
        patience: int | None = None,
        state: RunState | None = None,
        stop: Stop | None = None,
    ):
        super().__init__()
        self.files, self.averages = CheckpointFiles(folder), averages
        self.every, self.patience = every, patience
        self.state = RunState() if state is None else state
        self._since = self._last = time.monotonic()
        self._done = 0  # steps of the epoch
        self.stop = Stop(self.files.folder) if stop is None else stop
        self._resumed_means: list[np.ndarray] | None = None

    def check_with_others(self, model: keras.Model, callbacks: list) -> None:
        """Raises ValueError next to an average that it would take for the weights."""
        for other in callbacks:
            if isinstance(other, AveragedWeights) and other is not self.averages:
                raise ValueError(
                    "callbacks: Checkpoint must be given the AveragedWeights next to it, or it "
                    "would store the average as the weights: Checkpoint(folder, averages)."
                )

    # What is saved ---------------------------------------------------------------------------

    def _variables(self) -> dict[str, list]:
        means = [v for metric in self.model.metrics for v in metric.variables]
        groups = {"weight": self.model.variables, "mean": means}
        if self.averages is not None:
            groups["average"] = self.averages.averages
        for name, (optimizer, _) in self.model.optimizers.items():
            groups[name] = optimizer.variables
        return groups

    def seconds(self) -> float:
        """Returns the time trained until now."""
        return self.state.seconds + time.monotonic() - self._since

    def save(self) -> None:
        """Writes a checkpoint.

        Of several processes the chief writes; all must call this at the same step.

        Raises:
            FloatingPointError: The losses have diverged; nothing is written then.
        """
        self._check()
        self.state.seconds = self.seconds()
        self._since = self._last = time.monotonic()
        with self.stop.writing:
            arrays = self._arrays()
            if devices.is_chief():
                self.files.write(arrays, self.state)

    def _arrays(self) -> dict[str, np.ndarray]:
        with with_averages(self.averages, average=False):
            return {
                f"{group}/{index:04d}": variable.numpy()
                for group, variables in self._variables().items()
                for index, variable in enumerate(variables)
            }

    def _check(self) -> None:
        """Raises FloatingPointError if a loss is not finite or larger than LARGEST_LOSS."""
        for metric in self.model.metrics:
            mean = float(metric.result())
            if not abs(mean) < LARGEST_LOSS:
                newest = last_written(self.files.folder) or "none"
                raise FloatingPointError(
                    f"training diverged in epoch {self.state.epoch + 1}: {metric.name} is "
                    f"{mean:.4g}. Last good checkpoint: {newest}. Start a new run with a "
                    "lower learning rate or clip_norm."
                )

    # Resume ----------------------------------------------------------------------------------

    def restore(self, model: ImageModel, stored: Stored | None) -> bool:
        """Puts a checkpoint's arrays into `model`; returns whether there was one.

        Of several processes the chief passes what it read, and sends it to the others.
        """
        if not devices.any_process(stored is not None):
            return False
        self.set_model(model)
        model.build_optimizers()  # whose slots are part of the state
        if self.averages is not None:
            self.averages.start(model)
        if stored is not None:
            self._load_into_model(stored.arrays, stored.path)
            if not self.state.step:  # else the caller has passed the run's state
                vars(self.state).update(vars(stored.state))
        self._broadcast()
        return True

    def _load_into_model(self, arrays: dict[str, np.ndarray], path: Path) -> None:
        for group, variables in self._variables().items():
            for index, variable in enumerate(variables):
                value = arrays.get(f"{group}/{index:04d}")
                if value is None or value.shape != tuple(variable.shape):
                    raise ValueError(
                        f"{path} does not belong to this recipe: {group} {index} has shape "
                        f"{None if value is None else value.shape}, the model's has "
                        f"{tuple(variable.shape)}. Resume with the recipe that began the run."
                    )
                if group != "mean":
                    variable.assign(value)
        self._resumed_means = [arrays[name] for name in sorted(arrays) if name.startswith("mean/")]

    def _broadcast(self) -> None:
        """Gives every process the chief's variables."""
        if devices.num_workers() == 1:
            return
        groups = self._variables()
        means = groups.pop("mean")
        if self._resumed_means is None:
            self._resumed_means = [np.zeros(v.shape, np.float32) for v in means]
        self._resumed_means = devices.broadcast(self._resumed_means)
        devices.share([variable for group in groups.values() for variable in group])

    # When ------------------------------------------------------------------------------------

    def on_train_begin(self, logs=None):
        """Starts the clocks."""
        self._since = self._last = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        """Puts back a cut epoch's running means, which Keras has reset."""
        self.state.epoch = epoch
        self._done = 0
        self.put_back_means()

    def put_back_means(self) -> None:
        """Gives the model the running means that `restore` has read, once."""
        if self._resumed_means is not None:
            means = self._variables()["mean"]
            for variable, value in zip(means, self._resumed_means, strict=True):
                variable.assign(value)
            self._resumed_means = None

    def on_train_batch_end(self, batch, logs=None):
        """Saves when the last checkpoint is old, but not between an epoch's last step and end.

        Steps are counted here: an optimizer leaves out those that loss scaling skips. With
        `steps_per_execution` one call stands for several.
        """
        before, self._done = self._done, min(batch + 1, self.params["steps"] or batch + 1)
        self.state.step += self._done - before
        if (batch + 1) % CHECK_EVERY == 0:
            self._check()
        if self._done == self.params["steps"]:
            self._hold_last_step()
            return
        # Several processes must save together, so they ask one another, but not every time.
        if devices.num_workers() == 1 or (batch + 1) % AGREE_EVERY == 0:
            old = time.monotonic() - self._last > self.every
            asked = self.stop.signal is not None
            if devices.any_process(asked or (old and devices.is_chief())):
                self.save()
            if asked:
                self.stop.end()

    def _hold_last_step(self) -> None:
        """Keeps an epoch's last state, for runs that end in validation; see `run.finish_epoch`."""
        if devices.num_workers() > 1:
            return
        self._check()
        arrays, state = self._arrays(), dataclasses.replace(self.state, seconds=self.seconds())
        self.stop.pending = lambda: self.files.write(arrays, state)
        if self.stop.signal is not None:
            self.stop.end()

    def on_epoch_end(self, epoch, logs=None):
        """Keeps the best weights, stops when patience is over, saves."""
        self._check()
        loss = (logs or {}).get("val_loss")
        if loss is not None and (self.state.best_loss is None or loss < self.state.best_loss):
            self.state.best_loss, self.state.best_epoch = float(loss), epoch
            if devices.is_chief():
                with with_averages(self.averages):
                    write_weights(best_path(self.files.folder, self.state.stage), self.model)
        self.state.epoch = epoch + 1
        if self.state.patience_is_over(self.patience):
            self.model.stop_training = True
        self.model.reset_metrics()  # the next epoch starts with empty means, resumed or not
        self.save()
        self.stop.pending = None
        if self.stop.signal is not None:  # in short epochs several processes see it only here
            self.stop.end()
