"""What a training step and a sample cost against batch, width and image side, for each family.

    python benchmarks/scaling.py --out FOLDER [--only VAE GAN ...] [--vary batch ...]
        [--write docs/benchmarks.md]

One small model of each family at batch 32, width 1 and 32x32 grey images; then one of the three
changes while the others stay. Each point gives

train     milliseconds an image of `fit` from the end of its first step to that of its last, the
          batch already in memory
sample    milliseconds an image of `sample`; `decode` for the autoencoder, which draws nothing
limit     the multiply-adds of an image over the machine's rate: all products and convolutions in
          the graph of the training step, forward and backward; for a sample those of one pass
          through what draws it, which for a pixel model is the whole network
over      the time over its limit

The machine's rate is that of products of 2048x2048 matrices, measured next to each point, so a
throttled machine slows both. Times are medians of rounds in which training and sampling take turns.
Activations, normalisations, noise and the optimizer count no multiply-adds.

--out holds a file for each family, written after each point: the same command goes on where it was
cut off, unless this machine is much faster or slower. The chart goes into drawings/scaling.png of
--out; with --write the table goes into the page, and the chart into drawings/ next to that.
"""

import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import common
import numpy as np

VALUES = {"batch": (8, 32, 128), "width": (0.5, 1.0, 2.0), "side": (16, 32, 64, 128)}
AXES = ("batch size", "width relative to the base", "image side, pixels")
BASE = {"batch": 32, "width": 1.0, "side": 32}
MATRIX = 2048
SPREAD = 1.5  # fastest over slowest rate of a chart: machines of one name differ by a factor of 2
HEADER = (
    *("family", "batch", "width", "side", "train, ms", "limit", "over", "sample, ms"),
    *("limit", "over"),
)


def arguments_of(family: str, width: float) -> dict[str, Any]:
    """Returns a small model's constructor arguments, without its image shape."""

    def of(filters: int) -> int:
        return max(1, round(width * filters))

    stages = {"filters": [of(16), of(32)], "dense_units": of(128)}
    pixels = {
        "filters": of(32),
        "token_shape": [2, 2],
        "head_units": of(64),
        "pixel_distribution": "bernoulli",
        "num_levels": 2,
    }
    return {
        "AutoEncoder": {**stages, "latent_dim": 16},
        "VAE": {**stages, "latent_dim": 16, "pixel_distribution": "gaussian"},
        "HierarchicalVAE": {
            **stages,
            "top_dim": 16,
            "groups": [2, 2],
            "group_channels": [4, 4],
            "pixel_distribution": "bernoulli",
            "num_levels": 2,
        },
        "GAN": {**stages, "generator_filters": [of(48), of(16)], "latent_dim": 64},
        "PixelCNN": {**pixels, "num_blocks": 5},
        # Its rows are unrolled, so that all products stand in the graph.
        "PixelRNN": {**pixels, "num_blocks": 2, "cell": "row_lstm"},
    }[family]


FAMILIES = ("AutoEncoder", "VAE", "HierarchicalVAE", "GAN", "PixelCNN", "PixelRNN")


class Point(NamedTuple):
    """What is measured: a family, what changes, and the size of everything."""

    family: str
    batch: int
    width: float
    side: int


def points_of(family: str, varied: Sequence[str] = tuple(VALUES)) -> list[Point]:
    """Returns the base and all that differ from it in one thing."""
    made = {
        Point(family, **(BASE | {what: value})): None for what in varied for value in VALUES[what]
    }
    return list(made)


# Multiply-adds


def size(shape, batch: int) -> int:
    """Elements of a tensor; a first dimension that is not known is the batch.

    Raises:
        ValueError: Another one is not known.
    """
    if None in shape[1:]:
        raise ValueError(f"a tensor of shape {shape} cannot be counted")
    return math.prod(batch if length is None else length for length in shape)


