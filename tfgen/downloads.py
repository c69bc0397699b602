"""Weights that are too large to ship: downloaded once, checked by sha256, kept in a cache.

    TFGEN_CACHE_DIR   where they are kept; by default the user's cache folder. A folder that holds
                      them already may be read-only.
    TFGEN_OFFLINE=1   never connects; a file that is not in the cache is an error.

An entry names one or more addresses of the same file. The next one is tried when one fails, and a
download that was interrupted resumes where it stopped.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["DownloadError", "cache_folder", "fetch", "sha256"]

TIMEOUT = 30.0  # seconds without a byte
CHUNK = 2**14  # bytes; what has arrived of one is lost when a connection breaks
# Errors of the disk that holds the cache: another address would not help.
DISK = (errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EPERM, errno.EROFS)


class DownloadError(FileNotFoundError):
    """A file is neither in the cache nor reachable. The message gives each reason."""


def sha256(path: Path) -> str:
    """Returns the sha256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Returns the folder of downloads; it need not exist."""
    import pooch

    return Path(os.environ.get("TFGEN_CACHE_DIR") or pooch.os_cache("tfgen")).expanduser()


def fetch(urls: Sequence[str], digest: str, suffix: str) -> Path:
    """Returns the path of a file in the cache, downloading it if it is not there.

    Args:
        urls: Addresses of the same file, the preferred one first.
        digest: Its sha256.
        suffix: Of its name in the cache.

    Raises:
        DownloadError: It is not in the cache, and no address gave it.
        OSError: The cache cannot be written.
    """
    path = cache_folder() / f"{digest}{suffix}"
    if path.is_file() and sha256(path) == digest:
        return path
    if os.environ.get("TFGEN_OFFLINE", "0") not in ("", "0"):
        raise DownloadError(
            f"{path} is missing or corrupt, and TFGEN_OFFLINE prevents downloading it. Unset "
            "TFGEN_OFFLINE, or set TFGEN_CACHE_DIR to a folder that holds it."
        )
    import pooch
    from filelock import FileLock

    reasons, lock = [], path.with_name(f".{path.name}.lock")
    with _errors_of_the_disk(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, mode=0o666):  # for other users of the cache, too
            for url in urls:
                try:
                    # It downloads under another name, checks the hash and renames.
                    pooch.retrieve(
                        url,
                        known_hash=f"sha256:{digest}",
                        fname=path.name,
                        path=path.parent,
                        downloader=_Resuming(path.with_name(f".{path.name}.part")),
                    )
                    return path
                except (OSError, ValueError) as error:  # requests' errors are OSErrors
                    if _is_of_the_disk(error):
                        raise
                    reasons.append(f"{url}: {error}")
    raise DownloadError(
        f"{path.name} is not in the cache {path.parent} and could not be downloaded: "
        f"{'; '.join(reasons)}. Connect to the internet and try again: the download will resume."
    )


def _is_of_the_disk(error: Exception) -> bool:
    return isinstance(error, PermissionError) or getattr(error, "errno", None) in DISK


@contextlib.contextmanager
def _errors_of_the_disk(folder: Path) -> Iterator[None]:
    """Adds to a full or protected disk's error where it was met, and the way out."""
    try:
        yield
    except OSError as error:
        if not _is_of_the_disk(error):
            raise
        # pooch raises a PermissionError of its own from the system's, without a number.
        first = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise OSError(
            first.errno or errno.EACCES,
            f"the cache {folder} must be a folder that can be written; it failed with "
            f"{first.strerror or first}. Mend that, or set TFGEN_CACHE_DIR to another folder.",
        ) from error


class _Resuming:
    """Downloads for pooch, beginning where a partial file ends.

    It asks for the file uncompressed, as offsets are into the file itself. If a server compresses
    it anyway, into bytes that cannot be decoded, the partial file is deleted.
    """

    def __init__(self, partial: Path):
        self._partial = partial

    def __call__(self, url: str, output_file: str, mover) -> None:
        import requests

        if self._partial.exists() and not os.access(self._partial, os.W_OK):
            self._partial.unlink()  # another user's
        start = self._partial.stat().st_size if self._partial.exists() else 0
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416:  # the partial file is no shorter than the whole
                self._partial.unlink()
                return self(url, output_file, mover)
            answer.raise_for_status()
            resumed = answer.status_code == 206
            try:
                with self._partial.open("ab" if resumed else "wb") as file:
                    for chunk in answer.iter_content(CHUNK):
                        file.write(chunk)
            except requests.exceptions.ContentDecodingError:
                self._partial.unlink()
                raise
        os.replace(self._partial, output_file)
        return None
