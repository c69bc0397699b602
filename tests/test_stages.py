"""Recipes of several stages: what each one trains, exact resume, and a refusal of other data."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import runs

from tfgen import plots, training, tuning
from tfgen.recipe import Recipe

STAGED = Recipe(
    family="AutoEncoder",
    model=runs.TINY,
    data="digits",
    batch_size=128,  # 8 steps an epoch
    epochs=2,
    learning_rate=0.01,
    warmup_steps=2,
    ema_momentum=0.9,
    freeze=("decoder",),
    learning_rate_scales={"encoder": 0.5},
    jit_compile=False,
    stages=[{"trainable": ["decoder"], "epochs": 2, "batch_size": 256, "mirror": True}],
)


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages") / "whole"
    return folder, training.train(STAGED, folder, verbose=0, keep_epochs=1)


def part_of(arrays: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    return {name: value for name, value in arrays.items() if name.startswith(part)}


@pytest.mark.slow
def test_each_stage_trains_its_own_parts(staged):
    folder, model = staged
    epochs = [runs.weights_of(STAGED, folder, epoch) for epoch in (1, 2, 3, 4)]
    for earlier, later, moves in ((0, 1, "encoder"), (2, 3, "decoder")):
        for part in ("encoder", "decoder"):
            before, after = (part_of(epochs[i], part) for i in (earlier, later))
            changed = any((before[name] != after[name]).any() for name in before)
            assert changed == (part == moves)
    # 8 steps an epoch, then 4 of twice the batch.
    assert json.loads((folder / "training.json").read_text("utf-8"))["step"] == 2 * 8 + 2 * 4
    log = runs.log_of(folder)
    assert [row["epoch"] for row in log] == ["0", "1", "2", "3"]
    assert [row["stage"] for row in log] == ["0", "0", "1", "1"]
    assert float(log[-1]["val_loss"]) < float(log[1]["val_loss"])
    # The second stage begins with the best of the first one, and the best of the second one stays.
    best = min((0, 1), key=lambda i: float(log[i]["val_loss"]))
    last = min((2, 3), key=lambda i: float(log[i]["val_loss"]))
    for name, value in tuning.values(model).items():
        source = epochs[best] if name.startswith("encoder") else epochs[last]
        np.testing.assert_array_equal(value, source[name])


@pytest.mark.slow
def test_what_a_stage_has_trained_is_not_frozen_in_the_end(staged):
    _, model = staged
    assert "frozen" not in model.get_config()
    assert all(variable.trainable for variable in tuning.weights(model).values())


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [2, 3])  # counted from 1: the last of stage 0, the first of 1
def test_resume_around_a_stage_s_end(staged, tmp_path, monkeypatch, epoch):
    def fail(picture, path, **options):
        if path.name == f"epoch_{epoch:04d}.png":
            raise runs.Interruption
        return save(picture, path, **options)

    save = plots.save
    with monkeypatch.context() as patch:
        patch.setattr(plots, "save", fail)
        with pytest.raises(runs.Interruption):
            training.train(STAGED, tmp_path / "cut", verbose=0)
    assert_resumes(tmp_path / "cut", staged)


@pytest.mark.slow
def test_resume_inside_a_later_stage(staged, tmp_path):
    runs.cut_off(STAGED, tmp_path / "cut", 18)  # the second step of stage 1
    assert_resumes(tmp_path / "cut", staged)


@pytest.mark.slow
def test_resume_of_a_staged_run_that_ended(staged, tmp_path):
    assert_resumes(shutil.copytree(staged[0], tmp_path / "run"), staged)


def assert_resumes(folder, staged) -> None:
    whole_folder, whole = staged
    runs.assert_resumes(STAGED, folder, whole, whole_folder)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"trainable": ["decodr"]}, r"trainable of a stage: pattern 'decodr' matches nothing"),
        ({"trainable": ["decoder"], "batch_size": 5000}, "batch_size must be at most the 1151"),
    ],
)
def test_a_stage_that_does_not_fit_is_refused_before_the_first_one(tmp_path, stage, message):
    recipe = dataclasses.replace(STAGED, stages=[stage])
    with pytest.raises(ValueError, match=message):
        training.train(recipe, tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


# Data that has changed


@pytest.mark.slow
@pytest.mark.parametrize("change", ["a pixel", "the size", "validation", "a label"])
def test_resume_on_other_data_is_refused(tmp_path, change):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 8, 1), np.uint8)
    splits = {"x_train": images[:40], "x_validation": images[40:50], "x_test": images[50:]}
    if change == "a label":
        splits |= {f"y{name[1:]}": np.arange(len(part)) % 2 for name, part in splits.items()}
    np.savez(tmp_path / "own.npz", **splits)
    recipe = dataclasses.replace(
        STAGED, stages=[], freeze=(), data=str(tmp_path / "own.npz"), batch_size=20
    )
    if change == "a label":
        recipe = dataclasses.replace(recipe, family="VAE", model={**recipe.model, "num_classes": 2})
    training.train(recipe, tmp_path / "run", verbose=0)
    log = (tmp_path / "run" / "log.csv").read_bytes()
    if change == "the size":
        splits["x_train"] = images[:39]
    else:
        changed = {"a pixel": "x_train", "validation": "x_validation", "a label": "y_train"}
        splits[changed[change]] = splits[changed[change]].copy()
        splits[changed[change]].flat[0] ^= 1
    np.savez(tmp_path / "own.npz", **splits)
    split = "validation" if change == "validation" else "train"
    split = f"labels of the {split}" if change == "a label" else split
    message = rf"the {split} split of .* now has sha256 [0-9a-f]{{64}}, .* has [0-9a-f]{{64}}\."
    longer = dataclasses.replace(recipe, epochs=recipe.epochs + 1)
    for given in (recipe, longer):
        with pytest.raises(ValueError, match=message):
            training.train(given, tmp_path / "run", resume=True, verbose=0)
    assert (tmp_path / "run" / "log.csv").read_bytes() == log
    assert Recipe.load(tmp_path / "run" / "recipe.json") == recipe


def test_a_staged_run_is_not_extended(tmp_path):
    """Its later stages began after as many epochs of the first as the recipe said."""
    (tmp_path / "recipe.json").write_text(STAGED.to_json())
    longer = dataclasses.replace(STAGED, epochs=STAGED.epochs + 1)
    with pytest.raises(ValueError, match=rf"differs in epochs \(there {STAGED.epochs}, given"):
        training.train(longer, tmp_path, resume=True, verbose=0)
