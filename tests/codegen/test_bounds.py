"""Bounds of loops against every pair of small tiles: nothing is missed, nothing wrongly whole."""

from __future__ import annotations

import pytest
import torch
from tests.runtime.test_metamorphic import MASKS

import attnspec
from attnspec.dsl.analysis.bounds import HI, LO, hull
from attnspec.dsl.ast import Apply, Expr, Index, Literal

LENGTH = 48
# masks that one interval describes for every query and every key, and whose bounds are exact
EXACT = (
    "j <= i",
    "j < i",
    "i - 7 < j <= i",
    "abs(i - j) <= 40",
    "i // 8 == j // 8",
    "j // 5 <= i // 3",
    "i // 5 <= j // 3",
    "max(j, 20) <= i + 4",
    "i + j < 40",
    "-j <= 5 - i",
    "i - j >= 3 and i - j <= 20",
)
EXACT_ROWS = (
    *EXACT,
    "min(i, 33) <= j + 1",
    "j >= clamp(i, 10, 30)",
    "max(-i, -20) + j <= 5",
    "j >= 10 and i - 5 <= j <= i",
    "j <= i and j < 30",
)


def value(expr: Expr, lo: int, hi: int) -> int:
    """An expression of bounds over the first and last position of a tile."""
    match expr:
        case Literal(value=number):
            return int(number)
        case Index(axis=axis):
            return {LO: lo, HI: hi}[axis]
        case Apply(op=op, args=args):
            values = [value(a, lo, hi) for a in args]
            match op, values:
                case "add", _:
                    return sum(values)
                case "sub", [a, b]:
                    return a - b
                case "mul", [a, b]:
                    return a * b
                case "neg", [a]:
                    return -a
                case "floordiv", [a, b]:
                    return a // b
                case "mod", [a, b]:
                    return a % b
                case "min", _:
                    return min(values)
                case "max", _:
                    return max(values)
    raise AssertionError(expr)


@pytest.mark.parametrize("mask", [m for m in MASKS if "h" not in m])
@pytest.mark.parametrize("side", ["rows", "columns"])
@pytest.mark.parametrize("size", [1, 8, 13])
def test_bounds_of_every_tile(mask: str, side: str, size: int) -> None:
    facts = attnspec.compile(f"attention a\nmask {mask}").facts
    found = hull(facts.rows if side == "rows" else facts.columns)
    i, j = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)[None, :]
    allowed = MASKS[mask](i, j, torch.zeros(1, dtype=torch.int64))
    if side == "columns":
        allowed = allowed.T
    exact = mask in (EXACT_ROWS if side == "rows" else EXACT)
    for lo in range(0, LENGTH, size):
        hi = min(lo + size, LENGTH) - 1
        some = allowed[lo : hi + 1].any(0).nonzero().flatten().tolist()
        every = allowed[lo : hi + 1].all(0)
        first = max(0, value(found.first, lo, hi)) if found.first is not None else 0
        last = min(LENGTH - 1, value(found.last, lo, hi)) if found.last is not None else LENGTH - 1
        assert all(first <= x <= last for x in some)
        if exact and some:
            assert (first, last) == (some[0], some[-1])
        if not found.full:
            continue
        low = value(found.full_first, lo, hi) if found.full_first is not None else 0
        high = value(found.full_last, lo, hi) if found.full_last is not None else LENGTH - 1
        whole = [x for x in range(max(low, first), min(high, last) + 1) if 0 <= x < LENGTH]
        assert all(bool(every[x]) for x in whole)
        if exact:
            assert whole == every.nonzero().flatten().tolist()
