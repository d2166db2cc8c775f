"""Dot products of sums, multiplied out where a sum depends on both tokens."""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.dsl.analysis.inlining import PAIR
from attnspec.dsl.ast import Apply, Contract, Expr


def products(expr: Contract) -> Iterator[tuple[int, Contract]]:
    """A dot product as a sum of products of terms, with their signs: a sum that depends on both
    tokens is multiplied out."""
    for sign, left in _terms(expr.left):
        for other, right in _terms(expr.right):
            yield sign * other, Contract(expr.axes, left, right, kind=expr.kind, span=expr.span)


def _terms(expr: Expr) -> Iterator[tuple[int, Expr]]:
    match expr:
        case Apply(op=("add" | "sub") as op, args=(first, *rest)) if expr.free >= PAIR:
            yield from _terms(first)
            for arg in rest:
                for sign, term in _terms(arg):
                    yield (sign if op == "add" else -sign), term
        case Apply(op="neg", args=(arg,)) if expr.free >= PAIR:
            for sign, term in _terms(arg):
                yield -sign, term
        case _:
            yield 1, expr
