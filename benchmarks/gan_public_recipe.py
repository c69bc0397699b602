"""Our GAN against the public recipes of keras.io, trained on the same data for the same time.

ours    --name's recipe through tfgen.training's build and train_batches, with its jit_compile.
        Only its epochs are changed, and its restarts in proportion: as many whole epochs as fit
        into --minutes according to a short trial, so that its schedule ends with its time. Samples
        are drawn as `sample` draws them, from its averaged generator.
faces   "DCGAN to generate face images" (F. Chollet, keras.io/examples/generative/
        dcgan_overriding_train_step), whose networks are made for 64x64 colour images.
digits  the same example as published in 2020, "GAN overriding Model.train_step", whose networks
        are made for MNIST.

The public recipes are written here from their descriptions: layers, losses, optimizers, batch
sizes, targets. Both train with `fit` and compile() as published, that is with jit_compile="auto",
which does not use XLA on a CPU. Their loops call the discriminator without training=True, so the
dropout of `faces` never acts; this is kept as well. Samples come from the generator itself.

What is changed in them: `faces` has 1 channel instead of 3, and 28 = 7 * 2^2 instead of 64 = 8 *
2^3 pixels, so its generator starts at 7x7 and omits its third stage with stride 2, of 512 filters.
This is the simplest change and the one that sees the most images: keeping that stage with stride 1
would cost 14 times the work per image. The other layers are unchanged. `digits` sees the train
split only, where its example also used the test images. Both take their batches from the same
pipeline as ours: a permutation per epoch, without the last partial batch.

All sides take turns: ours for about --slice seconds, then each rival for exactly as many seconds as
ours took. Tracing and compiling happen before, outside the clock. The allocator is tuned as `tfgen
train` does it, for all of them. The samples are judged on the features of classifier_mnist against
evenly spaced test images; the same number of train images give the value that real images reach.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import NamedTuple

import common
import keras
import numpy as np
import tensorflow as tf
from keras import layers
from peers import keras_dcgan
from peers.keras_dcgan import LATENT_DIM, grow, shrink
from peers.keras_fit import Timed

TRIAL_SECONDS = 5.0
LEAST_SAMPLES = 10  # for a figure that needs neighbours and subsets


class Published(NamedTuple):
    """A public recipe's settings."""

    networks: Callable[[], tuple[keras.Model, keras.Model]]  # generator, discriminator
    batch_size: int
    learning_rate: float
    from_logits: bool


def faces() -> tuple[keras.Model, keras.Model]:
    generator = [
        keras.Input((LATENT_DIM,)),
        layers.Dense(7 * 7 * 128),
        layers.Reshape((7, 7, 128)),
        *grow(128),
        *grow(256),
        layers.Conv2D(1, 5, padding="same", activation="sigmoid"),
    ]
    discriminator = [
        keras.Input((28, 28, 1)),
        *shrink(64, 4),
        *shrink(128, 4),
        *shrink(128, 4),
        layers.Flatten(),
        layers.Dropout(0.2),
        layers.Dense(1, activation="sigmoid"),
    ]
    return keras.Sequential(generator), keras.Sequential(discriminator)


PUBLISHED = {
    "faces": Published(faces, batch_size=32, learning_rate=1e-4, from_logits=False),
    "digits": Published(
        keras_dcgan.digits,
        keras_dcgan.BATCH_SIZE,
        keras_dcgan.LEARNING_RATE,
        from_logits=True,
    ),
}


def our_side(recipe, images: tf.Tensor) -> Timed:
    from tfgen import data, training

    model, split = training.build(recipe), data.Arrays(images, None)
    return Timed(
        model,
        [optimizer for optimizer, _ in model.optimizers.values()],
        recipe.batch_size,
        lambda step: training.train_batches(recipe, split, False, step),
    )


def public_side(name: str, recipe, images: tf.Tensor) -> Timed:
    from tfgen import data, training

    published = PUBLISHED[name]
    # Epochs without end: the clock stops it.
    order = dataclasses.replace(recipe, batch_size=published.batch_size, epochs=10**6, max_shift=0)
    keras.utils.set_random_seed(recipe.seed)
    model = keras_dcgan.PublicGAN(
        published.networks(), published.learning_rate, published.from_logits, recipe.seed
    )
    split = data.Arrays(images, None)

    def batches(step):
        return training.train_batches(order, split, False, step).map(
            lambda batch: tf.cast(batch, tf.float32) / 255.0
        )

    return Timed(
        model, [optimizer for optimizer, _ in model.optimizers], published.batch_size, batches
    )


