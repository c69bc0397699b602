"""Guidance of pixel models: by its definition, over every image of tiny spaces."""

import itertools
import json

import laws
import numpy as np
import pytest
import tensorflow as tf
from pixel_networks import (
    SMALL,
    SPACES,
    draws_are_as_likely_as_it_says,
    every_image,
    log_probs,
    lower_rows_follow_the_upper_ones,
)

from tfgen import PixelCNN, PixelEnsemble, PixelRNN, zoo
from tfgen.models.guidance import Guide
from tfgen.models.sampler import Sampler

FAMILIES = {"PixelCNN": PixelCNN, "PixelRNN": PixelRNN}
CLASSES = 3


def guided(family: str, space: str, strength: float = 1.5, scale: float = 0.6, **arguments):
    """A small model with random weights that knows three classes."""
    given = {**SMALL, **SPACES[space], "num_classes": CLASSES, **arguments}
    if family == "PixelEnsemble":
        members = [{"family": name, "config": given} for name in FAMILIES]
        model = PixelEnsemble(members, CLASSES, strength)
    else:
        model = FAMILIES[family](**given, guidance=strength)
    return laws.randomised(model, scale)


each_family = pytest.mark.parametrize("family", [*FAMILIES, "PixelEnsemble"])
each_space = pytest.mark.parametrize("space", SPACES)


@pytest.mark.slow_except("PixelCNN")
@each_family
def test_losses_and_call_leave_guidance_out(family):
    model, labels = guided(family, "pixels"), np.array([0, 1, 2, 0])
    images, seeds = laws.images_for(model, 4), tf.range(4, dtype=tf.int64)
    given = tf.constant(images), tf.constant(labels)
    found = []
    for strength in (1.5, 0.0):
        model.guidance = strength
        losses = model.losses_per_image(*given, seeds, training=False)["loss"]
        found.append((losses, model(*given), model.log_likelihood(images, labels=labels)))
    for own, plain in zip(found[0][:2], found[1][:2], strict=True):
        np.testing.assert_array_equal(own, plain)
    assert (found[0][2] != found[1][2]).any()


@pytest.mark.slow_except("pixels-PixelCNN", "tokens-PixelCNN", "colours-PixelEnsemble")
@each_family
@each_space
def test_the_likelihood_is_that_of_the_definition(family, space):
    """From the table of p(x | c) of the network without guidance, group after group."""
    model = guided(family, space)
    strength, model.guidance = model.guidance, 0.0
    images = every_image(model)
    tables = np.exp([log_probs(model, images, labels=label) for label in range(CLASSES)])
    model.guidance = strength
    grid, shape = model.token_grid, model.token_grid.shape
    tokens = grid.to_tokens(tf.constant(images)).numpy()
    groups = tokens.reshape(len(images), -1, shape[-1])
    # reached[i][c, x] = p(x_1, ..., x_i | c)
    reached = [np.ones_like(tables)]
    for group in range(groups.shape[1]):
        begins = groups[:, : group + 1].reshape(len(images), -1)
        same = (begins[:, None] == begins[None]).all(-1)
        reached.append(tables @ same)
    for label in range(CLASSES):
        expected = np.zeros(len(images))
        for group, (before, after) in enumerate(itertools.pairwise(reached)):
            own = after[label] / before[label]
            evidence = after[label] / after.sum(0) / (before[label] / before.sum(0))
            weight = own * evidence**strength
            begins = groups[:, :group].reshape(len(images), -1)
            siblings = (begins[:, None] == begins[None]).all(-1)
            # Each outcome stands once for all images that go on differently after it.
            count = (
                groups[:, : group + 1].reshape(len(images), 1, -1)
                == groups[:, : group + 1].reshape(1, len(images), -1)
            ).all(-1)
            total = siblings @ (weight / count.sum(1))
            expected += np.log(weight / total)
        np.testing.assert_allclose(log_probs(model, images, labels=label), expected, atol=1e-4)
        assert np.exp(expected).sum() == pytest.approx(1.0)


@pytest.mark.slow_except("pixels-PixelCNN")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("space", ["pixels", "tokens"])
def test_probabilities_of_two_orders_sum_to_one(family, space):
    model = guided(family, space, orders=2)
    images = every_image(model)
    assert np.exp(log_probs(model, images, labels=1)).sum() == pytest.approx(1.0, abs=1e-4)
    for order in range(2):
        each = model.log_likelihood_map(images, labels=1, order=order).sum((1, 2, 3))
        assert np.exp(each.astype(np.float64)).sum() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.slow_except("pixels-PixelCNN", "tokens-PixelEnsemble", "levels-PixelRNN")
@each_family
@each_space
def test_the_fast_sampler_equals_the_naive_one(family, space):
    """Which scores the whole image for every group that it draws."""
    model = guided(family, space)
    grid, sampler = model.token_grid, Sampler(model)
    seeds, labels = model.image_seeds(12, 7), tf.constant([0, 1, 2] * 4, tf.int64)
    reading = model.picked_reading(seeds)
    uniforms = sampler.uniforms(seeds)
    tokens = np.zeros((len(seeds), *grid.shape))
    for place in np.ndindex(grid.shape[:3]):
        current = tf.constant(tokens, model.output_dtype)
        parameters = Guide(model).parameters_of(current, labels, reading)
        where = (slice(None), *place)
        tokens[where] = sampler.draw_group(parameters[where], uniforms[where])
    naive = grid.from_tokens(tf.constant(tokens, model.output_dtype)).numpy()
    np.testing.assert_array_equal(sampler.draw(seeds, labels, reading), naive)


