"""Presets: a model as a folder of plain files, which is also what an entry of the zoo is.

    config.json        family and constructor arguments
    recipe.json        what it was trained with, if it was trained by a recipe
    model.weights.h5   the averaged weights, plain arrays; or else `urls` in metadata.json
    metadata.json      kind, sha256 of weights and config, licence, data digest, seed, versions,
                       results; and whether the weights are by recipe.json, or were saved without

Of an ensemble the file may hold the first network alone: then `members` in metadata.json says whose
weights the other networks have, by the names of neighbouring entries, with their sha256.

Each file is written whole or not at all, metadata.json last: a folder that was cut off fails its
check.
"""

import hashlib
import inspect
import json
import platform
import subprocess
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import keras

from tfgen import checks, families, starting, tuning, weight_files
from tfgen.files import replacing, write_json
from tfgen.recipe import Recipe
from tfgen.weight_files import weights_digest
from tfgen_command import entries
from tfgen_command.entries import read_config, read_json, read_metadata

__all__ = [
    "config_digest",
    "folder",
    "load",
    "origin",
    "save",
    "update_metadata",
]

WEIGHTS = "model.weights.h5"
LICENCES = {"weights": "as its user decides"}

# Where presets are ----------------------------------------------------------------------------


def folder(name: str | Path) -> Path:
    """Returns the folder of an entry of the zoo, or of a preset that the user saved.

    Raises:
        ValueError: Neither an entry nor a folder with a config.json or recipe.json; or both.
    """
    return entries.find(name, "name")


# Loading --------------------------------------------------------------------------------------


def load(
    name: str | Path, /, load_weights: bool | Literal["partial"] = True, **overrides: Any
) -> keras.Model:
    """Loads a model, compiled; see `tfgen.zoo.load`, which gives it a type."""
    path = folder(name)
    checks.one_of("load_weights", load_weights, (True, False, "partial"))
    load_weights = load_weights if load_weights == "partial" else bool(load_weights)  # of NumPy
    plain, built = load_weights is True and not overrides, (path / "config.json").is_file()
    if not built and not plain:
        told = entries.untrained(path, path)
        raise ValueError(f"load_weights must be True, without overrides, for now: {told}")
    # A run that was cut off at its end has no metadata.json, which is written last of all.
    ended = (path / "metadata.json").is_file() or not (path / "recipe.json").is_file()
    if not built or (plain and not ended):
        return starting.unfinished(path)
    stored = read_config(path)
    cls = families.find(stored["family"])
    config = stored["config"] | overrides
    _check_overrides(overrides, stored, cls)
    # Read once, so that all is checked against one save, whatever is saved meanwhile.
    metadata = read_metadata(path) if load_weights else {}
    digest = _verified_config(path, stored, metadata)
    model = _from_config(cls, config, path)
    weights = _verified_weights(path, metadata) if load_weights else []
    if load_weights == "partial":
        stored_model = cls.from_config(stored["config"])
        weight_files.load(stored_model, weights)
        if initial := tuning.copy_weights(stored_model, model):
            text = f"{len(initial)} weights of {path.name!r} keep initial values: "
            warnings.warn(f"{text}{'; '.join(initial)}.", stacklevel=2)
    elif load_weights:
        try:
            weight_files.load(model, weights)
            held, count = model.count_params(), _count(cls, stored, overrides, metadata)
            if overrides and count not in (None, held):
                raise ValueError(f"{count} parameters are stored, this network has {held}")
        except ValueError as error:
            if not overrides or isinstance(error, weight_files.DamagedError):
                raise
            raise ValueError(
                f"the weights of {path.name!r} do not fit the overrides {overrides}: they change "
                "the shape of the network. Pass load_weights=False to train from scratch, or "
                f"'partial' to keep the weights that fit. ({error})"
            ) from error
        # Keras would wrap a plain attribute in a tracker.
        model.__dict__["_origin"] = {
            "name": path.resolve().name,
            "sha256": metadata["sha256"],
            "config_sha256": digest if config == stored["config"] else None,
            "weights": weights_digest(model),
            "config": model.get_config(),
        }
    model.compile()
    if load_weights is True:
        starting.continue_training(model, metadata, path / "recipe.json")
    return model


