"""Turns the training of a recipe into a program for a machine that has JAX and no TensorFlow.

    python benchmarks/gpu/lower.py RECIPE_OR_ENTRY OUT [--stage N] [--count N]

OUT receives

    train.stablehlo     (images, labels, rows, learning rates, state) -> (losses, new state)
    validate.stablehlo  the losses of a batch without training, where they are a likelihood's
    state.npz           weights, optimizers' slots, averages: the program's arguments, in order
    step.npz            what TensorFlow on this machine's CPU makes of the first step
    data.npz            the images and labels of the train and the validation split
    program.json        what is where

A step is the model's own `train_step` with its objective, noise, dropout, shifts, mirroring,
clipping and averaging; with --stage, that of a later stage of the recipe, for weights that train.py
is given with --start. What train.py decides is the order of the data and the learning rate of each
step: a cosine over the minutes that it gets, since on a machine that is lent by the minute an
unfinished schedule is a lost training.
"""

import argparse
import dataclasses
import json
import os
import re
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from tfgen import data, devices, formats, training, zoo
from tfgen.starting import MANY_STEPS
from tfgen.training.batches import augmented
from tfgen.training.build import begin_stage, check_batch, check_data


def lowered(function, specs) -> tuple[bytes, list, dict[int, int]]:
    """Returns (artifact, captured variables, {result: argument} of those that are written)."""
    concrete = function.get_concrete_function(*specs)
    variables = {id(v.handle): v for v in concrete.graph.variables}
    captured = [variables.get(id(tensor), tensor) for tensor in concrete.captured_inputs]
    examples = [tf.zeros(spec.shape, spec.dtype) for spec in specs]  # only their shapes count
    compiler = function.experimental_get_compiler_ir(*examples)
    artifact, _ = formats.stablehlo_artifact(compiler(stage="stablehlo"))
    header = compiler(stage="hlo").split("\n", 1)[0]
    written = re.findall(r"\{\s*(\d+)\s*\}: \((\d+),", header)
    return artifact, captured, {int(result): int(argument) for result, argument in written}


def build(recipe, index: int = 0):
    """Returns a stage's recipe and model, with learning rates that are variables, not schedules."""
    model = training.build(recipe, 1)
    stage = recipe.plan()[index]
    if index:
        begin_stage(stage, model, 1, MANY_STEPS)  # past every warm-up, as in `tfgen train`
    recipe = stage.recipe
    beta_1, beta_2 = recipe.betas
    optimizers = {
        name: keras.optimizers.Adam(
            recipe.learning_rates.get(name, recipe.learning_rate),
            beta_1=beta_1,
            beta_2=beta_2,
            global_clipnorm=recipe.clip_norm,
        )
        for name in model.updates_per_step
    }
    model.compile(**optimizers, jit_compile=True)
    model.build_optimizers()
    return recipe, model, list(optimizers.values())


def step_of(recipe, model, averages):
    """Returns a graph of one training step on the rows of the data that it is told."""
    weights = [v.value for v in model.trainable_variables]

    @tf.function(autograph=False, jit_compile=True)
    def step(images, labels, rows):
        places = tf.cast(model.optimizer.iterations, tf.int64) * recipe.batch_size
        places += tf.range(recipe.batch_size, dtype=tf.int64)
        batch = augmented(tf.gather(images, rows), places, recipe)
        model.reset_metrics()
        labelled = model.num_classes is not None
        logs = model.train_step((batch, tf.gather(labels, rows)) if labelled else batch)
        if recipe.ema_momentum:
            iterations = model.optimizer.iterations
            devices.move_averages(averages, weights, iterations, recipe.ema_momentum)
        return tf.stack([tf.cast(logs[name], tf.float32) for name in model.loss_names])

    return step


def validation_of(model):
    """Returns a graph of the mean losses of a batch, with the noise of its seeds."""

    @tf.function(autograph=False, jit_compile=True)
    def validate(images, labels, seeds):
        labels = None if model.num_classes is None else labels
        losses = model.losses_per_image(model.nearest_level(images), labels, seeds, training=False)
        means = [tf.reduce_mean(tf.cast(losses[name], tf.float32)) for name in model.loss_names]
        return tf.stack(means)

    return validate


def named(captured, model, averages, rates) -> list[tuple[str, int]]:
    """Says what each captured variable is: ("weight", 3), ("average", 0), ("rate", 0), ..."""
    kinds = {id(v.value): ("weight", i) for i, v in enumerate(model.variables)}
    kinds |= {id(v): ("average", i) for i, v in enumerate(averages)}
    kinds |= {id(v.value): ("rate", i) for i, v in enumerate(rates)}
    return [kinds.get(id(v), ("other", i)) for i, v in enumerate(captured)]


