"""From what a caller names, a data set or a path, to its images."""

import dataclasses
import functools
import math
import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfgen import checks
from tfgen.data.folders import open_folder
from tfgen.data.images import fitted
from tfgen.data.named import as_text, is_named, load_named, named_file, names, unknown
from tfgen.data.pairs import (
    DataNotFoundError,
    Pair,
    check_split,
    read_npz,
    validated,
    with_every_split,
)
from tfgen.data.shards import Shards, is_shards, read_shards
from tfgen.data.splits import Arrays, Files, Split
from tfgen.recipe import Recipe

__all__ = ["Data", "Source", "arrays", "load", "of_recipe", "open_split", "source_of"]

MEMORY_BYTES = 2**30  # an image folder larger than that is not held in memory


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set and how it is read.

    >>> arrays(Source("digits", size=16), "test")[0].shape
    (359, 16, 16, 1)

    Args:
        data: A name out of `names()`, or the path of an `.npz` file or of a folder.
        size: (height, width), or one number for both, that every image is scaled to cover and
            then cropped to around its centre, with a Lanczos filter. None leaves images as they
            are.
        skip_bad: Leave out files of a folder that cannot be read, instead of raising.

    Raises:
        ValueError: `size` is not positive.
    """

    data: str | os.PathLike[str]
    size: tuple[int, int] | int | None = None
    skip_bad: bool = False

    def __post_init__(self):
        if self.size is None:
            return
        pair = isinstance(self.size, (tuple, list))
        size = tuple(self.size) if pair else (self.size, self.size)
        if len(size) != 2 or not all(checks.is_integer(side) and side > 0 for side in size):
            raise ValueError(
                "size must be a positive integer, or two of them for height and width; received "
                f"{self.size!r}."
            )
        object.__setattr__(self, "size", tuple(map(int, size)))

    @property
    def path(self) -> Path | None:
        """Where the file or folder would be; None for a named set without $TFGEN_DATA_DIR."""
        if is_named(self.data):
            return named_file(self.data)
        if not os.fspath(self.data):  # Path("") is the working directory
            raise unknown("")
        return Path(self.data).expanduser()

    @property
    def image_folder(self) -> Path | None:
        """The folder of image files that it is; None for anything else, shards too."""
        path = self.path
        return path if path is not None and path.is_dir() and not is_shards(path) else None

    def holds(self, folder: Path) -> bool:
        """Whether `folder` is that of these images, or lies in it; not of shards."""
        images = self.image_folder
        return images is not None and folder.resolve().is_relative_to(images.resolve())

    def refuse(self, folder: Path, why: str) -> None:
        """Raises ValueError if it `holds` the folder; `why` says what would happen otherwise."""
        if self.holds(folder):
            raise ValueError(
                f"folder (--out) must lie outside the images, {str(self.data)!r}, or {why}; "
                f"received {folder}. Name another folder."
            )


Data = str | os.PathLike[str] | Source


def of_recipe(recipe: Recipe, other: Data | None = None) -> Data:
    """Returns the data of a recipe, or another set, with the size that it is read with.

    Args:
        recipe: Another folder of images is read with its `size` and `skip_bad`, another .npz file
            with its `size`. Named sets, shards and a `Source` stay as they are.
        other: As for `arrays`; None for the recipe's own data.
    """
    wanted, skip_bad = recipe.data, recipe.skip_bad
    if other is not None:
        if isinstance(other, Source) or is_named(other):
            return other
        wanted, is_folder = other, Source(other).image_folder is not None
        if not is_folder and Path(other).suffix.lower() != ".npz":
            return other
        skip_bad = skip_bad and is_folder
    if recipe.size is None and not skip_bad:
        return wanted
    return Source(wanted, recipe.size, skip_bad)


def load(data: Data, split: str = "train", labels: bool = False) -> tf.data.Dataset:
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
            f"labels must be False for {source_of(data).data!r}, because this set has no labels; "
            "received True. Leave labels out, or choose a labelled set such as 'mnist'."
        )
    return tf.data.Dataset.from_tensor_slices((images, classes))


def arrays(data: Data, split: str = "train") -> Pair:
    """Loads one split of a data set into memory.

    Besides the named sets, `data` may be a path, or a `Source` that resizes:

    - An `.npz` file with uint8 images of shape (N, H, W) or (N, H, W, C) under `x_train`, `x_val`
      and `x_test`, labels under `y_train`, `y_val` and `y_test`; or under `train`, `valid` and
      `test`; or under `images`, labels under `labels`.
    - A folder of image files. Its subfolders, if it has any, are the classes, numbered by the
      order of their names; or the splits train, validation and test. See `tfgen.data.folders`.
    - A folder of shards that `tfgen data prepare` has written.

    A large named set without a validation split gives up the last 10,000 training images for it. A
    small one and a user's own set first give up the last fifth of all images for a missing test
    split, then the last fifth of the rest for a missing validation split; images that come class
    by class are spread before that. The images of a folder are ordered by a hash of their names,
    within each class.

    >>> images, labels = arrays("digits", "validation")
    >>> images.shape, images.dtype.name, labels.dtype.name
    ((287, 8, 8, 1), 'uint8', 'int64')

    Args:
        data: A name out of `names()`, the path of an `.npz` file or of a folder, or a `Source`.
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
    source = source_of(data)
    if _is_shards(source):
        return read_shards(source.path, split)
    if _is_folder(source):
        return _read_folder(source, split)
    return _load(source)[split]


