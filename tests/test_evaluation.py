"""Results: each against a plain computation of the same thing."""

import ast
import dataclasses
import importlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

import laws
import numpy as np
import pytest
import runs
import tensorflow as tf
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from tfgen import (
    VAE,
    AutoEncoder,
    GenerativeModel,
    PixelCNN,
    data,
    evaluation,
    starting,
    training,
    zoo,
)
from tfgen.evaluation import Result, cards, judges, latents, metrics, samples
from tfgen.evaluation.evaluate import _check_digest, card_of, write_card
from tfgen.models.classifier import Classifier
from tfgen.recipe import Recipe

SMALL = {**runs.TINY, "dense_units": 8}


@dataclasses.dataclass(eq=False)
class Copying:
    """A model whose samples are these images, in their order."""

    images: np.ndarray
    num_classes: int | None = None

    def nearest_level(self, images):
        return images

    def sample(self, count, **options):
        return self.images[:count]


@pytest.fixture(scope="module")
def vae():
    return VAE((8, 8, 1), latent_dim=2, filters=(4,), num_blocks=0, dense_units=8)


def test_nearest_neighbour_is_scikit_learns():
    rng = np.random.default_rng(0)
    references, queries = rng.normal(size=(300, 5)), rng.normal(size=(1100, 5))
    ours = latents.nearest_neighbour(queries, references)
    theirs = KNeighborsClassifier(1).fit(references, np.arange(300)).predict(queries)
    np.testing.assert_array_equal(ours, theirs)


def test_likelihood_figures_are_the_mean_over_the_whole_split(vae):
    images, _ = data.arrays("digits", "test")
    figures = latents.log_likelihood(vae, "digits", "test", 2, verbose=0)
    nats, bits = (result.value for result in figures.values())
    by_hand = -vae.log_likelihood(images, num_samples=2, seed=0, batch_size=len(images)).mean()
    assert nats == pytest.approx(by_hand, rel=1e-5)
    assert bits == pytest.approx(by_hand / (64 * np.log(2)), rel=1e-5)


def test_several_orders_are_measured_in_the_first_one_alone_too():
    arguments = {"filters": 4, "num_blocks": 1, "head_units": 4, "num_classes": 10}
    model = PixelCNN((8, 8, 1), orders=2, pixel_distribution="categorical", **arguments)
    laws.randomised(model, 0.5)
    images, labels = data.arrays("digits", "test")
    figures = latents.log_likelihood(model, "digits", verbose=0)
    assert list(figures) == [
        "test negative log-likelihood",
        "test bits per dimension",
        "test negative log-likelihood in the first order",
    ]
    levels = model.levels_of(tf.constant(images))
    orders = [tf.fill((len(images),), order) for order in (0, 1)]
    by_order = [
        -model.log_prob_of_reading(levels, labels, order).numpy().mean() for order in orders
    ]
    alone = figures["test negative log-likelihood in the first order"].value
    assert alone == pytest.approx(by_order[0], rel=1e-4)
    assert by_order[1] != pytest.approx(by_order[0], rel=1e-2)
    nats = figures["test negative log-likelihood"].value
    assert nats == pytest.approx(-model.log_likelihood(images, labels=labels).mean(), rel=1e-4)


def test_squared_error_of_a_perfect_and_of_a_blind_model():
    model = AutoEncoder((8, 8, 1), latent_dim=2, filters=(4,), num_blocks=0, dense_units=8)
    model.reconstruct = lambda images, labels: images
    perfect, mean = (r.value for r in latents.squared_error(model, "digits").values())
    assert perfect == 0.0
    train, test = (data.arrays("digits", split)[0] / 255.0 for split in ("train", "test"))
    assert mean == pytest.approx(np.square(test - train.mean(0)).sum((1, 2, 3)).mean(), rel=1e-5)
    model.reconstruct = lambda images, labels: np.zeros_like(images)
    blind, _ = (r.value for r in latents.squared_error(model, "digits").values())
    assert blind == pytest.approx(np.square(test).sum((1, 2, 3)).mean(), rel=1e-5)


def test_the_nearest_neighbour_is_that_of_scikit_learn():
    model = AutoEncoder((8, 8, 1), latent_dim=3, filters=(4,), num_blocks=0, dense_units=8)
    found = latents.nearest_neighbour_accuracy(model, "digits").values()
    (train, y), (validation, z), (test, labels) = (
        data.arrays("digits", split) for split in ("train", "validation", "test")
    )
    references, classes = np.concatenate([train, validation]), np.concatenate([y, z])
    for features, result in zip((model.encode, lambda x: x / 255.0), found, strict=True):
        rows = [np.reshape(features(images), (len(images), -1)) for images in (references, test)]
        nearest = KNeighborsClassifier(1).fit(rows[0], classes)
        assert result.value == pytest.approx(100 * nearest.score(rows[1], labels), abs=0.3)
    found = latents.nearest_neighbour_accuracy(model, "digits", "validation")
    nearest = KNeighborsClassifier(1).fit(train.reshape(len(train), -1), y)  # without the queries
    expected = 100 * nearest.score(validation.reshape(len(validation), -1), z)
    on_pixels = found["validation 1-nearest-neighbour accuracy on raw pixels"].value
    assert on_pixels == pytest.approx(expected, abs=0.3)
    assert on_pixels < 100


