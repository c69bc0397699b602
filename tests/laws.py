"""Laws that every model keeps: functions of a model that raise AssertionError if it does not.

test_contract.py holds them over all families; test_broken.py shows that each can fail.
"""

import inspect
import itertools
import json

import keras
import numpy as np
import tensorflow as tf

from tfgen import noise, pixels
from tfgen.models.sampler import PIXEL_STREAM

# Models to try the laws on


def images_for(model, count: int, seed: int = 0) -> np.ndarray:
    """Made-up images on the model's levels."""
    values = pixels.level_values(model.num_levels)
    return np.random.default_rng(seed).choice(values, (count, *model.image_shape))


def labels_for(model, count: int) -> np.ndarray | None:
    """The classes in turn, or None for an unconditional model."""
    return None if model.num_classes is None else np.arange(count) % model.num_classes


def given(model, labels) -> dict:
    """The keyword `labels` for a conditional model, nothing for another."""
    return {} if model.num_classes is None else {"labels": labels}


def randomised(model, scale: float = 0.3, seed: int = 3):
    """Moves every weight, so that no layer rests at the zeros that it starts with."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign_add(scale * rng.standard_normal(variable.shape))
    return model


def assert_close_images(a: np.ndarray, b: np.ndarray, num_levels: int) -> None:
    """Float rounding may move a pixel by one level, and only a few that lie on an edge."""
    assert a.dtype == b.dtype == np.uint8
    assert a.shape == b.shape
    step = 255 / (num_levels - 1)
    difference = np.abs(a.astype(int) - b.astype(int))
    assert difference.max() <= step + 0.5
    assert (difference > 0).mean() < 0.02


def assert_close_draws(model, a: np.ndarray, b: np.ndarray, given: dict) -> None:
    """The same draws to one level; or each next pixel, until a tie goes another way in one image.

    A model that draws pixel by pixel picks each by where a random number falls between the
    cumulative probabilities. Where it falls onto an edge float rounding decides, and all that
    follows may differ.

    Args:
        model: The model.
        a: uint8 images.
        b: uint8 images from the same inputs.
        given: The inputs: seed, and labels, images and mask where there are any.
    """
    if model.draws_by_pixel and model.pixel_distribution != "discretized_logistic_mixture":
        assert a.dtype == b.dtype == np.uint8
        assert a.shape == b.shape
        for i in np.flatnonzero((a != b).any((1, 2, 3))):
            own = {name: value[i : i + 1] for name, value in given.items()}
            distance = distance_from_tie(model, a[i : i + 1], b[i : i + 1], own)
            assert distance < 1e-5, f"image {i} differs where nothing is near: {distance:.2g}"
    else:
        assert_close_images(a, b, model.num_levels)


def distance_from_tie(model, a: np.ndarray, b: np.ndarray, given: dict) -> float:
    """How far the random number behind the first pixel that differs lies from all edges between.

    Args:
        model: A model that draws pixel by pixel from finitely many outcomes.
        a: One uint8 image, (1, height, width, channels).
        b: Another one.
        given: As in `assert_close_draws`, for one image.
    """
    seed = tf.constant(given["seed"], tf.int64)
    mask, reading, labels = given.get("mask"), model.picked_reading(seed), given.get("labels")
    if mask is not None:
        mask = np.broadcast_to(mask, a.shape)
        kept = model.levels_of(given["images"])
        reading = model.reading_for(kept, tf.constant(mask), seed, labels, 1.0)

    def tokens_of(values):
        grid = model.token_grid
        return grid.to_tokens(grid.reorder(values, reading))

    one, other = (tokens_of(model.levels_of(images)) for images in (a, b))
    groups = one.shape[1:4]
    differs = (one != other).numpy().any(-1)[0]
    place = np.unravel_index(differs.ravel().argmax(), groups)  # the first in drawing order
    parameters = model.parameters_of(one, model.conditions(1, labels, reading))
    logits = parameters.numpy()[0][place].astype(np.float64)
    drawn = float(noise.uniform(seed, (*groups, 1), PIXEL_STREAM).numpy()[0][place][0])
    picked = [tokens.numpy()[0][place] for tokens in (one, other)]
    if model.pixel_distribution == "bernoulli" and not model.uses_patterns:
        return abs(drawn - 1.0 / (1.0 + np.exp(-logits[0])))
    if model.uses_patterns:
        if mask is not None:
            kept = tokens_of(model.levels_of(given["images"])).numpy()[0][place]
            hidden = ~tokens_of(tf.constant(mask)).numpy()[0][place]
            logits[~((model.patterns == kept) | hidden).all(1)] = -np.inf
        low, high = sorted(int((model.patterns == p).all(1).argmax()) for p in picked)
    else:
        low, high = sorted(int(p[0]) for p in picked)
    odds = np.exp(logits - logits.max())
    edges = np.cumsum(odds)[low:high] / odds.sum()
    return float(np.abs(edges - drawn).max())


# Configuration


def constructor_arguments(family: type) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(family.__init__).parameters.values()
    skipped = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {p.name: p for p in parameters if p.name != "self" and p.kind not in skipped}


def keeps_its_configuration(family: type, *varied: dict) -> None:
    """Every argument of the constructor survives get_config, JSON and from_config.

    Each argument has a value other than its default in one of the dicts `varied`.
    """
    arguments = constructor_arguments(family)
    for values in varied:
        assert set(values) == set(arguments), "every argument must be varied"
    for name, argument in arguments.items():
        assert any(v[name] != argument.default for v in varied), f"{name} has its default"
    for values in varied:
        config = json.loads(json.dumps(family(name="renamed", **values).get_config()))
        twin = family.from_config(config)
        assert twin.name == "renamed"
        for name, value in values.items():
            assert getattr(twin, name) == value, name
        assert twin.get_config() == config


# Sampling


def samples_are_images(model) -> None:
    images = model.sample(3, seed=0, **given(model, labels_for(model, 3)))
    assert isinstance(images, np.ndarray)
    assert images.dtype == np.uint8
    assert images.shape == (3, *model.image_shape)
    assert np.isin(images, pixels.level_values(model.num_levels)).all()


def seeds_decide(model) -> None:
    """The same seed gives the same image, another seed another one."""
    label = given(model, 0)
    images = model.sample(16, seed=3, **label)
    np.testing.assert_array_equal(images, model.sample(16, seed=3, **label))
    np.testing.assert_array_equal(images, model.sample(16, seed=range(3, 19), **label))
    # Few enough for a model of binary images, whose samples are rounded to two levels.
    assert len(np.unique(images, axis=0)) > 2, "the seed is ignored"
    fresh = model.sample(16, **label)
    assert (fresh != model.sample(16, **label)).any(), "seed=None repeats itself"


def batch_mates_do_not_matter(model) -> None:
    """Image i of sample(n, seed=s) is sample(1, seed=s + i), whatever else is in the batch."""
    labels = labels_for(model, 5)
    inputs = {"seed": np.arange(40, 45), **given(model, labels)}
    together = model.sample(5, seed=40, **given(model, labels))
    alone = [
        model.sample(1, seed=40 + i, **given(model, None if labels is None else labels[i]))
        for i in range(5)
    ]
    assert_close_draws(model, np.concatenate(alone), together, inputs)
    split = model.sample(5, seed=40, batch_size=2, **given(model, labels))
    assert_close_draws(model, split, together, inputs)
    backwards = model.sample(5, seed=range(44, 39, -1), **given(model, _backwards(labels)))
    assert_close_draws(model, backwards[::-1], together, inputs)


def _backwards(labels):
    return None if labels is None else labels[::-1]


def temperature_zero_is_one_image(model) -> None:
    images = model.sample(8, seed=0, temperature=0.0, **given(model, 0))
    for image in images:
        assert_close_images(image, images[0], model.num_levels)
    hot = model.sample(8, seed=0, temperature=1.5, **given(model, 0))
    assert len(np.unique(hot, axis=0)) > 1


# Likelihood


def likelihoods_are_per_image(model) -> None:
    """Shape (batch,), the same twice, each image's own, and equal in batches of any size."""
    images, labels = images_for(model, 5), labels_for(model, 5)
    values = model.log_likelihood(images, num_samples=3, **given(model, labels))
    assert values.dtype == np.float32
    assert values.shape == (5,)
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(
        values, model.log_likelihood(images, num_samples=3, **given(model, labels))
    )
    split = model.log_likelihood(images, num_samples=3, batch_size=2, **given(model, labels))
    np.testing.assert_allclose(split, values, rtol=1e-5)
    for i in range(5):
        label = None if labels is None else labels[i]
        alone = model.log_likelihood(
            images[i : i + 1], num_samples=3, seed=2**62 + i, **given(model, label)
        )
        np.testing.assert_allclose(alone[0], values[i], rtol=1e-5)


