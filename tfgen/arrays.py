"""Arrays of a run on disk: written whole, and read only if every byte has its checksum.

best.npz              the weights of the best epoch; best-1.npz, ... those of later stages
checkpoint-*.npz      the whole state, its weights under "weight/"
"""

import errno
import zipfile
import zlib
from pathlib import Path

import keras
import numpy as np

from tfgen.files import replacing

__all__ = [
    "UNREADABLE",
    "best_path",
    "checkpoint_paths",
    "last_written",
    "load_weights",
    "raise_systems",
    "read_arrays",
    "weights_so_far",
    "write_arrays",
    "write_weights",
]

# What a damaged zip archive of arrays can raise, or an encrypted one.
UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError),
    *(ValueError, KeyError, TypeError, RuntimeError, MemoryError),
)


def raise_systems(error: Exception) -> None:
    """Raises errors of the system, such as of a share that is away."""
    if getattr(error, "errno", None) not in (None, errno.EINVAL, errno.ENOENT):
        raise error


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
        arrays = read_arrays(path)
    except UNREADABLE as error:
        raise_systems(error)
        raise ValueError(
            f"{path} holds weights of a run and cannot be read ({error}). Train again in a new "
            "folder."
        ) from error
    # A checkpoint has more than weights.
    prefix = "weight/" if any(name.startswith("weight/") for name in arrays) else ""
    values = [arrays[name] for name in sorted(arrays) if name.startswith(prefix)]
    if [value.shape for value in values] != [tuple(v.shape) for v in model.variables]:
        raise ValueError(f"{path} does not fit the {type(model).__name__} that its recipe names.")
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)


def best_path(folder: Path, stage: int = 0) -> Path:
    """Returns the file of the weights of a stage's epoch with the lowest validation loss."""
    return folder / (f"best-{stage}.npz" if stage else "best.npz")


def checkpoint_paths(folder: Path) -> list[Path]:
    """Returns the checkpoints of a run, oldest first."""
    return sorted(folder.glob("checkpoint-*.npz"))


def weights_so_far(folder: Path) -> Path | None:
    """Returns the file with the weights of a run that has not ended, if any.

    Those of the best epoch of the last stage; else, as for a GAN, those of the newest checkpoint
    that can be read.
    """
    stage = 0
    while best_path(folder, stage + 1).exists():
        stage += 1
    if best_path(folder, stage).exists():
        return best_path(folder, stage)
    paths = checkpoint_paths(folder)
    for path in reversed(paths):
        try:
            read_arrays(path)
            return path
        except UNREADABLE as error:
            raise_systems(error)
    return paths[-1] if paths else None  # reading it will say why


def last_written(folder: Path) -> Path | None:
    """Returns the checkpoint that was written last; those of later steps could not be read."""
    paths = reversed(checkpoint_paths(folder))
    return max(paths, key=lambda path: path.stat().st_mtime_ns, default=None)
