"""Augmentation that the generator's gradient passes through.

Zhao et al., "Differentiable augmentation for data-efficient GAN training", 2020.
"""

import tensorflow as tf

from tfgen import noise

__all__ = ["augmented"]


def augmented(images: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
    """Shifts pixels (batch, height, width, channels) and changes their colours, by image.

    Brightness + U(-1/4, 1/4); saturation and contrast by factors of U(1/2, 3/2) around the mean of
    a pixel and of the image; a shift by up to an eighth of the side, filled with the edge.
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
