"""Loops over tiles in closed form visit each tile of their runs once, full ones apart."""

from __future__ import annotations

import os
import subprocess
import sys


def test_walks_against_sets_of_tiles() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.runtime.walk"],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
