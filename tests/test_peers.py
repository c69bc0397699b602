"""benchmarks/peers/: the scripts, the judge, the table, the chart."""

import argparse
import ast
import dataclasses
import io
import json
import os
import subprocess
import sys
import threading
import types
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfgen.evaluation.latents import evenly

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
FOLDER = BENCHMARKS / "peers"
SHARED = {
    "__init__",
    "by_hand",
    "chart",
    "contract",
    "keras_fit",
    "lines",
    "pace",
    "report",
    "run",
    "speed",
}
SLOW_TO_DRAW = {"torch_pixelcnn", "keras_pixelcnn", "tfd_pixelcnn"}  # pixel by pixel
DIFFUSION = {"diffusers_ddpm", "diffusers_cosine"}  # as many passes as it denoises steps
FIGURES = {
    "side": "peer",
    "data": "mnist",
    "minutes": 3.0,
    "frechet": 2.0,
    "frechet_plain": 4.0,
    "num_samples": 2000,
    "nats": 80.0,
    "images": 30,
    "train_images": 12,
    "images_per_second": 5.0,
    "cpu_seconds": 3.0,
    "seconds_1000": 1.0,
    "seconds_1": 0.5,
    "estimated": True,
    "training_megabytes": 8.0,
    "peak_megabytes": 9.0,
    "parameters": 7,
    "lines": 60,
    "load_before": 0.1,
    "load_after": 0.2,
    "day": "2026-11-28",
    "rate": 1e11,
    "versions": {"numpy": "1", "python": "3"},
}


def peers_of(text: str) -> list[str]:
    """The keys of PEERS, read without importing anything."""
    (made,) = (
        node.value
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PEERS"
    )
    return [ast.literal_eval(key) for key in made.keys]


