"""What is known about the zoo's entries, read from its folder without TensorFlow.

The library reads them here too. It uses the standard library alone, so light commands answer at
once.
"""

import difflib
import fnmatch
import importlib.util
import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = [
    "DATA_SETS",
    "METRICS",
    "check_data",
    "check_metrics",
    "details",
    "find",
    "find_recipe",
    "folders",
    "is_name",
    "names",
    "nearest",
    "package",
    "read_config",
    "read_json",
    "read_metadata",
    "root",
    "untrained",
]

# The names in `tfgen.data`, so that a typo is reported without importing it.
DATA_SETS = (
    "binarized_mnist",
    "cifar10",
    "cifar10_jpeg",
    "clothing64",
    "digits",
    "fashion_mnist",
    "mnist",
    "noto_emoji64",
)

# The same for the metrics of `tfgen.evaluation`, with what each measures.
METRICS = {
    "accuracy": "Share of images that a classifier gets right.",
    "conditional_accuracy": "Share of a conditional model's samples that two classifiers take for "
    "what was asked.",
    "label_agreement": "How often a sample of class c is nearest to a train or validation image "
    "of class c.",
    "log_likelihood": "Mean negative log-likelihood of a whole split; lower is better.",
    "nearest_neighbour_accuracy": "1-nearest-neighbour accuracy on `model.encode`, and on raw "
    "pixels for comparison.",
    "sample_quality": "Samples against a held-out split, next to train images against it.",
    "squared_error": "Mean over images of the squared error of `reconstruct`, summed over pixels.",
}


def package() -> Path:
    """Returns the folder of the package tfgen without importing it."""
    return Path(importlib.util.find_spec("tfgen").origin).resolve().parent


def root() -> Path:
    """Returns the entries' folder: inside the package in a wheel, next to it in a checkout."""
    installed = package() / "_zoo"
    return installed if installed.is_dir() else package().parent / "zoo"


def names(pattern: str = "*", kind: str | None = "model") -> list[str]:
    """Returns the names of the trained entries that match, sorted; see `tfgen.zoo.list_models`."""
    return [
        path.parent.name
        for path in sorted(root().glob("*/metadata.json"))
        if fnmatch.fnmatch(path.parent.name, pattern)
        and (kind is None or read_metadata(path.parent)["kind"] == kind)
    ]


def folders() -> dict[str, Path]:
    """Returns the folders of the trained entries by their names, evaluators too."""
    return {name: root() / name for name in names(kind=None)}


def find(name: str | Path, argument: str = "NAME") -> Path:
    """Returns the folder of an entry or of a user's own model.

    Args:
        name: What was typed, or a folder.
        argument: What an error calls it.

    Raises:
        ValueError: There is none; the message gives the nearest names. Or there are two.
    """
    found = _named(name, argument)
    if found is not None:
        return found
    wanted, known = "an entry of the zoo or a folder with a config.json", names(kind=None)
    if argument == "RECIPE":
        wanted = "a recipe's JSON file or an entry of the zoo"
    raise ValueError(
        f"{argument} must be {wanted}; received {str(name)!r}."
        + (nearest(str(name), known) or f" Entries: {', '.join(known) or 'none'}.")
    )


def find_recipe(name: str) -> None:
    """Checks that the argument RECIPE is a JSON file or an entry with a recipe.

    Raises:
        ValueError: There is no such file or entry, or the name is that of two models.
    """
    path = Path(name).expanduser()
    if path.suffix == ".json" and not path.is_file():
        raise ValueError(f"RECIPE must be a JSON file or an entry's name; there is no file {name}.")
    if path.suffix != ".json" and not (find(name, "RECIPE") / "recipe.json").is_file():
        raise ValueError(
            f"RECIPE must be a JSON file or an entry's name; {name} has no recipe.json."
        )


def details(name: str | Path, argument: str = "NAME") -> dict[str, Any]:
    """Returns an entry's metadata with its path, configuration and recipe.

    Args:
        name: See `find`.
        argument: See `find`.

    Raises:
        ValueError: There is no such entry or there are two, it is not trained, or one of its
            files is damaged.
    """
    path = find(name, argument)
    found = {"name": path.name, **read_metadata(path, name), "path": str(path), **read_config(path)}
    if (path / "recipe.json").is_file():
        found["recipe"] = read_json(path / "recipe.json")
    return found


def read_config(path: Path) -> dict[str, Any]:
    """Returns the config.json of a preset's folder, or raises ValueError unless it is one."""
    stored = read_json(path / "config.json")
    if not (isinstance(stored.get("family"), str) and isinstance(stored.get("config"), dict)):
        raise ValueError(
            f"{path / 'config.json'} must name a family and hold its config. Restore the file."
        )
    return stored


