"""What of a pair is the same along a diagonal: a function of its distance i - j.

A tile has as many diagonals as rows and columns together, and as many pairs as their product.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attnspec.codegen.tile import Atom, Op, names_used, needed
from attnspec.dsl.ast import Kind

_COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
# What takes a pair no longer than reading a number does.
_QUICK = (
    "neg", "add", "sub", "mul", "abs", "min", "max", "clamp", "where", "float", "and", "or",
    "not", "constant", *_COMPARISONS,
)  # fmt: skip
_FEW = 3  # quick operations that are no longer


def growth(ops: Iterable[Op], known: Iterable[str]) -> dict[str, int]:
    """By how much each value grows from a pair to the next one of its diagonal, where that is the
    same everywhere: by 1 the positions `i` and `j`, by 0 what is `known` of a head."""
    found = dict.fromkeys(known, 0) | {"i": 1, "j": 1}
    for op in ops:
        by = _growth(op, found)
        if by is not None:
            found[op.target] = by
    return found


def _growth(op: Op, found: Mapping[str, int]) -> int | None:
    args = op.args[1:] if op.op == "load" else op.args  # of a head's table, not of a row's own
    steps = [found.get(a) if isinstance(a, str) else 0 for a in args]
    known = [x for x in steps if x is not None]
    if len(known) < len(steps):
        return None
    if not any(known):
        return 0
    if op.op in _COMPARISONS:
        return 0 if known[0] == known[1] else None
    if op.kind is not Kind.INT:
        return None
    match op.op, args:
        case "add", _:
            return known[0] + known[1]
        case "sub", _:
            return known[0] - known[1]
        case "neg", _:
            return -known[0]
        case "mul", (int(by), _):
            return by * known[1]
        case "mul", (_, int(by)):
            return by * known[0]
    return None


def worthwhile(ops: Sequence[Op], grows: Mapping[str, int]) -> frozenset[str]:
    """The numbers that are the same along a diagonal and take longer than to read one."""
    along = {op.target for op in ops if grows.get(op.target) == 0 and op.axes == "ij"}
    found = set()
    for op in ops:
        if op.target in along and op.kind is not Kind.BOOL:
            parts = [x for x in needed(ops, [op.target]) if x.axes == "ij"]
            if len(parts) > _FEW or any(x.op not in _QUICK for x in parts):
                found.add(op.target)
    return frozenset(found)


def apart(
    ops: Sequence[Op], roots: Sequence[Atom], once: frozenset[str]
) -> tuple[tuple[Op, ...], tuple[str, ...]]:
    """What is left for each pair where `once` is worked out for each diagonal, and which of these
    it reads."""
    left = needed([op for op in ops if op.target not in once], roots)
    read = names_used(left, roots)
    return left, tuple(op.target for op in ops if op.target in once & read)
