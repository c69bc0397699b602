"""Damaged files: a clear error or the exact content; no hang, no code run, no other model.

More rounds with `pytest -m nightly tests/test_fuzz.py`.
"""

import ast
import io
import json
import random
import shutil
import zipfile
from pathlib import Path

import hypothesis
import keras
import laws
import numpy as np
import pytest
from hypothesis import strategies as st
from keras.src.saving import serialization_lib

import tfgen
import tfgen_command
from tfgen import AutoEncoder, data, presets, zoo
from tfgen.recipe import Recipe

SMALL = {"image_shape": (4, 4, 1), "latent_dim": 2, "filters": (2,), "num_blocks": 0}
RECIPE = Recipe(family="AutoEncoder", model=dict(SMALL), data="digits")
ROUNDS, NIGHTLY_ROUNDS = 40, 1000

settings = hypothesis.settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


# Recipes


@settings
@hypothesis.given(st.sampled_from(sorted(RECIPE.to_dict())), json_values)
def test_recipes_with_any_value(key, value):
    """It is taken and survives its own file, or a ValueError names the key."""
    recipe, message = None, ""
    try:
        recipe = Recipe.from_dict({**RECIPE.to_dict(), key: value})
    except ValueError as error:
        message = str(error)
    if recipe is None:
        assert key in message
        return
    assert Recipe.from_dict(json.loads(recipe.to_json())) == recipe


@settings
@hypothesis.given(json_values)
def test_recipes_of_any_json(values):
    with pytest.raises(ValueError, match="recipe"):
        Recipe.from_dict(values)


