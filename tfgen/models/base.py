"""Training on uint8 images: fit, evaluate, predict and their steps."""

import inspect
import math
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgen import devices, noise, pixels
from tfgen.models import callback_checks, inputs
from tfgen.models.compiled import CompiledModel

__all__ = ["ImageModel"]

EVALUATION_FOLD = -1  # folded into a model's seed for the noise of `evaluate`
HASH_FACTOR = 6364136223846793005  # its powers modulo 2^64 differ (Knuth)
WEIGHTS = ("sample_weight", "class_weight")  # arguments of `fit`
# Of Keras' methods that take images with labels, looked up once.
SIGNATURES = {
    name: inspect.signature(getattr(keras.Model, name))
    for name in ("fit", "evaluate", "train_on_batch", "test_on_batch")
}


class ImageModel(CompiledModel):
    """Base of all models: what Keras' training methods do with uint8 NHWC images.

    Shapes, once for all: `images` uint8 (batch, height, width, channels) in [0, 255], `labels`
    int64 (batch,), `seeds` int64 (batch,). A subclass gives

        losses_per_image(images, labels, seeds, training) -> {name of `loss_names`: (batch,)}

    The noise of image i comes from its own seed alone, whatever else is in the batch.
    """

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

    def losses_per_image(
        self, images: tf.Tensor, labels: tf.Tensor | None, seeds: tf.Tensor, training: bool
    ) -> dict[str, tf.Tensor]:
        """Returns the `loss_names`, each (batch,); "loss" is the objective that `fit` lowers."""
        raise NotImplementedError

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
            ValueError: Images that are not uint8 of the model's shape, or none; labels that are
                missing, out of range, or given to an unconditional model; a callback that cannot
                work. The model is left as it was.
        """
        given = SIGNATURES["fit"].bind(self, x, y, *args, **kwargs).arguments
        del given["self"]
        callback_checks.check_callbacks(self, given.get("callbacks"))
        given["x"], given["y"] = self._checked_pair("fit", x, y, args, kwargs)
        given["validation_data"] = inputs.checked_validation(
            self, given.get("validation_data"), _weighted(given)
        )
        if self.compiled:
            self.build_optimizers()
        self.is_fitting = True
        try:
            # For callbacks: Keras enters the strategy for its own steps alone.
            with self.distribute_strategy.scope(), inputs.explained():
                return super().fit(**given)
        except Exception:
            self.train_function = None  # half made, it would fail on correct images too
            raise
        finally:
            self.is_fitting = False
            self._initial_epoch = None  # of `BackupAndRestore`: Keras keeps it for the next `fit`

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Returns the losses as `keras.Model.evaluate` does, on what `fit` takes.

        Raises:
            ValueError: As `fit`.
        """
        if not kwargs.get("_use_cached_eval_dataset"):  # by which `fit` tells that it has checked
            x, y = self._checked_pair("evaluate", x, y, args, kwargs)
        with inputs.explained():
            return super().evaluate(x, y, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns what `call` does, in batches: `keras.Model.predict` on what `fit` takes.

        Args:
            x: As in `fit`; a conditional model takes arrays as the pair (images, labels).
            *args: As for `keras.Model.predict`.
            **kwargs: As for `keras.Model.predict`.

        Raises:
            ValueError: As `fit`; no images have no outputs.
        """
        x = self._checked_inputs(x)
        if inputs.is_empty(x):
            return self._no_rows()
        with inputs.explained():
            return super().predict(x, *args, **kwargs)

    def _checked_pair(self, method: str, x: Any, y: Any, args: tuple, kwargs: dict) -> tuple:
        """Returns a Keras method's images and labels, checked."""
        given = SIGNATURES[method].bind(self, x, y, *args, **kwargs).arguments
        by_class = given.get("class_weight") is not None
        if by_class:
            inputs.check_class_weight(x, y)
        x, y = inputs.checked(self, x, y, _weighted(given), by_class=by_class)
        inputs.refuse_empty("x", x)
        return x, y

    def _checked_inputs(self, x: Any) -> Any:
        """Returns what `predict` takes, checked."""
        if self._call_takes_labels and isinstance(x, (list, tuple)) and len(x) == 2:
            return inputs.checked(self, *x)
        return inputs.checked(self, x, with_labels=self._call_takes_labels)[0]

    def _no_rows(self) -> Any:
        """The outputs of no images: one's, cut off, as some kernels fail on 0 rows."""
        one = np.zeros((1, *self.image_shape), np.uint8)
        given = (one, np.zeros(1, np.int64)) if self._call_takes_labels else one
        return keras.tree.map_structure(lambda rows: rows[:0], super().predict_on_batch(given))

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Runs one training step as `keras.Model.train_on_batch` does; raises as `fit` does."""
        x, y = self._checked_pair("train_on_batch", x, y, args, kwargs)
        if self.compiled:
            self.build_optimizers()
        return super().train_on_batch(x, y, *args, **kwargs)

    def test_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Returns the losses as `keras.Model.test_on_batch` does; raises as `fit` does."""
        x, y = self._checked_pair("test_on_batch", x, y, args, kwargs)
        return super().test_on_batch(x, y, *args, **kwargs)

    def predict_on_batch(self, x: Any) -> Any:
        """Returns what `predict` does for one batch, and takes what it takes."""
        x = self._checked_inputs(x)
        if inputs.is_empty(x):
            return self._no_rows()
        return super().predict_on_batch(x)

    def make_train_function(self, force: bool = False) -> Any:
        optimizers = [optimizer for optimizer, _ in self.optimizers.values()]
        options = (self.steps_before, *self._graph_options(), *optimizers)
        rates = [devices.unscaled(optimizer)._learning_rate for optimizer in optimizers]
        changed = self.outdated("train", *options, objects=rates)
        return super().make_train_function(changed or force)

    def make_test_function(self, force: bool = False) -> Any:
        changed = self.outdated("test", self.steps_before, *self._graph_options())
        return super().make_test_function(changed or force)

    def make_predict_function(self, force: bool = False) -> Any:
        changed = self.outdated("predict", *self._graph_options())
        return super().make_predict_function(changed or force)

    def _graph_options(self) -> tuple:
        """What a user may set and Keras' graphs are made from, besides the model's arguments."""
        return self.run_eagerly, self.jit_compile, self.steps_per_execution

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # Nothing is left to build; Keras would average a batch over the workers, which fails for
        # uint8.
        return

    # Steps -----------------------------------------------------------------------------------

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The running means of `losses_per_image`, if compiled, and a subclass' own metrics.

        Keras resets them at each epoch. Not compiled, a part of another model has none of its own.
        """
        means = list(self._means.values())
        own = [metric for metric in self._metrics if not any(metric is mean for mean in means)]
        return [*(means if self.compiled else ()), *own]

    def _begin_step(self) -> None:
        """Drops losses that layers added in another step or graph."""
        self._clear_losses()

    def train_step(self, data) -> dict[str, tf.Tensor]:
        """One step of gradient descent on the mean of `losses_per_image`."""
        if not self.trainable_variables:
            warnings.warn("no weight of the model trains: all are frozen.", stacklevel=2)
        images, labels, weight = self._unpack(data)
        seeds = self.step_seeds(tf.shape(images)[0])
        self._begin_step()
        with tf.GradientTape() as tape:
            losses = self.losses_per_image(images, labels, seeds, training=True)
            loss = devices.objective(losses["loss"], weight, self.losses)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        devices.apply_gradients(self.optimizer, gradients, self.trainable_variables)
        return self._report(losses, weight)

    def test_step(self, data) -> dict[str, tf.Tensor]:
        """The same losses with noise that depends on the image alone.

        So `evaluate` gives the same numbers twice, in batches of any size, on any replicas.
        """
        images, labels, weight = self._unpack(data)
        flat = tf.cast(tf.reshape(images, (-1, math.prod(self.image_shape))), tf.int64)
        # sum_i x_i F^i modulo 2^64, so two images hardly share noise.
        weights = np.cumprod(np.full(flat.shape[1], HASH_FACTOR, np.uint64)).view(np.int64)
        seeds = noise.fold(noise.fold(self.seed, EVALUATION_FOLD), tf.reduce_sum(flat * weights, 1))
        self._begin_step()
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
        """Whether `call` needs classes; a classifier's does not."""
        return self.num_classes is not None and "labels" in inspect.signature(self.call).parameters

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
            labels = None  # which `inputs` lets through where they stand for weights alone
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


def _weighted(given: dict[str, Any]) -> bool:
    """Whether a Keras method was given sample or class weights."""
    return any(given.get(name) is not None for name in WEIGHTS)
