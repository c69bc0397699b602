"""The four pixel distributions as formulas: parameters, log probabilities, means and draws.

Shapes are static wherever the input's are, and the operations are plain ones, so that the graphs
also convert to formats that know no TensorFlow Probability.
"""

import math

import numpy as np
import tensorflow as tf

from tfgen import checks, pixels, portable
from tfgen.layers.basic import leading_shape

__all__ = [
    "PIXEL_DISTRIBUTIONS",
    "categorical_log_prob",
    "check_pixel_distribution",
    "draw",
    "draw_categorical",
    "gaussian_parameters",
    "log_prob",
    "logistic_log_prob",
    "logistic_mean",
    "mean_images",
    "mixture_parameters",
    "num_uniforms",
    "outputs_per_channel",
    "split_channels",
]

PIXEL_DISTRIBUTIONS = ("bernoulli", "categorical", "discretized_logistic_mixture", "gaussian")
# Limits of the log scale of a logistic in pixels. Below 1/4 of an 8-bit bin nothing is gained. A
# standard deviation above a fifth of the range was never needed; without the limit, a pixel model
# that sees something odd predicts a flat distribution, draws noise, and sees only noise after it.
MIN_LOG_SCALE, MAX_LOG_SCALE = -7.0, -1.5
# The narrowest Gaussian, in levels: its densities at all levels sum to 1.00003 at most.
MIN_GAUSSIAN_SCALE = 0.75


def check_pixel_distribution(name: str, num_levels: int) -> None:
    """Raises ValueError unless the distribution exists and fits the number of levels."""
    checks.one_of("pixel_distribution", name, PIXEL_DISTRIBUTIONS)
    if name == "bernoulli" and num_levels != 2:
        raise ValueError(
            f"pixel_distribution 'bernoulli' needs num_levels=2; received {num_levels}. "
            "Use 'discretized_logistic_mixture' for 256 levels."
        )


def outputs_per_channel(pixel_distribution: str, num_levels: int, num_mixtures: int) -> int:
    """Returns how many network outputs a channel of a pixel needs for its distribution."""
    return {
        "bernoulli": 1,
        "categorical": num_levels,
        "discretized_logistic_mixture": 3 * num_mixtures,
        "gaussian": 1,
    }[pixel_distribution]


# Parameters ----------------------------------------------------------------------------------


