"""Notes to the user from reading a data set: what was skipped, converted or held out."""

import sys

__all__ = ["listed", "tell"]

_told: set[str] = set()


def tell(text: str) -> None:
    """Prints a line to stderr, once per process: a set is opened once for each of its splits."""
    if text not in _told:
        _told.add(text)
        print(text, file=sys.stderr)


def listed(names: list[str], most: int = 3) -> str:
    """Returns the first names and how many more there are.

    >>> listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
