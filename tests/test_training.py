"""Training: exact resume, averaged weights, stopping."""

import dataclasses
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import types

import keras
import numpy as np
import pytest
import runs
import tensorflow as tf
from runs import RECIPE, SIMPLE, TINY

from tfgen import (
    AutoEncoder,
    arrays,
    data,
    devices,
    optimizers,
    plots,
    presets,
    starting,
    training,
    zoo,
)
from tfgen.recipe import Recipe
from tfgen.training import announce, checkpoint, stopping
from tfgen_command import process


def final_state(folder) -> dict[str, np.ndarray]:
    """Weights, averages, slots and step of the newest checkpoint; not the time it took."""
    with np.load(sorted(folder.glob("checkpoint-*.npz"))[-1]) as arrays:
        return {name: arrays[name] for name in arrays.files if name != "state"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder and the model of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, training.train(RECIPE, folder, verbose=0)


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """The folder of a run that was interrupted in its 12th step: the 4th of the second epoch."""
    folder = tmp_path_factory.mktemp("runs") / "cut"

    def step(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 12:
            raise runs.Interruption
        original(self, batch, logs)

    original = training.AveragedWeights.on_train_batch_end
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.AveragedWeights, "on_train_batch_end", step)
        with pytest.raises(runs.Interruption):
            training.train(RECIPE, folder, verbose=0, checkpoint_seconds=0.0)
    return folder


def assert_ends_as_if_whole(folder, whole) -> None:
    """Resumes the run in `folder`; everything it ends with equals the uninterrupted run's."""
    whole_folder, whole_model = whole
    model = training.train(RECIPE, folder, resume=True, verbose=0)
    for own, expected in zip(model.get_weights(), whole_model.get_weights(), strict=True):
        np.testing.assert_array_equal(own, expected)
    assert runs.log_of(folder) == runs.log_of(whole_folder)
    own, expected = final_state(folder), final_state(whole_folder)
    assert set(own) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(own[name], value, err_msg=name)
    own, expected = (json.loads((f / "training.json").read_text()) for f in (folder, whole_folder))
    assert own | {"seconds": 0} == expected | {"seconds": 0}
    assert {p.name for p in (folder / "samples").iterdir()} == {
        f"epoch_{epoch:04d}.png" for epoch in (1, 2, 3)
    }


def test_a_model_is_not_replaced_by_a_run(tmp_path):
    """A folder that `save_to_preset` wrote holds no recipe, and is not new all the same."""
    model = starting.from_recipe(SIMPLE)
    model.save_to_preset(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"folder \(--out\) must be new: .* holds a model"):
            training.train(SIMPLE, tmp_path / "run", resume=resume, verbose=0)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("more", [0, 1])
def test_a_model_without_checkpoints_is_not_trained_from_scratch(tmp_path, resume, more):
    """As an entry of the zoo, or a run whose checkpoints were deleted."""
    presets.save(starting.from_recipe(SIMPLE), tmp_path / "run", SIMPLE)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    recipe = dataclasses.replace(SIMPLE, epochs=SIMPLE.epochs + more)
    with pytest.raises(ValueError, match=r"must be new: .* and no checkpoint to continue from"):
        training.train(recipe, tmp_path / "run", resume=resume, verbose=0)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


@pytest.mark.slow
def test_a_recipe_that_was_edited_in_the_folder_is_not_resumed(tmp_path):
    """With another batch size, epochs would be skipped; words and more epochs may change."""
    runs.cut_off(SIMPLE, tmp_path / "run", 11)
    path = tmp_path / "run" / "recipe.json"
    for changes in ({"batch_size": 64}, {"learning_rate": 0.02}):
        edited = dataclasses.replace(SIMPLE, **changes)
        path.write_text(edited.to_json())
        with pytest.raises(ValueError, match=r"recipe.json has changed since\. Restore it"):
            training.train(edited, tmp_path / "run", resume=True, verbose=0)
    edited = dataclasses.replace(SIMPLE, epochs=SIMPLE.epochs + 1, description="Of digits.")
    path.write_text(edited.to_json())
    training.train(edited, tmp_path / "run", resume=True, verbose=0)
    assert len(runs.log_of(tmp_path / "run")) == edited.epochs


@pytest.mark.parametrize("start", ["vae_2d_mnist", "./vae_2d_mnist", "~/vae_2d_mnist"])
def test_a_run_does_not_start_from_itself(start, tmp_path, monkeypatch):
    """It could not be resumed: its own folder would be what `init_from` names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = dataclasses.replace(SIMPLE, init_from=start)
    for folder in ("vae_2d_mnist", tmp_path / "vae_2d_mnist", "~/vae_2d_mnist"):
        with pytest.raises(ValueError, match=r"folder \(--out\) must differ .* init_from, '"):
            training.train(recipe, folder)
    assert not list(tmp_path.iterdir())


def test_the_log_has_the_columns_of_all_epochs(tmp_path):
    """Of a `validation_freq`, or of a second `fit` without validation."""
    log = training.CSVLog(tmp_path / "log.csv")
    for epoch, losses in enumerate([{"loss": 2.0}, {"loss": 1.0, "val_loss": 3.0}, {"loss": 0.5}]):
        log.on_epoch_end(epoch, losses)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines == ["epoch,loss,val_loss", "0,2.0,", "1,1.0,3.0", "2,0.5,"]


# A whole run


@pytest.mark.slow
def test_run_leaves_its_files(whole):
    folder, model = whole
    names = {p.name for p in folder.iterdir()}
    assert {"recipe.json", "log.csv", "samples", "training.json", "best.npz"} <= names
    assert Recipe.load(folder / "recipe.json") == RECIPE
    assert [row["epoch"] for row in runs.log_of(folder)] == ["0", "1", "2"]
    assert float(runs.log_of(folder)[-1]["loss"]) < float(runs.log_of(folder)[0]["loss"])
    assert len(list(folder.glob("checkpoint-*.npz"))) == 2
    assert not list(folder.glob(".*")), "a temporary file stayed behind"
    state = json.loads((folder / "training.json").read_text())
    assert state["step"] == 24
    assert state["epoch"] == 3
    assert model.compiled


@pytest.mark.slow
def test_run_ends_with_the_best_averaged_weights(whole):
    folder, model = whole
    losses = [float(row["val_loss"]) for row in runs.log_of(folder)]
    state = json.loads((folder / "training.json").read_text())
    assert state["best_epoch"] == int(np.argmin(losses))
    images, _ = data.arrays("digits", "validation")
    found = model.evaluate(images, batch_size=RECIPE.batch_size, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(min(losses), rel=1e-6)
    with np.load(sorted(folder.glob("checkpoint-*.npz"))[-1]) as last:
        averages = [name for name in last.files if name.startswith("average/")]
        differ = [
            (last[name] != last[name.replace("average", "weight")]).any() for name in averages
        ]
    assert any(differ)


def test_a_recipe_is_the_same_with_its_keys_in_another_order(tmp_path):
    training.train(dataclasses.replace(SIMPLE, epochs=1), tmp_path / "run", verbose=0)
    turned = dict(reversed(SIMPLE.model.items()))
    longer = dataclasses.replace(SIMPLE, epochs=2, model=turned)
    model = training.train(longer, tmp_path / "run", resume=True, verbose=0)
    zoo.save(model, tmp_path / "run", longer)
    longest = dataclasses.replace(SIMPLE, epochs=3)
    training.train(longest, tmp_path / "run", resume=True, verbose=0)
    assert len(runs.log_of(tmp_path / "run")) == 3
    (newest,) = tmp_path.glob("run/checkpoint-*24.npz")
    arrays = dict(np.load(newest))
    state = checkpoint.RunState.from_bytes(arrays["state"])
    # As versions have written it that looked at the order.
    fixed = {"description": "", "results": [], "data": "-", "init_from": None, "epochs": 10**9}
    text = dataclasses.replace(Recipe.load(tmp_path / "run" / "recipe.json"), **fixed).to_json()
    state.data["recipe"] = hashlib.sha256(text.encode()).hexdigest()
    np.savez(newest, **{**arrays, "state": state.to_bytes()})
    training.train(dataclasses.replace(SIMPLE, epochs=4), tmp_path / "run", resume=True, verbose=0)
    assert len(runs.log_of(tmp_path / "run")) == 4


def test_weights_are_averaged_as_the_recipe_says(tmp_path, monkeypatch):
    momenta = set()
    start = training.AveragedWeights.on_train_begin
    monkeypatch.setattr(
        training.AveragedWeights,
        "on_train_begin",
        lambda self, logs=None: (momenta.add(self.momentum), start(self, logs)),
    )
    recipe = dataclasses.replace(SIMPLE, ema_momentum=0.37, epochs=1)
    training.train(recipe, tmp_path / "run", verbose=0)
    assert momenta == {0.37}


@pytest.mark.slow
def test_a_trained_model_is_saved_whole(whole, tmp_path):
    """`import tfgen` alone must bring all classes of the file, the learning rate's too."""
    whole[1].save(tmp_path / "trained.keras")
    script = (
        "import sys, keras, tfgen; model = keras.models.load_model(sys.argv[1]); "
        "print(int(model.optimizer.iterations), type(model.optimizer._learning_rate).__name__)"
    )
    command = [sys.executable, "-c", script, tmp_path / "trained.keras"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split() == ["24", "CosineCycles"]


def test_build_is_a_function_of_the_recipe():
    weights = [training.build(recipe).get_weights() for recipe in (SIMPLE, SIMPLE)]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)
    other = training.build(dataclasses.replace(SIMPLE, seed=4))
    assert any((a != b).any() for a, b in zip(weights[0], other.get_weights(), strict=True))
    assert other.seed == 4


# Resume


def test_cut_inside_an_epoch(cut, whole, tmp_path):
    assert [row["epoch"] for row in runs.log_of(cut)] == ["0"]
    assert sorted(p.name for p in cut.glob("checkpoint-*")) == [
        "checkpoint-000000010.npz",
        "checkpoint-000000011.npz",
    ]
    folder = shutil.copytree(cut, tmp_path / "run")
    assert_ends_as_if_whole(folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
def test_damaged_checkpoint_falls_back(cut, whole, tmp_path, capsys, damage):
    folder = shutil.copytree(cut, tmp_path / "run")
    newest = sorted(folder.glob("checkpoint-*.npz"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "flipped":
        newest.write_bytes(content)
    else:
        newest.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    if damage == "truncated":
        assert_ends_as_if_whole(folder, whole)
    else:
        model = training.build(RECIPE)
        stored = training.CheckpointFiles(folder).newest()
        assert training.Checkpoint(folder, training.AveragedWeights(0.9)).restore(model, stored)
        assert stored.state.step == int(model.optimizer.iterations) == 10
    assert "checkpoint-000000011.npz cannot be read" in capsys.readouterr().out


def test_checkpoints_after_those_that_cannot_be_read_are_kept(tmp_path, capsys):
    """A run that begins again is behind the steps of the old files for a long time."""
    for step in (1000, 1100):
        (tmp_path / f"checkpoint-{step:09d}.npz").write_bytes(b"no archive")
    files = training.CheckpointFiles(tmp_path)
    assert files.newest() is None
    for step in (10, 20, 30):
        files.write({}, training.RunState(step=step))
        assert files.newest().state.step == step
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == [f"checkpoint-{step:09d}.npz" for step in (20, 30, 1000, 1100)]
    assert arrays.weights_so_far(tmp_path).name == "checkpoint-000000030.npz"
    assert "saved at step 30;" in stopping.Stop(tmp_path)._advice()


@pytest.mark.parametrize("place", ["photos", "photos/run", "./photos/../photos"])
def test_a_run_does_not_end_among_its_images(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    recipe = dataclasses.replace(SIMPLE, data="photos")
    with pytest.raises(ValueError, match=r"folder \(--out\) must lie outside the images, 'photos'"):
        training.train(recipe, place)
    assert not list((tmp_path / "photos").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "method", "checkpoint_seconds"),
    [
        (training.AveragedWeights, "on_test_begin", 0.0),  # its last step done, not validated
        (plots, "save", 120.0),  # its row in the log written, its checkpoint not
    ],
)
def test_cut_at_the_end_of_an_epoch(
    whole, tmp_path, monkeypatch, place, method, checkpoint_seconds
):
    def fail(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:  # once an epoch
            raise runs.Interruption
        return original(*args, **kwargs)

    calls, original = [], getattr(place, method)
    with monkeypatch.context() as patch:
        patch.setattr(place, method, fail)
        with pytest.raises(runs.Interruption):
            training.train(
                RECIPE, tmp_path / "run", verbose=0, checkpoint_seconds=checkpoint_seconds
            )
    assert_ends_as_if_whole(tmp_path / "run", whole)


@pytest.mark.slow
def test_resume_of_a_run_that_ended(whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    assert_ends_as_if_whole(folder, whole)


@pytest.mark.slow
def test_killed_while_writing_a_checkpoint(whole, tmp_path):
    """SIGKILL with half a checkpoint on disk, in another process."""
    script = f"""
        import os, signal, sys
        import numpy as np
        from tfgen import training
        from tfgen.recipe import Recipe

        def savez(path, **arrays):
            save(path, **arrays)
            if "checkpoint-000000012" in path.name:
                with open(path, "r+b") as file:
                    file.truncate(1000)
                os.kill(os.getpid(), signal.SIGKILL)

        save, np.savez = np.savez, savez
        recipe = Recipe.from_dict({RECIPE.to_dict()!r})
        training.train(recipe, sys.argv[1], verbose=0, checkpoint_seconds=0.0)
    """
    folder = tmp_path / "run"
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script), folder], check=False)
    assert run.returncode == -signal.SIGKILL
    assert sorted(folder.glob("checkpoint-*"))[-1].name == "checkpoint-000000011.npz"
    assert_ends_as_if_whole(folder, whole)


# Refusals


@pytest.mark.slow
def test_folder_with_a_run_is_refused(whole):
    with pytest.raises(ValueError, match=r"already holds a run.*resume"):
        training.train(RECIPE, whole[0], verbose=0)


def test_resume_with_another_recipe_is_refused(whole):
    other = dataclasses.replace(RECIPE, learning_rate=0.02)
    message = (
        r"resume needs the run's own recipe, .* learning_rate \(there 0.01, given 0.02\)\. Give"
    )
    with pytest.raises(ValueError, match=message):
        training.train(other, whole[0], resume=True, verbose=0)
    other = dataclasses.replace(RECIPE, model={**RECIPE.model, "latent_dim": 3})
    with pytest.raises(ValueError, match=r"differs in model.latent_dim \(there 2, given 3\)\."):
        training.train(other, whole[0], resume=True, verbose=0)
    fewer = dataclasses.replace(RECIPE, epochs=2)
    with pytest.raises(ValueError, match=r"differs in epochs \(there 3, given 2\)"):
        training.train(fewer, whole[0], resume=True, verbose=0)


@pytest.mark.slow
def test_more_epochs_extend_a_run(tmp_path):
    recipe = dataclasses.replace(SIMPLE, epochs=1)
    training.train(recipe, tmp_path / "run", verbose=0)
    longer = dataclasses.replace(recipe, epochs=2)
    training.train(longer, tmp_path / "run", resume=True, verbose=0)
    assert [row["epoch"] for row in runs.log_of(tmp_path / "run")] == ["0", "1"]
    assert Recipe.load(tmp_path / "run" / "recipe.json") == longer


def test_the_expected_end_leaves_out_what_happens_between_epochs(monkeypatch, capsys):
    """Compiling the validation, for instance."""
    now = [0.0]
    clock = types.SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(announce, "time", clock)
    end = announce.ExpectedEnd(epochs=100, steps=4)
    end.set_params({"steps": 4})
    for epoch in range(3):
        end.on_epoch_begin(epoch)
        for batch in range(4):
            now[0] += 60.0
            end.on_train_batch_end(batch)
        now[0] += 3600.0
    assert capsys.readouterr().out.endswith(f"in {(400 - 10) // 60} h {(400 - 10) % 60} min\n")


@pytest.mark.parametrize(
    ("changes", "trains_in_part"),
    [
        ({}, False),
        ({"family": "GAN", "model": {**TINY, "dense_units": 4}}, False),  # keeps an averaged copy
        ({"freeze": ["decoder"]}, True),
        ({"lora": {"decoder": 1}}, True),
    ],
)
def test_how_many_weights_train_is_said_where_some_are_frozen(tmp_path, changes, trains_in_part):
    recipe = dataclasses.replace(SIMPLE, **changes)
    model = training.build(recipe, 8)
    splits = {name: data.open_split("digits", name) for name in ("train", "validation")}
    said = announce.announcement(recipe, model, splits, tmp_path, 0)
    (line,) = [line for line in said.splitlines() if line.startswith("model")]
    counted = f"{recipe.family}, {model.count_params():,} weights"
    trainable = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert line.endswith(f"{counted}, of which {trainable:,} train" if trains_in_part else counted)


@pytest.mark.slow
def test_a_run_says_what_it_does(tmp_path, capsys):
    recipe = dataclasses.replace(SIMPLE, epochs=2, freeze=["decoder"])
    training.train(recipe, tmp_path / "run", verbose=2)
    said = capsys.readouterr().out
    assert "digits: 1,151 train and 287 validation images, 8x8x1, 10 classes" in said
    assert "2 epochs of 8 steps of 128 images" in said
    assert ", of which " in said
    assert f"\nmachine   {devices.in_words()}\n" in said
    assert str((tmp_path / "run").resolve()) in said
    assert "expected at " in said
    training.train(recipe, tmp_path / "silent", verbose=0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"family": "VEA"}, ValueError, "family must be one of"),
        ({"model": {"latent_dims": 3}}, ValueError, "latent_dims"),
        ({"data": "digit"}, ValueError, "data must be one of.*'digits'"),
        ({"data": "no/such/folder"}, data.DataNotFoundError, "path that exists"),
        (
            {"model": {"image_shape": [4, 4, 1], "filters": [4]}},
            ValueError,
            "data .digits. must have shape",
        ),
        ({"batch_size": 5000}, ValueError, "batch_size must be at most the 1151 training images"),
    ],
)
def test_a_recipe_that_does_not_fit_leaves_nothing_behind(tmp_path, changes, error, message):
    """So that the corrected recipe can be run into the same folder."""
    folder = tmp_path / "run"
    with pytest.raises(error, match=message):
        training.train(dataclasses.replace(SIMPLE, **changes), folder, verbose=0)
    assert not folder.exists()


