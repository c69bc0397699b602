"""A model's weights as a `.weights.h5` file, whole or in half the bytes, and their digests."""

import hashlib
import io
from pathlib import Path

import h5py
import keras
import numpy as np
from keras.src.saving import saving_lib

from tfgen.downloads import fetch, sha256

__all__ = ["DamagedError", "load", "serialized_weights", "verified", "weights_digest"]

LARGE = 1 << 14  # bytes from which a halved array is compressed: its table costs 2 KB
# Bytes of the exponents next to one another: 8 % smaller than a wheel or git make them.
COMPRESSED = {"shuffle": True, "compression": "gzip", "compression_opts": 9}


class DamagedError(ValueError):
    """A file has another sha256."""


def serialized_weights(model: keras.Model, half: bool = False) -> bytes:
    """Returns the content of a `.weights.h5` file, made in memory.

    HDF5 never writes to a disk: after a full one, a later write in the same process may end with a
    segmentation fault.

    Args:
        model: Its weights, and an optimizer's slots if it was compiled.
        half: Whether float32 arrays are stored as float16.

    Raises:
        ValueError: `half` for a weight beyond the range of float16.
    """
    buffer = io.BytesIO()
    store = saving_lib.H5IOStore(buffer, mode="w")
    saving_lib._save_state(model, store, None, inner_path="", visited_saveables=set())
    store.close()
    return _halved(buffer) if half else buffer.getvalue()


def load(model: keras.Model, files: list[tuple[Path, str]]) -> None:
    """Fills a model from its file, or an ensemble from one for each network; each with its sha256.

    Raises:
        ValueError: A file was replaced meanwhile, or does not fit.
    """
    parts = [model] if len(files) == 1 else getattr(model, "networks", [model])
    for part, (file, expected) in zip(parts, files, strict=True):
        part.load_weights(file)
        verified(file, expected)


def weights_digest(model: keras.Model) -> str:
    """Returns a sha256 over dtypes, shapes and values of all weights, 64 hex digits."""
    digest = hashlib.sha256()
    for variable in model.weights:
        digest.update(f"{variable.dtype} {tuple(variable.shape)}\n".encode())
        digest.update(variable.numpy().tobytes())
    return digest.hexdigest()


def verified(weights: Path, expected: str, urls: list[str] | None = None) -> Path:
    """Returns the path of a file of weights, which is downloaded if it is missing.

    Args:
        weights: Where it is, or would be.
        expected: Its sha256.
        urls: Addresses of it, if there are any.

    Raises:
        ValueError: It has another sha256, or there is no such file and no address.
        DownloadError: It cannot be downloaded.
    """
    if not weights.is_file() and urls:
        return fetch(urls, expected, f".{weights.name.partition('.')[2]}")
    if not weights.is_file():
        raise ValueError(f"{weights} is missing; install tfgen again or restore the file.")
    if (found := sha256(weights)) != expected:
        raise DamagedError(
            f"{weights} is damaged or was changed: its sha256 is {found[:16]}..., recorded is "
            f"{expected[:16]}... Install tfgen again or restore the file."
        )
    return weights


def _halved(content: io.BytesIO) -> bytes:
    """The same HDF5 file, compressed, with float16 arrays in place of float32 ones.

    Equal arrays are kept once: a GAN's generator and its average are equal where only the
    average was worth keeping.
    """
    largest = np.finfo(np.float16).max
    buffer = io.BytesIO()
    written = {}
    with h5py.File(content, "r") as source, h5py.File(buffer, "w") as target:

        def copy(own, group):
            """Every name of an array, unlike h5py's `visititems`."""
            group.attrs.update(own.attrs)
            for name, item in own.items():
                if isinstance(item, h5py.Group):
                    copy(item, group.create_group(name))
                    continue
                value = item[()]
                if value.dtype == np.float32:
                    if not np.all(np.abs(value) <= largest):  # also where it is not a number
                        raise ValueError(
                            f"half=True stores weights as float16, up to {largest}; {item.name} "
                            f"holds {np.abs(value).max()}. Save with half=False."
                        )
                    value = value.astype(np.float16)
                key = (value.dtype.str, value.shape, value.tobytes())
                if key in written:
                    group[name] = written[key]  # a second name of the same data
                    continue
                options = {"chunks": value.shape, **COMPRESSED} if value.nbytes > LARGE else {}
                written[key] = group.create_dataset(name, data=value, **options)
                written[key].attrs.update(item.attrs)

        copy(source, target)
    return buffer.getvalue()
