"""Writing files whole or not at all, and one writer at a time."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["NOT_JSON", "only_writer", "replacing", "scratch"]

LOCK = "writer.lock"
NOT_JSON = (ValueError, RecursionError)  # what reading a damaged JSON file can raise


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; on success it becomes `path`, else it is removed.

    A reader, or a run that was killed, sees the old file or the new one and nothing between; nor
    does a power cut, since the content is on the disk before the name is. The temporary name keeps
    the suffix, since writers choose their format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.tmp.{path.name}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch(folder: str | Path) -> Iterator[Path]:
    """Yields a temporary folder inside `folder`, on its file system, to build a folder in.

    Rename what is built out of it to make it appear whole. Whatever is left in it is removed, and
    so is `folder` if it was made here and has stayed empty.
    """
    folder = Path(folder)
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
def only_writer(folder: str | Path) -> Iterator[None]:
    """Makes the folder and holds its lock, which the system frees when the process dies.

    Raises:
        ValueError: Another process holds it.
        OSError: The folder cannot be made or written.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
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
        yield
    finally:
        lock.release()
