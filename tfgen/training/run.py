"""A recipe's training from start to end."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf

from tfgen import checks, data, devices, pictures
from tfgen.data import Split
from tfgen.devices import num_replicas
from tfgen.files import only_writer, write_json
from tfgen.models.base import ImageModel
from tfgen.models.generative import GenerativeModel
from tfgen.recipe import Recipe
from tfgen.training.announce import ExpectedEnd, announcement
from tfgen.training.batches import train_batches, validation_batches
from tfgen.training.build import begin_stage, build, check_batch, check_data, end_stages
from tfgen.training.callbacks import AveragedWeights, CSVLog, DrawSamples, KeepWeights
from tfgen.training.checkpoint import Checkpoint, CheckpointFiles, RunState
from tfgen.training.folder import check_folder, keep_recipe, start_folder
from tfgen.training.stopping import Stop
from tfgen_command.wording import counted, how_to_install

__all__ = ["train"]


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is monitored and saved, as `train` says; this does not change what it trains."""

    verbose: int = 1
    tensorboard: bool = False
    checkpoint_seconds: float = 120.0
    keep_epochs: int = 0
    stop_within: float | None = None

    def __post_init__(self):
        checks.at_least(0, keep_epochs=self.keep_epochs)
        if self.checkpoint_seconds != math.inf:  # which keeps checkpoints to the ends of epochs
            checks.finite(0, checkpoint_seconds=self.checkpoint_seconds)
        if self.stop_within is not None:
            checks.finite(0, stop_within=self.stop_within)
        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise ImportError(
                "tensorboard=True needs the package tensorboard, which TensorFlow does not "
                f"install. {how_to_install('tensorboard')} Or leave the option out: log.csv is "
                "written anyway."
            )


