"""What the pretrained encoder is worth with 100 labelled MNIST images, 10 per class.

pretrained            Sequential([load(name).encoder, Dense(10)]), all weights trained
from scratch          the same network and training, from load(name, load_weights=False)
raw pixels, logistic  scikit-learn's LogisticRegression on pixels in [0, 1]
the same, shifted     fitted to all shifts of the 100 images, with the C of the row above
raw pixels, 1-NN      the class of the nearest labelled image
latents, logistic     LogisticRegression on model.encode(images), without training the encoder; for
                      information

Each seed draws different labelled images from the train split, the same for all rows, and different
initial weights. Accuracy is measured on all 10,000 test images, after training on the 100 alone.

Both network rows see each image randomly shifted by up to --shift pixels in each direction, by a
new amount each time. Without shifts (--shift 0) the two rows are closer together, because 100
images are soon learnt by heart.

Each network row chooses its own settings from one grid: Adam's learning rate, the number of epochs,
and whether Dense(10) is first trained alone on the frozen encoder. It takes those with the best
mean accuracy over the seeds on 1,000 images of the validation split. Nothing is standardised: the
encoder scales its input itself. The C of every logistic regression is chosen by 5-fold
cross-validation on the 100 images; its other settings are the defaults.

The entry must have been trained without labels, as `ae_mnist` was.

The limit: "pretrained" beats "from scratch" and both logistic regressions on pixels by more than
two standard errors of the paired difference over the seeds.
"""

import itertools
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import common
import keras
import numpy as np
import tensorflow as tf

TARGET = 2.0  # standard errors of the paired difference that pretrained must win by, more than
PER_CLASS = 10
NUM_CLASSES = 10
NUM_VALIDATION = 1000
BATCH_SIZE = 20
LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3)
EPOCHS = (20, 40, 80, 160)
HEAD_FIRST = (False, True)
HEAD_EPOCHS = 100
HEAD_LEARNING_RATE = 1e-2
INVERSE_PENALTIES = tuple(float(10.0**power) for power in range(-3, 3))  # C
ROWS = (
    "pretrained",
    "from scratch",
    "raw pixels, logistic",
    "the same, shifted",
    "raw pixels, 1-NN",
    "latents, logistic",
)
RIVALS = ("from scratch", "raw pixels, logistic", "the same, shifted")


class Labelled(NamedTuple):
    """Images uint8 (n, height, width, channels) and their classes int64 (n,)."""

    images: np.ndarray
    labels: np.ndarray


class Choice(NamedTuple):
    """An entry of the grid."""

    learning_rate: float
    epochs: int
    head_first: bool


