"""Training and drawing with networks of the same size: a peer's, and ours built like it.

    python benchmarks/peers/speed.py --environments FOLDER --out FOLDER [--only NAME ...]
        [--write docs/benchmarks.md]

The recipes of the zoo have other networks than the peers that run.py holds them against, so their
speed says little about the code. Here ours gets the peer's layers and filters as far as its family
can, its batch, and leaves out what the peer does not have (R1, candidates, averaged weights, shifts
of images; a GAN's average of its generator stays). Where a layer differs, ours has at least as many
parameters and multiply-adds. Against pythae ours keeps the XLA of its recipes and draws with it,
too; the peers run as they come, both with the allocator's settings of run.py. Both sides are built
and compiled first, each in a process of its own; then they take turns, with the other one idle: a
turn is some seconds of training, then `contract.drawing`, which estimates what takes one pass a
pixel. The ratio is that of the medians, above 1 where ours is faster; the limit is 1.

With --write the turns of each pair go into speed.json of this folder, in place of older ones of the
same peers, and the page shows all that are there. What a side prints goes to --out.

diffusers' network is a U-Net and tfd.PixelCNN has other blocks: no family of ours is built like
them. Keras.io's PixelCNN counts the weights that its masks hide, so its size cannot be compared.
"""

import contextlib
import datetime
import functools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "speed.json"
sys.path.insert(0, str(HERE.parent))

import common  # noqa: E402

from peers import contract, pace, report, run  # noqa: E402

HEADER = (
    *("peer", "parameters, its : ours", "measure", "its", "ours"),
    "ours is faster by a factor of",
)
MEASURES = {  # what is measured in a turn -> its name; `report.COMPARED` knows if more is better
    "images_per_second": "images/s of training",
    "seconds_1000": "seconds for 1,000 samples",
    "seconds_1": "milliseconds for one sample",
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
        "model": {**BINARY_PIXELS, "filters": 32, "num_blocks": 7, "head_units": 32},
    },
}


class Side:
    """A process that trains and draws when it is told.

    Args:
        python: The interpreter.
        script: A module of this folder.
        data: The images.
        options: More of the command line.
        log: The file for what it prints to stderr.
    """

    def __init__(self, python: Path, script: str, data: Path, options: list[str], log: Path):
        command = [python, "-m", "peers.pace", script, data.resolve(), *options]
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                list(map(str, command)),
                env=os.environ | run.settings(),
                cwd=HERE.parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.parameters = int(self._answer()["parameters"])

    def _answer(self) -> dict[str, float]:
        for line in self.process.stdout:
            if line.startswith(pace.MARK):
                return json.loads(line.removeprefix(pace.MARK))
        last = "".join(self.log.read_text().splitlines(keepends=True)[-5:])
        raise SystemExit(f"{' '.join(self.process.args)} ended; {self.log} says why:\n{last}")

    def turn(self, seconds: float) -> dict[str, float]:
        """Returns what MEASURES names, after some seconds of training."""
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


