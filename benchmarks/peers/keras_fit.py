"""`fit` against a clock, for the sides that are Keras models."""

import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from peers import contract


class Clock(contract.Clock, keras.callbacks.Callback):
    """`contract.Clock` for Keras 3."""


def fit_for(
    model: keras.Model, seconds: float, batch_size: int, *arrays: np.ndarray
) -> tuple[int, float]:
    """Calls `fit` until the time is over, at least for one step.

    Returns:
        The images seen, and the seconds up to the end of the last step: at times `fit` returns many
        seconds later, when a thread that tunes the data's buffers has ended.
    """
    clock = Clock(seconds)
    options = {"batch_size": batch_size, "epochs": 10**6, "callbacks": [clock], "verbose": 0}
    model.fit(*arrays, **options)
    return clock.steps * batch_size, clock.now - clock.start


class Timed:
    """A model in training, compiled and back at its first step, with its own clock.

    Args:
        model: A compiled model.
        optimizers: All of the model's optimizers.
        batch_size: Images per step.
        batches: First step -> the batches from there on.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizers: Sequence[keras.optimizers.Optimizer],
        batch_size: int,
        batches: Callable[[int], tf.data.Dataset],
    ):
        self.model, self.batch_size, self._batches = model, batch_size, batches
        state = [*model.variables, *(v for optimizer in optimizers for v in optimizer.variables)]
        initial = [variable.numpy() for variable in state]
        self.steps, self.seconds = 0, 0.0
        self.train(steps=2)
        for variable, value in zip(state, initial, strict=True):
            variable.assign(value)
        self.steps, self.seconds = 0, 0.0

    def train(
        self,
        steps: int | None = None,
        seconds: float = math.inf,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> float:
        """Continues for a number of steps or seconds, whichever is over first.

        Returns:
            The seconds up to the end of the last step; `fit` may return later.
        """
        batches = self._batches(self.steps)
        if steps is not None:
            batches = batches.take(steps).apply(tf.data.experimental.assert_cardinality(steps))
        clock = Clock(seconds)
        self.model.fit(batches, shuffle=False, callbacks=[*callbacks, clock], verbose=0)
        taken = clock.now - clock.start
        self.seconds += taken
        self.steps += clock.steps
        return taken

    def figures(self) -> dict[str, float]:
        """Returns the images seen and the speed."""
        seen = self.steps * self.batch_size
        return {
            "images_seen": seen,
            "seconds": self.seconds,
            "images_per_second": seen / self.seconds,
            "jit_compile": self.model.jit_compile,
        }