def _count(cls, stored, overrides, metadata) -> int | None:
    """Returns how many parameters are needed: Keras passes over what no layer asks for."""
    if "candidates" not in overrides:  # which may leave out the critic
        return metadata.get("parameters")
    if len(overrides) == 1:
        return None
    own = stored["config"] | {"candidates": overrides["candidates"]}
    return cls.from_config(own).count_params()


def _check_overrides(overrides: dict[str, Any], stored: dict[str, Any], cls: type) -> None:
    """Raises ValueError unless all are constructor arguments."""
    # The stored ones alone would leave out an argument that is newer than the entry.
    known = {*stored["config"], *inspect.signature(cls).parameters} - {"kwargs"}
    if unknown := set(overrides) - known:
        raise ValueError(
            f"overrides must be constructor arguments of {stored['family']}; received "
            f"{sorted(unknown)[0]!r}. It has {', '.join(sorted(known))}."
        )


def _from_config(cls: type, config: dict[str, Any], path: Path) -> keras.Model:
    try:
        return cls.from_config(config)
    except (TypeError, AttributeError, KeyError, OverflowError) as error:
        raise ValueError(
            f"{path / 'config.json'} does not describe a {cls.__name__}: {error}. "
            "Restore the file, or correct the overrides."
        ) from error


def origin(model: keras.Model) -> dict[str, str | None] | None:
    """Returns name, sha256 and config_sha256 of the entry whose weights the model has.

    None if it has other weights. config_sha256 is None if a setting is not the entry's.
    """
    loaded = model.__dict__.get("_origin")
    if loaded is None or loaded["weights"] != weights_digest(model):
        return None
    same = loaded["config"] == model.get_config()
    found = {name: loaded[name] for name in ("name", "sha256")}
    return {**found, "config_sha256": loaded["config_sha256"] if same else None}


def config_digest(family: str, config: dict[str, Any]) -> str:
    """Returns a sha256 over what config.json says, 64 hex digits."""
    stored = json.loads(json.dumps({"family": family, "config": config}))  # all keys are strings
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()


def _verified_config(path: Path, stored: dict[str, Any], metadata: dict[str, Any]) -> str:
    """Returns the digest of config.json, or raises ValueError unless it is the recorded one."""
    found = config_digest(stored["family"], stored["config"])
    expected = metadata.get("config_sha256", found)  # which older presets do not record
    if found != expected:
        raise ValueError(
            f"{path / 'config.json'} is damaged or was changed: its content has sha256 "
            f"{found[:16]}..., recorded is {expected[:16]}... Restore the file or save the model "
            "again; settings can be changed as arguments of tfgen.load."
        )
    return found


def _verified_weights(path: Path, metadata: dict[str, Any]) -> list[tuple[Path, str]]:
    """Returns an entry's weights file, downloaded if need be, its members' and each one's sha256.

    Raises:
        ValueError: One has not the recorded sha256, or there is no such file.
        DownloadError: It cannot be downloaded.
    """
    expected = metadata["sha256"]
    found = [(weight_files.verified(path / WEIGHTS, expected, metadata.get("urls")), expected)]
    for name, expected in metadata.get("members", {}).items():
        member = path.resolve().parent / name
        if not (member / "metadata.json").is_file():
            raise ValueError(
                f"{path.name!r} takes weights from {name!r}, which must lie next to it. Copy that "
                "folder too, or save a model that stands alone: model.save_to_preset(folder)."
            )
        urls = read_metadata(member).get("urls")
        found.append((weight_files.verified(member / WEIGHTS, expected, urls), expected))
    return found


# Saving ---------------------------------------------------------------------------------------


