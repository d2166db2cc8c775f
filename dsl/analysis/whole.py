"""Real numbers that are quotients of whole numbers, exactly.

Sums, products and quotients by powers of two are exact in float32 and float64 alike while the
numbers stay below 2^24. One quotient a / b of ints compared with an int n, or rounded down, is
exact too: rounding is monotone and n is its own rounding, and where a / b is above n it is so by
1 / b at least, which is more than half a unit in the last place of n while |a| is below 2^24.
"""

from __future__ import annotations

from attnspec.dsl.ast import Apply, Expr, Kind, Literal
from attnspec.dsl.build import apply, lit

_MOST_BELOW = 2**10
_MOST = 2**20


def quotients(a: Expr, b: Expr) -> tuple[tuple[Expr, Expr], tuple[Expr, Expr]] | None:
    """(numerator, denominator) of both sides of a comparison; None where it is not exact."""
    x, y = _dyadic(a), _dyadic(b)
    if x is not None and y is not None:
        return (x[0], lit(x[1])), (y[0], lit(y[1]))
    one = lit(1)
    if b.kind is Kind.INT and (found := _quotient(a)):
        return found, (b, one)
    if a.kind is Kind.INT and (found := _quotient(b)):
        return (a, one), found
    return None


def quotient(expr: Expr) -> tuple[Expr, Expr] | None:
    """(numerator, denominator) of what is rounded down or up; None where it is not exact."""
    found = _dyadic(expr)
    return _quotient(expr) if found is None else (found[0], lit(found[1]))


def _quotient(expr: Expr) -> tuple[Expr, Expr] | None:
    match expr:
        case Apply(op="div", args=(n, d)) if n.kind is d.kind is Kind.INT:
            return n, d
    return None


def _dyadic(expr: Expr) -> tuple[Expr, int] | None:
    """An int and the power of two that it is divided by."""
    if expr.kind is Kind.INT:
        return expr, 1
    match expr:
        case Literal(value=value) if abs(value) <= _MOST:
            above, below = value.as_integer_ratio()
            return (lit(above), below) if below <= _MOST_BELOW else None
        case Apply(op="stopgrad", args=(x,)):
            return _dyadic(x)
        case Apply(op="div", args=(x, Literal(value=value))) if value > 0:
            return _dyadic(Apply("mul", (x, lit(1 / value)), kind=Kind.FLOAT))
        case Apply(op=("neg" | "add" | "sub" | "min" | "max" | "abs" | "clamp") as op, args=args):
            parts = [_dyadic(arg) for arg in args]
            known = [p for p in parts if p is not None]
            below = max((p[1] for p in known), default=1)
            if len(known) < len(parts) or below > _MOST_BELOW:
                return None
            return Apply(op, tuple(_times(n, below // d) for n, d in known), kind=Kind.INT), below
        case Apply(op="mul", args=(x, y)):
            one, other = _dyadic(x), _dyadic(y)
            if one is None or other is None or one[1] * other[1] > _MOST_BELOW:
                return None
            return apply("mul", one[0], other[0]), one[1] * other[1]
    return None


def _times(expr: Expr, by: int) -> Expr:
    return expr if by == 1 else apply("mul", expr, lit(by))
