"""The pixel distributions as TensorFlow Probability objects, for users who want to work with them.

Their formulas are those of `tfgen.distributions.levels`.
"""

import tensorflow as tf
import tensorflow_probability as tfp

from tfgen.distributions import levels

tfd = tfp.distributions

__all__ = ["DiscretizedLogistic", "pixel_distribution"]


class DiscretizedLogistic(tfd.Distribution):
    """A logistic whose mass in each unit bin goes to the bin's level; the end bins are open.

    The formula is that of `tfgen.distributions.levels.logistic_log_prob`.

    Args:
        loc: float. Centres in levels, any shape.
        scale: float. Scales in levels, positive, broadcast against `loc`.
        num_levels: int. Levels 0 .. num_levels - 1.
    """

    def __init__(
        self,
        loc: tf.Tensor,
        scale: tf.Tensor,
        num_levels: int,
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "DiscretizedLogistic",
    ):
        parameters = dict(locals())
        self._loc = tf.convert_to_tensor(loc)
        self._scale = tf.convert_to_tensor(scale)
        self._num_levels = num_levels
        super().__init__(
            dtype=self._loc.dtype,
            reparameterization_type=tfd.NOT_REPARAMETERIZED,
            validate_args=validate_args,
            allow_nan_stats=allow_nan_stats,
            parameters=parameters,
            name=name,
        )

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        properties = tfp.util.ParameterProperties
        return {"loc": properties(), "scale": properties()}

    def _event_shape(self):
        return tf.TensorShape([])

    def _event_shape_tensor(self):
        return tf.constant([], tf.int32)

    def _log_prob(self, level):
        return levels.logistic_log_prob(level, self._loc, self._scale, self._num_levels)

    def _mean(self):
        return levels.logistic_mean(self._loc, self._scale, self._num_levels)

    def _sample_n(self, n, seed=None):
        shape = tf.concat([[n], self._batch_shape_tensor()], 0)
        drawn = tfd.Logistic(tf.zeros([], self.dtype), 1.0).sample(shape, seed=seed)
        return tf.clip_by_value(
            tf.round(self._loc + self._scale * drawn), 0.0, self._num_levels - 1.0
        )


def pixel_distribution(
    name: str,
    parameters: tf.Tensor,
    num_levels: int,
    channels: int,
    log_scale: tf.Tensor | None = None,
) -> tfd.Distribution:
    """Builds the distribution of an image from the output of a network.

    Args:
        name: str. One of `tfgen.distributions.PIXEL_DISTRIBUTIONS`.
        parameters: float (..., height, width, channels * outputs_per_channel).
        num_levels: int. Levels of a pixel.
        channels: int. Channels of a pixel.
        log_scale: For "gaussian": scalar, log of the standard deviation in pixels ([-1, 1]).

    Returns:
        A distribution over levels, float32 with event shape (height, width, channels);
        `log_prob` is in nats per image.
    """
    parameters = tf.cast(parameters, tf.float32)
    if name == "bernoulli":
        per_pixel = tfd.Bernoulli(logits=parameters, dtype=tf.float32)
    elif name == "categorical":
        logits = levels.split_channels(parameters, num_levels)
        per_pixel = tfd.Categorical(logits=logits, dtype=tf.float32)
    elif name == "gaussian":
        per_pixel = tfd.Normal(*levels.gaussian_parameters(parameters, num_levels, log_scale))
    else:
        logits, loc, scale = levels.mixture_parameters(parameters, num_levels, channels)
        per_pixel = tfd.MixtureSameFamily(
            tfd.Categorical(logits=logits), DiscretizedLogistic(loc, scale, num_levels)
        )
    return tfd.Independent(per_pixel, reinterpreted_batch_ndims=3)
