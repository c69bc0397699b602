"""`tfgen list` and `tfgen info`: what the zoo holds, without loading any of it."""

import re
import shlex
import shutil
import sys
import textwrap
from typing import Annotated, Any

import typer

from tfgen_command import entries
from tfgen_command.app import Json, Name, command, say_json
from tfgen_command.wording import LIKELIHOODS, four_digits, how_long, how_trained, with_commas

__all__ = ["info", "list_entries"]

# What families are compared by, as results' names in metadata.json start.
QUALITY = "Frechet distance, samples / real images"
DISTANCE = r"Frechet distance, (\d+) images"
USUAL_IMAGES = 10_000
LIKELIHOOD = "test bits per dimension"
# What `info` proposes to try; every other family can at least draw.
COMMANDS = {
    "AutoEncoder": ("reconstruct",),
    "VAE": ("sample", "reconstruct", "interpolate"),
    "HierarchicalVAE": ("sample", "reconstruct", "interpolate"),
    "GAN": ("sample", "interpolate", "score"),
    "PixelCNN": ("sample", "complete", "score"),
    "PixelEnsemble": ("sample", "complete", "score"),
    "PixelRNN": ("sample", "complete", "score"),
}
TEXT_WIDTH = 100
DROPPED_FIRST = ("data", "images", "what it is")  # on a narrow terminal


