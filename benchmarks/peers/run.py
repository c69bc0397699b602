"""Trains what a user would pick instead and a recipe of ours for the same minutes, and judges both.

    python benchmarks/peers/run.py --minutes 3 --environments FOLDER --out FOLDER [--only NAME ...]
        [--write docs/benchmarks.md]

Each peer is a script of this folder in an environment of its own, made here with pinned versions;
ours is tfgen in the running environment. The sides run one after the other, a peer and then the
recipe it is held against, on the same images, with the same settings of the allocator
(`contract.py` says what is measured, and how). The judge is the Frechet distance of
`sample_quality` on classifier_mnist: samples against all test images, over the distance of as many
train images, evenly spaced. Recipes of the zoo were chosen by it, on validation images; a second
judge, by which none was, looks at principal components and random convolutions.

PyPI's PyTorch for Linux brings CUDA along, which makes three environments large and their import
slower than the CPU build that docs/benchmarks.md was measured with: set PIP_EXTRA_INDEX_URL to
https://download.pytorch.org/whl/cpu and pin torch==2.13.0+cpu below for that one.

Each side's result goes to --out as soon as it is there. The same command again goes on where it was
cut off and skips what is finished; delete a side's folder to measure it again. With --within the
command ends in time and says what is left for the next one. A side that fails is reported and left
out, and makes the exit code 1; what it printed is in log.txt of its folder. --finished trains
nothing and reports what is there.

Several --minutes train each side once for each of them; they may also come one after the other,
since all that --out holds is reported. --write adds it to results.json of this folder, in place of
older results of the same sides and minutes, and makes the page of all results there; the chart goes
next to the page, into drawings/peers.png. --finished with an empty --out rebuilds the page from
results.json. With --machine NAME all this is for a machine of another kind: its results are kept in
results_NAME.json, and the section peers_NAME of the page shows its pairs, without a chart.

A side takes its minutes, half a minute to start and compile, at most --sampling-seconds for its
samples, and up to two minutes for nats; with all 22 sides that is about 22 times (minutes + 1.5).
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
sys.path.insert(0, str(HERE.parent))

import common  # noqa: E402

from peers import chart, contract, lines, report  # noqa: E402

ENVIRONMENTS = {
    "keras": (
        *("tensorflow==2.21.0", "keras==3.15.1", "tf-keras==2.21.0"),
        *("tensorflow-probability==0.25.0", "numpy==2.4.6"),
    ),
    "pythae": ("torch==2.13.0", "numpy==2.4.6", "pythae==0.1.2"),
    "diffusers": ("torch==2.13.0", "numpy==2.4.6", "diffusers==0.42.1"),
    "torch": ("torch==2.13.0", "numpy==2.4.6"),
}
FINISHED = "finished"  # a file in an environment whose packages are installed
Features = Callable[[np.ndarray], np.ndarray]
LEAST_SAMPLES = 500  # for a Frechet distance
BATCH = 500  # images a call of the judge
SIDE_SECONDS = 150.0  # what a side takes besides training and drawing, as --within reckons
SPARE_SECONDS = 3600.0  # for all that is neither training nor drawing


class Peer(NamedTuple):
    """A script with its variant, its environment, its data, and the recipes it is held against."""

    script: str
    variant: str
    environment: str
    data: str
    recipes: tuple[str, ...]


PEERS = {
    "keras_vae": Peer("keras_vae", "", "keras", "mnist", ("vae_2d_mnist",)),
    "keras_dcgan": Peer("keras_dcgan", "", "keras", "mnist", ("gan_mnist",)),
    "diffusers_ddpm": Peer("diffusers_ddpm", "", "diffusers", "mnist", ("gan_mnist",)),
    "diffusers_cosine": Peer("diffusers_ddpm", "cosine", "diffusers", "mnist", ("gan_mnist",)),
    "keras_wgan_gp": Peer("keras_wgan_gp", "", "keras", "mnist", ("wgan_gp_mnist",)),
    "keras_cgan": Peer("keras_cgan", "", "keras", "mnist", ("cgan_mnist",)),
    "pythae_vae": Peer(
        "pythae_vae", "VAE", "pythae", "binarized_mnist", ("vae_plain", "vae_dense")
    ),
    "pythae_iwae": Peer("pythae_vae", "IWAE", "pythae", "binarized_mnist", ("vae_plain",)),
    "pythae_vamp": Peer("pythae_vae", "VAMP", "pythae", "binarized_mnist", ("vae_vamp",)),
    "torch_pixelcnn": Peer(
        "torch_pixelcnn", "", "torch", "binarized_mnist", ("pixelcnn_binarized_mnist",)
    ),
    "keras_pixelcnn": Peer(
        "keras_pixelcnn", "", "keras", "binarized_mnist", ("pixelcnn_binarized_mnist",)
    ),
    "tfd_pixelcnn": Peer(
        "tfd_pixelcnn", "", "keras", "mnist", ("pixelcnn_softmax", "pixelcnn_logistic")
    ),
}


class Run(NamedTuple):
    """One training of one side: its name in the table and what makes it."""

    label: str
    script: str
    variant: str
    environment: str | None  # None is the running one
    data: str

    @property
    def folder(self) -> str:
        return self.label.replace(": ", "_")


def runs_of(names: list[str]) -> list[Run]:
    """Returns each peer and, after the first that is held against them, our recipes."""
    runs = {}
    for name in names:
        peer = PEERS[name]
        runs[name] = Run(name, peer.script, peer.variant, peer.environment, peer.data)
        for recipe in peer.recipes:
            ours = f"{report.OURS}{recipe}"
            runs.setdefault(ours, Run(ours, "ours", recipe, None, peer.data))
    return list(runs.values())


def interpreter(folder: Path, name: str | None) -> Path:
    """Returns the Python of an environment, which is made if it is not there."""
    if name is None:
        return Path(sys.executable)
    made = folder.absolute() / name  # not resolved: the link to Python is what finds the packages
    python, finished = made / "bin" / "python", made / FINISHED
    if not finished.exists():  # nor is one whose packages were not all installed
        venv.create(made, with_pip=True)
        command = [python, "-m", "pip", "install", "--quiet", *ENVIRONMENTS[name]]
        subprocess.run(list(map(str, command)), check=True)
        finished.touch()
    return python


def settings() -> dict[str, str]:
    """Returns the environment variables that all sides run with."""
    return {
        "PYTHONPATH": os.pathsep.join((str(HERE.parent), str(HERE.parents[1]))),
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "2147483647",
        "MALLOC_TOP_PAD_": "268435456",
        "PEERS_COMMIT": commit(),
    }


def commit() -> str:
    """Returns the commit of this repository, with a plus if code has changed since."""
    git = ["git", "-C", str(HERE.parents[1])]
    try:
        named = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True
        )
        code = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "*.py"])
    except (OSError, subprocess.CalledProcessError):  # no git, or no clone
        return "unknown"
    return named.stdout.strip() + "+" * bool(code.returncode)


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


def carry_out(run: Run, folder: Path, minutes: float, given: argparse.Namespace) -> bool:
    """Trains a side unless its folder says that it is finished; returns whether it is then."""
    if (folder / "figures.json").exists():
        asked = contract.asked(given)
        known = json.loads((folder / "figures.json").read_text()).get("asked", asked)
        if known != asked:
            say(f"{run.label}: measured with {known}; to measure it again, delete {folder}")
        return True
    try:
        python = interpreter(given.environments, run.environment)
    except subprocess.CalledProcessError as error:
        say(f"{run.label}, {minutes:g} minutes: FAILED, its environment was not made, {error}")
        return False
    data = images_of(run.data, given.out)
    options = ("--minutes", minutes, "--variant", run.variant)
    options += ("--sampling-seconds", given.sampling_seconds, "--num-test", given.num_test)
    command = (python, "-m", f"peers.{run.script}", data.resolve(), folder.resolve(), *options)
    limit = 120.0 * minutes + 3.0 * given.sampling_seconds + SPARE_SECONDS
    folder.mkdir(parents=True, exist_ok=True)
    start, used = time.perf_counter(), contract.cpu_seconds()
    try:
        with (folder / "log.txt").open("w") as log:
            subprocess.run(
                list(map(str, command)),
                check=True,
                env=os.environ | settings(),
                cwd=HERE.parent,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=limit,
            )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        last = "".join((folder / "log.txt").read_text().splitlines(keepends=True)[-5:])
        say(f"{run.label}, {minutes:g} minutes: FAILED, {error}\n{last}")
        return False
    taken, used = time.perf_counter() - start, contract.cpu_seconds() - used
    say(f"{run.label}, {minutes:g} minutes: took {taken:.0f} s, {used:.0f} s of CPU time")
    return True


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


class Judge:
    """The Frechet distance of samples to a data set's test images, over that of train images.

    Args:
        features_of: Train images -> a function from uint8 images to their features.
        out: Where the data sets' files are.
    """

    def __init__(self, features_of: Callable[[np.ndarray], Features], out: Path):
        self._features_of, self._out = features_of, out
        self._known: dict[str, tuple[np.ndarray, np.ndarray, Features]] = {}

    def ratio(self, samples: np.ndarray, name: str) -> float:
        """Returns what a data set's samples reach; 1.0 is what as many train images reach."""
        from tfgen.evaluation.distances import FrechetDistance
        from tfgen.evaluation.latents import evenly

        if name not in self._known:
            data = contract.read(images_of(name, self._out))
            features = self._features_of(data.x_train)
            self._known[name] = data.x_train, in_batches(features, data.x_test), features
        train, real, features = self._known[name]

        def distance(images: np.ndarray) -> float:
            metric = FrechetDistance(real.shape[1])
            metric.update_state(real, in_batches(features, images))
            return float(metric.result())

        return distance(samples) / distance(evenly(train, len(samples)))


