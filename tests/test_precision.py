"""Sixteen bits and XLA: every family trains to finite losses, and says so in its recipe."""

import dataclasses

import keras
import laws
import numpy as np
import pytest
import runs
import tensorflow as tf

from tfgen import training
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
