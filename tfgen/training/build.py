"""From a recipe to a model with its initial weights and its optimizers."""

import keras

from tfgen import data, pixels, presets, starting, tuning
from tfgen.devices import num_replicas
from tfgen.models.base import ImageModel
from tfgen.optimizers import CosineCycles, GroupedAdam
from tfgen.recipe import Recipe, Stage

__all__ = ["begin_stage", "build", "check_batch", "check_data", "end_stages"]


def build(recipe: Recipe, steps_per_epoch: int | None = None) -> ImageModel:
    """Returns the recipe's model with its initial weights, compiled for the first stage.

    The initial weights are a function of the recipe's seed.

    Args:
        recipe: What to build.
        steps_per_epoch: Of the train split; None opens the data to find out.

    Raises:
        ValueError: An unknown family, a constructor argument that it does not have, or a recipe
            that does not fit it.
    """
    if steps_per_epoch is None:
        count = data.open_split(data.of_recipe(recipe), "train", 0).count  # reads no photo
        check_batch(recipe, count)
        steps_per_epoch = count // recipe.batch_size
    keras.utils.set_random_seed(recipe.seed)
    model = starting.from_recipe(recipe)
    for stage in recipe.plan():
        _check(stage, model)
    if recipe.init_from is not None:
        for kept in tuning.copy_weights(presets.load(recipe.init_from), model):
            print(f"not from {recipe.init_from}: {kept}")
    for part, rank in recipe.lora.items():
        model.enable_lora(rank, part)
    model.freeze(*recipe.freeze)
    compile_for(recipe, model, steps_per_epoch)
    return model


def check_batch(recipe: Recipe, count: int) -> None:
    """Raises ValueError for a batch of more than the `count` training images."""
    if recipe.batch_size > count:
        raise ValueError(
            f"recipe: batch_size must be at most the {count} training images; "
            f"received {recipe.batch_size}."
        )


def begin_stage(stage: Stage, model: ImageModel, steps_per_epoch: int, steps_before: int) -> None:
    """Lets only the stage's parts of the model train, with new optimizers.

    Args:
        stage: What trains, and how.
        model: Trained by the stages before.
        steps_per_epoch: Of this stage.
        steps_before: Of all stages before, so that no schedule of the objective begins again.
    """
    held = tuning.weights(model)
    trained = {id(held[name]) for name in tuning.matching(held, stage.trainable or ("*",))}
    model.compile()  # without the optimizers of the stage before, whose slots would not fit
    model.unfreeze()
    model.freeze(*(name for name, variable in held.items() if id(variable) not in trained))
    compile_for(stage.recipe, model, steps_per_epoch)
    model.steps_before = steps_before


def check_data(recipe: Recipe, model: ImageModel, training: data.Split) -> None:
    """Raises ValueError unless the recipe's train split has the model's images and classes."""
    labelled, classes = model.num_classes is not None, training.num_classes
    if labelled and classes is None:
        raise ValueError(
            f"recipe: {recipe.data!r} has no labels, but model.num_classes="
            f"{model.num_classes}. Leave num_classes out or use labelled data."
        )
    if labelled and classes < 2:
        raise ValueError(
            f"recipe: {recipe.data!r} needs at least two classes for a class-conditional model; "
            "its train split holds one. Leave num_classes out or use other data."
        )
    if labelled and classes > model.num_classes:
        raise ValueError(
            f"recipe: model.num_classes must be at least the {classes} classes of "
            f"{recipe.data!r}; received {model.num_classes}."
        )
    first_images, _ = data.head(training, 1)
    pixels.check_format(first_images, model.image_shape, f"recipe: data {recipe.data!r}")


def end_stages(recipe: Recipe, model: ImageModel) -> None:
    """Leaves frozen what the recipe freezes and no stage has trained."""
    held = tuning.weights(model)
    patterns = [pattern for stage in recipe.plan() for pattern in stage.trainable or ()]
    trained = {id(held[name]) for name in tuning.matching(held, patterns)}
    frozen = tuning.matching(held, recipe.freeze)
    model.compile()
    model.unfreeze()
    model.freeze(*(name for name in frozen if id(held[name]) not in trained))


def compile_for(recipe: Recipe, model: ImageModel, steps_per_epoch: int) -> None:
    """Compiles the model with the recipe's optimizers for the weights that train now."""
    model.compile()  # so that the model knows what each optimizer trains
    scales = _scales(recipe, model)
    optimizers = {
        name: _optimizer(
            recipe,
            recipe.learning_rates.get(name, recipe.learning_rate),
            model.updates_per_step[name] * steps_per_epoch,
            [scales.get(id(v), 1.0) for v in variables] if scales else None,
        )
        for name, (_, variables) in model.optimizers.items()
    }
    # XLA on a GPU or a CPU does not compile the sums over replicas.
    model.compile(**optimizers, jit_compile=recipe.jit_compile and num_replicas() == 1)
    model.build_optimizers()


def _check(stage: Stage, model: ImageModel) -> None:
    """Raises ValueError where the recipe asks for what the family does not have."""
    recipe = stage.recipe
    unknown = set(recipe.learning_rates) - set(model.updates_per_step)
    if unknown:
        raise ValueError(
            f"recipe: learning_rates must name optimizers of {recipe.family}, "
            f"{', '.join(model.updates_per_step)}; received {sorted(unknown)[0]!r}."
        )
    if recipe.patience is not None and "loss" not in model.loss_names:
        raise ValueError(
            f"recipe: patience must be null for {recipe.family}, which has no single loss to "
            f"monitor; received {recipe.patience!r}."
        )
    try:
        tuning.matching(tuning.weights(model), stage.trainable or ())
    except ValueError as error:
        raise ValueError(f"recipe: trainable of a stage: {error}") from error


def _scales(recipe: Recipe, model: ImageModel) -> dict[int, float]:
    """The recipe's scales of the learning rate by the id of the variable."""
    held = tuning.weights(model)
    return {
        id(held[name]): scale
        for part, scale in recipe.learning_rate_scales.items()
        for name in tuning.matching(held, [part])
    }


def _optimizer(
    recipe: Recipe, learning_rate: float, updates: int, scales: list[float] | None
) -> keras.optimizers.Optimizer:
    """Adam on the recipe's schedule; it makes `updates` updates an epoch."""
    ends = [updates * epoch for epoch in (*recipe.restart_epochs, recipe.epochs)]
    warmup = min(recipe.warmup_steps, ends[0] // 2)
    beta_1, beta_2 = recipe.betas
    settings = {
        "learning_rate": CosineCycles(learning_rate, recipe.final_fraction, warmup, ends),
        "beta_1": beta_1,
        "beta_2": beta_2,
        "global_clipnorm": starting.gradient_bound(recipe),
    }
    if scales is None:
        return keras.optimizers.Adam(**settings)
    return GroupedAdam(scales, **settings)