def read_metadata(path: Path, name: str | Path | None = None) -> dict[str, Any]:
    """Returns the metadata.json of a preset's folder, or raises ValueError unless it is one.

    Args:
        path: The folder.
        name: What the user called it; None is its path.
    """
    if not (path / "metadata.json").is_file():  # which is written last
        raise ValueError(untrained(path, path if name is None else name))
    stored = read_json(path / "metadata.json")
    urls, members = stored.get("urls", []), stored.get("members", {})
    if not (
        _is_digest(stored.get("sha256"))
        and _is_digest(stored.get("config_sha256", stored["sha256"]))
        and isinstance(urls, list)
        and all(isinstance(url, str) for url in urls)
        and isinstance(members, dict)
        and all(is_name(name) and _is_digest(own) for name, own in members.items())
    ):
        raise ValueError(
            f"{path / 'metadata.json'} must hold the sha256 of the weights, 64 hex digits, and, if "
            "there are any, that of the configuration in config_sha256, addresses as a list in "
            "urls, and entries with their sha256 in members. Restore the file."
        )
    return stored


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object of a JSON file, or raises ValueError unless it holds one."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}. Restore the file.") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{path} must hold a JSON object. Restore the file.")
    return stored


def check_data(name: str, argument: str = "--data") -> None:
    """Checks that a value is a known data set or a path that exists.

    Args:
        name: What was typed.
        argument: Of the command, which an error names.

    Raises:
        ValueError: It is neither; the message gives the nearest name.
    """
    if name not in DATA_SETS and not Path(name).expanduser().exists():
        raise ValueError(
            f"{argument} must be the name of a data set, or the path of an .npz file or a folder;"
            f" received {name!r}."
            + (nearest(name, DATA_SETS) or f" Data sets: {', '.join(DATA_SETS)}.")
        )


def check_metrics(names: Iterable[str]) -> None:
    """Checks that the values of --metric are known.

    Raises:
        ValueError: One is not; the message gives the nearest name.
    """
    for name in names:
        if name not in METRICS:
            raise ValueError(
                f"--metric must be one of {', '.join(METRICS)}; received {name!r}."
                f"{nearest(name, METRICS)} `tfgen evaluate --list` explains each."
            )


def nearest(name: str, known: Iterable[Any], most: int = 3) -> str:
    """Returns " Did you mean 'x'?" for at most so many known names that look like `name`, or "".

    >>> nearest("mnst", ["mnist", "digits"])
    " Did you mean 'mnist'?"
    """
    near = difflib.get_close_matches(name, map(str, known), most, 0.5)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def _is_digest(value: Any) -> bool:
    """Whether a value is a sha256 as 64 hex digits."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def is_name(member: str) -> bool:
    """Whether it names a folder beside another one: no path, not empty, not '..'."""
    return Path(member).name == member and member not in ("", "..")


def _named(name: str | Path, argument: str) -> Path | None:
    """Returns the folder of an entry of the zoo, or of a preset that the user saved; or None.

    It is absolute, so that it is never taken for a name again. A `Path` that is both is the preset.

    Raises:
        ValueError: A text is the name of an entry and of another model in the working directory.
    """
    own, entry = Path(name).expanduser().absolute(), root() / name
    if str(name) != entry.name or not _is_preset(entry):  # a path, or the name of no entry
        return own if _is_preset(own) else None
    if not _is_preset(own) or own.samefile(entry):
        return entry
    if isinstance(name, Path):  # which cannot be written ./NAME
        return own
    raise ValueError(
        f"{argument} must mean one model; {name!r} is an entry of the zoo, and also a folder here, "
        f"{own}. Write ./{name} for this folder, or {entry} for the entry."
    )


def untrained(path: Path, name: str | Path) -> str:
    """Returns what a folder without a metadata.json is, and how to go on with it.

    Args:
        path: The folder.
        name: What the user called it.
    """
    quoted = shlex.quote(str(name))
    runs = (path / "log.csv").is_file() or any(path.glob("checkpoint-*.npz"))
    if not (path / "recipe.json").is_file() or ((path / "model.weights.h5").is_file() and not runs):
        return f"{path} is an incomplete preset: it has no metadata.json. Save it again."
    if runs:
        return (
            f"{path.name!r} is a run that has not ended; sample and evaluate take it as it is. "
            f"Continue it: tfgen train {quoted} --out {quoted} --resume"
        )
    return (
        f"{path.name!r} has a recipe but is not trained yet. "
        f"Train it: tfgen train {quoted} --out DIR"
    )


def _is_preset(path: Path) -> bool:
    return any((path / file).is_file() for file in ("config.json", "recipe.json"))