def test_conditional_model_of_unlabelled_data(tmp_path):
    images = np.zeros((20, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "own.npz", images=images)
    recipe = dataclasses.replace(
        RECIPE, model={**RECIPE.model, "num_classes": 2}, data=str(tmp_path / "own.npz")
    )
    with pytest.raises(ValueError, match=r"has no labels, but model\.num_classes=2"):
        training.train(dataclasses.replace(recipe, batch_size=4), tmp_path / "run", verbose=0)


def test_more_classes_in_the_data_than_in_the_model(tmp_path):
    """XLA drops a check inside the graph: the fourth class would read another class's weights."""
    images = np.zeros((50, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(50) % 5)
    recipe = dataclasses.replace(
        RECIPE, model={**RECIPE.model, "num_classes": 3}, data=str(tmp_path / "own.npz")
    )
    with pytest.raises(ValueError, match=r"must be at least the 5 classes of .*; received 3"):
        training.train(dataclasses.replace(recipe, batch_size=4), tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="file"):
        training.train(SIMPLE, tmp_path / "file" / "run", verbose=0)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# Averaged weights


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((-1.0, 0.1, 0, [5]), "peak must be"),
        ((1.0, float("nan"), 0, [5]), "final must be"),
        ((1.0, 0.1, -1, [5]), "warmup_steps must be"),
        ((1.0, 0.1, 0, []), "ends must be a list"),
        ((1.0, 0.1, 0, [5, 5]), "ends must ascend"),
        ((1.0, 0.1, 6, [5]), "ends must ascend from at least warmup_steps=6"),
    ],
)
def test_a_schedule_without_sense_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        optimizers.CosineCycles(*arguments)