def multiply_adds(operation, batch: int) -> int:
    """Returns those of a product or convolution, 0 for any other operation.

    Raises:
        ValueError: A kind of product that is not known here, or a loop with products, whose number
            of rounds is not in the graph.
    """
    import tensorflow as tf

    kind, inputs = operation.type, operation.inputs
    if kind in ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"):
        across = operation.get_attr("transpose_a" if kind == "MatMul" else "adj_x")
        inner = inputs[0].shape[-2 if across else -1]
        return size(operation.outputs[0].shape, batch) * (batch if inner is None else inner)
    if kind == "Einsum":
        equation = operation.get_attr("equation").decode().split("->")[0].split(",")
        lengths = {
            label: batch if length is None else length
            for labels, tensor in zip(equation, inputs, strict=True)
            for label, length in zip(labels, tensor.shape, strict=True)
        }
        return math.prod(lengths.values())
    if kind == "Conv2D":
        height, width, channels, _ = inputs[1].shape
        return size(operation.outputs[0].shape, batch) * height * width * channels
    if kind == "Conv2DBackpropInput":
        height, width, channels, _ = inputs[1].shape
        return size(inputs[2].shape, batch) * height * width * channels
    if kind == "Conv2DBackpropFilter":
        filters = operation.outputs[0].shape
        if filters.rank is None or None in filters.as_list():
            filters = tf.get_static_value(inputs[1])
        height, width, channels, _ = (int(length) for length in filters)
        return size(inputs[2].shape, batch) * height * width * channels
    if kind in ("While", "StatelessWhile"):
        body = operation.graph._get_function(operation.get_attr("body").name).graph
        if not any(multiply_adds(inner, batch) for inner in operations_of(body)):
            return 0
    elif "Conv" not in kind and "MatMul" not in kind:
        return 0
    raise ValueError(f"the multiply-adds of {operation.name} ({kind}) cannot be counted")


def operations_of(graph) -> Iterator[Any]:
    """Yields what a graph must run for its outputs and effects, and what its functions must run.

    Loops are not entered: noise is drawn in them, and `multiply_adds` refuses those with products.
    """
    waiting = [tensor.op for tensor in graph.outputs] + list(graph.control_outputs)
    seen = set(waiting)
    while waiting:
        operation = waiting.pop()
        yield operation
        for name in ("f", "then_branch"):
            try:
                called = operation.get_attr(name)
            except ValueError:
                continue
            yield from operations_of(graph._get_function(called.name).graph)
        before = {tensor.op for tensor in operation.inputs} | set(operation.control_inputs)
        waiting += before - seen
        seen |= before


def counted(function: Callable, batch: int, *specs) -> int:
    """Returns the multiply-adds of a call, traced for these shapes."""
    import tensorflow as tf

    traced = tf.function(function, autograph=False).get_concrete_function(*specs)
    return sum(multiply_adds(operation, batch) for operation in operations_of(traced.graph))


def drawing(model, batch: int):
    """Returns (function, input) of the pass that draws a batch."""
    import tensorflow as tf

    if model.draws_by_pixel:
        spec = tf.TensorSpec((batch, *model.token_grid.shape), tf.float32)
        return lambda tokens: model.parameters_of(tokens, model.conditions(batch, None, 0)), spec
    network = getattr(model, "generator", None) or model.decoder
    return network, tf.TensorSpec((batch, model.latent_dim), tf.float32)


# Times


def tensorflow_rate() -> float:
    """Returns multiply-adds a second in TensorFlow's products of matrices, the best of five."""
    import tensorflow as tf

    matrix = tf.random.normal((MATRIX, MATRIX))
    tf.matmul(matrix, matrix).numpy()
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        tf.matmul(matrix, matrix).numpy()
        best = min(best, time.perf_counter() - start)
    return MATRIX**3 / best


def repeated(work: Callable[[int], float], seconds: float) -> Callable[[], float]:
    """Returns a measurement: work(times), which is seconds a time, for so many times as fit."""
    work(2)
    times = max(3, round(seconds / work(4)))
    return lambda: work(times)


