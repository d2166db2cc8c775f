"""Pairwise definitions written out where they are read at their own indices."""

from __future__ import annotations

from attnspec.dsl.analysis.positions import rebuild
from attnspec.dsl.ast import Expr, Index, Read, Spec, walk

PAIR = frozenset({"i", "j"})


def inline(spec: Spec, expr: Expr) -> Expr:
    """`expr` with every definition over both tokens written out.

    One that is read at other indices than its own (`S[i, u]`) stays a `Read`.
    """
    match expr:
        case Read(name=name, index=index):
            found = spec.definition(name)
            if found is None or not PAIR.issubset(found.axes):
                return expr
            pairs = zip(index, found.axes, strict=True)
            if not all(isinstance(x, Index) and x.axis == axis for x, axis in pairs):
                return expr
            return inline(spec, found.expr)
        case _ if any(n.free >= PAIR for n in walk(expr)):
            return rebuild(expr, lambda e: inline(spec, e))
    return expr
