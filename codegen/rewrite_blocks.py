"""Reductions of pairs over the tokens of one block, as reductions over the places in a block.

`logsumexp(u, x[i, u], where=u // 8 == j // 8)` is a number of a query and a block. So it becomes a
definition over blocks c, read at j // 8, and in it a reduction over the places s = 0, ..., 7 of a
block, whose tokens 8 c + s the host lays out by block and place. The pass that computes it has
blocks for columns and every place written out. Where a block is too long for that, c counts lanes
of a pass over tokens, each of which visits its own block alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from attnspec.codegen.lower import differentiable
from attnspec.codegen.match import Match, Weight, pointwise
from attnspec.codegen.plan_types import Unsupported
from attnspec.codegen.rewrite import canonical, mask_at
from attnspec.codegen.terms import LOWEST, ONE, ZERO, negative
from attnspec.codegen.token_axes import base, ends, tokens
from attnspec.dsl.analysis.positions import coordinates, rebuild
from attnspec.dsl.analysis.tensors import tensors
from attnspec.dsl.ast import (
    Apply,
    Axis,
    Contract,
    Def,
    Expr,
    Index,
    Kind,
    Literal,
    Read,
    Reduce,
    Role,
    Spec,
    conjuncts,
    walk,
)
from attnspec.dsl.build import add, apply, conjunction, index, lit, mul, sub, substitute

LONGEST = 32  # places of a block that a pass writes out
MOST = 40  # tensors that such a pass may read of the places


@dataclass(frozen=True, slots=True)
class Block:
    """The tokens `run` of one block of `length`, the one that `at` says, where `rest` holds."""

    run: str
    length: int
    at: Expr
    rest: Expr | None


def one_block(spec: Spec, node: Reduce) -> Block | None:
    """What a reduction runs over if that is one block of tokens: one of an axis of blocks, or that
    of another token."""
    if len(node.axes) != 1 or node.where is None or not tokens(spec, frozenset(node.axes)):
        return None
    run = node.axes[0]
    parts = tuple(conjuncts(node.where))
    for place, part in enumerate(parts):
        if not isinstance(part, Apply) or part.op != "eq":
            continue
        for mine, other in (part.args, part.args[::-1]):
            length = _length(mine, run)
            if length and _numbers(spec, other, run, length):
                rest = conjunction(parts[:place] + parts[place + 1 :])
                return Block(run, length, other, rest)
    return None


def _length(expr: Expr, token: str) -> int:
    """n where `expr` is `token // n`, else 0."""
    match expr:
        case Apply(op="floordiv", args=(Index(axis=axis), Literal(value=int(length)))):
            return length if axis == token and length > 0 else 0
    return 0


def _numbers(spec: Spec, expr: Expr, run: str, length: int) -> bool:
    """Whether `expr` is a block of `length` of those tokens that `run` runs over."""
    if not isinstance(expr, Index):
        others = [a for a in expr.free if a != run and base(spec, a) == base(spec, run)]
        return any(_length(expr, other) == length for other in others)
    axis = spec.axis(expr.axis)
    return (axis.role, axis.base, axis.size) == (Role.BLOCK, base(spec, run), lit(length))


def is_place(spec: Spec, axis: str) -> bool:
    """Whether an axis counts the places in a block."""
    found = spec.axis(axis)
    return found.role is Role.CHANNEL and found.base is not None


# The spec


def with_blocks(spec: Spec) -> Spec:
    """`spec` with every reduction of pairs over one block as one over the places of a block; where
    that is not possible it stays."""
    made = _Blocks(spec)
    for found in spec.defs:
        expr = made.visit(found.expr, found.name)
        defs = (replace(d, expr=expr) if d.name == found.name else d for d in made.spec.defs)
        made.spec = replace(made.spec, defs=tuple(defs))
    output = None if spec.output is None else made.visit(spec.output, "output")
    returns = tuple(replace(r, expr=made.visit(r.expr, r.name)) for r in spec.returns)
    return replace(made.spec, output=output, returns=returns)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Blocks of `length` of the tokens `run`, counted by `axis`, and the places in one, `place`;
    `other` is the token whose block `axis` stands for, if any."""

    run: str
    length: int
    axis: str
    place: str
    other: str

    @property
    def token(self) -> Expr:
        """The token at a place of a block, which may not be there."""
        return add(mul(index(self.axis), lit(self.length)), index(self.place))


def _numbered(expr: Expr, layout: _Layout) -> Expr:
    """`expr` with the block of the other token by its number; no more of that token may matter."""
    if layout.other not in expr.free:
        return expr
    if _length(expr, layout.other) == layout.length:
        return index(layout.axis)
    if isinstance(expr, Index):
        raise Unsupported("a reduction over the block of a token of what depends on it")
    return rebuild(expr, lambda part: _numbered(part, layout))


