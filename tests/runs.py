"""What a training has left in its folder, for comparisons."""

import csv
from pathlib import Path

import numpy as np

from tfgen import training, tuning
from tfgen.recipe import Recipe


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
