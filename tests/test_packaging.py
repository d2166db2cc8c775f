"""What importing costs, and that the installed package holds its data."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

HEAVY = ("torch", "triton", "sympy", "lark", "jinja2", "rich", "numpy", "matplotlib", "hypothesis")


def loaded_after(code: str) -> tuple[set[str], float]:
    """Top-level modules of a fresh interpreter after `code`, and the milliseconds of work."""
    program = f"""
import sys, time, json
start = time.process_time()
{code}
took = (time.process_time() - start) * 1e3
print(json.dumps([sorted({{name.partition('.')[0] for name in sys.modules}}), took]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    names, took = json.loads(done.stdout.splitlines()[-1])
    return set(names), took


def test_importing_the_package_imports_nothing_heavy() -> None:
    names, _ = loaded_after("import attnspec")
    assert names & {*HEAVY, "click"} == set()
    times = sorted(loaded_after("import attnspec")[1] for _ in range(5))
    print(f"import attnspec: {times[0]:.1f} ms")
    assert times[0] < 50


def test_an_error_class_needs_nothing_heavy() -> None:
    names, _ = loaded_after("import attnspec; attnspec.AttnError")
    assert names & set(HEAVY) == set()


@pytest.mark.parametrize("command", ["check causal", "list", "list --json", "check causal --json"])
def test_looking_at_specs_needs_no_torch(command: str) -> None:
    code = f"""
import contextlib, io
from attnspec.codegen.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    main({command.split()!r}, standalone_mode=False)
"""
    names, _ = loaded_after(code)
    assert names & {"torch", "triton", "matplotlib", "hypothesis"} == set()
    assert "lark" in names


def test_a_new_spec_needs_no_compiler() -> None:
    code = "from attnspec.codegen.cli import main\nmain(['--version'], standalone_mode=False)"
    names, _ = loaded_after(code)
    assert names & {"torch", "sympy", "lark", "jinja2"} == set()


def test_the_package_holds_its_data() -> None:
    package = resources.files("attnspec")
    assert (package / "py.typed").is_file()
    assert (package / "dsl" / "grammar.lark").is_file()
    assert any(item.name.endswith(".attn") for item in (package / "specs").iterdir())
    assert any(item.name.endswith(".jinja") for item in (package / "templates").iterdir())


def test_a_module_from_the_cache_needs_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNSPEC_CACHE", str(tmp_path))
    code = """
import torch, attnspec
x = torch.ones(1, 1, 2, 4)
attnspec.load("causal")(x, x, x)
"""
    compiler = {"sympy", "lark", "jinja2", "filelock"}
    assert loaded_after(code)[0] >= compiler
    assert loaded_after(code)[0] & compiler == set()
