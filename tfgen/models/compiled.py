"""A model's optimizers: how it is compiled, what they train, how many steps they have counted."""

import json
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfgen import devices, files, tuning
from tfgen.models.configured import ConfiguredModel
from tfgen.optimizers import GroupedAdam

__all__ = ["CompiledModel", "checked_optimizer"]

# Arguments of Keras' `compile` that a model with its own objective has no use for.
REFUSED = ("loss", "loss_weights", "metrics", "weighted_metrics")
STORED_RATES = (keras.Variable, keras.optimizers.schedules.LearningRateSchedule)
STEPS = "steps.json"  # among the assets of a `.keras` file
# What `exclude_from_weight_decay` sets on an optimizer, and its configuration leaves out.
NOT_IN_CONFIG = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")


class CompiledModel(ConfiguredModel):
    """A model with an objective of its own.

    Attributes:
        loss_names: What `fit` reports; "loss" is the objective.
        steps_before: Training steps of the weights that the optimizer has not counted.
        is_fitting: Whether `fit` runs, in which callbacks may change the model.
    """

    loss_names: tuple[str, ...] = ("loss",)
    steps_before: int = 0
    is_fitting: bool = False

    def _lock_state(self) -> None:
        """Keras' lock of a model that is built; here a subclass may add layers of its own."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "optimizer" and self.compiled:
            optimizer, steps = checked_optimizer(name, value), self.steps_trained
            super().__setattr__(name, optimizer)
            self.steps_before = steps - _counted(optimizer)  # it may have counted steps already
            return
        super().__setattr__(name, value)
        if name in self.settable:
            for kind in ("train", "test", "predict"):
                if getattr(self, f"{kind}_function", None) is not None:
                    getattr(self, f"make_{kind}_function")()  # also in the middle of `fit`

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        loss: None = None,
        **kwargs: Any,
    ) -> None:
        """Prepares for `fit`: Adam with Keras' defaults unless told otherwise.

        Args:
            optimizer: A Keras optimizer or its name.
            loss: Must be left out.
            **kwargs: `run_eagerly`, `steps_per_execution`, `jit_compile` and `auto_scale_loss` of
                `keras.Model.compile`.

        Raises:
            ValueError: A loss or metrics were given: the model has its own. Or XLA was asked for
                under a distribution strategy; or `optimizer` is not a Keras optimizer, is a
                `keras.optimizers.MultiOptimizer`, or is a new `GroupedAdam` of another number
                of variables. The model is left as it was.
        """
        if kwargs.get("jit_compile") is True and self.distribute_strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "compile(jit_compile=True) must be left out under a distribution strategy: XLA "
                "does not compile all-reduces."
            )
        for name, value in {"loss": loss, **kwargs}.items():
            if name in REFUSED and value is not None:
                raise ValueError(
                    f"compile({name}=...) must be left out: {type(self).__name__} brings its own "
                    f"objective and reports {', '.join(self.loss_names)}; received "
                    f"{name}={value!r}."
                )
        with self.distribute_strategy.scope():
            optimizer = checked_optimizer("optimizer", optimizer)
        self.build()  # a subclass may have added layers
        if "optimizer" in self.updates_per_step:  # else the subclass has checked its own
            self.note_factors("optimizer", optimizer, self.trainable_variables)
        steps = self.steps_trained
        super().compile(optimizer=optimizer, **kwargs)
        # Another optimizer, the same weights.
        self.steps_before = steps - _counted(self.optimizer)
        self.__dict__["_auto_scale_loss"] = kwargs.get("auto_scale_loss", True)
        self.__dict__["_jit"] = kwargs.get("jit_compile", "auto"), self.jit_compile

    def note_factors(
        self, name: str, optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]
    ) -> None:
        """Assigns the factors of a new `GroupedAdam` to variables.

        Raises:
            ValueError: There is not one for each variable; the message names the argument.
        """
        own = devices.unscaled(optimizer)
        if isinstance(own, GroupedAdam) and not own.built:
            try:
                own.begin(variables, tuning.weights(self))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    def get_compile_config(self) -> dict[str, Any]:
        """Returns what `compile_from_config` needs to compile the same way."""
        if not self.compiled:
            return {}
        self._note_all_factors()
        # As given ("auto" resolves on each machine), unless it was set since.
        given, resolved = self._jit
        held, optimizers, scales = tuning.weights(self), {}, {}
        for name, (optimizer, _) in self.optimizers.items():
            optimizers[name] = keras.saving.serialize_keras_object(optimizer)
            own = devices.unscaled(optimizer)
            if isinstance(own, GroupedAdam):  # a file has what adapters change, and not them
                known = own.scales_by_name(held)
                scales[name] = known | {tuning.adapted_name(n): s for n, s in known.items()}
        return {
            **optimizers,
            "scales": scales,
            "built": all(optimizer.built for optimizer, _ in self.optimizers.values()),
            "run_eagerly": self.run_eagerly,
            "steps_per_execution": self.steps_per_execution,
            "jit_compile": given if self.jit_compile == resolved else self.jit_compile,
            "auto_scale_loss": self._auto_scale_loss,
            "replicas": self.distribute_strategy.num_replicas_in_sync,
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles with deserialised optimizers and makes the slots that they had, to be loaded."""
        with self.distribute_strategy.scope():
            options = keras.saving.deserialize_keras_object(config)
        steps_before, built = options.pop("steps_before", 0), options.pop("built", True)
        scales = options.pop("scales", {})
        if not self.compiled:
            self.steps_before = steps_before
        _adapt(options, self.distribute_strategy.num_replicas_in_sync)
        for name, by_weight in scales.items():
            devices.unscaled(options[name]).expect(tuning.weights(self), by_weight)
        self.compile(**options)
        if built:
            self.build_optimizers()

    def load_weights(self, filepath: str | Path, *args: Any, **kwargs: Any) -> None:
        """Loads as Keras does; adapters, which Keras zeroes, are initialised again."""
        super().load_weights(files.expanded(filepath), *args, **kwargs)
        tuning.restart_adapters(self)

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.compiled and not self.is_fitting and any(self._changes()):
            self._recompile()  # as the next `fit` would, so that slots fit what trains
        super().save(*args, **kwargs)

    def save_assets(self, folder: str) -> None:
        """Writes all steps, and those not in the optimizer's count, into a file of Keras."""
        before = self.steps_trained if self._keeps_no_count() else self.steps_before
        text = json.dumps([self.steps_trained, int(before)])
        Path(folder, STEPS).write_text(text, encoding="utf-8")

    def load_assets(self, folder: str | None) -> None:
        """Restores the step count, all of it in a model that is loaded with `compile=False`."""
        path = Path(folder or "", STEPS)
        if folder and path.is_file():
            stored = json.loads(path.read_text(encoding="utf-8-sig"))
            # Older files have the second number among the settings of `compile`.
            trained, before = stored if isinstance(stored, list) else (stored, self.steps_before)
            self.steps_before = before if self.compiled else trained

    def _keeps_no_count(self) -> bool:
        """Whether Keras will not load the optimizer's state, and count, since its slots differ.

        They do while it trains adapters, which no file has, or other weights than it was built for.
        """
        if not self.compiled:
            return False
        optimizer, variables = next(iter(self.optimizers.values()))
        own, now = devices.unscaled(optimizer), {id(variable) for variable in variables}
        adapters = {id(w) for n, w in tuning.weights(self).items() if tuning.adapted_name(n) != n}
        fits = now == {id(variable) for variable in own._trainable_variables}
        slots = len(own.variables) > 2  # besides its count and its rate
        return slots and not (fits and now.isdisjoint(adapters))

    def _recompile(self) -> None:
        """Makes optimizers of the same settings for the variables that train now.

        They go on where those before them were, unless one of those lacks slots for a variable.
        """
        if not self.compiled:
            return
        given = {name: optimizer for name, (optimizer, _) in self.optimizers.items()}
        stops = self.stop_training  # which `compile` forgets
        goes_on = any(each.built for each in given.values()) and not self._changes()[0]
        before = {name: devices.unscaled(optimizer) for name, optimizer in given.items()}
        # Keras would look classes up by the names that they are registered under, and it cannot
        # store a rate that is a function.
        classes, rates = {}, {}
        for name, old in before.items():
            classes |= {type(part).__name__: type(part) for part in (old, old._learning_rate)}
            if callable(old._learning_rate) and not isinstance(old._learning_rate, STORED_RATES):
                rates[name], old._learning_rate = old._learning_rate, 0.0
        try:
            with keras.saving.custom_object_scope(classes):
                self.compile_from_config(self.get_compile_config())
        finally:
            for name, rate in rates.items():
                before[name]._learning_rate = rate
        for name, (optimizer, _) in self.optimizers.items():
            own = devices.unscaled(optimizer)
            own._learning_rate = rates.get(name, own._learning_rate)
            for excluded in NOT_IN_CONFIG:
                if hasattr(before[name], excluded):
                    setattr(own, excluded, getattr(before[name], excluded))
        if goes_on:
            self.build_optimizers()
            self._carry_over(given)
        if self.is_fitting:
            self.stop_training = stops
            self.build_optimizers()
            self.make_train_function()

    @property
    def optimizers(self) -> dict[str, tuple[keras.optimizers.Optimizer, list]]:
        """The arguments of `compile` that are optimizers, each with the variables it trains."""
        return {"optimizer": (self.optimizer, self.trainable_variables)}

    @property
    def updates_per_step(self) -> dict[str, int]:
        """How often each of the optimizers moves its variables in one training step."""
        return {"optimizer": 1}

    def build_optimizers(self) -> None:
        """Makes the slots that optimizers lack, on each device of the model's strategy.

        Where other weights train than when an optimizer was built, the optimizers are made again,
        as `freeze` and `unfreeze` do. Where only fewer do, they go on where they were.
        """
        if any(self._changes()):
            self._recompile()
        with self.distribute_strategy.scope():
            for name, (optimizer, variables) in self.optimizers.items():
                own = devices.unscaled(optimizer)
                steps = own.gradient_accumulation_steps
                if steps and tf.distribute.has_strategy():
                    raise ValueError(
                        f"gradient_accumulation_steps={steps} must be left out under a "
                        "distribution strategy: Keras cannot all-reduce in only some steps."
                    )
                if optimizer.built:
                    continue
                self.note_factors(name, optimizer, variables)
                optimizer.build(variables)
                # They start at zeros, where a `fit` of no step would leave the model.
                averages = own._model_variables_moving_average if own.use_ema else ()
                for average, variable in zip(averages, variables, strict=False):
                    if average is not None:  # of 8-bit scales
                        average.assign(variable)

    def _changes(self) -> tuple[bool, bool]:
        """Whether a weight trains that an optimizer has no slots for; whether one no longer does.

        Optimizers that are not built have slots for nothing yet, and are left out.
        """
        grown = shrunk = False
        for optimizer, variables in self.optimizers.values():
            if optimizer.built:
                known = {id(v) for v in devices.unscaled(optimizer)._trainable_variables}
                own = {id(v) for v in variables}
                grown, shrunk = grown or not own <= known, shrunk or not known <= own
        return grown, shrunk

    def _note_all_factors(self) -> None:
        if not self.compiled:
            return
        for name, (optimizer, variables) in self.optimizers.items():
            self.note_factors(name, optimizer, variables)

    def _carry_over(self, before: dict[str, keras.optimizers.Optimizer]) -> None:
        """Gives the optimizers the counts, rates and slots of those before, as far as they fit.

        Slots are told apart by what they belong to: their names are not unique in a model.
        """
        for name, (optimizer, _) in self.optimizers.items():
            own, old = devices.unscaled(optimizer), devices.unscaled(before[name])
            places = {id(variable): i for i, variable in enumerate(old._trainable_variables)}
            _carry_scalars(optimizer, before[name])  # of the loss scale, if there is one
            _carry_scalars(own, old)
            for attribute, held in vars(old).items():
                slots = getattr(own, attribute, None)
                if attribute == "_trainable_variables" or not isinstance(slots, list):
                    continue
                if len(slots) == len(own._trainable_variables) and len(held) == len(places):
                    for slot, variable in zip(slots, own._trainable_variables, strict=True):
                        if isinstance(slot, keras.Variable):
                            slot.assign(held[places[id(variable)]])
        self.steps_before -= _counted(self.optimizer)

    @property
    def step(self) -> tf.Tensor:
        """How many training steps the weights have behind them, int64; schedules go by it.

        Under gradient accumulation each of the small batches is a step. A model from a preset goes
        on counting where the preset's training ended.
        """
        if not self.compiled:
            return tf.constant(self.steps_before, tf.int64)
        # Keras' `iterations` stands still while gradients accumulate.
        return (
            tf.cast(devices.unscaled(self.optimizer)._iterations.value, tf.int64)
            + self.steps_before
        )

    @property
    def steps_trained(self) -> int:
        """The same outside of a training step; also for a model that is not compiled."""
        return int(self.step)


