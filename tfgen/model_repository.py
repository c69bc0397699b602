"""The folder that TensorFlow Serving, or `tfgen serve`, serves models from.

    DIR/models.config         which models, as a ModelServerConfig in protobuf's text format
    DIR/<name>/<version>/     SavedModels, the version an integer

Exports write it and servers read it. Nothing here needs TensorFlow, so both may import it.
"""

import errno
import os
import re
from pathlib import Path

from tfgen.files import replacing

__all__ = [
    "CONFIG",
    "LAST_VERSION",
    "METADATA",
    "MODEL_NAME",
    "WARMUP",
    "check_config",
    "model_config",
    "next_version",
    "numbered",
    "update_config",
    "versions",
]

CONFIG = "models.config"
METADATA = "assets.extra/tfgen.json"
WARMUP = "assets.extra/tf_serving_warmup_requests"
SERVED_FROM = "/models"  # where TensorFlow Serving's images expect a repository
LAST_VERSION = 2**63 - 1  # TensorFlow Serving counts in int64
MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # what exports may be called
LOCK = f".{CONFIG}.lock.tmp"  # hidden from servers, and from git


def versions(folder: str | Path) -> dict[int, Path]:
    """Returns the versions of a model and their folders, ascending.

    TensorFlow Serving takes a folder for a version if its name is a number, "007" as well as "7",
    and it holds a SavedModel. A folder that may not be read, such as lost+found, has none, nor has
    a link to itself.
    """
    try:
        found = numbered(folder)
    except OSError as error:
        if not isinstance(error, PermissionError) and error.errno != errno.ELOOP:
            raise
        found = {}
    return {
        number: path
        for number, path in found.items()
        if any(os.path.isfile(path / file) for file in ("saved_model.pb", "saved_model.pbtxt"))
    }


def next_version(folder: str | Path) -> int:
    """Returns one more than every number there, whole or broken: the highest one is served.

    Raises:
        ValueError: The highest number that TensorFlow Serving can count to is taken.
    """
    following = max(numbered(folder), default=0) + 1
    if following > LAST_VERSION:
        raise ValueError(
            f"{Path(folder).name!r} has no next version: the highest one, {LAST_VERSION}, is "
            "taken. Give one that is free, version=..., or remove the highest one."
        )
    return following


def numbered(folder: str | Path) -> dict[int, Path]:
    """Returns what TensorFlow Serving would take for versions, whole or broken, ascending.

    Raises:
        PermissionError: The folder may not be read.
    """
    try:
        paths = sorted(Path(folder).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        paths = []
    numbered = {int(p.name): p for p in paths if re.fullmatch(r"[0-9]+", p.name)}
    return {number: numbered[number] for number in sorted(numbered) if number <= LAST_VERSION}


def model_config(names: list[str], root: str = SERVED_FROM) -> str:
    """Returns a ModelServerConfig in protobuf's text format that serves `names` from `root`."""
    return "model_config_list {\n" + "".join(_config(name, root) for name in names) + "}\n"


def check_config(repository: str | Path) -> None:
    """Checks that `update_config` can add to models.config, if there is one.

    Raises:
        ValueError: The file holds no model_config_list that one could add to.
    """
    _read_config(Path(repository) / CONFIG)


def update_config(repository: str | Path) -> Path:
    """Adds to models.config the models of a repository that it lacks.

    What is there stays as it is: version policies and labels are for their user to set. Folders
    with names that an export does not take are left out, hidden ones too. Simultaneous exports wait
    for each other.

    Raises:
        ValueError: The file holds no model_config_list that one could add to.
    """
    from filelock import FileLock

    repository = Path(repository)
    path = repository / CONFIG
    with FileLock(repository / LOCK, mode=0o666):  # for other users of the folder, too
        text, end = _read_config(path)
        listed = re.findall(r"""\bname\s*:\s*["']([^"']+)["']""", _without_comments(text))
        found = sorted(p.name for p in repository.iterdir() if MODEL_NAME.fullmatch(p.name))
        names = [name for name in found if name not in listed and versions(repository / name)]
        added = "".join(_config(name, SERVED_FROM) for name in names)
        with replacing(path) as temporary:
            temporary.write_text(f"{text[:end].rstrip()}\n{added}{text[end:]}", encoding="utf-8")
    return path


def _read_config(path: Path) -> tuple[str, int]:
    """Returns the text of models.config, and where its list ends.

    Raises:
        ValueError: It holds no such list.
    """
    try:
        text = path.read_text(encoding="utf-8-sig") if path.is_file() else model_config([])
    except UnicodeDecodeError:
        text = ""
    # Each comment can be read in one way only, or a long one would be tried in millions of ways.
    end = re.search(r"\}(?:\s|#[^\n]*(?:\n|\Z))*\Z", text)
    if "model_config_list" not in _without_comments(text) or end is None:
        raise ValueError(
            f"{path} must hold a model_config_list {{ ... }}; none is there. "
            "Restore it, or remove it to have it written again."
        )
    return text, end.start()


def _without_comments(text: str) -> str:
    return re.sub(r"#.*", "", text)


def _config(name: str, root: str) -> str:
    return (
        "  config {\n"
        f'    name: "{name}"\n'
        f'    base_path: "{root}/{name}"\n'
        '    model_platform: "tensorflow"\n'
        "  }\n"
    )
