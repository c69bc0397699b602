"""What is measured of the samples of a model, and next to what; broken variants are caught."""

import sys

import numpy as np
import pytest
import tensorflow as tf
from sklearn.svm import SVC

from tfgen import data, zoo
from tfgen.evaluation import METRICS, samples


@pytest.fixture
def rng():
    return np.random.default_rng(0)


CLASSES = 3


def made_up_images(count, seed):
    """Images of a class are bright in its own rows; labels go round."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % CLASSES)
    images = rng.integers(0, 100, size=(count, 6, 4, 1))
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 120
    return images.astype(np.uint8), labels


JUDGED = {"evaluator": "judge", "verbose": 0}
SPLITS = {"train": made_up_images(300, 0), "test": made_up_images(120, 1)}


class Evaluator:
    """Features: sums of pixels; classes: the brightest third."""

    def features(self, images):
        return images.reshape(len(images), 12, 2).mean(2).astype(np.float32) / 255.0

    def probabilities(self, images):
        brightness = images.reshape(len(images), CLASSES, -1).mean(2) / 10.0
        return tf.nn.softmax(brightness.astype(np.float32)).numpy()


class Model:
    """Draws from a stock of images; remembers how it was asked."""

    num_classes = None

    def __init__(self, images):
        self.images = images

    def nearest_level(self, images):
        return images

    def sample(self, count, labels=None, seed=None, batch_size=None, verbose=0):
        assert batch_size is None  # as many as the model thinks right
        self.asked = {"seed": seed, "labels": labels}
        return self.images[:count]


class Conditional(Model):
    num_classes = CLASSES

    def sample(self, count, labels=None, seed=None, batch_size=None, verbose=0):
        images, classes = made_up_images(4 * count, 7)
        places = [iter(np.flatnonzero(classes == label)) for label in range(CLASSES)]
        return images[[next(places[label]) for label in labels]]


@pytest.fixture
def made_up(monkeypatch):
    monkeypatch.setattr(data, "arrays", lambda name, split: SPLITS[split])
    monkeypatch.setattr(zoo, "load_evaluator", lambda name: Evaluator())


def test_registered():
    assert METRICS["sample_quality"] is samples.sample_quality
    assert METRICS["conditional_accuracy"] is samples.conditional_accuracy


def values(results, start):
    """Of each result with such a name: the model's value, and real images' if there is one."""
    found = [result for name, result in results.items() if name.startswith(start)]
    assert found
    return [value for r in found for value in (r.value, r.real) if value is not None]


def test_sample_quality_of_real_images_is_the_floors(made_up):
    """A model that draws other real images has the floor's figures, to chance."""
    model = Model(made_up_images(120, 2)[0])
    figures = samples.sample_quality(model, "made_up", 120, **JUDGED)
    assert model.asked == {"seed": 0, "labels": None}
    assert all(np.isfinite(value) and isinstance(value, float) for value in values(figures, ""))
    drawn, floor, ratio = values(figures, "Frechet distance")
    assert drawn / floor == pytest.approx(ratio)
    assert 0.5 < ratio < 2.0
    for share in ("precision", "recall"):
        drawn, floor, ratio = values(figures, share)
        assert min(drawn, floor) > 0.8
        assert 0.9 < ratio < 1.1
    kernel_values = values(figures, "kernel distance, ")
    kernel_errors = values(figures, "standard error of the kernel distance, ")
    assert all(abs(v) < 4 * e for v, e in zip(kernel_values, kernel_errors, strict=True))
    assert values(figures, "classes present") == [3.0, 3.0]
    assert values(figures, "share of the rarest class") == pytest.approx([100 / 3, 100 / 3])
    assert all(2.9 < score < 3.0 for score in values(figures, "classifier score"))
    drawn, test = values(figures, "median distance to the nearest of 300 train images")
    assert drawn == pytest.approx(test, rel=0.05)
    assert any("120 images against 120 test images" in name for name in figures)
    assert figures["Frechet distance, samples / real images"].judge == "judge"


def test_sample_quality_of_copies_of_noise_and_of_one_class(made_up, rng):
    copies = samples.sample_quality(
        Model(SPLITS["train"][0][::3]), "made_up", 100, evaluator="judge", verbose=0
    )
    assert values(copies, "median distance")[0] == 0.0 < values(copies, "median distance")[1]
    assert values(copies, "1st percentile")[0] == 0.0 < values(copies, "1st percentile")[1]
    assert values(copies, "Frechet distance")[2] == 1.0

    noise = rng.integers(0, 256, size=(100, 6, 4, 1)).astype(np.uint8)
    bad = samples.sample_quality(Model(noise), "made_up", 100, **JUDGED)
    assert values(bad, "Frechet distance")[2] > 3.0
    assert values(bad, "precision")[2] < 0.7

    images, labels = made_up_images(300, 3)
    one = samples.sample_quality(
        Model(images[labels == 1]), "made_up", 100, evaluator="judge", verbose=0
    )
    assert values(one, "classes present") == [1.0, 3.0]
    assert values(one, "share of the rarest class")[0] == 0.0
    assert values(one, "recall")[2] < 0.6
    assert values(one, "classifier score")[0] < 1.1