def split_channels(parameters: tf.Tensor, inner: int) -> tf.Tensor:
    """Returns (..., channels * inner) as (..., channels, inner)."""
    return tf.reshape(
        parameters, (*leading_shape(parameters, 1), parameters.shape[-1] // inner, inner)
    )


def mixture_parameters(
    parameters: tf.Tensor, num_levels: int, channels: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns logits, centres and scales of a logistic mixture from the output of a network.

    Args:
        parameters: float (..., channels * 3 * mixtures).
        num_levels: int. Levels of a pixel.
        channels: int. Channels of a pixel.

    Returns:
        Three tensors (..., channels, mixtures), the last two in levels.
    """
    half_range, parameters = (num_levels - 1) / 2.0, tf.convert_to_tensor(parameters)
    logits, loc, raw_scale = tf.unstack(split_channels(parameters, 3), axis=-1)
    num_mixtures = parameters.shape[-1] // (3 * channels)
    logits, loc, raw_scale = (split_channels(x, num_mixtures) for x in (logits, loc, raw_scale))
    # Spread the components over the range at the start, so that they take different roles.
    loc = loc + tf.constant(np.linspace(-1.0, 1.0, num_mixtures), loc.dtype)
    scale = tf.exp(_clipped(raw_scale - 2.0, MIN_LOG_SCALE, MAX_LOG_SCALE))
    return logits, pixels.pixels_to_levels(loc, num_levels), scale * half_range


def gaussian_parameters(
    parameters: tf.Tensor, num_levels: int, log_scale: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns mean and scale in levels of a Gaussian from its mean and log scale in pixels."""
    half_range = (num_levels - 1) / 2.0
    log_scale = tf.cast(log_scale, parameters.dtype)  # of a float64 model, whose means are float32
    scale = tf.maximum(tf.exp(log_scale) * half_range, MIN_GAUSSIAN_SCALE)
    if portable.has_gradients():
        # Far below its floor exp has no slope left; it gets that of right below the floor.
        low = math.log(MIN_GAUSSIAN_SCALE / half_range) - 1e-3
        near = _led_back(log_scale, tf.maximum(log_scale, low), low, math.inf)
        scale = _led_back(tf.exp(near) * half_range, scale, MIN_GAUSSIAN_SCALE, math.inf)
    return pixels.pixels_to_levels(parameters, num_levels), scale


def _clipped(x: tf.Tensor, lowest: float, highest: float) -> tf.Tensor:
    """Returns x clipped to a range, and leads it back from outside."""
    clipped = tf.clip_by_value(x, lowest, highest)
    return _led_back(x, clipped, lowest, highest) if portable.has_gradients() else clipped


def _led_back(x: tf.Tensor, value: tf.Tensor, lowest: float, highest: float) -> tf.Tensor:
    """Returns `value`.

    The gradient goes to x, but below `lowest` and above `highest` only the part that moves x back
    into the range. A clip has no gradient at all outside its range: a parameter that has left it
    would stay there.
    """

    @tf.custom_gradient
    def led(x, value):
        def gradient(upstream):
            # Descent moves against the gradient.
            back = tf.where(x < lowest, tf.minimum(upstream, 0.0), upstream)
            return tf.where(x > highest, tf.maximum(back, 0.0), back), None

        return tf.identity(value), gradient

    return led(tf.convert_to_tensor(x), value)


# Log probabilities ---------------------------------------------------------------------------


def log_prob(
    name: str,
    parameters: tf.Tensor,
    levels: tf.Tensor,
    num_levels: int,
    log_scale: tf.Tensor | None = None,
) -> tf.Tensor:
    """Returns log P(level) of every channel of every pixel, in nats.

    Args:
        name: str. One of `PIXEL_DISTRIBUTIONS`.
        parameters: float (..., channels * outputs_per_channel).
        levels: float (..., channels), the same leading axes.
        num_levels: int. Levels of a pixel.
        log_scale: For "gaussian": scalar, log of the standard deviation in pixels ([-1, 1]).

    Returns:
        float32, or float64 if the parameters are; the shape of `levels`.
    """
    parameters = _at_least_float32(parameters)
    levels = tf.cast(levels, parameters.dtype)
    if name == "bernoulli":
        # log P(k) = k logit - log(1 + exp(logit))
        return levels * parameters - portable.softplus(parameters)
    if name == "categorical":
        return categorical_log_prob(
            tf.cast(levels, tf.int32), split_channels(parameters, num_levels)
        )
    if name == "gaussian":
        # log p(k) = -(k - mean)^2 / (2 scale^2) - log(scale sqrt(2 pi))
        mean, scale = gaussian_parameters(parameters, num_levels, log_scale)
        return (
            -0.5 * tf.square((levels - mean) / scale)
            - tf.math.log(scale)
            - 0.5 * math.log(2.0 * math.pi)
        )
    # log P(k) = log sum_m weight_m P_m(k)
    logits, loc, scale = mixture_parameters(parameters, num_levels, levels.shape[-1])
    each = logistic_log_prob(levels[..., None], loc, scale, num_levels)
    return tf.reduce_logsumexp(tf.nn.log_softmax(logits) + each, -1)


def categorical_log_prob(outcome: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns log softmax(logits)[outcome].

        log P(k) = logit_k - log sum_j exp(logit_j)

    Args:
        outcome: int32 (...).
        logits: float (..., outcomes).
    """
    # The bare operation, since `tf.nn` adds assertions on shapes to the graph.
    losses, _ = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(
        features=tf.reshape(logits, (-1, logits.shape[-1])), labels=tf.reshape(outcome, (-1,))
    )
    return -tf.reshape(losses, (*leading_shape(logits, 1),))


def logistic_log_prob(
    level: tf.Tensor, loc: tf.Tensor, scale: tf.Tensor, num_levels: int
) -> tf.Tensor:
    """Returns log P(level) of a logistic whose unit bins give their mass to levels.

        P(k) = F(k + 1/2) - F(k - 1/2),   F(t) = sigmoid((t - loc) / scale)
        log P(k) = -softplus(a) - softplus(-b) + log(1 - exp(-1 / scale))

    with a = (k - 1/2 - loc) / scale and b = (k + 1/2 - loc) / scale; the second line has no
    cancellation. The end bins are open: at level 0 the first term and at the top level the second
    one is 0, and at both the third.
    """
    inverse = 1.0 / scale
    centred = level - loc
    below = -portable.softplus((centred - 0.5) * inverse)  # log P(above the lower edge)
    above = -portable.softplus(-(centred + 0.5) * inverse)  # log P(below the upper edge)
    # 1 - exp(-x) = 2 t / (1 + t) with t = tanh(x / 2), exact for small x; ONNX has no expm1.
    half = tf.tanh(0.5 * inverse)
    width = tf.math.log(2.0 * half / (1.0 + half))
    lowest, highest = level < 0.5, level > num_levels - 1.5
    return tf.where(lowest, above, tf.where(highest, below, below + above + width))


# Means ---------------------------------------------------------------------------------------


def mean_images(name: str, parameters: tf.Tensor, num_levels: int, channels: int) -> tf.Tensor:
    """Returns the mean of every pixel in grey values, float32 in [0, 255].

    Args:
        name: str. One of `PIXEL_DISTRIBUTIONS`.
        parameters: float (..., channels * outputs_per_channel).
        num_levels: int. Levels of a pixel.
        channels: int. Channels of a pixel.

    Returns:
        float32 (..., channels). Of the logistics it is the mean before rounding to levels, within
        half a level of the exact one.
    """
    parameters = _at_least_float32(parameters)
    if name == "bernoulli":
        mean = tf.sigmoid(parameters)
    elif name == "categorical":
        probabilities = tf.nn.softmax(split_channels(parameters, num_levels))
        mean = tf.reduce_sum(probabilities * tf.range(num_levels, dtype=probabilities.dtype), -1)
    elif name == "gaussian":
        mean, _ = gaussian_parameters(parameters, num_levels, tf.zeros([], parameters.dtype))
    else:
        logits, loc, scale = mixture_parameters(parameters, num_levels, channels)
        mean = tf.reduce_sum(tf.nn.softmax(logits) * logistic_mean(loc, scale, num_levels), -1)
    if name != "bernoulli":  # which never leaves the range
        mean = tf.clip_by_value(mean, 0.0, num_levels - 1.0)
    return tf.cast(pixels.levels_to_greys(mean, num_levels), tf.float32)


def logistic_mean(loc: tf.Tensor, scale: tf.Tensor, num_levels: int) -> tf.Tensor:
    """Returns the mean of a logistic clipped to [0, m], m = num_levels - 1.

    E clip(t, 0, m) = int_0^m (1 - F(t)) dt = s (softplus(loc / s) - softplus((loc - m) / s)),
    s = scale.
    """
    top = num_levels - 1.0
    ratio = loc / scale
    return scale * (portable.softplus(ratio) - portable.softplus(ratio - top / scale))


# Draws ---------------------------------------------------------------------------------------


def num_uniforms(name: str) -> int:
    """Returns how many uniform numbers `draw` needs for a level."""
    return 2 if name == "discretized_logistic_mixture" else 1


def draw(
    name: str, parameters: tf.Tensor, uniforms: tf.Tensor, num_levels: int, temperature: float
) -> tf.Tensor:
    """Draws one level for each row of parameters, by inverting the distribution function.

    Args:
        name: str. One of `PIXEL_DISTRIBUTIONS` but "gaussian", which is a density.
        parameters: float (batch, outputs_per_channel).
        uniforms: float (batch, num_uniforms(name)), in (0, 1).
        num_levels: int. Levels of a pixel.
        temperature: float. Scales the noise; 0 takes the likeliest level or component.

    Returns:
        Integer levels of the dtype of the parameters, (batch,).
    """
    first = uniforms[:, 0]
    if name == "bernoulli":
        logit = parameters[:, 0]
        high = first < tf.sigmoid(logit / temperature) if temperature else logit > 0
        return tf.cast(high, parameters.dtype)
    if name == "categorical":
        return tf.cast(draw_categorical(parameters, first, temperature), parameters.dtype)
    mixture = mixture_parameters(parameters, num_levels, 1)
    logits, loc, scale = (x[:, 0] for x in mixture)  # (batch, mixtures)
    component = draw_categorical(logits, first, temperature)
    loc, scale = (tf.gather(x, component, batch_dims=1) for x in (loc, scale))
    # F^-1(u) = loc + scale log(u / (1 - u))
    second = uniforms[:, 1]
    logistic = tf.math.log(second) - tf.math.log1p(-second)
    level = loc + temperature * scale * logistic
    return tf.clip_by_value(tf.round(level), 0.0, num_levels - 1.0)


def draw_categorical(logits: tf.Tensor, uniforms: tf.Tensor, temperature: float) -> tf.Tensor:
    """Draws from softmax(logits / temperature), int32 (batch,).

    Outcome k is drawn where the uniform number lies between the probabilities of k - 1 and k,
    added up from the first outcome.
    """
    if not temperature:
        return tf.argmax(logits, -1, tf.int32)
    logits = tf.cast(logits, tf.float64) / temperature
    reached = tf.cumsum(tf.nn.softmax(logits), -1)  # (batch, outcomes)
    # Times the total, so that rounding never picks an outcome of probability 0 at the end.
    passed = tf.cast(uniforms, tf.float64)[:, None] * reached[:, -1:] > reached
    return tf.reduce_sum(tf.cast(passed, tf.int32), -1)


def _at_least_float32(x: tf.Tensor) -> tf.Tensor:
    x = tf.convert_to_tensor(x)
    return x if x.dtype == tf.float64 else tf.cast(x, tf.float32)
