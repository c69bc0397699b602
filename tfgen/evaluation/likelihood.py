"""Likelihood of a data set, in nats per image and bits per dimension."""

import numpy as np

from tfgen import data, pixels
from tfgen.evaluation.latents import classes_for, on_levels
from tfgen.evaluation.result import Result, Results
from tfgen.models.generative import GenerativeModel

__all__ = ["log_likelihood"]


def log_likelihood(
    model: GenerativeModel,
    data_name: data.Data,
    split: str = "test",
    num_samples: int = 1,
    verbose: int = 1,
) -> Results:
    """Mean negative log-likelihood of a whole split; lower is better.

        nll      = -1/N sum_n log p(x_n)       nats per image, log p a sum over pixels
        bits/dim = nll / (H W C ln 2)

    Exact, or the bound with `num_samples` importance samples, as `model.likelihood` says. Image
    n uses seed n, so the result is a function of the weights alone. Images are taken on the model's
    grey levels, as in training. What a family adds, such as the likelihood of a pixel model in its
    first order, comes from `model.extra_likelihoods`.

    Args:
        model: A model with a likelihood.
        data_name: For `tfgen.data`.
        split: "validation" or "test".
        num_samples: Importance samples per image.
        verbose: 1 shows a progress bar.
    """
    images, labels = data.arrays(data_name, split)
    images = on_levels(model, images)
    labels = classes_for(model, labels)
    log_p = model.log_likelihood(
        images, num_samples=num_samples, labels=labels, seed=0, verbose=verbose
    )
    mean_log_p = float(log_p.astype(np.float64).mean())
    many = f"{num_samples} sample{'s' if num_samples > 1 else ''}"
    how = "" if model.likelihood == "exact" else f", bound with {many}"
    bits = pixels.bits_per_dim(mean_log_p, model.image_shape)
    results = {
        f"{split} negative log-likelihood{how}": Result(-mean_log_p, "nats per image"),
        f"{split} bits per dimension{how}": Result(bits, "bits/dim"),
    }
    for name, log_p in model.extra_likelihoods(images, labels).items():
        mean = float(np.mean(log_p, dtype=np.float64))
        results[f"{split} negative log-likelihood {name}"] = Result(-mean, "nats per image")
    return results
