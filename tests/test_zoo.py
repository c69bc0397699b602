"""The zoo: names, checksums, overrides; and every entry that is shipped."""

import functools
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import laws
import numpy as np
import pytest
import runs

from tfgen import (
    VAE,
    AutoEncoder,
    HierarchicalVAE,
    PixelCNN,
    PixelRNN,
    data,
    downloads,
    evaluation,
    export,
    families,
    presets,
    weight_files,
    zoo,
)
from tfgen.evaluation import judges
from tfgen.recipe import Recipe
from tfgen_command import entries

SMALL = {"image_shape": (8, 8, 1), "latent_dim": 2, "filters": (4,), "dense_units": 8}
SHIPPED = zoo.list_models(kind=None)
# What an entry's name begins with says its family.
NAMES = {
    "AutoEncoder": ("ae",),
    "VAE": ("vae",),
    "HierarchicalVAE": ("vae", "cvae"),
    "GAN": ("gan", "wgan", "cgan"),
    "PixelCNN": ("pixelcnn", "cpixelcnn"),
    "PixelEnsemble": ("pixelcnn",),
    "PixelRNN": ("pixelrnn",),
    "Classifier": ("classifier",),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A zoo of two trained entries, one evaluator and one that has a recipe only."""
    root = tmp_path_factory.mktemp("zoo")
    for name, family, kind in (
        ("vae_tiny", VAE, "model"),
        ("ae_tiny", AutoEncoder, "model"),
        ("classifier_tiny", AutoEncoder, "evaluator"),
    ):
        recipe = Recipe(family=family.__name__, model=SMALL, data="digits")
        model = laws.randomised(family(**SMALL))
        zoo.save(model, root / name, recipe, {"kind": kind, "results": {"a": 1}})
    (root / "vae_untrained").mkdir()
    shutil.copy(root / "vae_tiny" / "recipe.json", root / "vae_untrained")
    return root


@pytest.fixture
def root(built, tmp_path, monkeypatch):
    """A copy of it, which the test may spoil, in the place of the real one."""
    root = shutil.copytree(built, tmp_path / "zoo")
    monkeypatch.setattr(entries, "root", lambda: root)
    monkeypatch.chdir(tmp_path)
    return root


@pytest.fixture
def own(root, tmp_path):
    """A user's own model in the working directory, with the name of an entry."""
    model = laws.randomised(AutoEncoder(**SMALL), seed=9)
    wanted = [{"metric": "squared_error"}]
    recipe = Recipe("AutoEncoder", SMALL, "digits", epochs=7, results=wanted)
    digest = data.open_split("digits", "train").digest()
    trained_on = {"name": "digits", "split": "train", "digest": digest}
    metadata = {"data": trained_on, "device": "two CPU cores"}
    return zoo.save(model, tmp_path / "ae_tiny", recipe, metadata)


# Names


def test_list_models(root):
    assert zoo.list_models() == ["ae_tiny", "vae_tiny"]
    assert zoo.list_models("vae_*") == ["vae_tiny"]
    assert zoo.list_models("*", kind="evaluator") == ["classifier_tiny"]
    assert zoo.list_models(kind=None) == ["ae_tiny", "classifier_tiny", "vae_tiny"]
    assert zoo.list_models("gan_*") == []


def test_unknown_name_gives_the_nearest(root):
    for call in (zoo.load, zoo.info, zoo.folder, zoo.load_recipe, VAE.from_preset):
        with pytest.raises(ValueError, match=r"'vae_tinny'.*Did you mean 'vae_tiny'"):
            call("vae_tinny")
    with pytest.raises(ValueError, match="Entries: ae_tiny, classifier_tiny, vae_tiny"):
        zoo.load("")
    with pytest.raises(ValueError, match="must be an entry of the zoo"):
        zoo.load("../zoo/nothing")


def test_a_damaged_entry_is_not_in_the_way_of_the_others(root):
    (root / "ae_tiny" / "metadata.json").write_text("{")
    with pytest.raises(ValueError, match="Did you mean 'vae_tiny'"):
        zoo.load("vae_tinny")


def test_numbers_for_names_are_stored_as_json_has_them(root):
    zoo.save(VAE(**SMALL), root / "vae_tiny", metadata={"classes": {0: "cat", None: [1]}})
    assert zoo.info("vae_tiny")["classes"] == {"0": "cat", "null": [1]}
    zoo.load("vae_tiny")


def test_unknown_name_in_an_empty_zoo(tmp_path, monkeypatch):
    monkeypatch.setattr(entries, "root", lambda: tmp_path / "nowhere")
    assert zoo.list_models() == []
    with pytest.raises(ValueError, match="Entries: none"):
        zoo.load("vae_mnist")


def test_a_kind_that_there_is_not():
    with pytest.raises(ValueError, match="kind must be one of model, evaluator, None; received"):
        zoo.list_models(kind="classifier")


def test_flags_of_numpy_are_flags(root):
    for flag in (True, False):
        own, other = (zoo.load("vae_tiny", load_weights=kind(flag)) for kind in (bool, np.bool_))
        assert own.steps_before == other.steps_before
        rates = [float(model.optimizer.learning_rate) for model in (own, other)]
        assert rates[0] == rates[1]


def test_a_loaded_model_may_have_another_name(root):
    assert VAE.from_preset("vae_tiny", name="second").name == "second"


def test_memory_that_is_short_is_no_damage(tmp_path, monkeypatch):
    model = AutoEncoder((8, 8, 1), latent_dim=2, filters=(2,), dense_units=3)
    model.save(tmp_path / "model.keras")

    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr("keras.models.load_model", full)
    with pytest.raises(MemoryError):
        zoo.load_file(tmp_path / "model.keras")


def test_untrained_entry(root):
    for call in (zoo.load, zoo.info):
        with pytest.raises(ValueError, match=r"tfgen train \S*vae_untrained --out"):
            call("vae_untrained")
    assert zoo.load_recipe("vae_untrained").family == "VAE"


def test_a_name_of_two_models_is_refused(root, own, tmp_path):
    """The error names both, and what it says to write works."""
    for call in (
        zoo.folder,
        zoo.load,
        zoo.load_evaluator,
        zoo.load_recipe,
        zoo.info,
        AutoEncoder.from_preset,
        evaluation.evaluate,
        functools.partial(export.add, tmp_path / "models"),
        entries.find,
        entries.find_recipe,
        entries.details,
    ):
        with pytest.raises(ValueError, match="must mean one model; 'ae_tiny' is an") as caught:
            call("ae_tiny")
        told = re.search(r"Write (\S+) for this folder, or (\S+) for the entry", str(caught.value))
        assert [zoo.folder(name) for name in told.groups()] == [own, root / "ae_tiny"]


def test_a_path_is_never_the_name_of_an_entry(root, own, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("./ae_tiny", "~/ae_tiny", str(own), own, Path("ae_tiny"), Path("./ae_tiny")):
        for find in (zoo.folder, entries.find):
            assert find(name) == find(find(name)) == find(str(find(name))) == own
        assert zoo.info(name)["sha256"] == downloads.sha256(own / presets.WEIGHTS)
        assert entries.details(name)["sha256"] == zoo.info(name)["sha256"]
        assert zoo.load_recipe(name).epochs == 7
    for name in ("vae_tiny", Path("vae_tiny"), root / "vae_tiny", "zoo/vae_tiny"):
        assert zoo.folder(name) == entries.find(name) == root / "vae_tiny"
    monkeypatch.chdir(root)  # where an entry's name is also its folder's
    for name in ("ae_tiny", "./ae_tiny", Path("ae_tiny")):
        assert zoo.folder(name) == entries.find(name) == root / "ae_tiny"


def test_a_folder_with_an_entrys_name_is_measured_itself(root, own):
    before = {path: path.read_bytes() for path in (root / "ae_tiny").iterdir()}
    expected = evaluation.METRICS["squared_error"](zoo.load(own), "digits", verbose=0)
    found = evaluation.evaluate("./ae_tiny", verbose=0)
    assert found == expected
    records = zoo.info(own)["results"]
    assert {label: record["value"] for label, record in records.items()} == {
        label: pytest.approx(result.value, rel=1e-5) for label, result in expected.items()
    }
    values = [value for record in records.values() for value in record.values()]
    numbers = [value for value in values if isinstance(value, float)]
    assert numbers == [float(f"{value:.6g}") for value in numbers]
    assert f"All from `tfgen evaluate {own}`" in (own / "card.md").read_text()
    assert downloads.sha256(own / presets.WEIGHTS) in (own / "card.md").read_text()
    assert {path: path.read_bytes() for path in (root / "ae_tiny").iterdir()} == before


def test_the_zoo_is_looked_through_whatever_the_working_directory_holds(root, own, tmp_path):
    own.rename(tmp_path / "classifier_tiny")
    assert judges.classifier("digits") == "classifier_tiny"
    assert entries.folders() == {name: root / name for name in zoo.list_models(kind=None)}
    with pytest.raises(ValueError, match="must be a classifier"):  # the zoo's own has been found
        judges.judge("digits", np.zeros((2, 8, 8, 1), np.uint8))


# Loading


def test_load(root):
    model = zoo.load("vae_tiny")
    assert isinstance(model, VAE)
    assert model.compiled
    assert isinstance(zoo.load(root / "vae_tiny"), VAE)
    assert isinstance(zoo.load(str(root / "vae_tiny")), VAE)
    expected = laws.randomised(VAE(**SMALL))  # biases start at 0 and move by the same noise
    for own, other in zip(model.get_weights(), expected.get_weights(), strict=True):
        if own.ndim == 1:
            np.testing.assert_array_equal(own, other)


def test_load_without_weights(root):
    (root / "vae_tiny" / "model.weights.h5").unlink()
    model = zoo.load("vae_tiny", load_weights=False, latent_dim=5)
    assert model.latent_dim == 5
    biases = [v for v in model.trainable_variables if v.path.endswith("bias")]
    assert all((bias.numpy() == 0).all() for bias in biases)


def test_load_with_overrides(root):
    model = zoo.load("vae_tiny", beta=0.5)
    assert model.beta == 0.5
    plain = zoo.load("vae_tiny")
    for own, other in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize(
    "override", [{"latent_dim": 5}, {"num_blocks": 2}, {"num_classes": 3}, {"prior": "vamp"}]
)
def test_overrides_that_do_not_fit_the_weights(root, override):
    """Whether they change a shape, or ask for more or fewer layers."""
    with pytest.raises(
        ValueError, match=rf"do not fit.*{next(iter(override))}.*load_weights=False"
    ):
        zoo.load("vae_tiny", **override)


PIXEL = {"image_shape": (4, 4, 1), "filters": 4, "num_blocks": 2, "head_units": 4}


@pytest.mark.parametrize(
    ("family", "arguments", "fewer"),
    [
        (PixelCNN, PIXEL, {"num_blocks": 1}),
        (PixelRNN, PIXEL, {"num_blocks": 1}),
        (VAE, {**SMALL, "prior": "flow", "prior_components": 2}, {"prior_components": 1}),
    ],
)
def test_fewer_layers_of_one_shape_do_not_fit_either(tmp_path, family, arguments, fewer):
    """Keras loads the first ones and passes over the others."""
    path = zoo.save(family(**arguments), tmp_path / "own")
    with pytest.raises(ValueError, match=r"do not fit the overrides .* parameters are stored"):
        zoo.load(path, **fewer)
    assert zoo.load(path, load_weights=False, **fewer)


def test_a_critic_may_be_left_out(tmp_path):
    """Which chooses among samples, so the model is the same without it."""
    ladder = {"image_shape": (8, 8, 1), "top_dim": 2, "filters": (4,), "groups": (2,)}
    model = HierarchicalVAE(**ladder, group_channels=(1,), candidates=2)
    path = zoo.save(laws.randomised(model), tmp_path / "own")
    assert zoo.load(path, candidates=1, beta=0.5).beta == 0.5
    loaded = zoo.load(path, candidates=1)
    latents = np.zeros((2, model.latent_dim), np.float32)
    np.testing.assert_array_equal(loaded.decode(latents), model.decode(latents))


@pytest.mark.slow
def test_a_critic_that_is_left_out_does_not_hide_what_else_does_not_fit(tmp_path):
    """Keras would load the first of two couplings and pass over the second."""
    ladder = {"image_shape": (8, 8, 1), "top_dim": 2, "filters": (4,), "groups": (2,)}
    flow = {"prior": "flow", "prior_components": 2, "group_channels": (1,)}
    path = zoo.save(HierarchicalVAE(**ladder, **flow, candidates=2), tmp_path / "own")
    for candidates in (1, 2, 3):
        with pytest.raises(ValueError, match="parameters are stored"):
            zoo.load(path, candidates=candidates, prior_components=1)
        assert zoo.load(path, candidates=candidates, beta=2.0).candidates == candidates


def test_unknown_override(root):
    with pytest.raises(ValueError, match=r"constructor arguments of VAE; received 'latents'.*beta"):
        zoo.load("vae_tiny", latents=5)


def test_info(root):
    details = zoo.info("vae_tiny")
    assert details["sha256"] == downloads.sha256(root / "vae_tiny" / "model.weights.h5")
    assert details["family"] == "VAE"
    assert details["config"]["latent_dim"] == 2
    assert details["recipe"]["data"] == "digits"
    assert details["likelihood"] == "bound"
    assert details["parameters"] == zoo.load("vae_tiny").count_params()
    assert {"licence", "seed", "versions", "results", "kind", "path"} <= set(details)


# Damage


def test_tampered_weights(root):
    path = root / "vae_tiny" / "model.weights.h5"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.weights\.h5 is damaged or was changed: .*sha256"):
        zoo.load("vae_tiny")


def test_missing_weights(root):
    (root / "vae_tiny" / "model.weights.h5").unlink()
    with pytest.raises(ValueError, match=r"model\.weights\.h5 is missing"):
        zoo.load("vae_tiny")


@pytest.mark.parametrize("file", ["config.json", "metadata.json"])
def test_damaged_json(root, file):
    path = root / "vae_tiny" / file
    path.write_text(path.read_text()[:-10])
    with pytest.raises(ValueError, match=f"{file} is not valid JSON.*Restore"):
        zoo.load("vae_tiny")


# Saving


def test_save_is_loaded_equal(tmp_path):
    model = laws.randomised(VAE(**SMALL))
    model.compile()
    model.optimizer.build(model.trainable_variables)
    zoo.save(model, tmp_path / "entry")
    loaded = zoo.load(tmp_path / "entry")
    for own, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)
    metadata = json.loads((tmp_path / "entry" / "metadata.json").read_text())
    assert metadata["sha256"] == downloads.sha256(tmp_path / "entry" / presets.WEIGHTS)
    assert not [p for p in (tmp_path / "entry").iterdir() if p.name.startswith(".")]
    size = (tmp_path / "entry" / "model.weights.h5").stat().st_size
    bare = VAE(**SMALL)
    bare.save_weights(tmp_path / "bare.weights.h5")
    assert size == (tmp_path / "bare.weights.h5").stat().st_size, "the slots were stored too"


def test_save_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="file"):
        VAE(**SMALL).save_to_preset(tmp_path / "file" / "entry")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def fail_for(monkeypatch, file):
    """Lets a save end right before it writes that JSON file."""
    write = presets.write_json

    def fail(path, values):
        if path.name == file:
            raise OSError("no space left on device")
        write(path, values)

    monkeypatch.setattr(presets, "write_json", fail)