def test_label_agreement_of_real_images_is_the_ceilings_rule():
    images, labels = data.arrays("digits", "test")

    class CopyingByClass:
        num_classes = 10

        def __init__(self, further):
            self.further = further

        def nearest_level(self, images):
            return images

        def sample(self, count, labels, seed, verbose=0):
            return np.stack([images[by_class[(k + self.further) % 10][0]] for k in labels])

    by_class = [np.flatnonzero(labels == k) for k in range(10)]
    (agreement,) = latents.label_agreement(CopyingByClass(0), "digits", 20).values()
    assert agreement.value >= 80.0
    assert agreement.real >= 90.0
    (agreement,) = latents.label_agreement(CopyingByClass(1), "digits", 20).values()
    assert agreement.value <= 20.0


@pytest.mark.parametrize("metric", [name for name in evaluation.METRICS if name != "accuracy"])
def test_a_conditional_vae_is_measured_by_every_metric(metric):
    """Metrics hand on the labels that a conditional model needs."""
    arguments = {"num_samples": 20} if metric in metrics.SAMPLING else {}
    model = laws.randomised(VAE(**SMALL, num_classes=10))
    assert not metrics.misfit(model, metric)
    found = evaluation.METRICS[metric](model, "digits", **arguments, verbose=0)
    assert all(np.isfinite(result.value) for result in found.values())
    if metric == "squared_error":
        images, labels = data.arrays("digits", "test")
        off = (images - model.reconstruct(images, labels=labels).astype(float)) / 255.0
        expected = np.square(off).sum((1, 2, 3)).mean()
        assert next(iter(found.values())).value == pytest.approx(expected, rel=1e-5)


def test_accuracy_is_the_share_of_right_classes():
    classifier = Classifier(image_shape=(8, 8, 1), num_classes=10, filters=(4,))
    classifier.compile(jit_compile=False)
    classifier.fit(*data.arrays("digits", "train"), epochs=2, verbose=0)
    images, labels = data.arrays("digits", "test")
    right = classifier(images).numpy().argmax(1) == labels
    assert 0.15 < right.mean() < 0.99
    found = evaluation.METRICS["accuracy"](classifier, "digits", verbose=0)
    assert next(iter(found.values())).value == pytest.approx(100 * right.mean())


def test_samples_have_the_classes_of_unbalanced_images():
    """Otherwise classes alone would tell samples from real images."""

    class Model:
        num_classes = 3

    balanced = np.repeat([0, 1, 2], (8, 10, 12))
    turns = latents.classes_to_ask(Model, 7, balanced)
    assert (
        turns.tolist() == latents.classes_to_ask(Model, 7, None).tolist() == [0, 1, 2, 0, 1, 2, 0]
    )
    unbalanced = np.repeat([0, 1, 2], (80, 15, 5))
    for count in (100, 1000, 20):
        shares = np.bincount(latents.classes_to_ask(Model, count, unbalanced), minlength=3) / count
        np.testing.assert_allclose(shares, [0.8, 0.15, 0.05])
    of_another_set = latents.classes_to_ask(Model, 6, unbalanced + 1)
    assert of_another_set.tolist() == [0, 1, 2, 0, 1, 2]


def test_a_metric_that_does_not_fit_is_named(tmp_path, monkeypatch):
    """Before anything is measured; or left out where several entries are measured."""
    recipe = Recipe("AutoEncoder", SMALL, "digits", results=[{"metric": "squared_error"}])
    path = zoo.save(AutoEncoder(**SMALL), tmp_path / "run", recipe)
    for metric in set(evaluation.METRICS) - {"squared_error", "nearest_neighbour_accuracy"}:
        wanted = [metric, "squared_error"]
        with pytest.raises(ValueError, match=f"metric '{metric}' does not fit: "):
            evaluation.evaluate(path, metrics=wanted, verbose=0)
        found = evaluation.evaluate(path, metrics=wanted, skip_unfit=True, verbose=0)
        assert found
        assert all("squared error" in name for name in found)
    classifier = Classifier(image_shape=(8, 8, 1), num_classes=10, filters=(4,))
    fitting = [metric for metric in evaluation.METRICS if not metrics.misfit(classifier, metric)]
    assert fitting == ["accuracy"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"metric": "acuracy"}, "metric must be one of .*Did you mean 'accuracy'"),
        ({}, "metric must be one of"),
        ({"metric": "log_likelihood", "num_sample": 9}, "no argument 'num_sample'; .*num_samples"),
        ({"metric": "accuracy", "verbose": 1}, "no argument 'verbose'"),
        ({"metric": "accuracy", "split": "tset"}, "split of accuracy .*Did you mean 'test'"),
        ({"metric": "label_agreement", "num_samples": 0}, "num_samples of .* at least 1"),
        ({"metric": "sample_quality", "num_samples": 3}, "num_samples of .* at least 6"),
        ({"metric": "sample_quality", "split": "train"}, "split of sample_quality"),
    ],
)
def test_bad_results_of_a_recipe_are_found_before_training(wanted, message):
    with pytest.raises(ValueError, match=message):
        metrics.check_results([wanted])


