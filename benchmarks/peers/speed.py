"""Images/s of training for networks of the same size: a peer's, and ours built like it.

    python benchmarks/peers/speed.py --environments FOLDER --out FOLDER [--only NAME ...]
        [--write docs/benchmarks.md]

The recipes of the zoo have other networks than the peers that run.py holds them against, so their
images/s say little about the code. Here ours gets the peer's layers and filters as far as its
family can, its batch, and none of what the peer does without (R1, shifts of images). Where a layer
differs, ours has at least as many parameters and multiply-adds. Both sides are built and compiled
first, each in a process of its own; then they train in turns, with the other one idle. The ratio is
that of the medians.

pythae's networks are one dense layer, diffusers' is a U-Net, keras.io's WGAN-GP pads to 32x32 and
tfd.PixelCNN has other blocks: no family of ours is built like them. Keras.io's PixelCNN counts the
weights that its masks hide, so its size cannot be compared.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import common  # noqa: E402

from peers import pace, report, run  # noqa: E402

HEADER = (
    *("peer", "its parameters", "our parameters", "its images/s", "our images/s"),
    "ours / peer",
)
LEAST = 1.0  # what the ratio must be

GAN = {
    "latent_dim": 128,
    "filters": [64, 128],
    "generator_filters": [128, 128],
    "dense_units": 16,
    "r1": 0.0,
}
BINARY_PIXELS = {"token_shape": [1, 1], "orders": 1, "dropout": 0.0}
# Peer -> what differs from the recipe that it is held against.
EQUAL: dict[str, dict[str, Any]] = {
    "keras_vae": {
        "batch_size": 128,
        "jit_compile": False,  # as Keras decides for the peer
        "model": {
            "filters": [32, 64],
            "decoder_filters": [64, 48],  # the peer's decoder works at 28x28, ours at 14x14
            "dense_units": 16,
            "latent_dim": 2,
        },
    },
    "keras_dcgan": {"batch_size": 64, "model": GAN},
    "keras_cgan": {"batch_size": 64, "model": GAN},
    "torch_pixelcnn": {
        "batch_size": 64,
        "model": {**BINARY_PIXELS, "filters": 32, "num_blocks": 6, "head_units": 32},
    },
}


class Side:
    """A process that trains when it is told.

    Args:
        python: The interpreter.
        script: A module of this folder.
        data: The images.
        options: More of the command line.
    """

    def __init__(self, python: Path, script: str, data: Path, options: list[str]):
        command = [python, "-m", "peers.pace", script, data.resolve(), *options]
        self.process = subprocess.Popen(
            list(map(str, command)),
            env=os.environ | run.settings(),
            cwd=HERE.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.parameters = int(self._answer()["parameters"])

    def _answer(self) -> dict[str, float]:
        for line in self.process.stdout:
            if line.startswith(pace.MARK):
                return json.loads(line.removeprefix(pace.MARK))
        raise SystemExit(f"{' '.join(self.process.args)} ended: run it to see why.")

    def images_per_second(self, seconds: float) -> float:
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return self._answer()["images_per_second"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


class Pair(NamedTuple):
    """What a peer and ours measured."""

    peer: str
    parameters: tuple[int, int]
    speeds: dict[str, list[float]]

    @property
    def ratio(self) -> dict[str, float]:
        return common.ratio(self.speeds["ours"], self.speeds["peer"])

    def row(self) -> list[str]:
        speeds = [common.summary(self.speeds[side])["median"] for side in ("peer", "ours")]
        ratio = self.ratio
        spread = f"{ratio['ratio']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
        counts = [f"{count:,}" for count in self.parameters]
        return [self.peer, *counts, *(report.number(speed) for speed in speeds), spread]


def measured(name: str, given) -> Pair:
    peer = run.PEERS[name]
    data = run.images_of(peer.data, given.out)
    python = run.interpreter(given.environments, peer.environment)
    equal = json.dumps(EQUAL[name] | {"max_shift": 0})
    options = ["--variant", peer.recipes[0], "--recipe", equal]
    sides = {
        "peer": Side(python, peer.script, data, ["--variant", peer.variant]),
        "ours": Side(run.interpreter(given.environments, None), "ours", data, options),
    }
    turns = {
        key: lambda side=side: side.images_per_second(given.seconds) for key, side in sides.items()
    }
    speeds = common.interleaved(turns, given.repeats)
    for side in sides.values():
        side.close()
    pair = Pair(name, (sides["peer"].parameters, sides["ours"].parameters), speeds)
    run.told(" ".join(pair.row()))
    return pair


def main() -> int:
    parser = common.parser(__doc__, repeats=5)
    parser.add_argument("--only", nargs="+", choices=EQUAL, default=list(EQUAL))
    parser.add_argument("--out", type=Path, required=True, help="where the images go")
    parser.add_argument("--environments", type=Path, required=True, help="made once, kept")
    parser.add_argument("--seconds", type=float, default=10.0, help="of training, side and round")
    parser.add_argument("--write", type=Path, help="the page whose table is replaced")
    given = parser.parse_args()
    if given.write is not None:
        common.around_section(given.write, "speed")
    given.out.mkdir(parents=True, exist_ok=True)
    pairs = [measured(name, given) for name in given.only]
    rows = [pair.row() for pair in pairs]
    if given.write is not None:
        common.write_section(given.write, "speed", [common.markdown(HEADER, rows)])
    slow = [
        f"{pair.peer} ({pair.ratio['ratio']:.2f})" for pair in pairs if pair.ratio["ratio"] < LEAST
    ]
    verdict = f"ours trains at least {LEAST:g}x as fast as each peer of its size"
    return common.finish(
        common.format_table(HEADER, rows),
        {pair.peer: pair._asdict() | {"ratio": pair.ratio} for pair in pairs},
        not slow,
        verdict + (f"; not: {', '.join(slow)}" if slow else ""),
        given.json,
    )


if __name__ == "__main__":
    sys.exit(main())
