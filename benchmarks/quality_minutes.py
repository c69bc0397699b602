"""Quality against minutes of training: one chart and one table over runs of several families.

Train with kept weights, then measure them; the time of training is that of the run's log.csv:

    tfgen train vae_mnist --out runs/vae --keep-epochs 1
    tfgen train gan_mnist --out runs/gan --keep-epochs 2
    python benchmarks/quality_minutes.py runs/vae runs/gan --out quality_minutes.png

Minutes count everything that a run does: steps, validation, pictures. They are those of the machine
that trained; compare runs of one machine. A run with more than 8 kept epochs (--epochs) is measured
at its first, its last and some between them, at growing distances. Runs are named after their
folders. With --write the table goes into a page, between the lines <!-- quality_minutes: begin -->
and <!-- quality_minutes: end -->, and the chart next to it, into drawings/quality_minutes.png.

--peers adds what `peers/run.py` has drawn with other projects' models, on the same machine and for
one or several numbers of minutes, to be judged in the same way.
"""

import csv
import json
import sys
from pathlib import Path

import common

SECTION = "quality_minutes"  # of the page
# What `--metric` measures unless `--arguments` says otherwise, and which of its results is shown.
METRICS = {
    "sample_quality": ({"num_samples": 2000, "split": "validation"}, "Frechet"),
    "log_likelihood": ({"split": "validation"}, "bits per dimension"),
    "accuracy": ({"split": "validation"}, ""),
}


def epochs_of(run: Path, most: int) -> list[tuple[int, float]]:
    """Returns which of a run's kept weights to measure, all of them unless there are more.

    Args:
        run: A run's folder.
        most: How many, at least 2: the first, the last, and some between them.

    Returns:
        (epoch, minutes trained) of each.

    Raises:
        SystemExit: The folder is not that of a run with kept weights.
    """
    import numpy as np

    lacking = [name for name in ("recipe.json", "log.csv") if not (run / name).is_file()]
    if lacking:
        raise SystemExit(f"a run must be a folder with {' and '.join(lacking)}; received {run}.")
    with (run / "log.csv").open(newline="") as file:
        seconds = {int(row["epoch"]) + 1: float(row["seconds"]) for row in csv.DictReader(file)}
    kept = [epoch for epoch in sorted(seconds) if weights_of(run, epoch).is_file()]
    if not kept:
        raise SystemExit(f"{run} holds no weights of epochs: train with --keep-epochs 1.")
    if len(kept) > most:
        places = np.geomspace(1, len(kept), most)
        kept = [kept[i] for i in sorted({round(place) - 1 for place in places})]
    return [(epoch, seconds[epoch] / 60) for epoch in kept]


def weights_of(run: Path, epoch: int) -> Path:
    """Returns the file with the weights that a run keeps of an epoch."""
    return run / "epochs" / f"epoch_{epoch:04d}.npz"


def measured(
    run: Path, epochs: list[tuple[int, float]], metric: str, arguments: dict, result: str
) -> list[dict]:
    """Returns the points of one run.

    Args:
        run: Its folder.
        epochs: From `epochs_of`.
        metric: One of `METRICS`.
        arguments: Of the metric.
        result: Part of the name of the result to show; a ratio goes before others.

    Returns:
        For each epoch: epoch, minutes, value, and the value's label and unit.

    Raises:
        SystemExit: No result of the metric has that name.
    """
    from tfgen import data, evaluation, training, zoo

    recipe = zoo.load_recipe(run)
    model, source = training.build(recipe, 1), data.of_recipe(recipe)
    points = []
    for epoch, minutes in epochs:
        training.load_weights(weights_of(run, epoch), model)
        results = evaluation.METRICS[metric](model, source, **arguments, verbose=0)
        point = shown(results, result) | {"epoch": epoch, "minutes": minutes}
        points.append(point)
        value = f"{point['value']:.4g} {point['unit']}"
        print(f"{run.name}: epoch {epoch}, {minutes:.1f} minutes, {value}", flush=True)
    return points


def shown(results: dict, part: str) -> dict:
    """Returns value, label and unit of the result whose name holds `part`, a ratio before others.

    Raises:
        SystemExit: No result has such a name.
    """
    labels = [label for label in results if part in label]
    if not labels:
        raise SystemExit(f"no result of the metric holds {part!r}: {', '.join(results)}.")
    ratios = [label for label in labels if results[label].unit == "ratio"]
    label = (ratios or labels)[0]
    return {"value": results[label].value, "label": label, "unit": results[label].unit}


class Drawn:
    """Samples that are there already, in the place of a model for `sample_quality`."""

    num_classes = None

    def __init__(self, images):
        self.images = images

    def nearest_level(self, images):
        """The images of a data set as they are: binary ones are binary there."""
        return images

    def sample(self, num_samples: int, **ignored):
        """Returns the first of them."""
        return self.images[:num_samples]


