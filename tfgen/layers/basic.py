"""Basic layers: scaling of images, sub-pixels, spectral normalisation, dropout with seeds."""

import contextvars
import math
from typing import Any

import keras
import tensorflow as tf

from tfgen import noise, pixels

__all__ = [
    "CHECKED",
    "GreyToPixels",
    "SpectralNormalization",
    "SubPixel",
    "checked_greys",
    "leading_shape",
    "matmul",
    "seeded_dropout",
]

CHECKED = contextvars.ContextVar("checked", default=False)  # whether all data were looked at


@keras.saving.register_keras_serializable("tfgen")
class GreyToPixels(keras.layers.Layer):
    """Maps grey values [0, 255] to pixels [-1, 1], and refuses images that were scaled before.

    Keras casts inputs to float before a layer sees their dtype, so images in [0, 1] would be taken
    as black. They are recognised by their values: not integers, or outside [0, 255]; outside of
    graphs, which see one batch of many, also by a largest value in (0, 1].

    Input and output: float (batch, height, width, channels).

    Raises:
        ValueError: The values are not grey values (InvalidArgumentError inside a graph). A program
            of XLA, ONNX or LiteRT cannot raise an error: there the pixels become NaN.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)  # 16 bits would round before the check

    def call(self, images: tf.Tensor) -> tf.Tensor:
        wide = "float64" if self.compute_dtype == "float64" else "float32"
        x = pixels.greys_to_pixels(_grey_values(tf.cast(images, wide)))
        return tf.cast(x, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape


def checked_greys(images: tf.Tensor) -> tf.Tensor:
    """Returns uint8 images as they are, and others as float32 once `GreyToPixels` would take them.

    Raises:
        ValueError: As `GreyToPixels` does.
    """
    images = tf.convert_to_tensor(images)
    return images if images.dtype == tf.uint8 else _grey_values(tf.cast(images, tf.float32))


def _grey_values(images: tf.Tensor) -> tf.Tensor:
    """Refuses floats that are no grey values; see `GreyToPixels`."""
    fine = tf.reduce_all(tf.equal(images, tf.round(images)) & (images >= 0.0) & (images <= 255.0))
    message = (
        "images must be grey values, integers in [0, 255] (uint8); received floats that look "
        "already scaled or resized. Multiply those in [0, 1] by 255; then round."
    )
    if tf.executing_eagerly():
        dark = 0.0 < tf.reduce_max(images) <= 1.0 and not CHECKED.get()
        if tf.size(images) > 0 and (dark or not fine):
            raise ValueError(message)
        return images
    with tf.control_dependencies([tf.debugging.Assert(fine, [message])]):
        return tf.where(fine, images, tf.constant(math.nan, images.dtype))


@keras.saving.register_keras_serializable("tfgen")
class SubPixel(keras.layers.Layer):
    """Turns channels into space (Shi et al., 2016).

        (batch, h, w, factor^2 c) -> (batch, factor h, factor w, c)

    Args:
        factor: By how much height and width grow.
    """

    def __init__(self, factor: int, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs):
        if self.factor == 1:  # which the op refuses
            return inputs
        return keras.ops.depth_to_space(inputs, self.factor, data_format="channels_last")

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        sides = [None if side is None else side * self.factor for side in (height, width)]
        return batch, *sides, channels // self.factor**2

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable("tfgen")
class SpectralNormalization(keras.layers.SpectralNormalization):
    """Keras' layer in float32, whose state moves alike on several replicas.

    In 16 bits Keras' layer would round the kernel in every step, and a float32 logit. The layer
    inside keeps its own dtype. A frozen kernel stays as it is.
    """

    def __init__(self, layer: keras.layers.Layer, power_iterations: int = 1, **kwargs: Any):
        super().__init__(layer, power_iterations, **kwargs | {"dtype": "float32"})

    def add_weight(self, *args: Any, **kwargs: Any) -> keras.Variable:
        return super().add_weight(*args, **{"aggregation": "only_first_replica", **kwargs})

    def call(self, inputs, training=False):
        return super().call(inputs, training=training and self.kernel.trainable)


def leading_shape(x: tf.Tensor, num_last: int) -> list[int | tf.Tensor]:
    """Returns the sizes of all axes but the last `num_last`, for a reshape.

    A single unknown size becomes -1, which needs no tensor; several are read at run time.
    """
    sizes: list[int | tf.Tensor] = list(x.shape[: x.shape.rank - num_last])
    unknown = [axis for axis, size in enumerate(sizes) if size is None]
    for axis in unknown:
        sizes[axis] = -1 if len(unknown) == 1 else tf.shape(x)[axis]
    return sizes


def matmul(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns x (..., n) times kernel (n, m) as one product of two matrices, (..., m)."""
    if x.shape.rank == 2:
        return tf.matmul(x, kernel)
    product = tf.matmul(tf.reshape(x, (-1, kernel.shape[0])), kernel)
    return tf.reshape(product, (*leading_shape(x, 1), kernel.shape[1]))


def cut(x: tf.Tensor, axis: int, start: int = 0, stop: int = 0) -> tf.Tensor:
    """Returns x[start : size + stop] along an axis, with `stop` at most 0.

    Its gradient is a pad, which all cores share; that of an index is a StridedSliceGrad on one.
    """
    begin, size = [0] * x.shape.rank, [-1] * x.shape.rank
    begin[axis] = start
    unknown = x.shape[axis] is None
    if stop:
        size[axis] = (tf.shape(x)[axis] if unknown else x.shape[axis]) + stop - start
    found = tf.slice(x, begin, size)
    if unknown:  # then TensorFlow infers none of the others
        found.set_shape([*x.shape[:axis], None, *x.shape[axis + 1 :]])
    return found


def seeded_dropout(x: tf.Tensor, rate: float, seeds: tf.Tensor | None, stream: int) -> tf.Tensor:
    """Sets a share of `x` (batch, ...) to zero by each image's seed, and scales up the rest.

    A byte of noise decides on each number, so the share is `rate` rounded to a multiple of 1/256,
    neither 0 nor 1. Without seeds, or with a rate of 0, it returns `x`.
    """
    if seeds is None or not rate:
        return x
    threshold = min(max(round(rate * 256), 1), 255)
    count = math.prod(x.shape[1:])
    words = noise.bits(seeds, -(-count // 4), stream)  # (batch, words)
    drawn = tf.reshape(tf.bitcast(words, tf.uint8), (tf.shape(words)[0], -1))[:, :count]
    kept = tf.reshape(tf.cast(drawn, tf.int32) >= threshold, tf.shape(x))
    return tf.where(kept, x * (256.0 / (256 - threshold)), tf.zeros_like(x))
