"""Normalisers and reductions over the heads of a pair, every head written out.

A program has the scores of one head. Where the spec fixes how many heads there are, by `require
H == 4` or a constant over `h`, a tile takes the products of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from attnspec.codegen.lower import differentiable
from attnspec.codegen.rewrite_blocks import WRITTEN
from attnspec.codegen.terms import LOWEST, ZERO
from attnspec.codegen.token_axes import base, tokens
from attnspec.dsl.analysis.positions import outside, rebuild
from attnspec.dsl.ast import (
    Apply,
    Expr,
    Form,
    Kind,
    Literal,
    Normalize,
    Reduce,
    Size,
    Spec,
    walk,
)
from attnspec.dsl.build import apply, lit, sub, substitute

MOST = 8  # heads whose products one tile takes


def with_heads(spec: Spec) -> Spec:
    """`spec` with every softmax, extreme value and log-sum-exp over a few heads of a pair written
    out; where that is not possible it stays."""
    count = _heads(spec)
    if not 0 < count <= MOST:
        return spec
    made = _Heads(spec, count)
    defs = tuple(replace(d, expr=made.visit(d.expr)) for d in spec.defs)
    return replace(outside(spec, made.visit), defs=defs)


def _heads(spec: Spec) -> int:
    """How many heads every call has; 0 if it may have any number."""
    for fact in spec.requires:
        match fact:
            case Apply(op="eq", args=(Size(of="h"), Literal(value=int(count)))):
                return count
    for decl in spec.decls:
        if decl.form is Form.CONST and decl.axes[:1] == ("h",) and isinstance(decl.values, tuple):
            return len(decl.values)
    return 0


@dataclass(frozen=True, slots=True)
class _Heads:
    spec: Spec
    count: int

    def visit(self, expr: Expr) -> Expr:
        """`expr` without what runs over heads of a pair."""
        expr = rebuild(expr, self.visit)
        try:
            match expr:
                case Normalize(op="softmax", axes=(axis,)) if self._of_pair(expr, axis):
                    return self._softmax(expr, axis)
                case Reduce(op="amax" | "amin" | "logsumexp", axes=(axis,), kind=Kind.FLOAT) if (
                    self._of_pair(expr, axis)
                ):
                    terms = list(self._terms(axis, expr.body, expr.where))
                    return WRITTEN[expr.op](terms, differentiable(self.spec, expr.body))
        except ValueError:  # random numbers or pairs of another head
            pass
        return expr

    def _of_pair(self, expr: Expr, axis: str) -> bool:
        return base(self.spec, axis) == "h" and len(tokens(self.spec, expr.free)) > 1

    def _terms(self, axis: str, body: Expr, where: Expr | None) -> Iterator[tuple[Expr, Expr]]:
        """Of each head whether it takes part, and its number. ValueError: what it runs over is a
        matter of that head."""
        parts = (body, body if where is None else where)
        masked = any(getattr(node, "mask", None) for part in parts for node in walk(part))
        if masked and self.spec.mask is not None and "h" in self.spec.mask.free:
            raise ValueError("what runs over pairs runs over those of its own head")
        for head in range(self.count):
            there = lit(True) if where is None else substitute(where, {axis: lit(head)})
            yield there, substitute(body, {axis: lit(head)})

    def _softmax(self, node: Normalize, axis: str) -> Expr:
        terms = list(self._terms(axis, node.body, node.where))
        if node.sink is not None:
            terms.append((lit(True), node.sink))
        total = WRITTEN["logsumexp"](terms, True)
        some = apply("ne", total, LOWEST)
        weight = apply("exp", sub(node.body, apply("where", some, total, ZERO)))
        if node.where is not None:
            some = apply("and", node.where, some)
        return apply("where", some, weight, ZERO)
