"""The `tfgen` command before TensorFlow is imported: quiet log level, then `tfgen.cli`."""

import contextlib
import os
import sys
from collections.abc import Iterator

__all__ = ["import_tensorflow", "main"]


@contextlib.contextmanager
def _native_stderr_closed() -> Iterator[None]:
    """Drops what libraries write to file descriptor 2 from C++; Python's errors still show.

    TensorFlow prints "Could not find cuda drivers" at import whatever its log level.
    """
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


def main() -> None:
    """Runs the command line."""
    import_tensorflow()
    from tfgen.cli import main as run

    run()


if __name__ == "__main__":
    main()
