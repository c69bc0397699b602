"""`tfgen sample`, `reconstruct`, `interpolate`, `complete` and `manifold`: pictures of a model."""

from pathlib import Path
from typing import Annotated

import typer

from tfgen_command.app import DataName, Label, Name, Out, Scale, Seed, command, heavy, say

__all__ = ["complete", "interpolate", "manifold", "reconstruct", "sample"]


@command()
@heavy
def sample(
    name: Name,
    num: Annotated[int, typer.Option(min=1, help="How many images.")] = 64,
    seed: Seed = 0,
    label: Label = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="Scale of the noise.")] = 1.0,
    out: Out = Path("samples.png"),
    scale: Scale = 2,
) -> None:
    """Draws images and writes them to a PNG."""
    import numpy as np

    from tfgen import cli

    model = cli.generative(name)
    cli.check_label(model, label)
    if label is None and model.num_classes is not None:
        labels = np.arange(num) * model.num_classes // num  # a block for each class
    else:
        labels = label
    images = model.sample(num, labels=labels, seed=seed, temperature=temperature)
    say(cli.save(images, out, scale=scale))


@command()
@heavy
def reconstruct(
    name: Name,
    num: Annotated[int, typer.Option(min=1, help="How many images.")] = 16,
    data_name: DataName = None,
    out: Out = Path("reconstructions.png"),
    scale: Scale = 2,
) -> None:
    """Draws validation images above their reconstructions."""
    from tfgen import cli, plots

    model = cli.with_latents(name)
    if "reconstruct" not in model.endpoints():
        raise ValueError(f"{name!r} cannot reconstruct: {model.why_not('reconstruct')}")
    images, labels = cli.validation_images(model, name, data_name, num)
    say(cli.save(plots.rows(images, model.reconstruct(images, labels=labels)), out, scale=scale))


@command()
@heavy
def interpolate(
    name: Name,
    rows: Annotated[int, typer.Option(min=1, help="Pairs of images.")] = 6,
    steps: Annotated[int, typer.Option(min=2, help="Images from one end to the other.")] = 10,
    data_name: DataName = None,
    seed: Seed = 0,
    label: Label = None,
    out: Out = Path("interpolation.png"),
    scale: Scale = 2,
) -> None:
    """Walks in latent space between pairs of validation images, or of seeds for a GAN."""
    from tfgen import cli, plots, training

    model = cli.with_latents(name)
    cli.check_label(model, label)
    if "encode" not in model.endpoints():
        say(cli.save(training.latent_walks(model, rows, steps, seed, label), out, scale=scale))
        return
    images, labels = cli.validation_images(model, name, data_name, 2 * rows, "--rows")
    first, second = images[:rows], images[rows:]
    labels = None if labels is None else labels[:rows]
    walks = model.interpolate(first, second, steps, labels=labels)
    say(cli.save(plots.rows(*walks), out, scale=scale))


@command()
@heavy
def complete(
    name: Name,
    num: Annotated[int, typer.Option(min=1, help="How many images.")] = 8,
    ways: Annotated[int, typer.Option(min=1, help="Completions of each.")] = 6,
    data_name: DataName = None,
    seed: Seed = 0,
    out: Out = Path("completions.png"),
    scale: Scale = 2,
) -> None:
    """Inpaints the lower half of validation images several times, given the upper half."""
    from tfgen import cli, training

    model = cli.generative(name)
    if "complete" not in model.endpoints():
        raise ValueError(
            f"{name!r} is a {type(model).__name__}, which cannot complete images. Use a PixelCNN "
            "or a PixelRNN."
        )
    images, labels = cli.validation_images(model, name, data_name, num)
    say(cli.save(training.completions(model, images, labels, ways, seed), out, scale=scale))


@command()
@heavy
def manifold(
    name: Name = "vae_2d_mnist",
    side: Annotated[int, typer.Option(min=2, help="Images along each axis.")] = 20,
    label: Label = None,
    out: Out = Path("manifold.png"),
    scale: Scale = 1,
) -> None:
    """Draws the plane of a model with two latents, at equal steps of the prior's probability."""
    from tfgen import cli, plots

    model = cli.with_latents(name)
    cli.check_label(model, label)
    if model.latent_dim != 2:
        raise ValueError(
            f"manifold needs a model with two latents; {name!r} has {model.latent_dim}. "
            "Use vae_2d_mnist."
        )
    images = model.decode(cli.prior_plane(side), labels=label)
    say(cli.save(plots.grid(images, side, padding=0), out, scale=scale))
