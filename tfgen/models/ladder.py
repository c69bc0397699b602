"""The two networks of a hierarchical VAE: bottom-up through the image, top-down to the pixels."""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from tfgen import checks, layers, portable
from tfgen.models import continuous, priors
from tfgen.models.ladder_layers import Composite, Mixing, Part, ResidualBlock, with_class

__all__ = ["BottomUp", "Encode", "TopDown", "check_ladder"]

UNIT = math.log(math.e - 1.0)  # softplus(UNIT) = 1
MIN_SCALE = 1e-4  # smallest scale, with a finite logarithm


def check_ladder(
    filters: Sequence[int],
    groups: Sequence[int],
    group_channels: Sequence[int],
    mixing: Sequence[bool] | None,
) -> None:
    """Raises ValueError unless all have one entry for each resolution."""
    checks.sizes(0, groups=groups)
    checks.sizes(1, group_channels=group_channels)
    if not len(filters) == len(groups) == len(group_channels):
        raise ValueError(
            "groups and group_channels must have one entry for each of filters, "
            f"{len(filters)}; received {tuple(groups)} and {tuple(group_channels)}."
        )
    flags = mixing if isinstance(mixing, (list, tuple)) else ()
    if mixing is not None and [type(flag) for flag in flags] != [bool] * len(filters):
        raise ValueError(
            f"mixing must be None or have one entry for each of filters, {len(filters)}, True or "
            f"False; received {mixing!r}."
        )


class BottomUp(Composite):
    """Reads grey images: features at each resolution, the finest first, then a dense vector."""

    def __init__(self, filters: Sequence[int], num_blocks: int, dense_units: int, **kwargs):
        super().__init__(**kwargs)
        self.to_pixels = layers.GreyToPixels(name="pixels")
        self.convs, self.stages = [], []
        for stage, width in enumerate(filters):
            self.convs.append(keras.layers.Conv2D(width, 4, 2, "same", name=f"conv_{stage}"))
            blocks = [
                ResidualBlock(width, stage * num_blocks + i, name=f"block_{stage}_{i}")
                for i in range(num_blocks)
            ]
            self.stages.append(blocks)
        self.flatten = keras.layers.Flatten(name="flatten")
        self.dense = keras.layers.Dense(dense_units, activation="elu", name="dense")

    def call(self, images, masks=None):
        x = self.to_pixels(images)
        features = []
        for conv, blocks in zip(self.convs, self.stages, strict=True):
            x = conv(x)
            for block in blocks:
                x = block(x, masks)
            features.append(x)
            x = keras.ops.elu(x)
        return [*features, self.dense(self.flatten(x))]


