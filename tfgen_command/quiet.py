"""Importing TensorFlow without what it prints on the way.

TensorFlow writes lines such as "Could not find cuda drivers" when it is imported, whatever its log
level, and writes them from C++ straight to file descriptor 2, where Python cannot catch them. So
the log level is set and the descriptor points to nowhere while the import lasts. Python's own
errors still reach the user: they are raised, and printed after the descriptor is back.
"""

import contextlib
import os
import sys
from collections.abc import Iterator

__all__ = ["import_tensorflow"]


@contextlib.contextmanager
def _native_stderr_closed() -> Iterator[None]:
    """Drops what is written to file descriptor 2 inside the block."""
    if sys.stderr is None:  # the shell has closed it, as 2>&- does
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def import_tensorflow() -> None:
    """Imports it quietly, unless TF_CPP_MIN_LOG_LEVEL is 0."""
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") != "0":
        with _native_stderr_closed():
            import tensorflow  # noqa: F401