class Pair(NamedTuple):
    """What a peer and ours measured.

    Args:
        peer: Its name in PEERS.
        parameters: The peer's and ours.
        turns: "peer" and "ours" -> what each of its turns gave.
        day: When.
        rate: Multiply-adds a second of the machine right before.
        commit: What of this repository was measured.
    """

    peer: str
    parameters: tuple[int, int]
    turns: dict[str, list[dict[str, float]]]
    day: str
    rate: float
    commit: str

    def values(self, measure: str) -> dict[str, list[float]]:
        return {side: [turn[measure] for turn in turns] for side, turns in self.turns.items()}

    def ratio(self, measure: str) -> dict[str, float]:
        values, more = self.values(measure), report.COMPARED[measure].more_is_better
        sides = (values["ours"], values["peer"]) if more else (values["peer"], values["ours"])
        return common.ratio(*sides)

    def rows(self) -> list[list[str]]:
        counts = " : ".join(f"{count:,}" for count in self.parameters)
        return [[self.peer, counts, *self._row(measure)] for measure in MEASURES]

    def _shown(self, measure: str, side: str, value: float) -> str:
        if measure == "images_per_second":
            return report.number(value)
        return report.shown(measure, self.turns[side][0] | {measure: value})

    def _row(self, measure: str) -> list[str]:
        values, ratio = self.values(measure), self.ratio(measure)
        medians = [
            self._shown(measure, side, statistics.median(values[side])) for side in ("peer", "ours")
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
    rate, day = contract.numpy_rate(), f"{datetime.date.today()}"
    theirs = (python, peer.script, data, ["--variant", peer.variant])
    ours = (Path(sys.executable), "ours", data, options)
    with (
        contextlib.closing(Side(*theirs, given.out / f"{name}_peer.log")) as their_side,
        contextlib.closing(Side(*ours, given.out / f"{name}_ours.log")) as our_side,
    ):
        sides = {"peer": their_side, "ours": our_side}
        turns = {key: functools.partial(side.turn, given.seconds) for key, side in sides.items()}
        taken = common.interleaved(turns, given.repeats)
    counts = their_side.parameters, our_side.parameters
    pair = Pair(name, counts, taken, day, rate, run.commit())
    for row in pair.rows():
        run.say(" ".join(row))
    return pair


def known() -> list[Pair]:
    """Returns what speed.json holds."""
    return [Pair(**row) for row in report.read_rows(RESULTS)]


def store(pairs: list[Pair]) -> list[Pair]:
    """Writes what was measured among what speed.json holds, and returns all of it."""
    every = {pair.peer: pair for pair in [*known(), *pairs]}
    ordered = [every[name] for name in EQUAL if name in every]
    report.write_rows(RESULTS, [pair._asdict() for pair in ordered])
    return ordered


def section(pairs: list[Pair]) -> list[str]:
    """Returns the caption and the table of a page."""
    days = sorted({pair.day for pair in pairs})
    rates = [pair.rate / 1e9 for pair in pairs]
    rounds = sorted({len(turns) for pair in pairs for turns in pair.turns.values()})
    caption = (
        f"Measured on {' and '.join(days)}, on machines of {min(rates):.0f} to {max(rates):.0f} "
        "billion multiply-adds a second in NumPy's products of matrices; medians of "
        f"{' or '.join(map(str, rounds))} rounds. The limit is {LEAST:g}: "
        f"{missed(pairs) or 'none missed it'}."
    )
    rows = [row for pair in pairs for row in pair.rows()]
    return [caption, common.markdown(HEADER, rows)]


def missed(pairs: list[Pair]) -> str:
    """Returns the ratios below the limit, in words; none makes it empty."""
    slow = [
        f"{pair.peer} in {MEASURES[measure]} ({pair.ratio(measure)['ratio']:.2f})"
        for pair in pairs
        for measure in MEASURES
        if pair.ratio(measure)["ratio"] < LEAST
    ]
    return f"missed by {', '.join(slow)}" if slow else ""


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
    pairs = []
    for name in given.only:
        pairs.append(measured(name, given))
        if given.write is not None:  # after each, so that no failure loses those before
            common.write_section(given.write, "speed", section(store(pairs)))
    ratios = {pair.peer: {measure: pair.ratio(measure) for measure in MEASURES} for pair in pairs}
    verdict = f"ours trains and draws at least {LEAST:g}x as fast as each peer of its size"
    slow = missed(pairs)
    return common.finish(
        common.format_table(HEADER, [row for pair in pairs for row in pair.rows()]),
        {pair.peer: pair._asdict() | {"ratios": ratios[pair.peer]} for pair in pairs},
        not slow,
        f"{verdict}; {slow}" if slow else verdict,
        given.json,
    )


if __name__ == "__main__":
    sys.exit(main())
