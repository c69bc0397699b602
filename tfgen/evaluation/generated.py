"""Figures of a family judged by its samples, each beside the same figure of real images.

Features and classes come from a classifier that the zoo ships, trained on real images before any
model was judged by it. Sizes are equal on both sides, because most of these figures move with
them, and stand in the names.
"""

import math

import numpy as np

from tfgen import data, zoo
from tfgen.evaluation import features
from tfgen.evaluation.classes import ClassBalance, ClassifierScore
from tfgen.evaluation.frechet import FrechetDistance
from tfgen.evaluation.kernel import kernel_distance
from tfgen.evaluation.neighbours import density_coverage, nearest_distances, precision_recall

__all__ = ["conditional_accuracy", "sample_quality"]

# {name: (value, unit)}, or (value, unit, absolute tolerance of a repeated measurement).
Figures = dict[str, tuple[float, str] | tuple[float, str, float]]

MAX_QUERIES = 10_000  # of the pixel-space search, whose time grows with them
NUM_FITTED = 10_000  # training images of the second classifier


def sample_quality(
    model,
    data_name: str,
    num_samples: int = 10_000,
    split: str = "test",
    evaluator: str = "classifier_mnist",
    verbose: int = 1,
) -> Figures:
    """Measures samples against a held-out split, and train images against it as the floor.

    Fidelity and coverage are taken on the evaluator's features: Frechet classifier distance,
    kernel distance, precision, recall, density, coverage. Its probabilities give the classifier
    score and the balance of classes. Copying would show in the pixels: the distances of samples
    to their nearest training images would be smaller than those of held-out images.

    Args:
        model: A model that can be sampled from; sample i has seed i, and class i modulo
            `num_classes` if it is conditional.
        data_name: For `tfgen.data`.
        num_samples: Samples, held-out images and train images (the first ones of each split).
        split: "test", or "validation" to choose by.
        evaluator: The zoo's name of a classifier with `features` and `probabilities`.
        verbose: 1 shows a progress bar.

    Raises:
        ValueError: A split has fewer than `num_samples` images.
        NotImplementedError: The family cannot be sampled from.
    """
    train, held_out = data.arrays(data_name, "train")[0], data.arrays(data_name, split)[0]
    smaller = min(len(train), len(held_out))
    if num_samples > smaller:
        raise ValueError(
            f"num_samples must be at most {smaller}, the images in the smaller of the train and "
            f"{split} splits of {data_name!r}; received {num_samples}. Lower num_samples."
        )
    judge = zoo.load(evaluator)
    samples, _ = _draw(model, num_samples, verbose)
    held_out = held_out[:num_samples]
    real = judge.features(held_out)
    return {
        **_beside_floor(
            _against(real, judge.features(samples)),
            _against(real, judge.features(train[:num_samples])),
            num_samples,
            split,
        ),
        **_classes(judge.probabilities(samples), f"{num_samples} samples"),
        **_classes(judge.probabilities(held_out), f"{num_samples} {split} images"),
        **_diversity(samples[:MAX_QUERIES], train, "samples"),
        **_diversity(held_out[:MAX_QUERIES], train, f"{split} images"),
    }


