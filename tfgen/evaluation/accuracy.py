"""Accuracy of a classifier."""

import numpy as np

from tfgen.evaluation.latents import labelled
from tfgen.evaluation.result import Result, Results
from tfgen.models.classifier import Classifier

__all__ = ["accuracy"]


def accuracy(model: Classifier, data_name: str, split: str = "test", verbose: int = 1) -> Results:
    """Share of images that a classifier gets right.

    Args:
        model: The classifier.
        data_name: For `tfgen.data`; it must have labels.
        split: "validation" or "test".
        verbose: Not used.
    """
    images, labels = labelled(data_name, split)
    found = model.probabilities(images).argmax(1)
    return {f"{split} accuracy": Result(100.0 * float(np.mean(found == labels)), "%")}
