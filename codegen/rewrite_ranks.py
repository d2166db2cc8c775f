"""Ranks among what a query may see, by few numbers for every query.

Whether a key is among the `n` first of a range follows from its place among all keys and from the
place of the first one in the range that is left out: what comes before that one is chosen. So a
rank for every pair becomes a place for every key and a cut-off for every query.

Where what is ranked depends on both tokens, or the keys are no range, a pass over pairs finds three
numbers for every query: a pair is chosen if it is above the first, or above the second and not
after the third. These two lie between what is chosen and what is not, halfway, so that a number
which another kernel rounds otherwise falls on the same side.
"""

from __future__ import annotations

from dataclasses import replace

from attnspec.codegen.plan_types import Unsupported
from attnspec.codegen.terms import LOWEST, negative
from attnspec.dsl.analysis.bounds import bounds
from attnspec.dsl.analysis.positions import coordinates, rebuild
from attnspec.dsl.analysis.runs import HI, LO
from attnspec.dsl.ast import Apply, Expr, Index, Kind, Literal, Rank, Reduce, Size, Spec
from attnspec.dsl.build import add, apply, lit, size
from attnspec.dsl.check_prover import Prover

# The operation of a reduction of `place < n` over a range, `first <= index <= last`, which gives
# the place of the first index that is not among the n first of the range, or the axis' size where
# there is none.
CUTOFF = "cutoff"
# The operations of reductions of `rank < n` over pairs, which give the three numbers.
CUTS = ("cut_above", "cut_equal", "cut_last")


def chosen(spec: Spec, node: Expr, row: str, among: tuple[Expr, ...] = ()) -> Expr | None:
    """`node`, a rank among what depends on `row` less than an integer, without such a rank; None
    if it is anything else. It counts only where `among` holds. May raise `Unsupported`."""
    match node:
        case Apply("lt", (Rank(axis, _, where) as rank, count)):
            if axis in count.free:
                raise Unsupported("a rank compared with what depends on the same token")
        case _:
            return None
    inside = _by_place(spec, rank, count, row) or _by_cuts(rank, count)
    if where is None or where in among:
        return inside
    every = Apply("lt", (Size(axis, kind=Kind.INT), count), kind=Kind.BOOL)  # of an excluded index
    outside = _both(Apply("not", (where,), kind=Kind.BOOL), every)
    return Apply("or", (_both(where, inside), outside), kind=Kind.BOOL)


_TURNED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le", "eq": "eq", "ne": "ne"}
_OPPOSITE = {"ge": "lt", "gt": "le"}


def as_less(node: Expr) -> Expr:
    """A comparison of a rank written with `rank < n` of integers alone; anything else as it is."""
    match node:
        case Apply("lt", (Rank(), limit)) if limit.kind is Kind.INT:
            return node
        case Apply(op, (limit, Rank() as rank)) if op in _TURNED and not isinstance(limit, Rank):
            return as_less(Apply(_TURNED[op], (rank, limit), kind=Kind.BOOL))
        case Apply("lt" | "le" as op, (Rank() as rank, limit)):
            return _less(op, rank, limit, LOWEST)
        case Apply("ge" | "gt" as op, (Rank() as rank, limit)):
            return apply("not", _less(_OPPOSITE[op], rank, limit, negative(LOWEST)))
        case Apply("ne", (Rank() as rank, limit)):
            return apply("not", as_less(apply("eq", rank, limit)))
        case Apply("eq", (Rank() as rank, limit)) if limit.kind is Kind.INT:
            most, fewer = (_less(op, rank, limit, LOWEST) for op in ("le", "lt"))
            return _both(most, apply("not", fewer))
    return node


def _less(op: str, rank: Rank, limit: Expr, nan: Expr) -> Expr:
    """A rank less than a limit, or not above it (`le`), where `nan` stands for one that is no
    number. No rank is below 0 or above the axis' size, so that an integer has the limit."""
    whole = limit.kind is Kind.INT
    if not whole:
        limit = apply("where", apply("eq", limit, limit), limit, nan)
    if not whole or op == "le":
        limit = apply("clamp", limit, lit(-1), add(size(rank.axis), lit(1)))
    if not whole:
        limit = apply("ceil" if op == "lt" else "floor", limit)
    return apply("lt", rank, limit if op == "lt" else add(limit, lit(1)))


def _by_place(spec: Spec, rank: Rank, count: Expr, row: str) -> Expr | None:
    """Whether an index of a range is among the `count` first; None if that is no range."""
    if row in rank.body.free or rank.where is None:
        return None
    limits = _range(spec, rank.where, rank.axis, row)
    if limits is None:
        return None
    place = replace(rank, where=None)
    fewer = Apply("lt", (place, count), kind=Kind.BOOL)
    limit = Reduce(CUTOFF, (rank.axis,), fewer, limits, kind=Kind.INT)
    return Apply("lt", (place, limit), kind=Kind.BOOL)


def _by_cuts(rank: Rank, count: Expr) -> Expr:
    """Whether a pair is among the `count` first of its row."""
    fewer = Apply("lt", (replace(rank, where=None), count), kind=Kind.BOOL)
    above, equal, last = (Reduce(op, (rank.axis,), fewer, rank.where, kind=Kind.INT) for op in CUTS)
    order = ordered(rank)
    early = Apply("le", (Index(rank.axis, kind=Kind.INT), last), kind=Kind.BOOL)
    tied = _both(Apply("gt", (order, equal), kind=Kind.BOOL), early)
    return Apply("or", (Apply("gt", (order, above), kind=Kind.BOOL), tied), kind=Kind.BOOL)


def ordered(rank: Rank) -> Expr:
    """An integer in the order of what is ranked."""
    if rank.axis not in rank.body.free:
        return Literal(0, kind=Kind.INT)
    return (
        rank.body if rank.body.kind is Kind.INT else Apply("in_order", (rank.body,), kind=Kind.INT)
    )


def _both(one: Expr, other: Expr) -> Expr:
    return Apply("and", (one, other), kind=Kind.BOOL)


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
    return None


def _at(end: Expr, row: str) -> Expr:
    """The end of a run for a tile of one row."""

    def visit(node: Expr) -> Expr:
        if isinstance(node, Index) and node.axis in (LO, HI):
            return replace(node, axis=row)
        return rebuild(node, visit)

    return visit(end)
