"""Generated modules: the same every time, laid out as a formatter would, and as they were."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import attnspec
from attnspec.codegen import library
from attnspec.codegen.check_module import Disallowed, check_module

GOLDEN = Path(__file__).parent / "golden"
SHOWN = ("causal", "alibi", "t5", "gated_elementwise")


def source(name: str) -> str:
    return attnspec.load(name).source


@pytest.mark.parametrize("name", SHOWN)
def test_a_module_is_as_it_was(name: str, request: pytest.FixtureRequest) -> None:
    """`--update-golden` writes what is generated now."""
    path = GOLDEN / f"{name}.py.txt"
    if request.config.getoption("--update-golden"):
        path.write_text(source(name))
    assert source(name) == path.read_text()


def test_modules_need_no_formatter(tmp_path: Path) -> None:
    for name in library.names():
        text = source(name)
        if text:
            (tmp_path / f"{name}.py").write_text(text)
    command = ["ruff", "format", "--isolated", "--line-length", "100", "--diff", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout[:4000] + done.stderr


def test_a_module_does_not_depend_on_the_order_of_hashes() -> None:
    program = "import attnspec; print(attnspec.load('swin').source)"
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


def test_what_a_module_imports_needs_no_compiler() -> None:
    program = """
import sys
import attnspec.runtime.generated
print(*({n.partition(".")[0] for n in sys.modules} & {"lark", "sympy", "jinja2", "click", "rich"}))
print(*(n for n in sys.modules if n.startswith("attnspec.codegen")))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120
    )
    # PyTorch may import SymPy itself; nothing of the compiler may be there
    assert set(done.stdout.split()) <= {"sympy"}


@pytest.mark.parametrize(
    "line",
    [
        "import os",
        "from os import path",
        "from attnspec.runtime.generated import unknown",
        "eval('1')",
        "torch.load('file')",
        "q.tofile('file')",
        "q = __import__",
        "q = lambda: 0",
    ],
)
def test_what_no_module_needs_is_refused(line: str) -> None:
    with pytest.raises(Disallowed):
        check_module(f"{source('causal')}\n{line}\n")
