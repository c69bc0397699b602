"""The command line: `tfgen list`, `sample`, `train`, `evaluate`, ...

Bad input ends with exit code 2 and one line, a lost connection to another worker with 75 and one
line; anything else that goes wrong is a bug and shows its traceback.
"""

import json
import os
from pathlib import Path
from typing import Annotated

import numpy as np
import tensorflow as tf
import typer
from rich.console import Console
from rich.table import Table

from tfgen import data, devices, plots, training, zoo
from tfgen import evaluation as measuring
from tfgen import export as exporting
from tfgen.models.generative import GenerativeModel
from tfgen.serving.cli import serve

__all__ = ["app", "main"]

app = typer.Typer(
    help="Generative image models for Keras 3 and TensorFlow, trained and ready to load.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Data sets on disk.", no_args_is_help=True)
app.add_typer(data_app, name="data")
console = Console()

app.command()(serve)

Name = Annotated[str, typer.Argument(help="An entry of the zoo (see `tfgen list`) or a folder.")]
Seed = Annotated[int, typer.Option(help="Image i is drawn from seed + i.")]
Label = Annotated[int | None, typer.Option(help="Class, for a conditional model.")]
Out = Annotated[Path, typer.Option(help="PNG file to write.")]
DataName = Annotated[
    str | None, typer.Option("--data", help="Data set; by default the one it was trained on.")
]
Scale = Annotated[int, typer.Option(min=1, help="Enlarge each pixel this many times.")]


@app.command("list")
def list_entries(
    pattern: Annotated[str, typer.Argument(help="Shell-style, e.g. 'vae_*'.")] = "*",
) -> None:
    """Lists the trained models of the zoo."""
    table = Table("name", "family", "likelihood", "data", "weights", "first figure")
    for name in zoo.list_models(pattern):
        details = zoo.info(name)
        figures = details["figures"]
        first = next(iter(figures), None)
        table.add_row(
            name,
            details["family"],
            details["likelihood"],
            details["recipe"]["data"],
            f"{details['parameters']:,}",
            f"{figures[first]['value']:.4g} {figures[first]['unit']}" if first else "",
        )
    console.print(table)


@app.command()
def info(name: Name) -> None:
    """Prints all that is known of an entry, as JSON."""
    typer.echo(json.dumps(zoo.info(name), indent=2))


@app.command()
def sample(
    name: Name,
    num: Annotated[int, typer.Option(help="How many images.")] = 64,
    seed: Seed = 0,
    label: Label = None,
    temperature: Annotated[float, typer.Option(help="Scale of the noise.")] = 1.0,
    out: Out = Path("samples.png"),
    scale: Scale = 2,
) -> None:
    """Draws images and writes them to a PNG."""
    model = _generative(name)
    if label is None and model.num_classes is not None:
        labels = np.arange(num) * model.num_classes // max(num, 1)  # a block for each class
    else:
        labels = label
    images = model.sample(num, labels=labels, seed=seed, temperature=temperature)
    _save(images, out, scale=scale)


@app.command()
def reconstruct(
    name: Name,
    num: Annotated[int, typer.Option(min=1, help="How many images.")] = 16,
    data_name: DataName = None,
    out: Out = Path("reconstructions.png"),
    scale: Scale = 2,
) -> None:
    """Draws validation images over their reconstructions."""
    model = _with_latents(name)
    if "reconstruct" not in model.endpoints():
        raise ValueError(f"{name!r} cannot reconstruct: {model.why_not('reconstruct')}")
    images, labels = _images(model, name, data_name, num)
    _save(plots.rows(images, model.reconstruct(images, labels=labels)), out, scale=scale)


@app.command()
def interpolate(
    name: Name,
    rows: Annotated[int, typer.Option(min=1, help="Pairs of images.")] = 6,
    steps: Annotated[int, typer.Option(help="Images from one end to the other.")] = 10,
    data_name: DataName = None,
    seed: Seed = 0,
    label: Label = None,
    out: Out = Path("interpolation.png"),
    scale: Scale = 2,
) -> None:
    """Walks in latent space between pairs of validation images, or of seeds for a GAN."""
    model = _with_latents(name)
    if "encode" not in model.endpoints():
        _save(training.latent_walks(model, rows, steps, seed, label), out, scale=scale)
        return
    images, labels = _images(model, name, data_name, 2 * rows)
    first, second = images[:rows], images[rows:]
    labels = None if labels is None else labels[:rows]
    walks = model.interpolate(first, second, steps, labels=labels)
    _save(plots.rows(*walks), out, scale=scale)