def _draw(model, num_samples: int, verbose: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns samples, and the labels that were asked for if the model is conditional."""
    labels = None
    if model.num_classes is not None:
        labels = np.arange(num_samples) % model.num_classes
    samples = model.sample(num_samples, labels=labels, seed=0, batch_size=500, verbose=verbose)
    return samples, labels


def _against(real: np.ndarray, other: np.ndarray) -> Figures:
    """Measures the features of some images, (rows, features), against those of real ones."""
    frechet = FrechetDistance(real.shape[1])
    frechet.update_state(real, other)
    kernel, error = kernel_distance(real, other, min(1000, len(real) // 2))
    precision, recall = precision_recall(real, other)
    density, coverage = density_coverage(real, other)
    return {
        "Frechet classifier distance": (float(frechet.result()), "squared feature units"),
        "kernel distance": (kernel, "squared MMD", error),
        "kernel distance's standard error": (error, "squared MMD", 0.1 * error),
        "precision (k = 3)": (precision, "share"),
        "recall (k = 3)": (recall, "share"),
        "density (k = 5)": (density, "1 if real"),
        "coverage (k = 5)": (coverage, "share"),
    }


def _beside_floor(drawn: Figures, floor: Figures, count: int, split: str) -> Figures:
    figures = {}
    for name, figure in drawn.items():
        figures[f"{name}, {count} samples against {count} {split} images"] = figure
        figures[f"{name}, {count} real train images against {count} {split} images"] = floor[name]
    for name in ("Frechet classifier distance", "precision (k = 3)", "recall (k = 3)"):
        below = floor[name][0]
        ratio = drawn[name][0] / below if below > 0.0 else math.inf
        figures[f"{name}, samples / real train images"] = (ratio, "ratio")
    return figures


def _classes(probabilities: np.ndarray, whose: str) -> Figures:
    """Judges classes from probabilities, (rows, classes)."""
    num_classes = probabilities.shape[1]
    score, balance = ClassifierScore(num_classes), ClassBalance(num_classes)
    score.update_state(probabilities)
    balance.update_state(probabilities.argmax(1))
    found = balance.result()
    return {
        f"classifier score of {whose}": (float(score.result()), f"1 to {num_classes}"),
        f"classes present in {whose}": (float(found["classes_present"]), f"of {num_classes}"),
        f"rarest class' share of {whose}": (100.0 * float(found["rarest_class"]), "%", 0.05),
    }


def _diversity(images: np.ndarray, train: np.ndarray, whose: str) -> Figures:
    distances = nearest_distances(_flat(images), _flat(train))
    where = f"distance to the nearest of {len(train)} train images, {len(images)} {whose}"
    unit = "Euclidean, pixels in [0, 1]"
    return {
        f"median {where}": (float(np.median(distances)), unit),
        f"1st percentile of {where}": (float(np.percentile(distances, 1.0)), unit),
    }


def conditional_accuracy(
    model,
    data_name: str,
    num_samples: int = 10_000,
    evaluator: str = "classifier_mnist",
    verbose: int = 1,
) -> Figures:
    """Measures how many samples of a conditional model two classifiers take for what was asked.

    One is the evaluator. The other is of another kind, and no model was chosen by it: a support
    vector machine (RBF kernel, C = 5) on the raw pixels of 10,000 training images. Beside each
    stands its accuracy on real test images: the rate that perfect samples would have.

    Args:
        model: A class-conditional model; sample i has seed i and class i modulo `num_classes`.
        data_name: For `tfgen.data`; it must have labels.
        num_samples: How many samples.
        evaluator: The zoo's name of a classifier with `probabilities`.
        verbose: 1 shows a progress bar.

    Raises:
        ValueError: The model is not conditional, or the data has no labels.
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.svm import SVC
    except ImportError as error:
        raise ImportError(
            "conditional_accuracy needs scikit-learn, which is not installed. "
            "Install it with: pip install tfgen[data]"
        ) from error
    if model.num_classes is None:
        raise ValueError(
            "model must be class-conditional for this figure; received one with num_classes=None. "
            "Load a conditional one, or measure sample_quality."
        )
    train, train_labels = (part[:NUM_FITTED] for part in features.labelled(data_name, "train"))
    test, labels = features.labelled(data_name, "test")
    judge = zoo.load(evaluator)
    samples, asked = _draw(model, num_samples, verbose)
    machine = SVC(C=5.0, gamma="scale").fit(_flat(train), train_labels)
    figures = {}
    for name, classify in (
        (evaluator, lambda images: judge.probabilities(images).argmax(1)),
        (f"an SVC on {len(train)} images' pixels", lambda images: machine.predict(_flat(images))),
    ):
        rate = 100.0 * float(np.mean(classify(samples) == asked))
        accuracy = 100.0 * float(np.mean(classify(test) == labels))
        figures[f"{num_samples} samples classified as asked by {name}"] = (rate, "%")
        figures[f"{len(test)} test images classified correctly by {name}"] = (accuracy, "%")
        figures[f"samples' rate less test images' by {name}"] = (
            rate - accuracy,
            "points",
            0.05,
        )
    return figures


def _flat(images: np.ndarray) -> np.ndarray:
    """Images as rows of pixels in [0, 1], float32 (batch, height width channels)."""
    return images.reshape(len(images), -1) / np.float32(255.0)
