"""Random specs and every library spec through the kernels, held against the reference.

Chunks run in processes of their own: a kernel that writes outside its tensors may take Python with
it, and the last name on stderr tells which spec it was.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attnspec.codegen.library import names

ROOT = Path(__file__).parent.parent
SEED = int(os.environ["ATTNSPEC_FUZZ_SEED"])
CHUNKS = [names()[first : first + 25] for first in range(0, len(names()), 25)]


def fuzz(backend: str, *arguments: object) -> str:
    """What `python -m tests.fuzz` prints; fails with its findings."""
    command = [sys.executable, "-m", "tests.fuzz", "--backend", backend, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["TRITON_INTERPRET"] = "1" if backend == "triton" else "0"
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        *_, last = [line for line in done.stderr.splitlines() if line] or ["nothing"]
        pytest.fail(f"ended with {done.returncode} at: {last}\n{done.stderr[-2000:]}")
    if done.returncode:
        pytest.fail(done.stdout)
    return done.stdout


@pytest.mark.parametrize("first", range(0, 200, 25))
def test_random_specs_on_the_cpu(first: int) -> None:
    fuzz("cpu", "--first", first, "--count", 25, "--cases", 2)


@pytest.mark.parametrize("first", range(0, 40, 5))
def test_random_specs_under_the_interpreter(first: int) -> None:
    fuzz("triton", "--first", first, "--count", 5, "--cases", 1)


@pytest.mark.parametrize("chunk", CHUNKS, ids=lambda chunk: chunk[0])
def test_library_specs_on_the_cpu(chunk: tuple[str, ...]) -> None:
    fuzz("cpu", "--cases", 3, "--library", *chunk)


@pytest.mark.parametrize("chunk", CHUNKS, ids=lambda chunk: chunk[0])
def test_library_specs_under_the_interpreter(chunk: tuple[str, ...]) -> None:
    fuzz("triton", "--cases", 1, "--library", *chunk)


@pytest.mark.parametrize(("backend", "count"), [("cpu", 20), ("triton", 4)])
def test_fresh_specs(backend: str, count: int) -> None:
    fuzz(backend, "--first", SEED, "--count", count, "--cases", 1)