@command("list")
def list_entries(
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Shell-style, e.g. 'vae_*'.")
    ] = "*",
    every: Annotated[
        bool, typer.Option("--all", help="Also list the classifiers that judge samples.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Lists the trained models of the zoo.

    Sample quality is the Frechet ratio: the distance from samples to test images over that from
    training images to test images. The judge was fitted to training images, so 1 or less says only
    that samples are as close as those. It is of 10,000 images, or of the number in brackets; with
    few images every model looks better. Bits/dim is -log2 p(x) per pixel and channel; lower is
    better, and `<=` marks an upper bound. A conditional model draws the class that you ask for. On
    a narrow terminal some columns are left out.
    """
    names = entries.names(pattern, None if every else "model")
    if not names:
        known = entries.names(kind=None)
        raise ValueError(
            f"PATTERN must match an entry, as 'vae_*' does; {pattern!r} matches none"
            f"{'.' if every else ' without --all.'}"
            f"{entries.nearest(pattern, known)}"
        )
    found = [_row(entries.details(entries.root() / name)) for name in names]
    if as_json:
        say_json(found)
        return
    columns = list(found[0])
    if sys.stdout.isatty():
        _print_table(columns, found)
        return
    for row in (dict(zip(columns, columns, strict=True)), *found):
        typer.echo("\t".join(row[name] or "" for name in columns))


def _row(details: dict[str, Any]) -> dict[str, str | None]:
    config = details["config"]
    images = config["members"][0]["config"] if "members" in config else config  # of an ensemble
    size = "x".join(map(str, images["image_shape"]))
    if images.get("num_levels", 256) == 2:
        size += " binary"
    conditional = details["kind"] == "model" and config.get("num_classes") is not None
    results = details["results"]
    bits = next((r["value"] for n, r in results.items() if n.startswith(LIKELIHOOD)), None)
    bound = "<= " if details.get("likelihood") == "bound" else ""
    return {
        "name": details["name"],
        "what it is": ("conditional " if conditional else "") + details["family"],
        "images": size,
        "data": _recipe(details).get("data"),
        "sample quality": _quality(results),
        "bits/dim": None if bits is None else f"{bound}{bits:.3f}",
    }


def _recipe(details: dict[str, Any]) -> dict[str, Any]:
    """Returns the recipe that the weights were trained by; {} if they were saved without one."""
    return details.get("recipe", {}) if details.get("by_recipe", True) else {}


def _quality(results: dict[str, dict[str, Any]]) -> str | None:
    """Returns the ratio, with its number of images if that is not the usual one."""
    if QUALITY not in results:
        return None
    measured = (int(found[1]) for name in results if (found := re.match(DISTANCE, name)))
    number = next(measured, USUAL_IMAGES)
    few = f" ({number:,})" if number != USUAL_IMAGES else ""
    return f"{results[QUALITY]['value']:.2f}{few}"


def _print_table(columns: list[str], rows: list[dict[str, str | None]]) -> None:
    """Prints aligned columns, on a narrow terminal fewer: names, for copying, are never cut."""
    widths = {name: max(len(name), *(len(row[name] or "") for row in rows)) for name in columns}
    room = shutil.get_terminal_size().columns
    for name in DROPPED_FIRST:
        if sum(widths.values()) + 2 * (len(widths) - 1) > room:
            widths.pop(name, None)
    for row in ({name: name for name in columns}, *rows):
        line = "  ".join((row[name] or "").ljust(width) for name, width in widths.items())
        typer.echo(line.rstrip())
    typer.echo("\nLower is better in both; training images have quality 1.")
    typer.echo("All about one model: tfgen info NAME")


@command()
def info(name: Name, as_json: Json = False) -> None:
    """Shows what a model is, how it was trained and how good it is."""
    details = entries.details(name)
    if as_json:
        say_json(details)
        return
    typer.echo(_page(details, name).replace("`", ""))


def _page(details: dict[str, Any], name: str) -> str:
    """Returns what is known of an entry, as lines."""
    recipe, row = _recipe(details), _row(details)
    licence, state = details.get("licence", {}), details.get("training", {})
    facts = {
        "model": f"{row['what it is']}, {details['parameters']:,} weights",
        "images": row["images"],
        "likelihood": LIKELIHOODS.get(details.get("likelihood")),
        "data": ", ".join(filter(None, (recipe.get("data"), licence.get("data")))),
        "training": _training(state, details.get("device"), how_trained(details)),
        "licence": licence.get("weights"),
        "folder": details["path"],
    }
    lines = [details["name"], *_wrapped(recipe.get("description", "")), ""]
    for label, value in facts.items():
        lines += _wrapped(f"{label:<12}{value}", 12) if value else []
    if details["results"]:
        lines += ["", *_results(details["results"])]
    if details["kind"] == "model":
        tried = COMMANDS.get(details["family"], ("sample",))
        typed = shlex.quote(name)
        lines += ["", "Try", *(f"  tfgen {verb} {typed}" for verb in tried)]
        lines += [f"  tfgen evaluate {typed}" + " --check" * bool(details["results"])]
    return "\n".join(lines)


def _wrapped(text: str, indent: int = 0) -> list[str]:
    """Returns readable lines, all but the first indented; paths stay whole."""
    width = min(TEXT_WIDTH, shutil.get_terminal_size().columns)
    return textwrap.wrap(
        text,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _results(results: dict[str, dict[str, Any]]) -> list[str]:
    """Returns a line for each result: its number, that of real images if any, its name."""
    compared = any("real" in result for result in results.values())
    lines = [
        f"{'model':>9}" + (f"  {'real':>9}" if compared else "") + "  as tfgen evaluate measures it"
    ]
    for label, result in results.items():
        numbers = f"{four_digits(result['value']):>9}"
        if compared:
            numbers += f"  {four_digits(result['real']) if 'real' in result else '':>9}"
        lines += _wrapped(f"{numbers}  {with_commas(label)} ({result['unit']})", len(numbers) + 2)
    return lines


def _training(state: dict[str, Any], device: str | None, note: str) -> str | None:
    """Returns how long it took and where, and in what it was not `tfgen train`."""
    if not state:
        return None
    best = state.get("best_epoch", -1) + 1
    kept = f", epoch {best} kept" if best else ""
    where = f" on {device}" if device else ""
    epochs, minutes = how_long(state)
    took = f"{epochs}{kept}, {minutes}{where}"
    return f"{took}. {note}" if note else took
