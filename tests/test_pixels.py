"""Value ranges and their checks."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfgen import pixels

ALL_NUM_LEVELS = range(2, 257)


def test_levels_round_trip():
    for num_levels in ALL_NUM_LEVELS:
        levels = np.arange(num_levels, dtype=np.float32)
        images = pixels.levels_to_images(levels, num_levels)
        assert images.dtype == tf.uint8
        np.testing.assert_array_equal(images, pixels.level_values(num_levels))
        back = pixels.images_to_levels(images, num_levels)
        assert back.dtype == tf.float32
        np.testing.assert_array_equal(back, levels)


def test_level_values():
    """round(255 k / (L - 1)), to within half a grey value."""
    for num_levels in ALL_NUM_LEVELS:
        values = pixels.level_values(num_levels)
        assert values.dtype == np.uint8
        assert values[0] == 0
        assert values[-1] == 255
        exact = 255 * np.arange(num_levels) / (num_levels - 1)
        assert np.abs(values - exact).max() <= 0.5
        assert (np.diff(values.astype(int)) > 0).all()
    np.testing.assert_array_equal(pixels.level_values(256), np.arange(256))


def test_images_go_to_the_nearest_level():
    images = np.arange(256, dtype=np.uint8)
    for num_levels in ALL_NUM_LEVELS:
        levels = pixels.images_to_levels(images, num_levels).numpy()
        assert levels.min() == 0
        assert levels.max() == num_levels - 1
        exact = 255 * levels / (num_levels - 1)
        assert np.abs(exact - images).max() <= 127.5 / (num_levels - 1) + 1e-3
    assert pixels.images_to_levels(np.uint8([127, 128]), 2).numpy().tolist() == [0, 1]


def test_levels_round_trip_under_xla():
    """XLA turns divisions into products; level 7 of 15 lies at 127.5 and must not move."""
    for num_levels in (2, 3, 15, 16, 17, 18, 31, 256):
        levels = tf.range(num_levels, dtype=tf.float32)
        compiled = tf.function(pixels.levels_to_images, jit_compile=True)
        images = compiled(levels, num_levels)
        np.testing.assert_array_equal(images, pixels.level_values(num_levels))


def test_greys_go_to_the_nearest_level():
    """The middle between two levels and what lies outside the range included, compiled or not."""
    greys = np.linspace(-20.0, 275.0, 5901, dtype=np.float32)  # steps of 1/20
    for num_levels in (2, 3, 4, 15, 52, 256):
        compiled = tf.function(pixels.greys_to_images, jit_compile=True)
        images = pixels.greys_to_images(greys, num_levels)
        assert images.dtype == tf.uint8
        np.testing.assert_array_equal(images, compiled(greys, num_levels))
        distances = np.abs(greys[:, None] - 255 * np.arange(num_levels) / (num_levels - 1))
        own = np.searchsorted(pixels.level_values(num_levels), images.numpy())
        chosen = np.take_along_axis(distances, own[:, None], 1)[:, 0]
        assert (chosen <= distances.min(1) + 1e-3).all()
    middle = pixels.greys_to_images(np.float32([127.4, 127.5, 127.6]), 2)
    assert middle.numpy().tolist() == [0, 0, 255]


def test_ways_there_lead_back():
    """Between all pairs of spaces; a metric's unit range is the greys'."""
    greys = np.linspace(0.0, 255.0, 52, dtype=np.float32)
    for num_levels in (2, 17, 256):
        in_levels = pixels.greys_to_levels(greys, num_levels)
        in_pixels = pixels.greys_to_pixels(greys)
        for found, expected in (
            (pixels.levels_to_greys(in_levels, num_levels), greys),
            (pixels.pixels_to_greys(in_pixels), greys),
            (pixels.levels_to_pixels(in_levels, num_levels), in_pixels),
            (pixels.pixels_to_levels(in_pixels, num_levels), in_levels),
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    unit = pixels.greys_to_unit(np.arange(256, dtype=np.uint8))
    assert unit.dtype == np.float32
    assert (unit[0], unit[51], unit[255]) == (0.0, np.float32(0.2), 1.0)


def test_ranges_have_one_home():
    """No other module of the library turns greys into anything else."""
    package = Path(pixels.__file__).parent
    for path in package.rglob("*.py"):
        if path.name != "pixels.py":
            code = re.sub(r'"[^"\n]*"', "", path.read_text())  # messages may show users how
            assert not re.search(r"[*/] ?\(?(np\.float32\()?(255\.|127\.5)", code), path


def test_levels_outside_the_range_are_clipped():
    images = pixels.levels_to_images(np.float32([-3.0, 0.4, 0.6, 2.4, 9.0]), 4)
    assert images.numpy().tolist() == [0, 0, 85, 170, 255]


def test_pixels():
    images = np.arange(256, dtype=np.uint8)
    scaled = pixels.images_to_pixels(images).numpy()
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, images / 127.5 - 1, atol=1e-6)
    assert (scaled[0], scaled[-1]) == (-1, 1)
    for num_levels in ALL_NUM_LEVELS:
        ends = pixels.levels_to_pixels(np.float32([0, num_levels - 1]), num_levels)
        np.testing.assert_allclose(ends, [-1, 1], atol=1e-6)
    levels = images.astype(np.float32)
    np.testing.assert_allclose(pixels.levels_to_pixels(levels, 256), scaled, atol=1e-6)
    greys = pixels.pixels_to_greys(pixels.greys_to_pixels(levels))
    np.testing.assert_allclose(greys, levels, atol=1e-4)
    for num_levels in (2, 15, 256):
        greys = pixels.levels_to_greys(np.arange(num_levels, dtype=np.float32), num_levels)
        np.testing.assert_allclose([greys.min(), greys.max()], [0, 255], rtol=1e-6)
        back = pixels.greys_to_levels(greys, num_levels)
        np.testing.assert_allclose(back, np.arange(num_levels), atol=1e-4)


def test_bits_per_dim():
    assert pixels.bits_per_dim(-8 * 12 * math.log(2), (2, 2, 3)) == pytest.approx(8)
    assert pixels.bits_per_dim(-80.0, (28, 28, 1)) == pytest.approx(80 / 784 / math.log(2))


@pytest.mark.parametrize("wrong", [0, 1, 257, 2.5, True, -4, math.nan, None])
def test_bad_num_levels(wrong):
    with pytest.raises(ValueError, match=rf"num_levels must be .*received {wrong}.*Use 2"):
        pixels.level_values(wrong)


GOOD = np.zeros((2, 4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (GOOD / 255, r"uint8 .*\[0, 255\]; received dtype float64.*np.round\(255"),
        (GOOD.astype(np.float16), r"received dtype float16.*np.round\(255"),
        (tf.zeros((2, 4, 6, 3)), r"received dtype float32.*np.round\(255"),
        (GOOD.astype(np.int32), r"received dtype int32.*\.astype\('uint8'\)"),
        (GOOD > 0, r"received dtype bool.*\.astype\('uint8'\)"),
        ((GOOD / 255).tolist(), r"received dtype float64.*np.round\(255"),
        (GOOD[0], r"\(batch, 4, 6, 3\); received \(4, 6, 3\).*images\[None\]"),
        (GOOD[..., :1], r"received \(2, 4, 6, 1\).*Resize"),
        (GOOD[:, :3], r"received \(2, 3, 6, 3\).*Resize"),
        (GOOD[None], r"received \(1, 2, 4, 6, 3\)"),
    ],
)
def test_bad_images(images, message):
    with pytest.raises(ValueError, match=f"^images must .*{message}"):
        pixels.check_images(images, (4, 6, 3), 256)


def test_bad_images_are_called_by_their_name():
    with pytest.raises(ValueError, match=r"^targets must .*Add the channel axis: images"):
        pixels.check_images(GOOD[..., 0], (4, 6, 1), 256, "targets")


def test_values_between_levels():
    images = GOOD.copy()
    images[1, 2, 3, 0] = 254
    pixels.check_images(images, (4, 6, 3), 256)
    with pytest.raises(ValueError, match=r"2 levels \[  0 255\]; received the value 254.*Round"):
        pixels.check_images(images, (4, 6, 3), 2)


def test_good_images():
    for images in (GOOD, tf.constant(GOOD)):
        checked = pixels.check_images(images, [4, 6, 3], 2)
        assert checked.dtype == tf.uint8
        np.testing.assert_array_equal(checked, GOOD)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "labels are required.*3 classes.*Pass one integer"),
        ([0, 3], r"labels must lie in \[0, 2\]; received 3.*from 0"),
        ([-1, 0], r"labels must lie in \[0, 2\]; received -1"),
        ([0.0, 1.0], r"shape \(2,\).*received dtype float64"),
        ([0], r"shape \(2,\).*shape \(1,\)"),
        ([[0, 1]], r"shape \(2,\).*shape \(1, 2\)"),
        ([True, False], "received dtype bool"),
        (1.5, "received dtype float64"),
    ],
)
def test_bad_labels(labels, message):
    with pytest.raises(ValueError, match=f"^labels .*{message}|^{message}"):
        pixels.check_labels(labels, 3, 2)


def test_labels_of_an_unconditional_model():
    assert pixels.check_labels(None, None, 2) is None
    with pytest.raises(ValueError, match=r"labels must be left out.*unconditional.*cvae"):
        pixels.check_labels([0, 1], None, 2)


@pytest.mark.parametrize("num_levels", [2, 4, 256])
def test_whole_levels_may_be_integers(num_levels):
    """As those of an argmax."""
    levels = np.arange(num_levels)
    expected = pixels.levels_to_images(levels.astype(np.float32), num_levels)
    np.testing.assert_array_equal(pixels.levels_to_images(levels, num_levels), expected)


def test_a_tensor_of_pytorch_becomes_an_array():
    class Tensor:
        """What of it counts here: a dtype of its own, and how NumPy reads it."""

        dtype = "torch.uint8"

        def __array__(self, dtype=None, copy=None):
            return np.arange(4, dtype=np.uint8)

    np.testing.assert_array_equal(pixels.as_array(Tensor()), np.arange(4, dtype=np.uint8))
    assert pixels.as_array([1, 2]).tolist() == [1, 2]
    tensor = tf.constant([1])
    assert pixels.as_array(tensor) is tensor


def test_good_labels():
    for labels in ([2, 0], np.uint8([2, 0]), tf.constant([2, 0])):
        checked = pixels.check_labels(labels, 3, 2)
        assert checked.dtype == tf.int64
        assert checked.numpy().tolist() == [2, 0]
    assert pixels.check_labels(1, 3, 2).numpy().tolist() == [1, 1]
    assert pixels.check_labels([], 3, 0).shape == (0,)