@dataclasses.dataclass(frozen=True)
class Run:
    """A recipe with the model and the data that it names.

    Args:
        recipe: What to train.
        folder: The run's own folder.
        model: Built and compiled.
        training: The train split.
        validation: The validation split.
        options: How it is watched and kept.
    """

    recipe: Recipe
    folder: Path
    model: ImageModel
    training: Split
    validation: Split
    options: Options

    @property
    def labelled(self) -> bool:
        """Whether the model takes labels."""
        return self.model.num_classes is not None

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of the train split."""
        return self.training.count // self.recipe.batch_size


def train(
    recipe: Recipe,
    folder: str | Path,
    resume: bool = False,
    verbose: int = 1,
    tensorboard: bool = False,
    checkpoint_seconds: float = 120.0,
    strategy: tf.distribute.Strategy | None = None,
    keep_epochs: int = 0,
    stop_within: float | None = None,
) -> ImageModel:
    """Fits the recipe's model; returns it with the best epoch's weights, a GAN with the last ones.

    The folder receives recipe.json, log.csv, samples/ and checkpoints during the run, and
    training.json (steps, best epoch, seconds) at its end. Of several processes only the first one
    writes, and only it needs the folder.

    Args:
        recipe: What to train.
        folder: The run's own folder.
        resume: Go on from the newest checkpoint of the folder. The recipe may have more epochs
            than the run began with, and must be the same in everything else.
        verbose: As in `keras.Model.fit`.
        tensorboard: Write losses and pictures of fixed seeds to folder/tensorboard.
        checkpoint_seconds: Time between checkpoints inside an epoch; infinity makes none there.
        strategy: From `tfgen.devices.make_strategy`; None trains on one device. The recipe's
            batch is shared out among its devices.
        keep_epochs: Keep the weights of every N-th epoch in folder/epochs; 0 keeps none.
        stop_within: Seconds after Ctrl-C or SIGTERM in which the process ends, if need be in the
            middle of a step: at most `checkpoint_seconds` are lost then. None waits for the step.
            A checkpoint that is being written is finished first, for up to 30 seconds more.

    Raises:
        ValueError: The recipe does not fit its model, data or strategy; or the folder holds a run
            and `resume` is false, or holds a run of another recipe or of other data, or another
            process uses it.
        OSError: The folder cannot be written, or the data are not there (`DataNotFoundError`).
        ImportError: `tensorboard`, or scikit-learn for `digits`, is wanted and not installed.
        FloatingPointError: The training diverged: a loss is not finite, or at least 1e10.
        ConnectionError: One of several processes has stopped; all must be started again.
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM (code 143) ended it, after a checkpoint.
    """
    folder = Path(folder).expanduser()
    options = Options(verbose, tensorboard, checkpoint_seconds, keep_epochs, stop_within)
    with (strategy or tf.distribute.get_strategy()).scope(), _explaining_lost_workers():
        if devices.is_chief():
            recipe = check_folder(folder, recipe, resume)
        run = _open(recipe, folder, options)
        with only_writer(folder) if devices.is_chief() else contextlib.nullcontext():
            if devices.is_chief():
                start_folder(folder, recipe, resume)
            splits = {"train": run.training, "validation": run.validation}
            if verbose and devices.is_chief():
                print(announcement(recipe, run.model, splits, folder, keep_epochs))
            stop = Stop(folder, stop_within if devices.num_workers() == 1 else None)
            with stop.listening():
                state = _train_stages(run, resume, stop)
            if devices.is_chief():
                write_json(folder / "training.json", dataclasses.asdict(state))
    return run.model


def _open(recipe: Recipe, folder: Path, options: Options) -> Run:
    """Builds the model and opens the data, or raises ValueError where they do not fit."""
    training = data.open_split(data.of_recipe(recipe), "train")
    validation = data.open_split(data.of_recipe(recipe), "validation")
    for stage in recipe.plan():
        if stage.recipe.batch_size % num_replicas():
            raise ValueError(
                f"recipe: batch_size must be divisible by the {num_replicas()} devices that share "
                f"it; received {stage.recipe.batch_size}."
            )
        check_batch(stage.recipe, training.count)
    model = build(recipe, training.count // recipe.batch_size)
    check_data(recipe, model, training)
    return Run(recipe, folder, model, training, validation, options)


def _train_stages(run: Run, resume: bool, stop: Stop) -> RunState:
    """Trains what is left of the recipe's plan, and leaves the best weights in the model."""
    files = CheckpointFiles(run.folder)
    stored = files.newest() if resume and devices.is_chief() else None
    resumed = devices.any_process(stored is not None)
    state = stored.state if stored is not None else RunState()
    if stored is not None and run.options.verbose:
        print(f"{'resumed':<10}after step {state.step:,} and {counted(state.epoch, 'epoch')}")
    if devices.is_chief():
        _check_data(run, state)
    state = state.broadcast()  # with what the chief trains on, which all must have
    if not devices.is_chief():
        _check_data(run, state)
    plan = run.recipe.plan()
    for index in range(state.stage, len(plan)):
        stage = plan[index]
        stage_run = dataclasses.replace(run, recipe=stage.recipe)
        if index:
            before = state.step if index > state.stage else state.stage_step
            begin_stage(stage, run.model, stage_run.steps_per_epoch, before)
        averages = AveragedWeights(stage.recipe.ema_momentum) if stage.recipe.ema_momentum else None
        every, patience = run.options.checkpoint_seconds, stage.recipe.patience
        checkpoint = Checkpoint(run.folder, averages, every, patience, state, stop)
        checkpoint.set_model(run.model)
        if resumed:
            checkpoint.restore(run.model, stored)
            resumed, stored = False, None
        elif index > state.stage:
            state.begin_next_stage()
            if averages is not None:
                averages.start(run.model)
            checkpoint.save()  # so that no kill falls back into the stage before
        if devices.is_chief() and not state.patience_is_over(patience):
            keep_recipe(run.folder, run.recipe)
        _fit(stage_run, checkpoint, _callbacks(stage_run, checkpoint, len(plan) > 1))
        if devices.is_chief():
            files.load_best(run.model, index)
        devices.share(run.model.variables)
    if len(plan) > 1:
        end_stages(run.recipe, run.model)
    return state


def _check_data(run: Run, state: RunState) -> None:
    """Notes what the run trains on and how, or raises ValueError if it began otherwise."""
    # Without what may change; the digests below tell data apart, wherever they lie.
    fixed = {"description": "", "results": [], "data": "-", "init_from": None}
    epochs = run.recipe.epochs if run.recipe.stages else 10**9
    recipe = dataclasses.replace(run.recipe, epochs=epochs, **fixed)
    text = recipe.to_json()
    ordered = json.dumps(json.loads(text), sort_keys=True)
    used, older = (hashlib.sha256(each.encode()).hexdigest() for each in (ordered, text))
    if state.data.get("recipe") in (None, older):
        state.data["recipe"] = used
    if state.data["recipe"] != used:
        raise ValueError(
            f"resume needs the recipe that began the run: {run.folder / 'recipe.json'} has changed "
            "since. Restore it, or begin a new run in another folder."
        )
    for split, opened in (("train", run.training), ("validation", run.validation)):
        digests = {split: opened.digest()}
        if run.labelled:
            digests[f"{split} labels"] = opened.label_digest()
        for name, found in digests.items():
            if state.data.setdefault(name, found) != found:
                what = f"the {split} split" if name == split else f"the labels of the {split} split"
                raise ValueError(
                    f"resume needs the data that the run began with: {what} of "
                    f"{run.recipe.data!r} now has sha256 {found}, the checkpoint has "
                    f"{state.data[name]}. Restore the data, or begin a new run in another folder."
                )


