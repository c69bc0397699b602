"""The models in a folder: found, loaded, replaced and unloaded while the server runs.

    DIR/models.config         optional: TF Serving's ModelServerConfig, as text
    DIR/<name>/<version>/     SavedModels; the version is an integer

Every folder that holds versions is a model. `models.config` adds what a folder cannot express:
which versions to serve, labels, and models elsewhere. Without it the newest version is served. If
a version cannot be loaded, the next older one is served instead, so the last good version stays
available; it is tried again once its files change, or a minute after a lack of time or memory.
"""

import contextlib
import dataclasses
import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.config import model_server_config_pb2

from tfgen.model_repository import CONFIG, versions
from tfgen.serving.errors import CODES, ServingError, invalid
from tfgen.serving.servable import Servable

__all__ = ["Repository", "read_config"]

UNLOAD_SECONDS = 60.0  # how long running requests may delay an unload
RETRY_SECONDS = 60.0  # between attempts to load what may load later
PASSING = ("ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE")
_STATES = get_model_status_pb2.ModelVersionStatus
_NAME = re.compile(r"[^./:\udc80-\udcff][^/:\udc80-\udcff]*")  # in UTF-8
_log = logging.getLogger("tfgen.serving")


def read_config(root: Path) -> model_server_config_pb2.ModelServerConfig:
    """Returns every model of a repository with the absolute path of its versions.

    A `base_path` of `models.config` is taken relative to `root`; one that does not exist, such as
    the `/models/NAME` of TF Serving's container, stands for `root/NAME`.

    Raises:
        ValueError: `root` is not a directory, or its `models.config` is not valid.
    """
    if not root.is_dir() or versions(root):
        what = "a model itself" if root.is_dir() else "not a directory"
        raise ValueError(
            f"--models must be a folder of NAME/VERSION/saved_model.pb; {root} is {what}. "
            "Create one: tfgen export NAME --out DIR."
        )
    config = model_server_config_pb2.ModelServerConfig()
    if (root / CONFIG).is_file():
        try:
            text = (root / CONFIG).read_text(encoding="utf-8-sig")
            if not text:  # as while it is being written
                raise text_format.ParseError("it is empty")
            text_format.Parse(text, config)
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{root / CONFIG} is not a valid ModelServerConfig: {error}."
            ) from error
    models = config.model_config_list.config
    for model in models:
        path = root / model.base_path
        if not os.path.isdir(path):  # nor where it may not be looked at
            path = root / Path(model.base_path).name
        model.base_path = str(path.resolve())
    named = {model.name for model in models}
    for folder in sorted(root.iterdir()):
        if folder.name not in named and _NAME.fullmatch(folder.name) and versions(folder):
            models.add(name=folder.name, base_path=str(folder.resolve()))
    for model in models:
        model.model_platform = "tensorflow"
    return config


def _fingerprint(path: Path) -> tuple:
    """Returns a value that changes whenever a file under `path` is written."""
    try:
        stats = [(str(file), file.stat()) for file in sorted(path.rglob("*"))]
    except OSError:
        return ()
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


@dataclasses.dataclass
class _Model:
    """A model's loaded versions, and the states of all the versions it has had."""

    loaded: dict[int, Servable] = dataclasses.field(default_factory=dict)
    labels: dict[str, int] = dataclasses.field(default_factory=dict)
    states: dict[int, tuple[int, str, str]] = dataclasses.field(default_factory=dict)
    failed: dict[int, tuple] = dataclasses.field(default_factory=dict)