def loss_is_minus_log_likelihood(model, draws: int = 4000) -> None:
    """On average over the noise, the loss is -log_likelihood: nats, summed over pixels.

    Holds for objectives that are the likelihood, e.g. with beta = 1.
    """
    k = getattr(model, "num_importance_samples", 1)
    image = images_for(model, 1)
    # Not class 0, which missing labels could pass for.
    label = None if model.num_classes is None else np.full(draws, model.num_classes - 1)
    images = np.repeat(image, draws, 0)
    seeds = tf.range(10**6, 10**6 + draws, dtype=tf.int64)
    labels = None if label is None else tf.constant(label)
    losses = model.losses_per_image(tf.constant(images), labels, seeds, training=False)["loss"]
    if getattr(model, "guidance", 0):  # the loss leaves it out
        model.guidance = 0.0  # the model is not used again
    scores = model.log_likelihood(
        images, num_samples=k, seed=10**6, batch_size=draws, **given(model, label)
    )
    assert losses.shape == scores.shape
    off = np.float64(losses) + scores  # both from the same noise, so that little of it is left
    allowed = 5 * off.std() / np.sqrt(draws) + 1e-3 + 1e-5 * abs(scores.mean())
    assert abs(off.mean()) < allowed, f"the loss is {off.mean():.2g} nats too high"


