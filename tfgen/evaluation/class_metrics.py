"""Classifier-based metrics of samples: how sure it is, and which classes it finds."""

import keras
import numpy as np
import tensorflow as tf

from tfgen import pixels

__all__ = ["ClassBalance", "ClassifierScore"]


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
        # The dtype must be passed again: Keras gives a metric's variables its own default.
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
