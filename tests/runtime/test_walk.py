"""Scripts under the interpreter: loops over tiles in closed form, coordinates, logits cut short,
ranks, keys that programs share, and heads that share tiles."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "script", ["walk", "boxes", "coordinates", "scores", "cuts", "few", "packed"]
)
def test_under_the_interpreter(script: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", f"tests.runtime.{script}"],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