def of_peers(folder: Path, arguments: dict, result: str) -> dict[str, list[dict]]:
    """Returns the points of all peers of which `peers/run.py` has drawn enough samples.

    Args:
        folder: What it calls --out.
        arguments: Of `sample_quality`, with `num_samples`.
        result: As for `measured`.

    Raises:
        SystemExit: The folder holds no such samples.
    """
    import numpy as np
    from peers.run import PEERS

    from tfgen import evaluation

    found: dict[str, list[dict]] = {}
    for path in folder.glob("*_minutes/*/samples.npz"):
        name, minutes = path.parent.name, float(path.parts[-3].removesuffix("_minutes"))
        if name not in PEERS or not path.with_name("figures.json").is_file():  # written last
            continue
        with np.load(path) as arrays:
            images = arrays["images"]
        if len(images) < arguments["num_samples"]:
            continue
        model, data = Drawn(images), PEERS[name].data
        results = evaluation.METRICS["sample_quality"](model, data, **arguments, verbose=0)
        point = shown(results, result) | {"epoch": None, "minutes": minutes}
        found.setdefault(name, []).append(point)
        print(f"{name}: {minutes:g} minutes, {point['value']:.4g} {point['unit']}", flush=True)
    if not found:
        raise SystemExit(f"{folder} holds no {arguments['num_samples']} samples of any peer.")
    return {name: sorted(found[name], key=lambda point: point["minutes"]) for name in sorted(found)}


LESS = ("Frechet", "kernel", "negative log-likelihood", "bits per dimension")  # is better


def draw(runs: dict[str, list[dict]], path: Path) -> None:
    """Draws a line for each run, both axes logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    first = next(iter(runs.values()))[0]
    less = any(word in first["label"] for word in LESS)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(
        xlabel="minutes of training",
        ylabel=f"{first['label']}\n({first['unit']}{', less is better' if less else ''})",
    )
    for place, (name, points) in enumerate(runs.items()):
        ours = points[0]["epoch"] is not None
        axes.plot(
            [p["minutes"] for p in points],
            [p["value"] for p in points],
            marker=common.MARKS[place % len(common.MARKS)],
            linestyle="-" if ours else "--",
            label=name,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right upper")
    common.save_chart(figure, path)


def main(arguments: list[str] | None = None) -> int:
    parser = common.parser(__doc__, repeats=None)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs with kept epochs")
    parser.add_argument("--metric", choices=METRICS, default="sample_quality")
    parser.add_argument("--arguments", type=json.loads, help="of the metric, as JSON")
    parser.add_argument("--result", help="part of the name of the result to show")
    parser.add_argument(
        "--epochs", type=int, default=8, help="of each run, at most; at least 2 (default 8)"
    )
    parser.add_argument("--peers", type=Path, help="results of peers/run.py, to be judged as well")
    parser.add_argument("--out", type=Path, default=Path("quality_minutes.png"), help="the chart")
    parser.add_argument("--write", type=Path, help="the page whose table is replaced")
    given = parser.parse_args(arguments)
    if len({run.name for run in given.runs}) < len(given.runs):
        parser.error("the folders of the runs must differ in their last names")
    if given.epochs < 2:
        parser.error(f"--epochs must be at least 2; received {given.epochs}")
    if given.peers is not None and given.metric != "sample_quality":
        parser.error("--peers goes with --metric sample_quality alone")
    defaults, result = METRICS[given.metric]
    settings = defaults | (given.arguments or {})
    result = result if given.result is None else given.result
    if given.write is not None:
        common.around_section(given.write, SECTION)
        given.out = given.write.parent / "drawings" / "quality_minutes.png"
    epochs = [epochs_of(run, given.epochs) for run in given.runs]
    runs = {
        run.name: measured(run, chosen, given.metric, settings, result)
        for run, chosen in zip(given.runs, epochs, strict=True)
    }
    if given.peers is not None:
        runs |= of_peers(given.peers, settings, result)
    draw(runs, given.out)
    rows = [
        [name, str(p["epoch"] or ""), f"{p['minutes']:.2f}", f"{p['value']:.4g}"]
        for name, points in runs.items()
        for p in points
    ]
    first = next(iter(runs.values()))[0]
    header = ["run", "epoch", "minutes", first["unit"]]
    if given.write is not None:
        chart = f"![{first['label']} against minutes of training](drawings/{given.out.name})"
        parts = [f"{first['label']}:", common.markdown(header, rows), chart]
        common.write_section(given.write, SECTION, parts)
    table = common.format_table(header, rows)
    verdict = f"{first['label']}; chart in {given.out}"
    return common.finish(table, {"runs": runs}, True, verdict, given.json)


if __name__ == "__main__":
    sys.exit(main())