class Network:
    """`Sequential([encoder, Dense(10)])`, compiled once and trained from any initial weights.

    Args:
        encoder: Images -> features.
        shift: Maximum shift of a training image, in pixels.
    """

    def __init__(self, encoder: keras.Model, shift: int):
        self.encoder, self.shift = encoder, shift
        head = keras.layers.Dense(NUM_CLASSES)
        self.whole = self._compiled(keras.Sequential([encoder, head]))
        # The frozen encoder's features never change, so the head alone is trained on them.
        self.head = self._compiled(keras.Sequential([keras.Input(encoder.output_shape[1:]), head]))
        self._fresh = [
            (optimizer, [v.numpy() for v in optimizer.variables])
            for optimizer in (self.whole.optimizer, self.head.optimizer)
        ]

    @staticmethod
    def _compiled(model: keras.Model) -> keras.Model:
        # Without XLA: a hundred images are trained on before it has compiled.
        model.compile(
            optimizer=keras.optimizers.Adam(),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        model.optimizer.build(model.trainable_variables)
        return model

    def train(
        self,
        weights: list[np.ndarray],
        data: Labelled,
        seed: int,
        learning_rate: float,
        epochs: Sequence[int],
        head_first: bool,
    ) -> Iterator[int]:
        """Trains from the encoder's `weights` and yields each number of epochs as it is reached."""
        keras.utils.set_random_seed(seed)  # of the head's weights and of the batches
        self.encoder.set_weights(weights)
        kernel, bias = self.whole.layers[-1].variables
        kernel.assign(keras.initializers.GlorotUniform(seed)(kernel.shape))
        bias.assign(np.zeros(bias.shape))
        for optimizer, fresh in self._fresh:
            for variable, value in zip(optimizer.variables, fresh, strict=True):
                variable.assign(value)
        if head_first:
            self.head.optimizer.learning_rate.assign(HEAD_LEARNING_RATE)
            features = self.encoder.predict(data.images, verbose=0)
            self._fit(self.head, features, data.labels, HEAD_EPOCHS, seed, 0)
        self.whole.optimizer.learning_rate.assign(learning_rate)
        done = 0
        for reached in epochs:
            self._fit(self.whole, data.images, data.labels, reached - done, seed + done, self.shift)
            done = reached
            yield reached

    @staticmethod
    def _fit(model, inputs, labels, epochs: int, seed: int, shift: int) -> None:
        from tfgen import noise, training

        # One long epoch of `fit`: the start of an epoch costs more than its five steps.
        batches = (
            tf.data.Dataset.from_tensor_slices((inputs, labels))
            .shuffle(len(labels), seed=seed)
            .batch(BATCH_SIZE)
            .repeat(epochs)
        )
        if shift:

            def moved(step, batch):
                images, labels = batch
                index = step * BATCH_SIZE + tf.range(BATCH_SIZE, dtype=tf.int64)
                return training.random_shift(images, noise.fold(seed, index), shift), labels

            batches = tf.data.Dataset.zip(tf.data.Dataset.counter(), batches).map(moved)
            batches = batches.take(epochs * -(-len(labels) // BATCH_SIZE))
        model.fit(batches, shuffle=False, verbose=0)

    def accuracy(self, data: Labelled) -> float:
        """Returns the share of images that are classified correctly."""
        logits = self.whole.predict(data.images, batch_size=500, verbose=0)
        return float(np.mean(np.argmax(logits, 1) == data.labels))


def labelled_subset(data: Labelled, seed: int) -> Labelled:
    """Draws `PER_CLASS` images of each class."""
    generator = np.random.default_rng(seed)
    chosen = np.concatenate(
        [
            generator.choice(np.flatnonzero(data.labels == label), PER_CLASS, replace=False)
            for label in range(NUM_CLASSES)
        ]
    )
    return Labelled(data.images[chosen], data.labels[chosen])


def network_row(
    network: Network,
    weights: list[list[np.ndarray]],
    subsets: list[Labelled],
    validation: Labelled,
    test: Labelled,
    grid: tuple[Sequence[float], Sequence[int], Sequence[bool]],
) -> tuple[Choice, float, list[float]]:
    """Returns the choice, its mean validation accuracy, and the test accuracy of each seed."""
    learning_rates, epochs, head_first = grid
    found: dict[Choice, list[float]] = {}
    for rate, first in itertools.product(learning_rates, head_first):
        for seed, subset in enumerate(subsets):
            for reached in network.train(weights[seed], subset, seed, rate, epochs, first):
                key = Choice(rate, reached, first)
                found.setdefault(key, []).append(network.accuracy(validation))
    best = max(found, key=lambda choice: statistics.mean(found[choice]))
    accuracies = []
    for seed, subset in enumerate(subsets):
        for _ in network.train(
            weights[seed], subset, seed, best.learning_rate, [best.epochs], best.head_first
        ):
            accuracies.append(network.accuracy(test))
    return best, statistics.mean(found[best]), accuracies


def classical_row(
    classifier: Callable[[], object],
    features: Callable[[np.ndarray], np.ndarray],
    subsets: list[Labelled],
    test: Labelled,
) -> list[float]:
    """Returns the test accuracy of a scikit-learn classifier for each seed."""
    inputs = features(test.images)
    return [
        float(classifier().fit(features(s.images), s.labels).score(inputs, test.labels))
        for s in subsets
    ]


def logistic():
    """Returns a logistic regression that chooses its C by cross-validation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    return GridSearchCV(LogisticRegression(max_iter=5000), {"C": INVERSE_PENALTIES}, cv=5)


def shifted_logistic(subset: Labelled, test: Labelled, shift: int) -> float:
    """Returns the test accuracy of a logistic regression on all shifts of the images."""
    from sklearn.linear_model import LogisticRegression

    chosen = logistic().fit(flat_pixels(subset.images), subset.labels).best_params_
    padded = np.pad(subset.images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
    height, width = subset.images.shape[1:3]
    moved = [
        flat_pixels(padded[:, top : top + height, left : left + width])
        for top, left in itertools.product(range(2 * shift + 1), repeat=2)
    ]
    model = LogisticRegression(max_iter=5000, **chosen)
    model.fit(np.concatenate(moved), np.tile(subset.labels, len(moved)))
    return float(model.score(flat_pixels(test.images), test.labels))


def nearest():
    """Returns a 1-nearest-neighbour classifier with Euclidean distance."""
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(1)


def flat_pixels(images: np.ndarray) -> np.ndarray:
    """Returns images as float32 rows in [0, 1]."""
    return images.reshape(len(images), -1).astype(np.float32) / 255.0


def paired(better: list[float], worse: list[float]) -> dict[str, float]:
    """Returns mean, standard deviation and standard error of the difference, and their ratio."""
    differences = [a - b for a, b in zip(better, worse, strict=True)]
    mean, deviation = statistics.mean(differences), statistics.stdev(differences)
    error = deviation / math.sqrt(len(differences))
    errors = mean / error if error else math.copysign(math.inf, mean) if mean else 0.0
    return {"mean": mean, "deviation": deviation, "error": error, "errors": errors}


def main() -> int:
    parser = common.parser(__doc__, repeats=None)
    parser.add_argument("--name", default="ae_mnist", help="entry with an encoder")
    parser.add_argument("--seeds", type=int, default=5, help="draws of 100 images, at least 2")
    parser.add_argument("--learning-rates", type=float, nargs="+", default=LEARNING_RATES)
    parser.add_argument("--epochs", type=int, nargs="+", default=EPOCHS)
    parser.add_argument("--shift", type=int, default=2, help="maximum shift in pixels")
    parser.add_argument("--test-images", type=int, help="use only the first ones (for a trial)")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error(f"--seeds must be at least 2, for a deviation; received {arguments.seeds}")
    epochs = sorted(set(arguments.epochs))
    if epochs[0] < 1:
        parser.error(f"--epochs must be at least 1; received {epochs[0]}")

    from tfgen import data, zoo

    train = Labelled(*data.arrays("mnist", "train"))
    validation = Labelled(*(a[:NUM_VALIDATION] for a in data.arrays("mnist", "validation")))
    test = Labelled(*(a[: arguments.test_images] for a in data.arrays("mnist", "test")))
    seeds = range(arguments.seeds)
    subsets = [labelled_subset(train, seed) for seed in seeds]

    model = zoo.load(arguments.name)
    if model.num_classes is not None:
        parser.error(f"--name must be an unconditional model; {arguments.name} needs labels")
    trained = model.encoder.get_weights()
    scratch = []
    for seed in seeds:
        keras.utils.set_random_seed(seed)
        scratch.append(zoo.load(arguments.name, load_weights=False).encoder.get_weights())

    def latents(images: np.ndarray) -> np.ndarray:
        return model.encode(images)

    # Before the encoder is trained on.
    accuracies = {
        "raw pixels, logistic": classical_row(logistic, flat_pixels, subsets, test),
        "the same, shifted": [shifted_logistic(s, test, arguments.shift) for s in subsets],
        "raw pixels, 1-NN": classical_row(nearest, flat_pixels, subsets, test),
        "latents, logistic": classical_row(logistic, latents, subsets, test),
    }
    network = Network(model.encoder, arguments.shift)
    grid = (arguments.learning_rates, epochs, HEAD_FIRST)
    choices = {}
    for row, weights in (("pretrained", [trained] * len(subsets)), ("from scratch", scratch)):
        choice, validated, accuracies[row] = network_row(
            network, weights, subsets, validation, test, grid
        )
        choices[row] = {**choice._asdict(), "validation_accuracy": validated}

    rows, differences = [], {}
    for row in ROWS:
        values = accuracies[row]
        cells = [
            row,
            f"{100 * statistics.mean(values):.2f}",
            f"{100 * statistics.stdev(values):.2f}",
            f"{100 * min(values):.2f}..{100 * max(values):.2f}",
        ]
        if row == "pretrained":
            cells += ["", "", ""]
        else:
            won = differences[row] = paired(accuracies["pretrained"], values)
            cells += [f"{100 * won['mean']:+.2f}", f"{100 * won['error']:.2f}"]
            cells += [f"{won['errors']:+.1f}"]
        rows.append(cells)
    header = (
        *("test accuracy, %", "mean", "deviation", "min..max"),
        *("pretrained wins by", "standard error", "in errors"),
    )
    chosen = "\n".join(
        f"{row}: learning rate {c['learning_rate']:g}, {c['epochs']} epochs, head "
        f"{'first' if c['head_first'] else 'along'}; "
        f"validation {100 * c['validation_accuracy']:.2f}"
        for row, c in choices.items()
    )
    least = min(differences[rival]["errors"] for rival in RIVALS)
    return common.finish(
        f"{arguments.name}: {len(subsets[0].labels)} labelled images, {len(subsets)} seeds, "
        f"{len(test.labels):,} test images\n\n{common.format_table(header, rows)}\n\n{chosen}",
        {
            "name": arguments.name,
            "labelled_images": len(subsets[0].labels),
            "test_images": len(test.labels),
            "accuracy": {
                row: {
                    "mean": statistics.mean(accuracies[row]),
                    "deviation": statistics.stdev(accuracies[row]),
                    "all": accuracies[row],
                }
                for row in ROWS
            },
            "pretrained_wins_by": differences,
            "chosen": choices,
            "grid": {
                "learning_rate": list(arguments.learning_rates),
                "epochs": epochs,
                "head_first": list(HEAD_FIRST),
            },
            "shift": arguments.shift,
            "target": TARGET,
        },
        least > TARGET,
        f"pretrained wins by {least:.1f} standard errors at least over {' and '.join(RIVALS)}, "
        f"limit more than {TARGET:g}",
        arguments.json,
    )


if __name__ == "__main__":
    sys.exit(main())
