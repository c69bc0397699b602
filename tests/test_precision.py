"""Sixteen bits and XLA: every family trains to finite losses, and says so in its recipe."""

import dataclasses

import keras
import laws
import numpy as np
import pytest
import runs
import tensorflow as tf

from tfgen import layers, pixels, training
from tfgen.models import gan_networks
from tfgen.models.attention import CausalAttention
from tfgen.models.trunk import Conditions
from tfgen.recipe import Recipe


def optimizers(model) -> list:
    return [optimizer for optimizer, _ in model.optimizers.values()]


def fit(model, steps: int = 3) -> dict[str, list[float]]:
    batch = (laws.images_for(model, 4),)
    if model.num_classes is not None:
        batch += (laws.labels_for(model, 4),)
    batches = tf.data.Dataset.from_tensors(batch).repeat(steps)
    return model.fit(batches, verbose=0).history


@pytest.mark.slow_except("AutoEncoder-squared_error-mixed_bfloat16")
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_sixteen_bits(case, precision):
    model = case(dtype=precision)
    model.compile(jit_compile=False)
    before = [v.numpy() for v in model.trainable_variables]
    # Enough steps for the loss scale, which starts high, to come down to where it fits.
    assert np.isfinite(list(fit(model, steps=20).values())).all()
    after = [v.numpy() for v in model.trainable_variables]
    assert all(np.isfinite(value).all() for value in after)
    assert any((a != b).any() for a, b in zip(before, after, strict=True))
    scaled = [isinstance(o, keras.optimizers.LossScaleOptimizer) for o in optimizers(model)]
    assert all(scaled) if precision == "mixed_float16" else not any(scaled)


@pytest.mark.slow_except("PixelCNN-gated-mixed_bfloat16")
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_every_endpoint_in_sixteen_bits(case, precision):
    model = case(dtype=precision)
    images = laws.images_for(model, 3)
    given = {
        "images": tf.constant(images),
        "mask": tf.broadcast_to(False, (3, *model.image_shape[:2], 1)),
        "seed": tf.range(3, dtype=tf.int64),
    }
    for name, value in laws.given(model, laws.labels_for(model, 3)).items():
        given[name] = tf.constant(value)
    if "decode" in model.endpoints():
        given["latents"] = tf.zeros((3, model.latent_dim))
    signatures = model.signatures()
    for name, (_, specs) in model.endpoints().items():
        (output,) = signatures[name](*[given[argument] for argument in specs]).values()
        if output.dtype.is_floating:
            assert np.isfinite(output).all(), name
        else:
            assert len(output) == 3, name


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_greys_are_scaled_and_checked_before_they_are_rounded(precision):
    layer = layers.GreyToPixels(dtype=precision)
    greys = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    exact = tf.cast(pixels.images_to_pixels(greys), layer.compute_dtype)
    np.testing.assert_array_equal(layer(greys), exact)
    given = keras.Input((16, 16, 1))
    np.testing.assert_array_equal(keras.Model(given, layer(given))(greys), exact)
    for wrong in (200.03, 200.3):
        with pytest.raises(ValueError, match="grey values"):
            layer(np.full((1, 2, 2, 1), wrong, np.float32))


@pytest.mark.slow_except("AutoEncoder-float64", "GAN-mixed_float16")
@pytest.mark.parametrize("precision", ["float32", "mixed_float16", "float64"])
def test_regularisers_in_every_precision(first_case, precision):
    """What they add comes in the dtype of a layer or of a weight; two graphs, one after another."""
    if precision == "float64" and first_case.family == "GAN":
        pytest.skip("a GAN refuses it")
    model, regularised = first_case(dtype=precision), 0
    for layer in model._flatten_layers():
        if isinstance(layer, (keras.layers.Dense, keras.layers.Conv2D)):
            layer.activity_regularizer = keras.regularizers.L1(1e-4)
            layer.kernel.regularizer = keras.regularizers.L2(1e-4)
            regularised += 1
    assert regularised
    for _ in range(2):
        model.compile(jit_compile=False)
        assert np.isfinite(list(fit(model, steps=2).values())).all()


def relative_errors(found, expected) -> np.ndarray:
    """The norm of the difference by that of what is expected, at each position."""
    difference = np.linalg.norm(np.float32(found) - np.float32(expected), axis=-1)
    return difference / np.linalg.norm(np.float32(expected), axis=-1)


def large(*shape: int) -> tf.Tensor:
    """Features of which squares and products leave the range of float16."""
    return tf.constant(300.0 * np.random.default_rng(len(shape)).standard_normal(shape), tf.float32)


