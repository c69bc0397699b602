"""Broken models, each of which a law must catch; and intact ones, which must pass.

Without these, a law that can never fail would look like one that holds.
"""

import keras
import laws
import numpy as np
import pytest
import tensorflow as tf

from tfgen import GAN, VAE, noise, pixels
from tfgen.models import vae

SMALL = {"latent_dim": 2, "filters": (4,), "dense_units": 8, "num_blocks": 0}
GREY = {"image_shape": (8, 8, 1), "pixel_distribution": "gaussian", **SMALL}
BINARY = {"image_shape": (2, 2, 1), "pixel_distribution": "bernoulli", "num_levels": 2, **SMALL}


def caught(match: str):
    return pytest.raises(AssertionError, match=match)


# The configuration


class DropsAnArgument(VAE):
    """What keras.Model does by itself: the copy has the default, and nobody says so."""

    def get_config(self):
        config = super().get_config()
        del config["beta"]
        return config


def test_dropped_argument():
    arguments = dict.fromkeys(laws.constructor_arguments(VAE))
    varied = {
        **{name: getattr(VAE(**GREY), name) for name in arguments},
        "image_shape": (4, 4, 1),
        "latent_dim": 3,
        "filters": (6,),
        "decoder_filters": (3,),
        "decoder_blocks": 1,
        "dense_units": 9,
        "num_blocks": 0,
        "num_levels": 3,
        "num_mixtures": 2,
        "prior": "vamp",
        "prior_components": 2,
        "prior_units": 6,
        "prior_steps": 3,
        "prior_tail": 0.1,
        "beta": 0.5,
        "kl_warmup_steps": 3,
        "num_importance_samples": 2,
        "num_classes": 2,
        "seed": 1,
    }
    laws.keeps_its_configuration(VAE, varied)
    with caught("beta"):
        laws.keeps_its_configuration(DropsAnArgument, varied)
    with caught("beta has its default"):
        laws.keeps_its_configuration(VAE, {**varied, "beta": 1.0})
    with caught("every argument must be varied"):
        laws.keeps_its_configuration(VAE, {k: v for k, v in varied.items() if k != "beta"})


# Sampling


class IgnoresTheSeed(VAE):
    def _prior_sample(self, seed, temperature, labels=None):
        return temperature * noise.normal(tf.zeros_like(seed), (self.latent_dim,))


class DrawsItsOwnNoise(VAE):
    """The noise comes from TensorFlow's global generator, as most public code has it."""

    def _prior_sample(self, seed, temperature, labels=None):
        return temperature * tf.random.normal((tf.shape(seed)[0], self.latent_dim))


class SharesNoise(VAE):
    """One key for the batch, as TensorFlow's stateless ops have it."""

    def _prior_sample(self, seed, temperature, labels=None):
        key = noise.fold(seed[0], seed[-1])
        shape = (tf.shape(seed)[0], self.latent_dim)
        return temperature * tf.random.stateless_normal(shape, tf.stack([key, key]))


class ReturnsLogits(VAE):
    def decode_tensors(self, latents, labels=None):
        return self.decoder(latents)


class IgnoresTemperature(VAE):
    def _prior_sample(self, seed, temperature, labels=None):
        return super()._prior_sample(seed, 1.0, labels)


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (IgnoresTheSeed, laws.seeds_decide),
        (DrawsItsOwnNoise, laws.seeds_decide),
        (SharesNoise, laws.batch_mates_do_not_matter),
        (ReturnsLogits, laws.samples_are_images),
        (IgnoresTemperature, laws.temperature_zero_is_one_image),
    ],
)
def test_broken_sampling(broken, law):
    with pytest.raises(AssertionError):
        law(laws.randomised(broken(**GREY)))


def test_whole_sampling():
    model = laws.randomised(VAE(**GREY))
    for law in (
        laws.seeds_decide,
        laws.batch_mates_do_not_matter,
        laws.samples_are_images,
        laws.temperature_zero_is_one_image,
    ):
        law(model)


# Labels


class DecodesWithoutLabels(VAE):
    def mean_image(self, latents, labels):
        return super().mean_image(latents, None if labels is None else tf.zeros_like(labels))


class ScoresWithoutLabels(VAE):
    def _bound(self, images, labels, seeds, num_samples):
        return super()._bound(images, tf.zeros_like(labels), seeds, num_samples)


class ReconstructsWithoutLabels(VAE):
    def latent_endpoints(self):
        endpoints = super().latent_endpoints()
        whole, specs = endpoints["reconstruct"]
        endpoints["reconstruct"] = (
            lambda images, labels: whole(images, tf.zeros_like(labels)),
            specs,
        )
        return endpoints


class JudgesWithoutLabels(GAN):
    def call(self, images, labels=None, training=False):
        return super().call(images, None if labels is None else tf.zeros_like(labels))


def test_a_score_that_ignores_the_label():
    arguments = {"image_shape": (8, 8, 1), **SMALL, "num_classes": 2}
    laws.labels_matter(laws.randomised(GAN(**arguments)))
    with caught("the score ignores the label"):
        laws.labels_matter(laws.randomised(JudgesWithoutLabels(**arguments)))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (DecodesWithoutLabels, "samples ignore the label"),
        (ScoresWithoutLabels, "the likelihood ignores the label"),
        (ReconstructsWithoutLabels, "reconstructions ignore the label"),
    ],
)
def test_ignored_labels(broken, message):
    with caught(message):
        laws.labels_matter(laws.randomised(broken(**GREY, num_classes=2)))


