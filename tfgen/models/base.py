"""What every model of the zoo shares: configuration, training, fine-tuning, presets."""

import contextlib
import inspect
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import keras
import numpy as np
import tensorflow as tf

from tfgen import backend, devices, files, noise, pixels, presets, tuning

__all__ = ["ImageModel"]

STORED_BY_BASE = ("image_shape", "num_levels", "num_classes", "seed")
EVALUATION_FOLD = -1  # folded into a model's seed for the noise of `evaluate`
HASH_FACTOR = 2654435761  # spreads neighbouring pixels over 64 bits; any large odd number would do


class ImageModel(keras.Model):
    """Base of all models: configuration, training on uint8 NHWC images, presets.

    Shapes, once for all: `images` uint8 (batch, height, width, channels) in [0, 255], `labels`
    int64 (batch,), `seeds` int64 (batch,).

    A subclass's constructor calls `super().__init__` and `self.keep(locals())`, then builds the
    networks. It gives

        losses_per_image(images, labels, seeds, training) -> {name of `loss_names`: (batch,)}

    The noise of image i comes from its own seed alone, whatever else is in the batch.
    """

    kind: Literal["model", "evaluator"] = "model"
    loss_names: tuple[str, ...] = ("loss",)
    _kept: tuple[str, ...] = ()

    def __init__(self, image_shape, num_levels, num_classes=None, seed=0, **kwargs):
        backend.check()
        super().__init__(**kwargs)
        pixels.level_values(num_levels)
        if num_classes is not None and (num_classes != int(num_classes) or num_classes < 1):
            raise ValueError(
                "num_classes must be a positive integer, or None for an unconditional model; "
                f"received {num_classes!r}."
            )
        self.image_shape = tuple(int(side) for side in image_shape)
        self.num_levels = int(num_levels)
        self.num_classes = num_classes
        self.seed = int(seed)
        self._means = {name: keras.metrics.Mean(name) for name in self.loss_names}
        self.__dict__["_frozen"] = set()  # names of weights; Keras would track an attribute

    # Configuration ---------------------------------------------------------------------------

    def keep(self, arguments: Mapping[str, Any]) -> None:
        """Stores a constructor's arguments under their names, where `get_config` looks for them.

        Args:
            arguments: `locals()`, right after `super().__init__`. Lists become tuples.
        """
        names = [n for n in arguments if n not in ("self", "kwargs", "__class__")]
        for name in names:
            if name not in STORED_BY_BASE:
                setattr(self, name, _each(tuple, arguments[name]))
        self.__dict__["_kept"] = (*self._kept, *names)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments: those that were kept, and those of its signature."""
        config = {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
        }
        config |= {name: _each(list, getattr(self, name)) for name in self._argument_names()}
        if self._frozen:
            config["frozen"] = sorted(self._frozen)
        return config

    def _argument_names(self) -> list[str]:
        """The names of the constructor's arguments, those of every class that kept its own."""
        signature = inspect.signature(type(self).__init__).parameters
        named = [n for n, p in signature.items() if p.kind is not p.VAR_KEYWORD and n != "self"]
        return list(dict.fromkeys((*named, *self._kept)))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Builds a model from what `get_config` returns."""
        config = dict(config)
        frozen = config.pop("frozen", [])
        model = cls(**config)
        model.freeze(*frozen)
        return model

    @contextlib.contextmanager
    def own_dtype_policy(self) -> Iterator[None]:
        """Gives the layers that are built inside it the model's `dtype`; Keras would not."""
        outer = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.dtype_policy)
        try:
            yield
        finally:
            keras.config.set_dtype_policy(outer)

    def build(self, input_shape=None) -> None:
        """All weights exist from the constructor on."""
        self.built = True

    def _maybe_symbolic_build(self, iterator=None, data_batch=None) -> None:
        # Nothing is left to build, and Keras would average a batch over the workers for it, which
        # TensorFlow cannot do with uint8.
        return

    # Training --------------------------------------------------------------------------------

    def compile(self, optimizer="adam", **kwargs) -> None:
        """Prepares for `fit`: Adam with Keras' defaults unless told otherwise.

        Args:
            optimizer: A Keras optimizer or its name.
            **kwargs: Passed to `keras.Model.compile`; `loss` is the model's own and not accepted.

        Raises:
            ValueError: `loss` was given.
        """
        if kwargs.get("loss") is not None:
            raise ValueError(
                f"compile(loss=...) must be left out: {type(self).__name__} brings its own "
                f"objective; received loss={kwargs['loss']!r}."
            )
        super().compile(optimizer=optimizer, **kwargs)

    def get_compile_config(self) -> dict[str, Any]:
        """Returns what `compile_from_config` needs to rebuild the optimizer."""
        if not self.compiled:
            return {}
        optimizers = {
            name: keras.saving.serialize_keras_object(optimizer)
            for name, (optimizer, _) in self.optimizers.items()
        }
        return {**optimizers, "jit_compile": self.jit_compile}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles with deserialised optimizers and makes their slots, so that they can load."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.build_optimizers()

    @property
    def optimizers(self) -> dict[str, tuple[keras.optimizers.Optimizer, list]]:
        """The arguments of `compile` that are optimizers, each with the variables it trains."""
        return {"optimizer": (self.optimizer, self.trainable_variables)}

    @property
    def updates_per_step(self) -> dict[str, int]:
        """How often each of the optimizers moves its variables in one training step."""
        return {"optimizer": 1}

    def build_optimizers(self) -> None:
        """Makes every optimizer's slots."""
        for optimizer, variables in self.optimizers.values():
            optimizer.build(variables)

    # Fine-tuning -----------------------------------------------------------------------------

    def freeze(self, *patterns: str) -> list[str]:
        """Keeps weights as they are in training, and returns their names.

        A compiled model is compiled again with new optimizers of the same settings. What is frozen
        is saved with the model.

        Args:
            *patterns: Parts or weights as in `tfgen.tuning`, e.g. "encoder" or "*/stage_0_*".

        Raises:
            ValueError: A pattern that matches nothing.
        """
        return self._set_trainable(patterns, False)

    def unfreeze(self, *patterns: str) -> list[str]:
        """Lets weights that `freeze` froze train again; without patterns all of them."""
        return self._set_trainable(patterns or sorted(self._frozen), True)

    def _set_trainable(self, patterns, trainable: bool) -> list[str]:
        names = tuning.set_trainable(self, patterns, trainable)
        self._frozen.symmetric_difference_update(names)
        self._recompile()
        return names

    def enable_lora(self, rank: int, *patterns: str) -> list[str]:
        """Freezes kernels and trains a low-rank change of them instead (Hu et al., 2021).

        Every layer under the patterns that offers Keras' `enable_lora` takes part: dense layers,
        convolutions and embeddings, except under spectral normalisation. Saving folds the change
        into the kernels.

        Args:
            rank: Of the change, at least 1.
            *patterns: As in `freeze`.

        Returns:
            The names of the layers.

        Raises:
            ValueError: A rank below 1, a pattern that matches nothing, or no layer under the
                patterns offers it.
        """
        names = tuning.enable_lora(self, rank, patterns)
        self._recompile()
        return names

    def _recompile(self) -> None:
        """Makes optimizers of the same settings for the variables that train now."""
        if self.compiled:
            self.compile_from_config(self.get_compile_config())

    def fit(self, x=None, y=None, *args, **kwargs):
        """Trains as `keras.Model.fit` does, on images, or (images, labels) if conditional.

        Raises:
            ValueError: Images that are not uint8 of the model's shape; labels that are missing,
                out of range, or given to an unconditional model.
        """
        if y is not None and self.num_classes is not None:
            y = np.asarray(y).reshape(-1)
            pixels.check_labels(y, self.num_classes, len(y))
        return super().fit(x, y, *args, **kwargs)

    def losses_per_image(
        self, images: tf.Tensor, labels: tf.Tensor | None, seeds: tf.Tensor, training: bool
    ) -> dict[str, tf.Tensor]:
        """Returns the `loss_names`, each (batch,); "loss" is the objective that `fit` lowers."""
        raise NotImplementedError

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

    def step_seeds(self, batch: tf.Tensor) -> tf.Tensor:
        """Folds (seed, step, index in the global batch) into one seed per image, int64 (batch,).

        Right under resume, jit and replicas: no state but the optimizer's step count.
        """
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        index = tf.cast(tf.range(batch) + replica * batch, tf.int64)
        return noise.fold(noise.fold(self.seed, self.optimizer.iterations), index)

    def _unpack(self, data):
        images, labels, weight = keras.utils.unpack_x_y_sample_weight(data)
        images = tf.convert_to_tensor(images)  # run_eagerly hands numpy arrays through
        if images.dtype != tf.uint8 or images.shape[1:] != self.image_shape:
            pixels.check_images(images, self.image_shape, 256)
        if self.num_classes is None:
            if weight is None:  # Keras takes weights only behind targets, so those may stand
                pixels.check_labels(labels, None, 0)
            labels = None
        elif labels is None:
            raise ValueError(
                f"labels are required: fit(images, labels) with integers in "
                f"[0, {self.num_classes - 1}], because num_classes={self.num_classes}."
            )
        else:
            labels = tf.reshape(tf.cast(labels, tf.int64), (-1,))
            inside = (labels >= 0) & (labels < self.num_classes)
            message = f"labels must lie in [0, {self.num_classes - 1}]"
            # XLA drops this check; `fit` has checked arrays before.
            with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(inside), [message])]):
                labels = tf.identity(labels)
        return self.nearest_level(images), labels, weight

    def _report(self, losses, weight) -> dict[str, tf.Tensor]:
        for name, value in losses.items():
            self._means[name].update_state(value, weight)
        logs = {name: self._means[name].result() for name in losses}
        if isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
            # Keras averages what the workers return over an axis, which a scalar has not.
            return {name: tf.reshape(value, (1,)) for name, value in logs.items()}
        return logs

    # Checks ----------------------------------------------------------------------------------

    def check(self, images, labels=None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Returns images and labels as tensors, or raises ValueError with the fix."""
        images = pixels.check_images(images, self.image_shape, self.num_levels)
        return images, pixels.check_labels(labels, self.num_classes, images.shape[0])

    def nearest_level(self, images: tf.Tensor) -> tf.Tensor:
        """Rounds uint8 images to the nearest level, which `fit` and exported graphs promise."""
        if self.num_levels == 256:
            return images
        levels = pixels.images_to_levels(images, self.num_levels)
        return pixels.levels_to_images(levels, self.num_levels)

    # Presets ---------------------------------------------------------------------------------

    def save_weights(
        self,
        filepath: str | Path,
        overwrite: bool = True,
        max_shard_size: float | None = None,
    ) -> None:
        """Writes a `.weights.h5` file as Keras does, but whole or not at all, also on a full disk.

        Args:
            filepath: Its name ends in .weights.h5.
            overwrite: False asks before a file is replaced.
            max_shard_size: In GB; as for `keras.Model.save_weights`.
        """
        path = str(filepath)
        kept = not overwrite and Path(path).exists()
        if kept or max_shard_size or "://" in path or not path.endswith(".weights.h5"):
            super().save_weights(filepath, overwrite, max_shard_size)
            return
        with files.replacing(path) as temporary:
            temporary.write_bytes(presets.serialized_weights(self))

    def save_to_preset(self, folder: str | Path, *, half: bool = False) -> Path:
        """Writes config.json, model.weights.h5 and metadata.json, as a zoo entry has them.

        Args:
            folder: Made if missing.
            half: Whether weights are stored as float16, in half the bytes; see
                `tfgen.presets.save`.

        Raises:
            ValueError: `half` for weights beyond the range of float16.
            OSError: The folder cannot be written.
        """
        return presets.save(self, folder, half=half)

    @classmethod
    def from_preset(
        cls,
        preset: str | Path,
        load_weights: bool | Literal["partial"] = True,
        **overrides: Any,
    ) -> Self:
        """Loads a zoo entry by name, or a folder written by `save_to_preset`.

        Raises:
            ValueError: Unknown name, or the preset is of another family.
        """
        model = presets.load(preset, load_weights=load_weights, **overrides)
        if not isinstance(model, cls):
            raise ValueError(
                f"preset must hold a {cls.__name__}; {str(preset)!r} holds a "
                f"{type(model).__name__}. Call {type(model).__name__}.from_preset or zoo.load."
            )
        return model


def _each(kind: type, value: Any) -> Any:
    """The value with lists and tuples, at every depth, turned into one of both kinds."""
    if isinstance(value, (list, tuple)):
        return kind(_each(kind, item) for item in value)
    return value
