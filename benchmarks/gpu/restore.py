"""Puts weights that train.py wrote into the recipe's model, as a folder that `tfgen.load` takes.

python benchmarks/gpu/restore.py RECIPE_OR_ENTRY weights.npz OUT [--device "an NVIDIA H200"]
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from tfgen import data, presets, training, zoo
from tfgen.starting import MANY_STEPS
from tfgen.training.build import end_stages


def restored(recipe, weights: Path):
    """Returns the recipe's model with those weights; raises SystemExit where one is missing."""
    model = training.build(recipe, 1)
    if recipe.stages:  # what a later one trains is not left frozen
        end_stages(recipe, model)
    trained = {id(v) for v in model.trainable_variables}
    with np.load(weights) as held:
        for index, variable in enumerate(model.variables):
            if f"w{index}" in held.files:
                variable.assign(held[f"w{index}"])
            elif id(variable) in trained:
                raise SystemExit(f"{weights} lacks variable {index}, {variable.path}.")
    return model


def course(recipe, weights: Path) -> dict:
    """Returns what metadata.json says about the training, as far as the weights' file tells."""
    with np.load(weights) as held:
        if "course" not in held.files:  # of an older train.py
            return {}
        seconds, steps, kept, count = held["course"].tolist()
        validated = len(held["log"]) > 0
    split = data.open_split(data.of_recipe(recipe), "train")
    if split.count != count:  # some of its images, or other ones
        return {}
    epoch = recipe.batch_size / count
    state = {"step": int(steps), "epoch": round(steps * epoch, 1), "seconds": round(seconds)}
    trained_on = {"name": recipe.data, "split": "train", "digest": split.digest()}
    if recipe.model.get("num_classes") is not None:
        trained_on["labels"] = split.label_digest()
    licences = {"weights": presets.LICENCES["weights"], "data": data.licence(recipe.data)}
    best = {"best_epoch": int(kept * epoch)} if validated else {}
    return {"data": trained_on, "licence": licences, "training": state | best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="a machine with JAX", help="for the card")
    parser.add_argument("--half", action="store_true", help="store weights in 16 bits")
    options = parser.parse_args()
    recipe = zoo.load_recipe(options.recipe)
    model = restored(recipe, options.weights)
    details = {"device": options.device, "program": "benchmarks/gpu", "steps": MANY_STEPS}
    details |= course(recipe, options.weights)
    print(presets.save(model, options.out, recipe, details, half=options.half))


if __name__ == "__main__":
    main()
