"""Definitions over pairs that are read with their tokens changed places, `P[j, i]` of `P[i, j]`.

What is pointwise is written out at the other tokens. But a softmax over j read there is over what
stands in the column of the reader, which no tile has. So each number that a row of `P` is made of,
its log-sum-exp say, becomes a definition of one token, which is read at j like any vector of keys:
`exp(score[j, i] - total[j])`. So does a tensor that the call may give apart for queries and keys:
at j, the text `doc[j]` would read that of the keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attnspec.codegen.plan_types import Unsupported
from attnspec.codegen.rewrite import canonical, written_out
from attnspec.codegen.token_axes import renamed, tokens
from attnspec.dsl.analysis.positions import outside, rebuild
from attnspec.dsl.ast import Cumsum, Def, Expr, Index, Rank, Read, Reduce, Role, Spec, walk
from attnspec.dsl.build import index


def with_turned(spec: Spec) -> Spec:
    """`spec` with every definition over pairs that sums over them itself, read at tokens of other
    names, written out over definitions of one token; where that is not possible it stays."""
    made = _Turned(spec)
    for found in spec.defs:
        expr = made.visit(found.expr)
        defs = (replace(d, expr=expr) if d.name == found.name else d for d in made.spec.defs)
        made.spec = replace(made.spec, defs=tuple(defs))
    return replace(outside(spec, made.visit), defs=made.spec.defs)


def _bound(spec: Spec, expr: Expr) -> bool:
    """Whether an expression runs over tokens."""
    match expr:
        case Reduce(axes=axes):
            return bool(tokens(spec, frozenset(axes)))
        case Rank(axis=axis) | Cumsum(axis=axis):
            return bool(tokens(spec, frozenset({axis})))
    return False


@dataclass(slots=True)
class _Turned:
    """Adds definitions to `spec`."""

    spec: Spec
    _names: dict[Expr, str] = field(default_factory=dict)

    def visit(self, expr: Expr) -> Expr:
        """`expr` without what is read at other tokens and sums over pairs."""
        if isinstance(expr, Read):
            moved = self._moved(expr)
            before, names = self.spec, dict(self._names)
            try:
                if moved and isinstance(written_out(self.spec, expr), Read):
                    return self._written(expr, moved)
            except Unsupported:
                self.spec, self._names = before, names
        return rebuild(expr, self.visit)

    def _moved(self, read: Read) -> dict[str, str]:
        """By what axes of a definition over pairs it is read where, if at variables alone and a
        token is another one."""
        found = self.spec.definition(read.name)
        if found is None or len(tokens(self.spec, frozenset(found.axes))) < 2:
            return {}
        if not all(isinstance(at, Index) for at in read.index):
            return {}
        pairs = zip(found.axes, read.index, strict=True)
        names = {axis: at.axis for axis, at in pairs if isinstance(at, Index)}
        run = tokens(self.spec, frozenset(found.axes))
        return names if any(names[axis] != axis for axis in run) else {}

    def _given_apart(self, expr: Expr) -> frozenset[str]:
        """The token at which a tensor is read that the call may give apart for either side."""
        decl = self.spec.decl(expr.name) if isinstance(expr, Read) else None
        paired = decl is not None and decl.paired
        return tokens(self.spec, expr.free) if paired else frozenset()

    def _written(self, read: Read, names: dict[str, str]) -> Expr:
        found = self.spec.definition(read.name)
        assert found is not None
        body = canonical(self.spec, self.visit(found.expr))
        return renamed(self._apart(self.visit(body), read.name), names)

    def _apart(self, expr: Expr, name: str) -> Expr:
        """`expr` with what belongs to one token, and runs over tokens or is given for that side
        alone, as definitions."""
        asked = _bound(self.spec, expr) or bool(self._given_apart(expr))
        if asked and len(tokens(self.spec, expr.free)) == 1:
            own = f"{name}_{expr.op}" if isinstance(expr, Reduce) else name
            return self._defined(expr, f"{expr.name}_here" if isinstance(expr, Read) else own)
        return rebuild(expr, lambda part: self._apart(part, name))

    def _defined(self, expr: Expr, hint: str) -> Read:
        axes = self._order(expr.free | self._of_mask(expr))
        if expr not in self._names:
            spec, name, k = self.spec, hint, 1
            while spec.definition(name) or spec.decl(name) or spec.state(name):
                k += 1
                name = f"{hint}_{k}"
            self.spec = replace(spec, defs=(*spec.defs, Def(name, axes, expr)))
            self._names[expr] = name
        return Read(self._names[expr], tuple(map(index, axes)), kind=expr.kind, span=expr.span)

    def _of_mask(self, expr: Expr) -> frozenset[str]:
        """Whose mask an expression counts at: each batch's or head's own, if that depends on it."""
        masked = any(isinstance(n, Reduce) and n.mask is not None for n in walk(expr))
        mask = self.spec.mask if masked else None
        return frozenset() if mask is None else mask.free & {"b", "h"}

    def _order(self, free: frozenset[str]) -> tuple[str, ...]:
        """Axes in the order of a definition's: batch, head, token, channels."""
        names = [axis.name for axis in self.spec.axes]
        last = {Role.CHANNEL, Role.CONCAT}
        return tuple(sorted(free, key=lambda a: (self.spec.axis(a).role in last, names.index(a))))
