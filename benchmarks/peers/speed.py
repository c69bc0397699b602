"""Training and drawing with networks of the same size: a peer's, and ours built like it.

    python benchmarks/peers/speed.py --environments FOLDER --out FOLDER [--only NAME ...]
        [--write docs/benchmarks.md]

The recipes of the zoo have other networks than the peers that run.py holds them against, so their
speed says little about the code. Here ours gets the peer's layers and filters as far as its family
can, its batch, and none of what the peer does without (R1, candidates, averaged weights, shifts of
images; a GAN's average of its generator stays). Where a layer differs, ours has at least as many
parameters and multiply-adds. Against pythae ours keeps the XLA of its recipes and draws with it,
too; the peers run as they come. Both sides are built and compiled first, each in a process of
its own; then they take turns, with the other one idle: a turn is some seconds of training, then
`contract.drawing`, which estimates what takes one pass a pixel. The ratio is that of the medians,
above 1 where ours is faster.

diffusers' network is a U-Net and tfd.PixelCNN has other blocks: no family of ours is built like
them. Keras.io's PixelCNN counts the weights that its masks hide, so its size cannot be compared.
"""

import datetime
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import common  # noqa: E402

from peers import contract, pace, report, run  # noqa: E402

HEADER = (
    *("peer", "its parameters", "our parameters", "measure", "its", "ours"),
    "ours is faster by a factor of",
)
MEASURES = {  # what is measured in a turn -> its name; `report.COMPARED` knows if more is better
    "images_per_second": "images/s of training",
    "seconds_1000": "seconds for 1,000 samples",
    "seconds_1": "seconds for one sample",
}
LEAST = 1.0  # what the ratio must be

GAN = {
    "latent_dim": 128,
    "filters": [64, 128],
    "generator_filters": [144, 136],  # the peers' last kernel is 7x7, ours 3x3
    "dense_units": 16,
    "r1": 0.0,
    "candidates": 1,
}
# The peer's stages go down to 2x2, ours to 7x7: at these widths ours has at least as much to
# multiply.
WASSERSTEIN = {
    "latent_dim": 128,
    "filters": [160, 320],
    "generator_filters": [272, 80],
    "dense_units": 210,
    "candidates": 1,
}
BINARY_PIXELS = {"token_shape": [1, 1], "orders": 1, "dropout": 0.0}
DENSE = {"filters": [], "dense_units": 512, "latent_dim": 10}
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
    "keras_wgan_gp": {"batch_size": 512, "model": WASSERSTEIN},
    "pythae_vae": {"batch_size": 200, "model": DENSE},
    "pythae_iwae": {"batch_size": 200, "model": DENSE | {"num_importance_samples": 10}},
    # One learned image more than the peer's 50, which come out of a layer with biases.
    "pythae_vamp": {"batch_size": 200, "model": DENSE | {"prior_components": 51}},
    "torch_pixelcnn": {
        "batch_size": 64,
        "model": {**BINARY_PIXELS, "filters": 32, "num_blocks": 6, "head_units": 32},
    },
}


class Side:
    """A process that trains and draws when it is told.

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

    def turn(self, seconds: float) -> dict[str, float]:
        """Returns what MEASURES names, after some seconds of training."""
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


class Pair(NamedTuple):
    """What a peer and ours measured."""

    peer: str
    parameters: tuple[int, int]
    turns: dict[str, list[dict[str, float]]]

    def values(self, measure: str) -> dict[str, list[float]]:
        return {side: [turn[measure] for turn in turns] for side, turns in self.turns.items()}

    def ratio(self, measure: str) -> dict[str, float]:
        values = self.values(measure)
        sides = values["ours"], values["peer"]
        _, more, _ = report.COMPARED[measure]
        return common.ratio(*(sides if more else reversed(sides)))

    def rows(self) -> list[list[str]]:
        counts = [f"{count:,}" for count in self.parameters]
        return [[self.peer, *counts, *self._row(measure)] for measure in MEASURES]

    def _row(self, measure: str) -> list[str]:
        values, ratio = self.values(measure), self.ratio(measure)
        medians = [
            report.shown(measure, self.turns[side][0] | {measure: statistics.median(values[side])})
            for side in ("peer", "ours")
        ]
        spread = f"{ratio['ratio']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
        return [MEASURES[measure], *medians, spread]


def measured(name: str, given) -> Pair:
    peer = run.PEERS[name]
    data = run.images_of(peer.data, given.out)
    python = run.interpreter(given.environments, peer.environment)
    equal = json.dumps({"max_shift": 0, "ema_momentum": 0.0} | EQUAL[name])
    options = ["--variant", peer.recipes[0], "--recipe", equal]
    options += ["--jit-sampling"] * (peer.environment == "pythae")
    sides = {
        "peer": Side(python, peer.script, data, ["--variant", peer.variant]),
        "ours": Side(run.interpreter(given.environments, None), "ours", data, options),
    }
    turns = {key: lambda side=side: side.turn(given.seconds) for key, side in sides.items()}
    taken = common.interleaved(turns, given.repeats)
    for side in sides.values():
        side.close()
    pair = Pair(name, (sides["peer"].parameters, sides["ours"].parameters), taken)
    for row in pair.rows():
        run.told(" ".join(row))
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
    rate = contract.machine_rate()
    pairs = [measured(name, given) for name in given.only]
    rows = [row for pair in pairs for row in pair.rows()]
    if given.write is not None:
        caption = (
            f"{common.host()}, {rate / 1e9:.0f} billion multiply-adds a second; "
            f"{datetime.date.today()}."
        )
        common.write_section(given.write, "speed", [caption, common.markdown(HEADER, rows)])
    ratios = {pair.peer: {measure: pair.ratio(measure) for measure in MEASURES} for pair in pairs}
    slow = [
        f"{peer}, {MEASURES[measure]} ({ratio['ratio']:.2f})"
        for peer, each in ratios.items()
        for measure, ratio in each.items()
        if ratio["ratio"] < LEAST
    ]
    verdict = f"ours trains and draws at least {LEAST:g}x as fast as each peer of its size"
    return common.finish(
        common.format_table(HEADER, rows),
        {pair.peer: pair._asdict() | {"ratios": ratios[pair.peer]} for pair in pairs},
        not slow,
        verdict + (f"; not: {', '.join(slow)}" if slow else ""),
        given.json,
    )


if __name__ == "__main__":
    sys.exit(main())
