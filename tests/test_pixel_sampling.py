"""PixelCNN and PixelRNN: sampled right, and completed as they say."""

import laws
import naive_pixel_cnn
import numpy as np
import pytest
import tensorflow as tf
from pixel_networks import (
    NETWORKS,
    build,
    draws_are_as_likely_as_it_says,
    each_network,
    every_image,
    lower_rows_follow_the_upper_ones,
)

from tfgen import pixels
from tfgen.models import pixel_cnn
from tfgen.models.sampler import Sampler


def naive_sample(model, seeds, labels=None, temperature=1.0):
    """Runs the whole network for every group; returns levels and the parameters on the way."""
    grid, sampler = model.token_grid, Sampler(model, temperature)
    rows, columns, groups, size = grid.shape
    order = model.picked_reading(seeds)
    uniforms = sampler.uniforms(seeds)
    tokens = np.zeros((len(seeds), rows, columns, groups, size))
    conditions = model.conditions(len(seeds), labels, order)
    seen = []
    for row, column, group in np.ndindex(rows, columns, groups):
        current = tf.constant(tokens, model.output_dtype)
        parameters = model.parameters_of(current, conditions)[:, row, column, group]
        seen.append(parameters.numpy())
        tokens[:, row, column, group] = sampler.draw_group(
            parameters, uniforms[:, row, column, group]
        )
    tokens = tf.constant(tokens, model.output_dtype)
    return grid.restore(grid.from_tokens(tokens), order).numpy(), np.array(seen)


SAMPLED = {
    "pixels": ((4, 5, 1), {}),
    "tokens": ((4, 8, 1), {"token_shape": (2, 4), "orders": 2, "num_classes": 2}),
    "turned": ((4, 4, 1), {"token_shape": (2, 2), "orders": 8}),
    "mixture": (
        (2, 3, 3),
        {"num_levels": 256, "pixel_distribution": "discretized_logistic_mixture"},
    ),
    "categorical": ((2, 3, 3), {"num_levels": 5, "pixel_distribution": "categorical"}),
    "fourier": (
        (2, 3, 3),
        {"num_levels": 9, "pixel_distribution": "categorical", "fourier_features": 3},
    ),
    "categorical_tokens": (
        (4, 4, 3),
        {
            "num_levels": 5,
            "pixel_distribution": "categorical",
            "token_shape": (2, 2),
            "orders": 4,
            "fourier_features": 2,
        },
    ),
    "mixture_tokens": (
        (2, 4, 1),
        {
            "num_levels": 256,
            "pixel_distribution": "discretized_logistic_mixture",
            "token_shape": (2, 2),
        },
    ),
}


@pytest.mark.slow_except(
    "float64-pixels-gated", "float64-tokens-gated", "float64-turned-gated", "float64-mixture-gated"
)
@each_network
@pytest.mark.parametrize("space", SAMPLED)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_fast_sampler_equals_the_naive_one(network, space, dtype, monkeypatch):
    if dtype == "float32" and space not in ("tokens", "mixture"):
        pytest.skip("float64 shows it")
    image_shape, arguments = SAMPLED[space]
    model = build(network, image_shape, dtype=dtype, **arguments)
    seeds = model.image_seeds(4, 7)
    labels = None if model.num_classes is None else tf.constant([0, 1, 1, 0], tf.int64)
    levels, naive = naive_sample(model, seeds, labels)
    seen = []

    def recorded(self, parameters, *rest, whole=Sampler.draw_group):
        seen.append(parameters.numpy())
        return whole(self, parameters, *rest)

    monkeypatch.setattr(Sampler, "draw_group", recorded)
    # Eager, so all is numbers.
    fast = Sampler(model).draw(seeds, labels, model.picked_reading(seeds))
    np.testing.assert_array_equal(fast, levels)
    tolerance = {"float64": 1e-10, "float32": 1e-4}[dtype]
    np.testing.assert_allclose(np.array(seen), naive, rtol=tolerance, atol=tolerance)


