"""A family as somebody else would write it: a small normalizing flow, outside the package.

It is what docs/families.md builds, and test_new_family.py holds it to every law of the others.
"""

import math

import keras
import tensorflow as tf

from tfgen import checks, layers, noise, pixels
from tfgen.models import priors
from tfgen.models.generative import GenerativeModel

EDGE = 1e-6  # how near to 0 and 1 a grey value may come, whose logit is taken


@keras.saving.register_keras_serializable("realnvp")
class RealNVP(GenerativeModel):
    """A flow of affine couplings over dequantised grey values (Dinh et al., 2017).

        t = (level + u) / L,  u ~ U(0, 1),   x = logit(t),   z = f^-1(x) ~ N(0, I)

        log P(level) >= E_u [log N(f^-1(x)) + log |det df^-1/dx| - sum log t (1 - t)] - D log L

    Input of `call`: uint8 images (batch, height, width, channels); output: z, float32 (batch, D).

    Args:
        image_shape: (height, width, channels), 1 or 3 channels.
        couplings: Coupling layers; each second one sees the pixels in reverse.
        units: Width of the two hidden layers of a coupling.
        num_levels: Grey levels, 2 to 256.
        seed: Seed of the training noise.
    """

    likelihood = "bound"

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (8, 8, 1),
        couplings: int = 4,
        units: int = 32,
        num_levels: int = 256,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(image_shape, num_levels, seed=seed, **kwargs)
        self.keep(locals())
        checks.at_least(1, couplings=couplings, units=units)
        layers.check_image_shape(self.image_shape)
        self.dimensions = math.prod(self.image_shape)
        with self.own_dtype_policy():
            self.networks = priors.couplings(couplings, self.dimensions, units)
        self.build()

    def _flow(self):
        import tensorflow_probability as tfp

        tfd, tfb = tfp.distributions, tfp.bijectors
        chain = []
        for network in self.networks:
            chain += [
                tfb.RealNVP(
                    num_masked=self.dimensions // 2,
                    shift_and_log_scale_fn=lambda kept, _, network=network, **__: network(kept),
                ),
                tfb.Permute(list(range(self.dimensions))[::-1]),
            ]
        base = tfd.MultivariateNormalDiag(tf.zeros([self.dimensions]))
        return tfd.TransformedDistribution(base, tfb.Chain(chain, name="flow"), name="images")

    def _logits(self, images, u):
        """x of the formula and log |dx/d level|, for u (batch, D) in (0, 1)."""
        levels = pixels.images_to_levels(images, self.num_levels)
        t = (tf.reshape(levels, (-1, self.dimensions)) + u) / self.num_levels
        t = tf.clip_by_value(t, EDGE, 1.0 - EDGE)
        x = tf.math.log(t) - tf.math.log1p(-t)
        log_slope = -tf.reduce_sum(tf.math.log(t) + tf.math.log1p(-t), 1)
        return x, log_slope - self.dimensions * math.log(self.num_levels)

    def _log_density(self, images, seeds, stream=0):
        x, log_slope = self._logits(images, noise.uniform(seeds, (self.dimensions,), stream))
        return self._flow().log_prob(x) + log_slope

    def losses_per_image(self, images, labels, seeds, training):
        """Returns loss, -log p in nats per image, (batch,)."""
        return {"loss": -self._log_density(images, seeds)}

    def call(self, images, training=False):
        """Returns z at the middle of each level, float32 (batch, D)."""
        x, _ = self._logits(images, 0.5)
        return self._flow().bijector.inverse(x)

    def endpoints(self, temperature=1.0, num_samples=1):
        """Returns sample and log_likelihood."""

        def sample(seed):
            z = temperature * noise.normal(seed, (self.dimensions,))
            t = tf.sigmoid(self._flow().bijector.forward(z))
            levels = tf.floor(tf.reshape(t, (-1, *self.image_shape)) * self.num_levels)
            return {"images": pixels.levels_to_images(levels, self.num_levels)}

        def log_likelihood(images, seed):
            images = self.nearest_level(images)

            def add(stream, total):
                both = tf.stack([total, self._log_density(images, seed, stream)])
                return stream + 1, tf.reduce_logsumexp(both, 0)

            start = tf.fill(tf.shape(seed), -math.inf)
            _, total = tf.while_loop(
                lambda stream, _: stream < num_samples, add, (tf.constant(0), start)
            )
            return {"log_likelihood": total - math.log(num_samples)}

        images, seed = self.specs["images"], self.specs["seed"]
        return {
            "sample": (sample, seed),
            "log_likelihood": (log_likelihood, images | seed),
        }
