"""The families by name, found in Keras' registry, so that one defined elsewhere counts too.

A family is a model class that is registered with `keras.saving.register_keras_serializable`. Under
the package "tfgen" it goes by its class name, "VAE"; under another by both, "my_package>Flow".
"""

from typing import Literal

import keras

from tfgen import checks

__all__ = ["find", "known", "name_of", "registered"]

PACKAGE = "tfgen"


def known(kind: Literal["model", "evaluator"] | None = "model") -> dict[str, type]:
    """Returns the registered model classes by name, sorted.

    Args:
        kind: "model" for generative families, "evaluator" for classifiers, None for both.

    >>> "VAE" in known()
    True
    """
    found = {}
    for registered, cls in keras.saving.get_custom_objects().items():
        its_kind = getattr(cls, "kind", None) if isinstance(cls, type) else None
        if its_kind in ("model", "evaluator") and kind in (None, its_kind):
            found[registered.removeprefix(f"{PACKAGE}>")] = cls
    return dict(sorted(found.items()))


def find(name: str) -> type:
    """Returns the model class of that name, or raises ValueError with the names that exist.

    >>> find("VAE").__name__
    'VAE'
    """
    classes = known(None)
    checks.one_of("family", name, classes)
    return classes[name]


def name_of(cls: type) -> str:
    """Returns the name by which `find` finds a class.

    >>> name_of(find("VAE"))
    'VAE'
    """
    return keras.saving.get_registered_name(cls).removeprefix(f"{PACKAGE}>")


def registered(cls: type) -> str:
    """Returns the name of a class that `find` finds, or raises ValueError.

    >>> registered(dict)
    Traceback (most recent call last):
    ValueError: model must be of a registered class, or nothing could load it; received a dict.
    Decorate it with keras.saving.register_keras_serializable('mine').
    """
    family = name_of(cls)
    if family not in known(None):
        raise ValueError(
            f"model must be of a registered class, or nothing could load it; received a "
            f"{cls.__name__}. Decorate it with keras.saving.register_keras_serializable('mine')."
        )
    return family
