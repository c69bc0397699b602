"""Pictures as arrays and files: grids and rows of images, captions, strips of a training.

Every file is written under a temporary name in its own folder and then renamed, so a picture is
either complete or absent.
"""

import contextlib
import csv
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tfgen import checks
from tfgen.files import replacing

__all__ = [
    "captioned",
    "checked",
    "columns_for",
    "grid",
    "points",
    "progress",
    "read_log",
    "rows",
    "save",
    "save_figure",
]

CAPTION_HEIGHT = 18  # pixels


def grid(
    images: np.ndarray, columns: int | None = None, padding: int = 2, background: int = 128
) -> np.ndarray:
    """Lays a batch of images out as one picture, row by row.

        height of the picture = rows (H + padding) + padding, the width likewise

    The images fill the rows from the left; what is left of the last row is white.

    >>> grid(np.zeros((5, 28, 28, 1), np.uint8), columns=3).shape
    (62, 92, 1)

    Args:
        images: uint8 array or tensor (N, H, W, C) in [0, 255] with 1 or 3 channels.
        columns: Images in a row. None: the square root of N, rounded up.
        padding: Pixels between the images and around the picture.
        background: Grey value of the padding. The default stands out from black and white alike.

    Returns:
        uint8 array (height, width, C).

    Raises:
        ValueError: Another dtype or shape, no image, or a number outside its range.
    """
    images = checked(images, "images", 4)
    count, height, width, channels = images.shape
    columns = columns_for(count, columns)
    checks.at_least(0, padding=padding, background=background)
    padding = int(padding)  # an unsigned one has no negative
    if background > 255:
        raise ValueError(f"background must be an integer from 0 to 255; received {background!r}.")
    num_rows = -(-count // columns)
    tiles = np.full(
        (num_rows * columns, height + padding, width + padding, channels), background, np.uint8
    )
    tiles[:count, padding:, padding:] = images
    tiles = tiles.reshape(num_rows, columns, *tiles.shape[1:])
    picture = tiles.transpose(0, 2, 1, 3, 4).reshape(
        num_rows * (height + padding), columns * (width + padding), channels
    )
    # Each tile brings the padding above and to the left of it; this closes the frame.
    picture = np.pad(picture, ((0, padding), (0, padding), (0, 0)), constant_values=background)
    empty = num_rows * columns - count
    if empty:
        picture[(num_rows - 1) * (height + padding) + padding :, -empty * (width + padding) :] = 255
    return picture


def columns_for(count: int, columns: int | None) -> int:
    """Returns how many of `count` images stand in a row."""
    return checks.positive("columns", math.ceil(math.sqrt(count)) if columns is None else columns)


def rows(*batches: np.ndarray, padding: int = 2, background: int = 128) -> np.ndarray:
    """Lays each batch out as one row, such as originals over their reconstructions.

    >>> originals = reconstructions = np.zeros((8, 28, 28, 1), np.uint8)
    >>> rows(originals, reconstructions).shape
    (62, 242, 1)

    Args:
        *batches: uint8 arrays or tensors (N, H, W, C), all of one shape.
        padding: As for `grid`.
        background: As for `grid`.

    Returns:
        uint8 array (height, width, C).

    Raises:
        ValueError: No batch, batches of different shapes, or as for `grid`.
    """
    arrays = [checked(batch, f"batches[{i}]", 4) for i, batch in enumerate(batches)]
    shapes = [batch.shape for batch in arrays]
    if len(set(shapes)) != 1:
        raise ValueError(
            f"batches must be one or more of one shape; received the shapes {shapes}. "
            "Cut them to the same number of images."
        )
    return grid(np.concatenate(arrays), len(arrays[0]), padding, background)


def captioned(
    picture: np.ndarray, rows: Sequence[str] = (), columns: Sequence[str] = ()
) -> np.ndarray:
    """Writes captions to the left of rows and above columns of a picture, black on white.

    >>> captioned(np.zeros((40, 60, 1), np.uint8), columns=["a", "b"]).shape
    (58, 60, 1)

    Args:
        picture: uint8 (height, width, channels).
        rows: The captions of equally high rows, from the top; none if empty.
        columns: The captions of equally wide columns, from the left; none if empty. One that is
            wider than its column is left out, since it would run into the next.

    Returns:
        uint8 (height, width, channels), larger by the margins.
    """
    from PIL import Image, ImageDraw, ImageFont

    picture = checked(picture, "picture", 3)
    font = ImageFont.load_default(12)
    height, width, channels = picture.shape
    left = max((math.ceil(font.getlength(text)) + 8 for text in rows), default=0)
    fitting = [text if font.getlength(text) <= width / len(columns) else "" for text in columns]
    top = CAPTION_HEIGHT if any(fitting) else 0
    page = Image.new("L" if channels == 1 else "RGB", (left + width, top + height), "white")
    page.paste(Image.fromarray(picture[..., 0] if channels == 1 else picture), (left, top))
    draw = ImageDraw.Draw(page)
    for index, text in enumerate(rows):
        middle = top + (index + 0.5) * height / len(rows)
        draw.text((left - 4, middle), text, "black", font, "rm")
    for index, text in enumerate(fitting):
        middle = left + (index + 0.5) * width / len(columns)
        draw.text((middle, top / 2), text, "black", font, "mm")
    return np.asarray(page).reshape(top + height, left + width, channels)


def save(
    images: np.ndarray, path: str | os.PathLike[str], columns: int | None = None, scale: int = 1
) -> Path:
    """Writes one image, or a batch of images as a `grid`, to a PNG file.

    Missing folders are made. An existing file is replaced.

    Args:
        images: uint8 array or tensor, (H, W, C) for one image or (N, H, W, C) for a batch.
        path: The file to write. Its name must end in `.png`.
        columns: Images in a row of the grid. One image has no grid and ignores it.
        scale: Enlarges every pixel to a square of scale x scale.

    Returns:
        The path of the file.

    Raises:
        ValueError: As for `grid`, or a path or scale that breaks its rule.
        OSError: The file cannot be written.
    """
    from PIL import Image

    shape = np.shape(images)
    picture = checked(images, "images", 3) if len(shape) == 3 else grid(images, columns)
    checks.at_least(1, scale=scale)
    picture = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    picture = picture[..., 0] if picture.shape[-1] == 1 else picture  # Pillow: grey is (H, W)
    with _written(path) as (path, temporary):
        Image.fromarray(picture).save(temporary, format="PNG")
    return path


def progress(
    folder: str | os.PathLike[str], out_path: str | os.PathLike[str], width: int, columns: int = 12
) -> Path:
    """Draws a training over time: the left strip of each epoch's picture under its number.

    Args:
        folder: Holds pictures of one size, epoch_0001.png, epoch_0002.png, ...
        out_path: The picture to write. Its name must end in `.png`.
        width: Width of the strip, in the pictures' own pixels.
        columns: Epochs to show, at most, and at least 2: the first, the last, and others at growing
            distances.

    Returns:
        The path of the picture.

    Raises:
        ValueError: No picture in the folder, a number out of its range, or as for `save`.
        OSError: A picture cannot be read, or the result cannot be written.
    """
    from PIL import Image

    found = Path(folder).expanduser().glob("epoch_*.png")
    paths = {int(path.stem[6:]): path for path in found if path.stem[6:].isdecimal()}
    if not paths:
        raise ValueError(f"folder must hold pictures epoch_0001.png, ...; {folder} holds none.")
    checks.at_least(2, columns=columns)
    checks.at_least(1, width=width)
    every, shown = sorted(paths), np.geomspace(1, len(paths), min(columns, len(paths)))
    epochs = [every[number - 1] for number in sorted(set(map(round, shown)))]
    strips = []
    for epoch in epochs:
        with Image.open(paths[epoch]) as picture:
            # matplotlib's have an alpha.
            seen = picture if picture.mode == "L" else picture.convert("RGB")
            strips.append(np.asarray(seen)[:, :width])
    whole, captions = np.concatenate(strips, 1), list(map(str, epochs))
    return save(
        captioned(whole[..., None] if whole.ndim == 2 else whole, columns=captions), out_path
    )


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Writes a matplotlib figure to a PNG file; returns its path.

    Raises:
        ValueError: The name does not end in `.png`.
        OSError: The file cannot be written.
    """
    with _written(path) as (path, temporary):
        figure.savefig(temporary, format="png", dpi=120)
    return path


def read_log(path: Path) -> dict[str, list[float]]:
    """Returns the columns of a log of training by epoch; what is not a number becomes nan."""
    with path.open(newline="") as file:
        header, *lines = [line for line in csv.reader(file) if line] or [[]]
    if header[:1] != ["epoch"] or len(header) < 2 or not lines:
        raise ValueError(
            f"{path} must be a log of training, such as a run's log.csv, with at least one epoch "
            f"and the first column 'epoch'; received {len(lines)} epochs and the columns "
            f"{', '.join(header) or '(none)'}. Train for an epoch first, or pass another file."
        )
    # A run that was cut off may have left a part of a line.
    lines = [line + [""] * (len(header) - len(line)) for line in lines]
    return {name: [_number(line[i]) for line in lines] for i, name in enumerate(header)}


def points(epochs: Sequence[float], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the epochs in which a quantity was measured, and its values.

    Args:
        epochs: All epochs of a training.
        values: One for each, nan where it was not measured; or fewer, as of a `validation_freq`.
    """
    x, y = np.array(epochs), np.array(values, float)
    for every in range(2, len(x) + 1) if len(y) < len(x) else ():
        measured = x[(x + 1) % every == 0]
        if len(measured) == len(y):
            x = measured
            break
    x = x[len(x) - len(y) :]  # of a list that fits no such frequency
    return x[~np.isnan(y)], y[~np.isnan(y)]


def _number(text: str) -> float:
    """Reads a number; what an epoch does not have is nan."""
    try:
        return float(text)
    except ValueError:
        return math.nan


@contextlib.contextmanager
def _written(path: str | os.PathLike[str]) -> Iterator[tuple[Path, Path]]:
    """Yields (path, temporary path next to it); renames the second to the first at the end."""
    path = Path(path).expanduser()
    if path.suffix.lower() != ".png":
        raise ValueError(
            f"path must end in .png, the only format written here; received {path}. "
            f"Use {path.with_suffix('.png') if path.name else 'a file name'}."
        )
    try:
        with replacing(path) as temporary:
            yield path, temporary
    except OSError as error:
        raise OSError(
            f"path must lie in a folder that can be written; received {path}, which failed with "
            f"{type(error).__name__}: {error.strerror or error}. Choose another folder."
        ) from error


def checked(images: np.ndarray, name: str, rank: int) -> np.ndarray:
    """Returns uint8 images of the given rank as a numpy array; raises ValueError for others."""
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise ValueError(
            f"{name} must be uint8 with values in [0, 255]; received dtype {images.dtype}. "
            "If they are floats in [0, 1], use np.round(255 * images).astype('uint8')."
        )
    if images.ndim != rank or images.shape[-1] not in (1, 3) or 0 in images.shape:
        axes = "(batch, height, width, channels)" if rank == 4 else "(height, width, channels)"
        raise ValueError(
            f"{name} must have shape {axes} with 1 or 3 channels and no empty axis; "
            f"received {images.shape}. Reshape the array, such as images[..., None] for a "
            "missing channel axis."
        )
    return images