@pytest.fixture
def run(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from peers import run

    yield run
    imported = ("common", "peers", "scaling")
    for name in [name for name in sys.modules if name.split(".")[0] in imported]:
        sys.modules.pop(name)


def test_every_script_keeps_the_contract(run):
    from peers import ours

    scripts = {path.stem for path in FOLDER.glob("*.py")} - SHARED
    assert scripts == {peer.script for peer in run.PEERS.values()} | {"ours"}
    for name in scripts:
        text = (FOLDER / f"{name}.py").read_text()
        tree = ast.parse(text)
        assert ast.get_docstring(tree), name
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        added = text[: text.index(run.lines.ADDED)].count("\n") + 1
        assert functions["build"].lineno > added, name
        assert functions.get("serve", functions.get("train_and_serve")).lineno < added, name
    for peer in run.PEERS.values():
        assert all(ours.recipe_of(recipe).data == peer.data for recipe in peer.recipes)
        assert all("==" in package for package in run.ENVIRONMENTS[peer.environment])


def test_ours_comes_once_after_the_first_peer_that_is_held_against_it(run):
    runs = run.runs_of(["pythae_vae", "keras_vae", "pythae_iwae"])
    assert [one.label for one in runs] == [
        *("pythae_vae", "ours: vae_plain", "ours: vae_dense"),
        *("keras_vae", "ours: vae_2d_mnist", "pythae_iwae"),
    ]
    assert [one.environment for one in runs] == ["pythae", None, None, "keras", None, "pythae"]
    both = [one.label for one in run.runs_of(["tfd_pixelcnn"])]
    assert both == ["tfd_pixelcnn", "ours: pixelcnn_softmax", "ours: pixelcnn_logistic"]


@pytest.mark.slow
def test_networks_of_equal_size_are_as_large_as_those_of_the_peers(run):
    """The peers' counts are those of their scripts, as results.json has them."""
    from peers import ours, speed

    from tfgen import training

    counts = {row["side"]: row["parameters"] for row in json.loads(run.RESULTS.read_text())}
    for name, equal in speed.EQUAL.items():
        recipe = ours.recipe_of(run.PEERS[name].recipes[0])
        model = training.build(ours.changed(recipe, equal | {"stages": []}), 10)
        count = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
        assert counts[name] <= count <= 2 * counts[name], (name, counts[name], count)


@pytest.mark.slow
def test_the_pixel_model_of_equal_size_does_as_much_arithmetic_as_the_peer_s(run):
    """Of our parameters, a map of positions is only added and multiplies nothing."""
    import scaling
    from peers import ours, speed

    from tfgen import training

    recipe = ours.recipe_of("pixelcnn_binarized_mnist")
    equal = speed.EQUAL["torch_pixelcnn"] | {"stages": []}
    model = training.build(ours.changed(recipe, equal), 10)
    function, spec = scaling.drawing(model, 1)
    first = (4 * 7 + 3) * 64 + 64 * 64 + 32 * 32  # above, left, between, output
    other = (2 * 3 + 2) * 32 * 64 + 64 * 64 + 32 * 32
    peer = 28 * 28 * (first + 6 * other + 32 * 32 + 32)
    assert peer <= scaling.counted(function, 1, spec) <= 1.5 * peer


def test_a_recipe_s_schedule_ends_with_the_minutes(run):
    from peers import ours

    recipe = ours.recipe_of("vae_vamp")
    recipe = dataclasses.replace(
        recipe,
        model=recipe.model | {"kl_warmup_steps": 400},
        epochs=10,
        warmup_steps=100,
        restart_epochs=(5,),
    )
    half = ours.fitted(recipe, 250, 50)
    assert (half.epochs, half.warmup_steps, half.restart_epochs) == (1, 50, ())
    assert half.model == recipe.model | {"kl_warmup_steps": 200}
    longer = ours.fitted(recipe, 5000, 50)
    assert (longer.warmup_steps, longer.model["kl_warmup_steps"]) == (100, 400)


def test_the_trial_of_ours_does_what_the_training_does(run, monkeypatch):
    """Or it would promise too many steps: averaging the weights takes time, too."""
    from peers import contract, ours

    seen = []

    class Timed:
        def __init__(self, model, *rest):
            self.model, self.steps, self.seconds = model, 100, 1.0

        def train(self, **given):
            seen.append([type(callback) for callback in given["callbacks"]])
            return 1.0

    empty = {"optimizers": {}, "trainable_variables": [], "num_classes": None, "sample": None}
    model = types.SimpleNamespace(**empty, likelihood="none", save_to_preset=None)
    monkeypatch.setattr(ours.keras_fit, "Timed", Timed)
    monkeypatch.setattr(ours.training, "build", lambda recipe, steps: model)
    images, labels = np.zeros((500, 28, 28, 1), np.uint8), np.zeros(500, np.int64)
    given = {"variant": "vae_vamp", "seed": 0, "recipe": {}, "minutes": 1, "jit_sampling": False}
    data = contract.Data(images, labels, images)
    side = ours.build(data, types.SimpleNamespace(**given))
    side.train(1.0)
    assert len(seen) == 2
    assert seen[0] == seen[1] == [ours.training.AveragedWeights]


def test_the_pace_of_a_side_is_told_line_by_line(run, monkeypatch, capsys, tmp_path):
    from peers import pace, speed

    told, drawn = [], []

    def train(seconds):
        told.append(seconds)
        return 640 if seconds else 0

    script = types.ModuleType("peers.told")
    script.build = lambda data, given: types.SimpleNamespace(
        train=train,
        parameters=len(data.x_test) + given.recipe["model"]["units"],
        batch=20,
        sample=drawn.append,
        one_pass=None,
    )
    monkeypatch.setitem(sys.modules, "peers.told", script)
    images = np.zeros((3, 28, 28, 1), np.uint8)
    np.savez(tmp_path / "data.npz", x_train=images, y_train=np.zeros(3), x_test=images)
    command = ["pace", "told", str(tmp_path / "data.npz"), "--recipe", '{"model": {"units": 4}}']
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(sys, "stdin", io.StringIO("2.5\n1\n"))
    pace.main()
    lines = capsys.readouterr().out.splitlines()
    assert told == [0.0, 2.5, 1.0]
    assert all(line.startswith(pace.MARK) for line in lines)
    answers = [json.loads(line.removeprefix(pace.MARK)) for line in lines]
    assert answers[0] == {"parameters": 7}
    assert all(answer["images_per_second"] > 640 for answer in answers[1:])
    repeats = run.contract.REPEATS
    assert drawn == 3 * ([20] * repeats + [1] * repeats)
    assert all(answer.keys() >= set(speed.MEASURES) for answer in answers[1:])


def test_drawing_pixel_by_pixel_takes_its_passes(run, monkeypatch):
    monkeypatch.setattr(run.contract, "median_time", lambda work: work() or 0.5)
    side = types.SimpleNamespace(batch=100, sample=None, one_pass=lambda number: None, passes=784)
    assert run.contract.drawing(side) == {
        "seconds_1000": 3920.0,
        "seconds_1": 392.0,
        "estimated": True,
    }


def test_speed_is_the_ratio_of_the_medians(run, monkeypatch, tmp_path):
    from peers import speed

    made = []

    class Side:
        def __init__(self, python, script, data, options, log):
            self.ours = script == "ours"
            self.speeds = iter([30.0, 10.0, 20.0] if self.ours else [5.0, 20.0, 10.0])
            self.parameters = 8 if self.ours else 7
            self.closed = False
            made.append(self)

        def turn(self, seconds):
            speed = next(self.speeds)
            seconds = {"seconds_1000": 1 / speed, "seconds_1": 7.0, "estimated": not self.ours}
            return {"images_per_second": speed, **seconds}

        def close(self):
            self.closed = True

    page = tmp_path / "page.md"
    page.write_text("before\n<!-- speed: begin -->\nold\n<!-- speed: end -->\nafter\n")
    monkeypatch.setattr(speed, "Side", Side)
    monkeypatch.setattr(speed, "RESULTS", tmp_path / "speed.json")
    monkeypatch.setattr(run, "images_of", lambda name, out: tmp_path)
    monkeypatch.setattr(run, "interpreter", lambda folder, name: Path("python"))
    command = ["speed", "--out", str(tmp_path), "--environments", str(tmp_path)]
    command += ["--only", "keras_vae", "--repeats", "3", "--write", str(page)]
    monkeypatch.setattr(sys, "argv", command)
    assert speed.main() == 0
    text = page.read_text()
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| 7 : 8 | images/s of training | 10 | 20 | 2.00 (0.50 to 6.00) |" in text
    assert "| seconds for 1,000 samples | about 0.1 | 0.05 | 2.00 (0.50 to 6.00) |" in text
    assert "| milliseconds for one sample | about 7,000 | 7,000 | 1.00 (1.00 to 1.00) |" in text
    assert "medians of 3 rounds. The limit is 1: none missed it." in text
    measured = speed.measured

    def fails(name, given):
        if name == "keras_cgan":
            raise SystemExit("a side has ended")
        return measured(name, given)

    monkeypatch.setattr(speed, "measured", fails)
    monkeypatch.setattr(sys, "argv", [*command[:6], "keras_wgan_gp", "keras_cgan", *command[7:]])
    with pytest.raises(SystemExit, match="has ended"):
        speed.main()
    assert "| keras_wgan_gp | " in page.read_text()  # what came before is kept
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(speed, "LEAST", 1.5)
    sys.argv[sys.argv.index("keras_vae")] = "keras_dcgan"
    assert speed.main() == 1
    text = page.read_text()
    assert text.count("| keras_vae | ") == text.count("| keras_dcgan | ") == 3
    assert text.count("| keras_wgan_gp | ") == 3
    assert "missed by keras_vae in milliseconds for one sample (1.00), keras_dcgan in " in text
    assert len(made) == 6
    assert all(side.closed for side in made)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cgan_mnist", "vae_2d_mnist"])
def test_the_lines_that_are_counted_for_ours_run(run, monkeypatch, tmp_path, name):
    from peers import ours

    served = []
    monkeypatch.setattr(ours.training, "train", lambda recipe, folder: ours.zoo.load(name))
    serve = types.SimpleNamespace(run=lambda command, check: served.append(command))
    monkeypatch.setattr(ours, "subprocess", serve)
    ours.train_and_serve(name, tmp_path)
    assert (tmp_path / "served" / "model" / "1" / "saved_model.pb").is_file()
    assert served == [["tfgen", "serve", "--models", str(tmp_path / "served")]]


def test_lines_are_those_that_hold_code(run, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        '"""Two\nlines."""\n\nimport a\nimport b\nfrom peers import contract\n\n# remark\n'
        'def f():\n    """One."""\n    return (\n        a\n    )\n\n'
        f"{run.lines.ADDED}\n\ndef build():\n    return b, contract\n"
    )
    assert run.lines.code_lines(script) == 5
    by_hand = run.lines.code_lines(FOLDER / "by_hand.py")
    assert by_hand > 10
    assert run.lines.user_lines("tfd_pixelcnn") > 20 + by_hand
    own = run.lines.code_lines(FOLDER / "ours.py")
    assert run.lines.user_lines("ours", "gan_mnist") == own
    recipe = (FOLDER / "recipes" / "vae_vamp.json").read_text().count("\n")
    assert run.lines.user_lines("ours", "vae_vamp") == own + recipe


def test_the_server_by_hand_answers(run):
    from peers import by_hand

    server = by_hand.server(lambda number: np.full((number, 28, 28, 1), 7, np.uint8), 0)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/?n=3") as answer:
        images = np.load(io.BytesIO(answer.read()))
    thread.join()
    server.server_close()
    assert images.shape == (3, 28, 28, 1)
    assert (images == 7).all()


def first_pixels(images: np.ndarray) -> np.ndarray:
    return images[:, 0, :4, 0].astype(np.float32)


def test_the_judge_tells_noise_from_real_images(run, tmp_path):
    rng = np.random.default_rng(0)
    train, test = rng.integers(0, 256, (2, 600, 28, 28, 1), np.uint8)
    np.savez(tmp_path / "noise.npz", x_train=train, y_train=np.zeros(600), x_test=test)
    seen = []

    def features(images):
        seen.append(len(images))
        return first_pixels(images)

    judge = run.Judge(lambda train: features, tmp_path)
    assert judge.ratio(evenly(train, 500), "noise") == pytest.approx(1.0)
    before = sum(seen)
    assert judge.ratio(train // 2, "noise") > 10
    assert sum(seen) == before + 2 * 600  # those of the test images are known by now
    assert max(seen) <= run.BATCH


def test_the_judge_does_not_ask_for_the_order_of_the_images(run, tmp_path):
    rng = np.random.default_rng(0)
    train, test = rng.integers(0, 256, (2, 600, 28, 28, 1), np.uint8)
    by_first_pixel = train[train[:, 0, 0, 0].argsort()]
    ratios = []
    for name, images in (("as_drawn", train), ("in_order", by_first_pixel)):
        np.savez(tmp_path / f"{name}.npz", x_train=images, y_train=np.zeros(600), x_test=test)
        judge = run.Judge(lambda train: first_pixels, tmp_path)
        ratios.append(judge.ratio(train[:100], name))
    assert 0.25 < ratios[0] / ratios[1] < 4  # the first 100 in order would make it 19


def test_a_side_is_measured_and_its_saved_model_draws(run, tmp_path):
    from peers import contract

    images = np.zeros((600, 28, 28, 1), np.uint8)
    data = contract.Data(images, np.zeros(600, np.int64), images)
    seen = []

    def train(seconds):
        for number in contract.ticks(seconds):
            seen.append(number)
        return 8 * (number + 1)

    side = contract.Side(
        train=train,
        sample=lambda number: images[:number],
        save=lambda folder: np.save(folder / "model.npy", images[:9]),
        reload=lambda folder: lambda number: np.load(folder / "model.npy")[:number],
        parameters=3,
        packages=(),
        nats=lambda held_out: float(len(held_out)),
        nats_kind="exact",
    )
    given = contract.parser("").parse_args(["data", "folder", "--minutes", "0.0001"])
    samples, figures = contract.measure(side, data, given)
    assert len(samples) == figures["num_samples"] == contract.NUM_SAMPLES
    assert seen[0] == 0
    assert figures["images"] >= 8
    assert figures["nats"] == contract.NUM_TEST
    assert figures["saved_megabytes"] > 0.007
    batches = []
    side.sample = lambda number: batches.append(number) or images[:number]
    contract.drawn(side, contract.NUM_SAMPLES, 60.0)
    assert batches.count(side.batch) > contract.REPEATS
    assert batches.count(1) == 1 + contract.REPEATS
    side.one_pass, side.passes = batches.append, 10**9
    samples, cost = contract.drawn(side, contract.NUM_SAMPLES, 1e-3)
    assert len(samples) == 0
    assert cost["estimated"]
    side.reload = lambda folder: lambda number: np.zeros((1, 2))
    with pytest.raises(ValueError, match="does not draw images"):
        contract.kept(side, draw=True)


def test_a_section_stands_between_its_markers(run, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- peers: begin -->\nold\n<!-- peers: end -->\nafter\n")
    for _ in range(2):
        run.common.write_section(page, "peers", ["caption", "after the table"])
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert text.count("after the table") == 1
    page.write_text("no markers")
    with pytest.raises(SystemExit, match="once each"):
        run.common.write_section(page, "peers", ["caption"])


def test_the_page_is_that_of_the_results(run):
    """So that no figure stands there that results.json, reasons.json and speed.json do not give."""
    from peers import speed

    text = (BENCHMARKS.parent / "docs" / "benchmarks.md").read_text()
    recipes = {name: peer.recipes for name, peer in run.PEERS.items()}
    results, reasons = (
        json.loads((FOLDER / f"{name}.json").read_text()) for name in ("results", "reasons")
    )
    assert run.in_order(results) == results
    assert not run.report.unexplained(run.report.every_pair(results, recipes), reasons)
    slower = run.report.read_rows(FOLDER / "results_slower.json")
    assert run.in_order(slower) == slower
    sections = {
        "peers": run.report.section(results, recipes, reasons),
        "peers_slower": run.report.short_section(slower, recipes),
        "speed": speed.section(speed.known()),
    }
    for name, parts in sections.items():
        _, rest = text.split(f"<!-- {name}: begin -->\n\n")
        assert rest.split(f"\n\n<!-- {name}: end -->")[0] == "\n\n".join(parts)
    head = " ".join(text[: text.index("<!-- peers: begin -->")].split())
    times = {3: "three", 10: "ten", 30: "thirty"}
    for rows in (results, slower):
        for minutes in sorted({row["minutes"] for row in rows}):
            pairs = run.report.pairs_of(rows, recipes, minutes)
            ours, level, behind = run.report.counts(list(pairs), run.report.QUALITY)
            told = f"{ours} of {ours + level + behind} after {times[minutes]} minutes "
            assert told + f"({level} level, {behind} behind)" in head


def test_rows_show_what_was_learned_and_what_it_took(run):
    report = run.report
    learned = ["peer", "2.0", "4.0", "80.0", "2.5", "7"]
    assert report.quality(FIGURES) == learned
    cut = FIGURES | {"planned_images": 36}  # the clock ended it before its schedule
    assert report.quality(cut) == [*learned[:4], "2.5 of 3", "7"]
    done = FIGURES | {"planned_images": 30}
    assert report.quality(done) == learned
    assert report.cost(FIGURES) == ["peer", "5", "3", "about 1", "about 500", "8", "9", "60"]
    assert report.conditions(FIGURES) == "2026-11-28; 100; 0.1 to 0.2"
    assert report.conditions(FIGURES | {"rate": 1.24e11}) == "2026-11-28; 124; 0.1 to 0.2"
    assert report.conditions(None) == "not measured"


def test_a_side_without_a_frechet_ratio_says_why(run):
    undrawn = FIGURES | {"frechet": None, "num_samples": 0}
    assert run.report.quality(undrawn)[1] == "too slow to draw"
    too_few = FIGURES | {"frechet": None, "estimated": False, "num_samples": 350}
    assert run.report.quality(too_few)[1] == "only 350 drawn"
    fewer = FIGURES | {"num_samples": 650}  # which flatters a ratio
    assert run.report.quality(fewer)[1:3] == ["2.0 (650 drawn)", "4.0 (650 drawn)"]


def pair_of(report, **changes):
    """A peer and ours that are the same but for what the peer has otherwise."""
    return report.Pair(FIGURES | changes, FIGURES | {"side": "ours: recipe"})


@pytest.mark.parametrize(
    ("key", "value", "leader"),
    [
        *(("frechet", value, who) for value, who in ((1.5, "peer"), (1.7, None), (2.6, "ours"))),
        *(("nats", value, who) for value, who in ((78.9, "peer"), (80.9, None), (81.1, "ours"))),
        ("images_per_second", 9.0, "peer"),
        ("images_per_second", 3.0, "ours"),
        ("images_per_second", None, None),
    ],
)
def test_who_is_ahead_by_more_than_a_tie(run, key, value, leader):
    pair = pair_of(run.report, **{key: value})
    expected = {"peer": pair.peer, "ours": pair.ours, None: None}[leader]
    assert pair.leader(key) is expected


@pytest.mark.parametrize("values", [(np.nan, 1.0), (1.0, np.nan)])
def test_what_is_no_number_is_not_level(run, values):
    with pytest.raises(ValueError, match="nats must be numbers"):
        run.report.COMPARED["nats"].is_ahead(*values)


def test_images_a_second_of_other_work_are_not_compared(run):
    """pythae's IWAE decodes ten samples of each image."""
    pair = pair_of(run.report, images_per_second=9.0)
    iwae = pair._replace(peer=pair.peer | {"side": "pythae_iwae"})
    assert pair.values("images_per_second") is not None
    assert iwae.values("images_per_second") is None
    assert iwae.leader("images_per_second") is None
    assert iwae.values("nats") == pair.values("nats")


def test_a_pair_of_other_days_or_machines_is_marked(run):
    assert not pair_of(run.report).is_crossed
    assert pair_of(run.report, day="2026-11-29").is_crossed
    assert pair_of(run.report, rate=1.2e11).is_crossed
    assert not pair_of(run.report, rate=1.05e11).is_crossed
    unknown = {name: value for name, value in FIGURES.items() if name != "rate"}
    for pair in (unknown, unknown), (unknown, FIGURES), (FIGURES, unknown):
        assert run.report.Pair(*pair).is_crossed


def test_factors_say_how_many_times_better_ours_is_and_why_a_peer_is_ahead(run):
    report = run.report
    pair = pair_of(
        report, images_per_second=9.0, frechet=3.0, nats=80.2, parameters=14, seconds_1=0.55
    )
    assert report.unexplained([pair], {}) == ["peer in images/s after 3 minutes"]
    reasons = {"peer": {"images_per_second": "It has no prior."}, "other": {"nats": "It does."}}
    assert report.unexplained([pair], reasons) == []
    assert pair.reason("images_per_second", reasons) == "It has no prior."
    reasons["peer, recipe"] = {"images_per_second": "It is small."}
    named = pair._replace(peer=pair.peer | {"side": "other_peer"})
    assert named.reason("nats", reasons) == "It does."  # of every peer of that package
    why = {"A reason of before.": 1}
    *_, row = report.factors([pair], reasons, why).splitlines()
    cells = ["**1.5**", "1", "+0.2", "0.556²", "about 1", "about 1.1", "1", "0.5"]
    assert row == f"| {' | '.join(['peer : recipe', *cells])} |"
    assert why == {"A reason of before.": 1, "It is small.": 2}
    report.factors([pair], reasons, why)
    assert len(why) == 2  # a reason is told once
    *_, row = report.factors([pair], None, why).splitlines()
    assert row == f"| {' | '.join(['peer : recipe', *cells])} |".replace("0.556²", "*0.556*")
    lacking = pair_of(report, frechet=None, nats=None)
    *_, row = report.factors([lacking], {}, {}).splitlines()
    assert row.startswith("| peer : recipe |  | 1 |  | 1 |")


def test_reasons_are_of_peers_and_measures_that_exist(run):
    reasons = json.loads((FOLDER / "reasons.json").read_text())
    pairs = {f"{name}, {recipe}" for name, peer in run.PEERS.items() for recipe in peer.recipes}
    packages = {name.split("_")[0] for name in run.PEERS}
    assert set(reasons) <= set(run.PEERS) | pairs | packages
    for known in reasons.values():
        assert set(known) <= set(run.report.COMPARED)
        assert all(why.endswith(".") and "|" not in why for why in known.values())


def test_sides_of_the_chart_look_different_and_pairs_alike(run):
    recipes = {name: peer.recipes for name, peer in run.PEERS.items()}
    styles = run.chart.styles(recipes)
    assert set(styles) == {one.label for one in run.runs_of(list(run.PEERS))}
    assert len({tuple(sorted(style.items())) for style in styles.values()}) == len(styles)
    for peer, (first, *_) in recipes.items():
        assert styles[peer]["color"] == styles[f"{run.report.OURS}{first}"]["color"]
    grey = [
        (style["marker"], style["linestyle"], style.get("fillstyle")) for style in styles.values()
    ]
    assert len(set(grey)) == len(grey)  # also without colours


def test_the_summary_marks_the_better_of_a_pair_and_counts_who_is_ahead(run):
    def pair(peer, ours, **changes):
        one, other = (FIGURES | {"frechet": value, "nats": None} for value in (peer, ours))
        return run.report.Pair(
            one | {"side": "a"}, other | {"side": "ours: b", "num_samples": 600} | changes
        )

    every = {
        "one": {"a : b": pair(9.0, 3.0)},
        "two": {"a : b": pair(2.0, 3.0)},
        "three": {"a : b": pair(3.0, 3.1, day="2026-11-29")},
        "four": {},
    }
    every["two"]["a : b"].peer["frechet_plain"] = 9.0
    *_, row = run.report.summary(every).splitlines()
    few = "(600 drawn)"
    cells = [f"9.0 : **3.0 {few}**", f"**2.0** : 3.0 {few}", f"3.0 : 3.1 {few} †"]
    cells = ["a : b", "Fréchet ratio", *cells]
    assert row == f"| {' | '.join([*cells, 'not measured'])} |"
    told = run.report.verdict({name: every[name] for name in ("one", "two", "three")})
    assert told.startswith("After one ours is ahead in 1 of 1 comparisons of quality, level in 0 ")
    second = "After two ours is ahead in 0 of 1 comparisons of quality, level in 0 and behind in 1"
    assert f"{second} (by plain features 1, 0 and 0)." in told
    assert "After three ours is ahead in 0 of 1 comparisons of quality, level in 1 and" in told


def test_finished_sides_become_a_page_without_any_training(run, tmp_path, monkeypatch):
    from tfgen import zoo

    for minutes in (1, 3):
        for one in run.runs_of(["keras_vae", "pythae_vae"]):
            folder = tmp_path / "out" / f"{minutes}_minutes" / one.folder
            folder.mkdir(parents=True)
            found = FIGURES | {"frechet": 10.0 / minutes, "minutes": float(minutes)}
            del found["side"], found["data"]  # which the folder says
            (folder / "figures.json").write_text(json.dumps(found))
    page = tmp_path / "page.md"
    page.write_text("<!-- peers: begin -->\n<!-- peers: end -->\n")
    monkeypatch.setattr(zoo, "load_evaluator", lambda name: type("Judge", (), {"features": None}))
    monkeypatch.setattr(run, "interpreter", lambda *given: pytest.fail("a process was started"))
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results.json")
    command = ["run.py", "--minutes", "1", "3", "--only", "keras_vae", "pythae_vae"]
    command += ["--out", str(tmp_path / "out"), "--environments", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*command, "--finished", "--write", str(page)])
    assert run.main() == 0
    text = page.read_text()
    first, last = text.split("### After 3 minutes")
    assert first.index("### After 1 minute\n") < first.index("| keras_vae | 10.0 |")
    assert last.count("| keras_vae | 3.3 |") == 1
    assert last.count("| ours: vae_plain | 3.3 |") == 1
    sides = json.loads((tmp_path / "results.json").read_text())
    assert {(row["side"], row["frechet"]) for row in sides} == {
        (one.label, 10.0 / minutes)
        for minutes in (1, 3)
        for one in run.runs_of(["keras_vae", "pythae_vae"])
    }
    assert "| keras_vae : vae_2d_mnist | 1 | 1 | +0.0 | 1 | about 1 |" in text
    with Image.open(tmp_path / "drawings" / "peers.png") as chart:
        assert chart.size[0] > 800
        followed = np.asarray(chart)
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    assert run.main() == 0  # of what results.json holds
    assert page.read_text() == text
    (tmp_path / "elsewhere").rename(tmp_path / "out")
    (tmp_path / "out" / "1_minutes").rename(tmp_path / "1_minutes")
    (tmp_path / "results.json").unlink()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--machine", "slower"])
    with pytest.raises(SystemExit, match="peers_slower: begin"):
        run.main()
    page.write_text(f"{text}<!-- peers_slower: begin -->\n<!-- peers_slower: end -->\n")
    assert run.main() == 0
    own, other = page.read_text().split("<!-- peers_slower: begin -->")
    assert own == text
    assert other.count("| keras_vae : vae_2d_mnist | 1 | 1 | +0.0 | 1 | about 1 |") == 1
    assert (tmp_path / "results_slower.json").is_file()
    assert not (tmp_path / "results.json").is_file()
    monkeypatch.setattr(sys, "argv", sys.argv[:-2])
    page.write_text(text)
    assert run.main() == 0  # one number of minutes: ranked
    with Image.open(tmp_path / "drawings" / "peers.png") as chart:
        assert chart.size == followed.shape[1::-1]
        assert (np.asarray(chart) != followed).any()


def test_what_would_not_be_finished_in_time_is_left_for_the_next_command(
    run, tmp_path, monkeypatch, capsys
):
    from tfgen import zoo

    started = []
    monkeypatch.setattr(zoo, "load_evaluator", lambda name: type("Judge", (), {"features": None}))
    monkeypatch.setattr(
        run, "carry_out", lambda run, *given: bool(started.append(run.label)) or True
    )
    command = ["run.py", "--only", "keras_vae", "--out", str(tmp_path), "--environments", "none"]
    monkeypatch.setattr(sys, "argv", [*command, "--minutes", "2", "--within", "3"])
    assert run.main() == 0
    waiting = "not started: keras_vae (2 minutes), ours: vae_2d_mnist (2 minutes)"
    assert waiting in capsys.readouterr().out
    assert started == []
    folder = tmp_path / "2_minutes" / "keras_vae"
    folder.mkdir(parents=True)
    (folder / "figures.json").write_text(json.dumps(FIGURES))
    assert run.main() == 0
    assert "not started: ours: vae_2d_mnist (2 minutes)" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*sys.argv[:-1], "7"])
    assert run.main() == 0
    assert started == ["keras_vae", "keras_vae", "ours: vae_2d_mnist"]


