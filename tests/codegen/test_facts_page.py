"""docs/facts.md: every excerpt is what `attnspec explain` prints, every fact has a place.

`pytest --update-golden` writes the excerpts anew.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from click.testing import CliRunner

from attnspec.codegen import library
from attnspec.codegen.cli import main
from attnspec.dsl.analysis import analyze
from attnspec.dsl.check import check
from attnspec.dsl.parse import parse

PAGE = Path(__file__).parents[2] / "docs" / "facts.md"
EXCERPT = re.compile(r"(?ms)^```explain (\w+): ([^\n]+)\n(.*?)^```$")


@cache
def explained(name: str) -> str:
    """What the command prints."""
    result = CliRunner().invoke(main, ["explain", name])
    assert result.exit_code == 0, result.output
    return result.output


def excerpt(name: str, title: str) -> str:
    """A section of it, or one fact."""
    for part in explained(name).split("\n\n"):
        first, _, rest = part.strip("\n").partition("\n")
        if first == title:
            return f"{rest}\n"
        if first == "facts":
            for fact in re.split(r"\n(?=  \S)", rest):
                if fact.startswith(f"  {title}: "):
                    return f"{fact}\n"
    raise AssertionError(f"{name} has no {title}")


def test_every_excerpt_is_printed(update_golden: bool) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert len(EXCERPT.findall(page)) == page.count("```") // 2

    def anew(found: re.Match[str]) -> str:
        name, title, _ = found.groups()
        lines = excerpt(name, title)
        return f"```explain {name}: {title}\n{lines}```"

    expected = EXCERPT.sub(anew, page)
    if update_golden:
        PAGE.write_text(expected, encoding="utf-8")
    assert expected == PAGE.read_text(encoding="utf-8")


def test_every_fact_of_the_library_has_an_excerpt() -> None:
    shown = {title for _, title, _ in EXCERPT.findall(PAGE.read_text(encoding="utf-8"))}
    general = {_general(title) for title in shown}
    for name in library.names():
        spec, _ = check(parse(*library.find(name)))
        for fact in analyze(spec).facts:
            assert _general(fact.name) in general, f"{name}: {fact.name}"


def _general(name: str) -> str:
    """A fact's name without the axis or the state that it is about."""
    return re.sub(r"( along \w+|(?<=^recurrence) \w+)$", "", name)
