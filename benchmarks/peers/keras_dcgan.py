"""keras.io's DCGAN for digits ("GAN overriding Model.train_step", F. Chollet, as of 2020).

Written from its description. Latents of 128; the generator goes from 7x7x128 to 28x28 in two
transposed convolutions of 128 filters, the discriminator has two strided convolutions of 64 and 128
filters and a global maximum. Generated images are class 1, real ones 0; the discriminator's targets
are raised by uniform noise in [0, 0.05), the generator's are those of real images, without noise.
Adam 3e-4 for both, batches of 64. Changed: the train split only. The published loop calls the
discriminator without training=True; this is kept.
"""

import subprocess
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from peers import contract, keras_fit

LATENT_DIM = 128
BATCH_SIZE = 64
LEARNING_RATE = 3e-4
SLOPE = 0.2
LABEL_NOISE = 0.05


def grow(filters: int) -> list[keras.Layer]:
    return [
        layers.Conv2DTranspose(filters, 4, strides=2, padding="same"),
        layers.LeakyReLU(negative_slope=SLOPE),
    ]


def shrink(filters: int, size: int) -> list[keras.Layer]:
    return [
        layers.Conv2D(filters, size, strides=2, padding="same"),
        layers.LeakyReLU(negative_slope=SLOPE),
    ]


def digits() -> tuple[keras.Model, keras.Model]:
    generator = [
        keras.Input((LATENT_DIM,)),
        layers.Dense(7 * 7 * 128),
        layers.LeakyReLU(negative_slope=SLOPE),
        layers.Reshape((7, 7, 128)),
        *grow(128),
        *grow(128),
        layers.Conv2D(1, 7, padding="same", activation="sigmoid"),
    ]
    discriminator = [
        keras.Input((28, 28, 1)),
        *shrink(64, 3),
        *shrink(128, 3),
        layers.GlobalMaxPooling2D(),
        layers.Dense(1),
    ]
    return keras.Sequential(generator), keras.Sequential(discriminator)


class PublicGAN(keras.Model):
    """The public training step, for float images in [0, 1].

    Args:
        networks: The generator and the discriminator.
        learning_rate: Of both optimizers.
        from_logits: Whether the discriminator gives logits.
        seed: Of latents and of the noise on targets.
    """

    def __init__(self, networks, learning_rate: float, from_logits: bool, seed: int):
        super().__init__()
        self.generator, self.discriminator = networks
        self.cross_entropy = keras.losses.BinaryCrossentropy(from_logits)
        self.discriminator_loss = keras.metrics.Mean("discriminator_loss")
        self.generator_loss = keras.metrics.Mean("generator_loss")
        self.noise = keras.random.SeedGenerator(seed)
        self.compile(keras.optimizers.Adam(learning_rate))
        self.discriminator_optimizer = keras.optimizers.Adam(learning_rate)
        for optimizer, network in self.optimizers:
            optimizer.build(network.trainable_variables)

    @property
    def optimizers(self):
        """The two optimizers, each with its network."""
        return (
            (self.optimizer, self.generator),
            (self.discriminator_optimizer, self.discriminator),
        )

    @property
    def metrics(self):
        return [self.discriminator_loss, self.generator_loss]

    def train_step(self, images):
        count = tf.shape(images)[0]
        generated = self.generator(self._latents(count))
        targets = tf.concat([tf.ones((count, 1)), tf.zeros((count, 1))], 0)
        targets += LABEL_NOISE * keras.random.uniform((2 * count, 1), seed=self.noise)
        with tf.GradientTape() as tape:
            judged = self.discriminator(tf.concat([generated, images], 0))
            discriminator_loss = self.cross_entropy(targets, judged)
        self._descend(tape, discriminator_loss, *self.optimizers[1])
        latents = self._latents(count)
        with tf.GradientTape() as tape:
            judged = self.discriminator(self.generator(latents))
            generator_loss = self.cross_entropy(tf.zeros((count, 1)), judged)
        self._descend(tape, generator_loss, *self.optimizers[0])
        self.discriminator_loss.update_state(discriminator_loss)
        self.generator_loss.update_state(generator_loss)
        return {metric.name: metric.result() for metric in self.metrics}

    def _latents(self, count):
        return keras.random.normal((count, LATENT_DIM), seed=self.noise)

    @staticmethod
    def _descend(tape, loss, optimizer, network) -> None:
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)


def drawn(generator, number: int) -> np.ndarray:
    latents = keras.random.normal((number, LATENT_DIM))
    return np.rint(255.0 * generator(latents, training=False)).astype(np.uint8)


def reload(folder: Path):
    generator = keras.models.load_model(folder / "generator.keras")
    return lambda number: drawn(generator, number)


def serve(folder: Path) -> None:
    served = folder.resolve() / "served"
    keras.models.load_model(folder / "generator.keras").export(served / "1")
    subprocess.run(["tensorflow_model_server", f"--model_base_path={served}"], check=True)


# What the comparison adds


def build(data: contract.Data, given) -> contract.Side:
    keras.utils.set_random_seed(given.seed)
    model = PublicGAN(digits(), LEARNING_RATE, from_logits=True, seed=given.seed)
    images = data.x_train.astype(np.float32) / 255.0
    return contract.Side(
        train=lambda seconds: keras_fit.fit_for(model, seconds, BATCH_SIZE, images),
        sample=lambda number: drawn(model.generator, number),
        save=lambda folder: model.generator.save(folder / "generator.keras"),
        reload=reload,
        parameters=model.generator.count_params() + model.discriminator.count_params(),
        packages=("keras", "tensorflow"),
    )


if __name__ == "__main__":
    contract.main(__doc__, build)
