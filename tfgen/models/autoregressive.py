"""What the pixel models share: an exact likelihood, and sampling one token after another.

An image is cut into a grid of tokens, blocks of pixels in raster order; a token into groups, each
of one colour channel of one pixel, or, for two levels, of up to four pixels with one softmax:

    log p(x) = sum over tokens t, groups g of log p(x_tg | tokens before t, groups before g)

A trunk (each family's own) turns the tokens before t into features; the head, two masked dense
layers, adds the groups before g. A network may read an image in several ways, told by its context:
in several orders, or, in an ensemble, as an image of each class.

    p(x) = 1/K sum_k p(x read in way k)
"""

import math

import numpy as np
import tensorflow as tf

from tfgen import checks, devices, distributions, layers, noise, pixels, portable
from tfgen.models.endpoints import PER_PASS
from tfgen.models.generative import Labels, Seed
from tfgen.models.guidance import Guide, check_guidance
from tfgen.models.sampler import Sampler
from tfgen.models.token_networks import TokenModel
from tfgen.models.tokens import pattern_logits

__all__ = ["AutoregressiveModel"]

# A stream (the sampler's is another) and a fold of a seed.
READING_STREAM, DROPOUT_FOLD = 1, 2


class AutoregressiveModel(TokenModel):
    """Base of the families with a tractable density; shapes and hooks are those of `TokenModel`."""

    likelihood = "exact"
    settable = ("seed", "guidance")
    draws_by_pixel = True
    loss_names = ("loss", "bits_per_dim")
    # One pixel is too little work for several cores, so each takes a batch.
    num_workers = devices.CORES

    def check_settings(self) -> None:
        check_guidance(self.guidance, self.num_classes, self.pixel_distribution)

    @property
    def num_readings(self) -> int:
        """In how many ways an image may be read, here its orders."""
        return self.orders

    def picked_reading(self, seeds: tf.Tensor) -> tf.Tensor:
        """The way of reading that each image's seed picks, int32 (batch,)."""
        if self.num_readings == 1:
            return tf.zeros(tf.shape(seeds), tf.int32)
        uniforms = noise.uniform(seeds, (), READING_STREAM)
        return tf.cast(uniforms * self.num_readings, tf.int32)

    def reading_for(
        self,
        kept: tf.Tensor,
        mask: tf.Tensor,
        seeds: tf.Tensor,
        labels: tf.Tensor | None,
        temperature: float,
    ) -> tf.Tensor:
        """The way of reading in which to complete each image, int32 (batch,).

        Args:
            kept: Levels (batch, height, width, channels).
            mask: bool, the same shape, True where a level is kept.
            seeds: int64 (batch,).
            labels: int64 (batch,), or None.
            temperature: Of the choice, where there is one.
        """
        return self.token_grid.order_for(mask)

    # Likelihood ------------------------------------------------------------------------------

    def _group_log_probs(self, tokens: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """Returns log p of each group given those before, (batch, rows, columns, groups)."""
        if self.uses_patterns:
            return distributions.categorical_log_prob(self.outcomes_of(tokens), parameters)
        # A group is one channel of one pixel: the groups of a token are like an image's channels.
        groups = self.token_grid.groups
        flat = tf.reshape(parameters, (*layers.leading_shape(parameters, 2), groups * self.outputs))
        return distributions.log_prob(
            self.pixel_distribution, flat, tokens[..., 0], self.num_levels
        )

    def _read(
        self, levels, labels, reading, seeds=None, guided=False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the tokens as read, and the parameters of each group."""
        tokens = self.token_grid.to_tokens(self.token_grid.reorder(levels, reading))
        if guided and self.guidance:
            return tokens, Guide(self).parameters_of(tokens, labels, reading)
        conditions = self.conditions(tf.shape(levels)[0], labels, reading, seeds)
        return tokens, self.parameters_of(tokens, conditions)

    def log_prob_of_reading(
        self,
        levels: tf.Tensor,
        labels: tf.Tensor | None,
        reading: tf.Tensor,
        seeds: tf.Tensor | None = None,
        guided: bool = False,
    ) -> tf.Tensor:
        """log p(x read in that way), nats, (batch,), with the model's guidance or without."""
        log_probs = self._group_log_probs(*self._read(levels, labels, reading, seeds, guided))
        # log p(x) = sum over tokens t, groups g of log p(x_tg | tokens before t, groups before g)
        return tf.reduce_sum(log_probs, (1, 2, 3))

    def pixels_in_turn(
        self, levels: tf.Tensor, labels: tf.Tensor | None, reading: tf.Tensor
    ) -> tf.Tensor:
        """log p of each pixel given those read before it, nats, in the shape of the tokens."""
        tokens, parameters = self._read(levels, labels, reading, guided=True)
        if not self.uses_patterns:
            return self._group_log_probs(tokens, parameters)[..., None]
        logits = pattern_logits(parameters, tokens, self.patterns)
        return -portable.softplus(tf.where(tokens > 0.5, -logits, logits))

    def _log_prob_of_pixels(self, levels, labels, order: int) -> tf.Tensor:
        """The same pixel by pixel, float32 (batch, height, width, channels)."""
        grid, reading = self.token_grid, tf.fill((tf.shape(levels)[0],), order)
        values = grid.from_tokens(self.pixels_in_turn(levels, labels, reading))
        return tf.cast(grid.restore(values, reading), tf.float32)

    def _mixture_log_prob(self, images, labels) -> tf.Tensor:
        """log 1/K sum_k p(x read in way k), nats, float32 (batch,)."""
        levels = self.levels_of(self.nearest_level(images))
        batch = tf.shape(levels)[0]
        if self.num_readings == 1:
            reading = tf.zeros((batch,), tf.int32)
            value = self.log_prob_of_reading(levels, labels, reading, guided=True)
            return tf.cast(value, tf.float32)

        def one_reading(reading, total):
            value = self.log_prob_of_reading(
                levels, labels, tf.fill((batch,), reading), guided=True
            )
            both = tf.stack([total, tf.cast(value, total.dtype)])
            return reading + 1, tf.reduce_logsumexp(both, 0)

        start = tf.fill((batch,), tf.constant(-math.inf, self.output_dtype))
        _, total = tf.while_loop(
            lambda reading, _: reading < self.num_readings,
            one_reading,
            (tf.constant(0), start),
            parallel_iterations=1,
            maximum_iterations=self.num_readings,
        )
        return tf.cast(total - math.log(self.num_readings), tf.float32)

    def losses_per_image(self, images, labels, seeds, training):
        """Returns -log p in nats per image, and the same in bits/dim, each (batch,).

        With several orders each image is read in one of them, picked by its seed: on average an
        upper bound of -log p of their mixture. Guidance is left out: it is for drawing and
        scoring.
        """
        dropout = noise.fold(seeds, DROPOUT_FOLD) if training and self.dropout else None
        log_prob = self.log_prob_to_train(self.levels_of(images), labels, seeds, dropout)
        nats = -tf.cast(log_prob, tf.float32)
        return {"loss": nats, "bits_per_dim": nats * pixels.bits_per_dim(-1.0, self.image_shape)}

    def log_prob_to_train(
        self,
        levels: tf.Tensor,
        labels: tf.Tensor | None,
        seeds: tf.Tensor,
        dropout: tf.Tensor | None,
    ) -> tf.Tensor:
        """What training raises, nats, (batch,): log p(x read in the way that its seed picks)."""
        return self.log_prob_of_reading(levels, labels, self.picked_reading(seeds), dropout)

    def call(self, images, labels=None, training=False):
        """Returns the parameters of every pixel's distribution given the pixels before it.

        Read in the first order (rows from the top, each from the left), without guidance. float
        (batch, height, width, channels, outputs): one logit of the higher level for "bernoulli",
        also inside a token; `num_levels` logits for "categorical"; three times `num_mixtures` for
        the mixture. A conditional model needs `labels`.
        """
        labels = self.labels_of_call(labels)
        levels = self.levels_of(layers.checked_greys(images))
        tokens = self.token_grid.to_tokens(levels)
        parameters = self.parameters_of(tokens, self.conditions(tf.shape(levels)[0], labels, 0))
        if self.uses_patterns:
            parameters = pattern_logits(parameters, tokens, self.patterns)[..., None]
        else:
            parameters = parameters[..., None, :]
        return self.token_grid.from_tokens(parameters)

    # Endpoints -------------------------------------------------------------------------------

    def endpoints(self, temperature=1.0, num_samples=1):
        """Returns sample, complete, log_likelihood and log_likelihood_map."""
        images, seed, labels = (self.specs[name] for name in ("images", "seed", "labels"))
        mask = {"mask": tf.TensorSpec((None, *self.image_shape[:2], 1), tf.bool, "mask")}
        sampler = Sampler(self, temperature)

        def sample(seed, labels=None):
            reading = self.picked_reading(seed)
            if temperature == 0:  # no noise at all, in the way of reading either
                reading = tf.zeros_like(reading)
            levels = sampler.draw(seed, labels, reading)
            return {"images": pixels.levels_to_images(levels, self.num_levels)}

        def complete(images, mask, seed, labels=None):
            kept = self.levels_of(self.nearest_level(images))
            mask = tf.broadcast_to(mask, tf.shape(kept))
            reading = self.reading_for(kept, mask, seed, labels, temperature)
            levels = sampler.draw(seed, labels, reading, kept, mask)
            return {"images": pixels.levels_to_images(levels, self.num_levels)}

        def log_likelihood(images, labels=None):
            return {"log_likelihood": self._mixture_log_prob(images, labels)}

        def log_likelihood_map(images, labels=None):
            levels = self.levels_of(self.nearest_level(images))
            return {"log_likelihood_map": self._log_prob_of_pixels(levels, labels, 0)}

        return {
            "sample": (sample, seed | labels),
            "complete": (complete, images | mask | seed | labels),
            "log_likelihood": (log_likelihood, images | labels),
            "log_likelihood_map": (log_likelihood_map, images | labels),
        }

    def batch_size_for(self, count: int) -> int:
        """Returns an equal share for each core, fewer where each is read as every class."""
        rows = (self.num_classes or 1) if self.guidance else 1  # of the network, for each image
        return max(1, min(-(-count // self.num_workers), PER_PASS["sample"] // rows))

    def why_not(self, name: str) -> str:
        if name in ("encode", "decode", "reconstruct"):
            return "it computes the density of the pixels directly, without latents."
        return super().why_not(name)

    def complete(
        self,
        images: np.ndarray,
        mask: np.ndarray,
        *,
        labels: Labels = None,
        seed: Seed = None,
        temperature: float = 1.0,
        batch_size: int | None = None,
        verbose: int = 0,
    ) -> np.ndarray:
        """Keeps the pixels that `mask` marks and draws the others, in order.

        The draw is from the exact p(hidden | kept) where the kept pixels come first, as the upper
        half of an image does; elsewhere a kept pixel affects only the hidden ones after it. Of
        several orders, each image takes the one in which its first hidden pixel comes last, and
        that order's conditional. A softmax that pixels share is restricted to patterns that agree.

        Args:
            images: uint8 (batch, height, width, channels); hidden pixels are ignored.
            mask: bool (batch, height, width, 1), True where a pixel is kept.
            labels: Classes, for a conditional model.
            seed: As in `sample`.
            temperature: As in `sample`.
            batch_size: Images per pass; by default as many as is fast, at most 250.
            verbose: 1 shows a progress bar.

        Returns:
            uint8 (batch, height, width, channels).

        Raises:
            ValueError: Images, mask or labels that do not fit.
        """
        images, mask = _partly_shown(self, images, mask)
        images, labels = self.check(images, labels)
        checks.finite(0, temperature=temperature)
        seeds = self.image_seeds(images.shape[0], seed)
        return self._run(
            "complete",
            {"images": images, "mask": mask, "seed": seeds, "labels": labels},
            _completed_at_once(self, images.shape[0]) if batch_size is None else batch_size,
            verbose,
            temperature=float(temperature),
            jit_compile=self.jit_sampling,
        )

    def extra_likelihoods(
        self, images: np.ndarray, labels: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Returns log p of the images in the first order, if the model has several."""
        if self.orders == 1:
            return {}
        by_pixel = self.log_likelihood_map(images, labels=labels)
        return {"in the first order": by_pixel.sum((1, 2, 3), dtype=np.float64)}

    def log_likelihood_map(
        self,
        images: np.ndarray,
        *,
        labels: Labels = None,
        order: int = 0,
    ) -> np.ndarray:
        """Returns log p of each pixel given those before it, nats.

        float32 (batch, height, width, channels); its sum is the log-likelihood in that order.

        Args:
            images: uint8 (batch, height, width, channels).
            labels: Classes, for a conditional model.
            order: Which of the model's `orders` to read the pixels in.

        Raises:
            ValueError: Images or labels that do not fit, or no such order.
        """
        checks.one_of("order", order, range(self.orders))
        images, labels = self.check(images, labels)
        if order == 0 or not len(images):
            return self._run("log_likelihood_map", {"images": images, "labels": labels})
        size, levels = PER_PASS["log_likelihood_map"], self.levels_of(images)
        parts = [
            self._log_prob_of_pixels(
                levels[start : start + size],
                None if labels is None else labels[start : start + size],
                order,
            )
            for start in range(0, len(images), size)
        ]
        return np.concatenate(parts)


def _completed_at_once(model, count):
    """Images of a pass; fewer where the likelihoods of all classes come first."""
    size = model.batch_size_for(count)
    scored = max(1, PER_PASS["log_likelihood_map"] // model.num_workers)
    return min(size, scored) if model.num_readings > model.orders else size


def _partly_shown(model, images, mask):
    """Images whose hidden pixels, which may hold anything, are of one grey; the checked mask."""
    images = pixels.as_array(images)
    pixels.check_format(images, model.image_shape)
    mask = pixels.check_mask(mask, (images.shape[0], *model.image_shape[:2], 1))
    # White, or a dark part that is shown might be taken for an image of 0 and 1.
    hidden = 255 * (np.max(images, initial=0) > 1)
    return np.where(mask, images, np.uint8(hidden)), mask
