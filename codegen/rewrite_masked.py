"""Definitions that batch and heads of the mask decide, with these among their axes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attnspec.dsl.analysis.positions import outside, rebuild
from attnspec.dsl.ast import Def, Expr, Normalize, Read, Reduce, Spec, walk
from attnspec.dsl.build import index

_SPREAD = ("b", "h")


def with_masked(spec: Spec) -> Spec:
    """`spec` with every definition over all that it depends on. One that reduces over pairs depends
    on what the mask reads, as each that reads it does: at `h=g` it is another head's."""
    if spec.mask is None or not spec.mask.free & {*_SPREAD}:
        return spec
    made = _Masked(tuple(axis for axis in _SPREAD if axis in spec.mask.free))
    defs = tuple(map(made.define, spec.defs))
    return replace(outside(spec, made.visit), defs=defs) if made.lacking else spec


@dataclass(slots=True)
class _Masked:
    """`lacking` are the axes that definitions had not, by name."""

    of_mask: tuple[str, ...]
    lacking: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def define(self, old: Def) -> Def:
        """A definition after all that it reads."""
        expr = self.visit(old.expr)
        masked = any(isinstance(x, Reduce | Normalize) and x.mask is not None for x in walk(expr))
        needs = expr.free | {*self.of_mask} if masked else expr.free
        if lacking := tuple(a for a in _SPREAD if a in needs and a not in old.axes):
            self.lacking[old.name] = lacking
        return replace(old, axes=(*lacking, *old.axes), expr=expr)

    def visit(self, expr: Expr) -> Expr:
        """`expr` with definitions read at batch and head."""
        expr = rebuild(expr, self.visit)
        if isinstance(expr, Read) and (lacking := self.lacking.get(expr.name)):
            return replace(expr, index=(*map(index, lacking), *expr.index))
        return expr
