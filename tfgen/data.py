"""Data sets as uint8 images, whether named, in a file of the user's own, or in a folder.

    name                 image        train   validation    test   labels   from
    digits             8 x 8 x 1      1,151          287     359      yes   scikit-learn
    mnist            28 x 28 x 1     50,000       10,000  10,000      yes   keras.datasets
    fashion_mnist    28 x 28 x 1     50,000       10,000  10,000      yes   keras.datasets
    cifar10          32 x 32 x 3     40,000       10,000  10,000      yes   keras.datasets
    binarized_mnist  28 x 28 x 1     50,000       10,000  10,000       no   Larochelle and Murray

Every named set is looked for as `<name>.npz` in the folder `$TFGEN_DATA_DIR` first, so that a
machine without internet works. Only then is it downloaded, into the cache of Keras.

The order of the images is the file's and never changes: shuffling belongs to training, where it
has a seed.
"""

import dataclasses
import difflib
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

import keras
import numpy as np
import tensorflow as tf

from tfgen import pixels
from tfgen.files import NOT_JSON

__all__ = ["SPLITS", "DataNotFoundError", "arrays", "digest", "load", "names"]

SPLITS = ("train", "validation", "test")
INDEX = "dataset.json"  # of a folder of shards, see tfgen.streams
FORMAT = "tfgen shards 1"

Pair = tuple[np.ndarray, np.ndarray | None]  # images (N, H, W, C) uint8, labels (N,) int64


class DataNotFoundError(FileNotFoundError):
    """A data set is neither on this disk nor reachable. The message says both ways out."""


def names() -> list[str]:
    """Returns the names of the data sets that need no path.

    >>> names()
    ['binarized_mnist', 'cifar10', 'digits', 'fashion_mnist', 'mnist']
    """
    return sorted(_NAMED)


def load(
    name: str | os.PathLike[str], split: str = "train", labels: bool = False
) -> tf.data.Dataset:
    """Loads one split of a data set as single images, unbatched and in the order of the file.

    >>> load("digits", "test").element_spec.shape
    TensorShape([8, 8, 1])

    Args:
        name: As for `arrays`.
        split: `"train"`, `"validation"` or `"test"`.
        labels: Whether to yield pairs (image, label) instead of images.

    Returns:
        A dataset of known cardinality. Images are uint8 (height, width, channels) in [0, 255],
        labels int64 scalars.

    Raises:
        ValueError: As for `arrays`, or `labels=True` for a set that has none.
        DataNotFoundError: As for `arrays`.
    """
    images, classes = arrays(name, split)
    if not labels:
        return tf.data.Dataset.from_tensor_slices(images)
    if classes is None:
        raise ValueError(
            f"labels must be False for {os.fspath(name)!r}, because this data set has no labels; "
            "received True. Leave labels out, or choose a labelled set such as 'mnist'."
        )
    return tf.data.Dataset.from_tensor_slices((images, classes))