@pytest.mark.parametrize("file", ["config.json", "metadata.json"])
def test_save_that_is_cut_off_is_not_believed(root, monkeypatch, file):
    """A second save that fails midway leaves an entry that fails its check."""
    fail_for(monkeypatch, file)
    with pytest.raises(OSError, match="no space"):
        zoo.save(VAE(**SMALL), root / "vae_tiny")
    with pytest.raises(ValueError, match="is damaged or was changed"):
        zoo.load("vae_tiny")


def test_a_configuration_is_believed_with_its_own_metadata_alone(root, monkeypatch):
    """The weights are the same, so their sha256 tells nothing."""
    model = zoo.load("vae_tiny", beta=0.5)
    with monkeypatch.context() as patch:
        fail_for(patch, "metadata.json")
        with pytest.raises(OSError, match="no space"):
            zoo.save(model, root / "vae_tiny")
    for given in ({}, {"beta": 1.0}, {"load_weights": "partial"}):
        with pytest.raises(ValueError, match=r"config\.json is damaged or was changed: .*sha256"):
            zoo.load("vae_tiny", **given)
    assert zoo.load("vae_tiny", load_weights=False).beta == 0.5
    zoo.save(model, root / "vae_tiny")
    assert zoo.load("vae_tiny").beta == 0.5


