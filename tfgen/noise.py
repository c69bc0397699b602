"""Counter-based random numbers: the noise of image i is a function of seed i alone.

One generator (Philox 4x32-10, Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
2011) written in integer operations, so that eager, graph, XLA and SavedModel give the same bits
on every device, with a separate key for each image of a batch. TensorFlow's own stateless ops
take one key for a whole tensor, and their floats differ between graph and XLA.

    seed (n,) int64 -- bits -->   uint32 (n, words)
                    -- uniform -> ((bits >> 9) + 1/2) 2^-23    in (0, 1), both ends excluded
                    -- normal --> Phi^-1(uniform)

Nothing here holds state: a training step folds (seed, step, index in the global batch) into seeds.
"""

import math

import tensorflow as tf

from tfgen import portable

__all__ = ["bits", "fold", "normal", "quantile", "uniform"]

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_FOLD_STREAM = 0xF01D

# Wichura, "Algorithm AS 241", Applied Statistics 37 (1988), PPND7; ascending powers. Its third
# branch begins at u < exp(-25), which a multiple of 2^-24 never is.
_MIDDLE = (
    (3.3871327179, 50.434271938, 159.29113202, 59.109374720),
    (1.0, 17.895169469, 78.757757664, 67.187563600),
)
_TAIL = (
    (1.4234372777, 2.7568153900, 1.3067284816, 0.17023821103),
    (1.0, 0.73700164250, 0.12021132975),
)


def _multiply(a: tf.Tensor, constant: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the high and low 32 bits of the 64-bit product."""
    product = tf.cast(a, tf.uint64) * tf.constant(constant, tf.uint64)
    high = tf.bitwise.right_shift(product, tf.constant(32, tf.uint64))
    return tf.cast(high, tf.uint32), tf.cast(product, tf.uint32)


def _philox(key: tuple, counter: tuple) -> tuple:
    """Ten rounds of Philox 4x32; every word is a uint32 tensor, shapes broadcast."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    xor = tf.bitwise.bitwise_xor
    for _ in range(10):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = xor(xor(high1, c1), k0), low1, xor(xor(high0, c3), k1), low0
        k0 += tf.constant(_KEY_STEPS[0], tf.uint32)
        k1 += tf.constant(_KEY_STEPS[1], tf.uint32)
    return c0, c1, c2, c3


def bits(seeds: tf.Tensor, words: int, stream: int | tf.Tensor = 0) -> tf.Tensor:
    """Draws `words` uint32 for each seed.

    Args:
        seeds: int64 (n,).
        words: Numbers per seed.
        stream: Which of 2^31 independent streams of the seed; may be an int32 scalar tensor.

    Returns:
        uint32 (n, words).
    """
    key = tf.bitcast(seeds, tf.uint32)  # (n, 2)
    block = tf.cast(tf.range(-(-words // 4)), tf.uint32)[None, :]  # (1, words / 4)
    zero = tf.zeros_like(block)
    stream = zero + tf.cast(stream, tf.uint32)
    drawn = _philox((key[:, :1], key[:, 1:]), (block, zero, stream, zero))
    return tf.reshape(tf.stack(drawn, -1), (tf.shape(seeds)[0], -(-words // 4) * 4))[:, :words]


def fold(seeds: tf.Tensor, data: int | tf.Tensor) -> tf.Tensor:
    """Mixes integers into seeds: new, unrelated seeds.

    Args:
        seeds: int64 (n,) or scalar.
        data: int64, broadcast against `seeds`.

    Returns:
        int64 of the broadcast shape.
    """
    seeds, data = tf.cast(seeds, tf.int64), tf.cast(data, tf.int64)
    shape = tf.broadcast_dynamic_shape(tf.shape(seeds), tf.shape(data))
    key = tf.bitcast(tf.reshape(tf.broadcast_to(seeds, shape), (-1,)), tf.uint32)
    counter = tf.bitcast(tf.reshape(tf.broadcast_to(data, shape), (-1,)), tf.uint32)
    c0, c1 = counter[:, 0], counter[:, 1]
    stream = tf.fill(tf.shape(c0), tf.constant(_FOLD_STREAM, tf.uint32))
    drawn = _philox((key[:, 0], key[:, 1]), (c0, c1, stream, tf.ones_like(c0)))
    return tf.reshape(tf.bitcast(tf.stack(drawn[:2], -1), tf.int64), shape)


def uniform(seeds: tf.Tensor, shape: tuple[int, ...], stream: int | tf.Tensor = 0) -> tf.Tensor:
    """Draws float32 (n, *shape), uniform on the open interval (0, 1), multiples of 2^-24."""
    count = math.prod(shape)
    if portable.active():
        drawn = portable.upper_bits(seeds, count, stream)
    else:
        drawn = tf.bitwise.right_shift(bits(seeds, count, stream), tf.constant(9, tf.uint32))
    unit = (tf.cast(drawn, tf.float32) + 0.5) * 2.0**-23
    return tf.reshape(unit, (tf.shape(seeds)[0], *shape))


def normal(seeds: tf.Tensor, shape: tuple[int, ...], stream: int | tf.Tensor = 0) -> tf.Tensor:
    """Draws float32 (n, *shape), standard normal, |value| at most 5.4."""
    return quantile(uniform(seeds, shape, stream))


def quantile(u: tf.Tensor) -> tf.Tensor:
    """Returns Phi^-1(u), the inverse of the standard normal's cumulative distribution.

        q = u - 1/2
        |q| <= 0.425:  q A(r) / B(r),        r = 0.425^2 - q^2
        else:          sign(q) C(t) / D(t),  t = sqrt(-log(min(u, 1 - u))) - 1.6

    A, B, C, D are polynomials of degree 2 and 3, which every compiler and export format has. XLA's
    `tf.math.ndtri` is another formula, off by 2e-5.

    Args:
        u: float32 of any shape, multiples of 2^-24 inside (0, 1).

    Returns:
        float32 of the same shape, within 1.5e-6 of the exact value.
    """
    q = u - 0.5
    r = 0.425**2 - q * q
    t = tf.sqrt(-tf.math.log(tf.minimum(u, 1.0 - u))) - 1.6
    middle = q * (_polynomial(r, _MIDDLE[0]) / _polynomial(r, _MIDDLE[1]))
    tail = tf.sign(q) * (_polynomial(t, _TAIL[0]) / _polynomial(t, _TAIL[1]))
    return tf.where(tf.abs(q) <= 0.425, middle, tail)


def _polynomial(x: tf.Tensor, coefficients: tuple[float, ...]) -> tf.Tensor:
    value = coefficients[-1] * x + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        value = value * x + coefficient
    return value