def arrays(name: str | os.PathLike[str], split: str = "train") -> Pair:
    """Loads one split of a data set into memory.

    Besides the named sets, `name` may be a path:

    - An `.npz` file with uint8 images of shape (N, H, W) or (N, H, W, C) under `x_train` and
      `x_test` (labels under `y_train` and `y_test`), or under `train`, `valid` and `test`, or
      under `images` (labels under `labels`).
    - A folder of PNG and JPEG files of one size. Its subfolders, if it has any, are the classes,
      numbered by the order of their names. The classes are spread evenly, so that each split
      holds a fair share of every class.
    - A folder of shards that `tfgen data prepare` has written.

    A named set without a validation split gives up the last 10,000 training images for it.
    `digits` and a user's own set first give up the last fifth of all images for a missing test
    split, then the last fifth of the rest for a missing validation split.

    >>> images, labels = arrays("digits", "validation")
    >>> images.shape, images.dtype.name, labels.dtype.name
    ((287, 8, 8, 1), 'uint8', 'int64')

    Args:
        name: A name out of `names()`, or the path of an `.npz` file or of an image folder.
        split: `"train"`, `"validation"` or `"test"`.

    Returns:
        Images, uint8 (N, height, width, channels) in [0, 255] with 1 or 3 channels, and labels,
        int64 (N,), or None where the set has none.

    Raises:
        ValueError: An unknown name or split, or a file whose content breaks the rules above.
        DataNotFoundError: The set is neither on this disk nor reachable.
        ImportError: `digits` without scikit-learn.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; received {split!r}.")
    if is_named(name):
        source = _NAMED[name]
        return _with_every_split(name, _load_named(name), source.num_validation)[split]
    if (Path(name).expanduser() / INDEX).is_file():
        return _read_shards(Path(name).expanduser(), split)
    return _with_every_split(os.fspath(name), _load_path(name), None)[split]


def is_named(name: str | os.PathLike[str]) -> bool:
    """Whether `name` is one of `names()`, so no path."""
    return isinstance(name, str) and name in _NAMED


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


# Splits


def _with_every_split(name: str, splits: dict[str, Pair], num_validation: int | None) -> dict:
    """Adds the test and validation splits that a set lacks, from the end of train."""
    splits = dict(splits)
    if "test" not in splits:
        splits["train"], splits["test"] = _cut(name, splits["train"], None)
    if "validation" not in splits:
        splits["train"], splits["validation"] = _cut(name, splits["train"], num_validation)
    return splits


def _cut(name: str, pair: Pair, count: int | None) -> tuple[Pair, Pair]:
    """Cuts the last `count` images off, or the last fifth (at least one) if it is None."""
    images, labels = pair
    count = max(1, len(images) // 5) if count is None else count
    if len(images) <= count:
        raise ValueError(
            f"name must be a data set with an image for each of its splits; {name!r} has "
            f"{len(images)} left for train when {count} must be held out. Add images."
        )
    keep = len(images) - count
    if labels is None:
        return (images[:keep], None), (images[keep:], None)
    return (images[:keep], labels[:keep]), (images[keep:], labels[keep:])


# Named sets


def _load_named(name: str) -> dict[str, Pair]:
    """Loads a named set from $TFGEN_DATA_DIR, or else from its source."""
    source = _NAMED[name]
    folder = os.environ.get("TFGEN_DATA_DIR")
    path = Path(folder).expanduser() / f"{name}.npz" if folder else None
    if path is not None and path.is_file():
        return _read_npz(path, source.image_shape)
    try:
        splits = source.fetch()
    except ImportError:
        raise
    # Keras raises a bare Exception when a download fails, so nothing narrower will do.
    except Exception as error:
        missing = "TFGEN_DATA_DIR is not set" if path is None else f"{path} does not exist"
        raise DataNotFoundError(
            f"name must be a data set that is on this disk or reachable; received {name!r}, but "
            f"{missing}, and its source {source.origin} failed with "
            f"{type(error).__name__}: {error}. Either set TFGEN_DATA_DIR to a folder that holds "
            f"{name}.npz, or connect to the internet and try again."
        ) from error
    return {
        split: _checked(f"{name} ({split})", images, labels, source.image_shape)
        for split, (images, labels) in splits.items()
    }


def _fetch_digits() -> dict[str, Pair]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "name 'digits' needs scikit-learn, which is not installed. "
            "Install it with: pip install tfgen[data]"
        ) from error
    bundle = load_digits()
    levels = bundle.images.astype(np.int64)  # (1797, 8, 8) in [0, 16]
    return {"train": (pixels.level_values(17)[levels], bundle.target)}


def _fetch_keras(name: str) -> dict[str, Pair]:
    train, test = getattr(keras.datasets, name).load_data()
    return {"train": train, "test": test}


_BINARIZED_MNIST = (
    "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/binarized_mnist_"
)
# The address is not encrypted, so the published hashes are what makes the files trustworthy.
_BINARIZED_MNIST_SHA256 = {
    "train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "valid": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "test": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}


def _fetch_binarized_mnist() -> dict[str, Pair]:
    splits = {}
    for part, sha256 in _BINARIZED_MNIST_SHA256.items():
        path = keras.utils.get_file(
            f"binarized_mnist_{part}.amat", f"{_BINARIZED_MNIST}{part}.amat", file_hash=sha256
        )
        split = "validation" if part == "valid" else part
        splits[split] = (_parse_amat(Path(path).read_bytes()), None)
    return splits


def _parse_amat(text: bytes) -> np.ndarray:
    """Parses lines of 784 characters 0 or 1 between blanks into images of 0 and 255."""
    characters = np.frombuffer(text, np.uint8)
    bits = characters[characters > ord(" ")] - np.uint8(ord("0"))
    return (255 * bits).reshape(-1, 28, 28)


@dataclasses.dataclass(frozen=True)
class _Source:
    """Where a named set comes from when $TFGEN_DATA_DIR does not hold it.

    Attributes:
        image_shape: Height, width, channels.
        num_validation: How many of the last training images are held out for a missing
            validation split. None: a fifth.
        origin: The source, for messages.
        fetch: Returns the splits that the source has, downloading them if need be.
    """

    image_shape: tuple[int, int, int]
    num_validation: int | None
    origin: str
    fetch: Callable[[], dict[str, Pair]]


_NAMED = {
    "digits": _Source((8, 8, 1), None, "scikit-learn", _fetch_digits),
    "mnist": _Source((28, 28, 1), 10_000, "keras.datasets.mnist", lambda: _fetch_keras("mnist")),
    "fashion_mnist": _Source(
        (28, 28, 1), 10_000, "keras.datasets.fashion_mnist", lambda: _fetch_keras("fashion_mnist")
    ),
    "cifar10": _Source(
        (32, 32, 3), 10_000, "keras.datasets.cifar10", lambda: _fetch_keras("cifar10")
    ),
    "binarized_mnist": _Source(
        (28, 28, 1), 10_000, f"{_BINARIZED_MNIST}*.amat", _fetch_binarized_mnist
    ),
}


# Files and folders of the user's own


def _load_path(name: str | os.PathLike[str]) -> dict[str, Pair]:
    """Loads the set that a path leads to, or says that `name` is neither a name nor a path."""
    path = Path(name).expanduser()
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".npz" and path.is_file():
        return _read_npz(path, None)
    if path.exists():
        raise ValueError(
            f"name must be the path of an .npz file or of a folder of images; received {path}, "
            "which is neither. Save the images with numpy.savez_compressed(path, images=images)."
        )
    if path.suffix == ".npz" or len(path.parts) > 1 or not isinstance(name, str):
        raise DataNotFoundError(
            f"name must be a path that exists, or one of {', '.join(names())}; received {path}. "
            "Check the spelling and the working directory."
        )
    _raise_unknown(name)


def _raise_unknown(name: str) -> NoReturn:
    near = difflib.get_close_matches(name, names(), n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else "Choose one of these."
    raise ValueError(
        f"name must be one of {', '.join(names())}, or the path of an .npz file or of a folder "
        f"of images; received {name!r}. {hint}"
    )


def _read_npz(path: Path, image_shape: tuple[int, int, int] | None) -> dict[str, Pair]:
    """Reads the splits that an `.npz` file has.

    Args:
        path: The file.
        image_shape: The shape of a named set's images, which also lets binary images come packed
            eight to a byte, uint8 (N, ceil(H W / 8)). None: any shape, the same in every split.

    Returns:
        A dictionary with `train` at least.
    """
    if not zipfile.is_zipfile(path):
        _raise_damaged(path, "it is not a zip archive")
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = file.files
            found = {
                split: (images_key, file[images_key], file[labels_key] if labels_key else None)
                for split, images_key, labels_key in _npz_keys(keys)
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        _raise_damaged(path, str(error), error)
    if "train" not in found:
        raise ValueError(
            f"{path} must hold images under x_train, train or images; "
            f"received the keys {', '.join(keys) or '(none)'}. Rename them."
        )
    splits = {}
    for split, (key, images, labels) in found.items():
        images = _unpacked(images, image_shape)
        splits[split] = _checked(f"{path} ({key})", images, labels, image_shape)
        image_shape = splits[split][0].shape[1:]  # from now on the same in every split
    return splits


def _npz_keys(found: list[str]) -> list[tuple[str, str, str | None]]:
    """Returns (split, key of its images, key of its labels or None) for each split in a file."""
    candidates = {
        "train": (("x_train", "y_train"), ("train", "y_train"), ("images", "labels")),
        "validation": tuple(
            (f"{prefix}{stem}", f"y_{stem}")
            for stem in ("validation", "valid")
            for prefix in ("x_", "")
        ),
        "test": (("x_test", "y_test"), ("test", "y_test")),
    }
    keys = []
    for split, pairs in candidates.items():
        present = [pair for pair in pairs if pair[0] in found]
        if present:
            images_key, labels_key = present[0]
            keys.append((split, images_key, labels_key if labels_key in found else None))
    return keys


def _unpacked(images: np.ndarray, image_shape: tuple[int, int, int] | None) -> np.ndarray:
    """Unpacks the bits of binary images, and leaves any other array as it is."""
    if image_shape is None or images.ndim != 2 or images.dtype != np.uint8:
        return images
    size = int(np.prod(image_shape))
    if images.shape[1] != -(-size // 8):
        return images
    bits = np.unpackbits(images, axis=1, count=size)
    return (255 * bits).reshape(-1, *image_shape)


def _raise_damaged(path: Path, reason: str, error: Exception | None = None) -> NoReturn:
    raise ValueError(
        f"{path} must be a whole .npz file as numpy.savez writes it; it cannot be read: {reason}. "
        "Delete it and save or copy it again."
    ) from error


def _read_folder(folder: Path) -> dict[str, Pair]:
    """Reads a folder of images, or of one subfolder of images for each class."""
    paths, labels = _list_folder(folder)
    return {"train": (_read_images(folder, paths), labels)}


def image_files(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the files (N,) and labels (N,) of a split of an image folder, none of them read.

    They are the images that `arrays` reads, in the same order.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; received {split!r}.")
    paths, labels = _list_folder(folder)
    files = np.array([str(path) for path in paths])
    return _with_every_split(str(folder), {"train": (files, labels)}, None)[split]


def _list_folder(folder: Path) -> tuple[list[Path], np.ndarray | None]:
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    files = [_image_files(path) for path in classes]
    own = _image_files(folder)
    if own and any(files):
        raise ValueError(
            f"{folder} must hold either images or subfolders of images, one for each class; it "
            "holds both. Move the images into subfolders."
        )
    if not own and not any(files):
        raise ValueError(f"{folder} must hold PNG or JPEG images; it holds none. Add some.")
    if own:
        return own, None
    # An image goes to its relative place within its class, so every class is spread evenly over
    # the whole set and none is missing from the splits that are cut off its end.
    order = sorted(
        ((place + 0.5) / len(paths), label, path)
        for label, paths in enumerate(files)
        for place, path in enumerate(paths)
    )
    labels = np.array([label for _, label, _ in order], np.int64)
    return [path for _, _, path in order], labels


def _image_files(folder: Path) -> list[Path]:
    suffixes = (".png", ".jpg", ".jpeg")
    found = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "."]
    return sorted(path for path in found if path.suffix.lower() in suffixes)


def _read_images(folder: Path, paths: list[Path]) -> np.ndarray:
    """Returns uint8 (N, H, W, 1) if every image is grey, and (N, H, W, 3) otherwise."""
    images = []
    for path in paths:
        images.append(_decoded(path))
        if images[-1].shape[:2] != images[0].shape[:2]:
            raise ValueError(
                f"{folder} must hold images of one size; {paths[0].name} has height and width "
                f"{images[0].shape[:2]}, {path.name} has {images[-1].shape[:2]}. "
                "Resize or crop them."
            )
    if all(image.ndim == 2 for image in images):
        return np.stack(images)[..., None]
    # Grey as three equal channels is exact, so mixed folders become colour.
    return np.stack([image if image.ndim == 3 else np.dstack([image] * 3) for image in images])


def _decoded(path: Path) -> np.ndarray:
    """Returns a file's image, uint8 (H, W) or (H, W, 3)."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.has_transparency_data or image.mode not in _MODES:
                raise ValueError(
                    f"{path} must be an 8-bit grey or colour image without transparency; "
                    f"received mode {image.mode}. "
                    "Convert it: Image.open(path).convert('RGB').save(path)."
                )
            # Cameras store which way up they were held instead of turning the pixels.
            upright = ImageOps.exif_transpose(image)
            return np.asarray(upright.convert(_MODES[image.mode]))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(
            f"{path} must be a whole PNG or JPEG file; it cannot be read: {error}. "
            "Replace or delete it."
        ) from error