def test_a_finished_side_that_was_asked_for_something_else_is_told(run, tmp_path, capsys):
    asked = {"sampling_seconds": 120.0, "num_test": 500}
    (tmp_path / "figures.json").write_text(json.dumps(FIGURES | {"asked": asked}))
    side = next(iter(run.runs_of(["diffusers_ddpm"])))
    given = types.SimpleNamespace(sampling_seconds=120.0, num_test=500)
    assert run.carry_out(side, tmp_path, 3, given)
    assert capsys.readouterr().err == ""
    given.sampling_seconds = 450.0
    assert run.carry_out(side, tmp_path, 3, given)
    assert f"to measure it again, delete {tmp_path}" in capsys.readouterr().err


def test_an_environment_that_cannot_be_made_fails_its_sides_alone(
    run, tmp_path, monkeypatch, capsys
):
    def fail(*_):
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(run, "interpreter", fail)
    side = next(iter(run.runs_of(["keras_vae"])))
    given = types.SimpleNamespace(environments=tmp_path)
    assert not run.carry_out(side, tmp_path / "side", 3, given)
    assert "keras_vae, 3 minutes: FAILED, its environment was not made" in capsys.readouterr().err


def test_an_environment_is_found_from_any_folder(run, monkeypatch, tmp_path):
    made = tmp_path / "environments" / "torch"
    made.mkdir(parents=True)
    (made / run.FINISHED).touch()
    monkeypatch.chdir(tmp_path)
    assert run.interpreter(Path("environments"), "torch") == made / "bin" / "python"


