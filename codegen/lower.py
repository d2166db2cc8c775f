"""Lowering of pairwise expressions: dot products, leaves of one token, operations on tiles."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import sympy as sp

from attnspec.codegen.arithmetic import Arithmetic
from attnspec.codegen.keep import alike, choice
from attnspec.codegen.lookups import Lookup, table
from attnspec.codegen.plan_types import (
    Choice,
    Dot,
    Leaf,
    Operand,
    Role,
    Scalar,
    Unsupported,
)
from attnspec.codegen.terms import ONE, factors_in, times
from attnspec.codegen.tile import Atom, needed
from attnspec.codegen.token_axes import base, tokens
from attnspec.dsl.analysis import symbolic
from attnspec.dsl.analysis.positions import divides, nonnegative
from attnspec.dsl.analysis.products import products
from attnspec.dsl.analysis.runs import HI, LO
from attnspec.dsl.analysis.tensors import tensors
from attnspec.dsl.ast import (
    COMPARISONS,
    LOGIC,
    Apply,
    Contract,
    Expr,
    Form,
    Index,
    Kind,
    Literal,
    Random,
    Read,
    Reduce,
    Size,
    Spec,
    children,
    walk,
)

INT = Kind.INT
HOSTED = frozenset({"logaddexp"})  # functions that only the host has
ORIGIN = "origin"  # the first position of a program's own tile, in 32 bits


@dataclass(slots=True)
class Builder(Arithmetic):
    """Collects leaves, scalars and operations of expressions over `row` and `column`.

    Kernels call the two `i` and `j`, and take an index of each of `lanes` with one of `h` for a
    head. `named` are quotients and remainders that have names. `listed` are expressions of one
    token that the host makes in any case, for its lists of tiles; `choices` says which others it
    makes, `settled` what of them is computed in the tile.
    """

    spec: Spec
    row: str = "i"
    column: str = "j"
    lanes: tuple[str, ...] = ()
    listed: frozenset[Expr] = frozenset()
    settled: set[Expr] = field(default_factory=set)
    named: dict[Expr, str] = field(default_factory=dict)
    choices: dict[Expr, Choice] = field(default_factory=dict)
    dots: list[Dot] = field(default_factory=list)
    flowing: set[str] = field(default_factory=set)  # the dots that a gradient reaches
    leaves: list[Leaf] = field(default_factory=list)
    scalars: list[Scalar] = field(default_factory=list)
    operands: dict[Expr, Operand] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)
    _places: set[str] = field(default_factory=set)
    _leaf_of: dict[tuple[Role, Expr], str] = field(default_factory=dict)
    _scalar_of: dict[Expr, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, axes in (("b", ""), ("h", ""), ("i", "i"), ("j", "j")):
            self.tape.declare(name, INT, axes)
        self.end(LO, INT, "")
        self.end(HI, INT, "")
        self.end(ORIGIN, INT, "")

    # names and host values

    def fresh(self, hint: str) -> str:
        name, k = hint, 1
        while name in self._names:
            k += 1
            name = f"{hint}_{k}"
        self._names.add(name)
        return name

    def end(self, name: str, kind: Kind, axes: str) -> None:
        """Declare what stands for a tile's extreme value or position in what is emitted next."""
        self._places.add(self.tape.declare(name, kind, axes))

    @property
    def sides(self) -> frozenset[str]:
        """Row and column axis."""
        return frozenset({self.row, self.column})

    def called(self, axis: str) -> str:
        """What kernels call an axis."""
        return {self.row: "i", self.column: "j"}.get(axis, axis)

    def made(self, hint: str, expr: Expr, *axes: str, joined: tuple[str, ...] = ()) -> Operand:
        """A new operand over `axes`, as the spec calls them, and over those `joined` in one."""
        tokens = tuple((self.called(a), a) for a in axes if a in self.sides and a != self.called(a))
        lanes = self.lanes if "h" in axes else ()
        dims = (*map(self.called, axes), *(["*".join(joined)] if joined else []))
        return Operand(self.fresh(f"u_{hint}"), expr, dims, tokens, lanes, joined)

    def operand(self, expr: Expr, axes: tuple[str, ...], hint: str) -> Operand:
        if expr not in self.operands:
            read = expr.name if isinstance(expr, Read) else hint
            channels = axes[3:]
            joined = channels if len(channels) > 1 else ()
            self.operands[expr] = self.made(read, expr, *axes[: 4 - bool(joined)], joined=joined)
        return self.operands[expr]

    def scalar(self, expr: Expr) -> Atom:
        """A number of the call."""
        if isinstance(expr, Literal):
            return expr.value
        if expr not in self._scalar_of:
            hint = expr.name if isinstance(expr, Read) else f"c{len(self.scalars)}"
            name = self.fresh(f"u_{hint}" if isinstance(expr, Read) else hint)
            kind = INT if expr.kind is Kind.BOOL else expr.kind  # kernels take no bool
            self._scalar_of[expr] = self.tape.declare(name, kind, "")
            self.scalars.append(Scalar(name, expr, kind))
            if kind is not expr.kind:
                self._scalar_of[expr] = self.tape.add("ne", (name, 0), Kind.BOOL)
        return self._scalar_of[expr]

    def leaf(self, expr: Expr, flows: bool = False) -> str:
        """A value of at most one token, made by the host and read by row, column or head; a
        gradient `flows` to it or not."""
        token = next((t for t in (self.row, self.column) if t in expr.free), "")
        role: Role = "head" if not token else "row" if token == self.row else "column"
        if (role, expr) not in self._leaf_of:
            dims = ("b", "h", token) if token else ("b", "h")
            extra = expr.free - {*dims, *self.lanes}
            if extra:
                raise Unsupported(f"a pairwise use of a vector over {', '.join(sorted(extra))}")
            hint = expr.name if isinstance(expr, Read) else f"{role}{len(self.leaves)}"
            operand = self.made(hint, expr, *dims)
            self.leaves.append(Leaf(operand.name, role, operand, expr.kind, False))
            axes = self.called(token)
            self._leaf_of[role, expr] = self.tape.declare(operand.name, expr.kind, axes)
        return self._reached(self._leaf_of[role, expr], flows)

    def _reached(self, name: str, flows: bool) -> str:
        """Note that a gradient flows to the leaf `name`, if it can; gives the name."""
        for place, leaf in enumerate(self.leaves):
            if flows and leaf.name == name and self.carries_gradient(leaf.operand.expr):
                self.leaves[place] = replace(leaf, grad=True)
        return name

    def pair(self, expr: Read, flows: bool = False) -> str:
        """A tensor read at both tokens, or anything looked up at an index that depends on both."""
        decl = self.spec.decl(expr.name)
        at = [x.axis for x in expr.index if isinstance(x, Index)]
        if decl is None or len(at) != len(decl.axes) or not self.sides <= set(at):
            return self.look_up(expr, flows)
        if not self._whole(decl.axes, at) or set(at) - {"b", "h"} != self.sides:
            return self.look_up(expr, flows)
        if ("pair", expr) not in self._leaf_of:
            operand = self.made(decl.name, expr, *at)
            self._leaf_of["pair", expr] = self._looked_up(operand, "pair")
        return self._reached(self._leaf_of["pair", expr], flows)

    def _whole(self, axes: tuple[str, ...], at: list[str]) -> bool:
        """Whether variables take every index of the axes of a tensor; a token's may be those of
        the other side."""
        runs = [tokens(self.spec, frozenset({a})) for a in axes]
        return all(
            bool(tokens(self.spec, frozenset({x}))) if run else x == axis
            for axis, run, x in zip(axes, runs, at, strict=True)
        )

    def look_up(self, expr: Expr, flows: bool = False) -> str:
        """A value that the host computes for one token at most and for every index it is read at
        that depends on both tokens."""
        if ("table", expr) in self._leaf_of:
            return self._reached(self._leaf_of["table", expr], flows)
        found = table(self.spec, expr, self.row, self.column)
        role: Role = "table"
        if found.token:
            role = "row_table" if found.token == self.row else "column_table"
        flat = self.flat(found.places)
        apart = bool({"h", *self.lanes} & found.table.free) and bool(self.lanes)
        lead = [a for a in ("b", "h") if found.token or apart or a in found.table.free]
        tokens = [found.token] if found.token else []
        hint = expr.name if isinstance(expr, Read) else role
        operand = self.made(hint, found.table, *lead, *tokens, *(axis for axis, _ in found.places))
        self._leaf_of["table", expr] = self._looked_up(operand, role, flat, found)
        return self._reached(self._leaf_of["table", expr], flows)

    def flat(self, places: tuple[tuple[str, Expr], ...]) -> Atom:
        """The index of an entry of a table, all its axes in one."""
        (_, first), *others = places
        flat = self.emit(first)
        for axis, at in others:
            flat = self.tape.add("mul", (flat, self.scalar(Size(axis, kind=INT))), INT)
            flat = self.tape.add("add", (flat, self.emit(at)), INT)
        return flat

    def _looked_up(
        self, operand: Operand, role: Role, flat: Atom | None = None, found: Lookup | None = None
    ) -> str:
        kind, name = operand.expr.kind, f"{operand.name}_ij"
        ends = None if found is None else found.repeated
        repeated = None if ends is None else tuple(map(self.emit, ends))
        self.leaves.append(Leaf(name, role, operand, kind, False, flat, repeated))
        if found is not None and flat is not None:
            self.tape.declare(operand.name, kind, self.called(found.token))
            load = {"row_table": "load_row", "column_table": "load_column"}.get(role, "load")
            self.tape.add(load, (operand.name, flat), kind, name)
        return self.tape.declare(name, kind, "ij")

    def dot(self, expr: Contract, flows: bool = False) -> str:
        row, column = self.row, self.column
        expr = _flat(expr, self.sides)
        left, right = _by_side(expr, row, column)
        if column in left.free or row in right.free:
            return self.look_up(expr, flows)
        axes = tuple(a for a in expr.axes if a in left.free & right.free)
        left = _summed(left, [a for a in expr.axes if a not in right.free])
        right = _summed(right, [a for a in expr.axes if a in right.free and a not in axes])
        if not axes or {"b", "h"} & set(axes):
            raise Unsupported(f"a dot product over {', '.join(axes) or 'nothing'}")
        known = {"b", "h", *self.lanes, *axes}
        if left.free - known - {row} or right.free - known - {column}:
            raise Unsupported("a dot product of matrices")
        dot = Dot(
            f"s{len(self.dots)}",
            self.operand(left, ("b", "h", row, *axes), f"x{len(self.dots)}"),
            self.operand(right, ("b", "h", column, *axes), f"y{len(self.dots)}"),
        )
        for other in self.dots:
            if (other.left, other.right) == (dot.left, dot.right):
                dot = other
        if dot not in self.dots:
            self.dots.append(dot)
            self.tape.declare(dot.name, Kind.FLOAT, "ij")
        self.flowing |= {dot.name} if flows else set()
        return dot.name

    # expressions

    def outside(self, expr: Expr, flows: bool = False) -> Atom | None:
        """The atom of what is not computed in the tile: a number of the call, or a leaf."""
        if isinstance(expr, Literal):
            return expr.value
        if isinstance(expr, Index) and self.lanes and expr.axis in ("h", *self.lanes):
            return self._lane(expr.axis)
        if isinstance(expr, Index) and expr.axis in self._places | {"b", "h"} | self.sides:
            return self.called(expr.axis)
        if expr.free & self._places or expr.free >= self.sides:
            return None
        if not tensors(self.spec, expr):
            if not expr.free:
                return self.scalar(expr)
            if not isinstance(expr, Reduce):  # a count of tokens is no arithmetic of a position
                return None
        return self.leaf(expr, flows) if self._kept(expr, flows) else None

    def _lane(self, axis: str) -> Atom:
        """An index of a lane, or of h, which kernels take together for a head, h last."""
        names = (*self.lanes, "h")
        place = names.index(axis)
        sizes = [Size(base(self.spec, a), kind=INT) for a in names[place:]]
        found, after = "h", sizes[1:]
        if after:
            count = after[0] if len(after) == 1 else Apply("mul", tuple(after), kind=INT)
            found = self.tape.add("floordiv_unsigned", (found, self.scalar(count)), INT)
        if place == 0:
            return found
        return self.tape.add("mod_unsigned", (found, self.scalar(sizes[0])), INT)

    def _kept(self, expr: Expr, flows: bool) -> bool:
        """Whether the host makes an expression of one token at most, which reads tensors."""
        if not isinstance(expr, Apply) or expr.op in HOSTED or not (flows or alike(expr)):
            return True
        if expr in self.settled:
            return False
        found = self.choices[expr] = self.choices.get(expr) or self._choice(expr, flows)
        if not found.kept:
            self.settled.update(walk(expr))
        return found.kept

    def _choice(self, expr: Expr, flows: bool) -> Choice:
        """What it would take to compute `expr` in the tile, and what to keep it."""
        trial = Builder(
            self.spec, self.row, self.column, self.lanes, self.listed, settled=set(walk(expr))
        )
        value = trial.sym(expr) if flows else trial.symbol(trial.emit(expr))
        names = [leaf.name for leaf in trial.leaves if leaf.grad]
        slopes = symbolic.derivatives(value, names).values()
        value, *rest = (trial.printed(x) for x in (value, *slopes))
        ops = needed(trial.tape.ops, [value, *rest])
        tokens = [trial.tape.class_of((slope,)) for slope in rest]
        return choice(expr, self.listed, ops, trial.leaves, tokens)

    def emit(self, expr: Expr, flows: bool = False) -> Atom:
        """Lower to operations; gives the atom of the value. A gradient `flows` to a leaf or not."""
        found = self.outside(expr, flows)
        if found is not None:
            return found
        match expr:
            case Contract():
                return self._emit_products(expr)
            case Read():
                return self.pair(expr, flows)
            case Apply():
                return self._emit_apply(expr)
            case Random():
                return self._emit_random(expr)
        raise Unsupported(f"a {type(expr).__name__.lower()} of a position")

    def product(self, expr: Contract, flows: bool = False) -> Atom:
        """One of `products`, which may belong to one token."""
        return self.dot(expr, flows) if expr.free >= self.sides else self.emit(expr, flows)

    def term(self, expr: Contract) -> Any:
        """One of `products` in SymPy, which a gradient reaches."""
        return self.symbol(self.product(expr, flows=True))

    def _emit_products(self, expr: Contract) -> Atom:
        total: Atom | None = None
        for sign, product in products(expr, self.sides):
            term = self.product(product)
            if total is not None:
                total = self.tape.add("add" if sign > 0 else "sub", (total, term), Kind.FLOAT)
            else:
                total = term if sign > 0 else self.tape.add("neg", (term,), Kind.FLOAT)
        assert total is not None
        return total

    def from_line(self, expr: Expr) -> None:
        """What is added next comes from the line of the spec where `expr` stands."""
        if expr.span.end > expr.span.start:
            line = self.spec.text.splitlines()[expr.span.line - 1]
            self.tape.note = line.partition("#")[0].strip()

    def _emit_random(self, expr: Random) -> Atom:
        heads = self.scalar(Size("h", kind=INT))
        head = self.emit(Index("h", kind=INT))
        sequence = self.tape.add("add", (self.tape.add("mul", ("b", heads), INT), head), INT)
        at = (self.called(expr.row), self.called(expr.column))
        return self.tape.add("random", (self.emit(expr.seed), sequence, *at), Kind.FLOAT)

    def _emit_apply(self, expr: Apply) -> Atom:
        op, args, kind = expr.op, expr.args, expr.kind
        floating = kind is Kind.FLOAT or (
            op in COMPARISONS and any(a.kind is Kind.FLOAT for a in args)
        )
        atoms = [self.emit(a) for a in args]
        self.from_line(expr)
        if floating:
            atoms = [self.widened(a) for a in atoms]
        if op in ("tempered", "tempered_slope"):  # has no spelling of its own
            return self.printed(symbolic.apply(op, [self.symbol(a) for a in atoms]))
        if op == "pow" and isinstance(atoms[1], int | float) and atoms[1] in range(1, 9):
            return self.repeated(atoms[0], int(atoms[1]), kind)
        name = ""
        if op in ("floordiv", "mod"):
            name = self.named.get(expr, "")
            if divides(args[1]) and all(nonnegative(a) for a in args):
                op = f"{op}_unsigned"
        if op in ("add", "mul", "min", "max", "and", "or"):
            total = atoms[0]
            for atom in atoms[1:]:
                total = self.tape.add(op, (total, atom), kind)
            return total
        return self.tape.add(op, tuple(atoms), kind, name)

    def sym(self, expr: Expr) -> Any:
        """Lower to SymPy over atoms; what carries no gradient becomes operations first."""
        if not self.carries_gradient(expr):
            return self.symbol(self.widened(self.emit(expr)))
        if isinstance(expr, Apply) and expr.op == "neg":  # a sign costs nothing in a sum
            return -self.sym(expr.args[0])
        found = self.outside(expr, flows=True)
        match expr:
            case _ if found is not None:
                return self.symbol(found)
            case Apply(op="where", args=(condition, yes, no)):
                chosen = self.symbol(self.emit(condition))
                return symbolic.Where(chosen, self.sym(yes), self.sym(no))
            case Apply(op=op, args=args) if op not in LOGIC | COMPARISONS:
                return symbolic.apply(op, [self.sym(a) for a in args])
            case Contract():
                parts = products(expr, self.sides)
                return sp.Add(*(sign * self.term(p) for sign, p in parts))
        return self.symbol(self.emit(expr, flows=True))

    def carries_gradient(self, expr: Expr) -> bool:
        return expr.kind is Kind.FLOAT and differentiable(self.spec, expr)


