"""Learning rates over time and over the parts of a model.

Part of `import tfgen`, so that `keras.models.load_model` finds these classes in a file that
`model.save` wrote after training.
"""

import math
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

__all__ = ["CosineCycles", "GroupedAdam"]


@keras.saving.register_keras_serializable("tfgen")
class CosineCycles(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then a cosine from the peak down to a fraction of it, once or several times.

        rate = peak (f + (1 - f) (1 + cos(pi t)) / 2),   t in [0, 1] within each cycle

    Keras' own schedules have the warm-up or the restarts, not both.

    Args:
        peak: The highest rate.
        final: f, the fraction of the peak at a cycle's end.
        warmup_steps: Steps of linear growth from 0 at the start of the first cycle.
        ends: The step at which each cycle ends and the next one begins.
    """

    def __init__(self, peak: float, final: float, warmup_steps: int, ends: list[int]):
        self.peak, self.final, self.warmup_steps, self.ends = peak, final, warmup_steps, ends

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        edges = tf.constant([self.warmup_steps, *self.ends], tf.float32)
        last = edges[-1]
        begin = tf.reduce_max(tf.where(edges[:-1] <= step, edges[:-1], edges[0]))
        end = tf.reduce_min(tf.where(edges[1:] > step, edges[1:], last))
        t = tf.clip_by_value((step - begin) / tf.maximum(end - begin, 1.0), 0.0, 1.0)
        rate = self.final + (1.0 - self.final) * 0.5 * (1.0 + tf.cos(math.pi * t))
        warm = step / max(self.warmup_steps, 1)
        return self.peak * tf.where(step < self.warmup_steps, warm, rate)

    def get_config(self) -> dict[str, Any]:
        return {
            "peak": self.peak,
            "final": self.final,
            "warmup_steps": self.warmup_steps,
            "ends": self.ends,
        }


@keras.saving.register_keras_serializable("tfgen")
class GroupedAdam(keras.optimizers.Adam):
    """Adam with a scale on the learning rate of each variable.

    Args:
        factors: One scale for each variable, in the order of `build`.
        **kwargs: As for `keras.optimizers.Adam`.
    """

    def __init__(self, factors: list[float], **kwargs):
        super().__init__(**kwargs)
        self.factors = [float(factor) for factor in factors]
        self.__dict__["_scales"] = {}  # by variable; Keras would wrap a plain attribute

    def expect(self, weights: Mapping[str, keras.Variable], scales: Mapping[str, float]) -> None:
        """Takes scales by name, which count for `build` in place of `factors`; others are 1."""
        self._scales.update(
            (self._var_key(weights[n]), s) for n, s in scales.items() if n in weights
        )

    def note(self, variables: list[keras.Variable]) -> None:
        """Takes `factors` as those of `variables`, unless scales by name are known already.

        Raises:
            ValueError: There is not one factor for each variable.
        """
        if self._scales:
            self.factors = [
                self._scales.get(self._var_key(variable), 1.0) for variable in variables
            ]
        if len(variables) != len(self.factors):
            raise ValueError(
                f"factors must hold one number for each of the {len(variables)} variables; "
                f"received {len(self.factors)}."
            )
        self._scales.update(zip(map(self._var_key, variables), self.factors, strict=True))

    def build(self, variables: list[keras.Variable]) -> None:
        self.note(variables)
        super().build(variables)

    def scales_by_name(self, weights: Mapping[str, keras.Variable]) -> dict[str, float]:
        """Returns the scale of each weight that trains or has trained, by name."""
        keys = {name: self._var_key(weight) for name, weight in weights.items()}
        return {name: self._scales[key] for name, key in keys.items() if key in self._scales}

    def update_step(self, gradient, variable, learning_rate):
        rate = learning_rate * self._scales[self._var_key(variable)]
        if self.weight_decay is not None and self._use_weight_decay(variable):
            share = tf.cast(self.weight_decay * rate, variable.dtype)
            self.assign_sub(variable, variable * share)
        super().update_step(gradient, variable, rate)

    def _apply_weight_decay(self, variables: list[keras.Variable]) -> None:
        """Left to `update_step`, so that each variable decays at its own rate."""

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factors": list(self.factors)}
