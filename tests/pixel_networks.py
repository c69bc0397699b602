"""Small pixel models of every network, for the tests."""

import functools
import itertools

import keras
import laws
import numpy as np
import pytest

from tfgen import PixelCNN, PixelEnsemble, PixelRNN, pixels


def ensemble(num_classes=None, dtype=None, **config):
    """Two networks of two families; of what it cannot take, the test is skipped."""
    mixture = config["pixel_distribution"] == "discretized_logistic_mixture"
    if mixture or config.get("orders", 1) > 1:
        pytest.skip("an ensemble averages logits, in one order")
    config["num_classes"] = num_classes
    members = [{"family": family, "config": config} for family in ("PixelCNN", "PixelRNN")]
    return PixelEnsemble(members, num_classes, dtype=dtype)


NETWORKS = {
    "gated": functools.partial(PixelCNN, block="gated"),
    "residual": functools.partial(PixelCNN, block="residual"),
    "attentive": functools.partial(PixelCNN, block="gated", attention_heads=2),
    "row": functools.partial(PixelRNN, cell="row_lstm"),
    "diagonal": functools.partial(PixelRNN, cell="diagonal_bilstm"),
    "ensemble": ensemble,
}
SMALL = {"filters": 4, "num_blocks": 2, "head_units": 4, "kernel_size": (2, 3)}
BINARY = {"pixel_distribution": "bernoulli", "num_levels": 2}
CATEGORICAL = {"num_levels": 3, "pixel_distribution": "categorical"}
# Spaces of images so small that all of them can be scored.
SPACES = {
    "pixels": {"image_shape": (2, 3, 1), **BINARY},
    "tokens": {"image_shape": (2, 4, 1), "token_shape": (2, 2), **BINARY},
    "levels": {"image_shape": (2, 2, 1), "token_shape": (1, 2), **CATEGORICAL},
    "colours": {"image_shape": (1, 2, 3), **CATEGORICAL},
}


def build(network: str, image_shape, **arguments):
    """A small network with random weights."""
    keras.utils.set_random_seed(1)
    model = NETWORKS[network](**{"image_shape": image_shape, **BINARY, **SMALL, **arguments})
    return laws.randomised(model, scale=0.5)


def every_image(model) -> np.ndarray:
    """Every image on the model's levels."""
    values = pixels.level_values(model.num_levels)
    count = int(np.prod(model.image_shape))
    return np.array(list(itertools.product(values, repeat=count)), np.uint8).reshape(
        -1, *model.image_shape
    )


def log_probs(model, images, **given) -> np.ndarray:
    """log p(x), float64 (images,)."""
    return model.log_likelihood(images, batch_size=len(images), **given).astype(np.float64)


def draws_are_as_likely_as_it_says(model, count: int = 6000, **given) -> None:
    """Chi-squared over every image of a tiny space."""
    from scipy.stats import chisquare

    images = every_image(model)
    drawn = model.sample(count, seed=0, batch_size=count, **given).reshape(count, -1)
    keys = {image.tobytes(): k for k, image in enumerate(images.reshape(len(images), -1))}
    observed = np.bincount([keys[image.tobytes()] for image in drawn], minlength=len(images))
    expected = count * np.exp(log_probs(model, images, **given))
    large = expected > 5
    if not large.all():
        observed, expected = (np.append(x[large], x[~large].sum()) for x in (observed, expected))
    assert chisquare(observed, expected * count / expected.sum()).pvalue > 1e-3


def lower_rows_follow_the_upper_ones(model, uppers=(0, 5), count: int = 4000, **given) -> None:
    """Completions of binary images of two rows have the exact conditional of the likelihood."""
    shape = model.image_shape
    patterns = 2 ** shape[1]  # of a row
    images = every_image(model)
    rows = images.reshape(patterns, patterns, *shape)  # upper, lower
    whole = np.exp(log_probs(model, images, **given)).reshape(patterns, patterns)
    mask = np.zeros((count, *shape), bool)
    mask[:, 0] = True
    for upper in uppers:
        start = np.repeat(rows[upper, :1], count, 0)
        drawn = model.complete(start, mask, seed=0, batch_size=count, **given)
        lower = (drawn[:, 1].reshape(count, -1) > 0) @ (2 ** np.arange(shape[1])[::-1])
        shares = np.bincount(lower, minlength=patterns) / count
        np.testing.assert_allclose(shares, whole[upper] / whole[upper].sum(), atol=0.03)


each_network = pytest.mark.parametrize("network", NETWORKS)
