"""The maths of the autoencoder: its loss, its noise, and what it cannot do."""

import keras
import laws
import numpy as np
import pytest
import tensorflow as tf

from tfgen import AutoEncoder, noise, pixels
from tfgen.distributions.tfp import pixel_distribution

SMALL = {
    "image_shape": (4, 4, 3),
    "latent_dim": 2,
    "filters": (4,),
    "num_blocks": 0,
    "dense_units": 8,
}


def losses(model, images, seed: int = 0, training: bool = True) -> dict[str, np.ndarray]:
    seeds = tf.range(seed, seed + len(images), dtype=tf.int64)
    found = model.losses_per_image(tf.constant(images), None, seeds, training)
    return {name: value.numpy() for name, value in found.items()}


def test_squared_error():
    """Sum over pixels in [-1, 1] of (x - x^)^2, where x^ is the decoder's output."""
    model = laws.randomised(AutoEncoder(**SMALL))
    images = laws.images_for(model, 5)
    outputs = model.decoder(model.encoder(images)).numpy()
    expected = ((images / 127.5 - 1 - outputs) ** 2).sum((1, 2, 3))
    found = losses(model, images)
    assert found["loss"].shape == (5,)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    # The figure of the image that users see, which is clipped to [0, 255].
    clipped = ((images / 127.5 - 1 - outputs.clip(-1, 1)) ** 2).sum((1, 2, 3))
    assert np.abs(outputs).max() > 1
    np.testing.assert_allclose(found["squared_error"], clipped, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "num_levels"),
    [("bernoulli", 2), ("categorical", 5), ("discretized_logistic_mixture", 256)],
)
def test_loss_in_nats(name, num_levels):
    """-log p(x | decoder(encoder(x))), summed over pixels: -log of a table's entries by hand."""
    model = AutoEncoder(**SMALL, pixel_distribution=name, num_levels=num_levels, num_mixtures=2)
    laws.randomised(model)
    images = laws.images_for(model, 3)
    levels = pixels.images_to_levels(images, num_levels).numpy()
    parameters = model.decoder(model.encoder(images))
    single = pixel_distribution(name, parameters, num_levels, 3).distribution
    table = np.stack([single.log_prob(np.full_like(levels, k)) for k in range(num_levels)])
    np.testing.assert_allclose(np.exp(table.astype(float)).sum(0), 1, atol=1e-4)
    expected = -np.take_along_axis(table, levels[None].astype(int), 0)[0].sum((1, 2, 3))
    np.testing.assert_allclose(losses(model, images)["loss"], expected, rtol=1e-4)


def test_noise_is_added_in_training_only():
    """x~ = x + noise_std * eps; the target stays clean."""
    clean = laws.randomised(AutoEncoder(**SMALL))
    noisy = AutoEncoder(**SMALL, noise_std=0.5)
    noisy.set_weights(clean.get_weights())
    images = laws.images_for(clean, 4)
    expected = losses(clean, images)["loss"]
    np.testing.assert_allclose(losses(noisy, images, training=False)["loss"], expected, rtol=1e-6)
    found = losses(noisy, images)["loss"]
    assert (np.abs(found - expected) > 1e-4).all()
    assert (losses(noisy, images, seed=50)["loss"] != found).all()
    eps = noise.normal(tf.range(4, dtype=tf.int64), (4, 4, 3))
    scaled = images / 127.5 - 1
    outputs = noisy.decoder(noisy.noisy_encoder(scaled + 0.5 * eps)).numpy()
    np.testing.assert_allclose(found, ((scaled - outputs) ** 2).sum((1, 2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(noisy.encode(images), clean.encode(images))


def test_noisy_encoder_shares_its_weights():
    model = AutoEncoder(**SMALL, noise_std=0.5)
    own = {id(variable) for variable in model.encoder.trainable_variables}
    assert {id(variable) for variable in model.noisy_encoder.trainable_variables} == own
    assert len(model.trainable_variables) == len(own) + len(model.decoder.trainable_variables)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [("sample", (2,)), ("log_likelihood", (np.zeros((1, 4, 4, 3), np.uint8),))],
)
def test_what_it_cannot_do(method, arguments):
    model = AutoEncoder(**SMALL)
    with pytest.raises(NotImplementedError, match=f"'{method}': .*no distribution.*use a VAE"):
        getattr(model, method)(*arguments)
    assert set(model.endpoints()) == {"encode", "decode", "reconstruct"}


def test_bad_noise_std():
    with pytest.raises(
        ValueError, match=r"noise_std must be a finite number of at least 0; received -0\.1"
    ):
        AutoEncoder(**SMALL, noise_std=-0.1)


def test_learns_to_copy():
    keras.utils.set_random_seed(0)
    model = AutoEncoder(**SMALL)
    images = laws.images_for(model, 2)
    laws.fit_quickly(model, images, None, steps=100)
    assert np.abs(model.reconstruct(images).astype(int) - images).mean() < 5


def test_classes_are_refused():
    with pytest.raises(ValueError, match="num_classes must be left out: AutoEncoder has no class"):
        AutoEncoder(**SMALL, num_classes=10)