def test_sample_quality_asks_a_conditional_model_for_every_class(made_up):
    figures = samples.sample_quality(Conditional(None), "made_up", 90, **JUDGED)
    assert values(figures, "share of the rarest class")[0] == pytest.approx(100 / 3)


def test_sample_quality_needs_enough_images(made_up):
    with pytest.raises(ValueError, match="num_samples must be at most 120"):
        samples.sample_quality(Model(None), "made_up", 121, verbose=0)


def test_sample_quality_needs_more_images_than_neighbours(made_up, monkeypatch):
    images, labels = SPLITS["test"]
    few = {"train": SPLITS["train"], "test": (images[:5], labels[:5])}
    monkeypatch.setattr(data, "arrays", lambda name, split: few[split])
    with pytest.raises(ValueError, match="at least 6 images in each of its train and test splits"):
        samples.sample_quality(Model(None), "made_up", **JUDGED)
    few["test"] = images[:6], labels[:6]
    with pytest.raises(ValueError, match="num_samples must be an integer of at least 6"):
        samples.sample_quality(Model(None), "made_up", 5, **JUDGED)
    found = samples.sample_quality(Model(images), "made_up", **JUDGED)
    assert all(np.isfinite(values(found, "")))


def test_a_ratio_to_nothing_is_left_out(made_up, monkeypatch):
    """Where no train image lies among the test images, their precision is 0."""
    images, labels = SPLITS["train"]
    apart = SPLITS | {"train": (images // 8, labels)}
    monkeypatch.setattr(data, "arrays", lambda name, split: apart[split])
    found = samples.sample_quality(Model(SPLITS["test"][0]), "made_up", **JUDGED)
    assert values(found, "precision") == [1.0, 0.0]
    assert values(found, "recall") == [1.0, 0.0]
    assert len(values(found, "Frechet distance")) == 3
    assert all(np.isfinite(values(found, "")))


def test_conditional_accuracy_of_real_images_and_of_ignored_labels(made_up):
    figures = samples.conditional_accuracy(
        Conditional(None), "made_up", 90, evaluator="judge", verbose=0
    )
    assert len(figures) == 4
    assert all(value > 95.0 for value in values(figures, "90 samples classified as asked"))
    assert all(abs(value) < 5.0 for value in values(figures, "gap to real test images"))

    class Ignoring(Model):
        num_classes = CLASSES

    blind = Ignoring(SPLITS["test"][0])
    figures = samples.conditional_accuracy(blind, "made_up", 90, **JUDGED)
    np.testing.assert_array_equal(blind.asked["labels"], np.arange(90) % 3)
    assert all(value < 60.0 for value in values(figures, "90 samples classified as asked")[::2])
    assert all(value < -40.0 for value in values(figures, "gap to real test images"))


def test_the_second_classifier_is_scikit_learns():
    """The kernel as products of matrices gives the decisions of SVC's own."""
    images, labels = data.arrays("digits", "train")
    train, rows = images[:400].reshape(400, -1) / 255.0, images[400:900].reshape(500, -1) / 255.0
    kernel = samples._rbf_kernel(train)
    own = SVC(C=5.0, kernel="precomputed").fit(kernel(train), labels[:400])
    theirs = SVC(C=5.0, gamma="scale").fit(train, labels[:400])
    np.testing.assert_allclose(
        own.decision_function(kernel(rows)), theirs.decision_function(rows), atol=1e-2
    )
    np.testing.assert_array_equal(own.predict(kernel(rows)), theirs.predict(rows))
    np.testing.assert_allclose(np.diag(kernel(train)), 1.0, rtol=1e-12)


def test_conditional_accuracy_refusals(made_up, monkeypatch):
    with pytest.raises(ValueError, match="class-conditional"):
        samples.conditional_accuracy(Model(None), "made_up", **JUDGED)
    monkeypatch.setattr(data, "arrays", lambda name, split: (SPLITS[split][0], None))
    with pytest.raises(ValueError, match="labels"):
        samples.conditional_accuracy(Conditional(None), "made_up", **JUDGED)
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    with pytest.raises(ImportError, match=r'pip install "\.\[data\]"'):
        samples.conditional_accuracy(Conditional(None), "made_up", **JUDGED)
