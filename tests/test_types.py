"""Every public argument and return value has a type; an editor knows what `tfgen.load` returns.

`.ci/run` lets pyright check tests/typed_api.py, a user's code with the types that it may rely on.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Methods that fill in a hook of Keras or of the base classes keep the types that stand there, which
# pyright hands down.
HOOKS = {
    *("build", "call", "compute_output_shape", "from_config", "get_config", "update_state"),
    *("train_step", "test_step", "predict_step", "update_step", "make_train_function"),
    *("losses_per_image", "endpoints", "why_not", "mean_image", "optimizers", "updates_per_step"),
    *("extra_likelihoods", "batch_size_for", "enable_lora"),
    *(
        f"on_{place}_{what}"
        for place in ("train", "epoch", "train_batch")
        for what in ("begin", "end")
    ),
}


def public_functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions of a module and methods of its classes that a user may call, constructors too."""

    def visit(body, prefix):
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield from visit(node.body, f"{prefix}{node.name}.")
            if isinstance(node, ast.FunctionDef):
                constructor = node.name == "__init__" and prefix
                public = not node.name.startswith("_") and not (prefix and node.name in HOOKS)
                if constructor or public:
                    yield prefix + node.name, node

    yield from visit(ast.parse(path.read_text()).body, "")


def untyped(path: Path) -> tuple[list[str], int]:
    """Public arguments and results without a type, and how many there are in all."""
    missing, count = [], 0
    for name, node in public_functions(path):
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        given += [a for a in (node.args.vararg, node.args.kwarg) if a is not None]
        for argument in given:
            if argument.arg in ("self", "cls", "kwargs"):
                continue
            count += 1
            if argument.annotation is None:
                missing.append(f"{name}({argument.arg})")
        if node.name != "__init__":
            count += 1
            if node.returns is None:
                missing.append(f"{name} ->")
    return missing, count


def test_public_arguments_have_types():
    problems = []
    for path in sorted((ROOT / "tfgen").rglob("*.py")):
        file = str(path.relative_to(ROOT))
        missing, _ = untyped(path)
        if missing:
            problems.append(f"{file}: {', '.join(missing)}")
    assert not problems, "\n".join(problems)


def test_types_are_shipped():
    assert (ROOT / "tfgen" / "py.typed").is_file()
    assert "tfgen = py.typed" in (ROOT / "setup.cfg").read_text()
