"""Metrics of samples, each next to the same metric of real images.

Features and classes come from a judge that was trained on real images before any model was judged
by it (see `judges`). Both sides have the same number of images, because most of these metrics
depend on it; it is part of their names.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from tfgen import checks, data
from tfgen.evaluation import judges
from tfgen.evaluation.distances import (
    FrechetDistance,
    density_coverage,
    kernel_distance,
    precision_recall,
)
from tfgen.evaluation.judges import ClassBalance, ClassifierScore
from tfgen.evaluation.latents import (
    check_conditional,
    classes_to_ask,
    evenly,
    flat,
    labelled,
    nearest_distances,
    on_levels,
)
from tfgen.evaluation.result import Result, Results
from tfgen.models.generative import GenerativeModel
from tfgen_command.wording import how_to_install, tell

__all__ = ["conditional_accuracy", "enough_images", "sample_quality"]

FEWEST_SAMPLES = 6  # on each side: more than the neighbours that density and coverage look at
ROUGH = 1_000  # images, below which a distance says little
MAX_SAMPLES = 10_000  # unless the recipe asks for more
MAX_QUERIES = 10_000  # images whose nearest training image is looked for, which takes time
NUM_FITTED = 10_000  # training images of the second classifier
VALUES_AT_ONCE = 2**28  # of training images as floats, 1 GiB


def sample_quality(
    model: GenerativeModel,
    data_name: data.Data,
    num_samples: int | None = None,
    split: str = "test",
    evaluator: str | None = None,
    verbose: int = 1,
) -> Results:
    """Samples against a held-out split, next to train images against it.

    Fidelity and coverage are taken on the judge's features: Frechet distance, kernel distance,
    precision, recall, density, coverage. Where the judge is a classifier, its probabilities give
    the classifier score and the balance of classes. Copying would show in the pixels: the
    distances of samples to their nearest training images would be smaller than those of held-out
    images. Real images are taken on the model's grey levels, so a binary model is compared with
    binary images. A ratio to real images is left out where their own value is 0. The judge was
    fitted to train images, so a Frechet ratio of 1 or less says only that samples are as close to
    the held-out images as those are.

    Args:
        model: A model that can be sampled from; sample i has seed i and, if it is conditional, a
            class as `latents.classes_to_ask` says.
        data_name: For `tfgen.data`.
        num_samples: Samples, held-out images and train images, at least 6, those of real images at
            equal distances over their split. None: as many as both splits have, up to 10,000.
        split: "test", or "validation" to choose by.
        evaluator: Name or folder of a classifier with `features` and `probabilities`. None: the
            judge of the data set.
        verbose: 1 shows a progress bar.

    Raises:
        ValueError: A split has fewer than `num_samples` images, or than 6.
        NotImplementedError: The family cannot be sampled from.
    """
    train = on_levels(model, data.arrays(data_name, "train")[0])
    held_out, labels = data.arrays(data_name, split)
    held_out = on_levels(model, held_out)
    num_samples = _checked(num_samples, min(len(train), len(held_out)), split, data_name)
    if num_samples < ROUGH:
        tell(f"Distances and ratios of {num_samples} images are rough, and flatter the model.")
    judge = judges.judge(data_name, train, evaluator)
    held_out = evenly(held_out, num_samples)
    real = judge.features(held_out)
    samples, _ = _draw(model, num_samples, labels, verbose)
    results = _with_baseline(
        _compare(real, judge.features(samples)),
        _compare(real, judge.features(evenly(train, num_samples))),
        f"{num_samples} images against {num_samples} {split} images",
    )
    if judge.probabilities is not None:
        results |= _classes(judge.probabilities(samples), judge.probabilities(held_out))
    results = {name: dataclasses.replace(r, judge=judge.name) for name, r in results.items()}
    queries = (evenly(images, MAX_QUERIES) for images in (samples, held_out))
    return results | _diversity(*queries, train)


def enough_images(data_name: data.Data, split: str = "test") -> bool:
    """Whether a data set has the images that `sample_quality` needs at least."""
    splits = [data.open_split(data_name, part, memory_bytes=0) for part in ("train", split)]
    return min(opened.count for opened in splits) >= FEWEST_SAMPLES


def _checked(num_samples: int | None, smaller: int, split: str, data_name: data.Data) -> int:
    """Returns how many samples to draw, or raises ValueError."""
    if smaller < FEWEST_SAMPLES:
        raise ValueError(
            f"data must have at least {FEWEST_SAMPLES} images in each of its train and {split} "
            f"splits for sample_quality; the smaller one of {data_name!r} has {smaller}. Add "
            "images, or measure another metric."
        )
    if num_samples is None:
        return min(MAX_SAMPLES, smaller)
    checks.at_least(FEWEST_SAMPLES, num_samples=num_samples)
    if num_samples > smaller:
        raise ValueError(
            f"num_samples must be at most {smaller}, the images in the smaller of the train and "
            f"{split} splits of {data_name!r}; received {num_samples}. Lower num_samples."
        )
    return num_samples


def _draw(
    model: GenerativeModel, num_samples: int, labels: np.ndarray | None, verbose: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns samples, and the classes that were asked for if the model is conditional."""
    asked = None
    if model.num_classes is not None:
        asked = classes_to_ask(model, num_samples, labels)
    samples = model.sample(num_samples, labels=asked, seed=0, verbose=verbose)
    return samples, asked


