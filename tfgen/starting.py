"""What a model starts from: a recipe's initial weights, an unfinished run, or trained weights."""

import contextlib
import shlex
from pathlib import Path
from typing import Any

import keras

from tfgen import arrays, devices, families, tuning
from tfgen.recipe import Recipe

__all__ = ["continue_training", "from_recipe", "gradient_bound", "unfinished"]

FINE_TUNING = 0.02  # the learning rate for trained weights, as a fraction of the peak before
MANY_STEPS = 10**6  # training steps where a preset does not tell: past every warm-up


def from_recipe(recipe: Recipe) -> keras.Model:
    """Returns a recipe's model, not compiled.

    Raises:
        ValueError: An unknown family, or a constructor argument that it does not have.
    """
    family = families.find(recipe.family)
    try:
        return family(**{"seed": recipe.seed, "dtype": recipe.precision, **recipe.model})
    except TypeError as error:
        raise ValueError(f"recipe: model does not fit {recipe.family}: {error}.") from error


def gradient_bound(recipe: Recipe) -> float | None:
    """Returns a bound for the share of each device."""
    return recipe.clip_norm and recipe.clip_norm / devices.num_replicas()


def unfinished(path: Path) -> keras.Model:
    """Returns the model of a run that has not ended, with its best weights so far, compiled.

    Raises:
        ValueError: The run has saved no weights yet, or they cannot be read.
    """
    recipe = Recipe.load(path / "recipe.json")
    trained = from_recipe(recipe)
    for part, rank in recipe.lora.items():
        trained.enable_lora(rank, part)
    weights = arrays.weights_so_far(path)  # late: a run in progress drops old checkpoints
    if weights is None:
        raise ValueError(
            f"{path.name!r} has a recipe but no trained weights yet. If it is training, wait for "
            f"its first checkpoint; else train it: tfgen train {shlex.quote(str(path))} --out DIR."
        )
    arrays.load_weights(weights, trained)
    model = from_recipe(recipe)  # without adapters, which are folded into what they adapt
    tuning.copy_weights(trained, model)
    model.compile()
    continue_training(model, {}, path / "recipe.json")  # best.npz does not tell its step
    return model


def continue_training(model: keras.Model, metadata: dict[str, Any], recipe_path: Path) -> None:
    """Compiles a trained model so that `fit` continues where its training ended.

    Schedules of the objective are past, averages of weights move slowly from the start, and the
    learning rate is low enough not to undo in an epoch what training has reached.

    Args:
        model: Compiled, with its trained weights.
        metadata: Tells how many steps they were trained, and whether by the recipe.
        recipe_path: The recipe next to them, if there is one.
    """
    trained = metadata.get("training", {}).get("step", MANY_STEPS)
    model.steps_before = int(metadata.get("steps", trained))
    recipe = None
    if metadata.get("by_recipe", True) and recipe_path.is_file():
        with contextlib.suppress(ValueError):  # a model loads whatever its recipe says
            recipe = Recipe.load(recipe_path)
    optimizers = {}
    for name, (optimizer, _) in model.optimizers.items():
        inner = devices.unscaled(optimizer)
        config = inner.get_config()
        if recipe is not None:
            config["learning_rate"] = recipe.learning_rates.get(name, recipe.learning_rate)
            bound = gradient_bound(recipe)
            config |= {"clipnorm": None, "clipvalue": None, "global_clipnorm": bound}
            if "beta_1" in config:
                config["beta_1"], config["beta_2"] = recipe.betas
        if not isinstance(config["learning_rate"], dict):  # of a schedule
            config["learning_rate"] *= FINE_TUNING
        optimizers[name] = type(inner).from_config(config)
    model.compile(**optimizers)
