"""PixelCNN: exact likelihood by masked convolutions.

van den Oord et al., "Pixel recurrent neural networks", 2016 (residual blocks, masks A and B) and
"Conditional image generation with PixelCNN decoders", 2016 (gated blocks, two stacks); Salimans et
al., "PixelCNN++", 2017 (the logistic mixture).
"""

import keras
import tensorflow as tf

from tfgen import checks, layers
from tfgen.models.attention import AttentiveTrunk, CausalAttention
from tfgen.models.autoregressive import AutoregressiveModel
from tfgen.models.trunk import Column, Conditions, PositionMap, ResidualTrunk, Row, Trunk, plus

__all__ = ["PixelCNN"]

BLOCKS = ("gated", "residual")


@keras.saving.register_keras_serializable("tfgen")
class PixelCNN(AutoregressiveModel):
    """Convolutional network whose output at a pixel sees only the pixels before it.

        log p(x) = sum_i log p(x_i | x_1, ..., x_{i-1})      nats per image, exact

    Pixels are read row by row from the top left; see `token_shape` and `orders`. Training sees all
    pixels at once; sampling draws one after another with cached activations, about the arithmetic
    of one pass over the image.

    Input of `call`: uint8 images (batch, height, width, channels). Output: the parameters of each
    pixel's distribution, float (batch, height, width, channels, outputs).

    Args:
        image_shape: (height, width, channels), 1 or 3 channels. The channels of a pixel are read
            in their order. Defaults to (28, 28, 1).
        filters: int. Channels of the network. Defaults to 32.
        num_blocks: int. Number of blocks. Defaults to 5.
        block: str. "gated": two stacks without a blind spot, a gate in each block; "residual": one
            stack with a bottleneck of `filters` between 2 `filters`, blind to a wedge to the
            right. Defaults to "gated".
        kernel_size: (rows, columns) of the first layer: rows above the current one, and an odd
            number of columns. To the left it sees columns // 2 + 1 tokens if gated, else
            columns // 2. Defaults to (3, 7).
        attention_heads: int. Heads of causal attention over the features of the last block, so each
            token sees all before it; 0 for none. They must divide its channels: `filters` if gated,
            else 2 `filters`. Costs grow with the square of the number of tokens. Defaults to 0.
        head_units: int. Hidden units per group of a token between the features and the
            parameters. Defaults to 64.
        token_shape: (height, width) in pixels of the blocks that the network reads as one
            position. The head draws their pixels one after another, or, of two levels, by
            softmaxes over up to 4 pixels. Larger tokens see further and cost the network less,
            the head more. Defaults to (1, 1).
        orders: int. How many reading orders the network serves, 1, 2, 4 or 8: rotated by 0 and
            180 degrees, then those transposed, then all of them mirrored. The likelihood is the
            mean of their probabilities, and sampling picks one per image. Defaults to 1.
        pixel_distribution: str. "bernoulli" (2 levels), "categorical" or
            "discretized_logistic_mixture" (the default).
        num_levels: int. Grey levels, 2 to 256. Defaults to 256.
        num_mixtures: int. Components of the logistic mixture. Defaults to 5.
        fourier_features: int. How many periods (2, 4, 8, ... levels) of a pixel's level the
            network sees as sine and cosine next to the pixel itself, so that it can tell
            neighbouring levels apart (Kingma et al., "Variational diffusion models", 2021).
            Defaults to 0.
        dropout: float. Share of the features that each block drops in training, in [0, 1).
            Defaults to 0.
        num_classes: int or None. Classes of a conditional model p(x | label). Defaults to None.
        guidance: float. How strongly a conditional model is pushed towards the class asked for; at
            0 it draws as it was trained. "bernoulli" and "categorical" only. Above 0 drawing and
            scoring take one pass per class; `fit`, `evaluate` and `call` leave guidance out.
            Defaults to 0.
        seed: int. Seed of the training noise. Defaults to 0.

    Raises:
        ValueError: An argument out of its range.

    Example:
    >>> import numpy as np
    >>> model = PixelCNN(
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
        num_blocks: int = 5,
        block: str = "gated",
        kernel_size: tuple[int, int] = (3, 7),
        attention_heads: int = 0,
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
        checks.one_of("block", block, BLOCKS)
        checks.at_least(0, attention_heads=attention_heads)
        self.build_networks()

    def build_trunk(self) -> Trunk:
        """Returns the network of two stacks or one, with attention if asked."""
        family, channels = (
            (GatedTrunk, self.filters)
            if self.block == "gated"
            else (ResidualTrunk, 2 * self.filters)
        )
        trunk = family(**self.trunk_arguments())
        if not self.attention_heads:
            return trunk
        if channels % self.attention_heads:
            raise ValueError(
                f"attention_heads must divide the {channels} channels of the features; received "
                f"{self.attention_heads} with filters={self.filters} and block={self.block!r}."
            )
        attention = CausalAttention(
            channels, self.attention_heads, self.dropout, 2 * self.num_blocks, name="attention"
        )
        grid_shape = self.token_grid.shape[:2]
        return AttentiveTrunk(trunk, grid_shape, attention, name="attentive_trunk")


class GatedBlock(keras.layers.Layer):
    """One gated step of both stacks, residual.

        gate(y) = a * sigmoid(b),   (a, b) the halves of y
        v <- v + gate(conv_v(elu v) + W_v context)
        h <- h + gate(conv_h(elu h) + link(elu v) + W_h context)

    At a position v knows the rows above, h also the tokens to the left.

    Args:
        filters: int. Channels of v and h.
        stream: int. Stream of the dropout's noise.
        dropout: float. Share of elu v and of elu h that is dropped in training.
        has_context: bool. Whether there is a context: a class, or one of several orders.
    """

    def __init__(self, filters: int, stream: int, dropout: float, has_context: bool, **kwargs):
        super().__init__(**kwargs)
        self.stream, self.dropout = stream, dropout
        self.vertical = layers.MaskedConv2D(2 * filters, (2, 3), "vertical_B", name="vertical")
        self.horizontal = layers.MaskedConv2D(
            2 * filters, (1, 3), "horizontal_B", name="horizontal"
        )
        self.link = keras.layers.Dense(2 * filters, use_bias=False, name="link")
        if has_context:  # "flags" is what saved weights call it
            self.flags = keras.layers.Dense(4 * filters, use_bias=False, name="flags")

    def call(self, v, h, conditions):
        context_v, context_h = self._context_biases(conditions)
        stream_v, stream_h = 2 * self.stream, 2 * self.stream + 1
        # v <- v + gate(conv_v(elu v) + W_v context)
        x = layers.seeded_dropout(keras.ops.elu(v), self.dropout, conditions.seeds, stream_v)
        v = v + _gate(plus(self.vertical(x), context_v))
        # h <- h + gate(conv_h(elu h) + link(elu v) + W_h context)
        x = layers.seeded_dropout(keras.ops.elu(h), self.dropout, conditions.seeds, stream_h)
        h = h + _gate(plus(self.horizontal(x) + self.link(keras.ops.elu(v)), context_h))
        return v, h

    def _context_biases(self, conditions):
        """What class and order add to both gates, (batch, 1, 1, 2 filters) or None each."""
        if conditions.context is None:
            return None, None
        return keras.ops.split(self.flags(conditions.context)[:, None, None], 2, axis=-1)

    def row(
        self, above: tf.Tensor, v: tf.Tensor, conditions: Conditions
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Moves a row of v and prepares h's.

        Args:
            above: elu v of the row above, (columns, batch, filters).
            v: v of the row, the same shape.
            conditions: The batch's.

        Returns:
            v after the block, elu v before it, and what v, the bias and the context add to h's
            gate, (columns, batch, 2 filters).
        """
        context_v, context_h = (
            None if x is None else x[:, 0, 0] for x in self._context_biases(conditions)
        )
        x = keras.ops.elu(v)
        v = v + _gate(plus(self.vertical.apply_rows_above(tf.stack([above, x])), context_v))
        link = tf.cast(self.link.kernel, self.compute_dtype)
        term = layers.matmul(keras.ops.elu(v), link) + tf.cast(self.horizontal.bias, v.dtype)
        return v, x, plus(term, context_h)


