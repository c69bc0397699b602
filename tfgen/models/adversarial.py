"""Two networks that train against each other: optimizers and alternating steps."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfgen import devices, noise, tuning
from tfgen.models.compiled import checked_optimizer
from tfgen.models.generative import GenerativeModel

__all__ = ["DISCRIMINATOR_FOLD", "GENERATOR_FOLD", "AdversarialModel"]

DISCRIMINATOR_FOLD, GENERATOR_FOLD = 1, 2  # separate noise for the two updates of a step


class AdversarialModel(GenerativeModel):
    """A generator G and a discriminator D, each with its own optimizer.

    Each training step updates D `discriminator_steps` times, then G once, then the averaged
    generator; an update moves its own network alone.

    A subclass's constructor sets the attributes; `discriminator_losses(images, labels, seeds,
    training)` and `generator_losses(labels, seeds, training)` give the objective: losses (batch,)
    by name, the first of which is lowered.

    Attributes:
        generator: G.
        averaged_generator: The same network, with an exponential moving average of G's weights.
        discriminator: D.
        discriminator_steps: Updates of D before each update of G, with fresh noise each.
        ema_momentum: Momentum of the average, in [0, 1).
    """

    generator: keras.Model
    averaged_generator: keras.Model
    discriminator: keras.Model
    discriminator_steps: int
    ema_momentum: float
    discriminator_optimizer: keras.optimizers.Optimizer | None = None  # until `compile`

    def compile(
        self,
        generator_optimizer: str | keras.optimizers.Optimizer | None = None,
        discriminator_optimizer: str | keras.optimizers.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Prepares for `fit`.

        Args:
            generator_optimizer: A Keras optimizer or its name; None is Adam(2e-4, beta_1=0.5),
                DCGAN's.
            discriminator_optimizer: The same for the discriminator; not the same object.
            **kwargs: Passed to `keras.Model.compile`, but for `loss` and `optimizer`.

        Raises:
            ValueError: `loss` or `optimizer` was given, one object for both networks, an optimizer
                that was built for other variables, `ScheduleFreeAdamW`, `use_ema`, or what the
                `compile` of every model refuses.
        """
        if "optimizer" in kwargs:
            raise ValueError(
                "compile(optimizer=...) must be left out: a GAN has two. Pass "
                "generator_optimizer and discriminator_optimizer."
            )
        with self.distribute_strategy.scope():
            generator_optimizer, discriminator_optimizer = (
                keras.optimizers.Adam(2e-4, beta_1=0.5)
                if given is None
                else checked_optimizer(name, given)
                for name, given in (
                    ("generator_optimizer", generator_optimizer),
                    ("discriminator_optimizer", discriminator_optimizer),
                )
            )
        if generator_optimizer is discriminator_optimizer:
            raise ValueError(
                "generator_optimizer and discriminator_optimizer must be two objects, each with "
                "slots for its own network; received one for both. Make a second one."
            )
        pairs = (
            ("generator_optimizer", generator_optimizer, self.generator),
            ("discriminator_optimizer", discriminator_optimizer, self.discriminator),
        )
        for name, given, _ in pairs:
            if devices.unscaled(given).use_ema:
                raise ValueError(
                    f"{name}: use_ema must be False, since samples come from the generator's own "
                    "average, averaged_generator. Set ema_momentum of the GAN."
                )
        for name, given, network in pairs:
            _check_fit(name, given, network)
            self.note_factors(name, given, network.trainable_variables)
        super().compile(optimizer=generator_optimizer, **kwargs)
        scaled = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
        if scaled and not isinstance(discriminator_optimizer, keras.optimizers.LossScaleOptimizer):
            discriminator_optimizer = keras.optimizers.LossScaleOptimizer(discriminator_optimizer)
        self.discriminator_optimizer = discriminator_optimizer
        self.build_optimizers()

    def enable_lora(self, rank: int, *patterns: str) -> list[str]:
        found = tuning.lora_layers(self, patterns)
        for name in found:
            if name.startswith("averaged_") and name.removeprefix("averaged_") not in found:
                raise ValueError(
                    f"patterns must not match {name!r} alone: the averaged generator follows the "
                    "generator. Name the generator's layers."
                )
        names = super().enable_lora(rank, *patterns)
        adapted = [n for n in names if n.startswith("generator/")]
        if adapted:  # the average needs the same weights, and begins at them
            averaged = [f"averaged_{name}" for name in adapted if f"averaged_{name}" not in names]
            names += super().enable_lora(rank, *averaged) if averaged else []
            self.averaged_generator.trainable = False
            held = tuning.weights(self)
            for name, variable in held.items():
                if name.startswith("averaged_") and name.split("/")[-1] in tuning.LORA_WEIGHTS:
                    variable.assign(held[name.removeprefix("averaged_")])
                    self._made_trainable.discard(name)  # an average never trains
            self._recompile()
        return names

    @property
    def optimizers(self):
        """The two optimizers, each with the variables of its own network."""
        return {
            "generator_optimizer": (self.optimizer, self.generator.trainable_variables),
            "discriminator_optimizer": (
                self.discriminator_optimizer,
                self.discriminator.trainable_variables,
            ),
        }

    @property
    def updates_per_step(self):
        """One update of G for `discriminator_steps` of D."""
        return {
            "generator_optimizer": 1,
            "discriminator_optimizer": self.discriminator_steps,
        }

    def train_step(self, data):
        images, labels, weight = self._unpack(data)
        seeds = self.step_seeds(tf.shape(images)[0])
        reported = {}
        for update in range(self.discriminator_steps):
            fresh = noise.fold(noise.fold(seeds, DISCRIMINATOR_FOLD), update)
            reported |= self._update(
                "discriminator_optimizer",
                lambda fresh=fresh: self.discriminator_losses(images, labels, fresh, True),
                weight,
            )
        fresh = noise.fold(seeds, GENERATOR_FOLD)
        reported |= self._update(
            "generator_optimizer", lambda: self.generator_losses(labels, fresh, True), weight
        )
        devices.move_averages(
            [v.value for v in self.averaged_generator.variables],
            [v.value for v in self.generator.variables],
            self.step,
            self.ema_momentum,
        )
        return self._report(reported, weight)

    def _update(self, name: str, losses_of: Callable, weight) -> dict[str, tf.Tensor]:
        """Lowers the first of the losses in the variables of one optimizer, and no others."""
        optimizer, variables = self.optimizers[name]
        network = getattr(self, name.removesuffix("_optimizer"))
        self._begin_step()
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in variables])
            losses = losses_of()
            # By regularisers and `add_loss`, of this model or that network's layers.
            added = [*self._get_own_losses(), *network.losses]
            loss = devices.objective(next(iter(losses.values())), weight, added)
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [v.value for v in variables])
        devices.apply_gradients(optimizer, gradients, variables)
        return losses


def _check_fit(name: str, optimizer, network: keras.Model) -> None:
    """Raises ValueError for an optimizer that cannot train the network."""
    inner, own = devices.unscaled(optimizer), {id(v) for v in network.trainable_variables}
    if isinstance(inner, keras.optimizers.ScheduleFreeAdamW):
        raise ValueError(
            f"{name} must not be a ScheduleFreeAdamW, which keeps a copy of the weights from when "
            "it is built: weights that are loaded after `compile` would be lost. Use "
            "keras.optimizers.Adam or AdamW."
        )
    if inner.built and {id(v) for v in inner._trainable_variables} != own:
        raise ValueError(
            f"{name} must be new, or built for the variables of that network; received one that "
            f"holds slots of {len(inner._trainable_variables)} other variables. Make a new one: "
            f"{type(inner).__name__}.from_config(optimizer.get_config())."
        )
