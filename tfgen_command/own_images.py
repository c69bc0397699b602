"""`tfgen data check`, `data prepare`, `recipe new`: what images there are, shards, a recipe."""

import functools
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from tfgen_command import entries
from tfgen_command.app import (
    Json,
    app,
    checked,
    data_app,
    data_command,
    recipe_app,
    recipe_command,
    say,
)
from tfgen_command.process import import_tensorflow
from tfgen_command.wording import counted

__all__ = ["check", "new", "prepare"]

DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        callback=checked(functools.partial(entries.check_data, argument="DATA")),
        help="A folder of images, an .npz file or a set's name.",
    ),
]
Size = Annotated[
    int | None, typer.Option(min=1, help="Scale and crop every image to this height and width.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out files that cannot be read.")]


@data_command()
def check(
    data_name: DataArgument, size: Size = None, skip_bad: SkipBad = False, as_json: Json = False
) -> None:
    """Reports sizes, modes, classes and splits of a data set.

    Also lists files that cannot be read. Exit code 1 if training would refuse the images as they
    are.
    """
    import_tensorflow()
    from tfgen import data

    report = data.check(data.Source(data_name, size, skip_bad))
    say(json.dumps(report.facts(), indent=2) if as_json else str(report))
    if report.problems:
        raise typer.Exit(1)


@data_command()
def prepare(
    data_name: DataArgument,
    out: Annotated[Path, typer.Option(help="Folder of the shards; a recipe's `data` may name it.")],
    shard_mib: Annotated[int, typer.Option(min=1, help="MiB of pixels per shard.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Decides the order of training images.")] = 0,
    size: Size = None,
    skip_bad: SkipBad = False,
    verbose: Annotated[bool, typer.Option(help="Show progress.")] = True,
) -> None:
    """Writes TFRecord shards, for data larger than memory."""
    import_tensorflow()
    from tfgen import data

    source = data.Source(data_name, size, skip_bad)
    shows = int(verbose and sys.stdout.isatty())
    folder = data.prepare(source, out, shard_mib * 2**20, seed, shows)
    say(f"Wrote {folder.resolve()}")


@recipe_command()
def new(
    data_name: Annotated[
        str,
        typer.Option(
            "--data",
            callback=checked(entries.check_data),
            help="A folder of images, an .npz file or a set's name.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The JSON file to write.")],
    family: Annotated[
        Literal["VAE", "GAN", "PixelCNN"], typer.Option(help="What to train.")
    ] = "VAE",
    minutes: Annotated[
        float, typer.Option(min=0.1, help="How long the training may take here.")
    ] = 10.0,
    conditional: Annotated[
        bool, typer.Option("--conditional", help="Learn the classes, one for each subfolder.")
    ] = False,
    size: Size = None,
    skip_bad: SkipBad = False,
) -> None:
    """Writes a recipe for your images and minutes.

    How fast this machine trains is measured on a few steps.
    """
    out = out.expanduser()
    if out.suffix != ".json":
        raise ValueError(f"--out must end in .json; received {out}.")
    _refuse_old(out)
    import_tensorflow()
    from tfgen import cli, data, drafts
    from tfgen.files import replacing
    from tfgen.training.announce import too_few

    drafted = drafts.draft(data.Source(data_name, size, skip_bad), family, minutes, conditional)
    with cli.writing(out), replacing(out) as path:
        path.write_text(drafted.recipe.to_json(), encoding="utf-8")
        _refuse_old(out)  # another command may have written it
    shape = " x ".join(map(str, drafted.recipe.model["image_shape"]))
    say(
        f"Wrote {out}: {family} of {shape}, {counted(drafted.recipe.epochs, 'epoch')} of "
        f"{drafted.num_images:,} images at {_short(drafted.images_per_second)} images per second "
        f"(measured here), about {_short(drafted.minutes)} min."
    )
    if drafted.mirror:
        say(
            f'These photographs look natural when mirrored: set "mirror": true in {out} to train '
            "on mirrored ones too, but not if they show text or a class means a side."
        )
    if family == "GAN" and drafted.recipe.model["image_shape"][2] == 3:
        say(
            f'For colour, add to "model" in {out}, at more time per epoch: "network": "residual", '
            '"num_blocks": 1, "augment": true.'
        )
    if warning := too_few(family, drafted.num_images, drafted.recipe.model["image_shape"][2]):
        say(warning)
    run, source = Path("runs") / out.stem, data.Source(data_name)
    run = source.image_folder.resolve().parent / run if source.holds(run) else run
    say(f"Train it: tfgen train {shlex.quote(str(out))} --out {shlex.quote(str(run))}")


def _refuse_old(out: Path) -> None:
    if out.exists():
        raise ValueError(f"--out must be a new file; {out} exists. Name another file.")


def _short(value: float) -> str:
    """Returns a number with two digits, or all those before the point."""
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


app.add_typer(data_app, name="data")
app.add_typer(recipe_app, name="recipe")
