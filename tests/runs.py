"""Runs of a training: cut off and resumed, and what they leave in their folder."""

import csv
import dataclasses
import importlib.util
import types
from pathlib import Path

import numpy as np
import pytest

from tfgen import training, tuning
from tfgen.models.base import ImageModel
from tfgen.recipe import Recipe

# How many images the splits of each named set have: train, validation, test.
PUBLISHED_SIZES = {
    "digits": (1151, 287, 359),
    "mnist": (50_000, 10_000, 10_000),
    "fashion_mnist": (50_000, 10_000, 10_000),
    "cifar10": (40_000, 10_000, 10_000),
    "binarized_mnist": (50_000, 10_000, 10_000),
    "cifar10_jpeg": (40_000, 10_000, 10_000),
    "clothing64": (2_728, 681, 372),
    "noto_emoji64": (2_628, 657, 356),
}
# What the smallest models with latents share.
TINY = {"image_shape": [8, 8, 1], "latent_dim": 2, "filters": [4], "num_blocks": 0}
# Everything random is on: noise, shifts, mirroring, the data's order; and everything with a state.
RECIPE = Recipe(
    family="VAE",
    model={
        **TINY,
        "dense_units": 8,
        "pixel_distribution": "gaussian",
        "kl_warmup_steps": 20,
    },
    data="digits",
    batch_size=128,  # 8 steps an epoch
    epochs=3,
    learning_rate=0.01,
    warmup_steps=5,
    clip_norm=50.0,
    ema_momentum=0.9,
    max_shift=1,
    mirror=True,
    jit_compile=False,
    seed=3,
)
# Cheaper to trace, where the model does not matter.
SIMPLE = dataclasses.replace(
    RECIPE,
    family="AutoEncoder",
    model=TINY,
)


def script_of(path: Path) -> types.ModuleType:
    """A script outside the packages, as a module that nobody else can import."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Interruption(Exception):
    """Stands for a kill."""


def cut_off(recipe: Recipe, folder: Path, step: int) -> None:
    """Trains and is interrupted after a step, of which a checkpoint is written."""

    def on_end(self, batch, logs=None):
        original(self, batch, logs)
        if self.state.step == step:
            raise Interruption

    original = training.Checkpoint.on_train_batch_end
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Checkpoint, "on_train_batch_end", on_end)
        with pytest.raises(Interruption):
            training.train(recipe, folder, verbose=0, checkpoint_seconds=0.0)


def assert_resumes(
    recipe: Recipe, folder: Path, whole: ImageModel, whole_folder: Path
) -> ImageModel:
    """Resumes the run in `folder`, which ends as an uninterrupted one; returns its model."""
    model = training.train(recipe, folder, resume=True, verbose=0)
    for own, expected in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(own, expected)
    assert log_of(folder) == log_of(whole_folder)
    return model


def log_of(folder: Path) -> list[dict[str, str]]:
    """The rows of log.csv without the time, which no two runs share."""
    with (folder / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    seconds = [float(row.pop("seconds")) for row in rows]
    assert all(0 < a < b for a, b in zip([1e-9, *seconds], seconds, strict=False))
    return rows


def weights_of(recipe: Recipe, folder: Path, epoch: int) -> dict[str, np.ndarray]:
    """The weights that `keep_epochs` kept of an epoch, counted from 1, by name."""
    model = training.build(recipe)
    training.load_weights(folder / "epochs" / f"epoch_{epoch:04d}.npz", model)
    return tuning.values(model)
