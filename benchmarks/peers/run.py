"""Trains what a user would pick instead and the zoo's recipe for the same minutes, and judges both.

    python benchmarks/peers/run.py --minutes 3 --environments FOLDER --out FOLDER [--only NAME ...]
        [--write docs/benchmarks.md]

Each peer is a script of this folder in an environment of its own, made here with pinned versions;
ours is tfgen in the running environment. The sides run one after the other, on the same images,
with the same settings of the allocator (`contract.py` says what is measured, and how). A finished
side stays in --out, so a run that was cut off goes on. The judge is the Frechet distance of
`sample_quality` on classifier_mnist: samples against as many test images, over the distance of
train images.
"""

import datetime
import json
import os
import platform
import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import common  # noqa: E402

from peers import contract  # noqa: E402

ENVIRONMENTS = {
    "keras": ("tensorflow==2.21.0", "keras==3.15.1", "numpy==2.4.6"),
    "pythae": ("torch==2.13.0", "numpy==2.4.6", "pythae==0.1.2"),
}
BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
HEADER = (
    *("side", "Frechet / real images", "nats", "images/s", "CPU s", "1,000 samples, s"),
    *("one sample, s", "peak MB", "parameters", "load"),
)
LEAST_SAMPLES = 500  # for a Frechet distance


class Peer(NamedTuple):
    """A script with its variant, its environment, its data, and the recipe it is held against."""

    script: str
    variant: str
    environment: str
    data: str
    recipe: str


PEERS = {
    "keras_vae": Peer("keras_vae", "", "keras", "mnist", "vae_2d_mnist"),
    "pythae_vae": Peer("pythae_vae", "VAE", "pythae", "binarized_mnist", "vae_binarized_mnist"),
    "pythae_iwae": Peer("pythae_vae", "IWAE", "pythae", "binarized_mnist", "vae_binarized_mnist"),
    "pythae_vamp": Peer("pythae_vae", "VAMP", "pythae", "binarized_mnist", "vae_binarized_mnist"),
}


def interpreter(folder: Path, name: str) -> Path:
    """Returns the Python of an environment, which is made if it is not there."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        venv.create(folder / name, with_pip=True)
        command = [python, "-m", "pip", "install", "--quiet", *ENVIRONMENTS[name]]
        subprocess.run(list(map(str, command)), check=True)
    return python


def images_of(name: str, out: Path) -> Path:
    """Returns the file with a data set that every side reads."""
    from tfgen import data

    path = out / f"{name}.npz"
    if not path.exists():
        x_train, y_train = data.arrays(name, "train")
        x_test, _ = data.arrays(name, "test")
        labels = np.zeros(len(x_train)) if y_train is None else y_train
        unfinished = out / f"unfinished_{name}.npz"
        np.savez(unfinished, x_train=x_train, y_train=labels.astype(np.int64), x_test=x_test)
        unfinished.replace(path)
    return path


def run_side(python: Path, script: str, variant: str, data: Path, folder: Path, minutes: float):
    """Runs a side unless its folder says that it is finished."""
    if (folder / "figures.json").exists():
        return
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(HERE.parent), str(HERE.parents[1]))),
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "2147483647",
        "MALLOC_TOP_PAD_": "268435456",
    }
    options = ("--minutes", str(minutes), "--variant", variant)
    command = (python, "-m", f"peers.{script}", data.resolve(), folder.resolve(), *options)
    subprocess.run(list(map(str, command)), check=True, env=environment, cwd=HERE.parent)


def frechet_ratio(samples: np.ndarray, train: np.ndarray, test: np.ndarray, features) -> float:
    """Returns the distance of samples to real images over that of train images."""
    from tfgen.evaluation.frechet import FrechetDistance

    real = features(test[: len(samples)])
    distances = []
    for images in (samples, train[: len(samples)]):
        distance = FrechetDistance(real.shape[1])
        distance.update_state(real, features(images))
        distances.append(float(distance.result()))
    return distances[0] / distances[1]


def judged(folder: Path, data: Path, features) -> dict:
    """Returns a finished side's figures with its Frechet ratio, None if it drew too little."""
    figures, real = json.loads((folder / "figures.json").read_text()), contract.read(data)
    if not real.is_binary:  # densities of greys differ by the model, probabilities of bits do not
        figures.pop("nats", None)
    with np.load(folder / "samples.npz") as arrays:
        samples = arrays["images"]
    enough = len(samples) >= LEAST_SAMPLES
    figures["frechet"] = (
        frechet_ratio(samples, real.x_train, real.x_test, features) if enough else None
    )
    return figures


def row(name: str, figures: dict) -> list[str]:
    about = "about " if figures["estimated"] else ""
    return [
        name,
        "-" if figures["frechet"] is None else f"{figures['frechet']:.1f}",
        f"{figures['nats']:.1f}" if "nats" in figures else "-",
        f"{figures['images_per_second']:,.0f}",
        f"{figures['cpu_seconds']:.0f}",
        f"{about}{figures['seconds_1000']:.3g}",
        f"{about}{figures['seconds_1']:.3g}",
        f"{figures['peak_megabytes']:,.0f}",
        f"{figures['parameters']:,}",
        f"{figures['load_before']} to {figures['load_after']}",
    ]


def write_table(path: Path, rows: list[list[str]], caption: str) -> None:
    """Puts the table between the markers of a page."""
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{path} must hold {BEGIN} and {END} once each.")
    before, _, rest = text.partition(BEGIN)
    lines = [HEADER, ["---"] * len(HEADER), *rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n\n{caption}\n\n{table}\n\n{END}{after}")


def main() -> int:
    parser = common.parser(__doc__, repeats=None)
    parser.add_argument("--minutes", type=float, default=3.0, help="of training, each side")
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--out", type=Path, required=True, help="results of finished sides")
    parser.add_argument("--environments", type=Path, required=True, help="made once, kept")
    parser.add_argument("--write", type=Path, help="the page whose table is replaced")
    given = parser.parse_args()
    if not given.minutes > 0:
        parser.error("--minutes must be positive")
    out = given.out / f"{given.minutes:g}_minutes"
    out.mkdir(parents=True, exist_ok=True)

    from tfgen import zoo

    features = zoo.load_evaluator("classifier_mnist").features
    found: dict[str, dict] = {}
    for name in given.only:
        peer = PEERS[name]
        data = images_of(peer.data, out)
        python = interpreter(given.environments, peer.environment)
        sides = (
            (name, python, peer.script, peer.variant),
            (f"ours: {peer.recipe}", Path(sys.executable), "ours", peer.recipe),
        )
        for label, own, script, variant in sides:
            folder = out / label.replace(": ", "_")
            run_side(own, script, variant, data, folder, given.minutes)
            found[label] = judged(folder, data, features)
    rows = [row(label, figures) for label, figures in found.items()]
    if given.write is not None:
        caption = (
            f"{datetime.date.today():%d %B %Y}, {given.minutes:g} minutes of training each, "
            f"{platform.machine()}, {common.STARTED_ON['cores']} CPU cores: "
            + "; ".join(f"{label}: {versions(f)}" for label, f in found.items())
            + "."
        )
        write_table(given.write, rows, caption)
    table = common.format_table(HEADER, rows)
    return common.finish(table, found, True, f"{given.minutes:g} minutes each", given.json)


def versions(figures: dict) -> str:
    return ", ".join(f"{name} {number}" for name, number in figures["versions"].items())


if __name__ == "__main__":
    sys.exit(main())
