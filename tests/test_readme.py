"""README and the pages under docs/: every fenced block is run or checked, every name exists."""

import doctest
import inspect
import json
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import runs
import typer
import yaml
from PIL import Image
from serving_support import running

import tfgen_command
from tfgen import evaluation, families, training, zoo
from tfgen.recipe import Recipe
from tfgen_command.command_line import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (
        ROOT / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        ROOT / "saved_models" / "README.md",
    )
}
CHECKED = {"python", "py", "pycon", "bash", "json", "yaml", "text"}  # all but text by a test below
PROGRAMS = {
    "curl",
    "docker",
    "export",
    "git",
    "jupytext",
    "kubectl",
    "mkdocs",
    "pip",
    "pytest",
    "python",
    "python3",
    "tfgen",
}
SERVED = ("vae_2d_mnist", "gan_mnist", "pixelcnn_binarized_mnist")  # by docs/serving.md


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def pages_with(language):
    return [name for name, text in PAGES.items() if blocks(text, language)]


def load_zoo_pages():
    return runs.script_of(ROOT / "docs" / "zoo_pages.py")


# Code


@pytest.mark.slow_except("code1")
@pytest.mark.parametrize("code", blocks(README, "python"))
def test_readme_python_runs_as_it_stands(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in pages_with("python") if p != "README.md"])
def test_python_of_a_page_runs(page, tmp_path, monkeypatch):
    """Each block as it stands, in the order of the page, in one folder."""
    monkeypatch.chdir(tmp_path)
    for code in blocks(PAGES[page], "python"):
        exec(compile(code, page, "exec"), {"__name__": "page"})


@pytest.mark.parametrize(
    "page", [p for p in pages_with("pycon") if p != "docs/serving.md"]
)  # test_serving_zoo.py
@pytest.mark.slow
def test_sessions_of_a_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert failures(page, "\n".join(blocks(PAGES[page], "pycon"))) == 0


def failures(page, session):
    test = doctest.DocTestParser().get_doctest(session, {}, page, page, 0)
    assert test.examples
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.DocTestRunner(optionflags=flags).run(test).failed


def test_every_language_is_checked():
    for page, text in PAGES.items():
        fences = re.findall(r"^```(\S*)$", text, re.MULTILINE)
        assert len(fences) % 2 == 0, f"{page} has a fence that is not closed"
        assert set(fences[::2]) <= CHECKED, page
        assert set(fences[1::2]) <= {""}, page


@pytest.mark.parametrize("page", pages_with("py"))
def test_sketches_parse(page):
    """Python that leaves parts out stands in a block of `py`; it is not run."""
    for code in blocks(PAGES[page], "py"):
        compile(code, page, "exec")


@pytest.mark.parametrize("page", pages_with("json"))
def test_json_parses(page):
    for text in blocks(PAGES[page], "json"):
        values = json.loads(text)
        if "family" in values:
            Recipe.from_dict(values)


@pytest.mark.parametrize("page", pages_with("yaml"))
def test_yaml_parses(page):
    for text in blocks(PAGES[page], "yaml"):
        assert list(yaml.safe_load_all(text))


def test_models_that_were_trained_further_are_named():
    pages = load_zoo_pages()
    noted = [
        entry for entry in pages.entries() if "two cpu cores" in entry.get("trained", "").lower()
    ]
    assert [entry["name"] for entry in noted] == list(pages.TRAINED_FURTHER)


# Commands


def commands(text):
    """The simple commands of a page's shell blocks, as lists of words."""
    for block in blocks(text, "bash"):
        for line in re.split(r"\n|&&", block.replace("\\\n", " ")):
            words = shlex.split(line, comments=True)
            if words and not words[0].startswith("."):  # `. .venv/bin/activate`
                yield words


@pytest.mark.parametrize("page", pages_with("bash"))
def test_commands_and_options_exist(page):
    for block in blocks(PAGES[page], "bash"):
        subprocess.run(["bash", "-nc", block], check=True)
    for words in commands(PAGES[page]):
        assert words[0] in PROGRAMS, words
        if words[0] == "tfgen":
            check_tfgen(words[1:])
        elif words[0].startswith("python") and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), words


def check_tfgen(words):
    """The command exists, takes these options, and has all arguments that it requires."""
    command = typer.main.get_command(app)
    if words == ["--version"]:
        assert "--version" in {option for p in command.params for option in p.opts}
        return
    while hasattr(command, "commands"):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    # As typed, without looking for the files and entries that the arguments name.
    context = command.make_context(command.name, [], resilient_parsing=True)
    typed, _, _ = command.make_parser(context).parse_args(list(words))
    assert [p.name for p in command.params if p.required and not typed.get(p.name)] == [], words