class Repository:
    """Keeps the loaded models in sync with a folder.

    Args:
        root: The folder.
        poll_seconds: Seconds between checks for changes.
        on_change: Called with (model, version, whether it is now available).
        call_seconds: A call that takes longer is cancelled, but never before 30 seconds.

    Raises:
        ValueError: See `read_config`.
    """

    def __init__(
        self,
        root: Path,
        poll_seconds: float = 1.0,
        on_change: Callable[[str, int, bool], None] = lambda *_: None,
        call_seconds: float = 30.0,
    ):
        self.root = root
        self._on_change = on_change
        self._poll_seconds = poll_seconds
        self._call_seconds = call_seconds
        self._lock = threading.Lock()
        self._models: dict[str, _Model] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="repository", daemon=True)
        self._complaint = ""  # logged once, not at every check
        read_config(root)

    # Lookup ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def use(self, name: str, version: int | None = None, label: str = "") -> Iterator[Servable]:
        """Finds a version and keeps it loaded within the `with` block.

        Args:
            name: The model.
            version: The version; None for the newest loaded one.
            label: A label of `models.config`, instead of a version.

        Raises:
            ServingError: NOT_FOUND, or INVALID_ARGUMENT for an unknown label.
        """
        with self._lock:
            model = self._models.get(name)
            if label:
                version = self._labelled(model, version, label)
            loaded = model.loaded if model else {}
            chosen = max(loaded, default=None) if version is None else version
            servable = loaded.get(chosen)
            # A version is removed from `loaded` under this lock before it is closed.
            if servable is None or not servable.acquire():
                wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise ServingError(
                    "NOT_FOUND", f"Servable not found for request: {wanted}.{self._hint(model)}"
                )
        try:
            yield servable
        finally:
            servable.release()

    def _labelled(self, model: _Model | None, version: int | None, label: str) -> int:
        if version is not None:
            raise invalid("give either a version or a version label, not both.")
        if model is None or label not in model.labels:
            has = ", ".join(sorted(model.labels)) if model and model.labels else "none"
            raise invalid(
                f"Unrecognized servable version label: {label}. Labels ({CONFIG}): {has}.",
            )
        return model.labels[label]

    def _hint(self, model: _Model | None) -> str:
        if model is None:
            return f" Models: {', '.join(sorted(self._models)) or 'none'}."
        return f" Versions loaded: {', '.join(map(str, sorted(model.loaded))) or 'none'}."

    def models(self) -> dict[str, list[int]]:
        """Returns {model: its loaded versions}, for the models that have any."""
        with self._lock:
            return {
                name: sorted(model.loaded)
                for name, model in sorted(self._models.items())
                if model.loaded
            }

    def status(
        self, name: str, version: int | None = None, label: str = ""
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Returns the states of a model's versions, newest first.

        Raises:
            ServingError: NOT_FOUND.
        """
        with self._lock:
            model = self._models.get(name)
            if label:
                version = self._labelled(model, version, label)
            states = model.states if model else {}
            if not states:
                raise ServingError(
                    "NOT_FOUND",
                    f"Could not find any versions of model {name}.{self._hint(None)}",
                )
            if version is not None and version not in states:
                raise ServingError(
                    "NOT_FOUND",
                    f"Could not find version {version} of model {name}.{self._hint(model)}",
                )
            response = get_model_status_pb2.GetModelStatusResponse()
            for number in sorted(states, reverse=True):
                if version in (None, number):
                    state, code, message = states[number]
                    status = response.model_version_status.add(version=number, state=state)
                    status.status.error_code = CODES[code][0]
                    status.status.error_message = message
            return response

    # Keeping in sync -------------------------------------------------------------------------

    def start(self) -> None:
        """Loads the models, then watches for changes in a thread."""
        self.refresh()
        self._thread.start()

    def stop(self, timeout: float = UNLOAD_SECONDS) -> bool:
        """Stops watching and unloads every model; running requests have `timeout` seconds.

        Returns:
            False if one is still being loaded or unloaded: nothing can interrupt that.
        """
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        for name, model in self._models.items():
            for version in list(model.loaded):
                self._unload(name, model, version, timeout)
        return True

    def _watch(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            try:
                self.refresh()
            except Exception:  # a bug must not end the thread; loaded models stay available
                _log.exception("checking %s for changes failed", self.root)

    def refresh(self) -> None:
        """Checks the folder once; loads before it unloads."""
        try:
            config = read_config(self.root)
        except (ValueError, OSError) as error:  # perhaps half-written; loaded models stay available
            if str(error) != self._complaint:
                _log.error("%s", error)
            self._complaint = str(error)
            return
        self._complaint = ""
        configs = {model.name: model for model in config.model_config_list.config}
        for name, chosen in configs.items():
            with self._lock:
                model = self._models.setdefault(name, _Model())
            self._update(name, model, versions(Path(chosen.base_path)), chosen)
        for name in set(self._models) - set(configs):
            self._update(name, self._models[name], {}, model_server_config_pb2.ModelConfig())

    def _update(self, name: str, model: _Model, found: dict[int, Path], config) -> None:
        """Loads the versions that the policy asks for, newest first, then unloads the others."""
        policy = config.model_version_policy
        kind = policy.WhichOneof("policy_choice")
        candidates = sorted(found, reverse=True)
        most = max(policy.latest.num_versions, 1) if kind in (None, "latest") else len(found)
        if kind == "specific":
            candidates = [v for v in candidates if v in policy.specific.versions]
        good = []
        self._label(model, config, model.loaded)
        for version in candidates:
            if len(good) == most:
                break
            if version in model.loaded or self._load(name, model, version, found[version]):
                good.append(version)
        if candidates and not good:  # the last good one stays
            good = list(model.loaded)
        self._label(model, config, good)
        for version in set(model.loaded) - set(good):
            self._unload(name, model, version)
        for version in set(model.failed) - set(found):
            del model.failed[version]
            with self._lock:
                del model.states[version]

    def _label(self, model: _Model, config, there: Container[int]) -> None:
        """Moves the labels to the versions that are there; others stay where they can."""
        with self._lock:
            held = model.labels
            model.labels = {
                label: version if version in there or held.get(label) not in there else held[label]
                for label, version in config.version_labels.items()
            }

    def _load(self, name: str, model: _Model, version: int, path: Path) -> bool:
        """Loads a version, unless it failed just now or for good; returns whether it is loaded."""
        fingerprint = _fingerprint(path)
        failed, again = model.failed.get(version, ((), 0.0))
        if failed == fingerprint and time.monotonic() < again:
            return False
        self._set_state(model, version, _STATES.LOADING)
        try:
            servable = Servable(name, version, path, self._call_seconds)
        except ServingError as error:
            wait = RETRY_SECONDS if error.code in PASSING else math.inf
            model.failed[version] = (fingerprint, time.monotonic() + wait)
            self._set_state(model, version, _STATES.END, error.code, error.message)
            _log.error("%s", error.message)
            return False
        if _fingerprint(path) != fingerprint:
            servable.close()
            if version not in model.failed:
                _log.warning("%s version %d changed while it was loaded: again", name, version)
            model.failed[version] = ((), 0.0)  # so that it is tried again
            return False
        model.failed.pop(version, None)
        with self._lock:
            model.loaded[version] = servable
            model.states[version] = (_STATES.AVAILABLE, "OK", "")
        self._on_change(name, version, True)
        _log.info("%s version %d is available", name, version)
        return True

    def _unload(self, name: str, model: _Model, version: int, timeout: float | None = None) -> None:
        with self._lock:
            servable = model.loaded.pop(version)
            model.states[version] = (_STATES.UNLOADING, "OK", "")
        self._on_change(name, version, False)
        servable.close(max(UNLOAD_SECONDS, self._call_seconds) if timeout is None else timeout)
        self._set_state(model, version, _STATES.END)
        _log.info("%s version %d is unloaded", name, version)

    def _set_state(
        self, model: _Model, version: int, state: int, code: str = "OK", message: str = ""
    ) -> None:
        with self._lock:
            model.states[version] = (state, code, message)
