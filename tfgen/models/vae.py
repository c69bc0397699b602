"""The variational autoencoder: explicit, approximate density.

Kingma & Welling, "Auto-encoding variational Bayes", 2014.
"""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgen import checks, distributions, layers, noise, pixels, portable
from tfgen.models import continuous, priors
from tfgen.models.endpoints import PER_PASS
from tfgen.models.generative import Labels, with_labels
from tfgen.models.pixel_decoder import PixelDecoder, importance_bound

__all__ = ["VAE"]

PRIORS = ("standard_normal", "flow", "continuous_flow", "vamp")
FLOWS = ("flow", "continuous_flow")
MIN_SCALE = 1e-4  # the posterior's smallest scale, whose logarithm stays finite
LOG_2PI = math.log(2.0 * math.pi)
SETTABLE = (
    *("seed", "beta", "kl_warmup_steps", "num_importance_samples"),
    *("prior_steps", "prior_tail"),
)


@keras.saving.register_keras_serializable("tfgen")
class VAE(PixelDecoder):
    """VAE, convolutional or dense, with a diagonal Gaussian posterior and a choice of prior.

        q(z | x) = N(mean(x), diag(scale(x)^2)),   z = mean + scale * eps,   eps ~ N(0, I)

        ELBO = E_q log p(x | z) - KL(q(z | x) || p(z))                            nats per image
        IWAE_k = E log(1/k sum_{j=1..k} p(x | z_j) p(z_j) / q(z_j | x))  ELBO <= IWAE_k <= log p(x)

    The loss is -ELBO (with `beta` on the KL), or -IWAE_k for `num_importance_samples` k > 1
    (Burda et al., "Importance weighted autoencoders", 2016). Posterior, prior and pixels are TFP
    distributions; the KL is analytic for a standard normal prior and k = 1, else Monte Carlo.

    A continuous flow learns by flow matching: while training, the KL is that to N(0, I) and
    `continuous.matching_loss` is added, which trains the flow alone. All other numbers, validation
    included, are the flow's.

    Input of `call`: uint8 images (batch, height, width, channels); output: the reconstruction, the
    mean image as float32 grey values of the same shape in [0, 255].

    Args:
        image_shape: (height, width, channels), 1 or 3 channels, divisible by 2^len(filters).
            Defaults to (28, 28, 1).
        latent_dim: int. Latent dimensions. Defaults to 32.
        filters: tuple of int. Channels of the encoder's stages, each with stride 2; () for dense
            networks with one hidden layer, and images of any size. Defaults to (32, 64).
        decoder_filters: tuple of int or None. Channels of the decoder's stages, the coarsest first;
            None mirrors `filters`. With fewer stages the last convolution upsamples the rest, which
            is cheap to evaluate. Defaults to None.
        num_blocks: int. Residual blocks per stage of the encoder. Defaults to 1.
        decoder_blocks: int or None. The same for the decoder; None means `num_blocks`. Defaults to
            None.
        dense_units: int. Width of the dense layer of encoder and decoder. Defaults to 256.
        pixel_distribution: str. "bernoulli" (2 levels), "categorical",
            "discretized_logistic_mixture" or "gaussian" (squared error, with one learned scale).
            Defaults to "discretized_logistic_mixture".
        num_levels: int. Grey levels, 2 to 256. Defaults to 256.
        num_mixtures: int. Components of the logistic mixture. Defaults to 5.
        prior: str. "standard_normal"; "flow" (a RealNVP of TFP bijectors, Dinh et al., 2017);
            "continuous_flow" (a differential equation, Lipman et al., 2023); or "vamp" (a mixture
            of posteriors at learned inputs, Tomczak & Welling, 2018). Defaults to
            "standard_normal".
        prior_components: int. Couplings of "flow", or pseudo-inputs of "vamp". Defaults to 6.
        prior_units: int or None. Width of the two hidden layers of a coupling, or of those of a
            continuous flow; None means 2 `latent_dim`. Defaults to None.
        prior_steps: int. Heun's steps of "continuous_flow", each of two evaluations, for samples
            and for the density, whose error falls with their square. No weight depends on it.
            Defaults to 16.
        prior_tail: float in [0, 1). Share w of a wide normal in a learned prior,
            (1 - w) p(z) + w N(z; 0, 9 I), so that one latent far from all others does not cost
            millions of nats. No weight depends on it. Defaults to 0.
        beta: float. Weight of the KL (Higgins et al., 2017); 1 is the bound. Defaults to 1.
        kl_warmup_steps: int. Steps over which the weight of the KL grows linearly from 0 to `beta`.
            Defaults to 0.
        num_importance_samples: int. k of the training objective. Defaults to 1.
        num_classes: int or None. Classes of a conditional model p(x | label). Defaults to None.
        seed: int. Seed of the training noise. Defaults to 0.

    Raises:
        ValueError: An argument out of its range.

    Example:
    >>> import numpy as np
    >>> model = VAE(image_shape=(8, 8, 1), latent_dim=2, filters=(4, 8), dense_units=8)
    >>> model.sample(3, seed=0).shape
    (3, 8, 8, 1)
    >>> model.log_likelihood(np.zeros((5, 8, 8, 1), "uint8"), num_samples=4).shape
    (5,)
    """

    settable = SETTABLE

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (28, 28, 1),
        latent_dim: int = 32,
        filters: tuple[int, ...] = (32, 64),
        decoder_filters: tuple[int, ...] | None = None,
        num_blocks: int = 1,
        decoder_blocks: int | None = None,
        dense_units: int = 256,
        pixel_distribution: str = "discretized_logistic_mixture",
        num_levels: int = 256,
        num_mixtures: int = 5,
        prior: str = "standard_normal",
        prior_components: int = 6,
        prior_units: int | None = None,
        prior_steps: int = 16,
        prior_tail: float = 0.0,
        beta: float = 1.0,
        kl_warmup_steps: int = 0,
        num_importance_samples: int = 1,
        num_classes: int | None = None,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(image_shape, num_levels, num_classes, seed, **kwargs)
        distributions.check_pixel_distribution(pixel_distribution, num_levels)
        checks.one_of("prior", prior, PRIORS)
        self.keep(locals())
        checks.at_least(2 if prior == "flow" else 1, latent_dim=latent_dim)
        checks.at_least(
            1,
            dense_units=dense_units,
            num_mixtures=num_mixtures,
            prior_components=prior_components,
            prior_units=1 if prior_units is None else prior_units,
        )
        checks.at_least(0, num_blocks=num_blocks, decoder_blocks=decoder_blocks or 0)
        layers.check_strides(self.image_shape, filters, decoder_filters, may_be_dense=True)
        self.check_settings()
        with self.own_dtype_policy():
            self._build_networks()
        self.build()

    def check_settings(self) -> None:
        checks.at_least(1, prior_steps=self.prior_steps)
        checks.at_least(1, num_importance_samples=self.num_importance_samples)
        checks.at_least(0, kl_warmup_steps=self.kl_warmup_steps)
        checks.finite(0, beta=self.beta)
        checks.fraction(prior_tail=self.prior_tail)

    def _build_networks(self) -> None:
        trunk = layers.encoder_network(
            self.image_shape, self.filters, self.num_blocks, self.dense_units, self.num_classes
        )
        outputs = {"units": self.latent_dim, "dtype": "float32"}
        mean = keras.layers.Dense(**outputs, name="mean")(trunk.output)
        raw_scale = keras.layers.Dense(**outputs, name="raw_scale")(trunk.output)
        # Two views of one trunk: `encoder` is what users put into a Sequential.
        self.encoder = keras.Model(trunk.input, mean, name="encoder")
        self.posterior_network = keras.Model(trunk.input, [mean, raw_scale], name="posterior")
        per_channel = distributions.outputs_per_channel(
            self.pixel_distribution, self.num_levels, self.num_mixtures
        )
        self.decoder = layers.decoder_network(
            self.latent_dim,
            self.image_shape,
            self.decoder_filters or self.filters[::-1],
            len(self.filters),
            self.num_blocks if self.decoder_blocks is None else self.decoder_blocks,
            self.dense_units,
            self.image_shape[2] * per_channel,
            self.num_classes,
        )
        if self.pixel_distribution == "gaussian":
            self.log_scale = self.add_weight(name="log_scale", initializer="zeros")
        size = self.latent_dim, self.prior_units or 2 * self.latent_dim, self.num_classes
        if self.prior == "flow":
            self.couplings = priors.couplings(self.prior_components, *size)
        elif self.prior == "continuous_flow":
            self.velocity = continuous.Velocity(*size, name="velocity")
        elif self.prior == "vamp":
            self.pseudo_inputs = self.add_weight(
                name="pseudo_inputs",
                shape=(self.prior_components, *self.image_shape),
                initializer=keras.initializers.RandomNormal(0.0, 1.0),
            )

    # Distributions ---------------------------------------------------------------------------

    def posterior(self, images: np.ndarray, *, labels: Labels = None) -> Any:
        """Returns q(z | images), a TFP distribution with event shape (latent_dim,)."""
        return self._posterior(*self.check(images, labels))

    def prior_distribution(self, labels: np.ndarray | tf.Tensor | None = None) -> Any:
        """Returns p(z), of a conditional flow p(z | labels): TFP, event shape (latent_dim,)."""
        prior = self._learned_prior(labels)
        if self.prior == "standard_normal" or not self.prior_tail:
            return prior
        return priors.with_tail(prior, self.prior_tail)

    def _learned_prior(self, labels):
        """The prior without its tail."""
        missing = labels is None and self.prior in FLOWS  # only a conditional flow minds
        if missing or (labels is not None and tf.executing_eagerly()):
            labels = pixels.check_labels(labels, self.num_classes, np.size(labels))
        if self.prior == "vamp":
            return priors.vamp(self._components())
        prior = priors.standard_normal(self.latent_dim)
        if self.prior == "flow":
            prior = priors.flow(prior, self.couplings, labels)
        if self.prior == "continuous_flow":
            prior = priors.continuous_flow(prior, self.velocity, self.prior_steps, labels)
        return prior

    def _components(self, indices=None):
        """q(z | u_k) of all pseudo-inputs, or of those with these indices k."""
        k = tf.range(self.prior_components) if indices is None else indices
        inputs = self.pseudo_inputs if indices is None else tf.gather(self.pseudo_inputs, indices)
        labels = None if self.num_classes is None else tf.cast(k, tf.int64) % self.num_classes
        return self._posterior(priors.greys_of(inputs), labels)

    def _posterior(self, images, labels):
        import tensorflow_probability as tfp

        tfd = tfp.distributions
        mean, raw_scale = self.posterior_network(with_labels(images, labels))
        return tfd.Independent(tfd.Normal(mean, portable.softplus(raw_scale) + MIN_SCALE), 1)

    def _log_pixels(self, images, latents, labels):
        """log p(x | z) for z (batch, k, latent_dim): nats, (batch, k)."""
        batch, k = tf.shape(latents)[0], latents.shape[1]
        levels = tf.repeat(pixels.images_to_levels(images, self.num_levels), k, axis=0)
        labels = None if labels is None else tf.repeat(labels, k)
        parameters = self.decoder(with_labels(tf.reshape(latents, (-1, self.latent_dim)), labels))
        return tf.reshape(self._log_levels(levels, parameters), (batch, k))

    # Objective -------------------------------------------------------------------------------

    def losses_per_image(self, images, labels, seeds, training):
        """Returns loss, reconstruction and kl in nats per image, each (batch,)."""
        import tensorflow_probability as tfp

        k = self.num_importance_samples
        matching = training and self.prior == "continuous_flow"
        plain = matching or self.prior == "standard_normal"
        prior = (
            priors.standard_normal(self.latent_dim) if plain else self.prior_distribution(labels)
        )
        # After a vamp prior, which calls the same network: an outer call clears the losses added
        # before.
        posterior = self._posterior(images, labels)
        # z_k = mean(x) + scale(x) eps_k ~ q(z | x)
        eps = noise.normal(seeds, (k, self.latent_dim))
        latents = _at(posterior, eps)  # (batch, k, latent_dim)
        reconstruction = -self._log_pixels(images, latents, labels)  # -log p(x | z_k), (batch, k)
        if plain and k == 1:  # KL(q(z | x) || p(z)), exactly
            kl = tfp.distributions.kl_divergence(posterior, prior)[:, None]
        else:  # log q(z_k | x) - log p(z_k), whose mean over z_k is the KL
            kl = _log_normal(posterior, eps) - prior.log_prob(latents)
        # log w_j = log p(x | z_j) + log p(z_j) - log q(z_j | x);   loss = -log(1/k sum_j w_j)
        log_weights = -reconstruction - self._kl_weight(training) * kl
        loss = math.log(k) - tf.reduce_logsumexp(log_weights, 1)
        if matching:
            latents = tf.stop_gradient(latents)
            loss += continuous.matching_loss(self.velocity, latents, seeds, labels)
        return {
            "loss": loss,
            "reconstruction": tf.reduce_mean(reconstruction, 1),
            "kl": tf.reduce_mean(kl, 1),
        }

    # Endpoints -------------------------------------------------------------------------------

    def batch_size_for(self, count):
        """Returns at most what `decode` takes: drawing is mostly decoding."""
        return min(count, PER_PASS["decode"])

    def _prior_sample(self, seeds, temperature, labels=None):
        """Turns each image's own noise into latents from the prior, (batch, latent_dim)."""
        eps = temperature * noise.normal(seeds, (self.latent_dim,))
        if self.prior == "standard_normal":
            return eps
        if self.prior in FLOWS:
            z = self._learned_prior(labels).bijector.forward(eps)
        elif temperature == 0:
            z = priors.densest(self._learned_prior(labels)) + eps
        else:
            u = noise.uniform(seeds, (), stream=1)
            z = priors.vamp_sample(self._components, self.prior_components, u, eps)
        if self.prior_tail and temperature > 0:
            wide = noise.uniform(seeds, (1,), stream=2) < self.prior_tail
            z = tf.where(wide, priors.TAIL_SCALE * eps, z)
        return z

    def _bound(self, images, labels, seeds, num_samples):
        """log(1/k sum_j w_j), nats, (batch,)."""
        images = self.nearest_level(images)
        posterior, prior = self._posterior(images, labels), self.prior_distribution(labels)

        def log_weights(index, count):
            eps = noise.normal(seeds, (count, self.latent_dim), stream=index)
            latents = _at(posterior, eps)
            # log w = log p(x | z) + log p(z) - log q(z | x)
            return (
                self._log_pixels(images, latents, labels)
                + prior.log_prob(latents)
                - _log_normal(posterior, eps)
            )

        return importance_bound(log_weights, num_samples, tf.shape(images)[0])


def _at(posterior, eps):
    """mean + scale * eps for eps (batch, k, latent_dim)."""
    normal = posterior.distribution
    return normal.loc[:, None] + normal.scale[:, None] * eps


def _log_normal(posterior, eps):
    """log q(z | x) at z = mean + scale * eps, without dividing by the scale again: (batch, k)."""
    log_scale = tf.reduce_sum(tf.math.log(posterior.distribution.scale), -1)[:, None]
    return -0.5 * tf.reduce_sum(tf.square(eps) + LOG_2PI, -1) - log_scale
