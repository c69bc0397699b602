"""What PixelCNN and PixelRNN share: tokens, orders, exact likelihood, sampling with a cache.

An image is cut into a grid of tokens, blocks of pixels in raster order; a token into groups, each
of one colour channel of one pixel, or, for two levels, of up to four pixels with one softmax:

    log p(x) = sum over tokens t, groups g of log p(x_tg | tokens before t, groups before g)

A trunk (each family's own) turns the tokens before t into features; the head, two masked dense
layers, adds the groups before g. One network may serve several pixel orders, told which by a flag:

    p(x) = 1/K sum_k p(x read in order k)
"""

import math
import numbers
import os
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfgen import checks, distributions, layers, noise, pixels
from tfgen.models.endpoints import ROWS
from tfgen.models.generative import GenerativeModel

__all__ = ["AutoregressiveModel", "PositionMap", "Trunk"]

LARGEST_GROUP = 4  # pixels of one softmax
ORDERS = (1, 2, 4, 8)
# Streams of an image's seed.
PIXEL_STREAM, ORDER_STREAM, DROPOUT_STREAM = 0, 1, 2
ORDER_FOLD = 7


class Trunk(keras.layers.Layer):
    """Features of each token from the tokens before it: all at once, or one after the other.

    `call` and the three methods of the sampler compute the same numbers; the sampler's layout is
    (columns, batch, channels), so that a column is one block of memory.

        cache, kernels = trunk.start(given), trunk.step_kernels()
        for each row:
            terms, carry, kept = trunk.begin_row(cache, row, given)
            for each column:
                feature, columns, recorded = trunk.step(carry, the column's terms, kernels)
                (a token is drawn from the feature)
                carry = trunk.advance(carry, columns, token)
            cache = trunk.end_row(cache, kept, all recorded, tokens of the row, given)

    `given` holds a batch's conditions, see `Given`. All else are tuples of tensors.
    """

    num_recorded = 0  # tensors that `step` records for `end_row`

    def call(self, tokens, given):
        """Returns features (batch, rows, columns, channels) of tokens of the same grid."""
        raise NotImplementedError

    def start(self, given) -> tuple:
        """Returns the cache before the first row."""
        raise NotImplementedError

    def step_kernels(self) -> tuple:
        """Returns the weights of `step` that are put together from the layers' own."""
        raise NotImplementedError

    def begin_row(self, cache: tuple, row: tf.Tensor, given) -> tuple[tuple, tuple, tuple]:
        """Returns what the rows above give to a row, the first carry, and what `end_row` needs.

        The first are (columns, batch, channels) each.
        """
        raise NotImplementedError

    def step(self, carry: tuple, terms: tuple, kernels: tuple) -> tuple[tf.Tensor, tuple, tuple]:
        """Returns a column's features, what `advance` needs, and what `end_row` needs of it.

        All are (batch, channels).
        """
        raise NotImplementedError

    def advance(self, carry: tuple, columns: tuple, token: tf.Tensor) -> tuple:
        """Returns the carry for the next column."""
        raise NotImplementedError

    def end_row(
        self, cache: tuple, kept: tuple, recorded: tuple, tokens: tf.Tensor, given
    ) -> tuple:
        """Returns the cache for the next row; recorded and tokens are (columns, batch, ...)."""
        raise NotImplementedError


class PositionMap(keras.layers.Layer):
    """Adds a learned map to a grid of features, one for each pixel order."""

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

    def row(self, row, order):
        """Returns one row of the map for each image, (columns, batch or 1, filters)."""
        of_row = tf.cast(self.map, self.compute_dtype)[:, row]  # (orders, columns, filters)
        return tf.transpose(
            of_row if self.map_shape[0] == 1 else tf.gather(of_row, order), (1, 0, 2)
        )


class Given(NamedTuple):
    """What a batch's images are drawn or scored given.

    Attributes:
        order: int32 (batch,), which of the pixel orders.
        flags: One-hot class and order side by side, (batch, flags); None if there are neither.
        seeds: Seeds of the dropout, int64 (batch,), or None for no dropout.
    """

    order: tf.Tensor
    flags: tf.Tensor | None
    seeds: tf.Tensor | None = None


