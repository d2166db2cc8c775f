"""Which of b, h, i, j each argument depends on where a pair reads it: where its gradient is summed.

A gradient is the sum over every pair that reads the element: what stands at `i` alone is complete
when the row is, what stands at `j` when the column is, and what stands at neither is summed from
one number for each tile, in order. Nobody adds to what another program writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from attnspec.dsl.analysis.fact import Fact
from attnspec.dsl.analysis.inlining import PAIR, inline
from attnspec.dsl.analysis.products import products
from attnspec.dsl.ast import (
    Apply,
    Contract,
    Expr,
    Form,
    Index,
    Kind,
    Normalize,
    Read,
    Reduce,
    Role,
    Rope,
    Spec,
    children,
    walk,
)
from attnspec.dsl.check_gradient import parts_with_gradient

_REDUCED = {
    "row": "in the row pass",
    "column": "in the column pass",
    "head": "from one partial sum a tile of queries",
    "row_table": "in the row pass, for each query and entry",
    "column_table": "in the column pass, for each key and entry",
    "table": "from the entries' own partial sums",
    "vectors": "from what each query's weights add up to by entry",
    "pair": "at its own pair",
}
_CHANNELS = (Role.CHANNEL, Role.CONCAT)
_LINEAR = ("add", "sub", "neg", "mul", "div")
_TABLES = {"i": "row_table", "j": "column_table", "": "table"}  # by the token of its rows


@dataclass(frozen=True, slots=True)
class Place:
    """Where one argument's gradient is complete, and the index variables it is read at."""

    name: str
    where: str
    axes: tuple[str, ...]


def describe(spec: Spec) -> Iterator[Fact]:
    """One fact for all arguments that pairs read."""
    found = places(spec)
    if not found:
        return
    sets: dict[tuple[str, ...], list[str]] = {}
    sums: dict[str, list[str]] = {}
    for place in found:
        sets.setdefault(place.axes, []).append(place.name)
        sums.setdefault(place.where, []).append(place.name)
    shown = [f"{', '.join(names)}: {', '.join(axes) or 'none'}" for axes, names in sets.items()]
    summed = [f"{', '.join(names)} {_REDUCED[where]}" for where, names in sums.items()]
    yield Fact(
        "index sets",
        "; ".join(shown),
        "where a pair reads it, it depends on these of b, h, i, j",
        f"a kernel sums the gradient of {'; '.join(summed)}: no atomics, bitwise repeatable",
    )


def places(spec: Spec) -> tuple[Place, ...]:
    """Every float argument that pairs read with a gradient, in the order of the call; none of a
    spec whose pairs have vectors, of which it is the plan's choice what is made as a whole."""
    walker = _Walk(spec)
    roots = [r.expr for r in spec.returns]
    if spec.output is not None:
        roots.insert(0, spec.output)
    written = [inline(spec, root) for root in roots]
    if any(walker.vectors(expr) for expr in written):
        return ()
    for expr in written:
        walker.visit(expr, within=False)
    order = tuple(_REDUCED)
    found = []
    for decl in spec.decls:
        for where in order:
            axes = walker.found.get((decl.name, where))
            if axes is not None:
                shown = tuple(a for a in ("b", "h", "i", "j") if a in axes)
                found.append(Place(decl.name, where, shown))
    return tuple(found)