@dataclass(slots=True)
class _Blocks:
    """Adds axes and definitions to `spec`."""

    spec: Spec
    _names: dict[tuple[Expr, str], str] = field(default_factory=dict)

    def visit(self, expr: Expr, name: str) -> Expr:
        """`expr`, a part of the definition `name`, over places."""
        expr = rebuild(expr, lambda part: self.visit(part, name))
        block = one_block(self.spec, expr) if isinstance(expr, Reduce) else None
        if block is None or not isinstance(expr, Reduce):
            return expr
        before, names = self.spec, dict(self._names)
        try:
            return self._reduced(expr, block, name)
        except (Unsupported, ValueError):
            self.spec, self._names = before, names
            return expr

    def _reduced(self, node: Reduce, block: Block, name: str) -> Expr:
        sides = tokens(self.spec, node.free | {block.run}) - block.at.free
        long = block.length > LONGEST
        if len(sides) != 2 or (long and isinstance(block.at, Index)):  # a pass of its own kind
            raise Unsupported("a reduction over one block that no pass computes")
        counted = replace(node, op="sum", body=ONE, kind=Kind.FLOAT)
        match node.op:
            case "sum" | "amax" | "amin" | "logsumexp":
                return self._number(node, block, name)
            case "mean":
                total = self._number(replace(node, op="sum"), block, name)
                return apply("div", total, apply("max", self._number(counted, block, name), ONE))
            case "any" | "all" as op:
                ones = (ONE, ZERO) if op == "any" else (ZERO, ONE)
                one = apply("where", node.body, *ones)
                total = self._number(replace(counted, body=one), block, name)
                return apply("gt" if op == "any" else "eq", total, ZERO)
        raise Unsupported(f"a pairwise {node.op} over a block")

    def _number(self, node: Reduce, block: Block, name: str) -> Expr:
        """A number of a row and a block."""
        layout = self._layout(block)
        before, names = self.spec, dict(self._names)
        whole = None if block.length > LONGEST else self._written(node, block, layout)
        if whole is None or self._read(whole, layout) * block.length > MOST:
            if isinstance(block.at, Index):
                raise Unsupported("a reduction over one long block")
            self.spec, self._names = before, names
            whole = self._swept(node, block, layout)
        if isinstance(block.at, Index):
            return whole
        axes = (*self._order(whole.free - {layout.axis}), layout.axis)
        made = self._define(f"{name}_blocks", axes, whole)
        return Read(made, (*map(index, axes[:-1]), block.at), kind=node.kind, span=node.span)

    def _read(self, whole: Reduce, layout: _Layout) -> int:
        """How many tensors of a place are read."""
        return len(
            {n for n in walk(whole) if isinstance(n, Read) and index(layout.place) in n.index}
        )

    def _swept(self, node: Reduce, block: Block, layout: _Layout) -> Reduce:
        """A reduction over the tokens of a block, for each of which a pass sweeps its own."""
        number = apply("floordiv", index(layout.run), lit(layout.length))
        parts: list[Expr] = [apply("eq", number, index(layout.axis))]
        parts += [] if block.rest is None else [_numbered(block.rest, layout)]
        parts += [] if node.mask is None else [mask_at(self.spec, node.mask)]
        where = conjunction(tuple(parts))
        return replace(node, body=_numbered(node.body, layout), where=where, mask=None)

    def _written(self, node: Reduce, block: Block, layout: _Layout) -> Reduce:
        """A reduction over the places of a block."""
        parts = [canonical(self.spec, node.body, node.mask)]
        parts += [] if block.rest is None else [canonical(self.spec, block.rest)]
        if node.mask is not None and self.spec.mask is not None:
            parts.append(mask_at(self.spec, node.mask))
        parts = [_numbered(coordinates(x, self.spec), layout) for x in parts]
        body, *conditions = (self._at(x, layout) for x in parts)
        first, last = ends(self.spec, layout.run)
        there = (apply("ge", layout.token, first), apply("le", layout.token, last))
        where = apply("and", *there, *conditions)
        return Reduce(node.op, (layout.place,), body, where, kind=node.kind, span=node.span)

    def _at(self, expr: Expr, layout: _Layout) -> Expr:
        """`expr` at the places of a block."""
        if layout.run not in expr.free:
            return expr
        if isinstance(expr, Index):
            return layout.token
        if tokens(self.spec, expr.free) == {layout.run} and tensors(self.spec, expr):
            return self._laid_out(expr, layout)
        if not isinstance(expr, Apply | Contract | Read | Reduce) or getattr(expr, "mask", None):
            raise Unsupported(f"a {type(expr).__name__.lower()} over a block")
        return rebuild(expr, lambda part: self._at(part, layout))

    def _laid_out(self, expr: Expr, layout: _Layout) -> Expr:
        """What belongs to the tokens alone, by block and place."""
        if (expr, layout.axis) not in self._names:
            found = expr if isinstance(expr, Read) and index(layout.run) in expr.index else None
            decl = None if found is None else self.spec.decl(found.name)
            if found is None or (decl is not None and decl.paired):
                axes = self._order(expr.free)
                name = self._define("x", axes, expr)
                found = Read(name, tuple(map(index, axes)), kind=expr.kind)
            first, last = ends(self.spec, layout.run)
            read = substitute(found, {layout.run: apply("clamp", layout.token, first, last)})
            name = self._define(f"{found.name}_blocks", self._order(read.free), read)
            self._names[expr, layout.axis] = name
        found_at = self.spec.definition(self._names[expr, layout.axis])
        assert found_at is not None
        return Read(found_at.name, tuple(map(index, found_at.axes)), kind=expr.kind)

    def _layout(self, block: Block) -> _Layout:
        if isinstance(block.at, Index):
            axis, other = block.at.axis, ""
        else:
            over = base(self.spec, block.run)
            axis = f"{over}.{block.length}"
            self._axis(Axis(axis, Role.BLOCK, size=lit(block.length), base=over))
            (other,) = block.at.free
        place = f"{axis}.place"
        self._axis(Axis(place, Role.CHANNEL, size=lit(block.length), base=axis))
        return _Layout(block.run, block.length, axis, place, other)

    def _axis(self, axis: Axis) -> None:
        if axis not in self.spec.axes:
            self.spec = replace(self.spec, axes=(*self.spec.axes, axis))

    def _define(self, hint: str, axes: tuple[str, ...], expr: Expr) -> str:
        """The name of a new definition."""
        spec, name, k = self.spec, hint, 1
        while spec.definition(name) or spec.decl(name) or spec.state(name):
            k += 1
            name = f"{hint}_{k}"
        self.spec = replace(spec, defs=(*spec.defs, Def(name, axes, expr)))
        return name

    def _order(self, free: frozenset[str]) -> tuple[str, ...]:
        """Batch, head, tokens, blocks and places in the order of a definition's axes."""
        names = [a.name for a in self.spec.axes]
        last = (Role.CHANNEL, Role.CONCAT)

        def key(axis: str) -> tuple[bool, bool, int]:
            channel = self.spec.axis(axis).role in last
            return channel, channel and not is_place(self.spec, axis), names.index(axis)

        return tuple(sorted(free, key=key))


