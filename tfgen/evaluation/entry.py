"""Measuring an entry of the zoo: its figures, its card, its picture."""

import dataclasses
import time
from pathlib import Path

from tfgen import data, plots, training, zoo
from tfgen.evaluation import classification, features, generated, likelihood
from tfgen.files import replacing
from tfgen.models.generative import GenerativeModel
from tfgen.recipe import Recipe

__all__ = ["METRICS", "Figure", "evaluate"]

METRICS = {
    "accuracy": classification.accuracy,
    "conditional_accuracy": generated.conditional_accuracy,
    "label_agreement": features.label_agreement,
    "log_likelihood": likelihood.log_likelihood,
    "nearest_neighbour_accuracy": features.nearest_neighbour_accuracy,
    "sample_quality": generated.sample_quality,
    "squared_error": features.squared_error,
}
PICTURES = {
    "samples.png": "what it draws",
    "interpolation.png": "walks between latents",
    "completions.png": "the upper half, six completions of it, the image",
    "progress.png": "the same seeds during training, time to the right",
}
COMPLETED = 8  # images of completions.png
# Float rounding differs between machines; a changed weight or a changed bound moves more.
RELATIVE_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured number: what, how much, in which unit, and what the card has recorded.

    Args:
        name: What was measured.
        value: How much.
        unit: In which unit.
        recorded: What the card says; None if nothing.
        tolerance: Absolute difference to overlook, for figures that lie near 0.
    """

    name: str
    value: float
    unit: str
    recorded: float | None
    tolerance: float = 0.0

    @property
    def reproduced(self) -> bool:
        """Whether the value is the recorded one, to 0.1 % or the tolerance."""
        if self.recorded is None:
            return False
        allowed = max(RELATIVE_TOLERANCE * abs(self.recorded), self.tolerance)
        return abs(self.value - self.recorded) <= allowed


def evaluate(
    name: str | Path, data_name: str | None = None, check: bool = False, verbose: int = 1
) -> list[Figure]:
    """Measures the figures that an entry's recipe lists.

    Without `check`, and on the entry's own data, the figures go into metadata.json, and card.md
    and samples.png are written anew. With `check` nothing is written.

    Args:
        name: An entry's name or folder.
        data_name: Another data set to measure on; nothing is written then.
        check: Only compare with the recorded figures.
        verbose: 1 shows progress.

    Raises:
        ValueError: Unknown entry or metric, or data of another digest than the card's.
        FileNotFoundError: The data set is not to be had.
    """
    path = zoo.folder(name)
    model, recipe = zoo.load(path), zoo.load_recipe(path)
    details = zoo.info(path)
    recorded = details["figures"]
    if data_name is None:
        _check_digest(details.get("data"))
    figures, seconds = [], {}
    for wanted in recipe.figures:
        arguments = dict(wanted)
        metric = arguments.pop("metric")
        if metric not in METRICS:
            raise ValueError(
                f"recipe: figures must name a metric among {', '.join(METRICS)}; "
                f"received {metric!r}."
            )
        start = time.monotonic()
        measured = METRICS[metric](model, data_name or recipe.data, **arguments, verbose=verbose)
        for label, (value, unit, *tolerance) in measured.items():
            old = recorded.get(label, {}).get("value")
            figures.append(Figure(label, value, unit, old, *tolerance))
            seconds[label] = time.monotonic() - start
    if not check and data_name is None:
        zoo.update_metadata(
            path,
            figures={
                figure.name: {
                    "value": figure.value,
                    "unit": figure.unit,
                    "command": f"tfgen evaluate {path.name}",
                    "seconds": round(seconds[figure.name], 1),
                }
                for figure in figures
            },
        )
        if isinstance(model, GenerativeModel):
            images, labels = data.arrays(recipe.data, "validation")
            plots.save(training.fixed_picture(model, images), path / "samples.png", scale=2)
            if "decode" in model.endpoints() and "encode" not in model.endpoints():
                plots.save(training.latent_walks(model), path / "interpolation.png", scale=2)
            if "complete" in model.endpoints():
                labels = labels[:COMPLETED] if model.num_classes is not None else None
                picture = training.completions(model, images[:COMPLETED], labels)
                plots.save(picture, path / "completions.png", scale=2)
        write_card(path)
    return figures


def _check_digest(recorded: dict[str, str] | None) -> None:
    """Raises ValueError if the data set is not the one that the entry was trained on."""
    if recorded is None:
        return
    images, _ = data.arrays(recorded["name"], recorded["split"])
    found = data.digest(images)
    if found != recorded["digest"]:
        raise ValueError(
            f"data {recorded['name']!r} is not what the entry was trained on: the "
            f"{recorded['split']} split's sha256 is {found[:16]}..., recorded is "
            f"{recorded['digest'][:16]}... Restore the original, or name another set with --data."
        )


def write_card(path: Path) -> None:
    """Writes card.md from the entry's own files."""
    details = zoo.info(path)
    recipe = Recipe.from_dict(details["recipe"])
    training_state = details.get("training", {})
    arguments = ", ".join(f"{key}={value!r}" for key, value in recipe.model.items())
    rows = [
        f"| {label} | {figure['value']:.4g} | {figure['unit']} |"
        for label, figure in details["figures"].items()
    ]
    pictures = "".join(
        f"![{title}]({file})\n\n" for file, title in PICTURES.items() if (path / file).is_file()
    )
    epochs, best = training_state.get("epoch", 0), training_state.get("best_epoch", -1) + 1
    kept = (
        f"The epoch with the lowest validation loss was kept: {best} of {epochs} epochs"
        if best
        else f"{epochs} epochs, of which the last was kept"
    )
    momentum = recipe.ema_momentum
    averaged = f", averaged over steps (momentum {momentum})" if momentum else ""
    minutes = training_state.get("seconds", 0.0) / 60.0
    text = f"""# {path.name}

{recipe.description}

{pictures}```python
import tfgen

model = tfgen.zoo.load("{path.name}")
```

## Figures

| figure | value | unit |
|---|---|---|
{chr(10).join(rows)}

All from `tfgen evaluate {path.name}`; `tfgen evaluate {path.name} --check` measures them again and
fails when one is not reproduced to 0.1 %. The test split was used for this table alone.

## What it is

- Family `{recipe.family}`: {arguments}; {details["parameters"]:,} weights.
- Likelihood: {details["likelihood"]}.
- Trained on the train split of `{recipe.data}` (sha256 `{details["data"]["digest"]}`).
  {kept} ({training_state.get("step", 0):,} steps of
  {recipe.batch_size} images, {minutes:.0f} minutes on {details["device"]}).
- Recipe: `recipe.json`; `tfgen train {path.name} --out DIR` trains it again (seed {recipe.seed}).
- Weights: `model.weights.h5`{averaged}, sha256
  `{details["sha256"]}`, licence {details["licence"]["weights"]}.
  Data: {details["licence"].get("data") or "see its source"}
- Versions: {", ".join(f"{k} {v}" for k, v in details["versions"].items())}.
"""
    with replacing(path / "card.md") as temporary:
        temporary.write_text(text)
