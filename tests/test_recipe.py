"""A recipe is data: frozen, checked, and the same after a round trip."""

import copy
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from tfgen.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
ZOO = ROOT / "zoo"

MINIMAL = {"family": "VAE", "model": {"latent_dim": 2}, "data": "digits"}
FULL = {
    **MINIMAL,
    "size": (8, 16),
    "skip_bad": True,
    "description": "A test.",
    "batch_size": 7,
    "epochs": 3,
    "learning_rate": 0.01,
    "learning_rates": {"optimizer": 0.02},
    "betas": (0.5, 0.99),
    "warmup_steps": 0,
    "final_fraction": 0.5,
    "restart_epochs": (1,),
    "clip_norm": 2.0,
    "ema_momentum": 0.0,
    "max_shift": 1,
    "mirror": True,
    "patience": 4,
    "jit_compile": False,
    "precision": "mixed_float16",
    "init_from": "vae_mnist",
    "freeze": ("encoder",),
    "lora": {"decoder": 4},
    "learning_rate_scales": {"decoder": 0.5},
    "stages": [{"trainable": ["decoder"], "epochs": 2}],
    "seed": 9,
    "results": [{"metric": "log_likelihood", "num_samples": 5}],
}


def test_a_recipe_keeps_no_hold_of_what_it_was_given():
    """Or a sweep that changes a dict would change the recipes before."""
    given = copy.deepcopy(FULL)
    made = Recipe.from_dict(given)
    for value in given.values():
        if isinstance(value, (dict, list)):
            value.clear()
    assert made == Recipe.from_dict(FULL)


def test_numbers_of_numpy_are_numbers():
    numbers = {"batch_size": np.int64(7), "learning_rate": np.float32(0.5)}
    made = Recipe(**MINIMAL, **numbers, jit_compile=np.False_)
    assert made == Recipe(**MINIMAL, batch_size=7, learning_rate=0.5, jit_compile=False)
    assert Recipe.from_dict(json.loads(made.to_json())) == made
    with pytest.raises(ValueError, match="batch_size must be an integer"):
        Recipe(**MINIMAL, batch_size=np.float64(7.5))


def test_every_field_is_varied():
    assert set(FULL) == {field.name for field in dataclasses.fields(Recipe)}
    defaults = Recipe.from_dict(MINIMAL)
    for name, value in FULL.items():
        assert name in MINIMAL or getattr(defaults, name) != value


def test_round_trip(tmp_path):
    full = Recipe.from_dict(FULL)
    assert full.to_dict() == FULL
    path = tmp_path / "recipe.json"
    path.write_text(full.to_json())
    assert Recipe.load(path) == full
    assert Recipe.load(str(path)) == full
    assert Recipe.load(path) != Recipe.from_dict(MINIMAL)


def test_restart_after_the_end():
    with pytest.raises(
        ValueError, match=r"restart_epochs must lie before the end, epochs=3; .*\(2, 3\)"
    ):
        Recipe.from_dict({**FULL, "restart_epochs": [2, 3]})


def test_frozen():
    full = Recipe.from_dict(FULL)
    with pytest.raises(dataclasses.FrozenInstanceError):
        full.epochs = 5


def test_unknown_key():
    with pytest.raises(ValueError, match=r"unknown key 'learningrate'.*'learning_rate'.*Known"):
        Recipe.from_dict({**MINIMAL, "learningrate": 0.1})
    with pytest.raises(ValueError, match=r"unknown key 'xyz'\. Known keys: family, model"):
        Recipe.from_dict({**MINIMAL, "xyz": 0.1})


@pytest.mark.parametrize("key", MINIMAL)
def test_missing_key(key):
    with pytest.raises(ValueError, match=f"the key '{key}' is required"):
        Recipe.from_dict({k: v for k, v in FULL.items() if k != key})


@pytest.mark.parametrize("text", ["", "{", '{"family": "VAE",}', "\x00\x01"])
def test_invalid_json(tmp_path, text):
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"recipe .*recipe\.json is not valid JSON"):
        Recipe.load(path)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not valid JSON"):
        Recipe.load(path)