def test_a_process_does_not_inherit_the_peak_of_the_one_that_starts_it(run):
    """As `ru_maxrss` does."""
    if not Path("/proc/self/status").is_file():
        pytest.skip("only Linux tells the peak of one process alone")
    held = np.ones(40_000_000)
    code = "from peers import contract; print(contract.peak_megabytes())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=BENCHMARKS, check=True, capture_output=True, text=True
    )
    assert float(done.stdout) < held.nbytes / 1e6 < run.contract.peak_megabytes()


@pytest.mark.nightly
@pytest.mark.parametrize(
    "name", ["ours: vae_2d_mnist", "ours: cgan_mnist", *peers_of((FOLDER / "run.py").read_text())]
)
def test_every_side_runs_and_gives_a_whole_row(run, tmp_path, name):
    """TFGEN_PEERS is what --environments is, a folder that run.py has made; ours need none."""
    (side,) = [one for one in run.runs_of(list(run.PEERS)) if one.label == name]
    if side.environment and "TFGEN_PEERS" not in os.environ:
        pytest.skip("TFGEN_PEERS names no environments")
    digits = np.random.default_rng(0).integers(0, 256, (1100, 28, 28, 1), np.uint8)
    for data, images in (("mnist", digits), ("binarized_mnist", 255 * (digits > 127))):
        images = images.astype(np.uint8)
        arrays = {"x_train": images[:1000], "x_test": images[1000:]}
        np.savez(tmp_path / f"{data}.npz", y_train=np.arange(1000) % 10, **arrays)
    given = argparse.Namespace(
        environments=Path(os.environ.get("TFGEN_PEERS", "")),
        out=tmp_path,
        sampling_seconds=1.0,
        num_test=2,
    )
    assert run.carry_out(side, tmp_path / name, 0.001, given)
    by_train = []
    judges = {
        "frechet": run.Judge(lambda train: first_pixels, tmp_path),
        "frechet_plain": run.Judge(lambda train: by_train.append(train) or first_pixels, tmp_path),
    }
    figures = run.judged(side, tmp_path / name, judges)
    report = run.report
    for header, row in (
        (report.QUALITY_HEADER, report.quality(figures)),
        (report.COST_HEADER, report.cost(figures)),
    ):
        assert len(row) == len(header)
    assert figures["images"] > 0
    enough = figures["num_samples"] >= run.LEAST_SAMPLES
    assert enough or side.label in (*DIFFUSION, *SLOW_TO_DRAW), figures["num_samples"]
    assert (figures["frechet"] is not None) == (figures["frechet_plain"] is not None) == enough
    assert [len(train) for train in by_train] == [1000] * enough
    assert ("nats" in figures) == any(part in name for part in ("pythae", "pixelcnn"))
    assert "saved_megabytes" in figures


def test_a_side_that_fails_is_left_out(run, tmp_path, monkeypatch, capsys):
    from tfgen import zoo

    python = tmp_path / "env" / "keras" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho no such thing >&2\nexit 3\n")
    python.chmod(0o755)
    (tmp_path / "env" / "keras" / run.FINISHED).touch()
    folder = tmp_path / "3_minutes" / "ours_vae_2d_mnist"
    folder.mkdir(parents=True)
    (folder / "figures.json").write_text(json.dumps(FIGURES))
    (tmp_path / "mnist.npz").write_bytes(b"")
    monkeypatch.setattr(zoo, "load_evaluator", lambda name: type("Judge", (), {"features": None}))
    command = ["run.py", "--only", "keras_vae", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*command, "--environments", str(tmp_path / "env")])
    assert run.main() == 1
    printed = capsys.readouterr()
    assert "FAILED: keras_vae (3 minutes)" in printed.out
    assert "no such thing" in printed.err  # the end of what the side printed
    assert "ours: vae_2d_mnist" in printed.out
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--finished"])
    assert run.main() == 0