def test_no_page_writes_what_another_page_writes_or_reads():
    """Whoever reads one after the other in one folder is not refused."""
    written: dict[str, str] = {}
    read: dict[str, set[str]] = {}
    for page, text in PAGES.items():
        if page == "docs/clusters.md":  # of folders that several machines share
            continue
        for words in commands(text):
            if words[0] != "tfgen" or "--resume" in words:
                continue
            outs = [word for before, word in pairwise(words) if before == "--out"]
            read.setdefault(page, set()).update(set(words[1:]) - set(outs))
            for out in outs:
                if out.isupper() or words[1] == "export":
                    continue
                assert written.setdefault(out, page) == page, (out, page, written[out])
    for out, page in written.items():
        others = {other for other, words in read.items() if out in words and other != page}
        assert not others, (out, page, others)


@pytest.mark.slow
def test_the_recipe_from_emoji_takes_photos_of_ones_own(tmp_path, monkeypatch):
    """As docs/fine-tuning.md says: with a size, and without results."""
    monkeypatch.chdir(tmp_path)
    write_own_images(tmp_path)
    recipes = [json.loads(text) for text in blocks(PAGES["docs/fine-tuning.md"], "json")]
    (recipe,) = [one for one in recipes if one.get("data") == "clothing64"]
    with pytest.raises(ValueError, match='"size": 64 in a recipe'):
        training.train(Recipe.from_dict(recipe | {"data": "photos"}), "runs/a", verbose=0)
    own = recipe | {"data": "photos", "size": 64, "epochs": 1, "results": []}
    chosen = Recipe.from_dict(own)
    model = training.train(chosen, "runs/own", verbose=0)
    zoo.save(model, "runs/own", chosen, training.provenance(chosen, "runs/own"))
    assert evaluation.evaluate("runs/own", verbose=0)


# What other tests run, or what takes longer than a night allows.
LONG = (
    "tfgen evaluate --all",
    "tfgen evaluate vae_mnist --check",  # tests/test_zoo.py
    "tfgen export --all",
    "tfgen serve",  # tests/test_serving*.py
    "tfgen train",  # tests/test_cli.py
)


@pytest.mark.nightly
@pytest.mark.parametrize("page", ["docs/command-line.md", "docs/index.md", "docs/own-images.md"])
def test_commands_of_a_page_run(page, tmp_path, monkeypatch, capsys):
    """Each with the files that it names, in the order of the page."""
    monkeypatch.chdir(tmp_path)
    write_own_images(tmp_path)
    for code in blocks(PAGES[page], "python"):
        exec(compile(code, page, "exec"), {"__name__": "page"})
    trained = set()
    for words in commands(PAGES[page]):
        line = " ".join(words)
        if words[0] != "tfgen" or (line.startswith(LONG) and not own_recipe(words)):
            continue
        words = ["0.1" if before == "--minutes" else word for before, word in pairwise(words)]
        monkeypatch.setattr(sys, "argv", ["tfgen", *words])
        with pytest.raises(SystemExit) as stop:
            tfgen_command.main()
        assert stop.value.code == 0, (line, capsys.readouterr().err)
        trained |= {word for word in words if word.startswith("runs/")}
    assert all((tmp_path / run / "model.weights.h5").is_file() for run in trained)


def own_recipe(words):
    return words[1] == "train" and words[2].endswith(".json")


