"""How far two sets of features lie apart: Frechet's distance, a kernel's, nearest neighbours.

Nearest neighbours tell quality and coverage: a ball around each point of a set reaches to its k-th
nearest neighbour there, and the union of the balls stands for the set. Distances are Euclidean, in
float64, and never in memory all at once.
"""

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

__all__ = [
    "FrechetDistance",
    "checked_features",
    "density_coverage",
    "frechet_distance",
    "kernel_distance",
    "precision_recall",
]

BLOCK = 500  # queries at a time: next to 10,000 references, 40 MB of distances


def frechet_distance(
    mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray
) -> float:
    """Returns the squared Frechet distance between two Gaussians (Dowson and Landau, 1982).

        d^2 = |m_a - m_b|^2 + tr(A) + tr(B) - 2 tr (A^1/2 B A^1/2)^1/2

    Uses symmetric square roots in float64: covariances need no full rank, and nothing turns
    complex.

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
    # A^1/2 B A^1/2, whose roots lose half the digits.
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

    On a classifier's features it is the Frechet classifier distance. It must not be compared with
    the FID, the same formula on one Inception network (Heusel et al., "GANs Trained by a Two
    Time-Scale Update Rule", 2017). It falls with the number of rows, so compare at equal sizes
    only.

    The state is the count n, the mean m and the sum of squares M = sum (x - m)(x - m)^T of each
    side in float64. Batches are merged as in Chan et al. (1983): a large mean costs no digits.

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
        # Keras gives a metric's variables its own default dtype.
        return [
            self.add_weight(shape, "zeros", "float64", f"{name}_{part}")
            for part, shape in (("count", ()), ("mean", (size,)), ("squares", (size, size)))
        ]

    def update_state(self, real_features=None, generated_features=None) -> None:
        """Adds a batch to one side or both, of any lengths.

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
        # An empty batch changes nothing.
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


def kernel_distance(
    real: np.ndarray,
    generated: np.ndarray,
    subset_size: int = 1000,
    num_subsets: int = 100,
    seed: int = 0,
) -> tuple[float, float]:
    """Estimates the squared maximum mean discrepancy, as Binkowski et al. (2018) do.

        k(x, y) = (x . y / d + 1)^3,   d the number of features
        MMD^2   = E k(x, x') + E k(y, y') - 2 E k(x, y),   x != x', y != y' independent

    The estimate is the mean over random subsets of m rows of each side. It is unbiased: 0 on
    average where both sides have the same distribution, so it may be negative.

    Subsets overlap, so their spread s over the root of their number K would be too small a
    standard error. A subset is a share m / n of the n rows, and the variance that all subsets
    have in common is at most that share of a subset's own (Hoeffding, 1948), hence

        standard error = s (1 / K + m / (n - m))^1/2

    which is cautious: too large where the two distributions are nearly the same.

    >>> rows = np.random.default_rng(0).normal(size=(400, 2))
    >>> kernel_distance(rows[:200], rows[200:] + 5.0, subset_size=50)[0] > 1.0
    True

    Args:
        real: Float (rows, features).
        generated: Float (rows, features); the number of rows may differ.
        subset_size: Rows of a subset, at least 2 and fewer than either side has.
        num_subsets: How many subsets, at least 2.
        seed: Of the choice of subsets, the only chance in it.

    Returns:
        The estimate and its standard error.

    Raises:
        ValueError: An argument out of range, or features of another width.
    """
    real, generated = checked_features(real, generated)
    rows = _check_subsets(real, generated, subset_size, num_subsets)
    rng = np.random.default_rng(seed)
    estimates = [
        _discrepancy(
            real[rng.choice(len(real), subset_size, replace=False)],
            generated[rng.choice(len(generated), subset_size, replace=False)],
        )
        for _ in range(num_subsets)
    ]
    error = np.std(estimates, ddof=1) * np.sqrt(
        1.0 / num_subsets + subset_size / (rows - subset_size)
    )
    return float(np.mean(estimates)), float(error)


def checked_features(real: np.ndarray, generated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns both sets as float64, or raises ValueError."""
    real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(
            "real and generated must have shape (rows, features) with the same features; "
            f"received {real.shape} and {generated.shape}. Take both from the same network."
        )
    return real, generated


def _check_subsets(
    real: np.ndarray, generated: np.ndarray, subset_size: int, num_subsets: int
) -> int:
    """Returns the rows of the smaller side, or raises ValueError."""
    rows = min(len(real), len(generated))
    if not 2 <= subset_size < rows:
        raise ValueError(
            f"subset_size must be at least 2 and below {rows}, the rows of the smaller side; "
            f"received {subset_size}. Use more rows or smaller subsets."
        )
    if num_subsets < 2:
        raise ValueError(
            "num_subsets must be at least 2, to estimate the standard error; "
            f"received {num_subsets}. Use 100."
        )
    return rows


def _discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate from two sets of one size: a row never meets itself."""

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1.0) ** 3  # (rows, rows)

    def mean_of_pairs(a):
        values = kernel(a, a)
        return (values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))

    return mean_of_pairs(x) + mean_of_pairs(y) - 2.0 * kernel(x, y).mean()


