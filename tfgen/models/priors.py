"""Priors of latents: N(0, I); a flow from it to where the posteriors are; a VampPrior.

Dinh et al., "Density estimation using Real NVP", 2017; Tomczak & Welling, "VAE with a VampPrior",
2018.

    u -> z:  for each coupling, the last one first: reversed, then
             z_b = u_b * exp(log_scale(u_a)) + shift(u_a)

    log p(z) = log N(u; 0, I) - sum of log_scale
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgen import layers, pixels, portable
from tfgen.models import continuous
from tfgen.models.generative import with_labels

__all__ = [
    "TAIL_SCALE",
    "continuous_flow",
    "coupling_network",
    "couplings",
    "densest",
    "flow",
    "forward",
    "greys_of",
    "inverse",
    "networks",
    "standard_normal",
    "vamp",
    "vamp_sample",
    "with_tail",
]

LARGEST_LOG_SCALE = 2.0
TAIL_SCALE = 3.0  # standard deviation of the wide normal


def coupling_network(
    latent_dim: int, units: int, name: str, num_classes: int | None = None
) -> keras.Model:
    """Builds a coupling: the first latent_dim // 2 [and a class] -> (shift, log scale) of the rest.

    The last layer starts at zero, so that the flow starts as the identity; |log scale| <= 2.

    Args:
        latent_dim: Dimensions of the latents, at least 2.
        units: Width of the two hidden layers.
        name: The network's name.
        num_classes: Classes of a conditional prior, or None.
    """
    kept = latent_dim // 2
    given = layers.network_inputs((kept,), "kept", num_classes)
    wide = {"dtype": "float32"}  # of latents far out float16 would make NaN
    x = layers.join_labels(given, num_classes, **wide)
    for index in range(2):
        x = keras.layers.Dense(units, activation="silu", name=f"dense_{index}", **wide)(x)
    zeros = {"kernel_initializer": "zeros", **wide}
    shift = keras.layers.Dense(latent_dim - kept, name="shift", **zeros)(x)
    raw = keras.layers.Dense(latent_dim - kept, activation="tanh", name="log_scale", **zeros)(x)
    log_scale = keras.layers.Rescaling(LARGEST_LOG_SCALE, dtype="float32", name="bounded")(raw)
    return keras.Model(given, [shift, log_scale], name=name)


def couplings(
    count: int, latent_dim: int, units: int, num_classes: int | None = None
) -> list[keras.Model]:
    """Builds the networks of a flow, coupling_0, coupling_1, ..."""
    names = [f"coupling_{i}" for i in range(count)]
    return [coupling_network(latent_dim, units, name, num_classes) for name in names]


def networks(
    prior: str, components: int, latent_dim: int, units: int, num_classes: int | None
) -> list[keras.Model] | continuous.Velocity | None:
    """Builds the couplings of "flow", or what moves "continuous_flow"; other priors have none."""
    if prior == "flow":
        return couplings(components, latent_dim, units, num_classes)
    if prior == "continuous_flow":
        return continuous.Velocity(latent_dim, units, num_classes, name="velocity")
    return None


def standard_normal(latent_dim: int) -> Any:
    """Returns N(0, I) as a TFP distribution with event shape (latent_dim,)."""
    import tensorflow_probability as tfp

    tfd = tfp.distributions
    return tfd.Independent(tfd.Normal(tf.zeros([latent_dim]), tf.ones([latent_dim])), 1)


def flow(base: Any, couplings: Sequence[keras.Model], labels: tf.Tensor | None = None) -> Any:
    """Returns the flow of a `VAE` as a TFP distribution.

        z = f_1(reverse(f_2(reverse(... u)))),   u ~ base

    Args:
        base: A TFP distribution of vectors, N(0, I).
        couplings: Networks from the first half of a vector to the shift and log scale of the rest.
        labels: Classes of a conditional flow, int64 (batch,), of vectors (batch, ..., values).
    """
    import tensorflow_probability as tfp

    tfb, latent_dim = tfp.bijectors, int(base.event_shape[0])
    chain = []
    for network in couplings:
        coupling = tfb.RealNVP(
            num_masked=latent_dim // 2, shift_and_log_scale_fn=_coupling(network, labels)
        )
        chain += [coupling, tfb.Permute(list(range(latent_dim))[::-1])]
    # TFP's default names would put all parts' names into every op of the export.
    return tfp.distributions.TransformedDistribution(
        base, tfb.Chain(chain, name="flow"), name="prior"
    )


def continuous_flow(
    base: Any, velocity: continuous.Velocity, steps: int, labels: tf.Tensor | None = None
) -> Any:
    """Returns the continuous flow of a `VAE` as a TFP distribution.

    Args:
        base: A TFP distribution of vectors, N(0, I).
        velocity: v of dz/dt = v(z, t).
        steps: Heun's steps from base to vectors, and back.
        labels: Classes of a conditional flow, int64 (batch,), of vectors (batch, ..., values).
    """
    import tensorflow_probability as tfp

    pending = []  # vectors and log det, between TFP's two calls

    def back(y):
        rows, labels_of_rows = _rows(y, labels)
        u, log_det = continuous.inverse(velocity, steps, rows, labels_of_rows)
        return _like(y, u), tf.reshape(log_det, tf.shape(y)[:-1])

    class Flow(tfp.bijectors.Bijector):
        def __init__(self):
            super().__init__(
                forward_min_event_ndims=1, dtype=tf.float32, parameters={}, name="flow"
            )

        @classmethod
        def _parameter_properties(cls, dtype):
            return {}

        def _forward(self, x):
            rows, labels_of_rows = _rows(x, labels)
            return _like(x, continuous.forward(velocity, steps, rows, labels_of_rows))

        def _inverse(self, y):
            u, log_det = back(y)
            pending[:] = y, log_det
            return u

        def _inverse_log_det_jacobian(self, y):
            log_det = pending[1] if pending and pending[0] is y else back(y)[1]
            pending.clear()
            return log_det

    return tfp.distributions.TransformedDistribution(base, Flow(), name="prior")


def with_tail(prior: Any, share: float) -> Any:
    """Returns (1 - share) prior + share N(0, TAIL_SCALE^2 I) as a TFP distribution.

    A flow may put a latent unlike its training millions of nats away; here

        log p(z) >= log share + log N(z; 0, TAIL_SCALE^2 I)

    Args:
        prior: A TFP distribution of vectors, of batch shape ().
        share: In (0, 1).
    """
    import tensorflow_probability as tfp

    tfd, latent_dim = tfp.distributions, int(prior.event_shape[0])
    scales = tf.fill([latent_dim], TAIL_SCALE)
    wide = tfd.Independent(tfd.Normal(tf.zeros([latent_dim]), scales), 1)
    return tfd.Mixture(tfd.Categorical(probs=[1.0 - share, share]), [prior, wide], name="prior")


def vamp(posterior: Any) -> Any:
    """Returns the VampPrior p(z) = 1/K sum_k q(z | u_k) as a TFP distribution.

    Args:
        posterior: q(z | u_k), a TFP distribution with batch shape (K,).
    """
    import tensorflow_probability as tfp

    tfd = tfp.distributions
    return tfd.MixtureSameFamily(
        tfd.Categorical(logits=tf.zeros([posterior.batch_shape[0]])), posterior
    )


def vamp_sample(
    posteriors: Callable[[tf.Tensor], Any], components: int, u: tf.Tensor, eps: tf.Tensor
) -> tf.Tensor:
    """Turns noise into latents of a VampPrior, (batch, latent_dim).

    Few images get a posterior each, so one image costs one pseudo-input's.

    Args:
        posteriors: From indices k, int32 (n,), to q(z | u_k) with batch shape (n,).
        components: K, the number of pseudo-inputs.
        u: Which posterior, uniform on (0, 1), (batch,).
        eps: Where in it, N(0, I), (batch, latent_dim).
    """
    index, batch = tf.cast(u * components, tf.int32), tf.shape(u)[0]
    few, needed = batch < components, tf.minimum(batch, components)
    normal = posteriors(tf.where(few, index[:needed], tf.range(components)[:needed])).distribution
    place = tf.where(few, tf.range(batch), index)
    return tf.gather(normal.loc, place) + tf.gather(normal.scale, place) * eps


def densest(prior: Any) -> tf.Tensor:
    """Returns the centre, (latent_dim,), at which the density of a VampPrior is greatest."""
    centres = prior.components_distribution.distribution.loc
    return tf.gather(centres, tf.argmax(prior.log_prob(centres)))


def greys_of(pseudo_inputs: tf.Tensor) -> tf.Tensor:
    """Maps pseudo-inputs u_k to integer grey values; the gradient ignores the rounding."""
    greys = pixels.levels_to_greys(tf.sigmoid(pseudo_inputs), 2)
    # Not greys + (rounded - greys): where a GPU fuses the product, that does not cancel.
    return tf.grad_pass_through(tf.round)(greys) if portable.has_gradients() else tf.round(greys)


def forward(
    couplings: Sequence[keras.Model], u: tf.Tensor, labels: tf.Tensor | None = None
) -> tf.Tensor:
    """Maps noise u (batch, latent_dim), N(0, I), to latents of the prior."""
    z = u
    for network in reversed(couplings):
        z = z[:, ::-1]
        kept, rest = _halves(z)
        shift, log_scale = network(with_labels(kept, labels))
        z = tf.concat([kept, rest * tf.exp(log_scale) + shift], 1)
    return z


def inverse(
    couplings: Sequence[keras.Model], latents: tf.Tensor, labels: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Maps latents back to their noise, and returns log |d noise / d latents|, (batch,)."""
    u, log_det = latents, 0.0
    for network in couplings:
        kept, rest = _halves(u)
        shift, log_scale = network(with_labels(kept, labels))
        u = tf.concat([kept, (rest - shift) * tf.exp(-log_scale)], 1)[:, ::-1]
        log_det -= tf.reduce_sum(log_scale, 1)
    return u, log_det


