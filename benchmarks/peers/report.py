"""What run.py makes of finished sides: rows, comparisons, a chart, and their place in a page.

Why a peer is ahead is known to whoever looked into it, not to this script: reasons.json holds it,
as {peer: {measure: sentence}} with the keys of PEERS and COMPARED, and for a single recipe under
"peer, recipe".
"""

import ast
import io
import math
import tokenize
from collections.abc import Iterable
from pathlib import Path

import common

from peers import contract

HERE = Path(__file__).resolve().parent
ADDED = "# What the comparison adds"  # below it stands what no user writes
HEADER = (
    *("side", "Frechet / real images", "plain features", "nats", "epochs", "images/s", "CPU s"),
    "1,000 samples, s",
    *("one sample, s", "peak MB", "parameters", "lines", "machine", "load", "day"),
)
OURS = "ours: "
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
NO_CODE |= {tokenize.ENDMARKER}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
# What is compared: key -> its name, whether more is better, and the share that counts as level,
# which is what two runs of one side on one day may differ by.
COMPARED = {
    "frechet": ("Frechet ratio", False, 0.1),
    "frechet_plain": ("Frechet ratio of plain features", False, 0.1),
    "nats": ("nats", False, 0.01),
    "images_per_second": ("images/s", True, 0.25),
    "seconds_1000": ("seconds for 1,000 samples", False, 0.25),
    "seconds_1": ("seconds for one sample", False, 0.25),
    "peak_megabytes": ("peak MB", False, 0.05),
}
QUALITY = ("frechet", "nats")  # what the chart and the summary show
AHEAD = ("peer", "ours", "measure", "peer's", "ours", "parameters", "why")
FILLED = ("none", "full")  # peers, ours
MARKS = "osD^"  # of the peers of one recipe
UNEXPLAINED = "not looked into yet"


def code_lines(path: Path) -> int:
    """Returns how many lines of a file's user code hold code.

    Docstrings, imports from this folder, and imports that only the rest of the file uses do not
    count.
    """
    text = path.read_text()
    end = text.find(f"\n{ADDED}\n")
    tree = ast.parse(text[:end] if end >= 0 else text)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text[:end] if end >= 0 else text).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {(name.asname or name.name).split(".")[0] for name in node.names}
            if getattr(node, "module", None) == "peers" or not names & used:
                lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def user_lines(script: str, variant: str = "") -> int:
    """Returns the lines that a user writes to train, save, load, draw and serve.

    A recipe that the zoo lacks counts, too.
    """
    path, recipe = HERE / f"{script}.py", HERE / "recipes" / f"{variant}.json"
    served = "by_hand.serve(" in path.read_text()
    lines = code_lines(path) + (code_lines(HERE / "by_hand.py") if served else 0)
    return lines + (len(recipe.read_text().splitlines()) if recipe.is_file() else 0)