def test_large_features_are_normalised_in_float16():
    x, w = large(2, 4, 4, 8), large(2, 5) / 300.0
    exact, short = (gan_networks.Modulation(dtype=d) for d in ("float32", "mixed_float16"))
    expected = exact([x, w])
    short([x, w])
    short.set_weights(exact.get_weights())
    found = short([x, w])
    assert found.dtype == tf.float16
    assert relative_errors(found, expected).max() < 0.01


def test_large_features_attend_in_float16():
    """In one pass and, as in sampling, position by position."""
    x, tokens = large(3, 2, 4, 8), large(3, 2, 4, 8)[..., :3]
    conditions = Conditions(tf.zeros(3, tf.int32), None, None)
    found, weights = {}, None
    for dtype in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(dtype)
        try:
            layer = CausalAttention(8, heads=2)
        finally:
            keras.config.set_dtype_policy("float32")
        layer(x, tokens, conditions)
        weights = weights or layer.get_weights()
        layer.set_weights(weights)
        whole = layer(x, tokens, conditions)
        # (rows, columns, batch, channels): the keys and values of each row, then one look around.
        own, others = (
            tf.cast(tf.transpose(y, (1, 2, 0, 3)), layer.compute_dtype) for y in (x, tokens)
        )
        above, in_row = (layer.keys_and_values(own[r], others[r], 4) for r in (0, 1))
        place = layer.look(own[1, 2], above, in_row, tf.constant(1), tf.constant(2))
        found[dtype] = whole, place
    for short, exact in zip(found["mixed_float16"], found["float32"], strict=True):
        assert short.dtype == tf.float16
        assert np.isfinite(short).all()
        # The median: where two keys are equally near, rounding decides which of them is found.
        assert np.median(relative_errors(short, exact)) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_xla(first_case, precision):
    model = first_case(dtype=precision)
    model.compile(jit_compile=True)
    assert np.isfinite(list(fit(model).values())).all()


@pytest.mark.slow
def test_loss_scales_fall_apart_from_each_other(first_case):
    """An overflow in one update halves its own scale, and skips that update alone."""
    model = first_case(dtype="mixed_float16")
    model.compile(run_eagerly=True)
    model.build_optimizers()
    first, *others = optimizers(model)
    first.dynamic_scale.assign(1e38)  # times a loss of more than 3.4 it is infinite
    before = [[v.numpy() for v in variables] for _, variables in model.optimizers.values()]
    model.train_on_batch(laws.images_for(model, 4), laws.labels_for(model, 4))
    assert float(first.dynamic_scale) < np.float32(1e38), "no overflow was noticed"
    after = [[v.numpy() for v in variables] for _, variables in model.optimizers.values()]
    for old, new in zip(before[0], after[0], strict=True):
        np.testing.assert_array_equal(old, new)
    for optimizer, old, new in zip(others, before[1:], after[1:], strict=True):
        assert float(optimizer.dynamic_scale) == 2.0**15
        assert any((a != b).any() for a, b in zip(old, new, strict=True))


@pytest.mark.slow
def test_a_run_with_skipped_steps_resumes(tmp_path, monkeypatch):
    """Loss scaling skips steps, which the optimizer then does not count; the run does."""
    recipe = Recipe(
        family="AutoEncoder",
        model={"image_shape": [8, 8, 1], "latent_dim": 2, "filters": [4], "num_blocks": 0},
        data="digits",
        batch_size=128,
        epochs=2,
        precision="mixed_float16",
        jit_compile=False,
    )
    original = training.build

    def build(*args):
        model = original(*args)
        model.optimizer.dynamic_scale.assign(1e38)
        return model

    monkeypatch.setattr("tfgen.training.run.build", build)
    whole = training.train(recipe, tmp_path / "whole", verbose=0)
    assert int(whole.optimizer.iterations) < 16
    runs.cut_off(recipe, tmp_path / "cut", 11)
    runs.assert_resumes(recipe, tmp_path / "cut", whole, tmp_path / "whole")


def test_recipes_choose_the_precision():
    recipe = Recipe(
        family="AutoEncoder",
        model={"image_shape": [8, 8, 1], "filters": [4], "num_blocks": 0},
        data="digits",
        precision="mixed_bfloat16",
    )
    assert training.build(recipe).dtype_policy.name == "mixed_bfloat16"
    assert training.build(dataclasses.replace(recipe, precision="float32")).dtype == "float32"
    with pytest.raises(ValueError, match=r"precision must be one of float32.*'float16'"):
        dataclasses.replace(recipe, precision="float16")
    with pytest.raises(ValueError, match="model must not hold dtype"):
        dataclasses.replace(recipe, model={"dtype": "float16"})
    assert keras.config.dtype_policy().name == "float32"
