"""Ordinary Keras workflows that once went wrong without a word."""

import copy
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

import tfgen
from tfgen import GAN, VAE, AutoEncoder

SMALL = {"image_shape": (8, 8, 1), "latent_dim": 2, "filters": (4,), "dense_units": 8}
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), np.uint8)


def compiled(family=VAE, **changes):
    model = family(**SMALL, **changes)
    optimizers = [keras.optimizers.Adam(0.01) for _ in model.updates_per_step]
    model.compile(*optimizers, run_eagerly=True)
    return model


def fit(model, *callbacks, **options):
    model.fit(IMAGES, **{"batch_size": 4, "verbose": 0, "callbacks": list(callbacks)} | options)
    return model


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


class CutsOff(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


class Notes(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.weights = self.model.get_weights()


@pytest.mark.slow_except("str")
@pytest.mark.parametrize("kind", [str, Path])
def test_a_backup_in_the_home_folder_is_found_again(home, kind):
    first = compiled()
    with pytest.raises(KeyboardInterrupt):
        fit(first, keras.callbacks.BackupAndRestore(kind("~/backup")), CutsOff(), epochs=2)
    notes = Notes()
    fit(compiled(seed=9), keras.callbacks.BackupAndRestore(kind("~/backup")), notes, epochs=2)
    assert not list((home / "home").iterdir())
    for own, other in zip(notes.weights, first.get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)
    assert not list((home / "here").iterdir())


def test_checkpoints_in_the_home_folder(home):
    fit(compiled(), keras.callbacks.ModelCheckpoint("~/best/a.keras"))
    assert (home / "home" / "best" / "a.keras").is_file()
    assert not list((home / "here").iterdir())


@pytest.mark.parametrize(
    ("family", "path", "options", "message"),
    [
        (VAE, "a.h5", {}, r"must end in \.keras"),
        (VAE, "a.weights.h5", {"save_best_only": True, "mode": "min"}, r"must end in \.keras"),
        (GAN, "{epoch}-{val_loss:.2f}.keras", {}, "names files by 'loss'"),
        (GAN, "{loss:.2f}.keras", {"monitor": "generator_loss"}, "names files by 'loss'"),
    ],
)
def test_a_checkpoint_that_cannot_be_written_is_refused_at_once(family, path, options, message):
    model = compiled(family)
    with pytest.raises(ValueError, match=message):
        fit(model, keras.callbacks.ModelCheckpoint(path, **options))
    assert model.steps_trained == 0


class AddsALoss(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["loss"] = 1.0


def test_a_callback_may_add_what_a_file_is_named_by(tmp_path):
    kept = keras.callbacks.ModelCheckpoint(str(tmp_path / "{loss:.2f}.keras"))
    fit(compiled(GAN), AddsALoss(), kept)
    assert [path.name for path in tmp_path.iterdir()] == ["1.00.keras"]


def test_checkpoints_that_can_be_written_are_taken(tmp_path):
    kept = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}-{loss:.2f}.keras"))
    weights = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "{epoch}.weights.h5"), save_weights_only=True
    )
    fit(compiled(AutoEncoder), kept, weights)
    assert len(list(tmp_path.iterdir())) == 2


def test_images_that_were_resized_are_rounded_first():
    encoder = AutoEncoder(**SMALL).encoder
    resize = keras.layers.Resizing(8, 8)
    images = np.random.default_rng(1).integers(0, 256, (4, 13, 13, 1)).astype(np.float32)
    with pytest.raises(Exception, match="scaled or resized"):
        encoder(resize(images))
    assert encoder(keras.ops.round(resize(images))).shape == (4, 2)


def test_a_copy_of_a_layout_has_trained_no_step(tmp_path):
    model = fit(compiled(kl_warmup_steps=10))
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    resumed = tfgen.VAE.from_config(model.get_config())
    assert (model.steps_trained, loaded.steps_trained, resumed.steps_trained) == (2, 2, 0)
    loaded.steps_before = 5
    for made in (keras.models.clone_model(loaded), keras.models.model_from_json(loaded.to_json())):
        assert made.steps_trained == 0
    loaded.save(tmp_path / "b.keras")
    for kept in (True, False):
        again = keras.models.load_model(tmp_path / "b.keras", compile=kept)
        assert again.steps_trained == 7
    assert copy.deepcopy(loaded).steps_trained == 7


def frozen_later(model, tmp_path):
    model.encoder.trainable = False
    return copy.deepcopy(model)


class Freezes(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.model.encoder.trainable = False


def frozen_in_fit(model, tmp_path):
    kept = keras.callbacks.ModelCheckpoint(str(tmp_path / "kept.keras"))
    fit(model, Freezes(), kept, epochs=2)
    return keras.models.load_model(tmp_path / "kept.keras")


@pytest.mark.slow_except("frozen_later-2")
@pytest.mark.parametrize(("freeze", "steps"), [(frozen_later, 2), (frozen_in_fit, 6)])
def test_a_file_with_stale_slots_keeps_the_steps(freeze, steps, tmp_path):
    model = fit(compiled())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras says that it leaves the optimizer's state out
        assert freeze(model, tmp_path).steps_trained == steps


def test_weights_bring_the_optimizer_along_once_it_has_slots(tmp_path):
    model = fit(compiled())
    model.save_weights(tmp_path / "a.weights.h5")
    again = compiled(seed=4)
    again.build_optimizers()
    again.load_weights(tmp_path / "a.weights.h5")
    assert again.steps_trained == 2
    stored = zip(again.optimizer.variables, model.optimizer.variables, strict=True)
    for own, other in stored:
        np.testing.assert_array_equal(own.numpy(), other.numpy())


def test_a_frozen_encoder_of_a_vae():
    model = tfgen.load("vae_2d_mnist")
    model.freeze("encoder", "posterior")
    weights = tfgen.tuning.weights(model)
    trained = {name.split("/")[0] for name, weight in weights.items() if weight.trainable}
    assert trained == {"decoder", "log_scale"}


def test_the_hierarchical_vaes_are_named_where_freezing_differs():
    page = Path(__file__).parents[1] / "docs" / "fine-tuning.md"
    names = {
        name for name in tfgen.list_models() if tfgen.zoo.info(name)["family"] == "HierarchicalVAE"
    }
    (sentence,) = [p for p in page.read_text().split("\n\n") if "contains its decoder" in p]
    assert names == {part for part in sentence.split("`") if part in tfgen.list_models()}


@pytest.mark.slow
def test_a_schedule_that_is_set_later_is_followed():
    model = VAE(**SMALL)
    model.compile(keras.optimizers.SGD(1e-4), jit_compile=False)
    fit(model)
    model.optimizer.learning_rate = keras.optimizers.schedules.ExponentialDecay(0.0, 1, 0.5)
    before = model.get_weights()
    fit(model)
    for own, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(own, other)
