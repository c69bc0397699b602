"""What a data set holds, before anything trains on it: `tfgen data check`."""

import dataclasses
import hashlib
import statistics
from collections import Counter
from typing import Any

import numpy as np
import tensorflow as tf

from tfgen.data.folders import ImageFolder, Listing, list_folder, open_folder
from tfgen.data.images import read_header, read_image
from tfgen.data.pairs import SPLITS
from tfgen.data.shards import Shards
from tfgen.data.sources import Data, Source, open_split, source_of
from tfgen.data.splits import Split
from tfgen_command.wording import listed

__all__ = ["Report", "check"]

LARGEST = 64  # the size to propose where images differ, for small models on two cores
MULTIPLE = 8  # divides the size to propose: models halve an image several times
BINARY = "All values are 0 and 1, and 1 is nearly black. Save 255 * image."


@dataclasses.dataclass(frozen=True)
class Report:
    """What a data set holds.

    Attributes:
        data: What was checked.
        count: Images that can be read.
        sizes: How many images there are of each (height, width), the most common first.
        modes: The same for Pillow's modes, such as "L" (grey), "RGB" and "P" (palette).
        classes: Images of each class by its name, or None.
        splits: Images of each split.
        held_out: Splits that are cut off the train split of a folder.
        unreadable: Files that cannot be read, relative to the folder, and why.
        duplicates: Names of files with the same bytes as one before.
        skipped: Files and folders that are not images.
        changes: How images differ from their files when they are read, e.g. scaled.
        problems: What a training would refuse, and how to mend it.
        size: A size to read all images with, or None where they are fine as they are.
    """

    data: str
    count: int
    sizes: dict[tuple[int, int], int]
    modes: dict[str, int]
    classes: dict[str, int] | None
    splits: dict[str, int]
    held_out: tuple[str, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()
    duplicates: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    size: tuple[int, int] | None = None

    def facts(self) -> dict[str, Any]:
        """Returns the attributes as JSON takes them; a key of `sizes` is "height x width"."""
        sizes = {f"{height} x {width}": n for (height, width), n in self.sizes.items()}
        return dataclasses.asdict(self) | {"sizes": sizes}

    def __str__(self) -> str:
        def counted(counts: dict[str, int], most: int = 5) -> str:
            return listed([f"{key} ({count:,})" for key, count in counts.items()], most)

        numbered = {
            name if name == f"{i}" else f"{i} {name}": count
            for i, (name, count) in enumerate((self.classes or {}).items())
        }
        held = f"; {' and '.join(self.held_out)} held out of train" if self.held_out else ""
        facts = {
            "images": f"{self.count:,}",
            "height x width": counted(self.facts()["sizes"]),
            "modes": counted(self.modes),
            "classes": counted(numbered, 20) or "none" * bool(self.splits),
            "splits": ", ".join(f"{split} {n:,}" for split, n in self.splits.items()),
            "unreadable": listed([f"{name} ({why})" for name, why in self.unreadable]),
            "duplicates": listed(list(self.duplicates)),
            "not images": listed(list(self.skipped)),
            "changes": " ".join(self.changes),
        }
        if self.splits:
            facts["splits"] += held
        lines = [self.data, *(f"  {name:<16}{text}" for name, text in facts.items() if text)]
        lines += [f"  to mend         {problem}" for problem in self.problems]
        return "\n".join(lines)


def check(data: Data) -> Report:
    """Returns what a data set holds; of a folder every file is read once.

    Args:
        data: As for `arrays`. A `Source` checks that its size and skip_bad are enough.

    Raises:
        ValueError: There are no images, or they are arranged in a way that is not understood.
        DataNotFoundError: The set is neither on this disk nor reachable.
    """
    source = source_of(data)
    folder = source.image_folder
    if folder is None:
        return _check_arrays(source)
    return _check_folder(source, list_folder(folder))


def _check_arrays(source: Source) -> Report:
    """Reports on a named set, an .npz file or shards, which are checked when they are opened."""
    splits = {split: open_split(source, split) for split in SPLITS}
    height, width, channels = splits["train"].image_shape
    counts = {split: opened.count for split, opened in splits.items()}
    count, classes = sum(counts.values()), splits["train"].num_classes
    problems, by_class, brightest = [], np.zeros(classes or 0, np.int64), 0
    for name, opened in splits.items():
        if classes is None and not isinstance(opened, Shards):
            continue  # it has been read, and there is nothing to count
        try:
            found, counted, largest = _read(opened, classes)
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError):
            found, counted, largest = 0, 0, 0
        brightest = max(brightest, largest)
        by_class += counted
        if found != opened.count:
            problems.append(f"The shards of {name} are damaged. Prepare them again.")
    if brightest == 1:
        problems.append(BINARY)
    return Report(
        str(source.data),
        count,
        {(height, width): count},
        {"L" if channels == 1 else "RGB": count},
        None if classes is None or problems else {str(c): int(n) for c, n in enumerate(by_class)},
        counts,
        problems=tuple(problems),
    )


