"""Which formulas a graph is traced with: TensorFlow's own, or those of all other runtimes too.

And whether anything may ask it for gradients.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import tensorflow as tf

__all__ = ["active", "has_gradients", "softplus", "tracing", "without_gradients"]

_ACTIVE = contextvars.ContextVar("portable", default=False)
_WITHOUT_GRADIENTS = contextvars.ContextVar("without_gradients", default=False)


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


@contextlib.contextmanager
def without_gradients() -> Iterator[None]:
    """Graphs traced inside are never differentiated.

    So they leave out what only changes gradients.
    """
    token = _WITHOUT_GRADIENTS.set(True)
    try:
        yield
    finally:
        _WITHOUT_GRADIENTS.reset(token)


def has_gradients() -> bool:
    """Returns whether what is computed here may be differentiated."""
    return not _WITHOUT_GRADIENTS.get()


def softplus(x: tf.Tensor) -> tf.Tensor:
    """Returns log(1 + exp(x)), which LiteRT computes as it stands: infinite from x = 89 on.

    softplus(x) = max(x, 0) + log(1 + exp(-|x|))
    """
    if active():
        return tf.maximum(x, 0.0) + tf.math.log(1.0 + tf.exp(-tf.abs(x)))
    return tf.nn.softplus(x)
