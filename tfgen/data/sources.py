"""From what a caller names, a data set or a path, to its images."""

import functools
import math
import os
from pathlib import Path

import tensorflow as tf

from tfgen.data.images import folder_shape, image_files, list_folder, read_images
from tfgen.data.named import is_named, load_named, named_file, names, unknown
from tfgen.data.npz import read_npz
from tfgen.data.pairs import DataNotFoundError, Pair, check_split, with_every_split
from tfgen.data.shards import INDEX, Shards, read_shards
from tfgen.data.splits import Arrays, Files, Split

__all__ = ["arrays", "load", "open_split"]

MEMORY_BYTES = 2**30  # an image folder larger than that is not held in memory


def load(
    data: str | os.PathLike[str], split: str = "train", labels: bool = False
) -> tf.data.Dataset:
    """Loads one split of a data set as single images, unbatched and in the order of the file.

    >>> load("digits", "test").element_spec.shape
    TensorShape([8, 8, 1])

    Args:
        data: As for `arrays`.
        split: `"train"`, `"validation"` or `"test"`.
        labels: Whether to yield pairs (image, label) instead of images.

    Returns:
        A dataset of known cardinality. Images are uint8 (height, width, channels) in [0, 255],
        labels int64 scalars.

    Raises:
        ValueError: As for `arrays`, or `labels=True` for a set that has none.
        DataNotFoundError: As for `arrays`.
    """
    images, classes = arrays(data, split)
    if not labels:
        return tf.data.Dataset.from_tensor_slices(images)
    if classes is None:
        raise ValueError(
            f"labels must be False for {os.fspath(data)!r}, because this data set has no labels; "
            "received True. Leave labels out, or choose a labelled set such as 'mnist'."
        )
    return tf.data.Dataset.from_tensor_slices((images, classes))


def arrays(data: str | os.PathLike[str], split: str = "train") -> Pair:
    """Loads one split of a data set into memory.

    Besides the named sets, `data` may be a path:

    - An `.npz` file with uint8 images of shape (N, H, W) or (N, H, W, C) under `x_train` and
      `x_test` (labels under `y_train` and `y_test`), or under `train`, `valid` and `test`, or
      under `images` (labels under `labels`).
    - A folder of PNG and JPEG files of one size. Its subfolders, if it has any, are the classes,
      numbered by the order of their names. The classes are spread evenly, so each split holds a
      fair share of every class.
    - A folder of shards that `tfgen data prepare` has written.

    A named set without a validation split gives up the last 10,000 training images for it.
    `digits` and a user's own set first give up the last fifth of all images for a missing test
    split, then the last fifth of the rest for a missing validation split.

    >>> images, labels = arrays("digits", "validation")
    >>> images.shape, images.dtype.name, labels.dtype.name
    ((287, 8, 8, 1), 'uint8', 'int64')

    Args:
        data: A name out of `names()`, or the path of an `.npz` file or of a folder.
        split: `"train"`, `"validation"` or `"test"`.

    Returns:
        Images, uint8 (N, height, width, channels) in [0, 255] with 1 or 3 channels, and labels,
        int64 (N,), or None where the set has none.

    Raises:
        ValueError: An unknown name or split, or a file whose content breaks the rules above.
        DataNotFoundError: The set is neither on this disk nor reachable.
        ImportError: `digits` without scikit-learn.
    """
    check_split(split)
    if not is_named(data):
        path = Path(data).expanduser()
        if (path / INDEX).is_file():
            return read_shards(path, split)
        if path.is_dir():
            return _read_folder(path)[split]
    return _load(data)[split]


def open_split(data: str | os.PathLike[str], split: str, memory_bytes: int | None = None) -> Split:
    """Opens a split of a data set: a named one, an .npz file, an image folder or shards.

    The last set that was read into memory is kept, so opening its other splits costs nothing.

    Args:
        data: As for `arrays`.
        split: `"train"`, `"validation"` or `"test"`.
        memory_bytes: A folder whose split is larger than that is read while it is used. Defaults
            to `MEMORY_BYTES`, 1 GiB.

    Raises:
        ValueError, DataNotFoundError, ImportError: As for `arrays`.
    """
    check_split(split)
    path = named_file(data) if is_named(data) else Path(data).expanduser()
    if path is not None and (path / INDEX).is_file():
        return Shards(path, split)
    if path is not None and path.is_dir():
        files, labels = image_files(path, split)
        shape = folder_shape(path, files)
        if len(files) * math.prod(shape) > (MEMORY_BYTES if memory_bytes is None else memory_bytes):
            return Files(files, labels, shape)
        return Arrays(*_read_folder(path)[split])
    key = data if is_named(data) else str(path)
    return Arrays(*_load_once(key, path and path.resolve(), _stamp(path))[split])


def _read_folder(folder: Path) -> dict[str, Pair]:
    paths, labels = list_folder(folder)
    return with_every_split(str(folder), {"train": (read_images(folder, paths), labels)})


def _load(data: str | os.PathLike[str]) -> dict[str, Pair]:
    """Loads every split of a named set or an .npz file, or says that `data` is neither."""
    if is_named(data):
        return load_named(data)
    path = Path(data).expanduser()
    is_npz = path.suffix.lower() == ".npz"
    if is_npz and path.is_file():
        return with_every_split(str(path), read_npz(path))
    if path.exists():
        raise ValueError(
            f"data must be the path of an .npz file or of a folder of images; received {path}, "
            "which is neither. Save the images with numpy.savez_compressed(path, images=images)."
        )
    if is_npz or len(path.parts) > 1 or not isinstance(data, str):
        raise DataNotFoundError(
            f"data must be a path that exists, or one of {', '.join(names())}; received {path}. "
            "Check the spelling and the working directory."
        )
    raise unknown(data)


@functools.lru_cache(maxsize=1)
def _load_once(data: str, path: Path | None, stamp: tuple[int, int] | None) -> dict[str, Pair]:
    """Loads a set, unless it is the last one loaded and its file is still the same."""
    return _load(data)


def _stamp(path: Path | None) -> tuple[int, int] | None:
    """Returns time and size of a file; None if there is none."""
    if path is None or not path.is_file():
        return None
    status = path.stat()
    return status.st_mtime_ns, status.st_size
