"""A split of a data set as a pair of arrays: what it must be, its digest, `.npz` files of them.

Images are uint8 (N, height, width, channels) in [0, 255] with 1 or 3 channels; labels are int64
(N,), or None where the set has none.
"""

import hashlib
import math
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from tfgen import checks
from tfgen.arrays import UNREADABLE, raise_systems
from tfgen_command.wording import listed, tell

__all__ = [
    "SPLITS",
    "DataNotFoundError",
    "Pair",
    "check_classes",
    "check_shape",
    "check_split",
    "check_values",
    "digest",
    "digest_of",
    "read_npz",
    "validated",
    "with_every_split",
]

SPLITS = ("train", "validation", "test")
HELD_OUT = 5  # one image in so many is held out for a missing split

# split: (key of its images, key of its labels), the preferred one first.
KEYS = {
    "train": (("x_train", "y_train"), ("train", "y_train"), ("images", "labels")),
    "validation": tuple(
        (f"{prefix}{stem}", f"y_{stem}")
        for stem in ("validation", "valid", "val")
        for prefix in ("x_", "")
    ),
    "test": (("x_test", "y_test"), ("test", "y_test")),
}

Pair = tuple[np.ndarray, np.ndarray | None]


class DataNotFoundError(FileNotFoundError):
    """A data set is neither on this disk nor reachable. The message names both ways out."""


def check_split(split: str) -> None:
    """Raises ValueError unless `split` is "train", "validation" or "test"."""
    checks.one_of("split", split, SPLITS)


def check_values(what: str, largest: int) -> None:
    """Raises ValueError if the largest value is 1."""
    if largest == 1:
        raise ValueError(
            f"{what} must hold values in [0, 255], where 1 is nearly black; received only 0 and 1. "
            "Save 255 * images."
        )


def check_shape(data: Any, images: np.ndarray, image_shape: Sequence[int]) -> None:
    """Raises ValueError unless a model of `image_shape` takes the images of a set."""
    if images.shape[1:] != tuple(image_shape):
        raise ValueError(
            f"data (--data) must have images of shape {tuple(image_shape)} for this model; "
            f"{data!r} has {images.shape[1:]}. Name another set."
        )


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
            f"{what} must hold uint8 images with values in [0, 255]; received "
            f"{_found(images)}. {_to_uint8(images)}"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape or images.shape[-1] not in (1, 3):
        fix = "Reshape the array."
        if images.ndim == 4 and images.shape[1] in (1, 3):
            fix = "Save np.moveaxis(images, 1, -1)."
        elif images.shape[3:] == (4,):
            fix = "Save images[..., :3]."
        raise ValueError(
            f"{what} must hold at least one image, of shape (N, height, width) or (N, height, "
            f"width, channels) with 1 or 3 channels; received {images.shape}. {fix}"
        )
    if image_shape is not None and images.shape[1:] != tuple(image_shape):
        raise ValueError(
            f"{what} must hold images of shape {tuple(image_shape)}; received "
            f"{images.shape[1:]}. Put another file in its place."
        )
    check_values(what, images.max())
    return images, None if labels is None else _validated_labels(what, len(images), labels)


def _found(array: np.ndarray) -> str:
    if array.dtype.kind not in "iuf" or not array.size:
        return f"dtype {array.dtype}"
    return f"dtype {array.dtype} with values in [{array.min():g}, {array.max():g}]"


def _to_uint8(images: np.ndarray) -> str:
    """Returns how to save images of another dtype."""
    if images.dtype.kind == "b":
        return "Save 255 * images.astype('uint8')."
    if images.dtype.kind not in "iuf" or not images.size or not np.isfinite(images).all():
        return "Save them as uint8."
    least, most = images.min(), images.max()
    if images.dtype.kind == "f" and least >= 0 and most <= 1:
        return "Save np.round(255 * images).astype('uint8')."
    if images.dtype.kind == "f" and least >= -0.01 and most <= 1.01:
        return "Save np.round(255 * np.clip(images, 0, 1)).astype('uint8')."
    if images.dtype.kind == "f" and least >= -1 and most <= 1:
        return "Save np.round(127.5 * (images + 1)).astype('uint8')."
    if least >= 0 and 1 < most <= 255:
        return "Save np.round(images).astype('uint8')."
    return "Scale them to [0, 255] and save them as uint8."


