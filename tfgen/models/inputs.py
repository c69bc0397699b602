"""Checks what `fit`, `evaluate` and `predict` are given before a graph is made.

An error inside a graph is late and unclear and leaves half an optimizer behind; XLA drops checks
altogether. So arrays are checked as they are; data sets by their declared types and shapes, and
value by value in their pipeline, which XLA does not compile.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgen import devices, layers, pixels
from tfgen.models.configured import ConfiguredModel

__all__ = [
    "check_class_weight",
    "checked",
    "checked_validation",
    "explained",
    "is_empty",
    "refuse_empty",
]


def checked(
    model: ConfiguredModel,
    x: Any,
    y: Any = None,
    weighted: bool = False,
    with_labels: bool = True,
    is_whole: bool = True,
    by_class: bool = False,
) -> tuple[Any, Any]:
    """Returns images and labels as `keras.Model.fit` takes them, or raises ValueError.

    Args:
        model: An `ImageModel`.
        x: Images; or a `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator, or a loader that
            Keras can read, of batches of images, (images, labels) or (images, labels, weights).
        y: Labels for images in an array.
        weighted: Whether sample or class weights come with them. Keras takes weights only after
            labels, so an unconditional model may have labels then, used for class weights alone;
            zeros stand in for missing ones.
        with_labels: False to look at images alone, e.g. to predict classes.
        is_whole: Whether an array is all that there is, so that it cannot be dark throughout.
        by_class: Whether there are class weights, which need labels.
    """
    check_data = functools.partial(_dataset, model, weighted=weighted, with_labels=with_labels)
    check_batch = functools.partial(_batch, model, weighted, with_labels, by_class)
    if isinstance(x, tf.data.Dataset):
        return check_data(x), y
    if isinstance(x, keras.utils.PyDataset):
        return _Checked(x, check_batch), y
    if isinstance(x, Iterator):
        return (check_batch(not number, batch) for number, batch in enumerate(x)), y
    if isinstance(x, tf.distribute.DistributedDataset):  # its labels are checked in the step
        _refuse_labels(model, x.element_spec, weighted)
        return x, y
    if x is None:
        return x, y
    if not (hasattr(x, "dtype") or isinstance(x, (list, tuple))):
        return _loaded(x, check_data), y
    if isinstance(x, (list, tuple)) and x and np.ndim(x[0]) == 4:
        raise ValueError(
            f"x must be images alone; received a {type(x).__name__} of {len(x)}. Labels and "
            "weights are arguments of their own."
        )
    x = pixels.as_array(x)
    pixels.check_format(x, model.image_shape)
    if is_whole:
        pixels.check_range(x)
    return x, _labels(model, y, len(x), weighted) if with_labels else y


def checked_validation(model: ConfiguredModel, data: Any, weighted: bool = False) -> Any:
    """Returns the `validation_data` of `fit`, checked as `checked` does; None stays None.

    If `fit` has weights, there may be labels here too, as Keras itself splits off.
    """
    if data is None:
        return None
    if not isinstance(data, (list, tuple)):
        images = checked(model, data, weighted=weighted)[0]
        refuse_empty("validation_data", images)
        return images
    images, labels, weight = keras.utils.unpack_x_y_sample_weight(data)
    images, labels = checked(model, images, labels, weighted or weight is not None)
    refuse_empty("validation_data", images)
    return tuple(part for part in (images, labels, weight) if part is not None)


def is_empty(x: Any) -> bool:
    """Whether what `checked` returned has no images, if that shows before it is read.

    Args:
        x: Images, or (images, labels).
    """
    x = x[0] if isinstance(x, tuple) else x
    if isinstance(x, tf.data.Dataset):
        return int(x.cardinality()) == 0
    if isinstance(x, keras.utils.PyDataset):
        return x.num_batches == 0
    return hasattr(x, "dtype") and not len(x)


def refuse_empty(name: str, x: Any) -> None:
    """Raises ValueError where there is nothing to train on or to measure.

    Args:
        name: The argument's, for the message.
        x: What `checked` returned.
    """
    if is_empty(x):
        raise ValueError(
            f"{name} must hold at least one image; received none. Check whether a filter or slice "
            "dropped all."
        )


def check_class_weight(x: Any, y: Any) -> None:
    """Raises ValueError if there are no labels for weights of classes."""
    spec = x.element_spec if isinstance(x, tf.data.Dataset) else None
    single = isinstance(spec, tf.TensorSpec) or (isinstance(spec, tuple) and len(spec) == 1)
    if single or (y is None and hasattr(x, "dtype")):
        raise _no_classes()


def _no_classes() -> ValueError:
    return ValueError(
        "class_weight needs labels, one per image; received none. Pass them as y, or as the "
        "second part of what a data set yields."
    )


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turns what is wrong with data into a ValueError; layers no longer look at it."""
    token = layers.CHECKED.set(True)
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Unknown variable"):
            raise
        raise ValueError(
            "a layer made its weights in the first step, too late to be trained. Build it in the "
            "model's constructor, e.g. self.head.build((None, 8)), and make the model again."
        ) from error
    except tf.errors.DataLossError as error:
        raise ValueError("a record of the data is damaged. Prepare the shards again.") from error
    except tf.errors.InvalidArgumentError as error:
        found = re.search(r"assertion failed: \[(.*)\]|ValueError: (.+)", str(error))
        if found is None:
            raise
        raise ValueError((found[1] or found[2]).replace("] [", " ")) from error
    finally:
        layers.CHECKED.reset(token)


def _labels(model, labels: Any, count: int, weighted: bool) -> Any:
    if model.num_classes is None:
        if not weighted:
            pixels.check_labels(labels, None, count)
        if labels is None:
            return np.zeros(count, np.int64) if weighted else None
        return pixels.as_array(labels)
    if np.shape(labels)[1:] == (1,):
        labels = np.asarray(labels).reshape(-1)
    return pixels.check_labels(labels, model.num_classes, count).numpy()


def _batch(
    model, weighted: bool, with_labels: bool, by_class: bool, is_first: bool, batch: Any
) -> tuple:
    """A batch of a generator, checked as arrays are; a later one may hold dark images alone."""
    images, labels, weight = keras.utils.unpack_x_y_sample_weight(batch)
    if by_class and labels is None:
        raise _no_classes()
    weighted = weighted or weight is not None
    images, labels = checked(model, images, labels, weighted, with_labels, is_first)
    return (images,) if labels is None else (images, labels, weight)[: 2 + (weight is not None)]


class _Checked(keras.utils.PyDataset):
    """A `PyDataset` whose batches are checked."""

    def __init__(self, inner: keras.utils.PyDataset, check: Callable[[bool, Any], tuple]):
        super().__init__(inner.workers, inner.use_multiprocessing, inner.max_queue_size)
        self.inner, self.check = inner, check

    @property
    def num_batches(self):
        return self.inner.num_batches

    def __getitem__(self, index):
        return self.check(not index, self.inner[index])

    def on_epoch_begin(self):
        self.inner.on_epoch_begin()

    def on_epoch_end(self):
        self.inner.on_epoch_end()


def _loaded(x: Any, check: Callable[[tf.data.Dataset], tf.data.Dataset]) -> Any:
    """What a loader of PyTorch or Grain yields, checked; else `x`, which Keras reads or refuses."""
    from keras.src.trainers import data_adapters

    if not (data_adapters.is_torch_dataloader(x) or data_adapters.is_grain_dataset(x)):
        return x
    adapter = data_adapters.get_data_adapter(x)
    checked_data = check(adapter.get_tf_dataset())
    if adapter.num_batches is None:
        return checked_data
    return checked_data.apply(tf.data.experimental.assert_cardinality(adapter.num_batches))


# tf.data -------------------------------------------------------------------------------------


def _refuse_labels(model, spec: Any, weighted: bool) -> None:
    """Raises ValueError for labels without weights if the model is unconditional."""
    labelled = isinstance(spec, tuple) and len(spec) == 2
    if model.num_classes is None and labelled and not weighted:
        pixels.check_labels((), None, 0)


def _dataset(model, data: tf.data.Dataset, weighted: bool, with_labels: bool) -> tf.data.Dataset:
    spec = data.element_spec
    specs = spec if isinstance(spec, tuple) else (spec,)
    if not 1 <= len(specs) <= 3 or not all(isinstance(s, tf.TensorSpec) for s in specs):
        raise ValueError(
            "a data set must yield images, (images, labels) or (images, labels, weights) as plain "
            f"tensors; this one yields {spec}. Map it first, e.g. "
            "dataset.map(lambda row: (row['image'], row['label']))."
        )
    _check_images(model, specs[0])
    conditional = model.num_classes is not None and with_labels
    if conditional and len(specs) == 1:
        pixels.check_labels(None, model.num_classes, 0)
    if conditional:
        _check_labels(model, specs[1])
    _refuse_labels(model, specs, weighted)

    def check(number, row):
        images, *rest = row if isinstance(row, tuple) else (row,)
        if not specs[0].shape[1:].is_fully_defined():
            wanted = ", ".join(map(str, model.image_shape))
            rule = f"images must have shape (batch, {wanted}); received"
            size = tf.shape(images)[1:]
            same = tf.reduce_all(tf.equal(size, model.image_shape))
            tf.debugging.Assert(tf.equal(tf.size(size), 3), [rule, tf.shape(images)], summarize=8)
            tf.debugging.Assert(same, [rule, tf.shape(images)], summarize=8)
            images.set_shape((None, *model.image_shape))  # checked above, in clearer words
        # A later batch may be all dark.
        tf.debugging.Assert((number > 0) | (tf.reduce_max(images) != 1), [pixels.ZERO_ONE])
        if conditional:
            model.labels_in_range(tf.cast(rest[0], tf.int64))
        return (images, *rest) if rest else images

    if devices.num_workers() > 1:  # they could not share a numbered set's files
        return data.map(lambda *row: check(1, row))
    endless = data.cardinality() == tf.data.INFINITE_CARDINALITY
    numbered = data.enumerate().map(check)
    if endless:  # the numbers are not
        numbered = numbered.apply(tf.data.experimental.assert_cardinality(data.cardinality()))
    return numbered


def _check_images(model, spec: tf.TensorSpec) -> None:
    wanted = (None, *model.image_shape)
    if spec.dtype == tf.uint8 and tf.TensorShape(spec.shape).is_compatible_with(wanted):
        return
    if spec.dtype == tf.uint8 and spec.shape.is_compatible_with(model.image_shape):
        raise ValueError(
            f"a data set must yield batches of images; this one yields single ones of shape "
            f"{spec.shape}. Batch it: dataset.batch(64)."
        )
    pixels.check_format(spec, model.image_shape)


def _check_labels(model, spec: tf.TensorSpec) -> None:
    shape = spec.shape
    single = shape.rank in (None, 1) or (shape.rank == 2 and shape[1] == 1)
    if not (spec.dtype.is_integer and single):
        one_hot = shape.rank == 2 and not single and spec.dtype != tf.string
        fix = (
            "If they are one-hot, map them through tf.argmax(labels, -1)."
            if one_hot
            else "Map them to integers first, e.g. through tf.cast(labels, tf.int64)."
        )
        raise ValueError(
            f"labels must be integers in [0, {model.num_classes - 1}], one per image; the data "
            f"set yields {spec.dtype.name} of shape {shape}. {fix}"
        )
