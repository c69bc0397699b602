"""The command line: every command on a small trained entry, and every kind of bad input."""

import json
import os
import re
import subprocess
import sys
import types
import typing
from pathlib import Path

import laws
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tfgen_command
from tfgen import (
    GAN,
    AutoEncoder,
    PixelCNN,
    cli,
    data,
    devices,
    drafts,
    evaluation,
    export,
    formats,
    pictures,
    plots,
    presets,
    training,
    zoo,
)
from tfgen.evaluation import Result
from tfgen.recipe import Recipe
from tfgen_command import entries, look, measure, process, work
from tfgen_command.command_line import app
from tfgen_command.wording import with_commas

RECIPE = {
    "family": "VAE",
    "model": {
        "image_shape": [8, 8, 1],
        "latent_dim": 2,
        "filters": [4, 8],
        "num_blocks": 0,
        "dense_units": 8,
        "num_mixtures": 2,
    },
    "data": "digits",
    "epochs": 1,
    "jit_compile": False,
    "results": [
        {"metric": "log_likelihood", "split": "test", "num_samples": 3},
        {"metric": "nearest_neighbour_accuracy"},
        {"metric": "squared_error"},
    ],
}


def run(monkeypatch, *arguments):
    """Runs the command as the shell would; returns its exit code."""
    monkeypatch.setattr("sys.argv", ["tfgen", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        tfgen_command.main()
    return stop.value.code or 0


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    """A folder that `tfgen train` and `tfgen evaluate` have filled."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    wrong = RECIPE | {"results": [{"metric": "log_likelihod"}]}
    (folder / "wrong.json").write_text(json.dumps(wrong))
    with pytest.MonkeyPatch.context() as patch:
        trained = folder / "tiny_digits"
        arguments = ("train", folder / "recipe.json", "--out", trained, "--verbose", 0)
        assert run(patch, *arguments) == 0
        assert run(patch, "evaluate", trained, "--no-verbose") == 0
    return trained


@pytest.mark.slow
def test_a_run_is_extended_and_read_before_it_ends(tmp_path, monkeypatch, capsys):
    recipe, out = tmp_path / "recipe.json", tmp_path / "run"
    recipe.write_text(json.dumps(RECIPE))
    arguments = ("train", recipe, "--out", out, "--verbose", 0)
    assert run(monkeypatch, *arguments, "--keep-epochs", 1) == 0
    assert [path.name for path in (out / "epochs").iterdir()] == ["epoch_0001.npz"]
    assert run(monkeypatch, *arguments, "--resume", "--epochs", 2) == 0
    assert zoo.load_recipe(out).epochs == 2
    assert "Trained model in" in capsys.readouterr().out
    presets.update_metadata(out, results={"loss": {"value": 1.0, "unit": "nats"}})
    (out / "card.md").write_text("of these results")
    assert run(monkeypatch, *arguments, "--resume", "--epochs", 2) == 0
    assert "Nothing was left to train: the model in " in capsys.readouterr().out
    assert zoo.info(out)["results"]
    assert (out / "card.md").is_file()
    pictures = {name: (out / name).read_bytes() for name in ("history.png", "progress.png")}
    for lacking in ("history.png", "progress.png"):
        (out / lacking).unlink()  # as where a run was stopped after its model had been saved
        assert run(monkeypatch, *arguments, "--resume", "--epochs", 2) == 0
        assert {name: (out / name).read_bytes() for name in pictures} == pictures
    # As a first run is while it goes on: best weights, and no preset yet.
    trained = zoo.load(out).get_weights()
    for name in ("config.json", "model.weights.h5", "metadata.json"):
        (out / name).unlink()
    for own, other in zip(zoo.load(out).get_weights(), trained, strict=True):
        np.testing.assert_array_equal(own, other)
    assert run(monkeypatch, "sample", out, "--num", 2, "--out", tmp_path / "s.png") == 0
    assert run(monkeypatch, "reconstruct", out, "--num", 2, "--out", tmp_path / "r.png") == 0
    assert run(monkeypatch, "evaluate", out, "--no-verbose") == 0
    assert not (out / "metadata.json").exists()
    for path in out.glob("best*.npz"):
        path.unlink()
    assert run(monkeypatch, "sample", out, "--num", 2, "--out", tmp_path / "last.png") == 0
    capsys.readouterr()
    assert run(monkeypatch, "info", out) == 2
    assert f"Continue it: tfgen train {out} --out {out} --resume" in capsys.readouterr().err
    for path in out.glob("checkpoint-*.npz"):
        path.unlink()
    assert run(monkeypatch, "sample", out, "--out", tmp_path / "none.png") == 2
    assert "no trained weights yet" in capsys.readouterr().err


@pytest.mark.parametrize("num_classes", [1, 3, 10])
def test_classes_are_drawn_in_equal_shares(num_classes):
    model = types.SimpleNamespace(num_classes=num_classes)
    for num in range(1, 31):
        labels, columns = cli.rows_of_labels(model, [], num)
        counts = np.bincount(labels, minlength=num_classes)
        assert counts.sum() == num
        assert counts.max() - counts.min() <= 1
        assert 1 <= columns <= num
        if counts.min() == counts.max() > 1:
            assert columns == counts[0]
    assert len(cli.rows_of_labels(model, [], None)[0]) == 8 * num_classes


@pytest.mark.slow
@pytest.mark.parametrize("last", ["model.weights.h5", "config.json", "metadata.json"])
def test_a_longer_run_whose_model_was_not_saved_is_saved_by_resume(tmp_path, monkeypatch, last):
    """A full disk, or a kill, between the end of the training and that of its saving."""
    recipe, out = tmp_path / "recipe.json", tmp_path / "run"
    recipe.write_text(json.dumps(RECIPE))
    arguments = ("train", recipe, "--out", out, "--verbose", 0)
    assert run(monkeypatch, *arguments) == 0
    replace = os.replace

    def full(source, target):
        if Path(target).name == last:
            raise OSError(28, "No space left on device")
        return replace(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.replace", full)
        assert run(monkeypatch, *arguments, "--resume", "--epochs", 2) != 0
    assert run(monkeypatch, *arguments, "--resume", "--epochs", 2) == 0
    whole = zoo.info(out)["training"]
    assert whole["step"] == json.loads((out / "training.json").read_text())["step"]
    assert whole["epoch"] == 2
    zoo.load(out)


@pytest.mark.slow
def test_weights_that_a_user_saved_into_a_run_outlast_a_resume(tmp_path, monkeypatch, capsys):
    recipe, out = tmp_path / "recipe.json", tmp_path / "run"
    recipe.write_text(json.dumps(RECIPE))
    arguments = ("train", recipe, "--out", out, "--verbose", 0)
    assert run(monkeypatch, *arguments) == 0
    laws.randomised(zoo.load(out)).save_to_preset(out)
    kept = (out / "model.weights.h5").read_bytes()
    capsys.readouterr()
    assert run(monkeypatch, *arguments, "--resume") == 0
    assert "Nothing was left to train" in capsys.readouterr().out
    assert (out / "model.weights.h5").read_bytes() == kept
    with monkeypatch.context() as patch:
        patch.setattr(zoo, "save", lambda *_: (_ for _ in ()).throw(OSError("full")))
        assert run(monkeypatch, *arguments, "--resume", "--epochs", 2) == 2
    assert run(monkeypatch, *arguments, "--resume", "--epochs", 2) == 0
    assert "saved into it since" in capsys.readouterr().out
    assert (out / "model.weights.h5").read_bytes() == kept
    (out / "metadata.json").unlink()  # as it says
    assert run(monkeypatch, *arguments, "--resume", "--epochs", 2) == 0
    assert (out / "model.weights.h5").read_bytes() != kept
    assert zoo.info(out)["training"]["epoch"] == 2


@pytest.mark.slow
def test_training_and_evaluating_fill_a_whole_entry(entry):
    names = {path.name for path in entry.iterdir()}
    assert names >= {
        "config.json",
        "recipe.json",
        "model.weights.h5",
        "metadata.json",
        "card.md",
        "samples.png",
        "log.csv",
    }
    details = zoo.info(entry)
    card = (entry / "card.md").read_text()
    assert len(details["results"]) == 18
    for label in details["results"]:
        assert with_commas(label) in card
    assert details["sha256"] in card
    assert details["data"]["digest"] in card
    assert details["licence"]["weights"] == "as its user decides"


@pytest.mark.slow
def test_a_card_is_reproduced_and_a_wrong_one_is_not(entry, monkeypatch, capsys):
    assert run(monkeypatch, "evaluate", entry, "--check", "--no-verbose") == 0
    metadata = entry / "metadata.json"
    honest = metadata.read_text()
    details = json.loads(honest)
    first = next(iter(details["results"].values()))
    first["value"] *= 1.01
    metadata.write_text(json.dumps(details))
    try:
        assert run(monkeypatch, "evaluate", entry, "--check", "--no-verbose") == 1
        assert "NOT REPRODUCED" in capsys.readouterr().out
        assert json.loads(metadata.read_text()) == details  # --check writes nothing
    finally:
        metadata.write_text(honest)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "shape"),
    [
        (("sample", "--num", "6", "--scale", "1"), None),
        (("reconstruct", "--num", "5", "--scale", "1"), None),
        (("interpolate", "--rows", "2", "--steps", "3", "--scale", "1"), None),
        (("manifold", "--side", "4", "--scale", "1"), (32, 32)),
    ],
)
def test_commands_that_draw_say_where_the_file_went(
    entry, tmp_path, monkeypatch, capsys, command, shape
):
    out = tmp_path / "new" / "picture.png"
    name, *options = command
    assert run(monkeypatch, name, entry, "--out", out, *options) == 0
    assert str(out.resolve()) in capsys.readouterr().out
    picture = np.asarray(Image.open(out))
    assert picture.ndim in (2, 3)
    assert shape is None or picture.shape[:2] == shape


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch, capsys):
    """Also where the shell leaves it to the program, as in --out=~/run."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    model = {"image_shape": [8, 8, 1], "latent_dim": 2, "filters": [4], "num_blocks": 0}
    recipe = RECIPE | {"family": "AutoEncoder", "model": model, "results": []}
    (home / "my.json").write_text(json.dumps(recipe))
    command = ("train", "~/my.json", "--out=~/run", "--verbose", 0)
    assert run(monkeypatch, *command, "--keep-epochs", 1) == 0
    names = {path.name for path in (home / "run").iterdir()}
    assert names >= {"epochs", "history.png", "log.csv", "metadata.json", "progress.png", "samples"}
    assert names >= {"best.npz", "config.json", "model.weights.h5", "recipe.json", "training.json"}
    assert run(monkeypatch, *command) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert zoo.load_recipe("~/my.json") == Recipe.load("~/my.json") == zoo.load_recipe("~/run")
    provenance = training.provenance(Recipe.load("~/my.json"), "~/run")
    assert provenance["data"] == zoo.info("~/run")["data"]
    plots.history("~/run/log.csv", "~/curves.png")
    pictures.progress(zoo.load("~/run"), "~/run")
    model = zoo.load("~/run")
    model.save("~/m.keras")
    zoo.load_file("~/m.keras")
    model.save_weights("~/m.weights.h5")
    model.load_weights("~/m.weights.h5")
    monkeypatch.setattr(drafts, "_images_per_second", lambda *_: 100.0)
    monkeypatch.setattr(drafts, "_pause", lambda *_: 0.0)
    new = ("recipe", "new", "--data", "digits", "--out=~/new.json")
    assert run(monkeypatch, *new) == 0
    assert run(monkeypatch, *new) == 2
    assert "--out must be a new file" in capsys.readouterr().err
    for made in (
        training.CSVLog("~/log.csv").path,
        training.KeepWeights("~/epochs", 1, None).folder,
        training.DrawSamples("~/samples", np.zeros((1, 8, 8, 1), np.uint8), None).folder,
        training.CheckpointFiles("~/run").folder,
    ):
        assert made.parent == home
    own = {"my.json", "new.json", "run", "curves.png", "m.keras", "m.weights.h5"}
    assert {path.name for path in home.iterdir()} == own
    assert not list(here.iterdir())


GAN_RECIPE = {
    "family": "GAN",
    "model": {
        "image_shape": [8, 8, 1],
        "latent_dim": 2,
        "filters": [4],
        "dense_units": 8,
        "num_classes": 10,
    },
    "data": "digits",
    "epochs": 2,
    "ema_momentum": 0.0,
    "jit_compile": False,
    "results": [
        {
            "metric": "sample_quality",
            "num_samples": 300,
            "evaluator": "{classifier}",
        },
        {"metric": "conditional_accuracy", "num_samples": 50, "evaluator": "{classifier}"},
    ],
}
CLASSIFIER_RECIPE = {
    "family": "Classifier",
    "model": {"image_shape": [8, 8, 1], "filters": [4], "feature_units": 6},
    "data": "digits",
    "epochs": 1,
    "jit_compile": False,
    "results": [{"metric": "accuracy"}],
}


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    """A conditional GAN and the classifier that judges it, trained and evaluated."""
    folder = tmp_path_factory.mktemp("gan")
    classifier = folder / "tiny_classifier"
    for name, recipe in (("tiny_classifier", CLASSIFIER_RECIPE), ("tiny_gan", GAN_RECIPE)):
        text = json.dumps(recipe).replace("{classifier}", str(classifier))
        (folder / "recipe.json").write_text(text)
        with pytest.MonkeyPatch.context() as patch:
            arguments = ("--out", folder / name, "--verbose", 0)
            assert run(patch, "train", folder / "recipe.json", *arguments) == 0
            assert run(patch, "evaluate", folder / name, "--no-verbose") == 0
    return folder / "tiny_gan"


@pytest.mark.slow
def test_a_gan_has_its_pictures_and_its_results(gan, monkeypatch):
    card = (gan / "card.md").read_text()
    for name in ("samples.png", "interpolation.png", "progress.png"):
        assert (gan / name).is_file()
        assert f"({name})" in card
    assert "| result | model | real images | unit |" in card
    assert "2 epochs, of which the last was kept" in card
    assert run(monkeypatch, "evaluate", gan, "--check", "--no-verbose") == 0
    card = (gan.parent / "tiny_classifier" / "card.md").read_text()
    assert "accuracy" in card
    assert "png" not in card
    assert zoo.info(gan.parent / "tiny_classifier")["kind"] == "evaluator"


@pytest.mark.slow
def test_a_gan_draws_classes_and_walks_between_seeds(gan, tmp_path, monkeypatch, capsys):
    pictures = {}
    for name, options in {
        "seven": ("sample", "--num", 4, "--label", 7),
        "three": ("sample", "--num", 4, "--label", 3),
        "walk": ("interpolate", "--rows", 2, "--steps", 3),
        "other": ("interpolate", "--rows", 2, "--steps", 3, "--seed", 50),
        "sevens": ("interpolate", "--rows", 2, "--steps", 3, "--label", 7),
    }.items():
        command, *rest = options
        path = tmp_path / f"{name}.png"
        assert run(monkeypatch, command, gan, "--out", path, *rest) == 0
        pictures[name] = path.read_bytes()
    assert len(set(pictures.values())) == len(pictures)
    for option in ("--invert", "--binarize", "--data=digits"):
        assert run(monkeypatch, "interpolate", gan, option) == 2
        assert f"{option.split('=')[0]} is for images" in capsys.readouterr().err


PIXEL_RECIPE = {
    "family": "PixelCNN",
    "model": {
        "image_shape": [8, 8, 1],
        "filters": 4,
        "num_blocks": 1,
        "head_units": 4,
        "num_mixtures": 2,
    },
    "data": "digits",
    "epochs": 1,
    "jit_compile": False,
    "results": [{"metric": "log_likelihood"}],
}


@pytest.mark.slow
def test_a_pixel_model_is_trained_measured_and_completes(tmp_path, monkeypatch, capsys):
    recipe, entry = tmp_path / "recipe.json", tmp_path / "pixelcnn_tiny"
    recipe.write_text(json.dumps(PIXEL_RECIPE))
    assert run(monkeypatch, "train", recipe, "--out", entry, "--verbose", 0) == 0
    assert run(monkeypatch, "evaluate", entry, "--no-verbose") == 0
    assert "completions.png" in (entry / "card.md").read_text()
    assert "bound" not in (entry / "card.md").read_text().split("## What it is")[0]
    pictures = []
    for seed in (0, 0, 1):
        out = tmp_path / f"{len(pictures)}.png"
        command = ("complete", entry, "--num", 2, "--ways", 3, "--seed", seed, "--out", out)
        assert run(monkeypatch, *command) == 0
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]
    capsys.readouterr()
    assert run(monkeypatch, "score", entry, "--num", 3) == 0
    lines = capsys.readouterr().out.splitlines()
    images, _ = data.arrays("digits", "validation")
    own = zoo.load(entry).log_likelihood(images[:3])
    assert [float(line.split()[1]) for line in lines] == pytest.approx(own, abs=1e-2)


def test_samples_as_pictures_folders_and_arrays(entry, tmp_path, monkeypatch, capsys):
    one, many, arrays = (tmp_path / name for name in ("1.png", "many", "x.npz"))
    for out in (one, many, arrays):
        options = ("--num", 1 if out == one else 3, "--out", out)
        scale = () if out == arrays else ("--scale", 1)
        assert run(monkeypatch, "sample", entry, *options, *scale) == 0
    assert run(monkeypatch, "sample", entry, "--scale", 1, "--out", tmp_path / "y.npz") == 2
    assert "--scale is for pictures; --out names arrays." in capsys.readouterr().err
    assert not (tmp_path / "y.npz").exists()
    assert Image.open(one).size == (8, 8)  # no frame
    assert [path.name for path in sorted(many.iterdir())] == ["0000.png", "0001.png", "0002.png"]
    with np.load(arrays) as stored:
        assert stored["images"].shape == (3, 8, 8, 1)
        np.testing.assert_array_equal(stored["images"][1, ..., 0], Image.open(many / "0001.png"))
        np.testing.assert_array_equal(stored["images"][0, ..., 0], Image.open(one))
    for out in (one, many):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
        assert run(monkeypatch, "sample", entry, "--num", 1, "--seed", 9, "--out", out) == 2
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == before
    (tmp_path / "v1.2").mkdir()  # a folder in spite of its ending, since it is there
    assert run(monkeypatch, "sample", entry, "--num", 1, "--out", tmp_path / "v1.2") == 0
    assert (tmp_path / "v1.2" / "0000.png").is_file()
    capsys.readouterr()
    assert run(monkeypatch, "sample", entry, "--num", 1, "--out", many, "--force") == 0
    assert capsys.readouterr().out.endswith("many, which holds 2 other files\n")


@pytest.mark.slow
def test_samples_of_classes(gan, tmp_path, monkeypatch, capsys):
    grid, arrays = tmp_path / "grid.png", tmp_path / "x.npz"
    arrays.touch()
    assert run(monkeypatch, "sample", gan, "--label", "3,7", "--scale", 1, "--out", grid) == 0
    assert Image.open(grid).size == (8 * 9 + 1, 2 * 9 + 1)  # a row of 8 for each class
    options = ("--num", 7, "--scale", 1, "--out", grid, "--force")
    assert run(monkeypatch, "sample", gan, *options) == 0
    assert Image.open(grid).size == (7 * 9 + 1, 9 + 1)  # one of each class: all in a row
    assert run(monkeypatch, "sample", gan, "--num", 4, "--label", "3,7", "--out", arrays) == 2
    assert "--force" in capsys.readouterr().err
    options = ("--num", 4, "--label", "3,7", "--out", arrays, "--force")
    assert run(monkeypatch, "sample", gan, *options) == 0
    with np.load(arrays) as stored:
        np.testing.assert_array_equal(stored["labels"], [3, 3, 7, 7])
        expected = zoo.load(gan).sample(4, labels=[3, 3, 7, 7], seed=0)
        np.testing.assert_array_equal(stored["images"], expected)


@pytest.mark.slow
def test_own_files_of_any_size_mode_and_turn(entry, gan, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    files = []
    for name, mode, size in (("a.png", "RGBA", (30, 20)), ("b.jpg", "RGB", (9, 40)),
                             ("c.png", "P", (8, 8)), ("d.png", "L", (8, 8))):  # fmt: skip
        image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3)).astype(np.uint8))
        files.append(tmp_path / name)
        image.convert(mode).save(files[-1])
    for command in ("reconstruct", "interpolate"):
        out = tmp_path / f"{command}.png"
        assert run(monkeypatch, command, entry, *files, "--out", out) == 0
        assert out.is_file()
    capsys.readouterr()
    assert run(monkeypatch, "score", gan, *files, "--label", "3,7", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["image"] for row in rows] == list(map(str, files))
    assert all(row["verdict"] == ("real" if row["value"] > 0 else "fake") for row in rows)
    exact = cli._read_own(files[3], (8, 8, 1))
    np.testing.assert_array_equal(exact[..., 0], Image.open(files[3]))
    model = zoo.load(entry)
    inverted, _ = cli.images_for(model, str(entry), [files[3]], None, 1, invert=True)
    np.testing.assert_array_equal(inverted[0], 255 - exact)
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 0))  # nothing of it covers the white page
    half.save(tmp_path / "clear.png")
    assert (cli._read_own(tmp_path / "clear.png", (4, 4, 3)) == 255).all()
    turned = Image.fromarray(np.eye(8, dtype=np.uint8) * 255)
    exif = turned.getexif()
    exif[0x0112] = 2  # mirrored
    turned.save(tmp_path / "turned.png", exif=exif)
    mirrored = cli._read_own(tmp_path / "turned.png", (8, 8, 1))
    np.testing.assert_array_equal(mirrored[..., 0], np.eye(8, dtype=np.uint8)[:, ::-1] * 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_own_files_of_16_bits(channels, tmp_path):
    path, levels = tmp_path / "deep.png", np.linspace(0, 65535, 64).astype(np.uint16)
    Image.fromarray(levels.reshape(8, 8)).save(path)
    model = AutoEncoder((8, 8, channels), latent_dim=2, filters=(4,), num_blocks=0)
    images, _ = cli.images_for(model, "own", [path], None, 1)
    expected = np.round(levels / 257).reshape(8, 8, 1).repeat(channels, -1)
    np.testing.assert_array_equal(images[0], expected)
    np.testing.assert_array_equal(cli.read_mask(model, path), expected[..., :1] >= 128)


def test_a_model_without_a_recipe_asks_for_images(tmp_path):
    model = AutoEncoder((8, 8, 1), latent_dim=2, filters=(4,), num_blocks=0)
    zoo.save(model, tmp_path / "mine")
    with pytest.raises(ValueError, match=r"mine' has no recipe that .* Pass FILES or --data\."):
        cli.images_for(model, str(tmp_path / "mine"), None, None, 1)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "chunk", "numbers"])