def folder_shape(folder: Path, paths: np.ndarray) -> tuple[int, int, int]:
    """Returns the shape of a folder's images from the first file and every file's header."""
    from PIL import Image, UnidentifiedImageError

    height, width = _decoded(Path(paths[0])).shape[:2]
    colour = False
    for path in paths:
        try:
            with Image.open(path) as image:
                colour = colour or _MODES.get(image.mode) == "RGB"
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise ValueError(
                f"{path} must be a whole PNG or JPEG file; it cannot be read: {error}. "
                "Replace or delete it."
            ) from error
    return height, width, 3 if colour else 1


def read_image(path: str | Path, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Returns one file's image, uint8 of that shape; grey becomes colour where that is asked.

    Raises:
        ValueError: The file holds another size, or no image.
    """
    image = _decoded(Path(path))
    if image.ndim == 2:
        image = np.dstack([image] * image_shape[2])
    if image.shape != tuple(image_shape):
        raise ValueError(
            f"{path} must have the shape of the first image of its folder, {tuple(image_shape)}; "
            f"received {image.shape}. Resize or crop it."
        )
    return image


def read_index(folder: Path) -> dict:
    """Returns the content of a folder's dataset.json.

    Raises:
        ValueError: It is not what `tfgen data prepare` writes, or a shard is missing.
    """
    path = folder / INDEX
    try:
        index = json.loads(path.read_text())
        shape, classes = index["image_shape"], index["num_classes"]
        fine = (
            index["format"] == FORMAT
            and len(shape) == 3
            and all(isinstance(side, int) and side > 0 for side in shape)
            and shape[2] in (1, 3)
            and (classes is None or (isinstance(classes, int) and classes > 0))
            and set(index["splits"]) == set(SPLITS)
            and all(
                isinstance(own["count"], int) and own["count"] > 0 and own["shards"]
                for own in index["splits"].values()
            )
        )
        shards = [shard for own in index["splits"].values() for shard in own["shards"]]
        # A name from a file must not lead out of the folder.
        fine = fine and all(isinstance(s, str) and s == Path(s).name for s in shards)
    except (*NOT_JSON, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not an index that tfgen data prepare writes ({error!r}). Prepare it again."
        ) from error
    if not fine:
        raise ValueError(
            f"{path} is not an index that tfgen data prepare writes. Prepare the data again."
        )
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise ValueError(f"{folder} lacks the shard {missing[0]}. Copy it, or prepare it again.")
    return index


def _read_shards(folder: Path, split: str) -> Pair:
    """Reads a split of shards into memory."""
    from tfgen import streams

    source = streams.Shards(folder, split)
    parts = [source.read(keys) for keys in source.keys_in_order().batch(500)]
    images = np.concatenate([images for images, _ in parts])
    labels = None
    if source.num_classes is not None:
        labels = np.concatenate([labels for _, labels in parts])
    if len(images) != source.count:
        raise ValueError(
            f"{folder} must hold {source.count} images in its {split} split; its shards hold "
            f"{len(images)}. Prepare the data again."
        )
    return images, labels


# What an image's mode becomes. 1: black and white, L: grey, P: palette, YCbCr and CMYK: JPEG.
_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "YCbCr": "RGB", "CMYK": "RGB"}


def _checked(
    what: str,
    images: np.ndarray,
    labels: np.ndarray | None,
    image_shape: tuple[int, int, int] | None,
) -> Pair:
    """Returns images as uint8 (N, H, W, C) and labels as int64 (N,), or says what is wrong."""
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
            f"{what} must come with one whole number of 0 or more for each of its {len(images)} "
            f"images as labels; received dtype {labels.dtype} and shape {labels.shape}. "
            "Number the classes from 0."
        )
    return images, flat.astype(np.int64)
