"""The reference of the language: every example is a spec, every word and code stands in it."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from attnspec.dsl.check import check
from attnspec.dsl.check_names import FUNCTION_WORDS, STATEMENT_WORDS
from attnspec.dsl.parse import parse

PAGE = (Path(__file__).parents[2] / "docs" / "language.md").read_text(encoding="utf-8")
SPECS = re.findall(r"^```attn\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
NAMES = [text.split("\n")[0].removeprefix("attention ") for text in SPECS]


@pytest.mark.parametrize("text", SPECS, ids=NAMES)
def test_every_example_is_a_spec(text: str) -> None:
    tree = parse(text, "example.attn")
    spec, warnings = check(tree)
    assert spec.name == tree.name
    assert warnings == ()


def test_the_examples_are_found() -> None:
    assert len(SPECS) == PAGE.count("```") // 2
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("word", sorted(FUNCTION_WORDS))
def test_every_function_is_described_and_used(word: str) -> None:
    assert re.search(rf"`{word}(\(|`)", PAGE)
    assert any(re.search(rf"\b{word}\(", text) for text in SPECS)


@pytest.mark.parametrize("word", sorted(STATEMENT_WORDS))
def test_every_statement_has_an_example(word: str) -> None:
    at_start = rf"(?m)^{word}\b"
    inside = rf"(?m)^state .*\b{word}\b" if word in ("over", "reverse") else at_start
    assert any(re.search(inside, text) for text in SPECS)


def test_every_code_is_in_the_table() -> None:
    """The table lists the codes that the compiler's sources name, no fewer and no more."""
    sources = [f for f in files("attnspec.dsl").iterdir() if f.name.endswith(".py")]
    named = {code for f in sources for code in re.findall(r'"([AW]\d{3})"', f.read_text("utf-8"))}
    listed = re.findall(r"^\| ([AW]\d{3}) \|", PAGE, flags=re.MULTILINE)
    assert listed == sorted(named)
