"""Sampling from a pixel model, one token after another, with the activations of the past cached."""

import math

import tensorflow as tf

from tfgen import distributions, noise
from tfgen.models.guidance import Belief, Guide
from tfgen.models.token_networks import TokenModel

__all__ = ["PIXEL_STREAM", "Sampler"]

PIXEL_STREAM = 0  # stream of an image's seed that its pixels are drawn from


class Sampler:
    """Draws images from a model over tokens.

    Two nested loops go over the rows of tokens and over the columns of a row:

        . . . . . .
        # # # # # #      the `rows_above` rows that the trunk's first layer looks at
        # # # # # #
        . # # o          the `num_left` tokens to the left, and the token that is drawn next

    Tokens enter the network as features, in the layout (columns, batch, channels). With guidance
    the network reads each image as one of every class, and what is drawn adds to a belief about
    the classes.

    Args:
        model: TokenModel. The model.
        temperature: float. Scales the noise; 0 takes the likeliest level. Defaults to 1.
    """

    def __init__(self, model: TokenModel, temperature: float = 1.0):
        self.model, self.temperature = model, temperature
        self.guide = Guide(model) if model.guidance else None

    def draw(
        self,
        seeds: tf.Tensor,
        labels: tf.Tensor | None,
        reading: tf.Tensor,
        kept: tf.Tensor | None = None,
        mask: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns levels (batch, height, width, channels).

        Args:
            seeds: int64 (batch,).
            labels: int64 (batch,), or None.
            reading: int32 (batch,), the way in which each image is read.
            kept: Levels to keep where `mask` is True, (batch, height, width, channels).
            mask: bool, the same shape.
        """
        model, grid, trunk = self.model, self.model.token_grid, self.model.trunk
        if self.guide is None:
            conditions, belief = model.conditions(tf.shape(seeds)[0], labels, reading), ()
        else:
            conditions, belief = self.guide.conditions(reading), self.guide.start(labels)
        kernels = trunk.step_kernels()
        inputs = [self.uniforms(seeds)]  # of `draw_token`, in its order
        if mask is not None:
            for x in (kept, tf.cast(mask, model.output_dtype)):
                inputs.append(grid.to_tokens(grid.reorder(x, reading)))
        # (rows, columns, batch, groups, ...)
        inputs = [tf.transpose(x, (1, 2, 0, 3, 4)) for x in inputs]

        def draw_row(row, cache, above, belief, image):
            begun = trunk.begin_row(cache, above, row, conditions)
            tokens, seen, recorded, belief = self._draw_row(
                begun, kernels, [x[row] for x in inputs], belief
            )
            cache = trunk.end_row(cache, begun.known, recorded, seen, conditions)
            above = tf.concat([above, seen[None]], 0)[1:]
            return row + 1, cache, above, belief, image.write(row, tokens)

        above = (trunk.rows_above, grid.columns, tf.shape(seeds)[0], model.token_channels)
        *_, image = tf.while_loop(
            lambda row, *_: row < grid.rows,
            draw_row,
            (
                tf.constant(0),
                trunk.start(conditions),
                self._for_network(tf.zeros(above, model.compute_dtype), 2),
                belief,
                tf.TensorArray(model.output_dtype, grid.rows),
            ),
            maximum_iterations=grid.rows,
            parallel_iterations=1,
        )
        tokens = tf.transpose(image.stack(), (2, 0, 1, 3, 4))
        return grid.restore(grid.from_tokens(tokens), reading)

    def _for_network(self, x: tf.Tensor, axis: int = 0) -> tf.Tensor:
        """Repeats the features of images once for every class that the network reads them as."""
        return x if self.guide is None else self.guide.copies(x, axis)

    def _draw_row(
        self, begun, kernels, inputs, belief
    ) -> tuple[tf.Tensor, tf.Tensor, tuple, Belief | tuple]:
        """Draws a row; returns its tokens, their features, what the trunk recorded, the belief."""
        model, trunk = self.model, self.model.trunk
        columns = model.token_grid.columns

        def draw_column(column, state, left, belief, written):
            terms = tf.nest.map_structure(lambda term: term[column], begun.terms)
            result = trunk.step(state, left, terms, kernels)
            token, belief = self.draw_token(result.features, belief, *(x[column] for x in inputs))
            seen = self._for_network(model.token_features(token))
            values = (token, seen, *result.recorded)
            written = tuple(
                array.write(column, value) for array, value in zip(written, values, strict=True)
            )
            return column + 1, result.state, (*left, seen)[1:], belief, written

        nothing = tf.zeros((tf.shape(inputs[0])[1], model.token_channels), model.compute_dtype)
        nothing = self._for_network(nothing)
        dtypes = (model.output_dtype, *[model.compute_dtype] * (1 + trunk.num_recorded))
        *_, belief, written = tf.while_loop(
            lambda column, *_: column < columns,
            draw_column,
            (
                tf.constant(0),
                begun.state,
                (nothing,) * trunk.num_left,
                belief,
                tuple(tf.TensorArray(dtype, columns) for dtype in dtypes),
            ),
            maximum_iterations=columns,
            parallel_iterations=1,
        )
        tokens, seen, *recorded = (array.stack() for array in written)
        return tokens, seen, tuple(recorded), belief

    def uniforms(self, seeds: tf.Tensor) -> tf.Tensor:
        """Returns the noise behind each group, (batch, rows, columns, groups, 1 or 2)."""
        model = self.model
        shape = (*model.token_grid.shape[:3], distributions.num_uniforms(model.pixel_distribution))
        return tf.cast(noise.uniform(seeds, shape, PIXEL_STREAM), model.output_dtype)

    def draw_token(
        self,
        features: tf.Tensor,
        belief: Belief | tuple,
        uniforms: tf.Tensor,
        kept: tf.Tensor | None = None,
        mask: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, Belief | tuple]:
        """Draws a token group by group from its features.

        Returns:
            Levels (batch, groups, group_size), and the belief after them.
        """
        next_parameters, seen, levels = self.model.head_of(features), [], []
        for group in range(self.model.token_grid.groups):
            fixed = () if mask is None else (kept[:, group], mask[:, group] > 0.5)
            parameters = next_parameters(seen)
            if self.guide is None:
                level = self.draw_group(parameters, uniforms[:, group], *fixed)
            else:
                log_probs = self.guide.of_each_class(parameters)
                guided = self.guide.guided(log_probs, belief)
                level = self.draw_group(guided, uniforms[:, group], *fixed)
                belief = self.guide.learn(belief, log_probs, level)
            levels.append(level)
            seen.append(self._for_network(self.model.group_features(level)))
        return tf.stack(levels, 1), belief

    def draw_group(
        self,
        parameters: tf.Tensor,
        uniforms: tf.Tensor,
        kept: tf.Tensor | None = None,
        mask: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Draws the pixels of one group, (batch, group_size), from (batch, outputs)."""
        model = self.model
        if model.uses_patterns:
            patterns = tf.constant(model.patterns, parameters.dtype)  # (patterns, pixels)
            if mask is not None:
                disagrees = mask[:, None] & (patterns != kept[:, None])
                never = tf.constant(-math.inf, parameters.dtype)
                parameters = tf.where(tf.reduce_any(disagrees, -1), never, parameters)
            return tf.gather(
                patterns,
                distributions.draw_categorical(parameters, uniforms[:, 0], self.temperature),
            )
        level = distributions.draw(
            model.pixel_distribution, parameters, uniforms, model.num_levels, self.temperature
        )[:, None]
        return level if mask is None else tf.where(mask, kept, level)