def test_nothing_is_sampled_for_what_fails_later(tmp_path, monkeypatch):
    """Images of another shape, and a package that is missing."""
    monkeypatch.setattr(samples, "_draw", lambda *args: pytest.fail("sampled"))
    path = zoo.save(VAE(**SMALL), tmp_path / "run", Recipe("VAE", SMALL, "digits"))
    np.savez(tmp_path / "other.npz", images=np.full((60, 12, 12, 3), 9, np.uint8))
    for metric in ("sample_quality", "squared_error"):
        with pytest.raises(ValueError, match=r"images of shape \(8, 8, 1\).*\(12, 12, 3\)"):
            evaluation.evaluate(path, str(tmp_path / "other.npz"), metrics=[metric], verbose=0)
    data.arrays("digits", "train")  # which need scikit-learn themselves
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    wanted = [{"metric": "sample_quality"}, {"metric": "conditional_accuracy"}]
    own = {**SMALL, "num_classes": 10}
    path = zoo.save(VAE(**own), tmp_path / "own", Recipe("VAE", own, "digits", results=wanted))
    with pytest.raises(ImportError, match="conditional_accuracy needs scikit-learn"):
        evaluation.evaluate(path, verbose=0)


def test_nothing_is_sampled_where_labels_or_a_judge_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "_draw", lambda *args: pytest.fail("sampled"))
    own = {**SMALL, "num_classes": 10}
    wanted = [{"metric": "sample_quality"}, {"metric": "conditional_accuracy"}]
    path = zoo.save(VAE(**own), tmp_path / "own", Recipe("VAE", own, "digits", results=wanted))
    images, _ = data.arrays("digits", "train")
    np.savez(tmp_path / "plain.npz", images=images[:60])
    for metric in ("conditional_accuracy", "nearest_neighbour_accuracy", "log_likelihood"):
        metrics = ["sample_quality", metric]
        with pytest.raises(ValueError, match="must have labels"):
            evaluation.evaluate(path, tmp_path / "plain.npz", metrics=metrics, verbose=0)
    model = VAE(**own)
    for metric in ("sample_quality", "conditional_accuracy"):
        for judge in ("classifier_mnist", "clasifier"):  # of 28x28 images, and of none
            with pytest.raises(ValueError, match=r"28|clasifier"):
                evaluation.METRICS[metric](model, "digits", num_samples=50, evaluator=judge)


def test_what_a_metric_does_not_fit_needs_no_data(tmp_path):
    """As `--all --metric` goes on to the next entry."""
    gone = {"data": {"name": "gone.npz", "split": "train", "digest": "0" * 64}}
    recipe = Recipe("AutoEncoder", SMALL, "gone.npz")
    path = zoo.save(AutoEncoder(**SMALL), tmp_path / "own", recipe, gone)
    metrics = ["log_likelihood"]
    assert evaluation.evaluate(path, metrics=metrics, skip_unfit=True, verbose=0) == {}
    with pytest.raises(ValueError, match="does not fit"):
        evaluation.evaluate(path, metrics=metrics, verbose=0)


def test_only_what_was_recorded_is_checked(tmp_path):
    recipe = Recipe("AutoEncoder", SMALL, "digits", results=[{"metric": "squared_error"}])
    path = zoo.save(AutoEncoder(**SMALL), tmp_path / "own", recipe)
    assert evaluation.evaluate(path, verbose=0)
    assert evaluation.evaluate(path, check=True, metrics="squared_error", verbose=0)
    other = {"check": True, "metrics": "nearest_neighbour_accuracy", "verbose": 0}
    with pytest.raises(ValueError, match="no recorded result of it"):
        evaluation.evaluate(path, **other)
    assert evaluation.evaluate(path, skip_unfit=True, **other) == {}


def test_classes_are_judged_once():
    wanted = [{"metric": "conditional_accuracy", "num_samples": n} for n in (1000, 5000)]
    with pytest.raises(ValueError, match=r"list conditional_accuracy at most once, .* it 2 times"):
        metrics.check_results(wanted)


def test_sample_quality_is_listed_once(tmp_path, monkeypatch):
    """The names of its results would be the same, and one would replace the other."""
    monkeypatch.setattr(samples, "_draw", lambda *args: pytest.fail("sampled"))
    wanted = [{"metric": "sample_quality", "split": split} for split in ("validation", "test")]
    path = zoo.save(VAE(**SMALL), tmp_path / "run", Recipe("VAE", SMALL, "digits", results=wanted))
    for named in (None, ["sample_quality"]):
        with pytest.raises(ValueError, match=r"list sample_quality at most once, .* it 2 times"):
            evaluation.evaluate(path, metrics=named, verbose=0)


