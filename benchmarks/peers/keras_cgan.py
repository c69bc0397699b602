"""keras.io's "Conditional GAN" (S. Paul): MNIST with the class as ten more channels.

Written from its description. The generator gets 128 latents and the class as one of ten, and goes
from 7x7x138 to 28x28 in two transposed convolutions of 128 filters; the discriminator gets the
image and ten planes of the class. Generated images are class 1, real ones 0, without noise on the
targets. Adam 3e-4 for both, batches of 64. Images are drawn with `predict`, as in the example.
Changed: the train split only.
"""

import subprocess
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from peers import contract, keras_fit

LATENT_DIM = 128
NUM_CLASSES = 10
BATCH_SIZE = 64
LEARNING_RATE = 3e-4
SLOPE = 0.2


def generator() -> keras.Model:
    grown = {"kernel_size": 4, "strides": 2, "padding": "same"}
    return keras.Sequential(
        [
            keras.Input((LATENT_DIM + NUM_CLASSES,)),
            layers.Dense(7 * 7 * (LATENT_DIM + NUM_CLASSES)),
            layers.LeakyReLU(negative_slope=SLOPE),
            layers.Reshape((7, 7, LATENT_DIM + NUM_CLASSES)),
            layers.Conv2DTranspose(128, **grown),
            layers.LeakyReLU(negative_slope=SLOPE),
            layers.Conv2DTranspose(128, **grown),
            layers.LeakyReLU(negative_slope=SLOPE),
            layers.Conv2D(1, 7, padding="same", activation="sigmoid"),
        ]
    )


def discriminator() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((28, 28, 1 + NUM_CLASSES)),
            layers.Conv2D(64, 3, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=SLOPE),
            layers.Conv2D(128, 3, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=SLOPE),
            layers.GlobalMaxPooling2D(),
            layers.Dense(1),
        ]
    )


class ConditionalGAN(keras.Model):
    def __init__(self, seed: int):
        super().__init__()
        self.generator, self.discriminator = generator(), discriminator()
        self.cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)
        self.noise = keras.random.SeedGenerator(seed)
        self.compile(keras.optimizers.Adam(LEARNING_RATE))
        self.discriminator_optimizer = keras.optimizers.Adam(LEARNING_RATE)
        self.discriminator_optimizer.build(self.discriminator.trainable_variables)

    def train_step(self, batch):
        images, classes = batch
        count = tf.shape(images)[0]
        planes = tf.tile(classes[:, None, None, :], (1, 28, 28, 1))
        real = tf.concat([images, planes], -1)
        generated = tf.concat([self.generator(self._inputs(count, classes)), planes], -1)
        targets = tf.concat([tf.ones((count, 1)), tf.zeros((count, 1))], 0)
        with tf.GradientTape() as tape:
            judged = self.discriminator(tf.concat([generated, real], 0))
            discriminator_loss = self.cross_entropy(targets, judged)
        weights = self.discriminator.trainable_variables
        self.discriminator_optimizer.apply(tape.gradient(discriminator_loss, weights), weights)
        inputs = self._inputs(count, classes)
        with tf.GradientTape() as tape:
            judged = self.discriminator(tf.concat([self.generator(inputs), planes], -1))
            generator_loss = self.cross_entropy(tf.zeros((count, 1)), judged)
        weights = self.generator.trainable_variables
        self.optimizer.apply(tape.gradient(generator_loss, weights), weights)
        return {"discriminator_loss": discriminator_loss, "generator_loss": generator_loss}

    def _inputs(self, count, classes):
        latents = keras.random.normal((count, LATENT_DIM), seed=self.noise)
        return tf.concat([latents, classes], 1)


def drawn(network, number: int) -> np.ndarray:
    latents = keras.random.normal((number, LATENT_DIM))
    classes = keras.utils.to_categorical(np.arange(number) % NUM_CLASSES, NUM_CLASSES)
    inputs = tf.concat([latents, classes.astype(np.float32)], 1)
    return np.rint(255.0 * network.predict(inputs, batch_size=500, verbose=0)).astype(np.uint8)


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
    model = ConditionalGAN(given.seed)
    images = data.x_train.astype(np.float32) / 255.0
    classes = keras.utils.to_categorical(data.y_train, NUM_CLASSES).astype(np.float32)
    return contract.Side(
        train=lambda seconds: keras_fit.fit_for(model, seconds, BATCH_SIZE, images, classes),
        sample=lambda number: drawn(model.generator, number),
        save=lambda folder: model.generator.save(folder / "generator.keras"),
        reload=reload,
        parameters=model.generator.count_params() + model.discriminator.count_params(),
        packages=("keras", "tensorflow"),
    )


if __name__ == "__main__":
    contract.main(__doc__, build)
