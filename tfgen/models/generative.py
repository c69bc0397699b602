"""The contract that the generative families keep, as methods that check what they are given."""

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfgen import checks, pixels
from tfgen.models.endpoints import PER_PASS, EndpointModel, Endpoints

__all__ = ["GenerativeModel"]

# A class for each image, or one for all; a seed for each image, the first of them, or fresh ones.
Labels = Sequence[int] | np.ndarray | int | None
Seed = Sequence[int] | np.ndarray | int | None


class GenerativeModel(EndpointModel):
    """Base of all families: images in and out are uint8 NHWC in [0, 255].

    Shapes in addition to those of `ImageModel`: `latents` float32 (batch, latent_dim), a
    log-likelihood float32 (batch,) in nats per image.

    Attributes:
        likelihood: What the family knows of log p(x): "exact", a lower "bound", or "none".
        draws_by_pixel: Whether `sample` draws pixel after pixel, so that a rounding error which
            turns one pixel changes all that follow.
    """

    likelihood: Literal["exact", "bound", "none"] = "none"
    draws_by_pixel: bool = False

    # Endpoints that need `encoder` or `decoder` ------------------------------------------------

    def latent_endpoints(self) -> Endpoints:
        """Returns encode, decode and reconstruct of a family with `encoder` and `mean_image`."""
        images, labels = self.specs["images"], self.specs["labels"]
        latents = {"latents": tf.TensorSpec((None, self.latent_dim), tf.float32, "latents")}

        def encode(images, labels=None):
            return {"latents": self.encoder(with_labels(self.nearest_level(images), labels))}

        def decode(latents, labels=None):
            return {"images": self.decode_tensors(latents, labels)}

        def reconstruct(images, labels=None):
            return {"images": self.decode_tensors(encode(images, labels)["latents"], labels)}

        return {
            "encode": (encode, images | labels),
            "decode": (decode, latents | labels),
            "reconstruct": (reconstruct, images | labels),
        }

    def mean_image(self, latents: tf.Tensor, labels: tf.Tensor | None) -> tf.Tensor:
        """Returns the mean of p(x | latents), float32 grey values in [0, 255]."""
        raise NotImplementedError

    def decode_tensors(self, latents: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the mean image on the nearest level, uint8."""
        return pixels.greys_to_images(self.mean_image(latents, labels), self.num_levels)

    # Samples ---------------------------------------------------------------------------------

    def sample(
        self,
        num_samples: int = 1,
        *,
        labels: Labels = None,
        seed: Seed = None,
        temperature: float = 1.0,
        batch_size: int | None = None,
        verbose: int = 0,
    ) -> np.ndarray:
        """Draws images.

        Args:
            num_samples: How many, at least 1.
            labels: For a conditional model: a class for each image, or one for all.
            seed: None for fresh ones; one int per image; or an int s that stands for
                s, s + 1, ...: image i of `sample(n, seed=s)` is `sample(1, seed=s + i)`.
            temperature: Scales the noise: 0 leaves none, 1 is the model's own spread. At
                least 0.
            batch_size: Images per pass; by default as many as is fast, at most 250, of a VAE 500.
            verbose: 1 shows a progress bar.

        Returns:
            uint8 (num_samples, height, width, channels).

        Raises:
            ValueError: An argument out of range.
            NotImplementedError: The family cannot be sampled from; the message explains why.
        """
        count = checks.positive("num_samples", num_samples)
        checks.finite(0, temperature=temperature)
        self._require("sample")
        labels = pixels.check_labels(labels, self.num_classes, count)
        return self._run(
            "sample",
            {"seed": self.image_seeds(count, seed), "labels": labels},
            self.batch_size_for(count) if batch_size is None else batch_size,
            verbose,
            temperature=float(temperature),
            jit_compile=self.jit_sampling,
        )

    def batch_size_for(self, count: int) -> int:
        """Returns how many of `count` images `sample` draws in one pass unless told otherwise."""
        return min(count, PER_PASS["sample"])

    @staticmethod
    def image_seeds(count: int, seed: Seed) -> tf.Tensor:
        """Returns one int64 seed per image for the `seed` argument of the public methods.

        Raises:
            ValueError: Not None, an integer, or `count` integers.
        """
        if seed is None:
            seed = int.from_bytes(os.urandom(7), "little")
        seeds = np.asarray(seed)
        seeds = seeds if seeds.size else seeds.astype(np.int64)  # [] is of floats
        further = count - 1 if seeds.ndim == 0 else 0  # added to it for the last image
        if (
            seeds.dtype.kind not in "iu"
            or seeds.shape not in ((), (count,))
            or (seeds.size and int(seeds.max()) + further > 2**63 - 1)
        ):
            raise ValueError(
                f"seed must be None, an integer, or {count} integers, one per image, the last "
                f"image's below 2^63; received {seed!r}."
            )
        if seeds.ndim == 0:
            seeds = seeds.astype(np.int64) + np.arange(count, dtype=np.int64)
        return tf.constant(seeds.astype(np.int64))

    def labels_of_call(self, labels: Any) -> Any:
        """Returns the labels that `call` was given, checked as far as a graph knows them.

        Raises:
            ValueError: Labels for an unconditional model, none for a conditional one, or, outside
                of a graph, classes that there are not.
        """
        if (labels is None) != (self.num_classes is None):
            pixels.check_labels(labels, self.num_classes, 0)
        if labels is not None and tf.executing_eagerly():  # of any shape that the networks take
            classes = np.reshape(labels, -1)
            pixels.check_labels(classes, self.num_classes, len(classes))
        return None if labels is None else tf.cast(tf.reshape(labels, (-1,)), tf.int64)

    # Likelihood ------------------------------------------------------------------------------

    def log_likelihood(
        self,
        images: np.ndarray,
        *,
        num_samples: int = 1,
        labels: Labels = None,
        seed: Seed = 2**62,
        batch_size: int | None = None,
        verbose: int = 0,
    ) -> np.ndarray:
        """Returns log p(images) in nats per image, a sum over pixels, float32 (batch,).

        Exact where `likelihood` is "exact". Where it is "bound": the importance-weighted bound
        with `num_samples` samples (1: the evidence lower bound), which never exceeds the truth in
        expectation and rises with `num_samples` (Burda et al., 2016).

        Args:
            images: uint8 (batch, height, width, channels), grey values among the levels.
            num_samples: Importance samples; ignored where the likelihood is exact.
            labels: Classes, for a conditional model.
            seed: As in `sample`, but not that of the images, whose own noise would judge them.
            batch_size: Images per pass; default 100.
            verbose: 1 shows a progress bar.

        Raises:
            ValueError: An argument out of range.
            NotImplementedError: `likelihood` is "none"; the message explains why.
        """
        count = checks.positive("num_samples", num_samples)
        self._require("log_likelihood")
        images, labels = self.check(images, labels)
        seeds = self.image_seeds(images.shape[0], seed)
        return self._run(
            "log_likelihood",
            {"images": images, "labels": labels, "seed": seeds},
            batch_size,
            verbose,
            num_samples=count,
        )

    def extra_likelihoods(
        self, images: np.ndarray, labels: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Returns further log-likelihoods that `tfgen evaluate` reports, none by default.

        A family overrides it, e.g. a pixel model of several orders with its first order alone.

        Args:
            images: uint8 (batch, height, width, channels).
            labels: Classes (batch,), for a conditional model.

        Returns:
            Nats per image, float (batch,), by what follows "negative log-likelihood" on a card.
        """
        return {}

    # Latents ---------------------------------------------------------------------------------

    def encode(self, images: np.ndarray, *, labels: Labels = None) -> np.ndarray:
        """Returns the mean latents of `images`, float32 (batch, latent_dim)."""
        self._require("encode")
        images, labels = self.check(images, labels)
        return self._run("encode", {"images": images, "labels": labels})

    def decode(self, latents: Any, *, labels: Labels = None) -> np.ndarray:
        """Returns the mean image of p(x | latents), on the nearest level, uint8.

        Raises:
            ValueError: `latents` is not finite and of shape (batch, latent_dim).
            NotImplementedError: The family has no latents.
        """
        self._require("decode")
        latents = self.check_latents(latents)
        labels = pixels.check_labels(labels, self.num_classes, latents.shape[0])
        return self._run("decode", {"latents": latents, "labels": labels})

    def reconstruct(self, images: np.ndarray, *, labels: Labels = None) -> np.ndarray:
        """Returns decode(encode(images)), uint8 of the same shape."""
        self._require("reconstruct")
        images, labels = self.check(images, labels)
        return self._run("reconstruct", {"images": images, "labels": labels})

    def interpolate(
        self, a: np.ndarray, b: np.ndarray, steps: int = 8, *, labels: Labels = None
    ) -> np.ndarray:
        """Walks the straight line in latent space from each image of `a` to that of `b`.

        Args:
            a: uint8 (batch, height, width, channels).
            b: The same shape.
            steps: Points on the line, both ends included, at least 2.
            labels: Classes, for a conditional model.

        Returns:
            uint8 (batch, steps, height, width, channels).
        """
        return self._walk(
            self.encode(a, labels=labels), self.encode(b, labels=labels), steps, labels
        )

    def _walk(self, start: tf.Tensor, end: tf.Tensor, steps: int, labels) -> np.ndarray:
        """Decodes `steps` points on the lines between latents, uint8 (batch, steps, ...)."""
        checks.at_least(2, steps=steps)  # both ends are included
        if start.shape != end.shape:
            raise ValueError(
                f"a and b must hold the same number of rows; received {start.shape[0]} and "
                f"{end.shape[0]}."
            )
        along = tf.linspace(0.0, 1.0, steps)[None, :, None]
        line = start[:, None] * (1.0 - along) + end[:, None] * along
        flat = tf.reshape(line, (-1, line.shape[-1]))
        if labels is not None:
            count = int(start.shape[0])
            labels = np.repeat(pixels.check_labels(labels, self.num_classes, count), steps)
        images = self.decode(flat, labels=labels)
        return images.reshape(-1, steps, *self.image_shape)

    # Checks ----------------------------------------------------------------------------------

    def check_latents(self, latents: Any) -> tf.Tensor:
        """Returns latents as a float32 tensor, or raises ValueError."""
        # NumPy's numbers of any dtype would become float32, a tensor's would not.
        latents = tf.cast(latents, tf.float32)
        if latents.shape.rank != 2 or latents.shape[1] != self.latent_dim:
            raise ValueError(
                f"latents must have shape (batch, {self.latent_dim}); received {latents.shape}."
            )
        if not bool(tf.reduce_all(tf.math.is_finite(latents))):
            raise ValueError("latents must be finite; received NaN or infinity.")
        return latents


def with_labels(tensor: tf.Tensor, labels: tf.Tensor | None) -> tf.Tensor | list[tf.Tensor]:
    """Returns what a part of a model takes: `[x, labels]` if conditional, else `x`."""
    return tensor if labels is None else [tensor, labels]
