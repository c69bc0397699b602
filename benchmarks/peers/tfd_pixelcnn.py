"""TensorFlow Probability's `tfd.PixelCNN` (PixelCNN++) on tf-keras, called as a package.

The settings of its documentation: one residual block, two hierarchies, 32 filters, five logistics a
pixel, dropout 0.3; Adam 1e-3, batches of 16. Changed: 50,000 train images for 60,000, shuffled one
by one and not in batches. Its likelihood is that of 256 grey levels, exact. Images are drawn by its
own loop, a pass through the network for each pixel.
"""

import os
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from peers import by_hand, contract

BATCH_SIZE = 16


def distribution():
    return tfp.distributions.PixelCNN(
        image_shape=(28, 28, 1),
        num_resnet=1,
        num_hierarchies=2,
        num_filters=32,
        num_logistic_mix=5,
        dropout_p=0.3,
    )


def trainable(pixels) -> tf_keras.Model:
    images = tf_keras.Input((28, 28, 1))
    log_prob = pixels.log_prob(images)
    model = tf_keras.Model(images, log_prob)
    model.add_loss(-tf.reduce_mean(log_prob))
    model.compile(tf_keras.optimizers.Adam(1e-3))
    return model


def drawn(pixels, number: int) -> np.ndarray:
    return pixels.sample(number).numpy().astype(np.uint8)


def reload(folder: Path):
    pixels = distribution()
    trainable(pixels).load_weights(folder / "pixelcnn.weights.h5")
    return lambda number: drawn(pixels, number)


def serve(folder: Path) -> None:
    by_hand.serve(reload(folder))


# What the comparison adds


class Clock(contract.Clock, tf_keras.callbacks.Callback):
    """`contract.Clock` for tf-keras."""


def build(data: contract.Data, given) -> contract.Side:
    tf_keras.utils.set_random_seed(given.seed)
    pixels, images = distribution(), data.x_train.astype(np.float32)
    model = trainable(pixels)

    @tf.function
    def log_prob(batch):
        return pixels.log_prob(batch, training=False)

    def train(seconds: float) -> tuple[int, float]:
        clock = Clock(seconds)
        options = {"batch_size": BATCH_SIZE, "epochs": 10**6, "callbacks": [clock], "verbose": 0}
        model.fit(images, **options)
        return clock.steps * BATCH_SIZE, clock.now - clock.start

    def nats(held_out: np.ndarray) -> float:
        batches = [held_out[at : at + 50].astype(np.float32) for at in range(0, len(held_out), 50)]
        return -float(np.concatenate([log_prob(batch).numpy() for batch in batches]).mean())

    return contract.Side(
        train=train,
        sample=lambda number: drawn(pixels, number),
        save=lambda folder: model.save_weights(folder / "pixelcnn.weights.h5"),
        reload=reload,
        parameters=int(sum(np.prod(v.shape) for v in model.trainable_variables)),
        packages=("tensorflow", "tf-keras", "tensorflow-probability"),
        batch=50,
        nats=nats,
        nats_kind="exact",
        one_pass=lambda number: log_prob(np.zeros((number, 28, 28, 1), np.float32)),
        passes=28 * 28,
    )


if __name__ == "__main__":
    contract.main(__doc__, build)
