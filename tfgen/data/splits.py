"""Splits of a data set as training reads them: from memory or from image files.

An epoch is a sequence of keys, ordered by (seed, epoch) alone and cheap to skip through; a batch of
keys is read into a batch of images:

    held in memory   key = index              order: a permutation of all
    image folder     key = index of a file    the same permutation; files are read when needed
    shards           key = record             shards permuted, then each block of records

So an image folder gives the same batches whether it fits into memory or not. Shards are in
`tfgen.data.shards`.
"""

import functools
from typing import Protocol

import numpy as np
import tensorflow as tf

from tfgen.data.folders import ImageFolder
from tfgen.data.images import read_image
from tfgen.data.pairs import digest, digest_of

__all__ = ["Arrays", "Files", "Split", "head"]

READ_AHEAD = tf.data.AUTOTUNE


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
        """Returns what identifies the images, as `digest` does for an array."""

    def label_digest(self) -> str | None:
        """Returns what identifies the labels, or None without labels."""


class _Numbered:
    """A split whose keys are the indices of its images."""

    count: int
    _labels: np.ndarray | None

    def keys(self, seed: tf.Tensor, epoch: tf.Tensor) -> tf.data.Dataset:
        indices = tf.random.experimental.stateless_shuffle(
            tf.range(self.count), seed=tf.stack([seed, epoch])
        )
        return tf.data.Dataset.from_tensor_slices(indices)

    def keys_in_order(self) -> tf.data.Dataset:
        return tf.data.Dataset.range(self.count)

    def label_digest(self) -> str | None:
        return None if self._labels is None else digest(self._labels)


class Arrays(_Numbered):
    """A split that is held in memory.

    Args:
        images: uint8 (N, height, width, channels).
        labels: int64 (N,), or None.
        num_classes: Classes of the whole set; None: one more than the largest label.
    """

    parallel = None

    def __init__(
        self, images: np.ndarray, labels: np.ndarray | None, num_classes: int | None = None
    ):
        self.count = len(images)
        self.image_shape = images.shape[1:]
        self.num_classes = num_classes or (None if labels is None else int(labels.max()) + 1)
        self._images, self._labels = images, labels

    @functools.cached_property
    def _tensors(self) -> tuple[tf.Tensor, tf.Tensor | None]:
        images, labels = self._images, self._labels
        with tf.init_scope(), tf.device("CPU:0"):  # neither in a traced graph nor on a GPU
            return tf.constant(images), None if labels is None else tf.constant(labels)

    def read(self, keys: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        images, labels = self._tensors
        return tf.gather(images, keys), None if labels is None else tf.gather(labels, keys)

    def digest(self) -> str:
        return digest(self._images)


class Files(_Numbered):
    """A split of image files, which are read and decoded when they are needed.

    Args:
        folder: Its files and how they are read.
        split: "train", "validation" or "test".
    """

    parallel = READ_AHEAD

    def __init__(self, folder: ImageFolder, split: str):
        self._paths, self._labels = folder.splits[split]
        self.count = len(self._paths)
        self.image_shape = folder.image_shape
        self.num_classes = folder.num_classes
        self._fit = folder.fit

    def read(self, keys: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        images = tf.numpy_function(self._read, [keys], tf.uint8, stateful=False)
        images = tf.ensure_shape(images, (keys.shape[0], *self.image_shape))
        return images, None if self._labels is None else tf.gather(self._labels, keys)

    def _read(self, keys: np.ndarray) -> np.ndarray:
        images = np.zeros((len(keys), *self.image_shape), np.uint8)
        for image, key in zip(images, keys, strict=True):
            image[:] = read_image(self._paths[key], self.image_shape, self._fit)
        return images

    def digest(self) -> str:
        images = (read_image(path, self.image_shape, self._fit) for path in self._paths)
        return digest_of(images, (self.count, *self.image_shape))


def head(split: Split, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the first images of a split, at most `count`, and their labels."""
    keys = next(iter(split.keys_in_order().take(count).batch(count)))
    images, labels = split.read(keys)
    return np.asarray(images), None if labels is None else np.asarray(labels)
