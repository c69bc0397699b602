"""Distributions of a pixel given a network's output, as TensorFlow Probability distributions.

Every one of them is over *levels* (float32, 0 .. num_levels - 1), so their log probabilities are
nats of the same quantity and can be compared:

    "bernoulli"                     two levels, one logit
    "categorical"                   num_levels logits
    "discretized_logistic_mixture"  a mixture of logistics, each level taking the mass of its bin
                                    (Salimans et al., "PixelCNN++", 2017)
    "gaussian"                      density at the level times the bin's width 1: the mean square
                                    error of the lecture, up to scale and constant

This module imports TFP (about a second), so models import it inside their methods.
"""

import math

import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions

__all__ = ["DiscretizedLogistic", "images_mean", "mixture_parameters", "pixel_distribution"]

# Of a logistic in pixels. Narrower than 1/4 of an 8-bit bin gains nothing; wider than ten times the
# range is flat within it, and the mean would be lost to rounding.
MIN_LOG_SCALE, MAX_LOG_SCALE = -7.0, 3.0


class DiscretizedLogistic(tfd.Distribution):
    """A logistic whose mass in each unit bin goes to the bin's level; the end bins are open.

        P(k) = F(k + 1/2) - F(k - 1/2),   F(t) = sigmoid((t - loc) / scale)
        log P(k) = -softplus(a) - softplus(-b) + log(1 - exp(-1 / scale))

    with a = (k - 1/2 - loc) / scale and b = (k + 1/2 - loc) / scale; the second line has no
    cancellation. At level 0 the first term and at the top level the second one is 0, and at both
    the third.

    Args:
        loc: Centres in levels, any shape.
        scale: Scales in levels, positive, broadcast against `loc`.
        num_levels: Levels 0 .. num_levels - 1.
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
        inverse = 1.0 / self._scale
        centred = level - self._loc
        below = -tf.nn.softplus((centred - 0.5) * inverse)  # log P(above the lower edge)
        above = -tf.nn.softplus(-(centred + 0.5) * inverse)  # log P(below the upper edge)
        # 1 - exp(-x) = 2 t / (1 + t) with t = tanh(x / 2), exact for small x; ONNX has no expm1.
        half = tf.tanh(0.5 * inverse)
        width = tf.math.log(2.0 * half / (1.0 + half))
        lowest, highest = level < 0.5, level > self._num_levels - 1.5
        return tf.where(lowest, above, tf.where(highest, below, below + above + width))

    def _mean(self):
        """The mean of the logistic clipped to [0, L - 1], within half a level of the exact one.

        E clip(t, 0, m) = int_0^m (1 - F(t)) dt = scale (softplus(loc/scale) -
        softplus((loc - m)/scale)).
        """
        top = self._num_levels - 1.0
        ratio = self._loc / self._scale
        return self._scale * (tf.nn.softplus(ratio) - tf.nn.softplus(ratio - top / self._scale))

    def _sample_n(self, n, seed=None):
        shape = tf.concat([[n], self._batch_shape_tensor()], 0)
        drawn = tfd.Logistic(tf.zeros([], self.dtype), 1.0).sample(shape, seed=seed)
        return tf.clip_by_value(
            tf.round(self._loc + self._scale * drawn), 0.0, self._num_levels - 1.0
        )


class OneLogitBernoulli(tfd.Bernoulli):
    """TFP's Bernoulli for 0 and 1 with half the arithmetic: log p = level * logit - softplus.

    TFP takes the softplus of both outcomes, which a bound with thousands of samples feels.
    """

    def _log_prob(self, level):
        logits = self.logits_parameter()
        return level * logits - tf.nn.softplus(logits)


def pixel_distribution(
    name: str,
    parameters: tf.Tensor,
    num_levels: int,
    channels: int,
    log_scale: tf.Tensor | None = None,
) -> tfd.Distribution:
    """Builds the distribution of an image from a decoder's output.

    Args:
        name: One of the four names at the head of this module.
        parameters: float (..., height, width, channels * layers.outputs_per_channel).
        num_levels: Levels of a pixel.
        channels: Channels of a pixel.
        log_scale: For "gaussian": scalar, log of the standard deviation in pixels ([-1, 1]).

    Returns:
        A distribution over levels, float32 with event shape (height, width, channels);
        `log_prob` is in nats per image.
    """
    parameters = tf.cast(parameters, tf.float32)
    half_range = (num_levels - 1) / 2.0
    if name == "bernoulli":
        single = OneLogitBernoulli(logits=parameters, dtype=tf.float32)
    elif name == "categorical":
        single = tfd.Categorical(logits=_split(parameters, num_levels), dtype=tf.float32)
    elif name == "gaussian":
        # Below a standard deviation of 1/sqrt(2 pi) levels the bin's "probability" would pass 1.
        scale = tf.maximum(tf.exp(log_scale) * half_range, (2.0 * math.pi) ** -0.5)
        single = tfd.Normal((parameters + 1.0) * half_range, scale)
    else:
        logits, loc, scale = mixture_parameters(parameters, num_levels, channels)
        single = tfd.MixtureSameFamily(
            tfd.Categorical(logits=logits),
            DiscretizedLogistic(loc, scale, num_levels),
        )
    return tfd.Independent(single, reinterpreted_batch_ndims=3)


def mixture_parameters(
    parameters: tf.Tensor, num_levels: int, channels: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns logits, centres and scales of a logistic mixture from a network's output.

    Args:
        parameters: float (..., channels * 3 * mixtures).
        num_levels: Levels of a pixel.
        channels: Channels of a pixel.

    Returns:
        Three tensors (..., channels, mixtures), the last two in levels.
    """
    half_range = (num_levels - 1) / 2.0
    logits, loc, raw_scale = tf.unstack(_split(parameters, 3), axis=-1)
    num_mixtures = parameters.shape[-1] // (3 * channels)
    logits, loc, raw_scale = (_split(t, num_mixtures) for t in (logits, loc, raw_scale))
    # Spread the components over the range at the start, so that they take different roles.
    loc = loc + tf.cast(tf.linspace(-1.0, 1.0, num_mixtures), loc.dtype)
    scale = tf.exp(tf.clip_by_value(raw_scale - 2.0, MIN_LOG_SCALE, MAX_LOG_SCALE))
    return logits, (loc + 1.0) * half_range, scale * half_range


def _split(parameters: tf.Tensor, inner: int) -> tf.Tensor:
    """(..., channels * inner) -> (..., channels, inner)."""
    shape = tf.shape(parameters)
    outer = parameters.shape[-1] // inner
    split = tf.reshape(parameters, tf.concat([shape[:-1], [outer, inner]], 0))
    split.set_shape((*parameters.shape[:-1], outer, inner))
    return split


def images_mean(distribution: tfd.Distribution, num_levels: int) -> tf.Tensor:
    """Returns the mean of a pixel distribution in grey values, float32 in [0, 255]."""
    base = distribution.distribution
    if isinstance(base, tfd.Categorical):
        levels = tf.range(num_levels, dtype=tf.float32)
        mean = tf.reduce_sum(base.probs_parameter() * levels, -1)
    elif hasattr(base, "components_distribution"):
        # TFP asks for shapes as tensors here, by an operation that ONNX lacks.
        weights = tf.nn.softmax(base.mixture_distribution.logits_parameter())
        mean = tf.reduce_sum(weights * base.components_distribution.mean(), -1)
    else:
        mean = base.mean()
    return tf.clip_by_value(mean, 0.0, num_levels - 1.0) * (255.0 / (num_levels - 1))
