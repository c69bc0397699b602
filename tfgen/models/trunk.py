"""The trunk of a pixel model: what turns the tokens before a position into features of it."""

from typing import NamedTuple

import keras
import tensorflow as tf

__all__ = ["Column", "Conditions", "PositionMap", "Row", "Tensors", "Trunk", "plus"]

Tensors = tuple[tf.Tensor, ...]


class Conditions(NamedTuple):
    """What the images of a batch are drawn or scored given.

    Attributes:
        order: int32 (batch,), the reading order of each image.
        context: One-hot class and one-hot order next to each other, (batch, context size); None
            if there is neither.
        seeds: Seeds of the dropout, int64 (batch,), or None for no dropout.
    """

    order: tf.Tensor
    context: tf.Tensor | None
    seeds: tf.Tensor | None = None


class Row(NamedTuple):
    """What a trunk knows about a row of tokens before its first one is drawn.

    Attributes:
        terms: What the rows above add to each column, (columns, batch, channels) each.
        state: What the columns to the left leave for a column, (batch, channels) each.
        known: What `end_row` will need and is known already.
    """

    terms: tuple
    state: tuple
    known: tuple = ()


class Column(NamedTuple):
    """What a trunk computes at one column.

    Attributes:
        features: Of the token that is drawn next, (batch, channels).
        state: As in `Row`, for the next column.
        recorded: What `end_row` will need of this column, (batch, channels) each.
    """

    features: tf.Tensor
    state: tuple
    recorded: tuple = ()


class Trunk(keras.layers.Layer):
    """Features of each token from the tokens before it: all at once, or one after the other.

    `call` and the methods of the sampler compute the same numbers. The sampler's layout is
    (columns, batch, channels), so that a column is one block of memory:

        cache, kernels = trunk.start(conditions), trunk.step_kernels()
        for each row:
            row = trunk.begin_row(cache, the tokens above, index of the row, conditions)
            for each column:
                column = trunk.step(row.state, the tokens to the left, terms, kernels)
                (a token is drawn from column.features; column.state replaces row.state)
            cache = trunk.end_row(cache, row.known, all recorded, tokens of the row, conditions)

    The sampler keeps the tokens that were drawn. A trunk says how many of them its first layer
    looks at.

    Attributes:
        rows_above: How many rows of tokens above `begin_row` needs.
        num_left: How many tokens to the left `step` needs.
        num_recorded: How many tensors `step` records.
    """

    rows_above: int
    num_left: int
    num_recorded = 0

    def call(self, tokens: tf.Tensor, conditions: Conditions) -> tf.Tensor:
        """Returns features (batch, rows, columns, channels) of tokens of the same grid."""
        raise NotImplementedError

    def start(self, conditions: Conditions) -> tuple:
        """Returns the cache before the first row."""
        raise NotImplementedError

    def step_kernels(self) -> tuple:
        """Returns the weights of `step` that are put together from those of the layers."""
        raise NotImplementedError

    def begin_row(
        self, cache: tuple, above: tf.Tensor, row: tf.Tensor, conditions: Conditions
    ) -> Row:
        """Returns what is known about a row given the rows above.

        Args:
            cache: From `start` or `end_row`.
            above: Tokens above, (rows_above, columns, batch, channels), the nearest row last.
            row: Index of the row, int32.
            conditions: The batch's.
        """
        raise NotImplementedError

    def step(self, state: tuple, left: tuple, terms: tuple, kernels: tuple) -> Column:
        """Computes one column.

        Args:
            state: From the row or the column before.
            left: The `num_left` tokens to the left, the nearest last, (batch, channels) each.
            terms: Those of the row at this column, (batch, channels) each.
            kernels: `step_kernels()`.
        """
        raise NotImplementedError

    def end_row(
        self,
        cache: tuple,
        known: tuple,
        recorded: tuple,
        tokens: tf.Tensor,
        conditions: Conditions,
    ) -> tuple:
        """Returns the cache for the next row; recorded and tokens are (columns, batch, ...)."""
        raise NotImplementedError


class PositionMap(keras.layers.Layer):
    """Adds a learned map to a grid of features, one map for each reading order.

    Args:
        shape: (orders, rows, columns) of the maps.
        filters: int. Channels of the features.
    """

    def __init__(self, shape: tuple[int, int, int], filters: int, **kwargs):
        super().__init__(**kwargs)
        self.map_shape, self.filters = shape, filters

    def build(self, input_shape):
        self.map = self.add_weight(
            name="map", shape=(*self.map_shape, self.filters), initializer="zeros"
        )

    def call(self, x, order):
        maps = keras.ops.cast(self.map, x.dtype)
        return x + (maps[0] if self.map_shape[0] == 1 else keras.ops.take(maps, order, 0))

    def row(self, row: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
        """Returns one row of each image's map, (columns, batch or 1, filters)."""
        maps = tf.cast(self.map, self.compute_dtype)[:, row]  # (orders, columns, filters)
        maps = maps if self.map_shape[0] == 1 else tf.gather(maps, order)
        return tf.transpose(maps, (1, 0, 2))


def plus(x: tf.Tensor, other: tf.Tensor | None) -> tf.Tensor:
    """Returns x + other, or x where there is nothing to add."""
    return x if other is None else x + other
