"""Shards: a data set as TFRecord files of PNG images, and an index, dataset.json.

`tfgen.data.prepare` writes them. An epoch's order permutes the shards and then each block of
records, so at most two blocks are held in memory.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfgen.data.pairs import SPLITS, Pair, check_split
from tfgen.data.splits import READ_AHEAD
from tfgen.files import NOT_JSON

__all__ = ["FORMAT", "INDEX", "Shards", "is_shards", "read_index", "read_shards"]

INDEX = "dataset.json"
FORMAT = "tfgen shards 1"
BLOCK = 4096  # records that are permuted together
INTERLEAVE = 4  # shards that are read at once
ORDER_BITS = 3  # of the seed, flipped for the order of records within a block


class Shards:
    """A split of TFRecord shards, as `prepare` writes them.

    Args:
        folder: Holds dataset.json and the shards it lists.
        split: "train", "validation" or "test".

    Raises:
        ValueError: dataset.json is not what `prepare` writes, or a shard is missing or has
            another size.
    """

    parallel = READ_AHEAD

    def __init__(self, folder: str | Path, split: str):
        check_split(split)
        folder = Path(folder).expanduser()
        index = read_index(folder)
        own = index["splits"][split]
        self.count = own["count"]
        self.image_shape = tuple(index["image_shape"])
        self.num_classes = index["num_classes"]
        self._digest = own["digest"]
        self._paths = [os.fsencode(folder / shard) for shard in own["shards"]]

    def keys(self, seed: tf.Tensor, epoch: tf.Tensor) -> tf.data.Dataset:
        paths = tf.random.experimental.stateless_shuffle(
            tf.constant(self._paths), seed=tf.stack([seed, epoch])
        )
        records = tf.data.Dataset.from_tensor_slices(paths).interleave(
            lambda path: tf.data.TFRecordDataset(path, buffer_size=2**20),
            cycle_length=min(INTERLEAVE, len(self._paths)),
        )

        def permuted(place, block):
            # Another stream of the seed than the order of the shards.
            key = tf.stack([seed ^ ORDER_BITS, epoch * 2**32 + place])
            return tf.data.Dataset.from_tensor_slices(
                tf.random.experimental.stateless_shuffle(block, seed=key)
            )

        return records.batch(BLOCK).enumerate().flat_map(permuted)

    def keys_in_order(self) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(self._paths)

    def read(self, keys: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
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

    def digest(self) -> str:
        return self._digest

    def label_digest(self) -> str | None:
        return None if self.num_classes is None else self._digest  # of files that hold both


def read_shards(folder: Path, split: str) -> Pair:
    """Reads a split of shards into memory.

    Raises:
        ValueError: As for `Shards`, or they do not hold as many images as the index lists.
    """
    source = Shards(folder, split)
    parts = [source.read(keys) for keys in source.keys_in_order().batch(500)]
    images = np.concatenate([images for images, _ in parts])
    labels = None
    if source.num_classes is not None:
        labels = np.concatenate([labels for _, labels in parts])
    if len(images) != source.count:
        raise ValueError(
            f"{folder} must hold {source.count} images in its {split} split; its shards hold "
            f"{len(images)}. Prepare the data again."
        )
    return images, labels


def is_shards(folder: Path) -> bool:
    """Whether a folder has an index of shards, damaged or not.

    Other programs, such as StyleGAN's tools, also write a dataset.json.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8-sig"))
    except OSError:
        return False
    except NOT_JSON:
        return True
    return isinstance(index, dict) and not index.keys().isdisjoint(("format", "splits"))


def read_index(folder: Path) -> dict[str, Any]:
    """Returns the content of a folder's dataset.json.

    Raises:
        ValueError: It is not what `prepare` writes, or a shard is missing or has another size.
    """
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8-sig"))
        broken = next((rule for rule, holds in _rules(index) if not holds), None)
    except (*NOT_JSON, KeyError, TypeError, AttributeError) as error:
        broken = repr(error)
    if broken is not None:
        raise ValueError(
            f"{path} is not an index that tfgen data prepare writes ({broken}). Prepare the "
            "data again."
        )
    for own in index["splits"].values():
        sizes = own.get("bytes") or [None] * len(own["shards"])
        for shard, size in zip(own["shards"], sizes, strict=True):
            if not (folder / shard).is_file():
                raise ValueError(
                    f"{folder} lacks the shard {shard}. Copy it, or prepare the data again."
                )
            found = (folder / shard).stat().st_size
            if size not in (None, found):
                raise ValueError(
                    f"{folder / shard} must have {size:,} bytes, as {INDEX} says; it has "
                    f"{found:,}. Copy it again, or prepare the data again."
                )
    return index


def _rules(index: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yields rules for dataset.json, and whether it keeps them."""
    shape, classes, splits = index["image_shape"], index["num_classes"], index["splits"]
    yield f"format must be {FORMAT!r}", index["format"] == FORMAT
    yield (
        "image_shape must be three positive integers",
        (len(shape) == 3 and all(isinstance(side, int) and side > 0 for side in shape)),
    )
    yield "images must have 1 or 3 channels", shape[2] in (1, 3)
    yield (
        "num_classes must be a positive integer or null",
        (classes is None or (isinstance(classes, int) and classes > 0)),
    )
    yield f"splits must be {', '.join(SPLITS)}", set(splits) == set(SPLITS)
    for split, own in splits.items():
        yield f"{split} must hold images", isinstance(own["count"], int) and own["count"] > 0
        yield f"{split} must list its shards", bool(own["shards"])
        # A name must not lead out of the folder.
        yield (
            f"{split} must list plain file names",
            all(isinstance(shard, str) and shard == Path(shard).name for shard in own["shards"]),
        )
        sizes = own.get("bytes", [0] * len(own["shards"]))  # older indexes do not list them
        yield (
            f"{split} must list the bytes of each shard",
            len(sizes) == len(own["shards"]) and all(isinstance(size, int) for size in sizes),
        )