def test_own_files_that_cannot_be_read(damage, tmp_path):
    path = tmp_path / "own.png"
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    second = whole.index(b"IDAT", whole.index(b"IDAT") + 4)
    if damage == "numbers":  # a TIFF of floating-point numbers
        Image.fromarray(noise[..., 0].astype(np.float32)).save(path, format="TIFF")
    else:
        path.write_bytes(
            {
                "empty": b"",
                "text": b"no image",
                "cut": whole[: len(whole) // 2],
                "chunk": whole[:second] + b"\0" + whole[second + 1 :],
            }[damage]
        )
    model = types.SimpleNamespace(image_shape=(8, 8, 1), num_classes=None)
    for read in (lambda: cli.images_for(model, "own", [path], None, 1),
                 lambda: cli.read_mask(model, path)):  # fmt: skip
        with pytest.raises(ValueError, match=r"own\.png must be a whole image file"):
            read()


@pytest.mark.slow
def test_evaluate_measures_one_metric_and_writes_nothing(entry, monkeypatch, capsys):
    before = {path: path.read_bytes() for path in entry.iterdir() if path.is_file()}
    options = ("--metric", "sample_quality", "--num-samples", 40, "--json")
    assert run(monkeypatch, "evaluate", entry, *options) == 0
    (results,) = json.loads(capsys.readouterr().out).values()
    assert results["Frechet distance, samples / real images"]["judge"]
    assert any("40 images against 40 test images" in name for name in results)
    assert {path: path.read_bytes() for path in entry.iterdir() if path.is_file()} == before
    assert run(monkeypatch, "evaluate", "--list") == 0
    assert "sample_quality" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_other_data_is_read_as_the_recipe_reads_its_own(tmp_path, kind):
    """With the recipe's size, for which `evaluate` and `score` have no option."""
    small = {"image_shape": [8, 8, 1], "latent_dim": 2, "filters": [4], "num_blocks": 0}
    wanted = [{"metric": "squared_error"}]
    recipe = Recipe("AutoEncoder", small, "digits", size=8, skip_bad=True, results=wanted)
    entry = zoo.save(AutoEncoder(**small), tmp_path / "entry", recipe)
    greys, other = np.random.default_rng(0).integers(0, 256, (20, 12, 16), np.uint8), tmp_path / "o"
    if kind == "folder":
        other.mkdir()
        for index, image in enumerate(greys):
            Image.fromarray(image[:, : 8 + index]).save(other / f"{index}.png")
        (other / "bad.png").write_text("no image")
    else:
        other = tmp_path / "o.npz"
        np.savez(other, images=greys)
    found = evaluation.evaluate(entry, str(other), verbose=0)
    assert all(np.isfinite(result.value) for result in found.values())
    model = zoo.load(entry)
    images, _ = cli.images_for(model, str(entry), None, str(other), 3)
    expected, _ = data.arrays(data.Source(other, 8, kind == "folder"), "validation")
    np.testing.assert_array_equal(images, expected[:3])
    (entry / "recipe.json").unlink()
    images, _ = cli.images_for(model, str(entry), None, "digits", 3)
    np.testing.assert_array_equal(images, data.arrays("digits", "validation")[0][:3])


def test_named_sets_and_shards_are_read_as_they_are(tmp_path):
    recipe = Recipe("AutoEncoder", {}, "digits", size=8, skip_bad=True)
    assert data.of_recipe(recipe, "digits") == "digits"
    (tmp_path / "dataset.json").write_text('{"format": "tfgen shards 1"}')
    assert data.of_recipe(recipe, str(tmp_path)) == str(tmp_path)
    assert data.of_recipe(recipe) == data.Source("digits", 8, skip_bad=True)


@pytest.mark.slow
def test_binary_models_take_other_images_when_asked(tmp_path, monkeypatch, capsys):
    model = PixelCNN((8, 8, 1), filters=4, num_blocks=1, head_units=4, num_levels=2)
    zoo.save(model, tmp_path / "binary", Recipe("PixelCNN", {}, "digits"))
    assert run(monkeypatch, "score", tmp_path / "binary", "--num", 2) == 2
    assert "2 grey levels, and these have others. Pass --binarize" in capsys.readouterr().err
    assert run(monkeypatch, "score", tmp_path / "binary", "--num", 2, "--binarize") == 0
    pictures = []
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "mask.png")
    for options in (("--keep", "upper"), ("--keep", "left"), ("--mask", tmp_path / "mask.png")):
        out = tmp_path / f"{len(pictures)}.png"
        more = ("--num", 2, "--binarize", "--out", out)
        assert run(monkeypatch, "complete", tmp_path / "binary", *options, *more) == 0
        pictures.append(out.read_bytes())
    assert len(set(pictures)) == 3