class Group(Composite):
    """One map of latents of the ladder, between two states h of the decoder.

        z = mean(h) + scale(h) * eps                 mean, scale from conv(elu h)
        q(eps | h, x) = N(m, s^2)                    m, s from conv(elu(conv(elu h) + conv(elu e)))
        h <- h + conv(z), then mixing if asked, then residual blocks

    Args:
        filters: Channels of h.
        channels: Channels of z.
        num_blocks: Residual blocks after z has come in.
        index: Which of the model's residual blocks the first of them is.
        grid: (height, width) of h where its places are mixed, or None.
    """

    def __init__(
        self,
        filters: int,
        channels: int,
        num_blocks: int,
        index: int,
        grid: tuple[int, int] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        zeros = {"kernel_initializer": "zeros", "dtype": "float32"}
        self.from_state = keras.layers.Conv2D(filters, 1, name="from_state")
        self.from_image = keras.layers.Conv2D(filters, 1, name="from_image")
        self.to_prior = keras.layers.Conv2D(
            2 * channels, 3, padding="same", name="to_prior", **zeros
        )
        self.to_posterior = keras.layers.Conv2D(
            2 * channels, 3, padding="same", name="to_posterior", **zeros
        )
        self.to_state = keras.layers.Conv2D(filters, 1, name="to_state")
        self.mixing = Mixing(grid, name="mixing") if grid else None
        self.blocks = [
            ResidualBlock(filters, index + i, name=f"block_{i}") for i in range(num_blocks)
        ]

    def posterior(self, h: tf.Tensor, feature: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns m and s of q(eps | h, x), float32 maps."""
        state, image = self.from_state(keras.ops.elu(h)), self.from_image(keras.ops.elu(feature))
        # Graph optimizers fuse add_n with a convolution always, but + only where they know both
        # shapes: C's runtime would give other bits than Python's.
        seen = tf.add_n([state, image])
        return _mean_and_scale(self.to_posterior(keras.ops.elu(seen)))

    def call(self, h, eps, masks=None):
        mean, scale = _mean_and_scale(self.to_prior(keras.ops.elu(h)))
        h = h + self.to_state(tf.cast(mean + scale * eps, self.compute_dtype))
        if self.mixing:
            h = self.mixing(h)
        for block in self.blocks:
            h = block(h, masks)
        return h


@keras.saving.register_keras_serializable("tfgen")
class TopDown(Part):
    """The decoder's ladder: latents (batch, all of them) -> parameters of the pixels.

    `ladder` is (top_dim, filters, groups, group_channels, mixing), `prior` is (flow of z_0 or None,
    its steps, share of its tail). `call` decodes given latents; `infer` finds them on the way down,
    from what the encoder saw.
    """

    network = "decoder"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        ladder: tuple[int, Sequence[int], Sequence[int], Sequence[int], Sequence[bool]],
        num_blocks: int,
        dense_units: int,
        num_outputs: int,
        num_classes: int | None,
        prior: tuple[list[keras.Model] | continuous.Velocity | None, int, float],
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.top_dim, filters, groups, channels, mixing = ladder
        self.num_classes = num_classes
        flow, self.flow_steps, self.tail = prior
        self.couplings = flow if isinstance(flow, list) else []
        self.velocity = flow if isinstance(flow, continuous.Velocity) else None
        height, width, _ = image_shape
        zeros = {"kernel_initializer": "zeros", "dtype": "float32"}
        self.top_posterior = keras.layers.Dense(2 * self.top_dim, name="top_posterior", **zeros)
        self.dense = keras.layers.Dense(dense_units, activation="elu", name="dense")
        self.grow, self.groups, self.grids = [], [], []
        index = len(filters) * num_blocks  # after the blocks of the encoder
        for stage in reversed(range(len(filters))):
            grid = (height >> (stage + 1), width >> (stage + 1))
            if not self.grow:
                self.grow.append(keras.layers.Dense(math.prod(grid) * filters[stage], name="grid"))
            else:
                conv = keras.layers.Conv2D(4 * filters[stage], 3, padding="same", name="conv")
                self.grow.append(
                    keras.Sequential(
                        [conv, layers.SubPixel(2, name="sub_pixel")], name=f"grow_{stage}"
                    )
                )
            self.grids.append((*grid, filters[stage], channels[stage]))
            rungs = []
            for rung in range(groups[stage]):
                args = (filters[stage], channels[stage], num_blocks, index)
                args += (grid if mixing[stage] else None,)
                rungs.append(Group(*args, name=f"group_{stage}_{rung}"))
                index += num_blocks
            self.groups.append(rungs)
        self.sizes = [  # latents of each resolution
            len(rungs) * height * width * depth
            for rungs, (height, width, _, depth) in zip(self.groups, self.grids, strict=True)
        ]
        self.coarse_dim = self.top_dim + self.sizes[0]
        self.latent_dim = self.top_dim + sum(self.sizes)
        self.last = [
            ResidualBlock(filters[0], index + i, name=f"last_{i}") for i in range(num_blocks)
        ]
        self.to_pixels = keras.layers.Conv2D(
            4 * num_outputs, 3, padding="same", dtype="float32", name="to_pixels"
        )
        self.sub_pixel = layers.SubPixel(2, dtype="float32", name="pixels")

    def call(self, latents, labels=None):
        eps = tf.cast(latents, tf.float32)
        top = self._top(eps[:, : self.top_dim], labels)
        return self._descend(top, labels, eps[:, self.top_dim :])

    def in_tail(
        self, latents: tf.Tensor, picked: tf.Tensor, labels: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Replaces the top of picked latents by the noise of a z_0 from the wide normal.

        Args:
            latents: Noise, float32 (batch, latent_dim).
            picked: Which, bool (batch, 1).
            labels: int64 (batch,), or None.
        """
        top = latents[:, : self.top_dim]
        wide, _ = self._noise(priors.TAIL_SCALE * top, labels)
        return tf.concat([tf.where(picked, wide, top), latents[:, self.top_dim :]], 1)

    def infer(
        self,
        features: Sequence[tf.Tensor],
        drawn: tf.Tensor,
        labels: tf.Tensor | None = None,
        masks: tf.Tensor | None = None,
        plain: bool = False,
    ) -> dict:
        """Walks down with eps_l = m_l + s_l * drawn_l.

        Args:
            features: What `BottomUp` returns.
            drawn: Noise, float32 (batch, latent_dim); zeros follow the means.
            labels: int64 (batch,), or None.
            masks: Of the dropout, float (batch, residual blocks, channels), or None.
            plain: Whether z_0 is held against N(0, I) in place of the flow.

        Returns:
            parameters; top, which is z_0; latents (batch, latent_dim); coarse_state, what
            `coarse_state` returns for them; and one entry per group, (batch,) each, of kl and of
            log_ratio, log p(eps_l) - log q(eps_l | eps_<l, x) at the drawn point.
        """
        noises = tf.cast(drawn, tf.float32)
        mean, scale = _mean_and_scale(
            self.top_posterior(with_class(features[-1], labels, self.num_classes))
        )
        xi = noises[:, : self.top_dim]
        top = mean + scale * xi
        if (self.couplings or self.velocity) and not plain:
            eps, log_det = self._noise(top, labels)
            ratio = _log_ratio(eps, xi, scale) + log_det
            if self.tail:
                # p(z_0) = (1 - w) flow(z_0) + w N(z_0; 0, TAIL_SCALE^2 I)
                wide = _log_ratio(top / priors.TAIL_SCALE, xi, scale)
                wide += math.log(self.tail) - self.top_dim * math.log(priors.TAIL_SCALE)
                ratio = tf.reduce_logsumexp([math.log1p(-self.tail) + ratio, wide], 0)
            kl = -ratio
        else:
            eps, ratio, kl = top, _log_ratio(top, xi, scale), _kl(mean, scale)
        walk = {"features": features, "top": top}
        walk |= {"latents": [eps], "kl": [kl], "log_ratio": [ratio]}
        rest = noises[:, self.top_dim :]
        walk["parameters"] = self._descend(top, labels, rest, walk, masks)
        walk["latents"] = tf.concat(walk["latents"], 1)
        return walk

    def coarse_state(
        self,
        latents: tf.Tensor,
        labels: tf.Tensor | None = None,
        masks: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns the state after all groups of the coarsest resolution, a map.

        Args:
            latents: float32 (batch, coarse_dim), the dense group and those groups.
            labels: int64 (batch,), or None.
            masks: As in `infer`.
        """
        top, noises = latents[:, : self.top_dim], latents[:, self.top_dim :]
        top = self._top(top, labels)
        return self._stage(0, self._first_state(top, labels), noises, masks=masks)

    def _top(self, noise, labels):
        """z_0 of its noise."""
        if self.velocity:
            return continuous.forward(self.velocity, self.flow_steps, noise, labels)
        return priors.forward(self.couplings, noise, labels)

    def _noise(self, top, labels):
        """The noise of z_0, and log |d noise / d z_0|."""
        if self.velocity:
            return continuous.inverse(self.velocity, self.flow_steps, top, labels)
        return priors.inverse(self.couplings, top, labels)

    def _descend(self, top, labels, noises, walk=None, masks=None):
        """From z_0 to the pixels; `noises` is eps, or the xi of an eps that `walk` collects."""
        h = self._first_state(top, labels)
        for stage, size in enumerate(self.sizes):
            h = self._stage(stage, h, noises[:, :size], walk, masks)
            noises = noises[:, size:]
            if walk is not None and not stage:
                walk["coarse_state"] = h
        for block in self.last:
            h = block(h, masks)
        return self.sub_pixel(self.to_pixels(keras.ops.elu(h)))

    def _first_state(self, top, labels):
        return self.dense(tf.cast(with_class(top, labels, self.num_classes), self.compute_dtype))

    def _stage(self, stage, h, noises, walk=None, masks=None):
        """Grows h to the next resolution and takes in its groups; `noises` has theirs alone."""
        height, width, filters, channels = self.grids[stage]
        h = self.grow[stage](h)
        if not stage:
            h = tf.reshape(h, (-1, height, width, filters))
        size = height * width * channels
        for index, rung in enumerate(self.groups[stage]):
            eps = noises[:, index * size : (index + 1) * size]
            eps = tf.reshape(eps, (-1, height, width, channels))
            if walk is not None:
                feature = walk["features"][len(self.grow) - 1 - stage]
                mean, scale = rung.posterior(h, feature)
                xi = eps
                eps = mean + scale * xi
                walk["latents"].append(tf.reshape(eps, (-1, size)))
                walk["kl"].append(_kl(mean, scale))
                walk["log_ratio"].append(_log_ratio(eps, xi, scale))
            h = rung(h, eps, masks)
        return h


@keras.saving.register_keras_serializable("tfgen")
class Encode(Part):
    """Images -> the latents at the posterior's means, float32 (batch, latent_dim)."""

    network = "encoder"

    def __init__(self, bottom_up: BottomUp, top_down: TopDown, **kwargs):
        super().__init__(**kwargs)
        self.bottom_up, self.top_down = bottom_up, top_down

    def call(self, images, labels=None):
        features = self.bottom_up(images)
        zeros = tf.zeros((tf.shape(features[-1])[0], self.top_down.latent_dim))
        return self.top_down.infer(features, zeros, labels)["latents"]


def _mean_and_scale(raw):
    """Splits a network's output into a mean and a scale that starts at 1, float32."""
    mean, raw_scale = tf.split(tf.cast(raw, tf.float32), 2, -1)
    return mean, portable.softplus(raw_scale + UNIT) + MIN_SCALE


def _sum(x):
    return tf.reduce_sum(x, list(range(1, x.shape.rank)))


def _kl(mean, scale):
    """KL(N(mean, scale^2) || N(0, I)), nats, (batch,)."""
    return _sum(0.5 * (tf.square(mean) + tf.square(scale) - 1.0) - tf.math.log(scale))


def _log_ratio(eps, xi, scale):
    """log p(eps) - log q(eps) at eps = mean + scale * xi, nats, (batch,)."""
    return _sum(0.5 * (tf.square(xi) - tf.square(eps)) + tf.math.log(scale))