def number(value: float) -> str:
    """Returns three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def shown(key: str, figures: dict) -> str:
    """Returns a figure that is compared, and whether it is an estimate."""
    estimated = key.startswith("seconds_") and figures["estimated"]
    return ("about " if estimated else "") + number(figures[key])


def ratio(figures: dict, key: str) -> str:
    """Returns a Frechet ratio, or why there is none."""
    drawn = figures["num_samples"]
    if figures[key] is None:
        return "too slow to draw" if figures["estimated"] else f"only {drawn} drawn"
    return f"{figures[key]:.1f}" + (f" ({drawn} drawn)" if drawn < contract.NUM_SAMPLES else "")


def row(name: str, figures: dict) -> list[str]:
    return [
        name,
        ratio(figures, "frechet"),
        ratio(figures, "frechet_plain"),
        f"{figures['nats']:.1f}" if "nats" in figures else "none",
        number(figures["images"] / figures["train_images"]),
        f"{figures['images_per_second']:,.0f}",
        f"{figures['cpu_seconds']:.0f}",
        shown("seconds_1000", figures),
        shown("seconds_1", figures),
        f"{figures['peak_megabytes']:,.0f}",
        f"{figures['parameters']:,}",
        f"{figures['lines']}",
        f"{figures['rate'] / 1e9:.0f}" if "rate" in figures else "not noted",
        f"{figures['load_before']} to {figures['load_after']}",
        figures["day"],
    ]


def ahead(one: dict, other: dict) -> list[str]:
    """Returns the measures in which a side is ahead of another by more than counts as level."""
    found = []
    for key, (_, more, level) in COMPARED.items():
        first, second = one.get(key), other.get(key)
        if first is not None and second is not None:
            gain = first - second if more else second - first
            if gain > level * max(first, second):
                found.append(key)
    return found


def wins(name: str, peer: dict, recipe: str, ours: dict, reasons: dict) -> list[list[str]]:
    """Returns a row for each measure in which the peer is ahead, with what is known of why."""
    recipe = recipe.removeprefix(OURS)
    known = reasons.get(name, {}) | reasons.get(f"{name}, {recipe}", {})
    size = peer["parameters"] / ours["parameters"]
    return [
        [
            *(name, recipe, COMPARED[key][0]),
            *(shown(key, peer), shown(key, ours)),
            *(f"{size:.2g}x", known.get(key, UNEXPLAINED)),
        ]
        for key in ahead(peer, ours)
    ]


def losses(name: str, peer: dict, recipe: str, ours: dict) -> str:
    """Returns one line: in what ours is ahead of the peer."""
    parts = [
        f"{COMPARED[key][0]} ({shown(key, ours)} against {shown(key, peer)})"
        for key in ahead(ours, peer)
    ]
    return f"- `{recipe.removeprefix(OURS)}` against `{name}`: {', '.join(parts) or 'in nothing'}."


def summary(recipes: dict[str, tuple[str, ...]], found: dict[str, dict[str, dict]]) -> str:
    """Returns a table of the quality of each pair after each time, the better one in bold.

    Args:
        recipes: Peer -> the recipes it is held against.
        found: Name of a time -> side -> figures.
    """

    def both(key: str, *pair: dict | None) -> str:
        if any(figures is None or figures.get(key) is None for figures in pair):
            return "not measured"
        order = [ahead(*pair), ahead(*reversed(pair))]
        texts = [
            ratio(figures, key) if key == "frechet" else f"{figures[key]:.1f}" for figures in pair
        ]
        marked = [
            f"**{text}**" if key in won else text for text, won in zip(texts, order, strict=True)
        ]
        return " : ".join(marked)

    rows = []
    for peer, names in recipes.items():
        for recipe in names:
            for key in QUALITY:
                pairs = [
                    (sides.get(peer), sides.get(f"{OURS}{recipe}")) for sides in found.values()
                ]
                cells = [both(key, *pair) for pair in pairs]
                if set(cells) != {"not measured"}:
                    rows.append([f"{peer} : {recipe}", COMPARED[key][0], *cells])
    return common.markdown(("peer : ours", "less is better", *found), rows)


def page(name: str, rows: list[list[str]], wins: list[list[str]], losses: list[str]) -> list[str]:
    """Returns the paragraphs of a page: everything measured, who is ahead in what, and why."""
    parts = [f"### {name} of training each", common.markdown(HEADER, rows)]
    if wins:
        parts += ["Where a peer is ahead (`parameters`: the peer's over ours):"]
        parts += [common.markdown(AHEAD, wins)]
    return [*parts, "Where ours is ahead:", "\n".join(losses)]


def versions(found: Iterable[dict[str, dict]]) -> str:
    """Returns the versions of all sides' packages, each once."""
    every = {
        f"{package} {number}"
        for sides in found
        for figures in sides.values()
        for package, number in figures["versions"].items()
    }
    return ", ".join(sorted(every, key=str.lower))


def draw(
    points: dict[str, list[tuple[str, float, dict]]],
    recipes: dict[str, tuple[str, ...]],
    path: Path,
) -> None:
    """Draws quality against minutes, a panel for each data set and measure.

    A panel whose sides were trained for one number of minutes ranks them instead.

    Args:
        points: Side -> (data, minutes, figures) of each of its trainings.
        recipes: Peer -> the recipes it is held against.
        path: The PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str], dict[str, list]] = {}
    for side, trainings in points.items():
        for data, minutes, figures in sorted(trainings, key=lambda training: training[1]):
            for key in QUALITY:
                if figures.get(key) is not None:
                    lines = panels.setdefault((data, key), {})
                    lines.setdefault(side, []).append((minutes, figures[key]))
    if not panels:
        return
    figure = Figure(figsize=(15, 4.5 * math.ceil(len(panels) / 2)), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(math.ceil(len(panels) / 2), 2, squeeze=False).flat
    for axes, ((data, key), lines) in zip(all_axes, sorted(panels.items()), strict=False):
        times = sorted({minutes for line in lines.values() for minutes, _ in line})
        measure = f"{COMPARED[key][0]} (less is better)"
        if len(times) == 1:
            rank(axes, {side: line[0][1] for side, line in lines.items()})
            axes.set(title=f"{data}, after {times[0]:g} minutes", xlabel=measure)
        else:
            follow(axes, lines, times, styles(recipes))
            axes.set(title=data, xlabel="minutes of training", ylabel=measure)
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

    Each recipe has a colour, as far as there are ten, and so has each peer: that of the first
    recipe it is held against. Ours are whole and filled; peers of one recipe differ by their marks.
    """
    every = list(dict.fromkeys(recipe for names in recipes.values() for recipe in names))
    colours = {recipe: f"C{place % 10}" for place, recipe in enumerate(every)}
    made = {
        f"{OURS}{recipe}": {"color": colour, "linestyle": "-", "marker": "o"}
        for recipe, colour in colours.items()
    }
    against: dict[str, int] = {}
    for peer, (first, *_) in recipes.items():
        place = against[first] = against.get(first, -1) + 1
        marks = {"marker": MARKS[place % len(MARKS)], "fillstyle": "none"}
        made[peer] = {"color": colours[first], "linestyle": "--", **marks}
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
