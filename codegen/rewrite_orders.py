"""Cumulative sums, ranks and sparsemax over few channels of a pair, as sums over a second channel.

`cumsum(c, x[c])` is the sum of x[u] over the channels u up to c, and a rank is how many channels u
stand above c. Where x belongs to a pair, a tile has no vector to sort; it writes such sums out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attnspec.codegen.channel_forms import few
from attnspec.codegen.rewrite_ranks import ordered
from attnspec.codegen.terms import ONE, ZERO
from attnspec.codegen.token_axes import tokens
from attnspec.dsl.analysis.positions import outside, rebuild
from attnspec.dsl.ast import (
    Axis,
    Cumsum,
    Expr,
    Kind,
    Literal,
    Normalize,
    Rank,
    Read,
    Reduce,
    Role,
    Spec,
    walk,
)
from attnspec.dsl.build import add, apply, conjunction, div, index, lit, mul, size, sub, substitute

_SECOND = ".second"
_CHANNELS = frozenset({Role.CHANNEL, Role.CONCAT})


def with_orders(spec: Spec) -> Spec:
    """`spec` with every cumulative sum, rank and sparsemax over few channels of a pair written by
    sums; where that is not possible it stays."""
    made = _Orders(spec)
    defs = []
    for definition in spec.defs:  # each stands after those it reads
        defs.append(replace(definition, expr=made.visit(definition.expr)))
        made.levels[definition.name] = made.level(defs[-1].expr)
    return replace(outside(spec, made.visit), axes=made.spec.axes, defs=tuple(defs))


@dataclass(slots=True)
class _Orders:
    """Adds second channels to `spec`."""

    spec: Spec
    levels: dict[str, int] = field(default_factory=dict)  # of definitions

    def visit(self, expr: Expr) -> Expr:
        """`expr` by sums."""
        expr = rebuild(expr, self.visit)
        match expr:
            case Cumsum(axis=axis, body=body, where=where) if self._short(expr, axis):
                other = self._second(expr, axis)
                before = apply("le", index(other), index(axis))
                kept = _at(where, axis, other)
                return _sum(other, _moved(body, axis, other), expr.kind, before, *kept)
            case Rank(axis=axis) if self._short(expr, axis):
                return self._rank(expr)
            case Normalize(op="entmax", axes=(axis,), alpha=Literal(value=2)) if self._short(
                expr, axis
            ):
                return self._sparsemax(expr)
        return expr

    def _short(self, expr: Expr, axis: str) -> bool:
        """Whether an expression of a pair runs over few channels."""
        channel = self.spec.axis(axis).role in _CHANNELS
        return channel and few(self.spec, (axis,)) and len(tokens(self.spec, expr.free)) > 1

    def level(self, expr: Expr) -> int:
        """How many orders stand in each other."""
        found = 0
        for node in walk(expr):
            if isinstance(node, Reduce):
                found = max(found, *(axis.count(_SECOND) for axis in node.axes))
            elif isinstance(node, Read):
                found = max(found, self.levels.get(node.name, 0))
        return found

    def _second(self, expr: Expr, axis: str) -> str:
        """Another index over the channels of `axis`, that nothing in `expr` runs over."""
        name = axis.replace(_SECOND, "") + _SECOND * (self.level(expr) + 1)
        second = Axis(name, Role.CHANNEL, size=self.spec.axis(axis).size)
        if second not in self.spec.axes:
            self.spec = replace(self.spec, axes=(*self.spec.axes, second))
        return second.name

    def _rank(self, rank: Rank) -> Expr:
        """How many channels are above one, or equal to it and before it."""
        axis, other = rank.axis, self._second(rank, rank.axis)
        mine = ordered(rank)
        theirs = _moved(mine, axis, other)
        early = apply("and", apply("eq", theirs, mine), apply("lt", index(other), index(axis)))
        above = apply("or", apply("gt", theirs, mine), early)
        count = _sum(other, lit(1), Kind.INT, above, *_at(rank.where, axis, other))
        return count if rank.where is None else apply("where", rank.where, count, size(axis))

    def _sparsemax(self, node: Normalize) -> Expr:
        """The numbers less a threshold that makes what is above it add up to 1: a channel is above
        it if one channel more would not be (Martins and Astudillo 2016)."""
        [axis] = node.axes
        other = self._second(node, axis)
        mine, theirs = node.body, _moved(node.body, axis, other)
        larger = (apply("ge", theirs, mine), *_at(node.where, axis, other))
        count = _sum(other, ONE, Kind.FLOAT, *larger)
        total = _sum(other, theirs, Kind.FLOAT, *larger)
        inside = apply("gt", add(ONE, mul(count, mine)), total)
        if node.where is not None:
            inside = apply("and", node.where, inside)
        most = sub(_sum(axis, mine, Kind.FLOAT, inside), ONE)
        members = apply("max", _sum(axis, ONE, Kind.FLOAT, inside), ONE)
        return apply("where", inside, sub(mine, div(most, members)), ZERO)


def _moved(expr: Expr, axis: str, other: str) -> Expr:
    return substitute(expr, {axis: index(other)})


def _at(where: Expr | None, axis: str, other: str) -> tuple[Expr, ...]:
    """Whether the other channel takes part, if that is said."""
    return () if where is None else (_moved(where, axis, other),)


def _sum(axis: str, body: Expr, kind: Kind, *where: Expr) -> Reduce:
    return Reduce("sum", (axis,), body, conjunction(where), kind=kind)
