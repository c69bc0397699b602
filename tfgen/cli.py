"""What the commands of `tfgen` share: models and images that fit an option, files that they write.

The commands themselves stand in `tfgen_command`, which answers without TensorFlow where it can.
"""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfgen import data, plots, zoo
from tfgen.data.images import read_image
from tfgen.data.pairs import check_shape
from tfgen.files import replacing
from tfgen.models.generative import GenerativeModel
from tfgen_command.wording import counted

__all__ = [
    "check_labels",
    "ends_for",
    "generative",
    "images_for",
    "kept_half",
    "read_mask",
    "rows_of_labels",
    "save",
    "save_captioned",
    "save_rows",
    "save_samples",
    "with_latents",
    "writing",
]

PADDING = 1  # pixels between images and around them
MOST_SINGLE = 10  # images in a row where each is of another class
MOST_COLUMNS = 16  # compared images in a row; more go on below

# Models and labels ----------------------------------------------------------------------------


def generative(name: str) -> GenerativeModel:
    """Loads a model; raises ValueError if it generates no images."""
    model = zoo.load(name)
    if not isinstance(model, GenerativeModel):
        raise ValueError(f"{name!r} is a {type(model).__name__}, which cannot generate images.")
    return model


def with_latents(name: str) -> GenerativeModel:
    """Loads a model; raises ValueError if it has no latents."""
    model = generative(name)
    if "decode" not in model.capabilities:
        raise ValueError(f"{name!r} is a {type(model).__name__}, which has no latents.")
    return model


def check_labels(model: GenerativeModel, labels: Sequence[int]) -> None:
    """Raises ValueError, naming --label, if the model has no such class."""
    if labels and model.num_classes is None:
        raise ValueError(
            f"--label is for class-conditional models, which this one is not; received "
            f"{','.join(map(str, labels))}. Leave it out, or use a model such as cgan_mnist."
        )
    for label in labels:
        if label >= model.num_classes:
            raise ValueError(
                f"--label must lie in [0, {model.num_classes}), the model's classes; "
                f"received {label}."
            )


def rows_of_labels(
    model: GenerativeModel, labels: Sequence[int], num: int | None
) -> tuple[np.ndarray | None, int | None]:
    """Returns the label of each sample and the columns of their grid: one class per row.

    Single images of each class share a row, and so do classes of unequal shares, which differ by
    one image.

    Args:
        model: A model; (None, None) if it is not conditional.
        labels: The classes that were asked for; all if empty.
        num: How many samples; None for 8 of each class.
    """
    check_labels(model, labels)
    if model.num_classes is None:
        return None, None
    classes = np.array(labels or range(model.num_classes))
    each, more = divmod(8 * len(classes) if num is None else num, len(classes))
    drawn = np.repeat(classes, each + (np.arange(len(classes)) < more))
    return drawn, min(len(drawn), MOST_SINGLE) if each <= 1 or more else each


# Images ---------------------------------------------------------------------------------------


