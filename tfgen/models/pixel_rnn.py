"""PixelRNN (van den Oord et al., "Pixel recurrent neural networks", 2016)."""

import keras
import tensorflow as tf

from tfgen import checks, layers
from tfgen.models.autoregressive import AutoregressiveModel
from tfgen.models.lstm_layers import CELLS, RecurrentLayer
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

    Args:
        image_shape: (height, width, channels), 1 or 3 channels. The channels of a pixel are read
            in their order. Defaults to (28, 28, 1).
        filters: int. Channels of the network, and units of each LSTM. Defaults to 32.
        num_blocks: int. Number of LSTM layers. Defaults to 2.
        cell: str. "row_lstm": one step per row, whose state sees a triangle above the pixel;
            "diagonal_bilstm": one step per diagonal, in both directions, which sees everything
            that came before. Defaults to "diagonal_bilstm".
        kernel_size: (rows, columns) of the first layer: rows above the current one, and an odd
            number of columns. Defaults to (3, 7).
        head_units: int. Hidden units per group of a token between the features and the
            parameters. Defaults to 64.
        token_shape: (height, width) in pixels of the blocks that the network reads as one
            position, as in a PixelCNN. Defaults to (1, 1).
        orders: int. How many reading orders the network serves, 1, 2, 4 or 8, as in a PixelCNN.
            Defaults to 1.
        pixel_distribution: str. "bernoulli" (2 levels), "categorical" or
            "discretized_logistic_mixture" (the default).
        num_levels: int. Grey levels, 2 to 256. Defaults to 256.
        num_mixtures: int. Components of the logistic mixture. Defaults to 5.
        fourier_features: int. How many periods (2, 4, 8, ... levels) of a pixel's level the
            network sees next to the pixel itself, as in a PixelCNN. Defaults to 0.
        dropout: float. Share of its input that each LSTM drops in training, in [0, 1).
            Defaults to 0.
        num_classes: int or None. Classes of a conditional model p(x | label). Defaults to None.
        guidance: float. How strongly a conditional model is pushed towards the class asked for, as
            in a PixelCNN. Defaults to 0.
        seed: int. Seed of the training noise. Defaults to 0.

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
        guidance: float = 0.0,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(image_shape, num_levels, num_classes, seed, **kwargs)
        self.keep(locals())
        checks.one_of("cell", cell, tuple(CELLS))
        self.build_networks()

    def build_trunk(self) -> Trunk:
        """Returns the masked convolution and the layers of LSTMs."""
        return RecurrentTrunk(cell=CELLS[self.cell], **self.trunk_arguments())


class RecurrentTrunk(Trunk):
    """Mask A, then residual layers of LSTMs; the features are elu of the last one."""

    def __init__(
        self,
        cell: type[RecurrentLayer],
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
        self.first = layers.MaskedConv2D(filters, (rows + 1, columns), "A", name="first")
        self.position = PositionMap(map_shape, filters, name="position")
        self.blocks = [
            cell(filters, index, dropout, has_context, name=f"block_{index}")
            for index in range(num_blocks)
        ]
        self.rows_above, self.num_left = self.first.rows_above, self.first.num_left
        self.num_recorded = num_blocks * cell.num_recorded

    def call(self, tokens, conditions):
        x = self.position(self.first(tokens), conditions.order)
        for block in self.blocks:
            x = block(x, tokens, conditions)
        return keras.ops.elu(x)

    def start(self, conditions: Conditions) -> tuple:
        """The two states of each layer in the row above."""
        row = self.zeros(conditions, self.filters, self.columns)
        return ((row, row),) * len(self.blocks)

    def begin_row(
        self, cache: tuple, above: tf.Tensor, row: tf.Tensor, conditions: Conditions
    ) -> Row:
        """The taps of the first layer on the rows above, and what each layer's states add."""
        terms = [self.first.apply_rows_above(above) + self.position.row(row, conditions.order)]
        for block, states in zip(self.blocks, cache, strict=True):
            terms += block.begin_row(states, conditions)
        zeros = self.zeros(conditions, self.filters)
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
