"""Priors of latents: N(0, I); a RealNVP flow from it to where the posteriors are; a VampPrior.

Dinh et al., "Density estimation using Real NVP", 2017; Tomczak & Welling, "VAE with a VampPrior",
2018.

    u -> z:  for each coupling, z_b = u_b * exp(log_scale(u_a)) + shift(u_a);  then reversed

    log p(z) = log N(u; 0, I) - sum of log_scale
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgen import layers, pixels

__all__ = [
    "coupling_network",
    "couplings",
    "flow",
    "forward",
    "greys_of",
    "inverse",
    "standard_normal",
    "vamp",
]

LARGEST_LOG_SCALE = 2.0


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
    x = given = keras.Input((kept,), name="kept")
    if num_classes is not None:
        labels = keras.Input((), dtype="int64", name="labels")
        rows = layers.one_hot(labels, num_classes)
        x = keras.layers.Concatenate(name="with_labels")([x, rows])
        given = [given, labels]
    for index in range(2):
        x = keras.layers.Dense(units, activation="silu", name=f"dense_{index}")(x)
    zeros = {"kernel_initializer": "zeros", "dtype": "float32"}
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
    # Explicit names: TFP's defaults concatenate the names of all parts into every op of the export.
    return tfp.distributions.TransformedDistribution(
        base, tfb.Chain(chain, name="flow"), name="prior"
    )


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


def greys_of(pseudo_inputs: tf.Tensor) -> tf.Tensor:
    """Maps pseudo-inputs u_k to integer grey values; the gradient ignores the rounding."""
    greys = pixels.levels_to_greys(tf.sigmoid(pseudo_inputs), 2)
    return greys + tf.stop_gradient(tf.round(greys) - greys)


def forward(
    couplings: Sequence[keras.Model], noise: tf.Tensor, labels: tf.Tensor | None = None
) -> tf.Tensor:
    """Maps noise (batch, latent_dim), N(0, I), to latents of the prior."""
    z = noise
    for network in reversed(couplings):
        z = z[:, ::-1]
        kept, rest = _halves(z)
        shift, log_scale = network(kept if labels is None else [kept, labels])
        z = tf.concat([kept, rest * tf.exp(log_scale) + shift], 1)
    return z


def inverse(
    couplings: Sequence[keras.Model], latents: tf.Tensor, labels: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Maps latents back to their noise, and returns log |d noise / d latents|, (batch,)."""
    u, log_det = latents, 0.0
    for network in couplings:
        kept, rest = _halves(u)
        shift, log_scale = network(kept if labels is None else [kept, labels])
        u = tf.concat([kept, (rest - shift) * tf.exp(-log_scale)], 1)[:, ::-1]
        log_det -= tf.reduce_sum(log_scale, 1)
    return u, log_det


def _halves(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    kept = x.shape[-1] // 2
    return x[:, :kept], x[:, kept:]


def _coupling(network, labels):
    """Adapts a Keras network on rows to RealNVP's function of tensors of any rank."""

    def shift_and_log_scale(kept, _, **__):
        rows = tf.reshape(kept, (-1, kept.shape[-1]))
        if labels is not None:
            rows = [rows, tf.repeat(labels, tf.shape(rows)[0] // tf.shape(labels)[0])]
        outputs = network(rows)
        leading = tf.shape(kept)[:-1]
        return [tf.reshape(o, tf.concat([leading, o.shape[-1:]], 0)) for o in outputs]

    return shift_and_log_scale