def _halves(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    kept = x.shape[-1] // 2
    return x[:, :kept], x[:, kept:]


def _rows(x, labels):
    """Vectors (batch, ..., values) as rows (-1, values), and the class of each row."""
    rows = tf.reshape(x, (-1, x.shape[-1]))
    if labels is not None:
        first, count = x.shape[0] if x.shape.rank > 1 else 1, labels.shape[0]
        if None not in (first, count) and count not in (1, first):
            raise ValueError(
                f"vectors must have a first axis of {count}, one entry for each label; received "
                f"shape {tuple(x.shape)}. Or give one label for all."
            )
        # A replica may hold no images.
        labels = tf.repeat(labels, tf.shape(rows)[0] // tf.maximum(tf.shape(labels)[0], 1))
    return rows, labels


def _like(x, rows):
    """Rows back in the leading shape of x."""
    return tf.reshape(rows, tf.concat([tf.shape(x)[:-1], rows.shape[-1:]], 0))


def _coupling(network, labels):
    """Adapts a Keras network on rows to RealNVP's function of tensors of any rank."""

    def shift_and_log_scale(kept, _, **__):
        rows, labels_of_rows = _rows(kept, labels)
        outputs = network(with_labels(rows, labels_of_rows))
        return [_like(kept, output) for output in outputs]

    return shift_and_log_scale
