"""Whether XLA makes a recipe's training step faster, and whether the recipe is set accordingly.

For each recipe: images/s of `model.fit` with jit_compile on and off, taking turns, after the
allocator settings of `tfgen train`; and the seconds of the first steps, most of them compiling. A
recipe passes if its own setting reaches 0.95 times the images/s of the other.
"""

import sys
import time

import common

TARGET = 0.95  # the recipe's own setting / the other one in images/s, at least


def compare(name: str, repeats: int, seconds: float) -> dict:
    """Returns one recipe's results."""
    trainings, first = {}, {}
    for setting, jit_compile in (("off", False), ("on", True)):
        trainings[setting] = common.Training(name, jit_compile)
        start = time.perf_counter()
        trainings[setting].fit(2)
        first[setting] = time.perf_counter() - start
    steps = {setting: training.steps_for(seconds) for setting, training in trainings.items()}
    sides = {
        setting: lambda setting=setting: trainings[setting].fit(steps[setting]) for setting in steps
    }
    rounds = common.interleaved(sides, repeats)

    from tfgen import zoo

    recipe = zoo.load_recipe(name)
    chosen, other = ("on", "off") if recipe.jit_compile else ("off", "on")
    return {
        "name": name,
        "batch_size": recipe.batch_size,
        "steps": steps,
        "images_per_second": {s: common.summary(values) for s, values in rounds.items()},
        "first_steps_seconds": first,
        "on_over_off": common.ratio(rounds["on"], rounds["off"]),
        "recipe": chosen,
        "chosen_over_other": common.ratio(rounds[chosen], rounds[other]),
    }


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("names", nargs="*", help="zoo entries or recipe files (default: all)")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds per side and round")
    arguments = parser.parse_args()

    from tfgen.training import tune_allocator

    tune_allocator()
    names = arguments.names or common.recipe_names()
    if not names:
        parser.error("names must be given: this checkout has no recipes")
    measured, rows = [], []
    for name in names:
        one = compare(name, arguments.repeats, arguments.seconds)
        measured.append(one)
        over, row = one["on_over_off"], [name]
        for setting in ("off", "on"):
            speed = one["images_per_second"][setting]
            row.append(f"{speed['median']:,.0f}")
            row.append(f"{speed['min']:,.0f}..{speed['max']:,.0f}")
        row += [f"{over['ratio']:.3f}", f"{over['min']:.3f}..{over['max']:.3f}"]
        first = one["first_steps_seconds"]
        row += [f"{first['off']:.1f} / {first['on']:.1f}", one["recipe"]]
        rows.append(row)
    header = (
        *("images/s", "jit off", "min..max", "jit on", "min..max", "on / off", "min..max"),
        *("first steps, s", "recipe"),
    )
    worst = min(measured, key=lambda one: one["chosen_over_other"]["ratio"])
    figure = worst["chosen_over_other"]["ratio"]
    return common.finish(
        f"{arguments.repeats} rounds of about {arguments.seconds:g} s\n\n"
        f"{common.format_table(header, rows)}",
        {"measured": measured, "target": TARGET},
        figure >= TARGET,
        f"the recipe's setting / the other = {figure:.3f} at worst ({worst['name']}), "
        f"limit at least {TARGET}",
        arguments.json,
    )


if __name__ == "__main__":
    sys.exit(main())
