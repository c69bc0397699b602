"""Ensemble of pixel models: the mean of their predictions, with an exact likelihood.

Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using deep
ensembles", 2017.
"""

import inspect
import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgen import distributions, families, noise, portable, tuning
from tfgen.models.autoregressive import READING_STREAM, AutoregressiveModel
from tfgen.models.guidance import LOGITS
from tfgen.models.token_networks import Head
from tfgen.models.trunk import Column, Conditions, Row, Trunk

__all__ = ["PixelEnsemble"]

# What members must have in common, since they read the same tokens.
ALIKE = (
    *("image_shape", "num_levels", "pixel_distribution"),
    *("token_shape", "orders", "fourier_features"),
)
# What the ensemble decides for its members.
OWN = ("name", "trainable", "dtype", "frozen", "guidance")


@keras.saving.register_keras_serializable("tfgen")
class PixelEnsemble(AutoregressiveModel):
    """Several pixel models as one: at each group of pixels the members' mean probabilities.

        p(x) = prod_i 1/M sum_m p_m(x_i | x_1, ..., x_{i-1})      nats per image, exact

    of M members. Networks trained apart err in different places, so their mean errs less. Members
    that know K classes may be in an ensemble that is told none: the class is then hidden,

        p(x) = 1/K sum_c p(x | c)

    and each image that is drawn picks one by its seed; at temperature 0 all take the first. A
    sample costs one pass of each member; with a hidden class a likelihood, a completion and a step
    of training cost K of them.

    Input of `call`: uint8 images (batch, height, width, channels). Output: the parameters of each
    pixel's distribution, float (batch, height, width, channels, outputs), given the first class if
    it is hidden.

    Args:
        members: list of two models or more, PixelCNN or PixelRNN, whose weights are copied; or,
            for initial weights, of {"family": name, "config": constructor arguments}. They must
            agree in `image_shape`, `num_levels`, `token_shape`, `fourier_features` and
            `pixel_distribution`, which must be "bernoulli" or "categorical", and have `orders=1`.
        num_classes: int or None. Number of classes if the ensemble is given labels; None if its
            members know no classes, or the class is hidden. Members that know classes must all
            know the same number. Defaults to None.
        guidance: float. As for a PixelCNN; the members' own guidance is ignored. Defaults to 0.
        seed: int. Seed of the training noise. Defaults to 0.

    Raises:
        ValueError: Members that do not fit together, or an argument out of its range.

    Example:
    >>> from tfgen import PixelCNN
    >>> binary = {"num_levels": 2, "pixel_distribution": "bernoulli"}
    >>> small = {"image_shape": (4, 4, 1), "filters": 4, "num_blocks": 1, "head_units": 4, **binary}
    >>> model = PixelEnsemble([PixelCNN(**small), PixelCNN(num_classes=3, **small)])
    >>> model.sample(3, seed=0).shape
    (3, 4, 4, 1)
    """

    def __init__(
        self,
        members: Sequence[AutoregressiveModel | dict[str, Any]],
        num_classes: int | None = None,
        guidance: float = 0.0,
        seed: int = 0,
        **kwargs,
    ):
        if not isinstance(members, (list, tuple)) or len(members) < 2:
            raise ValueError(
                f"members must be a list of at least two models; received {members!r}."
            )
        described = [_described(member) for member in members]
        shape, levels = (described[0][1][name] for name in ALIKE[:2])
        super().__init__(shape, levels, num_classes, seed, **kwargs)
        with self.own_dtype_policy():
            self.networks = [
                family(**(arguments | {"name": f"member_{index}", "dtype": self.dtype_policy}))
                for index, (family, arguments) in enumerate(described)
            ]
        self.keep(
            {
                "members": [_as_json(network) for network in self.networks],
                "num_classes": num_classes,
                "guidance": guidance,
                "seed": seed,
            }
        )
        self.hidden_classes = self._checked_classes()
        for network, member in zip(self.networks, members, strict=True):
            if isinstance(member, keras.Model):
                tuning.copy_weights(member, network)
        one = self.networks[0]
        shared = (*ALIKE[2:], "token_grid", "token_channels", "uses_patterns", "patterns")
        for name in (*shared, "outputs"):
            setattr(self, name, getattr(one, name))
        self.check_settings()
        self.dropout = max(network.dropout for network in self.networks)
        self.build()

    def _checked_classes(self) -> int:
        """Returns the number of hidden classes, 1 if none is hidden, or refuses the members."""
        one = self.networks[0]
        for name in ALIKE:
            found = [getattr(network, name) for network in self.networks]
            if any(value != found[0] for value in found):
                raise ValueError(f"members must have the same {name}; received {found}.")
        if one.pixel_distribution not in LOGITS:
            raise ValueError(
                f"members must have a pixel_distribution of {' or '.join(LOGITS)}, whose "
                f"outputs can be averaged; received {one.pixel_distribution!r}."
            )
        if one.orders > 1:
            raise ValueError(f"members must read in one order; received orders={one.orders}.")
        known = sorted({n.num_classes for n in self.networks if n.num_classes is not None})
        if len(known) > 1:
            raise ValueError(f"members must know the same classes; received num_classes={known}.")
        if self.num_classes is not None and known != [self.num_classes]:
            raise ValueError(
                f"num_classes must be that of a member; received {self.num_classes}, and the "
                f"members know {known[0] if known else 'no'} classes."
            )
        return known[0] if known and self.num_classes is None else 1

    @property
    def num_readings(self) -> int:
        """An image is read as one of each hidden class."""
        return self.hidden_classes

    # Networks --------------------------------------------------------------------------------

    @property
    def trunk(self) -> "JoinedTrunk":
        """What the sampler runs."""
        return JoinedTrunk([network.trunk for network in self.networks])

    def conditions(
        self,
        batch: int | tf.Tensor,
        labels: tf.Tensor | None,
        reading: int | tf.Tensor,
        seeds: tf.Tensor | None = None,
    ) -> tuple[Conditions, ...]:
        """Returns those of each member; a hidden class is the way of reading."""
        if self.hidden_classes > 1:
            labels = tf.broadcast_to(tf.cast(reading, tf.int32), (batch,))
        return tuple(
            network.conditions(
                batch,
                None if network.num_classes is None else labels,
                0,
                None if seeds is None else noise.fold(seeds, index),  # its own dropout
            )
            for index, network in enumerate(self.networks)
        )

    def parameters_of(self, tokens: tf.Tensor, conditions: tuple[Conditions, ...]) -> tf.Tensor:
        """Returns the logits of the mean for every group given the true groups before it."""
        return self._mean(
            [
                network.parameters_of(tokens, own)
                for network, own in zip(self.networks, conditions, strict=True)
            ]
        )

    def head_of(self, features: tuple[tf.Tensor, ...]) -> Head:
        """As in `TokenModel`, from the features that each member's trunk found."""
        heads = [n.head_of(own) for n, own in zip(self.networks, features, strict=True)]
        return lambda seen: self._mean([head(seen) for head in heads])

    def _mean(self, logits: list[tf.Tensor]) -> tf.Tensor:
        """Logits of the mean of distributions with these logits."""
        each = tf.stack(logits)
        if self.outputs == 1:  # log of the mean of sigmoids, above and below
            high, low = (tf.reduce_logsumexp(-portable.softplus(x), 0) for x in (-each, each))
            return high - low
        return tf.reduce_logsumexp(tf.nn.log_softmax(each), 0) - math.log(len(logits))

    # Hidden classes --------------------------------------------------------------------------

    def log_prob_to_train(
        self,
        levels: tf.Tensor,
        labels: tf.Tensor | None,
        seeds: tf.Tensor,
        dropout: tf.Tensor | None,
    ) -> tf.Tensor:
        """log p(x) itself: read as an image of any class, each would unlearn what classes are."""
        count, batch = self.hidden_classes, tf.shape(levels)[0]
        # Side by side, not one after another: XLA cannot compile the gradient of every loop.
        levels = tf.tile(levels, (count, 1, 1, 1))
        labels = None if labels is None else tf.tile(labels, (count,))
        dropout = None if dropout is None else tf.tile(dropout, (count,))
        classes = tf.repeat(tf.range(count), batch)
        each = self.log_prob_of_reading(levels, labels, classes, dropout)
        return tf.reduce_logsumexp(tf.reshape(each, (count, batch)), 0) - math.log(count)

    def _pixels_given_each_class(self, levels: tf.Tensor) -> tf.Tensor:
        """log p of each pixel in turn, given each hidden class: (classes, batch, pixels)."""
        batch, count = tf.shape(levels)[0], self.hidden_classes

        def one_class(label, found):
            in_turn = super(PixelEnsemble, self).pixels_in_turn(
                levels, None, tf.fill((batch,), label)
            )
            place = tf.one_hot(label, count, dtype=found.dtype)[:, None, None]
            return label + 1, found + place * tf.reshape(in_turn, (1, batch, pixels))

        pixels = math.prod(self.image_shape)
        nothing = tf.zeros((count, batch, pixels), self.output_dtype)
        _, found = tf.while_loop(
            lambda label, _: label < count,
            one_class,
            (tf.constant(0), nothing),
            parallel_iterations=1,
            maximum_iterations=count,
        )
        return found

    def pixels_in_turn(
        self, levels: tf.Tensor, labels: tf.Tensor | None, reading: tf.Tensor
    ) -> tf.Tensor:
        """As in `AutoregressiveModel`; of a hidden class the pixels before tell what they can."""
        if self.hidden_classes == 1:
            return super().pixels_in_turn(levels, labels, reading)
        each = self._pixels_given_each_class(levels)
        # log p(x_i | x_<i) = log sum_c p(c | x_<i) p(x_i | x_<i, c)
        posterior = tf.nn.log_softmax(tf.cumsum(each, -1, exclusive=True), 0)
        mean = tf.reduce_logsumexp(posterior + each, 0)
        return tf.reshape(mean, (-1, *self.token_grid.shape))

    def reading_for(
        self,
        kept: tf.Tensor,
        mask: tf.Tensor,
        seeds: tf.Tensor,
        labels: tf.Tensor | None,
        temperature: float,
    ) -> tf.Tensor:
        """A class drawn from p(c | the kept pixels before the first hidden one)."""
        if self.hidden_classes == 1:
            return super().reading_for(kept, mask, seeds, labels, temperature)
        known = tf.reshape(self.token_grid.to_tokens(mask), (-1, math.prod(self.image_shape)))
        hidden = tf.cast(tf.logical_not(known), tf.int32)
        before = tf.cumsum(hidden, -1) == 0
        each = self._pixels_given_each_class(kept)
        logits = tf.reduce_sum(tf.where(before, each, 0.0), -1)  # (classes, batch)
        uniforms = noise.uniform(seeds, (), READING_STREAM)
        return distributions.draw_categorical(tf.transpose(logits), uniforms, temperature)


