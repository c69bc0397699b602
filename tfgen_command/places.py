"""Which folder a name means, for the command and for the library. Imports nothing heavy."""

from pathlib import Path

__all__ = ["named"]


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


def _is_preset(path: Path) -> bool:
    return any((path / file).is_file() for file in ("config.json", "recipe.json"))