@pytest.mark.parametrize("keep", ["upper", "lower", "left", "right"])
def test_halves_are_kept(keep):
    class Model:
        image_shape = (4, 6, 1)

    kept = cli.kept_half(Model, keep)
    assert kept.shape == (4, 6, 1)
    assert kept.sum() == 12
    inside = {"upper": kept[0], "lower": kept[-1], "left": kept[:, 0], "right": kept[:, -1]}
    assert inside[keep].all()


@pytest.mark.parametrize(
    ("objective", "verdicts"),
    [("hinge", "real"), ("least_squares", "fake"), ("wasserstein_gp", None)],
)
def test_verdicts_stand_on_the_border_of_the_objective(
    objective, verdicts, tmp_path, monkeypatch, capsys
):
    """A discriminator that gives every image 0.25; a critic only ranks."""
    model = GAN(
        image_shape=(8, 8, 1), latent_dim=2, filters=(4,), dense_units=4, objective=objective
    )
    for variable in model.discriminator.trainable_variables:
        variable.assign(np.zeros(variable.shape))
    last = model.discriminator.trainable_variables[-1]
    if objective != "wasserstein_gp":  # which has no bias there
        last.assign(np.full(last.shape, 0.25))
    model.save_to_preset(tmp_path / "gan")
    arguments = ("score", tmp_path / "gan", "--data", "digits", "--num", 2, "--json")
    assert run(monkeypatch, *arguments) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row.get("verdict") for row in rows] == [verdicts] * 2


