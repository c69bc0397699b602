"""What every model of the zoo shares, and the contract that the generative ones keep."""

import concurrent.futures
import contextlib
import inspect
import math
import numbers
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import keras
import numpy as np
import tensorflow as tf

from tfgen import noise, pixels

__all__ = ["GenerativeModel", "ImageModel"]

PIXEL_DISTRIBUTIONS = (
    "bernoulli",
    "categorical",
    "discretized_logistic_mixture",
    "gaussian",
)
# Separate uses of one seed; a stream of `noise` each.
EVALUATION_FOLD = -1
LARGEST_BATCH = 250  # images that `sample` draws in one pass
HASH_FACTOR = 2654435761  # spreads neighbouring pixels over 64 bits; any large odd number would do


class ImageModel(keras.Model):
    """Base of all models: configuration, training on uint8 NHWC images, presets.

    Shapes, once for all: `images` uint8 (batch, height, width, channels) in [0, 255], `labels`
    int64 (batch,), `seeds` int64 (batch,).

    A subclass stores each constructor argument under its own name (that is how `get_config` finds
    it), builds its networks in the constructor, and gives

        losses_per_image(images, labels, seeds, training) -> {name of `loss_names`: (batch,)}

    The noise of image i comes from its own seed alone, whatever else is in the batch.
    """

    kind: Literal["model", "evaluator"] = "model"
    likelihood: Literal["exact", "bound", "none"] = "none"
    loss_names: tuple[str, ...] = ("loss",)

    def __init__(self, image_shape, num_levels, num_classes=None, seed=0, **kwargs):
        super().__init__(**kwargs)
        pixels.level_values(num_levels)
        if num_classes is not None and (num_classes != int(num_classes) or num_classes < 1):
            raise ValueError(
                "num_classes must be a positive whole number, or None for an unconditional "
                f"model; received {num_classes!r}."
            )
        self.image_shape = tuple(int(side) for side in image_shape)
        self.num_levels = int(num_levels)
        self.num_classes = num_classes
        self.seed = int(seed)
        self._means = {name: keras.metrics.Mean(name) for name in self.loss_names}
        self.__dict__["_frozen"] = set()  # names of weights; Keras would track an attribute

    # Configuration ---------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, read off its signature: none can be forgotten."""
        config = {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
        }
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            if name != "self" and parameter.kind is not parameter.VAR_KEYWORD:
                value = getattr(self, name)
                config[name] = list(value) if isinstance(value, (tuple, list)) else value
        if self._frozen:
            config["frozen"] = sorted(self._frozen)
        return config

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
            ValueError: A pattern that stands for nothing.
        """
        return self._set_trainable(patterns, False)

    def unfreeze(self, *patterns: str) -> list[str]:
        """Lets weights that `freeze` froze train again; without patterns all of them."""
        return self._set_trainable(patterns or sorted(self._frozen), True)

    def _set_trainable(self, patterns, trainable: bool) -> list[str]:
        from tfgen import tuning

        held = tuning.weights(self)
        # By variable, since one that two networks share has two names.
        chosen = {id(held[name]) for name in tuning.matching(held, patterns)}
        names = [
            name
            for name, variable in held.items()
            if id(variable) in chosen
            and (name in self._frozen if trainable else variable.trainable)
        ]
        for name in names:
            held[name].trainable = trainable
        self._frozen.symmetric_difference_update(names)
        self._compile_anew()
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
            ValueError: A rank below 1, a pattern that stands for nothing, or no layer under the
                patterns offers it.
        """
        from tfgen import tuning

        _positive("rank", rank)
        tuning.matching(tuning.weights(self), patterns)
        layers = tuning.lora_layers(self, patterns)
        if not layers:
            raise ValueError(f"no layer under {', '.join(patterns)} offers low-rank adapters.")
        for layer in layers.values():
            layer.enable_lora(rank)
        self._compile_anew()
        return sorted(layers)

    def _compile_anew(self) -> None:
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
            loss = weighted_mean(losses["loss"], weight)
            if self.losses:
                loss += tf.add_n(self.losses) / num_replicas()
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        apply_gradients(self.optimizer, gradients, self.trainable_variables)
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
                f"labels are required: fit(images, labels) with whole numbers in "
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

    def save_to_preset(self, folder: str | Path) -> Path:
        """Writes config.json, model.weights.h5 and metadata.json, as a zoo entry has them."""
        from tfgen import zoo

        return zoo.save(self, folder)

    @classmethod
    def from_preset(cls, preset: str | Path, load_weights: bool = True, **overrides) -> Self:
        """Loads a zoo entry by name, or a folder written by `save_to_preset`.

        Raises:
            ValueError: Unknown name, or the preset is of another family.
        """
        from tfgen import zoo

        model = zoo.load(preset, load_weights=load_weights, **overrides)
        if not isinstance(model, cls):
            raise ValueError(
                f"preset must hold a {cls.__name__}; {str(preset)!r} holds a "
                f"{type(model).__name__}. Call {type(model).__name__}.from_preset or zoo.load."
            )
        return model


