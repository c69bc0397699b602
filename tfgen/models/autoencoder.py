"""The plain autoencoder: features without a density, what the VAE grows out of."""

import keras
import tensorflow as tf

from tfgen import checks, distributions, layers, noise, pixels
from tfgen.models.generative import GenerativeModel

__all__ = ["AutoEncoder"]


@keras.saving.register_keras_serializable("tfgen")
class AutoEncoder(GenerativeModel):
    """Autoencoder, convolutional or dense, denoising if asked.

        loss = -log p(x | decoder(encoder(x~)))     nats per image, summed over pixels
        x~ = x + noise_std * eps,  eps ~ N(0, I)    (Vincent et al., 2008)

    With `pixel_distribution="gaussian"` the loss is the squared error, the sum over pixels in
    [-1, 1] of (x - x^)^2; with the others it is in nats.

    It has no distribution over latents, so it neither samples nor scores. Input of `call`: uint8
    images (batch, height, width, channels); output: the reconstruction, float32 grey values of
    the same shape in [0, 255].

    Args:
        image_shape: (height, width, channels), 1 or 3 channels, divisible by 2^len(filters).
            Defaults to (28, 28, 1).
        latent_dim: int. Latent dimensions. Defaults to 32.
        filters: tuple of int. Channels of the encoder's stages, each with stride 2; the decoder
            mirrors them. Without any, encoder and decoder have one dense hidden layer each, and the
            image may have any size. Defaults to (32, 64).
        num_blocks: int. Residual blocks per stage. Defaults to 1.
        dense_units: int. Width of the dense layer of encoder and decoder. Defaults to 256.
        pixel_distribution: str. "gaussian" (squared error), "bernoulli" (2 levels), "categorical"
            or "discretized_logistic_mixture". Defaults to "gaussian".
        num_levels: int. Grey levels, 2 to 256. Defaults to 256.
        num_mixtures: int. Components of the logistic mixture. Defaults to 5.
        noise_std: float. Standard deviation of the noise on training inputs, in pixels ([-1, 1]).
            Defaults to 0.
        seed: int. Seed of the training noise. Defaults to 0.

    Raises:
        ValueError: An argument out of its range.

    Example:
    >>> import numpy as np
    >>> model = AutoEncoder(image_shape=(8, 8, 1), latent_dim=2, filters=(4,), dense_units=8)
    >>> model.encode(np.zeros((5, 8, 8, 1), "uint8")).shape
    (5, 2)
    """

    likelihood = "none"
    loss_names = ("loss", "squared_error")
    settable = ("seed", "noise_std")

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (28, 28, 1),
        latent_dim: int = 32,
        filters: tuple[int, ...] = (32, 64),
        num_blocks: int = 1,
        dense_units: int = 256,
        pixel_distribution: str = "gaussian",
        num_levels: int = 256,
        num_mixtures: int = 5,
        noise_std: float = 0.0,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(image_shape, num_levels, seed=seed, **kwargs)
        self.keep(locals())
        distributions.check_pixel_distribution(pixel_distribution, num_levels)
        checks.at_least(
            1, latent_dim=latent_dim, dense_units=dense_units, num_mixtures=num_mixtures
        )
        checks.at_least(0, num_blocks=num_blocks)
        self.check_settings()
        with self.own_dtype_policy():
            self._build_networks()
        self.build()

    def check_settings(self) -> None:
        checks.finite(0, noise_std=self.noise_std)

    def _build_networks(self) -> None:
        trunk = layers.encoder_network(
            self.image_shape, self.filters, self.num_blocks, self.dense_units
        )
        latents = keras.layers.Dense(self.latent_dim, dtype="float32", name="latents")
        self.encoder = keras.Model(trunk.input, latents(trunk.output), name="encoder")
        # The part behind the scaling, for inputs with noise, which are no grey values.
        pixels_layer = self.encoder.get_layer("pixels")
        self.noisy_encoder = keras.Model(
            pixels_layer.output, self.encoder.output, name="noisy_encoder"
        )
        per_channel = distributions.outputs_per_channel(
            self.pixel_distribution, self.num_levels, self.num_mixtures
        )
        self.decoder = layers.decoder_network(
            self.latent_dim,
            self.image_shape,
            self.filters[::-1],
            len(self.filters),
            self.num_blocks,
            self.dense_units,
            self.image_shape[2] * per_channel,
        )

    def mean_image(self, latents, labels=None):
        """Returns the decoded image, float32 grey values in [0, 255]."""
        return self._mean_image(self.decoder(latents))

    def _mean_image(self, parameters):
        return distributions.mean_images(
            self.pixel_distribution, parameters, self.num_levels, self.image_shape[2]
        )

    def losses_per_image(self, images, labels, seeds, training):
        """Returns loss (see above) and squared_error (sum over pixels in [-1, 1]), (batch,)."""
        clean = pixels.images_to_pixels(images)
        if training and self.noise_std:
            eps = noise.normal(seeds, self.image_shape)
            latents = self.noisy_encoder(clean + self.noise_std * eps)
        else:
            latents = self.encoder(images)
        parameters = self.decoder(latents)
        if self.pixel_distribution == "gaussian":
            loss = _squared_error(clean, parameters)
        else:
            levels = pixels.images_to_levels(images, self.num_levels)
            log_probs = distributions.log_prob(
                self.pixel_distribution, parameters, levels, self.num_levels
            )
            loss = -tf.reduce_sum(log_probs, (1, 2, 3))
        mean = pixels.greys_to_pixels(self._mean_image(parameters))
        return {
            "loss": loss,
            "squared_error": _squared_error(clean, mean),
        }

    def call(self, images, training=False):
        """Returns the reconstruction, float32 (batch, height, width, channels) in [0, 255]."""
        return self.mean_image(self.encoder(images))

    def endpoints(self, temperature=1.0, num_samples=1):
        """Returns encode, decode and reconstruct."""
        return self.latent_endpoints()

    def why_not(self, name: str) -> str:
        if name in ("sample", "log_likelihood"):
            return (
                "an autoencoder puts no distribution on its latents, so there is nothing to draw "
                "from and no density; use a VAE, which adds one."
            )
        return super().why_not(name)


def _squared_error(a, b):
    return tf.reduce_sum(tf.square(a - b), (1, 2, 3))
