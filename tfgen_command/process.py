"""A process of the command or of the local server: settings, ports, TensorFlow without messages.

Whatever its log level, TensorFlow writes lines such as "Could not find cuda drivers" when it is
imported, from C++ straight to file descriptor 2. So that points to nowhere while the import lasts.
Python's own errors still reach the user: they are raised, and printed when it is back.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["Settings", "import_tensorflow", "listen", "on_sigterm", "port_in_use", "tune_allocator"]

# Parameters of mallopt, as glibc's malloc.h numbers them.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


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


def on_sigterm(handler: Any) -> None:
    """Sets what SIGTERM does, if this is the main thread, which alone may."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def tune_allocator() -> bool:
    """Makes glibc keep freed memory, and returns whether that worked.

    A training step frees and asks for the same large blocks again; by default glibc hands them
    back to the system each time and pays for it in page faults. This sets for the running process
    what MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_TOP_PAD_=268435456 set before
    it starts. Memory use stays near its peak. On anything but Linux with glibc it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**28))
    told = [mallopt(parameter, value) for parameter, value in settings]
    return all(told)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the local server, as the options of `tfgen serve` explain them."""

    models: str
    host: str = "127.0.0.1"
    port: int = 8501
    grpc_port: int = 8500
    max_batch_size: int = 256
    batch_window_ms: float = 2.0
    threads: int = 2
    max_body_mb: float = 64.0
    timeout: float = 30.0
    poll_seconds: float = 1.0
    grace_seconds: float = 30.0

    def to_json(self) -> str:
        """Returns the settings as one command-line argument."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """Parses the output of `to_json`."""
        return cls(**json.loads(text))


def listen(host: str, port: int, option: str) -> socket.socket:
    """Returns a socket that listens, so that no second server can while models are loading.

    Raises:
        OSError: The address is not of this machine, or the port, which `option` chose, is in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named; an answer would wait
    # 40 ms otherwise.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise port_in_use(host, port, option, error.strerror or str(error)) from None
    return listener


def port_in_use(host: str, port: int, option: str, reason: str) -> OSError:
    """Returns the error for a port that cannot be listened on."""
    return OSError(
        f"cannot listen on port {port} of {host}: {reason}. Choose another with {option}, or "
        "another address with --host."
    )
