"""Likelihood of a data set, in nats per image and bits per dimension."""

import numpy as np

from tfgen import data, pixels

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
    for name, log_p in model.extra_likelihoods(images, labels).items():
        mean = float(np.mean(log_p, dtype=np.float64))
        figures[f"{split} negative log-likelihood {name}"] = (-mean, "nats per image")
    return figures