class GenerativeModel(ImageModel):
    """Base of all families: images in and out are uint8 NHWC in [0, 255].

    Shapes beside those of `ImageModel`: `latents` float32 (batch, latent_dim), a log-likelihood
    float32 (batch,) in nats per image. A family gives, beside its losses,

        endpoints(temperature, num_samples) -> {name: (function, input specs)}

    From these the base derives sampling, scoring and the SavedModel signatures: a method called
    from Python runs the very graph that is exported.

    Attributes:
        jit_sampling: Whether XLA compiles what `sample` and `complete` run, for each batch size;
            the noise stays the same. Set it on a model that draws more than a few batches.
        num_workers: Batches that run side by side.
    """

    jit_sampling: bool = False
    num_workers: int = 1

    def __init__(self, image_shape, num_levels, num_classes=None, seed=0, **kwargs):
        super().__init__(image_shape, num_levels, num_classes, seed, **kwargs)
        # Keras would wrap a plain attribute in a tracker, and graphs are no part of the state.
        self.__dict__["_graphs"] = {}

    # Images out ------------------------------------------------------------------------------

    def endpoints(
        self, temperature: float = 1.0, num_samples: int = 1
    ) -> dict[str, tuple[Callable, dict[str, tf.TensorSpec]]]:
        """Returns {name: (function of tensors to a dict of tensors, {argument: spec})}."""
        raise NotImplementedError

    @property
    def specs(self) -> dict[str, dict[str, tf.TensorSpec]]:
        """Argument specs of endpoints, batch dynamic; `labels` is empty if unconditional."""
        specs = {
            "images": {"images": tf.TensorSpec((None, *self.image_shape), tf.uint8, "images")},
            "seed": {"seed": tf.TensorSpec((None,), tf.int64, "seed")},
            "labels": {},
        }
        if self.num_classes is not None:
            specs["labels"] = {"labels": tf.TensorSpec((None,), tf.int64, "labels")}
        return specs

    def latent_endpoints(self) -> dict[str, tuple[Callable, dict[str, tf.TensorSpec]]]:
        """Returns encode, decode and reconstruct of a family with `encoder` and `decoder`."""
        images, labels = self.specs["images"], self.specs["labels"]
        latents = {"latents": tf.TensorSpec((None, self.latent_dim), tf.float32, "latents")}

        def encode(images, labels=None):
            return {"latents": self.encoder(inputs(self.nearest_level(images), labels))}

        def decode(latents, labels=None):
            return {"images": self.decode_tensors(latents, labels)}

        def reconstruct(images, labels=None):
            return {"images": self.decode_tensors(encode(images, labels)["latents"], labels)}

        return {
            "encode": (encode, images | labels),
            "decode": (decode, latents | labels),
            "reconstruct": (reconstruct, images | labels),
        }

    def mean_image(self, latents: tf.Tensor, labels: tf.Tensor | None) -> tf.Tensor:
        """Returns the mean of p(x | latents), float32 grey values in [0, 255]."""
        raise NotImplementedError

    def decode_tensors(self, latents: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the mean image on the nearest level, uint8."""
        mean = self.mean_image(latents, labels)
        mean.set_shape((None, *self.image_shape))  # TFP forgets it; an export tells it to clients
        levels = mean * ((self.num_levels - 1) / 255.0)
        return pixels.levels_to_images(levels, self.num_levels)

    def signatures(
        self, temperature: float = 1.0, num_samples: int = 1, jit_compile: bool = False
    ) -> dict[str, Any]:
        """Returns the SavedModel endpoints of this family as `tf.function`s with dynamic batch.

        Beside the family's own: `sample_png`, whose `image_bytes` are samples as PNG files; and
        `serving_default`, which is `sample`, or `reconstruct` where there is none.

        Args:
            temperature: Fixed in `sample`.
            num_samples: Importance samples, fixed in `log_likelihood`.
            jit_compile: Whether XLA compiles them; the noise stays the same.

        Raises:
            ValueError: An argument out of range.
        """
        temperature = check_temperature(temperature)
        num_samples = _positive("num_samples", num_samples)
        endpoints = self.endpoints(temperature, num_samples)
        graphs = {
            name: self._graph(name, temperature, num_samples, jit_compile) for name in endpoints
        }
        if "sample" in endpoints:
            sample, (_, specs) = graphs["sample"], endpoints["sample"]

            def sample_png(*arguments):
                return {"image_bytes": tf.io.encode_png(sample(*arguments)["images"])}

            graphs["sample_png"] = tf.function(
                sample_png, input_signature=list(specs.values()), autograph=False
            )
        default = next(n for n in ("sample", "reconstruct", *endpoints) if n in endpoints)
        return {**graphs, "serving_default": graphs[default]}

    def export(
        self,
        filepath: str | Path,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        **options,
    ) -> Path:
        """Writes the SavedModel `filepath/<version>`, the next version that is not there yet.

        Args:
            filepath: Folder of the versions; its name is the model's in TensorFlow Serving.
            format: "tf_saved_model".
            verbose: True prints where it went.
            **options: `version`, `temperature`, `num_samples` and `jit_compile` of
                `tfgen.export.save`.

        Returns:
            The folder of the version, for `tf.saved_model.load`.

        Raises:
            ValueError: An argument out of range, or a version that is there already.
            OSError: The folder cannot be written.
        """
        from tfgen import export

        if format != "tf_saved_model":
            raise ValueError(
                f"format must be 'tf_saved_model', the one that holds every endpoint; received "
                f"{format!r}."
            )
        written = export.save(self, filepath, **options)
        if verbose:
            print(f"Exported to {written}: {', '.join(self.signatures())}")
        return written

    def _graph(
        self,
        name: str,
        temperature: float = 1.0,
        num_samples: int = 1,
        jit_compile: bool = False,
    ):
        key = (name, temperature, num_samples, jit_compile)
        if key not in self._graphs:
            endpoints = self.endpoints(temperature, num_samples)
            if name not in endpoints:
                raise NotImplementedError(
                    f"{type(self).__name__} has no {name!r}: {self.why_not(name)} "
                    f"It has {', '.join(sorted(endpoints))}."
                )
            function, specs = endpoints[name]
            self._graphs[key] = tf.function(
                function,
                input_signature=list(specs.values()),
                autograph=False,
                jit_compile=jit_compile,
            )
        return self._graphs[key]

    def why_not(self, name: str) -> str:
        """Returns one sentence on why the family has no such endpoint."""
        return "the family does not define it."

    def _run(self, name, arguments, batch_size, verbose=0, **fixed) -> np.ndarray:
        """Runs an endpoint over `arguments` (equal first axes) in batches; returns its output."""
        graph = self._graph(name, **fixed).get_concrete_function()
        arguments = [a for a in arguments if a is not None]
        count = int(arguments[0].shape[0])
        step = count if batch_size is None else _positive("batch_size", batch_size)
        # XLA compiles for each number of rows, so that the last batch gets as many as the others.
        fill = fixed.get("jit_compile", False) and count > step

        def one_batch(start):
            batch = [a[start : start + step] for a in arguments]
            rows = int(batch[0].shape[0])
            missing = step - rows if fill else int(not rows)  # not every kernel takes no rows
            if missing:
                batch = [
                    tf.concat([a, tf.zeros((missing, *a.shape[1:]), a.dtype)], 0) for a in batch
                ]
            (value,) = graph(*batch).values()
            return value.numpy()[:rows]

        bar = keras.utils.Progbar(count, unit_name="image") if verbose else None
        outputs = []
        with concurrent.futures.ThreadPoolExecutor(self.num_workers) as pool:
            for done in pool.map(one_batch, range(0, max(count, 1), max(step, 1))):
                outputs.append(done)
                if bar is not None:
                    bar.add(len(done))
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def sample(
        self,
        num_samples: int = 1,
        *,
        labels: Sequence[int] | int | None = None,
        seed: int | Sequence[int] | None = None,
        temperature: float = 1.0,
        batch_size: int | None = None,
        verbose: int = 0,
    ) -> np.ndarray:
        """Draws images.

        Args:
            num_samples: How many, at least 1.
            labels: For a conditional model: a class for each image, or one for all.
            seed: None for fresh ones; one int per image; or an int s that stands for
                s, s + 1, ...: image i of `sample(n, seed=s)` is `sample(1, seed=s + i)`.
            temperature: Scales the noise: 0 gives the most typical image, 1 the model's own
                spread. At least 0.
            batch_size: Images per pass; by default as many as is fast, at most 250.
            verbose: 1 shows a progress bar.

        Returns:
            uint8 (num_samples, height, width, channels).

        Raises:
            ValueError: An argument out of range.
            NotImplementedError: The family cannot be sampled from; the message says why.
        """
        count = _positive("num_samples", num_samples)
        temperature = check_temperature(temperature)
        if "sample" not in self.endpoints():
            self._graph("sample")
        labels = pixels.check_labels(labels, self.num_classes, count)
        seeds = self.image_seeds(count, seed)
        return self._run(
            "sample",
            [seeds, labels],
            self.batch_size_for(count) if batch_size is None else batch_size,
            verbose,
            temperature=temperature,
            jit_compile=self.jit_sampling,
        )

    def batch_size_for(self, count: int) -> int:
        """Returns how many of `count` images `sample` draws in one pass unless told otherwise."""
        return min(count, LARGEST_BATCH)

    @staticmethod
    def image_seeds(count: int, seed: int | Sequence[int] | None) -> tf.Tensor:
        """Returns one int64 seed per image for the `seed` argument of the public methods.

        Raises:
            ValueError: Not None, a whole number, or `count` whole numbers.
        """
        if seed is None:
            seed = int.from_bytes(os.urandom(7), "little")
        seeds = np.asarray(seed)
        if (
            seeds.dtype.kind not in "iu"
            or seeds.shape not in ((), (count,))
            or (seeds.size and int(seeds.max()) > 2**63 - 1 - count)
        ):
            raise ValueError(
                f"seed must be None, a whole number, or {count} whole numbers, one per image, "
                f"below 2^63; received {seed!r}."
            )
        if seeds.ndim == 0:
            seeds = seeds.astype(np.int64) + np.arange(count, dtype=np.int64)
        return tf.constant(seeds.astype(np.int64))

    # Likelihood ------------------------------------------------------------------------------

    def log_likelihood(
        self,
        images: np.ndarray,
        num_samples: int = 1,
        *,
        labels: Sequence[int] | int | None = None,
        seed: int | Sequence[int] | None = 0,
        batch_size: int | None = None,
        verbose: int = 0,
    ) -> np.ndarray:
        """Returns log p(images) in nats per image, a sum over pixels, float32 (batch,).

        Exact where `likelihood` is "exact". Where it is "bound": the importance-weighted bound
        with `num_samples` samples (1: the evidence lower bound), which never exceeds the truth in
        expectation and rises with `num_samples` (Burda et al., 2016).

        Args:
            images: uint8 (batch, height, width, channels), grey values among the levels.
            num_samples: Importance samples; ignored where the likelihood is exact.
            labels: Classes, for a conditional model.
            seed: As in `sample`; the default makes the figure reproducible.
            batch_size: Images per pass; default 100.
            verbose: 1 shows a progress bar.

        Raises:
            ValueError: An argument out of range.
            NotImplementedError: `likelihood` is "none"; the message says why.
        """
        count = _positive("num_samples", num_samples)
        if self.likelihood == "none":
            self._graph("log_likelihood")
        images, labels = self.check(images, labels)
        seeds = self.image_seeds(images.shape[0], seed)
        noisy = self.likelihood == "bound"  # an exact likelihood needs no noise
        return self._run(
            "log_likelihood",
            [images, labels, seeds if noisy else None],
            100 if batch_size is None else batch_size,
            verbose,
            num_samples=count,
        )

    # Latents ---------------------------------------------------------------------------------

    def encode(self, images: np.ndarray, *, labels=None) -> tf.Tensor:
        """Returns the mean latents of `images`, float32 (batch, latent_dim)."""
        images, labels = self.check(images, labels)
        return tf.constant(self._run("encode", [images, labels], 500))

    def decode(self, latents, *, labels=None) -> np.ndarray:
        """Returns the mean image of p(x | latents), on the nearest level, uint8.

        Raises:
            ValueError: `latents` is not finite and of shape (batch, latent_dim).
            NotImplementedError: The family has no latents.
        """
        if "decode" not in self.endpoints():
            self._graph("decode")
        latents = self.check_latents(latents)
        labels = pixels.check_labels(labels, self.num_classes, latents.shape[0])
        return self._run("decode", [latents, labels], 500)

    def reconstruct(self, images: np.ndarray, *, labels=None) -> np.ndarray:
        """Returns decode(encode(images)), uint8 of the same shape."""
        images, labels = self.check(images, labels)
        return self._run("reconstruct", [images, labels], 500)

    def interpolate(self, a, b, steps: int = 8, *, labels=None) -> np.ndarray:
        """Walks the straight line in latent space from each image of `a` to that of `b`.

        Args:
            a: uint8 (batch, height, width, channels).
            b: The same shape.
            steps: Points on the line, both ends included, at least 2.
            labels: Classes, for a conditional model.

        Returns:
            uint8 (batch, steps, height, width, channels).
        """
        return self._walk(
            self.encode(a, labels=labels), self.encode(b, labels=labels), steps, labels
        )

    def _walk(self, start: tf.Tensor, end: tf.Tensor, steps: int, labels) -> np.ndarray:
        """Decodes `steps` points on the lines between latents, uint8 (batch, steps, ...)."""
        if _positive("steps", steps) < 2:
            raise ValueError(f"steps must be at least 2, both ends included; received {steps!r}.")
        if start.shape != end.shape:
            raise ValueError(
                f"a and b must hold equally many images; received {start.shape[0]} and "
                f"{end.shape[0]}."
            )
        along = tf.linspace(0.0, 1.0, steps)[None, :, None]
        line = start[:, None] * (1.0 - along) + end[:, None] * along
        flat = tf.reshape(line, (-1, line.shape[-1]))
        if labels is not None:
            count = int(start.shape[0])
            labels = np.repeat(pixels.check_labels(labels, self.num_classes, count), steps)
        images = self.decode(flat, labels=labels)
        return images.reshape(-1, steps, *self.image_shape)

    # Checks ----------------------------------------------------------------------------------

    def check_latents(self, latents) -> tf.Tensor:
        """Returns latents as a float32 tensor, or raises ValueError."""
        latents = tf.convert_to_tensor(latents, tf.float32)
        if latents.shape.rank != 2 or latents.shape[1] != self.latent_dim:
            raise ValueError(
                f"latents must have shape (batch, {self.latent_dim}); received {latents.shape}."
            )
        if not bool(tf.reduce_all(tf.math.is_finite(latents))):
            raise ValueError("latents must be finite; received NaN or infinity.")
        return latents


def check_pixel_distribution(name: str, num_levels: int) -> None:
    """Raises ValueError unless the distribution exists and fits the number of levels."""
    if name not in PIXEL_DISTRIBUTIONS:
        raise ValueError(
            f"pixel_distribution must be one of {', '.join(PIXEL_DISTRIBUTIONS)}; "
            f"received {name!r}."
        )
    if name == "bernoulli" and num_levels != 2:
        raise ValueError(
            f"pixel_distribution 'bernoulli' needs num_levels=2; received {num_levels}. "
            "Use 'discretized_logistic_mixture' for 256 levels."
        )


def inputs(tensor: tf.Tensor, labels: tf.Tensor | None):
    """Returns what a part of a model takes: `[x, labels]` if conditional, else `x`."""
    return tensor if labels is None else [tensor, labels]


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{name} must be a whole number, at least 1; received {value!r}.")
    return int(value)


def check_temperature(value: float) -> float:
    """Returns the temperature as a float; raises ValueError unless it is finite and >= 0."""
    if not (isinstance(value, numbers.Real) and math.isfinite(value) and value >= 0):
        raise ValueError(f"temperature must be finite and >= 0; received {value!r}.")
    return float(value)


def num_replicas() -> int:
    """Returns how many devices share the global batch."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def weighted_mean(values: tf.Tensor, weight: tf.Tensor | None) -> tf.Tensor:
    """Returns this replica's share of the mean over the global batch.

    The shares of all replicas add up to the mean of `values` (batch,), each counted by its weight
    if there are any. On one device that is the mean itself.
    """
    replicas = num_replicas()
    if weight is None:
        mean = tf.reduce_mean(values)
        return mean if replicas == 1 else mean / replicas
    weight = tf.cast(tf.reshape(weight, (-1,)), values.dtype)
    total = tf.reduce_sum(weight)
    if replicas > 1:
        total = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, total)
    return tf.reduce_sum(values * weight) / total


