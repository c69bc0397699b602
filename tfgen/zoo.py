"""The zoo: trained models by name, with their recipe, checksum and measured figures.

An entry is a folder:

    config.json        family and constructor arguments
    recipe.json        what it was trained with
    model.weights.h5   the averaged weights, plain arrays; or else `urls` in metadata.json
    metadata.json      kind, sha256, licence, data digest, seed, versions, figures
    card.md            all of that to read, written by `tfgen evaluate`
    samples.png        what it draws
"""

import difflib
import fnmatch
import hashlib
import json
import platform
import re
import shutil
import subprocess
import tempfile
import warnings
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import keras

from tfgen import families, tuning
from tfgen.downloads import fetch, sha256
from tfgen.files import NOT_JSON, replacing
from tfgen.recipe import Recipe

__all__ = [
    "folder",
    "info",
    "list_models",
    "load",
    "load_file",
    "load_recipe",
    "origin",
    "save",
    "weights_digest",
]

WEIGHTS = "model.weights.h5"
LICENCES = {"weights": "as its user decides"}


def _root() -> Path:
    """The entries' folder: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "_zoo"
    return installed if installed.is_dir() else package.parent / "zoo"


def list_models(pattern: str = "*", kind: str | None = "model") -> list[str]:
    """Returns the names of the trained entries that match, sorted.

    Args:
        pattern: Shell-style, e.g. "vae_*".
        kind: "model" for generative models, "evaluator" for classifiers, None for all.

    >>> "vae_mnist" in list_models("*_mnist")
    True
    """
    names = []
    for path in sorted(_root().glob("*/metadata.json")):
        if fnmatch.fnmatch(path.parent.name, pattern) and (
            kind is None or _read(path)["kind"] == kind
        ):
            names.append(path.parent.name)
    return names


def folder(name: str | Path) -> Path:
    """Returns the folder of an entry, or of a preset that the user saved.

    Raises:
        ValueError: Neither an entry nor a folder with a config.json or recipe.json; the message
            gives the nearest names.
    """
    entry = _root() / str(name)
    if str(name) == entry.name and _is_entry(entry):
        return entry
    given = Path(name).expanduser()
    if _is_entry(given):
        return given
    names = list_models(kind=None)
    near = difflib.get_close_matches(str(name), names, 3, 0.4)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(
        f"name must be an entry of the zoo or a folder that holds a config.json; received "
        f"{str(name)!r}.{hint} Entries: {', '.join(names) or 'none'}."
    )


def _is_entry(path: Path) -> bool:
    return any((path / file).is_file() for file in ("config.json", "recipe.json"))


def load(
    name: str | Path, load_weights: bool | Literal["partial"] = True, **overrides
) -> keras.Model:
    """Loads a model, compiled and ready to sample, score and fine-tune.

    Args:
        name: An entry's name, e.g. "vae_mnist", or a folder written by `save_to_preset`.
        load_weights: False gives the architecture with initial weights. "partial" lets overrides
            change the network, e.g. `num_classes=5` or `image_shape=(32, 32, 1)`: weights that no
            longer fit keep their initial values, and a warning names each of them.
        **overrides: Constructor arguments to change, e.g. `beta=4.0`.

    Raises:
        ValueError: Unknown name, unknown argument, weights that do not fit the overrides, or a
            file whose sha256 is not the recorded one.
    """
    path = folder(name)
    if not (path / "config.json").is_file():
        raise ValueError(
            f"{path.name!r} has a recipe but no trained weights yet. "
            f"Train it: tfgen train {path.name} --out DIR."
        )
    stored = _config(path)
    cls = families.find(stored["family"])
    config = stored["config"] | overrides
    unknown = set(overrides) - set(stored["config"])
    if unknown:
        raise ValueError(
            f"overrides must be constructor arguments of {stored['family']}; received "
            f"{sorted(unknown)[0]!r}. It has {', '.join(sorted(stored['config']))}."
        )
    if load_weights not in (True, False, "partial"):
        raise ValueError(
            f"load_weights must be True, False or 'partial'; received {load_weights!r}."
        )
    weights = verify(path) if load_weights else None
    model = _from_config(cls, config, path)
    if load_weights == "partial":
        stored_model = cls.from_config(stored["config"])
        stored_model.load_weights(weights)
        anew = tuning.copy_weights(stored_model, model)
        if anew:
            warnings.warn(
                f"{len(anew)} weights of {path.name!r} start anew: {'; '.join(anew)}.",
                stacklevel=2,
            )
    elif load_weights:
        try:
            model.load_weights(weights)
        except ValueError as error:
            raise ValueError(
                f"the weights of {path.name!r} do not fit the overrides {overrides}: they change "
                "the shape of the network. Pass load_weights=False to train it anew, or "
                f"'partial' to keep the weights that fit. ({error})"
            ) from error
        # Keras would wrap a plain attribute in a tracker.
        model.__dict__["_origin"] = {
            "name": path.resolve().name,
            "sha256": _read(path / "metadata.json")["sha256"],
            "weights": weights_digest(model),
        }
    model.compile()
    return model


def origin(model: keras.Model) -> dict[str, str] | None:
    """Returns name and sha256 of the entry whose weights the model has, as they were loaded.

    None for one that no entry holds, e.g. since it was trained further.
    """
    loaded = model.__dict__.get("_origin")
    if loaded is None or loaded["weights"] != weights_digest(model):
        return None
    return {name: loaded[name] for name in ("name", "sha256")}


def weights_digest(model: keras.Model) -> str:
    """Returns a sha256 over dtypes, shapes and values of all weights, 64 hex digits."""
    digest = hashlib.sha256()
    for variable in model.weights:
        digest.update(f"{variable.dtype} {tuple(variable.shape)}\n".encode())
        digest.update(variable.numpy().tobytes())
    return digest.hexdigest()


def load_recipe(name: str | Path) -> Recipe:
    """Returns an entry's recipe, or that of a JSON file."""
    path = Path(name)
    if path.suffix == ".json" and path.is_file():
        return Recipe.load(path)
    path = folder(name) / "recipe.json"
    if not path.is_file():
        raise ValueError(
            f"{path.parent} holds a model without a recipe, so how to train or measure it is not "
            "known. Write its recipe.json (see tfgen.recipe.Recipe)."
        )
    return Recipe.load(path)