def test_a_configuration_with_numbers_for_names_is_known_again():
    config = {"names": {10: "ten", 9: "nine"}, "sizes": (1, 2.0)}
    read = json.loads(json.dumps(config))
    assert presets.config_digest("VAE", config) == presets.config_digest("VAE", read)
    for other in (("GAN", config), ("VAE", {**config, "sizes": (1, 2.5)})):
        assert presets.config_digest(*other) != presets.config_digest("VAE", config)


@pytest.fixture(scope="module")
def other_save(built, tmp_path_factory):
    """Saves of other weights under the name of vae_tiny, each made once, as a function of beta."""
    name = zoo.info(built / "vae_tiny")["config"]["name"]

    @functools.cache
    def save(beta):
        model = laws.randomised(VAE(**SMALL, beta=beta, name=name), seed=7)
        return zoo.save(model, tmp_path_factory.mktemp("other"))

    return save


@pytest.mark.slow_except("read_config-weights", "read_metadata-settings")
@pytest.mark.parametrize("changed", ["settings", "weights"])
@pytest.mark.parametrize("after", ["read_config", "read_metadata"])
def test_a_model_is_of_one_save(root, other_save, monkeypatch, after, changed):
    """Another one ends while it is loaded: with other weights, and with other settings too."""
    stored = zoo.info("vae_tiny")
    settings = changed == "settings"
    other = other_save(0.5 if settings else stored["config"]["beta"])
    read = getattr(presets, after)

    def reading(path):
        content = read(path)
        monkeypatch.setattr(presets, after, read)
        shutil.copytree(other, path, dirs_exist_ok=True)
        return content

    monkeypatch.setattr(presets, after, reading)
    if after == "read_metadata" or settings:
        with pytest.raises(ValueError, match="is damaged or was changed"):
            zoo.load("vae_tiny")
    found = zoo.origin(zoo.load("vae_tiny"))["sha256"]  # also where both have the configuration
    assert found == zoo.info("vae_tiny")["sha256"] != stored["sha256"]


