"""Who judges samples: the classifier of their data set, or features that need no labels.

The zoo's evaluators are classifiers. Each says in its recipe which data set it was trained on and,
under `also_judges` in its metadata, which others its features fit, e.g. the binarised form of the
same images. Data that no evaluator knows are judged in features that need no training but that of
a PCA: they compare models of one data set with each other, and are coarser than a classifier's.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfgen import pixels, zoo
from tfgen.evaluation.latents import evenly, flat
from tfgen_command import entries

__all__ = ["Judge", "classifier", "judge", "plain_features"]

NUM_FITTED = 2_000  # training images that the PCA and the scales of the features come from
NUM_COMPONENTS = 64
CHANNELS = (32, 64, 64)  # channels of the random convolutions, each of stride 2
BATCH = 500
PLAIN = "PCA and random convolutions"


@dataclasses.dataclass(frozen=True)
class Judge:
    """Features of images, and their classes where the judge is a classifier.

    Args:
        name: What a card calls it.
        features: uint8 images -> float32 (batch, features).
        probabilities: uint8 images -> float32 (batch, classes); None if it knows no classes.
    """

    name: str
    features: Callable[[np.ndarray], np.ndarray]
    probabilities: Callable[[np.ndarray], np.ndarray] | None = None


def judge(data_name: str, train: np.ndarray, evaluator: str | None = None) -> Judge:
    """Returns the judge of a data set.

    Args:
        data_name: The data set, as for `tfgen.data`.
        train: Its training images, from which features are made if no evaluator knows it.
        evaluator: Name or folder of a classifier to use instead.
    """
    name = evaluator or classifier(data_name)
    if name is None:
        return Judge(PLAIN, plain_features(train))
    model = zoo.load_evaluator(evaluator or entries.root() / name)
    return Judge(Path(name).name, model.features, model.probabilities)


def classifier(data_name: str) -> str | None:
    """Returns the name of the zoo's evaluator for a data set; None if there is none.

    >>> classifier("mnist"), classifier("binarized_mnist"), classifier("digits")
    ('classifier_mnist', 'classifier_mnist', None)
    """
    for name in zoo.list_models(kind="evaluator"):
        details = zoo.info(entries.root() / name)
        trained_on = details.get("recipe", {}).get("data")
        if data_name == trained_on or data_name in details.get("also_judges", ()):
            return name
    return None


def plain_features(train: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Returns features of images of any size that need no classifier.

    The projections of the pixels on at most 64 principal components see layout; the mean
    activations of three random convolutions see texture:

        u = (x - mean) V,   V the eigenvectors of the pixels' covariance with the largest values
        h = relu(h * W),    W ~ N(0, 2 / fan-in) with a fixed seed, stride 2;   v = mean of h

    Each feature is divided by its spread over the training images, so that all count alike; but
    no spread counts as less than a tenth of the largest of its kind, or a pixel that is black in
    all training images would decide every distance.

    >>> images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8)
    >>> plain_features(images)(images[:3]).shape
    (3, 83)

    Args:
        train: uint8 (batch, height, width, channels); at least two images.
    """
    fitted = evenly(train, NUM_FITTED)
    rows_of_pixels = flat(fitted)
    mean = rows_of_pixels.mean(0)
    rows, width = rows_of_pixels.shape
    count = min(NUM_COMPONENTS, rows - 1, width)  # centred rows have one dimension less
    # The eigenvectors of the covariance, from the smaller of the two products.
    centred = rows_of_pixels - mean
    if width <= rows:
        vectors = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :count]
    else:
        vectors = centred.T @ np.linalg.eigh(centred @ centred.T)[1][:, ::-1][:, :count]
        vectors /= np.maximum(np.linalg.norm(vectors, axis=0), 1e-12)
    kernels = _random_kernels(train.shape[-1])

    def features(images: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            h = pixels.images_to_pixels(batch)
            for kernel in kernels:
                h = tf.nn.relu(tf.nn.conv2d(h, kernel, 2, "SAME"))
            texture = tf.reduce_mean(h, (1, 2)).numpy()  # (batch, 64)
            parts.append(np.concatenate([(flat(batch) - mean) @ vectors, texture], 1))
        return np.concatenate(parts).astype(np.float32)

    spread = features(fitted).std(0)
    for part in (slice(None, count), slice(count, None)):
        spread[part] = np.maximum(spread[part], max(0.1 * spread[part].max(), 1e-6))
    return lambda images: features(images) / spread


def _random_kernels(channels: int) -> list[tf.Tensor]:
    rng = np.random.default_rng(0)
    kernels = []
    for width in CHANNELS:
        scale = np.sqrt(2.0 / (9 * channels))
        kernels.append(tf.constant(scale * rng.normal(size=(3, 3, channels, width)), tf.float32))
        channels = width
    return kernels
