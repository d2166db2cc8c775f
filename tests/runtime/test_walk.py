"""Loops over tiles in closed form visit each tile that they reach once, full ones apart."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("script", ["walk", "boxes"])
def test_visits_against_sets_of_tiles(script: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", f"tests.runtime.{script}"],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
