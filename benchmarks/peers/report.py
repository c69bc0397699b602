"""What run.py makes of finished sides: rows, comparisons, a chart, and their place in a page."""

import ast
import io
import tokenize
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
ADDED = "# What the comparison adds"  # below it stands what no user writes
HEADER = (
    *("side", "Frechet / real images", "nats", "images/s", "CPU s", "1,000 samples, s"),
    *("one sample, s", "peak MB", "parameters", "lines", "load"),
)
OURS = "ours: "
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
NO_CODE |= {tokenize.ENDMARKER}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
# What is compared: key -> its name, and whether more is better.
COMPARED = {
    "frechet": ("Frechet ratio", False),
    "nats": ("nats", False),
    "images_per_second": ("images/s", True),
    "seconds_1000": ("seconds for 1,000 samples", False),
    "seconds_1": ("seconds for one", False),
    "peak_megabytes": ("peak MB", False),
}


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


def user_lines(script: str) -> int:
    """Returns the lines that a user writes to train, save, load, draw and serve."""
    path = HERE / f"{script}.py"
    served = "by_hand.serve(" in path.read_text()
    return code_lines(path) + (code_lines(HERE / "by_hand.py") if served else 0)


def number(value: float) -> str:
    """Returns three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def row(name: str, figures: dict) -> list[str]:
    about = "about " if figures["estimated"] else ""
    return [
        name,
        "-" if figures["frechet"] is None else f"{figures['frechet']:.1f}",
        f"{figures['nats']:.1f}" if "nats" in figures else "-",
        f"{figures['images_per_second']:,.0f}",
        f"{figures['cpu_seconds']:.0f}",
        about + number(figures["seconds_1000"]),
        about + number(figures["seconds_1"]),
        f"{figures['peak_megabytes']:,.0f}",
        f"{figures['parameters']:,}",
        f"{figures['lines']}",
        f"{figures['load_before']} to {figures['load_after']}",
    ]


def comparison(name: str, peer: dict, recipe: str, ours: dict) -> str:
    """Returns one line: in what the peer is ahead, and in what ours is."""
    ahead: dict[str, list[str]] = {name: [], recipe: []}
    for key, (what, more) in COMPARED.items():
        theirs, own = peer.get(key), ours.get(key)
        if theirs is None or own is None or theirs == own:
            continue
        better = name if (theirs > own) == more else recipe
        first, second = (theirs, own) if better == name else (own, theirs)
        ahead[better].append(f"{what} ({number(first)} against {number(second)})")
    parts = [f"`{side}` is ahead in {', '.join(what)}" for side, what in ahead.items() if what]
    return f"- `{name}` and `{recipe}`: {'; '.join(parts) or 'nothing to compare'}."


def versions(found: dict[str, dict]) -> str:
    """Returns the versions of all sides' packages, each once."""
    every = {
        f"{package} {number}"
        for figures in found.values()
        for package, number in figures["versions"].items()
    }
    return ", ".join(sorted(every, key=str.lower))


def write_table(path: Path, rows: list[list[str]], caption: str, after: Sequence[str] = ()) -> None:
    """Puts caption, table and what comes after it between the markers of a page."""
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{path} must hold {BEGIN} and {END} once each.")
    before, _, rest = text.partition(BEGIN)
    lines = [HEADER, ["---"] * len(HEADER), *rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    inside = "\n\n".join((BEGIN, caption, table, *after, END))
    path.write_text(f"{before}{inside}{rest.partition(END)[2]}")


def draw(points: dict[str, list[tuple[str, float, dict]]], path: Path) -> None:
    """Draws quality against minutes, a panel for each data set and measure.

    Args:
        points: Side -> (data, minutes, figures) of each of its trainings.
        path: The PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from tfgen.files import replacing

    panels: dict[tuple[str, str], dict[str, list]] = {}
    for side, trainings in points.items():
        for data, minutes, figures in sorted(trainings, key=lambda training: training[1]):
            for key in ("frechet", "nats"):
                if figures.get(key) is not None:
                    lines = panels.setdefault((data, key), {})
                    lines.setdefault(side, []).append((minutes, figures[key]))
    if not panels:
        return
    figure = Figure(figsize=(5 * len(panels), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, ((data, key), lines) in zip(all_axes, sorted(panels.items()), strict=True):
        for side, line in lines.items():
            style = "-" if side.startswith(OURS) else "--"
            axes.plot(*zip(*line, strict=True), style, marker="o", markersize=4, label=side)
        axes.set(
            title=data, xlabel="minutes of training", ylabel=f"{COMPARED[key][0]} (less is better)"
        )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
