"""PixelCNN: exact likelihood by masked convolutions.

van den Oord et al., "Pixel recurrent neural networks", 2016 (residual blocks, masks A and B) and
"Conditional image generation with PixelCNN decoders", 2016 (gated blocks, two stacks); Salimans et
al., "PixelCNN++", 2017 (the logistic mixture).
"""

import keras
import tensorflow as tf

from tfgen import layers
from tfgen.models.autoregressive import AutoregressiveModel, PositionMap, Trunk

__all__ = ["PixelCNN"]

BLOCKS = ("gated", "residual")


@keras.saving.register_keras_serializable("tfgen")
class PixelCNN(AutoregressiveModel):
    """Convolutional network whose output at a pixel sees only the pixels before it.

        log p(x) = sum_i log p(x_i | x_1, ..., x_{i-1})      nats per image, exact

    Pixels are read row by row from the top left; see `token_shape` and `orders`. Training sees all
    pixels at once; sampling draws one after the other with cached activations, at about the price
    of one pass over the image.

    Input of `call`: uint8 images (batch, height, width, channels). Output: the parameters of each
    pixel's distribution, float (batch, height, width, channels, outputs).

    Args:
        image_shape: (height, width, channels), 1 or 3 channels. Channels are read in their order
            within a pixel.
        filters: Channels of the network.
        num_blocks: Number of blocks.
        block: "gated": two stacks without a blind spot, a gate in each block; "residual": one
            stack with a bottleneck of `filters` between 2 `filters`, blind to a wedge to the right.
        kernel_size: (rows, columns) of the first layer: rows above, the own one not counted, and
            columns, odd. It also sees columns // 2 + 1 tokens to the left if gated, columns // 2
            else.
        head_units: Hidden units per group of a token between the features and the parameters.
        token_shape: (height, width) of the blocks that the network reads as one position. Their
            pixels are drawn one after the other by the head, or, of two levels, by softmaxes over
            up to 4 pixels. Larger tokens see further and cost the network less, the head more.
        orders: 1, 2, 4 or 8 pixel orders that the network serves: turned by 0 and 180 degrees,
            then those transposed, then all of them mirrored. The likelihood is the mean of their
            probabilities, and sampling picks one per image.
        pixel_distribution: "bernoulli" (2 levels), "categorical" or
            "discretized_logistic_mixture".
        num_levels: Grey levels, 2 to 256.
        num_mixtures: Components of the logistic mixture.
        fourier_features: How many periods (2, 4, 8, ... levels) of a pixel's level the network
            sees as sine and cosine beside the pixel itself, so that it can tell neighbouring
            levels apart (Kingma et al., "Variational diffusion models", 2021).
        dropout: Share of the features that each block drops while training.
        num_classes: Classes of a conditional model p(x | label), or None.
        seed: Seed of the training noise.

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
        if block not in BLOCKS:
            raise ValueError(f"block must be one of {', '.join(BLOCKS)}; received {block!r}.")
        self.block = block
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
        """Returns the two-stack or the one-stack network."""
        trunk = GatedTrunk if self.block == "gated" else ResidualTrunk
        return trunk(
            self.filters,
            self.num_blocks,
            self.kernel_size,
            (self.orders, *self.token_grid[:2]),
            self.dropout,
            self.num_flags > 0,
            name="trunk",
        )


class GatedBlock(keras.layers.Layer):
    """One gated step of both stacks, residual.

        gate(y) = a * sigmoid(b),   (a, b) the halves of y
        v <- v + gate(conv_v(elu v) + W_v flags)
        h <- h + gate(conv_h(elu h) + link(elu v) + W_h flags)

    At a position v knows the rows above, h also the tokens to the left.

    Args:
        filters: Channels of v and h.
        stream: Stream of the dropout's noise.
        dropout: Share of elu v and of elu h that is dropped in training.
        flagged: Whether there are flags.
    """

    def __init__(self, filters: int, stream: int, dropout: float, flagged: bool, **kwargs):
        super().__init__(**kwargs)
        self.stream, self.dropout = stream, dropout
        self.vertical = layers.MaskedConv2D(2 * filters, (2, 3), "vertical_B", name="vertical")
        self.horizontal = layers.MaskedConv2D(
            2 * filters, (1, 3), "horizontal_B", name="horizontal"
        )
        self.link = keras.layers.Dense(2 * filters, use_bias=False, name="link")
        if flagged:
            self.flags = keras.layers.Dense(4 * filters, use_bias=False, name="flags")

    def call(self, v, h, given):
        of_v, of_h = self._of_flags(given)
        stream_v, stream_h = 2 * self.stream, 2 * self.stream + 1
        seen = layers.seeded_dropout(keras.ops.elu(v), self.dropout, given.seeds, stream_v)
        v = v + _gate(_plus(self.vertical(seen), of_v))
        seen = layers.seeded_dropout(keras.ops.elu(h), self.dropout, given.seeds, stream_h)
        h = h + _gate(_plus(self.horizontal(seen) + self.link(keras.ops.elu(v)), of_h))
        return v, h

    def _of_flags(self, given):
        """What class and order add to both gates, (batch, 1, 1, 2 filters) or None each."""
        if given.flags is None:
            return None, None
        return keras.ops.split(self.flags(given.flags)[:, None, None], 2, axis=-1)

    def row(self, above, v, given):
        """Moves a row of v and prepares h's.

        Args:
            above: elu v of the row above, (columns, batch, filters).
            v: v of the row, the same shape.
            given: The batch's conditions.

        Returns:
            v after the block, elu v before it, and what h's gate gets of v, the bias and the flags,
            (columns, batch, 2 filters).
        """
        of_v, of_h = (None if x is None else x[:, 0, 0] for x in self._of_flags(given))
        seen = keras.ops.elu(v)
        v = v + _gate(_plus(self.vertical.apply_rows_above(tf.stack([above, seen])), of_v))
        link = tf.cast(self.link.kernel, self.compute_dtype)
        term = layers.matmul(keras.ops.elu(v), link) + tf.cast(self.horizontal.bias, v.dtype)
        return v, seen, _plus(term, of_h)


class GatedTrunk(Trunk):
    """Two stacks of gated blocks; the features are elu h of the last one."""

    def __init__(self, filters, num_blocks, kernel_size, map_shape, dropout, flagged, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.kernel_size = filters, kernel_size
        left = kernel_size[1] // 2 + 1
        self.first_v = layers.MaskedConv2D(filters, kernel_size, "vertical_A", name="first_v")
        self.first_h = layers.MaskedConv2D(filters, (1, left), "horizontal_A", name="first_h")
        self.first_link = keras.layers.Dense(filters, use_bias=False, name="first_link")
        self.position = PositionMap(map_shape, filters, name="position")
        self.blocks = [
            GatedBlock(filters, index, dropout, flagged, name=f"block_{index}")
            for index in range(num_blocks)
        ]
        self.columns = map_shape[2]

    def call(self, tokens, given):
        v = self.position(self.first_v(tokens), given.order)
        h = self.first_h(tokens) + self.first_link(v)
        for block in self.blocks:
            v, h = block(v, h, given)
        return keras.ops.elu(h)

    def start(self, given):
        """The token rows above, then elu v of the row above for each block."""
        batch = tf.shape(given.order)[0]
        shape = (self.kernel_size[0], self.columns, batch, self.first_v.kernel.shape[2])
        row = tf.zeros((self.columns, batch, self.filters), self.compute_dtype)
        return (tf.zeros(shape, self.compute_dtype), *[row] * len(self.blocks))

    def begin_row(self, cache, row, given):
        """All of the vertical stack; what is left for the columns is the horizontal one."""
        tokens, *above = cache
        v = self.first_v.apply_rows_above(tokens) + self.position.row(row, given.order)
        link = tf.cast(self.first_link.kernel, self.compute_dtype)
        terms = [layers.matmul(v, link) + tf.cast(self.first_h.bias, v.dtype)]
        seen = []
        for block, row_above in zip(self.blocks, above, strict=True):
            v, own, term = block.row(row_above, v, given)
            terms.append(term)
            seen.append(own)
        batch = tf.shape(given.order)[0]
        token = tf.zeros((batch, tokens.shape[3]), self.compute_dtype)
        column = tf.zeros((batch, self.filters), self.compute_dtype)
        carry = ((token,) * self.first_h.num_left, tuple((column, column) for _ in self.blocks))
        return tuple(terms), carry, tuple(seen)

    def step_kernels(self):
        """Those of the horizontal stack."""
        stack = (self.first_h, *(block.horizontal for block in self.blocks))
        return tuple(layer.left_kernel() for layer in stack)

    def step(self, carry, terms, kernels):
        """The horizontal stack at one column."""
        tokens, left = carry
        h = self.first_h.apply_left(list(tokens), kernels[0]) + terms[0]
        seen = []
        for block, columns, term, kernel in zip(
            self.blocks, left, terms[1:], kernels[1:], strict=True
        ):
            seen.append(keras.ops.elu(h))
            h = h + _gate(block.horizontal.apply_left([*columns, seen[-1]], kernel) + term)
        return keras.ops.elu(h), tuple(seen), ()

    def advance(self, carry, seen, token):
        """Shifts the columns to the left by one."""
        tokens, left = carry
        left = tuple((near, own) for (_, near), own in zip(left, seen, strict=True))
        return (*tokens, token)[1:], left

    def end_row(self, cache, kept, recorded, tokens, given):
        """The newest token row comes in at the end."""
        return (tf.concat([cache[0][1:], tokens[None]], 0), *kept)


class ResidualBlock(keras.layers.Layer):
    """x + up(elu(conv_B(elu(down(elu x)) + W flags))), with a bottleneck of half the channels.

    Args:
        filters: Channels of the bottleneck.
        stream: Stream of the dropout's noise.
        dropout: Share of the bottleneck that is dropped in training.
        flagged: Whether there are flags.
    """

    def __init__(self, filters: int, stream: int, dropout: float, flagged: bool, **kwargs):
        super().__init__(**kwargs)
        self.stream, self.dropout = stream, dropout
        self.down = keras.layers.Dense(filters, name="down")
        self.masked = layers.MaskedConv2D(filters, (2, 3), "B", name="masked")
        self.up = keras.layers.Dense(2 * filters, name="up")
        if flagged:
            self.flags = keras.layers.Dense(filters, use_bias=False, name="flags")

    def call(self, x, given):
        seen = keras.ops.elu(self.down(keras.ops.elu(x)))
        seen = layers.seeded_dropout(seen, self.dropout, given.seeds, self.stream)
        of_flags = None if given.flags is None else self.flags(given.flags)[:, None, None]
        return x + self.up(keras.ops.elu(_plus(self.masked(seen), of_flags)))

    def row(self, above, given):
        """Returns what the row above and the flags give, (columns, batch, filters)."""
        of_flags = None if given.flags is None else self.flags(given.flags)
        return _plus(self.masked.apply_rows_above(above[None]), of_flags)

    def column(self, x, left, term, kernel):
        """Returns x after the block at one column, and what the block saw, (batch, filters)."""
        seen = keras.ops.elu(self.down(keras.ops.elu(x)))
        y = self.masked.apply_left([left, seen], kernel) + term
        return x + self.up(keras.ops.elu(y)), seen


class ResidualTrunk(Trunk):
    """One stack: mask A, then residual blocks with mask B; the features are elu of the last one."""

    def __init__(self, filters, num_blocks, kernel_size, map_shape, dropout, flagged, **kwargs):
        super().__init__(**kwargs)
        rows, columns = kernel_size
        self.filters = filters
        self.first = layers.MaskedConv2D(2 * filters, (rows + 1, columns), "A", name="first")
        self.position = PositionMap(map_shape, 2 * filters, name="position")
        self.blocks = [
            ResidualBlock(filters, index, dropout, flagged, name=f"block_{index}")
            for index in range(num_blocks)
        ]
        self.columns = map_shape[2]
        self.num_recorded = num_blocks

    def call(self, tokens, given):
        x = self.position(self.first(tokens), given.order)
        for block in self.blocks:
            x = block(x, given)
        return keras.ops.elu(x)

    def start(self, given):
        """The token rows above, then what each block saw of the row above."""
        batch = tf.shape(given.order)[0]
        shape = (self.first.rows_above, self.columns, batch, self.first.kernel.shape[2])
        row = tf.zeros((self.columns, batch, self.filters), self.compute_dtype)
        return (tf.zeros(shape, self.compute_dtype), *[row] * len(self.blocks))

    def begin_row(self, cache, row, given):
        """The taps above of every layer."""
        tokens, *above = cache
        batch = tf.shape(given.order)[0]
        first = self.first.apply_rows_above(tokens) + self.position.row(row, given.order)
        terms = [block.row(seen, given) for block, seen in zip(self.blocks, above, strict=True)]
        token = tf.zeros((batch, tokens.shape[3]), self.compute_dtype)
        column = tf.zeros((batch, self.filters), self.compute_dtype)
        carry = ((token,) * self.first.num_left, (column,) * len(self.blocks))
        return (first, *terms), carry, ()

    def step_kernels(self):
        """The taps beside and at the column."""
        stack = (self.first, *(block.masked for block in self.blocks))
        return tuple(layer.left_kernel() for layer in stack)

    def step(self, carry, terms, kernels):
        """The taps beside and at the column."""
        tokens, left = carry
        x = self.first.apply_left(list(tokens), kernels[0]) + terms[0]
        seen = []
        for block, column, term, kernel in zip(
            self.blocks, left, terms[1:], kernels[1:], strict=True
        ):
            x, own = block.column(x, column, term, kernel)
            seen.append(own)
        return keras.ops.elu(x), tuple(seen), tuple(seen)

    def advance(self, carry, seen, token):
        """Shifts the columns to the left by one."""
        return (*carry[0], token)[1:], seen

    def end_row(self, cache, kept, recorded, tokens, given):
        """The newest rows come in."""
        return (tf.concat([cache[0][1:], tokens[None]], 0), *recorded)


def _gate(y):
    a, b = keras.ops.split(y, 2, axis=-1)
    return a * keras.ops.sigmoid(b)


def _plus(x, other):
    return x if other is None else x + other
