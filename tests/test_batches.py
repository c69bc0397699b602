"""The batches of a run: their order, shifts and mirroring."""

import dataclasses

import laws
import numpy as np
import pytest
import runs
import tensorflow as tf
from runs import RECIPE, SIMPLE

from tfgen import (
    AutoEncoder,
    data,
    noise,
    training,
)
from tfgen.recipe import Recipe

# The order of the data

NUMBERED = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)
ORDERED = dataclasses.replace(RECIPE, batch_size=7, epochs=3, max_shift=0, mirror=False)


def batches_of(recipe: Recipe, images, labels, first_step: int = 0) -> tf.data.Dataset:
    split = data.Arrays(images, labels)
    return training.train_batches(recipe, split, labels is not None, first_step)


def test_no_thread_tunes_the_batches():
    """`fit` would at times wait for that thread, for half as long as it trained."""
    split = data.Arrays(NUMBERED, None)
    for batches in (
        training.train_batches(ORDERED, split, False),
        training.validation_batches(split, False, 7),
    ):
        assert batches.options().autotune.enabled is False


def order(recipe: Recipe, first_step: int = 0, labels: np.ndarray | None = None) -> np.ndarray:
    batches = batches_of(recipe, NUMBERED, labels, first_step)
    return np.stack([batch.numpy().ravel() for batch in batches])  # (steps, batch)


def test_each_epoch_is_a_permutation():
    steps = order(ORDERED)
    assert steps.shape == (21, 7)
    epochs = steps.reshape(3, 49)
    for epoch in epochs:
        assert len(np.unique(epoch)) == 49
        assert (epoch != np.sort(epoch)).any()
    assert (epochs[0] != epochs[1]).mean() > 0.8
    assert (epochs[1] != epochs[2]).mean() > 0.8
    # The image that is left out of an epoch is not always the same.
    left_out = [
        set(range(50)) - set(epoch)
        for epoch in order(dataclasses.replace(ORDERED, epochs=8)).reshape(8, 49).tolist()
    ]
    assert len(set(map(frozenset, left_out))) > 1


def test_order_is_a_function_of_seed_and_epoch():
    steps = order(ORDERED)
    np.testing.assert_array_equal(order(ORDERED), steps)
    for first_step in (3, 7, 16, 20):
        np.testing.assert_array_equal(order(ORDERED, first_step), steps[first_step:])
    assert (order(dataclasses.replace(ORDERED, seed=4)) != steps).mean() > 0.8


def test_labels_and_shifts_go_with_their_images():
    labels = np.arange(50)
    for images, classes in batches_of(ORDERED, NUMBERED, labels):
        np.testing.assert_array_equal(images.numpy().ravel(), classes)
    images, _ = data.arrays("digits", "train")
    recipe = dataclasses.replace(RECIPE, epochs=1)
    whole, rest = (
        [batch.numpy() for batch in batches_of(recipe, images, None, first)] for first in (0, 5)
    )
    np.testing.assert_array_equal(whole[5:], rest)
    still = dataclasses.replace(recipe, max_shift=0)
    plain = [batch.numpy() for batch in batches_of(still, images, None)]
    moved = [(a != b).any((1, 2, 3)).mean() for a, b in zip(whole, plain, strict=True)]
    assert 0.7 < np.mean(moved) < 0.98  # one of nine shifts is none


# Shifts


@pytest.mark.parametrize("most", [1, 2])
def test_random_shift_moves_by_at_most_most(most):
    image = np.zeros((9, 11, 1), np.uint8)
    image[4, 5], image[4, 6] = 200, 100
    images = tf.constant(np.repeat(image[None], 2000, 0))
    moved = training.random_shift(images, tf.range(2000, dtype=tf.int64), most).numpy()
    assert moved.dtype == np.uint8
    assert moved.shape == images.shape
    assert (np.sort(moved.reshape(2000, -1), 1) == np.sort(image.ravel())).all()
    white = tf.fill((50, 9, 11, 1), tf.constant(255, tf.uint8))  # black comes in, as docs/ say
    filled = training.random_shift(white, tf.range(50, dtype=tf.int64), most)
    assert set(np.unique(filled)) == {0, 255}
    rows, columns = np.unravel_index(moved.reshape(2000, -1).argmax(1), (9, 11))
    assert (moved[np.arange(2000), rows, columns + 1] == 100).all()
    counts = np.zeros((2 * most + 1, 2 * most + 1))
    np.add.at(counts, (rows - 4 + most, columns - 5 + most), 1)  # fails beyond `most`
    assert (counts > 0.6 * 2000 / counts.size).all()


