"""The layers of a PixelRNN: residual LSTMs over the rows or the diagonals of a grid.

van den Oord et al., "Pixel recurrent neural networks", 2016: the Row LSTM and the Diagonal BiLSTM.
"""

import keras
import numpy as np
import tensorflow as tf

from tfgen import layers
from tfgen.models.trunk import Conditions, Tensors

__all__ = ["CELLS", "DiagonalBiLSTM", "RecurrentLayer", "RowLSTM"]


class RecurrentLayer(keras.layers.Layer):
    """x + project(LSTM over the grid (x)); what the two kinds share.

        (i, f, o, g) = input(x) + state-to-state(h around) + W context + bias
        c = sigmoid(f + 1) c_before + sigmoid(i) tanh(g),   h = sigmoid(o) tanh(c)

    Args:
        filters: int. Channels of x and units of the LSTM.
        stream: int. Stream of the dropout's noise.
        dropout: float. Share of x that the LSTM does not see in training.
        has_context: bool. Whether there is a context: a class, or one of several orders.
    """

    num_recorded = 2  # tensors of a column that the next row needs

    def __init__(self, filters: int, stream: int, dropout: float, has_context: bool, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.stream, self.dropout = filters, stream, dropout
        self.project = keras.layers.Dense(filters, name="project")
        if has_context:  # "flags" is what saved weights call it
            self.flags = keras.layers.Dense(4 * filters, use_bias=False, name="flags")

    def call(self, x, tokens, conditions):
        seen = layers.seeded_dropout(x, self.dropout, conditions.seeds, self.stream)
        bias = self.context_bias(conditions)
        bias = bias if conditions.context is None else bias[:, None, None]
        # x + project(LSTM over the grid (x))
        return x + self.project(self.scan(seen, tokens, bias))

    def context_bias(self, conditions: Conditions) -> tf.Tensor | float:
        """What class and order add to the gates, (batch, 4 filters), or 0."""
        return 0.0 if conditions.context is None else self.flags(conditions.context)

    def state_weight(self, name: str, taps: int) -> keras.Variable:
        """A kernel from `taps` states side by side to the gates."""
        return self.add_weight(
            name=name,
            shape=(taps * self.filters, 4 * self.filters),
            initializer=keras.initializers.Orthogonal(),
        )


class RowLSTM(RecurrentLayer):
    """Runs from the top row down; a row's state sees three columns of the row above.

    input to state: mask B, left and current   state to state: the row above
              . .                                       h h h
              x x                                         o
    """

    def build(self, input_shape, *_):
        self.to_gates = layers.MaskedConv2D(4 * self.filters, (1, 3), "B", name="to_gates")
        self.state = self.state_weight("state", 3)

    def scan(self, x: tf.Tensor, tokens: tf.Tensor, context_bias: tf.Tensor | float) -> tf.Tensor:
        gates = self.to_gates(x) + context_bias  # (batch, rows, columns, 4 filters)
        kernel = keras.ops.cast(self.state, x.dtype)
        h, c = keras.ops.zeros_like(x[:, 0]), keras.ops.zeros_like(x[:, 0])
        rows = []
        # Not gates[:, row], whose gradient is a whole grid for each row.
        for of_input in tf.unstack(gates, axis=1):
            padded = keras.ops.pad(h, [[0, 0], [1, 1], [0, 0]])
            left, right = layers.cut(padded, 1, 0, -2), layers.cut(padded, 1, 2)
            around = keras.ops.concatenate([left, h, right], -1)
            h, c = _lstm(of_input + layers.matmul(around, kernel), c)
            rows.append(h)
        return keras.ops.stack(rows, 1)

    def begin_row(self, cache: Tensors, conditions: Conditions) -> Tensors:
        """What the state above adds to the gates, with the bias, and the cells above."""
        h, c = cache
        padded = tf.pad(h, [[1, 1], [0, 0], [0, 0]])
        around = tf.concat([padded[:-2], h, padded[2:]], -1)
        gates = layers.matmul(around, tf.cast(self.state, self.compute_dtype))
        return (gates + tf.cast(self.to_gates.bias, gates.dtype) + self.context_bias(conditions), c)

    def first_column(self, zeros: tf.Tensor) -> Tensors:
        """The column to the left of the first one."""
        return (zeros,)

    def step_kernel(self) -> tf.Tensor:
        """From the columns to the gates."""
        return self.to_gates.left_kernel()

    def step(
        self, x: tf.Tensor, left: Tensors, terms: Tensors, kernel: tf.Tensor
    ) -> tuple[tf.Tensor, Tensors, Tensors]:
        """x after the layer at one column; what the next column and the next row need."""
        gates, c = terms
        h, c = _lstm(self.to_gates.apply_left([*left, x], kernel) + gates, c)
        return x + self.project(h), (x,), (h, c)

    def end_row(
        self, cache: Tensors, recorded: Tensors, tokens: tf.Tensor, conditions: Conditions
    ) -> Tensors:
        """h and c of the whole row."""
        return recorded


class DiagonalBiLSTM(RecurrentLayer):
    """Runs over the diagonals from both upper corners; the state sees all that came before.

    Rows are skewed, each by one column more than the one above, so that a diagonal becomes a
    column, and a step's states, to the left and above, lie in the column before:

        a b c          a b c . .              h(i, j) sees h(i, j - 1) and h(i - 1, j):
        d e f    ->    . d e f .                  . h
        g h i          . . g h i                  h o

    The corners that the skewing leaves empty (.) are not computed.

    The other direction runs on the mirrored image, and its output moves down by one row, since on
    the same row it would have seen the pixels to the right. So it may also see the tokens
    themselves, and does, or the end of the row above would stay hidden from the start of a row.
    """

    def build(self, input_shape, *_):
        self.inputs_left = keras.layers.Dense(4 * self.filters, name="inputs_left")
        self.inputs_right = keras.layers.Dense(4 * self.filters, name="inputs_right")
        # A kernel's first half is for the state to the left, the second for that above.
        self.state_left = self.state_weight("state_left", 2)
        self.state_right = self.state_weight("state_right", 2)

    def scan(self, x: tf.Tensor, tokens: tf.Tensor, context_bias: tf.Tensor | float) -> tf.Tensor:
        kernels = [
            tf.convert_to_tensor(keras.ops.cast(kernel, x.dtype))
            for kernel in (self.state_left, self.state_right)
        ]
        left = _over_diagonals(self.inputs_left(x) + context_bias, kernels[0])
        with_tokens = keras.ops.concatenate([x, tokens], -1)
        mirrored = self.inputs_right(keras.ops.flip(with_tokens, 2)) + context_bias
        right = keras.ops.flip(_over_diagonals(mirrored, kernels[1]), 2)
        return left + keras.ops.pad(layers.cut(right, 1, 0, -1), [[0, 0], [1, 0], [0, 0], [0, 0]])

    def begin_row(self, cache: Tensors, conditions: Conditions) -> Tensors:
        """What the state above adds to the gates, with the bias, and the other direction's h."""
        left, right = cache
        kernel = tf.cast(self.state_left, self.compute_dtype)[self.filters :]
        gates = (
            layers.matmul(left, kernel)
            + tf.cast(self.inputs_left.bias, left.dtype)
            + self.context_bias(conditions)
        )
        return (gates, right)

    def first_column(self, zeros: tf.Tensor) -> Tensors:
        """h and c to the left of the first column."""
        return (zeros, zeros)

    def step_kernel(self) -> tf.Tensor:
        """From the column and the state to its left to the gates."""
        parts = (self.inputs_left.kernel, self.state_left[: self.filters])  # of other dtypes
        return tf.concat([tf.cast(part, self.compute_dtype) for part in parts], 0)

    def step(
        self, x: tf.Tensor, left: Tensors, terms: Tensors, kernel: tf.Tensor
    ) -> tuple[tf.Tensor, Tensors, Tensors]:
        """x after the layer at one column; what the next column and the next row need."""
        gates, right = terms
        h, c = left
        h, c = _lstm(tf.matmul(tf.concat([x, h], -1), kernel) + gates, c)
        return x + self.project(h + right), (h, c), (x, h)

    def end_row(
        self, cache: Tensors, recorded: Tensors, tokens: tf.Tensor, conditions: Conditions
    ) -> Tensors:
        """h from the left, and the other direction over the whole row."""
        x, left = recorded
        columns = cache[0].shape[0]
        kernel = tf.cast(self.state_right, self.compute_dtype)
        from_right, from_above = kernel[: self.filters], kernel[self.filters :]
        gates = self.inputs_right(tf.concat([x, tokens], -1)) + self.context_bias(conditions)
        gates += layers.matmul(cache[1], from_above)

        def leftwards(step, h, c, written):
            column = columns - 1 - step
            h, c = _lstm(gates[column] + tf.matmul(h, from_right), c)
            # At `step`: a loop of ONNX can only append.
            return step + 1, h, c, written.write(step, h)

        zeros = tf.zeros_like(x[0])
        states = tf.while_loop(
            lambda step, *_: step < columns,
            leftwards,
            (tf.constant(0), zeros, zeros, tf.TensorArray(x.dtype, columns)),
            maximum_iterations=columns,
            parallel_iterations=1,
        )
        return left, states[3].stack()[::-1]


CELLS = {"row_lstm": RowLSTM, "diagonal_bilstm": DiagonalBiLSTM}


def _lstm(gates, c):
    """One step of an LSTM from its gates (..., 4 units) and cell: (h, c)."""
    i, f, o, g = keras.ops.split(gates, 4, axis=-1)
    # The forget gate starts open, so that a state lasts.
    c = keras.ops.sigmoid(f + 1.0) * c + keras.ops.sigmoid(i) * keras.ops.tanh(g)
    return keras.ops.sigmoid(o) * keras.ops.tanh(c), c


@tf.function(autograph=False)
def _over_diagonals(gates, kernel):
    """One direction: gates (batch, rows, columns, 4 filters), kernel (2 filters, 4 filters) -> h.

    Separate, so a graph holds its steps once for all layers.
    """
    filters = kernel.shape[1] // 4
    rows, columns = gates.shape[1:3]
    diagonals = _diagonals(rows, columns)
    cells = keras.ops.reshape(gates, (-1, rows * columns, 4 * filters))
    # Cells first, by diagonals, so a step reads and writes one piece.
    cells = keras.ops.take(keras.ops.transpose(cells, (1, 0, 2)), np.concatenate(diagonals), 0)
    steps = tf.split(cells, [len(diagonal) for diagonal in diagonals], 0)
    h = c = keras.ops.zeros_like(steps[0][:, :, :filters])  # (cells, batch, filters)
    states = []
    for step, of_input in enumerate(steps):
        # From the row above the first cell to the last cell's own; outside the grid is 0. So is
        # the cell that h starts with, since some runtimes take no empty tensor.
        around = [[int(0 < step < columns), int(step < rows)], [0, 0], [0, 0]]
        h, c = keras.ops.pad(h, around), keras.ops.pad(c, around)
        both = keras.ops.concatenate([layers.cut(h, 0, 1), layers.cut(h, 0, 0, -1)], -1)
        h, c = _lstm(of_input + layers.matmul(both, kernel), layers.cut(c, 0, 1))
        states.append(h)
    states = keras.ops.take(
        keras.ops.concatenate(states, 0), np.argsort(np.concatenate(diagonals)), 0
    )
    states = keras.ops.transpose(states, (1, 0, 2))
    return keras.ops.reshape(states, (-1, rows, columns, filters))


def _diagonals(rows: int, columns: int) -> list[np.ndarray]:
    """Cells (row * columns + column) of each diagonal, from the upper left corner on, downwards."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    return [np.flatnonzero(row + column == step) for step in range(rows + columns - 1)]
