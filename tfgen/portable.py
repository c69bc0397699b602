"""Which formulas a graph is traced with: TensorFlow's own, or those of all other runtimes too.

And whether anything may ask it for gradients. Here are the formulas of the other runtimes.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

__all__ = ["active", "has_gradients", "softplus", "tracing", "upper_bits", "without_gradients"]

ROUNDS = 10
# The limbs (low, high) of two words each: the multipliers, and what the key grows by in a round.
_MULTIPLIERS = np.array([[0x1F53, 0xD251], [0x8D57, 0xCD9E]], np.int32)
_KEY_STEPS = np.array([[0x79B9, 0x9E37], [0xAE85, 0xBB67]], np.int32)

_ACTIVE = contextvars.ContextVar("portable", default=False)
_WITHOUT_GRADIENTS = contextvars.ContextVar("without_gradients", default=False)


def tracing() -> contextlib.AbstractContextManager[None]:
    """Graphs traced inside compute the same with operations that every export format has."""
    return _inside(_ACTIVE)


def active() -> bool:
    """Returns whether this is inside `tracing`."""
    return _ACTIVE.get()


def without_gradients() -> contextlib.AbstractContextManager[None]:
    """Graphs traced inside leave out what changes only gradients."""
    return _inside(_WITHOUT_GRADIENTS)


def has_gradients() -> bool:
    """Returns whether what is computed here may be differentiated."""
    return not _WITHOUT_GRADIENTS.get()


@contextlib.contextmanager
def _inside(flag: contextvars.ContextVar[bool]) -> Iterator[None]:
    token = flag.set(True)
    try:
        yield
    finally:
        flag.reset(token)


def softplus(x: tf.Tensor) -> tf.Tensor:
    """Returns log(1 + exp(x)), which LiteRT computes as it stands: infinite from x = 89 on.

    softplus(x) = max(x, 0) + log(1 + exp(-|x|))
    """
    if active():
        return tf.maximum(x, 0.0) + tf.math.log(1.0 + tf.exp(-tf.abs(x)))
    return tf.nn.softplus(x)


def upper_bits(seeds: tf.Tensor, words: int, stream: int | tf.Tensor = 0) -> tf.Tensor:
    """Returns the upper 23 bits of each of `noise.bits(seeds, words, stream)`, int32 (n, words).

    ONNX and LiteRT lack bitwise operations on 64 bits, and OpenVINO's CPU plugin computes int64 in
    32. What they share is int32 with +, -, *, // and xor. So a 32-bit word is held as two limbs
    below 2^16, and constants are multiplied byte by byte: no product passes 2^24. That is several
    times as many operations as `noise` needs, so only exports to such runtimes use it.

    Philox 4x32-10 on words 0 and 2 together, and on words 1 and 3 together:

        (h0, l0), (h2, l2) = c0 M0, c2 M1
        c0, c1, c2, c3 = h2 ^ c1 ^ k0, l2, h0 ^ c3 ^ k1, l0
    """
    blocks = -(-words // 4)
    key = tf.reshape(_limbs(seeds), (-1, 1, 2, 2))  # seed, block, word, limb
    block, stream = _split(tf.range(blocks)), _split(tf.cast(stream, tf.int32))
    zeros = tf.zeros_like(block)
    even = tf.stack([block, zeros + stream], 1)[None] + 0 * key  # (n, blocks, 2, 2)
    odd = tf.zeros_like(even)

    def one_round(index, even, odd, key):
        high, low = _multiply(even)
        mixed = tf.bitwise.bitwise_xor(tf.gather(high, [1, 0], axis=2), odd)
        even = tf.bitwise.bitwise_xor(mixed, key + tf.zeros_like(mixed))
        return index + 1, even, tf.gather(low, [1, 0], axis=2), _add(key, _KEY_STEPS)

    shapes = [tf.TensorShape(s) for s in ((), (None, blocks, 2, 2), (None, blocks, 2, 2))]
    _, even, odd, _ = tf.while_loop(
        lambda index, *_: index < ROUNDS,
        one_round,
        (tf.constant(0), even, odd, key),
        shape_invariants=(*shapes, tf.TensorShape((None, 1, 2, 2))),
    )
    words_of = tf.stack([even, odd], 3)  # (n, blocks, 2, 2, limb): c0, c1, c2, c3
    upper = words_of[..., 1] * 128 + words_of[..., 0] // 512
    return tf.reshape(upper, (-1, blocks * 4))[:, :words]


def _limbs(seeds: tf.Tensor) -> tf.Tensor:
    """Returns the four limbs of an int64, lowest first, int32 (n, 4).

    The quotients have 16 significant bits, so float32 holds them exactly.
    """
    limbs, rest = [], seeds
    for power in (48, 32, 16):
        below = tf.math.floormod(rest, tf.constant(2**power, tf.int64))
        below = tf.where(below < 0, below + 2**power, below)  # as ONNX truncates the quotient
        limb = tf.cast(tf.cast(rest - below, tf.float32) * 2.0**-power, tf.int32)
        limbs.insert(0, limb + 2**16 * tf.cast(limb < 0, tf.int32))
        rest = below
    return tf.stack([tf.cast(rest, tf.int32), *limbs], 1)


def _split(value: tf.Tensor) -> tf.Tensor:
    """Returns the limbs of an int32 that is not negative, (..., 2)."""
    high = value // 2**16
    return tf.stack([value - high * 2**16, high], -1)


def _multiply(words: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the high and low words of the products with the multipliers, both as (..., 2, 2)."""
    limbs, constants = words[..., None], _MULTIPLIERS[:, None, :]  # limb times limb
    upper = limbs * (constants >> 8)
    carried = upper // 256
    total = limbs * (constants & 255) + (upper - carried * 256) * 256
    above = total // 2**16
    low, high = total - above * 2**16, carried + above
    limb0 = low[..., 0, 0]
    limb1 = high[..., 0, 0] + low[..., 0, 1] + low[..., 1, 0]
    carry = limb1 // 2**16
    limb2 = high[..., 0, 1] + high[..., 1, 0] + low[..., 1, 1] + carry
    limb1 -= carry * 2**16
    carry = limb2 // 2**16
    limb3 = high[..., 1, 1] + carry
    return tf.stack([limb2 - carry * 2**16, limb3], -1), tf.stack([limb0, limb1], -1)


def _add(words: tf.Tensor, constants) -> tf.Tensor:
    """Returns the sum modulo 2^32 of words and constants given as limbs."""
    low = words[..., 0] + constants[:, 0]
    carry = low // 2**16
    high = words[..., 1] + constants[:, 1] + carry
    return tf.stack([low - carry * 2**16, high - high // 2**16 * 2**16], -1)
