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


def tracing() -> contextlib.AbstractContextManager[None]:
    """Graphs traced inside compute the same with operations that every export format has."""
    return _inside(_ACTIVE)


def active() -> bool:
    """Returns whether this is inside `tracing`."""
    return _ACTIVE.get()


def without_gradients() -> contextlib.AbstractContextManager[None]:
    """Graphs traced inside leave out what changes only gradients: nobody differentiates them."""
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
