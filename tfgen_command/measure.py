"""`tfgen score` and `tfgen evaluate`: numbers of single images and of whole models."""

from typing import Annotated

import typer

from tfgen_command.app import DataName, Name, OptionalName, command, heavy
from tfgen_command.quiet import import_tensorflow

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
        bool, typer.Option("--check", help="Fail when a recorded figure is not reproduced.")
    ] = False,
    verbose: Annotated[bool, typer.Option(help="Show progress.")] = True,
) -> None:
    """Measures the figures of a card: writes them, or with --check compares them."""
    if (name is None) != all_entries:
        raise ValueError("evaluate needs either an entry's NAME or --all.")
    import_tensorflow()
    from tfgen import evaluation, training, zoo

    training.tune_allocator()
    missed = 0
    for entry in zoo.list_models(kind=None) if all_entries else [name]:
        figures = evaluation.evaluate(entry, data_name, check, verbose=int(verbose))
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
