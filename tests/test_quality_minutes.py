"""benchmarks/quality_minutes.py: from kept epochs to a table and a chart."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import TINY

from tfgen import data, training
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


BEGIN, END = "<!-- quality_minutes: begin -->", "<!-- quality_minutes: end -->"
PAGES = {
    "page": f"before\n{BEGIN}\nold\n{END}\nafter\n",
    "half": BEGIN,
    "twice": f"{BEGIN}{END}{BEGIN}{END}",
    "turned": f"{END}{BEGIN}",
}
RULE = f"the page to write must exist and hold {BEGIN} and {END} once each, in this order; received"
FOLDER = "a run must be a folder with"
# What is typed, where the folder and the page of the fixture `inputs` lie, and what is told.
WRONG = [
    *((f"run --write {name}.md", f"{RULE} {name}.md.") for name in ("none", *list(PAGES)[1:])),
    ("run --write empty", f"{RULE} empty."),
    *(
        (f"run {name} --write page.md", f"{FOLDER} recipe.json and log.csv; received {name}.")
        for name in ("absent", "page.md", "empty")
    ),
    ("run no_log --write page.md", f"{FOLDER} log.csv; received no_log."),
    *(
        (
            f"run {name} --write page.md",
            f"{name} holds no weights of epochs: train with --keep-epochs 1.",
        )
        for name in ("keeps_none", "unfinished")
    ),
    *(
        (
            f"run --epochs {number} --write page.md",
            f"--epochs must be at least 2; received {number}",
        )
        for number in (-1, 0, 1)
    ),
    (
        "run --metric log_likelihood --peers empty --write page.md",
        "--peers goes with --metric sample_quality alone",
    ),
    ("run other/run --write page.md", "the folders of the runs must differ in their last names"),
]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import quality_minutes

    yield quality_minutes
    for name in ("quality_minutes", "common"):
        sys.modules.pop(name)


def run_of(folder: Path, logged: int, kept: list[int]) -> Path:
    """A folder as a run leaves it, with minutes 1, 2, ... of its epochs and empty weights."""
    (folder / "epochs").mkdir(parents=True)
    (folder / "recipe.json").write_text("{}")
    rows = [f"{epoch},{60.0 * (epoch + 1)}" for epoch in range(logged)]
    (folder / "log.csv").write_text("\n".join(["epoch,seconds", *rows, ""]))
    for epoch in kept:
        np.savez(folder / "epochs" / f"epoch_{epoch:04d}.npz")
    return folder


def test_all_kept_epochs_are_measured_unless_there_are_too_many(script, tmp_path):
    five = run_of(tmp_path / "five", 5, [1, 2, 3, 4, 5])
    assert script.epochs_of(five, 8) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 5.0)]
    assert [epoch for epoch, _ in script.epochs_of(five, 5)] == [1, 2, 3, 4, 5]
    assert [epoch for epoch, _ in script.epochs_of(five, 4)] == [1, 2, 3, 5]
    assert [epoch for epoch, _ in script.epochs_of(five, 2)] == [1, 5]
    many = run_of(tmp_path / "many", 40, list(range(2, 41, 2)))
    chosen = [epoch for epoch, _ in script.epochs_of(many, 8)]
    assert chosen[0] == 2
    assert chosen[-1] == 40
    assert len(chosen) <= 8
    unfinished = run_of(tmp_path / "unfinished", 2, [1, 2, 3])  # killed before it wrote the log
    assert [epoch for epoch, _ in script.epochs_of(unfinished, 8)] == [1, 2]


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """A folder with a good run and page, and with those that WRONG names, is the current one."""
    monkeypatch.chdir(tmp_path)
    for name, text in PAGES.items():
        (tmp_path / f"{name}.md").write_text(text)
    run_of(tmp_path / "run", 2, [1, 2])
    run_of(tmp_path / "other" / "run", 2, [1, 2])
    run_of(tmp_path / "keeps_none", 2, [])
    run_of(tmp_path / "unfinished", 0, [1])
    (run_of(tmp_path / "no_log", 2, [1]) / "log.csv").unlink()
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(("command", "message"), WRONG)
def test_wrong_input_is_told_before_anything_is_measured(
    script, inputs, monkeypatch, capsys, command, message
):
    monkeypatch.setattr(script, "measured", lambda *given: pytest.fail("a run was measured"))
    before = {path: path.is_file() and path.read_bytes() for path in inputs.rglob("*")}
    with pytest.raises(SystemExit) as caught:
        script.main(command.split())
    told = caught.value.code  # a line, or 2 where argparse has printed it below the usage
    told = capsys.readouterr().err.splitlines()[-1] if told == 2 else told
    assert told.rpartition("error: ")[-1] == message
    assert {path: path.is_file() and path.read_bytes() for path in inputs.rglob("*")} == before


def test_samples_of_peers_are_judged_as_those_of_runs_are(script, tmp_path, monkeypatch):
    """Train images in the place of samples reach a ratio of about 1; noise does not."""
    from peers.run import PEERS

    monkeypatch.setitem(PEERS, "keras_vae", PEERS["keras_vae"]._replace(data="digits"))
    (images, _), settings = data.arrays("digits", "train"), {"num_samples": 100, "split": "test"}
    noise = np.random.default_rng(0).integers(0, 256, images[:100].shape).astype(np.uint8)
    for name, minutes, drawn in (
        ("keras_vae", 3, images[-100:]),
        ("keras_vae", 1, noise),
        ("keras_dcgan", 3, images[:99]),  # too few
        ("ours_vae_2d_mnist", 3, images[:100]),  # no peer
    ):
        folder = tmp_path / f"{minutes}_minutes" / name
        folder.mkdir(parents=True)
        np.savez(folder / "samples.npz", images=drawn)
        (folder / "figures.json").write_text("{}")
    cut_off = tmp_path / "1_minutes" / "keras_cgan"
    cut_off.mkdir()
    (cut_off / "samples.npz").write_bytes(b"PK")
    found = script.of_peers(tmp_path, settings, "Frechet")
    assert list(found) == ["keras_vae"]
    early, late = found["keras_vae"]
    assert (early["minutes"], late["minutes"]) == (1, 3)
    assert early["value"] > 5 * late["value"]
    assert late["value"] == pytest.approx(1, rel=0.5)
    with pytest.raises(SystemExit, match="holds no 100 samples of any peer"):
        script.of_peers(tmp_path / "nowhere", settings, "Frechet")


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
    with Image.open(tmp_path / "chart.png") as chart:
        assert chart.size[0] > 400
    page = tmp_path / "page.md"
    page.write_text(PAGES["page"])
    subprocess.run([*command, "--write", page], check=True, capture_output=True)
    text = page.read_text()
    assert "| run | 1 | " in text
    assert "old" not in text
    assert text.startswith(f"before\n{BEGIN}")
    assert text.endswith(f"{END}\nafter\n")
    assert (tmp_path / "drawings" / "quality_minutes.png").is_file()
