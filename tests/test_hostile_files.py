"""Files and folders that somebody else, or a system, has put there."""

import os
import struct

import PIL.EpsImagePlugin
import pytest
import tensorflow as tf
from test_folders import fill, save

from tfgen import data
from tfgen.data.images import read_image
from tfgen.files import replacing
from tfgen.model_repository import versions
from tfgen.serving import servable
from tfgen.serving.repository import read_config

# An endless program, which Pillow would hand to Ghostscript.
PROGRAM = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{} loop\n"


def tiff(compression: int) -> bytes:
    """A TIFF of one grey pixel."""
    tags = ((256, 1), (257, 1), (258, 8), (259, compression), (262, 1), (273, 8), (279, 1))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0\0\0\0"


@pytest.mark.parametrize(
    ("name", "content"), [("a.png", PROGRAM), ("a.jpg", tiff(60_000)), ("a.webp", tiff(1))]
)
def test_a_file_that_is_of_another_kind_is_not_opened(tmp_path, monkeypatch, name, content):
    monkeypatch.setattr(PIL.EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("was run"))
    fill(tmp_path, 9)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} must be a whole image file"):
        read_image(tmp_path / name, (4, 6, 3))
    with pytest.raises(ValueError, match=rf"{name} must be a whole image file"):
        data.arrays(tmp_path, "train")
    source = data.Source(tmp_path, skip_bad=True)
    assert sum(len(data.arrays(source, split)[0]) for split in data.SPLITS) == 9


@pytest.mark.parametrize("folder", ["__MACOSX", "@eaDir", "$RECYCLE.BIN"])
def test_folders_that_systems_make_hold_no_images(tmp_path, folder):
    for place in (tmp_path / "flat", tmp_path / "classes" / "a", tmp_path / "classes" / "b"):
        fill(place, 6)
    save(tmp_path / "flat" / folder / "000.png", seed=7)
    save(tmp_path / "classes" / folder / "x" / "000.png", seed=7)
    assert data.open_split(tmp_path / "flat", "train").num_classes is None
    assert data.open_split(tmp_path / "classes", "train").num_classes == 2


def test_shards_lie_where_images_may(tmp_path):
    """In a folder whose name is not UTF-8, for instance."""
    fill(tmp_path / "photos", 12)
    out = data.prepare(tmp_path / "photos", tmp_path / os.fsdecode(b"caf\xe9"), verbose=0)
    for split in data.SPLITS:
        images, written = (data.arrays(place, split)[0] for place in (tmp_path / "photos", out))
        assert {image.tobytes() for image in images} == {image.tobytes() for image in written}
    opened = data.open_split(out, "train")
    keys = next(iter(opened.keys(tf.constant(0, tf.int64), tf.constant(0, tf.int64)).batch(3)))
    assert opened.read(keys)[0].shape == (3, 4, 6, 3)


def test_a_name_as_long_as_the_disk_allows_is_written(tmp_path):
    path = tmp_path / ("a" * 251 + ".png")
    with replacing(path) as temporary:
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"x")
    assert path.read_bytes() == b"x"


def test_one_odd_folder_of_a_repository_leaves_the_others_served(tmp_path):
    (tmp_path / "good" / "1").mkdir(parents=True)
    (tmp_path / "good" / "1" / "saved_model.pb").touch()
    (tmp_path / "itself").symlink_to("itself")
    odd = tmp_path / os.fsdecode(b"caf\xe9") / "1"
    odd.mkdir(parents=True)
    (odd / "saved_model.pb").touch()
    assert versions(tmp_path / "itself") == {}
    assert [model.name for model in read_config(tmp_path).model_config_list.config] == ["good"]
    (tmp_path / "deep.json").write_text("[" * 100_000)
    assert servable._details(tmp_path / "deep.json") == {}


def test_a_disk_that_is_away_is_no_empty_repository(tmp_path, monkeypatch):
    """Its models would be unloaded."""

    def gone(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("tfgen.model_repository.numbered", gone)
    with pytest.raises(OSError, match="Input/output"):
        versions(tmp_path)
