"""What is known about the zoo's entries, read from its folder without TensorFlow.

`tfgen.zoo` reads the same files for the library; this module reads them for commands that must
answer at once. It uses the standard library alone.
"""

import difflib
import fnmatch
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tfgen_command import places

__all__ = [
    "DATA_SETS",
    "METRICS",
    "check_data",
    "check_metrics",
    "details",
    "find",
    "find_recipe",
    "folders",
    "names",
    "nearest",
    "package",
    "root",
]

# The names that `tfgen.data` knows, here so that a typo is reported without importing it.
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
    "label_agreement": "How often a sample of class c has a nearest training image of class c.",
    "log_likelihood": "Mean negative log-likelihood of a whole split; lower is better.",
    "nearest_neighbour_accuracy": "1-nearest-neighbour accuracy on `model.encode`, and on raw "
    "pixels for comparison.",
    "sample_quality": "Samples against a held-out split, next to train images against it.",
    "squared_error": "Mean over images of the squared error of `reconstruct`, summed over pixels.",
}

# What an argument may be, for the error of one that is not.
WANTED = {
    "NAME": "an entry of the zoo or a folder with a config.json",
    "RECIPE": "a recipe's JSON file or an entry of the zoo",
}


def package() -> Path:
    """Returns the folder of the package tfgen, which is not imported for it."""
    return Path(importlib.util.find_spec("tfgen").origin).resolve().parent


def root() -> Path:
    """Returns the entries' folder: inside the package in a wheel, next to it in a checkout."""
    installed = package() / "_zoo"
    return installed if installed.is_dir() else package().parent / "zoo"


def names(pattern: str = "*", evaluators: bool = False) -> list[str]:
    """Returns the names of the trained entries that match, sorted.

    Args:
        pattern: Shell-style, e.g. "vae_*".
        evaluators: Also return the classifiers that judge samples.
    """
    return [
        path.parent.name
        for path in sorted(root().glob("*/metadata.json"))
        if fnmatch.fnmatch(path.parent.name, pattern)
        and (evaluators or _read(path)["kind"] == "model")
    ]


def folders() -> dict[str, Path]:
    """Returns the folders of the trained entries by their names, evaluators too."""
    return {name: root() / name for name in names(evaluators=True)}


def find(name: str | Path, argument: str = "NAME") -> Path:
    """Returns the folder of an entry or of a user's own model.

    Args:
        name: What was typed, or a folder.
        argument: Of the command, which an error names.

    Raises:
        ValueError: There is none; the message gives the nearest names. Or there are two.
    """
    found = places.named(name, root(), argument)
    if found is not None:
        return found
    known = names(evaluators=True)
    raise ValueError(
        f"{argument} must be {WANTED[argument]}; received {str(name)!r}."
        f"{nearest(str(name), known)} Entries: {', '.join(known) or 'none'}."
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


def details(name: str | Path) -> dict[str, Any]:
    """Returns an entry's metadata with its path, configuration and recipe.

    Raises:
        ValueError: There is no such entry or there are two, it is not trained, or one of its
            files is damaged.
    """
    path = find(name)
    if not (path / "metadata.json").is_file():
        raise ValueError(places.untrained(path, name))
    found = {"name": path.name, **_read(path / "metadata.json"), "path": str(path.resolve())}
    for file in ("config.json", "recipe.json"):
        if (path / file).is_file():
            content = _read(path / file)
            found |= content if file == "config.json" else {"recipe": content}
    return found


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
            f" received {name!r}.{nearest(name, DATA_SETS)} Data sets: {', '.join(DATA_SETS)}."
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


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the known names that look like `name`, or "".

    >>> nearest("mnst", ["mnist", "digits"])
    " Did you mean 'mnist'?"
    """
    near = difflib.get_close_matches(name, list(known), 3)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}). Restore the file.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object. Restore the file.")
    return content
