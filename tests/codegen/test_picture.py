"""Masks drawn in characters."""

from __future__ import annotations

import pytest

from attnspec.codegen.picture import Picture, picture
from attnspec.dsl.check import check
from attnspec.dsl.parse import parse


def drawn(mask: str) -> Picture | None:
    return picture(check(parse(f"attention x\n{mask}\n"))[0])


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


@pytest.mark.parametrize(
    "mask",
    [
        "input keep[b, j]: bool\nmask keep[j]",
        "mask dot(q[i], k[j]) > 0",
        "param w[h] = 1\nmask w * j <= i",
        "mask H * j <= i",
    ],
)
def test_what_the_call_decides_is_not_guessed(mask: str) -> None:
    assert drawn(mask) is None


def test_a_large_mask_is_not_worked_out() -> None:
    terms = " or ".join(f"(i + {n}) % 7 == j" for n in range(90))
    assert drawn(f"mask {terms}") is None
