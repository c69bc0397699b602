"""Arrays of a run on disk: written whole, and read only if every byte has its checksum."""

import zipfile
import zlib
from pathlib import Path

import keras
import numpy as np

from tfgen.files import replacing

__all__ = ["UNREADABLE", "load_weights", "read_arrays", "write_arrays", "write_weights"]

# What a damaged zip archive of arrays can raise.
UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError),
    *(ValueError, KeyError, TypeError, RuntimeError, MemoryError),
)


def write_arrays(path: str | Path, **arrays: np.ndarray) -> None:
    """Writes an .npz file."""
    with replacing(path) as temporary:
        np.savez(temporary, **arrays)


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Reads an .npz file; raises one of `UNREADABLE` if a byte of it has changed."""
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()  # before anything inside is believed
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} fails its checksum")
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def write_weights(path: str | Path, model: keras.Model) -> None:
    """Writes every variable of a model, in its order."""
    write_arrays(path, **{f"{i:04d}": v.numpy() for i, v in enumerate(model.variables)})


def load_weights(path: str | Path, model: keras.Model) -> None:
    """Puts what `write_weights` wrote into a model built as that one was.

    Raises:
        ValueError: The file is damaged, or is of another model.
    """
    try:
        values = read_arrays(path)
    except UNREADABLE as error:
        raise ValueError(
            f"{path} holds weights of a run and cannot be read ({error}). Train again in a new "
            "folder."
        ) from error
    shapes = [value.shape for _, value in sorted(values.items())]
    if shapes != [tuple(variable.shape) for variable in model.variables]:
        raise ValueError(f"{path} does not fit the {type(model).__name__} that its recipe names.")
    for index, variable in enumerate(model.variables):
        variable.assign(values[f"{index:04d}"])
