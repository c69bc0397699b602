"""The networks of a GAN: DCGAN's, and residual ones where a DCGAN is too small.

DCGAN (Radford et al., 2016) is strided convolutions: each stage doubles or halves the size. The
residual networks are

    generator       w = MLP([z, class]);  grid of features -> blocks that double the size -> pixels
    discriminator   blocks that halve the size -> dense -> logit [+ <embedding(class), features>]

The generator has no statistics of a batch: each block normalises a pixel's channels by their own
root mean square, then scales and shifts them by what w says (Karras et al., "A style-based
generator architecture for generative adversarial networks", 2019; here per pixel).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgen import layers, noise

__all__ = [
    "NETWORKS",
    "augmented",
    "dcgan_discriminator",
    "dcgan_generator",
    "residual_discriminator",
    "residual_generator",
]

SLOPE = 0.2  # the leaky ReLUs' slope below 0, as in DCGAN
STYLE_UNITS = 128  # width of w


@keras.saving.register_keras_serializable("tfgen")
class Modulation(keras.layers.Layer):
    """x / rms(x) * (1 + scale(w)) + shift(w), with the root mean square over a pixel's channels.

    Input: x float (batch, height, width, channels) and w (batch, units); output as x.
    """

    def build(self, input_shape):
        x, w = input_shape
        self.affine = keras.layers.Dense(2 * x[-1], name="affine", dtype=self.dtype_policy)
        self.affine.build(w)

    def call(self, inputs):
        x, w = inputs
        # In float32: in float16 the square of 256 is infinite.
        wide = keras.ops.cast(x, "float32")
        rms = keras.ops.rsqrt(keras.ops.mean(keras.ops.square(wide), -1, keepdims=True) + 1e-6)
        scale, shift = keras.ops.split(self.affine(w)[:, None, None], 2, axis=-1)
        return keras.ops.cast(wide * rms, x.dtype) * (1.0 + scale) + shift

    def compute_output_shape(self, input_shape):
        return input_shape[0]


def dcgan_generator(
    given: Any,
    image_shape: tuple[int, int, int],
    filters: Sequence[int],
    num_blocks: int,
    num_classes: int | None,
    name: str,
) -> keras.Model:
    """As `residual_generator`, but that each stage ends with a transposed convolution."""
    x = layers.join_labels(given, num_classes)
    x = layers.grid_of(x, image_shape, len(filters), filters[0])
    for stage, channels in enumerate((*filters[1:], filters[-1])):
        for block in range(num_blocks):
            x = layers.residual_block(x, filters[stage], f"stage_{stage}_block_{block}")
        x = keras.layers.LeakyReLU(SLOPE, name=f"stage_{stage}_activation")(x)
        x = keras.layers.Conv2DTranspose(channels, 4, 2, "same", name=f"grow_{stage}")(x)
    return keras.Model(given, _image(x, image_shape[2]), name=name)


def dcgan_discriminator(
    given: Any,
    filters: Sequence[int],
    num_blocks: int,
    dense_units: int,
    num_classes: int | None,
    biased: bool,
    wrap: Callable[[keras.layers.Layer], keras.layers.Layer],
) -> keras.Model:
    """As `residual_discriminator`, but that each stage begins with a strided convolution."""
    x = given if num_classes is None else given[0]
    for stage, channels in enumerate(filters):
        x = wrap(keras.layers.Conv2D(channels, 4, 2, "same", name=f"stage_{stage}_conv"))(x)
        for block in range(num_blocks):
            x = layers.residual_block(x, channels, f"stage_{stage}_block_{block}", wrap)
        x = keras.layers.LeakyReLU(SLOPE, name=f"stage_{stage}_activation")(x)
    logit = _logit(x, given, dense_units, num_classes, biased, wrap)
    return keras.Model(given, logit, name="discriminator")


def residual_generator(
    given: Any,
    image_shape: tuple[int, int, int],
    filters: Sequence[int],
    num_blocks: int,
    num_classes: int | None,
    name: str,
) -> keras.Model:
    """latents (batch, latent_dim) [and labels] -> pixels (batch, *image_shape) in [-1, 1].

    Args:
        given: The symbolic inputs: latents, or [latents, labels].
        image_shape: (height, width, channels).
        filters: Channels of the grid and of all stages but the last, the coarsest first; each
            stage doubles the size, the last one keeps the width of the one before.
        num_blocks: Residual blocks per stage, at least 1.
        num_classes: Classes, or None.
        name: The network's name.
    """
    w = layers.join_labels(given, num_classes)
    for index in range(2):
        w = keras.layers.Dense(STYLE_UNITS, name=f"style_{index}")(w)
        w = keras.layers.LeakyReLU(SLOPE, name=f"style_{index}_activation")(w)
    x = layers.grid_of(w, image_shape, len(filters), filters[0])
    for stage, channels in enumerate((*filters[1:], filters[-1])):
        x = keras.layers.UpSampling2D(name=f"stage_{stage}_grow")(x)
        for block in range(num_blocks):
            x = _modulated_block(x, w, channels, f"stage_{stage}_block_{block}")
    x = Modulation(name="last_modulation")([x, w])
    return keras.Model(given, _image(x, image_shape[2]), name=name)


def residual_discriminator(
    given: Any,
    filters: Sequence[int],
    num_blocks: int,
    dense_units: int,
    num_classes: int | None,
    biased: bool,
    wrap: Callable[[keras.layers.Layer], keras.layers.Layer],
) -> keras.Model:
    """pixels (batch, *image_shape) in [-1, 1] [and labels] -> logit (batch, 1).

    Args:
        given: The symbolic inputs: pixels, or [pixels, labels].
        filters: Channels of the stages, each of which halves the size at its end.
        num_blocks: Residual blocks per stage, at least 1.
        dense_units: Width of the last hidden layer.
        num_classes: Classes, or None.
        biased: Whether the logit has a bias.
        wrap: What is put around each layer with a kernel, e.g. spectral normalisation.
    """
    x = given if num_classes is None else given[0]
    x = wrap(keras.layers.Conv2D(filters[0], 3, padding="same", name="from_pixels"))(x)
    for stage, channels in enumerate(filters):
        for block in range(num_blocks):
            halve = block == num_blocks - 1
            x = _plain_block(x, channels, halve, f"stage_{stage}_block_{block}", wrap)
    x = keras.layers.LeakyReLU(SLOPE, name="last_activation")(x)
    logit = _logit(x, given, dense_units, num_classes, biased, wrap)
    return keras.Model(given, logit, name="discriminator")


def _image(x, channels: int):
    """tanh(conv(lrelu(x))), pixels in [-1, 1]."""
    x = keras.layers.LeakyReLU(SLOPE, name="last_activation")(x)
    x = keras.layers.Conv2D(channels, 3, padding="same", name="to_pixels")(x)
    return keras.layers.Activation("tanh", dtype="float32", name="pixels")(x)


def _logit(x, given, units: int, num_classes: int | None, biased: bool, wrap):
    """dense -> logit; a conditional discriminator adds <embedding(class), features>.

    Miyato & Koyama, "cGANs with projection discriminator", 2018.
    """
    x = keras.layers.Flatten(name="flatten")(x)
    x = wrap(keras.layers.Dense(units, name="dense"))(x)
    features = keras.layers.LeakyReLU(SLOPE, name="features")(x)
    logit = wrap(keras.layers.Dense(1, use_bias=biased, dtype="float32", name="logit"))(features)
    if num_classes is None:
        return logit
    rows = layers.one_hot(given[1], num_classes)
    embedded = keras.layers.Dense(units, use_bias=False, name="embedding")(rows)
    agreement = keras.layers.Dot(1, dtype="float32", name="agreement")([features, embedded])
    return keras.layers.Add(dtype="float32", name="conditional_logit")([logit, agreement])


def _modulated_block(x, w, channels: int, name: str):
    """(skip(x) + conv(lrelu(mod(conv(lrelu(mod(x))))))) / sqrt 2."""
    y = x
    for index in (1, 2):
        y = Modulation(name=f"{name}_modulation_{index}")([y, w])
        y = keras.layers.LeakyReLU(SLOPE, name=f"{name}_activation_{index}")(y)
        y = keras.layers.Conv2D(channels, 3, padding="same", name=f"{name}_conv_{index}")(y)
    if x.shape[-1] != channels:
        x = keras.layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_skip")(x)
    x = keras.layers.Add(name=f"{name}_add")([x, y])
    return keras.layers.Rescaling(math.sqrt(0.5), name=f"{name}_unit")(x)


def _plain_block(x, channels: int, halve: bool, name: str, wrap):
    """(skip(x) + conv(lrelu(conv(lrelu(x))))) / sqrt 2, then halved by means of 2x2 pixels."""
    y = x
    for index in (1, 2):
        y = keras.layers.LeakyReLU(SLOPE, name=f"{name}_activation_{index}")(y)
        y = wrap(keras.layers.Conv2D(channels, 3, padding="same", name=f"{name}_conv_{index}"))(y)
    if x.shape[-1] != channels:
        x = wrap(keras.layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_skip"))(x)
    x = keras.layers.Add(name=f"{name}_add")([x, y])
    x = keras.layers.Rescaling(math.sqrt(0.5), name=f"{name}_unit")(x)
    return keras.layers.AveragePooling2D(2, name=f"{name}_halve")(x) if halve else x


# {name: (generator, discriminator)}
NETWORKS = {
    "dcgan": (dcgan_generator, dcgan_discriminator),
    "residual": (residual_generator, residual_discriminator),
}


def augmented(images: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
    """Shifts pixels (batch, height, width, channels) and changes their colours, by image.

    Brightness + U(-1/4, 1/4); saturation and contrast by factors of U(1/2, 3/2) around the mean of
    a pixel and of the image; a shift by up to an eighth of the side, filled with the edge (Zhao et
    al., "Differentiable augmentation for data-efficient GAN training", 2020).
    """
    height, width = images.shape[1:3]
    u = noise.uniform(seeds, (5, 1, 1, 1))
    images += 0.5 * u[:, 0] - 0.25
    grey = tf.reduce_mean(images, 3, keepdims=True)
    images = grey + (images - grey) * (0.5 + u[:, 1])
    mean = tf.reduce_mean(images, (1, 2, 3), keepdims=True)
    images = mean + (images - mean) * (0.5 + u[:, 2])
    for axis, side, unit in ((1, height, u[:, 3]), (2, width, u[:, 4])):
        most = side // 8
        offset = tf.cast(tf.reshape(unit, (-1, 1)) * (2 * most + 1), tf.int32) - most
        places = tf.clip_by_value(tf.range(side) + offset, 0, side - 1)  # (batch, side)
        chosen = tf.one_hot(places, side, dtype=images.dtype)  # a product: gathers train slowly
        equation = "bij,bjwc->biwc" if axis == 1 else "bij,bhjc->bhic"
        images = tf.einsum(equation, chosen, images)
    return images
