"""What a pair computes of its distance alone, from a table that the host makes once.

There are fewer than M + N distances of a query and a key, and M * N pairs. So
`floor(log2(abs(i - j)))` is worked out for every distance there is, and pairs look it up at theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count

from attnspec.codegen.keep import WEIGHTS
from attnspec.codegen.token_axes import base, ends, tokens
from attnspec.dsl.analysis.positions import rebuild
from attnspec.dsl.analysis.score import slope
from attnspec.dsl.analysis.tensors import tensors
from attnspec.dsl.ast import (
    COMPARISONS,
    Apply,
    Axis,
    Def,
    Expr,
    Kind,
    Literal,
    Read,
    Role,
    Size,
    Spec,
    walk,
)
from attnspec.dsl.build import add, apply, index, lit, mul, size, sub, substitute

LOOKUP = 12  # instructions: an index, its address, the load and the way into the tile's layout
STEP = 1024


def with_distances(spec: Spec) -> Spec:
    """`spec` with what takes longer than to look it up, of a distance of two tokens alone, read
    from definitions over all distances."""
    made = _Distances(spec)
    defs = tuple(replace(d, expr=made.visit(d.expr)) for d in spec.defs)
    return replace(made.spec, defs=(*made.defs, *defs)) if made.defs else spec


@dataclass(slots=True)
class _Distances:
    """Adds axes of distances to `spec`, and `defs` over them."""

    spec: Spec
    defs: tuple[Def, ...] = ()

    def visit(self, expr: Expr) -> Expr:
        """`expr` with what is worth it looked up."""
        pair = sorted(tokens(self.spec, expr.free))
        if len(pair) != 2 or not self._worthwhile(expr, *pair):
            return rebuild(expr, self.visit)
        one, other = pair
        at = f"{one}.{other}"
        if at not in {axis.name for axis in self.spec.axes}:
            count = add(size(base(self.spec, one)), size(base(self.spec, other)))
            enough = add(_whole(count), lit(2 * STEP))
            axes = (*self.spec.axes, Axis(at, Role.CHANNEL, size=enough))
            self.spec = replace(self.spec, axes=axes)
        least = _whole(sub(ends(self.spec, one)[0], ends(self.spec, other)[1]))
        values = substitute(expr, {one: add(index(at), least), other: lit(0)})
        found = next((d for d in self.defs if (d.axes, d.expr) == ((at,), values)), None)
        if found is None:
            found = Def(self._name(), (at,), values)
            self.defs = (*self.defs, found)
        place = sub(sub(index(one), index(other)), least)
        return Read(found.name, (place,), kind=expr.kind, span=expr.span)

    def _name(self) -> str:
        """One that nothing in the spec has."""
        taken = {d.name for d in (*self.spec.defs, *self.defs)} | {d.name for d in self.spec.decls}
        return next(name for n in count() if (name := f"rel_{n}") not in taken)

    def _worthwhile(self, expr: Expr, one: str, other: str) -> bool:
        if expr.free != {one, other} or expr.kind is Kind.BOOL or tensors(self.spec, expr):
            return False
        roles = {self.spec.axis(base(self.spec, x)).role for x in (one, other)}
        if not roles <= {Role.QUERY, Role.KEY}:
            return False
        found = {x for x in walk(expr) if isinstance(x, Apply) and x.free}
        cost = sum(WEIGHTS.get(x.op, 1) for x in found)
        return cost > LOOKUP and of_distance(expr, one, other)


def _whole(number: Expr) -> Expr:
    """The multiple of STEP at or below a number."""
    return mul(apply("floordiv", number, lit(STEP)), lit(STEP))


def of_distance(expr: Expr, one: str, other: str) -> bool:
    """Whether an expression of the positions `one` and `other` is a function of their distance."""
    if not expr.free:
        return isinstance(expr, Apply | Literal | Size | Read)
    step, back = slope(expr, one), slope(expr, other)
    if step is not None and back is not None:
        return step == -back
    if not isinstance(expr, Apply):
        return False
    if expr.op in COMPARISONS and all(x.kind is Kind.INT for x in expr.args):
        left, right = expr.args
        return of_distance(sub(left, right), one, other)
    return all(of_distance(x, one, other) for x in expr.args)