# The pass


def match_block(spec: Spec, node: Reduce) -> Match:
    """The parts of a reduction of pairs over the places of a block: a map with blocks for columns,
    each place written out."""
    (place,) = node.axes
    axis, rows = spec.axis(place), tokens(spec, node.free)
    assert axis.base is not None
    assert isinstance(axis.size, Literal)
    if len(rows) != 1 or node.free - rows - {"b", "h", axis.base}:
        raise Unsupported("a reduction over a block for more than a row")
    if node.kind is not Kind.FLOAT:
        raise Unsupported(f"a pairwise {node.op} of {node.kind.value} values")
    (row,) = rows
    terms = list(_terms(node, place, int(axis.size.value)))
    score = WRITTEN[node.op](terms, differentiable(spec, node.body))
    pointwise(spec, score, row, axis.base)
    return Match(node, "map", row, axis.base, (Weight(False, score),))


def _terms(node: Reduce, place: str, count: int) -> Iterator[tuple[Expr, Expr]]:
    """Of each place whether it takes part, and its number."""
    assert node.where is not None
    for n in range(count):
        yield substitute(node.where, {place: lit(n)}), substitute(node.body, {place: lit(n)})


_Terms: TypeAlias = "list[tuple[Expr, Expr]]"


def _kept(there: Expr, x: Expr, otherwise: Expr) -> Expr:
    return x if there == lit(True) else apply("where", there, x, otherwise)


def _sum(terms: _Terms, _: bool) -> Expr:
    return apply("add", *(_kept(there, x, ZERO) for there, x in terms))


def _greatest(terms: _Terms, flows: bool) -> Expr:
    """The greatest number; the first of equal ones gets a gradient, if that `flows`."""
    values = [_kept(there, x, LOWEST) for there, x in terms]
    top = apply("max", *values)
    if not flows:
        return top
    top = apply("stopgrad", top)
    first: Expr = lit(-1)
    for n, value in reversed(list(enumerate(values))):
        first = apply("where", apply("eq", value, top), lit(n), first)
    chosen = (
        apply("where", apply("eq", first, lit(n)), value, ZERO) for n, value in enumerate(values)
    )
    nan = apply("lt", first, lit(0))
    return apply("where", nan, top, apply("add", *chosen))


def _least(terms: _Terms, flows: bool) -> Expr:
    return negative(_greatest([(there, negative(x)) for there, x in terms], flows))


def _log_sum_exp(terms: _Terms, _: bool) -> Expr:
    """The logarithm of a sum of powers of e, none of which is more than 1: no gradient where
    nothing takes part."""
    values = [_kept(there, x, LOWEST) for there, x in terms]
    top = apply("stopgrad", apply("max", *values))
    none = apply("eq", top, LOWEST)
    least = apply("where", none, ZERO, top)
    total = apply("add", *(apply("exp", sub(x, least)) for x in values))
    return apply("where", none, LOWEST, add(least, apply("log", total)))


WRITTEN: Mapping[str, Callable[[_Terms, bool], Expr]] = {
    "sum": _sum,
    "amax": _greatest,
    "amin": _least,
    "logsumexp": _log_sum_exp,
}
