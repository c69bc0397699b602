"""A plain PixelCNN in NumPy: the whole network for each pixel, as slow as it is short.

The readable reference for `PixelCNN(block="residual", pixel_distribution="bernoulli")` with tokens
of one grey pixel and one order, from whose weights it computes the same samples:

    log p(x) = sum_i log p(x_i | x_1, ..., x_{i-1})
"""

import numpy as np
import tensorflow as tf

from tfgen import noise


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def dense(x, layer):
    return x @ layer.kernel.numpy() + layer.bias.numpy()


def masked_convolution(x, layer, sees_itself: bool):
    """out(i, j) = bias + sum of kernel(r, s) x(i + r, j + s) over (r, s) before (0, 0)."""
    kernel, bias = layer.kernel.numpy(), layer.bias.numpy()
    rows, columns = kernel.shape[:2]
    center = columns // 2
    height, width = x.shape[1:3]
    padded = np.pad(x, [(0, 0), (rows - 1, 0), (center, center), (0, 0)])
    out = bias
    for row in range(rows):
        for column in range(columns):
            before = row < rows - 1 or column < center
            if before or (sees_itself and column == center):
                out = (
                    out
                    + padded[:, row : row + height, column : column + width] @ kernel[row, column]
                )
    return out


def logits(model, levels: np.ndarray) -> np.ndarray:
    """log p(x_i = 1 | x_<i) - log p(x_i = 0 | x_<i) of each pixel, (batch, height, width)."""
    trunk = model.trunk
    x = masked_convolution(2 * levels - 1, trunk.first, sees_itself=False)
    x = x + trunk.position.map.numpy()[0]
    for block in trunk.blocks:
        y = elu(dense(elu(x), block.down))
        y = masked_convolution(y, block.masked, sees_itself=True)
        x = x + dense(elu(y), block.up)
    hidden = elu(dense(elu(x), model.from_trunk))
    return dense(hidden, model.to_parameters)[..., 0]


def sample(model, seeds: np.ndarray) -> np.ndarray:
    """Draws one pixel after another, float (batch, height, width, 1) of 0 and 1."""
    height, width, _ = model.image_shape
    uniforms = noise.uniform(tf.constant(seeds, tf.int64), (height, width), stream=0).numpy()
    levels = np.zeros((len(seeds), height, width, 1))
    for row in range(height):
        for column in range(width):
            probability = 1 / (1 + np.exp(-logits(model, levels)[:, row, column]))
            levels[:, row, column, 0] = uniforms[:, row, column] < probability
    return levels
