"""Weights added up by the table entry that each pair reads.

`sum(j, w * rows[f(i, j)])` is `sum(l, share[i, l] * rows[l])` where `share[i, l]` is `sum(j, w,
where=f(i, j) == l)`: a number for every query and entry, which a pass gives, and a product of
matrices, which the host makes. No pair has a vector of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from attnspec.codegen.lookups import OPEN, Lookup, table
from attnspec.codegen.plan_types import Unsupported
from attnspec.codegen.terms import ONE, ZERO
from attnspec.dsl.analysis.positions import rebuild
from attnspec.dsl.ast import Apply, Expr, Index, Kind, Literal, Read, Reduce, Size, Spec

Places = tuple[tuple[str, Expr], ...]  # axes of a table, and where each is read
_INT, _BOOL = Kind.INT, Kind.BOOL


def table_of(
    spec: Spec, node: Reduce, expr: Expr, row: str, *more: str
) -> tuple[Lookup, list[Expr]] | None:
    """`expr`, a vector for every pair of `row` and what a sum runs over, as a table that the pair
    looks up and factors, 1 or 0, that go with it; None for others."""
    column = node.axes[0]
    if more:
        return None
    padded: list[Read] = []
    try:
        found = table(spec, _bare(expr, padded), row, column)
    except Unsupported:
        return None
    axes = {axis for axis, _ in found.places}
    if column in found.table.free or axes & node.free:
        return None
    if not padded:
        return found, []
    if expr != padded[0]:  # a function of what stands outside
        return None
    there = Apply("and", tuple(inside(found.places)), kind=_BOOL)
    factor = Apply("where", (there, ONE, ZERO), kind=Kind.FLOAT)
    return replace(found, places=_nearest(found.places)), [factor]


def _nearest(places: Places) -> Places:
    """The entries next to indices that may lie outside."""
    first, one = Literal(0, kind=_INT), Literal(1, kind=_INT)
    last = {axis: Apply("sub", (Size(axis, kind=_INT), one), kind=_INT) for axis, _ in places}
    return tuple((a, Apply("clamp", (at, first, last[a]), kind=_INT)) for a, at in places)


def _bare(expr: Expr, padded: list[Read]) -> Expr:
    """`expr` without the padding of what it reads with 0 outside, which `padded` learns."""
    if isinstance(expr, Read) and expr.pad == Literal(0, kind=_INT):
        padded.append(expr)
        expr = replace(expr, pad=None)
    return rebuild(expr, lambda part: _bare(part, padded))


def inside(places: Places) -> Iterator[Expr]:
    """That indices lie in a table."""
    for axis, at in places:
        yield Apply("ge", (at, Literal(0, kind=_INT)), kind=_BOOL)
        yield Apply("lt", (at, Size(axis, kind=_INT)), kind=_BOOL)


def at_entry(node: Reduce, places: Places) -> Reduce:
    """`node` of the pairs alone that read one entry of a table."""
    parts = [] if node.where is None else [node.where]
    parts += [Apply("eq", (at, Index(axis, kind=_INT)), kind=_BOOL) for axis, at in places]
    return replace(node, where=both(parts))


def counted(spec: Spec, node: Reduce) -> Reduce:
    """A sum for every entry: of the pairs that have one at all."""
    places, _ = entry_of(spec, node)
    have = conditions(node.where)
    more = [part for part in inside(places) if part not in have]
    return replace(node, where=both([*more, *have])) if more else node


def both(parts: list[Expr]) -> Expr | None:
    """All of the conditions; None for none."""
    if len(parts) < 2:
        return parts[0] if parts else None
    return Apply("and", tuple(parts), kind=_BOOL)


def conditions(where: Expr | None) -> list[Expr]:
    """What a condition demands, one by one."""
    if isinstance(where, Apply) and where.op == "and":
        return [part for arg in where.args for part in conditions(arg)]
    return [] if where is None else [where]


def entry_of(spec: Spec, node: Reduce) -> tuple[Places, Expr | None]:
    """The entry whose pairs a sum counts, none if it counts any, and the condition that is left."""
    places: dict[str, Expr] = {}
    left = []
    for part in conditions(node.where):
        found = _place(spec, node, part)
        if found is None or found[0] in places:
            left.append(part)
        else:
            places[found[0]] = found[1]
    return tuple(places.items()), both(left)


def _place(spec: Spec, node: Reduce, part: Expr) -> tuple[str, Expr] | None:
    """The axis and the index of `f(i, j) == l`."""
    if not isinstance(part, Apply) or part.op != "eq":
        return None
    for entry, at in (part.args, part.args[::-1]):
        if isinstance(entry, Index) and entry.axis in node.free and at.kind is _INT:
            role = spec.axis(entry.axis).role
            if role in OPEN and at.free and entry.axis not in at.free:
                return entry.axis, at
    return None
