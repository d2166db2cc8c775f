"""No kernel reads or writes outside its tensors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def run(how: str) -> subprocess.CompletedProcess[str]:
    """The fence's own process."""
    command = [sys.executable, "-m", "tests.runtime.fence", how]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("where", ["behind", "before"])
def test_kernels_stay_inside_their_tensors(where: str) -> None:
    done = run(where)
    assert done.returncode == 0, f"{done.returncode}: {done.stdout}{done.stderr[-1500:]}"


def test_the_fence_ends_what_touches_it() -> None:
    assert run("touch").returncode == -signal.SIGSEGV
