"""The hierarchical (ladder) variational autoencoder: latents at several resolutions.

Sonderby et al., "Ladder variational autoencoders", 2016; Child, "Very deep VAEs generalize
autoregressive models and can outperform them on images", 2021.
"""

import keras
import tensorflow as tf

from tfgen import checks, distributions, layers, noise, pixels, portable
from tfgen.models import continuous, priors
from tfgen.models.generative import with_labels
from tfgen.models.ladder import BottomUp, Encode, TopDown, check_ladder
from tfgen.models.pixel_decoder import PixelDecoder, importance_bound
from tfgen.models.resampling import Critic, resampled

__all__ = ["HierarchicalVAE"]

PRIORS = ("standard_normal", "flow", "continuous_flow")
# Folds of a seed, for dropout and the critic.
DROPOUT_FOLD, CRITIC_FOLD = 3, 4


@keras.saving.register_keras_serializable("tfgen")
class HierarchicalVAE(PixelDecoder):
    """Ladder VAE: the encoder reads the image bottom-up, the decoder draws it top-down.

        p(x, z) = p(x | z) p(z_0) prod_l p(z_l | z_<l),   p(z_l | z_<l) = N(mean_l, scale_l^2)

    z_0 is one dense vector, every other z_l a map at half the image's resolution or less. Latents
    are handled as standardised noise, one vector for all groups,

        z_l = mean_l(z_<l) + scale_l(z_<l) * eps_l,   p(eps_l) = N(0, I)

    so samples, walks and arithmetic work as in a VAE of one level. Posteriors are normal,
    q(eps_l | eps_<l, x) = N(m_l, s_l^2); with a flow q(z_0 | x), not q(eps_0 | x).

        ELBO = E_q log p(x | z) - sum_l E_q KL(q(eps_l | eps_<l, x) || p(eps_l))    nats per image

    The loss is -ELBO with `beta` and `free_bits` on the KL. With `prior="flow"` z_0 comes from a
    RealNVP and its KL is a Monte Carlo estimate; a "continuous_flow" (of v) learns as in a `VAE`.

    The prior also draws latents that no image leads to. With `candidates` above 1 a critic D looks
    at the decoder's state h after the coarsest maps and learns to tell the two apart; each sample
    draws several coarse latents and keeps one, with probability proportional to exp(selectivity D):

        critic = -E_q log sigmoid(D(h)) - E_p log(1 - sigmoid(D(h)))    (Aneja et al., 2021)

    In a conditional model D is told the class too, and a third term has it tell the states of
    images from the same states under another class (Reed et al., "Generative adversarial text to
    image synthesis", 2016), so that the choice prefers the class asked for. The critic's loss
    trains the critic alone. `log_likelihood` is that of the prior without the choice.

    Input of `call`: uint8 images (batch, height, width, channels); output: the reconstruction, the
    mean image as float32 grey values of the same shape in [0, 255].

    Args:
        image_shape: (height, width, channels), 1 or 3 channels, divisible by 2^len(filters).
            Defaults to (28, 28, 1).
        top_dim: int. Dimensions of the dense group z_0. Defaults to 24.
        filters: tuple of int. Channels at each resolution, the finest first; each halves height and
            width. Defaults to (32, 64).
        groups: tuple of int. Groups of latents at each resolution, the finest first.
            Defaults to (3, 3).
        group_channels: tuple of int. Channels of one such group, the finest first.
            Defaults to (4, 8).
        mixing: (bool, ...) or None. At which resolutions, the finest first, a layer after each
            group lets every place of the map see every other: weights grow with the square of the
            number of places. Defaults to None.
        num_blocks: int. Residual blocks of the encoder at each resolution, and of the decoder after
            each group and before the pixels. Defaults to 1.
        dense_units: int. Width of the dense layers around z_0. Defaults to 256.
        dropout: float in [0, 1). Share of the channels that training drops inside each residual
            block. Defaults to 0.
        pixel_distribution: str. "bernoulli" (2 levels), "categorical",
            "discretized_logistic_mixture" or "gaussian" (squared error, with one learned scale).
            Defaults to "discretized_logistic_mixture".
        num_levels: int. Grey levels, 2 to 256. Defaults to 256.
        num_mixtures: int. Components of the logistic mixture. Defaults to 5.
        prior: str. "standard_normal", "flow" or "continuous_flow", the prior of z_0. Defaults to
            "standard_normal".
        prior_components: int. Couplings of "flow". Defaults to 8.
        prior_units: int. Width of the two hidden layers of a coupling or of v. Defaults to 128.
        prior_steps: int. Heun's steps of "continuous_flow", as in a `VAE`. Defaults to 16.
        prior_tail: float in [0, 1). Share w of a wide normal in the flow, (1 - w) p(z_0) +
            w N(z_0; 0, 9 I), so that one z_0 far from all others does not cost millions of nats. No
            weight depends on it; `sample` draws its share after the critic's choice. Defaults to 0.
        candidates: int. Coarse latents that each sample draws to keep one of. Defaults to 1.
        selectivity: float. How much the critic's logit weighs in that choice, at least 0.
            Defaults to 1.
        critic_units: int. Channels and width of the critic's layers. Defaults to 32.
        beta: float. Weight of the KL; 1 is the bound. Defaults to 1.
        kl_warmup_steps: int. Steps over which the weight of the KL grows linearly from 0 to `beta`.
            Defaults to 0.
        free_bits: float. Nats per group and image below which training does not lower the KL.
            Defaults to 0.
        num_classes: int or None. Classes of a conditional model p(x | label). Defaults to None.
        seed: int. Seed of the training noise. Defaults to 0.

    Raises:
        ValueError: An argument out of its range.

    Example:
    >>> import numpy as np
    >>> model = HierarchicalVAE((8, 8, 1), top_dim=2, filters=(4, 8), groups=(1, 1), dense_units=8)
    >>> model.latent_dim  # 2 + 2x2x8 + 4x4x4
    98
    >>> model.sample(3, seed=0).shape
    (3, 8, 8, 1)
    >>> model.log_likelihood(np.zeros((5, 8, 8, 1), "uint8"), num_samples=4).shape
    (5,)
    """

    settable = ("seed", "beta", "kl_warmup_steps", "free_bits", "selectivity", "dropout")

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (28, 28, 1),
        top_dim: int = 24,
        filters: tuple[int, ...] = (32, 64),
        groups: tuple[int, ...] = (3, 3),
        group_channels: tuple[int, ...] = (4, 8),
        mixing: tuple[bool, ...] | None = None,
        num_blocks: int = 1,
        dense_units: int = 256,
        dropout: float = 0.0,
        pixel_distribution: str = "discretized_logistic_mixture",
        num_levels: int = 256,
        num_mixtures: int = 5,
        prior: str = "standard_normal",
        prior_components: int = 8,
        prior_units: int = 128,
        prior_steps: int = 16,
        prior_tail: float = 0.0,
        candidates: int = 1,
        selectivity: float = 1.0,
        critic_units: int = 32,
        beta: float = 1.0,
        kl_warmup_steps: int = 0,
        free_bits: float = 0.0,
        num_classes: int | None = None,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(image_shape, num_levels, num_classes, seed, **kwargs)
        self.keep(locals())
        distributions.check_pixel_distribution(pixel_distribution, num_levels)
        layers.check_strides(self.image_shape, filters)
        checks.one_of("prior", prior, PRIORS)
        check_ladder(filters, groups, group_channels, mixing)
        checks.at_least(2 if prior == "flow" else 1, top_dim=top_dim)
        checks.at_least(
            1,
            dense_units=dense_units,
            num_mixtures=num_mixtures,
            prior_components=prior_components,
            prior_units=prior_units,
            prior_steps=prior_steps,
            candidates=candidates,
            critic_units=critic_units,
        )
        checks.at_least(0, num_blocks=num_blocks)
        checks.fraction(prior_tail=prior_tail)
        self.check_settings()
        with self.own_dtype_policy():
            self._build_networks()
        self.latent_dim = self.top_down.latent_dim
        self.build()

    def check_settings(self) -> None:
        checks.at_least(0, kl_warmup_steps=self.kl_warmup_steps)
        checks.finite(0, beta=self.beta, free_bits=self.free_bits, selectivity=self.selectivity)
        checks.fraction(dropout=self.dropout)

    def _build_networks(self) -> None:
        per_channel = distributions.outputs_per_channel(
            self.pixel_distribution, self.num_levels, self.num_mixtures
        )
        images = keras.Input(self.image_shape, name="images")
        labels = None if self.num_classes is None else keras.Input((), dtype="int64", name="labels")
        given = () if labels is None else (labels,)
        flow = priors.networks(
            self.prior, self.prior_components, self.top_dim, self.prior_units, self.num_classes
        )
        self.bottom_up = BottomUp(self.filters, self.num_blocks, self.dense_units, name="bottom_up")
        mixing = self.mixing or (False,) * len(self.filters)
        self.top_down = TopDown(
            self.image_shape,
            (self.top_dim, self.filters, self.groups, self.group_channels, mixing),
            self.num_blocks,
            self.dense_units,
            self.image_shape[2] * per_channel,
            self.num_classes,
            (flow, self.prior_steps, self.prior_tail),
            name="top_down",
        )
        latents = keras.Input((self.top_down.latent_dim,), name="latents")
        self.top_down.owned_by(self)
        encode = Encode(self.bottom_up, self.top_down, name="encode").owned_by(self)
        means = encode(images, *given)
        self.encoder = keras.Model(with_labels(images, labels), means, name="encoder")
        parameters = self.top_down(latents, *given)
        self.decoder = keras.Model(with_labels(latents, labels), parameters, name="decoder")
        if self.candidates > 1:
            self.loss_names = (*self.loss_names, "critic")
            self._means["critic"] = keras.metrics.Mean("critic")
            self.critic = Critic(self.critic_units, self.num_classes, name="critic")
            self.critic(keras.Input(self.top_down.grids[0][:3], name="coarse_state"), *given)
        if self.pixel_distribution == "gaussian":
            self.log_scale = self.add_weight(name="log_scale", initializer="zeros")

    # Objective -------------------------------------------------------------------------------

    def losses_per_image(self, images, labels, seeds, training):
        """Returns loss, reconstruction and kl in nats, and the critic's loss if any: (batch,)."""
        masks = self._masks(seeds) if training and self.dropout else None
        features = self.bottom_up(images, masks)
        drawn = noise.normal(seeds, (self.latent_dim,))
        matching = training and self.prior == "continuous_flow"
        walk = self.top_down.infer(features, drawn, labels, masks, plain=matching)
        # -log p(x | z),   z ~ q(z | x)
        levels = pixels.images_to_levels(images, self.num_levels)
        reconstruction = -self._log_levels(levels, walk["parameters"])
        # KL(q(eps_l | eps_<l, x) || p(eps_l)) of each group, (batch, groups)
        kl = tf.stack(walk["kl"], 1)
        counted = tf.maximum(kl, self.free_bits) if training and self.free_bits else kl
        losses = {
            "loss": reconstruction + self._kl_weight(training) * tf.reduce_sum(counted, 1),
            "reconstruction": reconstruction,
            "kl": tf.reduce_sum(kl, 1),
        }
        if matching:
            top = tf.stop_gradient(walk["top"])[:, None]
            losses["loss"] += continuous.matching_loss(self.top_down.velocity, top, seeds, labels)
        if self.candidates > 1:
            losses["critic"] = self._critic_loss(walk["coarse_state"], labels, seeds, masks)
            losses["loss"] += losses["critic"]
        return losses

    def _critic_loss(self, of_images, labels, seeds, masks):
        """-log sigmoid(D(h)) - log(1 - sigmoid(D(h'))), h of images, h' of the prior: (batch,).

        In a conditional model also -log(1 - sigmoid(D(h, another class))).
        """
        drawn = noise.normal(noise.fold(seeds, CRITIC_FOLD), (self.top_down.coarse_dim,))
        of_prior = self.top_down.coarse_state(drawn, labels, masks)
        of_images, of_prior = tf.stop_gradient(of_images), tf.stop_gradient(of_prior)
        losses = portable.softplus(-self.critic(of_images, labels))
        losses += portable.softplus(self.critic(of_prior, labels))
        if labels is not None and self.num_classes > 1:
            u = noise.uniform(noise.fold(seeds, CRITIC_FOLD), (1,), stream=1)[:, 0]
            further = 1 + tf.cast(u * (self.num_classes - 1), labels.dtype)
            others = (labels + further) % self.num_classes
            losses += portable.softplus(self.critic(of_images, others))
        return losses

    def _masks(self, seeds):
        """Draws which channels each residual block keeps, (batch, blocks, channels)."""
        blocks = self.num_blocks * (len(self.filters) + sum(self.groups) + 1)
        drawn = noise.uniform(noise.fold(seeds, DROPOUT_FOLD), (blocks, max(self.filters)))
        kept = tf.cast(drawn >= self.dropout, self.compute_dtype)
        return kept / (1.0 - self.dropout)

    # Endpoints -------------------------------------------------------------------------------

    def _prior_sample(self, seeds, temperature, labels):
        """Turns each image's own noise into standardised latents, (batch, latent_dim)."""
        coarse = self.top_down.coarse_dim
        fine = self.latent_dim - coarse
        drawn = temperature * noise.normal(seeds, (self.candidates * coarse + fine,))
        candidates, rest = tf.split(drawn, [self.candidates * coarse, fine], 1)

        def score(latents, labels):
            return self.critic(self.top_down.coarse_state(latents, labels), labels)

        drawn = tf.reshape(candidates, (-1, self.candidates, coarse))
        kept = resampled(drawn, score, self.selectivity, seeds, labels)
        latents = tf.concat([kept, rest], 1)
        if self.prior != "standard_normal" and self.prior_tail and temperature > 0:
            picked = noise.uniform(seeds, (1,), stream=1) < self.prior_tail
            latents = self.top_down.in_tail(latents, picked, labels)
        return latents

    def _bound(self, images, labels, seeds, num_samples):
        """The importance-weighted bound, nats, (batch,).

        log(1/k sum_j w_j),   log w = log p(x | z) + sum_l log p(eps_l) - log q(eps_l | eps_<l, x)
        """
        images = self.nearest_level(images)
        rows = tf.shape(images)[0]
        features = self.bottom_up(images)
        levels = pixels.images_to_levels(images, self.num_levels)

        def log_weights(index, count):
            drawn = noise.normal(seeds, (count * self.latent_dim,), stream=index)
            drawn = tf.reshape(drawn, (-1, self.latent_dim))
            repeated = [tf.repeat(f, count, axis=0) for f in features]
            classes = None if labels is None else tf.repeat(labels, count)
            walk = self.top_down.infer(repeated, drawn, classes)
            log_pixels = self._log_levels(tf.repeat(levels, count, axis=0), walk["parameters"])
            return tf.reshape(log_pixels + tf.add_n(walk["log_ratio"]), (rows, count))

        return importance_bound(log_weights, num_samples, rows)
