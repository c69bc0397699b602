"""`tfgen list` and `tfgen info`: what the zoo holds, without loading any of it."""

import json
import shutil
import sys
from typing import Annotated, Any

import typer

from tfgen_command import entries
from tfgen_command.app import Json, Name, command

__all__ = ["info", "list_entries"]

# The two numbers that families are compared by, as the names of results in metadata.json start.
QUALITY = "Frechet distance, samples / real images"
LIKELIHOOD = "test bits per dimension"
DROPPED_FIRST = ("data", "images", "what it is")  # on a narrow terminal


@command("list")
def list_entries(
    pattern: Annotated[str, typer.Argument(help="Shell-style, e.g. 'vae_*'.")] = "*",
    every: Annotated[
        bool, typer.Option("--all", help="Also list the classifiers that judge samples.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Lists the trained models of the zoo.

    Sample quality is the Frechet distance of samples to real images, as a multiple of that
    between two sets of real images: 1 is perfect. Bits/dim is -log2 p(x) per pixel and channel;
    lower is better, and `<=` marks an upper bound. A conditional model draws the class that you ask
    for. On a narrow terminal some columns are left out.
    """
    found = [_row(entries.details(name)) for name in entries.names(pattern, every)]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    columns = list(found[0]) if found else []
    if sys.stdout.isatty():
        _print_table(columns, found)
        return
    for row in (dict(zip(columns, columns, strict=True)), *found):
        typer.echo("\t".join(row[name] or "" for name in columns))


def _row(details: dict[str, Any]) -> dict[str, str | None]:
    config = details["config"]
    size = "x".join(map(str, config["image_shape"]))
    if config.get("num_levels", 256) == 2:
        size += " binary"
    conditional = details["kind"] == "model" and config.get("num_classes") is not None
    quality, bits = _result(details, QUALITY), _result(details, LIKELIHOOD)
    bound = "<= " if details.get("likelihood") == "bound" else ""
    return {
        "name": details["name"],
        "what it is": ("conditional " if conditional else "") + details["family"],
        "images": size,
        "data": details.get("recipe", {}).get("data"),
        "sample quality": None if quality is None else f"{quality:.2f}",
        "bits/dim": None if bits is None else f"{bound}{bits:.3f}",
    }


def _result(details: dict[str, Any], start: str) -> float | None:
    """Returns the first recorded value whose name starts so; None if there is none."""
    for name, result in details["results"].items():
        if name.startswith(start):
            return result["value"]
    return None


def _print_table(columns: list[str], rows: list[dict[str, str | None]]) -> None:
    """Prints aligned columns; where the terminal is narrow, whole columns are left out.

    Nothing is ever cut: names are there to be copied.
    """
    widths = {name: max(len(name), *(len(row[name] or "") for row in rows)) for name in columns}
    room = shutil.get_terminal_size().columns
    for name in DROPPED_FIRST:
        if sum(widths.values()) + 2 * (len(widths) - 1) > room:
            widths.pop(name, None)
    for row in ({name: name for name in columns}, *rows):
        line = "  ".join((row[name] or "").ljust(width) for name, width in widths.items())
        typer.echo(line.rstrip())


@command()
def info(name: Name, as_json: Json = False) -> None:
    """Prints what an entry is, how it was trained and what was measured."""
    details = entries.details(name)
    typer.echo(json.dumps(details, indent=2) if as_json else _page(details, name))


def _page(details: dict[str, Any], name: str) -> str:
    """Returns what a person wants to know about an entry, as lines of text."""
    recipe, row = details.get("recipe", {}), _row(details)
    licence, state = details.get("licence", {}), details.get("training", {})
    facts = {
        "model": f"{row['what it is']}, {details['parameters']:,} weights",
        "images": row["images"],
        "likelihood": details.get("likelihood"),
        "data": ", ".join(filter(None, (recipe.get("data"), licence.get("data")))),
        "training": _training(state, details.get("device")),
        "licence": licence.get("weights"),
        "folder": details["path"],
    }
    lines = [details["name"], *([recipe["description"]] if recipe.get("description") else []), ""]
    lines += [f"{label:<12}{value}" for label, value in facts.items() if value]
    if details["results"]:
        width = max(map(len, details["results"]))
        lines += ["", "Results (tfgen evaluate)"]
        for label, result in details["results"].items():
            real = f", real images {result['real']:.4g}" if "real" in result else ""
            lines.append(f"  {label:<{width}}  {result['value']:.4g} {result['unit']}{real}")
    if details["kind"] == "model":
        lines += ["", "Try", f"  tfgen sample {name}", f"  tfgen evaluate {name} --check"]
    return "\n".join(lines)


def _training(state: dict[str, Any], device: str | None) -> str | None:
    if not state:
        return None
    best = state.get("best_epoch", -1) + 1
    kept = f", epoch {best} kept" if best else ""
    where = f" on {device}" if device else ""
    return f"{state['epoch']} epochs{kept}, {state['seconds'] / 60.0:.0f} minutes{where}"
