"""Measuring an entry of the zoo: its results, and the card and pictures that show them."""

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfgen import checks, data, pictures, plots, presets, zoo
from tfgen.data.pairs import check_shape
from tfgen.evaluation import cards, latents, samples
from tfgen.evaluation.metrics import LABELLED, METRICS, SAMPLING, check_results, misfit
from tfgen.evaluation.result import Result, Results
from tfgen.files import replacing
from tfgen.models.base import ImageModel
from tfgen.models.generative import GenerativeModel
from tfgen.recipe import Recipe
from tfgen_command import entries

__all__ = ["card_of", "evaluate", "write_card"]

DIGITS = 6  # of a recorded value
COMPLETED, WAYS = 8, 6  # images of completions.png, and completions of each


def evaluate(
    name: str | Path,
    data_name: str | None = None,
    check: bool = False,
    verbose: int = 1,
    num_samples: int | None = None,
    metrics: str | Sequence[str] | None = None,
    skip_unfit: bool = False,
) -> Results:
    """Measures what an entry's recipe lists, and the quality of samples of all that can draw.

    Without `check`, with the recipe's own data and numbers of samples, the results go into
    metadata.json, unless not finite, and card.md and the pictures are written again; not so for
    an unfinished run.

    Args:
        name: An entry's name or folder.
        data_name: Another data set, read with the recipe's `size`; nothing is written then.
        check: Only compare with the recorded results; nothing is written.
        verbose: 1 shows progress.
        num_samples: How many samples to draw instead of the recipe's number, for a quick look;
            nothing is written then.
        metrics: The metrics to measure, with the recipe's arguments if it lists them; nothing is
            written then. None: all that the recipe lists.
        skip_unfit: Leave out metrics that the model cannot be measured by, instead of raising.

    Returns:
        The results by name, as on the card; with `check`, NaN for those not measured any more.

    Raises:
        ValueError: No such entry or two; a metric that is unknown or does not fit the model;
            `sample_quality` listed twice; data of another digest than the card's; or a folder
            that cannot be written, or was saved again meanwhile.
        FileNotFoundError: The data set is not available.
    """
    if check and num_samples is not None:
        raise ValueError("num_samples must be None with check: recorded results have their own.")
    path = zoo.folder(name)
    ended = (path / "metadata.json").is_file()
    writes = ended and not check and data_name is None and num_samples is None and metrics is None
    if writes:
        _check_writable(path)
    details = zoo.info(path) if ended else {"results": {}}
    recorded = details["results"]
    if check and not recorded:
        raise ValueError(f"check (--check) needs recorded results; {path} has none. Leave it out.")
    model, recipe = zoo.load(path), zoo.load_recipe(path)
    measured_on = data.of_recipe(recipe, data_name)
    wanted = _wanted(model, recipe, metrics, measured_on, skip_unfit, check)
    if metrics and not wanted:
        return {}
    if data_name is None:
        _check_digest(details.get("data"), measured_on)
    results = _measured(model, measured_on, wanted, num_samples, verbose)
    if check and metrics is None and data_name is None:
        for label, found in recorded.items():  # also what is no longer measured
            results.setdefault(label, Result(math.nan, found["unit"]))
    if writes:
        _write(model, recipe, path, results, details)
    return {label: _with_recorded(recorded, label, found) for label, found in results.items()}


def _check_writable(path: Path) -> None:
    """Raises ValueError before minutes of measuring what cannot be written."""
    if not os.access(path, os.W_OK):
        raise ValueError(
            f"name must be a model whose folder can be written, for results and card; {path} "
            "cannot. Pass check (--check) to write nothing, or copy the folder and name the copy."
        )


def _check_unchanged(path: Path, details: dict[str, Any]) -> None:
    """Raises ValueError if another model was saved into the folder since `details` were read."""
    now = entries.read_metadata(path)
    if any(now.get(key) != details.get(key) for key in ("sha256", "config_sha256")):
        raise ValueError(
            f"{path} was saved again while it was measured, so no result was recorded. Measure it "
            "again."
        )


def _measured(
    model: ImageModel,
    measured_on: data.Data,
    wanted: list[dict[str, Any]],
    num_samples: int | None,
    verbose: int,
) -> Results:
    # What would fail after minutes of sampling fails now.
    names = {listed["metric"] for listed in wanted}
    of_classes = model.num_classes is not None and names - {"sample_quality"}
    read = latents.labelled if of_classes or names & LABELLED else data.arrays
    check_shape(measured_on, read(measured_on, "test")[0], model.image_shape)
    if "conditional_accuracy" in names:
        samples.svc()
    results: Results = {}
    for listed in wanted:
        arguments = dict(listed)
        metric = arguments.pop("metric")
        if num_samples is not None and metric in SAMPLING:
            arguments["num_samples"] = num_samples
        results |= METRICS[metric](model, measured_on, **arguments, verbose=verbose)
    return results


