"""PixelRNN: exact likelihood by two-dimensional recurrent networks.

van den Oord et al., "Pixel recurrent neural networks", 2016: the Row LSTM and the Diagonal BiLSTM.
"""

import keras
import numpy as np
import tensorflow as tf

from tfgen import checks, layers
from tfgen.models.autoregressive import AutoregressiveModel
from tfgen.models.trunk import Column, Conditions, PositionMap, Row, Trunk

__all__ = ["PixelRNN"]


@keras.saving.register_keras_serializable("tfgen")
class PixelRNN(AutoregressiveModel):
    """Recurrent network over the rows or the diagonals of an image.

        log p(x) = sum_i log p(x_i | x_1, ..., x_{i-1})      nats per image, exact

    A masked convolution, then residual layers of LSTMs, whose state reaches from the top of the
    image to the pixel. Training runs over rows or diagonals, sampling over pixels; it keeps the
    states, so that a new pixel costs one column of each layer.

    Input of `call`: uint8 images (batch, height, width, channels). Output: the parameters of each
    pixel's distribution, float (batch, height, width, channels, outputs).

    All arguments that are not listed are those of `PixelCNN`.

    Args:
        filters: int. Channels of the network, and units of each LSTM. Defaults to 32.
        num_blocks: int. Number of LSTM layers. Defaults to 2.
        cell: str. "row_lstm": one step per row, whose state sees a triangle above the pixel;
            "diagonal_bilstm": one step per diagonal, in both directions, which sees everything
            that came before. Defaults to "diagonal_bilstm".
        kernel_size: (rows, columns) of the first layer: rows above the current one, and an odd
            number of columns. Defaults to (3, 7).

    Raises:
        ValueError: An argument out of its range.

    Example:
    >>> import numpy as np
    >>> model = PixelRNN(
    ...     (4, 4, 1),
    ...     filters=4,
    ...     num_blocks=1,
    ...     head_units=4,
    ...     num_levels=2,
    ...     pixel_distribution="bernoulli",
    ... )
    >>> model.sample(3, seed=0).shape
    (3, 4, 4, 1)
    >>> model.log_likelihood(np.zeros((5, 4, 4, 1), "uint8")).shape
    (5,)
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (28, 28, 1),
        filters: int = 32,
        num_blocks: int = 2,
        cell: str = "diagonal_bilstm",
        kernel_size: tuple[int, int] = (3, 7),
        head_units: int = 64,
        token_shape: tuple[int, int] = (1, 1),
        orders: int = 1,
        pixel_distribution: str = "discretized_logistic_mixture",
        num_levels: int = 256,
        num_mixtures: int = 5,
        fourier_features: int = 0,
        dropout: float = 0.0,
        num_classes: int | None = None,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(image_shape, num_levels, num_classes, seed, **kwargs)
        self.keep(locals())
        checks.one_of("cell", cell, tuple(CELLS))
        self.build_networks()

    def build_trunk(self) -> Trunk:
        """Returns the masked convolution and the layers of LSTMs."""
        return RecurrentTrunk(
            CELLS[self.cell],
            self.filters,
            self.num_blocks,
            self.kernel_size,
            (self.orders, *self.token_grid.shape[:2]),
            self.dropout,
            self.has_context,
            name="trunk",
        )


class RecurrentLayer(keras.layers.Layer):
    """x + project(LSTM over the grid (x)); what the two kinds share.

        (i, f, o, g) = input(x) + state-to-state(h around) + W context + bias
        c = sigmoid(f) c_before + sigmoid(i) tanh(g),   h = sigmoid(o) tanh(c)

    Args:
        filters: int. Channels of x and units of the LSTM.
        stream: int. Stream of the dropout's noise.
        dropout: float. Share of x that the LSTM does not see in training.
        has_context: bool. Whether there is a context: a class, or one of several orders.
    """

    num_recorded = 0  # tensors of a column that the next row needs

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

    def context_bias(self, conditions):
        """What class and order add to the gates, (batch, 4 filters), or 0."""
        return 0.0 if conditions.context is None else self.flags(conditions.context)

    def state_weight(self, name: str, taps: int):
        """A kernel from `taps` states side by side to the gates."""
        return self.add_weight(
            name=name,
            shape=(taps * self.filters, 4 * self.filters),
            initializer=keras.initializers.Orthogonal(),
        )

    def scan(self, x, tokens, context_bias):
        """Returns the LSTM's output over the whole grid, (batch, rows, columns, filters)."""
        raise NotImplementedError


