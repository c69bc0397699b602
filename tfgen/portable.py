"""Which formulas a graph is traced with: TensorFlow's own, or those of all other runtimes too."""

import contextlib
import contextvars
from collections.abc import Iterator

import tensorflow as tf

__all__ = ["active", "softplus", "tracing"]

_ACTIVE = contextvars.ContextVar("portable", default=False)


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Graphs traced inside compute the same with operations that every export format has."""
    token = _ACTIVE.set(True)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def active() -> bool:
    """Returns whether this is inside `tracing`."""
    return _ACTIVE.get()


def softplus(x: tf.Tensor) -> tf.Tensor:
    """Returns log(1 + exp(x)), which LiteRT computes as it stands: infinite from x = 89 on.

    softplus(x) = max(x, 0) + log(1 + exp(-|x|))
    """
    if active():
        return tf.maximum(x, 0.0) + tf.math.log(1.0 + tf.exp(-tf.abs(x)))
    return tf.nn.softplus(x)
