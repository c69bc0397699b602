"""Weights by download: checked, resumed, from mirrors, offline, from a read-only cache."""

import contextlib
import errno
import gzip
import hashlib
import http.server
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path

import filelock
import laws
import numpy as np
import pytest

from tfgen import AutoEncoder, downloads, presets, zoo

SMALL = {"image_shape": (4, 4, 1), "latent_dim": 2, "filters": (2,), "num_blocks": 0}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one file at every path, with ranges; /cut ends halfway, /gone and /other fail.

    /whole knows no ranges.

    /gzip compresses the file, whatever was asked for, and serves ranges of what it has compressed.
    """

    content = b""
    asked: list = []  # noqa: RUF012, filled anew by the fixture
    encodings: list = []  # noqa: RUF012, the same

    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.asked.append((self.path, start))
        self.encodings.append(self.headers.get("Accept-Encoding"))
        if self.path == "/whole":
            start = 0
        if self.path == "/gone":
            self.send_error(404)
            return
        if start >= len(self.content) > 0 and start:
            self.send_error(416)
            return
        body = self.content[start:] if self.path != "/other" else b"another file"
        self.send_response(206 if start else 200)
        if self.path == "/gzip":
            body = gzip.compress(self.content)[start:]
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = len(self.content) // 2
        self.wfile.write(body[: max(0, half - start)] if self.path == "/cut" else body)

    def log_message(self, *args):
        return


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("TFGEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TFGEN_OFFLINE", raising=False)
    handler = type("Handler", (Handler,), {"asked": [], "encodings": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        handler.address = f"http://127.0.0.1:{running.server_port}"
        yield handler
        running.shutdown()
        thread.join()


@pytest.fixture
def entry(server, tmp_path):
    """An entry without weights, and the model whose weights the server has."""
    model = laws.randomised(AutoEncoder(**SMALL))
    folder = zoo.save(model, tmp_path / "entry")
    server.content = (folder / presets.WEIGHTS).read_bytes()
    (folder / presets.WEIGHTS).unlink()

    def with_urls(*paths):
        zoo.update_metadata(folder, urls=[server.address + path for path in paths])
        return folder

    return model, with_urls


@pytest.fixture
def fetched(server):
    """Fetches a file of random bytes from paths of the server."""
    server.content = np.random.default_rng(0).bytes(100_000)
    digest = hashlib.sha256(server.content).hexdigest()
    return lambda *paths: downloads.fetch([server.address + p for p in paths], digest, ".bin")


def assert_loads(folder, model) -> None:
    for own, other in zip(zoo.load(folder).get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)


def test_a_part_of_another_user_is_no_obstacle(fetched, server, tmp_path, monkeypatch):
    """Who may not go on with it begins anew."""
    with pytest.raises(downloads.DownloadError):
        fetched("/cut")
    (part,) = (tmp_path / "cache").glob(".*.part")
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != part and allowed(path, mode))
    assert fetched("/file").read_bytes() == server.content
    assert server.asked[-1] == ("/file", 0)


def test_a_mirror_without_ranges_begins_anew(fetched, server):
    with pytest.raises(downloads.DownloadError):
        fetched("/cut")
    assert fetched("/whole").read_bytes() == server.content
    path, start = server.asked[-1]
    assert path == "/whole"
    assert start > 0


def test_a_part_that_is_longer_than_the_file_is_begun_anew(fetched, server, tmp_path):
    with pytest.raises(downloads.DownloadError):
        fetched("/cut")
    (part,) = (tmp_path / "cache").glob(".*.part")
    part.write_bytes(server.content + b"!")
    assert fetched("/file").read_bytes() == server.content
    assert server.asked[-1] == ("/file", 0)


def test_downloaded_once(entry, server, tmp_path):
    model, with_urls = entry
    folder = with_urls("/file")
    assert_loads(folder, model)
    assert_loads(folder, model)
    assert server.asked == [("/file", 0)]
    kept = [p for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"]
    assert [p.name for p in kept] == [f"{zoo.info(folder)['sha256']}.weights.h5"]


def test_mirrors(entry, server):
    model, with_urls = entry
    assert_loads(with_urls("/gone", "/other", "/file"), model)
    assert [path for path, _ in server.asked] == ["/gone", "/other", "/file"]


def test_a_download_that_was_cut_off_goes_on(entry, server):
    model, with_urls = entry
    folder = with_urls("/cut")
    with pytest.raises(downloads.DownloadError, match=r"/cut: .*the download will resume"):
        zoo.load(folder)
    assert_loads(with_urls("/file"), model)
    (_, first), (path, start) = server.asked
    assert (first, path) == (0, "/file")
    assert 0 < start <= len(server.content) // 2


def test_another_file_is_never_believed(entry, tmp_path):
    _, with_urls = entry
    with pytest.raises(downloads.DownloadError, match=r"/other: .*hash"):
        zoo.load(with_urls("/other"))
    assert not list((tmp_path / "cache").glob("*.h5"))


def test_offline(entry, server, monkeypatch):
    model, with_urls = entry
    folder = with_urls("/file")
    monkeypatch.setenv("TFGEN_OFFLINE", "1")
    with pytest.raises(downloads.DownloadError, match="TFGEN_OFFLINE prevents"):
        zoo.load(folder)
    assert not server.asked
    monkeypatch.setenv("TFGEN_OFFLINE", "0")
    assert_loads(folder, model)
    monkeypatch.setenv("TFGEN_OFFLINE", "1")
    assert_loads(folder, model)


def test_a_cache_that_cannot_be_written_serves_what_it_has(entry, tmp_path, monkeypatch):
    model, with_urls = entry
    folder = with_urls("/file")
    assert_loads(folder, model)
    cache = tmp_path / "cache"
    for leftover in cache.glob(".*"):
        leftover.unlink()
    before = sorted(p.name for p in cache.iterdir())

    def refuse(*args, **kwargs):
        raise PermissionError("read-only")

    # Root may write anywhere, so the ways to write are taken away instead.
    for place, name in ((os, "replace"), (os, "mkdir"), (shutil, "move")):
        monkeypatch.setattr(place, name, refuse)
    with contextlib.suppress(OSError):
        cache.chmod(0o500)
    assert_loads(folder, model)
    cache.chmod(0o700)
    assert sorted(p.name for p in cache.iterdir()) == before


def test_a_damaged_cache_is_fetched_again(entry, tmp_path):
    model, with_urls = entry
    folder = with_urls("/file")
    assert_loads(folder, model)
    (path,) = (tmp_path / "cache").glob("*.h5")
    path.write_bytes(b"damaged")
    assert_loads(folder, model)


def test_a_file_that_a_server_compresses_all_the_same(fetched, server, tmp_path):
    """Its second half cannot be decoded, so it is fetched whole; nobody asks for that."""
    for path in ("/cut", "/gzip"):
        with pytest.raises(downloads.DownloadError):
            fetched(path)
    assert not list((tmp_path / "cache").glob(".*.part"))
    assert fetched("/gzip").read_bytes() == server.content
    (_, first), (_, second), (_, third) = server.asked
    assert (first, third) == (0, 0)
    assert second > 0
    assert server.encodings == ["identity"] * 3


def test_the_lock_is_for_other_users_too(fetched, tmp_path):
    before = os.umask(0o022)
    try:
        fetched("/file")
    finally:
        os.umask(before)
    (lock,) = (tmp_path / "cache").glob(".*.lock")
    assert lock.stat().st_mode & 0o777 == 0o666


# What `fetch` calls on its way, in turn.
PLACES = {
    "folder": (Path, "mkdir"),
    "lock": (filelock, "FileLock"),
    "temporary file": (tempfile, "NamedTemporaryFile"),
    "file": (os, "replace"),
}
CODES = (errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EPERM, errno.EROFS)


@pytest.mark.parametrize("code", CODES, ids=map(errno.errorcode.get, CODES))
@pytest.mark.parametrize("place", PLACES)
def test_a_cache_that_cannot_be_written_is_no_lack_of_internet(
    fetched, server, tmp_path, monkeypatch, place, code
):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(*PLACES[place], fail)
        with pytest.raises(OSError, match="set TFGEN_CACHE_DIR to another folder") as info:
            fetched("/file", "/file")
    assert not isinstance(info.value, downloads.DownloadError)
    assert info.value.errno == code
    assert f"{tmp_path / 'cache'} must be a folder that can be written" in str(info.value)
    assert os.strerror(code) in str(info.value)
    assert "internet" not in str(info.value)
    assert len(server.asked) <= 1, "another address has the same disk"
    assert fetched("/file").read_bytes() == server.content


@pytest.mark.parametrize("change", [{"sha256": "0"}, {"sha256": None}, {"urls": "http://"}])
def test_metadata_that_is_none(entry, change):
    _, with_urls = entry
    folder = with_urls("/file")
    details = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps(details | change))
    with pytest.raises(ValueError, match=r"metadata\.json must hold the sha256"):
        zoo.load(folder)
