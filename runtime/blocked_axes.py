"""Which axes a computation in blocks may take apart: for `blocked`, of expressions alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from attnspec.dsl import ast
from attnspec.dsl.ast import Kind, Role
from attnspec.runtime.axes import find_axis, root, side
from attnspec.runtime.reference import factors

# Over several axes these are the same over one of them of what they are over the others, and so
# over several parts of an axis; a mean is so in its sum and its count.
PARTED = frozenset({"sum", "mean", "prod", "amax", "amin", "any", "all", "logsumexp"})


class Axes:
    """The axes of one call, and what needs all of an axis at once."""

    def __init__(self, spec: ast.Spec, sizes: Mapping[str, int], budget: int) -> None:
        """`sizes` of all axes; `budget` is how many numbers may stand in memory."""
        self.spec = spec
        self.sizes = sizes
        self.budget = budget
        self._inside: dict[int, frozenset[str]] = {}  # by the id of a node

    def tokens(self, axes: Iterable[str]) -> list[str]:
        """Those of `axes` that count tokens or their blocks."""
        return [a for a in sorted(axes) if self._counts_tokens(a)]

    def repeating(self, axes: Iterable[str]) -> set[str]:
        """Those at whose every index the same is computed: of tokens, heads, batches."""
        roles = (Role.BATCH, Role.HEAD)
        return {a for a in axes if self._counts_tokens(a) or self._role(a) in roles}

    def is_small(self, axes: Iterable[str]) -> bool:
        """Whether a value may stand whole: numbers a token, or few numbers at all."""
        numbers = math.prod(self.sizes[a] for a in {*axes, "b", "h"})
        return len(self.tokens(axes)) < 2 or numbers <= self.budget

    def wanted_whole(self, expr: ast.Expr) -> frozenset[str]:
        """The variables of `expr` at all of whose places something inside it is found at once.

        A rank, say, along an axis. A softmax is not: its entries follow from one number a row.
        """
        found = self._inside.get(id(expr))
        if found is None:
            found = self._inside[id(expr)] = self._wanted_whole(expr)
        return found

    def wanted_below(self, expr: ast.Expr) -> frozenset[str]:
        """As `wanted_whole`, for what `expr` is made of."""
        found = frozenset[str]().union(*map(self.wanted_whole, ast.children(expr)))
        mask = expr.mask if isinstance(expr, ast.Reduce | ast.Normalize) else None
        if mask is not None and self.spec.mask is not None:
            names = dict(zip(("i", "j"), mask, strict=True))
            found |= {names.get(a, a) for a in self.wanted_whole(self.spec.mask)}
        return found

    def _wanted_whole(self, expr: ast.Expr) -> frozenset[str]:
        below = self.wanted_below(expr)
        if isinstance(expr, ast.Read):
            return below | self._wanted_of_definition(expr)
        if isinstance(expr, ast.Normalize) and expr.op == "softmax":
            return below
        own = bound(expr)
        return below - own if self.is_small(expr.free) else (below - own) | (own & expr.free)

    def _wanted_of_definition(self, node: ast.Read) -> frozenset[str]:
        definition = self.spec.definition(node.name)
        if definition is None or self.is_small(definition.axes):
            return frozenset()
        index = dict(zip(definition.axes, node.index, strict=True))
        inside = self.wanted_whole(definition.expr)
        return frozenset[str]().union(*(index[a].free if a in index else {a} for a in inside))

    def _role(self, axis: str) -> Role:
        return find_axis(self.spec, root(self.spec, axis)).role

    def _counts_tokens(self, axis: str) -> bool:
        return side(self.spec, axis) is not None or self._role(axis) is Role.BLOCK


def bound(expr: ast.Expr) -> frozenset[str]:
    """The variables that a node runs over."""
    match expr:
        case ast.Contract(axes=axes) | ast.Reduce(axes=axes) | ast.Normalize(axes=axes):
            return frozenset(axes)
        case ast.Cumsum(axis=axis) | ast.Rank(axis=axis):
            return frozenset((axis,))
        case _:
            return frozenset()


def tensors(expr: ast.Expr) -> Iterator[frozenset[str]]:
    """The axes of every tensor that is made where something is computed along an axis."""
    match expr:
        case ast.Contract(left=left, right=right):
            yield from (expr.free, left.free, right.free)
        case ast.Reduce(body=body, where=where, mask=mask):
            sums = expr.kind is Kind.FLOAT and expr.op in ("sum", "mean")
            parts = [f.free for f in factors(body)] if sums else [body.free]
            keep = frozenset(mask or ()) | (where.free if where is not None else frozenset())
            most = max(parts, key=lambda axes: len(axes & keep))
            yield from (expr.free, *parts, most | keep)
        case ast.Normalize() | ast.Cumsum() | ast.Rank():
            yield expr.free


def nested(expr: ast.Reduce, axis: str) -> ast.Expr:
    """A reduction over several axes, that over `axis` last; a mean as the sum over the count."""
    if expr.op == "mean":
        total = replace(expr, op="sum")
        one = ast.Literal(value=1.0, kind=Kind.FLOAT)
        count = ast.Apply(op="max", args=(replace(total, body=one), one), kind=Kind.FLOAT)
        return ast.Apply(op="div", args=(total, count), kind=Kind.FLOAT)
    inner = replace(expr, axes=tuple(a for a in expr.axes if a != axis))
    return replace(expr, axes=(axis,), body=inner, where=None, mask=None)