@pytest.mark.slow
def test_what_cannot_complete_or_score_says_so(entry, gan, monkeypatch, capsys):
    assert run(monkeypatch, "complete", gan) == 2
    assert "cannot complete images. Use a PixelCNN" in capsys.readouterr().err
    assert run(monkeypatch, "score", gan, "--num", 2) == 0
    assert capsys.readouterr().out.count("logit") == 2


@pytest.mark.slow
def test_export_fills_a_repository(entry, gan, tmp_path, monkeypatch, capsys):
    entries = {path.name: path for path in (entry, gan)}
    monkeypatch.setattr(zoo, "list_models", lambda *_, **__: list(map(str, entries.values())))
    repository = tmp_path / "models"
    assert run(monkeypatch, "export", "--all", "--out", repository) == 0
    assert run(monkeypatch, "export", entry, "--out", repository, "--version", 5) == 0
    shown = capsys.readouterr().out
    versions = {(name, 1) for name in entries} | {(entry.name, 5)}
    for name, version in versions:
        path = repository / name / str(version)
        assert str(path) in shown
        assert (path / "saved_model.pb").is_file()
    config = (repository / "models.config").read_text()
    assert all(f'base_path: "/models/{name}"' in config for name in entries)
    assert run(monkeypatch, "export", entry, "--out", repository, "--version", 5) == 2
    assert "next one, 6" in capsys.readouterr().err