def test_a_model_is_told_to_be_of_the_save_that_it_is_of(root, other_save, monkeypatch):
    """Also where another one ends right after its weights were read."""
    load, before = weight_files.load, zoo.info("vae_tiny")
    other = other_save(before["config"]["beta"])

    def loading(model, files):
        load(model, files)  # which looks at them again
        shutil.copytree(other, root / "vae_tiny", dirs_exist_ok=True)
        zoo.update_metadata(str(root / "vae_tiny"), steps=77)

    monkeypatch.setattr(weight_files, "load", loading)
    model = zoo.load("vae_tiny")
    assert zoo.origin(model)["sha256"] == before["sha256"] != zoo.info("vae_tiny")["sha256"]
    assert model.steps_before == before["steps"] != 77


@pytest.mark.parametrize("options", [{}, {"load_weights": "partial"}, {"beta": 0.25}])
def test_weights_that_are_replaced_after_they_were_checked(root, other_save, monkeypatch, options):
    other = other_save(zoo.info("vae_tiny")["config"]["beta"])
    check = presets._verified_weights

    def checking(path, metadata):
        found = check(path, metadata)
        shutil.copytree(other, path, dirs_exist_ok=True)
        return found

    monkeypatch.setattr(presets, "_verified_weights", checking)
    with pytest.raises(ValueError, match=r"^[^(]*is damaged or was changed"):
        zoo.load("vae_tiny", **options)


