"""Accuracy of a classifier."""

import numpy as np

from tfgen.evaluation.features import labelled

__all__ = ["accuracy"]


def accuracy(
    model, data_name: str, split: str = "test", verbose: int = 1
) -> dict[str, tuple[float, str]]:
    """Measures how many images of a split a `Classifier` gets right."""
    images, labels = labelled(data_name, split)
    found = model.probabilities(images).argmax(1)
    return {f"{split} accuracy": (100.0 * float(np.mean(found == labels)), "%")}
