"""Definitions that batch and heads of the mask decide, with these among their axes."""

from __future__ import annotations

from dataclasses import replace

from attnspec.dsl.analysis.positions import outside, rebuild
from attnspec.dsl.ast import Expr, Read, Spec
from attnspec.dsl.build import index
from attnspec.dsl.check_masked import lacking


def with_masked(spec: Spec) -> Spec:
    """`spec` with every definition over all that it depends on. One that reduces over pairs depends
    on what the mask reads, as each that reads it does: at `h=g` it is another head's."""
    more = lacking(spec.defs, spec.mask)
    if not more:
        return spec

    def visit(expr: Expr) -> Expr:
        expr = rebuild(expr, visit)
        if isinstance(expr, Read) and expr.name in more:
            return replace(expr, index=(*map(index, more[expr.name]), *expr.index))
        return expr

    defs = [replace(d, expr=visit(d.expr)) for d in spec.defs]
    defs = [replace(d, axes=(*more.get(d.name, ()), *d.axes)) for d in defs]
    return replace(outside(spec, visit), defs=tuple(defs))
