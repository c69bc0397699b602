"""A model from a preset goes on where its training ended: fine-tuning must not make it worse."""

import keras
import numpy as np
import pytest

from tfgen import data, devices, families, presets, starting, training, tuning, zoo
from tfgen.recipe import Recipe

SMALL = {"image_shape": [8, 8, 1]}
MODELS = {
    "AutoEncoder": {"latent_dim": 4, "filters": [8], "num_blocks": 0},
    "VAE": {
        "latent_dim": 4,
        "filters": [8],
        "num_blocks": 0,
        "pixel_distribution": "gaussian",
        "kl_warmup_steps": 60,
    },
    "GAN": {"latent_dim": 4, "filters": [8], "dense_units": 8},
    "PixelCNN": {"filters": 8, "num_blocks": 1, "head_units": 8, "num_levels": 4},
    "PixelRNN": {"filters": 8, "num_blocks": 1, "head_units": 8, "num_levels": 4},
    "Classifier": {"filters": [8], "feature_units": 16, "num_classes": 10},
}


@pytest.fixture(scope="module", params=MODELS)
def entry(request, tmp_path_factory):
    """A folder with a trained model of digits."""
    folder = tmp_path_factory.mktemp("entries") / request.param
    recipe = Recipe(
        family=request.param,
        model={**SMALL, **MODELS[request.param]},
        data="digits",
        batch_size=64,
        epochs=6,
        learning_rate=0.005,
        warmup_steps=10,
        clip_norm=None if request.param == "GAN" else 100.0,
        ema_momentum=0.0 if request.param == "GAN" else 0.98,
        jit_compile=False,
    )
    model = training.train(recipe, folder / "run", verbose=0)
    return presets.save(model, folder / "entry", recipe)


def test_the_gradient_s_bound_is_that_of_each_device(tmp_path, monkeypatch):
    """Each of two hands over half of the summed gradient, as in `tfgen train`."""
    recipe = Recipe("AutoEncoder", {**SMALL, **MODELS["AutoEncoder"]}, "digits", clip_norm=4.0)
    entry = presets.save(families.find("AutoEncoder")(**recipe.model), tmp_path / "entry", recipe)
    assert zoo.load(entry).optimizer.global_clipnorm == 4.0
    monkeypatch.setattr(devices, "num_replicas", lambda: 2)
    assert zoo.load(entry).optimizer.global_clipnorm == 2.0


def arguments(model, split: str) -> list[np.ndarray]:
    images, labels = data.arrays("digits", split)
    return [images] if model.num_classes is None else [images, labels]


def loss_of(model) -> float:
    return model.evaluate(*arguments(model, "validation"), verbose=0, return_dict=True)["loss"]


@pytest.mark.slow
def test_an_epoch_on_its_own_data_does_not_make_it_worse(entry):
    model = zoo.load(entry)
    if "loss" not in model.loss_names:
        pytest.skip("a GAN has no loss that says how good it is")
    before = loss_of(model)
    model.fit(*arguments(model, "train"), batch_size=64, verbose=0)
    after = loss_of(model)
    assert after <= before + 0.01 * abs(before)


@pytest.mark.slow
def test_the_averaged_generator_is_kept(entry):
    """Its average is warmed up once, in training, and moves little in the steps after that."""
    model = zoo.load(entry)
    if not isinstance(model, families.find("GAN")):
        pytest.skip("only a GAN averages weights in its own step")
    before = {k: v for k, v in tuning.values(model).items() if k.startswith("averaged")}
    model.generator.set_weights([w + 1.0 for w in model.generator.get_weights()])
    images, _ = data.arrays("digits", "train")
    model.fit(images[:128], batch_size=64, verbose=0)  # two steps
    # An average that begins anew would have moved by more than a half.
    moved = [np.abs(tuning.values(model)[name] - value).max() for name, value in before.items()]
    assert max(moved) < 0.3


@pytest.mark.slow
def test_schedules_are_past_and_the_learning_rate_is_low(entry):
    recipe, model = zoo.load_recipe(entry), zoo.load(entry)
    assert model.steps_trained == 6 * (1151 // 64)
    for optimizer, _ in model.optimizers.values():
        rate = float(optimizer.learning_rate)
        assert rate == pytest.approx(0.02 * recipe.learning_rate)
    model.fit(*arguments(model, "train"), batch_size=64, verbose=0)
    assert model.steps_trained == 6 * (1151 // 64) + 18
    scratch = zoo.load(entry, load_weights=False)
    assert scratch.steps_trained == 0
    default = 2e-4 if len(scratch.optimizers) > 1 else 1e-3
    for optimizer, _ in scratch.optimizers.values():
        assert float(optimizer.learning_rate) == pytest.approx(default)


def test_an_untrained_preset_keeps_its_schedules(tmp_path):
    model = families.find("VAE")((8, 8, 1), kl_warmup_steps=5, latent_dim=2, filters=(4,))
    model.save_to_preset(tmp_path / "new")
    assert zoo.load(tmp_path / "new").steps_trained == 0


@keras.saving.register_keras_serializable("test_fine_tuning")
class Descending(families.find("AutoEncoder")):
    """A family of a user's own, with another optimizer by default."""

    def compile(self, optimizer="sgd", **options):
        super().compile(optimizer, **options)


@keras.saving.register_keras_serializable("test_fine_tuning")
class Scheduled(families.find("AutoEncoder")):
    """One whose default rate is a schedule."""

    def compile(self, optimizer=None, **options):
        schedule = keras.optimizers.schedules.CosineDecay(0.1, 100)
        super().compile(optimizer or keras.optimizers.SGD(schedule), **options)


@pytest.mark.parametrize("with_recipe", [True, False])
@pytest.mark.parametrize("family", [Descending, Scheduled])
def test_a_family_may_have_another_optimizer(family, with_recipe, tmp_path):
    arguments = {"image_shape": [8, 8, 1], "latent_dim": 2, "filters": [4], "dense_units": 4}
    recipe = Recipe(f"test_fine_tuning>{family.__name__}", arguments, "digits")
    zoo.save(family(**arguments), tmp_path / "own", recipe if with_recipe else None)
    optimizer = zoo.load(tmp_path / "own").optimizer
    assert isinstance(optimizer, keras.optimizers.SGD)
    if with_recipe:
        rate = recipe.learning_rate * starting.FINE_TUNING
        assert float(optimizer.learning_rate) == pytest.approx(rate)


@pytest.mark.nightly
@pytest.mark.parametrize("name", [n for n in zoo.list_models() if "gan" not in n])
def test_an_epoch_does_not_make_a_real_entry_worse(name):
    keras.utils.set_random_seed(0)
    model, recipe = zoo.load(name), zoo.load_recipe(name)
    train, validation = (data.arrays(recipe.data, split) for split in ("train", "validation"))
    given = 1 if model.num_classes is None else 2
    before = model.evaluate(*validation[:given], verbose=0, return_dict=True)["loss"]
    model.fit(*train[:given], batch_size=recipe.batch_size, verbose=0)
    after = model.evaluate(*validation[:given], verbose=0, return_dict=True)["loss"]
    assert after <= before + 0.01 * abs(before)
