"""Random specs and every library spec through the kernels, held against the reference.

Under the interpreter chunks run in processes of their own: a kernel that writes outside its tensors
may take Python with it, and the last name on stderr tells which spec it was.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from tests import fuzz
from tests.generator import generate

from attnspec.codegen.library import names
from attnspec.runtime.native_build import compiler

ROOT = Path(__file__).parent.parent
SEED = int(os.environ["ATTNSPEC_FUZZ_SEED"])
CHUNKS = [names()[first : first + 25] for first in range(0, len(names()), 25)]


def on_the_cpu(results: Iterable[fuzz.Result], cases: int, backend: str = "cpu") -> None:
    """Fails with what is wrong."""
    found = list(results)
    if any(result.problem for result in found):
        pytest.fail(fuzz.report(found, backend, cases))


def under_the_interpreter(*arguments: object) -> None:
    """Fails with what `python -m tests.fuzz` prints."""
    command = [sys.executable, "-m", "tests.fuzz", "--backend", "triton", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        *_, last = [line for line in done.stderr.splitlines() if line] or ["nothing"]
        pytest.fail(f"ended with {done.returncode} at: {last}\n{done.stderr[-2000:]}")
    if done.returncode:
        pytest.fail(done.stdout)


@pytest.mark.parametrize("first", range(0, 200, 25))
def test_random_specs_on_the_cpu(first: int) -> None:
    on_the_cpu((fuzz.run(seed, "cpu", 2) for seed in range(first, first + 25)), 2)


def test_random_specs_over_heads() -> None:
    seeds = [seed for seed in range(1000, 1150) if "require H ==" in generate(seed)]
    found = [fuzz.run(seed, "cpu", 3) for seed in seeds]
    on_the_cpu(found, 3)
    assert sum(result.cases for result in found) > len(found)


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_random_specs_in_cpp() -> None:
    on_the_cpu((fuzz.run(seed, "native", 4) for seed in range(500, 515)), 4, "native")


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_random_specs_under_the_interpreter(first: int) -> None:
    under_the_interpreter("--first", first, "--count", 10, "--cases", 1)


@pytest.mark.parametrize("chunk", CHUNKS, ids=lambda chunk: chunk[0])
def test_library_specs_on_the_cpu(chunk: tuple[str, ...]) -> None:
    on_the_cpu((fuzz.run_library(name, "cpu", 3) for name in chunk), 3)


@pytest.mark.parametrize("chunk", CHUNKS, ids=lambda chunk: chunk[0])
def test_library_specs_under_the_interpreter(chunk: tuple[str, ...]) -> None:
    under_the_interpreter("--cases", 1, "--library", *chunk)


def test_fresh_specs_on_the_cpu() -> None:
    on_the_cpu((fuzz.run(seed, "cpu", 1) for seed in range(SEED, SEED + 20)), 1)


def test_fresh_specs_under_the_interpreter() -> None:
    under_the_interpreter("--first", SEED, "--count", 4, "--cases", 1)
