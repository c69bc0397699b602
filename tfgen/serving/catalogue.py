"""What the page needs to know about the models and TF Serving's API does not tell."""

import json
from pathlib import Path
from typing import Any

from tfgen.serving.errors import ServingError
from tfgen.serving.repository import Repository

__all__ = ["catalogue"]

PACKAGE = Path(__file__).resolve().parents[1]
ZOOS = (PACKAGE / "_zoo", PACKAGE.parent / "zoo")  # installed; in a clone
QUALITY = "Frechet distance, samples / real images"
ENOUGH = "Frechet distance, 10000 images against 10000 test images"  # fewer images flatter


def catalogue(repository: Repository) -> list[dict[str, Any]]:
    """Returns name and versions of each model, and what more is known of it.

    `num_classes` is that of a conditional model, `score_border` the `score` between images that a
    GAN takes for real and for drawn. `quality` is how far samples are from test images, as a
    ratio: 1 for training images. It is given where it was measured with so many images that models
    can be ranked by it.
    """
    models = []
    for name, versions in repository.models().items():
        model: dict[str, Any] = {"name": name, "versions": versions}
        try:
            with repository.use(name) as servable:
                details = servable.details
        except ServingError:  # it was unloaded meanwhile
            continue
        if details.get("num_classes") is not None:
            model["num_classes"] = details["num_classes"]
        # None for a critic, which has none; absent where an older version has exported.
        if "score_border" in details:
            model["score_border"] = details["score_border"]
        if (quality := _quality(details)) is not None:
            model["quality"] = quality
        models.append(model)
    return models


def _quality(details: dict[str, Any]) -> float | None:
    """Returns the measured quality of the zoo's entry that a model was exported from.

    None if it has other weights or settings than the entry, or another temperature, so that it
    draws other samples; or if it does not tell. A user's own model may have an entry's name.
    """
    try:
        entry = str(details["zoo"]["name"])
        folder = next(zoo / entry for zoo in ZOOS if (zoo / entry).is_dir())
        measured = json.loads((folder / "metadata.json").read_text(encoding="utf-8-sig"))
        results = measured["results"]
        exported = {"config_sha256": measured["config_sha256"]} | details["zoo"]  # older lack it
        same = all(exported[key] == measured[key] for key in ("sha256", "config_sha256"))
        if ENOUGH not in results or not same or details["temperature"] != 1.0:
            return None
        return float(results[QUALITY]["value"])
    except (KeyError, TypeError, ValueError, OSError, StopIteration):
        return None
