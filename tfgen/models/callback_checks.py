"""Checks of a model's callbacks before it trains.

One that does not fit would fail after an epoch, or silently do nothing.
"""

import re
from pathlib import Path
from typing import Any

import keras

from tfgen import devices, files
from tfgen.models.configured import ConfiguredModel, is_replaced

__all__ = ["check_callbacks"]

# Callbacks that know `model.optimizer` and no second one.
MOVES_ONE_RATE = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)
SWAPS_ONE = keras.callbacks.SwapEMAWeights
# Callbacks that compare a loss with epochs before.
MONITORS = (
    keras.callbacks.EarlyStopping,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.ReduceLROnPlateau,
)


def check_callbacks(model: ConfiguredModel, callbacks: Any) -> None:
    """Raises ValueError for a callback that would do nothing, half of it, or fail after an epoch.

    Callbacks that ask for a loss's direction, which Keras does not know, get it here: accuracies
    rise, all else falls.
    """
    found = keras.tree.flatten(getattr(callbacks, "callbacks", callbacks) or [])
    for index, callback in enumerate(found):
        _check_path(callback)
        _check_optimizers(model, callback)
        _check_losses(model, callback, found[:index])
        if hasattr(callback, "check_with_others"):
            # tfgen's own callbacks check which others they can run next to.
            callback.check_with_others(model, found)


def _check_path(callback: keras.callbacks.Callback) -> None:
    """Makes ~ the home folder, as the model's methods do; refuses names that `save` would."""
    if isinstance(callback, (keras.callbacks.BackupAndRestore, keras.callbacks.ModelCheckpoint)):
        for key, value in vars(callback).items():
            if isinstance(value, (str, Path)) and str(value).startswith("~"):
                setattr(callback, key, str(files.expanded(value)))
    if isinstance(callback, keras.callbacks.ModelCheckpoint) and not callback.save_weights_only:
        is_replaced(callback.filepath, True, ".keras")


def _check_optimizers(model: ConfiguredModel, callback: keras.callbacks.Callback) -> None:
    """Raises ValueError for a callback that does not fit the model's optimizers."""
    name, count = type(callback).__name__, len(model.updates_per_step)
    if isinstance(callback, keras.callbacks.OrbaxCheckpoint):
        raise ValueError(
            f"callbacks: {name} keeps the state of one optimizer, and only under paths that no two "
            "weights share. Use keras.callbacks.BackupAndRestore or ModelCheckpoint."
        )
    if isinstance(callback, MOVES_ONE_RATE) and count > 1:
        raise ValueError(
            f"callbacks: {name} moves one learning rate, and {type(model).__name__} has "
            f"{count}. Give each optimizer a schedule of keras.optimizers.schedules."
        )
    if isinstance(callback, SWAPS_ONE) and count > 1:
        raise ValueError(
            f"callbacks: {name} swaps the weights of one optimizer, and {type(model).__name__} "
            f"has {count}. It keeps an average of its own, averaged_generator."
        )
    if not model.compiled:
        return
    optimizer = devices.unscaled(model.optimizer)
    moves = not isinstance(optimizer.learning_rate, keras.Variable)
    if isinstance(callback, MOVES_ONE_RATE) and moves:
        raise ValueError(
            f"callbacks: {name} needs a learning rate that is a number; the optimizer's moves by "
            "itself. Compile with a number, e.g. keras.optimizers.Adam(1e-3), or leave the "
            "callback out."
        )
    if isinstance(callback, SWAPS_ONE) and not optimizer.use_ema:
        raise ValueError(
            f"callbacks: {name} needs an optimizer that averages weights; use_ema of this one is "
            "False. Compile with use_ema=True, e.g. keras.optimizers.Adam(use_ema=True)."
        )


def _check_losses(model: ConfiguredModel, callback: keras.callbacks.Callback, before: list) -> None:
    """Tells a callback the direction of its loss, or raises ValueError if nothing reports it."""
    name, reported = type(callback).__name__, ", ".join(model.loss_names)
    if isinstance(callback, keras.callbacks.TerminateOnNaN) and "loss" not in model.loss_names:
        raise ValueError(
            f"callbacks: {name} watches 'loss'; {type(model).__name__} reports {reported} instead. "
            "Use a keras.callbacks.LambdaCallback."
        )
    if not isinstance(callback, MONITORS):
        return
    path = str(getattr(callback, "filepath", ""))
    unknown = "loss" not in model.loss_names and re.search(r"{(val_)?loss\b", path)
    if unknown and not any(map(_may_report, [model, *before])):
        raise ValueError(f"callbacks: {name} names files by 'loss'; the model reports {reported}.")
    loss, told = callback.monitor.removeprefix("val_"), callback.mode != "auto"
    if loss in model.loss_names:
        if not told:
            callback.mode = "max" if loss.endswith("accuracy") else "min"
        return
    stores_all = (
        isinstance(callback, keras.callbacks.ModelCheckpoint) and not callback.save_best_only
    )
    if stores_all and (told or loss == "loss"):  # without a look at it
        return
    if not (told and any(map(_may_report, [model, *before]))):
        raise ValueError(
            f"callbacks: {name} monitors {callback.monitor!r}; {type(model).__name__} reports "
            f"{reported}, for validation data with val_ in front. Monitor one of them. If a "
            f"callback before this one adds {callback.monitor!r} to the logs, pass mode='min' or "
            "'max'."
        )


def _may_report(thing: Any) -> bool:
    """Whether a model or callback runs others' code, which may add to the logs."""
    others = not type(thing).__module__.startswith(("keras.", "tfgen."))
    return others or isinstance(thing, keras.callbacks.LambdaCallback)
