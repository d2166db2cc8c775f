"""Ranks among what a query may see, by one number for every query.

Whether a key is among the `n` first of a range follows from its place among all keys and from the
place of the first one in the range that is left out: what comes before that one is chosen. So a
rank for every pair becomes a place for every key and a cut-off for every query.
"""

from __future__ import annotations

from dataclasses import replace

from attnspec.codegen.plan_types import Unsupported
from attnspec.dsl.analysis.bounds import bounds
from attnspec.dsl.analysis.positions import coordinates, rebuild
from attnspec.dsl.analysis.runs import HI, LO
from attnspec.dsl.ast import Apply, Expr, Index, Kind, Rank, Reduce, Size, Spec
from attnspec.dsl.check_prover import Prover

# The operation of a reduction of `place < n` over a range, `first <= index <= last`, which gives
# the place of the first index that is not among the n first of the range, or the axis' size where
# there is none.
CUTOFF = "cutoff"


def chosen(spec: Spec, node: Expr, row: str, among: tuple[Expr, ...] = ()) -> Expr | None:
    """`node`, a rank among a range that depends on `row` less than a number, without such a rank;
    None if it is anything else. It counts only where `among` holds. May raise `Unsupported`."""
    match node:
        case Apply("lt", (Rank(axis, body, where) as rank, count)) if where is not None:
            if row in body.free or axis in count.free:
                raise Unsupported("a rank of what depends on both tokens")
        case _:
            return None
    place = replace(rank, where=None)
    fewer = Apply("lt", (place, count), kind=Kind.BOOL)
    limit = Reduce(CUTOFF, (axis,), fewer, _range(spec, where, axis, row), kind=Kind.INT)
    inside = Apply("lt", (place, limit), kind=Kind.BOOL)
    if where in among:
        return inside
    every = Apply("lt", (Size(axis, kind=Kind.INT), count), kind=Kind.BOOL)  # of an excluded index
    outside = Apply("and", (Apply("not", (where,), kind=Kind.BOOL), every), kind=Kind.BOOL)
    inside = Apply("and", (where, inside), kind=Kind.BOOL)
    return Apply("or", (inside, outside), kind=Kind.BOOL)


def _range(spec: Spec, where: Expr, axis: str, row: str) -> Expr | None:
    """The positions along `axis` that `where` allows, if they are one range for every row."""
    runs = bounds(coordinates(where, spec), axis, row, Prover(spec)).runs
    if len(runs) == 1 and runs[0].full:
        first, last, full_first, full_last = (
            None if end is None else _at(end, row)
            for end in (runs[0].first, runs[0].last, runs[0].full_first, runs[0].full_last)
        )
        if (first, last) == (full_first, full_last):
            ends = [("ge", first), ("le", last)]
            here = Index(axis, kind=Kind.INT)
            parts = [Apply(op, (here, x), kind=Kind.BOOL) for op, x in ends if x is not None]
            return Apply("and", tuple(parts), kind=Kind.BOOL) if len(parts) > 1 else parts[0]
    raise Unsupported("a rank among keys that are no range of positions")


def _at(end: Expr, row: str) -> Expr:
    """The end of a run for a tile of one row."""

    def visit(node: Expr) -> Expr:
        if isinstance(node, Index) and node.axis in (LO, HI):
            return replace(node, axis=row)
        return rebuild(node, visit)

    return visit(end)