class RowLSTM(RecurrentLayer):
    """Runs from the top row down; a row's state sees three columns of the row above.

    input to state: mask B, left and current   state to state: the row above
              . .                                       h h h
              x x                                         o
    """

    num_recorded = 2

    def build(self, input_shape, *_):
        self.to_gates = layers.MaskedConv2D(4 * self.filters, (1, 3), "B", name="to_gates")
        self.state = self.state_weight("state", 3)

    def scan(self, x, tokens, context_bias):
        gates = self.to_gates(x) + context_bias  # (batch, rows, columns, 4 filters)
        kernel = keras.ops.cast(self.state, x.dtype)
        h, c = keras.ops.zeros_like(x[:, 0]), keras.ops.zeros_like(x[:, 0])
        rows = []
        for row in range(x.shape[1]):
            padded = keras.ops.pad(h, [[0, 0], [1, 1], [0, 0]])
            around = keras.ops.concatenate([padded[:, :-2], h, padded[:, 2:]], -1)
            h, c = _lstm(gates[:, row] + layers.matmul(around, kernel), c)
            rows.append(h)
        return keras.ops.stack(rows, 1)

    def start(self, row):
        """h and c of the row above."""
        return (row, row)

    def begin_row(self, cache, conditions):
        """What the state above adds to the gates, with the bias, and the cells above."""
        h, c = cache
        padded = tf.pad(h, [[1, 1], [0, 0], [0, 0]])
        around = tf.concat([padded[:-2], h, padded[2:]], -1)
        gates = layers.matmul(around, tf.cast(self.state, self.compute_dtype))
        return (gates + tf.cast(self.to_gates.bias, gates.dtype) + self.context_bias(conditions), c)

    def first_column(self, zeros):
        """The column to the left of the first one."""
        return (zeros,)

    def step_kernel(self):
        """From the columns to the gates."""
        return self.to_gates.left_kernel()

    def step(self, x, left, terms, kernel):
        """x after the layer at one column; what the next column and the next row need."""
        gates, c = terms
        h, c = _lstm(self.to_gates.apply_left([*left, x], kernel) + gates, c)
        return x + self.project(h), (x,), (h, c)

    def end_row(self, cache, recorded, tokens, conditions):
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
    themselves, and does: without them, the end of the row above would stay hidden from the start of
    a row.
    """

    num_recorded = 2

    def build(self, input_shape, *_):
        self.inputs_left = keras.layers.Dense(4 * self.filters, name="inputs_left")
        self.inputs_right = keras.layers.Dense(4 * self.filters, name="inputs_right")
        # The first half of a kernel's rows is for the state to the left, the second for that above.
        self.state_left = self.state_weight("state_left", 2)
        self.state_right = self.state_weight("state_right", 2)

    def scan(self, x, tokens, context_bias):
        kernels = [
            tf.convert_to_tensor(keras.ops.cast(kernel, x.dtype))
            for kernel in (self.state_left, self.state_right)
        ]
        left = _over_diagonals(self.inputs_left(x) + context_bias, kernels[0])
        with_tokens = keras.ops.concatenate([x, tokens], -1)
        mirrored = self.inputs_right(keras.ops.flip(with_tokens, 2)) + context_bias
        right = keras.ops.flip(_over_diagonals(mirrored, kernels[1]), 2)
        return left + keras.ops.pad(right[:, :-1], [[0, 0], [1, 0], [0, 0], [0, 0]])

    def start(self, row):
        """h of the row above, from the left and from the right."""
        return (row, row)

    def begin_row(self, cache, conditions):
        """What the state above adds to the gates, with the bias, and the other direction's h."""
        left, right = cache
        kernel = tf.cast(self.state_left, self.compute_dtype)[self.filters :]
        gates = (
            layers.matmul(left, kernel)
            + tf.cast(self.inputs_left.bias, left.dtype)
            + self.context_bias(conditions)
        )
        return (gates, right)

    def first_column(self, zeros):
        """h and c to the left of the first column."""
        return (zeros, zeros)

    def step_kernel(self):
        """From the column and the state to its left to the gates."""
        kernel = tf.concat([self.inputs_left.kernel, self.state_left[: self.filters]], 0)
        return tf.cast(kernel, self.compute_dtype)

    def step(self, x, left, terms, kernel):
        """x after the layer at one column; what the next column and the next row need."""
        gates, right = terms
        h, c = left
        h, c = _lstm(tf.matmul(tf.concat([x, h], -1), kernel) + gates, c)
        return x + self.project(h + right), (h, c), (x, h)

    def end_row(self, cache, recorded, tokens, conditions):
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
            return step + 1, h, c, written.write(column, h)

        zeros = tf.zeros_like(x[0])
        states = tf.while_loop(
            lambda step, *_: step < columns,
            leftwards,
            (tf.constant(0), zeros, zeros, tf.TensorArray(x.dtype, columns)),
            maximum_iterations=columns,
            parallel_iterations=1,
        )
        return left, states[3].stack()


CELLS = {"row_lstm": RowLSTM, "diagonal_bilstm": DiagonalBiLSTM}


