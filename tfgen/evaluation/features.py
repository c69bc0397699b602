"""What latents and samples are worth, judged by nearest neighbours beside raw pixels."""

import numpy as np
import tensorflow as tf

from tfgen import data

__all__ = [
    "label_agreement",
    "labelled",
    "nearest_neighbour",
    "nearest_neighbour_accuracy",
    "squared_error",
]


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
        for part in np.array_split(queries, max(len(queries) // 500, 1))
    ]
    return tf.concat(nearest, 0).numpy()


def labelled(data_name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels of a split; raises ValueError if the data set has no labels."""
    images, labels = data.arrays(data_name, split)
    if labels is None:
        raise ValueError(
            f"data must have labels for this figure; {data_name!r} has none. Use e.g. 'mnist'."
        )
    return images, labels


def _references(data_name: str) -> tuple[np.ndarray, np.ndarray]:
    """The train and validation splits together: all that is not test."""
    parts = [labelled(data_name, split) for split in ("train", "validation")]
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def nearest_neighbour_accuracy(
    model, data_name: str, split: str = "test", verbose: int = 1
) -> dict[str, tuple[float, str]]:
    """Measures 1-nearest-neighbour accuracy on `model.encode`, and on raw pixels beside it.

    References are the train and validation splits; distances are Euclidean.
    """
    references, reference_labels = _references(data_name)
    queries, labels = labelled(data_name, split)
    flat = nearest_neighbour(
        queries.reshape(len(queries), -1) / 255.0,
        references.reshape(len(references), -1) / np.float32(255.0),
    )
    latent = nearest_neighbour(model.encode(queries).numpy(), model.encode(references).numpy())
    return {
        f"{split} 1-nearest-neighbour accuracy on latents": (
            100.0 * float(np.mean(reference_labels[latent] == labels)),
            "%",
        ),
        f"{split} 1-nearest-neighbour accuracy on raw pixels": (
            100.0 * float(np.mean(reference_labels[flat] == labels)),
            "%",
        ),
    }


def squared_error(
    model, data_name: str, split: str = "test", verbose: int = 1
) -> dict[str, tuple[float, str]]:
    """Measures the mean over images of the squared error of `reconstruct`, summed over pixels.

    Pixels in [0, 1]; the same for the mean training image, which needs no latents.
    """
    train, _ = data.arrays(data_name, "train")
    images, _ = data.arrays(data_name, split)
    truth = images / np.float32(255.0)
    rebuilt = model.reconstruct(images) / np.float32(255.0)
    mean_image = train.mean(0) / np.float32(255.0)

    def error(prediction):
        return float(np.square(truth - prediction).sum((1, 2, 3)).mean())

    unit = "per image, pixels in [0, 1]"
    return {
        f"{split} squared error of reconstructions": (error(rebuilt), unit),
        f"{split} squared error of the mean training image": (error(mean_image), unit),
    }


def label_agreement(
    model, data_name: str, num_samples: int = 1000, verbose: int = 1
) -> dict[str, tuple[float, str]]:
    """Measures how often a sample of class c has a nearest training image of class c.

    Raw pixels, Euclidean; the same rule on real test images is stated beside it, as the ceiling.
    """
    references, reference_labels = _references(data_name)
    references = references.reshape(len(references), -1) / np.float32(255.0)
    asked = np.arange(num_samples) % model.num_classes
    samples = model.sample(num_samples, labels=asked, seed=0)
    test, test_labels = labelled(data_name, "test")

    def agreement(images, labels):
        found = nearest_neighbour(images.reshape(len(images), -1) / 255.0, references)
        return 100.0 * float(np.mean(reference_labels[found] == labels))

    return {
        f"{num_samples} samples classified as asked by 1-nearest-neighbour": (
            agreement(samples, asked),
            "%",
        ),
        "real test images classified correctly by the same": (agreement(test, test_labels), "%"),
    }
