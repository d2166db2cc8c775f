"""Masks drawn in characters."""

from __future__ import annotations

import pytest

from attnspec.codegen import library
from attnspec.codegen.picture import Picture, picture
from attnspec.dsl.analysis import analyze
from attnspec.dsl.ast import Rank, Reduce, walk
from attnspec.dsl.check import check
from attnspec.dsl.parse import parse


def drawn(mask: str) -> Picture | None:
    spec, _ = check(parse(f"attention x\n{mask}\n"))
    return picture(spec, analyze(spec))


def rows(mask: str) -> tuple[str, ...]:
    found = drawn(mask)
    assert found is not None
    return found.rows


def test_causal() -> None:
    found = rows("mask j <= i")
    assert found[0] == "▒" + "·" * 15
    assert found[15] == "█" * 15 + "▒"
    assert len(found) == 16


def test_no_mask_is_full() -> None:
    assert set(rows("score = 1.0 * i")) == {"█" * 16}


def test_a_default_that_is_too_long_shows_something() -> None:
    found = drawn("input window: int = 512 where window > 0\nmask j <= i and i - j < window")
    assert found is not None
    assert ("window", 16) in found.assumed
    assert found.rows[15] == "·" * 11 + "▒███▒"


def test_a_grid() -> None:
    found = drawn("grid y, x\nmask i.y == j.y")
    assert found is not None
    assert found.assumed == (("N", 64), ("GY", 8), ("GX", 8))
    assert found.rows[:3] == ("██" + "·" * 14, "██" + "·" * 14, "··██" + "·" * 12)


def test_what_the_loops_visit() -> None:
    found = drawn("input window: int = 16 where window > 0\nmask j <= i and i - j < window")
    assert found is not None
    assert (found.tiles, found.visited, found.unmasked) == (256, 70, 42)
    text = "".join(found.rows)
    assert (text.count("█"), text.count("▒"), text.count("○")) == (42, 28, 0)


def test_an_empty_tile_that_is_visited() -> None:
    found = drawn("mask j * (20 - j) > 100 or j > 59")  # at most 100, which intervals do not see
    assert found is not None
    assert set(found.rows) == {"·○○○" + "·" * 11 + "█"}
    assert (found.visited, found.unmasked) == (64, 16)


def test_the_number_of_heads_is_told() -> None:
    found = drawn("mask H * j <= i")
    assert found is not None
    assert ("H", 4) in found.assumed


def test_arguments_are_made_up() -> None:
    found = drawn("input doc[b, n]: int\ninput keep[b, j]: bool\nmask doc[i] == doc[j] and keep[j]")
    assert found is not None
    assert found.made_up == ("doc", "keep")
    assert {len(set(row)) > 1 for row in found.rows[:10]} == {True}


def test_constants_and_initial_values_are_as_they_are() -> None:
    found = drawn("const reach[h] = [8, 64]\nparam w[h] = 2\nmask w * j <= i and i - j < reach")
    assert found is not None
    assert found.made_up == ()
    shown = [row.replace("○", "·").rstrip("·") for row in found.rows[:5]]
    assert shown == ["▒", "▒", "▒▒", "·▒", ""]


@pytest.mark.parametrize(
    "mask",
    [
        "mask dot(q[i], k[j]) > 0",
        "param w[h] = 2 ** h\nmask w * j <= i",
        "mask rank(j, 1.0 * j, where=j <= i) < 4",
    ],
)
def test_what_scores_decide_is_not_guessed(mask: str) -> None:
    assert drawn(mask) is None


def test_a_large_mask_is_not_worked_out() -> None:
    terms = " or ".join(f"(i + {n}) % 7 == j" for n in range(90))
    assert drawn(f"mask {terms}") is None


def test_compact_tiles() -> None:
    found = drawn("grid y, x\nmask i.x == j.x")
    assert found is not None
    assert found.grid is not None
    assert (found.grid.rows, found.grid.columns) == ((128, 1), (128, 1))
    assert (found.grid.compact, found.grid.in_order) == (128, 128 * 128)
    assert (found.visited, found.unmasked) == (32, 32)
    assert {row.count("█") for row in found.rows} == {2}


@pytest.mark.parametrize("name", library.names())
def test_what_is_drawn_is_what_is_visited(name: str) -> None:
    """No pair lies in a tile that is passed over, and no tile without a mask has a hole."""
    spec, _ = check(parse(*library.find(name)))
    found = picture(spec, analyze(spec))
    if found is None:
        read = [spec.mask, *(made.expr for made in spec.defs)]
        nodes = [node for expr in read if expr is not None for node in walk(expr)]
        assert spec.states or any(isinstance(node, Rank | Reduce) for node in nodes)
        return
    text = "".join(found.rows)
    assert text.count("█") + text.count("▒") + text.count("○") == found.visited
    assert found.unmasked <= text.count("█")
