"""Data that is read while training: shards and image folders."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
import runs
import tensorflow as tf
from PIL import Image

from tfgen import data, training
from tfgen.data import folders, report, sources, writing
from tfgen.data import shards as shards_module
from tfgen.recipe import Recipe

RECIPE = Recipe(
    family="AutoEncoder",
    model=runs.TINY,
    data="digits",
    batch_size=10,
    epochs=3,
    max_shift=1,
    mirror=True,
    jit_compile=False,
    seed=3,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Digits in several shards."""
    return data.prepare("digits", tmp_path_factory.mktemp("s") / "shards", 20_000, verbose=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """120 coloured images in two classes."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(120):
        path = folder / "ab"[index % 2] / f"{index:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (4, 6, 3), np.uint8)).save(path)
    return folder


def epoch(split, seed: int, number: int) -> list[bytes]:
    keys = split.keys(tf.constant(seed, tf.int64), tf.constant(number, tf.int64))
    return [split.read(batch)[0].numpy().tobytes() for batch in keys.batch(1)]


# Shards


def test_shards_hold_the_data_set(shards):
    index = json.loads((shards / "dataset.json").read_text())
    assert len(index["splits"]["train"]["shards"]) > 2
    for part in data.SPLITS:
        images, labels = data.arrays("digits", part)
        stored, classes = data.arrays(shards, part)
        if part == "train":  # in an order of their own, labels and all
            own, expected = (
                sorted((image.tobytes(), int(label)) for image, label in zip(*pair, strict=True))
                for pair in ((stored, classes), (images, labels))
            )
            assert own == expected
        else:
            np.testing.assert_array_equal(stored, images)
            np.testing.assert_array_equal(classes, labels)
    assert not [p for p in shards.iterdir() if p.name.startswith(".")]


@pytest.mark.slow
def test_order_of_shards_is_a_function_of_seed_and_epoch(shards, monkeypatch):
    monkeypatch.setattr(shards_module, "BLOCK", 100)
    split = data.Shards(shards, "train")
    first = epoch(split, 1, 0)
    assert len(first) == split.count
    assert epoch(data.Shards(str(shards), "train"), 1, 0) == first
    in_order = [i.tobytes() for i in data.arrays(shards, "train")[0]]
    for other in (epoch(split, 1, 1), epoch(split, 2, 0), in_order):
        assert sorted(other) == sorted(first)
        assert np.mean([a != b for a, b in zip(other, first, strict=True)]) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("source", ["shards", "folder"])
def test_batches_can_be_skipped(request, source, monkeypatch):
    monkeypatch.setattr(sources, "MEMORY_BYTES", 0)
    recipe = dataclasses.replace(RECIPE, data=str(request.getfixturevalue(source)))
    split = data.open_split(recipe.data, "train")
    assert not isinstance(split, data.Arrays)
    whole = list(training.train_batches(recipe, split, True, 0).as_numpy_iterator())
    per_epoch = split.count // recipe.batch_size
    assert len(whole) == 3 * per_epoch
    for first in (1, per_epoch, per_epoch + 2):
        rest = list(training.train_batches(recipe, split, True, first).as_numpy_iterator())
        for (a, b), (c, d) in zip(rest, whole[first:], strict=True):
            np.testing.assert_array_equal(a, c)
            np.testing.assert_array_equal(b, d)


@pytest.mark.slow
def test_a_resumed_run_on_shards_ends_as_a_whole_one(shards, tmp_path):
    recipe = dataclasses.replace(RECIPE, data=str(shards), batch_size=128)
    whole = training.train(recipe, tmp_path / "whole", verbose=0)
    runs.cut_off(recipe, tmp_path / "cut", 11)
    runs.assert_resumes(recipe, tmp_path / "cut", whole, tmp_path / "whole")


def test_prepare_refuses_a_folder_that_holds_a_data_set(shards):
    with pytest.raises(ValueError, match="already holds a data set"):
        data.prepare("digits", shards, verbose=0)


def test_shards_are_not_prepared_again(shards, tmp_path):
    with pytest.raises(ValueError, match=r"data must not be shards; .* holds shards already"):
        data.prepare(shards, tmp_path / "again", verbose=0)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("index", [{"labels": None}, {"labels": [["a.png", 1]]}, ["a.png"]])
def test_the_index_of_another_program_is_no_index_of_shards(tmp_path, index):
    """StyleGAN's tools, for example, write a dataset.json beside the images."""
    for name in "abcde":
        Image.fromarray(np.full((4, 4), ord(name), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    assert data.check(tmp_path).count == 5
    assert len(data.arrays(tmp_path, "train")[0]) == 3


def test_preparation_that_was_cut_off_is_no_data_set(tmp_path, monkeypatch):
    def fail(path, *args):
        raise OSError("no space left on device")

    monkeypatch.setattr(writing, "_digest_of_files", fail)
    with pytest.raises(OSError, match="no space"):
        data.prepare("digits", tmp_path / "out", verbose=0)
    with pytest.raises(ValueError, match="it holds none"):
        data.arrays(tmp_path / "out")


def test_a_full_disk_is_an_error_of_the_system(tmp_path, monkeypatch):
    def full(self, record):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.io.TFRecordWriter, "write", full)
    with pytest.raises(OSError, match="out cannot be written: No space left on device"):
        data.prepare("digits", tmp_path / "out", verbose=0)
    assert not list((tmp_path / "out").glob("*.tfrecord"))


@pytest.mark.parametrize("inside", [".", "shards"])
def test_shards_are_not_written_among_the_images(folder, inside):
    """The folder would be read as shards from then on."""
    before = sorted(folder.rglob("*"))
    for source in (str(folder), data.Source(folder, size=4)):
        with pytest.raises(ValueError, match=r"folder \(--out\) must lie outside the images, "):
            data.prepare(source, folder / inside, verbose=0)
    assert sorted(folder.rglob("*")) == before


# Damage


@pytest.mark.parametrize(
    "change",
    [
        {"format": "another"},
        {"image_shape": [8, 8]},
        {"image_shape": [8, "8", 1]},
        {"image_shape": None},
        {"num_classes": -1},
        {"splits": {}},
        {"splits": None},
    ],
)
def test_index_that_is_none(shards, tmp_path, change):
    index = json.loads((shards / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(index | change))
    with pytest.raises(ValueError, match="not an index that tfgen data prepare writes"):
        data.Shards(tmp_path, "train")


def test_index_cannot_lead_out_of_its_folder(shards, tmp_path):
    index = json.loads((shards / "dataset.json").read_text())
    index["splits"]["train"]["shards"] = ["../secret.tfrecord"]
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="not an index"):
        data.Shards(tmp_path, "train")


@pytest.mark.slow
def test_files_are_digested_once(folder, tmp_path, monkeypatch):
    """Which reads each of them, of a folder that is larger than memory."""
    monkeypatch.setattr(sources, "MEMORY_BYTES", 0)
    calls, digest = [], data.Files.digest
    monkeypatch.setattr(data.Files, "digest", lambda self: calls.append(1) or digest(self))
    model = {"image_shape": [4, 6, 3], "latent_dim": 2, "filters": [4], "num_blocks": 0}
    recipe = dataclasses.replace(RECIPE, data=str(folder), model=model, epochs=1)
    training.train(recipe, tmp_path / "run", verbose=0)
    assert len(calls) == 2  # of training and validation images


@pytest.mark.filterwarnings("error:The .deterministic. argument")
def test_missing_and_damaged_shards(shards, tmp_path):
    index = json.loads((shards / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="lacks the shard"):
        data.Shards(tmp_path, "train")
    for path in shards.glob("*.tfrecord"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / path.name).write_bytes(content)
    with pytest.raises(tf.errors.DataLossError):
        data.arrays(tmp_path, "test")
    for classes in (index["num_classes"], None):
        (tmp_path / "dataset.json").write_text(json.dumps(index | {"num_classes": classes}))
        problems = data.check(tmp_path).problems
        assert len(problems) == 3
        assert all("are damaged" in problem for problem in problems)
    with pytest.raises(ValueError, match=r"is damaged\. Prepare the shards again"):
        training.train(dataclasses.replace(RECIPE, data=str(tmp_path)), tmp_path / "run", verbose=0)


def test_a_file_that_is_lost_while_training_is_told_in_one_line(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MEMORY_BYTES", 0)
    images = shutil.copytree(folder, tmp_path / "images")
    model = {"image_shape": (4, 6, 3), "latent_dim": 2, "filters": (4,), "dense_units": 8}
    model = training.build(dataclasses.replace(RECIPE, model=model), 10)
    split = data.open_split(str(images), "train")
    assert isinstance(split, data.Files)

    def lose(epoch, logs):
        if epoch == 1:
            for path in images.glob("*/*.png"):
                path.unlink()

    losing = keras.callbacks.LambdaCallback(on_epoch_begin=lose)
    batches = split.keys_in_order().batch(10).map(lambda keys: split.read(keys)[0])
    with pytest.raises(ValueError, match=r"\.png must be a whole image file.*Replace it"):
        model.fit(batches, epochs=2, verbose=0, callbacks=[losing])


@pytest.mark.parametrize("wrong", [{"shard_bytes": 1e6}, {"shard_bytes": 0}, {"seed": -1}])
def test_what_is_no_number_of_shards_is_refused_by_name(tmp_path, wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be an integer"):
        data.prepare("digits", tmp_path / "shards", verbose=0, **wrong)
    assert not (tmp_path / "shards").exists()


def test_what_a_killed_run_left_is_removed(tmp_path):
    stale = tmp_path / "shards" / ".1-0123abcd.tmp.train-00000-of-00001.tfrecord"
    stale.parent.mkdir()
    stale.write_bytes(b"half")
    others = [stale.parent / name for name in (".mine.tmp.txt", "run/.1-0123abcd.tmp.npz")]
    for other in others:
        other.parent.mkdir(exist_ok=True)
        other.write_bytes(b"")
    (stale.parent / ".a.tmp.b").mkdir()
    data.prepare("digits", stale.parent, verbose=0)
    assert not stale.exists()
    assert all(other.exists() for other in others)


def test_a_shard_that_holds_fewer_images_than_it_should_is_reported(shards, tmp_path, monkeypatch):
    """Where the index does not list sizes, as older versions wrote it; one out of reach is not."""
    copy = shutil.copytree(shards, tmp_path / "copy")
    index = json.loads((copy / "dataset.json").read_text())
    del index["splits"]["train"]["bytes"]
    (copy / "dataset.json").write_text(json.dumps(index))
    first = min(copy.glob("train-*"))
    (record,) = tf.data.TFRecordDataset(str(first)).take(1)
    with tf.io.TFRecordWriter(str(first)) as writer:
        writer.write(record.numpy())
    assert data.check(copy).problems == ("The shards of train are damaged. Prepare them again.",)

    def refused(*_):
        raise tf.errors.PermissionDeniedError(None, None, "train; Permission denied")

    monkeypatch.setattr(report, "_read", refused)
    with pytest.raises(tf.errors.PermissionDeniedError):
        data.check(copy)


@pytest.mark.parametrize("damage", ["cut off", "longer", "swapped", "empty"])
def test_a_shard_of_another_size_is_refused(shards, tmp_path, damage):
    copy = shutil.copytree(shards, tmp_path / "copy")
    first, *others = sorted(copy.glob("train-*"))
    content = first.read_bytes()
    if damage == "swapped":
        other = next(path for path in others if path.stat().st_size != len(content))
        first.write_bytes(other.read_bytes())
        other.write_bytes(content)
    else:
        parts = {"cut off": content[:-1], "longer": content + b"0", "empty": b""}
        first.write_bytes(parts[damage])
    wanted = rf"{first.name} must have {len(content):,} bytes, as dataset.json says; .*Copy it"
    for opening in (lambda: data.open_split(copy, "train"), lambda: data.check(copy)):
        with pytest.raises(ValueError, match=wanted):
            opening()


def test_an_index_that_does_not_list_sizes_is_read(shards, tmp_path):
    """As older versions wrote them."""
    copy = shutil.copytree(shards, tmp_path / "copy")
    index = json.loads((copy / "dataset.json").read_text())
    for own in index["splits"].values():
        assert own.pop("bytes")
    (copy / "dataset.json").write_text(json.dumps(index))
    for own, other in zip(data.arrays(copy), data.arrays(shards), strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize("sizes", [None, [], "1", [1], 5, ["1"] * 4])
def test_sizes_that_are_none(shards, tmp_path, sizes):
    index = json.loads((shards / "dataset.json").read_text())
    index["splits"]["train"]["bytes"] = sizes
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="not an index that tfgen data prepare writes"):
        data.Shards(tmp_path, "train")


# Opening


def test_the_splits_of_a_file_are_read_once(tmp_path, monkeypatch):
    path = tmp_path / "mine.npz"
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4), np.uint8)
    np.savez(path, images=images)
    read = []
    original = sources.read_npz
    monkeypatch.setattr(sources, "read_npz", lambda path: read.append(path) or original(path))
    first = [data.open_split(path, split).digest() for split in data.SPLITS]
    assert [data.open_split(str(path), split).digest() for split in data.SPLITS] == first
    assert len(read) == 1
    np.savez(path, images=images[:40])  # another file under the same name
    assert data.open_split(path, "train").count == 26
    assert len(read) == 2


# Folders


def test_a_folder_gives_the_same_batches_in_memory_and_not(folder, monkeypatch):
    recipe = dataclasses.replace(RECIPE, data=str(folder))
    held = data.open_split(recipe.data, "train")
    assert isinstance(held, data.Arrays)
    monkeypatch.setattr(sources, "MEMORY_BYTES", 0)
    read = data.open_split(recipe.data, "train")
    assert isinstance(read, data.Files)
    assert (held.count, held.image_shape, held.num_classes) == (
        *(read.count, read.image_shape, read.num_classes),
    )
    assert held.digest() == read.digest()
    a, b = (training.train_batches(recipe, split, True, 0) for split in (held, read))
    for (images, labels), (others, classes) in zip(a, b, strict=True):
        np.testing.assert_array_equal(images, others)
        np.testing.assert_array_equal(labels, classes)


def test_a_folder_becomes_shards_without_being_held(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(folders.ImageFolder, "read", lambda *args: pytest.fail("held in memory"))
    path = data.prepare(folder, tmp_path / "out", verbose=0)
    monkeypatch.undo()
    for part in ("validation", "test"):
        for own, other in zip(data.arrays(path, part), data.arrays(folder, part), strict=True):
            np.testing.assert_array_equal(own, other)


def test_an_image_of_another_size_is_named(folder, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for index, width in enumerate([6] * 20 + [7]):
        Image.new("L", (width, 4)).save(tmp_path / "images" / f"{index:02d}.png")
    monkeypatch.setattr(sources, "MEMORY_BYTES", 0)
    with pytest.raises(ValueError, match=r"20\.png is 4 x 7"):
        data.prepare(tmp_path / "images", tmp_path / "out", verbose=0)
    assert not (tmp_path / "out" / "dataset.json").exists()
