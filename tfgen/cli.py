"""What the commands of `tfgen` share: models and images that fit an option, files that they write.

The commands themselves stand in `tfgen_command`, which answers without TensorFlow where it can.
"""

import os
from pathlib import Path

import numpy as np

from tfgen import data, plots, zoo
from tfgen.models.generative import GenerativeModel

__all__ = [
    "check_label",
    "generative",
    "prior_plane",
    "save",
    "validation_images",
    "with_latents",
]


def generative(name: str) -> GenerativeModel:
    """Loads a model; raises ValueError if it generates no images."""
    model = zoo.load(name)
    if not isinstance(model, GenerativeModel):
        raise ValueError(f"{name!r} is a {type(model).__name__}, which cannot generate images.")
    return model


def with_latents(name: str) -> GenerativeModel:
    """Loads a model; raises ValueError if it has no latents."""
    model = generative(name)
    if "decode" not in model.endpoints():
        raise ValueError(f"{name!r} is a {type(model).__name__}, which has no latents.")
    return model


def check_label(model: GenerativeModel, label: int | None) -> None:
    """Raises ValueError, naming --label, if the model has no such class."""
    if label is None:
        return
    if model.num_classes is None:
        raise ValueError(
            f"--label is for class-conditional models, which this one is not; received {label}. "
            "Leave it out, or use a model such as cgan_mnist."
        )
    if label >= model.num_classes:
        raise ValueError(
            f"--label must lie in [0, {model.num_classes}), the model's classes; received {label}."
        )


def validation_images(
    model: GenerativeModel, name: str, data_name: str | None, num: int, option: str = "--num"
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the first images of the validation split, with labels if the model wants them.

    Args:
        model: Decides whether labels are returned.
        name: The entry, whose recipe names the data.
        data_name: Another data set; None for the recipe's.
        num: How many images.
        option: The option that asked for that many, which an error names.
    """
    images, labels = data.arrays(data_name or zoo.load_recipe(name).data, "validation")
    if num > len(images):
        raise ValueError(
            f"{option} asks for {num} images, and the validation split has {len(images)}."
        )
    return images[:num], labels[:num] if model.num_classes is not None else None


def save(images: np.ndarray, out: str | os.PathLike[str], **options) -> str:
    """Writes a picture as `plots.save` does and returns the line that says so."""
    return f"Wrote {Path(plots.save(images, out, **options)).resolve()}"


def prior_plane(side: int) -> np.ndarray:
    """Returns latents (side^2, 2) at the standard normal's quantiles (i + 1/2) / side.

    The first axis grows to the right, the second one upwards.
    """
    from scipy.stats import norm

    at = norm.ppf((np.arange(side) + 0.5) / side)
    right, up = np.meshgrid(at, at[::-1])
    return np.stack([right, up], -1).reshape(-1, 2).astype(np.float32)