def test_the_nearest_training_images_are_looked_for_all_over_a_split(monkeypatch):
    """A split may be in the order of its classes."""
    images, _ = data.arrays("digits", "test")

    asked = []
    monkeypatch.setattr(samples, "MAX_QUERIES", 10)
    monkeypatch.setattr(samples, "_diversity", lambda *sets: asked.extend(sets) or {})
    samples.sample_quality(Copying(images[::-1]), "digits", num_samples=40, verbose=0)
    np.testing.assert_array_equal(asked[0], images[::-1][:40:4])
    np.testing.assert_array_equal(asked[1], latents.evenly(images, 40)[::4])


def test_training_images_are_looked_through_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    images, train = (rng.integers(0, 256, (n, 4, 4, 1), np.uint8) for n in (7, 50))
    train[31] = images[2]
    whole = samples._to_nearest(images, train)
    assert whole[2] == 0.0
    for rows in (1, 9, 49):
        monkeypatch.setattr(samples, "VALUES_AT_ONCE", rows * 16)
        np.testing.assert_allclose(samples._to_nearest(images, train), whole, rtol=1e-6)


def test_only_conditional_models_are_asked_for_classes(vae):
    for metric in ("label_agreement", "conditional_accuracy"):
        with pytest.raises(ValueError, match="class-conditional"):
            evaluation.METRICS[metric](vae, "digits", verbose=0)


def test_unlabelled_data_is_refused(tmp_path, vae):
    path = tmp_path / "plain.npz"
    np.savez(path, images=np.zeros((20, 8, 8, 1), np.uint8))
    with pytest.raises(ValueError, match="labels"):
        latents.nearest_neighbour_accuracy(vae, str(path))


def test_a_figure_is_reproduced_to_a_thousandth():
    assert Result(100.05, "nats", recorded=100.0).reproduced
    assert not Result(100.2, "nats", recorded=100.0).reproduced
    assert not Result(100.0, "nats").reproduced
    assert Result(float("inf"), "nats").reproduced
    assert not Result(float("inf"), "nats", recorded=3.0).reproduced
    assert Result(1.0, "%", real=2.0, recorded=1.0, recorded_real=2.0).reproduced
    assert not Result(1.0, "%", real=2.1, recorded=1.0, recorded_real=2.0).reproduced
    assert not Result(1.0, "%", real=2.0, recorded=1.0).reproduced
    assert Result(0.01, "points", tolerance=0.05, recorded=0.04).reproduced
    assert Result(float("inf"), "ratio", recorded=float("inf")).reproduced
    assert not Result(float("inf"), "ratio", recorded=1.0).reproduced
    assert not Result(float("nan"), "nats", recorded=1.0).reproduced


@pytest.mark.parametrize("name", zoo.list_models(kind=None))
def test_every_card_is_what_the_generator_writes(name):
    path = zoo.folder(name)
    assert (path / "card.md").read_text() == card_of(path)
    assert zoo.info(name)["results"]


def test_a_card_says_where_the_training_was_not_that_of_tfgen_train():
    details = {**zoo.info("cgan_mnist"), "device": "a GPU"}
    text = cards.card({**details, "trained": "Images were mirrored."}, [], "cgan_mnist")
    assert "minutes on a GPU).\n  Images were mirrored.\n" in text
    assert "trains it again" not in text
    assert "trains it again" in cards.card(details, [], "cgan_mnist")


def test_a_card_of_a_users_own_model_names_its_path_and_no_licence(tmp_path):
    details = zoo.info("cgan_mnist")
    text = cards.card(details | {"name": "mine"}, ["samples.png"], "/home/me/mine")
    assert 'tfgen.load("/home/me/mine")' in text
    assert "tfgen evaluate /home/me/mine --check" in text
    assert "licence Apache" not in text
    spaced = cards.card(details | {"name": "mine"}, [], "/home/me/my runs/mine")
    assert 'tfgen.load("/home/me/my runs/mine")' in spaced
    assert "tfgen evaluate '/home/me/my runs/mine' --check" in spaced
    assert "tfgen train '/home/me/my runs/mine' --out" in spaced
    assert "![What it draws](samples.png)\n\n*What it draws.*\n" in text
    assert "progress.png" not in text


def test_every_card_says_what_its_numbers_and_pictures_mean():
    for name in zoo.list_models(kind=None):
        text = card_of(zoo.folder(name))
        assert not re.search(r"e\+\d|\d\.0 epochs", text), name
        assert ("a Frechet ratio of 1 or" in text) == ("| ratio |" in text), name
        draws = zoo.info(name)["family"] not in ("AutoEncoder", "Classifier")
        assert ("*What it draws.*" in text) == draws, name


def loaded_by(text: str) -> str:
    """What the code on a card hands to `tfgen.load`."""
    code = ast.parse(text.split("```python\n")[1].split("```")[0])
    return ast.literal_eval(code.body[-1].value.args[0])


