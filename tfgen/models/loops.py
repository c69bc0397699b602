"""Loops of graphs that vanish where one turn is enough: not every runtime can read a loop."""

from collections.abc import Callable

import tensorflow as tf

__all__ = ["repeated"]


def repeated(body: Callable, times: int, state: tuple) -> tuple:
    """Applies `body` to the state (index, value) `times` times; once without a loop."""
    if times == 1:
        return body(*state)
    return tf.while_loop(lambda index, _: index < times, body, state, parallel_iterations=1)
