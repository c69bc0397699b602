"""Causal attention: features of a token that look at every token before it."""

import math

import keras
import tensorflow as tf

from tfgen import layers
from tfgen.models.trunk import Column, Conditions, Row, Trunk

__all__ = ["AttentiveTrunk", "CausalAttention"]

HIDDEN = -1e9  # a logit whose softmax is 0


class CausalAttention(keras.layers.Layer):
    """Adds to each position of a grid what it finds at the positions before it.

        x_t <- x_t + gate(W sum_{s < t} a_ts v_s),   gate([a, b]) = a sigmoid(b)
        a_ts = exp(q_t . k_s / sqrt(d)) / (1 + sum_{r < t} exp(q_t . k_r / sqrt(d)))
        q_t = W_q x_t,   [k_s, v_s] = W_kv [x_s, token_s]

    in each of several heads (Vaswani et al., "Attention is all you need", 2017; Chen et al.,
    "PixelSNAIL", 2018). x_t comes from the tokens before t, while k_s and v_s include token s
    itself, hence s < t. The 1 in the denominator is a position with key and value 0: the first
    token has nothing else to look at, and the others may look at nothing.

    Input: x float (batch, rows, columns, channels), and tokens of the same grid; output: as x.

    Args:
        channels: int. Channels of x, a multiple of `heads`.
        heads: int. How many softmaxes look at the positions, each with d = channels / heads.
        dropout: float. Share of what was found that is dropped in training. Defaults to 0.
        stream: int. Stream of the dropout's noise. Defaults to 0.
    """

    def __init__(self, channels: int, heads: int, dropout: float = 0.0, stream: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.heads, self.size = channels, heads, channels // heads
        self.dropout, self.stream = dropout, stream
        self.query = keras.layers.Dense(channels, use_bias=False, name="query")
        self.key_value = keras.layers.Dense(2 * channels, use_bias=False, name="key_value")
        self.project = keras.layers.Dense(2 * channels, name="project")

    def call(self, x, tokens, conditions):
        rows, columns = x.shape[1:3]
        places = rows * columns
        q = self._by_heads(self.query(x), places)
        both = tf.split(self.key_value(tf.concat([x, tokens], -1)), 2, -1)
        # The empty position comes first and the last token drops out: place t looks at t places.
        before = (layers.cut(self._by_heads(y, places), 1, 0, -1) for y in both)
        k, v = (tf.pad(y, [[0, 0], [1, 0], [0, 0]]) for y in before)
        seen = tf.linalg.band_part(tf.ones((places, places), tf.bool), -1, 0)
        weights = self._softmax(tf.matmul(_wide(q), _wide(k), transpose_b=True), seen)
        found = tf.reshape(tf.matmul(weights, v), (-1, self.heads, places, self.size))
        found = tf.reshape(tf.transpose(found, (0, 2, 1, 3)), (-1, rows, columns, self.channels))
        found = layers.seeded_dropout(found, self.dropout, conditions.seeds, self.stream)
        return x + self._gate(found)

    def look(
        self,
        x: tf.Tensor,
        above: tuple,
        in_row: tuple,
        row: tf.Tensor,
        column: tf.Tensor,
    ) -> tf.Tensor:
        """Returns one position's output.

        Args:
            x: (batch, channels).
            above: Keys and values of whole rows, (batch * heads, rows * columns, size) each; the
                rows that are drawn are the last ones.
            in_row: Keys and values of the current row, (batch * heads, columns, size) each.
            row: Index of the position, int32.
            column: Index of the position, int32.
        """
        q = _wide(tf.reshape(self.query(x), (-1, self.size, 1)))
        logits = [tf.matmul(_wide(keys), q)[..., 0] for keys, _ in (above, in_row)]
        columns, places = in_row[0].shape[1], above[0].shape[1]
        seen = [tf.range(places) >= places - row * columns, tf.range(columns) < column]
        empty = tf.zeros_like(logits[0][:, :1])
        weights = self._softmax(tf.concat([empty, *logits], 1), tf.concat([[True], *seen], 0))
        _, *weights = tf.split(weights, [1, places, columns], 1)
        found = sum(
            tf.matmul(share[:, None], values)
            for share, (_, values) in zip(weights, (above, in_row), strict=True)
        )
        return x + self._gate(tf.reshape(found, (-1, self.channels)))

    def keys_and_values(self, x: tf.Tensor, tokens: tf.Tensor, places: int) -> tuple:
        """Returns k and v of positions (places, batch, ...): (batch * heads, places, size) each."""
        both = layers.matmul(tf.concat([x, tokens], -1), tf.cast(self.key_value.kernel, x.dtype))
        return tuple(
            self._by_heads(tf.transpose(y, (1, 0, 2)), places) for y in tf.split(both, 2, -1)
        )

    def _by_heads(self, x, places: int):
        """(batch, ..., channels) -> (batch * heads, places, size), places as many as in between."""
        x = tf.reshape(x, (-1, places, self.heads, self.size))
        return tf.reshape(tf.transpose(x, (0, 2, 1, 3)), (-1, places, self.size))

    def _softmax(self, logits, seen):
        """Softmax over the last axis, in at least 32 bits, of what is seen."""
        dtype = logits.dtype if logits.dtype == tf.float64 else tf.float32
        logits = tf.cast(logits, dtype) / math.sqrt(self.size)
        return tf.cast(
            tf.nn.softmax(tf.where(seen, logits, tf.cast(HIDDEN, dtype))), self.compute_dtype
        )

    def _gate(self, found):
        a, b = tf.split(self.project(found), 2, -1)
        return a * tf.sigmoid(b)


def _wide(x: tf.Tensor) -> tf.Tensor:
    """Casts float16 to float32: 256 times 256 is beyond float16's 65504."""
    return tf.cast(x, tf.float32) if x.dtype == tf.float16 else x


class AttentiveTrunk(Trunk):
    """A trunk with causal attention over its features.

    While sampling, keys and values lie in the cache, those of the current row in the state.

    Args:
        trunk: The trunk.
        grid_shape: (rows, columns) of tokens.
        attention: The layer.
    """

    def __init__(
        self, trunk: Trunk, grid_shape: tuple[int, int], attention: CausalAttention, **kwargs
    ):
        super().__init__(**kwargs)
        self.trunk, self.grid_shape, self.attention = trunk, tuple(grid_shape), attention
        self.rows_above = trunk.rows_above
        self.num_left = max(trunk.num_left, 1)  # the token whose key a step still lacks
        self.num_recorded = trunk.num_recorded + 1

    def call(self, tokens, conditions):
        return self.attention(self.trunk(tokens, conditions), tokens, conditions)

    def start(self, conditions: Conditions) -> tuple:
        """The trunk's cache, and room for all keys and values."""
        rows, columns = self.grid_shape
        return self.trunk.start(conditions), self._room(conditions, rows * columns)

    def _room(self, conditions, places):
        attention = self.attention
        batch = tf.shape(conditions.order)[0]
        zeros = tf.zeros((batch * attention.heads, places, attention.size), self.compute_dtype)
        return zeros, zeros

    def step_kernels(self) -> tuple:
        """Those of the trunk."""
        return self.trunk.step_kernels()

    def begin_row(
        self, cache: tuple, above: tf.Tensor, row: tf.Tensor, conditions: Conditions
    ) -> Row:
        """The trunk's row; the state also holds what attention looks at, and where."""
        inner_cache, keys_above = cache
        inner = self.trunk.begin_row(inner_cache, above, row, conditions)
        in_row = self._room(conditions, self.grid_shape[1])
        before = self.zeros(conditions, self.attention.channels)
        state = (inner.state, keys_above, in_row, before, row, tf.constant(0))
        return Row(inner.terms, state, (inner.known, keys_above))

    def step(self, state: tuple, left: tuple, terms: tuple, kernels: tuple) -> Column:
        """Adds the key and value of the column before, then looks."""
        inner_state, above, in_row, before, row, column = state
        trunk = self.trunk
        inner = trunk.step(inner_state, left[len(left) - trunk.num_left :], terms, kernels)
        # Before the first column the place is -1, and its one-hot 0 everywhere.
        place = tf.one_hot(column - 1, self.grid_shape[1], dtype=self.compute_dtype)[:, None]
        newest = self.attention.keys_and_values(before[None], left[-1][None], 1)
        in_row = tuple(y + place * new for y, new in zip(in_row, newest, strict=True))
        features = self.attention.look(inner.features, above, in_row, row, column)
        state = (inner.state, above, in_row, inner.features, row, column + 1)
        return Column(features, state, (*inner.recorded, inner.features))

    def end_row(
        self,
        cache: tuple,
        known: tuple,
        recorded: tuple,
        tokens: tf.Tensor,
        conditions: Conditions,
    ) -> tuple:
        """The row's keys and values come last."""
        inner_known, above = known
        inner = self.trunk.end_row(cache[0], inner_known, recorded[:-1], tokens, conditions)
        columns = self.grid_shape[1]
        newest = self.attention.keys_and_values(recorded[-1], tokens, columns)
        return inner, tuple(
            tf.concat([y[:, columns:], new], 1) for y, new in zip(above, newest, strict=True)
        )
