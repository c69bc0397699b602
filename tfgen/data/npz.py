"""Data sets in an `.npz` file, as numpy.savez writes it."""

import math
import zipfile
from pathlib import Path
from typing import NoReturn

import numpy as np

from tfgen.arrays import UNREADABLE
from tfgen.data.pairs import Pair, check_classes, validated
from tfgen_command.wording import listed, tell

__all__ = ["read_npz"]

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
