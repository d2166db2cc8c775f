"""Operations per score element, counted in the generated kernels themselves.

Score elements are the pairs of a tile. An expression is counted when its value has one number for
each of them, so that what is computed once a row, a column or a call costs nothing here; nor do
matrix products, which are counted by the shapes of their operands. Kernels have a loop over full
tiles and one over partial tiles, which makes `keep`.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

Shape = frozenset[str]

_SCALAR: Shape = frozenset()
_VECTOR: Shape = frozenset({"vector"})  # one number a row or a column, before it is laid out
_OPERAND: Shape = frozenset({"operand"})  # tokens by channels
_PAIR: Shape = frozenset({"rows", "columns"})

_BINARY = {
    ast.Add: "add",
    ast.Sub: "add",
    ast.Mult: "multiply",
    ast.Div: "divide",
    ast.FloorDiv: "divide",
    ast.Mod: "divide",
    ast.BitAnd: "and",
    ast.BitOr: "or",
}
_CALLS = {"where": "select", "maximum": "max", "larger": "max", "minimum": "min"}
_CALLS |= {"first_above": "compare", "to_float": "convert", "narrow": "convert"}
_CALLS |= {"load_pairs": "load", "look_up": "load", "store_pairs": "store"}
_CALLS |= {"set_entries": "store", "add_entries": "add", "narrow": "convert"}
_VECTORS = frozenset(
    {"arange", "places", "tokens", "tokens_of", "load_side", "load_channel", "point_side"}
)
_REDUCTIONS = {"sum": "add", "max": "max", "min": "min"}


@dataclass(frozen=True, slots=True)
class Cost:
    """Operations for each pair of a full and of a partial tile, by kind; `full` may be no loop."""

    full: dict[str, int]
    partial: dict[str, int]

    @property
    def usual(self) -> dict[str, int]:
        """What most tiles take."""
        return self.full or self.partial


def costs(source: str) -> dict[str, Cost]:
    """The costs of every kernel of a generated module, by name."""
    functions = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]
    return {f.name: _cost(f) for f in functions if any(map(_is_kernel, f.decorator_list))}


def shown(cost: dict[str, int]) -> str:
    """A cost in words, the total first."""
    return f"{sum(cost.values())}: {', '.join(f'{n} {kind}' for kind, n in cost.items())}"


def _cost(kernel: ast.FunctionDef) -> Cost:
    counter = _Counter()
    counter.block(kernel.body)
    full, partial = counter.found
    return Cost(dict(sorted(full.items())), dict(sorted(partial.items())))


@dataclass(slots=True)
class _Counter:
    """Shapes of the names so far; `found` are the counts of the two loops over tiles."""

    shapes: dict[str, Shape] = field(default_factory=dict)
    found: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    now: Counter[str] = field(default_factory=Counter)

    def block(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Assign(targets=[target], value=value):
                shape = self.shape(value)
                for name in _names(target):
                    self.shapes[name] = shape
            case ast.AugAssign(target=ast.Name(id=name), value=value):
                self.tally("add", self.shape(value) | self.shapes.get(name, _SCALAR))
            case ast.For(target=ast.Name(id="place"), body=body):
                self.loop(body)
            case ast.For(target=ast.Name(id="channel"), body=body):
                self.channel(body)
            case ast.For(body=body):  # over heads, or over the entries of a table
                self.block(body)
            case ast.While(body=body):  # once, whatever the number of sweeps
                self.block(body)
            case ast.If(test=ast.Name(id="AGAIN"), body=body):
                self.block(body)
            case ast.If(test=ast.BoolOp(values=[ast.UnaryOp(operand=ast.Name(id="AGAIN")), *_])):
                pass  # the loops again, where a value is not finite
            case ast.If(body=body, orelse=other):
                self.cheaper(body, other)
            case ast.Expr(value=value):
                self.shape(value)

    def loop(self, body: list[ast.stmt]) -> None:
        """The loop over the places of tiles."""
        made = {n for s in body if isinstance(s, ast.Assign) for t in s.targets for n in _names(t)}
        outside, self.now = self.now, Counter()
        self.block(body)
        self.found["keep" in made].update(self.now)
        self.now = outside

    def channel(self, body: list[ast.stmt]) -> None:
        """The loop over the channels of a sum: what one of them takes."""
        outside, self.now = self.now, Counter()
        self.block(body)
        outside.update({f"{kind} a channel": n for kind, n in self.now.items()})
        self.now = outside

    def cheaper(self, *branches: list[ast.stmt]) -> None:
        """What the call's dtype chooses between: the branch with fewer operations counts."""
        before, options = self.now, []
        for branch in branches:
            self.now = Counter()
            self.block(branch)
            options.append(self.now)
        self.now = before + min(options, key=lambda found: found.total())

    def tally(self, kind: str, shape: Shape) -> Shape:
        """Note an operation; gives the shape."""
        if shape >= _PAIR:
            self.now[kind] += 1
        return shape

    def shape(self, node: ast.expr) -> Shape:
        """The shape of an expression, its operations counted."""
        match node:
            case ast.Name(id=name):
                return self.shapes.get(name, _SCALAR)
            case ast.Subscript(value=value, slice=ast.Tuple(elts=[_, second])):
                if (shape := self.shape(value)) in (_SCALAR, _OPERAND):
                    return shape
                return frozenset({"rows"} if _is_none(second) else {"columns"})
            case ast.BinOp(left=left, op=op, right=right):
                shape = self.shape(left) | self.shape(right)
                zeros = _called(left) == "zeros" or _called(right) == "zeros"
                return shape if zeros else self.tally(_BINARY.get(type(op), "other"), shape)
            case ast.Compare(left=left, comparators=[right]):
                return self.tally("compare", self.shape(left) | self.shape(right))
            case ast.UnaryOp(operand=operand):
                return self.tally("add", self.shape(operand))
            case ast.Call():
                return self.call(node)
        return frozenset().union(*(self.shape(c) for c in _expressions(node)))

    def call(self, node: ast.Call) -> Shape:
        name = _called(node)
        if name in ("zeros", "full"):
            return _shape_of(node.args[0])
        if name in _VECTORS:
            return _OPERAND if any(_is_width(a) for a in node.args) else _VECTOR
        if name in ("load_tile", "load_rows", "load_tokens"):
            return _OPERAND
        if name == "to" and isinstance(node.func, ast.Attribute):
            return self.tally("convert", self.shape(node.func.value))
        of = [self.shape(a) for a in node.args]
        if name in ("dot", "weighted"):
            return of[-1]
        if name == "near":  # operands of 16 bits compute it once a column
            return of[0]
        if name in _REDUCTIONS and isinstance(node.func, ast.Attribute):
            self.tally(_REDUCTIONS[name], of[0])
            return _VECTOR
        shape = frozenset[str]().union(*of)
        return shape if name == "trans" else self.tally(_CALLS.get(name, name), shape)


def _is_kernel(decorator: ast.expr) -> bool:
    return "kernel" in _called(decorator)


def _names(target: ast.expr) -> Iterator[str]:
    yield from (n.id for n in ast.walk(target) if isinstance(n, ast.Name))


def _called(node: ast.expr) -> str:
    """The name of a called function, without its module; empty for anything else."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _expressions(node: ast.expr) -> Iterator[ast.expr]:
    yield from (c for c in ast.iter_child_nodes(node) if isinstance(c, ast.expr))


def _is_width(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id.startswith("W_")


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _shape_of(sizes: ast.expr) -> Shape:
    """The shape of a list of sizes: channels have widths, `W_d`."""
    names = [n.id for n in ast.walk(sizes) if isinstance(n, ast.Name)]
    if any(name.startswith("W_") for name in names):
        return _OPERAND
    return _PAIR if len(names) == 2 else _VECTOR if names else _SCALAR
