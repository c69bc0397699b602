"""Metrics of two sets of points that come from nearest neighbours: quality, coverage, copying.

A ball lies around each point of a set and reaches as far as its k-th nearest neighbour in that
set. The union of the balls stands for where the set lives. Distances are Euclidean, in float64,
and never in memory all at once.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tfgen.evaluation.distances import checked_features
from tfgen.evaluation.latents import nearest_neighbour

__all__ = ["density_coverage", "nearest_distances", "precision_recall"]

BLOCK = 500  # queries at a time: next to 10,000 references, 40 MB of distances


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

    A single real outlier, whose ball is large, moves precision much and density little; a single
    generated one moves recall much and coverage not at all.

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


def nearest_distances(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Returns the distance of each query to its nearest reference, float64 (queries,).

    The neighbour is found in float32; the distance to it is exact, so that a copy is at 0.

    >>> nearest_distances(np.array([[0.0, 0.0], [3.0, 5.0]]), np.array([[3.0, 4.0]]))
    array([5., 1.])

    Args:
        queries: (queries, features), numbers of any kind.
        references: (references, features), at least one.
    """
    # Centred, because what float32 loses grows with the norms.
    middle = references.mean(0, dtype=np.float32)
    index = nearest_neighbour(queries - middle, references - middle)
    parts = np.array_split(np.arange(len(queries)), max(len(queries) // BLOCK, 1))
    return np.concatenate(
        [
            np.linalg.norm(queries[part].astype(np.float64) - references[index[part]], axis=1)
            for part in parts
        ]
    )


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
    # The k + 1 smallest, because a point's nearest one is itself.
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
        # Less is rounding: copies are at 0. What is no number stays that.
        yield tf.where(found <= 1e-12 * sums, tf.zeros_like(found), found)
