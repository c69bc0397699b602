"""The trunk of a pixel model: from the tokens before a position to its features.

And the one-stack trunk of PixelCNN, simpler and with a blind spot (van den Oord et al., "Pixel
recurrent neural networks", 2016).
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from tfgen import layers

__all__ = [
    "Column",
    "Conditions",
    "PositionMap",
    "ResidualTrunk",
    "Row",
    "Tensors",
    "Trunk",
    "plus",
]

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

    def zeros(self, conditions: Conditions, channels: int, *columns: int) -> tf.Tensor:
        """Returns what stands for nothing drawn yet, (*columns, batch, channels)."""
        shape = (*columns, tf.shape(conditions.order)[0], channels)
        return tf.zeros(shape, self.compute_dtype)

    def step_kernels(self) -> tuple:
        """Returns the weights of `step`, joined from the layers'."""
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


class ResidualBlock(keras.layers.Layer):
    """x + up(elu(conv_B(elu(down(elu x))) + W context)), with a bottleneck of half the channels.

    Args:
        filters: int. Channels of the bottleneck.
        stream: int. Stream of the dropout's noise.
        dropout: float. Share of the bottleneck that is dropped in training.
        has_context: bool. Whether there is a context: a class, or one of several orders.
    """

    def __init__(self, filters: int, stream: int, dropout: float, has_context: bool, **kwargs):
        super().__init__(**kwargs)
        self.stream, self.dropout = stream, dropout
        self.down = keras.layers.Dense(filters, name="down")
        self.masked = layers.MaskedConv2D(filters, (2, 3), "B", name="masked")
        self.up = keras.layers.Dense(2 * filters, name="up")
        if has_context:  # "flags" is what saved weights call it
            self.flags = keras.layers.Dense(filters, use_bias=False, name="flags")

    def call(self, x, conditions):
        y = keras.ops.elu(self.down(keras.ops.elu(x)))
        y = layers.seeded_dropout(y, self.dropout, conditions.seeds, self.stream)
        bias = self._context_bias(conditions)
        bias = None if bias is None else bias[:, None, None]
        return x + self.up(keras.ops.elu(plus(self.masked(y), bias)))

    def _context_bias(self, conditions):
        """What class and order add, (batch, filters), or None."""
        return None if conditions.context is None else self.flags(conditions.context)

    def row(self, above: tf.Tensor, conditions: Conditions) -> tf.Tensor:
        """Returns what the row above and the context add, (columns, batch, filters)."""
        return plus(self.masked.apply_rows_above(above[None]), self._context_bias(conditions))

    def column(
        self, x: tf.Tensor, left: tf.Tensor, term: tf.Tensor, kernel: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns x after the block at one column, and its bottleneck before, (batch, filters)."""
        y = keras.ops.elu(self.down(keras.ops.elu(x)))
        z = self.masked.apply_left([left, y], kernel) + term
        return x + self.up(keras.ops.elu(z)), y


class ResidualTrunk(Trunk):
    """One stack: mask A, then residual blocks with mask B; the features are elu of the last one."""

    def __init__(
        self,
        filters: int,
        num_blocks: int,
        kernel_size: tuple[int, int],
        map_shape: tuple[int, int, int],
        dropout: float,
        has_context: bool,
        **kwargs,
    ):
        super().__init__(**kwargs)
        rows, columns = kernel_size
        self.filters, self.columns = filters, map_shape[2]
        self.first = layers.MaskedConv2D(2 * filters, (rows + 1, columns), "A", name="first")
        self.position = PositionMap(map_shape, 2 * filters, name="position")
        self.blocks = [
            ResidualBlock(filters, index, dropout, has_context, name=f"block_{index}")
            for index in range(num_blocks)
        ]
        self.rows_above, self.num_left = self.first.rows_above, self.first.num_left
        self.num_recorded = num_blocks

    def call(self, tokens, conditions):
        x = self.position(self.first(tokens), conditions.order)
        for block in self.blocks:
            x = block(x, conditions)
        return keras.ops.elu(x)

    def start(self, conditions: Conditions) -> tuple:
        """The bottleneck of each block in the row above."""
        return (self.zeros(conditions, self.filters, self.columns),) * len(self.blocks)

    def begin_row(
        self, cache: tuple, above: tf.Tensor, row: tf.Tensor, conditions: Conditions
    ) -> Row:
        """The taps of every layer on the rows above."""
        first = self.first.apply_rows_above(above) + self.position.row(row, conditions.order)
        terms = [block.row(x, conditions) for block, x in zip(self.blocks, cache, strict=True)]
        column = self.zeros(conditions, self.filters)
        return Row((first, *terms), (column,) * len(self.blocks))

    def step_kernels(self) -> tuple:
        """The taps of every layer on the current row."""
        stack = (self.first, *(block.masked for block in self.blocks))
        return tuple(layer.left_kernel() for layer in stack)

    def step(self, state: tuple, left: tuple, terms: tuple, kernels: tuple) -> Column:
        """The taps on the current row; the state is the bottleneck of each block to the left."""
        x = self.first.apply_left(list(left), kernels[0]) + terms[0]
        new_state = []
        for block, column, term, kernel in zip(
            self.blocks, state, terms[1:], kernels[1:], strict=True
        ):
            x, bottleneck = block.column(x, column, term, kernel)
            new_state.append(bottleneck)
        return Column(keras.ops.elu(x), tuple(new_state), tuple(new_state))

    def end_row(
        self,
        cache: tuple,
        known: tuple,
        recorded: tuple,
        tokens: tf.Tensor,
        conditions: Conditions,
    ) -> tuple:
        """The bottlenecks of the whole row."""
        return recorded