@pytest.mark.parametrize("value", [np.int64(3), float("nan")])
def test_what_json_lacks_is_refused_before_anything_is_replaced(root, value):
    before = {path.name: path.read_bytes() for path in (root / "vae_tiny").iterdir()}
    with pytest.raises(ValueError, match="metadata must hold values that JSON has"):
        zoo.save(VAE(**SMALL), root / "vae_tiny", metadata={"score": value})
    assert {path.name: path.read_bytes() for path in (root / "vae_tiny").iterdir()} == before


def git(folder, *arguments):
    author = ("-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "commit.gpgsign=false")
    command = ["git", *author, *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_the_commit_is_that_of_tfgens_own_checkout(tmp_path, monkeypatch):
    """Not of a repository around an installed wheel, nor of one that the environment names."""
    checkout, project = tmp_path / "checkout", tmp_path / "project"
    for folder in (checkout, project):
        git(tmp_path, "init", folder)
        git(folder, "commit", "--allow-empty", "-m", folder.name)
    git(checkout, "worktree", "add", tmp_path / "worktree")
    commit = git(checkout, "rev-parse", "--short=12", "HEAD")
    assert commit != git(project, "rev-parse", "--short=12", "HEAD")
    for parent, expected in (
        (checkout, commit),
        (tmp_path / "worktree", commit),
        (project / ".venv" / "site-packages", None),
    ):
        package = parent / "tfgen"
        package.mkdir(parents=True)
        monkeypatch.setattr(presets, "__file__", str(package / "presets.py"))
        assert presets._commit() == expected
        with monkeypatch.context() as patch:
            patch.setenv("GIT_DIR", str(project / ".git"))
            assert presets._commit() == expected


# The shipped entries


@pytest.mark.parametrize("name", [name for name in SHIPPED if not zoo.load_recipe(name).stages])
def test_an_entry_was_trained_on_the_images_that_it_names(name):
    """Its steps make up its epochs of the train split, or of more where it says so."""
    details, recipe = zoo.info(name), zoo.load_recipe(name)
    train, validation, _ = runs.PUBLISHED_SIZES[details["data"]["name"]]
    also = details["data"].get("also_trained_on", [])
    assert also in ([], ["validation"])
    seen = train + validation if also else train
    state = details["training"]
    assert state["step"] * recipe.batch_size / seen == pytest.approx(state["epoch"], abs=0.06)


def test_halving_twice_keeps_every_weight(tmp_path):
    """Equal arrays are stored once, under several names."""
    model = VAE(**SMALL)
    once = weight_files.serialized_weights(model, half=True)
    (tmp_path / "model.weights.h5").write_bytes(weight_files._halved(io.BytesIO(once)))
    twin = VAE(**SMALL)
    for weight in twin.weights:
        weight.assign(weight + 1.0)
    twin.load_weights(tmp_path / "model.weights.h5")
    for own, other in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-3, atol=1e-4)


@pytest.mark.slow_except("vae_2d_mnist", "pixelcnn_binarized_mnist", "ae_mnist", "gan_mnist")
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_entry(name):
    model = zoo.load(name)  # checks the sha256
    details = zoo.info(name)
    assert details["name"] == name
    known = {key: details[key] for key in ("name", "sha256", "config_sha256")}
    assert zoo.origin(model) == known
    assert details["sha256"] == downloads.sha256(zoo.folder(name) / presets.WEIGHTS)
    assert details["licence"]["weights"]
    assert details["family"] == type(model).__name__
    assert details["kind"] == model.kind
    assert details["parameters"] == model.count_params()
    recipe = zoo.load_recipe(name)
    assert recipe.family == details["family"]
    built = families.find(recipe.family)(**recipe.model).get_config()
    for argument in recipe.model:
        assert details["config"][argument] == built[argument], argument
    assert details["config"]["seed"] == recipe.model.get("seed", recipe.seed)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert (zoo.folder(name) / "card.md").is_file()
    if model.kind == "evaluator":
        return
    assert (zoo.folder(name) / "samples.png").is_file()
    if "sample" in model.endpoints():
        labels = laws.given(model, laws.labels_for(model, 4))
        images = model.sample(4, seed=0, **labels)
        assert images.dtype == np.uint8
        assert all(image.std() > 10 for image in images), "a sample is blank"
        assert len(np.unique(images, axis=0)) == 4
    if model.likelihood != "none":
        images = model.sample(4, seed=0, **labels)
        own = model.log_likelihood(images, **labels)
        noise = model.log_likelihood(laws.images_for(model, 4), **labels)
        assert (own > noise).all(), "noise is likelier than the model's own images"


def test_every_entry_has_a_recipe_that_parses():
    paths = sorted(entries.root().glob("*/recipe.json"))
    assert paths
    for path in paths:
        recipe = Recipe.load(path)
        arguments = laws.constructor_arguments(families.find(recipe.family))
        assert set(recipe.model) <= set(arguments), path
        assert path.parent.name.split("_")[0] in NAMES[recipe.family], path
        assert recipe.description, path


# Weights in half the bytes


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["config.json"], "is an incomplete preset: it has no metadata.json. Save it again."),
        (["config.json", "log.csv"], "is an incomplete preset"),
        (["recipe.json"], "has a recipe but is not trained yet. Train it: tfgen train "),
        (["recipe.json", "config.json"], "has a recipe but is not trained yet"),
        (["recipe.json", "config.json", "model.weights.h5"], "is an incomplete preset"),
        (["recipe.json", "log.csv"], "is a run that has not ended; .* --resume"),
    ],
)
def test_what_is_not_trained_is_explained_by_library_and_command_alike(tmp_path, files, words):
    folder = tmp_path / "own"
    folder.mkdir()
    for file in files:
        (folder / file).write_text("{}")
    said = []
    for explain in (zoo.info, entries.details):
        with pytest.raises(ValueError, match=words) as caught:
            explain(str(folder))
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_a_part_of_a_preset_says_what_it_lacks(tmp_path):
    """Cut off before metadata.json, which is written last; or copied without it."""
    model = AutoEncoder(**runs.TINY)
    model.save_to_preset(tmp_path / "own")
    (tmp_path / "own" / "metadata.json").unlink()
    with pytest.raises(ValueError, match=r"is an incomplete preset: it has no metadata\.json"):
        zoo.load(tmp_path / "own")


