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
    n uses seed n, so the figure is a function of the weights alone.

    Args:
        model: A model with a likelihood.
        data_name: For `tfgen.data`.
        split: "validation" or "test".
        num_samples: Importance samples per image.
        verbose: 1 shows a progress bar.

    Returns:
        The two figures, lower is better, with the spread over images as the standard error.
    """
    images, labels = data.arrays(data_name, split)
    values = model.log_likelihood(
        images,
        num_samples,
        labels=labels if model.num_classes is not None else None,
        seed=0,
        verbose=verbose,
    ).astype(np.float64)
    nats = float(values.mean())
    how = "" if model.likelihood == "exact" else f", bound with {num_samples} samples"
    return {
        f"{split} negative log-likelihood{how}": (-nats, "nats per image"),
        f"{split} bits per dimension{how}": (
            pixels.bits_per_dim(nats, model.image_shape),
            "bits/dim",
        ),
    }
