"""Kernel distance between two sets of features: unlike the Frechet distance, without bias."""

import numpy as np

__all__ = ["kernel_distance"]


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
    real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(
            "real and generated must have shape (rows, features) with the same features; "
            f"received {real.shape} and {generated.shape}. Take both from the same network."
        )
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


def _check_subsets(
    real: np.ndarray, generated: np.ndarray, subset_size: int, num_subsets: int
) -> int:
    """Returns the rows of the smaller side, or raises ValueError if the subsets do not fit."""
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
