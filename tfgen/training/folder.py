"""A run's folder: whose it is, what is written first, what it holds at the end."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from tfgen import data, devices, presets
from tfgen.arrays import checkpoint_paths
from tfgen.files import replacing
from tfgen.recipe import Recipe
from tfgen_command import entries

__all__ = ["check_folder", "keep_recipe", "provenance", "start_folder"]


def check_folder(folder: Path, recipe: Recipe, resume: bool) -> Recipe:
    """Returns the recipe, in the folder's order of keys; ValueError if that cannot hold the run.

    It holds a model or another run than the one to be resumed, is where the run starts from, or
    lies among the images.
    """
    start = recipe.init_from
    if start is not None and Path(start).expanduser().absolute() == folder.absolute():
        raise ValueError(
            f"folder (--out) must differ from the recipe's init_from, {start!r}, or a resumed run "
            "would start from itself. Name another folder."
        )
    why = "the run's pictures would be taken for some of them"
    data.Source(recipe.data).refuse(folder, why)
    for name in ("config.json", "metadata.json", presets.WEIGHTS):
        if (folder / name).exists() and not checkpoint_paths(folder):
            raise ValueError(
                f"folder (--out) must be new: {folder} holds a model ({name}) and no checkpoint to "
                "continue from; the run would replace it. Name another folder."
            )
    path = folder / "recipe.json"
    if not path.exists():
        return recipe
    if not resume:
        raise ValueError(
            f"folder (--out) must be new: {folder} already holds a run. "
            "Pass resume (--resume) to continue it, or name another folder."
        )
    began = Recipe.load(path)
    if began != recipe and not _extends(recipe, began):
        raise ValueError(
            f"resume needs the run's own recipe, {path}; the one given differs in "
            f"{_differences(began, recipe)}. Give that file."
        )
    return dataclasses.replace(began, epochs=recipe.epochs)


def _extends(recipe: Recipe, began: Recipe) -> bool:
    """Whether a recipe differs in more epochs alone; a later stage would have begun too early."""
    longer = recipe.epochs > began.epochs and not recipe.stages
    return longer and dataclasses.replace(began, epochs=recipe.epochs) == recipe


def _differences(began: Recipe, recipe: Recipe) -> str:
    old, new = began.to_dict(), recipe.to_dict()
    keys = [(key, old[key], new[key]) for key in old if old[key] != new[key]]
    if [key for key, *_ in keys] == ["model"]:  # say which of its arguments
        arguments = sorted({*began.model, *recipe.model})
        pairs = [(f"model.{a}", began.model.get(a), recipe.model.get(a)) for a in arguments]
        keys = [(key, a, b) for key, a, b in pairs if a != b]
    return ", ".join(f"{key} (there {a!r}, given {b!r})" for key, a, b in keys)


def start_folder(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Writes the recipe into the folder of a new run."""
    check_folder(folder, recipe, resume)  # again: another process may have begun meanwhile
    if not (folder / "recipe.json").exists():
        keep_recipe(folder, recipe)


def keep_recipe(folder: Path, recipe: Recipe) -> None:
    """Writes the recipe that a run trains by; it may have more epochs than the one there."""
    with replacing(folder / "recipe.json") as temporary:
        temporary.write_text(recipe.to_json(), encoding="utf-8")


def provenance(recipe: Recipe, folder: str | Path) -> dict[str, Any]:
    """Returns what an entry's metadata says about how it was trained."""
    folder = Path(folder).expanduser()
    state = json.loads((folder / "training.json").read_text(encoding="utf-8-sig"))
    digests = state.pop("data")
    trained_on = {"name": recipe.data, "split": "train", "digest": digests["train"]}
    if "train labels" in digests:  # of a model with classes
        trained_on["labels"] = digests["train labels"]
    # The zoo's weights have a licence; those of a user have the one that the user gives them.
    ours = folder.resolve().parent == entries.root().resolve()
    return {
        "data": trained_on,
        "licence": {
            "weights": "Apache-2.0" if ours else presets.LICENCES["weights"],
            "data": data.licence(recipe.data),
        },
        "training": state,
        "device": devices.in_words(),
    }
