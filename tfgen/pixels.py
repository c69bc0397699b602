"""Value ranges, quantisation levels, nats and bits per dimension: their only home.

Five spaces, named the same everywhere:

    images   uint8, NHWC, [0, 255]              what users pass in and get back
    greys    float, [0, 255]                    means of images, before rounding
    levels   0 .. num_levels - 1                what pixel distributions are over
    pixels   float, [-1, 1]                     what networks see
    unit     float, [0, 1]                      what metrics compare

Level k of L stands for the grey value round(255 k / (L - 1)), so two levels are 0 and 255.
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from tfgen import checks

__all__ = [
    "bits_per_dim",
    "check_format",
    "check_images",
    "check_labels",
    "check_mask",
    "check_range",
    "greys_to_images",
    "greys_to_levels",
    "greys_to_pixels",
    "greys_to_unit",
    "images_to_levels",
    "images_to_pixels",
    "level_values",
    "levels_to_greys",
    "levels_to_images",
    "levels_to_pixels",
    "pixels_to_greys",
    "pixels_to_levels",
]

ZERO_ONE = "images have values in {0, 1}, which is black; multiply them by 255."


def level_values(num_levels: int) -> np.ndarray:
    """Returns the grey values of the levels, uint8 of shape (num_levels,).

    >>> level_values(2).tolist()
    [0, 255]

    Raises:
        ValueError: `num_levels` is not an integer in [2, 256].
    """
    if not (checks.is_integer(num_levels) and 2 <= num_levels <= 256):
        raise ValueError(
            f"num_levels must be an integer from 2 to 256; received {num_levels!r}. "
            "Use 2 for binary images and 256 for ordinary 8-bit ones."
        )
    return np.round(255.0 * np.arange(num_levels) / (num_levels - 1)).astype(np.uint8)


def images_to_levels(images: tf.Tensor, num_levels: int) -> tf.Tensor:
    """Maps uint8 images to the nearest level, float32 in [0, num_levels - 1], same shape."""
    images = tf.cast(images, tf.float32)
    return images if num_levels == 256 else tf.round(greys_to_levels(images, num_levels))


def levels_to_images(levels: tf.Tensor, num_levels: int) -> tf.Tensor:
    """Maps levels, whole or not, to uint8 images on the nearest level, same shape."""
    values, levels = level_values(num_levels), tf.convert_to_tensor(levels)
    levels = tf.cast(levels, tf.float32) if levels.dtype.is_integer else levels
    levels = tf.clip_by_value(tf.round(levels), 0.0, num_levels - 1.0)
    if not 255 % (num_levels - 1):  # grey values at equal distances, exact in float
        return tf.cast(levels * (255 // (num_levels - 1)), tf.uint8)
    # A table: products of floats fall on either side of a half, such as level 7 of 15 at 127.5.
    index = tf.maximum(tf.cast(levels, tf.int32), 0)  # not a number becomes level 0
    return tf.gather(values, index)


def greys_to_images(greys: tf.Tensor, num_levels: int) -> tf.Tensor:
    """Maps float grey values, of any range, to uint8 images on the nearest level, same shape."""
    if num_levels == 2:  # the middle itself goes to the even level, as `tf.round` has it
        return tf.cast(255.0 * tf.cast(greys > 127.5, tf.float32), tf.uint8)
    return levels_to_images(greys_to_levels(greys, num_levels), num_levels)


def images_to_pixels(images: tf.Tensor) -> tf.Tensor:
    """Maps uint8 images to float32 pixels in [-1, 1], same shape."""
    return greys_to_pixels(tf.cast(images, tf.float32))


def greys_to_pixels(greys: tf.Tensor) -> tf.Tensor:
    """Maps float grey values in [0, 255] to pixels in [-1, 1], same shape and dtype."""
    return greys * (2.0 / 255.0) - 1.0


def pixels_to_greys(pixels: tf.Tensor) -> tf.Tensor:
    """Maps pixels in [-1, 1] to float grey values in [0, 255], same shape and dtype."""
    return (pixels + 1.0) * 127.5


def greys_to_levels(greys: tf.Tensor, num_levels: int) -> tf.Tensor:
    """Maps float grey values in [0, 255] to levels, not rounded, same shape and dtype."""
    return greys if num_levels == 256 else greys * ((num_levels - 1) / 255.0)


def levels_to_greys(levels: tf.Tensor, num_levels: int) -> tf.Tensor:
    """Maps levels, rounded or not, to float grey values in [0, 255], same shape and dtype."""
    return levels if num_levels == 256 else levels * (255.0 / (num_levels - 1))


def levels_to_pixels(levels: tf.Tensor, num_levels: int) -> tf.Tensor:
    """Maps float levels in [0, num_levels - 1] to pixels in [-1, 1], same shape and dtype."""
    return levels * (2.0 / (num_levels - 1)) - 1.0


def pixels_to_levels(pixels: tf.Tensor, num_levels: int) -> tf.Tensor:
    """Maps pixels in [-1, 1] to levels, not rounded, same shape and dtype."""
    return (pixels + 1.0) * ((num_levels - 1) / 2.0)


def greys_to_unit(greys: np.ndarray) -> np.ndarray:
    """Maps grey values in [0, 255], uint8 or float, to [0, 1], at least float32, same shape."""
    return greys / np.float32(255.0)


def bits_per_dim(log_p: float, image_shape: tuple[int, ...]) -> float:
    """Converts a log-likelihood in nats per image to bits per dimension.

        bits/dim = -log_p / (H W C ln 2)

    >>> round(bits_per_dim(-784 * math.log(2), (28, 28, 1)), 6)
    1.0
    """
    return -log_p / (math.prod(image_shape) * math.log(2.0))


def check_format(images: Any, image_shape: tuple[int, ...], name: str = "images") -> None:
    """Raises ValueError unless dtype and shape are those of uint8 images for a model.

    Args:
        images: An array, a tensor, or the spec of one.
        image_shape: (height, width, channels) that the model was built for.
        name: The argument's name, for the message.
    """
    dtype = getattr(images.dtype, "name", str(images.dtype))
    if dtype != "uint8":
        if dtype == "bool":
            fix = "Black and white are 0 and 255: write 255 * x.astype('uint8')."
        elif "float" in dtype:
            fix = "If they lie in [0, 1], write np.round(255 * x).astype('uint8')."
        else:
            fix = "Make sure that the values lie in [0, 255], then write x.astype('uint8')."
        raise ValueError(
            f"{name} must be uint8 with values in [0, 255]; received dtype {dtype}. {fix}"
        )
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1:] != tuple(image_shape):
        rank_fix = " Add the batch axis: images[None]." if shape == tuple(image_shape) else ""
        rank_fix = rank_fix or (
            " Add the channel axis: images[..., None]."
            if len(shape) == 3 and (*shape[1:], 1) == tuple(image_shape)
            else " Resize the images, or build the model with another image_shape."
        )
        raise ValueError(
            f"{name} must have shape (batch, height, width, channels) = "
            f"(batch, {', '.join(map(str, image_shape))}); received {shape}.{rank_fix}"
        )


def check_range(images: np.ndarray, name: str = "images") -> None:
    """Raises ValueError if the largest of all grey values is 1: such images mean 0 and 255.

    >>> check_range(np.ones((2, 8, 8, 1), "uint8"))
    Traceback (most recent call last):
    ValueError: images have values in {0, 1}, which is black; multiply them by 255.
    """
    if np.size(images) and np.max(images) == 1:
        raise ValueError(ZERO_ONE.replace("images", name, 1))


def as_array(x: Any) -> Any:
    """Returns an array or tensor as it is; a list, or a tensor of PyTorch, as an array of NumPy."""
    is_held = hasattr(x, "dtype") and "torch" not in str(x.dtype)
    return x if is_held else np.asarray(x)


def check_images(
    images: Any, image_shape: tuple[int, ...], num_levels: int, name: str = "images"
) -> tf.Tensor:
    """Returns `images` as a checked uint8 tensor (batch, height, width, channels).

    Args:
        images: uint8 array or tensor (batch, *image_shape) with values among the levels.
        image_shape: (height, width, channels) that the model was built for.
        num_levels: Number of grey levels that the model knows.
        name: The argument's name, for the message.

    Raises:
        ValueError: Another dtype, rank, shape, a grey value that is not a level, or only 0 and 1.
    """
    images = as_array(images)
    check_format(images, image_shape, name)
    check_range(images, name)
    if num_levels < 256:
        allowed = level_values(num_levels)
        found = np.unique(np.asarray(images))
        extra = np.setdiff1d(found, allowed)
        if extra.size:
            raise ValueError(
                f"{name} must hold only the model's {num_levels} levels "
                f"{np.array2string(allowed, threshold=8)}; received the value {extra[0]}. "
                "Round to the nearest level first, e.g. for 2 levels: "
                "np.where(images > 127, 255, 0).astype('uint8')."
            )
    return tf.convert_to_tensor(images)


def check_mask(mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Returns `mask` as a checked bool array of `shape`.

    Raises:
        ValueError: Another dtype or shape.
    """
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != shape:
        raise ValueError(
            f"mask must be bool of shape (batch, height, width, 1) = {shape}, True where a pixel "
            f"is kept; received dtype {mask.dtype} and shape {mask.shape}."
        )
    return mask


