"""A few planted faults in every run; `make mutations` plants them all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.mutations_list import MUTATIONS, Mutation

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.file}:{m.new[:20]!r}")
def test_the_text_to_replace_stands_there_once(mutation: Mutation) -> None:
    assert (ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.old) == 1


def test_planted_faults_are_noticed() -> None:
    command = [sys.executable, "-m", "tests.mutations"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count("->") == 6, done.stdout