def checked_optimizer(name: str, given: Any) -> keras.optimizers.Optimizer:
    """Returns the optimizer that an argument of `compile` stands for.

    Args:
        name: The argument's.
        given: An optimizer or its name.

    Raises:
        ValueError: It is neither, or a `keras.optimizers.MultiOptimizer`.
    """
    wrong = ValueError(
        f"{name} must be a Keras optimizer or its name; received {given!r}. Pass e.g. 'adam'."
    )
    try:
        optimizer = keras.optimizers.get(given)
    except (TypeError, ValueError) as error:
        raise wrong from error
    if optimizer is None:
        raise wrong
    if isinstance(devices.unscaled(optimizer), keras.optimizers.MultiOptimizer):
        raise ValueError(
            f"{name} must not be a MultiOptimizer, whose parts would start anew whenever weights "
            "are frozen. Pass one optimizer; tfgen.optimizers.GroupedAdam has a rate for each "
            "variable."
        )
    return optimizer


def _adapt(options: dict[str, Any], replicas: int) -> None:
    """Adapts what was compiled for another number of replicas."""
    before = options.pop("replicas", replicas)
    if replicas > 1 and options.get("jit_compile") is True:
        options["jit_compile"] = False  # it was compiled for one device
    for optimizer in options.values() if before != replicas else ():
        if isinstance(optimizer, keras.optimizers.Optimizer):
            own = devices.unscaled(optimizer)
            for bound in ("clipnorm", "clipvalue", "global_clipnorm"):  # of a replica's share
                if getattr(own, bound) is not None:
                    setattr(own, bound, getattr(own, bound) * before / replicas)


def _counted(optimizer: keras.optimizers.Optimizer) -> int:
    """Returns how many steps an optimizer has counted, with those that accumulate gradients."""
    counted = devices.unscaled(optimizer)._iterations.value
    return int(counted.numpy())  # mirrored variables know no int()


def _carry_scalars(optimizer: keras.optimizers.Optimizer, old: keras.optimizers.Optimizer) -> None:
    """Copies what an optimizer keeps once for all weights: counts, rates, products, scales."""
    for attribute, held in vars(old).items():
        own = getattr(optimizer, attribute, None)
        if isinstance(held, keras.Variable) and isinstance(own, keras.Variable):
            own.assign(held)
