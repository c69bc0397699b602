"""Checks of arguments, whose errors name the argument, the rule and the value."""

import fractions
import numbers
import operator
from collections.abc import Collection
from typing import Any

from tfgen_command.entries import nearest

__all__ = [
    "at_least",
    "finite",
    "fraction",
    "is_integer",
    "one_of",
    "positive",
    "seed",
    "sizes",
]

GREATEST = 3.4028234663852886e38  # of the numbers in 32 bits


def positive(name: str, value: Any) -> int:
    """Returns `value` as an int, or raises ValueError unless it is an integer of at least 1.

    >>> positive("steps", 3)
    3
    """
    at_least(1, **{name: value})
    return int(value)


def is_integer(value: Any) -> bool:
    """Returns whether a value is an integer, of NumPy too; a bool is a flag and no integer."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def at_least(least: int, **values: Any) -> None:
    """Raises ValueError unless every value is an integer of at least `least`; bools are not.

    >>> at_least(1, latent_dim=0)
    Traceback (most recent call last):
    ValueError: latent_dim must be an integer of at least 1; received 0.
    """
    for name, value in values.items():
        if not is_integer(value) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}; received {value!r}.")


def seed(value: Any) -> int:
    """Returns a model's seed as an int, or raises ValueError unless it is an integer of 64 bits.

    >>> seed(1.5)
    Traceback (most recent call last):
    ValueError: seed must be an integer of 64 bits; received 1.5.
    """
    try:
        number = operator.index(value)  # of an array or tensor without axes, too
    except TypeError:
        number = 2**63
    if isinstance(value, bool) or not -(2**63) <= number < 2**63:
        raise ValueError(f"seed must be an integer of 64 bits; received {value!r}.")
    return number


def sizes(least: int, length: int | None = None, **values: Any) -> None:
    """Raises ValueError unless every value is a list or tuple of integers of at least `least`.

    Args:
        least: The least that an entry may be.
        length: How many entries there must be; None is any number but 0.
        **values: By name.

    >>> sizes(1, filters=32)
    Traceback (most recent call last):
    ValueError: filters must be a list of integers of at least 1; received 32.
    """
    for name, value in values.items():
        listed = isinstance(value, list | tuple) and len(value) > 0
        entries = value if listed else ()
        whole = all(map(is_integer, entries))
        if not (listed and whole and min(entries) >= least and length in (None, len(entries))):
            what = "a list of" if length is None else f"a list of {length}"
            raise ValueError(
                f"{name} must be {what} integers of at least {least}; received {value!r}."
            )


def finite(least: float, **values: Any) -> None:
    """Raises ValueError unless every value is a finite number of at least `least`.

    Networks compute in 32 bits, so a number beyond their range is not finite.

    >>> finite(0, beta=float("nan"))
    Traceback (most recent call last):
    ValueError: beta must be a finite number of at least 0; received nan.
    """
    for name, value in values.items():
        if not (_is_number(value) and least <= value <= GREATEST):
            raise ValueError(
                f"{name} must be a finite number of at least {least}; received {value!r}."
            )


def fraction(**values: Any) -> None:
    """Raises ValueError unless every value is a number in [0, 1), e.g. a rate of dropout.

    >>> fraction(dropout=1.0)
    Traceback (most recent call last):
    ValueError: dropout must lie in [0, 1); received 1.0.
    """
    for name, value in values.items():
        if not (_is_number(value) and 0 <= value < 1):
            raise ValueError(f"{name} must lie in [0, 1); received {value!r}.")


def one_of(name: str, value: Any, allowed: Collection[Any]) -> None:
    """Raises ValueError unless `value` is among `allowed`, with the nearest name as a hint.

    >>> one_of("prior", "flwo", ("standard_normal", "flow"))
    Traceback (most recent call last):
    ValueError: prior must be one of standard_normal, flow; received 'flwo'. Did you mean 'flow'?
    """
    plain = value.item() if hasattr(value, "item") else value  # of NumPy
    if not any(type(plain) is type(a) and plain == a for a in allowed):
        hint = nearest(value, allowed, 1) if isinstance(value, str) else ""
        raise ValueError(
            f"{name} must be one of {', '.join(map(str, allowed))}; received {value!r}.{hint}"
        )


def _is_number(value: Any) -> bool:
    """Whether a value is an integer or a float: JSON has no fractions, and a bool is a flag."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool | fractions.Fraction)