def in_batches(features: Features, images: np.ndarray) -> np.ndarray:
    starts = range(0, len(images), BATCH)
    return np.concatenate([features(images[at : at + BATCH]) for at in starts])


def judged(run: Run, folder: Path, judges: dict[str, Judge]) -> report.Result:
    """Returns a finished side's result: with its Fréchet ratios, None if it drew too little."""
    figures = json.loads((folder / "figures.json").read_text())
    if not figures.keys() >= judges.keys():
        with np.load(folder / "samples.npz") as arrays:
            samples = arrays["images"]
        enough = len(samples) >= LEAST_SAMPLES
        for name, judge in judges.items():
            figures[name] = judge.ratio(samples, run.data) if enough else None
        contract.write(folder, figures)
    named = figures | {"side": run.label, "data": run.data}
    return named | {"lines": lines.user_lines(run.script, run.variant)}


def arguments() -> argparse.Namespace:
    parser = common.parser(__doc__, repeats=None)
    parser.add_argument(
        "--minutes", type=float, nargs="+", default=[3.0], help="of training, each side"
    )
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--out", type=Path, required=True, help="results of finished sides")
    parser.add_argument("--environments", type=Path, required=True, help="made once, kept")
    parser.add_argument("--write", type=Path, help="the page whose section is replaced")
    parser.add_argument("--machine", help="another than that of results.json, e.g. slower")
    parser.add_argument(
        "--finished", action="store_true", help="train nothing, report what --out holds"
    )
    parser.add_argument(
        "--sampling-seconds",
        type=float,
        default=contract.SAMPLING_SECONDS,
        help="for the samples of a side, at most (default %(default)s)",
    )
    parser.add_argument(
        "--num-test", type=int, default=contract.NUM_TEST, help="test images for nats"
    )
    parser.add_argument(
        "--within",
        type=float,
        default=math.inf,
        metavar="MINUTES",
        help="start no side that would not be finished by then",
    )
    given = parser.parse_args()
    if min(given.minutes) <= 0:
        parser.error("--minutes must be positive")
    given.section = "peers" if given.machine is None else f"peers_{given.machine}"
    if given.write is not None:
        common.around_section(given.write, given.section)  # before hours of training
    return given