class GatedTrunk(Trunk):
    """Two stacks of gated blocks; the features are elu h of the last one."""

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
        self.filters, self.columns = filters, map_shape[2]
        left = kernel_size[1] // 2 + 1
        self.first_v = layers.MaskedConv2D(filters, kernel_size, "vertical_A", name="first_v")
        self.first_h = layers.MaskedConv2D(filters, (1, left), "horizontal_A", name="first_h")
        self.first_link = keras.layers.Dense(filters, use_bias=False, name="first_link")
        self.position = PositionMap(map_shape, filters, name="position")
        self.blocks = [
            GatedBlock(filters, index, dropout, has_context, name=f"block_{index}")
            for index in range(num_blocks)
        ]
        self.rows_above, self.num_left = self.first_v.rows_above, self.first_h.num_left

    def call(self, tokens, conditions):
        v = self.position(self.first_v(tokens), conditions.order)
        h = self.first_h(tokens) + self.first_link(v)
        for block in self.blocks:
            v, h = block(v, h, conditions)
        return keras.ops.elu(h)

    def start(self, conditions: Conditions) -> tuple:
        """elu v of the row above for each block."""
        return (self.zeros(conditions, self.filters, self.columns),) * len(self.blocks)

    def begin_row(
        self, cache: tuple, above: tf.Tensor, row: tf.Tensor, conditions: Conditions
    ) -> Row:
        """The whole vertical stack; columns add the horizontal one."""
        v = self.first_v.apply_rows_above(above) + self.position.row(row, conditions.order)
        link = tf.cast(self.first_link.kernel, self.compute_dtype)
        terms = [layers.matmul(v, link) + tf.cast(self.first_h.bias, v.dtype)]
        known = []
        for block, row_above in zip(self.blocks, cache, strict=True):
            v, activation, term = block.row(row_above, v, conditions)
            terms.append(term)
            known.append(activation)
        column = self.zeros(conditions, self.filters)
        return Row(tuple(terms), tuple((column, column) for _ in self.blocks), tuple(known))

    def step_kernels(self) -> tuple:
        """Those of the horizontal stack."""
        stack = (self.first_h, *(block.horizontal for block in self.blocks))
        return tuple(layer.left_kernel() for layer in stack)

    def step(self, state: tuple, left: tuple, terms: tuple, kernels: tuple) -> Column:
        """The horizontal stack at one column; the state is elu h of two columns for each block."""
        h = self.first_h.apply_left(list(left), kernels[0]) + terms[0]
        new_state = []
        for block, (far, near), term, kernel in zip(
            self.blocks, state, terms[1:], kernels[1:], strict=True
        ):
            x = keras.ops.elu(h)
            h = h + _gate(block.horizontal.apply_left([far, near, x], kernel) + term)
            new_state.append((near, x))
        return Column(keras.ops.elu(h), tuple(new_state))

    def end_row(
        self,
        cache: tuple,
        known: tuple,
        recorded: tuple,
        tokens: tf.Tensor,
        conditions: Conditions,
    ) -> tuple:
        """The row's vertical stack, known since it began."""
        return known


def _gate(y):
    a, b = keras.ops.split(y, 2, axis=-1)
    return a * keras.ops.sigmoid(b)
