"""A small classifier of images: the evaluator whose features judge what other models draw."""

import keras
import numpy as np
import tensorflow as tf

from tfgen import checks, layers, noise, pixels
from tfgen.models.endpoints import EndpointModel

__all__ = ["Classifier"]

# Streams of a training image's seed: where it is erased, which of its features are dropped.
ERASE_STREAM, DROPOUT_STREAM = 0, 1


@keras.saving.register_keras_serializable("tfgen")
class Classifier(EndpointModel):
    """Classifier, convolutional or dense, with a named penultimate layer.

        loss = -log p(label | x)                                                 nats per image

    Input of `call`: uint8 images (batch, height, width, channels); output: logits, float32
    (batch, num_classes). There are no batch statistics: the features of an image depend on that
    image alone, and a run resumes exactly.

    Args:
        image_shape: (height, width, channels), 1 or 3 channels, divisible by 2^len(filters).
            Defaults to (28, 28, 1).
        num_classes: int. Classes, at least 2. Defaults to 10.
        filters: tuple of int. Channels of the stages, each with stride 2. Without any, the
            penultimate layer reads the pixels, or the stem. Defaults to (32, 64).
        num_blocks: int. Residual blocks per stage. Defaults to 1.
        feature_units: int. Width of the penultimate layer. Defaults to 128.
        stem: int. Channels of a stage at full size before the others, for colour images; 0 for
            none. Defaults to 0.
        label_smoothing: float. Probability that the target spreads over all classes, in [0, 1).
            Defaults to 0.
        dropout: float. Share of the penultimate features that training drops, in [0, 1).
            Defaults to 0.
        cutout: int. Side in pixels of the square that training erases (sets to 0) around a random
            pixel of each image (DeVries and Taylor, "Improved regularization of convolutional
            neural networks with cutout", 2017); 0 for none. Defaults to 0.
        seed: int. Seed of the training noise. Defaults to 0.

    Raises:
        ValueError: An argument out of its range.

    Example:
    >>> model = Classifier((8, 8, 1), num_classes=3, filters=(4,), feature_units=5)
    >>> model.features(np.zeros((2, 8, 8, 1), "uint8")).shape
    (2, 5)
    """

    kind = "evaluator"
    loss_names = ("loss", "accuracy")
    settable = ("seed", "label_smoothing", "dropout", "cutout")

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (28, 28, 1),
        num_classes: int = 10,
        filters: tuple[int, ...] = (32, 64),
        num_blocks: int = 1,
        feature_units: int = 128,
        stem: int = 0,
        label_smoothing: float = 0.0,
        dropout: float = 0.0,
        cutout: int = 0,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(image_shape, 256, num_classes, seed, **kwargs)
        self.keep(locals())
        checks.at_least(2, num_classes=num_classes)
        checks.at_least(1, feature_units=feature_units)
        checks.at_least(0, num_blocks=num_blocks, stem=stem)
        self.check_settings()
        with self.own_dtype_policy():
            self.encoder = layers.encoder_network(
                self.image_shape, self.filters, num_blocks, self.feature_units, stem=stem
            )
            self.head = keras.layers.Dense(self.num_classes, dtype="float32", name="logits")
            self.head.build((None, self.feature_units))
        self.build()

    def check_settings(self) -> None:
        checks.at_least(0, cutout=self.cutout)
        checks.fraction(label_smoothing=self.label_smoothing, dropout=self.dropout)

    def call(self, images, training=False):
        """Returns logits, float32 (batch, num_classes)."""
        return self.head(self.encoder(images))

    def losses_per_image(self, images, labels, seeds, training):
        """Returns loss (nats) and accuracy (0 or 1), each (batch,)."""
        if training and self.cutout:
            images = erased(images, noise.uniform(seeds, (2,), ERASE_STREAM), self.cutout)
        features = self.encoder(images)
        if training and self.dropout:
            u = noise.uniform(seeds, (self.feature_units,), DROPOUT_STREAM)
            kept = tf.cast(u >= self.dropout, features.dtype)
            features *= kept / (1.0 - self.dropout)
        logits = self.head(features)
        smooth = self.label_smoothing
        target = (1.0 - smooth) * tf.one_hot(labels, self.num_classes) + smooth / self.num_classes
        return {
            "loss": tf.nn.softmax_cross_entropy_with_logits(target, logits),
            "accuracy": tf.cast(tf.argmax(logits, 1) == labels, tf.float32),
        }

    def endpoints(self, temperature=1.0, num_samples=1):
        """Returns features and probabilities."""

        def features(images):
            return {"features": tf.cast(self.encoder(images), tf.float32)}

        def probabilities(images):
            return {"probabilities": tf.nn.softmax(self(images))}

        images = self.specs["images"]
        return {"features": (features, images), "probabilities": (probabilities, images)}

    def features(self, images: np.ndarray) -> np.ndarray:
        """Returns the penultimate layer's activations, float32 (batch, feature_units).

        Raises:
            ValueError: `images` is not uint8 (batch, *image_shape).
        """
        images = pixels.check_images(images, self.image_shape, 256)
        return self._run("features", {"images": images})

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns p(label | images), float32 (batch, num_classes); raises as `features` does."""
        images = pixels.check_images(images, self.image_shape, 256)
        return self._run("probabilities", {"images": images})


def erased(images: tf.Tensor, places: tf.Tensor, side: int) -> tf.Tensor:
    """Sets a square of each image to 0, as far as it lies inside.

    Args:
        images: (batch, height, width, channels).
        places: float32 (batch, 2), row and column of the square's middle in [0, 1).
        side: Of the square, in pixels.
    """
    inside = []
    for axis, length in enumerate(images.shape[1:3]):
        first = tf.floor(places[:, axis : axis + 1] * length) - side // 2  # (batch, 1)
        at = tf.range(length, dtype=tf.float32)
        inside.append((at >= first) & (at < first + side))  # (batch, length)
    square = inside[0][:, :, None, None] & inside[1][:, None, :, None]
    return tf.where(square, tf.zeros_like(images), images)
