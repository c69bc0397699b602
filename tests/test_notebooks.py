"""The notebooks of docs/notebooks, run from the first cell to the last."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_readme import load_zoo_pages

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
OUTPUTS = FOLDER / "outputs"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))


@pytest.mark.nightly
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    needs_mnist = 'arrays("mnist"' in path.read_text()
    if needs_mnist and not os.environ.get("TFGEN_DATA_DIR"):
        pytest.skip("needs MNIST in TFGEN_DATA_DIR")
    environment = {**os.environ, "MPLBACKEND": "agg"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore:FigureCanvasAgg", str(path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_figure_of_a_notebook_is_shown(path):
    """Jupyter shows what the last line of a cell gives; these figures are not pyplot's."""
    for cell in re.split(r"^# %%.*$", path.read_text(), flags=re.MULTILINE):
        *others, _ = ast.parse(cell).body or [None]
        for node in others:
            if isinstance(node, ast.Expr):
                assert not ast.unparse(node).startswith("plots."), ast.unparse(node)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_out_of_the_folders_of_the_guides(path):
    """Where it may be run: a guide's own photos and runs are there."""
    text = path.read_text()
    assert '"photos"' not in text
    pages = "".join(page.read_text() for page in FOLDER.parent.glob("*.md"))
    for run in re.findall(r"runs/\w+", text):
        assert run not in pages, run


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_a_title_and_parses(path):
    text = path.read_text()
    assert text.startswith("# %% [markdown]\n# # ")
    assert text.count("# %%\n") >= 2
    compile(text, path.name, "exec")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_pages_show_what_code_and_weights_of_today_gave(path):
    jupytext = pytest.importorskip("jupytext")
    pages = load_zoo_pages()
    kept = json.loads((OUTPUTS / f"{path.stem}.json").read_text())
    named = pages.entries_named(path.read_text())
    assert kept.pop("entries") == named, "docs/notebook_outputs.py"
    code = [cell.source for cell in jupytext.read(path).cells if cell.cell_type == "code"]
    assert list(kept) == [pages.digest(source) for source in code], "docs/notebook_outputs.py"
    page = pages.notebook(path)
    names = {name for cell in kept.values() for name in cell["pictures"]}
    assert names == {file.name for file in OUTPUTS.glob(f"{path.stem}_*.png")}
    assert all(f"](outputs/{name})" in page for name in names)
    texts = [cell["text"] for cell in kept.values()]
    assert all(text in page for text in texts)
    assert names or any(texts)
    assert not any(re.search(r"/(tmp|home|root|work)/", text) for text in texts)


def test_every_kept_picture_is_small_and_belongs_to_a_notebook():
    stems = {path.stem for path in NOTEBOOKS}
    for file in OUTPUTS.iterdir():
        stem = file.stem if file.suffix == ".json" else file.stem.rsplit("_", 2)[0]
        assert stem in stems, file
        assert file.stat().st_size < 80_000, file