def all_images(image_shape: tuple[int, int, int]) -> np.ndarray:
    """Every binary image of that shape, uint8 (2^(H W C), H, W, C)."""
    bits = list(itertools.product((0, 255), repeat=int(np.prod(image_shape))))
    return np.array(bits, np.uint8).reshape(-1, *image_shape)


def probabilities_sum_to_one(model, num_samples: int = 2000) -> None:
    """Over every image of a tiny binary space, once fitted to it.

    Exact likelihoods sum to 1, bounds to at most 1 and, with many samples, to nearly 1. Fitting
    is what makes a wrong bound show: it would call every image likely at once.
    """
    assert model.num_levels == 2
    images = all_images(model.image_shape)
    for label in range(model.num_classes or 1):
        labels = None if model.num_classes is None else np.full(len(images), label)
        scores = model.log_likelihood(
            images, num_samples=num_samples, batch_size=4, **given(model, labels)
        )
        total = np.exp(scores.astype(np.float64)).sum()
        tolerance = 1e-3 if model.likelihood == "exact" else 0.05
        assert abs(total - 1.0) < tolerance, f"the probabilities sum to {total}"


def labels_matter(model) -> None:
    """The same noise with another label is another image; the same image, another likelihood."""
    a, b = (model.sample(4, seed=0, labels=label) for label in (0, 1))
    assert (a != b).any(), "samples ignore the label"
    images = images_for(model, 4)
    if model.likelihood != "none":
        a, b = (model.log_likelihood(images, labels=label) for label in (0, 1))
        assert (np.abs(a - b) > 1e-3).all(), "the likelihood ignores the label"
    if "reconstruct" in model.capabilities:
        a, b = (model.reconstruct(images, labels=label) for label in (0, 1))
        assert (a != b).any(), "reconstructions ignore the label"
    if "score" in model.capabilities:
        a, b = (model.score(images, labels=label) for label in (0, 1))
        assert (np.abs(a - b) > 1e-5).all(), "the score ignores the label"


# Training


def fit_quickly(model, images: np.ndarray, labels: np.ndarray | None, steps: int, epochs: int = 3):
    """Fits one batch for `steps` steps an epoch; returns the losses of the epochs, {name: list}."""
    model.compile(keras.optimizers.Adam(0.02), jit_compile=False)
    batch = images if labels is None else (images, labels)
    batches = tf.data.Dataset.from_tensors(batch).repeat()
    history = model.fit(batches, epochs=epochs, steps_per_epoch=steps, verbose=0, shuffle=False)
    return history.history


def every_weight_moves(model) -> None:
    """One step of training moves every trainable weight.

    Weights are randomised first, since behind a zero-initialised layer none gets a gradient, and
    the step is not the first one, in which a warm-up may switch a term off.
    """
    randomised(model)
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    model.optimizer.iterations.assign(5)
    before = [variable.numpy() for variable in model.trainable_variables]
    model.train_on_batch(images_for(model, 6), labels_for(model, 6))
    for variable, old in zip(model.trainable_variables, before, strict=True):
        assert np.isfinite(variable.numpy()).all(), variable.path
        assert (variable.numpy() != old).any(), f"{variable.path} did not move"


def gradients_are_the_slopes_of_the_loss(model) -> None:
    """Along each weight's gradient the loss rises by its norm: no path of it is cut."""
    randomised(model, 0.1)
    images, seeds = tf.constant(images_for(model, 4)), tf.range(4, dtype=tf.int64)
    labels = None if model.num_classes is None else tf.constant(labels_for(model, 4))

    @tf.function(autograph=False)
    def loss():
        return tf.reduce_mean(model.losses_per_image(images, labels, seeds, training=True)["loss"])

    held = model.trainable_variables
    with tf.GradientTape() as tape:
        value = loss()
    for variable, gradient in zip(
        held, tape.gradient(value, [each.value for each in held]), strict=True
    ):
        gradient = tf.convert_to_tensor(gradient)
        norm = float(tf.norm(gradient))
        if norm < 0.05:  # rounding would decide
            continue
        step = min(1e-2, 0.05 / norm)
        rest, sides = variable.numpy(), []
        for sign in (1, -1):
            variable.assign(rest + sign * step / norm * gradient)
            sides.append(float(loss()))
        variable.assign(rest)
        slope = (sides[0] - sides[1]) / (2 * step)
        assert abs(slope - norm) < 0.1 * norm, f"{variable.path}: slope {slope}, gradient {norm}"