def check_labels(labels: Any, num_classes: int | None, count: int) -> tf.Tensor | None:
    """Returns `labels` as a checked int64 tensor (count,).

    One label stands for `count` equal ones.

    Raises:
        ValueError: Labels for an unconditional model, none for a conditional one, another shape
            or dtype, or a label outside [0, num_classes).
    """
    if num_classes is None:
        if labels is not None:
            raise ValueError(
                "labels must be left out: this model is unconditional (num_classes=None). "
                "Load or build a class-conditional one, e.g. 'cvae_mnist'."
            )
        return None
    if labels is None:
        raise ValueError(
            f"labels are required: this model is conditional on {num_classes} classes. "
            f"Pass one integer in [0, {num_classes - 1}] per image, or one for all."
        )
    labels = np.asarray(labels)
    labels = labels if labels.size else labels.astype(np.int64)  # [] is of floats
    if labels.ndim == 0:
        labels = np.full((count,), labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        one_hot = labels.shape == (count, num_classes) and num_classes > 1
        fix = " If they are one-hot, write np.argmax(labels, -1)." if one_hot else ""
        raise ValueError(
            f"labels must be integers of shape ({count},), one per image; "
            f"received dtype {labels.dtype} and shape {labels.shape}.{fix}"
        )
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        wrong = labels[(labels < 0) | (labels >= num_classes)][0]
        raise ValueError(
            f"labels must lie in [0, {num_classes - 1}]; received {wrong}. "
            "Number the classes from 0."
        )
    return tf.convert_to_tensor(labels.astype(np.int64))