@settings
@hypothesis.given(st.binary(max_size=60))
def test_recipe_files_of_any_bytes(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "recipe.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="recipe"):
        Recipe.load(path)


def test_recipe_nested_without_end(tmp_path):
    (tmp_path / "recipe.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="not valid JSON"):
        Recipe.load(tmp_path / "recipe.json")


# Entries


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "entry"
    model = laws.randomised(AutoEncoder(**SMALL))
    zoo.save(model, folder, RECIPE)
    return model, folder


@settings
@hypothesis.given(st.sampled_from(["config.json", "metadata.json"]), json_values)
def test_entry_of_any_json(entry, tmp_path_factory, file, values):
    """`load` and `info` raise ValueError that names the file; nothing else comes out of them."""
    _, folder = entry
    copy = tmp_path_factory.getbasetemp() / "entry_of_any_json"
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    (copy / file).write_text(json.dumps(values))
    for call in (zoo.load, zoo.info):
        with pytest.raises(ValueError, match=file):
            call(copy)


@pytest.mark.slow
@settings
@hypothesis.given(st.sampled_from(["family", "config"]), json_values)
def test_config_of_any_value(entry, tmp_path_factory, key, value):
    _, folder = entry
    copy = tmp_path_factory.getbasetemp() / "config_of_any_value"
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    stored = json.loads((folder / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**stored, key: value}))
    details = json.loads((folder / "metadata.json").read_text())
    del details["config_sha256"]  # an older preset's: the values themselves are refused
    (copy / "metadata.json").write_text(json.dumps(details))
    with pytest.raises(ValueError, match=r"\w"):
        zoo.load(copy)


def flipped(content: bytes, chance: random.Random) -> bytes:
    """The content with one bit changed, or cut short, or with a stretch of it overwritten."""
    damaged = bytearray(content)
    place = chance.randrange(len(damaged))
    kind = chance.random()
    if kind < 0.8:
        damaged[place] ^= 1 << chance.randrange(8)
    elif kind < 0.9:
        del damaged[place:]
    else:
        damaged[place : place + 64] = chance.randbytes(len(damaged[place : place + 64]))
    return bytes(damaged)


def weights_survive_damage(entry, folder, rounds: int) -> None:
    """The weights of an entry are checked before they are read: any change is refused."""
    _, whole = entry
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    content = (whole / presets.WEIGHTS).read_bytes()
    chance = random.Random(1)
    for _ in range(rounds):
        damaged = flipped(content, chance)
        (folder / presets.WEIGHTS).write_bytes(damaged)
        if damaged != content:
            with pytest.raises(ValueError, match="is damaged or was changed"):
                zoo.load(folder)


def test_damaged_weights(entry, tmp_path):
    weights_survive_damage(entry, tmp_path, ROUNDS)


@pytest.mark.nightly
def test_many_damaged_weights(entry, tmp_path):
    weights_survive_damage(entry, tmp_path, NIGHTLY_ROUNDS)


# .keras files


def keras_files_survive_damage(entry, folder, rounds: int) -> dict[str, int]:
    """A damaged file is refused, or gives the model that was saved.

    A zip archive carries a checksum of each file in it, and Keras reads all of them.
    """
    model, _ = entry
    model.save(folder / "whole.keras")
    content = (folder / "whole.keras").read_bytes()
    images = laws.images_for(model, 2)
    expected = np.asarray(model(images))
    chance = random.Random(2)
    counts = {"refused": 0, "equal": 0}
    for _ in range(rounds):
        path = folder / "damaged.keras"
        path.write_bytes(flipped(content, chance))
        try:
            loaded = zoo.load_file(path)
        except ValueError:
            counts["refused"] += 1
            continue
        np.testing.assert_array_equal(np.asarray(loaded(images)), expected)
        assert loaded.get_config() == model.get_config()
        counts["equal"] += 1
    return counts


def test_damaged_keras_files(entry, tmp_path):
    counts = keras_files_survive_damage(entry, tmp_path, ROUNDS)
    assert counts["refused"] > ROUNDS // 2


@pytest.mark.nightly
def test_many_damaged_keras_files(entry, tmp_path, capsys):
    counts = keras_files_survive_damage(entry, tmp_path, NIGHTLY_ROUNDS)
    with capsys.disabled():
        print(f"\n.keras files with damage: {counts}")


class Spy:
    """Pickled, it would write a file when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_code_in_files_is_never_run(entry, tmp_path):
    """A Lambda in a .keras file, a class by its module's name, pickled objects in arrays."""
    seen = tmp_path / "seen"
    network = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x + 1)])
    network.save(tmp_path / "lambda.keras")
    with pytest.raises(ValueError, match="lambda"):
        zoo.load_file(tmp_path / "lambda.keras")
    keras.config.enable_unsafe_deserialization()  # for another file, which is the user's own
    try:
        with pytest.raises(ValueError, match="lambda"):
            zoo.load_file(tmp_path / "lambda.keras")
    finally:
        serialization_lib.global_state.set_global_attribute("safe_mode_saving", None)

    model, _ = entry
    model.save(tmp_path / "model.keras")
    config = json.loads(zipfile.ZipFile(tmp_path / "model.keras").read("config.json"))
    foreign = {**config, "module": "os", "class_name": "system", "registered_name": "system"}
    foreign["config"] = {"command": f"touch {seen}"}
    with (
        zipfile.ZipFile(tmp_path / "model.keras") as source,
        zipfile.ZipFile(tmp_path / "foreign.keras", "w") as target,
    ):
        for name in source.namelist():
            content = json.dumps(foreign) if name == "config.json" else source.read(name)
            target.writestr(name, content)
    with pytest.raises(ValueError, match=r"foreign\.keras"):
        zoo.load_file(tmp_path / "foreign.keras")

    stream = io.BytesIO()
    np.save(stream, np.array([Spy(seen)], object), allow_pickle=True)
    np.savez(tmp_path / "own.npz", images=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as archive:
        archive.writestr("images.npy", stream.getvalue())
    with pytest.raises(ValueError, match="Python objects"):
        data.arrays(tmp_path / "own.npz")
    assert not seen.exists()


def test_no_source_file_opens_the_door():
    """Nothing in the package unpickles, evaluates text, or turns Keras' safe mode off."""
    safe = {"allow_pickle": False, "safe_mode": True}
    packages = [Path(package.__file__).parent for package in (tfgen, tfgen_command)]
    paths = [path for package in packages for path in package.rglob("*.py")]
    assert len(paths) > 100
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {getattr(node, "module", None), *(alias.name for alias in node.names)}
                assert not names & {"pickle", "marshal", "dill", "cloudpickle"}, path
            elif isinstance(node, ast.Call):
                assert getattr(node.func, "id", None) not in ("eval", "exec"), path
                for keyword in node.keywords:
                    if keyword.arg in safe:
                        assert ast.literal_eval(keyword.value) is safe[keyword.arg], path
