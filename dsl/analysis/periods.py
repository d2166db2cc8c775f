"""Conditions that repeat themselves within a small tile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from attnspec.dsl.analysis.inlining import PAIR
from attnspec.dsl.ast import Apply, Expr, Index, Kind, Literal

TILE = 16  # the least side of a tile of pairs
Period: TypeAlias = "tuple[int, bool]"  # in either position; whether only i - j matters


def repeat(conditions: Sequence[Expr]) -> bool:
    """Whether every tile of 16 by 16 pairs meets all that the conditions together ever say.

    So it is for conditions over remainders of positions by numbers with a common multiple of at
    most 16, or of at most 31 where they are remainders of i - j, which takes 31 values in a row
    there. Such conditions leave no tile empty unless they leave nothing at all.
    """
    found = _together([_period(condition) for condition in conditions])
    return found is not None and found[0] <= (2 * TILE - 1 if found[1] else TILE)


def _period(expr: Expr) -> Period | None:
    if not expr.free & PAIR:
        return 1, True
    match expr:
        case Apply(op="mod", args=(x, Literal(value=int() as n))) if n > 0:
            slopes = _slopes(x)
            return None if slopes is None else (n, slopes in ((1, -1), (-1, 1)))
        case Apply(args=args):
            return _together([_period(arg) for arg in args])
    return None


def _together(parts: Sequence[Period | None]) -> Period | None:
    known = [p for p in parts if p is not None]
    if len(known) < len(parts):
        return None
    return math.lcm(*(n for n, _ in known)), all(only for _, only in known)


def _slopes(expr: Expr) -> tuple[int, int] | None:
    """What i and j are multiplied by in an int that is linear in both."""
    if expr.kind is not Kind.INT:
        return None
    if not expr.free & PAIR:
        return 0, 0
    match expr:
        case Index(axis=axis):
            return (1, 0) if axis == "i" else (0, 1)
        case Apply(op=("add" | "sub" | "neg") as op, args=args):
            parts = [_slopes(arg) for arg in args]
            known = [p for p in parts if p is not None]
            if len(known) < len(parts):
                return None
            signs = [-1 if op == "neg" or (op == "sub" and at) else 1 for at in range(len(known))]
            pairs = list(zip(signs, known, strict=True))
            return sum(s * a for s, (a, _) in pairs), sum(s * b for s, (_, b) in pairs)
        case Apply(op="mul", args=(Literal(value=int() as k), x) | (x, Literal(value=int() as k))):
            inner = _slopes(x)
            return None if inner is None else (k * inner[0], k * inner[1])
    return None
