"""A split of a data set as a pair of arrays: what it must be, its digest, what is held out.

Images are uint8 (N, height, width, channels) in [0, 255] with 1 or 3 channels; labels are int64
(N,), or None where the set has none.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

__all__ = [
    "SPLITS",
    "DataNotFoundError",
    "Pair",
    "check_split",
    "digest",
    "digest_of",
    "validated",
    "with_every_split",
]

SPLITS = ("train", "validation", "test")
HELD_OUT = 5  # one image in so many is held out for a missing split

Pair = tuple[np.ndarray, np.ndarray | None]


class DataNotFoundError(FileNotFoundError):
    """A data set is neither on this disk nor reachable. The message names both ways out."""


def check_split(split: str) -> None:
    """Raises ValueError unless `split` is "train", "validation" or "test"."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; received {split!r}.")


def validated(
    what: str,
    images: np.ndarray,
    labels: np.ndarray | None,
    image_shape: tuple[int, int, int] | None,
) -> Pair:
    """Returns images as uint8 (N, H, W, C) and labels as int64 (N,).

    Args:
        what: What holds the images, for messages.
        images: uint8 (N, H, W) or (N, H, W, C).
        labels: Integers (N,) or (N, 1), or None.
        image_shape: What the images must have; None: any shape.

    Raises:
        ValueError: The images or the labels are something else.
    """
    if images.dtype != np.uint8:
        raise ValueError(
            f"{what} must hold uint8 images with values in [0, 255]; received dtype "
            f"{images.dtype}. If they are floats in [0, 1], save "
            "np.round(255 * images).astype('uint8')."
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"{what} must hold at least one image, of shape (N, height, width) or (N, height, "
            f"width, channels) with 1 or 3 channels; received {images.shape}. Reshape the array."
        )
    if image_shape is not None and images.shape[1:] != tuple(image_shape):
        raise ValueError(
            f"{what} must hold images of shape {tuple(image_shape)}; received "
            f"{images.shape[1:]}. Put another file in its place."
        )
    if labels is None:
        return images, None
    # cifar10 has labels of shape (N, 1).
    flat = labels.reshape(-1)
    if flat.shape != (len(images),) or flat.dtype.kind not in "iu" or flat.min() < 0:
        raise ValueError(
            f"{what} needs one integer label of at least 0 for each of its {len(images)} images; "
            f"received dtype {labels.dtype} and shape {labels.shape}. Number the classes from 0."
        )
    return images, flat.astype(np.int64)


def with_every_split(
    data: str, splits: dict[str, Pair], num_validation: int | None = None
) -> dict[str, Pair]:
    """Adds the test and validation splits that a set lacks, from the end of train.

    Args:
        data: The set, for messages.
        splits: `"train"` at least.
        num_validation: Images of a missing validation split; None: the last fifth.
    """
    splits = dict(splits)
    if "test" not in splits:
        splits["train"], splits["test"] = _hold_out(data, splits["train"], None)
    if "validation" not in splits:
        splits["train"], splits["validation"] = _hold_out(data, splits["train"], num_validation)
    return splits


def _hold_out(data: str, pair: Pair, count: int | None) -> tuple[Pair, Pair]:
    """Cuts the last `count` images off, or the last fifth (at least one) if it is None."""
    images, labels = pair
    count = max(1, len(images) // HELD_OUT) if count is None else count
    if len(images) <= count:
        raise ValueError(
            f"data must have an image for each of its splits; {data!r} has {len(images)} left, "
            f"too few to hold out {count}. Add images."
        )
    keep = len(images) - count
    if labels is None:
        return (images[:keep], None), (images[keep:], None)
    return (images[:keep], labels[:keep]), (images[keep:], labels[keep:])


def digest(images: np.ndarray) -> str:
    """Returns the SHA-256 of an array's shape, dtype and bytes, as 64 hexadecimal digits.

    Equal arrays have equal digests on every machine, however they lie in memory.

    >>> digest(np.zeros((2, 3), np.uint8)) == digest(np.zeros((3, 2), np.uint8))
    False
    """
    images = np.asarray(images)
    # A fixed byte order, so that the digest does not depend on the processor.
    images = np.ascontiguousarray(images, images.dtype.newbyteorder("<"))
    return digest_of([images], images.shape)


def digest_of(parts: Iterable[np.ndarray], shape: tuple[int, ...]) -> str:
    """Returns the digest of the array of that shape which the parts make up one after another."""
    sha = None
    for part in parts:
        if sha is None:
            sha = hashlib.sha256(f"{part.dtype.str}{tuple(shape)}".encode())
        sha.update(np.ascontiguousarray(part).data)
    if sha is None:
        raise ValueError(f"parts must hold at least one array; shape {shape} has none.")
    return sha.hexdigest()