def measured(point: Point, repeats: int, seconds: float, jit_compile: bool) -> dict[str, float]:
    """Builds one model and returns its times, counts and the machine's rate."""
    import keras
    import tensorflow as tf

    from tfgen import training
    from tfgen.recipe import Recipe
    from tfgen.training.batches import untuned

    shape = [point.side, point.side, 1]
    recipe = Recipe(
        family=point.family,
        model={"image_shape": shape, **arguments_of(point.family, point.width)},
        data="digits",  # never read
        batch_size=point.batch,
        jit_compile=jit_compile,
    )
    model = training.build(recipe, 10**6)
    spec = tf.TensorSpec((point.batch, *shape), tf.uint8)
    network, drawn = drawing(model, point.batch)
    counts = {
        "train": counted(model.train_step, point.batch, spec) / point.batch,
        "sample": counted(network, point.batch, drawn) / point.batch,
    }
    levels = np.random.default_rng(0).integers(0, 2, (point.batch, *shape))
    images = tf.constant(255 * levels, tf.uint8)

    def train(steps: int) -> float:
        # Without the thread that tunes buffers, for which `fit` may wait at its end.
        batches = untuned(tf.data.Dataset.from_tensors(images).repeat(steps))
        ends: list[float] = []
        note = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter())
        )
        model.fit(batches, shuffle=False, verbose=0, callbacks=[note])
        return (ends[-1] - ends[0]) / (steps - 1)

    latents = np.zeros((point.batch, getattr(model, "latent_dim", 1)), np.float32)

    def sample(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            if "sample" in model.endpoints():
                model.sample(point.batch, seed=0)
            else:
                model.decode(latents)
        return (time.perf_counter() - start) / times

    sides = {"train": repeated(train, seconds), "sample": repeated(sample, seconds)}
    taken = common.interleaved(sides, repeats)
    found = {"rate": tensorflow_rate()}
    for side in sides:
        found[f"{side}_seconds"] = statistics.median(taken[side]) / point.batch
        found[f"{side}_multiply_adds"] = counts[side]
        found[f"{side}_over"] = found[f"{side}_seconds"] / (counts[side] / found["rate"])
    return found


def file_of(family: str, given) -> Path:
    return given.out / f"{family}{'_jit' if given.jit else ''}.json"


def known_points(given) -> dict[str, list[dict[str, Any]]]:
    """Returns what the families' files hold."""
    paths = {family: file_of(family, given) for family in FAMILIES}
    return {
        family: json.loads(path.read_text()) if path.is_file() else []
        for family, path in paths.items()
    }


def measure_family(family: str, found: dict[str, list[dict[str, Any]]], given) -> None:
    """Measures what a family's file does not hold yet, and adds it to the file and to `found`."""
    path, done = file_of(family, given), found[family]
    known = {tuple(one[name] for name in Point._fields) for one in done}
    for point in points_of(family, given.vary):
        if tuple(point) in known or point.side > given.largest:
            continue
        new = point._asdict() | measured(point, given.repeats, given.seconds, given.jit)
        same_speed([new, *itertools.chain(*found.values())], given.out)
        done.append(new)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(done, indent=2) + "\n")
        unfinished.replace(path)
        print(" ".join(row(new)), file=sys.stderr, flush=True)


def same_speed(points: list[dict[str, Any]], folder: Path) -> list[float]:
    """Returns at how many billion multiply-adds a second points were measured, which must agree."""
    rates = [one["rate"] / 1e9 for one in points]
    if max(rates) > SPREAD * min(rates):
        raise SystemExit(
            f"the points for {folder} come from machines of {min(rates):.0f} to {max(rates):.0f} "
            "billion multiply-adds a second, which one chart must not mix. Measure all of them "
            "again in a new folder (--out)."
        )
    return rates


# The report