@app.command()
def complete(
    name: Name,
    num: Annotated[int, typer.Option(min=1, help="How many images.")] = 8,
    ways: Annotated[int, typer.Option(min=1, help="Completions of each.")] = 6,
    data_name: DataName = None,
    seed: Seed = 0,
    out: Out = Path("completions.png"),
    scale: Scale = 2,
) -> None:
    """Draws the lower half of validation images anew, several times, given the upper half."""
    model = _generative(name)
    if "complete" not in model.endpoints():
        raise ValueError(
            f"{name!r} is a {type(model).__name__}, which cannot complete images. Use a PixelCNN "
            "or a PixelRNN."
        )
    images, labels = _images(model, name, data_name, num)
    _save(training.completions(model, images, labels, ways, seed), out, scale=scale)


@app.command()
def score(
    name: Name,
    num: Annotated[int, typer.Option(min=1, help="How many images.")] = 16,
    data_name: DataName = None,
) -> None:
    """Prints what a model says of single validation images: nats, or a discriminator's logit."""
    model = _generative(name)
    images, labels = _images(model, name, data_name, num)
    if model.likelihood != "none":
        values, unit = model.log_likelihood(images, labels=labels), "nats"
    elif "score" in model.endpoints():
        values, unit = model.score(images, labels=labels), "logit, above 0: real"
    else:
        raise ValueError(f"{name!r} scores no images: {model.why_not('log_likelihood')}")
    for index, value in enumerate(values):
        typer.echo(f"{index}  {value:.3f} {unit}")


@app.command()
def manifold(
    name: Name = "vae_2d_mnist",
    side: Annotated[int, typer.Option(min=2, help="Images along each axis.")] = 20,
    label: Label = None,
    out: Out = Path("manifold.png"),
    scale: Scale = 1,
) -> None:
    """Draws the plane of a model with two latents, at equal steps of the prior's probability."""
    model = _with_latents(name)
    if model.latent_dim != 2:
        raise ValueError(
            f"manifold needs a model with two latents; {name!r} has {model.latent_dim}. "
            "Use vae_2d_mnist."
        )
    images = model.decode(prior_plane(side), labels=label)
    _save(plots.grid(images, side, padding=0), out, scale=scale)


@app.command()
def evaluate(
    name: Annotated[str | None, typer.Argument(help="An entry or a folder.")] = None,
    all_entries: Annotated[bool, typer.Option("--all", help="Every entry.")] = False,
    data_name: DataName = None,
    check: Annotated[
        bool, typer.Option("--check", help="Fail when a recorded figure is not reproduced.")
    ] = False,
    verbose: Annotated[bool, typer.Option(help="Show progress.")] = True,
) -> None:
    """Measures the figures of a card: writes them, or with --check compares them."""
    if (name is None) != all_entries:
        raise ValueError("evaluate needs either an entry's NAME or --all.")
    training.tune_allocator()
    missed = 0
    for entry in zoo.list_models(kind=None) if all_entries else [name]:
        figures = measuring.evaluate(entry, data_name, check, verbose=int(verbose))
        typer.echo(str(entry))
        for figure in figures:
            verdict = ""
            if check:
                reproduced = "reproduced" if figure.reproduced else "NOT REPRODUCED"
                verdict = f"  {reproduced}, recorded {figure.recorded}"
                missed += not figure.reproduced
            typer.echo(f"  {figure.name}: {figure.value:.5g} {figure.unit}{verdict}")
    if missed:
        typer.echo(f"{missed} figures were not reproduced.")
        raise typer.Exit(1)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's JSON file, or an entry's name.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write its logs.")] = False,
    verbose: Annotated[int, typer.Option(min=0, max=2, help="As in Keras' fit.")] = 1,
    strategy: Annotated[
        str, typer.Option(help=f"Devices to train on: {', '.join(devices.STRATEGIES)}.")
    ] = "none",
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="Time between checkpoints inside an epoch.")
    ] = 120.0,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same bits on every run on a GPU; slower.")
    ] = False,
) -> None:
    """Trains a recipe into a folder that `zoo.load`, `sample` and `evaluate` take.

    Tells glibc to keep freed memory (see `tfgen.training.tune_allocator`), worth up to a third of
    the speed.
    """
    chosen = zoo.load_recipe(recipe)
    training.tune_allocator()
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    # First of all that touches a device: processes can only join before anything has run.
    chosen_strategy = devices.make_strategy(strategy)
    model = training.train(
        chosen,
        out,
        resume,
        verbose,
        tensorboard,
        checkpoint_seconds,
        strategy=chosen_strategy,
    )
    with chosen_strategy.scope():
        if not devices.is_chief():
            return
    zoo.save(model, out, chosen, training.provenance(chosen, out))
    plots.history(out / "log.csv", out / "history.png")
    if isinstance(model, GenerativeModel):
        training.draw_progress(model, out)
    console.print(f"Trained model in {out.resolve()}", soft_wrap=True)


