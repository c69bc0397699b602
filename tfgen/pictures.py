"""What a model can draw, as one picture: fixed samples, walks, completions, a training.

Each function returns a uint8 array (height, width, channels) for `plots.save`.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

from tfgen import plots
from tfgen.models.generative import GenerativeModel

__all__ = ["completions", "fixed_picture", "latent_walks", "progress"]

SCALE = 2  # of the pictures of a run
HIDDEN_GREY = 96  # of pixels that are to be completed
FIXED_SEEDS = 64  # images of `fixed_picture`, always from the seeds 0 .. 63


def fixed_picture(model: GenerativeModel, images: np.ndarray) -> np.ndarray:
    """Returns samples from fixed seeds, which show one model after the other alike.

    64 samples, or 8 for each class; for a model that has no `sample`, images over their
    reconstructions.

    Args:
        model: Any generative model.
        images: uint8 (N, H, W, C), of which at most 32 are reconstructed.
    """
    if "sample" not in model.endpoints():
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
        count = 8 * model.num_classes
        labels = np.repeat(np.arange(model.num_classes), 8)
    return plots.grid(model.sample(count, labels=labels, seed=0), columns=8)


def latent_walks(
    model: GenerativeModel,
    rows: int = 6,
    steps: int = 10,
    seed: int = 0,
    label: int | None = None,
) -> np.ndarray:
    """Returns walks between the latents of fixed seeds, a row for each pair.

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
    model: GenerativeModel,
    images: np.ndarray,
    labels: np.ndarray | None,
    ways: int = 6,
    seed: int = 0,
) -> np.ndarray:
    """Returns images completed from their upper half, a row for each image.

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


def progress(model: GenerativeModel, folder: str | Path) -> Path:
    """Writes progress.png into a run's folder: the same seeds after each epoch, time to the right.

    One column of the epochs' pictures, so one image for each class of a conditional model.

    Returns:
        The path of the picture.
    """
    folder, width = Path(folder), SCALE * (model.image_shape[1] + 2)
    return plots.progress(folder / "samples", folder / "progress.png", width)