def prepare_validation(model, out: Path, given: int, labelled: bool) -> tuple[dict, dict]:
    """Writes validate.stablehlo for batches of `given`; returns its description and constants."""
    specs = (
        tf.TensorSpec((given, *model.image_shape), tf.uint8),
        tf.TensorSpec((given if labelled else 1,), tf.int64),
        tf.TensorSpec((given,), tf.int64),
    )
    artifact, captured, _ = lowered(validation_of(model), specs)
    (out / "validate.stablehlo").write_bytes(artifact)
    kinds = named(captured, model, [], [])
    constants = {
        f"v{i}": variable.numpy()
        for i, (variable, (kind, _)) in enumerate(zip(captured, kinds, strict=True))
        if kind == "other"
    }
    return {"batch": given, "captured": kinds}, constants


def prepare(
    recipe,
    out: Path,
    count: int | None = None,
    stage: int = 0,
    first_step: bool = True,
) -> dict:
    """Writes everything that the machine with the GPU needs; returns program.json's content."""
    out.mkdir(parents=True, exist_ok=True)
    for old in ("program.json", "validate.stablehlo", "step.npz"):  # not every recipe has them
        (out / old).unlink(missing_ok=True)
    training, arrays = data.open_split(data.of_recipe(recipe), "train"), {}
    for split in ("train", "validation"):
        images, labels = data.arrays(data.of_recipe(recipe), split)
        arrays[f"{split}_images"] = images[:count]
        arrays[f"{split}_labels"] = np.zeros(1, np.int64) if labels is None else labels[:count]
    recipe, model, optimizers = build(recipe, stage)
    check_batch(recipe, len(arrays["train_images"]))
    check_data(recipe, model, training)
    averages = [tf.Variable(v.numpy()) for v in model.trainable_variables]
    rates = [optimizer.learning_rate for optimizer in optimizers]
    size = recipe.batch_size
    images, labels = arrays["train_images"], arrays["train_labels"].astype(np.int64)
    specs = (
        tf.TensorSpec(images.shape, tf.uint8),
        tf.TensorSpec(labels.shape, tf.int64),
        tf.TensorSpec((size,), tf.int32),
    )
    step = step_of(recipe, model, averages)
    artifact, captured, aliases = lowered(step, specs)
    kinds = named(captured, model, averages, rates)
    (out / "train.stablehlo").write_bytes(artifact)
    state = [np.asarray(v.numpy()) for v in captured]
    trainable = {id(v): i for i, v in enumerate(model.variables)}
    program = {
        "recipe": dataclasses.asdict(recipe),
        "losses": list(model.loss_names),
        "captured": kinds,
        # A result's number -> which of the captured variables it is the new value of.
        "aliases": {result: argument - len(specs) for result, argument in aliases.items()},
        "trainable": [trainable[id(v)] for v in model.trainable_variables],
        "peak": [float(rate.numpy()) for rate in rates],
        "validation": None,
    }
    others = {}
    if "loss" in model.loss_names:
        given = min(100, len(arrays["validation_images"]))
        program["validation"], others = prepare_validation(model, out, given, len(labels) > 1)
    np.savez(out / "state.npz", **{f"s{i}": value for i, value in enumerate(state)}, **others)
    if first_step:
        losses = step(images, labels, np.arange(size, dtype=np.int32)).numpy()
        new = {f"w{i}": model.variables[i].numpy() for i in program["trainable"]}
        np.savez(out / "step.npz", losses=losses, **new)
    np.savez_compressed(out / "data.npz", **arrays)
    (out / "program.json").write_text(json.dumps(program))
    return program


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("out", type=Path)
    parser.add_argument("--precision", help="instead of the recipe's")
    parser.add_argument("--count", type=int, help="images of each split; all by default")
    parser.add_argument(
        "--no-step", action="store_true", help="no step.npz: a deep network's takes minutes"
    )
    parser.add_argument("--stage", type=int, default=0, help="of the recipe's plan, 0 the first")
    options = parser.parse_args()
    formats.check_installed("stablehlo")
    recipe = zoo.load_recipe(options.recipe)
    if options.precision:
        recipe = dataclasses.replace(recipe, precision=options.precision)
    program = prepare(
        recipe,
        options.out,
        options.count,
        options.stage,
        first_step=not options.no_step,
    )
    size = (options.out / "train.stablehlo").stat().st_size
    print(f"{options.out}: {len(program['captured'])} variables, a program of {size >> 10} KiB")


if __name__ == "__main__":
    main()
