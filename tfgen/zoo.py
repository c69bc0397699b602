"""The zoo: trained models by name, with their recipe, checksum and measured results.

An entry is a preset (see `tfgen.presets`) in the folder zoo/<name>/, with more files:

    card.md            everything known about it, to read; written by `tfgen evaluate`
    samples.png, ...   what it draws
"""

import zipfile
from pathlib import Path
from typing import Any, Literal, cast

import keras
from keras.src.saving import serialization_lib

from tfgen import checks, families, presets
from tfgen.models.classifier import Classifier
from tfgen.models.generative import GenerativeModel
from tfgen.presets import folder, origin, save, update_metadata
from tfgen.recipe import Recipe
from tfgen.weight_files import weights_digest
from tfgen_command import entries

__all__ = [
    "folder",
    "info",
    "list_models",
    "load",
    "load_evaluator",
    "load_file",
    "load_recipe",
    "origin",
    "save",
    "update_metadata",
    "weights_digest",
]


def list_models(pattern: str = "*", kind: str | None = "model") -> list[str]:
    """Returns the names of the trained entries that match, sorted.

    Args:
        pattern: Shell-style, e.g. "vae_*".
        kind: "model" for generative models, "evaluator" for classifiers, None for all.

    >>> "vae_mnist" in list_models("*_mnist")
    True
    """
    checks.one_of("kind", kind, ("model", "evaluator", None))
    return entries.names(pattern, kind)


def load(
    name: str | Path, load_weights: bool | Literal["partial"] = True, **overrides: Any
) -> GenerativeModel:
    """Loads a model, compiled and ready to sample, score and fine-tune.

    Args:
        name: An entry's name, e.g. "vae_mnist", or a folder written by `save_to_preset`; one in
            the working directory that has an entry's name is "./vae_mnist". An evaluator's name
            works too; `load_evaluator` returns it under its own type.
        load_weights: False gives the architecture with initial weights. "partial" lets overrides
            change the network, e.g. `num_classes=5` or `image_shape=(32, 32, 1)`: weights that no
            longer fit keep their initial values, and a warning names each of them.
        **overrides: Constructor arguments to change, e.g. `beta=4.0`.

    Raises:
        ValueError: Unknown name, a name of two models, unknown argument, weights that do not fit
            the overrides, or a file whose sha256 is not the recorded one.
        DownloadError: Weights that are not in the package cannot be downloaded.
    """
    return cast(GenerativeModel, presets.load(name, load_weights, **overrides))


def load_evaluator(name: str | Path) -> Classifier:
    """Loads the classifier of that name, e.g. "classifier_mnist".

    Raises:
        ValueError: Unknown name, a name of two models, or an entry that is not a classifier.
    """
    model = presets.load(name)
    if not isinstance(model, Classifier):
        raise ValueError(
            f"name must be a classifier: {', '.join(list_models(kind='evaluator'))}; "
            f"{str(name)!r} is a {type(model).__name__}."
        )
    return model


def load_recipe(name: str | Path) -> Recipe:
    """Returns an entry's recipe, or that of a JSON file.

    Raises:
        ValueError: Unknown name, a name of two models, or no valid recipe.
    """
    path = Path(name).expanduser()
    if path.suffix == ".json" and path.is_file():
        return Recipe.load(path)
    path = folder(name) / "recipe.json"
    if not path.is_file():
        raise ValueError(
            f"{path.parent} has no recipe.json, so it cannot be trained or "
            "evaluated. Write one (see tfgen.recipe.Recipe)."
        )
    return Recipe.load(path)


def load_file(path: str | Path) -> keras.Model:
    """Loads a model that `model.save` wrote to a .keras file, checked before it is believed.

    `keras.models.load_model` reads the same file; this also reads all of it and compares the
    checksums that the file carries, and turns every kind of damage into a ValueError. Code in the
    file is never run.

    Raises:
        ValueError: The file is damaged, is not a .keras file, or holds code or a class of
            another package.
        OSError: It cannot be read.
    """
    path = Path(path).expanduser()
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} fails its checksum")
        with serialization_lib.SafeModeScope(True):  # whatever Keras is set to
            model = keras.models.load_model(path)
    except Exception as error:  # whatever a parser of a damaged file can raise
        # One of the system has a number; h5py raises an OSError without one for damage.
        if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
            raise
        raise ValueError(
            f"{path} is not a whole .keras file of a model of tfgen: {error}. Save or copy it "
            "again; import first what registers a class of your own."
        ) from error
    if type(model) not in families.known(None).values():
        raise ValueError(
            f"{path} must hold a model of tfgen; it holds a {type(model).__name__}. "
            "Load it with keras.models.load_model."
        )
    return model


def info(name: str | Path) -> dict[str, Any]:
    """Returns an entry's metadata with its path, configuration and recipe.

    Raises:
        ValueError: Unknown name, a name of two models, an entry that is not trained, or a file
            that is damaged.
    """
    return entries.details(name, "name")