def _callbacks(run: Run, checkpoint: Checkpoint, staged: bool) -> list:
    averages, options = checkpoint.averages, run.options

    def columns() -> dict[str, float]:
        stage = {"stage": checkpoint.state.stage} if staged else {}
        return {**stage, "seconds": round(checkpoint.seconds(), 3)}

    callbacks = [] if averages is None else [averages]
    if devices.is_chief():
        if options.verbose:
            last = checkpoint.state.stage_epoch + run.recipe.epochs
            what = "of this stage " * staged
            callbacks.append(ExpectedEnd(last, run.steps_per_epoch, what))
        callbacks.append(CSVLog(run.folder / "log.csv", columns))
        if options.keep_epochs:
            callbacks.append(KeepWeights(run.folder / "epochs", options.keep_epochs, averages))
        if isinstance(run.model, GenerativeModel):
            images, _ = data.head(run.validation, pictures.FIXED_SEEDS)
            board = run.folder / "tensorboard" if options.tensorboard else None
            callbacks.append(DrawSamples(run.folder / "samples", images, averages, board))
        if options.tensorboard:
            callbacks.append(keras.callbacks.TensorBoard(run.folder / "tensorboard"))
    callbacks.append(checkpoint)  # last, so that what it calls done has its row and its picture
    return callbacks


def _fit(run: Run, checkpoint: Checkpoint, callbacks: list) -> None:
    """Trains from the checkpoint's step to the end of its stage, or until patience is over."""
    recipe, state, per_epoch = run.recipe, checkpoint.state, run.steps_per_epoch
    epoch, done = divmod(state.step - state.stage_step, per_epoch)
    if not done and epoch and state.epoch == state.stage_epoch + epoch - 1:
        finish_epoch(run, checkpoint, callbacks)
    # An epoch that was cut is finished first, alone, since `fit` counts its steps from 0.
    segments = [(epoch, epoch + 1, per_epoch - done)] if done else []
    segments.append((epoch + bool(done), recipe.epochs, per_epoch))
    for first, last, steps in segments:
        if first >= last or state.patience_is_over(recipe.patience):
            continue
        step = state.step - state.stage_step
        run.model.fit(
            train_batches(recipe, run.training, run.labelled, step),
            initial_epoch=state.stage_epoch + first,
            epochs=state.stage_epoch + last,
            steps_per_epoch=steps,
            validation_data=validation_batches(run.validation, run.labelled, recipe.batch_size),
            callbacks=callbacks,
            shuffle=False,
            verbose=run.options.verbose if devices.is_chief() else 0,
        )
    if checkpoint.averages is not None:
        checkpoint.averages.on_train_end()  # also where nothing was left to train


def finish_epoch(run: Run, checkpoint: Checkpoint, callbacks: list) -> None:
    """Does an epoch's end alone, for a run that was asked to end between its last step and there.

    Validation, log, pictures and checkpoint, as `fit` has them.
    """
    model, batch_size = run.model, run.recipe.batch_size
    checkpoint.put_back_means()
    checkpoint.stop.pending = lambda: None  # the newest checkpoint is what to continue from
    logs = model.get_metrics_result()
    every = keras.callbacks.CallbackList(callbacks, model=model)
    batches = validation_batches(run.validation, run.labelled, batch_size)
    found = model.evaluate(batches, callbacks=every, return_dict=True, verbose=0)
    logs = {**logs, **{f"val_{name}": value for name, value in found.items()}}
    every.on_epoch_end(checkpoint.state.epoch, logs)


# Errors of a process' own, which are no sign that another one is gone.
OWN = (
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.ResourceExhaustedError,
    tf.errors.UnimplementedError,
)


@contextlib.contextmanager
def _explaining_lost_workers() -> Iterator[None]:
    """Replaces TensorFlow's hundred lines by one when one of several processes ends."""
    try:
        yield
    except tf.errors.OpError as error:
        if devices.num_workers() == 1 or isinstance(error, OWN):
            raise
        raise ConnectionError(
            f"one of the {devices.num_workers()} workers has stopped, so this one stops too "
            f"({type(error).__name__}). Start all of them again with resume (--resume): the run "
            "continues from its newest checkpoint."
        ) from error
