"""The house: no circle of imports, no import that points up, no room that is too large.

Imports are read from the source, those inside functions too; those under `if TYPE_CHECKING` never
run and are left out.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tfgen", "tfgen_command")

# From the ground up: a module imports what stands on its own floor or below. Presets and exports
# are formats that know a model by what it offers, so they stand below the models, whose methods
# `save_to_preset` and `export` write them.
FLOORS = (
    (
        "arrays",
        "backend",
        "checks",
        "devices",
        "downloads",
        "files",
        "noise",
        "pixels",
        "portable",
        "weight_files",
    ),
    ("families", "recipe", "tuning", "optimizers", "starting"),
    ("distributions", "layers"),
    ("presets", "model_repository", "export", "formats"),
    ("models",),
    ("zoo",),
    ("data",),
    ("plots", "pictures"),
    ("training",),
    ("evaluation", "drafts"),
    ("serving",),
    ("cli",),
)
# What the library takes from the command, which must answer before the library is imported.
LIGHT = tuple(f"tfgen_command.{name}" for name in ("entries", "process", "wording"))
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}

# Most lines of a file, a class, a function. A file may be longer if its docstring says why, in a
# sentence that begins "Longer than 400 lines".
MOST = {"file": 400, "class": 300, "function": 60}
REASON = "Longer than 400 lines"


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    name_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))
}


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Everything in a module that can run."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from statements(other)
            continue
        yield child
        yield from statements(child)


def imports(name: str, sources: dict[str, Path]) -> set[str]:
    """The modules of the house that a module imports, early or late."""
    path, found = sources[name], set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in statements(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.add(whole if whole in sources else base)
    return {module for module in found if module in sources} - {name}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """One circle for each import that closes one."""
    done, path, found = set(), [], []

    def visit(name):
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            path.append(name)
            for other in sorted(graph[name]):
                visit(other)
            done.add(path.pop())

    for name in sorted(graph):
        visit(name)
    return found


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return {name: imports(name, SOURCES) for name in SOURCES}


def test_no_circle_of_imports(graph):
    assert not [" -> ".join(circle) for circle in circles(graph)]


def test_no_import_points_up(graph):
    upward = []
    for name, imported in graph.items():
        if not name.startswith("tfgen."):  # the command stands on top, and imports anything
            continue
        for other in imported - set(LIGHT):
            own, its = (module.split(".")[1] if "." in module else "" for module in (name, other))
            assert own in FLOOR, f"{name} has no floor yet: enter it in FLOORS"
            if FLOOR.get(its, len(FLOORS)) > FLOOR[own]:
                upward.append(f"{name} -> {other}")
    assert not upward


def test_every_module_has_one_floor_and_stands_in_the_page_on_families():
    modules = {name.split(".")[1] for name in SOURCES if name.startswith("tfgen.")}
    assert sorted(modules) == sorted(name for names in FLOORS for name in names)
    page = (ROOT / "docs" / "families.md").read_text()
    shown = re.findall(r"\w+", page.split("```text")[1].split("```")[0])
    assert modules <= set(shown)


def test_every_circle_and_every_late_import_is_seen(tmp_path):
    """The test's own test: a circle behind a function, and one behind a package's name."""
    files = {
        "a.py": "def f():\n    from tfgen.b import x\n",
        "b.py": "from tfgen import c\n",
        "c/__init__.py": "from . import d\n",
        "c/d.py": "from typing import TYPE_CHECKING\nimport tfgen.a\n"
        "if TYPE_CHECKING:\n    from tfgen import e\n",
        "e.py": "import json\n",
    }
    sources = {}
    for file, text in files.items():
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        parts = Path(file).with_suffix("").parts
        sources[".".join(("tfgen", *(p for p in parts if p != "__init__")))] = path
    graph = {name: imports(name, sources) for name in sources}
    assert graph["tfgen.c.d"] == {"tfgen.a"}
    assert circles(graph) == [["tfgen.a", "tfgen.b", "tfgen.c", "tfgen.c.d", "tfgen.a"]]


def rooms() -> Iterator[tuple[str, str, int]]:
    """(what, kind, lines) of every file, class and function that is too large."""
    for path in SOURCES.values():
        text, file = path.read_text(), str(path.relative_to(ROOT))
        tree, lines = ast.parse(text), text.count("\n")
        if lines > MOST["file"] and REASON not in (ast.get_docstring(tree) or ""):
            yield file, "file", lines
        for node in ast.walk(tree):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                kind = "class" if isinstance(node, ast.ClassDef) else "function"
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MOST[kind]:
                    yield f"{file}: {node.name}", kind, lines


def test_no_room_is_too_large():
    too_large = [
        f"{what} has {lines} lines; a {kind} has at most {MOST[kind]}"
        for what, kind, lines in rooms()
    ]
    assert not too_large, "\n".join(too_large)


def without_encoding(tree: ast.AST) -> Iterator[int]:
    """The lines that read or write a whole text file in whatever encoding the system has.

    Or that read one without leaving out the byte order mark, which editors on Windows write.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            named = [each.value for each in node.keywords if each.arg == "encoding"]
            marked = bool(named) and ast.unparse(named[0]) == "'utf-8-sig'"
            reads = node.func.attr == "read_text"
            if (reads and not marked) or (node.func.attr == "write_text" and not named):
                yield node.lineno


def test_text_files_are_utf_8_everywhere():
    assert list(without_encoding(ast.parse("path.write_text(text)\npath.read_text()"))) == [1, 2]
    bare = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES.values()
        for line in without_encoding(ast.parse(path.read_text()))
    }
    assert not bare, "name an encoding there"
