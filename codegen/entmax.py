"""Entmax over pairs as sums over pairs (Peters et al. 2019).

With a = alpha - 1 the weights are tempered(score - t, a), the exponential (1 + a z) ** (1 / a) cut
off at 0, for the threshold t of a row that makes them sum to 1. A search finds it, without a
gradient; one step of Newton's method from there leaves the number and gives it the derivative of
the implicit function. So the weights are a function of the pair and of a number of the row.
"""

from __future__ import annotations

from attnspec.codegen.terms import ONE, ZERO
from attnspec.dsl.ast import Apply, Expr, Kind, Literal, Normalize, Reduce

_FLOAT = Kind.FLOAT
# The operation of a reduction of tempered(x, a) that gives the number t of a row at which
# tempered(x - t, a) sums to 1.
THRESHOLD = "threshold"


def weights(entmax: Normalize) -> Expr:
    """The weights where a pair takes part; the parts of `entmax` are in the forms of a pass."""
    assert entmax.alpha is not None
    score, order = entmax.body, _lessened(entmax.alpha)

    def summed(op: str, body: Expr) -> Reduce:
        return Reduce(op, entmax.axes, body, entmax.where, entmax.mask, kind=_FLOAT)

    found = _still(summed(THRESHOLD, _two("tempered", score, order)))
    gap = _two("sub", score, found)
    total = summed("sum", _two("tempered", gap, order))
    slope = _still(summed("sum", _still(_two("tempered_slope", gap, order))))
    none = Apply("eq", (slope, ZERO), kind=Kind.BOOL)
    step = _two("div", _two("sub", total, ONE), _where(none, ONE, slope))
    threshold = _two("add", found, _where(none, ZERO, step))
    return _two("tempered", _two("sub", score, threshold), order)


def _lessened(alpha: Expr) -> Expr:
    """alpha - 1, in which 1 + x loses no digits of a small x."""
    match alpha:
        case Literal(value=value):
            return Literal(float(value) - 1.0, kind=_FLOAT)
        case (
            Apply(op="add", args=(Literal(value=1), x))
            | Apply(op="add", args=(x, Literal(value=1)))
        ):
            return x
    return _two("sub", alpha, ONE)


def _two(op: str, left: Expr, right: Expr) -> Expr:
    return Apply(op, (left, right), kind=_FLOAT)


def _where(condition: Expr, yes: Expr, no: Expr) -> Expr:
    return Apply("where", (condition, yes, no), kind=_FLOAT)


def _still(expr: Expr) -> Expr:
    """`expr` without a gradient."""
    return Apply("stopgrad", (expr,), kind=_FLOAT)
