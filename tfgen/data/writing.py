"""Writing a data set as shards, which `tfgen.data.shards` reads."""

import hashlib
import math
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgen import checks
from tfgen.data.pairs import SPLITS, check_values
from tfgen.data.shards import FORMAT, INDEX, Shards
from tfgen.data.sources import Data, open_split, source_of
from tfgen.data.splits import Split
from tfgen.files import only_writer, replacing, system_errors, write_json

__all__ = ["prepare"]

SHARD_BYTES = 64 * 2**20


def prepare(
    data: Data,
    folder: str | os.PathLike[str],
    shard_bytes: int = SHARD_BYTES,
    seed: int = 0,
    verbose: int = 1,
) -> Path:
    """Writes all splits of a data set as TFRecord shards of PNG images, in an order of `seed`.

    An image folder is read file by file, so it may be larger than memory. dataset.json comes last:
    a folder cut off earlier is no data set.

    Args:
        data: As for `open_split`, but not shards.
        folder: Where the shards go; must not hold a data set yet, nor lie in the images' folder.
        shard_bytes: Pixels in a shard, uncompressed, about; at least one image.
        seed: Decides the order of the training images; the other splits keep theirs.
        verbose: 1 shows a progress bar.

    Raises:
        ValueError: As for `open_split`, the data are shards, or the folder holds a data set or
            lies among the images.
        OSError: The folder cannot be written.
    """
    folder = Path(folder).expanduser()
    checks.at_least(1, shard_bytes=shard_bytes)
    checks.at_least(0, seed=seed)
    _check_new(folder)
    source_of(data).refuse(folder, "shards and images would be mixed up")
    splits = {split: open_split(data, split, memory_bytes=0) for split in SPLITS}
    if isinstance(splits["train"], Shards):
        raise ValueError(
            f"data must not be shards; {getattr(data, 'data', data)} holds shards already. Name "
            "the images that they were made from."
        )
    index: dict[str, Any] = {
        "format": FORMAT,
        "image_shape": list(splits["train"].image_shape),
        "num_classes": splits["train"].num_classes,
        "splits": {},
    }
    total = sum(split.count for split in splits.values())
    bar, brightest = keras.utils.Progbar(total, unit_name="image", verbose=verbose), 0
    with only_writer(folder):
        _check_new(folder)  # again: another process may have finished meanwhile
        for part, split in splits.items():
            order = np.arange(split.count)
            if part == "train":
                order = np.random.default_rng(seed).permutation(order)
            shards = -(-split.count // max(1, shard_bytes // math.prod(split.image_shape)))
            paths = []
            for shard, keys in enumerate(np.array_split(order, shards)):
                paths.append(f"{part}-{shard:05d}-of-{shards:05d}.tfrecord")
                with replacing(folder / paths[-1]) as path:
                    brightest = max(brightest, _write_shard(path, split, keys, bar))
            files = [folder / path for path in paths]
            index["splits"][part] = {"count": split.count, "shards": paths, **_contents(files)}
        check_values("data", brightest)
        write_json(folder / INDEX, index)
    return folder


def _check_new(folder: Path) -> None:
    if (folder / INDEX).exists():
        raise ValueError(
            f"folder must be a new one; {folder} already holds a data set. Name another folder."
        )


def _write_shard(path: Path, split: Split, keys: np.ndarray, bar: keras.utils.Progbar) -> int:
    """Writes images; returns the largest value in them."""
    brightest = 0
    with system_errors(path.parent):
        writer = tf.io.TFRecordWriter(os.fsencode(path))
    try:
        for key in keys:
            record, largest = _record(split, key)
            brightest = max(brightest, largest)
            with system_errors(path.parent):
                writer.write(record)
            bar.add(1)
    finally:
        with system_errors(path.parent):
            writer.close()
    return brightest


def _record(split: Split, key: Any) -> tuple[bytes, int]:
    """Returns an image and its label as shards hold them, and its largest value."""
    images, labels = split.read(tf.constant([key]))
    png = tf.io.encode_png(images[0]).numpy()
    feature = {"image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[png]))}
    if labels is not None:
        label = tf.train.Int64List(value=[int(labels[0])])
        feature["label"] = tf.train.Feature(int64_list=label)
    record = tf.train.Example(features=tf.train.Features(feature=feature))
    return record.SerializeToString(), int(np.max(images))


def _contents(paths: list[Path]) -> dict[str, Any]:
    """Returns what the index says about the content of the shards of a split."""
    return {
        "bytes": [path.stat().st_size for path in paths],
        "digest": _digest_of_files(paths),
    }


def _digest_of_files(paths: list[Path]) -> str:
    sha = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: sha)  # one digest over all of them
    return sha.hexdigest()