def _validated_labels(what: str, count: int, labels: np.ndarray) -> np.ndarray:
    """Returns labels as int64 (N,)."""
    rule = f"{what} needs one integer label of at least 0 for each of its {count} images; received"
    if labels.ndim == 2 and labels.shape == (count, labels.shape[1]) and labels.shape[1] > 1:
        raise ValueError(
            f"{rule} shape {labels.shape}, as one-hot labels have it. Save labels.argmax(axis=1)."
        )
    # cifar10 has labels of shape (N, 1).
    flat = labels.reshape(-1)
    if flat.shape != (count,):
        raise ValueError(f"{rule} shape {labels.shape}. Save as many labels as images.")
    if flat.dtype.kind == "f" and (flat != np.round(flat)).any():
        raise ValueError(f"{rule} {flat[flat != np.round(flat)][0]:g}. Save integers.")
    if flat.dtype.kind in "fb":
        raise ValueError(f"{rule} dtype {labels.dtype}. Save labels.astype('int64').")
    if flat.dtype.kind not in "iu":
        raise ValueError(
            f"{rule} {flat[0]!r} of dtype {labels.dtype}. Save "
            "numpy.unique(labels, return_inverse=True)[1]."
        )
    flat = flat.astype(np.int64)
    if flat.min() < 0:
        raise ValueError(f"{rule} {flat.min()}. Number the classes from 0.")
    return flat


def check_classes(what: str, splits: dict[str, Pair]) -> None:
    """Raises ValueError unless labels are 0 .. n-1 with an image each in train, and in all splits.

    Args:
        what: The set, for messages.
        splits: `"train"` at least.
    """
    labelled = [split for split, (_, labels) in splits.items() if labels is not None]
    if labelled and len(labelled) < len(splits):
        bare = next(split for split in splits if split not in labelled)
        raise ValueError(
            f"{what} must have labels for all of its splits or for none; it has them for "
            f"{', '.join(labelled)}, not for {bare}. Add them, or leave all out."
        )
    if not labelled:
        return
    found = np.unique(splits["train"][1])
    if found[-1] != len(found) - 1:
        missing = np.setdiff1d(np.arange(min(found[-1], len(found))), found)[0]
        raise ValueError(
            f"{what} must number its classes 0 .. n-1, each with a training image; received "
            f"{len(found)} classes, {found[0]} .. {found[-1]}, without {missing}. Save "
            "numpy.unique(labels, return_inverse=True)[1]."
        )
    for split, (_, labels) in splits.items():
        if labels.max() >= len(found):
            raise ValueError(
                f"{what} has the label {labels.max()} in its {split} split, and training images "
                f"of the classes 0 .. {found[-1]} alone. Leave those images out, or add some to "
                "train."
            )


def with_every_split(
    data: str, splits: dict[str, Pair], num_validation: int | None = None
) -> dict[str, Pair]:
    """Adds the test and validation splits that a set lacks, from the end of train.

    Args:
        data: The set, for messages.
        splits: `"train"` at least.
        num_validation: Images of a missing validation split; None: the last fifth. Images that
            come class by class are spread evenly first, or it would hold one class alone.
    """
    splits = dict(splits)
    if len(splits) < len(SPLITS) and num_validation is None:
        splits["train"] = _spread_classes(*splits["train"])
    if "test" not in splits:
        splits["train"], splits["test"] = _hold_out(data, splits["train"], None)
    if "validation" not in splits:
        splits["train"], splits["validation"] = _hold_out(data, splits["train"], num_validation)
    return splits


