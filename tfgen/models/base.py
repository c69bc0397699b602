"""Training on uint8 images: compile, fit, evaluate and their steps."""

import inspect
import math
from typing import Any

import keras
import tensorflow as tf

from tfgen import devices, noise, pixels
from tfgen.models import inputs
from tfgen.models.configured import ConfiguredModel
from tfgen.optimizers import GroupedAdam

__all__ = ["ImageModel"]

EVALUATION_FOLD = -1  # folded into a model's seed for the noise of `evaluate`
HASH_FACTOR = 2654435761  # spreads neighbouring pixels over 64 bits; any large odd number would do
WEIGHTS = ("sample_weight", "class_weight")  # arguments of `fit`
# Arguments of Keras' `compile` that a model with its own objective has no use for.
REFUSED = ("loss", "loss_weights", "metrics", "weighted_metrics")


class ImageModel(ConfiguredModel):
    """Base of all models: what Keras' training methods do with uint8 NHWC images.

    Shapes, once for all: `images` uint8 (batch, height, width, channels) in [0, 255], `labels`
    int64 (batch,), `seeds` int64 (batch,). A subclass gives

        losses_per_image(images, labels, seeds, training) -> {name of `loss_names`: (batch,)}

    The noise of image i comes from its own seed alone, whatever else is in the batch.
    """

    loss_names: tuple[str, ...] = ("loss",)

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_levels: int,
        num_classes: int | None = None,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(image_shape, num_levels, num_classes, seed, **kwargs)
        self._means = {name: keras.metrics.Mean(name) for name in self.loss_names}
        self.steps_before = 0  # training steps of the weights that this optimizer has not counted

    def losses_per_image(
        self, images: tf.Tensor, labels: tf.Tensor | None, seeds: tf.Tensor, training: bool
    ) -> dict[str, tf.Tensor]:
        """Returns the `loss_names`, each (batch,); "loss" is the objective that `fit` lowers."""
        raise NotImplementedError

    # Compiling -------------------------------------------------------------------------------

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
                under a distribution strategy.
        """
        if kwargs.get("jit_compile") is True and self.distribute_strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "compile(jit_compile=True) must be left out under a distribution strategy: XLA "
                "does not compile sums over devices."
            )
        for name, value in {"loss": loss, **kwargs}.items():
            if name in REFUSED and value is not None:
                raise ValueError(
                    f"compile({name}=...) must be left out: {type(self).__name__} brings its own "
                    f"objective and reports {', '.join(self.loss_names)}; received "
                    f"{name}={value!r}."
                )
        steps = self.steps_trained
        super().compile(optimizer=optimizer, **kwargs)
        # Another optimizer, the same weights; it may have counted steps already.
        counted = devices.unscaled(self.optimizer)._iterations.value
        self.steps_before = steps - int(counted.numpy())  # mirrored variables know no int()
        self.__dict__["_auto_scale_loss"] = kwargs.get("auto_scale_loss", True)

    def get_compile_config(self) -> dict[str, Any]:
        """Returns what `compile_from_config` needs to compile the same way."""
        if not self.compiled:
            return {}
        optimizers = {}
        for name, (optimizer, variables) in self.optimizers.items():
            if optimizer.built and isinstance(devices.unscaled(optimizer), GroupedAdam):
                devices.unscaled(optimizer).regroup(variables)
            optimizers[name] = keras.saving.serialize_keras_object(optimizer)
        return {
            **optimizers,
            "steps_before": self.steps_before,
            "built": all(optimizer.built for optimizer, _ in self.optimizers.values()),
            "run_eagerly": self.run_eagerly,
            "steps_per_execution": self.steps_per_execution,
            "jit_compile": self.jit_compile,
            "auto_scale_loss": self._auto_scale_loss,
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles with deserialised optimizers and makes the slots that they had, to be loaded."""
        options = keras.saving.deserialize_keras_object(config)
        steps_before, built = options.pop("steps_before", 0), options.pop("built", True)
        if not self.compiled:
            self.steps_before = steps_before
        self.compile(**options)
        if built:
            self.build_optimizers()

    def _recompile(self) -> None:
        """Makes optimizers of the same settings for the variables that train now."""
        if not self.compiled:
            return
        before = {
            name: devices.unscaled(optimizer) for name, (optimizer, _) in self.optimizers.items()
        }
        self.compile_from_config(self.get_compile_config())
        for name, (optimizer, _) in self.optimizers.items():
            if isinstance(devices.unscaled(optimizer), GroupedAdam):
                devices.unscaled(optimizer).take_scales(before[name])

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

        Where a weight trains that did not when its optimizer was built, the optimizers are made
        again, as `freeze` and `unfreeze` do.
        """
        for optimizer, variables in self.optimizers.values():
            known = {id(v) for v in devices.unscaled(optimizer)._trainable_variables}
            if optimizer.built and not known.issuperset(map(id, variables)):
                self._recompile()
                return
        with self.distribute_strategy.scope():
            for optimizer, variables in self.optimizers.values():
                steps = devices.unscaled(optimizer).gradient_accumulation_steps
                if steps and tf.distribute.has_strategy():
                    raise ValueError(
                        f"gradient_accumulation_steps={steps} must be left out under a "
                        "distribution strategy: Keras cannot sum over devices in some steps alone."
                    )
                if not optimizer.built:
                    optimizer.build(variables)

    # Keras' methods --------------------------------------------------------------------------

    def fit(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does, on images, or (images, labels) if conditional.

        Args:
            x: uint8 images in an array; or a data set or generator of batches of images,
                (images, labels) or (images, labels, weights).
            y: Integer labels of a conditional model, if `x` is an array.
            *args: As for `keras.Model.fit`.
            **kwargs: As for `keras.Model.fit`.

        Raises:
            ValueError: Images that are not uint8 of the model's shape; labels that are missing,
                out of range, or given to an unconditional model; a callback that cannot work. The
                model is left as it was.
        """
        given = inspect.signature(keras.Model.fit).bind(self, x, y, *args, **kwargs).arguments
        del given["self"]
        inputs.check_callbacks(self, given.get("callbacks"))
        if given.get("class_weight") is not None:
            inputs.check_class_weight(x, y)
        weighted = any(given.get(n) is not None for n in WEIGHTS)
        given["x"], given["y"] = inputs.checked(self, x, y, weighted)
        given["validation_data"] = inputs.checked_validation(self, given.get("validation_data"))
        if self.compiled:
            self.build_optimizers()
        try:
            with inputs.explained():
                return super().fit(**given)
        except Exception:
            self.train_function = None  # half made, it would fail on correct images too
            raise

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Returns the losses as `keras.Model.evaluate` does, on what `fit` takes.

        Raises:
            ValueError: As `fit`.
        """
        if not kwargs.get("_use_cached_eval_dataset"):  # by which `fit` tells that it has checked
            weighted = kwargs.get("sample_weight") is not None
            x, y = inputs.checked(self, x, y, weighted)
        with inputs.explained():
            return super().evaluate(x, y, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns what `call` does, in batches: `keras.Model.predict` on what `fit` takes.

        Args:
            x: As in `fit`; a conditional model takes arrays as the pair (images, labels).
            *args: As for `keras.Model.predict`.
            **kwargs: As for `keras.Model.predict`.

        Raises:
            ValueError: As `fit`.
        """
        x = self._checked_inputs(x)
        with inputs.explained():
            return super().predict(x, *args, **kwargs)

    def _checked_inputs(self, x: Any) -> Any:
        """Returns what `predict` takes, checked."""
        if self._call_takes_labels and isinstance(x, (list, tuple)) and len(x) == 2:
            return inputs.checked(self, *x)
        return inputs.checked(self, x, with_labels=self._call_takes_labels)[0]

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Runs one training step as `keras.Model.train_on_batch` does; raises as `fit` does."""
        weighted = bool(args) or any(kwargs.get(n) is not None for n in WEIGHTS)
        x, y = inputs.checked(self, x, y, weighted)
        self.build_optimizers()
        return super().train_on_batch(x, y, *args, **kwargs)

    def test_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Returns the losses as `keras.Model.test_on_batch` does; raises as `fit` does."""
        weighted = bool(args) or kwargs.get("sample_weight") is not None
        x, y = inputs.checked(self, x, y, weighted)
        return super().test_on_batch(x, y, *args, **kwargs)

    def predict_on_batch(self, x: Any) -> Any:
        """Returns what `predict` does for one batch, and takes what it takes."""
        return super().predict_on_batch(self._checked_inputs(x))

    def make_train_function(self, force: bool = False) -> Any:
        optimizers = [optimizer for optimizer, _ in self.optimizers.values()]
        changed = self.changed_since("train", *self._graph_options(), *optimizers)
        return super().make_train_function(changed or force)

    def make_test_function(self, force: bool = False) -> Any:
        changed = self.changed_since("test", *self._graph_options())
        return super().make_test_function(changed or force)

    def make_predict_function(self, force: bool = False) -> Any:
        changed = self.changed_since("predict", *self._graph_options())
        return super().make_predict_function(changed or force)

    def _graph_options(self) -> tuple:
        """Attributes of Keras' that its graphs are made from, and that a user may set."""
        return self.run_eagerly, self.jit_compile, self.steps_per_execution

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # Nothing is left to build, and Keras would average a batch over the workers for it, which
        # TensorFlow cannot do with uint8.
        return

    # Steps -----------------------------------------------------------------------------------

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The running means of the last `losses_per_image`, reset at each epoch by Keras."""
        return list(self._means.values())

    def train_step(self, data) -> dict[str, tf.Tensor]:
        """One step of gradient descent on the mean of `losses_per_image`."""
        images, labels, weight = self._unpack(data)
        seeds = self.step_seeds(tf.shape(images)[0])
        with tf.GradientTape() as tape:
            losses = self.losses_per_image(images, labels, seeds, training=True)
            loss = devices.weighted_mean(losses["loss"], weight)
            if self.losses:
                loss += tf.add_n(self.losses) / devices.num_replicas()
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        devices.apply_gradients(self.optimizer, gradients, self.trainable_variables)
        return self._report(losses, weight)

    def test_step(self, data) -> dict[str, tf.Tensor]:
        """The same losses with noise that depends on the image alone.

        So `evaluate` gives the same figure twice, in batches of any size, on any replicas.
        """
        images, labels, weight = self._unpack(data)
        flat = tf.cast(tf.reshape(images, (-1, math.prod(self.image_shape))), tf.int64)
        weights = tf.range(1, flat.shape[1] + 1, dtype=tf.int64) * HASH_FACTOR
        seeds = noise.fold(noise.fold(self.seed, EVALUATION_FOLD), tf.reduce_sum(flat * weights, 1))
        return self._report(self.losses_per_image(images, labels, seeds, training=False), weight)

    def predict_step(self, data) -> Any:
        """The outputs of `call` for images, or for (images, labels)."""
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        if not self._call_takes_labels:
            return self(self._images(x))
        images, labels, _ = self._unpack(x if isinstance(x, (list, tuple)) else (x, y))
        return self(images, labels)

    @property
    def _call_takes_labels(self) -> bool:
        """Whether `call` needs classes: that of a conditional model does, a classifier's not."""
        return self.num_classes is not None and "labels" in inspect.signature(self.call).parameters

    @property
    def step(self) -> tf.Tensor:
        """How many training steps the weights have behind them, int64; schedules go by it.

        Under gradient accumulation each of the small batches is a step. A model from a preset goes
        on counting where the preset's training ended.
        """
        # Keras' `iterations` stands still while gradients accumulate.
        return (
            tf.cast(devices.unscaled(self.optimizer)._iterations.value, tf.int64)
            + self.steps_before
        )

    @property
    def steps_trained(self) -> int:
        """The same outside of a training step; also for a model that is not compiled."""
        return int(self.step) if self.compiled else self.steps_before

    def step_seeds(self, batch: tf.Tensor) -> tf.Tensor:
        """Folds (seed, step, index in the global batch) into one seed per image, int64 (batch,).

        Right under resume, jit and replicas: no state but the optimizer's step count.
        """
        index = tf.cast(tf.range(batch) + devices.images_before(batch), tf.int64)
        return noise.fold(noise.fold(self.seed, self.step), index)

    def _unpack(self, data):
        images, labels, weight = keras.utils.unpack_x_y_sample_weight(data)
        images = self._images(images)
        if self.num_classes is None:
            if weight is None:  # Keras takes weights only behind targets, so those may stand
                pixels.check_labels(labels, None, 0)
            labels = None
        elif labels is None:
            pixels.check_labels(None, self.num_classes, 0)
        else:
            labels = tf.reshape(tf.cast(labels, tf.int64), (-1,))
            if tf.distribute.has_strategy():  # `inputs` has checked all but distributed data sets
                labels = self.labels_in_range(labels)
        return images, labels, weight

    def _images(self, images) -> tf.Tensor:
        """Images of the right dtype and shape, on the nearest levels."""
        images = tf.convert_to_tensor(images)  # run_eagerly hands numpy arrays through
        if images.dtype != tf.uint8 or images.shape[1:] != self.image_shape:
            pixels.check_images(images, self.image_shape, 256)
        return self.nearest_level(images)

    def _report(self, losses, weight) -> dict[str, tf.Tensor]:
        for name, value in losses.items():
            self._means[name].update_state(value, weight)
        logs = {name: self._means[name].result() for name in losses}
        if isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
            # Keras averages what the workers return over an axis, which a scalar has not.
            return {name: tf.reshape(value, (1,)) for name, value in logs.items()}
        return logs
