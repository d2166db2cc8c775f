"""What the sources may not contain."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("dsl", "codegen", "runtime", "src/attnspec")

# Ways from text to running code, and a rewriter whose results cannot be bounded.
FORBIDDEN = frozenset(
    {
        "eval",
        "exec",
        "compile_command",
        "sympify",
        "parse_expr",
        "simplify",
        "nsimplify",
        "lambdify",
        "pickle",
        "cPickle",
        "marshal",
        "shelve",
        "dill",
        "cloudpickle",
        "__import__",
    }
)

# A module's bytecode, hashed, from the private directory that its text comes from.
ALLOWED = {("runtime/cache.py", "marshal")}


def sources() -> list[Path]:
    """Every Python file of the project's own folders, links not followed."""
    return sorted(
        path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if not any(parent.is_symlink() for parent in path.parents)
    )


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name, attribute and imported module with its line; strings do not count."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                yield name, node.lineno
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                words = [word for alias in aliases for word in alias.name.split(".")]
                words += (getattr(node, "module", "") or "").split(".")
                yield from ((word, node.lineno) for word in words)


@pytest.mark.parametrize(
    "text",
    [
        "eval(x)",
        "sympy.sympify(x)",
        "from sympy import simplify",
        "import pickle",
        "from pickle import loads",
        "import sympy.parsing.sympy_parser as p; p.parse_expr(x)",
        "builtins.exec(x)",
        "f = eval",
    ],
)
def test_what_is_forbidden_would_be_found(text: str) -> None:
    assert FORBIDDEN & {name for name, _ in names(ast.parse(text))}


def test_no_text_can_become_code() -> None:
    files = sources()
    assert {path.relative_to(ROOT).parts[0] for path in files} >= {"dsl", "codegen", "runtime"}
    found = {
        (path.relative_to(ROOT).as_posix(), name): line
        for path in files
        for name, line in names(ast.parse(path.read_text(encoding="utf-8")))
        if name in FORBIDDEN
    }
    assert found.keys() == ALLOWED, found


def test_nothing_reads_the_environment_at_import() -> None:
    found = []
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for statement in tree.body:
            if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                continue
            hits = [name for name, _ in names(statement) if name in ("environ", "getenv")]
            found += [f"{path.relative_to(ROOT)}:{statement.lineno}: {hit}" for hit in hits]
    assert found == []