def images_for(
    model: GenerativeModel,
    name: str,
    files: Sequence[Path] | None,
    data_name: str | None,
    num: int | None,
    labels: Sequence[int] = (),
    invert: bool = False,
    binarize: bool = False,
    option: str = "--num",
    usual: int = 16,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns images that the model takes, with labels if it wants them.

    Args:
        model: Decides shape, levels and whether labels are returned.
        name: The entry, whose recipe names the data.
        files: The user's own images; None or empty for those of the validation split.
        data_name: Another data set, read as `data.of_recipe` says; None for the recipe's.
        num: How many images of the validation split; None: `usual`, or all if it has fewer.
        labels: Classes of the images, in turn; those of the data if empty.
        invert: Swap dark and light.
        binarize: Round pixels to the nearest of the model's levels.
        option: The option that asked for `num` images, which an error names.
        usual: See `num`.

    Raises:
        ValueError: Images or labels that do not fit the model, where the message names the
            option; a file that is no image; or neither files, data nor a recipe.
    """
    check_labels(model, labels)
    if files:
        images = np.stack([_read_own(path, model.image_shape) for path in files])
        found = None
    else:
        images, found = _of_validation(model, _data_of(name, data_name), num or usual)
        if (num or 0) > len(images):
            raise ValueError(
                f"{option} asks for {num} images, and the validation split has {len(images)}. Ask "
                "for fewer."
            )
    images = _on_levels(model, name, images, invert, binarize)
    if model.num_classes is None:
        return images, None
    if labels:
        return images, np.resize(np.array(labels), len(images))
    if found is None:
        raise ValueError(
            f"{name!r} is class-conditional, and the images have no labels. Pass --label."
        )
    return images, found


def ends_for(
    model: GenerativeModel,
    name: str,
    files: Sequence[Path] | None,
    data_name: str | None,
    rows: int | None,
    labels: Sequence[int] = (),
    invert: bool = False,
    binarize: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Returns the images where walks start, those where they end, and the class of each walk.

    A walk of a conditional model stays within one class: without files, both ends are images of
    that class, and the rows take `labels` in turn, or all classes of the data. The first half of
    `files`, an even number, are starts, `labels` their classes or those of the walks. `rows` are
    pairs of images of the validation split; None: at most 6. The rest is as for `images_for`.

    Raises:
        ValueError: As for `images_for`; or the files of a pair are of two classes.
    """
    if model.num_classes is not None and not files:
        check_labels(model, labels)
        images, found = _of_validation(model, _data_of(name, data_name))
        if found is not None:
            classes, counts = np.unique(found, return_counts=True)
            pairs = classes[counts > 1] if (counts > 1).any() else classes
            pairs = np.array(labels or pairs)
            if rows is None:
                shares = [(found == n).sum() // 2 // (pairs == n).sum() for n in pairs]
                rows = min(6, (min(shares) or 1) * len(pairs))  # 0: `_pairs_within` names the class
            walks = np.resize(pairs, rows)
            starts, ends = images[_pairs_within(found, walks)]
            images = _on_levels(model, name, np.concatenate([starts, ends]), invert, binarize)
            return images[:rows], images[rows:], walks
        rows = rows or max(1, min(6, len(images) // 2))
        labels = np.resize(labels, rows).tolist() * 2 if labels else ()
    elif model.num_classes is not None and 0 < len(labels) <= len(files) // 2:  # of the walks
        labels = np.resize(labels, len(files) // 2).tolist() * 2
    num = rows and 2 * rows
    images, found = images_for(
        model, name, files, data_name, num, labels, invert, binarize, "--rows", 12
    )
    half = len(images) // 2
    images = images[: 2 * half]
    if found is None:
        return images[:half], images[half:], None
    found = found[: 2 * half]
    if (found[:half] != found[half:]).any():
        raise ValueError(
            "--label must give both files of a pair the same class, since a walk stays within one "
            f"class; received {','.join(map(str, labels))} for {len(images)} files, of which file "
            f"i walks to file i + {half}. Pass one class."
        )
    return images[:half], images[half:], found[:half]


def _pairs_within(found: np.ndarray, walks: np.ndarray) -> np.ndarray:
    """Returns indices of the images where walks within classes start and end, int (2, walks).

    Args:
        found: The class of each image.
        walks: The class of each walk.

    Raises:
        ValueError: A class has too few images.
    """
    pairs = np.empty((2, len(walks)), int)
    for label in np.unique(walks):
        here, there = np.flatnonzero(walks == label), np.flatnonzero(found == label)
        if 2 * len(here) > len(there):
            raise ValueError(
                f"--rows asks for {2 * len(here)} images of class {label}, and the validation "
                f"split has {len(there)}. Ask for fewer rows, pass other classes with --label, or "
                "two FILES of that class."
            )
        pairs[:, here] = there[: 2 * len(here)].reshape(-1, 2).T
    return pairs


def _on_levels(
    model: GenerativeModel, name: str, images: np.ndarray, invert: bool, binarize: bool
) -> np.ndarray:
    """Returns images inverted and rounded as was asked for; raises ValueError for other levels."""
    images = 255 - images if invert else images
    nearest = model.nearest_level(tf.constant(images)).numpy()
    if not binarize and (nearest != images).any():
        raise ValueError(
            f"{name!r} takes images of {model.num_levels} grey levels, and these have others. "
            "Pass --binarize to round each pixel to the nearest level."
        )
    return nearest


def _data_of(name: str, data_name: str | None) -> data.Data:
    """Returns the data that an entry's recipe names, or another set, read as the recipe says."""
    has_recipe = (zoo.folder(name) / "recipe.json").is_file()
    if not has_recipe and not data_name:
        raise ValueError(f"{name!r} has no recipe that names its data. Pass FILES or --data.")
    return data.of_recipe(zoo.load_recipe(name), data_name) if has_recipe else data_name


def _of_validation(
    model: GenerativeModel, data_name: data.Data, most: int | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    if most is None:
        images, labels = data.arrays(data_name, "validation")
    else:  # a folder may be larger than memory
        images, labels = data.head(data.open_split(data_name, "validation", 0), most)
    check_shape(data_name, images, model.image_shape)
    return images, labels


def _read_own(path: Path, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Reads an image file of any size and colour as the model takes it, uint8 (H, W, C)."""
    return read_image(path, image_shape, fit=True, grey=True)


def kept_half(model: GenerativeModel, keep: str) -> np.ndarray:
    """Returns the mask of the "upper", "lower", "left" or "right" half, bool (H, W, 1)."""
    height, width, _ = model.image_shape
    rows, columns = np.mgrid[:height, :width]
    kept = {
        "upper": rows < height // 2,
        "lower": rows >= height // 2,
        "left": columns < width // 2,
        "right": columns >= width // 2,
    }[keep]
    return kept[..., None]


def read_mask(model: GenerativeModel, path: Path) -> np.ndarray:
    """Reads an image whose white pixels are kept, bool (H, W, 1).

    Raises:
        ValueError: The file is no image, or all of it is kept, or nothing.
    """
    mask = _read_own(path, (*model.image_shape[:2], 1)) >= 128
    if mask.all() or not mask.any():
        raise ValueError(
            f"--mask must have white pixels (kept) and black ones; {path} has one kind."
        )
    return mask


# Files ----------------------------------------------------------------------------------------


def save(picture: np.ndarray, out: str | os.PathLike[str], scale: int = 1) -> str:
    """Writes a picture as `plots.save` does and returns the line that says so."""
    return f"Wrote {_written(picture, Path(out), scale).resolve()}"


def _written(picture: np.ndarray, out: Path, scale: int) -> Path:
    with writing(out):
        return plots.save(picture, out, scale=scale)


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Names --out where it cannot be written, and not a temporary file next to it."""
    try:
        yield
    except OSError as error:
        cause = error.__cause__ or error  # of the system, which `plots.save` has wrapped
        raise OSError(
            f"--out must lie in a folder that can be written; {out} failed with "
            f"{type(cause).__name__}: {getattr(cause, 'strerror', None) or cause}. "
            "Choose another folder."
        ) from error


def _scale_of(images: np.ndarray) -> int:
    """Returns how many times to enlarge each pixel: twice, or until an image has 32 across."""
    return max(2, math.ceil(32 / images.shape[-2]))


def save_rows(
    batches: Sequence[np.ndarray],
    out: Path,
    scale: int | None,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> str:
    """Writes batches as the rows of a picture, with captions, and returns the line to print.

    Where `rows` have captions, more than MOST_COLUMNS images go on in further rows.
    """
    across = MOST_COLUMNS if rows else len(batches[0])
    parts = [
        plots.rows(*(batch[start : start + across] for batch in batches), padding=PADDING)
        for start in range(0, len(batches[0]), across)
    ]
    width = parts[0].shape[1]
    picture = np.concatenate(
        [
            np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=255)
            for part in parts
        ]
    )
    scale = scale or _scale_of(batches[0])
    return save_captioned(picture, out, scale, list(rows) * len(parts), columns)


def save_captioned(
    picture: np.ndarray, out: Path, scale: int, rows: Sequence[str], columns: Sequence[str]
) -> str:
    """Writes an enlarged picture with captions; returns the line to print."""
    picture = picture.repeat(scale, 0).repeat(scale, 1)
    return save(plots.captioned(picture, rows, columns), out)


def save_samples(
    images: np.ndarray,
    labels: np.ndarray | None,
    out: Path,
    columns: int | None,
    scale: int | None,
) -> str:
    """Writes samples as one picture, a folder of pictures or arrays; returns the line to print."""
    scale = scale or _scale_of(images)
    if out.suffix.lower() == ".png":
        one = len(images) == 1
        return save(images[0] if one else plots.grid(images, columns, PADDING), out, scale)
    if out.suffix.lower() == ".npz":
        arrays = {"images": images} | ({} if labels is None else {"labels": labels})
        with writing(out), replacing(out) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
        return f"Wrote {out.resolve()}: {', '.join(arrays)}"
    width = max(4, len(str(len(images) - 1)))
    names = [f"{index:0{width}d}.png" for index in range(len(images))]
    others = len({path.name for path in out.iterdir()} - set(names)) if out.is_dir() else 0
    also = f", which holds {counted(others, 'other file')}" if others else ""
    for name, image in zip(names, images, strict=True):
        _written(image, out / name, scale)
    return f"Wrote {counted(len(images), 'image')} to {out.resolve()}{also}"
