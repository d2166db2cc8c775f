"""Dot products of sums, multiplied out where a sum depends on both tokens."""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.dsl.analysis.inlining import PAIR
from attnspec.dsl.ast import Apply, Contract, Expr


def products(expr: Contract, pair: frozenset[str] = PAIR) -> Iterator[tuple[int, Contract]]:
    """A dot product as a sum of products of terms, with their signs: a sum that depends on both
    tokens, `pair`, is multiplied out."""
    for sign, left in _terms(expr.left, pair):
        for other, right in _terms(expr.right, pair):
            yield sign * other, Contract(expr.axes, left, right, kind=expr.kind, span=expr.span)


def _terms(expr: Expr, pair: frozenset[str]) -> Iterator[tuple[int, Expr]]:
    match expr:
        case Apply(op=("add" | "sub") as op, args=(first, *rest)) if expr.free >= pair:
            yield from _terms(first, pair)
            for arg in rest:
                for sign, term in _terms(arg, pair):
                    yield (sign if op == "add" else -sign), term
        case Apply(op="neg", args=(arg,)) if expr.free >= pair:
            for sign, term in _terms(arg, pair):
                yield -sign, term
        case _:
            yield 1, expr