def save(
    model: keras.Model,
    path: str | Path,
    recipe: Recipe | None = None,
    metadata: dict[str, Any] | None = None,
    *,
    half: bool = False,
    members: Sequence[str] = (),
) -> Path:
    """Writes a model as a preset: config.json, model.weights.h5, metadata.json.

    Args:
        model: A model of the zoo's families, or an evaluator.
        path: The preset's folder; made if missing.
        recipe: Written as recipe.json. Without one, a recipe.json that is there stays, and
            metadata.json says that the weights are not by it.
        metadata: Keys to add, e.g. data digest and training time.
        half: Whether weights are stored as float16, in half the bytes. They load as float32, with
            a relative error of at most 2^-11, or below 2^-14 an absolute one of 2^-25.
        members: Names of presets next to `path` that have the weights of an ensemble's second
            network and of those after it; only names and sha256 are stored.

    Returns:
        The folder.

    Raises:
        ValueError: A class that is not registered; `half` for weights beyond the range of float16;
            members with other weights; metadata or a config that JSON cannot hold.
        OSError: The folder cannot be written.
    """
    path, config = Path(path).expanduser(), model.get_config()
    family, beside = families.registered(type(model)), _beside(path, members)
    _check_json("config", config)
    twin = _twin(model, config)
    content = weight_files.serialized_weights(_without(twin, beside), half)
    digests = {member.name: read_metadata(member)["sha256"] for member in beside}
    details = {
        "kind": model.kind,
        "likelihood": getattr(model, "likelihood", None),  # a classifier has none
        "parameters": twin.count_params(),  # without the adapters of a model in training
        "sha256": hashlib.sha256(content).hexdigest(),
        "config_sha256": config_digest(family, config),
        **({"members": digests} if digests else {}),
        **_circumstances(model, recipe),
        **(metadata or {}),
    }
    recipe_text = None if recipe is None else recipe.to_json()
    _check_json("metadata", details)  # before anything is replaced
    with replacing(path / WEIGHTS) as temporary:
        temporary.write_bytes(content)
    (path / "card.md").unlink(missing_ok=True)  # it shows results of other weights
    write_json(path / "config.json", {"family": family, "config": config})
    if recipe_text is not None:
        with replacing(path / "recipe.json") as temporary:
            temporary.write_text(recipe_text, encoding="utf-8")
    write_json(path / "metadata.json", details)
    return path


def _twin(model: keras.Model, config: dict[str, Any]) -> keras.Model:
    """Returns a copy without an optimizer, whose slots Keras would store: three times the size."""
    twin, held = type(model).from_config(config), tuning.values(model)  # adapters folded in
    own = tuning.weights(twin)
    if late := sorted(held.keys() - own.keys()):
        raise ValueError(
            "model must make all of its weights in its constructor, or they could not be loaded; "
            f"{late[0]!r} came later. Give a Sequential an Input, build the layer, or take it off."
        )
    for name, variable in own.items():
        variable.assign(held[name])
    return twin


def _check_json(name: str, content: dict[str, Any]) -> None:
    try:
        json.dumps(content, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must hold values that JSON has: {error}. Convert it, e.g. with int() or "
            "float(); leave out NaN and infinity."
        ) from error


def _circumstances(model: keras.Model, recipe: Recipe | None) -> dict[str, Any]:
    """Returns what metadata.json says of how a model came about."""
    return {
        "licence": LICENCES,
        "seed": model.seed,
        "steps": model.steps_trained,
        "by_recipe": recipe is not None,
        "commit": _commit(),
        "versions": versions(),
        "results": {},
    }


def versions() -> dict[str, str]:
    packages = {package: version(package) for package in ("tfgen", "keras", "tensorflow")}
    return {"python": platform.python_version(), **packages}


def _beside(path: Path, names: Sequence[str]) -> list[Path]:
    single = isinstance(names, str) or len(set(names)) < len(names)
    if single or not all(entries.is_name(name) for name in names):
        raise ValueError(
            f"members must be a list of different names of presets next to {path.name}; received "
            f"{names!r}."
        )
    return [path.resolve().parent / name for name in names]


def _without(model: keras.Model, members: list[Path]) -> keras.Model:
    """Returns the part of a model that is stored where the members' weights are not."""
    if not members:
        return model
    first, *others = getattr(model, "networks", [model])
    if [weights_digest(network) for network in others] != [
        weights_digest(load(member)) for member in members
    ]:
        raise ValueError(
            "members must have the weights of all networks of an ensemble but the first, in their "
            f"order; received {', '.join(member.name for member in members)} for "
            f"{len(others)} networks. Build it from them: PixelEnsemble([first, load(name)])."
        )
    return first


def update_metadata(path: str | Path, **changes: Any) -> None:
    """Replaces keys of an entry's metadata.json."""
    path = Path(path).expanduser()
    write_json(path / "metadata.json", read_json(path / "metadata.json") | changes)


def _commit() -> str | None:
    """The commit of the checkout that tfgen runs from; None in an installed wheel."""
    # Named, or git would take any repository around the package, such as a user's own.
    repository = Path(__file__).resolve().parents[1] / ".git"
    try:
        command = ["git", f"--git-dir={repository}", "rev-parse", "--short=12", "HEAD"]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
