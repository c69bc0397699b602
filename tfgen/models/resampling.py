"""Resampling: of several latents one is kept, by how real a network finds it.

Azadi et al., "Discriminator rejection sampling", 2019, for GANs; Aneja et al., "A contrastive
learning approach for training variational autoencoder priors", 2021, for priors.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from tfgen import noise
from tfgen.models.ladder_layers import Composite, with_class

__all__ = ["Critic", "choice", "log_odds", "resampled"]

CHOICE_STREAM = 2  # stream of the noise that chooses
SURE = 1e-3  # how close to 0 and 1 a share is believed


def choice(log_weights: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
    """Draws a column of each row with probability proportional to its weight, int64 (batch,)."""
    # The largest of log-weights plus Gumbel noise is a draw by the weights.
    u = noise.uniform(seeds, log_weights.shape[1:], CHOICE_STREAM)
    return tf.argmax(log_weights - tf.math.log(-tf.math.log(u)), 1)


def log_odds(share: tf.Tensor) -> tf.Tensor:
    """Returns log d / (1 - d): the log ratio of p to q where d is p / (p + q)."""
    share = tf.clip_by_value(share, SURE, 1.0 - SURE)
    return tf.math.log(share) - tf.math.log1p(-share)


def resampled(
    drawn: tf.Tensor,
    score: Callable[[tf.Tensor, tf.Tensor | None], tf.Tensor],
    selectivity: float,
    seeds: tf.Tensor,
    labels: tf.Tensor | None = None,
) -> tf.Tensor:
    """Keeps one of each row's candidates, with probability proportional to exp(selectivity score).

    Args:
        drawn: float32 (batch, candidates, latent_dim).
        score: Log of the ratio of the density wanted over the one drawn from; takes latents and
            labels of all candidates, returns one value each.
        selectivity: At least 0; 1 follows the ratio, 0 keeps any.
        seeds: int64 (batch,).
        labels: int64 (batch,), or None.

    Returns:
        float32 (batch, latent_dim).
    """
    _, candidates, latent_dim = drawn.shape
    if candidates == 1:
        return drawn[:, 0]
    repeated = None if labels is None else tf.repeat(labels, candidates)
    scores = score(tf.reshape(drawn, (-1, latent_dim)), repeated)
    chosen = choice(selectivity * tf.reshape(scores, (-1, candidates)), seeds)
    return tf.gather(drawn, chosen, batch_dims=1)


class Critic(Composite):
    """Tells the decoder's states of images from those of the prior.

    Its output is a logit, float32 (batch,); of the best critic without classes it is
    log(q(h) / p(h)).

    Args:
        units: Channels of its convolutions and width of its dense layer.
        num_classes: Classes of a conditional model, or None.
    """

    def __init__(self, units: int, num_classes: int | None, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.conv_1 = keras.layers.Conv2D(units, 3, padding="same", name="conv_1")
        self.conv_2 = keras.layers.Conv2D(units, 3, padding="same", name="conv_2")
        self.flatten = keras.layers.Flatten(name="flatten")
        self.dense = keras.layers.Dense(units, name="dense")
        self.logit = keras.layers.Dense(1, dtype="float32", name="logit")

    def call(self, h, labels=None):
        y = self.conv_2(keras.ops.elu(self.conv_1(keras.ops.elu(h))))
        y = with_class(self.flatten(keras.ops.elu(y)), labels, self.num_classes)
        return self.logit(keras.ops.elu(self.dense(y)))[:, 0]