def row(one: dict[str, Any]) -> list[str]:
    cells = [one["family"], f"{one['batch']}", f"{one['width']:g}", f"{one['side']}"]
    for side in ("train", "sample"):
        limit = one[f"{side}_multiply_adds"] / one["rate"]
        cells += [f"{1e3 * one[f'{side}_seconds']:.3g}", f"{1e3 * limit:.3g}"]
        cells.append(f"{one[f'{side}_over']:.1f}")
    return cells


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Draws milliseconds per image against each size; the limits are dotted."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator, StrMethodFormatter

    figure = Figure(figsize=(13, 7), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(VALUES), sharex="col", sharey="row")
    for axes_row, side in zip(grid, ("train", "sample"), strict=True):
        for axes, what in zip(axes_row, VALUES, strict=True):
            others = {name: value for name, value in BASE.items() if name != what}
            for index, family in enumerate(dict.fromkeys(one["family"] for one in found)):
                line = [
                    one
                    for one in found
                    if one["family"] == family
                    and all(one[name] == value for name, value in others.items())
                ]
                line.sort(key=lambda one: one[what])
                sizes, colour = [one[what] for one in line], f"C{index}"
                times = [1e3 * one[f"{side}_seconds"] for one in line]
                limits = [1e3 * one[f"{side}_multiply_adds"] / one["rate"] for one in line]
                axes.plot(sizes, times, marker=common.MARKS[index], color=colour, label=family)
                axes.plot(sizes, limits, ":", color=colour)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(VALUES[what], [f"{value:g}" for value in VALUES[what]])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.grid(alpha=0.3)
    for axes, name in zip(grid[-1], AXES, strict=True):
        axes.set_xlabel(name)
    for axes, name in zip(grid[:, 0], ("Training", "Sampling"), strict=True):
        axes.set_ylabel(f"{name}, ms per image")
    grid[0][0].plot([], [], "k:", label="limit: its arithmetic alone")
    grid[0][0].legend(fontsize=8)
    common.save_chart(figure, path)


def main(arguments: list[str] | None = None) -> int:
    parser = common.parser(__doc__, repeats=3)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--vary", nargs="+", choices=VALUES, default=list(VALUES))
    parser.add_argument("--out", type=Path, required=True, help="a file for each family")
    parser.add_argument("--seconds", type=float, default=2.0, help="a side and round")
    parser.add_argument("--largest", type=int, default=128, help="image side (default 128)")
    parser.add_argument("--jit", action="store_true", help="train with XLA")
    parser.add_argument("--write", type=Path, help="the page whose table is replaced")
    given = parser.parse_args(arguments)
    least = min(point.side for point in points_of(given.only[0], given.vary))
    if given.largest < least:
        parser.error(f"--largest must be at least {least}; received {given.largest}")
    if given.write is not None:
        common.around_section(given.write, "scaling")
    given.out.mkdir(parents=True, exist_ok=True)

    from tfgen.training import tune_allocator

    tune_allocator()
    by_family = known_points(given)
    for family in FAMILIES:
        if family in given.only:
            measure_family(family, by_family, given)
    found = list(itertools.chain(*by_family.values()))
    rows, rates = [row(one) for one in found], same_speed(found, given.out)
    caption = (
        f"{'With' if given.jit else 'Without'} XLA in training; TensorFlow's products of "
        f"{MATRIX}x{MATRIX} matrices at {min(rates):.0f} to {max(rates):.0f} billion multiply-adds "
        "a second."
    )
    page = given.out if given.write is None else given.write.parent
    draw(found, page / "drawings" / "scaling.png")
    if given.write is not None:
        chart = "![Milliseconds an image against batch, width and side](drawings/scaling.png)"
        common.write_section(
            given.write, "scaling", [caption, common.markdown(HEADER, rows), chart]
        )
    worst = max(found, key=lambda one: one["train_over"])
    return common.finish(
        f"{caption}\n\n{common.format_table(HEADER, rows)}",
        {"points": found},
        True,
        f"training is at worst {worst['train_over']:.1f}x its limit: {worst['family']}, batch "
        f"{worst['batch']}, width {worst['width']:g}, side {worst['side']}",
        given.json,
    )


if __name__ == "__main__":
    sys.exit(main())