def test_random_shift_depends_on_each_images_own_seed():
    images = tf.constant(laws.images_for(AutoEncoder((8, 8, 1)), 6))
    seeds = noise.fold(5, tf.range(6, dtype=tf.int64))
    together = training.random_shift(images, seeds, 2)
    for i in range(6):
        alone = training.random_shift(images[i : i + 1], seeds[i : i + 1], 2)
        np.testing.assert_array_equal(alone[0], together[i])


# Mirroring

# Image i holds the grey i on its left and 200 on its right.
SIDED = np.stack([np.arange(50), np.full(50, 200)], 1).astype(np.uint8).reshape(50, 1, 2, 1)
MIRRORED = dataclasses.replace(ORDERED, mirror=True, epochs=40)


def sides(recipe: Recipe, first_step: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Which images a run sees, and whether mirrored, (epochs, images) each or flat."""
    batches = batches_of(recipe, SIDED, None, first_step)
    left, right = np.moveaxis(
        np.concatenate([batch.numpy()[:, 0, :, 0] for batch in batches]), 1, 0
    )
    assert ((left == 200) ^ (right == 200)).all()
    return np.minimum(left, right), left == 200


def test_half_of_the_images_are_mirrored_and_others_each_epoch():
    numbers, mirrored = (found.reshape(40, 49) for found in sides(MIRRORED))
    plain, never = sides(dataclasses.replace(MIRRORED, mirror=False))
    np.testing.assert_array_equal(numbers.ravel(), plain)  # the order stays
    assert not never.any()
    # 1960 draws, 49 an epoch: within four standard deviations of one half.
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(mirrored.size)
    assert (abs(mirrored.mean(1) - 0.5) < 4 * 0.5 / np.sqrt(49)).all()
    shares = [mirrored[numbers == number].mean() for number in range(50)]
    assert min(shares) > 0.1, "an image is hardly ever mirrored"
    assert max(shares) < 0.9, "an image is nearly always mirrored"


def test_mirroring_is_a_function_of_seed_step_and_place():
    mirrored = sides(MIRRORED)[1]
    for first_step in (3, 7, 16):
        np.testing.assert_array_equal(sides(MIRRORED, first_step)[1], mirrored[7 * first_step :])
    other = sides(dataclasses.replace(MIRRORED, seed=4))[1]
    assert 0.4 < (other != mirrored).mean() < 0.6


def test_random_mirror_swaps_left_and_right_by_each_images_own_seed():
    images = np.random.default_rng(0).integers(0, 256, (64, 5, 7, 3), np.uint8)
    seeds = noise.fold(5, tf.range(64, dtype=tf.int64))
    together = training.random_mirror(tf.constant(images), seeds).numpy()
    assert together.dtype == np.uint8
    swapped = (together != images).any((1, 2, 3))
    np.testing.assert_array_equal(together[swapped], images[swapped][:, :, ::-1])
    assert 0.3 < swapped.mean() < 0.7
    for i in range(8):
        alone = training.random_mirror(tf.constant(images[i : i + 1]), seeds[i : i + 1])
        np.testing.assert_array_equal(alone[0], together[i])


@pytest.mark.slow
def test_only_training_images_are_mirrored(tmp_path):
    """Without learning, mirroring moves the training's loss and no other."""
    still = dataclasses.replace(SIMPLE, learning_rate=1e-30, ema_momentum=0.0, epochs=1)
    rows = []
    for mirror in (False, True):
        recipe = dataclasses.replace(still, mirror=mirror)
        training.train(recipe, tmp_path / str(mirror), verbose=0)
        rows += runs.log_of(tmp_path / str(mirror))
    plain, mirrored = rows
    assert plain["val_loss"] == mirrored["val_loss"]
    assert plain["loss"] != mirrored["loss"]
    pictures = [tmp_path / str(mirror) / "samples" / "epoch_0001.png" for mirror in (False, True)]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
