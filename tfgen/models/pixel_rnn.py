"""PixelRNN: exact likelihood by two-dimensional recurrent networks.

van den Oord et al., "Pixel recurrent neural networks", 2016: the Row LSTM and the Diagonal BiLSTM.
"""

import keras
import numpy as np
import tensorflow as tf

from tfgen import layers
from tfgen.models.autoregressive import AutoregressiveModel, PositionMap, Trunk

__all__ = ["PixelRNN"]


@keras.saving.register_keras_serializable("tfgen")
class PixelRNN(AutoregressiveModel):
    """Recurrent network over the rows or the diagonals of an image.

        log p(x) = sum_i log p(x_i | x_1, ..., x_{i-1})      nats per image, exact

    A masked convolution, then residual layers of LSTMs, whose state reaches from the top of the
    image to the pixel. Training runs over rows or diagonals, sampling over pixels with the states
    kept, so that a new pixel costs its own column of each layer.

    Input of `call`: uint8 images (batch, height, width, channels). Output: the parameters of each
    pixel's distribution, float (batch, height, width, channels, outputs).

    Args:
        image_shape: (height, width, channels), 1 or 3 channels. Channels are read in their order
            within a pixel.
        filters: Channels of the network, and units of each LSTM.
        num_blocks: Number of LSTM layers.
        cell: "row_lstm": one step a row, whose state sees a triangle above the pixel;
            "diagonal_bilstm": one step a diagonal, in both directions, which sees all that came
            before.
        kernel_size: (rows, columns) of the first layer: rows above, the own one not counted, and
            columns, odd.
        head_units: As in PixelCNN, like all arguments below.
        token_shape: (height, width) of the blocks that the network reads as one position, as in
            `PixelCNN`.
        orders: 1, 2, 4 or 8 pixel orders that the network serves.
        pixel_distribution: "bernoulli" (2 levels), "categorical" or
            "discretized_logistic_mixture".
        num_levels: Grey levels, 2 to 256.
        num_mixtures: Components of the logistic mixture.
        fourier_features: How many periods (2, 4, 8, ... levels) of a pixel's level the network
            sees as sine and cosine beside the pixel itself, so that it can tell neighbouring
            levels apart (Kingma et al., "Variational diffusion models", 2021).
        dropout: Share of the features that each layer drops while training.
        num_classes: Classes of a conditional model p(x | label), or None.
        seed: Seed of the training noise.

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
        if cell not in CELLS:
            raise ValueError(f"cell must be one of {', '.join(CELLS)}; received {cell!r}.")
        self.cell = cell
        self.kernel_size = tuple(kernel_size)
        super().__init__(
            image_shape,
            filters,
            num_blocks,
            head_units,
            token_shape,
            orders,
            pixel_distribution,
            num_levels,
            num_mixtures,
            fourier_features,
            dropout,
            num_classes,
            seed,
            **kwargs,
        )

    def build_trunk(self):
        """Returns the masked convolution and the layers of LSTMs."""
        return RecurrentTrunk(
            CELLS[self.cell],
            self.filters,
            self.num_blocks,
            self.kernel_size,
            (self.orders, *self.token_grid[:2]),
            self.dropout,
            self.num_flags > 0,
            name="trunk",
        )


class RecurrentLayer(keras.layers.Layer):
    """x + project(LSTM over the grid (x)); what the two kinds share.

        (i, f, o, g) = input(x) + state-to-state(h around) + W flags + bias
        c = sigmoid(f) c_before + sigmoid(i) tanh(g),   h = sigmoid(o) tanh(c)

    Args:
        filters: Channels of x and units of the LSTM.
        stream: Stream of the dropout's noise.
        dropout: Share of x that the LSTM does not see in training.
        flagged: Whether there are flags.
    """

    num_recorded = 0  # tensors of a column that the next row needs

    def __init__(self, filters: int, stream: int, dropout: float, flagged: bool, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.stream, self.dropout = filters, stream, dropout
        self.project = keras.layers.Dense(filters, name="project")
        if flagged:
            self.flags = keras.layers.Dense(4 * filters, use_bias=False, name="flags")

    def call(self, x, tokens, given):
        seen = layers.seeded_dropout(x, self.dropout, given.seeds, self.stream)
        of_flags = 0.0 if given.flags is None else self.flags(given.flags)[:, None, None]
        return x + self.project(self.scan(seen, tokens, of_flags))

    def of_flags(self, given):
        """What class and order add to the gates, (batch, 4 filters), or 0."""
        return 0.0 if given.flags is None else self.flags(given.flags)

    def state_weight(self, name: str, taps: int):
        """A kernel from `taps` states side by side to the gates."""
        return self.add_weight(
            name=name,
            shape=(taps * self.filters, 4 * self.filters),
            initializer=keras.initializers.Orthogonal(),
        )

    def scan(self, x, tokens, of_flags):
        """Returns the LSTM's output over the whole grid, (batch, rows, columns, filters)."""
        raise NotImplementedError


