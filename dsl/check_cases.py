"""Case distinctions for proofs: disjunctions, `where`, `min`, `max`, `abs`, `clamp`."""

from __future__ import annotations

from attnspec.dsl import check_linear as lin
from attnspec.dsl.ast import Apply, Expr
from attnspec.dsl.build import apply, lit
from attnspec.dsl.check_linear import Poly


def alternatives(either: Expr) -> list[tuple[Expr, bool]]:
    """The conditions (and whether they hold) of which one is so when `either` is."""
    match either:
        case Apply("or", args):
            return [(arg, True) for arg in args]
        case Apply("not", (Apply("and", args),)):
            return [(arg, False) for arg in args]
    return []


def cases(expr: Expr) -> list[tuple[tuple[Expr, ...], Expr]]:
    """The values that `expr` may be, each with its conditions; empty when it has no cases."""
    match expr:
        case Apply("where", (c, a, b)):
            return [((c,), a), ((apply("not", c),), b)]
        case Apply("max", (a, b)):
            return [((apply("ge", a, b),), a), ((apply("lt", a, b),), b)]
        case Apply("min", (a, b)):
            return [((apply("le", a, b),), a), ((apply("gt", a, b),), b)]
        case Apply("abs", (a,)):
            return [((apply("ge", a, lit(0)),), a), ((apply("lt", a, lit(0)),), apply("neg", a))]
        case Apply("clamp", (x, lo, hi)):
            inside = (apply("le", lo, x), apply("le", x, hi))
            return [(inside, x), ((apply("gt", x, hi),), hi), ((apply("lt", x, lo),), lo)]
    return []


def replace_atom(poly: Poly, number: int, value: Poly) -> Poly:
    """`poly` with an atom's value in its place."""
    result: Poly = {}
    for monomial, factor in poly.items():
        term: Poly = {tuple(n for n in monomial if n != number): factor}
        for _ in range(monomial.count(number)):
            term = lin.times(term, value)
        result = lin.plus(result, term)
    return result
