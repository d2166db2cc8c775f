"""A few planted faults in every run; `make mutations` plants them all."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.mutations import judge
from tests.mutations_list import MUTATIONS, Mutation

ROOT = Path(__file__).parent.parent
FILES = (
    "templates/forward.py.jinja",
    "templates/backward_rows.py.jinja",
    "templates/backward_columns.py.jinja",
    "templates/macros.py.jinja",
    "dsl/analysis/bounds.py",
    "dsl/analysis/symbolic.py",
)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.file}:{m.new[:20]!r}")
def test_the_text_to_replace_stands_there_once(mutation: Mutation) -> None:
    assert (ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.old) == 1


@pytest.mark.parametrize("file", FILES)
def test_a_planted_fault_is_noticed(file: str) -> None:
    mutation = next(m for m in MUTATIONS if m.file == file)
    assert judge(mutation).killer
