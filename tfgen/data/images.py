"""Folders of image files: which files there are, and what one file holds."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tfgen.data.pairs import check_split, with_every_split

__all__ = ["folder_shape", "image_files", "list_folder", "read_image", "read_images"]

SUFFIXES = (".png", ".jpg", ".jpeg")
# What an image's mode becomes. 1: black and white, L: grey, P: palette, YCbCr and CMYK: JPEG.
MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "YCbCr": "RGB", "CMYK": "RGB"}


def image_files(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the files (N,) and labels (N,) of a split of an image folder, none of them read."""
    check_split(split)
    paths, labels = list_folder(folder)
    files = np.array([str(path) for path in paths])
    return with_every_split(str(folder), {"train": (files, labels)})[split]


def folder_shape(folder: Path, paths: np.ndarray) -> tuple[int, int, int]:
    """Returns the shape of a folder's images from the first file and every file's header."""
    from PIL import Image, UnidentifiedImageError

    height, width = _decoded(Path(paths[0])).shape[:2]
    colour = False
    for path in paths:
        try:
            with Image.open(path) as image:
                colour = colour or MODES.get(image.mode) == "RGB"
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise _unreadable(path, error) from error
    return height, width, 3 if colour else 1


def read_images(folder: Path, paths: Iterable[Path]) -> np.ndarray:
    """Returns uint8 (N, H, W, 1) if every image is grey, and (N, H, W, 3) otherwise.

    Raises:
        ValueError: A file holds another size than the first, or no image.
    """
    paths, images = list(paths), []
    for path in paths:
        images.append(_decoded(path))
        if images[-1].shape[:2] != images[0].shape[:2]:
            raise ValueError(
                f"{folder} must hold images of one size; {paths[0].name} has height and "
                f"width {images[0].shape[:2]}, {path.name} has {images[-1].shape[:2]}. "
                "Resize or crop them."
            )
    if all(image.ndim == 2 for image in images):
        return np.stack(images)[..., None]
    # Grey as three equal channels is exact, so mixed folders become colour.
    return np.stack([image if image.ndim == 3 else np.dstack([image] * 3) for image in images])


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


def list_folder(folder: Path) -> tuple[list[Path], np.ndarray | None]:
    """Returns all images of a folder and their labels, in the order that splits are cut from."""
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
    found = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "."]
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES)


def _decoded(path: Path) -> np.ndarray:
    """Returns a file's image, uint8 (H, W) or (H, W, 3)."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.has_transparency_data or image.mode not in MODES:
                raise ValueError(
                    f"{path} must be an 8-bit grey or colour image without transparency; "
                    f"received mode {image.mode}. "
                    "Convert it: Image.open(path).convert('RGB').save(path)."
                )
            # Cameras store which way up they were held instead of turning the pixels.
            upright = ImageOps.exif_transpose(image)
            return np.asarray(upright.convert(MODES[image.mode]))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} must be a whole PNG or JPEG file; it cannot be read: {error}. "
        "Replace or delete it."
    )
