"""A family that is written outside the package passes all that holds for those inside.

No file of tfgen knows RealNVP: it is found in Keras' registry. See docs/families.md.
"""

import inspect

import keras
import laws
import numpy as np
import pytest
import tensorflow as tf
import test_contract
from conftest import FITTED_STEPS
from realnvp import RealNVP
from serving_support import Server

import tfgen
from tfgen import VAE, HierarchicalVAE, evaluation, export, families, training
from tfgen.recipe import Recipe
from tfgen.serving import Client

pytestmark = pytest.mark.slow_except(
    *("test_the_contract_was_found", "test_configuration", "test_sampling", "test_likelihood"),
)

TINY = {"image_shape": (4, 4, 1), "couplings": 2, "units": 8, "num_levels": 16}
VARIED = {"image_shape": (4, 6, 3), "couplings": 3, "units": 5, "num_levels": 17, "seed": 11}


class Case:
    """As in conftest.py: calling it builds a model."""

    family, name, arguments = "realnvp>RealNVP", "tiny", TINY

    def __call__(self, **changes) -> RealNVP:
        keras.utils.set_random_seed(1)
        return RealNVP(**{"seed": 5, **TINY, **changes})


@pytest.fixture(scope="module")
def case():
    return Case()


@pytest.fixture(scope="module")
def first_case():
    return Case()


