"""Pages and tables made from the files in zoo/: README's table, the gallery, the comparison.

Run it to rewrite the table in README.md: `python docs/zoo_pages.py`. MkDocs loads it as a hook, so
the site's gallery follows zoo/ at every build. It reads JSON files only and imports no TensorFlow.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

__all__ = ["comparison", "digest", "entries", "headline", "readme_table", "write_readme"]

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- zoo table: written by docs/zoo_pages.py -->\n", "<!-- end of zoo table -->"
USUAL_IMAGES = 10_000  # samples, and test images, behind a Frechet ratio
# Entries that were trained further than the first network and stage, as their cards say.
TRAINED_FURTHER = ("pixelcnn_mnist", "vae_fashion_mnist", "vae_mnist")
# Files outside docs/ that are pages of the site as well: path from the root -> page.
OUTSIDE = {
    "saved_models/README.md": "model-repository.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}


# Results


def entries(kind: str | None = "model") -> list[dict[str, Any]]:
    """Returns the trained entries of the zoo, by name: metadata, configuration and recipe."""
    found = []
    for path in sorted((ROOT / "zoo").glob("*/metadata.json")):
        details = {"name": path.parent.name, **json.loads(path.read_text(encoding="utf-8"))}
        details |= json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
        details["recipe"] = json.loads((path.parent / "recipe.json").read_text(encoding="utf-8"))
        if kind is None or details["kind"] == kind:
            found.append(details)
    return found


def result(entry: dict[str, Any], pattern: str) -> float | None:
    """Returns the first result whose name matches a pattern, or None."""
    for name, value in entry["results"].items():
        if re.search(pattern, name):
            return value["value"]
    return None


def likelihood(entry: dict[str, Any]) -> str:
    """Returns the negative log-likelihood with its unit and kind, or an empty string."""
    kind = entry["likelihood"]
    nats = result(entry, "^test negative log-likelihood")
    bits = result(entry, "^test bits per dimension")
    if kind == "none" or nats is None:
        return ""
    config = entry["config"]
    images = config["members"][0]["config"] if "members" in config else config  # of an ensemble
    binary = images["num_levels"] == 2
    return f"{nats:.2f} nats, {kind}" if binary else f"{bits:.3f} bits/dim, {kind}"


def frechet_ratio(entry: dict[str, Any]) -> str:
    """Returns the Frechet ratio, or an empty string where it was not measured.

    The number of images stands with it where it is not the usual one: with few images real ones
    are far from the test images too, so every model looks better.
    """
    number = USUAL_IMAGES
    for name, value in entry["results"].items():
        if found := re.match(r"Frechet distance, (\d+) images", name):
            number = int(found[1])
        if name == "Frechet distance, samples / real images":
            few = f" ({number:,} images)" if number != USUAL_IMAGES else ""
            return f"{value['value']:.2f}{few}"
    return ""


def headline(entry: dict[str, Any]) -> str:
    """Returns the one result that the gallery shows."""
    if found := likelihood(entry):
        return found
    if ratio := frechet_ratio(entry):
        return f"Fréchet ratio {ratio}"
    accuracy = result(entry, "^test 1-nearest-neighbour accuracy on latents")
    return "" if accuracy is None else f"{accuracy:.1f} % 1-nearest-neighbour accuracy on latents"


def measured(entry: dict[str, Any]) -> list[str]:
    """Returns the results that the gallery shows: likelihood and quality of samples."""
    ratio = frechet_ratio(entry)
    found = [likelihood(entry), f"Fréchet ratio {ratio}" if ratio else ""]
    return [one for one in found if one] or [headline(entry)]


def training_time(entry: dict[str, Any]) -> str:
    """Returns how long the training took, and on what."""
    return f"trained in {minutes(entry)} on {entry['device']}"


def minutes(entry: dict[str, Any]) -> str:
    """Returns how long the training took, such as "14 min"."""
    more = " and more" if entry["name"] in TRAINED_FURTHER else ""
    return f"{entry['training']['seconds'] / 60:.0f} min{more}"


def short_device(entry: dict[str, Any]) -> str:
    """Returns "2 CPU cores" as it is, and "GPU" for the many words that describe one."""
    return "GPU" if "NVIDIA" in entry["device"] else entry["device"]


# Tables


def readme_table() -> str:
    """Returns the table of README: a row per entry, with sample quality next to likelihood."""
    lines = ["| model | what it is | Fréchet ratio | likelihood |", "|---|---|---|---|"]
    for entry in entries():
        name = entry["name"]
        description = entry["recipe"]["description"].partition(". ")[0].rstrip(".")
        cells = (
            f"[`{name}`](zoo/{name}/card.md)",
            description,
            frechet_ratio(entry) or "-",
            likelihood(entry) or "-",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_readme() -> None:
    """Rewrites the table in README.md."""
    path = ROOT / "README.md"
    before, rest = path.read_text(encoding="utf-8").split(START)
    path.write_text(before + START + readme_table() + END + rest.split(END, 1)[1], encoding="utf-8")


def comparison() -> str:
    """Returns the table of the decision page: all families side by side."""
    lines = [
        "| model | family | data | negative log-likelihood | Fréchet ratio | weights | training |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in entries():
        name = entry["name"]
        cells = (
            f"[`{name}`](gallery/{name}.md)",
            entry["family"],
            entry["recipe"]["data"],
            likelihood(entry),
            frechet_ratio(entry),
            f"{entry['parameters'] / 1e6:.2f} M",
            f"{minutes(entry)}, {short_device(entry)}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


# Pages


def gallery() -> str:
    """Returns the gallery: a picture and a line per entry, with a link to its card."""
    text = ["# Gallery", ""]
    text += ["Every model of the zoo. The link under a picture leads to the card with all results."]
    for entry in entries():
        name = entry["name"]
        picture = "samples.png" if (ROOT / "zoo" / name / "samples.png").is_file() else None
        text += ["", f"## {name}", "", entry["recipe"]["description"], ""]
        if picture:
            text += [f"[![{name}](gallery/{name}/{picture})](gallery/{name}.md)", ""]
        text += [
            f"**{'; '.join(measured(entry))}**, which `tfgen evaluate {name} --check` re-measures; "
            f"{training_time(entry)}. [Card of {name}](gallery/{name}.md)."
        ]
    text += [
        "",
        "## Judges",
        "",
        "Samples are compared with real images in the features of these classifiers:",
    ]
    text += [""]
    for entry in entries(kind="evaluator"):
        accuracy = result(entry, "^test accuracy")
        text += [f"- [{entry['name']}](gallery/{entry['name']}.md): {accuracy:.2f} % accuracy"]
    return "\n".join(text) + "\n"


def card(entry: dict[str, Any]) -> str:
    """Returns an entry's card with the paths of its pictures as the site has them."""
    name = entry["name"]
    text = (ROOT / "zoo" / name / "card.md").read_text(encoding="utf-8")
    return re.sub(r"\]\(([\w-]+\.png)\)", rf"]({name}/\1)", text)


