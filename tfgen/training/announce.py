"""What a run prints before its first step and after its first ten."""

import datetime
import sys
import time
from pathlib import Path

import keras

from tfgen import devices, tuning
from tfgen.data import Split
from tfgen.models.base import ImageModel
from tfgen.recipe import Recipe
from tfgen_command.wording import counted, wiping

__all__ = ["ExpectedEnd", "announcement", "too_few"]

FEW, FEWEST = 200, 20  # training images, below which a VAE, and any model, is warned of
WARM_UP = 3  # first steps, which compile
TIMED = 10  # the step after which the end is foretold


def announcement(
    recipe: Recipe, model: ImageModel, splits: dict[str, Split], folder: Path, keep_epochs: int
) -> str:
    """Returns what is trained on what, and where everything goes, a line for each.

    Args:
        recipe: What is trained.
        model: Its model, with the recipe's weights frozen.
        splits: "train" and "validation".
        folder: The run's folder.
        keep_epochs: As for `training.train`.
    """
    train = splits["train"]
    height, width, channels = train.image_shape
    counts = " and ".join(f"{split.count:,} {name}" for name, split in splits.items())
    classes = "no labels" if train.num_classes is None else f"{train.num_classes} classes"
    weights = model.count_params()
    frozen = ""
    # Not wherever fewer train: the averaged copy that a GAN keeps of its generator never does.
    if model.frozen or tuning.adapted(model):
        trainable = sum(v.value.shape.num_elements() for v in model.trainable_variables)
        frozen = f", of which {trainable:,} train"
    lines = [
        ("data", f"{recipe.data}: {counts} images, {height}x{width}x{channels}, {classes}"),
        ("model", f"{recipe.family}, {weights:,} weights{frozen}"),
    ]
    for stage in recipe.plan():
        steps = train.count // stage.recipe.batch_size
        parts = f", {', '.join(stage.trainable)} alone" if stage.trainable else ""
        lines.append(
            (
                "training",
                f"{counted(stage.recipe.epochs, 'epoch')} of "
                f"{counted(steps, 'step')} of {stage.recipe.batch_size} "
                f"images{parts}",
            )
        )
    lines.append(("machine", devices.in_words()))
    kept = ", epochs/ (weights)" if keep_epochs else ""
    lines.append(("folder", f"{folder.resolve()}: log.csv, samples/ (pictures), checkpoints{kept}"))
    warning = None if recipe.init_from else too_few(recipe.family, train.count, channels)
    if warning:
        lines.append(("note", warning))
    return "\n".join(f"{name:<10}{text}" for name, text in lines)


def too_few(family: str, num_images: int, channels: int) -> str | None:
    """Returns a warning if a model of that family learns little from so few training images."""
    if num_images < FEWEST:
        return f"{num_images} training images are too few: a model will repeat them. Add images."
    if family != "VAE" or num_images >= FEW:
        return None
    emoji = ", or fine-tune gan_emoji (docs/own-images.md)" if channels == 3 else ""
    return (
        f"{num_images} training images are few for a VAE, which may learn little more than their "
        f"mean. Try a GAN (recipe new with --family GAN){emoji}."
    )


class ExpectedEnd(keras.callbacks.Callback):
    """Says after ten steps when the training will end, if every step takes as long.

    Args:
        epochs: Of this `fit`, counted as its `epochs` are.
        steps: Of each whole epoch.
        what: Ends then, e.g. "of this stage ".
    """

    def __init__(self, epochs: int, steps: int, what: str = ""):
        super().__init__()
        self.epochs, self.steps, self.what = epochs, steps, what
        self._epoch = self._seen = 0
        self._spent = 0.0  # seconds of the steps after the first ones

    def on_epoch_begin(self, epoch, logs=None):
        """Notes which epoch runs, and leaves out the time between epochs, which once compiles."""
        self._epoch, self._last = epoch, time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        """Measures the time of a step, and prints it once."""
        last, self._last = self._last, time.monotonic()
        self._seen += 1
        if self._seen > WARM_UP:
            self._spent += self._last - last
        if self._seen == TIMED:
            rest = self.params["steps"] - batch - 1  # of an epoch that may have been cut before
            left = (self.epochs - self._epoch - 1) * self.steps + rest
            seconds = left * self._spent / (TIMED - WARM_UP)
            end = datetime.datetime.now() + datetime.timedelta(seconds=seconds)
            over = wiping(sys.stdout) or "\n"  # Keras draws its bar again below
            when = f"{end:%H:%M} on {end:%d %b}, in {_duration(seconds)}"
            print(f"{over}{'end':<10}{self.what}expected at {when}")


def _duration(seconds: float) -> str:
    """A time in words, e.g. "2 h 5 min"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
