"""How many lines a user writes for a side: what stands above `# What the comparison adds`."""

import ast
import io
import tokenize
from pathlib import Path

HERE = Path(__file__).resolve().parent
ADDED = "# What the comparison adds"  # below it stands what no user writes
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
NO_CODE |= {tokenize.ENDMARKER}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


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


def user_lines(script: str, variant: str = "") -> int:
    """Returns the lines that a user writes to train, save, load, draw and serve.

    A recipe that the zoo lacks counts, too.
    """
    path, recipe = HERE / f"{script}.py", HERE / "recipes" / f"{variant}.json"
    served = "by_hand.serve(" in path.read_text()
    lines = code_lines(path) + (code_lines(HERE / "by_hand.py") if served else 0)
    return lines + (len(recipe.read_text().splitlines()) if recipe.is_file() else 0)