@pytest.mark.parametrize(
    "name",
    ['a "b"', "a'b", r"c:\new", "two\nlines", "\N{SNOWMAN} \N{GRINNING FACE}", "{x}"],
)
def test_the_code_of_a_card_is_python_for_any_path(name):
    text = cards.card(zoo.info("cgan_mnist") | {"name": "mine"}, [], f"/home/{name}")
    assert loaded_by(text) == f"/home/{name}"


def test_a_card_is_written_into_a_folder_of_any_name(tmp_path):
    """Names of files are bytes, and need not be UTF-8."""
    recipe = Recipe("AutoEncoder", SMALL, "digits")
    for name in (b"caf\xe9", "caf\N{LATIN SMALL LETTER E WITH ACUTE}".encode()):
        path = zoo.save(AutoEncoder(**SMALL), tmp_path / os.fsdecode(name), recipe)
        write_card(path)
        assert loaded_by((path / "card.md").read_text(encoding="utf-8")) == str(path.resolve())


def test_a_card_tells_of_all_splits_that_were_trained_on():
    details = zoo.info("cgan_mnist")
    assert "Trained on the train split of `mnist` (sha256 `" in cards.card(details, [], "mine")
    more = details | {"data": details["data"] | {"also_trained_on": ["validation"]}}
    told = "Trained on the train and validation splits of `mnist` (sha256 of train `"
    assert told in cards.card(more, [], "mine")


def test_an_exact_family_without_pixel_orders_is_measured():
    class Flat:
        """Uniform over the levels of each pixel."""

        likelihood, num_classes, image_shape = "exact", None, (8, 8, 1)

        def log_likelihood(self, images, num_samples=1, **options):
            return np.full(len(images), -64 * np.log(256.0), np.float32)

        extra_likelihoods = GenerativeModel.extra_likelihoods

        def nearest_level(self, images):
            return images

    nats, bits = latents.log_likelihood(Flat(), "digits", verbose=0).values()
    assert bits.value == pytest.approx(8.0)
    assert nats.value == pytest.approx(64 * np.log(256.0))


@pytest.mark.parametrize("shape", [(40, 8, 8, 1), (40, 16, 12, 3), (300, 4, 4, 1)])
def test_plain_features_tell_images_apart(shape):
    """Alike for images of one kind, far for others; for any size, channels and number."""
    rng = np.random.default_rng(0)
    make = lambda low, high: rng.integers(low, high, shape).astype(np.uint8)  # noqa: E731
    train, same, other = make(0, 128), make(0, 128), make(128, 256)
    features = judges.plain_features(train)
    assert features(train).dtype == np.float32
    assert np.isfinite(features(other)).all()
    means = [features(images).mean(0) for images in (train, same, other)]
    near, far = (np.linalg.norm(means[0] - mean) for mean in means[1:])
    assert far > 3.0 * near
    np.testing.assert_array_equal(features(same), judges.plain_features(train)(same))


def test_a_pixel_that_is_black_in_training_does_not_decide_a_plain_feature():
    train = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1)).astype(np.uint8)
    train[:, 0, 0] = 0
    train[0, 0, 0] = 1
    features = judges.plain_features(train)
    bright = train.copy()
    bright[:, 0, 0] = 255
    moved = np.linalg.norm(features(bright) - features(train), axis=1)
    apart = np.linalg.norm(features(train[1:]) - features(train[:-1]), axis=1)
    assert moved.max() < 3.0 * apart.mean()


@pytest.mark.parametrize("shape", [(20, 8, 8, 1), (20, 6, 5, 3), (7, 8, 8, 1)])
def test_plain_features_of_few_images_hold_no_rounding_errors(shape):
    """Another order of the training images rounds otherwise; distances stay what they are."""
    rng = np.random.default_rng(0)
    train, others = rng.integers(0, 256, (2, *shape)).astype(np.uint8)
    found = [
        judges.plain_features(images)(others)
        for images in (train, train[rng.permutation(shape[0])])
    ]
    distances = [np.linalg.norm(rows[:, None] - rows[None], axis=-1) for rows in found]
    np.testing.assert_allclose(distances[0], distances[1], rtol=1e-2, atol=1e-3)


def test_data_without_an_evaluator_has_no_second_classifier(monkeypatch):
    """Plain features, which take a while, are not made for nothing."""
    monkeypatch.setattr(judges, "plain_features", lambda train: pytest.fail("made"))
    images, _ = data.arrays("digits", "test")
    found = samples.conditional_accuracy(Copying(images, 10), "digits", 50, verbose=0)
    assert len(found) == 2
    assert all("support vector machine" in name for name in found)


