"""What each metric needs of a model, and which arguments it takes."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfgen import checks
from tfgen.data import SPLITS
from tfgen.evaluation import latents, samples
from tfgen.models.base import ImageModel
from tfgen.models.classifier import Classifier
from tfgen.models.generative import GenerativeModel
from tfgen_command.entries import nearest

__all__ = ["LABELLED", "METRICS", "SAMPLING", "check_arguments", "misfit"]

METRICS: dict[str, Callable] = {
    "accuracy": latents.accuracy,
    "conditional_accuracy": samples.conditional_accuracy,
    "label_agreement": latents.label_agreement,
    "log_likelihood": latents.log_likelihood,
    "nearest_neighbour_accuracy": latents.nearest_neighbour_accuracy,
    "sample_quality": samples.sample_quality,
    "squared_error": latents.squared_error,
}
"""The metrics by name: functions of a model and the name of its data."""
# Those that draw samples, whose number `evaluate` can lower for a quick look.
SAMPLING = ("conditional_accuracy", "label_agreement", "sample_quality")
CONDITIONAL = ("conditional_accuracy", "label_agreement")
LABELLED = {*CONDITIONAL, "accuracy", "nearest_neighbour_accuracy"}  # which need labels
# What a generative model must be able to do.
NEEDS = {
    **dict.fromkeys(SAMPLING, "sample"),
    "log_likelihood": "log_likelihood",
    "nearest_neighbour_accuracy": "encode",
    "squared_error": "reconstruct",
}
GIVEN = ("model", "data_name", "verbose")  # arguments that a recipe does not name


def check_arguments(wanted: Mapping[str, Any]) -> None:
    """Raises ValueError unless an entry of a recipe's `results` names a metric and its arguments.

    >>> check_arguments({"metric": "log_likelihood", "num_sample": 10})
    Traceback (most recent call last):
    ValueError: recipe: results: log_likelihood has no argument 'num_sample'; it has split,
    num_samples. Did you mean 'num_samples'?
    """
    metric = wanted.get("metric")
    checks.one_of("recipe: metric", metric, METRICS)
    known = [name for name in inspect.signature(METRICS[metric]).parameters if name not in GIVEN]
    for name in wanted.keys() - {"metric", *known}:
        raise ValueError(
            f"recipe: results: {metric} has no argument {name!r}; it has {', '.join(known)}."
            f"{nearest(name, known, 1)}"
        )
    sampled = metric == "sample_quality"
    if "split" in wanted:
        splits = SPLITS[1:] if sampled else SPLITS  # its baseline is the train split
        checks.one_of(f"recipe: results: split of {metric}", wanted["split"], splits)
    if (count := wanted.get("num_samples")) is not None:
        least = samples.FEWEST_SAMPLES if sampled else 1
        checks.at_least(least, **{f"recipe: results: num_samples of {metric}": count})


def check_results(results: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError unless a recipe's `results` can be measured next to each other."""
    for wanted in results:
        check_arguments(wanted)
    for metric in ("sample_quality", "conditional_accuracy"):
        count = sum(wanted["metric"] == metric for wanted in results)
        if count > 1:
            raise ValueError(
                f"recipe: results must list {metric} at most once, since some of its results have "
                f"the same names for other arguments; received it {count} times. Keep one."
            )


def misfit(model: ImageModel, metric: str) -> str:
    """Returns why a model cannot be measured by a metric, "" if it can."""
    if metric == "accuracy" or not isinstance(model, GenerativeModel):
        fits = metric == "accuracy" and isinstance(model, Classifier)
        return "" if fits else f"a {type(model).__name__} is judged by other metrics."
    if NEEDS[metric] not in model.capabilities:
        return model.why_not(NEEDS[metric])
    if metric in CONDITIONAL and model.num_classes is None:
        return "the model has no classes to ask for."
    return ""
