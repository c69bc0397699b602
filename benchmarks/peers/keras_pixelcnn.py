"""keras.io's "PixelCNN" (ADMoreau) on binary MNIST, written from its description.

A masked 7x7 convolution of 128 filters, five residual blocks (1x1, masked 3x3 of 64 filters, 1x1),
two masked 1x1 convolutions of 128 filters, a sigmoid. Binary cross-entropy, Adam 5e-4, batches of
128. Changed: static binarised MNIST and its train split, in place of greys above a third of both
splits without a tenth, and masks that multiply the
kernel instead of being assigned to it at each call. Images are drawn with a call of `predict` for
each pixel, as published. The cross-entropy is the exact likelihood.
"""

from pathlib import Path

import keras
import numpy as np
from keras import layers

from peers import by_hand, contract, keras_fit

BATCH_SIZE = 128
FILTERS = 128
NUM_BLOCKS = 5


@keras.saving.register_keras_serializable("peers")
class MaskedConv2D(layers.Conv2D):
    """A convolution that sees the pixels before its own, and its own if `own`."""

    def __init__(self, *args, own: bool = True, **kwargs):
        super().__init__(*args, **kwargs)
        self.own = own

    def build(self, input_shape):
        super().build(input_shape)
        height, width, *_ = self.kernel.shape
        mask = np.zeros(self.kernel.shape, np.float32)
        mask[: height // 2] = 1.0
        mask[height // 2, : width // 2 + self.own] = 1.0
        self.mask = mask

    def call(self, inputs):
        kernel = keras.ops.multiply(self.kernel, self.mask)
        outputs = keras.ops.conv(inputs, kernel, strides=1, padding=self.padding)
        return self.activation(outputs + self.bias)

    def get_config(self):
        return super().get_config() | {"own": self.own}


def network() -> keras.Model:
    inputs = keras.Input((28, 28, 1))
    options = {"activation": "relu", "padding": "same"}
    x = MaskedConv2D(FILTERS, 7, own=False, **options)(inputs)
    for _ in range(NUM_BLOCKS):
        y = layers.Conv2D(FILTERS, 1, activation="relu")(x)
        y = MaskedConv2D(FILTERS // 2, 3, **options)(y)
        y = layers.Conv2D(FILTERS, 1, activation="relu")(y)
        x = layers.add([x, y])
    for _ in range(2):
        x = MaskedConv2D(FILTERS, 1, **options)(x)
    return keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(x))


def drawn(model, number: int) -> np.ndarray:
    images = np.zeros((number, 28, 28, 1), np.float32)
    for row in range(28):
        for column in range(28):
            chances = model.predict(images, verbose=0)[:, row, column]
            images[:, row, column] = keras.random.uniform(chances.shape) < chances
    return (255 * images).astype(np.uint8)


def reload(folder: Path):
    model = keras.models.load_model(folder / "pixelcnn.keras")
    return lambda number: drawn(model, number)


def serve(folder: Path) -> None:
    by_hand.serve(reload(folder))


# What the comparison adds


def build(data: contract.Data, given) -> contract.Side:
    keras.utils.set_random_seed(given.seed)
    model, images = network(), (data.x_train > 0).astype(np.float32)
    model.compile(keras.optimizers.Adam(5e-4), "binary_crossentropy")

    def nats(held_out: np.ndarray) -> float:
        bits = held_out > 0
        chances = model.predict(bits.astype(np.float32), batch_size=100, verbose=0)
        own = np.where(bits, chances, 1.0 - chances).astype(np.float64)
        return -float(np.log(np.maximum(own, 1e-7)).sum((1, 2, 3)).mean())

    return contract.Side(
        train=lambda seconds: keras_fit.fit_for(model, seconds, BATCH_SIZE, images, images),
        sample=lambda number: drawn(model, number),
        save=lambda folder: model.save(folder / "pixelcnn.keras"),
        reload=reload,
        parameters=model.count_params(),
        packages=("keras", "tensorflow"),
        batch=100,
        nats=nats,
        nats_kind="exact",
        one_pass=lambda number: model.predict(np.zeros((number, 28, 28, 1)), verbose=0),
        passes=28 * 28,
    )


if __name__ == "__main__":
    contract.main(__doc__, build)