def precision_recall(real: np.ndarray, generated: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Measures how much of each set lies where the other lives (Kynkaanniemi et al., 2019).

        precision = mean_g [g lies in a ball around some r]    are samples like real images?
        recall    = mean_r [r lies in a ball around some g]    are all real images like samples?

    >>> points = np.arange(8.0)[:, None]
    >>> precision_recall(points, points[:4])
    (1.0, 0.875)

    Args:
        real: Float (rows, features).
        generated: Float (rows, features). Values are comparable at equal numbers of rows only.
        k: Which neighbour the balls reach to, at least 1.

    Returns:
        Precision and recall, both in [0, 1].

    Raises:
        ValueError: Shapes that do not fit together, or not more than `k` rows on a side.
    """
    real, generated = _check(real, generated, k)
    precision = np.mean(_balls_around(generated, real, k) > 0)
    recall = np.mean(_balls_around(real, generated, k) > 0)
    return float(precision), float(recall)


def density_coverage(real: np.ndarray, generated: np.ndarray, k: int = 5) -> tuple[float, float]:
    """Measures the same by balls around real points alone (Naeem et al., 2020).

        density  = mean_g (number of balls around g) / k
        coverage = mean_r [some g lies in the ball around r]

    A real outlier, whose ball is large, moves precision much and density little; a generated one
    moves recall much and coverage not at all.

    >>> points = np.arange(8.0)[:, None]
    >>> density_coverage(points, points[:4], k=2)
    (1.5, 0.625)

    Args:
        real: Float (rows, features).
        generated: Float (rows, features). Values are comparable at equal numbers of rows only.
        k: Which neighbour the balls reach to, at least 1.

    Returns:
        Density, at least 0 and about 1 where both sets have one distribution, and coverage, in
        [0, 1].

    Raises:
        ValueError: Shapes that do not fit together, or not more than `k` rows on a side.
    """
    real, generated = _check(real, generated, k)
    density = np.mean(_balls_around(generated, real, k)) / k
    nearest = [tf.reduce_min(part, 1) for part in _squared_distances(real, generated)]
    coverage = np.mean(tf.concat(nearest, 0) <= _squared_radii(real, k))
    return float(density), float(coverage)


def _check(real: np.ndarray, generated: np.ndarray, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns both sets as float64 tensors, or raises ValueError."""
    real, generated = checked_features(real, generated)
    rows = min(len(real), len(generated))
    if not 1 <= k < rows:
        raise ValueError(
            f"k must be at least 1 and below {rows}, the rows of the smaller side; received {k}. "
            "Use more rows or a smaller k."
        )
    return tf.constant(real), tf.constant(generated)


def _balls_around(queries: tf.Tensor, centres: tf.Tensor, k: int) -> np.ndarray:
    """Counts for each query the balls of `centres` that it lies in, (queries,)."""
    radii = _squared_radii(centres, k)
    counts = [
        tf.math.count_nonzero(part <= radii, 1) for part in _squared_distances(queries, centres)
    ]
    return tf.concat(counts, 0).numpy()


def _squared_radii(points: tf.Tensor, k: int) -> tf.Tensor:
    """Returns the squared distance of each point to its k-th nearest other one, (points,)."""
    # k + 1: a point's nearest is itself.
    farthest = [
        -tf.math.top_k(-part, k + 1).values[:, -1] for part in _squared_distances(points, points)
    ]
    return tf.concat(farthest, 0)


def _squared_distances(queries: tf.Tensor, references: tf.Tensor) -> Iterator[tf.Tensor]:
    """Yields squared distances of a block of queries to all references, (block, references).

    |q - r|^2 = |q|^2 - 2 q r + |r|^2,   both centred on the references: a large mean costs digits
    """
    middle = tf.reduce_mean(references, 0)
    queries, references = queries - middle, references - middle
    norms = tf.reduce_sum(tf.square(references), 1)
    for start in range(0, queries.shape[0], BLOCK):
        part = queries[start : start + BLOCK]
        sums = tf.reduce_sum(tf.square(part), 1)[:, None] + norms
        found = sums - 2.0 * tf.matmul(part, references, transpose_b=True)
        # Less is rounding: copies are at 0. NaN stays NaN.
        yield tf.where(found <= 1e-12 * sums, tf.zeros_like(found), found)
