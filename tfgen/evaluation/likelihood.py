"""Likelihood of a data set, in nats per image and bits per dimension."""

import numpy as np

from tfgen import data, pixels
from tfgen.models.endpoints import ROWS

__all__ = ["log_likelihood"]


def log_likelihood(
    model, data_name: str, split: str = "test", num_samples: int = 1, verbose: int = 1
) -> dict[str, tuple[float, str]]:
    """Measures the mean log-likelihood of a whole split.

        nats = -1/N sum_n log p(x_n),   log p a sum over pixels;  bits/dim = nats / (H W C ln 2)

    Exact, or the bound with `num_samples` importance samples, by the model's `likelihood`. Image
    n uses seed n, so the figure is a function of the weights alone. What the model offers as
    `extra_likelihoods` is measured too.

    Args:
        model: A model with a likelihood.
        data_name: For `tfgen.data`.
        split: "validation" or "test".
        num_samples: Importance samples per image.
        verbose: 1 shows a progress bar.

    Returns:
        The figures by name, each (value, unit); lower is better.
    """
    images, labels = data.arrays(data_name, split)
    labels = labels if model.num_classes is not None else None
    values = model.log_likelihood(images, num_samples, labels=labels, seed=0, verbose=verbose)
    nats = float(values.astype(np.float64).mean())
    how = "" if model.likelihood == "exact" else f", bound with {num_samples} samples"
    figures = {
        f"{split} negative log-likelihood{how}": (-nats, "nats per image"),
        f"{split} bits per dimension{how}": (
            pixels.bits_per_dim(nats, model.image_shape),
            "bits/dim",
        ),
    }
    for name, extra in _extra(model, images, labels).items():
        figures[f"{split} negative log-likelihood {name}"] = (-extra, "nats per image")
    return figures


def _extra(model, images: np.ndarray, labels: np.ndarray | None) -> dict[str, float]:
    """Returns the means of the model's `extra_likelihoods`, nats per image."""
    totals: dict[str, float] = {}
    for start in range(0, len(images), ROWS["sample"]):
        batch = slice(start, start + ROWS["sample"])
        given = None if labels is None else labels[batch]
        for name, values in model.extra_likelihoods(images[batch], given).items():
            totals[name] = totals.get(name, 0.0) + float(values.sum(dtype=np.float64))
    return {name: total / len(images) for name, total in totals.items()}
