"""benchmarks/quality_minutes.py: from kept epochs to a table and a chart."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from runs import TINY

from tfgen import training
from tfgen.recipe import Recipe

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "quality_minutes.py"
RECIPE = Recipe(
    family="VAE",
    model={
        **TINY,
        "pixel_distribution": "gaussian",
    },
    data="digits",
    epochs=3,
    learning_rate=0.01,
    jit_compile=False,
)


@pytest.mark.slow
def test_a_chart_and_a_table_of_kept_epochs(tmp_path):
    training.train(RECIPE, tmp_path / "run", verbose=0, keep_epochs=1)
    command = [
        *(sys.executable, SCRIPT, tmp_path / "run", "--metric", "log_likelihood"),
        *("--epochs", "2", "--out", tmp_path / "chart.png", "--json", tmp_path / "found.json"),
    ]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (points,) = json.loads((tmp_path / "found.json").read_text())["figures"]["runs"].values()
    assert [point["epoch"] for point in points] == [1, 3]
    assert 0 < points[0]["minutes"] < points[1]["minutes"]
    assert points[1]["value"] < points[0]["value"]
    assert "bits/dim" in run.stdout
    assert Image.open(tmp_path / "chart.png").size[0] > 400
    page = tmp_path / "page.md"
    page.write_text("<!-- quality_minutes: begin --><!-- quality_minutes: end -->")
    subprocess.run([*command, "--write", page], check=True, capture_output=True)
    assert "| run | 1 | " in page.read_text()
    assert (tmp_path / "drawings" / "quality_minutes.png").is_file()
    lacking = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True)
    assert lacking.returncode != 0