# Likelihood


class MeanOverPixels(VAE):
    def _log_pixels(self, images, latents, labels):
        return super()._log_pixels(images, latents, labels) / np.prod(self.image_shape)


class MeanOverPixelsInTheLoss(VAE):
    def losses_per_image(self, images, labels, seeds, training):
        losses = super().losses_per_image(images, labels, seeds, training)
        return {**losses, "loss": losses["loss"] / np.prod(self.image_shape)}


class LeavesTheKLOut(VAE):
    """log p(x | z) with z from the posterior: high, and no bound on anything."""

    def losses_per_image(self, images, labels, seeds, training):
        losses = super().losses_per_image(images, labels, seeds, training)
        return {**losses, "loss": losses["reconstruction"]}

    def _bound(self, images, labels, seeds, num_samples):
        latents = vae._at(self._posterior(images, labels), noise.normal(seeds, (1, 2)))
        return self._log_pixels(images, latents, labels)[:, 0]


class ScoresTheBatch(VAE):
    """The mean over the batch for each image."""

    def _bound(self, images, labels, seeds, num_samples):
        values = super()._bound(images, labels, seeds, num_samples)
        return tf.zeros_like(values) + tf.reduce_mean(values)


class ForgetsTheSampleCount(VAE):
    """The sum of the importance weights for their mean: log k too high."""

    def _bound(self, images, labels, seeds, num_samples):
        return super()._bound(images, labels, seeds, num_samples) + np.log(num_samples)


def fitted(family):
    keras.utils.set_random_seed(0)
    model = family(**BINARY)
    laws.fit_quickly(model, laws.all_images((2, 2, 1)), None, steps=60)
    return model


@pytest.mark.slow
def test_the_sound_model_passes_in_their_configurations():
    laws.probabilities_sum_to_one(fitted(VAE), num_samples=500)
    laws.every_weight_moves(VAE(**BINARY))
    laws.labels_matter(laws.randomised(VAE(**GREY, num_classes=2)))


@pytest.mark.slow_except("LeavesTheKLOut")
@pytest.mark.parametrize("broken", [MeanOverPixels, LeavesTheKLOut, ForgetsTheSampleCount])
def test_broken_likelihood(broken):
    with caught("the probabilities sum to"):
        laws.probabilities_sum_to_one(fitted(broken), num_samples=500)


class AddsANat(VAE):
    def losses_per_image(self, images, labels, seeds, training):
        losses = super().losses_per_image(images, labels, seeds, training)
        return {**losses, "loss": losses["loss"] + 1.0}


def test_a_loss_that_is_not_the_likelihood():
    laws.loss_is_minus_log_likelihood(laws.randomised(VAE(**BINARY)))
    for broken in (MeanOverPixelsInTheLoss, AddsANat):
        with caught("nats too high"):
            laws.loss_is_minus_log_likelihood(laws.randomised(broken(**BINARY)))


def test_one_score_for_the_batch():
    laws.likelihoods_are_per_image(laws.randomised(VAE(**BINARY)))
    with pytest.raises(AssertionError):
        laws.likelihoods_are_per_image(laws.randomised(ScoresTheBatch(**BINARY)))


# Training


class FreezesAWeight(VAE):
    """A weight that the loss does not reach."""

    def _build_networks(self):
        super()._build_networks()
        self.unused = self.add_weight(name="unused")


class StopsTheGradient(VAE):
    def _posterior(self, images, labels):
        posterior = super()._posterior(images, labels).distribution
        import tensorflow_probability as tfp

        loc = tf.stop_gradient(posterior.loc)
        return tfp.distributions.Independent(tfp.distributions.Normal(loc, posterior.scale), 1)


@pytest.mark.parametrize(
    ("broken", "weight"), [(FreezesAWeight, "unused"), (StopsTheGradient, "mean/")]
)
def test_frozen_weight(broken, weight):
    with caught(f"{weight}.* did not move"):
        laws.every_weight_moves(broken(**BINARY))


class CutsTheReconstruction(VAE):
    """The encoder feels the KL divergence alone, and the decoder learns from noise."""

    def _log_pixels(self, images, latents, labels):
        return super()._log_pixels(images, tf.stop_gradient(latents), labels)


def test_a_gradient_that_is_cut():
    laws.gradients_are_the_slopes_of_the_loss(VAE(**BINARY))
    with caught(r"(stage_0_conv|dense|mean|raw_scale)/.*: slope"):
        laws.gradients_are_the_slopes_of_the_loss(CutsTheReconstruction(**BINARY))


# Images


class Inverts(VAE):
    """White for black: still images, still reproducible."""

    def latent_endpoints(self):
        endpoints = super().latent_endpoints()
        decode, specs = endpoints["decode"]
        endpoints["decode"] = (lambda latents: {"images": 255 - decode(latents)["images"]}, specs)
        return endpoints


def test_close_images_sees_a_difference():
    model = laws.randomised(Inverts(**GREY))
    images = laws.images_for(model, 2)
    values = pixels.level_values(256)
    laws.assert_close_images(images, images, 256)
    with pytest.raises(AssertionError):
        laws.assert_close_images(model.decode(model.encode(images)), model.reconstruct(images), 256)
    with pytest.raises(AssertionError):
        laws.assert_close_images(values, values.astype(int), 256)
    with pytest.raises(AssertionError):
        laws.assert_close_images(values, np.roll(values, 1), 256)