class RowLSTM(RecurrentLayer):
    """Runs from the top row down; a row's state sees three columns of the row above.

    input to state: mask B, left and own       state to state: the row above
              . .                                       h h h
              x x                                         o
    """

    num_recorded = 2

    def build(self, input_shape, *_):
        self.to_gates = layers.MaskedConv2D(4 * self.filters, (1, 3), "B", name="to_gates")
        self.state = self.state_weight("state", 3)

    def scan(self, x, tokens, of_flags):
        gates = self.to_gates(x) + of_flags  # (batch, rows, columns, 4 filters)
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

    def begin_row(self, cache, given):
        """What the state above gives to the gates, with the bias, and the cells above."""
        h, c = cache
        padded = tf.pad(h, [[1, 1], [0, 0], [0, 0]])
        around = tf.concat([padded[:-2], h, padded[2:]], -1)
        gates = layers.matmul(around, tf.cast(self.state, self.compute_dtype))
        return (gates + tf.cast(self.to_gates.bias, gates.dtype) + self.of_flags(given), c)

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

    def end_row(self, cache, recorded, tokens, given):
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

    The other direction runs on the mirrored image, and its output moves down by one row, since at
    its own it would have seen the pixels to the right. So it may see its own token too, and does:
    without it, the end of the row above would stay hidden from the start of a row.
    """

    num_recorded = 2

    def build(self, input_shape, *_):
        self.inputs_left = keras.layers.Dense(4 * self.filters, name="inputs_left")
        self.inputs_right = keras.layers.Dense(4 * self.filters, name="inputs_right")
        # The first half of a kernel's rows is for the state beside, the second for that above.
        self.state_left = self.state_weight("state_left", 2)
        self.state_right = self.state_weight("state_right", 2)

    def scan(self, x, tokens, of_flags):
        kernels = [
            tf.convert_to_tensor(keras.ops.cast(kernel, x.dtype))
            for kernel in (self.state_left, self.state_right)
        ]
        left = _over_diagonals(self.inputs_left(x) + of_flags, kernels[0])
        with_tokens = keras.ops.concatenate([x, tokens], -1)
        mirrored = self.inputs_right(keras.ops.flip(with_tokens, 2)) + of_flags
        right = keras.ops.flip(_over_diagonals(mirrored, kernels[1]), 2)
        return left + keras.ops.pad(right[:, :-1], [[0, 0], [1, 0], [0, 0], [0, 0]])

    def start(self, row):
        """h of the row above, from the left and from the right."""
        return (row, row)

    def begin_row(self, cache, given):
        """What the state above gives to the gates, with the bias, and the other direction's h."""
        left, right = cache
        kernel = tf.cast(self.state_left, self.compute_dtype)[self.filters :]
        gates = (
            layers.matmul(left, kernel)
            + tf.cast(self.inputs_left.bias, left.dtype)
            + self.of_flags(given)
        )
        return (gates, right)

    def first_column(self, zeros):
        """h and c to the left of the first column."""
        return (zeros, zeros)

    def step_kernel(self):
        """From the column and the state beside it to the gates."""
        kernel = tf.concat([self.inputs_left.kernel, self.state_left[: self.filters]], 0)
        return tf.cast(kernel, self.compute_dtype)

    def step(self, x, left, terms, kernel):
        """x after the layer at one column; what the next column and the next row need."""
        gates, right = terms
        h, c = left
        h, c = _lstm(tf.matmul(tf.concat([x, h], -1), kernel) + gates, c)
        return x + self.project(h + right), (h, c), (x, h)

    def end_row(self, cache, recorded, tokens, given):
        """h from the left, and the other direction over the whole row."""
        x, left = recorded
        columns = cache[0].shape[0]
        kernel = tf.cast(self.state_right, self.compute_dtype)
        beside, above = kernel[: self.filters], kernel[self.filters :]
        gates = self.inputs_right(tf.concat([x, tokens], -1)) + self.of_flags(given)
        gates += layers.matmul(cache[1], above)

        def from_the_right(step, h, c, written):
            column = columns - 1 - step
            h, c = _lstm(gates[column] + tf.matmul(h, beside), c)
            return step + 1, h, c, written.write(column, h)

        zeros = tf.zeros_like(x[0])
        states = tf.while_loop(
            lambda step, *_: step < columns,
            from_the_right,
            (tf.constant(0), zeros, zeros, tf.TensorArray(x.dtype, columns)),
            maximum_iterations=columns,
            parallel_iterations=1,
        )
        return left, states[3].stack()


