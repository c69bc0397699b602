"""What the command and the library say in the same words. Imports nothing heavy."""

import re

__all__ = ["counted", "how_to_install", "with_commas"]


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Returns how many there are of what is counted.

    >>> counted(1, "model"), counted(2000, "class", "classes")
    ('1 model', '2,000 classes')
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def how_to_install(extra: str) -> str:
    """Returns the sentence that says how to install an extra.

    From the clone, because the package called tfgen on PyPI is another project.

    >>> how_to_install("onnx")
    'Run pip install ".[onnx]" in the clone of tfgen.'
    """
    return f'Run pip install ".[{extra}]" in the clone of tfgen.'


def with_commas(name: str) -> str:
    """Returns the name of a result with its numbers as they are read.

    >>> with_commas("Frechet distance, 10000 images against 350 test images")
    'Frechet distance, 10,000 images against 350 test images'
    """
    return re.sub(r"\b\d{4,}\b", lambda found: f"{int(found[0]):,}", name)
