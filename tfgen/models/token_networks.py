"""The networks of a pixel model: from tokens to the parameters of every group's distribution."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgen import checks, distributions, layers, pixels
from tfgen.models.generative import GenerativeModel
from tfgen.models.tokens import TokenGrid, pattern_one_hot, pattern_table
from tfgen.models.trunk import Conditions, Trunk

__all__ = ["Head", "TokenModel"]

# The features of the groups of a token that are drawn already, (batch, channels of a group) each
# -> the parameters of the next group, (batch, outputs).
Head = Callable[[list[tf.Tensor]], tf.Tensor]


class TokenModel(GenerativeModel):
    """A trunk and a head over tokens.

    Shapes in addition to those of the contract: `tokens`, integer levels as floats, (batch, rows,
    columns, groups, pixels of a group); `parameters`, what the head says about each group, (batch,
    rows, columns, groups, outputs).

    A family's constructor stores its arguments and calls `build_networks`; it gives
    `build_trunk()`, a `Trunk`.
    """

    def build_networks(self) -> None:
        """Checks the arguments that the families share, and builds the trunk and the head."""
        self._check_arguments()
        binary = self.pixel_distribution == "bernoulli"
        grid = TokenGrid(self.image_shape, self.token_shape, self.orders, shared_softmax=binary)
        self.token_grid = grid
        # Whether a group is one softmax over all patterns of its pixels.
        self.uses_patterns = grid.group_size > 1
        if self.uses_patterns and self.fourier_features:
            raise ValueError(
                "fourier_features must be 0 where several pixels share a softmax and enter as "
                f"one-hot patterns; received {self.fourier_features} with pixel_distribution="
                f"'bernoulli' and token_shape={self.token_shape}."
            )
        self.patterns = pattern_table(grid.group_size)
        self.outputs = (
            len(self.patterns)
            if self.uses_patterns
            else distributions.outputs_per_channel(
                self.pixel_distribution, self.num_levels, self.num_mixtures
            )
        )
        group_channels = len(self.patterns) if self.uses_patterns else 1 + 2 * self.fourier_features
        self.token_channels = grid.groups * group_channels
        self.has_context = self.num_classes is not None or self.orders > 1
        with self.own_dtype_policy():
            self.trunk = self.build_trunk()
            self.from_trunk = keras.layers.Dense(grid.groups * self.head_units, name="from_trunk")
            if grid.groups > 1:
                self.from_token = layers.MaskedDense(
                    self.head_units, grid.groups, "A", use_bias=False, name="from_token"
                )
            self.to_parameters = layers.MaskedDense(
                self.outputs, grid.groups, "B", name="to_parameters"
            )
            self.parameters_of(tf.zeros((1, *grid.shape)), self.conditions(1, None, 0))
        self.build()

    def build_trunk(self) -> Trunk:
        """Returns the family's own part."""
        raise NotImplementedError

    def trunk_arguments(self) -> dict[str, Any]:
        """Returns the arguments that every trunk takes."""
        return {
            "filters": self.filters,
            "num_blocks": self.num_blocks,
            "kernel_size": self.kernel_size,
            "map_shape": (self.orders, *self.token_grid.shape[:2]),
            "dropout": self.dropout,
            "has_context": self.has_context,
            "name": "trunk",
        }

    def _check_arguments(self) -> None:
        distributions.check_pixel_distribution(self.pixel_distribution, self.num_levels)
        if self.pixel_distribution == "gaussian":
            raise ValueError(
                "pixel_distribution must have probabilities of levels, not densities; received "
                "'gaussian'. Use 'discretized_logistic_mixture'."
            )
        checks.at_least(
            1, filters=self.filters, head_units=self.head_units, num_mixtures=self.num_mixtures
        )
        checks.at_least(0, num_blocks=self.num_blocks, fourier_features=self.fourier_features)
        checks.fraction(dropout=self.dropout)
        checks.sizes(1, 2, kernel_size=self.kernel_size, token_shape=self.token_shape)
        rows, columns = self.kernel_size
        if columns % 2 == 0:
            raise ValueError(
                "kernel_size must be (rows, an odd number of columns); received "
                f"{self.kernel_size}. Use ({rows}, {columns + 1})."
            )
        self.check_settings()

    # Inputs of the networks ------------------------------------------------------------------

    @property
    def output_dtype(self) -> str:
        """The dtype of levels and parameters, at least float32."""
        return "float64" if self.compute_dtype == "float64" else "float32"

    def levels_of(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the levels of uint8 images, as floats of the same shape."""
        return tf.cast(pixels.images_to_levels(images, self.num_levels), self.output_dtype)

    def group_features(self, levels: tf.Tensor) -> tf.Tensor:
        """What the networks see of groups: (..., pixels) -> (..., channels of a group).

        The one-hot of a pattern; or a pixel in [-1, 1], and the sine and cosine of its level at
        periods of 2, 4, 8, ... levels.
        """
        if self.uses_patterns:
            x = pattern_one_hot(levels, self.patterns)
        else:
            x = pixels.levels_to_pixels(levels, self.num_levels)
        if self.fourier_features:
            periods = 2.0 ** np.arange(1, self.fourier_features + 1)
            angles = levels * tf.constant(2.0 * math.pi / periods, levels.dtype)
            x = tf.concat([x, tf.sin(angles), tf.cos(angles)], -1)
        return tf.cast(x, self.compute_dtype)

    def outcomes_of(self, tokens: tf.Tensor) -> tf.Tensor:
        """Which outcome of its softmax each group is: (..., pixels of a group) -> int32 (...)."""
        places = self.num_levels ** np.arange(tokens.shape[-1])[::-1]
        return tf.cast(tf.reduce_sum(tokens * tf.constant(places, tokens.dtype), -1), tf.int32)

    def token_features(self, tokens: tf.Tensor) -> tf.Tensor:
        """Joins the features of the groups of tokens: (..., groups, pixels) -> (..., channels)."""
        x = self.group_features(tokens)
        return tf.reshape(x, (*layers.leading_shape(x, 2), self.token_channels))

    def conditions(
        self,
        batch: int | tf.Tensor,
        labels: tf.Tensor | None,
        reading: int | tf.Tensor,
        seeds: tf.Tensor | None = None,
    ) -> Conditions:
        """Joins a batch's conditions; `reading`, here an order, is one or (batch,)."""
        order = tf.broadcast_to(tf.cast(reading, tf.int32), (batch,))
        context = []
        if self.num_classes is not None:
            labels = tf.zeros((batch,), tf.int32) if labels is None else labels
            context.append(tf.one_hot(labels, self.num_classes, dtype=self.compute_dtype))
        if self.orders > 1:
            context.append(tf.one_hot(order, self.orders, dtype=self.compute_dtype))
        return Conditions(order, tf.concat(context, 1) if context else None, seeds)

    # Outputs -------------------------------------------------------------------------------

    def parameters_of(self, tokens: tf.Tensor, conditions: Conditions) -> tf.Tensor:
        """Returns the head's outputs for every group given the true groups before it."""
        x = self.token_features(tokens)
        # hidden_tg = W features(tokens before t) + V (groups of t before g)
        hidden = self.from_trunk(self.trunk(x, conditions))
        if self.token_grid.groups > 1:
            hidden += self.from_token(x)
        # parameters_tg = U elu(hidden_t1, ..., hidden_tg)
        parameters = self.to_parameters(keras.ops.elu(hidden))
        return tf.reshape(
            tf.cast(parameters, self.output_dtype), (-1, *self.token_grid.shape[:3], self.outputs)
        )

    def head_of(self, features: Any) -> Head:
        """Returns what gives the parameters of one token group by group, each from those before.

        Args:
            features: What the trunk found at the token, (batch, channels).
        """
        from_trunk, units, hidden = self.from_trunk(features), self.head_units, []

        def next_parameters(seen):
            group = len(hidden)
            x = from_trunk[:, group * units : (group + 1) * units]
            if seen:
                x += self.from_token.group(tf.concat(seen, -1), group)
            hidden.append(keras.ops.elu(x))
            parameters = self.to_parameters.group(tf.concat(hidden, -1), group)
            return tf.cast(parameters, self.output_dtype)

        return next_parameters