@pytest.mark.parametrize("value", [[], "VAE", 3, None])
def test_json_that_is_no_object(tmp_path, value):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match="must be a JSON object"):
        Recipe.load(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        Recipe.load(tmp_path / "recipe.json")


def test_a_file_holds_what_differs_from_the_defaults(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(Recipe.from_dict({**MINIMAL, "epochs": 10, "clip_norm": 2.0}).to_json())
    assert json.loads(path.read_text()) == {**MINIMAL, "clip_norm": 2.0}
    assert Recipe.load(path) == Recipe.from_dict({**MINIMAL, "clip_norm": 2.0})


@pytest.mark.parametrize("path", sorted(ZOO.glob("*/recipe.json")), ids=lambda p: p.parent.name)
def test_every_recipe_of_the_zoo_is_as_to_json_writes_it(path):
    assert path.read_text() == Recipe.load(path).to_json()


# Stages


def test_a_stage_differs_from_its_recipe_where_it_says_so():
    first, second = Recipe.from_dict(FULL).plan()
    assert first.trainable is None
    assert first.recipe == Recipe.from_dict({**FULL, "stages": []})
    assert second.trainable == ("decoder",)
    assert second.recipe == Recipe.from_dict(
        {**FULL, "stages": [], "epochs": 2, "restart_epochs": ()}
    )
    (only,) = Recipe.from_dict(MINIMAL).plan()
    assert only.recipe == Recipe.from_dict(MINIMAL)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"epochs": 2}, r"stages\[0\]: trainable must be a list of parts.*received None"),
        ({"trainable": []}, r"stages\[0\]: trainable must be .* at least one; received \[\]"),
        ({"trainable": "prior"}, r"stages\[0\]: trainable must be .*; received 'prior'"),
        ({"trainable": ["prior"], "epoch": 2}, r"stages\[0\]: unknown key 'epoch'.*'epochs'"),
        ({"trainable": ["prior"], "family": "GAN"}, r"stages\[0\]: unknown key 'family'"),
        ({"trainable": ["prior"], "epochs": 0}, r"recipe: stages\[0\]: epochs must be an integer"),
    ],
)
def test_stages_that_do_not_fit(stage, message):
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict({**MINIMAL, "stages": [stage]})


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("batch_size", 0),
        ("batch_size", 2.5),
        ("batch_size", True),
        ("batch_size", "100"),
        ("epochs", 0),
        ("warmup_steps", -1),
        ("max_shift", -1),
        ("mirror", 1),
        ("mirror", "horizontal"),
        ("mirror", None),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", "0.1"),
        ("learning_rates", {"optimizer": 0}),
        ("learning_rates", 0.1),
        ("betas", [0.9]),
        ("betas", [0.9, 1.0]),
        ("betas", 0.9),
        ("final_fraction", -0.1),
        ("restart_epochs", 3),
        ("restart_epochs", [0]),
        ("restart_epochs", [2, 2]),
        ("clip_norm", 0),
        ("clip_norm", -1.0),
        ("ema_momentum", 1.0),
        ("ema_momentum", -0.1),
        ("patience", 0),
        ("patience", 1.5),
        ("jit_compile", "yes"),
        ("seed", 1.5),
        ("seed", None),
        ("seed", -1),
        ("description", None),
        ("results", ["log_likelihood"]),
        ("model", []),
        ("family", 3),
        ("data", 3),
        ("results", {}),
        ("stages", {}),
        ("skip_bad", "yes"),
        ("precision", "float64"),
        ("init_from", 3),
        ("freeze", "encoder"),
        ("lora", {"encoder": 0}),
        ("lora", 4),
        ("learning_rate_scales", {"encoder": 0}),
        ("learning_rate_scales", [0.1]),
    ],
)
def test_values_out_of_range(key, wrong):
    message = rf"recipe: {key} must .*; received {re.escape(repr(wrong))}\."
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict({**MINIMAL, key: wrong})


def test_a_byte_order_mark_is_no_error(tmp_path):
    """Editors on Windows write one."""
    path = tmp_path / "recipe.json"
    path.write_text(Recipe("VAE", {}, "digits", size=[4, 8]).to_json(), encoding="utf-8-sig")
    assert Recipe.load(path).size == (4, 8)


@pytest.mark.parametrize("size", [0, 2.5, True, "64", [4], [4, 0], [4, 4, 1]])
def test_a_size_that_is_not_valid(size):
    with pytest.raises(ValueError, match="recipe: size must be a positive integer, a list of two"):
        Recipe("VAE", {}, "digits", size=size)
