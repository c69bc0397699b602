"""The one-stack trunk of PixelCNN: residual blocks behind a mask, simpler and with a blind spot.

van den Oord et al., "Pixel recurrent neural networks", 2016.
"""

import keras
import tensorflow as tf

from tfgen import layers
from tfgen.models.trunk import Column, Conditions, PositionMap, Row, Trunk, plus

__all__ = ["ResidualTrunk"]


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
        # x + up(elu(conv_B(elu(down(elu x))) + W context))
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
        batch = tf.shape(conditions.order)[0]
        row = tf.zeros((self.columns, batch, self.filters), self.compute_dtype)
        return (row,) * len(self.blocks)

    def begin_row(
        self, cache: tuple, above: tf.Tensor, row: tf.Tensor, conditions: Conditions
    ) -> Row:
        """The taps of every layer on the rows above."""
        first = self.first.apply_rows_above(above) + self.position.row(row, conditions.order)
        terms = [block.row(x, conditions) for block, x in zip(self.blocks, cache, strict=True)]
        column = tf.zeros((tf.shape(conditions.order)[0], self.filters), self.compute_dtype)
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
