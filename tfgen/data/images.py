"""One image file: what its header holds, and its pixels as uint8.

What is converted, and into what:

    EXIF orientation     turned upright; cameras store which way up they were held
    palette, CMYK        RGB
    transparency         drawn over white
    16 bits, grey        level v becomes round(v / 257)
    16 bits, colour      level v becomes v // 256, as Pillow reads it; grey with an alpha channel
                         is read as colour, too
    size (h, w)          scaled until it covers h x w, then cropped around the centre (Lanczos)
"""

import contextlib
import dataclasses
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["READABLE", "Header", "fitted", "is_dangling", "read_header", "read_image"]

READABLE = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L")
DEEP = ("I", "I;16", "I;16B", "I;16L")  # 16 bits, which Pillow may hold in 32
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")  # not EPS, a program that Pillow would run
# What Pillow raises on damaged files.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)
WHITE = (255, 255, 255, 255)
# Texts of a PNG file out of which Pillow reads the orientation, by the start of their chunks.
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
ORIENTING = (b"exif\0", b"Raw profile type exif\0", b"xmp\0", b"XML:com.adobe.xmp\0")
# What turns an image upright, by its orientation: Pillow's numbers of its transpositions.
TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}


@dataclasses.dataclass(frozen=True)
class Header:
    """What the header of an image file holds.

    Attributes:
        size: (height, width) when upright.
        mode: Pillow's mode, such as "L", "RGB" or "P".
        colour: Whether its pixels have three channels.
        transparent: Whether it has transparent pixels, as far as the header tells.
        deep: Whether it is grey with 16 bits, and without an alpha channel.
    """

    size: tuple[int, int]
    mode: str
    colour: bool
    transparent: bool
    deep: bool


def read_header(path: str | Path) -> Header:
    """Returns what a file's header holds.

    Raises:
        ValueError: It is not an image, or of a mode that is not read.
    """
    with _opened(path) as image:
        height, width = image.height, image.width
        # Asked for its EXIF data, Pillow decodes a whole PNG file that has none before its pixels.
        may_be_turned = image.format != "PNG" or _may_be_turned(path)
        if may_be_turned and _orientation(image) in (5, 6, 7, 8):  # lying on its side
            height, width = width, height
        mode = image.mode
        return Header(
            (height, width), mode, mode not in GREY, image.has_transparency_data, mode in DEEP
        )


def _orientation(image: "Image.Image") -> int:
    """Returns an image's EXIF orientation; 1, upright, where its EXIF data cannot be read."""
    try:
        return image.getexif().get(0x0112, 1)
    except (*DAMAGED, TypeError):  # which says nothing about its pixels
        return 1


def _may_be_turned(path: str | Path) -> bool:
    """Whether a PNG file has a chunk that may hold an orientation, also after its pixels."""
    longest = max(map(len, ORIENTING))
    with Path(path).open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            start = file.read(min(length, longest))
            if kind == b"eXIf" or (kind in TEXTS and start.startswith(ORIENTING)):
                return True
            file.seek(length - len(start) + 4, os.SEEK_CUR)  # 4 bytes of checksum
    return False


def read_image(
    path: str | Path, image_shape: tuple[int, int, int], fit: bool = False, grey: bool = False
) -> np.ndarray:
    """Returns the pixels of a file, uint8 of that shape.

    Args:
        path: The file.
        image_shape: (height, width, channels). Grey becomes three equal channels where three are
            asked for, which is exact.
        fit: Whether an image of another size is scaled and cropped.
        grey: Whether colour becomes grey where one channel is asked for.

    Raises:
        ValueError: The file cannot be read; or it has another size and `fit` is false, or colour
            where one channel is asked for and `grey` is false.
    """
    height, width, channels = image_shape
    with _opened(path) as image:
        image.load()
        turn = TURNS.get(_orientation(image))
        image = _eight_bits(image if turn is None else image.transpose(turn))
        if grey and channels == 1:
            image = image.convert("L")
        if fit:
            image = fitted(image, (height, width))
        pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = np.dstack([pixels] * channels)
    if pixels.shape != tuple(image_shape):
        raise ValueError(
            f"{path} must have the shape of the other images of its folder, "
            f"{tuple(image_shape)}; received {pixels.shape}. Replace it, or pass a size to read "
            "all images with (--size)."
        )
    return pixels


def fitted(image: "Image.Image", size: tuple[int, int]) -> "Image.Image":
    """Returns an image scaled to cover (height, width) and cropped around its centre."""
    from PIL import Image, ImageOps

    height, width = size
    if (image.height, image.width) == (height, width):
        return image
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def _eight_bits(image: "Image.Image") -> "Image.Image":
    """Returns an image of any mode as "L" or "RGB", over white where it is transparent."""
    from PIL import Image

    if image.mode in DEEP:
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("it holds levels outside [0, 65535]")
        shades = ((levels + 128) // 257).astype(np.uint8)
        transparent = image.info.get("transparency", -1)  # tRNS names one level
        shades[levels == transparent] = 255
        return Image.fromarray(shades)
    grey = image.mode in GREY
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    return image.convert("L" if grey else "RGB")


def is_dangling(path: Path) -> bool:
    """Whether a path is a link to what does not exist."""
    return path.is_symlink() and not path.exists()


@contextlib.contextmanager
def _opened(path: str | Path) -> "Iterator[Image.Image]":
    """Opens an image file; whatever Pillow raises becomes one ValueError that names the file."""
    from PIL import Image

    try:
        if is_dangling(Path(path)):
            raise FileNotFoundError("it is a link to a file that is gone")
        with Image.open(path, formats=FORMATS) as image:
            if image.format == "PNG" and "transparency" in image.info and image.tile:
                # Pillow scales grey pixels of 2 and 4 bits, and not the level that is transparent.
                image.info["transparency"] *= {"L;2": 85, "L;4": 17}.get(image.tile[0][3], 1)
                if image.tile[0][3] == "RGB;16B":  # of which it reads the upper bytes
                    image.info["transparency"] = tuple(v >> 8 for v in image.info["transparency"])
            yield image
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} must be a whole image file ({', '.join(READABLE)}); it cannot be read: "
            f"{error}. Replace it. When a folder is read, skip_bad (--skip-bad) skips such files."
        ) from error
