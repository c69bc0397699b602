"""Whether a trained entry stays as good when `fit` goes on where its training ended.

Each entry is loaded, measured on images of its validation split, fitted for one epoch to images of
its own training split with what `load` compiled, and measured again. What is measured is the
validation loss; for a GAN, which has none, the Frechet distance of its samples to the validation
images in the features of the data set's judge, with the same seeds before and after.

    python benchmarks/going_on.py
    python benchmarks/going_on.py vae_mnist gan_mnist --train 6000

The limit: one epoch raises it by no more than 1 %.
"""

import sys
import time

import common

LIMIT = 0.01  # relative


def measured(model, source, training, split: tuple, count: int) -> float:
    """Returns the validation loss, or a GAN's Frechet distance."""
    from tfgen.evaluation import judges
    from tfgen.evaluation.distances import FrechetDistance

    images, labels = (None if array is None else array[:count] for array in split)
    labels = None if model.num_classes is None else labels
    if "loss" in model.loss_names:
        return model.evaluate(images, labels, batch_size=100, verbose=0, return_dict=True)["loss"]
    judge = judges.judge(source, training)
    samples = model.sample(len(images), labels=labels, seed=0)
    real = judge.features(images)
    distance = FrechetDistance(real.shape[1])
    distance.update_state(real, judge.features(samples))
    return float(distance.result())


def main() -> int:
    parser = common.parser(__doc__, repeats=None)
    parser.add_argument("names", nargs="*", help="entries (default: all that are trained)")
    parser.add_argument("--train", type=int, default=6000, help="training images")
    parser.add_argument("--validation", type=int, default=2000, help="validation images")
    arguments = parser.parse_args()

    import keras

    from tfgen import data, zoo

    rows, found = [], {}
    for name in arguments.names or zoo.list_models():
        keras.utils.set_random_seed(0)  # of the batches' order
        model, recipe = zoo.load(name), zoo.load_recipe(name)
        source = data.of_recipe(recipe)
        every, classes = data.arrays(source, "train")
        images = every[: arguments.train]
        labels = None if classes is None else classes[: arguments.train]
        validation = data.arrays(source, "validation")
        before = measured(model, source, every, validation, arguments.validation)
        start = time.perf_counter()
        model.fit(
            images,
            None if model.num_classes is None else labels,
            batch_size=recipe.batch_size,
            verbose=0,
        )
        seconds = time.perf_counter() - start
        after = measured(model, source, every, validation, arguments.validation)
        change = (after - before) / abs(before)
        what = "loss" if "loss" in model.loss_names else "Frechet distance"
        found[name] = {"what": what, "before": before, "after": after, "change": change}
        rows.append([name, what, f"{before:.5g}", f"{after:.5g}", f"{100 * change:+.2f} %"])
        print(*rows[-1], f"{seconds:.0f} s", file=sys.stderr, flush=True)
    # A loss that is no number is the worst of all, and no comparison with it holds.
    failed = [name for name, one in found.items() if not one["change"] <= LIMIT]
    worst = failed[0] if failed else max(found, key=lambda name: found[name]["change"])
    return common.finish(
        f"{arguments.train:,} training images, {arguments.validation:,} validation images\n\n"
        + common.format_table(("entry", "measured", "before", "after", "change"), rows),
        {"entries": found, "train": arguments.train, "validation": arguments.validation},
        not failed,
        f"an epoch changes {worst} by {100 * found[worst]['change']:+.2f} %, limit +1 %",
        arguments.json,
    )


if __name__ == "__main__":
    sys.exit(main())
