"""benchmarks/peers/: the scripts, the judge, the table."""

import ast
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
FOLDER = BENCHMARKS / "peers"
SHARED = {"__init__", "contract", "keras_fit", "run"}


@pytest.fixture
def run(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from peers import run

    yield run
    for name in [n for n in sys.modules if n == "common" or n.split(".")[0] == "peers"]:
        sys.modules.pop(name)


def test_every_script_keeps_the_contract(run):
    scripts = {path.stem for path in FOLDER.glob("*.py")} - SHARED
    assert scripts == {peer.script for peer in run.PEERS.values()} | {"ours"}
    for name in scripts:
        tree = ast.parse((FOLDER / f"{name}.py").read_text())
        assert ast.get_docstring(tree), name
        assert "build" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for peer in run.PEERS.values():
        assert (BENCHMARKS.parent / "zoo" / peer.recipe / "recipe.json").is_file()
        assert all("==" in package for package in run.ENVIRONMENTS[peer.environment])


def test_the_judge_tells_noise_from_real_images(run):
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(2, 600, 4))
    assert run.frechet_ratio(train, train, test, np.asarray) == pytest.approx(1.0)
    assert run.frechet_ratio(train + 1.0, train, test, np.asarray) > 10


def test_the_table_stands_between_its_markers(run, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{run.BEGIN}\nold\n{run.END}\nafter\n")
    figures = {
        "frechet": 2.0,
        "nats": 80.0,
        "images_per_second": 5.0,
        "cpu_seconds": 3.0,
        "seconds_1000": 1.0,
        "seconds_1": 0.5,
        "estimated": True,
        "peak_megabytes": 9.0,
        "parameters": 7,
        "load_before": 0.1,
        "load_after": 0.2,
    }
    for _ in range(2):
        run.write_table(page, [run.row("peer", figures)], "caption")
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert text.count("| peer | 2.0 | 80.0 | 5 | 3 | about 1 | about 0.5 |") == 1
    page.write_text("no markers")
    with pytest.raises(SystemExit, match="once each"):
        run.write_table(page, [], "caption")
