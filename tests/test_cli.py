"""The command line: every command on a small trained entry, and every kind of bad input."""

import json

import numpy as np
import pytest
from PIL import Image

from tfgen import cli, zoo

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
    "figures": [
        {"metric": "log_likelihood", "split": "test", "num_samples": 3},
        {"metric": "nearest_neighbour_accuracy"},
        {"metric": "squared_error"},
    ],
}


def run(monkeypatch, *arguments):
    """Runs the command as the shell would; returns its exit code."""
    monkeypatch.setattr("sys.argv", ["tfgen", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code or 0


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    """A folder that `tfgen train` and `tfgen evaluate` have filled."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    with pytest.MonkeyPatch.context() as patch:
        trained = folder / "tiny_digits"
        arguments = ("train", folder / "recipe.json", "--out", trained, "--verbose", 0)
        assert run(patch, *arguments) == 0
        assert run(patch, "evaluate", trained, "--no-verbose") == 0
    return trained


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
    assert len(details["figures"]) == 6
    for label in details["figures"]:
        assert label in card
    assert details["sha256"] in card
    assert details["data"]["digest"] in card


def test_a_card_is_reproduced_and_a_wrong_one_is_not(entry, monkeypatch, capsys):
    assert run(monkeypatch, "evaluate", entry, "--check", "--no-verbose") == 0
    metadata = entry / "metadata.json"
    honest = metadata.read_text()
    details = json.loads(honest)
    first = next(iter(details["figures"].values()))
    first["value"] *= 1.01
    metadata.write_text(json.dumps(details))
    try:
        assert run(monkeypatch, "evaluate", entry, "--check", "--no-verbose") == 1
        assert "NOT REPRODUCED" in capsys.readouterr().out
        assert json.loads(metadata.read_text()) == details  # --check writes nothing
    finally:
        metadata.write_text(honest)


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


def test_the_same_seed_draws_the_same_file(entry, tmp_path, monkeypatch):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        path = tmp_path / f"{name}.png"
        assert run(monkeypatch, "sample", entry, "--seed", seed, "--out", path) == 0
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_info_is_json(entry, monkeypatch, capsys):
    assert run(monkeypatch, "info", entry) == 0
    assert json.loads(capsys.readouterr().out)["family"] == "VAE"


def test_list_shows_the_entries(monkeypatch, capsys):
    assert run(monkeypatch, "list") == 0
    assert capsys.readouterr().out


def test_prior_plane_is_ordered_like_a_map():
    plane = cli.prior_plane(3).reshape(3, 3, 2)
    assert np.all(np.diff(plane[..., 0], axis=1) > 0)  # grows to the right
    assert np.all(np.diff(plane[..., 1], axis=0) < 0)  # and upwards
    np.testing.assert_allclose(plane[1, 1], 0.0, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sample", "vae_mnits"), "vae_mnits"),
        (("sample", "{entry}", "--num", "0"), "num_samples"),
        (("sample", "{entry}", "--temperature", "-1"), "temperature"),
        (("sample", "{entry}", "--label", "3"), "labels"),
        (("sample", "{entry}", "--out", "picture.gif"), ".png"),
        (("sample", "{entry}", "--out", "{entry}/config.json/x.png"), "path"),
        (("manifold", "{entry}", "--side", "1"), "side"),
        (("interpolate", "{entry}", "--steps", "1"), "steps"),
        (("reconstruct", "{entry}", "--data", "no_such_set"), "no_such_set"),
        (("evaluate",), "--all"),
        (("evaluate", "{entry}", "--all"), "--all"),
        (("train", "no_such_recipe.json", "--out", "run"), "no_such_recipe"),
        (("train", "{entry}", "--out", "{entry}"), "--resume"),
        (("train", "{entry}", "--out", "{entry}/config.json/run"), "config.json"),
        (("frobnicate",), "frobnicate"),
    ],
)
def test_bad_input_gives_exit_code_2_and_no_traceback(
    entry, tmp_path, monkeypatch, capfd, arguments, words
):
    monkeypatch.chdir(tmp_path)
    filled = [argument.format(entry=entry) for argument in arguments]
    assert run(monkeypatch, *filled) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert words in error
    assert not list(tmp_path.iterdir())  # nothing half-written stays behind
