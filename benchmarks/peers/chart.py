"""The chart of run.py: quality against minutes of training, ours and the peers."""

import math
from pathlib import Path

import common

from peers.report import COMPARED, OURS, QUALITY, Result

FILLED = ("none", "full")  # peers, ours
DASHES = ("--", ":", "-.", (0, (5, 1)))  # of the peers of one recipe
TITLES = {"mnist": "MNIST", "binarized_mnist": "binarised MNIST"}  # of data sets


def draw(results: list[Result], recipes: dict[str, tuple[str, ...]], path: Path) -> None:
    """Draws quality against minutes, a panel for each data set and measure.

    A panel whose sides were trained for one number of minutes ranks them instead.

    Args:
        results: As `report.section` takes them.
        recipes: Peer -> the recipes that it is held against.
        path: The PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str], dict[str, list]] = {}
    for result in sorted(results, key=lambda result: result["minutes"]):
        for key in QUALITY:
            if result.get(key) is not None:
                lines = panels.setdefault((result["data"], key), {})
                lines.setdefault(result["side"], []).append((result["minutes"], result[key]))
    if not panels:
        return
    figure = Figure(figsize=(15, 4.5 * math.ceil(len(panels) / 2)), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(math.ceil(len(panels) / 2), 2, squeeze=False).flat
    for axes, ((data, key), lines) in zip(all_axes, sorted(panels.items()), strict=False):
        times = sorted({minutes for line in lines.values() for minutes, _ in line})
        measure, title = f"{COMPARED[key].name} (less is better)", TITLES.get(data, data)
        if len(times) == 1:
            rank(axes, {side: line[0][1] for side, line in lines.items()})
            axes.set(title=f"{title}, after {times[0]:g} minutes", xlabel=measure)
        else:
            follow(axes, lines, times, styles(recipes))
            axes.set(title=title, xlabel="minutes of training", ylabel=measure)
        axes.grid(alpha=0.3, which="both")
    for axes in list(figure.axes)[len(panels) :]:
        axes.remove()
    common.save_chart(figure, path)


def rank(axes, values: dict[str, float]) -> None:
    """Draws a dot for each side, the best at the top; ours are blue and filled."""
    order = sorted(values, key=lambda side: -values[side])
    for place, side in enumerate(order):
        ours = side.startswith(OURS)
        axes.plot(values[side], place, "o", color="C0" if ours else "C1", fillstyle=FILLED[ours])
        text = {"xytext": (7, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
        axes.annotate(f"{values[side]:.1f}", (values[side], place), **text)
    axes.set_yticks(range(len(order)), order)
    axes.margins(x=0.15)
    plain(axes, "x", max(values.values()) > 5 * min(values.values()))


def styles(recipes: dict[str, tuple[str, ...]]) -> dict[str, dict]:
    """Returns how the line of each side is drawn.

    Each recipe has a colour and a mark, as far as there are ten, and each peer has those of the
    first recipe it is held against. Ours are whole and filled; peers of one recipe differ by their
    dashes.
    """
    every = list(dict.fromkeys(recipe for names in recipes.values() for recipe in names))
    looks = {
        recipe: {"color": f"C{place % 10}", "marker": common.MARKS[place % len(common.MARKS)]}
        for place, recipe in enumerate(every)
    }
    made = {f"{OURS}{recipe}": {**look, "linestyle": "-"} for recipe, look in looks.items()}
    against: dict[str, int] = {}
    for peer, (first, *_) in recipes.items():
        place = against[first] = against.get(first, -1) + 1
        dashes = DASHES[place % len(DASHES)]
        made[peer] = {**looks[first], "linestyle": dashes, "fillstyle": "none"}
    return made


def follow(
    axes, lines: dict[str, list[tuple[float, float]]], times: list[float], styles: dict[str, dict]
) -> None:
    """Draws a line for each side and names them in the order of their ends."""
    for side, line in sorted(lines.items(), key=lambda item: -item[1][-1][1]):
        axes.plot(*zip(*line, strict=True), label=side, **styles[side])
    axes.set_xscale("log")
    axes.set_xticks(times, [f"{minutes:g}" for minutes in times])
    axes.set_xticks([], minor=True)
    values = [value for line in lines.values() for _, value in line]
    plain(axes, "y", max(values) > 5 * min(values))
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def plain(axes, which: str, logarithmic: bool) -> None:
    """Sets a scale whose numbers are written out."""
    if logarithmic:
        getattr(axes, f"set_{which}scale")("log", subs=(2, 5))
        getattr(axes, f"{which}axis").set_major_formatter("{x:g}")
        getattr(axes, f"{which}axis").set_minor_formatter("{x:g}")
