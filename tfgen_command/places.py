"""Which folder a name means, for the command and for the library. Imports nothing heavy."""

import shlex
from pathlib import Path

__all__ = ["named", "untrained"]


def named(name: str | Path, zoo: Path, argument: str = "name") -> Path | None:
    """Returns the folder of an entry of the zoo, or of a preset that the user saved.

    Args:
        name: An entry's name, or a folder; what is both is the folder if it is a `Path`.
        zoo: The folder of the entries.
        argument: What an error calls the name.

    Returns:
        The folder, absolute, so that it is never taken for a name again; None if there is none.

    Raises:
        ValueError: It is the name of an entry and of another model in the working directory.
    """
    own, entry = Path(name).expanduser().absolute(), zoo / name
    if str(name) != entry.name or not _is_preset(entry):  # a path, or the name of no entry
        return own if _is_preset(own) else None
    if not _is_preset(own) or own.samefile(entry):
        return entry
    if isinstance(name, Path):  # which cannot be written ./NAME
        return own
    raise ValueError(
        f"{argument} must mean one model; {name!r} is an entry of the zoo, and also a folder here, "
        f"{own}. Write ./{name} for this folder, or {entry} for the entry."
    )


def untrained(path: Path, name: str | Path) -> str:
    """Returns what a folder without a metadata.json is, and how to go on with it.

    Args:
        path: The folder.
        name: What the user called it.
    """
    quoted = shlex.quote(str(name))
    runs = (path / "log.csv").is_file()
    if not (path / "recipe.json").is_file() or ((path / "model.weights.h5").is_file() and not runs):
        return f"{path} is a part of a preset: it has no metadata.json. Save it again."
    if runs:
        return (
            f"{path.name!r} is a run that has not ended; sample and evaluate take it as it is. "
            f"Continue it: tfgen train {quoted} --out {quoted} --resume"
        )
    return (
        f"{path.name!r} has a recipe but is not trained yet. "
        f"Train it: tfgen train {quoted} --out DIR"
    )


def _is_preset(path: Path) -> bool:
    return any((path / file).is_file() for file in ("config.json", "recipe.json"))