@pytest.fixture(scope="module")
def fitted(case):
    model = laws.randomised(case(), 0.05)
    laws.fit_quickly(model, laws.images_for(model, 4), None, steps=FITTED_STEPS // 3)
    return model


# Every test of the contract that takes a family, under the fixtures above.
FIXTURES = {"case", "first_case", "fitted", "tmp_path"}
globals().update(
    {
        name: test
        for name, test in vars(test_contract).items()
        if name.startswith("test_")
        and set(inspect.signature(test).parameters) <= FIXTURES
        and set(inspect.signature(test).parameters) & (FIXTURES - {"tmp_path"})
    }
)


def test_the_contract_was_found():
    found = [name for name in globals() if name in vars(test_contract)]
    assert len([name for name in found if name.startswith("test_")]) > 20


def test_configuration():
    laws.keeps_its_configuration(RealNVP, VARIED)
    assert families.find("realnvp>RealNVP") is RealNVP
    assert families.name_of(RealNVP) == "realnvp>RealNVP"


@pytest.mark.slow
def test_from_recipe_to_server(tmp_path):
    """Trains, is saved, loaded, evaluated, exported and answers as a servable."""
    recipe = Recipe(
        family="realnvp>RealNVP",
        model={"image_shape": [8, 8, 1], "couplings": 2, "units": 16, "num_levels": 17},
        data="digits",
        epochs=4,
        batch_size=64,
        learning_rate=0.01,
        jit_compile=False,
        results=({"metric": "log_likelihood", "num_samples": 2},),
    )
    model = training.train(recipe, tmp_path / "run", verbose=0)
    entry = model.save_to_preset(tmp_path / "realnvp_digits")
    loaded = tfgen.load(entry)
    assert type(loaded) is RealNVP
    np.testing.assert_array_equal(loaded.sample(2, seed=1), model.sample(2, seed=1))
    figures = evaluation.METRICS["log_likelihood"](loaded, "digits", num_samples=2, verbose=0)
    nats, *_ = figures.values()
    assert nats.unit == "nats per image"
    assert 0 < nats.value < 64 * np.log(17)  # better than noise
    version = export.save(loaded, tmp_path / "models" / "realnvp")
    served = tf.saved_model.load(str(version)).signatures["sample"]
    images = served(seed=tf.constant([1, 2], tf.int64))["images"]
    np.testing.assert_array_equal(images, loaded.sample(2, seed=1))
    server = Server(tmp_path / "models")
    try:
        client = Client(f"http://{server.host}:{server.port}")
        answer = client.predict("realnvp", {"seed": np.array([1, 2])}, "sample")["images"]
    finally:
        server.stop()
    np.testing.assert_array_equal(answer, images)


# A family written as any Keras model is, without the conventions of those inside.


@keras.saving.register_keras_serializable("casual")
class Casual(VAE):
    """Hands its arguments on, and has layers and weights without names, some of one name."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.extra = [keras.layers.Conv2D(2, 3), keras.layers.Conv2D(2, 3), keras.layers.PReLU()]
        for layer in self.extra:
            layer.build((None, 4, 4, 2))
        self.plain = [self.add_weight(shape=(2,), initializer="normal") for _ in range(3)]
        self.same = [self.add_weight(name="w", shape=(2,), initializer="normal") for _ in range(3)]


@pytest.mark.slow_except("*")
def test_a_family_without_conventions_is_saved_and_loaded(tmp_path):
    for _ in range(3):  # Keras counts the names of layers and weights up with each model
        model = Casual((4, 4, 1), latent_dim=2, filters=(4,), dense_units=4)
    for weight in model.weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    names = list(tfgen.tuning.weights(model))
    assert len(names) == len(set(names))  # one that two networks share has a name in each
    assert {id(weight) for weight in tfgen.tuning.weights(model).values()} == {
        id(weight) for weight in model.weights
    }
    assert names == list(tfgen.tuning.weights(Casual.from_config(model.get_config())))
    # What gets an adapter goes by the names of its weights.
    twin = Casual.from_config(model.get_config())
    assert twin.enable_lora(1, "conv2d_1") == ["conv2d_1"]
    adapted = {f"{name}/kernel" for name in twin.enable_lora(1, "*")}
    assert "conv2d/kernel" in adapted <= set(tfgen.tuning.weights(twin))
    model.sample(2, seed=0)
    model.save_to_preset(tmp_path / "preset")
    model.save(tmp_path / "model.keras")
    for loaded in (
        tfgen.load(tmp_path / "preset"),
        keras.models.load_model(tmp_path / "model.keras"),
    ):
        for own, expected in zip(loaded.weights, model.weights, strict=True):
            np.testing.assert_array_equal(own, expected)


@pytest.mark.slow_except("*")
def test_a_class_that_nothing_could_load_is_not_saved(tmp_path):
    class Unknown(VAE):
        pass

    with pytest.raises(ValueError, match="model must be of a registered class"):
        Unknown((4, 4, 1), latent_dim=2, filters=(4,)).save_to_preset(tmp_path / "preset")
    assert not (tmp_path / "preset").exists()


@keras.saving.register_keras_serializable("casual")
class Late(VAE):
    """As `keras.Sequential` lets one write it: without an Input."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.extra = keras.Sequential([keras.layers.Dense(3)])

    def losses_per_image(self, images, labels, seeds, training):
        losses = super().losses_per_image(images, labels, seeds, training)
        seen = self.extra(tf.reshape(tf.cast(images, tf.float32), (-1, 16)))
        return losses | {"loss": losses["loss"] + tf.reduce_sum(seen, 1)}


@pytest.mark.slow_except("*")
def test_weights_that_are_made_in_the_first_step_are_explained():
    model = Late((4, 4, 1), latent_dim=2, filters=(4,), dense_units=4)
    model.compile(jit_compile=False)
    with pytest.raises(ValueError, match="Build it in the model's constructor"):
        model.fit(np.zeros((4, 4, 4, 1), np.uint8) + 9, verbose=0)


@pytest.mark.slow_except("*")
def test_a_network_of_a_class_that_is_not_registered(tmp_path):
    class Mine(HierarchicalVAE):
        pass

    arguments = {"top_dim": 2, "filters": (4,), "groups": (1,), "group_channels": (1,)}
    encoder = Mine((4, 4, 1), dense_units=4, **arguments).encoder
    keras.Sequential([encoder, keras.layers.Dense(2)]).save(tmp_path / "part.keras")
    with pytest.raises(ValueError, match="Mine is not registered"):
        keras.models.load_model(tmp_path / "part.keras")
    keras.models.load_model(tmp_path / "part.keras", custom_objects={"Mine": Mine})


@pytest.mark.slow_except("*")
def test_a_family_that_makes_weights_late_is_not_saved(tmp_path):
    """Those would be lost without a word: what loads the file has no place for them yet."""
    model = Late((4, 4, 1), latent_dim=2, filters=(4,), dense_units=4)
    model.extra(np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match=r"in its constructor.*'sequential/dense/bias' came later"):
        model.save_to_preset(tmp_path / "preset")
    assert not (tmp_path / "preset").exists()