CELLS = {"row_lstm": RowLSTM, "diagonal_bilstm": DiagonalBiLSTM}


class RecurrentTrunk(Trunk):
    """Mask A, then residual layers of LSTMs; the features are elu of the last one."""

    def __init__(
        self, cell, filters, num_blocks, kernel_size, map_shape, dropout, flagged, **kwargs
    ):
        super().__init__(**kwargs)
        rows, columns = kernel_size
        self.filters = filters
        self.first = layers.MaskedConv2D(filters, (rows + 1, columns), "A", name="first")
        self.position = PositionMap(map_shape, filters, name="position")
        self.blocks = [
            cell(filters, index, dropout, flagged, name=f"block_{index}")
            for index in range(num_blocks)
        ]
        self.columns = map_shape[2]
        self.num_recorded = sum(block.num_recorded for block in self.blocks)

    def call(self, tokens, given):
        x = self.position(self.first(tokens), given.order)
        for block in self.blocks:
            x = block(x, tokens, given)
        return keras.ops.elu(x)

    def start(self, given):
        """The token rows above, then each layer's own."""
        batch = tf.shape(given.order)[0]
        shape = (self.first.rows_above, self.columns, batch, self.first.kernel.shape[2])
        row = tf.zeros((self.columns, batch, self.filters), self.compute_dtype)
        tokens = tf.zeros(shape, self.compute_dtype)
        return (tokens, *(block.start(row) for block in self.blocks))

    def begin_row(self, cache, row, given):
        """The taps above of the first layer, and what each layer's states above give."""
        tokens, *states = cache
        batch = tf.shape(given.order)[0]
        first = self.first.apply_rows_above(tokens) + self.position.row(row, given.order)
        terms = [first]
        for block, state in zip(self.blocks, states, strict=True):
            terms += block.begin_row(state, given)
        token = tf.zeros((batch, tokens.shape[3]), self.compute_dtype)
        zeros = tf.zeros((batch, self.filters), self.compute_dtype)
        left = tuple(block.first_column(zeros) for block in self.blocks)
        return tuple(terms), ((token,) * self.first.num_left, left), ()

    def step_kernels(self):
        """Of the first layer, then of each layer of LSTMs."""
        return (self.first.left_kernel(), *(block.step_kernel() for block in self.blocks))

    def step(self, carry, terms, kernels):
        """Every layer at one column."""
        tokens, left = carry
        x = self.first.apply_left(list(tokens), kernels[0]) + terms[0]
        terms = iter(terms[1:])
        columns, recorded = [], []
        for block, column, kernel in zip(self.blocks, left, kernels[1:], strict=True):
            x, column, record = block.step(x, column, (next(terms), next(terms)), kernel)
            columns.append(column)
            recorded += record
        return keras.ops.elu(x), tuple(columns), tuple(recorded)

    def advance(self, carry, columns, token):
        """Shifts the tokens to the left by one."""
        return (*carry[0], token)[1:], columns

    def end_row(self, cache, kept, recorded, tokens, given):
        """The newest rows come in."""
        recorded = iter(recorded)
        states = [
            block.end_row(state, (next(recorded), next(recorded)), tokens, given)
            for block, state in zip(self.blocks, cache[1:], strict=True)
        ]
        return (tf.concat([cache[0][1:], tokens[None]], 0), *states)


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