def open_split(data: Data, split: str, memory_bytes: int | None = None) -> Split:
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
    source = source_of(data)
    if _is_shards(source):
        return Shards(source.path, split)
    if _is_folder(source):
        folder = open_folder(source.path, source.size, source.skip_bad)
        bytes_of_split = len(folder.splits[split][0]) * math.prod(folder.image_shape)
        if bytes_of_split > (MEMORY_BYTES if memory_bytes is None else memory_bytes):
            return Files(folder, split)
        return Arrays(*_read_folder(source, split), folder.num_classes)
    path = source.path and source.path.resolve()
    source = dataclasses.replace(source, data=as_text(source.data))  # as one key of the cache
    splits = _load_once(source, path, _stamp(path))
    # A rare class may be held out whole.
    labels = [labels.max() for _, labels in splits.values() if labels is not None]
    return Arrays(*splits[split], 1 + int(max(labels)) if labels else None)


def source_of(data: Data) -> Source:
    """Returns a name or a path as a `Source`."""
    return data if isinstance(data, Source) else Source(data)


def _is_folder(source: Source) -> bool:
    return source.path is not None and source.path.is_dir()


def _is_shards(source: Source) -> bool:
    """Whether a source is a folder of shards, which are read as they are."""
    if not _is_folder(source) or not is_shards(source.path):
        return False
    if source.size or source.skip_bad:
        raise ValueError(
            f"size and skip_bad must be left out for shards; received size={source.size}, "
            f"skip_bad={source.skip_bad} for {source.path}. Prepare the data again with them."
        )
    return True


def _read_folder(source: Source, split: str) -> Pair:
    folder = open_folder(source.path, source.size, source.skip_bad)
    return validated(str(source.path), *folder.read(split), folder.image_shape)


def _load(source: Source) -> dict[str, Pair]:
    """Loads every split of a named set or an .npz file; raises ValueError for another source."""
    path = None if is_named(source.data) else _npz(source)  # first: is there anything?
    if source.skip_bad:
        raise ValueError(
            f"skip_bad must be False for {source.data!r}, which is not a folder of images. "
            "Leave it out (--skip-bad)."
        )
    if path is None:
        splits = load_named(source.data)
    else:
        splits = with_every_split(str(source.path), read_npz(path))
    if source.size is None:
        return splits
    return {split: (_resized(images, source.size), y) for split, (images, y) in splits.items()}


def _npz(source: Source) -> Path:
    """Returns the path of an .npz file, or raises ValueError that names what is there instead."""
    path = source.path
    is_npz = path.suffix.lower() == ".npz"
    if is_npz and path.is_file():
        return path
    if path.exists():
        raise ValueError(
            f"data must be the path of an .npz file or of a folder of images; received {path}, "
            "which is neither. Save the images with numpy.savez_compressed(path, images=images)."
        )
    if is_npz or len(path.parts) > 1 or not isinstance(source.data, str):
        raise DataNotFoundError(
            f"data must be a path that exists, or one of {', '.join(names())}; received {path}. "
            "Check the spelling and the working directory."
        )
    raise unknown(source.data)


def _resized(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns images (N, *size, C), each scaled to cover the size and cropped."""
    from PIL import Image

    if images.shape[1:3] == size:
        return images
    grey = images.shape[3] == 1
    resized = [
        np.asarray(fitted(Image.fromarray(image[..., 0] if grey else image), size))
        for image in images
    ]
    return np.stack(resized)[..., None] if grey else np.stack(resized)


@functools.lru_cache(maxsize=1)
def _load_once(source: Source, path: Path | None, stamp: tuple[int, int] | None) -> dict[str, Pair]:
    """Loads a set, unless it is the last one loaded and its file is still the same."""
    return _load(source)


def _stamp(path: Path | None) -> tuple[int, int] | None:
    """Returns time and size of a file; None if there is none."""
    if path is None or not path.is_file():
        return None
    status = path.stat()
    return status.st_mtime_ns, status.st_size
