"""The generative adversarial network: implicit density.

Goodfellow et al., "Generative adversarial nets", 2014; Radford et al., "Unsupervised
representation learning with deep convolutional generative adversarial networks", 2016.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgen import checks, layers, noise, pixels
from tfgen.models import gan_networks
from tfgen.models.adversarial import DISCRIMINATOR_FOLD, GENERATOR_FOLD, AdversarialModel
from tfgen.models.generative import Labels, Seed, with_labels
from tfgen.models.resampling import log_odds, resampled

__all__ = [
    "GAN",
    "OBJECTIVES",
    "hinge",
    "least_squares",
    "minimax",
    "non_saturating",
    "wasserstein_gp",
]

# A stream (latents have 0, candidates 2) and a fold of a seed.
MIX_STREAM, AUGMENT_FOLD = 1, 3

SETTABLE = (
    *("seed", "gradient_penalty", "r1", "augment", "discriminator_steps", "ema_momentum"),
    *("candidates", "selectivity"),
)

# Objectives: logits of real and of generated images -> losses of D and of G, each (batch,).
# With D(x) = sigmoid(logit), log D = -softplus(-logit) and log(1 - D) = -softplus(logit).


def minimax(real: tf.Tensor, fake: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """D: -log D(x) - log(1 - D(G(z)));   G: log(1 - D(G(z))), flat where D wins."""
    return tf.nn.softplus(-real) + tf.nn.softplus(fake), -tf.nn.softplus(fake)


def non_saturating(real: tf.Tensor, fake: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """D: -log D(x) - log(1 - D(G(z)));   G: -log D(G(z)), steep where D wins."""
    return tf.nn.softplus(-real) + tf.nn.softplus(fake), tf.nn.softplus(-fake)


def least_squares(real: tf.Tensor, fake: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """D: 1/2 (D(x) - 1)^2 + 1/2 D(G(z))^2;   G: 1/2 (D(G(z)) - 1)^2   (Mao et al., 2017)."""
    return 0.5 * (tf.square(real - 1.0) + tf.square(fake)), 0.5 * tf.square(fake - 1.0)


def hinge(real: tf.Tensor, fake: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """D: max(0, 1 - D(x)) + max(0, 1 + D(G(z)));   G: -D(G(z))   (Lim & Ye, 2017)."""
    return tf.nn.relu(1.0 - real) + tf.nn.relu(1.0 + fake), -fake


def wasserstein_gp(real: tf.Tensor, fake: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """D: D(G(z)) - D(x) + penalty;   G: -D(G(z))   (Gulrajani et al., 2017)."""
    return fake - real, -fake


def penalty(
    logits_of: Callable[[tf.Tensor], tf.Tensor], real: tf.Tensor, fake: tf.Tensor, seeds: tf.Tensor
) -> tf.Tensor:
    """(|grad D(x')| - 1)^2 at x' = u x + (1 - u) G(z), u ~ U(0, 1), (batch,)."""
    u = noise.uniform(seeds, (1, 1, 1), stream=MIX_STREAM)
    mixed = u * real + (1.0 - u) * fake
    with tf.GradientTape() as tape:
        tape.watch(mixed)
        total = tf.reduce_sum(logits_of(mixed))
    # The root's derivative at 0 is infinite.
    norm = tf.sqrt(_squared_norm(tape.gradient(total, mixed)) + 1e-12)
    return tf.square(norm - 1.0)


OBJECTIVES: dict[str, Callable] = {
    objective.__name__: objective
    for objective in (minimax, non_saturating, least_squares, hinge, wasserstein_gp)
}
# What D gives an image between real and generated; a critic only ranks.
BORDERS = dict.fromkeys(OBJECTIVES, 0.0) | {"least_squares": 0.5, "wasserstein_gp": None}


def accuracies(real: tf.Tensor, fake: tf.Tensor, objective: str) -> dict[str, tf.Tensor]:
    """Returns 1 where D is right about real and about generated images, each (batch,)."""
    border = BORDERS[objective] or 0.0
    right = {"real_accuracy": real > border, "fake_accuracy": fake < border}
    return {name: tf.cast(value, tf.float32) for name, value in right.items()}


@keras.saving.register_keras_serializable("tfgen")
class GAN(AdversarialModel):
    """Convolutional generator and discriminator that train against each other.

        min_G max_D  E log D(x) + E log(1 - D(G(z))),   z ~ N(0, I)

    Each training step updates D `discriminator_steps` times, then G once, with the other fixed.
    Samples come from an exponential moving average of G. There is no batch normalisation: an image
    depends on its own seed alone.

    With `candidates` above 1 each image draws several latents and keeps one, with probability
    proportional to (D / (1 - D))^selectivity, or to exp(selectivity * logit) for "hinge" and
    "wasserstein_gp". D / (1 - D) of the best D is p_data / p_G, so selectivity 1 moves the samples
    towards the data (Azadi et al., "Discriminator rejection sampling", 2019); more trades variety
    for likeness. `candidates` times the cost.

    Input of `call`: uint8 images (batch, height, width, channels); output: what D gives, float32
    (batch,), above `score_border`, if any, for what D takes as real.

    Args:
        image_shape: (height, width, channels), 1 or 3 channels, divisible by 2^len(filters).
            Defaults to (28, 28, 1).
        latent_dim: int. Latent dimensions. Defaults to 64.
        filters: tuple of int. Channels of the discriminator's stages, each with stride 2. Defaults
            to (32, 64).
        generator_filters: tuple of int or None. Channels of the generator's stages, the coarsest
            first, as many as `filters`; None (the default) mirrors `filters`.
        network: str. "dcgan" (strided convolutions) or "residual" (see `gan_networks`), for colour
            and larger images. Defaults to "dcgan".
        num_blocks: int. Residual blocks per stage, in both networks; at least 1 for "residual".
            Defaults to 0.
        dense_units: int. Width of the discriminator's last hidden layer. Defaults to 128.
        spectral_normalization: bool. Whether D's kernels, but not its embedding of classes, are
            divided by their largest singular value (Miyato et al., 2018). Defaults to False.
        objective: str. A name in `OBJECTIVES`. Defaults to "non_saturating".
        gradient_penalty: float. Weight of (|grad D| - 1)^2 between real and generated images; only
            for "wasserstein_gp". Defaults to 10.
        r1: float. Weight of R1, r1 / 2 |grad D(x)|^2 at real images (Mescheder et al., 2018);
            0 is off. Defaults to 0.
        augment: bool. Whether D sees real and generated images shifted by up to an eighth of their
            side and changed in brightness, saturation and contrast, so it cannot memorise a small
            data set (Zhao et al., "Differentiable augmentation", 2020). Defaults to False.
        discriminator_steps: int. Updates of D before each update of G, with fresh noise each.
            Defaults to 1.
        ema_momentum: float in [0, 1). Momentum of the averaged generator. Defaults to 0.999.
        candidates: int. Latents that each sample draws to keep one of. Defaults to 1.
        selectivity: float. How much the discriminator's logit weighs in that choice, at least 0.
            Defaults to 1.
        num_levels: int. Grey levels, 2 to 256; samples are rounded to them. Defaults to 256.
        num_classes: int or None. Classes of a conditional model: G takes the class next to its
            latents; D adds <embedding(class), features> to its logit (Miyato & Koyama, 2018).
            Defaults to None.
        seed: int. Seed of the training noise. Defaults to 0.

    Raises:
        ValueError: An argument out of its range.

    Example:
    >>> import numpy as np
    >>> model = GAN(image_shape=(8, 8, 1), latent_dim=2, filters=(4, 8), dense_units=8)
    >>> model.sample(3, seed=0).shape
    (3, 8, 8, 1)
    >>> model.score(np.zeros((5, 8, 8, 1), "uint8")).shape
    (5,)
    """

    likelihood = "none"
    loss_names = ("discriminator_loss", "generator_loss", "real_accuracy", "fake_accuracy")
    settable = SETTABLE

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (28, 28, 1),
        latent_dim: int = 64,
        filters: tuple[int, ...] = (32, 64),
        generator_filters: tuple[int, ...] | None = None,
        network: str = "dcgan",
        num_blocks: int = 0,
        dense_units: int = 128,
        spectral_normalization: bool = False,
        objective: str = "non_saturating",
        gradient_penalty: float = 10.0,
        r1: float = 0.0,
        augment: bool = False,
        discriminator_steps: int = 1,
        ema_momentum: float = 0.999,
        candidates: int = 1,
        selectivity: float = 1.0,
        num_levels: int = 256,
        num_classes: int | None = None,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(image_shape, num_levels, num_classes, seed, **kwargs)
        self.keep(locals())
        checks.one_of("objective", objective, OBJECTIVES)
        checks.one_of("network", network, gan_networks.NETWORKS)
        checks.one_of("spectral_normalization", spectral_normalization, (False, True))
        checks.at_least(1 if network == "residual" else 0, num_blocks=num_blocks)
        checks.at_least(1, latent_dim=latent_dim, dense_units=dense_units)
        self.check_settings()
        layers.check_strides(self.image_shape, filters)
        if generator_filters is not None:
            checks.sizes(1, len(filters), generator_filters=generator_filters)
        if self.variable_dtype != "float32":
            raise ValueError(
                "dtype must be float32, mixed_bfloat16 or mixed_float16 for a GAN; received "
                f"{self.dtype_policy.name}."
            )
        with self.own_dtype_policy():
            self._build_networks()
        self.averaged_generator.set_weights(self.generator.get_weights())
        self.averaged_generator.trainable = False
        self.build()

    def check_settings(self) -> None:
        checks.at_least(1, discriminator_steps=self.discriminator_steps, candidates=self.candidates)
        checks.finite(
            0, gradient_penalty=self.gradient_penalty, r1=self.r1, selectivity=self.selectivity
        )
        checks.fraction(ema_momentum=self.ema_momentum)
        checks.one_of("augment", self.augment, (False, True))

    def _build_networks(self) -> None:
        build_generator, build_discriminator = gan_networks.NETWORKS[self.network]
        # latents (batch, latent_dim) [and labels] -> pixels (batch, *image_shape) in [-1, 1]
        self.generator, self.averaged_generator = (
            build_generator(
                given=layers.network_inputs((self.latent_dim,), "latents", self.num_classes),
                image_shape=self.image_shape,
                filters=self.generator_filters or self.filters[::-1],
                num_blocks=self.num_blocks,
                num_classes=self.num_classes,
                name=name,
            )
            for name in ("generator", "averaged_generator")
        )
        # pixels (batch, *image_shape) in [-1, 1] [and labels] -> logit (batch, 1)
        normalized = self.spectral_normalization
        self.discriminator = build_discriminator(
            given=layers.network_inputs(self.image_shape, "pixels", self.num_classes),
            filters=self.filters,
            num_blocks=self.num_blocks,
            dense_units=self.dense_units,
            num_classes=self.num_classes,
            # A bias cancels in the Wasserstein objective, a difference of logits.
            biased=self.objective != "wasserstein_gp",
            wrap=layers.SpectralNormalization if normalized else lambda layer: layer,
        )

    # Training --------------------------------------------------------------------------------

    def discriminator_losses(
        self, images: tf.Tensor, labels: tf.Tensor | None, seeds: tf.Tensor, training: bool
    ) -> dict[str, tf.Tensor]:
        """Returns discriminator_loss (with its penalties) and the two accuracies, (batch,)."""
        real = pixels.images_to_pixels(images)
        fake = tf.stop_gradient(self._generate(self.generator, seeds, labels))
        with tf.GradientTape() as tape:
            tape.watch(real)
            both = tf.concat([real, fake], 0)  # (2 batch, height, width, channels)
            if self.augment and training:
                both = gan_networks.augmented(
                    both, noise.fold(tf.concat([seeds, ~seeds], 0), AUGMENT_FOLD)
                )
            twice = None if labels is None else tf.concat([labels, labels], 0)
            logits = self._logits(both, twice, training)
            real_logits, fake_logits = tf.split(logits, 2)
            total = tf.reduce_sum(real_logits)
        loss, _ = OBJECTIVES[self.objective](real_logits, fake_logits)
        if self.r1:
            # r1 / 2 |grad D(x)|^2
            loss += 0.5 * self.r1 * _squared_norm(tape.gradient(total, real))
        if self.objective == "wasserstein_gp":
            loss += self.gradient_penalty * penalty(
                lambda mixed: self._logits(mixed, labels), *tf.split(both, 2), seeds
            )
        return {"discriminator_loss": loss} | accuracies(real_logits, fake_logits, self.objective)

    def generator_losses(
        self, labels: tf.Tensor | None, seeds: tf.Tensor, training: bool = False
    ) -> dict[str, tf.Tensor]:
        """Returns generator_loss, (batch,)."""
        fake = self._generate(self.generator, seeds, labels)
        if self.augment and training:
            fake = gan_networks.augmented(fake, noise.fold(seeds, AUGMENT_FOLD))
        logits = self._logits(fake, labels)
        _, loss = OBJECTIVES[self.objective](tf.zeros_like(logits), logits)
        return {"generator_loss": loss}

    def losses_per_image(self, images, labels, seeds, training):
        """Returns the losses of both networks and the accuracies of D, each (batch,)."""
        return self.discriminator_losses(
            images, labels, noise.fold(seeds, DISCRIMINATOR_FOLD), False
        ) | self.generator_losses(labels, noise.fold(seeds, GENERATOR_FOLD), False)

    def _generate(self, generator, seeds, labels):
        latents = noise.normal(seeds, (self.latent_dim,))
        return generator(with_labels(latents, labels))

    def _logits(self, real_or_fake, labels, training=False):
        """D's logits, (batch,). Spectral normalisation moves its state only when `training`."""
        return self.discriminator(with_labels(real_or_fake, labels), training=training)[:, 0]

    def call(self, images, labels=None, training=False):
        """Returns the discriminator's logit, float32 (batch,)."""
        x = pixels.images_to_pixels(layers.checked_greys(images))
        return self._logits(x, self.labels_of_call(labels))

    # Endpoints -------------------------------------------------------------------------------

    def mean_image(self, latents, labels):
        """Returns the averaged generator's image, float32 grey values in [0, 255]."""
        return pixels.pixels_to_greys(self.averaged_generator(with_labels(latents, labels)))

    def _chosen_latents(self, seeds, labels, temperature):
        """The latents that samples decode, (batch, latent_dim)."""
        drawn = temperature * noise.normal(seeds, (self.candidates, self.latent_dim))

        def score(latents, labels):
            found = self._logits(self.averaged_generator(with_labels(latents, labels)), labels)
            return log_odds(found) if self.objective == "least_squares" else found

        return resampled(drawn, score, self.selectivity, seeds, labels)

    def endpoints(self, temperature=1.0, num_samples=1):
        """Returns sample, latents (what sample decodes), decode and score."""
        images, seed, labels = (self.specs[name] for name in ("images", "seed", "labels"))

        def latents(seed, labels=None):
            return {"latents": self._chosen_latents(seed, labels, temperature)}

        def sample(seed, labels=None):
            return {"images": self.decode_tensors(latents(seed, labels)["latents"], labels)}

        def score(images, labels=None):
            return {"score": self(self.nearest_level(images), labels)}

        return {
            "sample": (sample, seed | labels),
            "latents": (latents, seed | labels),
            "decode": self.latent_endpoints()["decode"],
            "score": (score, images | labels),
        }

    def why_not(self, name: str) -> str:
        if name == "log_likelihood":
            return "a GAN draws from a density that it never computes (implicit density)."
        if name in ("encode", "reconstruct"):
            return "a GAN has no encoder; it maps latents to images and not back."
        return super().why_not(name)

    @property
    def score_border(self) -> float | None:
        """The decision threshold of `score`; None for a critic, which only ranks."""
        return BORDERS[self.objective]

    def score(self, images: np.ndarray, *, labels: Labels = None) -> np.ndarray:
        """Returns what D gives for each image, float32 (batch,); see `score_border`.

        Raises:
            ValueError: Images or labels that do not fit the model.
        """
        images, labels = self.check(images, labels)
        return self._run("score", {"images": images, "labels": labels})

    def interpolate(self, a: Any, b: Any, steps: int = 8, *, labels: Labels = None) -> np.ndarray:
        """Walks the straight line from each of the latents `a` to that of `b`.

        Args:
            a: float (batch, latent_dim), e.g. from `latents(4, seed=0)`.
            b: The same shape.
            steps: Points on the line, both ends included, at least 2.
            labels: Classes, for a conditional model.

        Returns:
            uint8 (batch, steps, height, width, channels).
        """
        return self._walk(self.check_latents(a), self.check_latents(b), steps, labels)

    def latents(
        self, num_samples: int = 1, *, labels: Labels = None, seed: Seed = None
    ) -> np.ndarray:
        """Returns the latents that `sample` decodes, float32 (num_samples, latent_dim).

        Args:
            num_samples: How many.
            labels: As in `sample`; may be left out if `candidates` is 1.
            seed: As in `sample`.

        Raises:
            ValueError: Bad counts, seeds or labels.
        """
        num_samples = checks.positive("num_samples", num_samples)
        seeds = self.image_seeds(num_samples, seed)
        if labels is None and self.num_classes is not None and self.candidates == 1:
            labels = 0
        labels = pixels.check_labels(labels, self.num_classes, num_samples)
        return self._run("latents", {"seed": seeds, "labels": labels})


def _squared_norm(gradient):
    return tf.reduce_sum(tf.square(gradient), (1, 2, 3))
