"""Metrics of two sets of samples: their laws, and broken variants that the laws must catch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgen.evaluation import distances
from tfgen.evaluation.distances import (
    FrechetDistance,
    density_coverage,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from tfgen.evaluation.judges import ClassBalance, ClassifierScore
from tfgen.evaluation.latents import nearest_distances


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def rotation(size):
    return np.linalg.qr(np.random.default_rng(1).normal(size=(size, size)))[0]


def covariance(size, seed, rank=None):
    factor = np.random.default_rng(seed).normal(size=(size, rank or size))
    return factor @ factor.T


def streamed(real, fake, cuts=()):
    metric = FrechetDistance(real.shape[1])
    for part in np.split(real, cuts):
        metric.update_state(real_features=part)
    for part in np.split(fake, cuts):
        metric.update_state(generated_features=part)
    return float(metric.result())


# Frechet distance


def frechet_has_its_closed_form(distance):
    """Commuting covariances: sum (m - n)^2 + (s - t)^2, over standard deviations s and t."""
    rng = np.random.default_rng(0)
    m, n = rng.normal(size=(2, 6))
    s, t = rng.uniform(0.1, 2.0, size=(2, 6))
    expected = np.sum((m - n) ** 2 + (s - t) ** 2)
    turn = rotation(6)
    for basis in (np.eye(6), turn):
        value = distance(
            basis @ m, basis @ np.diag(s**2) @ basis.T, basis @ n, basis @ np.diag(t**2) @ basis.T
        )
        assert value == pytest.approx(expected, rel=1e-9), "closed form"
    assert distance([1.0], [[4.0]], [3.0], [[9.0]]) == pytest.approx(5.0, rel=1e-12), "closed form"


def test_frechet_distance_of_diagonal_gaussians():
    frechet_has_its_closed_form(frechet_distance)


def test_mean_instead_of_trace_is_caught():
    def broken(mean_a, a, mean_b, b):
        spread = frechet_distance(np.zeros(len(mean_a)), a, np.zeros(len(mean_a)), b)
        shift = np.sum(np.square(np.subtract(mean_a, mean_b)))
        return shift + spread / len(mean_a)

    with pytest.raises(AssertionError, match="closed form"):
        frechet_has_its_closed_form(broken)


def test_missing_cross_term_is_caught():
    def broken(mean_a, a, mean_b, b):
        return np.sum(np.square(np.subtract(mean_a, mean_b))) + np.trace(np.add(a, b))

    with pytest.raises(AssertionError, match="closed form"):
        frechet_has_its_closed_form(broken)


@pytest.mark.parametrize("rank", [None, 3])
def test_frechet_distance_is_symmetric_invariant_and_zero_for_equals(rank, rng):
    a, b, turn = covariance(8, 2, rank), covariance(8, 3, rank), rotation(8)
    m, n = rng.normal(size=(2, 8))
    value = frechet_distance(m, a, n, b)
    assert frechet_distance(n, b, m, a) == pytest.approx(value, rel=1e-7)
    turned = frechet_distance(turn @ m, turn @ a @ turn.T, turn @ n, turn @ b @ turn.T)
    assert turned == pytest.approx(value, rel=1e-7)
    assert 0.0 <= frechet_distance(m, a, m, a) < 1e-10


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_frechet_distance_of_singular_covariances(scale, rng):
    """Orthogonal lines of standard deviations s and t: s^2 + t^2, for their product is 0."""
    u, v = rotation(20)[:2]
    a, b = scale * np.outer(u, u), scale * 4.0 * np.outer(v, v)
    value = frechet_distance(np.zeros(20), a, np.zeros(20), b)
    assert value == pytest.approx(5.0 * scale, rel=1e-6)
    points = rng.normal(size=(5, 20))  # fewer rows than features
    value = frechet_distance(points[0], np.cov(points.T), points[1], np.zeros((20, 20)))
    assert np.isfinite(value)
    assert value >= np.trace(np.cov(points.T))


def test_frechet_distance_is_numpys_for_features(rng):
    real, fake = rng.normal(size=(50, 4)), rng.normal(size=(30, 4)) * 2.0 + 1.0
    by_hand = frechet_distance(real.mean(0), np.cov(real.T), fake.mean(0), np.cov(fake.T))
    assert streamed(real, fake) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("mean", [0.0, 1e6])
@pytest.mark.parametrize("cuts", [[1], [0, 7, 7, 20], range(1, 30)])
def test_frechet_distance_streams(mean, cuts, rng):
    """In any parts, an empty one too; a mean far above the spread costs no digits."""
    real, fake = rng.normal(size=(30, 3)), 1.5 * rng.normal(size=(30, 3))
    whole = streamed(real, fake)
    assert streamed(real + mean, fake + mean, cuts) == pytest.approx(whole, rel=1e-7)


def test_naive_sums_of_squares_are_caught(rng):
    """E x x^T - m m^T in float64 has no digits left at the mean that ours passes with."""
    rows = rng.normal(size=(30, 3))
    far = rows + 1e9
    naive = far.T @ far / 30 - np.outer(far.mean(0), far.mean(0))
    metric = FrechetDistance(3)
    metric.update_state(far)
    ours = metric.real[2].numpy() / 30
    truth = np.cov(rows.T, bias=True)
    assert np.abs(ours - truth).max() < 1e-5 < np.abs(naive - truth).max()


def test_frechet_metric_in_a_graph_and_from_its_configuration(rng):
    real, fake = rng.normal(size=(2, 10, 3))
    metric = FrechetDistance.from_config(FrechetDistance(3, name="other").get_config())
    assert (metric.num_features, metric.name) == (3, "other")
    assert keras.saving.get_registered_name(FrechetDistance) == "tfgen>FrechetDistance"

    @tf.function
    def step(a, b):
        metric.update_state(a, b)
        return metric.result()

    assert float(step(real, fake)) == pytest.approx(streamed(real, fake), rel=1e-12)
    metric.reset_state()
    metric.update_state(fake, fake)
    assert float(metric.result()) == pytest.approx(0.0, abs=1e-12)


def test_frechet_refusals():
    metric = FrechetDistance(3)
    metric.update_state(np.zeros((5, 3)), np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"generated_features must have at least 2 rows.* 1"):
        metric.result()
    with pytest.raises(ValueError, match=r"real_features must have shape \(rows, 3\)"):
        metric.update_state(np.zeros((5, 4)))
    with pytest.raises(ValueError, match=r"covariance_b must have shape \(3, 3\)"):
        frechet_distance(np.zeros(3), np.eye(3), np.zeros(3), np.eye(2))
    with pytest.raises(ValueError, match="mean_b must be finite"):
        frechet_distance(np.zeros(1), np.eye(1), np.full(1, np.nan), np.eye(1))


# Kernel distance


def kernel_estimate_is_unbiased(estimate):
    """The mean over many pairs of equally distributed sets is 0, and single ones fall below it."""
    rng = np.random.default_rng(4)
    values = [estimate(*rng.normal(size=(2, 10, 3))) for _ in range(2000)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4.0 * error, "biased"
    assert np.min(values) < 0.0 < np.max(values), "one sign"


def test_kernel_distance_is_unbiased():
    kernel_estimate_is_unbiased(distances._discrepancy)


def test_biased_kernel_estimate_is_caught():
    def biased(x, y):  # a row meets itself
        def mean(a, b):
            return np.mean((a @ b.T / a.shape[1] + 1.0) ** 3)

        return mean(x, x) + mean(y, y) - 2.0 * mean(x, y)

    with pytest.raises(AssertionError, match="biased"):
        kernel_estimate_is_unbiased(biased)


def test_kernel_estimate_is_the_loop_over_pairs(rng):
    x, y = rng.normal(size=(2, 5, 3))
    value = 0.0
    for i in range(5):
        for j in range(5):
            same = (x[i] @ x[j] / 3 + 1) ** 3 + (y[i] @ y[j] / 3 + 1) ** 3
            value += (i != j) * same / 20 - 2 * (x[i] @ y[j] / 3 + 1) ** 3 / 25
    assert distances._discrepancy(x, y) == pytest.approx(value, rel=1e-12)


def test_kernel_distance_is_the_mean_of_its_subsets(rng):
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(30, 3)) + 0.5
    value, error = kernel_distance(x, y, 20, 4000)
    # The error counts that subsets overlap; the mean of 4000 of these two sets is closer.
    spread = error / np.sqrt(1 / 4000 + 20 / 10)
    assert abs(value - distances._discrepancy(x, y)) < 5 * spread / np.sqrt(4000)


def test_kernel_distance_of_halves_and_of_shifted_sets():
    rows = np.random.default_rng(5).normal(size=(1000, 4))
    half, other = rows[:500], rows[500:]
    value, error = kernel_distance(half, other, 100, 30)
    assert abs(value) < 3.0 * error
    assert kernel_distance(half, other, 100, 30) == (value, error)
    assert kernel_distance(half, other, 100, 30, seed=1) != (value, error)
    value, error = kernel_distance(half, other + 0.5, 100, 30)
    assert value > 4.0 * error > 0.0


def test_kernel_standard_error_covers_what_repetition_shows():
    """Subsets of one set overlap; the usual spread over sqrt(num_subsets) would be too small."""
    rng = np.random.default_rng(6)
    found = [
        kernel_distance(rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) + 1.0, 40, 50)
        for _ in range(40)
    ]
    values, errors = np.transpose(found)
    spread = np.std(values, ddof=1)
    assert 0.7 * spread < np.mean(errors) < 1.6 * spread
    naive = np.mean(errors) / np.sqrt(1 + 50 * 40 / 160)
    assert naive < 0.5 * spread


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((20, 3), {}, "subset_size"),
        ((20, 3), {"subset_size": 1}, "subset_size"),
        ((20, 3), {"subset_size": 5, "num_subsets": 1}, "num_subsets"),
        ((20, 4), {"subset_size": 5}, "same features"),
    ],
)
def test_kernel_refusals(shape, arguments, message):
    with pytest.raises(ValueError, match=message):
        kernel_distance(np.zeros((20, 3)), np.zeros(shape), **arguments)


# Neighbours


def balls_by_hand(centres, k):
    distances = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    return np.sort(distances + np.where(np.eye(len(centres)), np.inf, 0.0), 1)[:, k - 1]


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_neighbours_by_brute_force(k, mean, rng):
    """More rows than one block, another number on each side."""
    real = rng.normal(size=(620, 3))
    fake = 0.7 * rng.normal(size=(530, 3)) + 0.4
    distances = np.linalg.norm(real[:, None] - fake[None], axis=-1)  # (real, generated)
    near_real = distances <= balls_by_hand(real, k)[:, None]
    near_fake = distances <= balls_by_hand(fake, k)[None]
    precision, recall = precision_recall(real + mean, fake + mean, k)
    assert precision == pytest.approx(near_real.any(0).mean(), abs=1e-12)
    assert recall == pytest.approx(near_fake.any(1).mean(), abs=1e-12)
    density, coverage = density_coverage(real + mean, fake + mean, k)
    assert density == pytest.approx(near_real.sum(0).mean() / k, abs=1e-12)
    assert coverage == pytest.approx(near_real.any(1).mean(), abs=1e-12)


def test_copies_of_repeated_points_lie_in_their_balls(rng):
    """Whose radius is 0: a distance of 0 must not be a rounding error."""
    points = rng.normal(size=(40, 83))
    others = np.concatenate([points, points + 50.0 * rng.normal(size=(40, 83))])
    repeated = np.repeat(points, 6, 0)
    assert density_coverage(repeated, others)[1] == 1.0
    assert precision_recall(repeated, others)[0] >= 0.5


def test_what_is_no_number_lies_in_no_ball(rng):
    points = rng.normal(size=(40, 3))
    nothing = np.full_like(points, np.nan)
    assert precision_recall(points, nothing) == (0.0, 0.0)
    assert density_coverage(points, nothing) == (0.0, 0.0)


def test_equal_and_disjoint_sets(rng):
    points = rng.normal(size=(100, 3))
    assert precision_recall(points, points) == (1.0, 1.0)
    density, coverage = density_coverage(points, points)
    assert coverage == 1.0
    assert density >= 1.0
    assert precision_recall(points, points + 100.0) == (0.0, 0.0)
    assert density_coverage(points, points + 100.0) == (0.0, 0.0)


def two_modes(count, rng):
    return rng.normal(size=(count, 2)) + np.where(np.arange(count) % 2, 20.0, 0.0)[:, None]


def test_dropped_mode_lowers_recall_and_coverage_alone(rng):
    real, fake = two_modes(400, rng), two_modes(400, rng)
    dropped = rng.normal(size=(400, 2))
    precision, recall = precision_recall(real, fake)
    _, coverage = density_coverage(real, fake)
    assert min(precision, recall, coverage) > 0.9
    precision, recall = precision_recall(real, dropped)
    density, coverage = density_coverage(real, dropped)
    assert precision > 0.9
    assert density > 0.9
    assert recall < 0.55
    assert coverage < 0.55


def test_noise_lowers_precision_and_density_alone(rng):
    """Half the samples lie far off, each by itself, so that no ball of theirs reaches back."""
    real, fake = two_modes(400, rng), two_modes(400, rng)
    fake[:200] = 1e3 + 100.0 * rng.normal(size=(200, 2))
    precision, recall = precision_recall(real, fake)
    density, coverage = density_coverage(real, fake)
    assert precision < 0.55
    assert density < 0.65
    assert recall > 0.8
    assert coverage > 0.7


def test_an_outlier_moves_precision_but_hardly_density(rng):
    """Half the samples lie where one stray real point does."""
    real, fake = rng.normal(size=(2, 300, 2))
    fake[150:] += 20.0
    stray = np.concatenate([real[:-1], [[20.0, 20.0]]])
    assert precision_recall(real, fake)[0] < 0.55
    assert precision_recall(stray, fake)[0] > 0.95
    assert density_coverage(stray, fake)[0] < density_coverage(real, fake)[0] + 0.15


def test_nearest_distances_by_brute_force(rng):
    references, queries = rng.normal(size=(300, 5)) + 50.0, rng.normal(size=(1100, 5)) + 50.0
    queries[7] = references[11]
    by_hand = np.linalg.norm(queries[:, None] - references[None], axis=-1).min(1)
    found = nearest_distances(queries, references)
    np.testing.assert_allclose(found, by_hand, rtol=1e-6)
    assert found[7] == 0.0


def test_neighbour_refusals():
    points = np.zeros((5, 2))
    for figure in (precision_recall, density_coverage):
        with pytest.raises(ValueError, match="k must be at least 1 and below 5"):
            figure(points, points, k=5)
        with pytest.raises(ValueError, match="same features"):
            figure(points, points[:, :1], k=1)


# Classes


def test_classifier_score_lies_between_its_ends():
    score = ClassifierScore(4)
    score.update_state(np.full((7, 4), 0.25, np.float32))
    assert float(score.result()) == pytest.approx(1.0)
    score.reset_state()
    for part in np.split(np.eye(4), [1, 3]):
        score.update_state(part)
    assert float(score.result()) == pytest.approx(4.0)
    score.reset_state()
    score.update_state(np.eye(4)[[2, 2, 2]])  # sure, but of one class
    assert float(score.result()) == pytest.approx(1.0)


def test_classifier_score_is_its_definition_in_any_parts(rng):
    p = rng.dirichlet(np.ones(5), size=40)
    divergence = np.sum(p * np.log(p / p.mean(0)), 1)
    score = ClassifierScore.from_config(ClassifierScore(5).get_config())
    for part in np.split(p, [3, 3, 30]):
        score.update_state(part)
    assert float(score.result()) == pytest.approx(np.exp(divergence.mean()), rel=1e-9)


def test_class_balance_counts():
    balance = ClassBalance.from_config(ClassBalance(4).get_config())
    for part in ([0, 1, 1], [3, 3, 3, 3, 3]):
        balance.update_state(np.array(part))
    np.testing.assert_allclose(balance.shares(), [0.125, 0.25, 0.0, 0.625])
    assert float(balance.result()["classes_present"]) == 3.0
    assert float(balance.result()["rarest_class"]) == 0.0
    balance.update_state(np.full(8, 2))
    assert float(balance.result()["rarest_class"]) == 1 / 16


def test_class_metrics_in_a_graph():
    score, balance = ClassifierScore(3), ClassBalance(3)

    @tf.function(input_signature=[tf.TensorSpec((None, 3))])
    def step(p):
        score.update_state(p)
        balance.update_state(tf.argmax(p, 1))
        return score.result(), balance.result()

    value, found = step(np.eye(3, dtype=np.float32)[[0, 1, 1]])
    entropy = np.log(3) - 2 / 3 * np.log(2)
    assert float(value) == pytest.approx(np.exp(entropy))
    assert float(found["classes_present"]) == 2.0


def test_labels_outside_the_range_are_left_out_in_a_graph():
    balance = ClassBalance(3)
    tf.function(balance.update_state)(tf.constant([-1, 0, 2, 2, 3, -7], tf.int64))
    np.testing.assert_array_equal(balance.counts, [1.0, 0.0, 2.0])


def test_class_refusals():
    score, balance = ClassifierScore(3), ClassBalance(3)
    with pytest.raises(ValueError, match=r"shape \(batch, 3\)"):
        score.update_state(np.eye(4))
    with pytest.raises(ValueError, match="softmax"):
        score.update_state(np.array([[2.0, -1.0, 0.0]]))
    with pytest.raises(ValueError, match="labels must lie in"):
        balance.update_state(np.array([0, 3]))
