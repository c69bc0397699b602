"""Learning rates over time and over the parts of a model.

Part of `import tfgen`, so that `keras.models.load_model` finds these classes in a file that
`model.save` wrote after training.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import tensorflow as tf

from tfgen import checks

__all__ = ["CosineCycles", "GroupedAdam"]


@keras.saving.register_keras_serializable("tfgen")
class CosineCycles(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then a cosine from the peak down to a fraction of it, once or several times.

        rate = peak (f + (1 - f) (1 + cos(pi t)) / 2),   t in [0, 1] within each cycle

    Keras' schedules have warm-up or restarts, not both.

    Args:
        peak: The highest rate.
        final: f, the fraction of the peak at a cycle's end.
        warmup_steps: Steps of linear growth from 0 at the start of the first cycle.
        ends: The step at which each cycle ends and the next one begins, ascending.

    Raises:
        ValueError: An argument out of its range, or a warm-up that is longer than the first cycle.
    """

    def __init__(self, peak: float, final: float, warmup_steps: int, ends: list[int]):
        checks.finite(0, peak=peak, final=final)
        checks.at_least(0, warmup_steps=warmup_steps)
        checks.sizes(1, ends=ends)
        if list(ends) != sorted(set(ends)) or warmup_steps > ends[0]:
            raise ValueError(
                f"ends must ascend from at least warmup_steps={warmup_steps}; received {ends}."
            )
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
        factors: One scale for each variable, at least 0, in the order of `build`.
        **kwargs: As for `keras.optimizers.Adam`.

    Raises:
        ValueError: A scale is negative or not finite.
    """

    def __init__(self, factors: list[float], **kwargs):
        super().__init__(**kwargs)
        for factor in factors:
            checks.finite(0, factors=factor)
        self.factors = [float(factor) for factor in factors]
        # (variable, scale) by the variable's key, an id that must stay taken. Keras would wrap a
        # plain attribute.
        self.__dict__["_scales"] = {}

    def expect(self, weights: Mapping[str, keras.Variable], scales: Mapping[str, float]) -> None:
        """Takes scales by name, which count for `build` in place of `factors`; others are 1."""
        self._keep((weights[n], s) for n, s in scales.items() if n in weights)

    def note(self, variables: list[keras.Variable]) -> None:
        """Takes `factors` as those of `variables`, unless scales by name are known already.

        Raises:
            ValueError: There is not one factor for each variable.
        """
        if self._scales:
            self.factors = [self._scales.get(self._var_key(v), (v, 1.0))[1] for v in variables]
        self._check(variables)
        self._keep(zip(variables, self.factors, strict=True))

    def begin(self, variables: list[keras.Variable], weights: Mapping[str, keras.Variable]) -> None:
        """Does what `note` does for a model, forgetting the scales of another one's weights.

        Args:
            variables: Those that are to train.
            weights: All weights of the model, by name.

        Raises:
            ValueError: As `note` does.
        """
        if not self.scales_by_name(weights):
            self._check(variables)
            self._scales.clear()
        self.note(variables)

    def _keep(self, scales: Iterable[tuple[keras.Variable, float]]) -> None:
        self._scales.update((self._var_key(variable), (variable, s)) for variable, s in scales)

    def _check(self, variables: list[keras.Variable]) -> None:
        if len(variables) != len(self.factors):
            raise ValueError(
                f"factors must hold one number for each of the {len(variables)} variables; "
                f"received {len(self.factors)}."
            )

    def build(self, variables: list[keras.Variable]) -> None:
        self.note(variables)
        super().build(variables)

    def scales_by_name(self, weights: Mapping[str, keras.Variable]) -> dict[str, float]:
        """Returns the scale of each weight that trains or has trained, by name."""
        keys = {name: self._var_key(weight) for name, weight in weights.items()}
        return {name: self._scales[key][1] for name, key in keys.items() if key in self._scales}

    def update_step(self, gradient, variable, learning_rate):
        rate = learning_rate * self._scales[self._var_key(variable)][1]
        if self.weight_decay is not None and self._use_weight_decay(variable):
            share = tf.cast(self.weight_decay * rate, variable.dtype)
            self.assign_sub(variable, variable * share)
        super().update_step(gradient, variable, rate)

    def _apply_weight_decay(self, variables: list[keras.Variable]) -> None:
        """Left to `update_step`, so that each variable decays at its own rate."""

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factors": list(self.factors)}
