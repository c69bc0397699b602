"""Broken pixel models, each of which a law of test_pixel_(models|sampling).py must catch.

All of these train, sample and look fine; that is why the laws exist.
"""

import laws
import numpy as np
import pytest
import tensorflow as tf
from pixel_networks import BINARY, SMALL, every_image
from test_pixel_models import dependence
from test_pixel_sampling import naive_sample

from tfgen import PixelCNN, layers
from tfgen.models.pixel_cnn import GatedTrunk
from tfgen.models.sampler import Sampler
from tfgen.models.trunk import ResidualTrunk


class SeesItself(PixelCNN):
    """Mask B in the first layer."""

    def build_trunk(self):
        trunk = super().build_trunk()
        trunk.first = layers.MaskedConv2D(2 * self.filters, trunk.first.kernel_size, "B")
        return trunk


class ShiftedMask(layers.MaskedConv2D):
    """The current row one column too far to the right."""

    def masked_kernel(self):
        self.allowed[-1] = np.roll(self.allowed[-1], 1)
        kernel = super().masked_kernel()
        self.allowed[-1] = np.roll(self.allowed[-1], -1)
        return kernel


class SeesOneTooFar(PixelCNN):
    def build_trunk(self):
        trunk = super().build_trunk()
        trunk.blocks[0].masked = ShiftedMask(self.filters, (2, 3), "B")
        return trunk


class LeaksAChannel(PixelCNN):
    """Mask B where the head sees the pixel's own channels."""

    def build_trunk(self):
        groups = self.token_grid.groups
        self.from_token = layers.MaskedDense(self.head_units, groups, "B", use_bias=False)
        return super().build_trunk()

    def __setattr__(self, name, value):
        if name == "from_token" and hasattr(self, "from_token"):
            return  # the right one comes too late
        super().__setattr__(name, value)


class ShiftsTooLittle(PixelCNN):
    """The vertical stack's first layer sees the current row: all of it, to the right as well."""

    def build_trunk(self):
        trunk = super().build_trunk()
        size = trunk.first_v.kernel_size
        trunk.first_v = layers.MaskedConv2D(self.filters, size, "vertical_B")
        return trunk


def random(family, image_shape=(3, 3, 1), **arguments):
    return laws.randomised(family(image_shape, **{**BINARY, **SMALL, **arguments}), scale=0.5)


@pytest.mark.slow_except("SeesItself-arguments0", "LeaksAChannel-arguments2")
@pytest.mark.parametrize(
    ("family", "arguments"),
    [
        (SeesItself, {"block": "residual"}),
        (SeesOneTooFar, {"block": "residual"}),
        (LeaksAChannel, {"image_shape": (1, 2, 3)}),
        (ShiftsTooLittle, {}),
    ],
)
def test_a_leak_is_caught(family, arguments):
    """By the Jacobian, and by probabilities that do not sum to 1."""
    model = random(family, dtype="float64", **arguments)
    assert (np.triu(dependence(model)) != 0).any()
    images = every_image(model)
    scores = model.log_likelihood(images, batch_size=len(images)).astype(np.float64)
    assert abs(np.exp(scores).sum() - 1.0) > 1e-3


class ForgetsALeftColumn(GatedTrunk):
    """The cache of the current row is never filled."""

    def step(self, state, left, terms, kernels):
        return super().step(state, left, terms, kernels)._replace(state=state)


class KeepsAnOldRow(ResidualTrunk):
    """The rows above stay those of the first row."""

    def end_row(self, cache, known, recorded, tokens, conditions):
        return cache


@pytest.mark.slow
@pytest.mark.parametrize("trunk", [ForgetsALeftColumn, KeepsAnOldRow])
def test_a_stale_cache_is_caught(trunk, monkeypatch):
    block = "gated" if issubclass(trunk, GatedTrunk) else "residual"
    name = f"tfgen.models.pixel_cnn.{trunk.__mro__[1].__name__}"  # where PixelCNN looks it up
    whole = random(PixelCNN, (4, 5, 1), block=block)
    seeds = whole.image_seeds(6, 0)
    order = whole.picked_reading(seeds)
    np.testing.assert_array_equal(
        Sampler(whole).draw(seeds, None, order), naive_sample(whole, seeds)[0]
    )
    monkeypatch.setattr(name, trunk)
    broken = random(PixelCNN, (4, 5, 1), block=block)
    fast = Sampler(broken).draw(seeds, None, order).numpy()
    assert (fast != naive_sample(broken, seeds)[0]).any()


class MeanOfTheOrders(PixelCNN):
    """The mean of the log probabilities, no density of anything."""

    def _mixture_log_prob(self, images, labels):
        levels = self.levels_of(images)
        batch = tf.shape(levels)[0]
        values = [
            self.log_prob_of_reading(levels, labels, tf.fill((batch,), k))
            for k in range(self.num_readings)
        ]
        return tf.cast(tf.reduce_mean(tf.stack(values), 0), tf.float32)


class MeanOverPixels(PixelCNN):
    def _mixture_log_prob(self, images, labels):
        return super()._mixture_log_prob(images, labels) / np.prod(self.image_shape)


@pytest.mark.parametrize("family", [MeanOfTheOrders, MeanOverPixels])
def test_a_likelihood_that_is_none_is_caught(family):
    model = random(family, (2, 2, 1), orders=4)
    images = every_image(model)
    scores = model.log_likelihood(images, batch_size=len(images)).astype(np.float64)
    assert abs(np.exp(scores).sum() - 1.0) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"num_levels": 256, "pixel_distribution": "categorical"},
        {"token_shape": (1, 2), "orders": 2},
        {},
    ],
)
def test_only_a_tie_excuses_another_draw(arguments):
    """Another level where the random number lies on an edge passes; anywhere else it does not."""
    model = random(PixelCNN, (4, 4, 1), **arguments)
    given = {"seed": np.arange(64)}
    drawn = model.sample(64, seed=0)
    laws.assert_close_draws(model, drawn, drawn, given)
    with pytest.raises(AssertionError, match="differs where nothing is near"):
        laws.assert_close_draws(model, drawn, model.sample(64, seed=64), given)
    changed = drawn.copy()
    # The last pixel's neighbouring level: nothing comes after it.
    changed[:, 3, 3] ^= 1 if model.num_levels == 256 else 255
    distances = np.array(
        [
            laws.distance_from_tie(model, drawn[i : i + 1], changed[i : i + 1], {"seed": [i]})
            for i in range(64)
        ]
    )
    assert distances.min() < 0.05 < distances.max()
    assert distances.max() > 20 * distances.min()
