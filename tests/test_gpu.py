"""benchmarks/gpu: endpoints and trainings as programs that JAX runs without TensorFlow.

Here JAX runs them on a CPU; no figure of a GPU is tested.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfgen
from tfgen import formats, training
from tfgen.evaluation.evaluate import card_of
from tfgen.recipe import Recipe

pytest.importorskip("jax", reason="needs pip install jax, as the machine with the GPU has")
pytestmark = pytest.mark.slow

GPU = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu"
SHARED = {
    "model": {"image_shape": [8, 8, 1], "latent_dim": 2, "filters": [4], "dense_units": 8},
    "data": "digits",
    "batch_size": 16,
    "epochs": 2,
    "clip_norm": 1.0,
}
RECIPE = {"family": "VAE", **SHARED, "max_shift": 1, "mirror": True}
GAN = {"family": "GAN", **SHARED}
# Nothing of JAX's side may import TensorFlow: this module shadows it.
FORBIDDEN = 'raise ImportError("TensorFlow is not to be imported here")\n'


def run(script: Path, *arguments, without: Path | None = None) -> str:
    environment = dict(os.environ)
    if without is not None:
        (without / "tensorflow.py").write_text(FORBIDDEN)
        environment["PYTHONPATH"] = str(without)
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "vae.json").write_text(json.dumps(RECIPE))
    (folder / "gan.json").write_text(json.dumps(GAN))
    recipes = (folder / "vae.json", folder / "gan.json")
    arguments = ("--entries", "vae_2d_mnist", "--batches", 2, "--count", 64, "--train", *recipes)
    run(GPU.with_suffix(".py"), folder / "out", *arguments)
    return folder


def test_answers_and_steps_are_those_of_the_cpu(prepared, tmp_path):
    printed = run(GPU / "measure.py", prepared / "out", "--teraflops", 1, without=tmp_path)
    rows = [json.loads(line) for line in printed.splitlines()]
    endpoints = {row["endpoint"]: row for row in rows if "endpoint" in row}
    assert set(endpoints) == {"sample", "decode", "log_likelihood"}
    for name, row in endpoints.items():
        assert row["batch"] == 2
        assert row["difference"] <= (1e-2 if name == "log_likelihood" else 1)
        assert row["images_per_second"] > 0
    steps = [row for row in rows if "training" in row]
    assert {(row["training"], row["precision"]) for row in steps} == {
        (f"train.{name}.{precision}", precision)
        for name in ("vae", "gan")
        for precision in ("float32", "mixed_bfloat16")
    }
    for row in steps:
        exact = row["precision"] == "float32"
        assert row["losses_relative_difference"] < (1e-5 if exact else 1e-2), row
        assert row["weights_within_5_percent_of_a_step"] > (0.999 if exact else 0.9), row


def test_a_model_trained_without_tensorflow(prepared, tmp_path):
    """From the recipe to a folder that `tfgen.load` takes; it has learned."""
    folder, weights = tmp_path / "program", tmp_path / "new" / "weights.npz"
    run(GPU / "lower.py", prepared / "vae.json", folder, "--no-step")
    options = ("--minutes", 0.15, "--warmup-steps", 10, "--out", weights)
    printed = run(GPU / "train.py", folder, *options, without=tmp_path)
    assert "validation" in printed
    run(GPU / "restore.py", prepared / "vae.json", weights, tmp_path / "entry")
    model = tfgen.load(tmp_path / "entry")
    assert model.steps_trained > 1000  # what grows with the steps has grown
    info = tfgen.zoo.info(tmp_path / "entry")
    assert info["data"]["name"] == "digits"
    assert info["training"]["step"] > 100
    assert 0 <= info["training"]["best_epoch"] <= info["training"]["epoch"]
    assert "is not recorded" not in card_of(tmp_path / "entry")
    with np.load(weights) as held, np.load(folder / "data.npz") as data:
        log, images = held["log"], data["validation_images"]
    # What JAX measured with the best weights is what TensorFlow measures, but for the noise.
    before = json.loads((prepared / "vae.json").read_text())
    untrained = tfgen.VAE(**before["model"])
    found = -model.log_likelihood(images, num_samples=1).mean()
    assert found < -untrained.log_likelihood(images, num_samples=1).mean() - 20
    assert abs(found - log[:, 2].min()) < 5


def test_a_folder_is_used_again_for_another_recipe(prepared, tmp_path):
    """Of a family that has no validation program."""
    for name in ("vae", "gan"):
        run(GPU / "lower.py", prepared / f"{name}.json", tmp_path / "program", "--no-step")
    options = ("--minutes", 0.03, "--out", tmp_path / "gan.npz")
    run(GPU / "train.py", tmp_path / "program", *options, without=tmp_path)
    with np.load(tmp_path / "gan.npz") as held:
        assert held["course"][1] > 0


@pytest.mark.parametrize(
    ("changes", "count", "message"),
    [
        ({"model": {**SHARED["model"], "num_classes": 3}}, 64, "must be at least the 10 classes"),
        ({}, 8, "batch_size"),
    ],
)
def test_what_tfgen_train_refuses_is_not_lowered(tmp_path, changes, count, message):
    (tmp_path / "wrong.json").write_text(json.dumps({**RECIPE, **changes}))
    command = [GPU / "lower.py", tmp_path / "wrong.json", tmp_path / "out", "--count", str(count)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode
    assert message in done.stderr
    assert not (tmp_path / "out" / "program.json").exists()


def test_folders_of_one_name_are_not_trained_into_one_file(tmp_path):
    command = ["bash", GPU / "side_by_side.sh", "1", tmp_path / "out", "a/stage_1", "b/stage_1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "two folders of one name" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_stopped_script_leaves_no_training_behind(tmp_path):
    """Its background jobs are deaf to Ctrl-C."""
    fake = tmp_path / "bin" / "python3"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/bash\necho $$ > {tmp_path}/pid\nexec sleep 300\n")
    fake.chmod(0o755)
    command = ["bash", str(GPU / "side_by_side.sh"), "5", str(tmp_path / "out"), str(tmp_path)]
    path = f"{fake.parent}:{os.environ['PATH']}"
    script = subprocess.Popen(command, env={**os.environ, "PATH": path}, start_new_session=True)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        assert script.poll() is None, "it ended before it trained anything"
        time.sleep(0.05)
    training_pid = int((tmp_path / "pid").read_text())
    script.terminate()
    assert script.wait(20) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(training_pid, 0)


def test_a_later_stage_moves_its_parts_alone(tmp_path):
    """The second stage starts from the first one's weights; only the critic learns."""
    model = {"image_shape": [8, 8, 1], "top_dim": 2, "filters": [4], "groups": [1]}
    model |= {"group_channels": [2], "dense_units": 8, "candidates": 2, "critic_units": 4}
    stage = {"trainable": ["critic"], "epochs": 1, "ema_momentum": 0.9}
    recipe = {**SHARED, "family": "HierarchicalVAE", "model": model, "stages": [stage]}
    (tmp_path / "ladder.json").write_text(json.dumps(recipe))
    weights = [tmp_path / f"{index}.npz" for index in range(2)]
    for index, path in enumerate(weights):
        folder = tmp_path / f"stage_{index}"
        options = ("--stage", index, "--count", 64, "--no-step")
        run(GPU / "lower.py", tmp_path / "ladder.json", folder, *options)
        start = ("--start", weights[0], "--keep", "last") if index else ()
        run(GPU / "train.py", folder, "--minutes", 0.1, "--out", path, *start, without=tmp_path)
    names = {f"w{i}": v.path for i, v in enumerate(training.build(Recipe(**recipe), 1).variables)}
    with np.load(weights[0]) as first, np.load(weights[1]) as second:
        read = set(second.files) - {"log", "course"}
        moved = {names[key] for key in read if not np.array_equal(first[key], second[key])}
    assert moved
    assert all("critic" in name for name in moved)
    assert len(read) > 2 * len(moved)
    recipe["freeze"] = ["critic"]  # until the stage that trains it
    (tmp_path / "ladder.json").write_text(json.dumps(recipe))
    run(GPU / "restore.py", tmp_path / "ladder.json", weights[1], tmp_path / "entry")
    assert not tfgen.load(tmp_path / "entry").frozen


def test_large_boolean_constants_arrive(tmp_path):
    """TensorFlow packs them as newer readers of StableHLO do not."""
    mask = np.random.default_rng(0).random((31, 33)) < 0.5

    @tf.function(autograph=False, jit_compile=True)
    def masked(x):
        return tf.where(tf.constant(mask), x, 0.0)

    compiler = masked.experimental_get_compiler_ir(tf.zeros(mask.shape))
    artifact, _ = formats.stablehlo_artifact(compiler(stage="stablehlo"))
    (tmp_path / "masked.stablehlo").write_bytes(artifact)
    program = (
        "import runtime, numpy as np, pathlib, sys\n"
        "run = runtime.compiled(pathlib.Path(sys.argv[1]))\n"
        "(found,) = run.execute(runtime.on_device([np.ones((31, 33), np.float32)]))\n"
        "np.save(sys.argv[2], np.asarray(found))\n"
    )
    (tmp_path / "program.py").write_text(f"import sys; sys.path.insert(0, {str(GPU)!r})\n{program}")
    run(tmp_path / "program.py", tmp_path / "masked.stablehlo", tmp_path / "found.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), mask)
