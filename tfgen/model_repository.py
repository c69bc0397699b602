"""The folder that TensorFlow Serving, or `tfgen serve`, serves models from.

    DIR/models.config         which models, as a ModelServerConfig in protobuf's text format
    DIR/<name>/<version>/     SavedModels, the version an integer

Exports write it and servers read it. Nothing here needs TensorFlow, so both may import it.
"""

import re
from pathlib import Path

from tfgen.files import replacing

__all__ = [
    "CONFIG",
    "METADATA",
    "WARMUP",
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


def versions(folder: str | Path) -> dict[int, Path]:
    """Returns the versions of a model and their folders, ascending.

    TensorFlow Serving takes a folder for a version if its name is a number, "007" as well as "7",
    and it holds a SavedModel.
    """
    return {
        number: path
        for number, path in numbered(folder).items()
        if (path / "saved_model.pb").is_file() or (path / "saved_model.pbtxt").is_file()
    }


def next_version(folder: str | Path) -> int:
    """Returns one more than every number there, whole or broken: the highest one is served."""
    return max(numbered(folder), default=0) + 1


def numbered(folder: str | Path) -> dict[int, Path]:
    """Returns what TensorFlow Serving would take for versions, whole or broken, ascending."""
    folder = Path(folder)
    paths = folder.iterdir() if folder.is_dir() else ()
    numbered = {int(p.name): p for p in sorted(paths) if re.fullmatch(r"[0-9]+", p.name)}
    return {number: numbered[number] for number in sorted(numbered) if number <= LAST_VERSION}


def model_config(names: list[str], root: str = SERVED_FROM) -> str:
    """Returns a ModelServerConfig in protobuf's text format that serves `names` from `root`."""
    return "model_config_list {\n" + "".join(_config(name, root) for name in names) + "}\n"


def update_config(repository: str | Path) -> Path:
    """Adds to models.config the models of a repository that it lacks.

    What is there stays as it is: version policies and labels are for their user to set.

    Raises:
        ValueError: The file holds no model_config_list that one could add to.
    """
    repository = Path(repository)
    path = repository / CONFIG
    names = sorted(path.name for path in repository.iterdir() if versions(path))
    text = path.read_text(encoding="utf-8-sig") if path.is_file() else model_config([])
    code = re.sub(r"#.*", "", text)
    listed = re.findall(r"""\bname\s*:\s*["']([^"']+)["']""", code)
    # Each comment can be read in one way only, or a long one would be tried in millions of ways.
    end = re.search(r"\}(?:\s|#[^\n]*(?:\n|\Z))*\Z", text)
    if "model_config_list" not in code or end is None:
        raise ValueError(
            f"{path} must hold a model_config_list {{ ... }}; none is there. "
            "Restore it, or remove it to have it written again."
        )
    head = text[: end.start()].rstrip() + "\n"
    added = "".join(_config(name, SERVED_FROM) for name in names if name not in listed)
    text = head + added + text[end.start() :]
    with replacing(path) as temporary:
        temporary.write_text(text)
    return path


def _config(name: str, root: str) -> str:
    return (
        "  config {\n"
        f'    name: "{name}"\n'
        f'    base_path: "{root}/{name}"\n'
        '    model_platform: "tensorflow"\n'
        "  }\n"
    )
