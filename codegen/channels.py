"""Lowering of sums over channels whose terms are no product of a query's and a key's number."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard
from typing import Literal as OneOf

import sympy as sp

from attnspec.codegen.channel_forms import SHORT, factors, few, simpler, written_out
from attnspec.codegen.lower import Builder
from attnspec.codegen.plan_types import (
    CHANNEL,
    ChannelSum,
    Gradient,
    Leaf,
    Operand,
    Role,
    Unsupported,
)
from attnspec.codegen.terms import LOWEST, ONE, PLACE, ZERO, factors_in, factors_of, times
from attnspec.codegen.tile import Atom, Tape, needed
from attnspec.dsl.analysis import symbolic
from attnspec.dsl.analysis.products import products
from attnspec.dsl.ast import (
    Apply,
    Contract,
    Expr,
    Index,
    Kind,
    Literal,
    Normalize,
    Read,
    Reduce,
    children,
    conjuncts,
    walk,
)
from attnspec.dsl.build import apply, index, lit


@dataclass(slots=True)
class TileBuilder(Builder):
    """Lowers what is computed of a pair, reductions over channels too: `sums` by channel, term and
    what is made of the terms, `vectors` what they read by expression and channel."""

    sums: dict[tuple[object, ...], ChannelSum] = field(default_factory=dict)
    vectors: dict[tuple[Expr, str], Operand] = field(default_factory=dict)
    _totals: dict[tuple[object, ...], Any] = field(default_factory=dict)  # as SymPy has them
    _named: int = 0

    def emit(self, expr: Expr, flows: bool = False) -> Atom:
        """Lower to operations; gives the atom of the value."""
        if not _of_channels(expr) or not expr.free >= self.sides:
            return Builder.emit(self, expr, flows)
        if isinstance(expr, Reduce) and expr.op in ("any", "all"):
            return self._counted(expr)
        entry = self._entry(expr, flows)
        if entry is not None:
            return entry
        plain = simpler(expr, False)
        if plain is not expr:
            return self.emit(plain, flows)
        if isinstance(expr, Reduce) and expr.op in ("amax", PLACE):
            return self._sought(expr)
        expr = self._contracted(expr)
        if self._short(expr):
            return self.emit(written_out(self.spec, expr), flows)
        atom = Builder.emit(self, expr, flows)
        return self.tape.add("max", (atom, 0.0), Kind.FLOAT) if self._square(expr) else atom

    def sym(self, expr: Expr) -> Any:
        """Lower to SymPy over atoms."""
        if not _of_channels(expr) or not expr.free >= self.sides:
            return Builder.sym(self, expr)
        entry = self._entry(expr, self.carries_gradient(expr))
        if entry is not None:
            return self.symbol(self.widened(entry))
        plain = simpler(expr, self.carries_gradient(expr))
        if plain is not expr:
            return self.sym(plain)
        expr = self._contracted(expr)
        if self._short(expr):
            return self.sym(written_out(self.spec, expr))
        if isinstance(expr, Contract) and self._bent(expr):
            return self._total(expr, True)
        found = Builder.sym(self, expr)
        return symbolic.apply("max", [found, sp.Integer(0)]) if self._square(expr) else found

    def _entry(self, expr: Reduce | Contract | Normalize, flows: bool) -> Atom | None:
        """What a pair looks up of what the host reduces over channels; None if that is no table."""
        try:
            return self.look_up(expr, flows) if isinstance(expr, Reduce) else None
        except Unsupported:
            return None

    def _counted(self, expr: Reduce) -> Atom:
        """Whether a condition on a channel holds for any, or for all: a count of the channels
        where it does, or does not, as a sum of products of what either token decides."""
        body = expr.body if expr.op == "any" else Apply("not", (expr.body,), kind=Kind.BOOL)
        parts = [*conjuncts(body), *([] if expr.where is None else conjuncts(expr.where))]
        first, *rest = (Apply("where", (x, ONE, ZERO), kind=Kind.FLOAT) for x in parts)
        count = self.emit(Contract(expr.axes, first, _product([*rest] or [ONE]), kind=Kind.FLOAT))
        some = "gt" if expr.op == "any" else "eq"
        return self.tape.add(some, (count, 0.0), Kind.BOOL)

    def _short(self, expr: Expr) -> TypeGuard[Contract | Reduce]:
        """Whether a sum is over so few channels that no product of tiles pays, or a product over
        few enough."""
        if isinstance(expr, Reduce) and expr.op == "prod":
            if not few(self.spec, expr.axes):
                raise Unsupported("a product over the channels of a pair, which may be many")
            return True
        if not isinstance(expr, Contract) or not few(self.spec, expr.axes, SHORT):
            return False
        return any(side.free >= self.sides for side in (expr.left, expr.right))

    def _bent(self, expr: Contract) -> bool:
        """Whether a sum has several terms of which none is a product of tiles: one loop does."""
        terms = [(*factors_in(x.left), *factors_in(x.right)) for _, x in products(expr, self.sides)]
        functions = (any(isinstance(x, Apply) and x.free >= self.sides for x in t) for t in terms)
        return len(terms) > 1 and all(functions)

    def _square(self, expr: Expr) -> bool:
        """Whether a sum of squares will be multiplied out, after which it may lie below 0."""
        if not isinstance(expr, Contract) or expr.left != expr.right:
            return False
        return expr.free >= self.sides and len(list(products(expr, self.sides))) > 1

    def _contracted(self, expr: Expr) -> Expr:
        """A pair's sum over a channel as one of products, so that it can be multiplied out."""
        if not isinstance(expr, Reduce) or expr.op != "sum" or not expr.free >= self.sides:
            return expr
        parts = factors_of(expr.body, self.sides)
        inner = [x for x in parts if isinstance(x, Contract) and x.free >= self.sides]
        if len(inner) == 1:  # which becomes one sum with this one
            others = times([x for x in parts if x is not inner[0]] or [ONE])
            if expr.where is not None:
                others = apply("where", expr.where, others, ZERO)
            return Contract(expr.axes, others, inner[0], kind=Kind.FLOAT, span=expr.span)
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
            total = self._total(expr, flows)
        atom = self.printed(total)
        assert isinstance(atom, str)
        return atom

    def term(self, expr: Contract) -> Any:
        """One of `products` in SymPy: a sum over channels has gradients to what its terms read."""
        if not expr.free >= self.sides:
            return Builder.term(self, expr)
        try:
            return self.symbol(Builder.dot(self, expr, flows=True))
        except Unsupported:
            return self._total(expr, True)

    def _total(self, expr: Reduce | Contract, flows: bool) -> Any:
        """A sum over channels, what is the same for all of them apart; in SymPy."""
        lower = self.sym if flows else lambda x: self.symbol(self.widened(self.emit(x)))
        many = [axis for axis in expr.axes if not few(self.spec, (axis,))]
        nested = self._nested(expr)
        if len(many) > 1 or (many and nested):
            raise Unsupported("a sum over channels inside a sum over channels")
        if nested or len(expr.axes) > 1:
            return lower(written_out(self.spec, expr))
        [channel] = expr.axes
        parts, where = factors(expr)
        apart = [x for x in parts if channel not in x.free]
        rest = times([x for x in parts if channel in x.free] or [ONE])
        if where is not None:
            rest = apply("where", where, rest, ZERO)
        found = self._sum_over(channel, rest, flows)
        return sp.Mul(found, *map(lower, apart))

    def _nested(self, expr: Reduce | Contract) -> bool:
        """Whether the terms of a sum hold what a loop over its channels cannot compute."""
        inside = (x for part in children(expr) for x in walk(part))
        return any(
            _of_channels(x)
            and x.free >= self.sides | {a}
            and a not in x.axes
            and not few(self.spec, x.axes)
            for x in inside
            for a in expr.axes
        )

    def _sought(self, expr: Reduce) -> Atom:
        """The largest of a pair's numbers over a channel, or its place."""
        if expr.kind is expr.body.kind is Kind.INT:  # no float has all integers
            if expr.op == "amax" and few(self.spec, expr.axes):
                return self.emit(written_out(self.spec, expr))
            raise Unsupported("the largest of many integers over a channel of a pair")
        [channel] = expr.axes
        body, where = expr.body, expr.where or lit(True)
        if expr.op == "amax" and expr.where is not None:
            body, where = apply("where", where, body, LOWEST), lit(True)
        inside = self._inside(channel)
        value, keep = inside.widened(inside.emit(body)), inside.emit(where)
        op: OneOf["amax", "place"] = "amax" if expr.op == "amax" else "place"
        return self._loop(inside, (channel, body, where, op), value, op=op, where=keep)

    def _sum_over(self, channel: str, term: Expr, flows: bool) -> Any:
        """The sum of `term` over a channel, in SymPy; shared with one that a gradient reaches."""
        for key in ((channel, term, True), (channel, term, flows)):
            if key in self.sums:
                return self._totals[key]
        key = channel, term, flows
        inside = self._inside(channel)
        whole = inside.sym(term) if flows else self.symbol(inside.widened(inside.emit(term)))
        slopes = symbolic.derivatives(whole, [v.name for v in inside.leaves if v.grad])
        gradients = tuple(Gradient(n, inside.printed(slope)) for n, slope in slopes.items())
        value, total, beside = inside.printed(whole), [], []
        for number, found in inside.numbers.items():
            slope = inside.printed(sp.diff(whole, sp.Symbol(number)))
            if slope != 0.0:
                name = self.tape.declare(self._another(), Kind.FLOAT, "ij")
                beside.append((name, slope))
                total += [found, sp.Symbol(name)]
        name = sp.Symbol(self._loop(inside, key, value, gradients, beside=tuple(beside)))
        self._totals[key] = symbolic.Total(name, *total) if total else name
        return self._totals[key]

    def _inside(self, channel: str) -> Inside:
        name = self._another()
        return Inside(
            self.spec, self.row, self.column, self.lanes, tape=Tape(prefix=f"{name}_"), outer=self,
            name=name, channel=channel,
        )  # fmt: skip

    def _another(self) -> str:
        self._named += 1
        return f"a{self._named - 1}"

    def _loop(
        self,
        inside: Inside,
        key: tuple[object, ...],
        value: Atom,
        gradients: tuple[Gradient, ...] = (),
        op: OneOf["sum", "amax", "place"] = "sum",
        where: Atom = True,
        beside: tuple[tuple[str, Atom], ...] = (),
    ) -> str:
        """The name of what a loop over a channel makes of terms."""
        if key not in self.sums:
            if not inside.leaves:  # which tells how many channels there are
                inside.leaf(index(inside.channel))
            found = ChannelSum(
                inside.name, inside.channel, tuple(inside.leaves), (), value, gradients, op, where,
                beside,
            )  # fmt: skip
            self.sums[key] = replace(found, ops=needed(inside.tape.ops, found.roots))
            self.tape.declare(found.name, Kind.INT if op == "place" else Kind.FLOAT, "ij")
        return self.sums[key].name


