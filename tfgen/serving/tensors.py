"""Converts arrays to and from what is sent: TensorProto (gRPC) and nested lists (JSON).

An input is checked against its signature's `TensorInfo` before memory is allocated, so a small
message that claims a huge shape costs nothing. Nothing here uses Keras.
"""

import base64
import binascii
import dataclasses
import math
import reprlib
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from tfgen.serving.errors import ServingError, invalid
from tfgen.serving.pieces import NotNumbers, array_of

__all__ = ["Spec", "from_json", "from_proto", "read_proto", "to_json", "to_proto"]


MOST_AXES = 64  # of an array of NumPy's
_START = reprlib.Repr()
_START.maxlist = _START.maxtuple = _START.maxdict = 10
_START.maxstring = _START.maxother = 60


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a signature declares about an input or output.

    Args:
        name: Its name in the signature.
        tensor: The name of its tensor in the graph.
        dtype: Element type.
        shape: One entry per axis, None where any size is allowed; None if any rank is.
    """

    name: str
    tensor: str
    dtype: tf.DType
    shape: tuple[int | None, ...] | None

    @classmethod
    def from_info(cls, name: str, info: meta_graph_pb2.TensorInfo) -> "Spec":
        """Reads a `TensorInfo`."""
        shape = info.tensor_shape
        sizes = tuple(None if axis.size < 0 else axis.size for axis in shape.dim)
        return cls(name, info.name, tf.as_dtype(info.dtype), None if shape.unknown_rank else sizes)

    @property
    def batched(self) -> bool:
        """Whether the first axis is the batch axis."""
        return bool(self.shape) and self.shape[0] is None

    def check(self, dtype: tf.DType, shape: tuple[int, ...]) -> None:
        """Raises INVALID_ARGUMENT if a tensor of that type and shape does not fit."""
        if dtype != self.dtype:
            raise invalid(f"input {self.name!r} must be {self.dtype.name}; received {dtype.name}.")
        fits = self.shape is None or (
            len(shape) == len(self.shape)
            and all(want in (None, size) for want, size in zip(self.shape, shape, strict=True))
        )
        if not fits:
            raise invalid(
                f"input {self.name!r} must have shape {_text(self.shape)}, -1 for any size; "
                f"received {_text(shape)}."
            )


def _text(shape: tuple[int | None, ...]) -> str:
    return "[" + ",".join("-1" if size is None else str(size) for size in shape) + "]"


# TensorProto ---------------------------------------------------------------------------------


# The field of a TensorProto with one number per element, by dtype; int_val also for shorter ones.
_FIELDS = {"f2": "half_val", "f4": "float_val", "f8": "double_val", "i4": "int_val"}
_FIELDS |= {"b1": "bool_val", "i8": "int64_val", "u4": "uint32_val", "u8": "uint64_val"}


def from_proto(proto: tensor_pb2.TensorProto, spec: Spec, limit: int) -> np.ndarray:
    """Returns the array of a TensorProto.

    Args:
        proto: The client's tensor.
        spec: What the signature expects.
        limit: Maximum size of the array in bytes.

    Raises:
        ServingError: It does not fit the spec, is too large, or has too few or too many values.
    """
    try:
        dtype = tf.as_dtype(proto.dtype)
    except TypeError:
        raise invalid(
            f"input {spec.name!r} has the unknown dtype {proto.dtype}; it must be "
            f"{spec.dtype.name}."
        ) from None
    shape = tuple(axis.size for axis in proto.tensor_shape.dim)
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise invalid(
            f"input {spec.name!r} must have a fully specified shape; received {_text(shape)}."
        )
    spec.check(dtype, shape)
    count = math.prod(shape)
    if dtype == tf.string:
        if len(proto.string_val) != count:
            raise _wrong_count(spec, count, len(proto.string_val))
        return np.array(list(proto.string_val), object).reshape(shape)
    size = count * dtype.as_numpy_dtype().itemsize
    if size > limit:
        raise invalid(f"input {spec.name!r} takes {size} bytes; the limit is {limit}.")
    values = max(len(getattr(proto, name)) for name in _FIELDS.values())
    if values > count:
        raise _wrong_count(spec, count, values)
    if proto.tensor_content:
        if len(proto.tensor_content) != size:
            raise _wrong_count(spec, count, f"{len(proto.tensor_content)} bytes instead of {size}")
        return np.frombuffer(proto.tensor_content, dtype.as_numpy_dtype).reshape(shape)
    try:
        return np.asarray(tf.make_ndarray(proto))
    except (TypeError, ValueError, OverflowError) as error:
        raise invalid(f"input {spec.name!r} cannot be read: {error}.") from None


def _wrong_count(spec: Spec, expected: int, found) -> ServingError:
    return invalid(f"input {spec.name!r} must hold {expected} values; received {found}.")


def to_proto(array: np.ndarray, in_fields: bool = False) -> tensor_pb2.TensorProto:
    """Returns the TensorProto of an array.

    Args:
        array: Of any dtype.
        in_fields: Whether numbers are stored one by one, as TF Serving does and some clients
            expect; else as raw bytes, which is faster.
    """
    if array.dtype.kind not in "biuf":
        return tf.make_tensor_proto(array)
    proto = tensor_pb2.TensorProto(dtype=tf.as_dtype(array.dtype).as_datatype_enum)
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if in_fields:
        kind = array.dtype.str[1:]
        flat = array.ravel().view(np.uint16) if kind == "f2" else array.ravel()
        getattr(proto, _FIELDS.get(kind, "int_val")).extend(flat.tolist())
    else:
        proto.tensor_content = array.tobytes()
    return proto


def read_proto(proto: tensor_pb2.TensorProto) -> np.ndarray:
    """Returns the array of a TensorProto from a server, which is trusted."""
    return tf.make_ndarray(proto)


# JSON ----------------------------------------------------------------------------------------


def from_json(value: Any, spec: Spec) -> np.ndarray:
    """Returns the array of a number, string, {"b64": text} or nested lists of them.

    Raises:
        ServingError: Lists of unequal lengths, or values of another type or out of range.
    """
    if spec.dtype == tf.string:
        return _strings(value, spec)
    try:
        array = array_of(value, math.prod(size or 1 for size in (spec.shape or ())[1:]))
    except NotNumbers:
        raise _unexpected(value, spec) from None
    except (ValueError, TypeError, OverflowError):
        raise invalid(
            f"input {spec.name!r} must be lists of equal lengths of {spec.dtype.name}."
        ) from None
    target = np.dtype(spec.dtype.as_numpy_dtype)
    if not array.size:  # an empty list has no type
        array = array.astype(target)
    wanted = {"b": "b", "u": "ui", "i": "ui"}.get(target.kind, "uif")
    if array.dtype.kind not in wanted:
        raise _unexpected(value, spec)
    if target.kind in "ui" and array.size:
        bounds = np.iinfo(target)
        low, high = int(array.min()), int(array.max())
        if low < bounds.min or high > bounds.max:
            outside = low if low < bounds.min else high
            raise invalid(
                f"JSON Value: {outside} is not of expected type: {target.name}, which is in "
                f"[{bounds.min}, {bounds.max}] (input {spec.name!r})."
            )
    with np.errstate(over="ignore"):
        made = array.astype(target)
    if target.kind == "f" and np.isfinite(array).all() and not np.isfinite(made).all():
        raise invalid(
            f"Cannot convert JSON value to {target.name} without loss: a number of input "
            f"{spec.name!r} is too large."
        )
    return made


def _unexpected(value: Any, spec: Spec) -> ServingError:
    return invalid(
        f"JSON Value: {_shorten(value)} is not of expected type: {spec.dtype.name} "
        f"(input {spec.name!r})."
    )


def _shorten(value: Any) -> str:
    """Returns the beginning of `repr(value)`, without making all of it."""
    text = _START.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _strings(value: Any, spec: Spec) -> np.ndarray:
    """Encodes strings as UTF-8 and decodes {"b64": text}."""

    def leaf(item: Any) -> bytes:
        if isinstance(item, str):
            try:
                return item.encode()
            except UnicodeEncodeError:  # half of a surrogate pair
                raise invalid(f"input {spec.name!r} must be valid Unicode.") from None
        if isinstance(item, dict) and set(item) == {"b64"} and isinstance(item["b64"], str):
            try:
                return base64.b64decode(item["b64"], validate=True)
            except (binascii.Error, ValueError):
                raise invalid(f"Unable to base64 decode (input {spec.name!r}).") from None
        raise invalid(
            f"JSON Value: {_shorten(item)} is not of expected type: string (input {spec.name!r})."
        )

    shape, first = [], value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    if len(shape) > MOST_AXES:
        raise invalid(
            f"input {spec.name!r} must have at most {MOST_AXES} axes; received {len(shape)}."
        )
    items = [value]
    for size in shape:
        if not all(isinstance(item, list) and len(item) == size for item in items):
            raise invalid(f"input {spec.name!r} must be lists of equal lengths of strings.")
        items = [inner for item in items for inner in item]
    array = np.empty(len(items), object)
    array[:] = [leaf(item) for item in items]
    return array.reshape(shape)


def to_json(array: np.ndarray, name: str) -> Any:
    """Returns an output in a form for JSON: an array of numbers, or nested lists of strings.

    Bytes become {"b64": text} if the output's name ends in `_bytes`, else text.

    Raises:
        ServingError: Bytes that are not UTF-8, in an output whose name does not end in `_bytes`.
    """
    if array.dtype.kind in "biuf":
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)
    if array.dtype.kind not in "OSU":
        return array.tolist()

    def convert(item: Any) -> Any:
        if isinstance(item, list):
            return [convert(inner) for inner in item]
        raw = item if isinstance(item, bytes) else str(item).encode()
        if name.endswith("_bytes"):
            return {"b64": base64.b64encode(raw).decode()}
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise ServingError(
                "INTERNAL",
                f"output {name!r} holds bytes that are not UTF-8; its name must end in '_bytes'.",
            ) from None

    return convert(array.tolist())
