"""Whether 16 bits or XLA change what a family learns: the same short run in each setting.

float32          the reference, with two more seeds, which show the run-to-run spread
mixed_bfloat16   computes in bfloat16, with weights in float32
mixed_float16    computes in float16, with scaled losses
jit              float32, compiled by XLA

Each trains the same recipe on `digits` from the same initial weights. A family with a loss is
judged by the validation loss of its best epoch, which must be within 0.5 % of float32's, or
better. A GAN has no such loss: both of its losses must be finite, and the squared distance between
the mean images of 1,000 samples and of the data must be within twice the spread of float32's seeds.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

import common
import numpy as np

LIMIT = 0.005  # of float32's figure
SETTINGS = {
    "float32": {},
    "float32, seed 1": {"seed": 1},
    "float32, seed 2": {"seed": 2},
    "mixed_bfloat16": {"precision": "mixed_bfloat16"},
    "mixed_float16": {"precision": "mixed_float16"},
    "jit": {"jit_compile": True},
}
# What a family's constructor takes of these makes it small enough for 8 x 8 images.
SMALL = {"latent_dim": 8, "dense_units": 64, "num_levels": 256, "num_blocks": 1}


def recipe(family: str, epochs: int):
    """Returns a short recipe on `digits` for any family."""
    import inspect

    from tfgen import families
    from tfgen.recipe import Recipe

    cls = families.find(family)
    known = inspect.signature(cls.__init__).parameters
    if "members" in known:
        member = recipe("PixelCNN", epochs)
        members = 2 * [{"family": member.family, "config": member.model}]
        return dataclasses.replace(member, family=family, model={"members": members})
    arguments = {name: value for name, value in SMALL.items() if name in known}
    arguments["image_shape"] = [8, 8, 1]
    if not isinstance(known["filters"].default, int):
        arguments["filters"] = [16, 32]
    if "pixel_distribution" in known and family != "AutoEncoder":
        arguments["pixel_distribution"] = "categorical"
        arguments["num_levels"] = 17  # what the set has
    return Recipe(
        family=family,
        model=arguments,
        data="digits",
        batch_size=64,
        epochs=epochs,
        learning_rate=2e-3,
        warmup_steps=50,
        ema_momentum=0.99 if "loss" in cls.loss_names else 0.0,
        jit_compile=False,
    )


def figure(model, images: np.ndarray, log: list[dict[str, str]]) -> float:
    """Returns the family's figure, the lower the better."""
    if "loss" in model.loss_names:
        return min(float(row["val_loss"]) for row in log)
    drawn = model.sample(1000, seed=0).astype(np.float64)
    return float(np.square(drawn.mean(0) - images.mean(0)).mean())


def measure(family: str, epochs: int, folder: Path) -> dict[str, dict]:
    """Returns figure and losses by setting."""
    import csv

    from tfgen import data, training

    images, _ = data.arrays("digits", "validation")
    found = {}
    for setting, changes in SETTINGS.items():
        run = folder / f"{family}-{setting}"
        chosen = dataclasses.replace(recipe(family, epochs), **changes)
        model = training.train(chosen, run, verbose=0)
        with (run / "log.csv").open(newline="") as file:
            log = list(csv.DictReader(file))
        losses = [float(v) for row in log for name, v in row.items() if name.endswith("loss")]
        found[setting] = {
            "figure": figure(model, images, log),
            "finite": bool(np.isfinite(losses).all()),
        }
    return found


def main() -> int:
    parser = common.parser(__doc__, repeats=None)
    parser.add_argument("families", nargs="*", help="names (default: all)")
    parser.add_argument("--epochs", type=int, default=30, help="of each run (default %(default)s)")
    arguments = parser.parse_args()

    from tfgen import families

    measured, rows, failed = {}, [], []
    with tempfile.TemporaryDirectory() as folder:
        for family in arguments.families or families.known():
            found = measured[family] = measure(family, arguments.epochs, Path(folder))
            base = found["float32"]["figure"]
            seeds = [one["figure"] for name, one in found.items() if name.startswith("float32")]
            judged = "loss" in families.find(family).loss_names
            allowed = LIMIT * abs(base) if judged else 2 * (max(seeds) - min(seeds))
            for setting, one in found.items():
                change = one["figure"] - base
                fine = one["finite"] and (
                    setting.startswith("float32") or abs(change) <= allowed or change < 0
                )
                if not fine:
                    failed.append(f"{family} {setting}")
                rows.append(
                    [
                        f"{family}, {setting}",
                        f"{one['figure']:.5g}",
                        f"{100 * change / abs(base):+.3f} %",
                        f"{100 * allowed / abs(base):.3f} %",
                        "yes" if one["finite"] else "NO",
                    ]
                )
    header = ("run", "figure", "over float32", "allowed", "finite")
    return common.finish(
        f"{arguments.epochs} epochs of digits\n\n{common.format_table(header, rows)}",
        {"epochs": arguments.epochs, "measured": measured, "limit": LIMIT},
        not failed,
        f"outside the limit: {', '.join(failed) or 'none'}",
        arguments.json,
    )


if __name__ == "__main__":
    sys.exit(main())