@pytest.mark.slow
@each_family
def test_sampled_frequencies_are_the_likelihoods(family):
    draws_are_as_likely_as_it_says(guided(family, "pixels"), labels=1)


def test_completion_is_the_exact_conditional():
    """The kept upper row counts as evidence, as if it had been drawn."""
    lower_rows_follow_the_upper_ones(guided("PixelCNN", "pixels", scale=1.0), labels=2)


def test_a_completion_of_nothing_is_a_sample():
    model = guided("PixelCNN", "levels")
    nothing, labels = np.zeros((6, *model.image_shape[:2], 1), bool), np.arange(6) % CLASSES
    completed = model.complete(laws.images_for(model, 6), nothing, labels=labels, seed=3)
    np.testing.assert_array_equal(completed, model.sample(6, labels=labels, seed=3))


def test_the_stronger_the_guidance_the_more_samples_are_of_their_class():
    model, labels = guided("PixelCNN", "pixels", 0.0), np.arange(600) % CLASSES
    found = []
    for strength in (0.0, 2.0, 6.0):
        model.guidance = strength
        images = model.sample(len(labels), labels=labels, seed=0)
        model.guidance = 0.0
        each = np.stack([log_probs(model, images, labels=label) for label in range(CLASSES)], 1)
        posterior = np.exp(each - np.logaddexp.reduce(each, 1, keepdims=True))
        found.append(posterior[np.arange(len(labels)), labels].mean())
    assert found[0] + 0.03 < found[1] < found[2] - 0.03


@pytest.mark.parametrize("orders", [1, 2])
def test_weak_guidance_is_none(orders):
    """In every order, so that what is read as each class is read in the order of the image."""
    model, labels = guided("PixelCNN", "pixels", 1e-7, orders=orders), np.arange(6) % CLASSES
    images = laws.images_for(model, 6)

    def values():
        maps = [
            model.log_likelihood_map(images, labels=labels, order=order) for order in range(orders)
        ]
        return np.array(maps), model.sample(6, labels=labels, seed=0)

    maps, drawn = values()
    model.guidance = 0.0
    plain_maps, plain = values()
    np.testing.assert_allclose(maps, plain_maps, atol=1e-5)
    np.testing.assert_array_equal(drawn, plain)


def test_guidance_is_set_on_load(tmp_path):
    """Also on a model that was saved before there was any."""
    model = guided("PixelCNN", "pixels")
    folder = model.save_to_preset(tmp_path / "model")
    images = laws.images_for(model, 4)
    assert zoo.load(folder).guidance == 1.5
    plain = zoo.load(folder, guidance=0)
    assert (plain.log_likelihood(images, labels=1) != model.log_likelihood(images, labels=1)).any()
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"guidance": 1.5,', ""))
    details = json.loads((folder / "metadata.json").read_text())
    del details["config_sha256"]  # which came later still
    (folder / "metadata.json").write_text(json.dumps(details))
    assert zoo.load(folder).guidance == 0
    again = zoo.load(folder, guidance=1.5)
    np.testing.assert_array_equal(
        again.log_likelihood(images, labels=1), model.log_likelihood(images, labels=1)
    )


def test_an_ensemble_has_its_own_guidance():
    members = [guided("PixelCNN", "pixels"), guided("PixelRNN", "pixels")]
    model = PixelEnsemble(members, CLASSES)
    assert model.guidance == 0
    assert [network.guidance for network in model.networks] == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": None}, "guidance must be 0 for a model without num_classes"),
        ({"guidance": -1}, "guidance must be a finite number of at least 0; received -1"),
        (
            {"guidance": float("inf")},
            "guidance must be a finite number of at least 0; received inf",
        ),
        (
            {"num_levels": 256, "pixel_distribution": "discretized_logistic_mixture"},
            "guidance must be 0 unless pixel_distribution is bernoulli or categorical.*mixture",
        ),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_guidance_that_a_model_cannot_have(family, arguments, message):
    given = {**SMALL, **SPACES["pixels"], "num_classes": CLASSES, "guidance": 1.5, **arguments}
    with pytest.raises(ValueError, match=message):
        FAMILIES[family](**given)


def test_guidance_of_a_hidden_class():
    members = [guided("PixelCNN", "pixels"), guided("PixelRNN", "pixels")]
    with pytest.raises(ValueError, match="guidance must be 0 for a model without num_classes"):
        PixelEnsemble(members, guidance=1.0)


@pytest.mark.parametrize(
    ("changes", "strength", "message"),
    [
        ({}, -1.0, "guidance must be a finite number"),
        ({}, None, "guidance must be a finite number"),
        ({"num_classes": None}, 1.0, "guidance must be 0 for a model without num_classes"),
    ],
)
def test_guidance_that_is_set_must_be_possible(changes, strength, message):
    model = guided("PixelCNN", "pixels", 0.0, **changes)
    with pytest.raises(ValueError, match=message):
        model.guidance = strength
    assert model.guidance == 0.0


@pytest.mark.slow
def test_guidance_may_be_a_number_of_numpy(tmp_path):
    model = guided("PixelCNN", "pixels")
    for strength in (np.int64(2), np.float32(0.5)):
        model.guidance = strength
        assert zoo.load(model.save_to_preset(tmp_path / "model")).guidance == strength
