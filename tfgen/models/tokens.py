"""Tokens: how pixel models cut an image into blocks, and in which orders they read it."""

import dataclasses
import functools
import math

import numpy as np
import tensorflow as tf

from tfgen import checks

__all__ = ["ORDERS", "TokenGrid", "pattern_logits", "pattern_one_hot", "pattern_table"]

ORDERS = (1, 2, 4, 8)  # how many orders a network can serve
LARGEST_GROUP = 4  # pixels of one softmax: 16 outcomes


@dataclasses.dataclass(frozen=True)
class TokenGrid:
    """A grid of tokens over an image, in one or more reading orders.

    A token is a block of pixels that the network reads as one position, in raster order, and draws
    group by group. A group is one colour channel of one pixel, or, for binary pixels, a small block
    of pixels that share one softmax over all of their patterns.

        4 x 8 binary pixels, token_shape (2, 4), group_shape (2, 2)

            token 0     token 1
            a a b b   a a b b         a: the pixels of group 0
            a a b b   a a b b         b: the pixels of group 1

            a a b b   a a b b         rows = 2, columns = 2, groups = 2, group_size = 4
            a a b b   a a b b
            token 2     token 3

    In an order other than the first one the image is rearranged before it is cut:

        order 0    order 1    order 2     order 3     orders 4 to 7
        as it is   turned     transposed  both        0 to 3, then mirrored
                   by 180 degrees

    Attributes:
        image_shape: (height, width, channels).
        token_shape: (height, width) of a token in pixels.
        orders: How many orders there are: 1, 2, 4 or 8.
        shared_softmax: Whether several pixels may share a softmax.

    Raises:
        ValueError: Shapes that do not divide each other, or an order that the image cannot have.
    """

    image_shape: tuple[int, int, int]
    token_shape: tuple[int, int]
    orders: int = 1
    shared_softmax: bool = False

    def __post_init__(self):
        height, width = self.image_shape[:2]
        if len(self.token_shape) != 2 or min(self.token_shape) < 1:
            raise ValueError(
                f"token_shape must be (height, width) in pixels; received {self.token_shape}."
            )
        if height % self.token_shape[0] or width % self.token_shape[1]:
            raise ValueError(
                f"token_shape must divide the image; received {self.token_shape} for images of "
                f"{height} x {width} pixels. Use (1, 1) or divisors of both sides."
            )
        checks.one_of("orders", self.orders, ORDERS)
        if self.orders > 2 and height != width:
            raise ValueError(
                f"orders={self.orders} turns images by 90 degrees, so they must be square; "
                f"received {height} x {width} pixels. Use orders=2."
            )

    # Sizes -----------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Rows of tokens."""
        return self.image_shape[0] // self.token_shape[0]

    @property
    def columns(self) -> int:
        """Columns of tokens."""
        return self.image_shape[1] // self.token_shape[1]

    @functools.cached_property
    def group_shape(self) -> tuple[int, int]:
        """(height, width) of a group in pixels: the largest, then squarest, that fits a token.

        >>> [
        ...     TokenGrid((8, 8, 1), token, shared_softmax=True).group_shape
        ...     for token in ((2, 4), (1, 1), (2, 2), (1, 8))
        ... ]
        [(2, 2), (1, 1), (2, 2), (1, 4)]
        """
        if not self.shared_softmax:
            return 1, 1
        sides = range(1, LARGEST_GROUP + 1)
        fitting = [
            (h, w)
            for h in sides
            for w in sides
            if h * w <= LARGEST_GROUP
            and not self.token_shape[0] % h
            and not self.token_shape[1] % w
        ]
        return max(fitting, key=lambda side: (side[0] * side[1], -abs(side[0] - side[1]), side))

    @property
    def group_size(self) -> int:
        """Pixels in a group."""
        return math.prod(self.group_shape)

    @property
    def groups(self) -> int:
        """Groups in a token."""
        return math.prod(self.token_shape) * self.image_shape[2] // self.group_size

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(rows, columns, groups, group_size): the shape of the tokens of one image."""
        return self.rows, self.columns, self.groups, self.group_size

    # Tokens ----------------------------------------------------------------------------------

    # In two transpositions each, since LiteRT takes at most six axes.

    def to_tokens(self, images: tf.Tensor) -> tf.Tensor:
        """(batch, height, width, channels) -> (batch, rows, columns, groups, group_size)."""
        (th, tw), (gh, gw), channels = self.token_shape, self.group_shape, self.image_shape[2]
        down, across = th // gh, tw // gw  # groups of a token
        split = tf.transpose(tf.reshape(images, (-1, across, gw, channels)), (0, 1, 3, 2))
        split = tf.reshape(split, (-1, down, gh, self.columns, across * channels, gw))
        return tf.reshape(tf.transpose(split, (0, 3, 1, 4, 2, 5)), (-1, *self.shape))

    def from_tokens(self, tokens: tf.Tensor) -> tf.Tensor:
        """Undoes `to_tokens`; there may be more axes: (batch, height, width, channels, ...)."""
        (th, tw), (gh, gw), channels = self.token_shape, self.group_shape, self.image_shape[2]
        down, across, rest = th // gh, tw // gw, tokens.shape[5:]
        size = math.prod(rest)
        split = tf.reshape(tokens, (-1, self.columns, down, across * channels, gh, gw * size))
        split = tf.reshape(
            tf.transpose(split, (0, 2, 4, 1, 3, 5)), (-1, across, channels, gw, size)
        )
        return tf.reshape(tf.transpose(split, (0, 1, 3, 2, 4)), (-1, *self.image_shape, *rest))

    # Orders ----------------------------------------------------------------------------------

    @functools.cached_property
    def _sequences(self) -> np.ndarray:
        """The pixels (row * width + column) in the sequence of each order, (orders, pixels)."""
        height, width, _ = self.image_shape
        pixels = np.arange(height * width).reshape(height, width)
        return np.array(
            [_rearranged(pixels, order).reshape(-1) for order in range(self.orders)], np.int32
        )

    def reorder(self, images: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
        """Rearranges each image (batch, height, width, ...) as its order, int32 (batch,), reads."""
        return self._gathered(images, order, self._sequences)

    def restore(self, images: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
        """Undoes `reorder`."""
        return self._gathered(images, order, np.argsort(self._sequences, 1).astype(np.int32))

    def _gathered(self, images: tf.Tensor, order: tf.Tensor, table: np.ndarray) -> tf.Tensor:
        if self.orders == 1:
            return images
        shape = tf.shape(images)
        flat = tf.reshape(images, (shape[0], table.shape[1], -1))
        flat = tf.gather(flat, tf.gather(tf.constant(table), order), axis=1, batch_dims=1)
        return tf.reshape(flat, shape)

    def order_for(self, mask: tf.Tensor) -> tf.Tensor:
        """Returns the order in which the first hidden pixel comes last, int32 (batch,).

        Args:
            mask: bool (batch, height, width, channels), False where a pixel is hidden.
        """
        batch, places = tf.shape(mask)[0], math.prod(self.shape)
        first_hidden = []
        for order in range(self.orders):
            tokens = self.to_tokens(self.reorder(mask, tf.fill((batch,), order)))
            hidden = tf.cast(tf.reshape(tf.logical_not(tokens), (batch, places)), tf.int32)
            first_hidden.append(tf.argmax(hidden, 1, tf.int32))
        return tf.argmax(tf.stack(first_hidden, 1), 1, tf.int32)


def _rearranged(image: np.ndarray, order: int) -> np.ndarray:
    """Returns an image (height, width) as an order reads it."""
    if order & 2:
        image = image.T
    if order & 4:
        image = image[:, ::-1]
    return image[::-1, ::-1] if order & 1 else image


def pattern_table(size: int) -> np.ndarray:
    """Returns every pattern of `size` binary pixels, float32 (2^size, size), the last one fastest.

    >>> pattern_table(2).astype(int).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    places = np.arange(size)[::-1]
    return ((np.arange(2**size)[:, None] >> places) & 1).astype("float32")


