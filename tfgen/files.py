"""Writing files whole or not at all, and one writer at a time."""

import contextlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "NOT_JSON",
    "expanded",
    "json_text",
    "only_writer",
    "replacing",
    "scratch",
    "system_errors",
    "write_json",
]

LOCK = "writer.lock"
ADDRESS = re.compile("(^|/)(gs|s3|hdfs|https?|file):(/|$)")  # or what a path makes of one
NOT_JSON = (ValueError, RecursionError)  # what reading a damaged JSON file can raise
COLUMNS = 100  # the longest line of a JSON file that people read


def json_text(values: dict[str, Any]) -> str:
    """Returns the text of a JSON file for people: what is in a list stays on one line if it fits.

    Raises:
        ValueError: A number is infinite or NaN, which JSON does not have.

    >>> print(json_text({"model": {"image_shape": [28, 28, 1], "filters": [32]}}), end="")
    {
      "model": {
        "image_shape": [28, 28, 1],
        "filters": [32]
      }
    }
    """
    # With names as JSON has them: texts.
    plain = json.loads(json.dumps(values, allow_nan=False))
    return f"{_json_lines(plain, 0)}\n"


def _json_lines(value: Any, column: int, in_list: bool = False) -> str:
    line = json.dumps(value)
    is_object = isinstance(value, dict)
    fits = column + len(line) < COLUMNS and (in_list or not is_object)
    if fits or not value or not isinstance(value, (dict, list, tuple)):
        return line
    inside = " " * (column + 2)
    if is_object:
        entries = [
            f"{inside}{json.dumps(key)}: {_json_lines(item, column + 2, in_list)}"
            for key, item in value.items()
        ]
    else:
        entries = [inside + _json_lines(item, column + 2, True) for item in value]
    start, end = "{}" if is_object else "[]"
    return "\n".join([start, ",\n".join(entries), " " * column + end])


def expanded(path: str | Path) -> str | Path:
    """Returns a path with `~` as the home folder; an address such as gs://... stays as it is."""
    return path if "://" in str(path) else Path(path).expanduser()


def _local(path: str | Path) -> Path:
    """Returns a path, or raises ValueError for an address."""
    if ADDRESS.search(str(path)):
        raise ValueError(
            f"a path must be on a disk of this machine; received {path}. Write there and copy it."
        )
    return Path(path)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name next to `path`; on success it becomes `path`, else it is removed.

    A reader, or a run that was killed, sees the old file or the new one and nothing between; nor
    does a power cut, since the content is on the disk before the name is. The temporary name keeps
    the suffix, since writers choose their format by it. No other writer has the same name, not even
    one that begins in the middle of this one, as a signal's does, or one in another container.

    A link stays a link.
    """
    path = _local(path)
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.tmp.{path.name[-40:]}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, values: dict[str, Any]) -> None:
    """Writes a JSON file whole or not at all.

    Raises:
        ValueError: A number is infinite or NaN, which JSON does not have.
        OSError: The file cannot be written.
    """
    text = json_text(values)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def scratch(folder: str | Path) -> Iterator[Path]:
    """Yields a temporary folder inside `folder`, on its file system, to build a folder in.

    Rename what is built out of it to make it appear whole. Whatever is left in it is removed, and
    so is `folder` if it was made here and has stayed empty.
    """
    folder = _local(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=folder) as temporary:
            yield Path(temporary)
    finally:
        with contextlib.suppress(OSError):  # it holds something: the first one stops the rest
            for path in made:
                path.rmdir()


@contextlib.contextmanager
def system_errors(folder: Path) -> Iterator[None]:
    """Turns TensorFlow's errors in writing into a folder, such as a full disk, into OSError.

    Raises:
        OSError: TensorFlow raised an OpError.
    """
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"{folder} cannot be written: {error.message}") from error


@contextlib.contextmanager
def only_writer(folder: str | Path) -> Iterator[None]:
    """Makes the folder and holds its lock, which the system frees when the process dies.

    What a writer that was killed has left half-written is removed.

    Raises:
        ValueError: Another process holds it.
        OSError: The folder cannot be made or written.
    """
    from filelock import FileLock, Timeout

    folder = _local(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"folder must not be in use by another process; {folder.resolve()} is. Wait until "
            "that process ends, or name another folder."
        ) from None
    try:
        for place in (folder, folder / "samples", folder / "epochs"):
            for stale in place.glob(".[0-9]*-????????.tmp.*"):  # as `replacing` names them
                stale.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
