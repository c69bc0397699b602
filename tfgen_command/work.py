"""`tfgen train` and `tfgen export`: commands that write folders."""

import dataclasses
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tfgen_command import entries
from tfgen_command.app import OptionalName, checked, command, say
from tfgen_command.process import import_tensorflow, on_sigterm, tune_allocator

if TYPE_CHECKING:
    from tfgen.recipe import Recipe

__all__ = ["export", "train"]

STOP_WITHIN = 4.0  # seconds in which a training ends after Ctrl-C or SIGTERM


RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        callback=checked(entries.find_recipe),
        help="A recipe's JSON file, or an entry's name.",
    ),
]
RunFolder = Annotated[Path, typer.Option(help="Folder of the run.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")]
Epochs = Annotated[
    int | None,
    typer.Option(min=1, help="Epochs, instead of the recipe's; with --resume, train longer."),
]
KeepEpochs = Annotated[
    int, typer.Option(min=0, help="Keep the weights of every N-th epoch; 0 for none.")
]
Tensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="Also write logs for TensorBoard.")
]
Verbose = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=2,
        help="0: nothing; 1: a progress bar; 2: a line per epoch. By default 1 on a terminal, else "
        "2.",
    ),
]
Strategy = Annotated[
    Literal["none", "mirrored", "multi-worker", "tpu"], typer.Option(help="Devices to train on.")
]
CheckpointSeconds = Annotated[
    float, typer.Option(min=0, help="Seconds between checkpoints inside an epoch.")
]
Deterministic = Annotated[
    bool,
    typer.Option("--deterministic", help="Bit-identical results from run to run on a GPU; slower."),
]


@command()
def train(
    recipe: RecipeName,
    out: RunFolder,
    resume: Resume = False,
    epochs: Epochs = None,
    keep_epochs: KeepEpochs = 0,
    tensorboard: Tensorboard = False,
    verbose: Verbose = None,
    strategy: Strategy = "none",
    checkpoint_seconds: CheckpointSeconds = 120.0,
    deterministic: Deterministic = False,
) -> None:
    """Trains a recipe, or an entry of the zoo again.

    Other commands and `tfgen.load` take the folder as they take a name. Training makes glibc keep
    freed memory (see `tfgen.training.tune_allocator`), which can make it a third faster.
    """
    out = out.expanduser()
    on_sigterm(signal.SIG_DFL)  # also while workers wait for each other
    import_tensorflow()
    import tensorflow as tf

    from tfgen import devices, pictures, plots, training, zoo
    from tfgen.evaluation.metrics import check_results
    from tfgen.models.generative import GenerativeModel

    chosen = zoo.load_recipe(recipe)
    check_results(chosen.results)
    if epochs is not None:
        chosen = dataclasses.replace(chosen, epochs=epochs)
    tune_allocator()
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    # First of all that touches a device: processes can only join before anything has run.
    chosen_strategy = devices.make_strategy(strategy)
    before = _trained(out / ("training.json" if _is_users(out) else "metadata.json"))
    model = training.train(
        chosen,
        out,
        resume,
        2 - sys.stdout.isatty() if verbose is None else verbose,
        tensorboard,
        checkpoint_seconds,
        strategy=chosen_strategy,
        keep_epochs=keep_epochs,
        stop_within=STOP_WITHIN,
    )
    with chosen_strategy.scope():
        if not devices.is_chief():
            return
    finished = before == _trained(out / "training.json")
    if not finished:  # else its results and its card stay
        zoo.save(model, out, chosen, training.provenance(chosen, out))
    drawn = all((out / f"{name}.png").exists() for name in ("history", "progress"))
    if not (finished and drawn):  # it may have been stopped in between
        plots.history(out / "log.csv", out / "history.png")
        if isinstance(model, GenerativeModel):
            pictures.progress(model, out)
    say(_finished(chosen, out) if finished else f"Trained model in {out.resolve()}")


def _finished(recipe: "Recipe", folder: Path) -> str:
    if _is_users(folder):
        return (
            f"Nothing was left to train. {folder.resolve()} holds weights that were saved into it "
            "since; to have those of the run, delete its metadata.json and resume."
        )
    can_be_longer = recipe.patience is None and not recipe.stages
    longer = " Pass --epochs to train it longer." if can_be_longer else ""
    return f"Nothing was left to train: the model in {folder.resolve()} is finished.{longer}"


def _is_users(folder: Path) -> bool:
    """Whether a user has saved other weights into a run. They stay until there is more to train."""
    path = folder / "metadata.json"
    return path.is_file() and not entries.read_json(path).get("by_recipe", True)


def _trained(path: Path) -> tuple[int | None, float | None]:
    """Returns the steps and seconds of training in a run's file, None for what is not there."""
    held = entries.read_json(path) if path.is_file() else {}
    held = held.get("training", held)
    return held.get("step"), held.get("seconds")


@command()
def export(
    name: OptionalName = None,
    all_entries: Annotated[bool, typer.Option("--all", help="Every model of the zoo.")] = False,
    out: Annotated[
        Path, typer.Option(help="Folder to write to: for SavedModels, the model repository.")
    ] = Path("saved_models"),
    version: Annotated[
        int | None, typer.Option(min=1, help="Version number; by default the next one.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="Scale of the noise, fixed in sample and complete.")
    ] = 1.0,
    num_samples: Annotated[
        int, typer.Option(min=1, help="Importance samples, fixed in log_likelihood.")
    ] = 1,
    jit: Annotated[
        bool, typer.Option("--jit", help="Compile the endpoints with XLA, for each batch size.")
    ] = False,
    format: Annotated[
        Literal["tf_saved_model", "onnx", "litert", "stablehlo"],
        typer.Option(help="What to write; all but the first are for other runtimes."),
    ] = "tf_saved_model",
) -> None:
    """Exports models for TensorFlow Serving, or for other runtimes.

    SavedModels go into a model repository, with a line in its models.config.
    """
    if (name is None) != all_entries:
        raise ValueError("export needs either an entry's NAME or --all.")
    import_tensorflow()
    from tfgen import export as exporting
    from tfgen import zoo

    options = {"temperature": temperature, "num_samples": num_samples}
    options |= {"version": version, "jit_compile": jit}
    chosen = [entries.root() / entry for entry in zoo.list_models()] if name is None else [name]
    for model in chosen:
        written = exporting.add(out, model, format, **options)
        noted = written / "signatures.json"
        left = entries.read_json(noted)["left_out"] if noted.is_file() else {}
        without = f", without {', '.join(left)}: see signatures.json" if left else ""
        say(f"Exported {written.resolve()}{without}")
