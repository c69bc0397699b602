"""Results: each against a plain computation of the same thing."""

import laws
import numpy as np
import pytest
import tensorflow as tf
from sklearn.neighbors import KNeighborsClassifier

from tfgen import VAE, AutoEncoder, PixelCNN, data, evaluation
from tfgen.evaluation import features, likelihood


@pytest.fixture(scope="module")
def vae():
    return VAE((8, 8, 1), latent_dim=2, filters=(4,), num_blocks=0, dense_units=8)


def test_nearest_neighbour_is_scikit_learns():
    rng = np.random.default_rng(0)
    references, queries = rng.normal(size=(300, 5)), rng.normal(size=(1100, 5))
    ours = features.nearest_neighbour(queries, references)
    theirs = KNeighborsClassifier(1).fit(references, np.arange(300)).predict(queries)
    np.testing.assert_array_equal(ours, theirs)


def test_likelihood_figures_are_the_mean_over_the_whole_split(vae):
    images, _ = data.arrays("digits", "test")
    figures = likelihood.log_likelihood(vae, "digits", "test", 2, verbose=0)
    (nats, _), (bits, _) = figures.values()
    by_hand = -vae.log_likelihood(images, 2, seed=0, batch_size=len(images)).mean()
    assert nats == pytest.approx(by_hand, rel=1e-5)
    assert bits == pytest.approx(by_hand / (64 * np.log(2)), rel=1e-5)


def test_several_orders_are_measured_in_the_first_one_alone_too():
    arguments = {"filters": 4, "num_blocks": 1, "head_units": 4, "num_classes": 10}
    model = PixelCNN((8, 8, 1), orders=2, pixel_distribution="categorical", **arguments)
    laws.randomised(model)
    images, labels = data.arrays("digits", "test")
    figures = likelihood.log_likelihood(model, "digits", verbose=0)
    assert list(figures) == [
        "test negative log-likelihood",
        "test bits per dimension",
        "test negative log-likelihood in the first order",
    ]
    levels = model._levels(tf.constant(images))
    orders = [tf.fill((len(images),), order) for order in (0, 1)]
    by_order = [-model._log_prob(levels, labels, order).numpy().mean() for order in orders]
    alone = figures["test negative log-likelihood in the first order"][0]
    assert alone == pytest.approx(by_order[0], rel=1e-4)
    assert by_order[1] != pytest.approx(by_order[0], rel=1e-2)


def test_squared_error_of_a_perfect_and_of_a_blind_model():
    model = AutoEncoder((8, 8, 1), latent_dim=2, filters=(4,), num_blocks=0, dense_units=8)
    model.reconstruct = lambda images: images
    (perfect, _), (mean, _) = features.squared_error(model, "digits").values()
    assert perfect == 0.0
    assert mean > 1.0


def test_label_agreement_of_real_images_is_the_ceilings_rule():
    images, labels = data.arrays("digits", "test")

    class Copying:
        num_classes = 10

        def sample(self, count, labels, seed):
            return np.stack([images[by_class[label][0]] for label in labels])

    by_class = [np.flatnonzero(labels == k) for k in range(10)]
    (agreement, _), (ceiling, _) = features.label_agreement(Copying(), "digits", 20).values()
    assert agreement >= 80.0
    assert ceiling >= 90.0


def test_unlabelled_data_is_refused(tmp_path, vae):
    path = tmp_path / "plain.npz"
    np.savez(path, images=np.zeros((20, 8, 8, 1), np.uint8))
    with pytest.raises(ValueError, match="labels"):
        features.nearest_neighbour_accuracy(vae, str(path))


def test_a_figure_is_reproduced_to_a_thousandth():
    assert evaluation.Figure("x", 100.05, "nats", 100.0).reproduced
    assert not evaluation.Figure("x", 100.2, "nats", 100.0).reproduced
    assert not evaluation.Figure("x", 100.0, "nats", None).reproduced