def _read(split: Split, num_classes: int | None) -> tuple[int, np.ndarray, int]:
    """Reads a split; returns how many images it holds, those of each class, the largest value."""
    found, by_class, brightest = 0, np.zeros(num_classes or 0, np.int64), 0
    for keys in split.keys_in_order().batch(100):
        images, labels = split.read(keys)
        found += len(images)
        brightest = max(brightest, int(np.max(images)))
        if num_classes is not None:
            by_class += np.bincount(labels, minlength=num_classes)
    return found, by_class, brightest


def _check_folder(source: Source, listing: Listing) -> Report:
    sizes: Counter[tuple[int, int]] = Counter()
    modes: Counter[str] = Counter()
    unreadable, duplicates, seen, brightest = [], [], set(), 0
    for path in listing.files:
        name = str(path.relative_to(listing.path))
        try:
            header = read_header(path)
            image = read_image(path, (*header.size, 3 if header.colour else 1))
        except ValueError as error:
            unreadable.append((name, str(error.__cause__ or error)))
            continue
        brightest = max(brightest, int(image.max()))
        sizes[header.size] += 1
        modes[header.mode + (", transparent" if header.transparent else "")] += 1
        content = hashlib.sha256(path.read_bytes()).digest()
        if content in seen:
            duplicates.append(name)
        seen.add(content)
    size = source.size or _proposed(sizes)
    problems = []
    if not sizes:
        problems.append("No image can be read. Replace the files.")
    elif unreadable and not source.skip_bad:
        problems.append("Replace or delete what is unreadable, or skip it with --skip-bad.")
    if len(sizes) > 1 and source.size is None:
        problems.append(f"Images differ in size; scale and crop them, e.g. with --size {size[0]}.")
    if brightest == 1:
        problems.append(BINARY)
    folder = None
    if sizes:
        try:
            folder = open_folder(listing.path, size, skip_bad=bool(unreadable), quiet=True)
        except ValueError as error:  # a class, or a split, without one that can be read
            problems.append(str(error))
    return Report(
        data=str(source.data),
        count=sum(sizes.values()),
        sizes=dict(sizes.most_common()),
        modes=dict(modes.most_common()),
        classes=None if listing.classes is None or folder is None else _by_name(listing, folder),
        splits={} if folder is None else {split: len(folder.splits[split][0]) for split in SPLITS},
        held_out=tuple(split for split in SPLITS if split not in listing.splits),
        unreadable=tuple(unreadable),
        duplicates=tuple(duplicates),
        skipped=tuple(listing.skipped),
        changes=() if folder is None else folder.changes,
        problems=tuple(problems),
        size=size,
    )


def _by_name(listing: Listing, folder: ImageFolder) -> dict[str, int]:
    labels = Counter(int(label) for _, labels in folder.splits.values() for label in labels)
    return {name: labels[label] for label, name in enumerate(listing.classes)}


def _proposed(sizes: Counter[tuple[int, int]]) -> tuple[int, int] | None:
    """Returns a size for images that differ; None where all have one size."""
    if len(sizes) < 2:
        return None
    side = statistics.median_low(min(size) for size in sizes.elements())
    side = max(MULTIPLE, min(LARGEST, side // MULTIPLE * MULTIPLE))
    return side, side
