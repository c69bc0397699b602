"""`tfgen score` and `tfgen evaluate`: numbers of single images and of whole models."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from tfgen_command.app import DataName, Json, Name, OptionalName, command, heavy
from tfgen_command.quiet import import_tensorflow

if TYPE_CHECKING:
    from tfgen.evaluation import Result

__all__ = ["evaluate", "score"]


@command()
@heavy
def score(
    name: Name,
    num: Annotated[int, typer.Option(min=1, help="How many images.")] = 16,
    data_name: DataName = None,
) -> None:
    """Prints what a model says about single validation images.

    A model with a likelihood prints nats, log p(x) or a lower bound of it. A GAN prints its
    discriminator's logit, which is above 0 for images that it takes for real.
    """
    from tfgen import cli

    model = cli.generative(name)
    if model.likelihood == "none" and "score" not in model.endpoints():
        raise ValueError(f"{name!r} scores no images: {model.why_not('log_likelihood')}")
    images, labels = cli.validation_images(model, name, data_name, num)
    if model.likelihood != "none":
        lines = [f"{value:.3f} nats" for value in model.log_likelihood(images, labels=labels)]
    else:
        lines = [
            f"{value:.3f} logit, {'real' if value > 0.0 else 'fake'}"
            for value in model.score(images, labels=labels)
        ]
    for index, line in enumerate(lines):
        typer.echo(f"{index}  {line}")


@command()
def evaluate(
    name: OptionalName = None,
    all_entries: Annotated[bool, typer.Option("--all", help="Every entry.")] = False,
    data_name: DataName = None,
    check: Annotated[
        bool, typer.Option("--check", help="Fail when a recorded result is not reproduced.")
    ] = False,
    num_samples: Annotated[
        int | None,
        typer.Option(min=2, help="Draw so many samples instead, for a quick look; writes nothing."),
    ] = None,
    verbose: Annotated[bool, typer.Option(help="Show progress.")] = True,
    as_json: Json = False,
    show_metrics: Annotated[
        bool, typer.Option("--list", help="List the metrics that a recipe can name, and exit.")
    ] = False,
) -> None:
    """Measures the results of a card: writes them, or with --check compares them."""
    if show_metrics:
        import_tensorflow()
        _list_metrics()
        return
    if (name is None) != all_entries:
        raise ValueError("evaluate needs either an entry's NAME or --all.")
    import_tensorflow()
    from tfgen import evaluation, training, zoo

    if check and num_samples is not None:
        raise ValueError("--num-samples and --check exclude each other: a card has its own number.")
    training.tune_allocator()
    missed, measured = 0, {}
    for entry in zoo.list_models(kind=None) if all_entries else [name]:
        results = evaluation.evaluate(entry, data_name, check, int(verbose), num_samples)
        missed += sum(check and not result.reproduced for result in results.values())
        measured[str(entry)] = {label: vars(result) for label, result in results.items()}
        if not as_json:
            typer.echo(str(entry))
            for label, result in results.items():
                typer.echo(f"  {label}: {_line(result, check)}")
    if as_json:
        typer.echo(json.dumps(measured, indent=2))
    elif missed:
        typer.echo(f"{missed} results were not reproduced.")
    if missed:
        raise typer.Exit(1)


def _line(result: "Result", check: bool) -> str:
    """Returns a result, that of real images, and with --check what is on the card."""
    parts = [f"{result.value:.5g} {result.unit}"]
    if result.real is not None:
        parts.append(f"real images {result.real:.5g}")
    if check:
        parts.append("reproduced" if result.reproduced else "NOT REPRODUCED")
        parts.append(f"recorded {result.recorded}")
    return ", ".join(parts)


def _list_metrics() -> None:
    from tfgen.evaluation import METRICS

    for name, metric in METRICS.items():
        typer.echo(f"{name:<28}{metric.__doc__.strip().splitlines()[0]}")
