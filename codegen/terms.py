"""Small expressions that the forms of passes are made of."""

from __future__ import annotations

import math

from attnspec.dsl.ast import Apply, Expr, Kind, Literal, walk

_FLOAT = Kind.FLOAT
ONE = Literal(1.0, kind=_FLOAT)
ZERO = Literal(0.0, kind=_FLOAT)
MINUS = Literal(-1.0, kind=_FLOAT)
LOWEST = Literal(-math.inf, kind=_FLOAT)
FIRST = Literal(0, kind=Kind.INT)
PLACE = "place"  # the operation of a reduction that gives `argmax`, but -1 where nothing takes part


def negative(expr: Expr) -> Expr:
    """-expr."""
    return Apply("neg", (expr,), kind=expr.kind)


def opposite(expr: Expr) -> Expr:
    """What is the larger, the less `expr` is, and whose opposite is `expr`. Of ints, it is -1 - x:
    the least one has no negative."""
    if expr.kind is not Kind.INT:
        return negative(expr)
    return Apply("sub", (Literal(-1, kind=Kind.INT), expr), kind=Kind.INT)


def times(factors: list[Expr]) -> Expr:
    """The product of expressions, in order."""
    result = factors[0]
    for factor in factors[1:]:
        result = Apply("mul", (result, factor), kind=_FLOAT)
    return result


def factors_in(expr: Expr) -> list[Expr]:
    """The factors of a product of products."""
    if isinstance(expr, Apply) and expr.op == "mul":
        return [factor for arg in expr.args for factor in factors_in(arg)]
    return [expr]


def factors_of(expr: Expr, pair: frozenset[str]) -> list[Expr]:
    """The factors of `expr`, quotients and signs of what depends on a `pair` taken apart."""
    match expr:
        case Apply(op="mul", args=args):
            return [f for a in args for f in factors_of(a, pair)]
        case Apply(op="div", args=(a, b)) if any(n.free >= pair for n in walk(a)):
            return [*factors_of(a, pair), Apply("div", (ONE, b), kind=Kind.FLOAT)]
        case Apply(op="neg", args=(a,)) if any(n.free >= pair for n in walk(a)):
            return [MINUS, *factors_of(a, pair)]
    return [expr]


def both(first: Expr | None, second: Expr) -> Expr:
    """Two conditions in one."""
    return second if first is None else Apply("and", (first, second), kind=Kind.BOOL)