def _spread_classes(images: np.ndarray, labels: np.ndarray | None) -> Pair:
    """Moves each image to its relative place within its class, if they come class by class."""
    if labels is None:
        return images, None
    counts = np.bincount(labels)
    # How often the class changes from one image to the next, and how often it would by chance.
    changes, by_chance = (np.diff(labels) != 0).sum(), len(labels) - (counts**2).sum() / len(labels)
    if changes >= by_chance / 2:
        return images, labels
    grouped = np.argsort(labels, kind="stable")
    places = np.empty(len(labels))
    places[grouped] = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    order = np.argsort(places, kind="stable")
    return images[order], labels[order]


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
    return sha.hexdigest()


# .npz ----------------------------------------------------------------------------------------


def read_npz(path: Path, image_shape: tuple[int, int, int] | None = None) -> dict[str, Pair]:
    """Reads the splits that an `.npz` file has.

    Args:
        path: The file.
        image_shape: The shape of a named set's images, which also lets binary images come packed
            eight to a byte, uint8 (N, ceil(H W / 8)). None: any shape, the same in every split.

    Returns:
        A dictionary with `train` at least.

    Raises:
        ValueError: The file is damaged or larger than memory, or has no images and labels.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:  # which `is_zipfile` would take for damaged if it may not
        if not zipfile.is_zipfile(file):
            _raise_damaged(path, "it is not a zip archive")
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = file.files
            found = {
                split: (images_key, file[images_key], file[labels_key] if labels_key else None)
                for split, images_key, labels_key in _split_keys(keys)
            }
    except UNREADABLE as error:
        raise_systems(error)
        if isinstance(error, MemoryError):
            raise ValueError(
                f"{path} must fit into memory: {error}. Save its images as PNG files in a folder."
            ) from error
        if "allow_pickle" in str(error):
            raise ValueError(
                f"{path} must hold arrays of numbers; one of its arrays holds Python objects, "
                "which cannot be read safely. Save images as uint8 and labels as integers."
            ) from error
        _raise_damaged(path, str(error), error)
    if "train" not in found:
        raise ValueError(
            f"{path} must hold images under x_train, train or images; "
            f"received the keys {', '.join(keys) or '(none)'}. Rename them."
        )
    used = {key for _, *pair in _split_keys(keys) for key in pair}
    if set(keys) - used:
        tell(f"{path}: keys that are not used: {listed(sorted(set(keys) - used))}.")
    splits = {}
    for split, (key, images, labels) in found.items():
        images = _unpack_bits(images, image_shape)
        splits[split] = validated(f"{path} ({key})", images, labels, image_shape)
        image_shape = splits[split][0].shape[1:]  # from now on the same in every split
    check_classes(str(path), splits)
    return splits


def _split_keys(found: list[str]) -> list[tuple[str, str, str | None]]:
    """Returns (split, key of its images, key of its labels or None) for each split in a file."""
    keys = []
    for split, pairs in KEYS.items():
        present = [pair for pair in pairs if pair[0] in found]
        if present:
            images_key, labels_key = present[0]
            keys.append((split, images_key, labels_key if labels_key in found else None))
    return keys


def _unpack_bits(images: np.ndarray, image_shape: tuple[int, int, int] | None) -> np.ndarray:
    """Unpacks the bits of binary images, and leaves any other array as it is."""
    if image_shape is None or images.ndim != 2 or images.dtype != np.uint8:
        return images
    size = math.prod(image_shape)
    if images.shape[1] != -(-size // 8):
        return images
    bits = np.unpackbits(images, axis=1, count=size)
    return (255 * bits).reshape(-1, *image_shape)


def _raise_damaged(path: Path, reason: str, error: Exception | None = None) -> NoReturn:
    raise ValueError(
        f"{path} must be a whole .npz file as numpy.savez writes it; it cannot be read: {reason}. "
        "Delete it and save or copy it again."
    ) from error
