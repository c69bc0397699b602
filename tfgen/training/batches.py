"""The batches of a run: which images, in which order, moved by how much, mirrored or not.

All are functions of (seed, epoch) or (seed, step, index in the global batch), so a run can begin at
any step.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfgen import devices, noise
from tfgen.data import Split
from tfgen.devices import num_replicas
from tfgen.recipe import Recipe

__all__ = ["augmented", "random_mirror", "random_shift", "train_batches", "validation_batches"]

ORDER_FOLD = 1  # seed -> the data's order
SHIFT_FOLD = 2  # seed -> the shifts of training images
MIRROR_FOLD = 9  # seed -> which training images are mirrored


def train_batches(
    recipe: Recipe, split: Split, labelled: bool, first_step: int = 0
) -> tf.data.Dataset:
    """Yields the batches of steps first_step, first_step + 1, ... to the end of the run.

    Each epoch has its own order, drawn from (seed, epoch); the last partial batch is
    dropped. With several processes, each reads only the images of its own devices.

    Args:
        recipe: Decides batch size, epochs, order, shifts and mirroring.
        split: The images.
        labelled: Whether to yield (images, labels).
        first_step: Where to begin; the steps before are skipped unread.
    """
    size = recipe.batch_size
    per_epoch = split.count // size
    order = noise.fold(recipe.seed, ORDER_FOLD)
    local, whole = local_share(size)

    def keys_of_epoch(epoch):
        return split.keys(order, epoch).batch(size, drop_remainder=True)

    def gather(step, keys):
        images, labels = split.read(tf.gather(keys, local))
        images = augmented(images, step * size + local, recipe)
        return (whole(images), whole(labels)) if labelled else whole(images)

    first_epoch = first_step // per_epoch
    keys = tf.data.Dataset.range(first_epoch, recipe.epochs).flat_map(keys_of_epoch)
    steps = tf.data.Dataset.range(first_epoch * per_epoch, recipe.epochs * per_epoch)
    batches = (
        tf.data.Dataset.zip(steps, keys)
        .skip(first_step - first_epoch * per_epoch)
        .map(gather, num_parallel_calls=split.parallel)
        .prefetch(4)
    )
    return untuned(batches)


def validation_batches(split: Split, labelled: bool, batch_size: int) -> tf.data.Dataset:
    """Yields a split in order; for several replicas the last batch is filled up, weight 0."""

    def read(keys):
        images, labels = split.read(keys)
        if num_replicas() == 1:
            return (images, labels) if labelled else images
        count = tf.shape(keys)[0]
        missing = batch_size - count
        images = tf.concat([images, tf.repeat(images[:1], missing, 0)], 0)
        images = tf.ensure_shape(images, (batch_size, *split.image_shape))
        targets = tf.zeros([batch_size], tf.int64)
        if labelled:
            targets = tf.ensure_shape(tf.pad(labels, [[0, missing]]), [batch_size])
        weights = tf.cast(tf.range(batch_size) < count, tf.float32)
        return images, targets, weights

    batched = split.keys_in_order().batch(batch_size)
    batched = batched.map(read, num_parallel_calls=split.parallel)
    counted = tf.data.experimental.assert_cardinality(-(-split.count // batch_size))
    return untuned(batched.apply(counted).prefetch(2))


def untuned(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the same batches without the thread that tunes buffers while they are read.

    With that thread, `fit` of 30 to 180 seconds returned 12 to 22 seconds after its last step;
    without it, at once. Image files are read no slower: how many at once is then fixed.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    # TensorFlow's way, by files, needs shards for each process.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.with_options(options)


def local_share(size: int) -> tuple[np.ndarray, Callable[[tf.Tensor], tf.Tensor]]:
    """Returns which places of a global batch this process reads, and how they make a batch.

    TensorFlow cuts a batch into one piece for each replica and deals the pieces to the processes
    in turn, whereas replica r shall have the r-th piece, as on one device. So pieces are laid out
    in that order; those of other processes, thrown away here, are zeros.
    """
    workers, replicas = devices.num_workers(), num_replicas()
    places = np.arange(size, dtype=np.int64)
    if workers == 1:
        return places, lambda tensor: tensor
    each = replicas // workers
    places = places.reshape(workers, each, size // replicas)[devices.worker_index()]

    def whole(local):
        tail = local.shape[1:]
        pieces = tf.reshape(local, (each, 1, size // replicas, *tail))
        before = devices.worker_index()
        around = [[0, 0], [before, workers - 1 - before]] + [[0, 0]] * (1 + len(tail))
        return tf.reshape(tf.pad(pieces, around), (size, *tail))

    return places.reshape(-1), whole


def random_shift(images: tf.Tensor, seeds: tf.Tensor, max_shift: int) -> tf.Tensor:
    """Moves each image by up to `max_shift` pixels each way; what moves in is 0.

    Args:
        images: uint8 (batch, height, width, channels).
        seeds: int64 (batch,); the shift of an image is a function of its seed.
        max_shift: In pixels, at least 0.
    """
    height, width = images.shape[1:3]
    around = [max_shift, max_shift]
    offset = tf.cast(noise.uniform(seeds, (2,)) * (2 * max_shift + 1), tf.int32)  # (batch, 2)
    padded = tf.pad(images, [[0, 0], around, around, [0, 0]])
    padded = tf.gather(padded, offset[:, :1] + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(padded, offset[:, 1:] + tf.range(width), axis=2, batch_dims=1)


def augmented(images: tf.Tensor, places: tf.Tensor, recipe: Recipe) -> tf.Tensor:
    """Moves and mirrors training images as a recipe asks.

    Args:
        images: uint8 (batch, height, width, channels).
        places: int64 (batch,); step * global batch size + index in the global batch.
        recipe: Its seed and the places decide what happens to each image.
    """
    if recipe.max_shift:
        seeds = noise.fold(noise.fold(recipe.seed, SHIFT_FOLD), places)
        images = random_shift(images, seeds, recipe.max_shift)
    if recipe.mirror:
        seeds = noise.fold(noise.fold(recipe.seed, MIRROR_FOLD), places)
        images = random_mirror(images, seeds)
    return images


def random_mirror(images: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
    """Swaps left and right in about half of the images.

    Args:
        images: uint8 (batch, height, width, channels).
        seeds: int64 (batch,); whether an image is mirrored is a function of its seed.
    """
    return tf.where(noise.uniform(seeds, (1, 1, 1)) < 0.5, images[:, :, ::-1], images)