@pytest.mark.slow_except("float64-gated", "mixed_bfloat16-diagonal*")
@pytest.mark.parametrize("network", [name for name in NETWORKS if name != "ensemble"])
@pytest.mark.parametrize("dtype", ["float64", "mixed_bfloat16"])
def test_adapters_are_drawn_with(network, dtype):
    model = build(network, (4, 5, 1), dtype=dtype)
    model.enable_lora(2, "*")
    laws.randomised(model, 0.3)  # so that no half of an adapter is 0
    seeds = model.image_seeds(4, 7)
    drawn = Sampler(model).draw(seeds, None, model.picked_reading(seeds))
    assert drawn.shape == (4, 4, 5, 1)
    if dtype == "float64":
        np.testing.assert_array_equal(drawn, naive_sample(model, seeds)[0])


def test_sampler_equals_the_readable_reference():
    """The network written out in NumPy, run for each pixel: the same logits, the same samples."""
    model = build("residual", (5, 6, 1), dtype="float64")
    seeds = np.arange(8)
    levels = naive_pixel_cnn.sample(model, seeds)
    np.testing.assert_array_equal(model.sample(8, seed=0), 255 * levels.astype(np.uint8))
    images = laws.images_for(model, 3)
    expected = naive_pixel_cnn.logits(model, images / 255.0)
    np.testing.assert_allclose(model(images)[..., 0, 0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.slow_except("gated")
@each_network
def test_sampled_frequencies_are_the_likelihoods(network):
    """Chi-squared on the 16 images of a 2x2 binary space, several orders and a token."""
    model = build(network, (2, 2, 1), orders=4, token_shape=(1, 2))
    draws_are_as_likely_as_it_says(model)


def test_temperature_sharpens():
    model = build("gated", (4, 4, 1), dtype="float64")
    levels, _ = naive_sample(model, model.image_seeds(64, 0), temperature=0.5)
    cold, warm = (model.sample(64, seed=0, temperature=t) for t in (0.5, 1.0))
    np.testing.assert_array_equal(cold, 255 * levels.astype(np.uint8))
    assert model.log_likelihood(cold).mean() > model.log_likelihood(warm).mean()


def test_a_gate_weighs_one_half_by_the_other():
    y = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype("float32")
    a, b = np.split(y, 2, axis=-1)
    np.testing.assert_allclose(pixel_cnn._gate(y), a / (1 + np.exp(-b)), rtol=1e-5)


# Completion


def test_completion_at_temperature_zero_is_one_image():
    model = build("gated", (4, 5, 1))
    images, mask = np.repeat(laws.images_for(model, 1), 8, 0), np.zeros((8, 4, 5, 1), bool)
    mask[:, :1] = True
    cold, warm = (model.complete(images, mask, seed=0, temperature=t) for t in (0.0, 1.0))
    assert (cold == cold[:1]).all()
    assert len(np.unique(warm, axis=0)) > 1


@pytest.mark.slow_except("tokens-gated")
@each_network
@pytest.mark.parametrize("space", SAMPLED)
def test_completion(network, space):
    image_shape, arguments = SAMPLED[space]
    model = build(network, image_shape, **arguments)
    given = laws.given(model, laws.labels_for(model, 6))
    images = laws.images_for(model, 6)
    mask = np.random.default_rng(0).random((6, *image_shape[:2], 1)) < 0.5
    drawn = model.complete(images, mask, seed=3, **given)
    kept = np.broadcast_to(mask, images.shape)
    np.testing.assert_array_equal(drawn[kept], images[kept])
    assert np.isin(drawn, pixels.level_values(model.num_levels)).all()
    assert (drawn[~kept] != images[~kept]).any()
    # Hidden pixels are not looked at.
    other = np.where(kept, images, laws.images_for(model, 6, seed=9))
    np.testing.assert_array_equal(model.complete(other, mask, seed=3, **given), drawn)
    other = np.where(mask, images, np.uint8(100))  # no level of some models
    np.testing.assert_array_equal(model.complete(other, mask, seed=3, **given), drawn)
    black = np.zeros_like(images)
    hidden_ones = np.where(mask, black, np.uint8(1))  # which, if they counted, would mean white
    np.testing.assert_array_equal(
        model.complete(hidden_ones, mask, seed=3, **given),
        model.complete(black, mask, seed=3, **given),
    )
    everything = model.complete(images, np.ones_like(mask), seed=3, **given)
    np.testing.assert_array_equal(everything, images)


@pytest.mark.slow
@each_network
def test_completion_goes_on_as_the_sample_did(network):
    """Of an image drawn from seed s, the first pixels kept and seed s again: the same image."""
    model = build(network, (4, 5, 1))
    drawn = model.sample(5, seed=11)
    mask = np.zeros((5, 4, 5, 1), bool)
    mask[:, :2] = True
    mask[:, 2, :3] = True
    np.testing.assert_array_equal(model.complete(drawn, mask, seed=11), drawn)
    assert (model.complete(drawn, mask, seed=12) != drawn).any()


def test_tokens_of_several_pixels_in_float64():
    """Completions and maps, whose impossible patterns have the dtype of the others."""
    models = [
        build("gated", (4, 4, 1), token_shape=(2, 2), dtype=dtype)
        for dtype in ("float32", "float64")
    ]
    models[1].set_weights(models[0].get_weights())
    mask = np.zeros((5, 4, 4, 1), bool)
    mask[:, 0] = True
    images, maps = [], []
    for model in models:
        images.append(model.complete(laws.images_for(model, 5), mask, seed=0))
        maps.append(model.log_likelihood_map(laws.images_for(model, 5)))
    np.testing.assert_array_equal(*images)
    np.testing.assert_allclose(*maps, rtol=1e-3, atol=1e-5)


def test_completion_is_the_exact_conditional():
    """Frequencies of the lower row given the upper one, against p(both) / p(upper)."""
    lower_rows_follow_the_upper_ones(build("gated", (2, 2, 1)), uppers=range(4))


def test_completion_inside_a_group_restricts_the_softmax():
    """A group of which some pixels are kept: the pattern is drawn among those that agree."""
    model = build("gated", (2, 2, 1), token_shape=(2, 2))
    images = every_image(model)
    likelihoods = np.exp(model.log_likelihood(images).astype(np.float64))
    count = 4000
    mask = np.zeros((count, 2, 2, 1), bool)
    mask[:, 1, 1] = True
    start = np.full((count, 2, 2, 1), 255, np.uint8)
    drawn = model.complete(start, mask, seed=0, batch_size=count)
    index = (drawn.reshape(count, 4) > 0) @ np.array([8, 4, 2, 1])
    agree = np.arange(16) % 2 == 1
    shares = np.bincount(index, minlength=16) / count
    np.testing.assert_allclose(
        shares[agree], likelihoods[agree] / likelihoods[agree].sum(), atol=0.03
    )
    assert (shares[~agree] == 0).all()


def test_completion_takes_the_order_in_which_the_kept_pixels_come_first():
    model = build("gated", (4, 4, 1), orders=8)
    mask = np.ones((4, 4, 4, 1), bool)
    mask[0, 2:] = False  # below: rows from the top
    mask[1, :2] = False  # above: from the bottom
    mask[2, :, 2:] = False  # to the right: columns from the left
    mask[3, :, :2] = False
    order = model.token_grid.order_for(tf.constant(mask)).numpy()
    for image, index in enumerate(order):
        turned = model.token_grid.reorder(
            tf.constant(mask[image : image + 1]), tf.constant([index])
        )
        flat = turned.numpy().reshape(-1)
        assert flat[:8].all(), f"order {index} does not read image {image}'s kept pixels first"
        assert not flat[8:].any()


def test_the_part_that_is_shown_may_be_dark():
    model = build("gated", (4, 4, 1), num_levels=256, pixel_distribution="categorical")
    images, mask = np.full((1, 4, 4, 1), 200, np.uint8), np.zeros((1, 4, 4, 1), bool)
    images[:, :2], mask[:, :2] = 0, True
    images[0, 0, 0] = 1
    drawn = model.complete(images, mask, seed=0)
    np.testing.assert_array_equal(drawn[:, :2], images[:, :2])
    with pytest.raises(ValueError, match="multiply them by 255"):
        model.complete(np.minimum(images, 1), mask)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask: mask[:, :3], r"mask must be bool of shape.*\(2, 4, 4, 1\).*\(2, 3, 4, 1\)"),
        (lambda mask: mask[:1], "mask must be bool of shape"),
        (lambda mask: mask.astype(np.uint8), "received dtype uint8"),
        (lambda mask: mask[..., 0], "mask must be bool of shape"),
    ],
)
def test_bad_masks_of_completion(change, message):
    model = build("gated", (4, 4, 1))
    images = laws.images_for(model, 2)
    with pytest.raises(ValueError, match=message):
        model.complete(images, change(np.ones((2, 4, 4, 1), bool)))