@dataclass(slots=True, kw_only=True)
class Inside(Builder):
    """Lowers what `outer` sums over `channel`. What depends on one token at most is an element of
    a vector that the host makes; what has neither channel nor gradient is computed outside, once a
    pair."""

    outer: TileBuilder
    name: str
    channel: str
    numbers: dict[str, Any] = field(default_factory=dict)

    def fresh(self, hint: str) -> str:
        """A name that stands for nothing else."""
        return self.outer.fresh(hint)

    def outside(self, expr: Expr, flows: bool = False) -> Atom | None:
        """The atom of what does not need the tile, or not the channel."""
        if isinstance(expr, Literal):
            return expr.value
        if isinstance(expr, Index) and expr.axis == self.channel:
            return self.tape.declare(CHANNEL, Kind.INT, "")
        if self.channel in expr.free:
            return None if expr.free >= self.sides else self.leaf(expr, flows)
        if not flows or not self.carries_gradient(expr):
            return self._declared(self.outer.emit(expr))
        found = self.outer.sym(expr)
        number = self._declared(self.outer.printed(found))
        if isinstance(number, str):
            self.numbers[number] = found
        return number

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
        made = self.outer.vectors
        if (expr, self.channel) not in made:
            hint = expr.name if isinstance(expr, Read) else f"z{len(made)}"
            made[expr, self.channel] = self.made(hint, expr, *dims)
        operand = made[expr, self.channel]
        self.leaves.append(Leaf(operand.name, role, operand, expr.kind, False))
        self.tape.declare(operand.name, expr.kind, "".join(map(self.called, token)))
        return self._reached(operand.name, flows)

    def pair(self, expr: Read, flows: bool = False) -> str:
        """A vector of a pair has no kernel."""
        raise Unsupported(f"`{expr.name}` of a pair inside a sum over channels")

    def emit(self, expr: Expr, flows: bool = False) -> Atom:
        """Lower to operations; what is reduced inside the sum is written out."""
        plain = self._plain(expr, False)
        return Builder.emit(self, expr, flows) if plain is expr else self.emit(plain, flows)

    def sym(self, expr: Expr) -> Any:
        """Lower to SymPy over atoms, the largest parts of one token as vectors."""
        found = self.outside(expr, flows=True)
        if found is not None:
            return self.symbol(self.widened(found))
        plain = self._plain(expr, self.carries_gradient(expr))
        return Builder.sym(self, expr) if plain is expr else self.sym(plain)

    def _plain(self, expr: Expr, flows: bool) -> Expr:
        """What a tile computes of a reduction or normaliser over another channel."""
        if not _of_channels(expr) or not expr.free >= self.sides | {self.channel}:
            return expr
        plain = simpler(expr, flows)
        if plain is not expr or not isinstance(expr, Reduce | Contract):
            return plain
        return written_out(self.spec, expr)


def _of_channels(expr: Expr) -> TypeGuard[Reduce | Contract | Normalize]:
    """Whether an expression runs over channels."""
    return isinstance(expr, Reduce | Contract | Normalize)


def _product(factors: list[Expr]) -> Expr:
    return factors[0] if len(factors) == 1 else Apply("mul", tuple(factors), kind=Kind.FLOAT)
