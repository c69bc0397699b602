"""Distributions of the pixels of an image, given the output of a network.

All of them are over *levels* (0 .. num_levels - 1), so their log probabilities are nats of the same
quantity and can be compared:

    "bernoulli"                     two levels, one logit
    "categorical"                   num_levels logits
    "discretized_logistic_mixture"  a mixture of logistics, each level taking the mass of its bin
                                    (Salimans et al., "PixelCNN++", 2017)
    "gaussian"                      density at the level times the bin's width 1: the mean squared
                                    error, up to scale and constant

`tfgen.distributions.tfp` has them as objects of TensorFlow Probability, whose import takes about a
second; models import it where they use it.
"""

from tfgen.distributions.levels import (
    PIXEL_DISTRIBUTIONS,
    categorical_log_prob,
    check_pixel_distribution,
    draw,
    draw_categorical,
    log_prob,
    mean_images,
    mixture_parameters,
    num_uniforms,
    outputs_per_channel,
)

__all__ = [
    "PIXEL_DISTRIBUTIONS",
    "categorical_log_prob",
    "check_pixel_distribution",
    "draw",
    "draw_categorical",
    "log_prob",
    "mean_images",
    "mixture_parameters",
    "num_uniforms",
    "outputs_per_channel",
]
