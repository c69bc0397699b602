"""The card of a model: what is known about it, as Markdown. Pure: details in, text out."""

import json
import shlex
from collections.abc import Collection
from typing import Any

from tfgen.recipe import Recipe
from tfgen_command.wording import LIKELIHOODS, four_digits, how_long, how_trained, with_commas

__all__ = ["PICTURES", "card"]

# The pictures of an entry's folder, in their order on the card.
PICTURES = {
    "samples.png": "What it draws",
    "interpolation.png": "Interpolations between latents",
    "completions.png": "The upper half, six completions of it, the image",
    "progress.png": "The same seeds after as many epochs of training as the column says",
}
RECONSTRUCTED = {
    "samples.png": "Images, and below each row its reconstructions",
    "progress.png": "The same images after as many epochs of training as the column says",
}
TWO_COLUMNS = """
Real images are training images where a result compares with test images, and test images everywhere
else.
"""


def card(details: dict[str, Any], pictures: Collection[str], source: str) -> str:
    """Returns the text of card.md.

    Args:
        details: As `tfgen.zoo.info` returns them.
        pictures: Names of the files among `PICTURES` that the folder has.
        source: What `tfgen.load` takes: an entry's name, or the path of a user's own folder.
    """
    recipe, typed = Recipe.from_dict(details["recipe"]), shlex.quote(source)
    pictures = set(pictures)
    if not details.get("by_recipe", True):  # that is the course of other weights
        pictures.discard("progress.png")
    texts = PICTURES | (RECONSTRUCTED if details["family"] == "AutoEncoder" else {})
    shown = "".join(
        f"![{text}]({file})\n\n*{text}.*\n\n" for file, text in texts.items() if file in pictures
    )
    return f"""# {details["name"]}

{recipe.description}

{shown}```python
import tfgen

model = tfgen.load({json.dumps(source, ensure_ascii=False)})
```

## Results

{_table(details["results"])}
All from `tfgen evaluate {typed}`; `tfgen evaluate {typed} --check` re-measures them and
fails if one differs by more than its tolerance, for most 0.1 %.

## What it is

{_facts(details, recipe, source)}"""


def _table(results: dict[str, dict[str, Any]]) -> str:
    """Returns the table of results; a second column if some have a value of real images."""
    if not any("real" in result for result in results.values()):
        rows = [
            f"| {with_commas(name)} | {four_digits(result['value'])} | {result['unit']} |"
            for name, result in results.items()
        ]
        return "\n".join(["| result | value | unit |", "|---|---|---|", *rows, ""])
    rows = [
        f"| {with_commas(name)} | {four_digits(result['value'])} | "
        f"{four_digits(result['real']) if 'real' in result else ''} | {result['unit']} |"
        for name, result in results.items()
    ]
    judges = dict.fromkeys(result["judge"] for result in results.values() if "judge" in result)
    head = ["| result | model | real images | unit |", "|---|---|---|---|"]
    return "\n".join([*head, *rows, ""]) + TWO_COLUMNS + _judged(judges)


def _judged(judges: Collection[str]) -> str:
    """Returns what a card says of the networks that results were judged by, a paragraph."""
    if not judges:
        return ""
    return f"""Judged by {", ".join(judges)}, fitted to training images: a Frechet ratio of 1 or
less says only that samples are as close to the test images as those are.
"""


def _facts(details: dict[str, Any], recipe: Recipe, source: str) -> str:
    """Returns the list of what the model is and where it comes from."""
    own = details.get("by_recipe", True)
    family, model = (recipe.family, recipe.model) if own else (details["family"], details["config"])
    arguments = ", ".join(f"{key}={value!r}" for key, value in model.items())
    momentum, licence = recipe.ema_momentum, details.get("licence", {})
    averaged = f", averaged over steps (momentum {momentum})" if own and momentum else ""
    others = " and ".join(f"`{name}`" for name in details.get("members", {}))
    again = own and not how_trained(details)
    shared = f" The other networks have the weights of {others}." if others else ""
    # Weights that a user trained are the user's: no licence stands on their card.
    terms = f", licence {licence['weights']}" if source == details["name"] else ""
    facts = [
        f"Family `{family}`: {arguments}; {details['parameters']:,} weights.",
        _history(details, recipe),
        f"Recipe: `recipe.json`; `tfgen train {shlex.quote(source)} --out DIR` "
        f"{'trains it again' if again else 'trains a new model from it'} (seed {recipe.seed}).",
        f"Weights: `model.weights.h5`{averaged}, sha256\n  `{details['sha256']}`"
        f"{terms}.{shared}\n  Data: {licence.get('data') or 'no licence recorded'}",
        f"Versions: {', '.join(f'{key} {value}' for key, value in details['versions'].items())}.",
    ]
    if details["kind"] == "model":
        facts.insert(1, f"Likelihood: {LIKELIHOODS.get(details['likelihood'], 'unknown')}.")
    return "".join(f"- {fact}\n" for fact in facts)


def _history(details: dict[str, Any], recipe: Recipe) -> str:
    """Returns on what the model was trained, for how long and where."""
    # Where the training was not that of `tfgen train`, the entry says in which way.
    note = how_trained(details)
    note = note and f"\n  {note}"
    if not {"data", "device"} <= details.keys():
        how = "by `recipe.json`" if details.get("by_recipe", True) else "not by `recipe.json` alone"
        return f"Trained {how}; on which images and for how long is not recorded.{note}"
    state = details.get("training", {})
    epochs, minutes = how_long(state)
    best = state.get("best_epoch", -1) + 1
    kept = (
        f"The epoch with the lowest validation loss, number {best} of {state['epoch']:g}, was kept"
        if best
        else f"{epochs}, of which the last was kept"
    )
    sizes = {stage.get("batch_size", recipe.batch_size) for stage in recipe.stages}
    images = f" of {recipe.batch_size} images" if sizes <= {recipe.batch_size} else ""
    more = details["data"].get("also_trained_on")  # splits beside train that the model saw
    splits, of = "train split", ""
    if more:
        splits, of = f"{', '.join(['train', *more[:-1]])} and {more[-1]} splits", " of train"
    return (
        f"Trained on the {splits} of `{recipe.data}` (sha256{of} `{details['data']['digest']}`).\n"
        f"  {kept} ({state.get('step', 0):,} steps{images}, "
        f"{minutes} on {details['device']}).{note}"
    )
