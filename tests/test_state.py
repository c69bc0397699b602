"""Graphs follow the model: what changes what a graph would hold makes a new one, or is refused."""

import warnings

import keras
import laws
import numpy as np
import pytest
import tensorflow as tf

from tfgen import GAN, VAE, AutoEncoder, tuning, zoo
from tfgen.models.classifier import Classifier
from tfgen.optimizers import GroupedAdam

SMALL = {"image_shape": (8, 8, 1), "latent_dim": 2, "filters": (4,), "dense_units": 8}
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), np.uint8)


def fit(model, **arguments):
    return model.fit(IMAGES, batch_size=8, verbose=0, **arguments)


def assert_same_as_a_copy(model, call, tmp_path) -> None:
    """What the model gives is what a fresh model of the same weights gives."""
    model.save_to_preset(tmp_path / "copy")
    np.testing.assert_allclose(call(model), call(zoo.load(tmp_path / "copy")), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_endpoints_after_adapters_have_trained(first_case, tmp_path):
    """Every endpoint was called before; LoRA then replaces the kernels it read."""
    model = laws.randomised(first_case())
    images, given = laws.images_for(model, 4), laws.given(model, laws.labels_for(model, 4))

    def call(model):
        name = next(n for n in ("log_likelihood", "encode", "score") if n in model.capabilities)
        return np.asarray(getattr(model, name)(images, **given))

    before = call(model)
    model.enable_lora(2, "*")
    model.compile(*[keras.optimizers.Adam(0.1) for _ in model.updates_per_step], jit_compile=False)
    model.fit(images, laws.labels_for(model, 4), epochs=5, verbose=0)
    assert (call(model) != before).any(), "the endpoint still runs what it was made from"
    assert_same_as_a_copy(model, call, tmp_path)


def test_features_of_a_classifier_after_adapters_have_trained(tmp_path):
    model = laws.randomised(Classifier((8, 8, 1), 3, filters=(4,), feature_units=5))
    before = model.features(IMAGES)
    model.enable_lora(2, "encoder_trunk")
    model.compile(keras.optimizers.Adam(0.1), jit_compile=False)
    model.fit(IMAGES, np.arange(8) % 3, epochs=3, verbose=0)
    assert (model.features(IMAGES) != before).any()
    assert_same_as_a_copy(model, lambda m: m.features(IMAGES), tmp_path)


@pytest.mark.slow
def test_beta_between_two_fits():
    losses = {}
    for changed in (False, True):
        keras.utils.set_random_seed(0)
        model = VAE(**SMALL, beta=1.0)
        model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
        fit(model)
        if changed:
            model.beta = 100.0
        losses[changed] = fit(model).history
        evaluated = model.evaluate(IMAGES, batch_size=8, verbose=0, return_dict=True)
        expected = evaluated["reconstruction"] + model.beta * evaluated["kl"]
        assert evaluated["loss"] == pytest.approx(expected, rel=1e-5)
    history = losses[True]
    assert history["loss"][0] == pytest.approx(
        history["reconstruction"][0] + 100.0 * history["kl"][0], rel=1e-5
    )
    assert losses[False]["kl"] == pytest.approx(history["kl"])


def test_candidates_after_a_sample():
    model = laws.randomised(GAN(**SMALL, candidates=8, selectivity=20.0))
    chosen = model.sample(16, seed=0)
    model.candidates = 1
    plain = model.sample(16, seed=0)
    assert (plain != chosen).any()
    np.testing.assert_array_equal(plain, model.decode(model.latents(16, seed=0)))


def test_an_unchanged_model_keeps_its_graphs():
    model = AutoEncoder(**SMALL)
    model.compile(jit_compile=False)
    model.encode(IMAGES), fit(model)
    graph, step = model._graph("encode"), model.train_function
    model.encode(IMAGES), fit(model)
    assert model._graph("encode") is graph
    assert model.train_function is step


def test_warm_ups_go_by_the_steps_behind_the_weights(first_case):
    """Steps that an earlier optimizer took count as its own do, also while gradients accumulate."""
    config = first_case().get_config()
    if "kl_warmup_steps" not in config:
        pytest.skip("the family has no warm-up in its objective")
    config |= {"kl_warmup_steps": 8, "beta": 1.0}
    model = laws.randomised(type(first_case()).from_config(config))
    model.compile(keras.optimizers.Adam(gradient_accumulation_steps=2))
    images, labels = laws.images_for(model, 2), laws.labels_for(model, 2)
    labels = None if labels is None else tf.constant(labels, tf.int64)

    def kl_weight():
        seeds = tf.range(2, dtype=tf.int64)
        losses = model.losses_per_image(tf.constant(images), labels, seeds, True)
        return float((losses["loss"] - losses["reconstruction"])[0] / losses["kl"][0])

    assert kl_weight() == pytest.approx(0.0, abs=1e-2)
    model.steps_before = 4
    assert kl_weight() == pytest.approx(0.5, abs=1e-2)
    model.optimizer._iterations.assign(2)
    assert kl_weight() == pytest.approx(0.75, abs=1e-2)


@pytest.mark.slow_except("VAE", "GAN")
def test_schedules_do_not_begin_again_with_another_optimizer(first_case, tmp_path):
    """The warm-ups of the KL and of averaged weights go by the steps behind the weights."""
    model = first_case()
    model.compile(run_eagerly=True)
    part = next(n for n, v in tuning.weights(model).items() if v.trainable and "/" in n)
    images, labels = laws.images_for(model, 2), laws.labels_for(model, 2)
    for steps, change in enumerate((lambda: model.freeze(part), model.unfreeze, model.compile)):
        model.run_eagerly = True
        model.train_on_batch(images, labels)
        change()
        assert model.steps_trained == int(model.step) == steps + 1
    model.compile(*[optimizer for optimizer, _ in model.optimizers.values()])
    assert model.steps_trained == 3
    model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.steps_trained == 3
    with pytest.raises(ValueError, match="must be left out"):
        loaded.compile(loss="mse")
    assert loaded.steps_trained == 3


@pytest.mark.slow_except("AutoEncoder", "GAN")
def test_rates_by_variable_follow_what_trains(first_case, tmp_path):
    """Variables that `freeze` takes out of an optimizer, and gives back, keep their own factor."""
    model = first_case()
    model.compile(run_eagerly=True)
    factors = {
        id(variable): 0.5 + index
        for _, variables in model.optimizers.values()
        for index, variable in enumerate(variables)
    }

    def assert_factors():
        model.train_on_batch(laws.images_for(model, 2), laws.labels_for(model, 2))
        for optimizer, variables in model.optimizers.values():
            assert optimizer.factors == [factors[id(v)] for v in variables]

    model.compile(
        *[GroupedAdam([factors[id(v)] for v in vs]) for _, vs in model.optimizers.values()],
        run_eagerly=True,
    )
    part = next(n for n, v in tuning.weights(model).items() if v.trainable and "/" in n)
    model.freeze(part)
    assert_factors()
    model.save(tmp_path / "model.keras")
    keras.models.load_model(tmp_path / "model.keras").fit(
        laws.images_for(model, 2), laws.labels_for(model, 2), verbose=0
    )
    model.unfreeze()
    assert_factors()


def test_quantize_is_refused(first_case, tmp_path):
    model = first_case()
    with pytest.raises(NotImplementedError, match=r"quantize is not supported, .*half=True"):
        model.quantize("int8")


def test_a_quantised_part_is_not_saved(tmp_path):
    model = AutoEncoder(**SMALL)
    model.encoder.quantize("int8")
    for call in (model.save_to_preset, lambda path: model.save(f"{path}.keras")):
        with pytest.raises(ValueError, match="a quantised layer cannot be saved"):
            call(tmp_path / "model")
    assert not list(tmp_path.glob("model/*"))
