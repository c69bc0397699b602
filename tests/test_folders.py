"""Folders of images: what is read, how it is split, what is converted, and every bad input."""

import hashlib
import json
import os
import re
import struct
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

import tfgen_command
from tfgen import data, drafts
from tfgen.data import folders, sources, writing
from tfgen.data.images import read_header, read_image
from tfgen_command import wording


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wording, "_told", set())


@pytest.fixture(params=["held in memory", "read while used"])
def opened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Opens a split each of the two ways; returns its images and labels."""
    if request.param == "read while used":
        monkeypatch.setattr(sources, "MEMORY_BYTES", 0)

    def read(source: data.Data, split: str) -> tuple[np.ndarray, np.ndarray | None]:
        found = data.open_split(source, split)
        assert isinstance(found, data.Arrays if "held" in request.param else data.Files)
        images, labels = data.head(found, found.count)
        assert images.shape == (found.count, *found.image_shape)
        return images, labels

    return read


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path: Path, seed: int = 0, shape: tuple[int, ...] = (4, 6, 3), **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(shape, seed)).save(path, **options)


def fill(folder: Path, count: int, start: int = 0, shape: tuple[int, ...] = (4, 6, 3)) -> None:
    for index in range(start, start + count):
        save(folder / f"{index:03d}.png", index, shape)


def contents(source: data.Data, split: str) -> set[bytes]:
    return {image.tobytes() for image in data.arrays(source, split)[0]}


# Splits


def test_a_subject_is_in_every_split(tmp_path, capsys):
    """Photos named by subject: the order of names would put one subject into validation alone."""
    for subject in range(5):
        for index in range(20):
            shade = np.full((4, 4), 40 * subject + index, np.uint8)
            Image.fromarray(shade).save(tmp_path / f"subject{subject}_{index:02d}.png")
    for split, count in zip(data.SPLITS, (64, 16, 20), strict=True):
        subjects = data.arrays(tmp_path, split)[0][:, 0, 0, 0] // 40
        assert len(subjects) == count
        assert set(subjects) == set(range(5))
    told = capsys.readouterr().err
    assert told.count("100 images, 4 x 4 x 1: 64 train, 16 validation, 20 test") == 1
    assert "validation and test held out by a hash of the file names" in told


def test_the_split_is_a_function_of_the_names(tmp_path):
    fill(tmp_path / "a", 30)
    first = [contents(tmp_path / "a", split) for split in data.SPLITS]
    (tmp_path / "a").rename(tmp_path / "b")
    assert [contents(tmp_path / "b", split) for split in data.SPLITS] == first


def test_the_order_is_that_of_the_sha256_of_the_names(tmp_path):
    """Another order in a later version would move test images into the training of old runs."""
    fill(tmp_path, 30)
    names = sorted(
        (path.name for path in tmp_path.iterdir()),
        key=lambda name: hashlib.sha256(name.encode()).digest(),
    )
    found = folders.open_folder(tmp_path).splits
    in_order = [path for split in data.SPLITS for path in found[split][0]]
    assert [Path(path).name for path in in_order] == names


def test_classes_are_listed_by_number(tmp_path):
    for index, name in enumerate("abc"):
        (tmp_path / name).mkdir()
        fill(tmp_path / name, 3, start=3 * index)
    assert "0 a (3), 1 b (3), 2 c (3)" in str(data.check(tmp_path))


def test_split_folders_are_splits(tmp_path, opened, capsys):
    fill(tmp_path / "train", 10)
    fill(tmp_path / "Val", 3, 10)
    fill(tmp_path / "test", 4, 13)
    (tmp_path / "__MACOSX").mkdir()
    for split, count in zip(data.SPLITS, (10, 3, 4), strict=True):
        images, labels = opened(tmp_path, split)
        assert len(images) == count
        assert labels is None
    expected = {noise((4, 6, 3), seed).tobytes() for seed in range(13, 17)}
    assert contents(tmp_path, "test") == expected
    assert "held out" not in capsys.readouterr().err


def test_split_folders_with_classes(tmp_path, opened):
    for split, start in (("train", 0), ("test", 20)):
        fill(tmp_path / split / "dog", 6, start)
        if split == "train":
            fill(tmp_path / split / "cat", 5, start + 10)
    images, labels = opened(tmp_path, "test")
    assert len(images) == 6
    assert set(labels) == {1}  # by the classes of train
    assert data.open_split(tmp_path, "test").num_classes == 2
    kept = [opened(tmp_path, split)[1] for split in ("train", "validation")]
    assert len(kept[1]) == 2  # the last fifth of train
    assert set(kept[0]) == {0, 1}


def test_links_are_followed(tmp_path, opened):
    """To files, to classes, to splits; and not in circles."""
    for name in ("cat", "dog"):
        fill(tmp_path / "real" / name, 6, start=10 * len(name))
    (tmp_path / "real" / "cat" / "round").symlink_to(tmp_path / "real")
    for split in ("train", "test"):
        (tmp_path / "photos" / split).mkdir(parents=True)
        for name in ("cat", "dog"):
            link = tmp_path / "photos" / split / name
            link.mkdir()
            for file in sorted((tmp_path / "real" / name).glob("*.png")):
                (link / file.name).symlink_to(file)
        (tmp_path / "linked" / split).mkdir(parents=True)
        for name in ("cat", "dog"):
            (tmp_path / "linked" / split / name).symlink_to(tmp_path / "photos" / split / name)
    for split in ("train", "test"):
        images, labels = opened(tmp_path / "photos", split)
        again, same = opened(tmp_path / "linked", split)
        np.testing.assert_array_equal(images, again)
        np.testing.assert_array_equal(labels, same)
    assert len(opened(tmp_path / "linked", "test")[0]) == 12


@pytest.mark.parametrize("fine", [0, 9])
def test_links_whose_files_are_gone_are_images_that_cannot_be_read(tmp_path, fine):
    fill(tmp_path, fine)
    for name in ("gone.png", "lost.png", "note.txt"):
        (tmp_path / name).symlink_to(tmp_path / "nowhere" / name)
    report = data.check(tmp_path)
    assert {name for name, _ in report.unreadable} == {"gone.png", "lost.png"}
    assert report.count == fine
    assert report.problems
    assert report.skipped == ("note.txt",)
    with pytest.raises(ValueError, match=r"(gone|lost)\.png must be a whole image file"):
        data.arrays(tmp_path)
    if fine:
        skipping = data.Source(tmp_path, skip_bad=True)
        assert sum(len(data.arrays(skipping, split)[0]) for split in data.SPLITS) == fine
    else:
        with pytest.raises(ValueError, match="none of 2 can"):
            drafts.draft(tmp_path)


def test_folders_that_lead_in_a_circle_end(tmp_path):
    save(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "empty").mkdir()
    (tmp_path / "photos" / "empty" / "back").symlink_to(tmp_path / "photos" / "empty")
    assert folders.list_folder(tmp_path / "photos").skipped == ["empty/"]


def test_names_that_are_not_utf8(tmp_path, opened, capsys):
    """Files from an old archive: they are read, and a report can name them."""
    fill(tmp_path, 9)
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    save(odd, seed=99)
    os.rename(odd, tmp_path / os.fsdecode(b"caf\xe9.png"))
    count = sum(len(opened(tmp_path, split)[0]) for split in data.SPLITS)
    assert count == 10
    (tmp_path / os.fsdecode(b"gr\xfc\xdfe.txt")).write_text("not an image")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["tfgen", "data", "check", str(tmp_path)])
        with pytest.raises(SystemExit) as stop:
            tfgen_command.main()
    assert not stop.value.code
    assert "gr\\udcfc\\udcdfe.txt" in capsys.readouterr().out


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "car", "train"):
        fill(tmp_path / name, 5)
    assert data.open_split(tmp_path, "train").num_classes == 3


# In an order that depends on how accents are spelled, unless they are spelled in one way.
ACCENTED = ("ete", "et\u00e9", "ezz", "f", "\u00fcber", "\u1ec7", "uz")


@pytest.mark.parametrize("split", ["", "train"])
def test_classes_do_not_depend_on_how_a_system_spells_accents(tmp_path, opened, split):
    found = []
    for form in ("NFC", "NFD"):
        for index, name in enumerate(ACCENTED):
            fill(tmp_path / form / split / unicodedata.normalize(form, name), 5, 5 * index)
        images, labels = opened(tmp_path / form, "train")
        found.append((data.check(tmp_path / form).classes, images, labels))
    (classes, images, labels), (others, same, numbers) = found
    assert list(classes) == sorted(ACCENTED)
    assert list(classes.items()) == list(others.items())
    np.testing.assert_array_equal(images, same)
    np.testing.assert_array_equal(labels, numbers)


def test_splits_may_spell_accents_in_two_ways(tmp_path, opened):
    for form, split, start in (("NFC", "train", 0), ("NFD", "test", 50)):
        for index, name in enumerate(ACCENTED):
            fill(tmp_path / split / unicodedata.normalize(form, name), 5, start + 5 * index)
    images, labels = opened(tmp_path, "test")
    assert sorted(labels) == sorted(list(range(len(ACCENTED))) * 5)
    first = 50 + 5 * ACCENTED.index("\u00fcber")
    expected = {noise((4, 6, 3), first + index).tobytes() for index in range(5)}
    label = sorted(ACCENTED).index("\u00fcber")
    assert {image.tobytes() for image in images[labels == label]} == expected


@pytest.mark.parametrize("split", ["", "train"])
def test_two_folders_of_one_name_are_not_one_class(tmp_path, split):
    for index, form in enumerate(("NFC", "NFD")):
        fill(tmp_path / split / unicodedata.normalize(form, "et\u00e9"), 5, 5 * index)
    with pytest.raises(ValueError, match=r"two of them have the name et\u00e9, .* Move the images"):
        data.arrays(tmp_path)


@pytest.mark.parametrize(
    ("folders", "match"),
    [
        (("train", "test", "more"), "either splits or classes; .* train.* next to more"),
        (("test", "val"), "must hold a folder train"),
        (("train", "val", "valid"), "at most one for validation"),
        (("train/cat", "test/dog"), "classes of .*train; received dog"),
        (("train/cat", "test"), "received images without classes"),
        (("cat/young", "cat/old", "dog"), "images in a folder of its own, old/. Move"),
        (("photos/cat", "photos/dog"), r"its own, cat/\. Name .*photos instead"),
        ((".", "cat"), "either images or subfolders"),
        (("train", "train/cat"), "either images or subfolders"),
    ],
)
def test_arrangements_that_are_not_understood(tmp_path, folders, match):
    for folder in folders:
        fill(tmp_path / folder, 3)
    with pytest.raises(ValueError, match=match):
        data.arrays(tmp_path)


# What is read


def test_empty_and_hidden_folders_are_no_classes(tmp_path, capsys):
    fill(tmp_path / "b", 5)
    fill(tmp_path / "d", 5)
    for empty in ("a", "c/deep", "__MACOSX", ".git"):
        (tmp_path / empty).mkdir(parents=True)
    (tmp_path / "__MACOSX" / "._000.png").write_bytes(b"x")
    (tmp_path / "b" / ".hidden.png").write_bytes(b"x")
    split = data.open_split(tmp_path, "train")
    assert split.num_classes == 2
    told = capsys.readouterr().err
    assert "10 images of 2 classes" in told
    assert "Not images, so not read: a/, c/." in told


def test_every_format_is_read(tmp_path, opened):
    names = ["a.png", "b.PNG", "c.bmp", "d.webp", "e.png"]
    for seed, name in enumerate(names):
        save(tmp_path / name, seed, **({"lossless": True} if name.endswith("webp") else {}))
    found = [image.tobytes() for split in data.SPLITS for image in opened(tmp_path, split)[0]]
    assert sorted(found) == sorted(noise((4, 6, 3), seed).tobytes() for seed in range(5))


def test_other_files_are_named(tmp_path, capsys):
    fill(tmp_path, 5)
    for name in ("labels.csv", "a.gif", "b.tiff", "notes.txt", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    data.arrays(tmp_path)
    assert "so not read: a.gif, b.tiff, labels.csv and 1 more." in capsys.readouterr().err


def test_colour_in_one_split_is_colour_in_all(tmp_path, opened):
    fill(tmp_path / "train", 5, shape=(4, 6))
    fill(tmp_path / "test", 2)
    assert [opened(tmp_path, split)[0].shape[1:] for split in data.SPLITS] == [(4, 6, 3)] * 3


# Conversions

SHADES = np.arange(0, 256, 5, np.uint8)[:48].reshape(6, 8)


def one(tmp_path: Path, image: Image.Image, **options) -> np.ndarray:
    """Returns what an image is read as."""
    for index in range(3):
        image.save(tmp_path / f"{index}.png", **options)
    return data.arrays(tmp_path)[0][0]


def test_sixteen_bits_keep_their_shades(tmp_path, capsys):
    deep = Image.fromarray(SHADES.astype(np.uint16) * 257)
    np.testing.assert_array_equal(one(tmp_path, deep)[..., 0], SHADES)
    assert "3 images reduced from 16 bits to 8." in capsys.readouterr().err


def save_deep(
    path: Path,
    levels: np.ndarray,
    colour_type: int,
    transparent: int | tuple[int, ...] | None = None,
    depth: int = 16,
) -> None:
    """Writes a PNG file of other bits a channel, which Pillow does for plain grey alone."""
    height, width = levels.shape[:2]
    if depth == 16:
        packed = [row.astype(">u2").tobytes() for row in levels]
    else:  # the bits of a row one after another, the first one in front
        bits = [np.unpackbits(row[:, None], axis=1)[:, 8 - depth :] for row in levels]
        packed = [np.packbits(row.reshape(-1)).tobytes() for row in bits]
    rows = b"".join(b"\0" + row for row in packed)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0),
        **({} if transparent is None else {b"tRNS": np.array(transparent, ">u2").tobytes()}),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks.items()
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bits_of_colours_give_their_high_byte(tmp_path, channels):
    """Grey with an alpha channel is colour, too."""
    levels = np.random.default_rng(0).integers(0, 65536, (4, 6, channels), np.uint16)
    if channels != 3:
        levels[..., -1] = 65535
    path = tmp_path / "deep.png"
    save_deep(path, levels, {2: 4, 3: 2, 4: 6}[channels])
    header = read_header(path)
    assert header.colour
    assert not header.deep
    high = (levels >> 8).astype(np.uint8)
    expected = high[..., :3] if channels > 2 else high[..., :1].repeat(3, -1)
    np.testing.assert_array_equal(read_image(path, (4, 6, 3)), expected)


def test_a_transparent_level_of_sixteen_bits_is_white(tmp_path, opened, capsys):
    """That level alone, and not another one that becomes the same shade."""
    levels = SHADES.astype(np.uint16) * 257
    clear = int(levels[2, 3])
    levels[0, 0] = clear + 1
    expected = SHADES.copy()
    expected[0, 0], expected[2, 3] = SHADES[2, 3], 255
    for index in range(3):
        save_deep(tmp_path / f"{index}.png", levels, 0, clear)
    np.testing.assert_array_equal(opened(tmp_path, "train")[0][0, ..., 0], expected)
    told = capsys.readouterr().err
    assert "3 images drawn over white where transparent." in told
    assert "3 images reduced from 16 bits to 8." in told


def test_a_transparent_colour_of_sixteen_bits_is_white(tmp_path):
    levels = np.random.default_rng(0).integers(0, 2**16, (4, 6, 3)).astype(np.uint16)
    levels[2, 3] = 0x1234, 0x5678, 0x9ABC
    levels[0, 0] = 0x3400, 0x7800, 0xBC00  # the lower bytes of that one
    save_deep(tmp_path / "deep.png", levels, 2, (0x1234, 0x5678, 0x9ABC))
    expected = (levels >> 8).astype(np.uint8)
    expected[2, 3] = 255
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png", (4, 6, 3)), expected)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_level_of_few_bits_is_white(tmp_path, depth):
    """Where Pillow scales the pixels to 8 bits, and not that level."""
    levels = np.random.default_rng(0).integers(0, 2**depth, (4, 6)).astype(np.uint8)
    clear = int(levels[1, 2])
    save_deep(tmp_path / "few.png", levels, 0, clear, depth)
    expected = np.where(levels == clear, 255, levels * (255 // (2**depth - 1)))
    np.testing.assert_array_equal(read_image(tmp_path / "few.png", (4, 6, 1))[..., 0], expected)


def test_a_folder_of_levels_0_and_1_alone_is_no_good(tmp_path):
    """Masks, saved as they are, would train a model of black."""
    for index in range(9):
        Image.fromarray(noise((4, 6), index) % 2).save(tmp_path / f"{index}.png")
    assert "All values are 0 and 1" in " ".join(data.check(tmp_path).problems)
    with pytest.raises(ValueError, match="only 0 and 1"):
        data.arrays(tmp_path, "train")
    with pytest.raises(ValueError, match="only 0 and 1"):
        data.prepare(tmp_path, tmp_path.with_name(f"{tmp_path.name}_shards"), verbose=0)
    assert not (tmp_path.with_name(f"{tmp_path.name}_shards") / "dataset.json").exists()


def test_shards_of_levels_0_and_1_alone_are_no_good(tmp_path, monkeypatch):
    """Such as an older version wrote."""
    (tmp_path / "masks").mkdir()
    for index in range(9):
        Image.fromarray(noise((4, 6), index) % 2).save(tmp_path / "masks" / f"{index}.png")
    monkeypatch.setattr(writing, "check_values", lambda *_: None)
    shards = data.prepare(tmp_path / "masks", tmp_path / "shards", verbose=0)
    assert "All values are 0 and 1" in " ".join(data.check(shards).problems)


def test_a_size_of_numpy_is_a_size():
    size = data.Source("digits", size=np.int64(16)).size
    assert size == (16, 16)
    assert {type(side) for side in size} == {int}  # a recipe holds it


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparent_pixels_are_white(tmp_path, mode, capsys):
    if mode == "P":
        image = Image.fromarray(SHADES).convert("P")
        at = image.getpixel((0, 0))
        found = one(tmp_path, image, transparency=at)
        clear = np.asarray(image) == at
    else:
        alpha = np.where(SHADES < 100, 0, 255).astype(np.uint8)
        bands = [SHADES] * (len(mode) - 1) + [alpha]
        image = Image.merge(mode, [Image.fromarray(band) for band in bands])
        found, clear = one(tmp_path, image), alpha == 0
    assert found.shape[2] == (1 if mode == "LA" else 3)
    assert (found[clear] == 255).all()
    np.testing.assert_array_equal(found[~clear][:, 0], SHADES[~clear])
    assert "3 images drawn over white where transparent." in capsys.readouterr().err


def test_half_transparent_pixels_are_mixed_with_white(tmp_path):
    found = one(tmp_path, Image.new("RGBA", (4, 4), (0, 100, 200, 51)))
    np.testing.assert_allclose(found[0, 0], [204, 224, 244], atol=1)


def test_palette_and_cmyk_are_colour(tmp_path):
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    np.testing.assert_array_equal(one(tmp_path, red.quantize(4))[0, 0], [255, 0, 0])
    for index in range(3):
        (tmp_path / f"{index}.png").unlink()
        red.convert("CMYK").save(tmp_path / f"{index}.jpg")
    found = data.arrays(tmp_path)[0]
    assert found.shape[1:] == (4, 4, 3)
    np.testing.assert_allclose(found[0, 0, 0], [255, 0, 0], atol=6)


def test_orientation_is_honoured(tmp_path, opened):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    for index in range(3):
        Image.fromarray(SHADES).save(tmp_path / f"{index}.png", exif=exif)
    np.testing.assert_array_equal(opened(tmp_path, "train")[0][0, ..., 0], np.rot90(SHADES, -1))


@pytest.mark.parametrize("place", ["eXIf", "late eXIf", "zTXt", "XMP"])
def test_a_header_knows_every_orientation_that_turns_the_pixels(tmp_path, place):
    path, exif, texts = tmp_path / "turned.png", Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x0112] = 6
    body = exif.tobytes()
    if place == "zTXt":  # as ImageMagick writes it
        profile = f"\nexif\n{len(body):8}\n{body.hex()}\n"
        texts.add_text("Raw profile type exif", profile, zip=True)
    if place == "XMP":
        texts.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    options = {"exif": exif} if "eXIf" in place else {}
    Image.fromarray(SHADES).save(path, pnginfo=texts, **options)
    if place == "late eXIf":
        content = path.read_bytes()
        start, end = content.index(b"eXIf") - 4, content.index(b"IDAT") - 4
        moved, last = content[start:end], len(content) - 12
        path.write_bytes(content[:start] + content[end:last] + moved + content[last:])
    header = read_header(path)
    assert header.size == (8, 6)
    pixels = read_image(path, (*header.size, 1))
    np.testing.assert_array_equal(pixels[..., 0], np.rot90(SHADES, -1))


@pytest.mark.parametrize("suffix", ["jpg", "webp", "png"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_in_every_format(tmp_path, suffix, turn):
    path, exif = tmp_path / f"turned.{suffix}", Image.Exif()
    exif[0x0112] = turn
    corners = np.array([[0, 80, 160], [240, 40, 200]], np.uint8)
    image = Image.fromarray(np.kron(corners, np.ones((16, 16), np.uint8)))
    image.save(path, exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    header = read_header(path)
    assert header.size == expected.shape[:2]
    np.testing.assert_array_equal(read_image(path, (*header.size, 3)), expected)


# EXIF data of zeros, as tools that remove it leave; and a turned image whose resolution is a text.
ZEROS = bytes(16)
TEXT = b"II*\0\x08\0\0\0" + struct.pack("<H", 2)
TEXT += struct.pack("<HHLHH", 0x112, 3, 1, 6, 0) + struct.pack("<HHL4s", 0x11A, 2, 3, b"72\0\0")
TEXT += bytes(4)


@pytest.mark.parametrize(("body", "size"), [(ZEROS, (6, 8)), (TEXT, (8, 6))])
def test_odd_exif_data_is_no_damage(tmp_path, body, size):
    for index in range(3):
        image = Image.fromarray(noise((6, 8, 3), index))
        image.save(tmp_path / f"{index}.jpg", dpi=(72, 72), exif=b"Exif\0\0" + body)
    report = data.check(tmp_path)
    assert report.unreadable == ()
    assert report.sizes == {size: 3}
    assert data.arrays(tmp_path)[0].shape[1:] == (*size, 3)


# Size


def test_a_size_scales_and_crops(tmp_path, opened, capsys):
    """A wide and a tall image with a white square in the middle of black."""
    for index, (height, width) in enumerate([(32, 64), (80, 40), (16, 16), (8, 8), (16, 24)]):
        image = np.zeros((height, width), np.uint8)
        side = min(height, width) // 2
        top, left = (height - side) // 2, (width - side) // 2
        image[top : top + side, left : left + side] = 255
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    expected = np.zeros((16, 16), bool)
    expected[4:12, 4:12] = True
    for split in data.SPLITS:
        images, _ = opened(data.Source(tmp_path, size=16), split)
        assert images.shape[1:] == (16, 16, 1)
        for image in images[..., 0]:
            assert np.mean((image > 127) == expected) > 0.9
    assert "4 images scaled and cropped (1 of them enlarged)." in capsys.readouterr().err


def test_a_size_for_arrays(tmp_path):
    np.savez(tmp_path / "mine.npz", images=noise((9, 20, 30, 3)))
    path = data.Source(tmp_path / "mine.npz", size=(8, 10))
    assert data.arrays(path)[0].shape[1:] == (8, 10, 3)
    assert data.open_split(path, "test").image_shape == (8, 10, 3)
    for channels in (1, 3):  # as the same images in files
        images, folder = noise((9, 20, 30, channels)), tmp_path / f"{channels}"
        folder.mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image.squeeze()).save(folder / f"{index}.png")
        np.savez(tmp_path / "mine.npz", images=images)
        as_files, as_arrays = (
            {image.tobytes() for s in data.SPLITS for image in data.arrays(source, s)[0]}
            for source in (data.Source(folder, size=(8, 10)), path)
        )
        assert as_arrays == as_files
    same, _ = data.arrays(data.Source("digits", size=8))
    np.testing.assert_array_equal(same, data.arrays("digits")[0])


@pytest.mark.parametrize("size", [0, -1, (4,), (4, 0), (4, 4, 1), 2.5, "64", True])
def test_a_size_that_is_not_valid(size):
    with pytest.raises(ValueError, match="size must be a positive integer, or two"):
        data.Source("digits", size=size)


def test_images_of_several_sizes_need_a_size(tmp_path):
    fill(tmp_path, 3)
    save(tmp_path / "odd.png", 9, (6, 4, 3))
    with pytest.raises(ValueError, match=r'size=64 \(--size 64, or "size": 64 in a r') as info:
        data.open_split(tmp_path, "train")
    assert "odd.png is 6 x 4" in str(info.value)


# Files that cannot be read


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Ten good files, one with a good header and half its pixels, and one that is text."""
    folder = tmp_path / "damaged"
    fill(folder, 11, shape=(64, 64, 3))
    content = (folder / "003.png").read_bytes()
    (folder / "003.png").write_bytes(content[: len(content) // 2])
    (folder / "text.png").write_text("no image")
    return folder


def test_a_file_that_cannot_be_read_is_named(damaged, opened):
    with pytest.raises(ValueError, match=r"text\.png must be a whole image.*--skip-bad"):
        opened(damaged, "train")
    (damaged / "text.png").unlink()
    parts = folders.open_folder(damaged).splits
    split = next(split for split in data.SPLITS if str(damaged / "003.png") in parts[split][0])
    with pytest.raises(Exception, match=r"003\.png must be a whole image"):
        opened(damaged, split)


def test_files_that_cannot_be_read_are_skipped_when_asked(damaged, opened, capsys):
    source = data.Source(damaged, skip_bad=True)
    assert [len(opened(source, split)[0]) for split in data.SPLITS] == [7, 1, 2]
    assert "2 unreadable files left out: " in capsys.readouterr().err


def test_a_folder_without_one_image_that_can_be_read(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ValueError, match="must hold images that can be read"):
        data.arrays(data.Source(tmp_path, skip_bad=True))
    assert data.check(data.Source(tmp_path, skip_bad=True)).problems == (
        "No image can be read. Replace the files.",
    )


@pytest.mark.parametrize("name", ["bee", "zebra"])
@pytest.mark.parametrize("split", ["", "train"])
def test_a_class_without_one_image_that_can_be_read(tmp_path, name, split):
    """In the middle of the classes, and the last one, without which the others look whole."""
    for index, good in enumerate(("ant", "cat", name)):
        fill(tmp_path / split / good, 5, 5 * index)
    if split:
        fill(tmp_path / "test" / "cat", 3, 20)
    for file in (tmp_path / split / name).iterdir():
        file.write_text("no image")
    found = f"can be read for each class; '{name}' has none{split and ' in train'}. Replace"
    with pytest.raises(ValueError, match=found):
        data.arrays(data.Source(tmp_path, skip_bad=True))
    report = data.check(data.Source(tmp_path, skip_bad=True))
    assert len(report.unreadable) == 5
    assert re.search(found, report.problems[-1])


def test_an_image_that_would_fill_the_memory(tmp_path, monkeypatch):
    fill(tmp_path, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"00.\.png must be a whole image file"):
        data.arrays(tmp_path)


def test_skipping_is_for_folders():
    with pytest.raises(ValueError, match="skip_bad must be False for 'digits'"):
        data.arrays(data.Source("digits", skip_bad=True))


def test_a_folder_that_is_not_there_is_told_first(tmp_path):
    """As where a run's relative path is read from another working directory."""
    with pytest.raises(data.DataNotFoundError, match="must be a path that exists"):
        data.arrays(data.Source(str(tmp_path / "photos"), skip_bad=True))


def test_no_keys_are_no_images(tmp_path):
    fill(tmp_path / "a", 6)
    split = data.open_split(data.Source(tmp_path / "a", size=4), "train", memory_bytes=0)
    images, _ = split.read(np.zeros(0, np.int64))
    assert images.shape == (0, 4, 4, 3)


def test_two_preparations_of_one_folder(tmp_path, monkeypatch):
    """The second began before the first had finished, and takes the lock after it."""
    fill(tmp_path / "a", 6)
    source, out = data.Source(tmp_path / "a", size=4), tmp_path / "shards"
    opened = writing.open_split

    def slow(*args, **kwargs):
        monkeypatch.setattr(writing, "open_split", opened)
        data.prepare(source, out, verbose=0)
        return opened(*args, **kwargs)

    monkeypatch.setattr(writing, "open_split", slow)
    with pytest.raises(ValueError, match="already holds a data set"):
        data.prepare(source, out, seed=1, verbose=0)


def test_shards_have_their_size(tmp_path):
    fill(tmp_path / "a", 6)
    shards = data.prepare(data.Source(tmp_path / "a", size=4), tmp_path / "shards", verbose=0)
    assert data.open_split(shards, "train").image_shape == (4, 4, 3)
    with pytest.raises(ValueError, match="left out for shards; received size=\\(8, 8\\)"):
        data.open_split(data.Source(shards, size=8), "train")


def test_nothing_is_not_the_working_directory(tmp_path, monkeypatch):
    fill(tmp_path, 9)
    monkeypatch.chdir(tmp_path)
    assert len(data.arrays(".")[0]) < 9  # where there are images
    with pytest.raises(ValueError, match="data must be one of"):
        data.arrays("")


@pytest.mark.parametrize("name", ["{}.png", "{}.txt", "{}/a.png", "{}/a.txt"])
def test_listing_takes_a_few_looks_at_each_name(tmp_path, name):
    looks = 0

    class Counting(type(Path())):
        def __eq__(self, other):
            nonlocal looks
            looks += 1
            return super().__eq__(other)

        def __hash__(self):
            nonlocal looks
            looks += 1
            return super().__hash__()

    files = [name.format(index) for index in range(200)]
    for file in files if name == "{}.png" else ["images/a.png", *files]:
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.touch()
    listing = folders.list_folder(Counting(tmp_path))
    assert len(listing.files) + len(listing.skipped) >= len(files)
    assert looks <= 10 * len(files)


# Checking


def test_a_report_of_a_good_folder(tmp_path, capsys):
    fill(tmp_path / "cat", 6)
    fill(tmp_path / "dog", 4, 10)
    report = data.check(tmp_path)
    assert not capsys.readouterr().err  # it says everything itself
    data.arrays(tmp_path)
    assert "10 images of 2 classes" in capsys.readouterr().err  # and no note is lost by it
    assert report.count == 10
    assert report.sizes == {(4, 6): 10}
    assert report.classes == {"cat": 6, "dog": 4}
    assert sum(report.splits.values()) == 10
    assert report.problems == ()
    assert report.size is None
    assert "0 cat (6), 1 dog (4)" in str(report)
    facts = json.loads(json.dumps(report.facts()))
    assert facts["sizes"] == {"4 x 6": 10}
    assert facts["classes"] == {"cat": 6, "dog": 4}


def test_a_report_of_a_bad_folder(damaged):
    save(damaged / "wide.png", 3, (64, 90, 3))
    (damaged / "copy.png").write_bytes((damaged / "000.png").read_bytes())
    (damaged / "labels.csv").write_text("x")
    report = data.check(damaged)
    assert {name for name, _ in report.unreadable} == {"003.png", "text.png"}
    assert len(report.duplicates) == 1
    assert report.skipped == ("labels.csv",)
    assert report.size == (64, 64)
    assert len(report.problems) == 2
    assert "--skip-bad" in str(report)
    assert "--size 64" in str(report)
    fine = data.check(data.Source(damaged, size=32, skip_bad=True))
    assert fine.problems == ()
    assert sum(fine.splits.values()) == fine.count == 12
    assert fine.changes == ("12 images scaled and cropped.",)
    assert fine.changes[0] in str(fine)


@pytest.mark.slow_except("npz*")
@pytest.mark.parametrize("kind", ["digits", "npz", "shards"])
def test_a_report_of_what_is_no_folder(tmp_path, kind):
    path = "digits"
    if kind == "npz":
        path = tmp_path / "mine.npz"
        np.savez(path, images=noise((9, 4, 4)), labels=np.arange(9) % 3)
    if kind == "shards":
        path = data.prepare("digits", tmp_path / "shards", verbose=0)
    report = data.check(path)
    assert len(report.sizes) == 1
    assert sum(report.classes.values()) == report.count == sum(report.splits.values())
    assert list(report.classes) == [str(label) for label in range(len(report.classes))]


def test_a_report_does_not_guess_what_it_could_not_read(tmp_path):
    """Two folders of one image each are two classes, whatever is wrong with them."""
    for seed, name in enumerate("ab"):
        save(tmp_path / name / "1.png", seed)
    told = str(data.check(tmp_path))
    assert "to mend" in told
    assert "held out" not in told.split("to mend")[0]
    assert not re.search("^ *(classes|splits)", told, re.MULTILINE)