def apply_gradients(optimizer: keras.optimizers.Optimizer, gradients, variables) -> None:
    """Moves `variables` by the sum of all replicas' gradients.

    Gradients of a lookup become dense ones: only these can be summed over replicas, and have the
    norm that a clip is about.

    Keras clips, and looks for infinities, before it sums over the replicas. Where an optimizer does
    either, it is handed an equal share of the sum, so that all replicas decide alike. A bound on
    a norm then acts on a share; `training.build` divides it by the number of replicas.
    """
    replicas = num_replicas()
    gradients = [None if g is None else tf.convert_to_tensor(g) for g in gradients]
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    clips = any((inner.clipnorm, inner.global_clipnorm, inner.clipvalue))
    if replicas > 1 and (clips or inner is not optimizer):
        given = [g for g in gradients if g is not None]
        replica = tf.distribute.get_replica_context()
        summed = iter(replica.all_reduce(tf.distribute.ReduceOp.SUM, given))
        gradients = [None if g is None else next(summed) / replicas for g in gradients]
    optimizer.apply(gradients, variables)


def move_averages(averages, weights, step: tf.Tensor, momentum: float) -> None:
    """Moves averaged weights by one step.

        average <- m average + (1 - m) weight,   m = min(momentum, (1 + n) / (10 + n)) at step n

    The growing m forgets the initial weights, which a constant one would still hold after a short
    run.

    Args:
        averages: Variables to move.
        weights: Variables or tensors of the same shapes.
        step: n, a whole number.
        momentum: In [0, 1).
    """
    n = tf.cast(step, tf.float32)
    keep = tf.minimum(momentum, (1.0 + n) / (10.0 + n))
    replica = tf.distribute.get_replica_context()
    if num_replicas() > 1 and replica is not None:
        replica.merge_call(_move_on_each_device, (averages, weights, keep))
        return
    for average, weight in zip(averages, weights, strict=True):
        average.assign_sub((1.0 - keep) * (average - weight))


def _move_on_each_device(strategy, averages, weights, keep) -> None:
    def move(average, weight, keep):
        average.assign_sub((1.0 - keep) * (average - weight))

    for average, weight in zip(averages, weights, strict=True):
        strategy.extended.update(average, move, args=(weight, keep), group=False)
