"""A recipe of tfgen (--variant NAME) with its schedule fitted to the minutes.

NAME is a file of recipes/, where the zoo has nothing as small as the peer, or a zoo entry.

A short trial finds out how many steps the minutes hold; the cosine, the warm-up and the growth of
the KL's weight then end with them, in the proportions of the recipe. The rest is the recipe's.
"""

import dataclasses
import itertools
import subprocess
from pathlib import Path

import numpy as np

import tfgen
from peers import contract, keras_fit
from tfgen import data as tfgen_data
from tfgen import training, zoo


def train_and_serve(name: str, folder: Path) -> None:
    model = training.train(zoo.load_recipe(name), folder / "run")
    model.save_to_preset(folder / "model")
    model = tfgen.load(folder / "model")
    model.sample(16, labels=None if model.num_classes is None else 0)
    model.export(folder / "served" / "model")
    subprocess.run(["tfgen", "serve", "--models", str(folder / "served")], check=True)


# What the comparison adds

RECIPES = Path(__file__).parent / "recipes"
TRIAL_SECONDS = 5.0
IMPORTANCE_SAMPLES = 100


def fitted(recipe, steps: int, per_epoch: int):
    """Returns the recipe for a run of so many steps, counted as one epoch."""
    share = min(1.0, steps / (recipe.epochs * per_epoch))
    model = dict(recipe.model)
    if model.get("kl_warmup_steps"):
        model["kl_warmup_steps"] = max(1, round(share * model["kl_warmup_steps"]))
    return dataclasses.replace(
        recipe,
        model=model,
        epochs=1,
        restart_epochs=(),
        warmup_steps=round(share * recipe.warmup_steps),
    )


def recipe_of(name: str):
    """Returns the recipe of this folder with that name, or of the zoo."""
    own = RECIPES / f"{name}.json"
    return zoo.load_recipe(own if own.is_file() else name)


def changed(recipe, changes: dict):
    """Returns the recipe with other values of some keys; "model" holds only what differs."""
    model = recipe.model | changes.get("model", {})
    return dataclasses.replace(recipe, **(changes | {"model": model}))


def build(data: contract.Data, given) -> contract.Side:
    recipe = dataclasses.replace(recipe_of(given.variant), seed=given.seed, stages=[])
    recipe = changed(recipe, given.recipe)
    labelled = recipe.model.get("num_classes") is not None
    split = tfgen_data.Arrays(data.x_train, data.y_train if labelled else None)
    endless = dataclasses.replace(recipe, epochs=10**6, restart_epochs=())
    per_epoch = len(data.x_train) // recipe.batch_size

    def timed(steps: int) -> keras_fit.Timed:
        short = fitted(recipe, steps, per_epoch)
        model = training.build(short, steps)
        return keras_fit.Timed(
            model,
            [optimizer for optimizer, _ in model.optimizers.values()],
            recipe.batch_size,
            lambda step: training.train_batches(endless, split, labelled, step),
        )

    def averages() -> list:
        momentum = recipe.ema_momentum
        return [training.AveragedWeights(momentum)] if momentum else []

    trial = timed(10**6)
    trial.train(seconds=TRIAL_SECONDS, callbacks=averages())
    total = max(2, round(60.0 * given.minutes * trial.steps / trial.seconds))
    del trial
    side = timed(total)
    model = side.model
    model.jit_sampling = given.jit_sampling
    averaging = averages()

    def train(seconds: float) -> int | tuple[int, float]:
        if not seconds:  # compiled already, and back at its first step
            return 0
        before = side.steps
        taken = side.train(steps=total, seconds=seconds, callbacks=averaging)
        return (side.steps - before) * recipe.batch_size, taken

    seeds = itertools.count(given.seed)  # each image has its own

    def draws(drawing):
        def sample(number: int) -> np.ndarray:
            classes = np.arange(number) % drawing.num_classes if labelled else None
            images = list(itertools.islice(seeds, number))
            return drawing.sample(number, labels=classes, seed=images)

        return sample

    exact = model.likelihood == "exact"
    kind = "exact" if exact else f"importance-weighted bound, {IMPORTANCE_SAMPLES} samples"
    # Densities of greys differ by the model, probabilities of levels do not.
    discrete = recipe.model.get("pixel_distribution") != "gaussian"
    has_nats = model.likelihood != "none" and discrete and not labelled

    def nats(held_out: np.ndarray) -> float:
        options = {} if exact else {"num_samples": IMPORTANCE_SAMPLES, "seed": 0}
        return -float(np.mean(model.log_likelihood(held_out, **options)))

    return contract.Side(
        train=train,
        sample=draws(model),
        save=model.save_to_preset,
        reload=lambda folder: draws(zoo.load(folder)),
        parameters=sum(int(np.prod(v.shape)) for v in model.trainable_variables),
        packages=("keras", "tensorflow"),
        nats=nats if has_nats else None,
        nats_kind=kind,
        planned_images=total * recipe.batch_size,
    )


if __name__ == "__main__":
    contract.main(__doc__, build)