class RecurrentTrunk(Trunk):
    """Mask A, then residual layers of LSTMs; the features are elu of the last one."""

    def __init__(
        self, cell, filters, num_blocks, kernel_size, map_shape, dropout, has_context, **kwargs
    ):
        super().__init__(**kwargs)
        rows, columns = kernel_size
        self.filters, self.columns = filters, map_shape[2]
        self.first = layers.MaskedConv2D(filters, (rows + 1, columns), "A", name="first")
        self.position = PositionMap(map_shape, filters, name="position")
        self.blocks = [
            cell(filters, index, dropout, has_context, name=f"block_{index}")
            for index in range(num_blocks)
        ]
        self.rows_above, self.num_left = self.first.rows_above, self.first.num_left
        self.num_recorded = sum(block.num_recorded for block in self.blocks)

    def call(self, tokens, conditions):
        x = self.position(self.first(tokens), conditions.order)
        for block in self.blocks:
            x = block(x, tokens, conditions)
        return keras.ops.elu(x)

    def start(self, conditions: Conditions) -> tuple:
        """The states of each layer in the row above."""
        batch = tf.shape(conditions.order)[0]
        row = tf.zeros((self.columns, batch, self.filters), self.compute_dtype)
        return tuple(block.start(row) for block in self.blocks)

    def begin_row(
        self, cache: tuple, above: tf.Tensor, row: tf.Tensor, conditions: Conditions
    ) -> Row:
        """The taps of the first layer on the rows above, and what each layer's states add."""
        terms = [self.first.apply_rows_above(above) + self.position.row(row, conditions.order)]
        for block, states in zip(self.blocks, cache, strict=True):
            terms += block.begin_row(states, conditions)
        zeros = tf.zeros((tf.shape(conditions.order)[0], self.filters), self.compute_dtype)
        return Row(tuple(terms), tuple(block.first_column(zeros) for block in self.blocks))

    def step_kernels(self) -> tuple:
        """Of the first layer, then of each layer of LSTMs."""
        return (self.first.left_kernel(), *(block.step_kernel() for block in self.blocks))

    def step(self, state: tuple, left: tuple, terms: tuple, kernels: tuple) -> Column:
        """Every layer at one column; each has two terms and records two tensors."""
        x = self.first.apply_left(list(left), kernels[0]) + terms[0]
        terms = iter(terms[1:])
        new_state, recorded = [], []
        for block, column, kernel in zip(self.blocks, state, kernels[1:], strict=True):
            x, column, record = block.step(x, column, (next(terms), next(terms)), kernel)
            new_state.append(column)
            recorded += record
        return Column(keras.ops.elu(x), tuple(new_state), tuple(recorded))

    def end_row(
        self,
        cache: tuple,
        known: tuple,
        recorded: tuple,
        tokens: tf.Tensor,
        conditions: Conditions,
    ) -> tuple:
        """The states of the whole row."""
        recorded = iter(recorded)
        return tuple(
            block.end_row(states, (next(recorded), next(recorded)), tokens, conditions)
            for block, states in zip(self.blocks, cache, strict=True)
        )


def _lstm(gates, c):
    """One step of an LSTM from its gates (..., 4 units) and cell: (h, c)."""
    i, f, o, g = keras.ops.split(gates, 4, axis=-1)
    # The forget gate starts open, so that a state lasts.
    c = keras.ops.sigmoid(f + 1.0) * c + keras.ops.sigmoid(i) * keras.ops.tanh(g)
    return keras.ops.sigmoid(o) * keras.ops.tanh(c), c


@tf.function(autograph=False)
def _over_diagonals(gates, kernel):
    """One direction: gates (batch, rows, columns, 4 filters), kernel (2 filters, 4 filters) -> h.

    A function of its own, so that a graph holds its steps once for all layers.
    """
    filters = kernel.shape[1] // 4
    rows, columns = gates.shape[1:3]
    diagonals = _diagonals(rows, columns)
    cells = keras.ops.reshape(gates, (-1, rows * columns, 4 * filters))
    # Cells first, in the order of the diagonals, so that a step reads and writes one piece.
    cells = keras.ops.take(keras.ops.transpose(cells, (1, 0, 2)), np.concatenate(diagonals), 0)
    steps = tf.split(cells, [len(diagonal) for diagonal in diagonals], 0)
    h = c = keras.ops.zeros_like(steps[0][:0, :, :filters])  # (cells, batch, filters)
    states = []
    for step, of_input in enumerate(steps):
        # From the row above the first cell to the last cell's own; outside the grid is 0.
        around = [[int(step < columns), int(step < rows)], [0, 0], [0, 0]]
        h, c = keras.ops.pad(h, around), keras.ops.pad(c, around)
        both = keras.ops.concatenate([h[1:], h[:-1]], -1)
        h, c = _lstm(of_input + layers.matmul(both, kernel), c[1:])
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
