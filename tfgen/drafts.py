"""A recipe for a user's own images and the minutes there are.

The network's depth follows from the images' size, its width and the epochs from this machine's
speed, measured on a few steps of that network and on an epoch's end.
"""

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfgen import arrays, checks, data, pictures, training
from tfgen.data.named import as_text
from tfgen.data.sources import source_of
from tfgen.recipe import Recipe

__all__ = ["FAMILIES", "Draft", "draft", "mirror_accuracy"]

FAMILIES = ("VAE", "GAN", "PixelCNN")
LARGEST_SIDE = 64  # pixels; small models learn such images within minutes
SMALLEST_MAP = 4  # height and width of the last feature map
MOST_STAGES = 7
WIDTHS = (32, 24, 16, 8)  # channels of the first stage, the widest first
FEWEST_EPOCHS = 5  # fewer than that ask for a narrower network
MOST_EPOCHS = 500
BATCH_SIZE = 64
TIMED_STEPS = 5
WRITTEN = 5  # copies of the weights: best.npz, and four in a checkpoint
SHARE_OF_STEPS = 0.85  # part of an epoch's time, but for its pictures; the rest is validation
# Images that `mirror` is proposed for; fewer do not tell.
FEWEST_IMAGES, MOST_IMAGES = 200, 1000
MOST_FLAT = 0.3  # share of pixels that equal their neighbour: 0.03 in photographs, 0.5 in drawings
MOST_ACCURACY = 0.6  # of `mirror_accuracy`


@dataclasses.dataclass(frozen=True)
class Draft:
    """A recipe, and what it was chosen by.

    Attributes:
        recipe: The recipe.
        images_per_second: Speed of its training, measured on this machine.
        num_images: Training images.
        pause: Seconds of an epoch's pictures and files.
        start: Seconds until the first step is done, which builds the graph.
        mirror: Whether `mirror` is worth a thought: the images look like colour photographs, and
            their left and right alike. The recipe leaves it out: a few letters, or a class that
            means a side, forbid it.
    """

    recipe: Recipe
    images_per_second: float
    num_images: int
    pause: float = 0.0
    start: float = 0.0
    mirror: bool = False

    @property
    def minutes(self) -> float:
        """How long the training will take here, about."""
        steps = self.num_images / self.images_per_second / SHARE_OF_STEPS
        return (self.start + self.recipe.epochs * (steps + self.pause)) / 60.0


def draft(
    source: data.Data,
    family: str = "VAE",
    minutes: float = 10.0,
    conditional: bool = False,
) -> Draft:
    """Returns a recipe that fits the images of a data set and the minutes that there are.

    Args:
        source: As for `data.arrays`. Without a size, larger images are scaled so that the shorter
            side is 64, and sides cropped to multiples of 8, for a network's strides.
        family: "VAE", "GAN" or "PixelCNN".
        minutes: How long the training may take on this machine. At least one epoch is trained.
        conditional: Whether the model learns the classes of the set.

    Raises:
        ValueError: An argument out of its range, data that cannot be read, a size that does not
            suit the strides of a network, or `conditional` for data without two classes.
        DataNotFoundError: As for `data.arrays`.
    """
    checks.one_of("family", family, FAMILIES)
    if not 0 < minutes < float("inf"):
        raise ValueError(f"minutes must be positive; received {minutes!r}.")
    source = source_of(source)
    if source.size is None:
        source = dataclasses.replace(source, size=_size(data.check(source)))
    split = data.open_split(source, "train")
    sides = split.image_shape[:2]
    if family != "PixelCNN" and any(side % 4 for side in sides):
        raise ValueError(
            "size (--size) must be a multiple of 4, which a network's strides need; received "
            f"{sides[0]} x {sides[1]}. Use e.g. --size {max(4, min(sides) // 4 * 4)}."
        )
    if conditional and not 2 <= (split.num_classes or 0) <= split.count:
        raise ValueError(
            f"conditional must be False for {source.data!r}, which has fewer than two classes, or "
            "too few images of them. Leave --conditional out, or make a subfolder for each class."
        )
    num_classes = split.num_classes if conditional else None
    chosen, speed = None, 0.0
    for width in WIDTHS:
        expected = speed * (chosen.width / width) ** 2 if chosen else np.inf
        if chosen and expected * minutes * 60 < FEWEST_EPOCHS * split.count and width > WIDTHS[-1]:
            continue  # surely too slow
        chosen = _Choice(family, source, split.image_shape, split.count, num_classes, width)
        begin = time.perf_counter()
        speed = _images_per_second(chosen.recipe(1), split)
        timed = TIMED_STEPS * chosen.batch_size / speed
        start = max(0.0, time.perf_counter() - begin - timed)
        seconds = max(60 * minutes - start, 1e-3)
        epochs = SHARE_OF_STEPS * seconds * speed / split.count
        if epochs >= FEWEST_EPOCHS:
            break
    pause = _pause(chosen.recipe(1))
    epochs = seconds / (seconds / epochs + pause)
    recipe = chosen.recipe(int(np.clip(epochs, 1, MOST_EPOCHS)))
    return Draft(recipe, speed, split.count, pause, start, _may_be_mirrored(split))