@dataclass(slots=True)
class _Walk:
    spec: Spec
    found: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    _paired: dict[int, bool] = field(default_factory=dict)
    _seen: set[tuple[int, bool, str]] = field(default_factory=set)
    _alive: list[Expr] = field(default_factory=list)
    _written: dict[int, Expr] = field(default_factory=dict)

    def visit(self, expr: Expr, within: bool, where: str = "") -> None:
        """Descend to the greatest parts that no longer depend on a pair; all are summed `where`, if
        that is said."""
        if (id(expr), within, where) in self._seen:
            return
        self._seen.add((id(expr), within, where))
        self._alive.append(expr)
        if not self._holds_pair(expr):
            if not within:  # it may read what is summed over pairs
                for part in self._parts(expr):
                    self.visit(part, within=False)
                return
            # an operand is made as a whole; arithmetic on numbers is done for the pair
            if where or expr.free - PAIR - {"b", "h"} or not isinstance(expr, Apply):
                self._leaf(expr, where)
                return
        within = within or self._sides(expr) >= PAIR or self._masked(expr)
        if isinstance(expr, Contract) and expr.free >= PAIR:
            for _, product in products(expr):
                for side in (product.left, product.right):
                    self.visit(side, True, where or _looked_up(product))
            return
        if isinstance(expr, Read):
            self._at_pair(expr, where)
            made = self.spec.definition(expr.name)
            if made is not None and not set(made.axes) >= PAIR:
                tokens = frozenset(self._root(axis) for axis in made.axes) & PAIR
                where = where or _TABLES["".join(tokens)]
        for part in self._parts(expr):
            self.visit(part, within or self._sides(part) >= PAIR, where)

    def vectors(self, expr: Expr) -> bool:
        """Whether pairs have numbers for every channel, or are mixed across heads: a normaliser
        over tokens of what has channels, a function of what has both, a rotation by where a pair
        stands, a sum over heads."""
        seen, stack = set[int](), [expr]
        while stack:
            node = stack.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            self._alive.append(node)
            pair = self._sides(node) >= PAIR
            match node:
                case Normalize(axes=axes, body=body) if {self._root(a) for a in axes} & PAIR:
                    if (pair or node.mask is not None) and self._has_channels(body):
                        return True
                case Reduce(axes=axes) | Contract(axes=axes) if pair:
                    if any(axis != "h" and self._root(axis) == "h" for axis in axes):
                        return True
                    if any(isinstance(x, Rope) and self._sides(x) >= PAIR for x in walk(node)):
                        return True
                    continue
                case Apply(op=op) if pair and op not in _LINEAR and self._has_channels(node):
                    return True
            if isinstance(node, Read):
                stack.extend(self._parts(node))
            stack.extend(children(node))
        return False

    def _has_channels(self, expr: Expr) -> bool:
        return any(self.spec.axis(self._root(axis)).role in _CHANNELS for axis in expr.free)

    def _parts(self, expr: Expr) -> Iterator[Expr]:
        """The parts of an expression that it learns through; definitions over pairs written out."""
        for part in parts_with_gradient(self.spec, expr):
            if not isinstance(expr, Read):
                yield part
                continue
            if id(part) not in self._written:
                self._written[id(part)] = inline(self.spec, part)
            yield self._written[id(part)]

    def _at_pair(self, read: Read, where: str) -> None:
        decl = self.spec.decl(read.name)
        if decl is None or not self._learns(read.name):
            return
        own = {place.axis for place in read.index if isinstance(place, Index)}
        channels = any(self.spec.axis(a).role in _CHANNELS for a in read.free)
        if not where:
            where = "pair" if own & set(decl.axes) >= PAIR else "vectors" if channels else "table"
        self._add(read.name, where, frozenset(a for a in decl.axes if a in ("b", "h", "i", "j")))

    def _leaf(self, expr: Expr, where: str) -> None:
        side = self._sides(expr) & PAIR
        if not where:
            where = "head" if not side else "row" if side == {"i"} else "column"
        stack, seen = [expr], set()
        while stack:
            node = stack.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if self._holds_pair(node):  # summed by a pass of its own
                self.visit(node, within=False)
                continue
            if isinstance(node, Read) and self._learns(node.name):
                decl = self.spec.decl(node.name)
                assert decl is not None
                own = side if set(decl.axes) & PAIR else frozenset[str]()
                self._add(node.name, where, own | (set(decl.axes) & {"b", "h"}))
            stack.extend(self._parts(node))

    def _add(self, name: str, where: str, axes: frozenset[str] | set[str]) -> None:
        self.found[name, where] = self.found.get((name, where), frozenset()) | frozenset(axes)

    def _learns(self, name: str) -> bool:
        decl = self.spec.decl(name)
        return (
            decl is not None
            and decl.kind is Kind.FLOAT
            and decl.form is not Form.CONST
            and (bool(decl.axes) or decl.form is Form.PARAM)
        )

    def _sides(self, expr: Expr) -> frozenset[str]:
        """The free token variables, second indices under the name of their axis."""
        return frozenset(self._root(axis) for axis in expr.free)

    def _root(self, axis: str) -> str:
        found = self.spec.axis(axis)
        return self._root(found.base) if found.role is Role.ALIAS and found.base else axis

    def _holds_pair(self, expr: Expr) -> bool:
        if id(expr) not in self._paired:
            pair = self._sides(expr) >= PAIR or self._masked(expr)
            self._paired[id(expr)] = pair or any(self._holds_pair(c) for c in children(expr))
        return self._paired[id(expr)]

    def _masked(self, expr: Expr) -> bool:
        """Whether it is a reduction over chosen pairs, be its body of one token alone."""
        if not isinstance(expr, Reduce):
            return False
        chosen = expr.where is not None and self._sides(expr.where) >= PAIR
        return chosen or expr.mask is not None


def _looked_up(product: Contract) -> str:
    """Where the gradient of a product is summed that pairs look up; empty where they compute it."""
    sides = (product.left, product.right)
    if not any(isinstance(n, Read) and n.free >= PAIR for side in sides for n in walk(side)):
        return ""
    owner = frozenset[str]().union(*map(_owner, sides))
    return _TABLES.get("".join(owner), "table")


def _owner(expr: Expr) -> frozenset[str]:
    """The tokens of what a looked up expression reads at a token alone."""
    if not expr.free >= PAIR:
        return expr.free & PAIR
    if isinstance(expr, Read):
        return frozenset()
    return frozenset[str]().union(*map(_owner, children(expr)))