def _wanted(
    model: ImageModel,
    recipe: Recipe,
    metrics: str | Sequence[str] | None,
    measured_on: data.Data,
    skip_unfit: bool,
    check: bool,
) -> list[dict[str, Any]]:
    """Returns the recipe's metrics and, given enough images, the one that all samplers share."""
    metrics = [metrics] if isinstance(metrics, str) else metrics
    for metric in metrics or ():
        checks.one_of("metric", metric, METRICS)
    check_results(recipe.results)
    if metrics is not None:
        found = [listed for listed in recipe.results if listed["metric"] in metrics]
        named = [listed["metric"] for listed in found]
        found += [{"metric": metric} for metric in dict.fromkeys(metrics) if metric not in named]
    else:
        found = list(recipe.results)
        draws = isinstance(model, GenerativeModel) and "sample" in model.capabilities
        named = [listed["metric"] for listed in found]
        if draws and "sample_quality" not in named and samples.enough_images(measured_on):
            found.append({"metric": "sample_quality"})
    reasons = {wanted["metric"]: misfit(model, wanted["metric"]) for wanted in found}
    if check:
        for metric in reasons.keys() - {*named, "sample_quality"}:
            reasons[metric] = reasons[metric] or "check (--check) has no recorded result of it."
    for metric, reason in reasons.items():
        if reason and not skip_unfit:
            raise ValueError(f"metric {metric!r} does not fit: {reason}")
    return [wanted for wanted in found if not reasons[wanted["metric"]]]


def _record(result: Result) -> dict[str, Any]:
    """Returns a result as metadata.json holds it."""
    record: dict[str, Any] = {"value": _rounded(result.value), "unit": result.unit}
    if result.real is not None:
        record["real"] = _rounded(result.real)
    if result.judge is not None:
        record["judge"] = result.judge
    return record


def _rounded(value: float) -> float:
    """Returns a value with far more digits than its tolerance has, and no more."""
    return float(f"{value:.{DIGITS}g}")


def _with_recorded(recorded: dict[str, dict[str, Any]], label: str, result: Result) -> Result:
    """Returns a result with what the card has recorded."""
    record = recorded.get(label, {})
    return dataclasses.replace(
        result, recorded=record.get("value"), recorded_real=record.get("real")
    )


def _write(
    model: ImageModel, recipe: Recipe, path: Path, results: Results, details: dict[str, Any]
) -> None:
    """Writes pictures, then results and card, into an entry's folder."""
    _check_unchanged(path, details)
    if isinstance(model, GenerativeModel):
        _draw(model, recipe, path)
    _check_unchanged(path, details)
    records = {label: _record(found) for label, found in results.items() if found.finite}
    presets.update_metadata(path, results=records)
    write_card(path)


def _draw(model: GenerativeModel, recipe: Recipe, path: Path) -> None:
    """Writes the pictures of a card."""
    images, labels = data.arrays(data.of_recipe(recipe), "validation")
    plots.save(pictures.fixed_picture(model, images), path / "samples.png", scale=2)
    if "decode" in model.capabilities and "encode" not in model.capabilities:
        walks = plots.rows(*pictures.latent_walks(model))
        plots.save(walks, path / "interpolation.png", scale=2)
    if "complete" in model.capabilities:
        labels = labels[:COMPLETED] if model.num_classes is not None else None
        images = latents.on_levels(model, images[:COMPLETED])
        completed = plots.completed(model, images, ways=WAYS, labels=labels)
        plots.save(plots.rows(*completed), path / "completions.png", scale=2)


def _check_digest(recorded: dict[str, str] | None, source: data.Data) -> None:
    """Raises ValueError if the data set is not the one that the entry was trained on."""
    if recorded is None:
        return
    # As training notes them: of shards they are those of the files.
    split = recorded["split"]
    opened = data.open_split(source, split, memory_bytes=0)
    pairs = [(f"the {split} split's sha256", opened.digest(), recorded["digest"])]
    if "labels" in recorded:  # of a model with classes
        what = f"the sha256 of the {split} split's labels"
        pairs.append((what, opened.label_digest(), recorded["labels"]))
    for what, own, expected in pairs:
        if own != expected:
            differs = f"{what} is {own[:16]}..., recorded is {expected[:16]}..." if own else ""
            raise ValueError(
                f"data {recorded['name']!r} is not what the entry was trained on: "
                f"{differs or 'it has no labels now.'} Restore the original, or name another set "
                "with --data."
            )


def write_card(path: Path) -> None:
    """Writes card.md from the folder's own files."""
    with replacing(path / "card.md") as temporary:
        # A path that is not UTF-8 is shown as Python spells it.
        temporary.write_text(card_of(path), encoding="utf-8", errors="backslashreplace")


def card_of(path: Path) -> str:
    """Returns the text of card.md from the folder's own files."""
    drawn = {file.name for file in path.glob("*.png")}
    return cards.card(zoo.info(path), drawn, _typed(path))


def _typed(path: Path) -> str:
    """Returns what to type for a model: an entry's name, or a path."""
    whole = path.resolve()
    return whole.name if whole.parent == entries.root().resolve() else str(whole)
