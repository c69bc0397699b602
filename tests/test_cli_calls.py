"""What a command draws is what the library gives for the options that were typed."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from test_cli import RECIPE, run

from tfgen import cli, data, export, training, zoo
from tfgen.recipe import Recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A VAE that has seen one epoch of `digits`."""
    folder = tmp_path_factory.mktemp("calls") / "vae"
    recipe = Recipe.from_dict(RECIPE)
    zoo.save(training.train(recipe, folder, verbose=0), folder, recipe)
    return folder


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The images that commands draw as pictures."""
    found: list = []
    monkeypatch.setattr(cli, "save_rows", lambda images, *_, **__: found.append(images) or "")
    return found


def test_reconstruct_draws_images_above_their_reconstructions(trained, drawn, monkeypatch):
    images, model = data.arrays("digits", "validation")[0][:4], zoo.load(trained)
    assert run(monkeypatch, "reconstruct", trained, "--num", 4) == 0
    ((above, below),) = drawn
    np.testing.assert_array_equal(above, images)
    np.testing.assert_array_equal(below, model.reconstruct(images))
    assert (above != below).any()


def test_interpolate_walks_from_the_first_half_to_the_second(trained, drawn, monkeypatch):
    images, model = data.arrays("digits", "validation")[0][:4], zoo.load(trained)
    assert run(monkeypatch, "interpolate", trained, "--rows", 2, "--steps", 3) == 0
    np.testing.assert_array_equal(drawn[0], model.interpolate(images[:2], images[2:], 3))


def test_sample_passes_its_temperature_on(trained, tmp_path, monkeypatch):
    for temperature, different in ((0, False), (1, True)):
        out = tmp_path / f"{temperature}.npz"
        given = ("--num", 4, "--temperature", temperature, "--out", out)
        assert run(monkeypatch, "sample", trained, *given) == 0
        with np.load(out) as arrays:
            images = arrays["images"]
        assert (images != images[:1]).any() == different


def test_an_export_of_another_format_has_a_folder_of_its_own(trained, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        export.formats, "save", lambda model, folder, format, **_: written.append(folder) or folder
    )
    out = tmp_path / "models"
    assert run(monkeypatch, "export", trained, "--format", "onnx", "--out", out) == 0
    assert [path.name for path in written] == [f"{trained.name}.onnx"]


def test_train_sets_the_process_up_and_ends_as_interrupted(tmp_path, monkeypatch):
    seen: dict = {}

    def interrupted(*_, **options):
        seen.update(options)
        raise KeyboardInterrupt

    (tmp_path / "my.json").write_text(json.dumps(RECIPE))
    monkeypatch.setattr(training, "train", interrupted)
    monkeypatch.setattr("tfgen.allocator.tune_allocator", lambda: seen.update(tuned=True))
    monkeypatch.setattr(
        tf.config.experimental, "enable_op_determinism", lambda: seen.update(same=True)
    )
    given = (tmp_path / "my.json", "--out", tmp_path / "run", "--deterministic")
    assert run(monkeypatch, "train", *given) == 130
    assert (seen["stop_within"], seen["tuned"], seen["same"]) == (4.0, True, True)


@pytest.mark.parametrize(("side", "across"), [(8, 32), (16, 32), (28, 56), (64, 128)])
def test_small_images_are_enlarged_until_they_can_be_seen(side, across, tmp_path):
    images = np.zeros((1, side, side, 1), np.uint8)
    for name, scale, expected in (("auto.png", None, across), ("own.png", 1, side)):
        cli.save_samples(images, None, tmp_path / name, None, scale)
        assert Image.open(tmp_path / name).size == (expected, expected)