def write_own_images(folder):
    """Photos of several sizes in photos/, and the single files that the pages name."""
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    names = [f"photos/{index}.png" for index in range(60)]
    for name in (*names, "mine.png", "from.png", "to.png", "mask.png"):
        height, width = rng.integers(64, 90, 2)
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        if name == "mask.png":
            pixels[:] = 0
            pixels[: height // 2] = 255
        Image.fromarray(pixels).save(folder / name)


def test_command_table_names_commands():
    group = typer.main.get_command(app)
    for text in PAGES.values():
        for name in re.findall(r"`tfgen ([a-z]+)\b", text):
            assert name in group.commands, name


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    for name in SERVED:
        zoo.load(name).export(folder / name)
    with running(folder) as server:
        yield server


@pytest.mark.slow
def test_every_request_of_the_serving_page_is_answered(served, tmp_path, monkeypatch):
    page = PAGES["docs/serving.md"]
    monkeypatch.chdir(tmp_path)
    exec(blocks(page, "python")[1], {})
    here = f"127.0.0.1:{served.port}"
    asked = [words for words in commands(page) if words[0] == "curl"]
    signatures = set()
    for words in asked:
        words = [word.replace("127.0.0.1:8501", here) for word in words]
        answer = curl(served, words)
        assert "error" not in answer, (words, answer)
        if "-d" in words:
            assert answer["outputs"], words
            body = words[words.index("-d") + 1]
            body = Path(body[1:]).read_text() if body.startswith("@") else body
            signatures.add(json.loads(body)["signature_name"])
    every = {"sample", "sample_png", "encode", "decode", "reconstruct", "log_likelihood"}
    assert signatures == every | {"score", "complete", "log_likelihood_map"}


def curl(served, words):
    """What `curl` does with these words, which may not be installed."""
    url = next(word for word in words if word.startswith("http"))
    path = "/" + url.split("/", 3)[3]
    if "-d" not in words:
        return served.get(path)[1]
    body = words[words.index("-d") + 1]
    body = Path(body[1:]).read_bytes() if body.startswith("@") else body.encode()
    return served.post(path, body)[1]


# Names


def test_names_in_prose_exist():
    """`tfgen.x.y` is an attribute, a file in backticks is there, `model.x` is one of a family."""
    script = "import sys; print(*[n for n in sys.argv[1:] if not resolves(n)])"
    names = {n.rstrip(".") for t in PAGES.values() for n in re.findall(r"\btfgen\.[a-zA-Z_.]+", t)}
    names -= {n for n in names if re.search(r"\.(json|yaml|js|py|md)$", n)}
    resolves = (
        "def resolves(name):\n"
        "    value = tfgen\n"
        "    for part in name.split('.')[1:]:\n"
        "        if not hasattr(value, part): return False\n"
        "        value = getattr(value, part)\n"
        "    return True\n"
    )
    run = [sys.executable, "-c", f"import tfgen\n{resolves}\n{script}", *names]
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
    known = set()
    for family in families.known().values():
        known |= {*dir(family), *inspect.signature(family).parameters}  # arguments are kept
    for page, text in PAGES.items():
        for name in re.findall(r"`model\.(\w+)", text):
            assert name in known, (page, name)


def test_links_lead_somewhere():
    for page, text in PAGES.items():
        text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            path = ((ROOT / page).parent / target).resolve()
            made = re.fullmatch(r".*docs/notebooks/([\w-]+)\.md", str(path))  # by the site
            if made:
                path = path.with_suffix(".py")
            if not target.startswith(("http:", "https:")) and "gallery" not in target:
                assert path.exists(), (page, target)


def test_scripts_in_backticks_exist():
    for page, text in PAGES.items():
        for name in re.findall(r"`([\w/.]+\.(?:py|c))\b", text):
            places = (ROOT, ROOT / "benchmarks", ROOT / "tests", (ROOT / page).parent)
            assert any((place / name).is_file() for place in places), (page, name)


# What pip finds by the name tfgen is a stranger's project.
STRANGER = re.compile(r"""pip3? install (?:-\S+ )*["']?tfgen\b|["'`]tfgen\[""")


def test_no_page_and_no_message_installs_tfgen_by_its_name():
    """Not as `pip install tfgen` and not as `"tfgen[serving]"`: from the clone, by a path."""
    assert STRANGER.search("pip install --upgrade tfgen")
    assert STRANGER.search("pip install 'tfgen[data]'")
    assert not STRANGER.search('pip install ".[data]" in the clone of tfgen')
    files = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    for folder in ("docs", "saved_models", "tfgen", "tfgen_command", "benchmarks", "tests", "zoo"):
        files += [p for kind in ("*.md", "*.py") for p in (ROOT / folder).rglob(kind)]
    for path in files:
        if path != Path(__file__).resolve():
            assert not STRANGER.search(path.read_text()), path


# README


def test_the_install_line_is_what_ci_runs():
    ci = (ROOT / ".ci" / "run").read_text()
    assert 'pip install -e ".[dev]"' in README
    assert 'pip install -e ".[dev]"' in ci


def test_every_entry_has_its_row():
    for name in zoo.list_models():
        assert f"`{name}`" in README


def test_the_table_is_what_the_metadata_say():
    pages = load_zoo_pages()
    table = README.split(pages.START)[1].split(pages.END)[0]
    assert table == pages.readme_table(), "run: python docs/zoo_pages.py"
    for entry in pages.entries():
        assert pages.headline(entry), entry["name"]


def test_numbers_in_prose_are_those_of_the_metadata():
    """`name`: result, as on the decision page."""
    pages = load_zoo_pages()
    known = {entry["name"]: entry for entry in pages.entries()}
    ratio = r"Fréchet ratio [\d.]+(?: \([\d,]+ images\))?"
    number = rf"`(\w+)`: ({ratio}|[\d.]+ (?:nats|bits/dim), \w+)"
    found = [claim for text in PAGES.values() for claim in re.findall(number, text)]
    assert len(found) >= 5
    for name, claim in found:
        entry = known[name]
        ratio = f"Fréchet ratio {pages.frechet_ratio(entry)}"
        assert claim in (pages.likelihood(entry), ratio), (name, claim)


def test_a_ratio_of_fewer_images_says_so():
    pages = load_zoo_pages()
    for entry in pages.entries():
        of = [name for name in entry["results"] if name.startswith("Frechet distance, ")]
        said = re.search(r"\((.*) images\)", pages.frechet_ratio(entry))
        number = said[1].replace(",", "") if said else "10000"
        assert not of or f"{number} images" in of[0], entry["name"]


def test_the_drawn_taxonomy_has_the_families_of_its_table():
    drawn = (ROOT / "docs" / "drawings" / "taxonomy.svg").read_text()
    rows = re.findall(
        r'^\| `"(\w+)"` \| .* \| ([^|]*) \| [^|]* \|$',
        (ROOT / "docs" / "taxonomy.md").read_text(),
        re.M,
    )
    assert [kind for kind, _ in rows] == ["exact", "bound", "none"]
    for kind, names in rows:
        for name in names.split(", "):
            assert f">{name}<" in drawn, name
            assert families.find(name).likelihood == kind


def test_readme_is_short():
    assert len(README.splitlines()) <= 140
