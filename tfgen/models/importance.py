"""The importance-weighted bound of models with latents, in passes of bounded memory.

Burda et al., "Importance weighted autoencoders", 2016.
"""

import math
from collections.abc import Callable

import tensorflow as tf

__all__ = ["SAMPLES_PER_PASS", "bound"]

SAMPLES_PER_PASS = 5  # per image; few enough for a pass to stay in the cache


def bound(
    log_weights: Callable[[tf.Tensor | int, int], tf.Tensor],
    num_samples: int,
    rows: int | tf.Tensor,
) -> tf.Tensor:
    """Returns log(1/k sum_j w_j), nats, (batch,), for k = `num_samples`.

    Args:
        log_weights: (pass, count) -> log w of `count` samples per image, (batch, count); the pass
            tells it which noise to take.
        num_samples: k, at least 1.
        rows: The batch's size.
    """
    count = min(num_samples, SAMPLES_PER_PASS)
    passes = -(-num_samples // count)

    def one_pass(index, total):
        used = index * count + tf.range(count) < num_samples
        log_w = tf.where(used, log_weights(index, count), -math.inf)
        return index + 1, tf.reduce_logsumexp(tf.concat([total[:, None], log_w], 1), axis=1)

    state = (tf.constant(0), tf.fill((rows,), -math.inf))
    _, total = _repeated(one_pass, passes, state)
    return total - math.log(num_samples)


def _repeated(body: Callable, times: int, state: tuple) -> tuple:
    """Applies `body` to (index, value) `times` times; once without a loop, for ONNX and LiteRT."""
    if times == 1:
        return body(*state)
    return tf.while_loop(lambda index, _: index < times, body, state, parallel_iterations=1)