def load_file(path: str | Path) -> keras.Model:
    """Loads a model that `model.save` wrote to a .keras file, checked before it is believed.

    `keras.models.load_model` reads the same file; this also reads all of it and compares the
    checksums that the file carries, and turns every kind of damage into a ValueError. Code in the
    file is never run.

    Raises:
        ValueError: The file is damaged, is none, or holds code or a class of another package.
        OSError: It cannot be read.
    """
    path = Path(path).expanduser()
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} does not have the checksum it had")
        model = keras.models.load_model(path, safe_mode=True)
    except OSError as error:
        if error.errno is not None:  # of the system; h5py raises it without a number for damage
            raise
        raise _damaged_file(path, error) from error
    except Exception as error:  # whatever a parser of a damaged file can raise
        raise _damaged_file(path, error) from error
    if type(model) not in families.known(None).values():
        raise ValueError(
            f"{path} must hold a model of tfgen; it holds a {type(model).__name__}. "
            "Load it with keras.models.load_model."
        )
    return model


def _damaged_file(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} is not a whole .keras file of a model of tfgen: {error}. Save or copy it again."
    )


def verify(path: Path) -> Path:
    """Returns an entry's weights file, downloaded if need be, if it has the recorded sha256.

    Raises:
        ValueError: It has not, or there is no such file.
        DownloadError: It cannot be had.
    """
    metadata = _metadata(path)
    expected, urls = metadata["sha256"], metadata.get("urls")
    weights = path / WEIGHTS
    if not weights.is_file() and urls:
        return fetch(urls, expected, f".{WEIGHTS.partition('.')[2]}")
    if not weights.is_file():
        raise ValueError(f"{weights} is missing; install tfgen again or restore the file.")
    found = sha256(weights)
    if found != expected:
        raise ValueError(
            f"{weights} is damaged or was changed: its sha256 is {found[:16]}..., recorded is "
            f"{expected[:16]}... Install tfgen again or restore the file."
        )
    return weights


