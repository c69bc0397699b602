"""`tfgen score` and `tfgen evaluate`: numbers of single images and of whole models."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tfgen_command import entries
from tfgen_command.app import (
    FOR_VALIDATION,
    Binarize,
    DataName,
    Files,
    Invert,
    Json,
    Label,
    Name,
    NumImages,
    OptionalName,
    command,
    parse_labels,
    refuse,
    say_json,
)
from tfgen_command.process import import_tensorflow, tune_allocator
from tfgen_command.wording import counted, with_commas

if TYPE_CHECKING:
    from tfgen.evaluation import Result

__all__ = ["evaluate", "score"]


@command()
def score(
    context: typer.Context,
    name: Name,
    files: Files = None,
    num: NumImages = None,
    data_name: DataName = None,
    label: Label = None,
    invert: Invert = False,
    binarize: Binarize = False,
    as_json: Json = False,
) -> None:
    """Prints how likely, or how real, single images are.

    A model with a likelihood prints nats: log p(x), or a lower bound of it. A GAN prints its
    discriminator's logit, higher for images that it takes for real, and which side it is on; the
    critic of a Wasserstein GAN has no sides and only ranks images.
    """
    labels = parse_labels(label)
    if files:
        refuse(context, FOR_VALIDATION, "num", "data_name")
    import_tensorflow()
    from tfgen import cli

    model = cli.generative(name)
    if model.likelihood == "none" and "score" not in model.capabilities:
        raise ValueError(f"{name!r} cannot score images: {model.why_not('log_likelihood')}")
    images, labels = cli.images_for(model, name, files, data_name, num, labels, invert, binarize)
    if model.likelihood != "none":
        values, unit = model.log_likelihood(images, labels=labels), "nats"
    else:
        values, unit = model.score(images, labels=labels), "logit"
    rows = []
    for image, value in zip(files or range(len(values)), values, strict=True):
        row = {"image": str(image) if files else image, "value": float(value), "unit": unit}
        if unit == "logit" and model.score_border is not None:
            row["verdict"] = "real" if value > model.score_border else "fake"
        rows.append(row)
    if as_json:
        say_json(rows)
        return
    for row in rows:
        verdict = f", {row['verdict']}" if "verdict" in row else ""
        typer.echo(f"{row['image']}  {row['value']:.3f} {unit}{verdict}")


Metric = Annotated[
    list[str] | None,
    typer.Option(
        help="Measure only this metric (with --all: of the models that it fits), and write "
        "nothing; may be given several times."
    ),
]


@command()
def evaluate(
    name: OptionalName = None,
    all_entries: Annotated[bool, typer.Option("--all", help="Every entry.")] = False,
    data_name: DataName = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with recorded results; fail if one differs.")
    ] = False,
    metric: Metric = None,
    num_samples: Annotated[
        int | None,
        typer.Option(min=8, help="Draw this many samples, for a quick look; nothing is written."),
    ] = None,
    verbose: Annotated[bool, typer.Option(help="Show progress; --json does not.")] = True,
    as_json: Json = False,
    show_metrics: Annotated[
        bool, typer.Option("--list", help="List the metrics that a recipe can name, and exit.")
    ] = False,
) -> None:
    """Measures a model's results, or checks those on its card.

    Without --check, --data, --metric and --num-samples, they are written to the model's folder,
    with a new card.
    """
    if show_metrics:
        _list_metrics(as_json)
        return
    if (name is None) != all_entries:
        raise ValueError("evaluate needs either an entry's NAME or --all.")
    if check and num_samples is not None:
        raise ValueError("--num-samples and --check exclude each other: a card has its own number.")
    entries.check_metrics(metric or ())
    import_tensorflow()
    from tfgen import evaluation

    tune_allocator()
    chosen = entries.folders() if name is None else {name: name}
    missed, measured = 0, {}
    shows = int(verbose and not as_json and sys.stdout.isatty())
    skips = all_entries and bool(metric)
    for shown, model in chosen.items():
        results = evaluation.evaluate(
            model, data_name, check, shows, num_samples, metric or None, skip_unfit=skips
        )
        missed += sum(check and not result.reproduced for result in results.values())
        measured[shown] = {label: vars(result) for label, result in results.items()}
        if not as_json:
            why = "cannot be measured by that" if skips else "nothing to measure by its recipe"
            typer.echo(shown if results else f"{shown}: {why}")
            for label, result in results.items():
                typer.echo(f"  {with_commas(label)}: {_line(result, check)}")
    if as_json:
        say_json(measured)
    elif missed:
        typer.echo(f"Not reproduced: {counted(missed, 'result')}.")
    if missed:
        raise typer.Exit(1)


def _list_metrics(as_json: bool) -> None:
    if as_json:
        say_json(entries.METRICS)
        return
    for name, measured in entries.METRICS.items():
        typer.echo(f"{name:<28}{measured}")


def _line(result: "Result", check: bool) -> str:
    """Returns a result, that of real images, and with --check what is on the card."""
    parts = [f"{result.value:.5g} {result.unit}"]
    if result.real is not None:
        parts.append(f"real images {result.real:.5g}")
    if check:
        parts.append("reproduced" if result.reproduced else "NOT REPRODUCED")
        parts.append(f"recorded {result.recorded}")
        if result.recorded_real is not None:
            parts.append(f"of real images {result.recorded_real}")
    return ", ".join(parts)
