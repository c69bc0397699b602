"""What a command draws is what the library gives for the options that were typed."""

import json
import os
import shutil
import signal
import time
import types

import laws
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from test_cli import RECIPE, run

from tfgen import VAE, PixelCNN, cli, data, evaluation, export, files, plots, training, zoo
from tfgen.recipe import Recipe
from tfgen_command import command_line


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


@pytest.mark.slow_except("None")
@pytest.mark.parametrize("num_classes", [None, 2])
def test_commands_take_as_many_images_as_a_small_set_has(
    tmp_path, drawn, monkeypatch, capsys, num_classes
):
    """Whoever has 50 photos has eight for validation."""
    images = data.arrays("digits", "train")[0][:50]
    np.savez(tmp_path / "few.npz", images=images, labels=np.arange(50) % 2)
    model = RECIPE["model"] | ({} if num_classes is None else {"num_classes": num_classes})
    recipe = Recipe.from_dict(RECIPE | {"model": model, "data": str(tmp_path / "few.npz")})
    entry = zoo.save(training.build(recipe, 1), tmp_path / "entry", recipe)
    for command, rows in (("reconstruct", 2), ("interpolate", 4)):
        assert run(monkeypatch, command, entry, "--out", tmp_path / f"{command}.png") == 0
        assert len(drawn[-1]) == rows
    assert len(drawn[0][0]) == 8
    if num_classes is not None:
        again = ("interpolate", entry, "--label", "1,1", "--out", tmp_path / "again.png")
        assert run(monkeypatch, *again) == 0
        assert len(drawn[-1]) == 2  # of four images
    capsys.readouterr()
    assert run(monkeypatch, "score", entry) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8
    assert run(monkeypatch, "reconstruct", entry, "--num", 9, "--out", tmp_path / "r.png") == 2
    assert "validation split has 8. Ask for fewer." in capsys.readouterr().err


def test_complete_keeps_what_is_white(drawn, tmp_path, monkeypatch):
    model = laws.randomised(
        PixelCNN((8, 8, 1), filters=4, num_blocks=1, head_units=4, num_mixtures=2)
    )
    entry = zoo.save(model, tmp_path / "entry", Recipe("PixelCNN", {}, "digits"))
    mask = np.eye(8, dtype=bool)[..., None]
    Image.fromarray(255 * mask[..., 0].astype(np.uint8)).save(tmp_path / "mask.png")
    given = ("--mask", tmp_path / "mask.png", "--num", 2, "--ways", 3, "--seed", 5)
    assert run(monkeypatch, "complete", entry, *given) == 0
    images = data.arrays("digits", "validation")[0][:2]
    np.testing.assert_array_equal(
        drawn[0], plots.completed(zoo.load(entry), images, mask, 3, None, 5)
    )
    shown = drawn[0][:, 1:-1]
    assert (shown == images[:, None])[:, :, mask[..., 0]].all()
    assert (shown != images[:, None])[:, :, ~mask[..., 0]].any()


def test_manifold_draws_the_plane(tmp_path, monkeypatch, capsys):
    found = []
    monkeypatch.setattr(cli, "save_captioned", lambda picture, *_: found.append(picture) or "")
    for num_classes, options in ((None, ()), (3, ("--label", 2))):
        arguments = {**RECIPE["model"], "latent_dim": 2, "num_classes": num_classes}
        model = laws.randomised(VAE(**arguments))
        entry = zoo.save(model, tmp_path / f"{num_classes}", Recipe("VAE", {}, "digits"))
        assert run(monkeypatch, "manifold", entry, "--side", 4, *options) == 0
        labels = None if num_classes is None else 2
        plane = model.decode(plots.prior_plane(4), labels=labels)
        np.testing.assert_array_equal(found[-1], plots.grid(plane, 4, padding=0))
    assert run(monkeypatch, "manifold", entry, "--side", 4, "--force") == 2
    assert "is class-conditional. Pass --label." in capsys.readouterr().err


def test_a_few_images_do_not_need_the_whole_split(trained, drawn, tmp_path, monkeypatch):
    """Which may be larger than memory."""
    images, labels = data.arrays("digits", "train")
    for index, (image, label) in enumerate(zip(images[:60], labels[:60], strict=True)):
        path = tmp_path / "photos" / str(label) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    expected = data.arrays(str(tmp_path / "photos"), "validation")[0][:3]
    monkeypatch.setattr("tfgen.data.sources._read_folder", lambda *_: pytest.fail("all were read"))
    given = ("--data", tmp_path / "photos", "--num", 3)
    assert run(monkeypatch, "reconstruct", trained, *given) == 0
    np.testing.assert_array_equal(drawn[0][0], expected)


def test_sigterm_leaves_nothing_half_written(tmp_path, monkeypatch):
    def work(**_):
        with files.scratch(tmp_path) as folder:
            (folder / "half").touch()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(command_line, "app", work)
    try:
        with pytest.raises(SystemExit) as stop:
            command_line.run()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stop.value.code == 143
    assert not list(tmp_path.iterdir())


def test_a_run_is_exported_under_the_name_that_was_typed(trained, tmp_path, monkeypatch):
    (tmp_path / "my run").symlink_to(trained)
    (tmp_path / "latest").symlink_to(tmp_path / "my run")
    noted = []
    monkeypatch.setattr(export, "save", lambda model, folder, **_: noted.append(folder.name))
    monkeypatch.setattr(export, "update_config", lambda *_: None)
    with pytest.raises(ValueError, match="or link to it"):
        export.add(tmp_path / "models", tmp_path / "my run")
    export.add(tmp_path / "models", tmp_path / "latest")
    assert noted == ["latest"]


def test_a_walk_needs_two_images(trained, monkeypatch, capsys):
    one = data.arrays("digits", "validation")[0][:1]
    monkeypatch.setattr(cli, "_of_validation", lambda *_: (one, None))
    assert run(monkeypatch, "interpolate", trained) == 2
    assert "needs two images" in capsys.readouterr().err


def test_a_class_that_was_asked_for_is_not_left_out(monkeypatch):
    """Where the validation split has none of it."""
    images, found = data.arrays("digits", "validation")
    rare = found != 7
    monkeypatch.setattr(cli, "_of_validation", lambda *_: (images[rare], found[rare]))
    monkeypatch.setattr(cli, "_data_of", lambda *_: "digits")
    model = types.SimpleNamespace(num_classes=10)
    with pytest.raises(ValueError, match="images of class 7, and the validation split has 0"):
        cli.ends_for(model, "own", None, "digits", None, [3, 7])


def test_an_evaluation_of_nothing_says_why(trained, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: {})
    assert run(monkeypatch, "evaluate", trained) == 0
    assert f"{trained}: nothing to measure" in capsys.readouterr().out


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
    shutil.copytree(trained, tmp_path / "my vae")  # no name for TensorFlow Serving
    options = ("--format", "onnx", "--out", out)
    assert run(monkeypatch, "export", tmp_path / "my vae", *options) == 0
    assert written[1].name == "my vae.onnx"


def test_train_sets_the_process_up_and_ends_as_interrupted(tmp_path, monkeypatch):
    seen: dict = {}

    def interrupted(*_, **options):
        seen.update(options)
        raise KeyboardInterrupt

    (tmp_path / "my.json").write_text(json.dumps(RECIPE))
    monkeypatch.setattr(training, "train", interrupted)
    monkeypatch.setattr("tfgen_command.work.tune_allocator", lambda: seen.update(tuned=True))
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
