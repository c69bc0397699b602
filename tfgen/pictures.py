"""What a model can draw from fixed seeds: samples, walks, the course of a training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfgen import plots
from tfgen.models.generative import GenerativeModel

__all__ = ["fixed_picture", "latent_walks", "progress"]

SCALE = 2  # how many times the pixels of a run's pictures are enlarged
MOST_CLASSES = 16  # in a picture
FIXED_SEEDS = 64  # images of `fixed_picture`, always from the seeds 0 .. 63


def fixed_picture(model: GenerativeModel, images: np.ndarray) -> np.ndarray:
    """Returns samples from fixed seeds, which show one model after the other alike.

    64 samples, or 8 for each of at most 16 classes; for a model that has no `sample`, images over
    their reconstructions.

    Args:
        model: Any generative model.
        images: uint8 (N, H, W, C), of which at most 32 are reconstructed.
    """
    if "sample" not in model.capabilities:
        count = min(len(images), FIXED_SEEDS // 2)
        whole_rows = count if count < 8 else count // 8 * 8
        images = model.nearest_level(tf.constant(images[:whole_rows])).numpy()
        pairs = [
            row
            for start in range(0, len(images), 8)
            for row in (images[start : start + 8], model.reconstruct(images[start : start + 8]))
        ]
        return plots.rows(*pairs)
    labels = None
    count = FIXED_SEEDS
    if model.num_classes is not None:
        classes = np.linspace(0, model.num_classes - 1, min(model.num_classes, MOST_CLASSES))
        labels = np.repeat(classes.astype(int), 8)
        count = len(labels)
    return plots.grid(model.sample(count, labels=labels, seed=0), columns=8)


def latent_walks(
    model: GenerativeModel,
    rows: int = 6,
    steps: int = 10,
    seed: int = 0,
    classes: Sequence[int] = (),
) -> np.ndarray:
    """Returns walks between the latents of seeds, uint8 (rows, steps, height, width, channels).

    For a model without an encoder. A conditional one walks within a class; the rows take `classes`
    in turn, or all that there are.
    """
    labels = of_ends = None
    if model.num_classes is not None:
        labels = np.resize(np.array(classes if len(classes) else range(model.num_classes)), rows)
        of_ends = np.tile(labels, 2)
    ends = model.latents(2 * rows, labels=of_ends, seed=seed)
    return model.interpolate(ends[:rows], ends[rows:], steps, labels=labels)


def progress(model: GenerativeModel, folder: str | Path) -> Path:
    """Writes progress.png into a run's folder: the same seeds after each epoch, time to the right.

    One column of the epochs' pictures, so one image for each class of a conditional model.

    Returns:
        The path of the picture.
    """
    folder, width = Path(folder).expanduser(), SCALE * (model.image_shape[1] + 2)
    return plots.progress(folder / "samples", folder / "progress.png", width)
