"""What the VAEs share: a decoder from latents to the pixel distribution, and their bound."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfgen import distributions, pixels, portable
from tfgen.models.generative import GenerativeModel, Labels, with_labels

__all__ = ["PixelDecoder", "importance_bound"]

SAMPLES_PER_PASS = 5  # per image; few enough for a pass to stay in the cache


class PixelDecoder(GenerativeModel):
    """A model with `encoder`, `decoder`, `pixel_distribution`, `beta` and `kl_warmup_steps`.

    Where the distribution is "gaussian" it also has the weight `log_scale`. `_prior_sample` draws
    latents, and `_bound` gives the bound.
    """

    likelihood = "bound"
    loss_names = ("loss", "reconstruction", "kl")

    def endpoints(self, temperature=1.0, num_samples=1):
        """Returns sample, log_likelihood and the latent endpoints."""
        images, seed, labels = (self.specs[name] for name in ("images", "seed", "labels"))

        def sample(seed, labels=None):
            latents = self._prior_sample(seed, temperature, labels)
            return {"images": self.decode_tensors(latents, labels)}

        def log_likelihood(images, seed, labels=None):
            return {"log_likelihood": self._bound(images, labels, seed, num_samples)}

        return {
            "sample": (sample, seed | labels),
            "log_likelihood": (log_likelihood, images | labels | seed),
            **self.latent_endpoints(),
        }

    def pixel_likelihood(self, latents: np.ndarray | tf.Tensor, *, labels: Labels = None) -> Any:
        """Returns p(x | latents), a TFP distribution over levels; its `sample` draws pixels."""
        from tfgen.distributions.tfp import pixel_distribution

        latents = self.check_latents(latents)
        labels = pixels.check_labels(labels, self.num_classes, latents.shape[0])
        return pixel_distribution(
            self.pixel_distribution,
            self.decoder(with_labels(latents, labels)),
            self.num_levels,
            self.image_shape[2],
            self._pixel_log_scale,
        )

    @property
    def _pixel_log_scale(self):
        """The learned log of the standard deviation of "gaussian" pixels, or None."""
        return self.log_scale if self.pixel_distribution == "gaussian" else None

    def _log_levels(self, levels, parameters):
        """log p(x | z) in nats, (batch,), from what the decoder makes of z."""
        log_probs = distributions.log_prob(
            self.pixel_distribution, parameters, levels, self.num_levels, self._pixel_log_scale
        )
        return tf.reduce_sum(log_probs, (1, 2, 3))

    def _kl_weight(self, training):
        """`beta`, which in training grows from 0 over the first `kl_warmup_steps`."""
        if not (training and self.kl_warmup_steps):
            return self.beta
        step = tf.cast(self.step, tf.float32)
        return self.beta * tf.minimum(step / self.kl_warmup_steps, 1.0)

    def mean_image(self, latents, labels):
        return distributions.mean_images(
            self.pixel_distribution,
            self.decoder(with_labels(latents, labels)),
            self.num_levels,
            self.image_shape[2],
        )

    def call(self, images, labels=None, training=False):
        """Returns the mean image, float32 (batch, height, width, channels) in [0, 255]."""
        labels = self.labels_of_call(labels)
        return self.mean_image(self.encoder(with_labels(images, labels)), labels)


def importance_bound(
    log_weights: Callable[[tf.Tensor | int, int], tf.Tensor],
    num_samples: int,
    rows: int | tf.Tensor,
) -> tf.Tensor:
    """Returns log(1/k sum_j w_j), nats, (batch,), for k = `num_samples`, in passes.

    Burda et al., "Importance weighted autoencoders", 2016.

    Args:
        log_weights: (pass, count) -> log w of `count` samples per image, (batch, count); the pass
            tells it which noise to take.
        num_samples: k, at least 1.
        rows: The batch's size.
    """
    count = min(num_samples, SAMPLES_PER_PASS)
    passes = -(-num_samples // count)
    # To a sum of -10,000 nats float32 adds no small terms.
    wide = tf.float32 if passes == 1 or portable.active() else tf.float64

    def one_pass(index, total):
        used = index * count + tf.range(count) < num_samples
        log_w = tf.cast(tf.where(used, log_weights(index, count), -math.inf), wide)
        return index + 1, tf.reduce_logsumexp(tf.concat([total[:, None], log_w], 1), axis=1)

    state = (tf.constant(0), tf.fill((rows,), tf.constant(-math.inf, wide)))
    _, total = _repeated(one_pass, passes, state)
    return tf.cast(total - math.log(num_samples), tf.float32)


def _repeated(body: Callable, times: int, state: tuple) -> tuple:
    """Applies `body` to (index, value) `times` times; once without a loop, for ONNX and LiteRT."""
    if times == 1:
        return body(*state)
    return tf.while_loop(lambda index, _: index < times, body, state, parallel_iterations=1)
