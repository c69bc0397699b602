"""The application that commands add themselves to, and the options that they share."""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from tfgen_command import entries

__all__ = [
    "FOR_VALIDATION",
    "Binarize",
    "DataName",
    "Files",
    "Force",
    "Invert",
    "Json",
    "Label",
    "Name",
    "NumImages",
    "OptionalName",
    "Out",
    "Scale",
    "Seed",
    "app",
    "checked",
    "command",
    "data_app",
    "data_command",
    "output",
    "parse_labels",
    "recipe_app",
    "recipe_command",
    "refuse",
    "say",
    "say_json",
]


class _AsTyped:
    """The conversion of strings and flags to themselves."""

    def coerce(self, value, param, ctx):
        return value


class _Light:
    """Takes strings and flags as they were typed.

    typer converts values through pydantic, whose import takes longer than a command that only
    prints.
    """

    def get_params(self, ctx):
        params = super().get_params(ctx)
        for param in params:
            if param.type_descriptor.annotation in (str, bool):
                param.get_runtime_param = _AsTyped
        return params


class _Command(_Light, TyperCommand):
    """A command."""


class _Group(_Light, TyperGroup):
    """Shows its help when no command is given, and the nearest name when a wrong one is."""

    def parse_args(self, ctx, args):
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(self, ctx, args):
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            known = list(self.commands)
            raise ValueError(
                f"there is no command {ctx.command_path} {name}."
                + (entries.nearest(name, known, 1) or f" Commands: {', '.join(known)}.")
            )
        return super().resolve_command(ctx, args)


FOR_VALIDATION = "is for images of the validation split; FILES were given."

# Without rich's markup, which takes longer than all else.
_look = {"cls": _Group, "rich_markup_mode": None, "add_completion": False}
app = typer.Typer(pretty_exceptions_enable=False, **_look)
data_app = typer.Typer(help="Check data sets, and prepare them on disk.", **_look)
recipe_app = typer.Typer(help="Write recipes for your own images.", **_look)
command = functools.partial(app.command, cls=_Command)
data_command = functools.partial(data_app.command, cls=_Command)
recipe_command = functools.partial(recipe_app.command, cls=_Command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tfgen {version('tfgen')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Generative image models for Keras 3 and TensorFlow, trained and ready to load.

    Start with `tfgen list` and `tfgen sample cgan_mnist`; every command has --help.
    """


def refuse(context: typer.Context, why: str, *names: str) -> None:
    """Raises ValueError if an option was typed that would do nothing, as `why` says."""
    for param in context.command.params:
        source = context.get_parameter_source(param.name)
        if param.name in names and source is not None and source.name == "COMMANDLINE":
            raise ValueError(f"{param.opts[0]} {why}")


def output(
    out: Path | None, default: str, force: bool, endings: tuple[str, ...] = (".png",)
) -> Path:
    """Returns the path to write: `default`, which may be overwritten, or what --out names.

    Args:
        out: The value of --out.
        default: What to write without it.
        force: Whether --out may be overwritten.
        endings: How its name may end; "" stands for a folder.

    Raises:
        ValueError: --out has another ending, or it exists and `force` is false.
    """
    if out is None:
        return Path(default)
    out = out.expanduser()
    if out.suffix.lower() not in endings and not ("" in endings and out.is_dir()):
        kinds = " or ".join(filter(None, endings))
        folder = ", or name a folder" if "" in endings else ""
        raise ValueError(f"--out must end in {kinds}{folder}; received {out}.")
    if not force and (any(out.iterdir()) if out.is_dir() else out.exists()):
        raise ValueError(f"--out {out} exists. Pass --force to overwrite it, or another name.")
    return out


def parse_labels(text: str | None) -> list[int]:
    """Returns the classes that --label names, [] for None.

    >>> parse_labels("3,7")
    [3, 7]

    Raises:
        ValueError: Something else than integers of at least 0, separated by commas.
    """
    parts = [] if text is None else text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ValueError(
            f"--label must be a class such as 3, or several as 3,7; received {text!r}."
        )
    return [int(part) for part in parts]


def say(line: str) -> None:
    """Prints one line on what was done."""
    typer.echo(line)


def say_json(value: Any) -> None:
    """Prints JSON, which has no infinity and no NaN: such a number becomes null."""
    typer.echo(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def checked(check: Callable[[str], object]) -> Callable[..., str | None]:
    """Returns a callback that passes a value on after `check`, which raises ValueError.

    Where typer only parses, e.g. for completion, nothing is looked up.
    """

    def callback(ctx: typer.Context, value: str | None) -> str | None:
        if value is not None and not ctx.resilient_parsing:
            check(value)
        return value

    return callback


_NAME = typer.Argument(
    metavar="NAME",
    callback=checked(entries.find),
    help="An entry of the zoo (see `tfgen list`) or a model's folder.",
)
Name = Annotated[str, _NAME]
OptionalName = Annotated[str | None, _NAME]
Files = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="FILES",
        exists=True,
        dir_okay=False,
        help="Your own PNG or JPEG files, cropped and resized to fit the model; by default the "
        "first images of the validation split.",
    ),
]
Seed = Annotated[int, typer.Option(help="Image i is drawn from seed + i.")]
NumImages = Annotated[
    int | None,
    typer.Option(
        "--num", min=1, help="How many validation images; by default 16, or 8 to complete."
    ),
]
Label = Annotated[
    str | None,
    typer.Option(
        help="Class to tell a conditional model of each image, instead of the data's; several, "
        "such as 3,7, take turns."
    ),
]
Binarize = Annotated[
    bool,
    typer.Option("--binarize", help="Round pixels to the model's grey levels, e.g. 0 and 255."),
]
Invert = Annotated[
    bool, typer.Option("--invert", help="Swap dark and light, e.g. for ink on paper.")
]
Out = Annotated[Path | None, typer.Option(help="PNG file to write.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what --out names.")]
DataName = Annotated[
    str | None,
    typer.Option(
        "--data",
        callback=checked(entries.check_data),
        help="Data set; by default the one that the model was trained on.",
    ),
]
Scale = Annotated[
    int | None,
    typer.Option(
        min=1, help="Enlarge each pixel this many times; by default 2, or more for small images."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