def _compare(real: np.ndarray, other: np.ndarray) -> Results:
    """Compares the features of some images, (rows, features), with those of real ones."""
    frechet = FrechetDistance(real.shape[1])
    frechet.update_state(real, other)
    kernel, error = kernel_distance(real, other, min(1000, len(real) // 2))
    precision, recall = precision_recall(real, other)
    density, coverage = density_coverage(real, other)
    return {
        "Frechet distance": Result(float(frechet.result()), "squared feature units"),
        "kernel distance": Result(kernel, "squared MMD", tolerance=error),
        "standard error of the kernel distance": Result(
            error, "squared MMD", tolerance=0.1 * error
        ),
        "precision (k = 3)": Result(precision, "share"),
        "recall (k = 3)": Result(recall, "share"),
        "density (k = 5)": Result(density, "about 1 for many real images"),
        "coverage (k = 5)": Result(coverage, "share"),
    }


def _with_baseline(samples: Results, baseline: Results, how: str) -> Results:
    """Returns the samples' results with those of real images, then their finite ratios."""
    results = {
        f"{name}, {how}": dataclasses.replace(result, real=baseline[name].value)
        for name, result in samples.items()
    }
    for name in ("Frechet distance", "precision (k = 3)", "recall (k = 3)"):
        real = baseline[name].value
        if real > 0.0:
            ratio = samples[name].value / real
            results[f"{name}, samples / real images"] = Result(ratio, "ratio")
    return results


def _classes(samples: np.ndarray, real: np.ndarray) -> Results:
    """Judges classes from the probabilities of samples and of real images, (rows, classes)."""
    of_samples, of_real = _class_metrics(samples), _class_metrics(real)
    return {
        f"{name} in {len(samples)} images": Result(value, unit, of_real[name][0], tolerance)
        for name, (value, unit, tolerance) in of_samples.items()
    }


def _class_metrics(probabilities: np.ndarray) -> dict[str, tuple[float, str, float]]:
    """Returns (value, unit, tolerance) of each metric of classes."""
    num_classes = probabilities.shape[1]
    score, balance = ClassifierScore(num_classes), ClassBalance(num_classes)
    score.update_state(probabilities)
    balance.update_state(probabilities.argmax(1))
    found = balance.result()
    return {
        "classifier score": (float(score.result()), f"1 to {num_classes}", 0.0),
        "classes present": (float(found["classes_present"]), f"of {num_classes}", 0.0),
        "share of the rarest class": (100.0 * float(found["rarest_class"]), "%", 0.05),
    }


def _diversity(samples: np.ndarray, held_out: np.ndarray, train: np.ndarray) -> Results:
    """Distances to the nearest training image, of samples and of held-out images."""
    distances = [_to_nearest(images, train) for images in (samples, held_out)]
    where = f"distance to the nearest of {len(train)} train images, {len(samples)} images"
    unit = "Euclidean, pixels in [0, 1]"
    median = [float(np.median(found)) for found in distances]
    low = [float(np.percentile(found, 1.0)) for found in distances]
    return {
        f"median {where}": Result(median[0], unit, median[1]),
        f"1st percentile of {where}": Result(low[0], unit, low[1]),
    }


def _to_nearest(images: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Returns the distance of each image to the nearest training image, part after part of them."""
    rows = max(1, VALUES_AT_ONCE // train[0].size)
    parts = (train[start : start + rows] for start in range(0, len(train), rows))
    queries = flat(images)
    return functools.reduce(np.minimum, (nearest_distances(queries, flat(part)) for part in parts))


def conditional_accuracy(
    model: GenerativeModel,
    data_name: data.Data,
    num_samples: int = 10_000,
    evaluator: str | None = None,
    verbose: int = 1,
) -> Results:
    """Share of a conditional model's samples that two classifiers take for what was asked.

    One is the evaluator of the data set. The other is of another kind, and no model was chosen by
    it: a support vector machine (RBF kernel, C = 5) on the raw pixels of 10,000 training images.
    Next to each stands its accuracy on real test images, to compare with.

    Args:
        model: A conditional one; sample i has seed i and a class as `classes_to_ask` says.
        data_name: For `tfgen.data`; it must have labels.
        num_samples: How many samples.
        evaluator: Name or folder of a classifier with `probabilities`. None: the evaluator of the
            data set, if the zoo has one.
        verbose: 1 shows a progress bar.

    Raises:
        ValueError: The model is not conditional, or the data has no labels.
        ImportError: scikit-learn is not installed.
    """
    SVC = svc()
    check_conditional(model)
    train, train_labels = labelled(data_name, "train")
    train, train_labels = evenly(train, NUM_FITTED), evenly(train_labels, NUM_FITTED)
    test, labels = labelled(data_name, "test")
    train, test = on_levels(model, train), on_levels(model, test)
    rows = flat(train)
    kernel = _rbf_kernel(rows)
    svm = SVC(C=5.0, kernel="precomputed").fit(kernel(rows), train_labels)
    classifiers = {
        f"a support vector machine trained on {len(train)} images": lambda images: np.concatenate(
            [svm.predict(kernel(part)) for part in _batches(flat(images))]
        )
    }
    if evaluator or judges.classifier(data_name):  # plain features know no classes
        judge = judges.judge(data_name, train, evaluator)
        classifiers = {
            judge.name: lambda images: judge.probabilities(images).argmax(1)
        } | classifiers
    found = {name: np.mean(classify(test) == labels) for name, classify in classifiers.items()}
    samples, asked = _draw(model, num_samples, labels, verbose)
    results = {}
    for name, classify in classifiers.items():
        rate = 100.0 * float(np.mean(classify(samples) == asked))
        accuracy = 100.0 * float(found[name])
        results |= {
            f"{num_samples} samples classified as asked by {name}": Result(rate, "%", accuracy),
            f"gap to real test images, {name}": Result(rate - accuracy, "points", tolerance=0.05),
        }
    return results


def svc() -> type:
    """Returns scikit-learn's support vector machine, or raises ImportError."""
    try:
        from sklearn.svm import SVC
    except ImportError as error:
        raise ImportError(
            "conditional_accuracy needs scikit-learn, which is not installed. "
            + how_to_install("data")
        ) from error
    return SVC


def _rbf_kernel(train: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Returns rows (n, pixels) -> exp(-gamma |row - train|^2), (n, train), as products of matrices.

    gamma is scikit-learn's "scale", 1 / (pixels * variance). Its own kernel takes pair after pair,
    which for images in colour is ten times slower.
    """
    train = train.astype(np.float64)
    gamma = 1.0 / (train.shape[1] * train.var())
    norms, scaled = gamma * np.square(train).sum(1), 2.0 * gamma * train.T

    def kernel(rows):
        rows = rows.astype(np.float64)
        found = rows @ scaled  # in place from here on: it can be a gigabyte
        found -= norms
        found -= gamma * np.square(rows).sum(1)[:, None]
        return np.exp(found, out=found)

    return kernel


def _batches(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + 500] for start in range(0, len(rows), 500)]
