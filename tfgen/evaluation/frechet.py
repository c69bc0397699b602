"""Frechet distance between two sets of features, each taken as a Gaussian."""

import keras
import numpy as np
import tensorflow as tf

__all__ = ["FrechetDistance", "frechet_distance"]


def frechet_distance(
    mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray
) -> float:
    """Returns the squared Frechet distance between two Gaussians (Dowson and Landau, 1982).

        d^2 = |m_a - m_b|^2 + tr(A) + tr(B) - 2 tr (A^1/2 B A^1/2)^1/2

    Computed in float64 from symmetric square roots alone, so covariances without full rank are
    fine and nothing turns complex.

    >>> frechet_distance(np.zeros(1), np.eye(1), np.array([3.0]), 4.0 * np.eye(1))
    10.0

    Args:
        mean_a: Float (features,).
        covariance_a: Symmetric, positive semi-definite, float (features, features).
        mean_b: As `mean_a`.
        covariance_b: As `covariance_a`.

    Returns:
        A number in [0, inf), in squared units of the features.

    Raises:
        ValueError: Shapes that do not fit together, or values that are not finite.
    """
    mean_a, mean_b = np.asarray(mean_a, np.float64), np.asarray(mean_b, np.float64)
    covariance_a = np.asarray(covariance_a, np.float64)
    covariance_b = np.asarray(covariance_b, np.float64)
    size = mean_a.size
    for name, array, shape in (
        ("mean_a", mean_a, (size,)),
        ("covariance_a", covariance_a, (size, size)),
        ("mean_b", mean_b, (size,)),
        ("covariance_b", covariance_b, (size, size)),
    ):
        if array.shape != shape:
            raise ValueError(
                f"{name} must have shape {shape}, like a mean_a of {size} features; received "
                f"{array.shape}. Take both sides from the same features."
            )
        if not np.isfinite(array).all():
            raise ValueError(
                f"{name} must be finite; received NaN or infinity. Look for them in the features."
            )
    # The singular values of A^1/2 B^1/2 are the square roots of the eigenvalues of
    # A^1/2 B A^1/2, without the loss of half the digits that squaring them brings.
    roots = np.linalg.svd(_square_root(covariance_a) @ _square_root(covariance_b), compute_uv=False)
    shift = np.sum(np.square(mean_a - mean_b))
    spread = np.trace(covariance_a) + np.trace(covariance_b) - 2.0 * np.sum(roots)
    return float(shift + max(spread, 0.0))  # rounding alone takes the spread below 0


def _square_root(covariance: np.ndarray) -> np.ndarray:
    """V diag(l)^1/2 V^T; eigenvalues that rounding took below 0 become 0."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


@keras.saving.register_keras_serializable("tfgen")
class FrechetDistance(keras.metrics.Metric):
    """Frechet distance between the features of real and of generated images, streamed.

    On the features of a classifier it is the Frechet classifier distance. It is not the FID,
    which is the same formula on one particular Inception network (Heusel et al., "GANs Trained
    by a Two Time-Scale Update Rule", 2017), and the two must not be compared. It falls with the
    number of rows, so compare at equal sizes only.

    The state is the count n, the mean m and the sum of squares M = sum (x - m)(x - m)^T of each
    side in float64. Batches are merged as Chan et al. (1983) do, so that a large mean costs no
    digits:

        n = n_1 + n_2,   d = m_2 - m_1
        m = m_1 + d n_2 / n,   M = M_1 + M_2 + d d^T n_1 n_2 / n,   covariance = M / (n - 1)

    >>> metric = FrechetDistance(num_features=1)
    >>> metric.update_state(np.array([[0.0], [2.0]]), np.array([[3.0], [5.0]]))
    >>> float(metric.result())
    9.0

    Args:
        num_features: Width of the features.
        name: The metric's name in logs.
    """

    def __init__(self, num_features: int, name: str = "frechet_classifier_distance"):
        super().__init__(dtype="float64", name=name)
        self.num_features = num_features
        self.real = self._side("real")
        self.generated = self._side("generated")

    def _side(self, name: str) -> list[keras.Variable]:
        size = self.num_features
        # The dtype must be passed again: Keras gives a metric's variables its own default.
        return [
            self.add_weight(shape, "zeros", "float64", f"{name}_{part}")
            for part, shape in (("count", ()), ("mean", (size,)), ("squares", (size, size)))
        ]

    def update_state(self, real_features=None, generated_features=None) -> None:
        """Adds a batch to either side or to both; the two need not be equally long.

        Args:
            real_features: Float (rows, num_features), or None.
            generated_features: As `real_features`.

        Raises:
            ValueError: Another shape.
        """
        for name, side, features in (
            ("real_features", self.real, real_features),
            ("generated_features", self.generated, generated_features),
        ):
            if features is not None:
                self._merge(name, side, tf.cast(features, tf.float64))

    def _merge(self, name: str, side: list[keras.Variable], features: tf.Tensor) -> None:
        if not features.shape.is_compatible_with((None, self.num_features)):
            raise ValueError(
                f"{name} must have shape (rows, {self.num_features}); received {features.shape}. "
                "Flatten the features, or give num_features their width."
            )
        count, mean, squares = side
        added = tf.cast(tf.shape(features)[0], tf.float64)
        total = count + added
        # No rows at all leave everything as it is.
        batch_mean = tf.math.divide_no_nan(tf.reduce_sum(features, 0), added)  # (features,)
        centred = features - batch_mean
        delta = batch_mean - mean
        weight = tf.math.divide_no_nan(added, total)
        squares.assign_add(
            tf.matmul(centred, centred, transpose_a=True)  # (features, features)
            + delta[:, None] * delta[None, :] * count * weight
        )
        mean.assign_add(delta * weight)
        count.assign(total)

    def result(self) -> tf.Tensor:
        """Returns the distance, a float64 scalar; see `frechet_distance`.

        Raises:
            ValueError: Fewer than 2 rows on a side.
        """
        state = [tf.convert_to_tensor(variable) for variable in (*self.real, *self.generated)]
        distance = tf.numpy_function(_distance, state, tf.float64)  # NumPy, inside a graph too
        return tf.ensure_shape(distance, ())

    def get_config(self):
        return {"num_features": self.num_features, "name": self.name}


def _distance(count_a, mean_a, squares_a, count_b, mean_b, squares_b) -> np.float64:
    for name, count in (("real_features", count_a), ("generated_features", count_b)):
        if count < 2:
            raise ValueError(
                f"{name} must have at least 2 rows for a covariance; received {int(count)}. "
                "Call update_state with more."
            )
    return np.float64(
        frechet_distance(mean_a, squares_a / (count_a - 1), mean_b, squares_b / (count_b - 1))
    )
