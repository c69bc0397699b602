"""What a model can do, as functions of tensors for Python and exports alike."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgen import checks, export, formats, portable
from tfgen.models.base import ImageModel

__all__ = ["EndpointModel", "Endpoints"]

# {name: (function of tensors to a dict of tensors, {argument: spec})}
Endpoints = dict[str, tuple[Callable[..., dict[str, tf.Tensor]], dict[str, tf.TensorSpec]]]

# Images per pass of each endpoint, as many as is fast, by default.
PER_PASS = {
    "sample": 250,
    "complete": 250,
    "latents": 250,
    "log_likelihood": 100,
    "log_likelihood_map": 100,
    "encode": 500,
    "decode": 500,
    "reconstruct": 500,
    "score": 500,
    "features": 500,
    "probabilities": 500,
}


DRAWN_BY_PIXEL = ("sample", "complete")  # endpoints that `num_workers` is for
MOST_GRAPHS = 16  # kept per model; the least recently used goes first
_LOCK = threading.RLock()  # on the graphs of all models


class EndpointModel(ImageModel):
    """A model whose methods run the very graphs that are exported.

    A subclass gives

        endpoints(temperature, num_samples) -> {name: (function, input specs)}

    A function's parameters are named as its specs are: `images`, `labels`, `seed`, `latents`,
    `mask`. It takes tensors with a leading batch axis and returns a dict of them.

    Attributes:
        jit_sampling: Whether XLA compiles what `sample` and `complete` run, for each batch size;
            the noise stays the same. Set it on a model that draws more than a few batches.
        num_workers: Batches that `sample` and `complete` run at the same time.
    """

    jit_sampling: bool = False
    num_workers: int = 1

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "jit_sampling":
            checks.one_of(name, value, (False, True))
        super().__setattr__(name, checks.positive(name, value) if name == "num_workers" else value)

    def endpoints(self, temperature: float = 1.0, num_samples: int = 1) -> Endpoints:
        """Returns {name: (function of tensors to a dict of tensors, {argument: spec})}."""
        raise NotImplementedError

    def why_not(self, name: str) -> str:
        """Returns one sentence on why the family has no such endpoint."""
        return "the family does not define it."

    @property
    def capabilities(self) -> frozenset[str]:
        """The names of the endpoints that this model has."""
        return frozenset(self.endpoints())

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

    # Export ----------------------------------------------------------------------------------

    def signatures(
        self, temperature: float = 1.0, num_samples: int = 1, jit_compile: bool = False
    ) -> dict[str, Any]:
        """Returns the SavedModel endpoints of this family as `tf.function`s with dynamic batch.

        In addition to the family's own: `sample_png`, whose `image_bytes` are samples as PNG
        files; and `serving_default`, which is `sample`, or `reconstruct` where there is none.

        Args:
            temperature: Fixed in `sample`, `complete` and `latents`.
            num_samples: Importance samples, fixed in `log_likelihood`.
            jit_compile: Whether XLA compiles them; the noise stays the same.

        Raises:
            ValueError: An argument out of range.
        """
        checks.finite(0, temperature=temperature)
        num_samples = checks.positive("num_samples", num_samples)
        checks.one_of("jit_compile", jit_compile, (False, True))
        endpoints = self.endpoints(float(temperature), num_samples)
        graphs = {
            name: self._graph(name, float(temperature), num_samples, bool(jit_compile)).function
            for name in endpoints
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
        **options: Any,
    ) -> Path:
        """Writes the model for TensorFlow Serving or for another runtime.

        Args:
            filepath: For "tf_saved_model" the folder of the versions, whose name is the model's in
                TensorFlow Serving: the next version that does not exist yet is written. For the
                other formats a folder that does not exist yet.
            format: "tf_saved_model", "onnx", "litert" or "stablehlo"; see docs/exports.md.
            verbose: True prints where it went.
            **options: `version`, `temperature`, `num_samples` and `jit_compile` of
                `tfgen.export.save`; or the options of `tfgen.formats.save`.

        Returns:
            The folder that was written.

        Raises:
            ValueError: An argument out of range, something that already exists, or an endpoint
                that the format cannot hold.
            ImportError: The format's packages are not installed.
            OSError: The folder cannot be written.
        """
        checks.one_of("format", format, formats.FORMATS)
        if format == "tf_saved_model":
            written = export.save(self, filepath, **options)
        else:
            written = formats.save(self, filepath, format, **options)
        if verbose:
            print(f"Exported to {written}")
        return written

    # Running ---------------------------------------------------------------------------------

    def _require(self, name: str) -> None:
        """Raises NotImplementedError, which says why, unless the model has the endpoint."""
        known = self.__dict__.setdefault("_known", set())  # listing them builds them all
        if name not in known and name not in self.capabilities:
            raise NotImplementedError(
                f"{type(self).__name__} has no {name!r}: {self.why_not(name)} "
                f"It has {', '.join(sorted(self.capabilities))}."
            )
        known.add(name)

    def _graph(
        self,
        name: str,
        temperature: float = 1.0,
        num_samples: int = 1,
        jit_compile: bool = False,
    ) -> "_Graph":
        """Returns an endpoint with fixed options, made again if the model has changed."""
        # Keras would track a plain attribute.
        graphs = self.__dict__.setdefault("_graphs", {})
        key = (name, temperature, num_samples, jit_compile)
        with _LOCK:
            if self.outdated("endpoints"):
                graphs.clear()
            graph = graphs.pop(key, None)
            if graph is None:
                graph = self._new_graph(*key)
            graphs[key] = graph  # the newest is the last
            if len(graphs) > MOST_GRAPHS:
                del graphs[next(iter(graphs))]
        return graph

    def _new_graph(self, name, temperature, num_samples, jit_compile) -> "_Graph":
        self._require(name)
        function, specs = self.endpoints(temperature, num_samples)[name]

        def by_name(*tensors):
            given = dict(zip(specs, tensors, strict=True))
            if "labels" in given:
                given["labels"] = self.labels_in_range(given["labels"])
            with portable.without_gradients():
                return function(**given)

        graph = tf.function(
            by_name,
            input_signature=list(specs.values()),
            autograph=False,
            jit_compile=jit_compile,
        )
        return _Graph(graph, tuple(specs))

    def _run(
        self,
        name: str,
        arguments: Mapping[str, tf.Tensor | None],
        batch_size: int | None = None,
        verbose: int = 0,
        **fixed,
    ) -> np.ndarray:
        """Runs an endpoint in batches, by default of `PER_PASS`, and returns its output.

        `arguments` are tensors of equal first axes by the names of its specs; what it does not
        take, such as labels or a seed, is left out.
        """
        graph = self._graph(name, **fixed)
        rows = [tf.convert_to_tensor(arguments[argument]) for argument in graph.arguments]
        count = int(rows[0].shape[0])
        step = PER_PASS[name] if batch_size is None else checks.positive("batch_size", batch_size)
        # XLA compiles for each number of rows, so the last batch is filled up.
        fill = fixed.get("jit_compile", False) and count > step

        def one_batch(start):
            batch = [a[start : start + step] for a in rows] if count > step else rows
            used = int(batch[0].shape[0])
            missing = step - used if fill else int(not used)  # not every kernel takes no rows
            if missing:
                batch = [
                    tf.concat([a, tf.zeros((missing, *a.shape[1:]), a.dtype)], 0) for a in batch
                ]
            with tf.init_scope():  # no tape records what ends as an array
                (value,) = graph.traced(*batch).values()
            return value.numpy()[:used]

        bar = keras.utils.Progbar(count, unit_name="image") if verbose else None
        outputs = []
        workers = self.num_workers if name in DRAWN_BY_PIXEL else 1
        with contextlib.ExitStack() as stack:
            each = map  # a thread starts no faster than a small model draws
            if workers > 1:
                each = stack.enter_context(concurrent.futures.ThreadPoolExecutor(workers)).map
            for done in each(one_batch, range(0, max(count, 1), step)):
                outputs.append(done)
                if bar is not None:
                    bar.add(len(done))
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)


@dataclasses.dataclass
class _Graph:
    """An endpoint as a `tf.function` of its specs in order; `arguments` are their names."""

    function: Callable[..., dict[str, tf.Tensor]]
    arguments: tuple[str, ...]

    @functools.cached_property
    def traced(self) -> Callable[..., dict[str, tf.Tensor]]:
        """The function for any number of rows."""
        return self.function.get_concrete_function()
