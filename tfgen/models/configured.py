"""A model's configuration, presets and fine-tuning: all but its training."""

import contextlib
import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import keras
import numpy as np
import tensorflow as tf

from tfgen import backend, checks, files, layers, pixels, presets, tuning, weight_files

__all__ = ["ConfiguredModel"]

STORED_BY_BASE = ("image_shape", "num_levels", "num_classes", "seed")


class ConfiguredModel(keras.Model):
    """A Keras model whose configuration is its constructor's arguments.

    A subclass's constructor calls `super().__init__` and `self.keep(locals())`, then builds the
    networks.
    """

    kind: Literal["model", "evaluator"] = "model"
    # Constructor arguments that may be set on a model that is built.
    settable: tuple[str, ...] = ("seed",)
    _kept: tuple[str, ...] = ()

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_levels: int,
        num_classes: int | None = None,
        seed: int = 0,
        **kwargs: Any,
    ):
        backend.check()
        super().__init__(**kwargs)
        if isinstance(self.dtype_policy, keras.dtype_policies.QuantizedDTypePolicy):
            raise ValueError(
                f"dtype must be one of floats; received {self.dtype_policy.name!r}. Quantised "
                "weights are not supported."
            )
        pixels.level_values(num_levels)
        if num_classes is not None:
            checks.at_least(1, num_classes=num_classes)
        self.image_shape = layers.check_image_shape(image_shape)
        self.num_levels = int(num_levels)
        self.num_classes = None if num_classes is None else int(num_classes)
        self.seed = seed
        # Keras would track plain attributes.
        self.__dict__["_frozen"] = set()  # names of weights that `freeze` froze
        self.__dict__["_made_trainable"] = set()  # names of those that the constructor lets train
        self.__dict__["_states"] = {}  # what graphs were made from; see `outdated`

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Attributes that `keep` sets."""

    def __setattr__(self, name: str, value: Any) -> None:
        fixed = {*STORED_BY_BASE, *self._kept, "dtype_policy"} - set(self.settable)
        built = self.__dict__.get("built", False)
        if built and name in fixed and getattr(self, name) != _as(tuple, value):
            raise AttributeError(
                f"{name} of a {type(self).__name__} is fixed when it is built; received {value!r}. "
                f"Save and load it changed: tfgen.load(folder, {name.removesuffix('_policy')}=...)."
            )
        value = checks.seed(value) if name == "seed" else value
        if not (built and name in self.settable):
            super().__setattr__(name, value)
            return
        old = getattr(self, name)
        super().__setattr__(name, _as(tuple, value))
        try:
            self.check_settings()
        except Exception:
            super().__setattr__(name, old)
            raise

    def check_settings(self) -> None:
        """Raises ValueError where an argument that may be set is out of its range."""

    # Configuration ---------------------------------------------------------------------------

    def keep(self, arguments: Mapping[str, Any]) -> None:
        """Stores a constructor's arguments under their names, for `get_config`.

        Args:
            arguments: `locals()`, right after `super().__init__`. Lists become tuples.
        """
        names = [n for n in arguments if n not in ("self", "args", "kwargs", "__class__")]
        for name in names:
            if name not in STORED_BY_BASE:
                super().__setattr__(name, _as(tuple, arguments[name]))
        self.__dict__["_kept"] = (*self._kept, *names)
        if self.num_classes is not None and "num_classes" not in self._argument_names():
            raise ValueError(f"num_classes must be left out: {type(self).__name__} has no classes.")

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, kept or in its signature."""
        tuning.refuse_quantized(self)
        config = {"name": self.name, "trainable": self.trainable}
        config["dtype"] = _stored(self.dtype_policy)
        config |= {name: _as(list, getattr(self, name)) for name in self._argument_names()}
        if frozen := tuning.folded(self.frozen):
            config["frozen"] = frozen
        return config

    def _argument_names(self) -> list[str]:
        """The names of the constructor's arguments, those of every class that kept its own."""
        return list(dict.fromkeys((*_parameters(type(self)), *self._kept)))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Builds a model from what `get_config` returns."""
        apart = ("frozen", "trainable")
        model = cls(**{name: value for name, value in config.items() if name not in apart})
        model.freeze(*(set(config.get("frozen", ())) & tuning.weights(model).keys()))
        if not config.get("trainable", True):
            model.trainable = False
        return model

    @contextlib.contextmanager
    def own_dtype_policy(self) -> Iterator[None]:
        """Builds sublayers under this model's dtype policy, which Keras does not propagate."""
        outer = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.dtype_policy)
        try:
            yield
        finally:
            keras.config.set_dtype_policy(outer)

    def build(self, input_shape=None) -> None:
        """All weights exist from the constructor on."""
        self._made_trainable.update(n for n, w in tuning.weights(self).items() if w.trainable)
        self.built = True

    def outdated(self, graph: str, *options: Any, objects: Iterable[Any] = ()) -> bool:
        """Whether the last graph of that name is; notes the new state.

        A graph is made from the constructor's arguments, of which a user may set some; from the
        variables, which adapters replace, and which of them train; from `options` and `objects`.

        Raises:
            ValueError: A layer is quantised.
        """
        held = [*tuning.variables(self), *objects]  # so that nothing else gets the id of one
        arguments = [getattr(self, name) for name in self._argument_names()]
        state = (options, arguments, [(id(x), getattr(x, "trainable", None)) for x in held])
        old, _ = self._states.get(graph, (None, None))
        if old == state:
            return False
        tuning.refuse_quantized(self)  # which replaces variables
        self._states[graph] = (state, held)
        return old is not None

    # Fine-tuning -----------------------------------------------------------------------------

    @property
    def frozen(self) -> list[str]:
        """The names of the weights that `freeze`, or a layer's `trainable`, has frozen."""
        adapted = tuning.adapted(self).keys()  # which rest while their adapters train
        return sorted(
            name
            for name, weight in tuning.weights(self).items()
            if not weight.trainable
            and (name in self._frozen or name in self._made_trainable - adapted)
        )

    def freeze(self, *patterns: str) -> list[str]:
        """Keeps weights as they are in training, and returns their names.

        A compiled model gets new optimizers, which go on where the old ones were. What is frozen is
        saved with the model.

        Args:
            *patterns: Parts or weights as in `tfgen.tuning`, e.g. "encoder" or "*/stage_0_*".

        Raises:
            ValueError: A pattern that matches nothing.
        """
        return self._set_trainable(patterns, False)

    def unfreeze(self, *patterns: str) -> list[str]:
        """Lets frozen weights train again, without patterns all; the optimizers start anew."""
        return self._set_trainable(patterns or self.frozen, True)

    def _set_trainable(self, patterns, trainable: bool) -> list[str]:
        self._note_all_factors()
        names = tuning.set_trainable(self, patterns, trainable)
        (self._frozen.difference_update if trainable else self._frozen.update)(names)
        if names:
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
        self._note_all_factors()
        with self.distribute_strategy.scope():
            names = tuning.enable_lora(self, rank, patterns)
        self._recompile()
        return names

    def _note_all_factors(self) -> None:
        """Calls `note_factors` for each optimizer, while its variables all still train."""

    def _recompile(self) -> None:
        """Makes optimizers of the same settings for the variables that train now."""

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Always raises NotImplementedError."""
        raise NotImplementedError(
            "quantize is not supported, because samplers and presets hold float weights only; "
            "save_to_preset(folder, half=True) stores weights in half the bytes."
        )

    # Checks ----------------------------------------------------------------------------------

    def check(self, images: Any, labels: Any = None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Returns images and labels as tensors, or raises ValueError with the fix."""
        images = pixels.check_images(images, self.image_shape, self.num_levels)
        return images, pixels.check_labels(labels, self.num_classes, images.shape[0])

    def labels_in_range(self, labels: tf.Tensor) -> tf.Tensor:
        """Returns labels that are checked when a graph runs; XLA drops such checks."""
        message = f"labels must lie in [0, {self.num_classes - 1}]; received"
        inside = tf.reduce_all((labels >= 0) & (labels < self.num_classes))
        assertion = tf.debugging.Assert(inside, [message, tf.cast(labels, tf.int32)])
        with tf.control_dependencies([assertion]):
            return tf.identity(labels)

    def nearest_level(self, images: tf.Tensor) -> tf.Tensor:
        """Rounds uint8 images to the nearest level, which `fit` and exported graphs promise."""
        if self.num_levels == 256:
            return images
        levels = pixels.images_to_levels(images, self.num_levels)
        return pixels.levels_to_images(levels, self.num_levels)

    # Presets ---------------------------------------------------------------------------------

    def save_weights(
        self, filepath: str | Path, overwrite: bool = True, max_shard_size: float | None = None
    ) -> None:
        """Writes a `.weights.h5` file as Keras does, but whole or not at all."""
        tuning.refuse_quantized(self)
        filepath = files.expanded(filepath)
        if max_shard_size or not is_replaced(filepath, overwrite, ".weights.h5"):
            super().save_weights(filepath, overwrite, max_shard_size)
            return
        with files.replacing(filepath) as temporary:
            temporary.write_bytes(weight_files.serialized_weights(self))

    def save(
        self,
        filepath: str | Path,
        overwrite: bool = True,
        zipped: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes a `.keras` file as `keras.Model.save` does, whole or not at all; refuses .h5."""
        if not is_replaced(filepath := files.expanded(filepath), overwrite, ".keras"):
            super().save(filepath, overwrite, zipped, **kwargs)
            return
        with files.replacing(filepath) as temporary:
            super().save(temporary, zipped=zipped, **kwargs)

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
            ValueError: Unknown name, a name of two models, or the preset is of another family.
        """
        model = presets.load(preset, load_weights=load_weights, **overrides)
        if not isinstance(model, cls):
            raise ValueError(
                f"preset must hold a {cls.__name__}; {str(preset)!r} holds a "
                f"{type(model).__name__}. Call {type(model).__name__}.from_preset or zoo.load."
            )
        return model


@functools.cache
def _parameters(family: type) -> tuple[str, ...]:
    """The names of a constructor's parameters, without `self` and bundles."""
    bundles = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    given = inspect.signature(family.__init__).parameters
    return tuple(n for n, p in given.items() if p.kind not in bundles and n != "self")


def is_replaced(path: str | Path, overwrite: bool, ending: str) -> bool:
    """Whether a file is written here, whole or not at all; if not, Keras writes it.

    Raises:
        ValueError: A whole model in Keras' old format, which takes each name of a weight once.
    """
    text = str(path)
    if ending == ".keras" and text.endswith((".h5", ".hdf5")):
        raise ValueError(f"filepath must end in .keras; received {text}.")
    return (overwrite or not Path(text).exists()) and "://" not in text and text.endswith(ending)


def _as(kind: type, value: Any) -> Any:
    """Turns lists and tuples, at every depth, into `kind`, and NumPy's scalars into Python's."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return kind(_as(kind, item) for item in value)
    return value


def _stored(policy: keras.dtype_policies.DTypePolicy) -> Any:
    """Returns what makes a dtype policy again: the name of a plain one."""
    plain = type(policy) is keras.dtype_policies.DTypePolicy
    return policy.name if plain else keras.saving.serialize_keras_object(policy)