def _described(member: Any) -> tuple[type, dict[str, Any]]:
    """Returns the family of a member and all arguments of its constructor."""
    if isinstance(member, keras.Model):
        family, config = type(member), member.get_config()
    elif (
        isinstance(member, dict)
        and set(member) == {"family", "config"}
        and isinstance(member["config"], dict)
    ):
        family, config = families.find(member["family"]), member["config"]
    else:
        raise ValueError(
            "members must be pixel models, or {'family': name, 'config': arguments} of each; "
            f"received {member!r}."
        )
    if not issubclass(family, AutoregressiveModel) or issubclass(family, PixelEnsemble):
        raise ValueError(f"members must be PixelCNNs or PixelRNNs; received a {family.__name__}.")
    own = {name: value for name, value in config.items() if name not in OWN}
    bound = inspect.signature(family).bind(**own)
    bound.apply_defaults()
    return family, bound.arguments | bound.arguments.pop("kwargs", {})  # which Keras refuses


def _as_json(network: AutoregressiveModel) -> dict[str, Any]:
    config = {name: value for name, value in network.get_config().items() if name not in OWN}
    return {"family": families.name_of(type(network)), "config": config}


class JoinedTrunk:
    """The trunks of all members as one; its state, cache and terms are tuples of theirs."""

    def __init__(self, trunks: Sequence[Trunk]):
        self.trunks = trunks
        self.rows_above = max(trunk.rows_above for trunk in trunks)
        self.num_left = max(trunk.num_left for trunk in trunks)
        self.num_recorded = sum(trunk.num_recorded for trunk in trunks)

    def start(self, conditions: tuple[Conditions, ...]) -> tuple:
        """The cache of each."""
        return tuple(t.start(own) for t, own in zip(self.trunks, conditions, strict=True))

    def step_kernels(self) -> tuple:
        """Those of each."""
        return tuple(trunk.step_kernels() for trunk in self.trunks)

    def begin_row(
        self, cache: tuple, above: tf.Tensor, row: tf.Tensor, conditions: tuple[Conditions, ...]
    ) -> Row:
        """Each sees the rows above that it needs."""
        rows = [
            trunk.begin_row(own, above[self.rows_above - trunk.rows_above :], row, condition)
            for trunk, own, condition in zip(self.trunks, cache, conditions, strict=True)
        ]
        return Row(*(tuple(parts) for parts in zip(*rows, strict=True)))

    def step(self, state: tuple, left: tuple, terms: tuple, kernels: tuple) -> Column:
        """One column of each; their recorded tensors follow one another."""
        columns = [
            trunk.step(own, left[self.num_left - trunk.num_left :], own_terms, own_kernels)
            for trunk, own, own_terms, own_kernels in zip(
                self.trunks, state, terms, kernels, strict=True
            )
        ]
        features, states, recorded = zip(*columns, strict=True)
        return Column(features, states, tuple(itertools.chain(*recorded)))

    def end_row(
        self,
        cache: tuple,
        known: tuple,
        recorded: tuple,
        tokens: tf.Tensor,
        conditions: tuple[Conditions, ...],
    ) -> tuple:
        """Each gets the tensors that it recorded."""
        recorded = iter(recorded)
        return tuple(
            trunk.end_row(
                own, own_known, tuple(itertools.islice(recorded, trunk.num_recorded)), tokens, given
            )
            for trunk, own, own_known, given in zip(
                self.trunks, cache, known, conditions, strict=True
            )
        )
