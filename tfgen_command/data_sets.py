"""`tfgen data check` and `tfgen data prepare`: what a data set holds, and shards of it."""

import functools
import json
from pathlib import Path
from typing import Annotated

import typer

from tfgen_command import entries
from tfgen_command.app import Json, app, checked, data_app, data_command, say
from tfgen_command.quiet import import_tensorflow

__all__ = ["check", "prepare"]

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
    seed: Annotated[int, typer.Option(help="Decides the order of the training images.")] = 0,
    size: Size = None,
    skip_bad: SkipBad = False,
    verbose: Annotated[bool, typer.Option(help="Show progress.")] = True,
) -> None:
    """Writes TFRecord shards, for data larger than memory."""
    import_tensorflow()
    from tfgen import data

    source = data.Source(data_name, size, skip_bad)
    folder = data.prepare(source, out, shard_mib * 2**20, seed, int(verbose))
    say(f"Wrote {folder.resolve()}")


app.add_typer(data_app, name="data")
