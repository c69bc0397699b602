"""What `model.fit` costs over a bare loop: images/s of both, on the same training step.

fit          model.fit on the recipe's in-memory tf.data pipeline, verbose=0, no callbacks but the
             History that Keras always adds; it also keeps the running means of the losses
python loop  for images in dataset: step(images), with step a tf.function of forward pass,
             model.losses_per_image, tf.GradientTape and optimizer.apply
graph loop   the same step, called from one tf.function that loops over the dataset's iterator

For a GAN (--name gan_mnist) the bare step is written out from its two networks and the formula of
its objective: one tape and one optimizer per network, the penalties, the averaged generator. It
makes the same updates as train_step from the same noise, and computes no accuracies.

All three train the same variables with the same optimizer and jit setting on the same batches,
taking turns. A round is one call of `fit` for one epoch of about --seconds. The timing includes
what Keras does once per epoch (checking the data, making the iterator, calling callbacks, resetting
metrics, turning the logs into floats), and making the iterator in the bare loops. Tracing and
compiling happen before. The loops end by reading the last loss, so no side stops the clock before
its work is done. The limit: `fit` must reach 0.97 times the images/s of the faster loop.

Next to images/s the table shows CPU time per image, over all threads. Where the host throttles the
CPU in time slices, images/s jumps between a few values; CPU time per image does not.
"""

import statistics
import sys
import time
from collections.abc import Callable

import common
import tensorflow as tf

TARGET = 0.97  # fit / faster bare loop, at least


def descent_step(model) -> Callable:
    """Returns images, labels -> the loss before one step down the model's own loss."""

    def step(images, labels):
        seeds = model.step_seeds(tf.shape(images)[0])
        with tf.GradientTape() as tape:
            losses = model.losses_per_image(images, labels, seeds, training=True)
            loss = tf.reduce_mean(losses["loss"])
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)
        return loss

    return step


def adversarial_step(model) -> Callable:
    """Returns images, labels -> both losses of a GAN's step, added up."""
    from tfgen import noise, pixels
    from tfgen.devices import move_averages
    from tfgen.models.adversarial import DISCRIMINATOR_FOLD, GENERATOR_FOLD
    from tfgen.models.gan import MIX_STREAM, OBJECTIVES
    from tfgen.models.generative import with_labels

    if model.augment:
        raise SystemExit("--name must be a GAN without augment, which the bare step leaves out")
    generator, discriminator = model.generator, model.discriminator
    objective = OBJECTIVES[model.objective]

    def squared_norm(slope):
        return tf.reduce_sum(tf.square(slope), (1, 2, 3))  # (batch,)

    def discriminator_step(real, labels, seeds):
        fake = generator(with_labels(noise.normal(seeds, (model.latent_dim,)), labels))
        both = None if labels is None else tf.concat([labels, labels], 0)
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                inner.watch(real)
                logits = discriminator(with_labels(tf.concat([real, fake], 0), both), training=True)
                real_logits, fake_logits = tf.split(logits[:, 0], 2)
            loss = tf.reduce_mean(objective(real_logits, fake_logits)[0])
            if model.r1:
                slope = inner.gradient(real_logits, real)
                loss += 0.5 * model.r1 * tf.reduce_mean(squared_norm(slope))
            if model.objective == "wasserstein_gp":
                u = noise.uniform(seeds, (1, 1, 1), stream=MIX_STREAM)
                mixed = u * real + (1.0 - u) * fake
                with tf.GradientTape() as inner:
                    inner.watch(mixed)
                    logits = discriminator(with_labels(mixed, labels), training=False)
                norm = tf.sqrt(squared_norm(inner.gradient(logits, mixed)) + 1e-12)
                loss += model.gradient_penalty * tf.reduce_mean(tf.square(norm - 1.0))
        gradients = tape.gradient(loss, discriminator.trainable_variables)
        model.discriminator_optimizer.apply(gradients, discriminator.trainable_variables)
        return loss

    def generator_step(labels, seeds):
        with tf.GradientTape() as tape:
            fake = generator(with_labels(noise.normal(seeds, (model.latent_dim,)), labels))
            logits = discriminator(with_labels(fake, labels), training=False)[:, 0]
            loss = tf.reduce_mean(objective(tf.zeros_like(logits), logits)[1])
        gradients = tape.gradient(loss, generator.trainable_variables)
        model.optimizer.apply(gradients, generator.trainable_variables)
        return loss

    def step(images, labels):
        seeds = model.step_seeds(tf.shape(images)[0])
        real = pixels.images_to_pixels(model.nearest_level(images))
        seeds_of_updates = noise.fold(seeds, DISCRIMINATOR_FOLD)
        for update in range(model.discriminator_steps):
            loss = discriminator_step(real, labels, noise.fold(seeds_of_updates, update))
        loss += generator_step(labels, noise.fold(seeds, GENERATOR_FOLD))
        move_averages(
            [v.value for v in model.averaged_generator.variables],
            [v.value for v in generator.variables],
            model.optimizer.iterations,
            model.ema_momentum,
        )
        return loss

    return step