def _config(path: Path) -> dict[str, Any]:
    """An entry's config.json, if it is one."""
    stored = _read(path / "config.json")
    if not (isinstance(stored.get("family"), str) and isinstance(stored.get("config"), dict)):
        raise ValueError(
            f"{path / 'config.json'} must name a family and hold its config. Restore the file."
        )
    return stored


def _metadata(path: Path) -> dict[str, Any]:
    """An entry's metadata.json, if it is one."""
    stored = _read(path / "metadata.json")
    urls = stored.get("urls", [])
    digest = stored.get("sha256")
    if not (
        isinstance(digest, str)
        and re.fullmatch("[0-9a-f]{64}", digest)
        and isinstance(urls, list)
        and all(isinstance(url, str) for url in urls)
    ):
        raise ValueError(
            f"{path / 'metadata.json'} must hold the sha256 of the weights, 64 hex digits, and "
            "addresses as a list in urls if there are any. Restore the file."
        )
    return stored


def _from_config(cls: type, config: dict[str, Any], path: Path) -> keras.Model:
    try:
        return cls.from_config(config)
    except (TypeError, AttributeError, KeyError, OverflowError) as error:
        raise ValueError(
            f"{path / 'config.json'} does not describe a {cls.__name__}: {error}. "
            "Restore the file, or correct the overrides."
        ) from error


def info(name: str | Path) -> dict[str, Any]:
    """Returns an entry's metadata with its path, configuration and recipe."""
    path = folder(name)
    if not (path / "metadata.json").is_file():
        raise ValueError(
            f"{path.name!r} has a recipe but is not trained yet: tfgen train {path.name} --out DIR."
        )
    details = {
        "name": path.name,
        **_metadata(path),
        "path": str(path),
        **_config(path),
    }
    if (path / "recipe.json").is_file():
        details["recipe"] = _read(path / "recipe.json")
    return details


def save(
    model: keras.Model,
    path: str | Path,
    recipe: Recipe | None = None,
    metadata: dict[str, Any] | None = None,
) -> Path:
    """Writes a model as an entry: config.json, model.weights.h5, metadata.json.

    Each file is written whole or not at all, metadata with the new sha256 last, so that an entry
    that was cut off fails its check and is never half believed.

    Args:
        model: A `GenerativeModel`.
        path: The entry's folder; made if missing.
        recipe: Written as recipe.json.
        metadata: Keys to add, e.g. data digest and training time.

    Raises:
        OSError: The folder cannot be written.
    """
    path = Path(path).expanduser()
    config = model.get_config()
    # A twin without an optimizer: Keras would store its slots, three times the size.
    twin = type(model).from_config(config)
    held = tuning.values(model)  # low-rank adapters folded in
    for name, variable in tuning.weights(twin).items():
        variable.assign(held[name])
    # Not straight to its place: on a full disk HDF5 fails so that a later file can end the process.
    with tempfile.TemporaryDirectory() as scratch, replacing(path / WEIGHTS) as temporary:
        twin.save_weights(Path(scratch) / WEIGHTS)
        shutil.copyfile(Path(scratch) / WEIGHTS, temporary)
    stored = {"family": families.name_of(type(model)), "config": config}
    _write(path / "config.json", stored)
    if recipe is not None:
        with replacing(path / "recipe.json") as temporary:
            temporary.write_text(recipe.to_json())
    details = {
        "kind": model.kind,
        "likelihood": getattr(model, "likelihood", None),  # a classifier has none
        "parameters": model.count_params(),
        "sha256": sha256(path / WEIGHTS),
        "licence": LICENCES,
        "seed": model.seed,
        "commit": _commit(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("tfgen", "keras", "tensorflow")},
        },
        "figures": {},
        **(metadata or {}),
    }
    _write(path / "metadata.json", details)
    return path


def update_metadata(path: Path, **changes) -> None:
    """Replaces keys of an entry's metadata.json."""
    _write(path / "metadata.json", _read(path / "metadata.json") | changes)


def _commit() -> str | None:
    """The commit of the checkout that tfgen runs from; None in an installed wheel."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).resolve().parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _read(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text())
    except NOT_JSON as error:
        raise ValueError(f"{path} is not valid JSON: {error}. Restore the file.") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{path} must hold a JSON object. Restore the file.")
    return stored


def _write(path: Path, values: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")
