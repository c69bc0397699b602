"""Metrics of a split: likelihood, classes, and latents next to the same on raw pixels."""

import numpy as np
import tensorflow as tf

from tfgen import data, pixels
from tfgen.evaluation.result import Result, Results
from tfgen.models.classifier import Classifier
from tfgen.models.generative import GenerativeModel

__all__ = [
    "accuracy",
    "check_conditional",
    "classes_for",
    "classes_to_ask",
    "evenly",
    "flat",
    "label_agreement",
    "labelled",
    "log_likelihood",
    "nearest_distances",
    "nearest_neighbour",
    "nearest_neighbour_accuracy",
    "on_levels",
    "squared_error",
]

BLOCK = 500  # queries at a time


def nearest_neighbour(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Returns for each query row the index of the nearest reference row (Euclidean), (n,).

    |q - r|^2 = |q|^2 - 2 q r + |r|^2,   of which |q|^2 does not matter
    """
    references = tf.constant(references, tf.float32)
    half_norms = 0.5 * tf.reduce_sum(tf.square(references), 1)
    nearest = [
        tf.argmax(
            tf.matmul(tf.cast(part, tf.float32), references, transpose_b=True) - half_norms, 1
        )
        for part in np.array_split(queries, max(len(queries) // BLOCK, 1))
    ]
    return tf.concat(nearest, 0).numpy()


def nearest_distances(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Returns the distance of each query to its nearest reference, float64 (queries,).

    The neighbour is found in float32; the distance to it is exact, so that a copy is at 0.

    >>> nearest_distances(np.array([[0.0, 0.0], [3.0, 5.0]]), np.array([[3.0, 4.0]]))
    array([5., 1.])

    Args:
        queries: (queries, features), numbers of any kind.
        references: (references, features), at least one.
    """
    # Centred, because what float32 loses grows with the norms.
    middle = references.mean(0, dtype=np.float32)
    index = nearest_neighbour(queries - middle, references - middle)
    parts = np.array_split(np.arange(len(queries)), max(len(queries) // BLOCK, 1))
    return np.concatenate(
        [
            np.linalg.norm(queries[part].astype(np.float64) - references[index[part]], axis=1)
            for part in parts
        ]
    )


def evenly(values: np.ndarray, count: int) -> np.ndarray:
    """Takes at most `count` values, evenly spaced: a split may be in the order of its classes."""
    count = min(count, len(values))
    return values[np.arange(count) * len(values) // count]


def flat(images: np.ndarray) -> np.ndarray:
    """Returns images as rows of pixels in [0, 1], float32 (batch, height width channels)."""
    return pixels.greys_to_unit(images.reshape(len(images), -1))


def on_levels(model: GenerativeModel, images: np.ndarray) -> np.ndarray:
    """Returns images on the grey levels that a model knows, as `fit` rounds them, uint8."""
    return model.nearest_level(tf.constant(images)).numpy()


def labelled(data_name: data.Data, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels of a split; raises ValueError if the data set has no labels."""
    images, labels = data.arrays(data_name, split)
    if labels is None:
        raise ValueError(
            f"data must have labels for this metric; {data_name!r} has none. Use e.g. 'mnist'."
        )
    return images, labels


def classes_for(model: GenerativeModel, labels: np.ndarray | None) -> np.ndarray | None:
    """Returns the labels of a data set for a model that wants them, None for another."""
    return None if model.num_classes is None else labels


def check_conditional(model: GenerativeModel) -> None:
    """Raises ValueError if a model has no classes to ask for."""
    if model.num_classes is None:
        raise ValueError(
            "model must be class-conditional for this metric; received one with num_classes=None. "
            "Load a conditional one, or measure sample_quality."
        )


def classes_to_ask(
    model: GenerativeModel, num_samples: int, labels: np.ndarray | None
) -> np.ndarray:
    """Returns the classes that samples are asked for, int64 (num_samples,).

    Class i modulo `num_classes`. But where real images have a class less than half as often as if
    all were equally frequent, samples have the classes of the real images: otherwise the metric
    would tell the two apart by the classes alone.

    Args:
        model: A conditional model.
        num_samples: How many samples.
        labels: Of the real images that samples are compared with, if they have any.
    """
    count = model.num_classes
    known = labels is not None and len(labels) > 0 and labels.max() < count
    if known and 2 * count * np.bincount(labels, minlength=count).min() < len(labels):
        return labels[np.arange(num_samples) * len(labels) // num_samples]
    return np.arange(num_samples) % count


def _references(data_name: data.Data, split: str = "test") -> tuple[np.ndarray, np.ndarray]:
    """The train and validation splits together, without `split`, which is measured."""
    parts = [labelled(data_name, part) for part in ("train", "validation") if part != split]
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def accuracy(
    model: Classifier, data_name: data.Data, split: str = "test", verbose: int = 1
) -> Results:
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


def nearest_neighbour_accuracy(
    model: GenerativeModel, data_name: data.Data, split: str = "test", verbose: int = 1
) -> Results:
    """1-nearest-neighbour accuracy on `model.encode`, and on raw pixels for comparison.

    References are the train and validation splits, without `split`; distances are Euclidean.
    Images are encoded on the model's grey levels.
    """
    references, reference_labels = _references(data_name, split)
    queries, labels = labelled(data_name, split)
    encoded = [
        model.encode(on_levels(model, images), labels=classes_for(model, of_images))
        for images, of_images in ((queries, labels), (references, reference_labels))
    ]
    nearest = {
        "latents": nearest_neighbour(*encoded),
        "raw pixels": nearest_neighbour(flat(queries), flat(references)),
    }
    return {
        f"{split} 1-nearest-neighbour accuracy on {space}": Result(
            100.0 * float(np.mean(reference_labels[found] == labels)), "%"
        )
        for space, found in nearest.items()
    }


def squared_error(
    model: GenerativeModel, data_name: data.Data, split: str = "test", verbose: int = 1
) -> Results:
    """Mean over images of the squared error of `reconstruct`, summed over pixels.

    Pixels in [0, 1], images on the model's grey levels; the same for the mean training image,
    which needs no latents.
    """
    train = on_levels(model, data.arrays(data_name, "train")[0])
    images, labels = data.arrays(data_name, split)
    images = on_levels(model, images)
    truth = pixels.greys_to_unit(images)
    rebuilt = pixels.greys_to_unit(model.reconstruct(images, labels=classes_for(model, labels)))
    mean_image = pixels.greys_to_unit(train.mean(0))

    def error(prediction):
        return float(np.square(truth - prediction).sum((1, 2, 3)).mean())

    unit = "per image, pixels in [0, 1]"
    return {
        f"{split} squared error of reconstructions": Result(error(rebuilt), unit),
        f"{split} squared error of the mean training image": Result(error(mean_image), unit),
    }


def label_agreement(
    model: GenerativeModel, data_name: data.Data, num_samples: int = 1000, verbose: int = 1
) -> Results:
    """How often a sample of class c is nearest to a train or validation image of class c.

    Pixels on the model's grey levels, Euclidean; the same rule on real test images is the
    ceiling.

    Raises:
        ValueError: The model is not conditional, or the data has no labels.
    """
    check_conditional(model)
    references, reference_labels = _references(data_name)
    references = flat(on_levels(model, references))
    test, test_labels = labelled(data_name, "test")
    asked = classes_to_ask(model, num_samples, test_labels)
    samples = model.sample(num_samples, labels=asked, seed=0, verbose=verbose)
    test = on_levels(model, test)

    def agreement(images, labels):
        found = nearest_neighbour(flat(images), references)
        return 100.0 * float(np.mean(reference_labels[found] == labels))

    return {
        f"{num_samples} samples classified as asked by 1-nearest-neighbour": Result(
            agreement(samples, asked), "%", real=agreement(test, test_labels)
        )
    }
