"""`tfgen sample`, `reconstruct`, `interpolate`, `complete` and `manifold`: pictures of a model."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from tfgen_command.app import (
    FOR_VALIDATION,
    Binarize,
    DataName,
    Files,
    Force,
    Invert,
    Label,
    Name,
    NumImages,
    Out,
    Scale,
    Seed,
    command,
    output,
    parse_labels,
    refuse,
    say,
)
from tfgen_command.process import import_tensorflow

__all__ = ["complete", "interpolate", "manifold", "reconstruct", "sample"]

CAPTIONED = 24  # pixels across, for captions of a plane to fit


@command()
def sample(
    context: typer.Context,
    name: Name,
    num: Annotated[
        int | None,
        typer.Option(min=1, help="How many images; by default 64, or 8 of each class."),
    ] = None,
    seed: Seed = 0,
    label: Annotated[
        str | None,
        typer.Option(
            help="Class, for a conditional model; several, such as 3,7, follow in equal shares."
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="Scale of the noise.")] = 1.0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="FILE.png for one picture, a folder for a PNG file per image, FILE.npz for arrays."
        ),
    ] = None,
    scale: Scale = None,
    force: Force = False,
) -> None:
    """Draws images. A conditional model draws one row per class, or per --label.

    Where --num cannot be shared out evenly, the first classes get one image more, and rows run on.
    """
    out = output(out, "samples.png", force, (".png", ".npz", ""))
    if out.suffix.lower() == ".npz":
        refuse(context, "is for pictures; --out names arrays.", "scale")
    labels = parse_labels(label)
    import_tensorflow()
    from tfgen import cli

    model = cli.generative(name)
    labels, columns = cli.rows_of_labels(model, labels, num)
    num = num or (64 if labels is None else len(labels))
    images = model.sample(num, labels=labels, seed=seed, temperature=temperature)
    say(cli.save_samples(images, labels, out, columns, scale))


@command()
def reconstruct(
    context: typer.Context,
    name: Name,
    files: Files = None,
    num: NumImages = None,
    data_name: DataName = None,
    label: Label = None,
    invert: Invert = False,
    binarize: Binarize = False,
    out: Out = None,
    scale: Scale = None,
    force: Force = False,
) -> None:
    """Draws images above their reconstructions."""
    out, labels = output(out, "reconstructions.png", force), parse_labels(label)
    if files:
        refuse(context, FOR_VALIDATION, "num", "data_name")
    import_tensorflow()
    from tfgen import cli

    model = cli.with_latents(name)
    if "reconstruct" not in model.capabilities:
        raise ValueError(f"{name!r} cannot reconstruct: {model.why_not('reconstruct')}")
    images, labels = cli.images_for(model, name, files, data_name, num, labels, invert, binarize)
    rebuilt = model.reconstruct(images, labels=labels)
    say(cli.save_rows([images, rebuilt], out, scale, rows=["original", "reconstruction"]))


@command()
def interpolate(
    context: typer.Context,
    name: Name,
    files: Files = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Pairs of images; by default at most 6.")
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Images from one end to the other.")] = 10,
    data_name: DataName = None,
    seed: Annotated[
        int, typer.Option(help="For a GAN: walk i leads from seed + i to seed + rows + i.")
    ] = 0,
    label: Annotated[
        str | None,
        typer.Option(
            help="Class of each walk of a conditional model; several, such as 3,7, take turns."
        ),
    ] = None,
    invert: Invert = False,
    binarize: Binarize = False,
    out: Out = None,
    scale: Scale = None,
    force: Force = False,
) -> None:
    """Draws walks between images, or between seeds for a GAN.

    A walk is a straight line in latent space, within one class of a conditional model. Of your own
    files, the first half are where walks start and the second half where they end.
    """
    out, labels = output(out, "interpolation.png", force), parse_labels(label)
    if files and len(files) % 2:
        raise ValueError(f"FILES must be an even number, for pairs; received {len(files)}.")
    if files:
        refuse(context, FOR_VALIDATION, "rows", "data_name")
    import_tensorflow()
    from tfgen import cli, pictures

    model = cli.with_latents(name)
    captions = ["start", *[""] * (steps - 2), "end"]
    if "encode" not in model.capabilities:
        if files:
            raise ValueError(f"{name!r} walks between seeds, not files: {model.why_not('encode')}")
        why = f"is for images, and {name!r} walks between seeds: {model.why_not('encode')}"
        refuse(context, why, "data_name", "invert", "binarize")
        cli.check_labels(model, labels)
        walks = pictures.latent_walks(model, rows or 6, steps, seed, labels)
        say(cli.save_rows(walks, out, scale, columns=captions))
        return
    refuse(context, f"is for a model without an encoder; {name!r} walks between images.", "seed")
    starts, ends, labels = cli.ends_for(
        model, name, files, data_name, rows, labels, invert, binarize
    )
    if not len(starts):
        raise ValueError("a walk needs two images, and the validation split has one. Pass FILES.")
    walks = model.interpolate(starts, ends, steps, labels=labels)
    say(cli.save_rows(walks, out, scale, columns=captions))


@command()
def complete(
    context: typer.Context,
    name: Name,
    files: Files = None,
    num: NumImages = None,
    ways: Annotated[int, typer.Option(min=1, help="Completions of each.")] = 6,
    keep: Annotated[
        Literal["upper", "lower", "left", "right"] | None,
        typer.Option(help="The half that is kept; by default the upper one."),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="Image that is white where pixels are kept."),
    ] = None,
    data_name: DataName = None,
    seed: Annotated[
        int, typer.Option(help="Completion j of image i is drawn from seed + i * ways + j.")
    ] = 0,
    label: Label = None,
    invert: Invert = False,
    binarize: Binarize = False,
    out: Out = None,
    scale: Scale = None,
    force: Force = False,
) -> None:
    """Inpaints a part of images several times, given the rest.

    The model draws pixels in a fixed order, and sees only the kept pixels that come before the
    current one. A model of several orders takes the one in which the first hidden pixel comes last.
    """
    out, labels = output(out, "completions.png", force), parse_labels(label)
    if keep and mask:
        raise ValueError("--keep and --mask exclude each other: a mask says what is kept.")
    mask = mask and mask.expanduser()
    if mask and not mask.is_file():
        raise ValueError(f"--mask must be an image file; there is none at {mask}.")
    if files:
        refuse(context, FOR_VALIDATION, "num", "data_name")
    import_tensorflow()
    from tfgen import cli, plots

    model = cli.generative(name)
    if "complete" not in model.capabilities:
        raise ValueError(
            f"{name!r} is a {type(model).__name__}, which cannot complete images. Use a PixelCNN "
            "or a PixelRNN."
        )
    images, labels = cli.images_for(
        model, name, files, data_name, num, labels, invert, binarize, usual=8
    )
    kept = cli.read_mask(model, mask) if mask else cli.kept_half(model, keep or "upper")
    shown = plots.completed(model, images, kept, ways, labels, seed)
    captions = ["kept", *(str(way + 1) for way in range(ways)), "original"]
    say(cli.save_rows(shown, out, scale, columns=captions))


@command()
def manifold(
    name: Name = "vae_2d_mnist",
    side: Annotated[int, typer.Option(min=2, help="Images along each axis.")] = 20,
    label: Annotated[str | None, typer.Option(help="Class, for a conditional model.")] = None,
    out: Out = None,
    scale: Annotated[int, typer.Option(min=1, help="Enlarge each pixel this many times.")] = 1,
    force: Force = False,
) -> None:
    """Draws the latent plane of a model with two latents.

    Their values stand next to it, in steps equal in the standard normal's probability.
    """
    out, labels = output(out, "manifold.png", force), parse_labels(label)
    if len(labels) > 1:
        raise ValueError(f"--label must be one class for a manifold; received {label!r}.")
    import_tensorflow()
    from tfgen import cli, plots

    model = cli.with_latents(name)
    if model.latent_dim != 2:
        raise ValueError(
            f"manifold needs a model with two latents; {name!r} has {model.latent_dim}. "
            "Use vae_2d_mnist."
        )
    cli.check_labels(model, labels)
    if model.num_classes is not None and not labels:
        raise ValueError(f"{name!r} is class-conditional. Pass --label.")
    plane = plots.prior_plane(side)
    images = model.decode(plane, labels=labels[0] if labels else None)
    wide = scale * model.image_shape[1] >= CAPTIONED
    at = [f"{z:z.1f}" for z in plane[:side, 0]] if wide else []
    picture = plots.grid(images, side, padding=0)
    say(cli.save_captioned(picture, out, scale, at[::-1], at))
