"""keras.io's "WGAN-GP overriding Model.train_step" (A. K. Nain), on MNIST.

Written from its description. Latents of 128; the generator goes from 4x4x256 to 32x32 by repeated
pixels, 3x3 convolutions of 128, 64 and 1 filters and batch normalisation, and loses two pixels on
each side; the critic pads to 32x32 and has four 5x5 convolutions of 64 to 512 filters with stride
2, and dropout. Three critic steps a generator step, a penalty of 10, Adam 2e-4 with momenta 0.5 and
0.9, batches of 512. Changed: MNIST in place of Fashion-MNIST, the train split only.
"""

import subprocess
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from peers import contract, keras_fit

LATENT_DIM = 128
BATCH_SIZE = 512
CRITIC_STEPS = 3
PENALTY = 10.0
SLOPE = 0.2


def shrink(filters: int, dropout: float) -> list[keras.Layer]:
    made = [
        layers.Conv2D(filters, 5, strides=2, padding="same"),
        layers.LeakyReLU(negative_slope=SLOPE),
    ]
    return [*made, layers.Dropout(dropout)] if dropout else made


def grow(filters: int, activation: keras.Layer) -> list[keras.Layer]:
    return [
        layers.UpSampling2D(2),
        layers.Conv2D(filters, 3, padding="same", use_bias=False),
        layers.BatchNormalization(),
        activation,
    ]


def critic() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.ZeroPadding2D(2),
            *shrink(64, 0.0),
            *shrink(128, 0.3),
            *shrink(256, 0.3),
            *shrink(512, 0.0),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(1),
        ]
    )


def generator() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((LATENT_DIM,)),
            layers.Dense(4 * 4 * 256, use_bias=False),
            layers.BatchNormalization(),
            layers.LeakyReLU(negative_slope=SLOPE),
            layers.Reshape((4, 4, 256)),
            *grow(128, layers.LeakyReLU(negative_slope=SLOPE)),
            *grow(64, layers.LeakyReLU(negative_slope=SLOPE)),
            *grow(1, layers.Activation("tanh")),
            layers.Cropping2D(2),
        ]
    )


class WGAN(keras.Model):
    def __init__(self, seed: int):
        super().__init__()
        self.generator, self.critic = generator(), critic()
        self.noise = keras.random.SeedGenerator(seed)
        settings = {"learning_rate": 2e-4, "beta_1": 0.5, "beta_2": 0.9}
        self.compile(keras.optimizers.Adam(**settings))
        self.critic_optimizer = keras.optimizers.Adam(**settings)
        self.critic_optimizer.build(self.critic.trainable_variables)

    def train_step(self, images):
        for _ in range(CRITIC_STEPS):
            critic_loss = self._critic_step(images)
        latents = self._latents(tf.shape(images)[0])
        with tf.GradientTape() as tape:
            judged = self.critic(self.generator(latents, training=True), training=True)
            generator_loss = -tf.reduce_mean(judged)
        weights = self.generator.trainable_variables
        self.optimizer.apply(tape.gradient(generator_loss, weights), weights)
        return {"critic_loss": critic_loss, "generator_loss": generator_loss}

    def _critic_step(self, images):
        latents = self._latents(tf.shape(images)[0])
        with tf.GradientTape() as tape:
            generated = self.generator(latents, training=True)
            loss = tf.reduce_mean(self.critic(generated, training=True))
            loss -= tf.reduce_mean(self.critic(images, training=True))
            loss += PENALTY * self._penalty(images, generated)
        weights = self.critic.trainable_variables
        self.critic_optimizer.apply(tape.gradient(loss, weights), weights)
        return loss

    def _penalty(self, images, generated):
        share = keras.random.uniform((tf.shape(images)[0], 1, 1, 1), seed=self.noise)
        between = images + share * (generated - images)
        with tf.GradientTape() as tape:
            tape.watch(between)
            judged = self.critic(between, training=True)
        slopes = tape.gradient(judged, between)
        norms = tf.sqrt(tf.reduce_sum(tf.square(slopes), (1, 2, 3)))
        return tf.reduce_mean(tf.square(norms - 1.0))

    def _latents(self, count):
        return keras.random.normal((count, LATENT_DIM), seed=self.noise)


def drawn(network, number: int) -> np.ndarray:
    latents = keras.random.normal((number, LATENT_DIM))
    pixels = network(latents, training=False)
    return np.rint(127.5 * (pixels + 1.0)).astype(np.uint8)


def reload(folder: Path):
    network = keras.models.load_model(folder / "generator.keras")
    return lambda number: drawn(network, number)


def serve(folder: Path) -> None:
    served = folder.resolve() / "served"
    keras.models.load_model(folder / "generator.keras").export(served / "1")
    subprocess.run(["tensorflow_model_server", f"--model_base_path={served}"], check=True)


# What the comparison adds


def build(data: contract.Data, given) -> contract.Side:
    keras.utils.set_random_seed(given.seed)
    model, images = WGAN(given.seed), data.x_train.astype(np.float32) / 127.5 - 1.0
    weights = [*model.generator.trainable_variables, *model.critic.trainable_variables]
    return contract.Side(
        train=lambda seconds: keras_fit.fit_for(model, seconds, BATCH_SIZE, images),
        sample=lambda number: drawn(model.generator, number),
        save=lambda folder: model.generator.save(folder / "generator.keras"),
        reload=reload,
        parameters=sum(int(np.prod(weight.shape)) for weight in weights),
        packages=("keras", "tensorflow"),
    )


if __name__ == "__main__":
    contract.main(__doc__, build)
