"""Lowering of sums over channels whose terms are no product of a query's and a key's number."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sympy as sp

from attnspec.codegen.lower import Builder
from attnspec.codegen.plan_types import ChannelSum, Gradient, Leaf, Role, Unsupported
from attnspec.codegen.terms import ONE, ZERO
from attnspec.codegen.tile import Atom, Tape, needed
from attnspec.dsl.analysis import symbolic
from attnspec.dsl.analysis.products import products
from attnspec.dsl.ast import Apply, Contract, Expr, Kind, Literal, Read, Reduce, conjuncts


@dataclass(slots=True)
class TileBuilder(Builder):
    """Lowers what is computed of a pair, sums over channels too: `sums` by channel and term."""

    sums: dict[tuple[str, Expr], ChannelSum] = field(default_factory=dict)

    def emit(self, expr: Expr, flows: bool = False) -> Atom:
        """Lower to operations; gives the atom of the value."""
        if isinstance(expr, Reduce) and expr.op in ("any", "all") and expr.free >= self.sides:
            return self._counted(expr)
        expr = self._contracted(expr)
        atom = Builder.emit(self, expr, flows)
        return self.tape.add("max", (atom, 0.0), Kind.FLOAT) if self._square(expr) else atom

    def sym(self, expr: Expr) -> Any:
        """Lower to SymPy over atoms."""
        expr = self._contracted(expr)
        found = Builder.sym(self, expr)
        return symbolic.apply("max", [found, sp.Integer(0)]) if self._square(expr) else found

    def _counted(self, expr: Reduce) -> Atom:
        """Whether a condition on a channel holds for any, or for all: a count of the channels
        where it does, or does not, as a sum of products of what either token decides."""
        body = expr.body if expr.op == "any" else Apply("not", (expr.body,), kind=Kind.BOOL)
        parts = [*conjuncts(body), *([] if expr.where is None else conjuncts(expr.where))]
        first, *rest = (Apply("where", (x, ONE, ZERO), kind=Kind.FLOAT) for x in parts)
        count = self.emit(Contract(expr.axes, first, _product([*rest] or [ONE]), kind=Kind.FLOAT))
        some = "gt" if expr.op == "any" else "eq"
        return self.tape.add(some, (count, 0.0), Kind.BOOL)

    def _square(self, expr: Expr) -> bool:
        """Whether a sum of squares will be multiplied out, after which it may lie below 0."""
        if not isinstance(expr, Contract) or expr.left != expr.right:
            return False
        return expr.free >= self.sides and len(list(products(expr, self.sides))) > 1

    def _contracted(self, expr: Expr) -> Expr:
        """A pair's sum over a channel as one of products, so that it can be multiplied out."""
        if not isinstance(expr, Reduce) or expr.op != "sum" or not expr.free >= self.sides:
            return expr
        left: Expr = ONE
        right = expr.body
        match expr.body:
            case Apply(op="pow", args=(base, Literal(value=2))):
                left, right = base, base
            case Apply(op="mul", args=(first, *rest)):
                left, right = first, _product(rest)
        if expr.where is not None:
            right = Apply("where", (expr.where, right, ZERO), kind=Kind.FLOAT)
        return Contract(expr.axes, left, right, kind=Kind.FLOAT, span=expr.span)

    def dot(self, expr: Contract, flows: bool = False) -> str:
        """A product of tiles, a table's entry, or else a sum over channels."""
        try:
            return Builder.dot(self, expr, flows)
        except Unsupported:
            if len(expr.axes) != 1:
                raise
        factors = [x for x in (expr.left, expr.right) if x != ONE]
        return self._sum_over(expr.axes[0], _product(factors))

    def _sum_over(self, channel: str, term: Expr) -> str:
        if (channel, term) in self.sums:
            return self.sums[channel, term].name
        name = f"a{len(self.sums)}"
        tape = Tape(prefix=f"{name}_")
        inside = Inside(
            self.spec, self.row, self.column, self.lanes, tape=tape, outer=self, channel=channel
        )
        whole = inside.sym(term)
        names = [v.name for v in inside.leaves if v.grad]
        slopes = symbolic.derivatives(whole, names)
        value = inside.printed(whole)
        gradients = tuple(Gradient(n, inside.printed(slopes[n])) for n in names)
        ops = needed(tape.ops, [value, *(g.value for g in gradients)])
        vectors = tuple(inside.leaves)
        self.sums[channel, term] = ChannelSum(name, channel, vectors, ops, value, gradients)
        return self.tape.declare(name, Kind.FLOAT, "ij")


@dataclass(slots=True, kw_only=True)
class Inside(Builder):
    """Lowers what `outer` sums over `channel`. What depends on one token at most is an element of
    a vector that the host makes; what has neither channel nor gradient is computed outside, once a
    pair."""

    outer: TileBuilder
    channel: str

    def fresh(self, hint: str) -> str:
        """A name that stands for nothing else."""
        return self.outer.fresh(hint)

    def outside(self, expr: Expr, flows: bool = False) -> Atom | None:
        """The atom of what does not need the tile, or not the channel."""
        if isinstance(expr, Literal):
            return expr.value
        if self.channel not in expr.free and not self.carries_gradient(expr):
            return self._declared(self.outer.emit(expr))
        return None if expr.free >= self.sides else self.leaf(expr, flows)

    def _declared(self, atom: Atom) -> Atom:
        """An atom of the tile outside."""
        if isinstance(atom, str):
            tape = self.outer.tape
            self.tape.declare(atom, tape.kinds[atom], tape.axes[atom])
        return atom

    def scalar(self, expr: Expr) -> Atom:
        """A number of the call."""
        return self._declared(self.outer.scalar(expr))

    def leaf(self, expr: Expr, flows: bool = False) -> str:
        """An element of a vector of a row, a column or a head."""
        for known in self.leaves:
            if known.operand.expr == expr:
                return self._reached(known.name, flows)
        role: Role = "row" if self.row in expr.free else "head"
        role = "column" if self.column in expr.free else role
        token = {"row": (self.row,), "column": (self.column,)}.get(role, ())
        dims = ("b", "h", *token, self.channel)
        if expr.free - {*dims, *self.lanes}:
            raise Unsupported("a sum over channels of matrices")
        hint = expr.name if isinstance(expr, Read) else f"z{len(self.outer.sums)}"
        operand = self.made(hint, expr, *dims)
        self.leaves.append(Leaf(operand.name, role, operand, expr.kind, False))
        self.tape.declare(operand.name, expr.kind, "".join(map(self.called, token)))
        return self._reached(operand.name, flows)

    def dot(self, expr: Contract, flows: bool = False) -> str:
        """A sum inside the sum has no kernel."""
        raise Unsupported("a sum over channels inside a sum over channels")

    def pair(self, expr: Read, flows: bool = False) -> str:
        """Nor has a vector of a pair, or a number of it that has a gradient."""
        raise Unsupported(f"`{expr.name}` of a pair inside a sum over channels")

    def sym(self, expr: Expr) -> Any:
        """Lower to SymPy over atoms, the largest parts of one token as vectors."""
        found = self.outside(expr, flows=True)
        return Builder.sym(self, expr) if found is None else self.symbol(self.widened(found))


def _product(factors: list[Expr]) -> Expr:
    return factors[0] if len(factors) == 1 else Apply("mul", tuple(factors), kind=Kind.FLOAT)