def test_the_order_of_a_split_does_not_decide_what_it_is_judged_by(tmp_path):
    """Splits in the order of their classes give figures like those of shuffled ones."""
    images, labels = data.arrays("digits", "train")
    images, labels = images[:1000], labels[:1000]

    found = {}
    for name, order in {"shuffled": np.arange(1000), "sorted": np.argsort(labels)}.items():
        own, classes = images[order], labels[order]
        path = tmp_path / f"{name}.npz"
        arrays = {"x_train": own[::2], "y_train": classes[::2]}
        np.savez(path, **arrays, x_test=own[1::2], y_test=classes[1::2])
        measure = evaluation.METRICS["sample_quality"]
        found[name] = measure(Copying(images, 10), str(path), num_samples=100, verbose=0)
        found[name] |= evaluation.METRICS["conditional_accuracy"](
            Copying(images, 10), str(path), num_samples=100, verbose=0
        )
    for name, result in found["shuffled"].items():
        other = found["sorted"][name]
        if "Frechet" in name or "recall" in name or "support vector" in name:
            assert other.value == pytest.approx(result.value, rel=0.3, abs=0.1), name
            if result.real is not None:
                assert other.real == pytest.approx(result.real, rel=0.3, abs=0.1), name


def test_data_without_an_evaluator_is_judged_by_plain_features():
    images, _ = data.arrays("digits", "test")

    results = evaluation.METRICS["sample_quality"](Copying(images), "digits", verbose=0)
    ratio = results["Frechet distance, samples / real images"]
    assert ratio.value == pytest.approx(0.0, abs=1e-3)
    assert ratio.judge == judges.PLAIN
    assert not any("class" in name for name in results)


# Data