def against(real: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Returns the results of some images' features, (rows, features), against real ones'."""
    from tfgen.evaluation.distances import FrechetDistance, kernel_distance, precision_recall

    frechet = FrechetDistance(real.shape[1])
    frechet.update_state(real, other)
    kernel, error = kernel_distance(real, other, min(1000, len(real) // 2))
    precision, recall = precision_recall(real, other)
    return {
        "frechet_classifier_distance": float(frechet.result()),
        "kernel_distance": kernel,
        "kernel_distance_error": error,
        "precision": precision,
        "recall": recall,
    }


def main() -> int:
    parser = common.parser(__doc__, repeats=None)
    parser.add_argument("--name", default="gan_mnist", help="zoo entry or recipe file of a GAN")
    parser.add_argument(
        "--rivals", nargs="+", choices=PUBLISHED, default=list(PUBLISHED), help="public recipes"
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="training time per side")
    parser.add_argument("--slice", type=float, default=20.0, help="seconds per turn of a side")
    parser.add_argument("--num-samples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not (arguments.minutes > 0 and arguments.slice > 0):
        parser.error("--minutes and --slice must be positive")

    from tfgen import data, zoo
    from tfgen.evaluation.latents import evenly
    from tfgen.training import tune_allocator

    tune_allocator()
    num_samples = arguments.num_samples
    recipe = zoo.load_recipe(arguments.name)
    if recipe.family != "GAN" or recipe.model.get("num_classes") is not None:
        parser.error(f"--name must be an unconditional GAN; {arguments.name} is another model")
    if recipe.ema_momentum:
        parser.error(f"--name must leave averaging to the GAN: ema_momentum 0 in {arguments.name}")
    train, test = data.arrays(recipe.data, "train")[0], data.arrays(recipe.data, "test")[0]
    if not LEAST_SAMPLES <= num_samples <= min(len(train), len(test)):
        parser.error(
            f"--num-samples must lie in {LEAST_SAMPLES} .. {min(len(train), len(test))}; "
            f"received {num_samples}"
        )
    judge = zoo.load("classifier_mnist")

    trial = common.Training(arguments.name)
    steps_per_second = trial.steps_for(TRIAL_SECONDS) / TRIAL_SECONDS
    per_epoch = len(train) // recipe.batch_size
    epochs = max(1, round(60.0 * arguments.minutes * steps_per_second / per_epoch))
    restarts = {round(epoch * epochs / recipe.epochs) for epoch in recipe.restart_epochs}
    recipe = dataclasses.replace(
        recipe,
        epochs=epochs,
        restart_epochs=tuple(sorted(epoch for epoch in restarts if 0 < epoch < epochs)),
        seed=arguments.seed,
    )
    images = tf.constant(train)
    ours = our_side(recipe, images)
    rivals = {name: public_side(name, recipe, images) for name in arguments.rivals}
    slices = max(1, round(epochs * per_epoch / steps_per_second / arguments.slice))
    for until in np.linspace(0, epochs * per_epoch, slices + 1).round().astype(int)[1:]:
        ours.train(steps=int(until) - ours.steps)
        for rival in rivals.values():
            # What a rival's last step took too long is taken off its next slice.
            rival.train(seconds=ours.seconds - rival.seconds)

    real = judge.features(evenly(test, num_samples))
    sides = {"ours": ours} | rivals
    samples = {
        "ours": ours.model.sample(num_samples, seed=0, batch_size=500),
        **{
            name: keras_dcgan.drawn(rival.model.generator, num_samples)
            for name, rival in rivals.items()
        },
    }
    figures = {"train images": against(real, judge.features(evenly(train, num_samples)))}
    for name, side in sides.items():
        figures[name] = against(real, judge.features(samples[name])) | side.figures()

    floor = figures["train images"]["frechet_classifier_distance"]
    rows = []
    for name, found in figures.items():
        distance = found["frechet_classifier_distance"]
        row = [
            name,
            f"{distance:,.2f}",
            f"{distance / floor:.2f}",
            f"{found['kernel_distance']:.4g} +- {found['kernel_distance_error']:.4g}",
            f"{found['precision']:.3f}",
            f"{found['recall']:.3f}",
        ]
        if name in sides:
            row += [f"{found['images_seen']:,}", f"{found['images_per_second']:,.0f}"]
            row += [f"{found['seconds']:.1f}"]
        else:
            row += ["", "", ""]
        rows.append(row)
    header = (
        *("judged", "Frechet distance", "/ floor", "kernel distance", "precision", "recall"),
        *("images seen", "images/s", "seconds"),
    )
    distances = {name: figures[name]["frechet_classifier_distance"] for name in sides}
    best = min(rivals, key=distances.get)
    return common.finish(
        f"{arguments.name}: {epochs} epochs in {slices} slices, {num_samples:,} samples against "
        f"{num_samples:,} test images, seed {arguments.seed}\n"
        + ", ".join(f"jit_compile of {n} {figures[n]['jit_compile']}" for n in sides)
        + f"\n\n{common.format_table(header, rows)}",
        {
            "name": arguments.name,
            "epochs": epochs,
            "slices": slices,
            "num_samples": num_samples,
            "seed": arguments.seed,
            "evaluator": "classifier_mnist",
            "judged": figures,
        },
        distances["ours"] < distances[best],
        f"Frechet classifier distance of ours = {distances['ours']:,.2f}, limit below that of the "
        f"best public recipe, {best} = {distances[best]:,.2f}",
        arguments.json,
    )


if __name__ == "__main__":
    sys.exit(main())