def test_a_link_stays_a_link(tmp_path):
    model = AutoEncoder(**runs.TINY)
    model.save(tmp_path / "mine.keras")
    (tmp_path / "link.keras").symlink_to(tmp_path / "mine.keras")
    model.save(tmp_path / "link.keras")
    assert (tmp_path / "link.keras").is_symlink()


def test_weights_are_counted_without_adapters(tmp_path):
    model = VAE((8, 8, 1), latent_dim=2, filters=(4,), dense_units=8)
    expected = model.count_params()
    model.enable_lora(2, "decoder")
    assert model.count_params() > expected
    model.save_to_preset(tmp_path / "preset")
    assert zoo.info(tmp_path / "preset")["parameters"] == expected


def test_half_precision_weights(tmp_path):
    """float16 on the disk, float32 in the model, and the nearest float16 of each weight."""
    model = laws.randomised(VAE(**SMALL))
    whole, half = (
        model.save_to_preset(tmp_path / "a"),
        model.save_to_preset(tmp_path / "b", half=True),
    )
    sizes = [(path / presets.WEIGHTS).stat().st_size for path in (whole, half)]
    stored = sum(4 * np.prod(v.shape) for v in model.weights)
    assert sizes[0] - sizes[1] > 0.4 * stored
    loaded = zoo.load(half)
    for own, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        assert own.dtype == np.float32
        np.testing.assert_array_equal(own, other.astype(np.float16))
    again = loaded.save_to_preset(tmp_path / "c", half=True)
    assert (again / presets.WEIGHTS).read_bytes() == (half / presets.WEIGHTS).read_bytes()