def store(kind: str, folder: Path, seed: int, count: int = 20) -> str:
    """Writes noise as one of the formats of a user's own data; returns its path."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), np.uint8)
    if kind == "npz":
        np.savez(folder / "noise.npz", images=images)
        return str(folder / "noise.npz")
    shutil.rmtree(folder / kind, ignore_errors=True)
    if kind == "shards":
        return str(data.prepare(store("npz", folder, seed, count), folder / kind, verbose=0))
    (folder / kind).mkdir()
    for index, image in enumerate(images[..., 0]):
        Image.fromarray(image).save(folder / kind / f"{index:02d}.png")
    return str(folder / kind)


@pytest.mark.parametrize("kind", ["npz", "folder", "shards"])
def test_the_data_of_the_training_is_known_again_and_other_data_is_not(tmp_path, kind):
    source = store(kind, tmp_path, seed=0)
    digest = data.open_split(source, "train").digest()
    recorded = {"data": {"name": source, "split": "train", "digest": digest}}
    recipe = Recipe("AutoEncoder", SMALL, source)
    path = zoo.save(AutoEncoder(**SMALL), tmp_path / "run", recipe, recorded)
    assert evaluation.evaluate(path, metrics=["squared_error"], verbose=0)
    store(kind, tmp_path, seed=1)
    with pytest.raises(ValueError, match="is not what the entry was trained on: the train split"):
        evaluation.evaluate(path, metrics=["squared_error"], verbose=0)


def store_labelled(kind: str, folder: Path, swapped: bool) -> str:
    """Writes the same images of two classes, numbered in one way or the other; returns the path."""
    images = np.random.default_rng(0).integers(0, 256, (34, 8, 8, 1), np.uint8)
    if kind == "npz":
        labels = np.arange(34) % 2
        np.savez(folder / "two.npz", images=images, labels=1 - labels if swapped else labels)
        return str(folder / "two.npz")
    shutil.rmtree(folder / kind, ignore_errors=True)  # with 14 and 20, no two are at one place
    for index, image in enumerate(images[..., 0]):
        name = "middle" if index < 14 else ("first" if swapped else "second")
        (folder / kind / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / kind / name / f"{index:02d}.png")
    return str(folder / kind)


@pytest.mark.slow_except("folder")
@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_the_labels_of_the_training_are_known_again_and_others_are_not(tmp_path, kind):
    source = store_labelled(kind, tmp_path, swapped=False)
    opened = data.open_split(source, "train")
    images, labels = opened.digest(), opened.label_digest()
    unlabelled = {"name": source, "split": "train", "digest": images}
    recorded = {**unlabelled, "labels": labels}
    _check_digest(recorded, source)
    store_labelled(kind, tmp_path, swapped=True)
    assert data.open_split(source, "train").digest() == images
    with pytest.raises(ValueError, match=r"not what .* trained on: the sha256 .* train .* labels"):
        _check_digest(recorded, source)
    _check_digest(unlabelled, source)


def test_labels_that_are_gone_are_told(tmp_path):
    source = store("npz", tmp_path, seed=0)
    digest = data.open_split(source, "train").digest()
    recorded = {"name": source, "split": "train", "digest": digest, "labels": "0" * 64}
    with pytest.raises(ValueError, match=r"trained on: it has no labels now\. Restore"):
        _check_digest(recorded, source)


@pytest.mark.parametrize("labels", [{}, {"train labels": "2" * 64, "validation labels": "3" * 64}])
def test_what_a_run_was_trained_on_is_recorded_with_its_labels(tmp_path, labels):
    digests = {"train": "0" * 64, "validation": "1" * 64, **labels}
    (tmp_path / "training.json").write_text(json.dumps({"step": 1, "data": digests}))
    recorded = training.provenance(Recipe("VAE", SMALL, "digits"), tmp_path)
    assert recorded["data"]["digest"] == "0" * 64
    assert recorded["data"].get("labels") == labels.get("train labels")
    assert recorded["training"] == {"step": 1}


def test_a_set_too_small_for_sample_quality_does_without(tmp_path):
    recipe = Recipe("VAE", SMALL, store("npz", tmp_path, 0), results=[{"metric": "squared_error"}])
    path = zoo.save(VAE(**SMALL), tmp_path / "run", recipe)
    found = evaluation.evaluate(path, verbose=0)
    assert all("squared error" in name for name in found)
    assert "squared error" in (path / "card.md").read_text()
    with pytest.raises(ValueError, match=r"at least 6 images .* for sample_quality; .* has 4"):
        evaluation.evaluate(path, metrics=["sample_quality"], verbose=0)


# Models of fewer levels than their data


BINARY = {"num_levels": 2, "pixel_distribution": "bernoulli"}


@pytest.fixture(scope="module")
def black_and_white(tmp_path_factory):
    """Digits without their greys."""
    path, arrays = tmp_path_factory.mktemp("levels") / "binary.npz", {}
    for split in data.SPLITS:
        images, labels = data.arrays("digits", split)
        arrays[f"x_{split}"] = np.where(images > 127, 255, 0).astype(np.uint8)
        arrays[f"y_{split}"] = labels
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize(
    ("metric", "arguments"),
    [
        ("log_likelihood", {}),
        ("nearest_neighbour_accuracy", {}),
        ("squared_error", {}),
        ("label_agreement", {"num_samples": 20}),
    ],
)
def test_a_binary_model_is_measured_on_its_levels(black_and_white, metric, arguments):
    classes = {"num_classes": 10} if metric == "label_agreement" else {}
    model = laws.randomised(VAE(**SMALL, **BINARY, **classes))
    found, expected = (
        evaluation.METRICS[metric](model, source, **arguments, verbose=0)
        for source in ("digits", black_and_white)
    )
    for name, result in expected.items():
        if "raw pixels" not in name:  # those are the data's own
            assert found[name].value == pytest.approx(result.value, rel=1e-5), name
            assert found[name].real == result.real, name


def test_a_binary_pixel_model_of_grey_images_gets_its_card(tmp_path):
    arguments = {"image_shape": [8, 8, 1], "filters": 4, "num_blocks": 1, "head_units": 4, **BINARY}
    source = store("npz", tmp_path, 0, 40)
    recipe = Recipe("PixelCNN", arguments, source, results=[{"metric": "log_likelihood"}])
    path = zoo.save(PixelCNN(**arguments), tmp_path / "run", recipe)
    found = evaluation.evaluate(path, verbose=0)
    assert found["test bits per dimension"].value < 3.0
    assert "completions.png" in (path / "card.md").read_text()


# Where the weights come from


def rate_of(path: Path) -> float:
    """The learning rate that a loaded model goes on with."""
    optimizer, _ = next(iter(zoo.load(path).optimizers.values()))
    return float(optimizer.learning_rate)


def test_weights_saved_without_their_recipe_are_not_called_its(tmp_path):
    recipe = Recipe(
        "AutoEncoder", SMALL, "digits", learning_rate=0.5, results=[{"metric": "squared_error"}]
    )
    digest = data.open_split("digits", "train").digest()
    recorded = {
        "data": {"name": "digits", "split": "train", "digest": digest},
        "device": "a desk",
    }
    model = AutoEncoder(**SMALL)
    path = zoo.save(model, tmp_path / "run", recipe, recorded)
    (path / "progress.png").write_bytes(b"")
    evaluation.evaluate(path, verbose=0)
    card = (path / "card.md").read_text()
    assert "(progress.png)" in card
    assert "Trained on the train split of `digits`" in card
    assert "averaged over steps" in card
    assert rate_of(path) == pytest.approx(0.5 * starting.FINE_TUNING)

    laws.randomised(model).save_to_preset(path)
    assert not (path / "card.md").exists()
    assert rate_of(path) < 0.1 * 0.5 * starting.FINE_TUNING
    evaluation.evaluate(path, verbose=0)
    card = (path / "card.md").read_text()
    assert "Trained not by `recipe.json` alone; on which images and for how long is not" in card
    assert "num_levels=256" in card  # of its own configuration
    for claim in ("averaged over steps", "trains it again", digest, "a desk", "progress.png"):
        assert claim not in card
    assert zoo.load_recipe(path) == recipe
    assert zoo.info(path)["results"]


@pytest.mark.slow
def test_one_metric_may_be_named_by_itself(tmp_path):
    path = zoo.save(AutoEncoder(**SMALL), tmp_path / "run", Recipe("AutoEncoder", SMALL, "digits"))
    alone = evaluation.evaluate(path, metrics="squared_error", verbose=0)
    assert alone == evaluation.evaluate(path, metrics=["squared_error"], verbose=0)
    assert alone


def test_a_card_without_a_recorded_training(tmp_path):
    recipe = Recipe("AutoEncoder", SMALL, "digits", results=[{"metric": "squared_error"}])
    path = zoo.save(AutoEncoder(**SMALL), tmp_path / "run", recipe)
    evaluation.evaluate(path, verbose=0)
    card = (path / "card.md").read_text()
    assert "Trained by `recipe.json`; on which images and for how long is not recorded." in card
    assert "trains it again" in card


def test_a_result_that_is_not_finite_is_returned_and_not_recorded(tmp_path, monkeypatch):
    results = {
        "good": Result(1.0, "nats", real=2.0),
        "bad": Result(float("nan"), "nats"),
        "endless": Result(1.0, "nats", real=float("inf")),
    }
    monkeypatch.setitem(evaluation.METRICS, "squared_error", lambda *_, **__: results)
    recipe = Recipe("AutoEncoder", SMALL, "digits", results=[{"metric": "squared_error"}])
    path = zoo.save(AutoEncoder(**SMALL), tmp_path / "run", recipe)
    assert list(evaluation.evaluate(path, verbose=0)) == list(results)
    assert list(zoo.info(path)["results"]) == ["good"]
    assert "Infinity" not in json.dumps(zoo.info(path))


# Where results go


@pytest.fixture
def measured(tmp_path):
    """A model with results from before."""
    recipe = Recipe("AutoEncoder", SMALL, "digits", results=[{"metric": "squared_error"}])
    model = laws.randomised(AutoEncoder(**SMALL))
    before = {"before": {"value": 1.0, "unit": "nats"}}
    return zoo.save(model, tmp_path / "run", recipe, {"results": before})


@pytest.mark.slow_except("weights")
@pytest.mark.parametrize("what", ["weights", "a setting"])
def test_what_was_not_measured_gets_no_results(measured, monkeypatch, what):
    """A model that is saved into the folder while the one before is measured keeps its own."""
    other = zoo.load(measured, noise_std=0.25) if what == "a setting" else AutoEncoder(**SMALL)
    own = {"own": {"value": 2.0, "unit": "nats"}}

    def metric(*_, **__):
        zoo.save(other, measured, metadata={"results": own})
        return {"found": Result(3.0, "nats")}

    monkeypatch.setitem(evaluation.METRICS, "squared_error", metric)
    with pytest.raises(ValueError, match=r"was saved again while it was .*Measure it again"):
        evaluation.evaluate(measured, verbose=0)
    assert zoo.info(measured)["results"] == own
    assert not (measured / "card.md").exists()
    found = evaluation.evaluate(measured, check=True, verbose=0)
    assert list(found) == ["found", "own"]
    assert not found["own"].reproduced  # what is recorded and measured no more


def test_a_model_saved_while_its_pictures_are_drawn_keeps_its_results(measured, monkeypatch):
    """Nor does a full disk under the pictures leave new results beside an old card."""
    own = {"own": {"value": 2.0, "unit": "nats"}}
    found = {"found": Result(3.0, "nats")}
    monkeypatch.setitem(evaluation.METRICS, "squared_error", lambda *_, **__: found)
    module = importlib.import_module("tfgen.evaluation.evaluate")  # hidden by its function
    draw = module._draw

    def full(*_):
        raise OSError("full")

    monkeypatch.setattr(module, "_draw", full)
    before = zoo.info(measured)["results"]
    with pytest.raises(OSError, match="full"):
        evaluation.evaluate(measured, verbose=0)
    assert zoo.info(measured)["results"] == before

    def slow(*given):
        draw(*given)
        zoo.save(AutoEncoder(**SMALL), measured, metadata={"results": own})

    monkeypatch.setattr(module, "_draw", slow)
    with pytest.raises(ValueError, match="was saved again while it was measured"):
        evaluation.evaluate(measured, verbose=0)
    assert zoo.info(measured)["results"] == own
    assert not (measured / "card.md").exists()


def test_nothing_is_measured_that_cannot_be_written(measured, monkeypatch):
    """As in an installation that belongs to another user."""
    access, calls = os.access, []

    def allowed(path, mode, **rest):
        return path != measured and access(path, mode, **rest)

    def metric(*_, **__):
        calls.append("measured")
        return {"found": Result(3.0, "nats")}

    monkeypatch.setattr(os, "access", allowed)
    monkeypatch.setitem(evaluation.METRICS, "squared_error", metric)
    with pytest.raises(ValueError, match=r"folder can be written.*--check.*copy the folder"):
        evaluation.evaluate(measured, verbose=0)
    assert not calls
    for quick in ({"metrics": ["squared_error"]}, {"data_name": "digits"}):
        assert list(evaluation.evaluate(measured, verbose=0, **quick)) == ["found"]
    assert list(evaluation.evaluate(measured, check=True, verbose=0)) == ["found", "before"]
    assert list(zoo.info(measured)["results"]) == ["before"]