def pattern_one_hot(levels: tf.Tensor, patterns: np.ndarray) -> tf.Tensor:
    """Returns the one-hot of the pattern that binary pixels make: (..., pixels) -> (..., patterns).

    As a product over the pixels, which has derivatives: prod_p (1 + s_p x_p) / 2 with x_p the pixel
    and s_p the pattern's, both -1 or 1.
    """
    signs = tf.constant(patterns * 2.0 - 1.0, levels.dtype)  # (patterns, pixels)
    return tf.reduce_prod((1.0 + signs * (2.0 * levels - 1.0)[..., None, :]) * 0.5, -1)


def pattern_logits(logits: tf.Tensor, levels: tf.Tensor, patterns: np.ndarray) -> tf.Tensor:
    """Returns the logit of each binary pixel of a pattern given the pixels before it.

        logit p(x_p = 1 | x_<p) = log sum of p(pattern), over patterns that agree with x_<p and
        have x_p = 1, minus the same with x_p = 0

    Args:
        logits: Of the patterns, (..., patterns).
        levels: The pixels, (..., pixels).
        patterns: `pattern_table(pixels)`.

    Returns:
        (..., pixels).
    """
    found = []
    agreeing = tf.zeros_like(logits)  # log 1 where a pattern agrees with the pixels so far
    never = tf.constant(-math.inf, logits.dtype)
    for pixel in range(levels.shape[-1]):
        on = tf.constant(patterns[:, pixel] > 0)  # (patterns,)
        high = tf.reduce_logsumexp(logits + tf.where(on, agreeing, never), -1)
        low = tf.reduce_logsumexp(logits + tf.where(on, never, agreeing), -1)
        found.append(high - low)
        same = tf.equal(levels[..., pixel, None] > 0.5, on)
        agreeing = tf.where(same, agreeing, never)
    return tf.stack(found, -1)