def _flat(expr: Contract, pair: frozenset[str]) -> Contract:
    """A sum of products of which one is itself a sum of products of a pair as one sum, if none of
    their indices is called alike."""
    factors = [*factors_in(expr.left), *factors_in(expr.right)]
    inner = [x for x in factors if isinstance(x, Contract) and x.free >= pair]
    if len(inner) != 1:
        return expr
    rest = [x for x in factors if x is not inner[0]]
    if set(inner[0].axes) & (set(expr.axes) | times([ONE, *rest]).free):
        return expr  # an index of the same name, but another one
    axes = (*expr.axes, *inner[0].axes)
    return replace(expr, axes=axes, left=times([*rest, inner[0].left]), right=inner[0].right)


def _by_side(expr: Contract, row: str, column: str) -> tuple[Expr, Expr]:
    """The factors of a row and of a column in a sum of products, as far as they are apart."""
    left, right = expr.left, expr.right
    if row in right.free or column in left.free:
        left, right = right, left
    if column not in left.free and row not in right.free:
        return left, right
    factors = [*factors_in(expr.left), *factors_in(expr.right)]
    mine = [x for x in factors if column not in x.free]
    others = [x for x in factors if column in x.free]
    if not mine or not others:
        return expr.left, expr.right
    return times(mine), times(others)


def _summed(side: Expr, axes: list[str]) -> Expr:
    """A side of a dot product, summed over axes that the other one does not have."""
    return Reduce("sum", tuple(axes), side, kind=Kind.FLOAT) if axes else side


def differentiable(spec: Spec, expr: Expr) -> bool:
    """Whether a gradient can flow from `expr` to a float tensor."""
    match expr:
        case Apply(op=("stopgrad" | "floor" | "ceil" | "sign")):
            return False
        case _ if expr.kind is not Kind.FLOAT:
            return False
        case Read(name=name):
            decl = spec.decl(name)
            if decl is not None:
                tensor = bool(decl.axes) or decl.form is Form.PARAM
                return decl.kind is Kind.FLOAT and tensor and decl.form is not Form.CONST
            found = spec.definition(name)
            return found is None or differentiable(spec, found.expr)
    return any(differentiable(spec, c) for c in children(expr) if c.kind is Kind.FLOAT)
