"""Reductions and normalisers over channels of a pair, as sums, largest values and places.

The largest value of a log-sum-exp or a softmax only keeps powers of e in range: whatever it is, the
result is the same, so no gradient flows through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from math import prod

from attnspec.codegen.plan_types import Unsupported
from attnspec.codegen.terms import (
    FIRST,
    LOWEST,
    ONE,
    PLACE,
    ZERO,
    factors_in,
    opposite,
    times,
)
from attnspec.dsl.analysis.positions import rebuild
from attnspec.dsl.ast import (
    Contract,
    Expr,
    Index,
    Kind,
    Literal,
    Normalize,
    Reduce,
    Size,
    Spec,
)
from attnspec.dsl.build import add, apply, lit, mul, sub, substitute

FEW = 32  # terms that a tile writes out inside a loop over other channels
SHORT = 4  # and without one, so that differences of coordinates are exact

_FLOAT = Kind.FLOAT
# How a reduction is written out, and what it is of no float and of no integer.
_WRITTEN: Mapping[str, tuple[str, Literal, Literal]] = {
    "sum": ("add", ZERO, lit(0)),
    "prod": ("mul", ONE, lit(1)),
    "amax": ("max", LOWEST, lit(-(2**63))),
}


def simpler(expr: Expr, flows: bool) -> Expr:
    """A reduction or a normaliser over a channel with the simpler ones that it is made of; a
    gradient `flows` to it or not. Anything else is itself."""
    match expr:
        case Normalize(op="softmax"):
            return _softmax(expr)
        case Normalize(op=op):
            raise Unsupported(f"an {op} over a channel of a pair")
        case Reduce(op="amax" | "amin" | "argmax", axes=(*rest, inner)) if rest:
            if expr.op == "argmax":
                return expr
            return replace(expr, axes=tuple(rest), where=None, body=replace(expr, axes=(inner,)))
        case Reduce(op="mean", axes=axes, where=where):
            count: Expr = times([Size(axis, kind=Kind.INT) for axis in axes])
            if where is not None:
                ones = apply("where", where, ONE, ZERO)
                count = apply("max", Reduce("sum", axes, ones, kind=_FLOAT), ONE)
            return apply("div", replace(expr, op="sum", kind=_FLOAT), count)
        case Reduce(op="any" | "all" as op, axes=axes, body=body, where=where):
            found = body if op == "any" else apply("not", body)
            one = apply("where", found, ONE, ZERO)
            count = Reduce("sum", axes, one, where, kind=_FLOAT)
            return apply("gt" if op == "any" else "eq", count, ZERO)
        case Reduce(op="logsumexp"):
            return _log_sum_exp(expr)
        case Reduce(op="amin"):
            return opposite(replace(expr, op="amax", body=opposite(expr.body)))
        case Reduce(op="amax") if flows:
            return _largest(expr)
        case Reduce(op="argmax"):
            return apply("max", replace(expr, op=PLACE), FIRST)
    return expr


def _powers(body: Expr, where: Expr | None, top: Expr) -> Expr:
    """exp(body - top), 0 of what is left out."""
    found = apply("exp", sub(body, top))
    return found if where is None else apply("where", where, found, ZERO)


def _top(node: Reduce | Normalize) -> tuple[Expr, Expr]:
    """The largest value, without a gradient, and the same, 0 where that is minus infinity."""
    top: Expr = Reduce("amax", node.axes, node.body, node.where, kind=_FLOAT)
    if isinstance(node, Normalize) and node.sink is not None:
        top = apply("max", top, node.sink)
    top = apply("stopgrad", top)
    return top, apply("where", apply("eq", top, LOWEST), ZERO, top)


def _log_sum_exp(node: Reduce) -> Expr:
    top, least = _top(node)
    total = Reduce("sum", node.axes, _powers(node.body, node.where, least), kind=_FLOAT)
    whole = add(least, apply("log", total))
    return apply("where", apply("eq", top, LOWEST), LOWEST, whole)


def _softmax(node: Normalize) -> Expr:
    """A power of e times what is the same for every channel."""
    top, least = _top(node)
    power = _powers(node.body, node.where, least)
    total: Expr = Reduce("sum", node.axes, power, kind=_FLOAT)
    if node.sink is not None:
        total = add(total, apply("exp", sub(node.sink, least)))
    share = apply("where", apply("eq", top, LOWEST), ZERO, apply("div", ONE, total))
    return apply("mul", power, share)


def _largest(node: Reduce) -> Expr:
    """The value at the place of the largest one, to which its gradient goes."""
    place = replace(node, op=PLACE, kind=Kind.INT)
    here = apply("eq", Index(node.axes[0], kind=Kind.INT), place)
    chosen = Reduce("sum", node.axes, apply("where", here, node.body, ZERO), kind=_FLOAT)
    return apply("where", apply("lt", place, FIRST), LOWEST, chosen)


def factors(expr: Reduce | Contract) -> tuple[list[Expr], Expr | None]:
    """The factors of what a sum adds up, and where they count."""
    if isinstance(expr, Contract):
        parts, where = [expr.left, expr.right], None
    else:
        parts, where = [expr.body], expr.where
    found = [x for part in parts for x in factors_in(part)]
    plain = (simpler(x, True) if isinstance(x, Normalize) else x for x in found)
    return [x for each in plain for x in factors_in(each) if x != ONE], where


def few(spec: Spec, axes: tuple[str, ...], most: int = FEW) -> bool:
    """Whether there are so few channels that a tile writes out what they add up to."""
    sizes = [spec.axis(axis).size for axis in axes]
    return prod(x.value if isinstance(x, Literal) else most + 1 for x in sizes) <= most


def written_out(spec: Spec, expr: Reduce | Contract) -> Expr:
    """A sum, a product or a largest value over few channels, with every channel written out."""
    sizes = (spec.axis(axis).size for axis in expr.axes)
    places = product(*(range(int(x.value)) for x in sizes if isinstance(x, Literal)))
    each = [{a: lit(n) for a, n in zip(expr.axes, place, strict=True)} for place in places]

    def opened(node: Expr) -> Expr:
        """`node` without normalisers over the axes."""
        if isinstance(node, Normalize) and set(node.axes) & set(expr.axes):
            return opened(simpler(node, True))
        return rebuild(node, opened)

    if isinstance(expr, Contract):
        whole = opened(mul(expr.left, expr.right))
        return apply("add", *(substitute(whole, at) for at in each), ZERO)
    if expr.op not in _WRITTEN:
        raise Unsupported(f"a {expr.op} over a channel inside a sum over channels")
    op, *nothing = _WRITTEN[expr.op]
    none = nothing[expr.kind is Kind.INT]  # no float has all integers
    body = expr.body if expr.where is None else apply("where", expr.where, expr.body, none)
    return apply(op, *(substitute(opened(body), at) for at in each), none)
