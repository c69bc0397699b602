"""A continuous flow: a differential equation that carries N(0, I) to where the posteriors are.

Lipman et al., "Flow matching for generative modeling", 2023; Grathwohl et al., "FFJORD", 2019.

    dz/dt = v(z, t),   z(0) = u ~ N(0, I),   z(1) = the latents

    log p(z(1)) = log N(u; 0, I) - integral over t in [0, 1] of div v(z(t), t)

It is solved in a fixed number of Heun's steps. TFP's FFJORD chooses its steps by the error of the
whole batch, so an image would depend on others, and keeps them in lists of tensors, which few
runtimes read.
"""

import math
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tfgen import noise, portable

__all__ = ["Velocity", "forward", "inverse", "matching_loss"]

COSINES = 8


class Velocity(keras.layers.Layer):
    """v(z, t) or, given classes, v(z, t, label), with its exact divergence.

        a_1 = z W_1 + shift_1,   a_2 = silu(a_1) W_2 + shift_2,   v = (gate * silu(a_2)) W_3 + bias

    shift_1, shift_2 and gate are functions of t and label alone. Two hidden layers have a
    divergence that costs one product of matrices more, where deeper ones take a pass for each
    dimension or an estimate:

        div v = sum_jk silu'(a_1)_j M_jk gate_k silu'(a_2)_k,   M = W_2 * (W_3 W_1)^T

    W_3 starts at zero, so that the flow starts as the identity. All is computed in float32.

    Args:
        latent_dim: Dimensions of z.
        units: Width of the hidden layers.
        num_classes: Classes of a conditional flow, or None.
    """

    def __init__(self, latent_dim: int, units: int, num_classes: int | None = None, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.latent_dim, self.units, self.num_classes = latent_dim, units, num_classes

        def dense(count, name, **options):
            return keras.layers.Dense(count, name=name, dtype="float32", **options)

        self.context = dense(units, "context", activation="silu")
        self.modulation = dense(3 * units, "modulation")
        self.dense_0 = dense(units, "dense_0", use_bias=False)
        self.dense_1 = dense(units, "dense_1", use_bias=False)
        self.last = dense(latent_dim, "last", kernel_initializer="zeros")
        self.build(())

    def build(self, _):
        """Makes the weights, which depend on no input."""
        self.context.build((None, COSINES + (self.num_classes or 0)))
        self.modulation.build((None, self.units))
        self.dense_0.build((None, self.latent_dim))
        self.dense_1.build((None, self.units))
        self.last.build((None, self.units))
        self.built = True

    def call(self, z, t, labels=None):
        """Returns v and its divergence, (rows, latent_dim) and (rows,).

        Args:
            z: float32 (rows, latent_dim).
            t: float32 (rows, 1), or (1, 1) for all rows, in [0, 1].
            labels: int64 (rows,), or None.
        """
        features = tf.cos(math.pi * tf.range(COSINES, dtype=tf.float32) * t)
        if labels is not None:
            rows = tf.one_hot(labels, self.num_classes)
            features = tf.concat([features + tf.zeros_like(rows[:, :1]), rows], 1)
        shift_1, shift_2, raw_gate = tf.split(self.modulation(self.context(features)), 3, 1)
        gate = 1.0 + raw_gate
        a_1 = self.dense_0(z) + shift_1
        h_1, slope_1 = _silu(a_1)
        a_2 = self.dense_1(h_1) + shift_2
        h_2, slope_2 = _silu(a_2)
        v = self.last(gate * h_2)
        w_1, w_2, w_3 = self.dense_0.kernel, self.dense_1.kernel, self.last.kernel
        m = w_2 * tf.transpose(tf.matmul(w_3, w_1))
        return v, tf.reduce_sum(tf.matmul(slope_1, m) * gate * slope_2, 1)


def _silu(a):
    """silu(a) = a sigmoid(a), and its derivative."""
    s = tf.sigmoid(a)
    return a * s, s * (1.0 + a * (1.0 - s))


def forward(
    velocity: Velocity, steps: int, u: tf.Tensor, labels: tf.Tensor | None = None
) -> tf.Tensor:
    """Maps noise u (batch, latent_dim), N(0, I), to latents in `steps` of Heun's steps.

    z(t + h) = z(t) + h / 2 (v_0 + v_1),   v_0 = v(z, t),   v_1 = v(z + h v_0, t + h)
    """
    h = 1.0 / steps

    def step(t, after, z):
        v_0, _ = velocity(z, t, labels)
        v_1, _ = velocity(z + h * v_0, after, labels)
        return (z + 0.5 * h * (v_0 + v_1),)

    (z,) = _in_steps(step, [index * h for index in range(steps + 1)], u)
    return z


def inverse(
    velocity: Velocity, steps: int, latents: tf.Tensor, labels: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Maps latents back to their noise, and returns log |d noise / d latents|, (batch,).

    Both by Heun's steps from t = 1 to 0, so that forward and inverse agree to O(1 / steps^2).
    """
    h = 1.0 / steps

    def step(t, before, z, log_det):
        v_1, divergence_1 = velocity(z, t, labels)
        v_0, divergence_0 = velocity(z - h * v_1, before, labels)
        z -= 0.5 * h * (v_0 + v_1)
        return z, log_det - 0.5 * h * (divergence_0 + divergence_1)

    times = [index * h for index in range(steps, -1, -1)]
    return _in_steps(step, times, latents, tf.zeros_like(latents[:, 0]))


def _in_steps(step: Callable, times: Sequence[float], *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Calls step(times[i], times[i + 1], *state), times (1, 1), for a new state, again and again.

    A graph for TensorFlow holds it once, in a loop: it is traced in a fraction of the time.
    """
    held = tf.constant(times, tf.float32)[:, None, None]
    if tf.executing_eagerly() or portable.active():
        for index in range(len(times) - 1):
            state = step(held[index], held[index + 1], *state)
        return state
    count = len(times) - 1
    _, *state = tf.while_loop(
        lambda index, *state: index < count,
        lambda index, *state: (index + 1, *step(held[index], held[index + 1], *state)),
        (0, *state),
        maximum_iterations=count,
    )
    return tuple(state)


def matching_loss(
    velocity: Velocity, latents: tf.Tensor, seeds: tf.Tensor, labels: tf.Tensor | None = None
) -> tf.Tensor:
    """Returns what flow matching minimises, the mean over k of each image's latents: (batch,).

        1/2 |v((1 - t) u + t z, t) - (z - u)|^2,   u ~ N(0, I),   t ~ U(0, 1)

    Args:
        velocity: v.
        latents: z, float32 (batch, k, latent_dim).
        seeds: Of u and t, int64 (batch,).
        labels: int64 (batch,), or None.
    """
    k, latent_dim = latents.shape[1:]
    u = noise.normal(seeds, (k, latent_dim), stream=1)
    t = noise.uniform(seeds, (k, 1), stream=2)
    on_the_way = tf.reshape((1.0 - t) * u + t * latents, (-1, latent_dim))
    labels = None if labels is None else tf.repeat(labels, k)
    v, _ = velocity(on_the_way, tf.reshape(t, (-1, 1)), labels)
    difference = tf.reshape(v, (-1, k, latent_dim)) - (latents - u)
    return tf.reduce_mean(0.5 * tf.reduce_sum(tf.square(difference), -1), 1)
