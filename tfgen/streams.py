"""Splits of a data set as training reads them: from memory, from image files or from shards.

Whatever a split comes from, an epoch is a sequence of keys whose order is a function of
(seed, epoch) alone, cheap to skip through, and a batch of keys is read into a batch of images:

    held in memory   key = index              order: a permutation of all
    image folder     key = index of a file    the same permutation; files are read when needed
    shards           key = record             shards permuted, then each block of records

So an image folder gives the same batches whether it fits into memory or not. A folder of shards is
what `prepare` writes: TFRecord files of PNG images, and an index, dataset.json.
"""

import functools
import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from tfgen import data
from tfgen.files import only_writer, replacing

__all__ = ["Arrays", "Files", "Shards", "Split", "open_split", "prepare"]

MEMORY_BYTES = 2**30  # an image folder larger than that is not held in memory
BLOCK = 4096  # records that are permuted together; at most two blocks are held
INTERLEAVE = 4  # shards that are read at once
SHARD_BYTES = 64 * 2**20
READ_AHEAD = tf.data.AUTOTUNE
ORDER_FOLD = 3  # epoch -> the order of records within a block


class Split(Protocol):
    """One split of a data set.

    Attributes:
        count: Images.
        image_shape: Height, width, channels.
        num_classes: One more than the largest label, or None without labels.
        parallel: How many batches are read at once.
    """

    count: int
    image_shape: tuple[int, int, int]
    num_classes: int | None
    parallel: int | None

    def keys(self, seed: tf.Tensor, epoch: tf.Tensor) -> tf.data.Dataset:
        """Returns the keys of one epoch, scalars, in an order that (seed, epoch) decides."""

    def keys_in_order(self) -> tf.data.Dataset:
        """Returns all keys in the order of the file."""

    def read(self, keys: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Returns images uint8 (n, *image_shape) and labels int64 (n,) or None of keys (n,)."""

    def digest(self) -> str:
        """Returns what identifies the images, as `data.digest` does."""


def open_split(name: str | os.PathLike[str], split: str) -> Split:
    """Opens a split of a data set: a named one, an .npz file, an image folder or shards.

    Args:
        name: As for `data.arrays`, or a folder that `prepare` has filled.
        split: "train", "validation" or "test".

    Raises:
        ValueError, data.DataNotFoundError, ImportError: As for `data.arrays`.
    """
    if not data.is_named(name):
        path = Path(name).expanduser()
        if (path / data.INDEX).is_file():
            return Shards(path, split)
        if path.is_dir():
            files, labels = data.image_files(path, split)
            shape = data.folder_shape(path, files)
            if len(files) * math.prod(shape) > MEMORY_BYTES:
                return Files(files, labels, shape)
    return Arrays(*data.arrays(name, split))


class Arrays:
    """A split that is held in memory."""

    parallel = None

    def __init__(self, images: np.ndarray, labels: np.ndarray | None):
        self.count = len(images)
        self.image_shape = images.shape[1:]
        self.num_classes = None if labels is None else int(labels.max()) + 1
        self._arrays = images, labels

    @functools.cached_property
    def _tensors(self) -> tuple[tf.Tensor, tf.Tensor | None]:
        images, labels = self._arrays
        with tf.init_scope():  # not a constant of the graph that is being traced
            return tf.constant(images), None if labels is None else tf.constant(labels)

    def keys(self, seed, epoch):
        return _permuted(self.count, seed, epoch)

    def keys_in_order(self):
        return tf.data.Dataset.range(self.count)

    def read(self, keys):
        images, labels = self._tensors
        return tf.gather(images, keys), None if labels is None else tf.gather(labels, keys)

    def digest(self):
        return data.digest(self._arrays[0])


class Files:
    """A split of image files, which are read and decoded when they are needed.

    Args:
        paths: One file for each image.
        labels: int64 (N,), or None.
        image_shape: What each file must hold.
    """

    parallel = READ_AHEAD

    def __init__(self, paths: np.ndarray, labels: np.ndarray | None, image_shape):
        self.count = len(paths)
        self.image_shape = tuple(image_shape)
        self.num_classes = None if labels is None else int(labels.max()) + 1
        self._paths, self._labels = paths, labels

    def keys(self, seed, epoch):
        return _permuted(self.count, seed, epoch)

    def keys_in_order(self):
        return tf.data.Dataset.range(self.count)

    def read(self, keys):
        images = tf.numpy_function(self._read, [keys], tf.uint8, stateful=False)
        images = tf.ensure_shape(images, (keys.shape[0], *self.image_shape))
        return images, None if self._labels is None else tf.gather(self._labels, keys)

    def _read(self, keys: np.ndarray) -> np.ndarray:
        return np.stack(
            [data.read_image(self._paths[key], self.image_shape) for key in keys]
            or [np.zeros(self.image_shape, np.uint8)][:0]
        )

    def digest(self):
        images = (data.read_image(path, self.image_shape) for path in self._paths)
        return data.digest_of(images, (self.count, *self.image_shape))


class Shards:
    """A split of TFRecord shards, as `prepare` writes them.

    Args:
        folder: Holds dataset.json and the shards it lists.
        split: "train", "validation" or "test".

    Raises:
        ValueError: dataset.json is not what `prepare` writes, or a shard is missing.
    """

    parallel = READ_AHEAD

    def __init__(self, folder: Path, split: str):
        if split not in data.SPLITS:
            raise ValueError(f"split must be one of {', '.join(data.SPLITS)}; received {split!r}.")
        index = data.read_index(folder)
        own = index["splits"][split]
        self.count = own["count"]
        self.image_shape = tuple(index["image_shape"])
        self.num_classes = index["num_classes"]
        self._digest = own["digest"]
        self._paths = [str(folder / shard) for shard in own["shards"]]

    def keys(self, seed, epoch):
        paths = tf.random.experimental.stateless_shuffle(
            tf.constant(self._paths), seed=tf.stack([seed, epoch])
        )
        records = tf.data.Dataset.from_tensor_slices(paths).interleave(
            lambda path: tf.data.TFRecordDataset(path, buffer_size=2**20),
            cycle_length=min(INTERLEAVE, len(self._paths)),
            deterministic=True,
        )

        def permuted(place, block):
            # Another stream of the seed than the order of the shards.
            key = tf.stack([seed ^ ORDER_FOLD, epoch * 2**32 + place])
            return tf.data.Dataset.from_tensor_slices(
                tf.random.experimental.stateless_shuffle(block, seed=key)
            )

        return records.batch(BLOCK).enumerate().flat_map(permuted)

    def keys_in_order(self):
        return tf.data.TFRecordDataset(self._paths)

    def read(self, keys):
        features = {"image": tf.io.FixedLenFeature((), tf.string)}
        if self.num_classes is not None:
            features["label"] = tf.io.FixedLenFeature((), tf.int64)
        parsed = tf.io.parse_example(keys, features)
        shape = self.image_shape
        images = tf.map_fn(
            lambda png: tf.ensure_shape(tf.io.decode_png(png, shape[2]), shape),
            parsed["image"],
            fn_output_signature=tf.TensorSpec(shape, tf.uint8),
        )
        return images, parsed.get("label")

    def digest(self):
        return self._digest


def _permuted(count: int, seed: tf.Tensor, epoch: tf.Tensor) -> tf.data.Dataset:
    indices = tf.random.experimental.stateless_shuffle(
        tf.range(count), seed=tf.stack([seed, epoch])
    )
    return tf.data.Dataset.from_tensor_slices(indices)


def head(split: Split, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the first images of a split, at most `count`, and their labels."""
    keys = next(iter(split.keys_in_order().take(count).batch(count)))
    images, labels = split.read(keys)
    return np.asarray(images), None if labels is None else np.asarray(labels)


# Writing shards


def prepare(
    name: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    shard_bytes: int = SHARD_BYTES,
    seed: int = 0,
    verbose: int = 1,
) -> Path:
    """Writes all splits of a data set as TFRecord shards of PNG images, in an order of `seed`.

    An image folder is read file by file, so it may be larger than memory. dataset.json comes
    last: a folder whose preparation was cut off is no data set.

    Args:
        name: As for `open_split`.
        folder: Where the shards go; must not hold a data set yet.
        shard_bytes: Pixels in a shard, uncompressed, about; at least one image.
        seed: Decides the order of the training images; the other splits keep theirs.
        verbose: 1 shows a progress bar.

    Raises:
        ValueError: As for `open_split`, or the folder holds a data set.
        OSError: The folder cannot be written.
    """
    folder = Path(folder).expanduser()
    if (folder / data.INDEX).exists():
        raise ValueError(
            f"out must be a new folder: {folder} already holds a data set. Name another folder."
        )
    splits = {split: _as_files(name, split) for split in data.SPLITS}
    index: dict[str, Any] = {
        "format": data.FORMAT,
        "image_shape": list(splits["train"].image_shape),
        "num_classes": splits["train"].num_classes,
        "splits": {},
    }
    total = sum(split.count for split in splits.values())
    bar = keras.utils.Progbar(total, unit_name="image", verbose=verbose)
    with only_writer(folder):
        for part, split in splits.items():
            order = np.arange(split.count)
            if part == "train":
                order = np.random.default_rng(seed).permutation(order)
            per_shard = max(1, shard_bytes // math.prod(split.image_shape))
            shards = -(-split.count // per_shard)
            paths = []
            for shard, keys in enumerate(np.array_split(order, shards)):
                paths.append(f"{part}-{shard:05d}-of-{shards:05d}.tfrecord")
                with replacing(folder / paths[-1]) as path:
                    _write_shard(path, split, keys, bar)
            digest = _digest_of_files([folder / path for path in paths])
            index["splits"][part] = {"count": split.count, "shards": paths, "digest": digest}
        with replacing(folder / data.INDEX) as path:
            path.write_text(json.dumps(index, indent=2) + "\n")
    return folder


def _as_files(name, part: str) -> Split:
    """A split by index: image files unread, anything else in memory."""
    path = Path(name).expanduser()
    if not data.is_named(name) and path.is_dir() and not (path / data.INDEX).is_file():
        files, labels = data.image_files(path, part)
        return Files(files, labels, data.folder_shape(path, files))
    return Arrays(*data.arrays(name, part))


def _write_shard(path: Path, split: Split, keys: np.ndarray, bar) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for key in keys:
            images, labels = split.read(tf.constant([key]))
            png = tf.io.encode_png(images[0]).numpy()
            feature = {"image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[png]))}
            if labels is not None:
                label = tf.train.Int64List(value=[int(labels[0])])
                feature["label"] = tf.train.Feature(int64_list=label)
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
            bar.add(1)


def _digest_of_files(paths: list[Path]) -> str:
    sha = hashlib.sha256()
    for path in paths:
        for chunk in _chunks(path):
            sha.update(chunk)
    return sha.hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            yield chunk