class AutoregressiveModel(GenerativeModel):
    """Base of the families with a tractable density.

    Shapes beside those of the contract: `tokens`, levels as whole floats, (batch, rows, columns,
    groups, pixels of a group); `parameters`, what the head says of each group, (batch, rows,
    columns, groups, outputs).

    A family gives `build_trunk()`, a `Trunk`, and passes its constructor's arguments on.
    """

    likelihood = "exact"
    draws_by_pixel = True
    loss_names = ("loss", "bits_per_dim")
    # One pixel after the other is too little work for several cores, so each takes a batch.
    num_workers = os.cpu_count() or 1

    def __init__(
        self,
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
    ):
        super().__init__(image_shape, num_levels, num_classes, seed, **kwargs)
        distributions.check_pixel_distribution(pixel_distribution, num_levels)
        for name, value, least in (
            ("filters", filters, 1),
            ("num_blocks", num_blocks, 0),
            ("head_units", head_units, 1),
            ("num_mixtures", num_mixtures, 1),
            ("fourier_features", fourier_features, 0),
        ):
            if not isinstance(value, numbers.Integral) or value < least:
                raise ValueError(
                    f"{name} must be a whole number, at least {least}; received {value!r}."
                )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1); received {dropout!r}.")
        self.filters = filters
        self.num_blocks = num_blocks
        self.head_units = head_units
        self.token_shape = tuple(token_shape)
        self.orders = orders
        self.pixel_distribution = pixel_distribution
        self.num_mixtures = num_mixtures
        self.fourier_features = fourier_features
        self.dropout = dropout
        self._check_geometry()
        self._set_geometry()
        with self.own_dtype_policy():
            self.trunk = self.build_trunk()
            self.from_trunk = keras.layers.Dense(self.groups * head_units, name="from_trunk")
            if self.groups > 1:
                self.from_token = layers.MaskedDense(
                    head_units, self.groups, "A", use_bias=False, name="from_token"
                )
            self.to_parameters = layers.MaskedDense(
                self.outputs, self.groups, "B", name="to_parameters"
            )
            self._parameters_of(tf.zeros((1, *self.token_grid)), self._given(1, None, 0))
        self.build()

    def build_trunk(self) -> Trunk:
        """Returns the family's own part."""
        raise NotImplementedError

    # Geometry --------------------------------------------------------------------------------

    def _check_geometry(self) -> None:
        if len(self.image_shape) != 3 or self.image_shape[2] not in (1, 3):
            raise ValueError(
                "image_shape must be (height, width, channels) with 1 or 3 channels; "
                f"received {self.image_shape}."
            )
        height, width, _ = self.image_shape
        if len(self.token_shape) != 2 or min(self.token_shape) < 1:
            raise ValueError(
                f"token_shape must be (height, width) in pixels; received {self.token_shape}."
            )
        if height % self.token_shape[0] or width % self.token_shape[1]:
            raise ValueError(
                f"token_shape must divide the image; received {self.token_shape} for images of "
                f"{height} x {width} pixels. Use (1, 1) or divisors of both sides."
            )
        if self.pixel_distribution == "gaussian":
            raise ValueError(
                "pixel_distribution must have probabilities of levels, not densities; received "
                "'gaussian'. Use 'discretized_logistic_mixture'."
            )
        if self.fourier_features and math.prod(self._group_shape) > 1:
            raise ValueError(
                "fourier_features must be 0 where several pixels share a softmax and enter as "
                f"one-hot patterns; received {self.fourier_features} with pixel_distribution="
                f"'bernoulli' and token_shape={self.token_shape}."
            )
        if self.orders not in ORDERS:
            raise ValueError(f"orders must be one of {ORDERS}; received {self.orders!r}.")
        if self.orders > 2 and height != width:
            raise ValueError(
                f"orders={self.orders} turns images by 90 degrees, so they must be square; "
                f"received {height} x {width} pixels. Use orders=2."
            )

    @property
    def _group_shape(self) -> tuple[int, int]:
        """(height, width) in pixels of what shares a softmax, which stays small for two levels."""
        return group_shape(self.token_shape) if self.pixel_distribution == "bernoulli" else (1, 1)

    def _set_geometry(self) -> None:
        height, width, channels = self.image_shape
        (rows, columns), group = self.token_shape, self._group_shape
        self.groups = channels * rows * columns // math.prod(group)
        self.patterns = math.prod(group) > 1  # a group is one softmax over patterns of its pixels
        if self.patterns:
            self.outputs = 2 ** math.prod(group)
            self._codes = pattern_table(math.prod(group))
        else:
            self.outputs = distributions.outputs_per_channel(
                self.pixel_distribution, self.num_levels, self.num_mixtures
            )
        inner = self.outputs if self.patterns else 1 + 2 * self.fourier_features
        self.token_grid = (height // rows, width // columns, self.groups, math.prod(group))
        self.token_channels = self.groups * inner
        self.num_flags = (self.num_classes or 0) + (self.orders if self.orders > 1 else 0)
        places = np.arange(height * width)
        turned = [_turn(places.reshape(height, width), k).reshape(-1) for k in range(self.orders)]
        self._turns = np.array(turned, np.int32)  # (orders, places)
        self._turns_back = np.argsort(self._turns, 1).astype(np.int32)

    def _to_tokens(self, images: tf.Tensor) -> tf.Tensor:
        """(batch, height, width, channels) -> (batch, rows, columns, groups, pixels)."""
        (th, tw), (gh, gw) = self.token_shape, self._group_shape
        rows, columns, _, _ = self.token_grid
        split = tf.reshape(
            images, (-1, rows, th // gh, gh, columns, tw // gw, gw, self.image_shape[2])
        )
        split = tf.transpose(split, (0, 1, 4, 2, 5, 7, 3, 6))
        return tf.reshape(split, (-1, *self.token_grid))

    def _from_tokens(self, tokens: tf.Tensor) -> tf.Tensor:
        """(batch, rows, columns, groups, pixels, ...) -> (batch, height, width, channels, ...)."""
        (th, tw), (gh, gw) = self.token_shape, self._group_shape
        rows, columns, _, _ = self.token_grid
        channels, rest = self.image_shape[2], tokens.shape[5:]
        split = (-1, rows, columns, th // gh, tw // gw, channels, gh, gw, math.prod(rest))
        split = tf.transpose(tf.reshape(tokens, split), (0, 1, 3, 6, 2, 4, 7, 5, 8))
        return tf.reshape(split, (-1, *self.image_shape, *rest))

    def _oriented(self, images: tf.Tensor, order: tf.Tensor, back: bool = False) -> tf.Tensor:
        """Turns each image (batch, height, width, ...) into its pixel order, or back."""
        if self.orders == 1:
            return images
        tables = tf.constant(self._turns_back if back else self._turns)
        shape = tf.shape(images)
        flat = tf.reshape(images, (shape[0], self._turns.shape[1], -1))
        flat = tf.gather(flat, tf.gather(tables, order), axis=1, batch_dims=1)
        return tf.reshape(flat, shape)

    def _group_features(self, levels: tf.Tensor) -> tf.Tensor:
        """What the networks see of groups (..., pixels): (..., channels of a group).

        A pixel in [-1, 1], and the sine and cosine of its level at periods of 2, 4, 8, ... levels;
        or for patterns the one-hot of the pattern, as a product over its pixels, which has
        derivatives: prod_p (1 + s_p x_p) / 2 with s the pattern's own pixels.
        """
        x = pixels.levels_to_pixels(levels, self.num_levels)
        if self.patterns:
            signs = tf.constant(self._codes * 2.0 - 1.0, x.dtype)  # (patterns, pixels)
            x = tf.reduce_prod((1.0 + signs * x[..., None, :]) * 0.5, -1)
        elif self.fourier_features:
            periods = 2.0 ** np.arange(1, self.fourier_features + 1)
            angles = levels * tf.constant(2.0 * math.pi / periods, levels.dtype)
            x = tf.concat([x, tf.sin(angles), tf.cos(angles)], -1)
        return tf.cast(x, self.compute_dtype)

    def _token_features(self, tokens: tf.Tensor) -> tf.Tensor:
        """The features of a token's groups side by side: (..., groups, pixels) -> (..., n)."""
        x = self._group_features(tokens)
        return tf.reshape(x, (*layers.leading_shape(x, 2), self.token_channels))

    # Full pass -------------------------------------------------------------------------------

    def _given(self, batch, labels, order, seeds=None) -> Given:
        """Puts conditions together; `order` is one for all or (batch,)."""
        order = tf.broadcast_to(tf.cast(order, tf.int32), (batch,))
        flags = []
        if self.num_classes is not None:
            labels = tf.zeros((batch,), tf.int32) if labels is None else labels
            flags.append(tf.one_hot(labels, self.num_classes, dtype=self.compute_dtype))
        if self.orders > 1:
            flags.append(tf.one_hot(order, self.orders, dtype=self.compute_dtype))
        return Given(order, tf.concat(flags, 1) if flags else None, seeds)

    def _parameters_of(self, tokens: tf.Tensor, given: Given) -> tf.Tensor:
        """Returns the head's outputs for every group, teacher-forced, at least float32."""
        x = self._token_features(tokens)
        features = self.trunk(x, given)
        hidden = self.from_trunk(features)
        if self.groups > 1:
            hidden += self.from_token(x)
        return tf.reshape(
            tf.cast(self.to_parameters(keras.ops.elu(hidden)), self._output_dtype),
            (-1, *self.token_grid[:3], self.outputs),
        )

    @property
    def _output_dtype(self) -> str:
        return "float64" if self.compute_dtype == "float64" else "float32"

    def _group_log_probs(self, tokens: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """Returns log p of each group given those before, (batch, rows, columns, groups)."""
        if self.patterns:
            return distributions.categorical_log_prob(self._pattern_index(tokens), parameters)
        # A group is one channel of one pixel: the groups of a token are like an image's channels.
        flat = tf.reshape(
            parameters, (*layers.leading_shape(parameters, 2), self.groups * self.outputs)
        )
        return distributions.log_prob(
            self.pixel_distribution, flat, tokens[..., 0], self.num_levels
        )

    def _pattern_index(self, tokens: tf.Tensor) -> tf.Tensor:
        """Which pattern the pixels of each group make, int32 (..., groups)."""
        places = 2 ** np.arange(tokens.shape[-1])[::-1]
        return tf.cast(tf.reduce_sum(tokens * tf.constant(places, tokens.dtype), -1), tf.int32)

    def _levels(self, images: tf.Tensor) -> tf.Tensor:
        return tf.cast(pixels.images_to_levels(images, self.num_levels), self._output_dtype)

    def _log_prob(self, levels, labels, order, seeds=None) -> tf.Tensor:
        """log p(x read in `order`), nats, (batch,)."""
        tokens = self._to_tokens(self._oriented(levels, order))
        given = self._given(tf.shape(levels)[0], labels, order, seeds)
        log_probs = self._group_log_probs(tokens, self._parameters_of(tokens, given))
        return tf.reduce_sum(log_probs, (1, 2, 3))

    def _mixture_log_prob(self, images, labels) -> tf.Tensor:
        """log 1/K sum_k p(x read in order k), nats, (batch,)."""
        levels = self._levels(self.nearest_level(images))
        batch = tf.shape(levels)[0]

        def one_order(order, total):
            value = self._log_prob(levels, labels, tf.fill((batch,), order))
            both = tf.stack([total, tf.cast(value, total.dtype)])
            return order + 1, tf.reduce_logsumexp(both, 0)

        if self.orders == 1:
            return tf.cast(self._log_prob(levels, labels, tf.zeros((batch,), tf.int32)), tf.float32)
        start = tf.fill((batch,), tf.constant(-math.inf, self._output_dtype))
        _, total = tf.while_loop(
            lambda order, _: order < self.orders,
            one_order,
            (tf.constant(0), start),
            parallel_iterations=1,
            maximum_iterations=self.orders,
        )
        return tf.cast(total - math.log(self.orders), tf.float32)

    def losses_per_image(self, images, labels, seeds, training):
        """Returns -log p in nats per image, and the same in bits/dim, each (batch,).

        With several orders each image is read in one of them, picked by its seed: on average that
        is an upper bound of -log p of their mixture, and every order gets its share of training.
        """
        order = self._picked_order(seeds)
        dropout = noise.fold(seeds, DROPOUT_STREAM) if training and self.dropout else None
        nats = -tf.cast(self._log_prob(self._levels(images), labels, order, dropout), tf.float32)
        scale = pixels.bits_per_dim(-1.0, self.image_shape)
        return {"loss": nats, "bits_per_dim": nats * scale}

    def _picked_order(self, seeds: tf.Tensor) -> tf.Tensor:
        if self.orders == 1:
            return tf.zeros(tf.shape(seeds), tf.int32)
        return tf.cast(noise.uniform(seeds, (), ORDER_STREAM) * self.orders, tf.int32)

    def call(self, images, labels=None, training=False):
        """Returns the parameters of every pixel's distribution given the pixels before it.

        Read in the first order (rows from the top, each from the left). float (batch, height,
        width, channels, outputs): one logit of the higher level for "bernoulli", also inside a
        token; `num_levels` logits for "categorical"; three times `num_mixtures` for the mixture.
        """
        levels = self._levels(images)
        tokens = self._to_tokens(levels)
        batch = tf.shape(levels)[0]
        parameters = self._parameters_of(tokens, self._given(batch, labels, 0))
        if self.patterns:
            return self._from_tokens(self._pixel_logits(tokens, parameters)[..., None])
        return self._from_tokens(parameters[..., None, :])

    def _pixel_logits(self, tokens, parameters):
        """The logit of each pixel of a group given those before it, (..., groups, pixels)."""
        logits = []
        agreeing = tf.zeros_like(parameters)  # log 1 where a pattern agrees with the pixels so far
        for pixel in range(tokens.shape[-1]):
            on = tf.constant(self._codes[:, pixel] > 0)  # (patterns,)
            high = tf.reduce_logsumexp(parameters + tf.where(on, agreeing, -math.inf), -1)
            low = tf.reduce_logsumexp(parameters + tf.where(on, -math.inf, agreeing), -1)
            logits.append(high - low)
            same = tf.equal(tokens[..., pixel, None] > 0.5, on)
            agreeing = tf.where(same, agreeing, -math.inf)
        return tf.stack(logits, -1)

    # Drawing ---------------------------------------------------------------------------------

    def _draw(self, seeds, labels, order, temperature, kept=None, mask=None) -> tf.Tensor:
        """Draws levels (batch, height, width, channels), one group after the other.

        Args:
            seeds: int64 (batch,).
            labels: int64 (batch,) or None.
            order: int32 (batch,), the pixel order of each image.
            temperature: Scales the noise; 0 takes the likeliest level.
            kept: Levels to keep where `mask` says so, (batch, height, width, channels).
            mask: bool, the same shape.
        """
        rows, columns, groups, _ = self.token_grid
        batch, trunk = tf.shape(seeds)[0], self.trunk
        given = self._given(batch, labels, order)
        drawn_per_group = 2 if self.pixel_distribution == "discretized_logistic_mixture" else 1
        noises = noise.uniform(seeds, (rows, columns, groups, drawn_per_group), PIXEL_STREAM)
        noises = tf.transpose(tf.cast(noises, self._output_dtype), (1, 2, 0, 3, 4))
        forced = ()
        if mask is not None:
            forced = tuple(
                tf.transpose(self._to_tokens(self._oriented(x, order)), (1, 2, 0, 3, 4))
                for x in (kept, tf.cast(mask, self._output_dtype))
            )

        kernels = trunk.step_kernels()

        def draw_row(row, cache, image):
            terms, carry, row_kept = trunk.begin_row(cache, row, given)
            inputs = (noises[row], *(x[row] for x in forced))

            def draw_column(column, carry, written):
                own_terms = tuple(term[column] for term in terms)
                feature, columns_, recorded = trunk.step(carry, own_terms, kernels)
                token = self._draw_token(feature, temperature, *(x[column] for x in inputs))
                seen = self._token_features(token)
                carry = trunk.advance(carry, columns_, seen)
                values = (token, seen, *recorded)
                written = tuple(
                    array.write(column, value) for array, value in zip(written, values, strict=True)
                )
                return column + 1, carry, written

            dtypes = (self._output_dtype, *[self.compute_dtype] * (1 + trunk.num_recorded))
            arrays = tuple(tf.TensorArray(dtype, columns) for dtype in dtypes)
            _, _, written = tf.while_loop(
                lambda column, *_: column < columns,
                draw_column,
                (tf.constant(0), carry, arrays),
                maximum_iterations=columns,
                parallel_iterations=1,
            )
            tokens, seen, *recorded = (array.stack() for array in written)
            cache = trunk.end_row(cache, row_kept, tuple(recorded), seen, given)
            return row + 1, cache, image.write(row, tokens)

        _, _, image = tf.while_loop(
            lambda row, *_: row < rows,
            draw_row,
            (tf.constant(0), trunk.start(given), tf.TensorArray(self._output_dtype, rows)),
            maximum_iterations=rows,
            parallel_iterations=1,
        )
        tokens = tf.transpose(image.stack(), (2, 0, 1, 3, 4))
        return self._oriented(self._from_tokens(tokens), order, back=True)

    def _draw_token(self, feature, temperature, noises, kept=None, mask=None) -> tf.Tensor:
        """Draws a token group by group from its feature: levels (batch, groups, pixels)."""
        from_trunk = self.from_trunk(feature)
        hidden, seen, levels = [], [], []
        for group in range(self.groups):
            own = from_trunk[:, group * self.head_units : (group + 1) * self.head_units]
            if seen:
                own += self.from_token.group(tf.concat(seen, -1), group)
            hidden.append(keras.ops.elu(own))
            parameters = self.to_parameters.group(tf.concat(hidden, -1), group)
            forced = () if mask is None else (kept[:, group], mask[:, group] > 0.5)
            level = self._draw_group(
                tf.cast(parameters, self._output_dtype), temperature, noises[:, group], *forced
            )
            levels.append(level)
            seen.append(self._group_features(level))
        return tf.stack(levels, 1)

    def _draw_group(self, parameters, temperature, noises, kept=None, mask=None) -> tf.Tensor:
        """Draws the pixels of one group, (batch, pixels), from (batch, outputs)."""
        first = noises[:, 0]
        if self.patterns:
            codes = tf.constant(self._codes, parameters.dtype)  # (patterns, pixels)
            if mask is not None:
                disagrees = mask[:, None] & (codes != kept[:, None])
                parameters = tf.where(tf.reduce_any(disagrees, -1), -math.inf, parameters)
            return tf.gather(codes, _pick(parameters, temperature, first))
        if self.pixel_distribution == "bernoulli":
            logit = parameters[:, 0]
            high = first < tf.sigmoid(logit / temperature) if temperature else logit > 0
            level = tf.cast(high, parameters.dtype)
        elif self.pixel_distribution == "categorical":
            level = tf.cast(_pick(parameters, temperature, first), parameters.dtype)
        else:
            logits, loc, scale = distributions.mixture_parameters(parameters, self.num_levels, 1)
            logits, loc, scale = (x[:, 0] for x in (logits, loc, scale))  # (batch, mixtures)
            which = _pick(logits, temperature, first)
            loc, scale = (tf.gather(x, which, batch_dims=1) for x in (loc, scale))
            second = noises[:, 1]
            logistic = tf.math.log(second) - tf.math.log1p(-second)
            level = loc + temperature * scale * logistic
            level = tf.clip_by_value(tf.round(level), 0.0, self.num_levels - 1.0)
        level = level[:, None]
        return level if mask is None else tf.where(mask, kept, level)

    # Endpoints -------------------------------------------------------------------------------

    def endpoints(self, temperature=1.0, num_samples=1):
        """Returns sample, complete and log_likelihood."""
        images, seed, labels = (self.specs[name] for name in ("images", "seed", "labels"))
        mask = {"mask": tf.TensorSpec((None, *self.image_shape[:2], 1), tf.bool, "mask")}

        def sample(seed, labels=None):
            order = self._picked_order(seed)
            if temperature == 0:  # no noise at all, in the order either
                order = tf.zeros_like(order)
            levels = self._draw(seed, labels, order, temperature)
            return {"images": pixels.levels_to_images(levels, self.num_levels)}

        def complete(images, mask, seed, labels=None):
            return {"images": self._complete(images, mask, seed, labels, temperature)}

        def log_likelihood(images, labels=None):
            return {"log_likelihood": self._mixture_log_prob(images, labels)}

        return {
            "sample": (sample, seed | labels),
            "complete": (complete, images | mask | seed | labels),
            "log_likelihood": (log_likelihood, images | labels),
        }

    def batch_size_for(self, count: int) -> int:
        """Returns an equal share for each core."""
        return min(max(1, -(-count // self.num_workers)), ROWS["sample"])

    def why_not(self, name: str) -> str:
        """Returns one sentence on why the family has no such endpoint."""
        if name in ("encode", "decode", "reconstruct"):
            return "it writes the density of the pixels down without latents."
        return super().why_not(name)

    def _complete(self, images, mask, seeds, labels, temperature):
        levels = self._levels(self.nearest_level(images))
        mask = tf.broadcast_to(mask, tf.shape(levels))
        order = self._order_for(mask)
        drawn = self._draw(seeds, labels, order, temperature, levels, mask)
        return pixels.levels_to_images(drawn, self.num_levels)

    def _order_for(self, mask: tf.Tensor) -> tf.Tensor:
        """The order in which the first hidden pixel comes last, int32 (batch,)."""
        batch, places = tf.shape(mask)[0], math.prod(self.token_grid)
        first = []
        for order in range(self.orders):
            turned = self._to_tokens(self._oriented(mask, tf.fill((batch,), order)))
            hidden = tf.cast(tf.reshape(tf.logical_not(turned), (batch, places)), tf.int32)
            none = 1 - tf.reduce_max(hidden, 1)
            first.append(tf.argmax(hidden, 1, tf.int32) + none * places)
        return tf.argmax(tf.stack(first, 1), 1, tf.int32)

    def complete(
        self,
        images: np.ndarray,
        mask: np.ndarray,
        *,
        labels=None,
        seed=None,
        temperature: float = 1.0,
        batch_size: int | None = None,
        verbose: int = 0,
    ) -> np.ndarray:
        """Keeps the pixels that `mask` marks and draws the others, in order.

        The draw is from the exact conditional p(hidden | kept) where the kept pixels come first
        in the order of the pixels, as the upper half of an image does; elsewhere a kept pixel is
        looked at only by the hidden ones after it. Of several orders, each image takes the one in
        which its first hidden pixel comes last, and the conditional is that order's own. Inside a
        group of pixels that share a softmax, the softmax is restricted to patterns that agree.

        Args:
            images: uint8 (batch, height, width, channels); hidden pixels are not looked at.
            mask: bool (batch, height, width, 1), True where a pixel is kept.
            labels: Classes, for a conditional model.
            seed: As in `sample`.
            temperature: As in `sample`.
            batch_size: Images per pass; by default as many as is fast, at most 250.
            verbose: 1 shows a progress bar.

        Returns:
            uint8 (batch, height, width, channels).

        Raises:
            ValueError: Images, mask or labels that do not fit.
        """
        images, labels = self.check(images, labels)
        mask = np.asarray(mask)
        wanted = (images.shape[0], *self.image_shape[:2], 1)
        if mask.dtype != bool or mask.shape != wanted:
            raise ValueError(
                f"mask must be bool of shape (batch, height, width, 1) = {wanted}, True where a "
                f"pixel is kept; received dtype {mask.dtype} and shape {mask.shape}."
            )
        checks.finite(0, temperature=temperature)
        seeds = self.image_seeds(images.shape[0], seed)
        return self._run(
            "complete",
            {"images": images, "mask": mask, "seed": seeds, "labels": labels},
            self.batch_size_for(images.shape[0]) if batch_size is None else batch_size,
            verbose,
            temperature=float(temperature),
            jit_compile=self.jit_sampling,
        )

    def extra_likelihoods(
        self, images: np.ndarray, labels: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Returns log p of the images in the first order, if the model has several."""
        if self.orders == 1:
            return {}
        size = self.batch_size_for(len(images))
        parts = [
            self.log_likelihood_map(
                images[start : start + size],
                labels=None if labels is None else labels[start : start + size],
            ).sum((1, 2, 3), dtype=np.float64)
            for start in range(0, len(images), size)
        ]
        return {"in the first order": np.concatenate(parts)}

    def log_likelihood_map(self, images: np.ndarray, *, labels=None, order: int = 0) -> np.ndarray:
        """Returns log p of each pixel given those before it, nats.

        float32 (batch, height, width, channels); its sum is the log-likelihood in that order.

        Args:
            images: uint8 (batch, height, width, channels).
            labels: Classes, for a conditional model.
            order: Which of the model's `orders` to read the pixels in.

        Raises:
            ValueError: Images or labels that do not fit, or no such order.
        """
        if order not in range(self.orders):
            raise ValueError(f"order must lie in [0, {self.orders - 1}]; received {order!r}.")
        images, labels = self.check(images, labels)
        batch = images.shape[0]
        which = tf.fill((batch,), order)
        tokens = self._to_tokens(self._oriented(self._levels(images), which))
        parameters = self._parameters_of(tokens, self._given(batch, labels, which))
        if self.patterns:
            logits = self._pixel_logits(tokens, parameters)
            values = -tf.nn.softplus(tf.where(tokens > 0.5, -logits, logits))
        else:
            values = self._group_log_probs(tokens, parameters)[..., None]
        values = self._oriented(self._from_tokens(values), which, back=True)
        return tf.cast(values, tf.float32).numpy()


def group_shape(token_shape: tuple[int, int]) -> tuple[int, int]:
    """Returns the (height, width) of the groups of a token: the squarest with the most pixels.

    >>> group_shape((2, 4)), group_shape((1, 1)), group_shape((2, 2)), group_shape((1, 8))
    ((2, 2), (1, 1), (2, 2), (1, 4))
    """
    fitting = [
        (h, w)
        for h in range(1, LARGEST_GROUP + 1)
        for w in range(1, LARGEST_GROUP + 1)
        if h * w <= LARGEST_GROUP and token_shape[0] % h == 0 and token_shape[1] % w == 0
    ]
    return max(fitting, key=lambda shape: (shape[0] * shape[1], -abs(shape[0] - shape[1]), shape))


def pattern_table(size: int) -> np.ndarray:
    """Returns every pattern of `size` binary pixels, (2^size, size), the first pixel slowest.

    >>> pattern_table(2).astype(int).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    places = np.arange(size)[::-1]
    return ((np.arange(2**size)[:, None] >> places) & 1).astype("float32")


def _turn(places: np.ndarray, order: int) -> np.ndarray:
    """The places (height, width) in the sequence in which an order reads them, as a new image."""
    if order & 2:
        places = places.T
    if order & 4:
        places = places[:, ::-1]
    return places[::-1, ::-1] if order & 1 else places


def _pick(logits: tf.Tensor, temperature: float, noises: tf.Tensor) -> tf.Tensor:
    """Draws from softmax(logits / temperature) by its distribution function, int32 (batch,)."""
    if not temperature:
        return tf.argmax(logits, -1, tf.int32)
    logits = tf.cast(logits, tf.float64) / temperature
    reached = tf.cumsum(tf.nn.softmax(logits), -1)  # (batch, outcomes)
    # Times the total, so that rounding never picks an outcome of probability 0 at the end.
    passed = tf.cast(noises, tf.float64)[:, None] * reached[:, -1:] > reached
    return tf.reduce_sum(tf.cast(passed, tf.int32), -1)
