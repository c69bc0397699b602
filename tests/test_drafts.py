"""Recipes for a reader's own images: what is chosen, and that training on it works at once."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tfgen_command
from tfgen import data, drafts, training
from tfgen.data import folders
from tfgen.data.named import named_file
from tfgen.recipe import Recipe
from tfgen.training.announce import announcement, too_few


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images of two classes and many sizes, none of which fits a network."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for index in range(60):
        height, width = rng.integers(9, 14, 2)
        path = folder / "ab"[index % 2] / f"{index:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return folder


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """A machine that trains 100 images per second at the narrowest; returns what it measured."""
    measured = []

    def rate(recipe: Recipe, split: data.Split) -> float:
        measured.append(recipe)
        width = np.ravel(recipe.model["filters"])[0] / (2 if recipe.family == "PixelCNN" else 1)
        return 100.0 * (drafts.WIDTHS[-1] / width) ** 2

    monkeypatch.setattr(drafts, "_images_per_second", rate)
    monkeypatch.setattr(drafts, "_pause", lambda recipe: 0.0)
    return measured


@pytest.mark.slow
@pytest.mark.parametrize("family", drafts.FAMILIES)
def test_a_draft_trains_at_once(photos, tmp_path, family):
    drafted = drafts.draft(photos, family, minutes=0.01, conditional=True)
    assert drafted.recipe.model["num_classes"] == 2
    path = tmp_path / "my.json"
    path.write_text(drafted.recipe.to_json())
    model = training.train(Recipe.load(path), tmp_path / "run", verbose=0)
    assert model.image_shape == (8, 8, 3)
    assert list((tmp_path / "run" / "samples").iterdir())


@pytest.mark.parametrize("family", drafts.FAMILIES)
def test_more_minutes_give_a_wider_network(photos, fast, family):
    found = [drafts.draft(photos, family, minutes).recipe for minutes in (1e-6, 0.1, 1.0, 1e6)]
    assert (found[0].epochs, found[-1].epochs) == (1, drafts.MOST_EPOCHS)
    widths = [np.ravel(recipe.model["filters"])[0] for recipe in found]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


def test_the_minutes_are_kept(photos, fast):
    drafted = drafts.draft(photos, minutes=2.0)
    assert 0.5 * 2.0 < drafted.minutes <= 2.0


def test_pictures_and_files_count_in_the_minutes(photos, fast, monkeypatch):
    """Of few images the pictures of an epoch take longer than its steps."""
    monkeypatch.setattr(drafts, "_pause", lambda recipe: 2.0)
    drafted = drafts.draft(photos, minutes=2.0)
    assert drafted.recipe.epochs <= 60
    assert 0.5 * 2.0 < drafted.minutes <= 2.0


@pytest.mark.slow
@pytest.mark.parametrize("family", drafts.FAMILIES)
def test_a_pause_is_measured(photos, family):
    recipe = drafts.draft(photos, family, minutes=0.001).recipe
    assert 0.0 < drafts._pause(recipe) < 60.0


@pytest.mark.parametrize(("size", "fix"), [(33, 32), (30, 28), ((64, 50), 48), (2, 4)])
def test_a_size_that_does_not_suit_the_strides(photos, fast, size, fix):
    with pytest.raises(ValueError, match=rf"multiple of 4,.* e\.g\. --size {fix}\."):
        drafts.draft(data.Source(photos, size))
    assert drafts.draft(data.Source(photos, fix)).recipe.model["filters"]


def test_a_pixel_cnn_takes_any_size(photos, fast):
    recipe = drafts.draft(data.Source(photos, 33), "PixelCNN").recipe
    assert recipe.model["token_shape"] == [1, 1]
    assert training.build(recipe).image_shape == (33, 33, 3)


def test_large_images_get_as_many_stages(photos, fast):
    assert len(drafts.draft(data.Source(photos, 256)).recipe.model["filters"]) == 6


def test_more_classes_than_images_to_train_on(tmp_path, fast):
    for index in range(5):
        (tmp_path / str(index)).mkdir()
        Image.new("L", (8, 8), index).save(tmp_path / str(index) / "a.png")
    with pytest.raises(ValueError, match="too few images of them"):
        drafts.draft(tmp_path, conditional=True)


def test_long_times_and_slow_networks_can_be_read(photos, tmp_path, monkeypatch, capsys):
    recipe = Recipe("VAE", {"image_shape": [8, 8, 3]}, str(photos))
    slow = drafts.Draft(recipe, 0.3, 5000)
    monkeypatch.setattr(drafts, "draft", lambda *_: slow)
    monkeypatch.chdir(tmp_path)
    arguments = ["recipe", "new", "--data", str(photos), "--out", "my.json"]
    monkeypatch.setattr("sys.argv", ["tfgen", *arguments])
    with pytest.raises(SystemExit):
        tfgen_command.main()
    said = capsys.readouterr().out
    assert "at 0.3 images per second" in said
    assert f"about {slow.minutes:,.0f} min" in said


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((28, 28), None),
        ((32, 64), None),
        ((64, 64), None),
        ((50, 50), 48),
        ((400, 400), 64),
        ((98, 98), 64),
        ((161, 392), (64, 152)),
        ((400, 300), (80, 64)),
        ((9, 14), (8, 12)),
    ],
)
def test_the_size_fits_the_strides(tmp_path, fast, shape, size):
    for index in range(9):
        Image.new("RGB", shape[::-1], (index, 0, 0)).save(tmp_path / f"{index}.png")
    recipe = drafts.draft(tmp_path).recipe
    assert recipe.size == size
    height, width, channels = recipe.model["image_shape"]
    factor = 2 ** len(recipe.model["filters"])
    assert (height % factor, width % factor, channels) == (0, 0, 3)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"family": "Flow"}, "family must be one of VAE, GAN, PixelCNN; received 'Flow'"),
        ({"minutes": 0}, "minutes must be positive; received 0"),
        ({"minutes": float("nan")}, "minutes must be positive"),
    ],
)
def test_arguments_out_of_range(arguments, match):
    with pytest.raises(ValueError, match=match):
        drafts.draft("digits", **arguments)


def test_a_conditional_model_of_one_class(tmp_path, fast):
    for index in range(9):
        (tmp_path / "all").mkdir(exist_ok=True)
        Image.new("L", (8, 8), index).save(tmp_path / "all" / f"{index}.png")
    with pytest.raises(
        ValueError, match=r"conditional must be False for .* fewer than two classes"
    ):
        drafts.draft(tmp_path, conditional=True)


def test_images_that_cannot_be_read(tmp_path, fast):
    for index in range(9):
        (tmp_path / f"{index}.png").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"images that can be read; none of 9 can \(\d\.png: "):
        drafts.draft(tmp_path)


# Mirroring


def photographs(rng: np.random.Generator, count: int) -> np.ndarray:
    """Colour images without a side: a coarse field of random colours, enlarged, with some noise."""
    fields = rng.uniform(0, 255, (count, 3, 3, 3)).repeat(5, 1).repeat(5, 2)
    return np.clip(fields + rng.normal(0, 8, fields.shape), 0, 255).astype(np.uint8)


def coloured_digits(rng: np.random.Generator, count: int) -> np.ndarray:
    """Digits of any colour on any other, dark on light or light on dark, with some noise."""
    digits = data.arrays("digits", "train")[0][:count] / 255.0
    ink, paper = rng.uniform(0, 255, (2, len(digits), 1, 1, 3))
    colours = digits * ink + (1.0 - digits) * paper
    return np.clip(colours + rng.normal(0, 8, colours.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("kind", "proposed"),
    [
        ("photographs", True),
        ("digits", False),
        ("grey", False),
        ("drawings", False),
        ("few", False),
    ],
)
def test_mirroring_is_proposed_for_colour_photographs_alone(tmp_path, fast, kind, proposed):
    rng = np.random.default_rng(0)
    images = (coloured_digits if kind == "digits" else photographs)(rng, 900)
    if kind == "grey":
        images = images[..., :1]
    elif kind == "drawings":
        images = images // 128 * 255  # flat colours
    elif kind == "few":
        images = images[:150]
    np.savez(tmp_path / "images.npz", images=images)
    drafted = drafts.draft(tmp_path / "images.npz")
    assert drafted.mirror is proposed
    assert not drafted.recipe.mirror, "only the user knows what is in the images"


@pytest.mark.parametrize(
    ("name", "proposed"), [("clothing64", True), ("noto_emoji64", False), ("mnist", False)]
)
def test_mirroring_of_real_sets(fast, name, proposed):
    path = named_file(name)
    if path is None or not path.is_file():
        pytest.skip(f"needs TFGEN_DATA_DIR with {name}.npz")
    assert drafts.draft(name).mirror is proposed


@pytest.mark.parametrize("seed", range(3))
def test_the_accuracy_is_that_of_chance_where_there_is_no_side(seed):
    images = photographs(np.random.default_rng(seed), 1000)
    assert abs(drafts.mirror_accuracy(images) - 0.5) < 0.08
    sided = images.copy()
    sided[:, :, 8:] = sided[:, :, 8:].mean((1, 2), keepdims=True)  # the right half is flat
    assert drafts.mirror_accuracy(sided) > 0.95
    assert drafts.mirror_accuracy(sided[:, :, ::-1]) == drafts.mirror_accuracy(sided)
    assert drafts.mirror_accuracy(np.zeros_like(images)) == 0.5


def test_the_command_names_mirroring_where_it_is_proposed(tmp_path, fast, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, images in (("photos", photographs(rng, 500)), ("noted", coloured_digits(rng, 500))):
        np.savez(f"{name}.npz", images=images)
        arguments = ["recipe", "new", "--data", f"{name}.npz", "--out", f"{name}.json"]
        monkeypatch.setattr("sys.argv", ["tfgen", *arguments])
        with pytest.raises(SystemExit):
            tfgen_command.main()
        said = capsys.readouterr().out
        assert ('"mirror": true in' in said) == (name == "photos")
        assert "mirror" not in json.loads(Path(f"{name}.json").read_text())


def test_a_network_is_built_without_reading_the_photos(photos, fast, monkeypatch):
    recipe = drafts.draft(data.Source(str(photos), 8), "VAE", 1.0).recipe
    monkeypatch.setattr(folders.ImageFolder, "read", lambda *_: pytest.fail("decoded"))
    training.build(recipe)


# The commands


def test_the_commands(photos, tmp_path, fast, monkeypatch, capsys):
    """README's way: check, recipe new; the recipe holds what the options said."""

    def run(*arguments) -> int:
        monkeypatch.setattr("sys.argv", ["tfgen", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            tfgen_command.main()
        return stop.value.code or 0

    monkeypatch.chdir(tmp_path)
    assert run("data", "check", photos) == 1
    assert "scale and crop them, e.g. with --size 8" in capsys.readouterr().out
    assert run("data", "check", photos, "--size", 8, "--json") == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []
    measure = drafts.draft

    def slow(*given):
        Path("mine.json").write_text("written meanwhile")
        return measure(*given)

    with monkeypatch.context() as patch:
        patch.setattr(drafts, "draft", slow)
        assert run("recipe", "new", "--data", photos, "--out", "mine.json", "--size", 8) == 2
    assert "--out must be a new file" in capsys.readouterr().err
    assert Path("mine.json").read_text() == "written meanwhile"
    command = ("recipe", "new", "--data", photos, "--out", "my.json", "--size", 8)
    assert run(*command) == 0
    assert "tfgen train my.json --out runs/my" in capsys.readouterr().out
    assert run(*command[:5], f"{photos}.json", *command[6:]) == 0
    assert f"--out runs/{photos.name}" in capsys.readouterr().out  # not among the photos
    assert json.loads(Path("my.json").read_text())["size"] == 8
    assert run(*command) == 2
    assert "--out must be a new file" in capsys.readouterr().err
    own = shutil.copytree(photos, tmp_path / "own photos")
    monkeypatch.chdir(own)
    command = ("recipe", "new", "--data", ".", "--out", "in.json", "--size", 8)
    assert run(*command) == 0
    *_, folder = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert Path(folder) == tmp_path / "runs" / "in"  # `tfgen train` refuses one among the photos


@pytest.mark.parametrize("family", drafts.FAMILIES)
def test_any_model_of_hardly_any_images_is_warned_of(family):
    assert "19 training images are too few" in too_few(family, 19, 3)
    assert "gan_emoji" in too_few("VAE", 30, 3)
    assert "gan_emoji" not in too_few("VAE", 30, 1)  # which is in colour


@pytest.mark.parametrize(("count", "family"), [(50, "VAE"), (50, "GAN"), (400, "VAE")])
def test_a_vae_of_few_images_is_warned_of(count, family, tmp_path, fast, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images = data.arrays("digits", "train")[0][:count]
    np.savez("few.npz", x_train=images, x_val=images, x_test=images)
    arguments = ["--data", "few.npz", "--out", "few.json", "--family", family]
    monkeypatch.setattr("sys.argv", ["tfgen", "recipe", "new", *arguments])
    with pytest.raises(SystemExit):
        tfgen_command.main()
    few = count < 200 and family == "VAE"
    warning = "training images are few for a VAE"
    assert (warning in capsys.readouterr().out) == few
    assert (too_few(family, count, 1) is not None) == few
    if few:
        recipe = Recipe.load("few.json")
        splits = {
            name: data.open_split(data.of_recipe(recipe), name) for name in ("train", "validation")
        }
        assert warning in announcement(recipe, training.build(recipe, 1), splits, tmp_path, 0)
