"""Whether memory grows with the data set when training from shards or from an image folder.

Makes a small and a large data set of made-up colour images and trains one epoch on each, in
separate processes. The limit: from the small to the large set, the peak resident memory may grow by
at most a fifth of the uncompressed size of the added images. For comparison it measures the same
from an .npz file, which is held in memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import common
import numpy as np
from peers.contract import peak_megabytes

LIMIT = 0.2  # growth of the peak / size of the added images
SHAPE = (64, 64, 3)
SOURCES = ("shards", "folder", "npz")


def picture(index: int) -> np.ndarray:
    """Returns an image that no file format makes smaller, as a photo nearly is."""
    return np.random.default_rng(index).integers(0, 256, SHAPE, np.uint8)


def make(folder: Path, source: str, count: int) -> Path:
    """Writes `count` images; returns what a recipe's `data` names."""
    from PIL import Image

    if source == "npz":
        np.savez_compressed(folder / "set.npz", images=np.stack([picture(i) for i in range(count)]))
        return folder / "set.npz"
    images = folder / "images"
    images.mkdir()
    for index in range(count):
        Image.fromarray(picture(index)).save(images / f"{index:06d}.png", compress_level=1)
    if source == "folder":
        return images

    from tfgen import data

    return data.prepare(images, folder / "shards", 8 * 2**20, verbose=0)


def work(path: str) -> int:
    """The trainer's side: one epoch, then the peak in MB."""
    from tfgen import training
    from tfgen.data import sources
    from tfgen.recipe import Recipe

    sources.MEMORY_BYTES = 0  # a folder is read from disk however small it is
    recipe = Recipe(
        family="AutoEncoder",
        model={
            "image_shape": list(SHAPE),
            "latent_dim": 4,
            "filters": [4, 4, 4],
            "num_blocks": 0,
            "dense_units": 16,
        },
        data=path,
        batch_size=64,
        epochs=1,
        ema_momentum=0.0,
        jit_compile=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        training.train(recipe, Path(folder) / "run", verbose=0)
    print(json.dumps(peak_megabytes()))
    return 0


def main() -> int:
    parser = common.parser(__doc__, repeats=None)
    parser.add_argument("--small", type=int, default=2_000, help="images (default %(default)s)")
    parser.add_argument("--large", type=int, default=60_000, help="images (default %(default)s)")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        return work(arguments.work)
    added = (arguments.large - arguments.small) * np.prod(SHAPE) / 1e6
    rows, measured = [], {}
    for source in SOURCES:
        peaks = []
        for count in (arguments.small, arguments.large):
            with tempfile.TemporaryDirectory() as folder:
                path = make(Path(folder), source, count)
                command = [sys.executable, __file__, "--work", str(path)]
                run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            peaks.append(json.loads(run.stdout.splitlines()[-1]))
        growth = peaks[1] - peaks[0]
        measured[source] = {"peaks_mb": peaks, "growth_mb": growth, "share": growth / added}
        rows.append(
            [
                source,
                *(f"{peak:,.0f}" for peak in peaks),
                f"{growth:,.0f}",
                f"{added:,.0f}",
                f"{growth / added:.3f}",
            ]
        )
    worst = max(("shards", "folder"), key=lambda source: measured[source]["share"])
    header = (
        *("data", f"{arguments.small:,} images", f"{arguments.large:,} images"),
        *("growth", "images added", "share"),
    )
    return common.finish(
        f"peak resident memory in MB, one epoch\n\n{common.format_table(header, rows)}",
        {"small": arguments.small, "large": arguments.large, "measured": measured, "limit": LIMIT},
        bool(measured[worst]["share"] <= LIMIT),
        f"growth / added images = {measured[worst]['share']:.3f} at worst ({worst}), "
        f"limit at most {LIMIT}",
        arguments.json,
    )


if __name__ == "__main__":
    sys.exit(main())
