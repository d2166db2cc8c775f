"""What a fresh process imports and does before its first result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attnspec.runtime.kernel import interpreted

COMPILER = {
    "lark",
    "jinja2",
    "sympy",
    "attnspec.dsl.ast",
    "attnspec.dsl.parse",
    "attnspec.codegen.plan",
}
CALL = """
import sys, torch
before = set(sys.modules)
import attnspec
f = attnspec.compile(open(sys.argv[1]).read())
q = torch.randn(1, 2, 9, 4, requires_grad=True)
f(q, q, q).sum().backward()
print(*sorted(set(sys.modules) - before))
"""


def imported(program: str, *args: str, cache: Path) -> set[str]:
    """The modules that a fresh process prints."""
    environment = {**os.environ, "ATTNSPEC_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", program, *args],
        env=environment, check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return set(done.stdout.split())


def test_the_package_imports_nothing_until_it_is_used(tmp_path: Path) -> None:
    program = "import sys, attnspec; print(*sys.modules)"
    found = imported(program, cache=tmp_path)
    assert not {"torch", "triton", *COMPILER} & found
    assert {n for n in found if n.startswith("attnspec")} == {"attnspec"}


@pytest.mark.skipif(interpreted(), reason="Triton is imported to be interpreted")
def test_a_first_result_imports_what_it_needs(tmp_path: Path) -> None:
    """A new spec the compiler, one from the cache no compiler; neither Triton nor TorchDynamo."""
    spec = tmp_path / "mine.attn"
    spec.write_text("attention mine\nmask j <= i\nscore = dot(q[i], k[j]) / sqrt(D)\n")
    new = imported(CALL, str(spec), cache=tmp_path)
    again = imported(CALL, str(spec), cache=tmp_path)
    assert new >= COMPILER
    assert not COMPILER & again
    assert not {"triton", "torch._dynamo"} & (new | again)
