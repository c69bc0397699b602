"""What a training has left in its folder, for comparisons."""

import csv
from pathlib import Path


def log_of(folder: Path) -> list[dict[str, str]]:
    """The rows of log.csv without the time, which no two runs share."""
    with (folder / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    seconds = [float(row.pop("seconds")) for row in rows]
    assert all(0 < a < b for a, b in zip([1e-9, *seconds], seconds, strict=False))
    return rows
