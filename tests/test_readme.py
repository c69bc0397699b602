"""What README says is run: its Python as it stands, its commands against the real command line."""

import re
from pathlib import Path

import pytest
import typer

from tfgen import cli, zoo

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs_as_it_stands(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_commands_and_options_exist():
    group = typer.main.get_command(cli.app)
    lines = re.findall(r"tfgen ([a-z]+)((?: [^`&|\n#]*)?)", "\n".join(blocks("bash")))
    assert lines
    for name, rest in lines:
        options = {name for p in group.commands[name].params for name in p.opts}
        assert set(re.findall(r"--[a-z]+", rest)) <= options


def test_files_it_shows_exist():
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file()


def test_the_install_line_is_what_ci_runs():
    ci = (ROOT / ".ci" / "run").read_text()
    assert 'pip install -e ".[dev]"' in README
    assert 'pip install -e ".[dev]"' in ci


def test_every_entry_has_its_row():
    for name in zoo.list_models():
        assert f"`{name}`" in README