def folder_of(out: Path, minutes: float, run: Run) -> Path:
    return out / f"{minutes:g}_minutes" / run.folder


def finished(runs: list[Run], out: Path, judges: dict[str, Judge]) -> list[report.Result]:
    """Returns the results of all sides that are there, for each number of minutes."""
    results = [
        judged(run, path.parent, judges)
        for run in runs
        for path in out.glob(f"*_minutes/{run.folder}/figures.json")
    ]
    return in_order(results)


def in_order(results: Iterable[report.Result]) -> list[report.Result]:
    """Sorts results as the sides of all peers come, and by their minutes."""
    places = {run.label: place for place, run in enumerate(runs_of(list(PEERS)))}
    return sorted(results, key=lambda result: (places[result["side"]], result["minutes"]))


def store(results: list[report.Result], machine: str | None = None) -> list[report.Result]:
    """Writes new results among those of a machine's file, and returns all of them."""
    path = RESULTS if machine is None else RESULTS.with_stem(f"{RESULTS.stem}_{machine}")
    known = report.read_rows(path)
    every = {(result["side"], result["minutes"]): result for result in [*known, *results]}
    ordered = in_order(every.values())
    report.write_rows(path, ordered)
    return ordered


def main() -> int:
    given = arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    runs = runs_of(given.only)
    failed, waiting = [], []
    end = time.perf_counter() + 60.0 * given.within
    for minutes in () if given.finished else given.minutes:
        for run in runs:
            folder, name = folder_of(given.out, minutes, run), f"{run.label} ({minutes:g} minutes)"
            needed = 60.0 * minutes + SIDE_SECONDS + given.sampling_seconds
            if not (folder / "figures.json").exists() and time.perf_counter() + needed > end:
                waiting.append(name)
            elif not carry_out(run, folder, minutes, given):
                failed.append(name)

    from tfgen import zoo
    from tfgen.evaluation import judges

    features = zoo.load_evaluator("classifier_mnist").features
    by_classifier = Judge(lambda train: features, given.out)
    by_pixels = Judge(judges.plain_features, given.out)
    results = finished(runs, given.out, {"frechet": by_classifier, "frechet_plain": by_pixels})
    recipes = {name: peer.recipes for name, peer in PEERS.items()}
    reasons = json.loads((HERE / "reasons.json").read_text())
    if given.write is not None:
        results = store(results, given.machine)
    if given.machine is None:
        section = report.section(results, recipes, reasons)
        page = given.out if given.write is None else given.write.parent
        chart.draw(results, recipes, page / report.CHART)
    else:
        section = report.short_section(results, recipes)
    if given.write is not None:
        common.write_section(given.write, given.section, section)
    verdict = f"{len(results)} trainings" + (f"; FAILED: {', '.join(failed)}" if failed else "")
    verdict += f"; not started: {', '.join(waiting)}" if waiting else ""
    explained = [] if given.machine else report.every_pair(results, recipes)
    lacking = report.unexplained(explained, reasons)
    verdict += f"; reasons.json lacks: {', '.join(lacking)}" if lacking else ""
    figures = {"results": results}
    return common.finish("\n\n".join(section), figures, not failed, verdict, given.json)


if __name__ == "__main__":
    sys.exit(main())
