"""What counts as ascending, and which masks have closed-form ranges."""

from __future__ import annotations

import pytest

from attnspec.dsl.analysis import analyze
from attnspec.dsl.check import check
from attnspec.dsl.parse import parse

SORTED = "input doc[b, n]: int where doc[n - 1, pad=0] <= doc[n]\n"


def has_ranges(text: str) -> bool:
    facts = analyze(check(parse(f"attention m\n{text}\n"))[0])
    assert facts.ranges is None or facts.blocks is None
    return facts.ranges is not None


@pytest.mark.parametrize(
    "text",
    [
        f"{SORTED}mask doc[i] == doc[j]",
        f"{SORTED}mask doc[i] == doc[j] and j <= i",
        f"{SORTED}mask doc[i] >= doc[j] and i - 9 < j",
        f"{SORTED}mask doc[j] < doc[i]",
        "input doc[n]: int where doc[n] >= doc[n - 1, pad=-5] and doc >= 0\nmask doc[i] == doc[j]",
        "input doc[n]: int where doc[n - 1, pad=0] < doc[n]\nmask doc[i] == doc[j]",
        "input first[b, n]: bool\nlet doc[n] = cumsum(n, where(first[n], 1, 0))\n"
        "mask doc[i] == doc[j]",
        f"{SORTED}input kind[b, n]: int where kind[n - 1, pad=0] <= kind[n]\n"
        "mask doc[i] == doc[j] and kind[j] <= kind[i]",
    ],
)
def test_ranges(text: str) -> None:
    assert has_ranges(text)


@pytest.mark.parametrize(
    "text",
    [
        "input doc[b, n]: int\nmask doc[i] == doc[j]",
        "input doc[b, n]: int where doc[n - 1, pad=0] >= doc[n]\nmask doc[i] == doc[j]",
        "input doc[b, n]: int where doc[n - 2, pad=0] <= doc[n]\nmask doc[i] == doc[j]",
        "input doc[b, n]: int where doc[n - 1, pad=0] <= doc[n] or n > 5\nmask doc[i] == doc[j]",
        "input doc[b, n]: int where doc[n - 1, pad=0] <= doc[n] + 1\nmask doc[i] == doc[j]",
        "input doc[h, n]: int where doc[n, h=h - 1, pad=0] <= doc[n]\nmask doc[i] == doc[j]",
        "input doc[b, n] where doc[n - 1, pad=0] <= doc[n]\nmask doc[i] == doc[j]",
        f"{SORTED}input other[b, n]: int\nmask other[i] == other[j]",
        f"{SORTED}mask doc[i] != doc[j]",
        f"{SORTED}mask doc[i] == doc[j] or j <= i",
        f"{SORTED}input keep[j]: bool\nmask doc[i] == doc[j] and keep[j]",
        f"{SORTED}mask doc[i] == doc[j] and (i + j) % 64 == 0",
        "input first[b, n]: bool\nlet doc[n] = cumsum(n, where(first[n], 1, -1))\n"
        "mask doc[i] == doc[j]",
        "input x[b, i]: int\ninput doc[b, j]: int where doc[j - 1, pad=0] <= doc[j]\n"
        "mask doc[j] <= x[i]",  # by columns the queries are in no order
    ],
)
def test_no_ranges(text: str) -> None:
    assert not has_ranges(text)