class Walker:
    """Stands in for a conditional model with an encoder; keeps what it walks between."""

    image_shape, num_levels, num_classes = (8, 8, 1), 256, 10
    capabilities = ("encode", "decode")

    def nearest_level(self, images):
        return images

    def interpolate(self, starts, ends, steps, labels):
        self.walked = starts, ends, labels.tolist()
        return np.stack([starts, ends], 1)


@pytest.fixture
def walker(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = Walker()
    monkeypatch.setattr(cli, "with_latents", lambda name: model)
    return model


WALK = ("interpolate", "vae_2d_mnist")


def test_a_walk_between_validation_images_stays_within_a_class(walker, monkeypatch, capsys):
    images, found = data.arrays("digits", "validation")
    command = (*WALK, "--data", "digits", "--rows", 4)
    for options, classes in (((), [0, 1, 2, 3]), (("--label", "3,7"), [3, 7, 3, 7])):
        assert run(monkeypatch, *command, *options) == 0
        starts, ends, labels = walker.walked
        assert labels == classes
        for batch in (starts, ends):
            for image, label in zip(batch, labels, strict=True):
                assert (images[found == label] == image).all((1, 2, 3)).any()
        assert len({image.tobytes() for image in (*starts, *ends)}) == 8
    assert run(monkeypatch, *WALK, "--data", "digits", "--rows", 100, "--label", 3) == 2
    assert "--rows asks for 200 images of class 3" in capsys.readouterr().err
    monkeypatch.setattr(cli, "_of_validation", lambda model, name, most=None: (images[:most], None))
    assert run(monkeypatch, *command) == 2
    assert "the images have no labels. Pass --label." in capsys.readouterr().err
    assert run(monkeypatch, *command, "--label", "3,7") == 0
    assert walker.walked[2] == [3, 7, 3, 7]


def test_walks_of_a_model_without_classes_take_no_labels(entry, tmp_path, monkeypatch, capsys):
    plots.save(data.arrays("digits", "validation")[0][0], tmp_path / "a.png")
    for files in ((), (tmp_path / "a.png", tmp_path / "a.png")):
        assert run(monkeypatch, "interpolate", entry, *files, "--label", "3") == 2
        assert "--label is for class-conditional" in capsys.readouterr().err


def test_a_walk_between_files_stays_within_a_class(walker, tmp_path, monkeypatch, capsys):
    images = data.arrays("digits", "validation")[0][:4]
    files = [tmp_path / f"{index}.png" for index in range(4)]
    for file, image in zip(files, images, strict=True):
        plots.save(image, file)
    assert run(monkeypatch, *WALK, *files, "--label", "3,7") == 0
    starts, ends, labels = walker.walked
    np.testing.assert_array_equal(np.concatenate([starts, ends]), images)
    assert labels == [3, 7]
    assert run(monkeypatch, *WALK, *files, *files[:2], "--label", "3,7") == 0
    assert walker.walked[2] == [3, 7, 3]
    assert run(monkeypatch, *WALK, *files[:2], "--label", "3,7") == 2
    error = capsys.readouterr().err
    assert "--label must give both files of a pair the same class" in error
    assert "received 3,7 for 2 files, of which file i walks to file i + 1" in error


def test_many_reconstructions_go_on_below(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (18, 8, 8, 1)).astype(np.uint8)
    captions = ["original", "reconstruction"]
    cli.save_rows([images, 255 - images], tmp_path / "a.png", 1, captions)
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    left = picture.shape[1] - (16 * 9 + 1)
    assert picture.shape[0] == 2 * (2 * 9 + 1)
    below = picture[2 * 9 + 1 :, left:]
    np.testing.assert_array_equal(below[1:9, 10:18], images[17, ..., 0])
    np.testing.assert_array_equal(below[10:18, 10:18], 255 - images[17, ..., 0])
    assert (below[:, 2 * 9 + 1 :] == 255).all()


def test_the_same_seed_draws_the_same_file(entry, tmp_path, monkeypatch):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        path = tmp_path / f"{name}.png"
        assert run(monkeypatch, "sample", entry, "--seed", seed, "--out", path) == 0
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_info_is_a_page_and_json(entry, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert run(monkeypatch, "info", entry) == 0
    page = capsys.readouterr().out
    assert "VAE" in page
    assert str(entry) in page
    assert max(map(len, page.replace(str(entry), "").splitlines())) <= 80
    labels = [with_commas(label) for label in zoo.info(entry)["results"]]
    assert all(label in " ".join(page.split()) for label in labels)
    assert run(monkeypatch, "info", entry, "--json") == 0
    assert json.loads(capsys.readouterr().out)["family"] == "VAE"


def test_info_does_not_say_that_weights_are_by_another_recipe(tmp_path, monkeypatch, capsys):
    model = {"image_shape": [8, 8, 1], "latent_dim": 2, "filters": [4]}
    recipe = Recipe("AutoEncoder", model, "digits", description="Of digits.")
    zoo.save(AutoEncoder(**model), tmp_path / "mine", recipe, {"training": {"seconds": 600}})
    assert run(monkeypatch, "info", tmp_path / "mine") == 0
    shown = capsys.readouterr().out
    assert "0 epochs, 10 minutes" in shown  # what `save` was told of its training, and no more
    assert "Of digits." in shown
    assert re.search(r"data +digits", shown)
    AutoEncoder(**model).save_to_preset(tmp_path / "mine")
    assert run(monkeypatch, "info", tmp_path / "mine") == 0
    shown = capsys.readouterr().out
    assert "Of digits." not in shown
    assert not re.search(r"data +digits", shown)


def test_numbers_that_json_lacks_are_null(tmp_path, monkeypatch, capsys):
    def refuse(constant):
        raise ValueError(constant)

    def printed():
        return json.loads(capsys.readouterr().out, parse_constant=refuse)

    model = AutoEncoder((8, 8, 1), latent_dim=2, filters=(4,))
    path = zoo.save(model, tmp_path / "mine", Recipe("AutoEncoder", {}, "digits"))
    metadata = path / "metadata.json"
    content = json.loads(metadata.read_text())
    endless = {"value": float("inf"), "unit": "ratio"}
    metadata.write_text(json.dumps(content | {"results": {"a": endless}}))
    assert run(monkeypatch, "info", path, "--json") == 0
    assert printed()["results"] == {"a": endless | {"value": None}}
    found = {"a": Result(float("inf"), "ratio", real=float("nan"), recorded=1.0)}
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: found)
    assert run(monkeypatch, "evaluate", path, "--json") == 0
    result = printed()[str(path)]["a"]
    assert [result[key] for key in ("value", "real", "recorded")] == [None, None, 1.0]


def test_info_proposes_what_the_family_can_do():
    assert set(look.COMMANDS) == {zoo.info(name)["family"] for name in zoo.list_models()}
    assert "sample" not in look.COMMANDS["AutoEncoder"]
    for verbs in look.COMMANDS.values():
        assert set(verbs) <= {verb.callback.__name__ for verb in app.registered_commands}


def test_info_proposes_what_a_model_can_do(first_case):
    model = first_case()
    for verb in look.COMMANDS.get(first_case.family, ()):
        if verb == "score":
            assert model.likelihood != "none" or "score" in model.capabilities
        else:
            assert {"interpolate": "decode"}.get(verb, verb) in model.capabilities


def test_help_says_what_each_command_does(monkeypatch, capsys):
    """In whole sentences, on 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    for group, least in (((), 14), (("data",), 2), (("recipe",), 1)):
        assert run(monkeypatch, *group, "--help") == 0
        shown = capsys.readouterr().out.split("Commands:\n")[1].splitlines()
        assert len(shown) >= least
        assert all(line.endswith(".") and not line.endswith("...") for line in shown), shown


def test_help_of_an_option_is_that_of_its_command(monkeypatch, capsys):
    """`manifold` draws one class."""
    assert run(monkeypatch, "manifold", "--help") == 0
    assert "take turns" not in capsys.readouterr().out


def test_spaces_in_names_are_kept_in_messages(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "a  b"
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    (folder / "log.csv").write_text("")
    assert run(monkeypatch, "info", folder) == 2
    assert f"tfgen train '{folder}' --out '{folder}' --resume" in capsys.readouterr().err


def test_what_was_not_reproduced_shows_all_that_was_compared():
    line = measure._line(Result(5.0, "share", 3.1, recorded=5.0, recorded_real=2.0), True)
    assert line == "5 share, real images 3.1, NOT REPRODUCED, recorded 5.0, of real images 2.0"


def test_list_is_plain_lines_where_it_is_piped(monkeypatch, capsys):
    assert run(monkeypatch, "list") == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == zoo.list_models()
    assert len({line.count("\t") for line in (header, *lines)}) == 1
    assert run(monkeypatch, "list", "--all", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == zoo.list_models(kind=None)
    assert run(monkeypatch, "evaluate", "--list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == entries.METRICS


def test_own_folders_with_the_names_of_entries(tmp_path, monkeypatch, capsys):
    """Commands on the whole zoo pass them over; a name that could mean either is refused."""
    monkeypatch.chdir(tmp_path)
    names = zoo.list_models(kind=None)
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.json").write_text(json.dumps(RECIPE))
    taken = []
    monkeypatch.setattr(evaluation, "evaluate", lambda name, *_, **__: taken.append(name) or {})
    monkeypatch.setattr(export, "add", lambda out, name, *_, **__: taken.append(name) or out)
    assert run(monkeypatch, "list", "--all") == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()[1:]] == names
    assert run(monkeypatch, "evaluate", "--all") == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{name}: nothing to measure by its recipe" for name in names]
    assert run(monkeypatch, "export", "--all", "--out", "models") == 0
    expected = [entries.root() / name for name in (*names, *zoo.list_models())]
    assert [zoo.folder(name) for name in taken] == expected
    for command in (("info",), ("sample",), ("evaluate",), ("export",), ("train", "--out", "run")):
        assert run(monkeypatch, *command, "vae_mnist") == 2
        error = capsys.readouterr().err
        assert ("RECIPE" if command[0] == "train" else "NAME") + " must mean one model" in error
        assert "Write ./vae_mnist for this folder" in error
    assert run(monkeypatch, "info", "./vae_mnist") == 2
    assert "Train it: tfgen train ./vae_mnist --out DIR" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == set(names)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_list_never_cuts_a_name(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert run(monkeypatch, "list", "--all") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    shown = {line.split()[0] for line in lines if line.strip()}
    assert shown >= set(zoo.list_models(kind=None))
    assert ("what it is" in lines[0]) == (width >= 80)


LIGHT = (
    (("--help",), 0),
    (("--version",), 0),
    (("list",), 0),
    (("info", "vae_mnist"), 0),
    (("sample", "--help"), 0),
    (("frobnicate",), 2),
    (("sample", "vae_mnits"), 2),
    (("sample", "vae_mnist", "--num", "0"), 2),
    (("score", "vae_mnist", "--data", "mnst"), 2),
    (("evaluate",), 2),
    (("evaluate", "--list"), 0),
    (("evaluate", "--list", "--json"), 0),
    (("evaluate", "vae_mnist", "--metric", "sampel_quality"), 2),
    (("serve", "--port", "70000"), 2),
)


def test_what_needs_no_model_answers_without_tensorflow():
    script = """
import sys, tfgen_command
sys.argv = ["tfgen", *sys.argv[1:]]
try:
    tfgen_command.main()
except SystemExit as stop:
    heavy = {"tensorflow", "keras", "numpy", "tfgen"} & set(sys.modules)
    print(stop.code, *sorted(heavy), file=sys.stderr)
"""
    for arguments, code in LIGHT:
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stderr.splitlines()[-1] == str(code), (arguments, done.stderr)


def test_the_names_that_the_command_knows_are_the_librarys():
    hints = typing.get_type_hints(work.export) | typing.get_type_hints(work.train)
    assert typing.get_args(hints["format"]) == formats.FORMATS
    assert typing.get_args(hints["strategy"]) == devices.STRATEGIES
    assert list(entries.DATA_SETS) == data.names()
    first_lines = {n: m.__doc__.strip().splitlines()[0] for n, m in evaluation.METRICS.items()}
    assert first_lines == entries.METRICS


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sample", "vae_mnits"), "vae_mnits"),
        (("sample", "{entry}", "--num", "0"), "--num"),
        (("sample", "{entry}", "--temperature", "-1"), "--temperature"),
        (("sample", "{entry}", "--label", "3"), "--label"),
        (("sample", "{entry}", "--out", "picture.gif"), "--out must end in .png or .npz"),
        (("reconstruct", "{entry}", "--out", "picture.gif"), "--out must end in .png"),
        (("interpolate", "{entry}", "{entry}/samples.png"), "even number"),
        (("complete", "{entry}", "--keep", "top"), "'--keep': 'top' is not one of"),
        (("complete", "{entry}", "--keep", "left", "--mask", "{entry}/samples.png"), "--mask"),
        (("list", "vae_mnits"), "PATTERN must match an entry"),
        (("list", "vae_mnits"), "Did you mean 'vae_mnist'"),
        (("data", "check", "digts"), "DATA must be"),
        (("data", "prepare", "digts", "--out", "shards"), "Did you mean 'digits'?"),
        (("recipe", "new", "--data", "digts", "--out", "a.json"), "--data must be"),
        (("export", "{entry}", "--format", "onx", "--out", "models"), "'--format': 'onx' is not"),
        (("train", "{entry}", "--out", "run", "--strategy", "many"), "'--strategy': 'many' is"),
        (("evaluate", "{entry}", "--check", "--num-samples", "50"), "--num-samples"),
        (("evaluate", "{entry}", "--metric", "sampel_quality"), "--metric must be one of"),
        (("evaluate", "{entry}", "--metric", "sampel_quality"), "Did you mean 'sample_quality'"),
        (("recipe", "new", "--data", "digits", "--out", "a.json", "--family", "VEA"), "--family"),
        (("recipe", "new", "--data", "digits", "--out", "a.json", "--minutes", "0"), "--minutes"),
        (
            ("sample", "{entry}", "--out", "{entry}/config.json/x.png"),
            "--out must lie in a folder that can be written; {entry}/config.json/x.png failed with "
            "FileExistsError: File exists. Choose another folder.",
        ),
        (
            ("sample", "{entry}", "--out", "{entry}/config.json/x.npz"),
            "--out must lie in a folder that can be written; {entry}/config.json/x.npz failed with "
            "FileExistsError: File exists. Choose another folder.",
        ),
        (
            ("recipe", "new", "--data", "digits", "--out", "{entry}/config.json/x.json"),
            "--out must lie in a folder that can be written; {entry}/config.json/x.json failed",
        ),
        (("sample", "{entry}", "--out", "~no_such_user/x.png"), "~NAME must be a user of this"),
        (("manifold", "{entry}", "--side", "1"), "side"),
        (("interpolate", "{entry}", "--steps", "1"), "--steps"),
        (("reconstruct", "{entry}", "--data", "no_such_set"), "no_such_set"),
        (("reconstruct", "{entry}", "{entry}/config.json"), "config.json must be a whole image"),
        (("evaluate",), "--all"),
        (("evaluate", "{entry}", "--all"), "--all"),
        (("train", "no_such_recipe.json", "--out", "run"), "there is no file no_such_recipe"),
        (("train", "no_such_entry", "--out", "run"), "RECIPE must be"),
        (("train", "{folder}/wrong.json", "--out", "run"), "Did you mean 'log_likelihood'"),
        (("train", "{entry}", "--out", "{entry}"), "--resume"),
        (("train", "{entry}", "--out", "{entry}/config.json/run"), "config.json"),
        (("export",), "--all"),
        (("export", "{entry}", "--all"), "--all"),
        (("export", "vae_mnits", "--out", "models"), "vae_mnits"),
        (("export", "{entry}", "--out", "models", "--version", "0"), "--version"),
        (("export", "{entry}", "--out", "models", "--version", "x"), "version"),
        (("export", "{entry}", "--out", "models", "--temperature", "-1"), "temperature"),
        (("export", "{entry}", "--out", "models", "--num-samples", "0"), "--num-samples"),
        (("export", "{entry}", "--out", "{entry}/config.json/models"), "config.json"),
        (("frobnicate",), "frobnicate"),
        (("smaple", "{entry}"), "Did you mean 'sample'?"),
        (("data", "prepar", "digits"), "Did you mean 'prepare'?"),
        (("data", "prepar", "digits"), "there is no command tfgen data prepar."),
        (("score", "{entry}", "--data", "digts"), "--data must be"),
        (("score", "{entry}", "--data", "digts"), "Did you mean 'digits'?"),
        (("score", "{entry}", "--num", "100000"), "--num asks for"),
        (("data", "prepare", "digits", "--out", "shards", "--seed", "-1"), "--seed"),
        (("recipe", "new", "--data", "digits", "--out", "my"), "--out must end in .json"),
        (("score", "{entry}", "{entry}/samples.png", "--num", "1"), "--num is for images of"),
        (
            ("complete", "{entry}", "{entry}/samples.png", "--data", "digits"),
            "--data is for images of",
        ),
        (("reconstruct", "{entry}", "{entry}/samples.png", "--num", "3"), "--num is for images"),
        (
            ("interpolate", "{entry}", *2 * ["{entry}/samples.png"], "--rows", "1"),
            "--rows is for images of the validation split; FILES were given",
        ),
        (("interpolate", "{entry}", "--seed", "3"), "--seed is for a model without an encoder"),
        (("evaluate", "{entry}", "--metric", "accuracy"), "'accuracy' does not fit: "),
    ],
)
def test_bad_input_gives_exit_code_2_and_no_traceback(
    entry, tmp_path, monkeypatch, capfd, arguments, words
):
    places = {"entry": entry, "folder": entry.parent}
    arguments, words = [a.format(**places) for a in arguments], words.format(**places)
    assert_refused(tmp_path, monkeypatch, capfd, arguments, words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sample", "{gan}", "--label", "3,x"), "--label must be"),
        (("score", "{gan}", "{entry}/config.json"), "must be a whole image file"),
        (("score", "{gan}", "nothing.png"), "nothing.png"),
        (("score", "{gan}", "{gan}/samples.png"), "Pass --label"),
        (("reconstruct", "{gan}"), "no encoder"),
        (("sample", "{gan}", "--label", "10"), "--label must lie in"),
        (("sample", "{classifier}"), "cannot generate images"),
        (("interpolate", "{classifier}"), "cannot generate images"),
        (("export", "{classifier}", "--out", "models"), "no endpoints to serve"),
    ],
)
def test_bad_input_of_a_gan_and_a_classifier(
    entry, gan, tmp_path, monkeypatch, capfd, arguments, words
):
    places = {"entry": entry, "gan": gan, "classifier": gan.parent / "tiny_classifier"}
    assert_refused(tmp_path, monkeypatch, capfd, [a.format(**places) for a in arguments], words)


def test_a_runtime_error_stays_a_bug(monkeypatch):
    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(entries, "names", fail)
    monkeypatch.setattr("sys.argv", ["tfgen", "list"])
    with pytest.raises(RuntimeError, match="a bug"):
        tfgen_command.main()


@pytest.mark.parametrize("message", ["", "OOM when allocating"])
def test_too_little_memory_is_told(monkeypatch, capsys, message):
    """Python's own error has no message."""

    def fail(*_):
        raise MemoryError(message) if message else MemoryError

    monkeypatch.setattr(entries, "names", fail)
    assert run(monkeypatch, "list") == 2
    told = message or "out of memory; use a smaller batch or model"
    assert capsys.readouterr().err == f"tfgen: {told}\n"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (tf.errors.ResourceExhaustedError(None, None, "OOM"), "out of memory"),
        (tf.errors.DataLossError(None, None, "at 0"), "a record of the data is damaged."),
        (tf.errors.ResourceExhaustedError(None, None, "log; No space left"), "log; No space left"),
        (tf.errors.NotFoundError(None, None, "a.tfrecord; No such file"), "a.tfrecord; No such"),
        (tf.errors.PermissionDeniedError(None, None, "a.tfrecord; denied"), "a.tfrecord; denied"),
        (OverflowError("too large to convert"), "a number is too large"),
    ],
)
def test_what_tensorflow_and_numpy_refuse_is_told(monkeypatch, capsys, error, told):
    """As a GPU's memory by TensorFlow, and --num 100000000000000000000 by NumPy."""

    def fail(*_):
        raise error

    monkeypatch.setattr(entries, "names", fail)
    assert run(monkeypatch, "list") == 2
    assert capsys.readouterr().err.startswith(f"tfgen: {told}")


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_closed_streams(closed, monkeypatch):
    script = f'"$0" -c "import tfgen_command; tfgen_command.main()" list {closed}'
    done = subprocess.run(["sh", "-c", script, sys.executable], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("vae_mnist" in done.stdout) == (closed == "2>&-")
    monkeypatch.setattr(sys, "stderr", None)
    with process._native_stderr_closed():
        pass


@pytest.mark.slow
def test_training_without_an_output(tmp_path):
    """Keras' progress bar expects a stream to write to."""
    (tmp_path / "my.json").write_text(json.dumps(RECIPE | {"results": []}))
    script = '"$0" -c "import tfgen_command; tfgen_command.main()" train my.json --out run >&-'
    command = ["sh", "-c", script, sys.executable]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "metadata.json").is_file()


def assert_refused(tmp_path, monkeypatch, capfd, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert words in error
    assert not list(tmp_path.iterdir())  # nothing half-written stays behind
