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


each_network = pytest.mark.parametrize("network", NETWORKS)
