"""Folders of image files: which of them are images, their classes and their splits.

    photos/*.png                    images without labels
    photos/cat/*.png                one subfolder for each class, numbered by the order of names
    photos/train/..., photos/test/...   splits as they are, with or without class folders inside

A missing split is held out of train: the last fifth of the images, ordered by a hash of their
names, within each class. In the order of the names, photos named by subject would put one subject
into validation alone.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tfgen.data.images import READABLE, Header, is_dangling, read_header, read_image
from tfgen.data.pairs import SPLITS, Pair, check_classes, with_every_split
from tfgen_command.wording import counted, listed, tell

__all__ = ["ImageFolder", "Listing", "list_folder", "open_folder"]

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
UNSEEN = ("__macosx", "@eadir", "$recycle.bin", "thumbs.db", "desktop.ini")  # made by systems


@dataclasses.dataclass(frozen=True)
class Listing:
    """The image files of a folder, none of them opened.

    Attributes:
        path: The folder.
        splits: Images of each split that the folder names, or all under "train".
        labels: The same for their labels; None for images without classes.
        classes: Names of the classes in the order of their labels, or None.
        skipped: Files that are not images, and folders without any, relative to the folder.
    """

    path: Path
    splits: dict[str, list[Path]]
    labels: dict[str, list[int]] | None
    classes: list[str] | None
    skipped: list[str]

    @property
    def files(self) -> list[Path]:
        """All images."""
        return [path for paths in self.splits.values() for path in paths]


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """A folder whose files are known to agree.

    Attributes:
        splits: (files, labels) of each of the three splits.
        image_shape: Height, width, channels.
        num_classes: Classes, or None.
        fit: Whether files are scaled and cropped to that shape.
        contents: What the folder holds, how it is split and what is left out, a sentence for each.
        changes: How images differ from their files, a sentence for each way.
    """

    splits: dict[str, Pair]
    image_shape: tuple[int, int, int]
    num_classes: int | None
    fit: bool
    contents: tuple[str, ...]
    changes: tuple[str, ...]

    def read(self, split: str) -> Pair:
        """Reads a split into memory."""
        files, labels = self.splits[split]
        return np.stack([read_image(f, self.image_shape, self.fit) for f in files]), labels


def open_folder(
    path: Path,
    size: tuple[int, int] | None = None,
    skip_bad: bool = False,
    quiet: bool = False,
) -> ImageFolder:
    """Lists a folder, reads the header of each file, and says what it holds and what is changed.

    The last folder is kept, so opening its other splits reads nothing again.

    Args:
        path: The folder.
        size: Height and width to scale and crop to; None: all files have one size.
        skip_bad: Leave files out that cannot be read, instead of raising. It reads each file.
        quiet: Say nothing; see `contents` and `changes`.

    Raises:
        ValueError: No images, images of several sizes, or files that cannot be read.
    """
    folder = _open(path, size, skip_bad, tuple(map(_stamp, list_folder(path).files)))
    if not quiet:
        tell(f"{path}: {' '.join((*folder.contents, *folder.changes))}")
    return folder


def list_folder(path: Path) -> Listing:
    """Returns the image files of a folder.

    Raises:
        ValueError: There are none, or they are arranged in a way that is not understood.
    """
    skipped: list[str] = []
    folders = _image_folders(path, path, skipped)
    own = _images(path, path, skipped)
    if not own and not folders:
        raise ValueError(
            f"{path} must hold images ({', '.join(READABLE)}); it holds none"
            f"{', only ' + listed(skipped) if skipped else ''}. Name another folder."
        )
    parts = (not own and _split_folders(path, folders)) or {"train": path}
    found = {split: _classes(path, part, skipped) for split, part in parts.items()}
    names = found["train"].keys()
    for split, classes in found.items():
        extra = sorted(classes.keys() - names)
        if extra or ("" in classes) != ("" in names):
            raise ValueError(
                f"{parts[split]} must hold the classes of {parts['train']}; received "
                f"{listed(extra) or 'images without classes'}. Move the images, or name the "
                "folders of both alike."
            )
    label_of = {name: label for label, name in enumerate(names)}
    ordered = {
        split: _spread([(label_of[name], files) for name, files in classes.items()])
        for split, classes in found.items()
    }
    files = {split: [file for _, file in pairs] for split, pairs in ordered.items()}
    labels = {split: [label for label, _ in pairs] for split, pairs in ordered.items()}
    left_out = sorted(set(skipped))
    if "" in names:
        return Listing(path, files, None, None, left_out)
    return Listing(path, files, labels, list(names), left_out)


def _split_folders(path: Path, folders: list[Path]) -> dict[str, Path]:
    """Returns the subfolder of each split, {} where they are classes."""
    split_of = {f: SPLIT_NAMES[f.name.lower()] for f in folders if f.name.lower() in SPLIT_NAMES}
    others = [folder.name for folder in folders if folder not in split_of]
    splits = list(split_of.values())
    if not split_of or (others and len(splits) == 1):  # "train" may be a class, next to "bus"
        return {}
    if others:
        raise ValueError(
            f"{path} must hold either splits or classes; it holds the splits "
            f"{listed([f.name for f in split_of])} next to {listed(others)}. Move one of them away."
        )
    if "train" not in splits or len(splits) > len(set(splits)):
        raise ValueError(
            f"{path} must hold a folder train and at most one for validation and test each; "
            f"it holds {listed([f.name for f in split_of])}. Rename them."
        )
    return {split: folder for folder, split in split_of.items()}


def _classes(root: Path, folder: Path, skipped: list[str]) -> dict[str, list[Path]]:
    """Returns the images of each class by its name, in order; of "" where there are none."""
    own, folders = _images(root, folder, skipped), _image_folders(root, folder, skipped)
    if own and folders:
        raise ValueError(
            f"{folder} must hold either images or subfolders of images, one for each class; it "
            f"holds both, such as {own[0].name} and {folders[0].name}/. Move the images into "
            "subfolders."
        )
    if own:
        return {"": own}
    found = {}
    for part in folders:
        deeper = _image_folders(root, part, skipped)
        if deeper:
            fix = f"Name {part} instead" if len(folders) == 1 else "Move the images up"
            raise ValueError(
                f"{folder} must hold one folder of images for each class; {part.name}/ has "
                f"images in a folder of its own, {deeper[0].name}/. {fix}."
            )
        name = _composed(part)
        if name in found:
            raise ValueError(
                f"{folder} must hold one folder for each class; two of them have the name {name}, "
                "with its accents spelled in two ways. Move the images into one of them."
            )
        found[name] = _images(root, part, skipped)
    return found


def _images(root: Path, folder: Path, skipped: list[str]) -> list[Path]:
    """Returns the images right in a folder, by name; adds other files to `skipped`.

    Dangling links are images that cannot be read.
    """
    files = sorted(
        path for path in folder.iterdir() if _seen(path) and (path.is_file() or is_dangling(path))
    )
    images, others = _parted(files, lambda path: path.suffix.lower() in READABLE)
    skipped.extend(str(path.relative_to(root)) for path in others)
    return images


def _image_folders(root: Path, folder: Path, skipped: list[str]) -> list[Path]:
    """Returns the subfolders that hold images at any depth; adds the others to `skipped`."""
    found = (path for path in folder.iterdir() if path.is_dir() and _seen(path))
    full, others = _parted(sorted(found, key=_composed), _holds_images)
    skipped.extend(f"{path.relative_to(root)}/" for path in others)
    return full


def _parted(paths: list[Path], rule: Callable[[Path], bool]) -> tuple[list[Path], list[Path]]:
    """Returns the paths that a rule holds for, and the others."""
    parts: tuple[list[Path], list[Path]] = [], []
    for path in paths:
        parts[not rule(path)].append(path)
    return parts


def _holds_images(folder: Path) -> bool:
    # Links are followed where classes are, and no deeper: they may lead in circles.
    linked: list[Path] = []
    with contextlib.suppress(PermissionError):  # such as lost+found
        linked = [path for path in folder.iterdir() if path.is_symlink() and _seen(path)]
    for place in (folder, *linked):
        for _, folders, files in os.walk(place):
            folders[:] = [name for name in folders if _seen(Path(name))]
            if any(_seen(Path(f)) and Path(f).suffix.lower() in READABLE for f in files):
                return True
    return False


def _stamp(path: Path) -> tuple[str, int, int]:
    """Returns name, time and size of a file, or of a link whose file is gone."""
    stat = path.lstat() if is_dangling(path) else path.stat()
    return str(path), stat.st_mtime_ns, stat.st_size


def _seen(path: Path) -> bool:
    return path.name[0] != "." and path.name.lower() not in UNSEEN


def _spread(classes: list[tuple[int, list[Path]]]) -> list[tuple[int, Path]]:
    """Orders the images of each class by a hash of their names, and spreads the classes evenly.

    An image goes to its relative place within its class, so splits cut off the end have every
    class.
    """
    return [
        (label, path)
        for _, label, path in sorted(
            ((place + 0.5) / len(paths), label, path)
            for label, paths in classes
            for place, path in enumerate(sorted(paths, key=_hashed))
        )
    ]


def _hashed(path: Path) -> bytes:
    # Names need not be UTF-8.
    return hashlib.sha256(_composed(path).encode(errors="surrogateescape")).digest()


def _composed(path: Path) -> str:
    """Returns a name in one spelling: systems write accents in two ways."""
    return unicodedata.normalize("NFC", path.name)


@functools.lru_cache(maxsize=1)
def _open(
    path: Path,
    size: tuple[int, int] | None,
    skip_bad: bool,
    stamps: tuple[tuple[str, int, int], ...],
) -> ImageFolder:
    """Opens a folder, unless it is the last one opened and its files are still the same."""
    listing = list_folder(path)
    headers, bad = _headers(listing, skip_bad)
    height, width = size or _common_size(path, headers)
    image_shape = (height, width, 3 if any(h.colour for h in headers.values()) else 1)
    splits = _readable(listing, headers)
    check_classes(str(path), splits)
    splits = with_every_split(str(path), splits)
    return ImageFolder(
        splits,
        image_shape,
        None if listing.classes is None else len(listing.classes),
        size is not None,
        _contents(listing, splits, image_shape, bad),
        _changes(list(headers.values()), size),
    )


def _headers(listing: Listing, skip_bad: bool) -> tuple[dict[Path, Header], list[str]]:
    """Returns the headers of the files that can be read, and the names of the others."""
    headers, bad = {}, []
    for path in listing.files:
        try:
            header = read_header(path)
            if skip_bad:  # a header may be whole and its pixels not
                read_image(path, (*header.size, 3 if header.colour else 1))
            headers[path] = header
        except ValueError:
            if not skip_bad:
                raise
            bad.append(str(path.relative_to(listing.path)))
    return headers, bad


def _common_size(path: Path, headers: dict[Path, Header]) -> tuple[int, int]:
    """Returns the height and width that all images have."""
    first = next(iter(headers), None)
    for file, header in headers.items():
        if header.size != headers[first].size:
            (height, width), (other_height, other_width) = headers[first].size, header.size
            raise ValueError(
                f"{path} must hold images of one size unless a size is given; {first.name} is "
                f"{height} x {width} (height x width), {file.name} is {other_height} x "
                f"{other_width}. Pass a size to scale and crop all of them to, such as size=64 "
                '(--size 64, or "size": 64 in a recipe).'
            )
    return headers[first].size if first else (1, 1)  # without any, `_readable` raises


def _readable(listing: Listing, headers: dict[Path, Header]) -> dict[str, Pair]:
    """Returns the splits that a folder names, without the files that cannot be read."""
    splits = {}
    for split, paths in listing.splits.items():
        kept = [index for index, path in enumerate(paths) if path in headers]
        if not kept:
            raise ValueError(
                f"{listing.path} must hold images that can be read for its {split} split; none of "
                f"{len(paths)} can. Replace them."
            )
        labels = None
        if listing.labels is not None:
            labels = np.array(listing.labels[split], np.int64)[kept]
            if split == "train":
                _check_every_class(listing, labels)
        splits[split] = np.array([str(paths[index]) for index in kept]), labels
    return splits


def _check_every_class(listing: Listing, labels: np.ndarray) -> None:
    """Raises ValueError, naming the class, unless each has a training image that can be read."""
    found = set(labels.tolist())
    empty = [name for label, name in enumerate(listing.classes) if label not in found]
    if empty:
        where = " in train" if len(listing.splits) > 1 else ""
        raise ValueError(
            f"{listing.path} must hold an image that can be read for each class; {empty[0]!r} has "
            f"none{where}. Replace its files, or delete its folder."
        )


def _contents(
    listing: Listing, splits: dict[str, Pair], image_shape: tuple[int, int, int], bad: list[str]
) -> tuple[str, ...]:
    """Returns what a folder holds, how it is split and what is left out, a sentence for each."""
    height, width, channels = image_shape
    classes = f" of {counted(len(listing.classes), 'class', 'classes')}" if listing.classes else ""
    counts = {split: len(splits[split][0]) for split in SPLITS}
    held_out = " and ".join(split for split in SPLITS if split not in listing.splits)
    how = f" ({held_out} held out by a hash of the file names)" if held_out else ""
    found = counted(sum(counts.values()), "image")
    listed_counts = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    lines = [f"{found}{classes}, {height} x {width} x {channels}: {listed_counts}{how}."]
    if bad:
        lines.append(f"{counted(len(bad), 'unreadable file')} left out: {listed(bad)}.")
    if listing.skipped:
        lines.append(f"Not images, so not read: {listed(listing.skipped)}.")
    return tuple(lines)


def _changes(headers: list[Header], size: tuple[int, int] | None) -> tuple[str, ...]:
    """Returns how images will differ from their files, a sentence for each way."""
    height, width = size or (0, 0)
    scaled = [header.size for header in headers if size is not None and header.size != size]
    small = sum(h < height or w < width for h, w in scaled)
    ways = {
        "scaled and cropped" + (f" ({small:,} of them enlarged)" if small else ""): len(scaled),
        "drawn over white where transparent": sum(header.transparent for header in headers),
        "reduced from 16 bits to 8": sum(header.deep for header in headers),
    }
    return tuple(f"{counted(count, 'image')} {way}." for way, count in ways.items() if count)