def digest(code: str) -> str:
    """Returns what tells whether the code of a notebook's cell has changed since it ran."""
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def entries_named(code: str) -> dict[str, str]:
    """Returns the sha256 of the entries that a notebook names, which its outputs come from."""
    every = entries(kind=None)
    return {entry["name"]: entry["sha256"] for entry in every if f'"{entry["name"]}"' in code}


def notebook(path: Path) -> str:
    """Returns a notebook as a page: its text, its code, and what each cell showed when it ran.

    Code that has changed since then stands alone, until docs/notebook_outputs.py has run again.
    """
    import jupytext

    outputs = path.parent / "outputs" / f"{path.stem}.json"
    kept = json.loads(outputs.read_text(encoding="utf-8")) if outputs.is_file() else {}
    parts = []
    for cell in jupytext.read(path).cells:
        if cell.cell_type != "code":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        shown = kept.get(digest(cell.source), {"text": "", "pictures": []})
        if shown["text"]:
            parts.append(f"```text\n{shown['text']}\n```")
        parts += [f"![What this cell shows](outputs/{name})" for name in shown["pictures"]]
    parts.append(
        'To run it: `pip install ".[docs,data]" jupyter` in the clone, then\n'
        f"`jupytext --to ipynb docs/notebooks/{path.name}`, and open the notebook in Jupyter.\n"
    )
    return "\n\n".join(parts)


def outside_page(source: str) -> str:
    """Returns a file outside docs/ as a page: its links to other such files lead to their pages."""
    text, folder = (ROOT / source).read_text(encoding="utf-8"), Path(source).parent
    for target, page in OUTSIDE.items():
        link = Path(os.path.relpath(target, folder)).as_posix()
        text = text.replace(f"]({link})", f"]({page})")
    docs = Path(os.path.relpath("docs", folder)).as_posix()
    return text.replace(f"]({docs}/", "](")


def site_links(markdown: str, page: str) -> str:
    """Turns links out of docs/, which are right in the repository, into links within the site."""
    up = "../" * page.count("/")

    def replace(match: re.Match) -> str:
        target = match[1]
        if found := re.fullmatch(r"zoo/([\w-]+)/card\.md", target):
            target = f"gallery/{found[1]}.md"
        elif found := re.fullmatch(r"zoo/([\w-]+/[\w-]+\.png)", target):
            target = f"gallery/{found[1]}"
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        else:
            target = OUTSIDE[target]
        return f"]({up}{target})"

    return re.sub(rf"\]\({re.escape(up)}\.\./([^)#]+)\)", replace, markdown)


# Hooks of MkDocs


def on_files(files, config):
    """Adds the pages that are made at build time."""
    from mkdocs.structure.files import File

    def add(uri: str, **source):
        files.append(File.generated(config, uri, **source))

    add("gallery.md", content=gallery())
    for entry in entries(kind=None):
        name = entry["name"]
        add(f"gallery/{name}.md", content=card(entry))
        for picture in sorted((ROOT / "zoo" / name).glob("*.png")):
            add(f"gallery/{name}/{picture.name}", abs_src_path=str(picture))
    for source, page in OUTSIDE.items():
        if (ROOT / source).is_file():
            add(page, content=outside_page(source))
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.py")):
        add(f"notebooks/{path.stem}.md", content=notebook(path))
    return files


def on_page_markdown(markdown, page, config, files):
    """Fills in the comparison, and keeps links inside the site."""
    markdown = markdown.replace("<!-- comparison of the zoo -->", comparison())
    return site_links(markdown, page.file.src_uri)


if __name__ == "__main__":
    write_readme()