def test_one_cycle_is_keras_own_cosine():
    ours = optimizers.CosineCycles(0.3, 0.1, 20, [120])
    keras_own = keras.optimizers.schedules.CosineDecay(
        0.0, 100, alpha=0.1, warmup_target=0.3, warmup_steps=20
    )
    for step in range(130):
        assert float(ours(step)) == pytest.approx(float(keras_own(step)), rel=1e-5, abs=1e-7)


def test_cycles_start_again_at_the_peak():
    schedule = optimizers.CosineCycles.from_config(
        optimizers.CosineCycles(2.0, 0.5, 4, [10, 16]).get_config()
    )
    rates = [float(schedule(tf.constant(step, tf.int64))) for step in range(20)]
    assert rates[:5] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])
    assert rates[7] == pytest.approx(1.5)
    assert rates[10] == pytest.approx(2.0)
    assert rates[13] == pytest.approx(1.5)
    assert rates[16:] == pytest.approx([1.0] * 4)


def test_weights_are_averaged_while_gradients_accumulate():
    model = AutoEncoder(**TINY)
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    model.compile(optimizer, jit_compile=False)
    averages = training.AveragedWeights(0.5)
    images = data.arrays("digits", "train")[0][:32]
    expected, seen = [v.numpy() for v in model.trainable_variables], []

    def note(batch, logs=None):
        seen.append([v.numpy() for v in model.trainable_variables])

    noting = keras.callbacks.LambdaCallback(on_train_batch_end=note)
    model.fit(images, batch_size=8, callbacks=[noting, averages], verbose=0)
    for n, weights in enumerate(seen, 1):
        momentum = min(0.5, (1 + n) / (10 + n))
        expected = [
            momentum * e + (1 - momentum) * w for e, w in zip(expected, weights, strict=True)
        ]
    for own, value in zip(model.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(own, value, rtol=1e-5, atol=1e-6)


def test_an_absurd_loss_is_divergence(tmp_path):
    checkpoint = training.Checkpoint(tmp_path, None)
    checkpoint.set_model(training.build(SIMPLE, 1))
    checkpoint.model.metrics[0].update_state(2e10)
    with pytest.raises(FloatingPointError, match="diverged"):
        checkpoint.save()
    checkpoint.set_params({"steps": 1})
    with pytest.raises(FloatingPointError, match="diverged"):
        checkpoint.on_train_batch_end(0)
    assert checkpoint.stop.pending is None  # what a run that is stopped now would write


def test_averaged_weights_equal_a_plain_computation():
    model = AutoEncoder((8, 8, 1), latent_dim=2, filters=(4,), num_blocks=0, dense_units=3)
    model.compile()
    averages = training.AveragedWeights(0.8)
    averages.set_model(model)
    averages.on_train_begin()
    expected = [v.numpy().astype(np.float64) for v in model.trainable_variables]
    rng = np.random.default_rng(0)
    for n in range(1, 60):
        for variable in model.trainable_variables:
            variable.assign(rng.standard_normal(variable.shape))
        model.optimizer.iterations.assign(n)
        averages.on_train_batch_end(0)
        momentum = min(0.8, (1 + n) / (10 + n))
        expected = [
            momentum * e + (1 - momentum) * v.numpy()
            for e, v in zip(expected, model.trainable_variables, strict=True)
        ]
    for own, value in zip(averages.averages, expected, strict=True):
        np.testing.assert_allclose(own, value, rtol=1e-4, atol=1e-5)
    # The average stands in during evaluations, and at the end for good.
    weights = [v.numpy() for v in model.trainable_variables]
    averages.on_test_begin()
    np.testing.assert_allclose(model.trainable_variables[0], expected[0], rtol=1e-4, atol=1e-5)
    averages.on_test_end()
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        np.testing.assert_array_equal(variable, value)
    averages.on_train_end()
    for _ in range(2):  # whatever evaluates it afterwards
        np.testing.assert_allclose(model.trainable_variables[0], expected[0], rtol=1e-4, atol=1e-5)
        averages.on_test_begin()
        np.testing.assert_allclose(model.trainable_variables[0], expected[0], rtol=1e-4, atol=1e-5)
        averages.on_test_end()


def test_a_clip_sees_the_whole_gradient_of_a_lookup():
    """A row that is looked up twice has the sum of both gradients: the norm is 2, the step 1."""
    table = keras.Variable(np.zeros((3, 1)))
    optimizer = keras.optimizers.SGD(1.0, global_clipnorm=1.0)
    with tf.GradientTape() as tape:
        seen = tf.gather(table.value, [1, 1])
    gradients = tape.gradient(seen, [table.value])
    assert isinstance(gradients[0], tf.IndexedSlices)
    devices.apply_gradients(optimizer, gradients, [table])
    np.testing.assert_allclose(table.numpy(), [[0.0], [-1.0], [0.0]], rtol=1e-6)


@pytest.mark.slow
def test_training_without_averages(tmp_path):
    recipe = dataclasses.replace(SIMPLE, ema_momentum=0.0, epochs=1)
    model = training.train(recipe, tmp_path / "run", verbose=0)
    images, _ = data.arrays("digits", "validation")
    loss = model.evaluate(images, batch_size=128, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(float(runs.log_of(tmp_path / "run")[0]["val_loss"]), rel=1e-6)


# Early stopping


@pytest.mark.slow
def test_patience_stops_and_the_best_epoch_is_kept(tmp_path):
    """A learning rate far too high, so that the loss soon rises."""
    recipe = dataclasses.replace(
        SIMPLE, learning_rate=0.3, epochs=20, patience=2, warmup_steps=0, ema_momentum=0.0
    )
    model = training.train(recipe, tmp_path / "run", verbose=0)
    losses = [float(row["val_loss"]) for row in runs.log_of(tmp_path / "run")]
    best = int(np.argmin(losses))
    assert len(losses) == best + 3 < 20
    state = json.loads((tmp_path / "run" / "training.json").read_text())
    assert state["best_epoch"] == best
    assert state["best_loss"] == pytest.approx(min(losses))
    images, _ = data.arrays("digits", "validation")
    loss = model.evaluate(images, batch_size=128, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(min(losses), rel=1e-6)
    # Resuming does not go on where patience has ended the run.
    for epochs in (20, 30):
        longer = dataclasses.replace(recipe, epochs=epochs)
        training.train(longer, tmp_path / "run", resume=True, verbose=0)
        assert len(runs.log_of(tmp_path / "run")) == len(losses)
    assert Recipe.load(tmp_path / "run" / "recipe.json") == recipe  # by which it was trained


@pytest.mark.slow_except("True")
@pytest.mark.parametrize("validated", [False, True])
def test_averaged_weights_go_on_in_a_second_fit(validated):
    images, _ = data.arrays("digits", "train")
    options = {"batch_size": 100, "shuffle": False, "verbose": 0}
    options |= {"validation_data": images[:100] if validated else None}
    found = []
    for parts in ((2,), (1, 2)):
        keras.utils.set_random_seed(0)
        model = AutoEncoder((8, 8, 1), latent_dim=2, filters=(4,), num_blocks=0, dense_units=8)
        model.compile(jit_compile=False)
        averages = training.AveragedWeights(0.9)
        for first, last in zip((0, *parts), parts, strict=False):
            model.fit(
                images[:300], initial_epoch=first, epochs=last, callbacks=[averages], **options
            )
        found.append([model.get_weights(), [average.numpy() for average in averages.averages]])
    for own, other in zip(*map(tf.nest.flatten, found), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-6)
    for wrong in (1.0, float("nan"), None):
        with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\)"):
            training.AveragedWeights(wrong)


def test_averaged_weights_begin_again_where_others_were_loaded():
    images = data.arrays("digits", "train")[0][:100]
    model = AutoEncoder((8, 8, 1), latent_dim=2, filters=(4,), num_blocks=0, dense_units=8)
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)  # nothing moves
    averages = training.AveragedWeights(0.9)
    model.fit(images, callbacks=[averages], verbose=0)
    loaded = [weight + 1.0 for weight in model.get_weights()]
    model.set_weights(loaded)
    model.fit(images, callbacks=[averages], verbose=0)
    for own, expected in zip(model.get_weights(), loaded, strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["checkpoint_seconds", "stop_within"])
def test_seconds_are_numbers(name, tmp_path):
    for wrong in (float("nan"), -1.0):
        with pytest.raises(ValueError, match=f"{name} must be a finite number of at least 0"):
            training.train(SIMPLE, tmp_path / "run", verbose=0, **{name: wrong})
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_that_has_not_ended_loads_as_a_trained_model(tmp_path):
    """Schedules are past, and the rate is that of fine-tuning, as after `zoo.save`."""
    training.train(RECIPE, tmp_path / "run", verbose=0)
    model = zoo.load(tmp_path / "run")
    assert model.steps_trained >= starting.MANY_STEPS
    rate = float(model.optimizer.learning_rate)
    assert rate == pytest.approx(starting.FINE_TUNING * RECIPE.learning_rate)
    copy = zoo.load(model.save_to_preset(tmp_path / "copy"))
    assert copy.steps_before >= starting.MANY_STEPS


@pytest.mark.slow
def test_a_run_in_progress_may_save_while_it_is_loaded(tmp_path, monkeypatch):
    """It keeps two checkpoints. Nor are the process's own random numbers begun again."""
    runs.cut_off(SIMPLE, tmp_path / "run", 5)  # no epoch has ended: no best.npz
    files = training.CheckpointFiles(tmp_path / "run")
    stored = files.newest()
    build = starting.from_recipe

    def meanwhile(recipe):
        if files.newest().state.step == 5:
            for step in (6, 7):
                files.write(stored.arrays, dataclasses.replace(stored.state, step=step))
        return build(recipe)

    monkeypatch.setattr(starting, "from_recipe", meanwhile)
    drawn = []
    for seed in (5, 6):
        random.seed(seed)
        model = zoo.load(tmp_path / "run")
        drawn.append(random.random())
    assert drawn[0] != drawn[1]
    assert files.newest().state.step == 7
    for index, weight in enumerate(model.get_weights()):
        np.testing.assert_array_equal(weight, stored.arrays[f"weight/{index:04d}"])


def test_weights_that_cannot_be_reached_are_not_called_damaged(tmp_path, monkeypatch):
    """Nor are older ones taken in their place."""
    for step in (1, 2):
        arrays.write_arrays(tmp_path / f"checkpoint-{step:09d}.npz", a=np.zeros(1))
    read = arrays.read_arrays

    def refuse(path):
        if path.name == "checkpoint-000000002.npz":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(arrays, "read_arrays", refuse)
    with pytest.raises(PermissionError):
        arrays.weights_so_far(tmp_path)
    with pytest.raises(PermissionError):
        arrays.load_weights(tmp_path / "checkpoint-000000002.npz", None)


def test_tuning_the_allocator_is_what_the_environment_would_set(monkeypatch):
    """MALLOC_MMAP_MAX_=0, MALLOC_TRIM_THRESHOLD_=2147483647, MALLOC_TOP_PAD_=268435456."""
    told = {}
    library = types.SimpleNamespace(mallopt=lambda key, value: told.update({key: value}) or 1)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(process.ctypes, "CDLL", lambda name: library)
    assert process.tune_allocator() is True
    assert told == {-4: 0, -1: 2147483647, -2: 268435456}
    library.mallopt = lambda key, value: 0  # refused
    assert process.tune_allocator() is False


def test_only_linux_has_an_allocator_to_tune(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert process.tune_allocator() is False


def test_tensorboard_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "\.\[tensorboard\]"'):
        training.train(RECIPE, tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_tensorboard_gets_losses_and_pictures(tmp_path):
    pytest.importorskip("tensorboard")
    recipe = dataclasses.replace(SIMPLE, epochs=2)
    training.train(recipe, tmp_path / "run", verbose=0, tensorboard=True)
    found = {}
    for path in (tmp_path / "run" / "tensorboard").rglob("events*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value))
    assert [step for step, _ in found["samples"]] == [0, 1]
    _, _, png = found["samples"][0][1].tensor.string_val  # width, height, picture
    picture = tf.io.decode_png(png).numpy()
    assert picture.shape[0] > 64
    assert len(found["epoch_loss"]) >= 2
