"""Writing files whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["replacing", "scratch"]


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; on success it becomes `path`, else it is removed.

    A reader, or a run that was killed, sees the old file or the new one and nothing between.
    The temporary name keeps the suffix, since writers choose their format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.tmp.{path.name}")
    try:
        yield temporary
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
