"""What the command and the library say in the same words. Imports nothing heavy."""

import re
import sys
from typing import Any

__all__ = [
    "LIKELIHOODS",
    "counted",
    "four_digits",
    "how_long",
    "how_to_install",
    "how_trained",
    "listed",
    "tell",
    "wiping",
    "with_commas",
]

# What "likelihood" in an entry's metadata.json stands for.
LIKELIHOODS = {
    "exact": "exact",
    "bound": "a lower bound of log p(x)",
    "none": "none (it only draws or reconstructs images)",
}
# What "program" in an entry's metadata.json stands for.
BY_JAX = (
    "The recipe's training step ran in JAX, compiled by XLA (`benchmarks/gpu`). That program has "
    "its own order of images and schedule of rates, so `tfgen train` ends with "
    "other weights; on two CPU cores it takes far longer."
)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Returns how many there are of what is counted.

    >>> counted(1, "model"), counted(2000, "class", "classes")
    ('1 model', '2,000 classes')
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def four_digits(value: float) -> str:
    """Returns a number as it is read.

    >>> four_digits(12647.3), four_digits(0.00342441)
    ('12,650', '0.003424')
    """
    return f"{float(f'{value:.4g}'):,.9g}"


def how_to_install(extra: str) -> str:
    """Returns the sentence that says how to install an extra.

    From the clone: tfgen on PyPI is another project.

    >>> how_to_install("onnx")
    'Run pip install ".[onnx]" in the clone of tfgen.'
    """
    return f'Run pip install ".[{extra}]" in the clone of tfgen.'


def how_long(state: dict[str, Any]) -> tuple[str, str]:
    """Returns the epochs and the minutes of a training as they are read.

    >>> how_long({"epoch": 2.5, "seconds": 61.0})
    ('2.5 epochs', '1 minute')
    """
    epochs, minutes = state.get("epoch", 0), state.get("seconds", 0.0) / 60.0
    return (
        f"{epochs:g} epoch{'s' * (epochs != 1)}",
        counted(round(minutes), "minute") if minutes > 0.5 else "less than a minute",
    )


def how_trained(details: dict[str, Any]) -> str:
    """Returns how an entry's training differed from `tfgen train`, or ""."""
    return " ".join(filter(None, ("program" in details and BY_JAX, details.get("trained"))))


def with_commas(name: str) -> str:
    """Returns the name of a result with its numbers as they are read.

    >>> with_commas("Frechet distance, 10000 images against 350 test images")
    'Frechet distance, 10,000 images against 350 test images'
    """
    return re.sub(r"(?<![\w-])\d{4,}(?![\w-])", lambda found: f"{int(found[0]):,}", name)


def listed(names: list[str], most: int = 3) -> str:
    """Returns the first names and how many more there are.

    >>> listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def wiping(stream: Any) -> str:
    """Returns what clears a terminal's line of a progress bar; "" elsewhere."""
    return "\r\033[K" if getattr(stream, "isatty", bool)() else ""


_told: set[str] = set()


def tell(text: str) -> None:
    """Prints a line to stderr, once per process: each split of a set repeats it."""
    if text not in _told:
        _told.add(text)
        print(text, file=sys.stderr)
