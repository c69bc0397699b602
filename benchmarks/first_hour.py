"""The first hour of a new user, step by step, in seconds.

From a checkout and an empty folder: a fresh virtual environment, the first picture, then a model of
1,500 colour photos of mixed sizes: checked, trained, sampled, evaluated, exported, served and asked
over REST. Every step is the command that README or docs/own-images.md gives.

    python benchmarks/first_hour.py --minutes 6

Fails if the first picture takes longer than 90 seconds from the start of the installation, or the
own images longer than 15 minutes, which holds for two idle cores; the seconds of the CPU are there
for busy ones. Needs a package index, and the data set `clothing64` in
TFGEN_DATA_DIR; without it, drawn images of the same sizes stand in.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
FIRST_PICTURE, OWN_IMAGES = 90.0, 900.0  # limits, seconds
COUNT = 1500
PORT = 18501
UNUSUAL = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")  # a new user has not set them


class Walk:
    """Runs commands in a folder, in an environment, and remembers how long each took."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {k: v for k, v in os.environ.items() if k not in UNUSUAL}
        self.environment["PATH"] = f"{folder / '.venv' / 'bin'}:{os.environ['PATH']}"
        self.seconds: dict[str, float] = {}

    def run(self, step: str, *words: str | Path) -> str:
        start, used = time.monotonic(), cpu_seconds()
        done = subprocess.run(
            list(map(str, words)),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.took(step, start, used)
        if done.returncode:
            raise SystemExit(f"{step} failed: {' '.join(map(str, words))}\n{done.stdout}")
        return done.stdout

    def took(self, step: str, start: float, used: float) -> None:
        """Notes the end of a step, and prints its seconds and those of the CPU."""
        self.seconds[step] = time.monotonic() - start
        print(f"{self.seconds[step]:7.1f} s  {cpu_seconds() - used:7.1f} s CPU  {step}", flush=True)


def cpu_seconds() -> float:
    """Returns what commands that have ended used; on a busy machine less than their time."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def photos() -> list[Image.Image]:
    """Returns photos of a known set, or drawn ones where it is not at hand."""
    path = Path(os.environ.get("TFGEN_DATA_DIR", "")) / "clothing64.npz"
    if path.is_file():
        with np.load(path) as arrays:
            images = arrays["x_train"]
        chosen = np.random.default_rng(0).permutation(len(images))[:COUNT]
        return [Image.fromarray(images[index]) for index in chosen]
    rng = np.random.default_rng(0)
    found = []
    for _ in range(COUNT):
        image = Image.new("RGB", (64, 64), tuple(rng.integers(0, 256, 3)))
        x, y, size = rng.integers(4, 28, 3)
        box = (x, y, x + size, y + size)
        ImageDraw.Draw(image).ellipse(box, fill=tuple(rng.integers(0, 256, 3)))
        found.append(image)
    return found


def write_photos(folder: Path) -> None:
    """Writes them in mixed sizes and shapes, half as JPEG and half as PNG."""
    rng = np.random.default_rng(1)
    folder.mkdir()
    for index, image in enumerate(photos()):
        width, height = rng.integers(64, 161, 2)
        image = image.resize((int(width), int(height)), Image.Resampling.BICUBIC)
        image.save(folder / f"{index:04d}.{'jpg' if index % 2 else 'png'}")


def serve_and_ask(walk: Walk) -> None:
    """Starts `tfgen serve`, waits until it answers, and asks for one image as `curl` would."""
    start, used = time.monotonic(), cpu_seconds()
    words = ("tfgen", "serve", "--models", "models", "--port", PORT, "--grpc-port", PORT + 1)
    server = subprocess.Popen(
        list(map(str, words)), cwd=walk.folder, env=walk.environment, stderr=subprocess.DEVNULL
    )
    body = json.dumps({"signature_name": "sample", "inputs": {"seed": [0]}}).encode()
    address = f"http://127.0.0.1:{PORT}/v1/models/my:predict"
    try:
        while True:
            try:
                with urllib.request.urlopen(address, body, timeout=30) as answer:
                    (image,) = json.load(answer)["outputs"]
                break
            except OSError:
                if server.poll() is not None or time.monotonic() - start > 120:
                    raise SystemExit("the server does not answer") from None
                time.sleep(0.2)
    finally:
        server.terminate()
        server.wait()
    walk.took(f"serve, first answer of {len(image)} x {len(image[0])} pixels", start, used)


def own_images(walk: Walk, family: str, minutes: float) -> None:
    write_photos(walk.folder / "photos")
    checked = walk.run("data check", "tfgen", "data", "check", "photos", "--size", "64")
    print(checked)
    drafted = walk.run(
        f"recipe new ({family}, {minutes:g} minutes)",
        *("tfgen", "recipe", "new", "--data", "photos", "--family", family, "--out", "my.json"),
        *("--minutes", str(minutes), "--size", "64"),
    )
    print(drafted)
    walk.run("train", "tfgen", "train", "my.json", "--out", "runs/my", "--verbose", "0")
    walk.run("sample", "tfgen", "sample", "runs/my", "--out", "mine.png")
    measured = walk.run(
        "evaluate, 200 samples",
        *("tfgen", "evaluate", "runs/my", "--num-samples", "200", "--no-verbose"),
    )
    print(measured)
    walk.run("export", "tfgen", "export", "runs/my", "--out", "models")
    walk.run("install the server", "pip", "install", "--quiet", f"{ROOT}[serving]")
    serve_and_ask(walk)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=6.0, help="for `tfgen recipe new`")
    parser.add_argument("--family", default="VAE")
    parser.add_argument("--out", type=Path, help="keep everything in this new folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.out.resolve() if arguments.out else Path(scratch) / "hour"
        folder.mkdir(parents=True)
        walk = Walk(folder)
        walk.run("virtual environment", sys.executable, "-m", "venv", ".venv")
        walk.run("pip install", "pip", "install", "--quiet", "--no-compile", ROOT)
        walk.run("first picture", "tfgen", "sample", "cgan_mnist", "--out", "first.png")
        first = sum(walk.seconds.values())
        walk.seconds.clear()
        own_images(walk, arguments.family, arguments.minutes)
        own = sum(walk.seconds.values())
    print(f"{first:7.1f} s  from an empty folder to the first picture; at most {FIRST_PICTURE:.0f}")
    print(f"{own:7.1f} s  own images, checked to served; at most {OWN_IMAGES:.0f}")
    raise SystemExit(first > FIRST_PICTURE or own > OWN_IMAGES)


if __name__ == "__main__":
    main()