def _size(report: data.Report) -> tuple[int, int] | None:
    """Returns what to scale and crop the images of a set to; None where they are fine."""
    if not report.sizes:
        name, why = report.unreadable[0]
        raise ValueError(
            f"{report.data} must hold images that can be read; none of {len(report.unreadable)} "
            f"can ({name}: {why}). Replace them."
        )
    height, width = report.size or next(iter(report.sizes))
    shorter = max(LARGEST_SIDE, min(height, width))
    sides = tuple(side * LARGEST_SIDE // shorter for side in (height, width))
    multiple = 8 if min(sides) >= 32 else 4
    fitted = tuple(max(SMALLEST_MAP, side // multiple * multiple) for side in sides)
    return None if len(report.sizes) == 1 and fitted == (height, width) else fitted


@dataclasses.dataclass(frozen=True)
class _Choice:
    """A network for a data set, up to the epochs."""

    family: str
    source: data.Source
    image_shape: tuple[int, int, int]
    num_images: int
    num_classes: int | None
    width: int

    @property
    def stages(self) -> int:
        """Strides of 2: as many as divide both sides and leave a map of at least 4 x 4."""
        sides = self.image_shape[:2]
        return max(
            (
                stages
                for stages in range(1, MOST_STAGES + 1)
                if all(side % 2**stages == 0 for side in sides)
                and min(sides) // 2**stages >= SMALLEST_MAP
            ),
            default=1,
        )

    @property
    def batch_size(self) -> int:
        """64, or less to have eight steps in an epoch."""
        return int(np.clip(self.num_images // 8, 1, BATCH_SIZE))

    def recipe(self, epochs: int) -> Recipe:
        """Returns the recipe of a training of so many epochs."""
        steps = epochs * (self.num_images // self.batch_size)
        parts = {"VAE": self._vae, "GAN": self._gan, "PixelCNN": self._pixel_cnn}[self.family]
        arguments, values = parts(steps)
        model = {"image_shape": list(self.image_shape), **arguments}
        if self.num_classes is not None:
            model["num_classes"] = self.num_classes
        size = self.source.size
        return Recipe(
            family=self.family,
            model=model,
            data=as_text(self.source.data),
            size=size[0] if size and size[0] == size[1] else size,
            skip_bad=self.source.skip_bad,
            description=f"{self.family} of {self.source.data}.",
            batch_size=self.batch_size,
            epochs=epochs,
            warmup_steps=min(200, steps // 10),
            jit_compile=False,
            **values,
        )

    def _filters(self) -> list[int]:
        return [self.width * 2 ** min(stage, 3) for stage in range(self.stages)]

    # Each returns arguments of its constructor, and fields of the recipe.

    def _vae(self, steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
        model = {
            "latent_dim": 32 if min(self.image_shape[:2]) < 32 else 64,
            "filters": self._filters(),
            "dense_units": 8 * self.width,
            "kl_warmup_steps": steps // 10,
        }
        # The loss is in nats per image, so its gradient grows with the number of values.
        return model, {
            "clip_norm": 0.5 * float(np.prod(self.image_shape)),
            "results": [{"metric": "log_likelihood"}, {"metric": "squared_error"}],
        }

    def _gan(self, steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
        model = {"latent_dim": 64, "filters": self._filters(), "dense_units": 128, "r1": 5.0}
        return model, {
            "learning_rate": 5e-4,
            "betas": (0.5, 0.99),
            "final_fraction": 0.05,
            "ema_momentum": 0.0,  # the generator has its own average
        }

    def _pixel_cnn(self, steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
        height, width, _ = self.image_shape
        token = 4 if height * width > 32 * 32 else 2
        tokens = [token if side % token == 0 else 1 for side in (height, width)]
        model = {
            "filters": 2 * self.width,
            "num_blocks": 5,
            "head_units": 64,
            "token_shape": tokens,
            "dropout": 0.1,
        }
        return model, {"clip_norm": 20.0, "results": [{"metric": "log_likelihood"}]}


def _images_per_second(recipe: Recipe, split: data.Split) -> float:
    """Trains a few steps on one batch, without the first, which builds the graph."""
    model = training.build(recipe)
    images, labels = data.head(split, recipe.batch_size)
    batch = images if model.num_classes is None else (images, labels)
    batches = tf.data.Dataset.from_tensors(batch).repeat()
    model.fit(batches, steps_per_epoch=1, shuffle=False, verbose=0)
    start = time.perf_counter()
    model.fit(batches, steps_per_epoch=TIMED_STEPS, shuffle=False, verbose=0)
    return TIMED_STEPS * recipe.batch_size / (time.perf_counter() - start)


def _pause(recipe: Recipe) -> float:
    """Returns the seconds of an epoch's pictures and files, without building the graph."""
    model = training.build(recipe)
    images, _ = data.head(data.open_split(data.of_recipe(recipe), "validation", 0), BATCH_SIZE)
    pictures.fixed_picture(model, images)
    start = time.perf_counter()
    pictures.fixed_picture(model, images)
    drawn = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        arrays.write_weights(Path(folder, "w.npz"), model)
    return drawn - start + WRITTEN * (time.perf_counter() - drawn)


def _may_be_mirrored(split: data.Split) -> bool:
    """Whether these are colour photographs that are hard to tell from their mirror images."""
    *sides, channels = split.image_shape
    if split.count < FEWEST_IMAGES or channels != 3 or min(sides) < 4:
        return False
    first = tf.constant(0, tf.int64)
    keys = split.keys(first, first).take(MOST_IMAGES).batch(BATCH_SIZE)
    images = np.concatenate([np.asarray(split.read(batch)[0]) for batch in keys])
    flat = (images[:, :, 1:] == images[:, :, :-1]).all(-1).mean()
    return bool(flat <= MOST_FLAT and mirror_accuracy(images) <= MOST_ACCURACY)


def mirror_accuracy(images: np.ndarray) -> float:
    """Returns how often a linear classifier tells an image from its mirror image; chance is 0.5.

        a = f(x) - f(mirrored x),  told if w . a > 0,  w = (A^T A / n + 1)^-1 mean(a)

    f is the share of an image's gradient in each of 4 x 4 fields and directions, the same for dark
    on light and light on dark. Digits and letters are told easily, photographs are not. Each half
    of the images is judged by a w of the other half.

    Args:
        images: uint8 (at least 2, height, width, channels), sides of at least 4.

    >>> digits, _ = data.arrays("digits", "train")
    >>> mirror_accuracy(digits) > 0.8
    True
    """
    differences = _directions(images) - _directions(images[:, :, ::-1])
    differences /= differences.std(0) + 1e-6
    shares = []
    for fitted, judged in ((0, 1), (1, 0)):
        a = differences[fitted::2]
        w = np.linalg.solve(a.T @ a / len(a) + np.eye(a.shape[1]), a.mean(0))
        sides = differences[judged::2] @ w
        shares.append(np.mean(sides > 0) + 0.5 * np.mean(sides == 0))
    return float(np.mean(shares))


def _directions(images: np.ndarray) -> np.ndarray:
    """Returns products of the grey image's slopes, averaged in 4 x 4 fields, (N, 48)."""
    grey = images.astype(np.float32).mean(-1)
    down, right = np.gradient(grey, axis=(1, 2))
    maps = np.stack([right * right, down * down, right * down], -1)
    for axis in (1, 2):
        edges = np.linspace(0, maps.shape[axis], 5).astype(int)
        pieces = np.split(maps, edges[1:-1], axis)
        maps = np.concatenate([piece.mean(axis, keepdims=True) for piece in pieces], axis)
    total = maps[..., :2].sum((1, 2, 3), keepdims=True) + 1e-6
    return (maps / total).reshape(len(maps), -1)