def bare_loops(training: common.Training) -> tuple[Callable, Callable]:
    """Returns the two loops over one bare step: steps -> images/s."""
    from tfgen import GAN

    model, batch_size = training.model, training.recipe.batch_size
    conditional = model.num_classes is not None
    update = adversarial_step(model) if isinstance(model, GAN) else descent_step(model)

    @tf.function(jit_compile=model.jit_compile, autograph=False)
    def step(batch):
        return update(*batch) if conditional else update(batch, None)

    @tf.function
    def epoch(iterator, steps):
        loss = 0.0
        for _ in tf.range(steps):
            loss = step(next(iterator))
        return loss

    def python_loop(steps: int) -> float:
        dataset = training.batches(steps)
        start = time.perf_counter()
        for batch in dataset:
            loss = step(batch)
        loss.numpy()
        return steps * batch_size / (time.perf_counter() - start)

    def graph_loop(steps: int) -> float:
        dataset = training.batches(steps)
        count = tf.constant(steps)
        start = time.perf_counter()
        epoch(iter(dataset), count).numpy()
        return steps * batch_size / (time.perf_counter() - start)

    return python_loop, graph_loop


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--name", default="vae_mnist", help="zoo entry or recipe file")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds per side and round")
    arguments = parser.parse_args()

    from tfgen.training import tune_allocator

    tune_allocator()  # as `tfgen train` does
    training = common.Training(arguments.name)
    steps = training.steps_for(arguments.seconds)
    python_loop, graph_loop = bare_loops(training)
    for loop in (python_loop, graph_loop):
        loop(4)
    loops = {"fit": training.fit, "python loop": python_loop, "graph loop": graph_loop}
    cpu: common.Rounds = {name: [] for name in loops}

    def timed(name: str) -> Callable[[], float]:
        def measure() -> float:
            before = time.process_time()
            rate = loops[name](steps)
            images = steps * training.recipe.batch_size
            cpu[name].append(1e3 * (time.process_time() - before) / images)
            return rate

        return measure

    rounds = common.interleaved({name: timed(name) for name in loops}, arguments.repeats)
    summaries = {name: common.summary(values) for name, values in rounds.items()}
    ratios = {
        name: common.ratio(rounds["fit"], rounds[name]) for name in ("python loop", "graph loop")
    }
    rows = []
    for name, measured in summaries.items():
        row = [
            name,
            f"{measured['median']:,.0f}",
            f"{measured['min']:,.0f}..{measured['max']:,.0f}",
        ]
        over = ratios.get(name)
        row.append(f"{statistics.median(cpu[name]):.2f}")
        row += (
            [f"{over['ratio']:.3f}", f"{over['min']:.3f}..{over['max']:.3f}"] if over else ["", ""]
        )
        rows.append(row)
    header = ("images/s", "median", "min..max", "CPU ms per image", "fit / it", "min..max")
    table = common.format_table(header, rows)
    work = {name: common.ratio(cpu[name], cpu["fit"]) for name in ratios}
    faster = max(ratios, key=lambda name: summaries[name]["median"])
    figure = ratios[faster]["ratio"]
    return common.finish(
        f"{arguments.name}: batch {training.recipe.batch_size}, {steps} steps per round, "
        f"{arguments.repeats} rounds, jit_compile={training.model.jit_compile}\n\n{table}",
        {
            "name": arguments.name,
            "steps": steps,
            "batch_size": training.recipe.batch_size,
            "jit_compile": training.model.jit_compile,
            "images_per_second": summaries,
            "fit_over": ratios,
            "cpu_milliseconds_per_image": {n: common.summary(v) for n, v in cpu.items()},
            "cpu_over_fit": work,
            "faster_loop": faster,
            "target": TARGET,
        },
        figure >= TARGET,
        f"fit / {faster} = {figure:.3f}, limit at least {TARGET}; by CPU time per image "
        f"{work[faster]['ratio']:.3f}",
        arguments.json,
    )


if __name__ == "__main__":
    sys.exit(main())