@app.command()
def export(
    name: Annotated[str | None, typer.Argument(help="An entry or a folder.")] = None,
    all_entries: Annotated[bool, typer.Option("--all", help="Every model of the zoo.")] = False,
    out: Annotated[Path, typer.Option(help="The model repository.")] = Path("saved_models"),
    version: Annotated[
        int | None, typer.Option(help="By default one more than the last one there.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Scale of the noise, fixed in sample.")] = 1.0,
    num_samples: Annotated[
        int, typer.Option(help="Importance samples, fixed in log_likelihood.")
    ] = 1,
    jit: Annotated[
        bool, typer.Option("--jit", help="Compile the endpoints with XLA, for each batch size.")
    ] = False,
) -> None:
    """Writes SavedModels and models.config into a repository for TensorFlow Serving."""
    if (name is None) != all_entries:
        raise ValueError("export needs either an entry's NAME or --all.")
    for entry in zoo.list_models() if all_entries else [name]:
        written = exporting.add(
            out,
            entry,
            version=version,
            temperature=temperature,
            num_samples=num_samples,
            jit_compile=jit,
        )
        console.print(f"Exported {written.resolve()}", soft_wrap=True)


@data_app.command()
def prepare(
    name: Annotated[str, typer.Argument(help="A data set's name, an .npz file or a folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the shards; a recipe's `data` may name it.")],
    shard_mib: Annotated[int, typer.Option(min=1, help="Pixels in a shard, in MiB.")] = 64,
    seed: Annotated[int, typer.Option(help="Order of the training images.")] = 0,
    verbose: Annotated[bool, typer.Option(help="Show progress.")] = True,
) -> None:
    """Writes TFRecord shards, from which a data set larger than memory is trained on."""
    folder = data.prepare(name, out, shard_mib * 2**20, seed, int(verbose))
    console.print(f"Wrote {folder.resolve()}", soft_wrap=True)


def prior_plane(side: int) -> np.ndarray:
    """Returns latents (side^2, 2) at the standard normal's quantiles (i + 1/2) / side.

    The first axis grows to the right, the second one upwards.
    """
    from scipy.stats import norm

    at = norm.ppf((np.arange(side) + 0.5) / side)
    right, up = np.meshgrid(at, at[::-1])
    return np.stack([right, up], -1).reshape(-1, 2).astype(np.float32)


def _generative(name: str) -> GenerativeModel:
    model = zoo.load(name)
    if not isinstance(model, GenerativeModel):
        raise ValueError(f"{name!r} is a {type(model).__name__}, which draws no images.")
    return model


def _with_latents(name: str) -> GenerativeModel:
    model = _generative(name)
    if "decode" not in model.endpoints():
        raise ValueError(f"{name!r} is a {type(model).__name__}, which has no latents.")
    return model


def _images(model, name: str, data_name: str | None, num: int):
    """The first images of the validation split, with labels if the model wants them."""
    images, labels = data.arrays(data_name or zoo.load_recipe(name).data, "validation")
    if num > len(images):
        raise ValueError(f"only {len(images)} validation images are there; received {num}.")
    return images[:num], labels[:num] if model.num_classes is not None else None


def _save(images, out: Path, **options) -> None:
    path = plots.save(images, out, **options)
    console.print(f"Wrote {path.resolve()}", soft_wrap=True)


def main() -> None:
    """Runs the command line; bad input gives one line on stderr and exit code 2."""
    try:
        app()
    except ConnectionError as error:  # worth another try, unlike bad input
        typer.echo(f"tfgen: {error}", err=True)
        raise SystemExit(os.EX_TEMPFAIL) from None
    except (ValueError, NotImplementedError, OSError, ImportError, FloatingPointError) as error:
        message = " ".join(str(error).split())
        typer.echo(f"tfgen: {message}", err=True)
        raise SystemExit(2) from None
