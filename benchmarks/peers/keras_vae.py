"""keras.io's "Variational AutoEncoder" (F. Chollet): MNIST, two latents, written from its text.

Two strided convolutions of 32 and 64 filters, a layer of 16 units, two latents; the decoder mirrors
them. Binary cross-entropy of grey values plus the KL, Adam 1e-3, batches of 128. Changed: the train
split only. Its samples are the decoder's means, drawn with `predict`, as the example shows them;
its loss is no likelihood of grey images, so it has no nats.
"""

import subprocess
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from peers import contract, keras_fit

LATENT_DIM = 2
BATCH_SIZE = 128


class VAE(keras.Model):
    def __init__(self, seed: int):
        super().__init__()
        convolution = {"strides": 2, "padding": "same", "activation": "relu"}
        self.encoder = keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                layers.Conv2D(32, 3, **convolution),
                layers.Conv2D(64, 3, **convolution),
                layers.Flatten(),
                layers.Dense(16, activation="relu"),
                layers.Dense(2 * LATENT_DIM),
            ]
        )
        self.decoder = keras.Sequential(
            [
                keras.Input((LATENT_DIM,)),
                layers.Dense(7 * 7 * 64, activation="relu"),
                layers.Reshape((7, 7, 64)),
                layers.Conv2DTranspose(64, 3, **convolution),
                layers.Conv2DTranspose(32, 3, **convolution),
                layers.Conv2DTranspose(1, 3, padding="same", activation="sigmoid"),
            ]
        )
        self.noise = keras.random.SeedGenerator(seed)

    def train_step(self, images):
        with tf.GradientTape() as tape:
            mean, log_variance = tf.split(self.encoder(images), 2, axis=-1)
            noise = keras.random.normal(tf.shape(mean), seed=self.noise)
            decoded = self.decoder(mean + tf.exp(0.5 * log_variance) * noise)
            bits = keras.losses.binary_crossentropy(images, decoded)  # (batch, 28, 28)
            kl = -0.5 * (1.0 + log_variance - tf.square(mean) - tf.exp(log_variance))
            loss = tf.reduce_mean(tf.reduce_sum(bits, (1, 2)) + tf.reduce_sum(kl, 1))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


def drawn(decoder, number: int) -> np.ndarray:
    latents = keras.random.normal((number, LATENT_DIM))
    pixels = decoder.predict(latents, batch_size=500, verbose=0)
    return np.rint(255.0 * pixels).astype(np.uint8)


def reload(folder: Path):
    decoder = keras.models.load_model(folder / "decoder.keras")
    return lambda number: drawn(decoder, number)


def serve(folder: Path) -> None:
    served = folder.resolve() / "served"
    keras.models.load_model(folder / "decoder.keras").export(served / "1")
    subprocess.run(["tensorflow_model_server", f"--model_base_path={served}"], check=True)


# What the comparison adds


def build(data: contract.Data, given) -> contract.Side:
    keras.utils.set_random_seed(given.seed)
    model, images = VAE(given.seed), data.x_train.astype(np.float32) / 255.0
    model.compile(keras.optimizers.Adam())
    return contract.Side(
        train=lambda seconds: keras_fit.fit_for(model, seconds, BATCH_SIZE, images),
        sample=lambda number: drawn(model.decoder, number),
        save=lambda folder: model.decoder.save(folder / "decoder.keras"),
        reload=reload,
        parameters=model.encoder.count_params() + model.decoder.count_params(),
        packages=("keras", "tensorflow"),
    )


if __name__ == "__main__":
    contract.main(__doc__, build)
