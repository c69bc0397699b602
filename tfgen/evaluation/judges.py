"""Who judges samples: the classifier of their data set, or plain features; metrics of classes.

The zoo's evaluators are classifiers. Each says in its recipe which data set it was trained on and,
under `also_judges` in its metadata, which others its features fit, e.g. the binarised form of the
same images. Data that no evaluator knows are judged by features from a PCA and random convolutions:
they compare models of one data set, and are coarser than a classifier's.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfgen import pixels, zoo
from tfgen.evaluation.latents import evenly, flat
from tfgen_command import entries

__all__ = ["ClassBalance", "ClassifierScore", "Judge", "classifier", "judge", "plain_features"]

NUM_FITTED = 2_000  # training images that the features are fitted to
NUM_COMPONENTS = 64
CHANNELS = (32, 64, 64)  # channels of the random convolutions, each of stride 2
BATCH = 500
PLAIN = "PCA and random convolutions"


@dataclasses.dataclass(frozen=True)
class Judge:
    """Features of images, and their classes where the judge is a classifier.

    Args:
        name: What a card calls it.
        features: uint8 images -> float32 (batch, features).
        probabilities: uint8 images -> float32 (batch, classes); None if it knows no classes.
    """

    name: str
    features: Callable[[np.ndarray], np.ndarray]
    probabilities: Callable[[np.ndarray], np.ndarray] | None = None


def judge(data_name: str, train: np.ndarray, evaluator: str | None = None) -> Judge:
    """Returns the judge of a data set.

    Args:
        data_name: The data set, as for `tfgen.data`.
        train: Its training images, from which features are made if no evaluator knows it.
        evaluator: Name or folder of a classifier to use instead.
    """
    name = evaluator or classifier(data_name)
    if name is None:
        return Judge(PLAIN, plain_features(train))
    model = zoo.load_evaluator(evaluator or entries.root() / name)
    return Judge(Path(name).name, model.features, model.probabilities)


def classifier(data_name: str) -> str | None:
    """Returns the name of the zoo's evaluator for a data set; None if there is none.

    >>> classifier("mnist"), classifier("binarized_mnist"), classifier("digits")
    ('classifier_mnist', 'classifier_mnist', None)
    """
    for name in zoo.list_models(kind="evaluator"):
        details = zoo.info(entries.root() / name)
        trained_on = details.get("recipe", {}).get("data")
        if data_name == trained_on or data_name in details.get("also_judges", ()):
            return name
    return None


def plain_features(train: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Returns features of images of any size that need no classifier.

    The projections of the pixels on at most 64 principal components see layout; the mean
    activations of three random convolutions see texture:

        u = (x - mean) V,   V the eigenvectors of the pixels' covariance with the largest values
        h = relu(h * W),    W ~ N(0, 2 / fan-in) with a fixed seed, stride 2;   v = mean of h

    Each feature is divided by its spread over the training images, so that all count alike; by no
    less than a tenth of the largest of its kind, or a pixel that is always black would decide every
    distance.

    >>> images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8)
    >>> plain_features(images)(images[:3]).shape
    (3, 83)

    Args:
        train: uint8 (batch, height, width, channels); at least two images.
    """
    fitted = evenly(train, NUM_FITTED)
    rows_of_pixels = flat(fitted)
    mean = rows_of_pixels.mean(0)
    rows, width = rows_of_pixels.shape
    count = min(NUM_COMPONENTS, rows - 1, width)  # centred rows have one dimension less
    # The eigenvectors of the covariance, from the smaller of the two products.
    centred = rows_of_pixels - mean
    if width <= rows:
        vectors = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :count]
    else:
        vectors = centred.T @ np.linalg.eigh(centred @ centred.T)[1][:, ::-1][:, :count]
        vectors /= np.maximum(np.linalg.norm(vectors, axis=0), 1e-12)
    kernels = _random_kernels(train.shape[-1])

    def features(images: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            h = pixels.images_to_pixels(batch)
            for kernel in kernels:
                h = tf.nn.relu(tf.nn.conv2d(h, kernel, 2, "SAME"))
            texture = tf.reduce_mean(h, (1, 2)).numpy()  # (batch, 64)
            parts.append(np.concatenate([(flat(batch) - mean) @ vectors, texture], 1))
        return np.concatenate(parts).astype(np.float32)

    spread = features(fitted).std(0)
    for part in (slice(None, count), slice(count, None)):
        spread[part] = np.maximum(spread[part], max(0.1 * spread[part].max(), 1e-6))
    return lambda images: features(images) / spread


def _random_kernels(channels: int) -> list[tf.Tensor]:
    rng = np.random.default_rng(0)
    kernels = []
    for width in CHANNELS:
        scale = np.sqrt(2.0 / (9 * channels))
        kernels.append(tf.constant(scale * rng.normal(size=(3, 3, channels, width)), tf.float32))
        channels = width
    return kernels


# Metrics of classes -------------------------------------------------------------------------


@keras.saving.register_keras_serializable("tfgen")
class ClassifierScore(keras.metrics.Metric):
    """Classifier score: high where each image has a clear class and all classes occur, streamed.

        score = exp( E_x KL(p(y | x) || p(y)) ) = exp( H(E_x p(y | x)) - E_x H(p(y | x)) )

    It is the formula of the Inception score (Salimans et al., 2016) on another classifier, and
    not comparable with it. The state is the count, the sum of p and the sum of the entropies.

    >>> score = ClassifierScore(num_classes=2)
    >>> score.update_state(np.array([[1.0, 0.0], [0.0, 1.0]]))
    >>> round(float(score.result()), 6)
    2.0

    Args:
        num_classes: Number of classes.
        name: The metric's name in logs.
    """

    def __init__(self, num_classes: int, name: str = "classifier_score"):
        super().__init__(dtype="float64", name=name)
        self.num_classes = num_classes
        # Keras gives a metric's variables its own default dtype.
        self.count = self.add_weight((), "zeros", "float64", "count")
        self.total = self.add_weight((num_classes,), "zeros", "float64", "total")
        self.entropies = self.add_weight((), "zeros", "float64", "entropies")

    def update_state(self, probabilities) -> None:
        """Adds a batch.

        Args:
            probabilities: Float (batch, num_classes), rows of sum 1.

        Raises:
            ValueError: Another shape; outside graphs also values that are not probabilities.
        """
        probabilities = tf.cast(probabilities, tf.float64)
        if not probabilities.shape.is_compatible_with((None, self.num_classes)):
            raise ValueError(
                f"probabilities must have shape (batch, {self.num_classes}); received "
                f"{probabilities.shape}. Give num_classes the number of the classifier's classes."
            )
        if tf.executing_eagerly():
            _check_probabilities(probabilities.numpy())
        self.count.assign_add(tf.cast(tf.shape(probabilities)[0], tf.float64))
        self.total.assign_add(tf.reduce_sum(probabilities, 0))
        self.entropies.assign_add(tf.reduce_sum(_entropy(probabilities)))

    def result(self) -> tf.Tensor:
        """Returns the score, a float64 scalar in [1, num_classes]; NaN before any update."""
        return tf.exp(_entropy(self.total / self.count) - self.entropies / self.count)

    def get_config(self):
        return {"num_classes": self.num_classes, "name": self.name}


def _check_probabilities(probabilities: np.ndarray) -> None:
    sums = probabilities.sum(1)
    wrong = ~((probabilities >= 0.0).all(1) & (np.abs(sums - 1.0) < 1e-3))
    if wrong.any():
        raise ValueError(
            "probabilities must be at least 0 and sum to 1 in each row; received a row with "
            f"minimum {probabilities[wrong][0].min():.4g} and sum {sums[wrong][0]:.4g}. "
            "Apply a softmax to logits first."
        )


def _entropy(probabilities: tf.Tensor) -> tf.Tensor:
    """-sum_y p log p in nats over the last axis, with 0 log 0 = 0."""
    return -tf.reduce_sum(tf.math.xlogy(probabilities, probabilities), -1)


@keras.saving.register_keras_serializable("tfgen")
class ClassBalance(keras.metrics.Metric):
    """How evenly labels spread over the classes, streamed.

    >>> balance = ClassBalance(num_classes=3)
    >>> balance.update_state(np.array([0, 1, 1, 1]))
    >>> {name: float(value) for name, value in balance.result().items()}
    {'classes_present': 2.0, 'rarest_class': 0.0}

    Args:
        num_classes: Number of classes.
        name: The metric's name.
    """

    def __init__(self, num_classes: int, name: str = "class_balance"):
        super().__init__(dtype="float64", name=name)
        self.num_classes = num_classes
        self.counts = self.add_weight((num_classes,), "zeros", "float64", "counts")

    def update_state(self, labels) -> None:
        """Adds a batch.

        Args:
            labels: Integers in [0, num_classes), shape (batch,).

        Raises:
            ValueError: Labels that are not so. Graphs leave out labels outside the range.
        """
        if tf.executing_eagerly():
            labels = pixels.check_labels(labels, self.num_classes, len(labels))
        size = self.num_classes
        labels = tf.cast(labels, tf.int32)
        labels = tf.where(labels < 0, size, labels)  # bincount leaves out large ones alone
        counts = tf.math.bincount(labels, minlength=size, maxlength=size)
        self.counts.assign_add(tf.cast(counts, tf.float64))

    def shares(self) -> tf.Tensor:
        """Returns the share of each class, float64 (num_classes,) in [0, 1]; NaN without labels."""
        return self.counts / tf.reduce_sum(self.counts)

    def result(self) -> dict[str, tf.Tensor]:
        """Returns the number of classes present and the share of the rarest class, in [0, 1]."""
        return {
            "classes_present": tf.reduce_sum(tf.cast(self.counts > 0.0, tf.float64)),
            "rarest_class": tf.reduce_min(self.shares()),
        }

    def get_config(self):
        return {"num_classes": self.num_classes, "name": self.name}