@pytest.mark.parametrize("value", [1e6, float("nan"), float("inf")])
def test_half_precision_refuses_what_it_cannot_hold(value, tmp_path):
    model = VAE(**SMALL)
    model.weights[0].assign(np.full(model.weights[0].shape, value))
    with pytest.raises(ValueError, match="half=True stores weights as float16, up to 65504"):
        model.save_to_preset(tmp_path / "preset", half=True)
    assert not (tmp_path / "preset").exists()


@pytest.mark.slow
def test_load_evaluator():
    names = zoo.list_models(kind="evaluator")
    assert zoo.load_evaluator(names[0]).num_classes == 10
    with pytest.raises(ValueError, match=f"classifier: {names[0]}.*is a HierarchicalVAE"):
        zoo.load_evaluator("vae_mnist")


@pytest.mark.nightly
@pytest.mark.parametrize("name", SHIPPED)
def test_the_results_on_a_card_are_measured_again(name):
    source = zoo.load_recipe(name).data
    if not (Path(os.environ.get("TFGEN_DATA_DIR", "")) / f"{source}.npz").is_file():
        pytest.skip(f"needs {source}.npz in the folder $TFGEN_DATA_DIR")
    found = evaluation.evaluate(name, check=True, verbose=0)
    assert [label for label, result in found.items() if not result.reproduced] == []


@pytest.mark.parametrize("name", SHIPPED)
def test_origin_of_an_entry(name):
    """Its terms are the zoo's, not those of a user's own weights; `fit` knows its steps."""
    details = zoo.info(name)
    assert details["licence"]["weights"] == "Apache-2.0"
    assert details["licence"]["data"]
    assert details.get("steps", details["training"]["step"]) > 0
