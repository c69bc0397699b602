"""Whether a training step is faster when one thread works on each op and several ops run at once.

By default TensorFlow shares each op between the cores, but the ops of small layers hold too little
work for that. TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=CORES, set before Python starts,
runs as many ops side by side as there are cores, each on one of them. XLA compiles a step into a
single op, so recipes are measured without it here.

Each side is a process of its own, with the allocator set as `tfgen train` does, compiled and warmed
up before the first round. They take turns to train with `model.fit`.
"""

import sys

import common
from allocator import Worker

HEADER = ("recipe", "batch", "defaults, images/s", "one thread an op", "ratio", "min..max")
NAMES = (
    *("vae_mnist", "gan_mnist", "cgan_mnist", "ae_mnist"),
    *("pixelcnn_binarized_mnist", "pixelrnn_binarized_mnist"),
)


def measure(name: str, given) -> common.Rounds:
    """Returns images/s in each round of both sides."""
    workers, steps = {}, 0
    try:
        # One after the other: both would compile at the same time, and find few steps in a round.
        for side, within, beside in (("defaults", 0, 0), ("one", 1, common.STARTED_ON["cores"])):
            variables = {
                "TF_NUM_INTRAOP_THREADS": str(within),  # 0: as TensorFlow chooses
                "TF_NUM_INTEROP_THREADS": str(beside),
            }
            workers[side] = Worker("mallopt", False, name, given.seconds, variables)
            steps = workers[side].ask({"steps": steps})["steps"]
        sides = {
            side: lambda worker=worker: worker.measure(steps) for side, worker in workers.items()
        }
        return common.interleaved(sides, given.repeats)
    finally:
        for worker in workers.values():
            worker.close()


def main() -> int:
    from tfgen import zoo

    parser = common.parser(__doc__, repeats=5)
    parser.add_argument("--names", nargs="+", default=NAMES, help="zoo entries or recipe files")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds per side and round")
    given = parser.parse_args()
    rows, measured = [], {}
    for name in given.names:
        rounds = measure(name, given)
        over = common.ratio(rounds["one"], rounds["defaults"])
        defaults, one = (common.summary(rounds[side])["median"] for side in ("defaults", "one"))
        batch = str(zoo.load_recipe(name).batch_size)
        spread = f"{over['min']:.2f}..{over['max']:.2f}"
        rows.append(
            [name, batch, f"{defaults:,.0f}", f"{one:,.0f}", f"{over['ratio']:.2f}", spread]
        )
        measured[name] = {"rounds": rounds, "over_defaults": over}
    table = common.format_table(HEADER, rows)
    return common.finish(table, measured, True, "no limit: choose by the ratio", given.json)


if __name__ == "__main__":
    sys.exit(main())
