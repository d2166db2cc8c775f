"""Ranges of expressions of the checked tree, by interval arithmetic."""

from __future__ import annotations

from fractions import Fraction
from functools import reduce
from typing import TYPE_CHECKING

from attnspec.dsl import check_interval as iv
from attnspec.dsl.ast import (
    Apply,
    Concat,
    Contract,
    Coord,
    Cumsum,
    Expr,
    GridIndex,
    Index,
    Kind,
    Last,
    Literal,
    Normalize,
    Random,
    Rank,
    Read,
    Reduce,
    Role,
    Rope,
    Size,
)
from attnspec.dsl.check_interval import INF, NONNEGATIVE, POSITIVE, TOP, UNIT, Interval
from attnspec.dsl.check_linear import Constraint, Monomial, Rational
from attnspec.dsl.check_rows import every_row_has_a_pair

if TYPE_CHECKING:
    from attnspec.dsl.check_known import Known
    from attnspec.dsl.check_prover import Prover

# What a state may be shown to stay in, tightest first.
_STATE_RANGES = (UNIT, POSITIVE, NONNEGATIVE, Interval(-1, 1), iv.negate(NONNEGATIVE))


def range_of(prover: Prover, expr: Expr, known: Known) -> Interval:
    """An interval around every value of `expr` where `known` holds."""
    found = _range(prover, expr, known)
    if expr.kind is Kind.BOOL or isinstance(expr, Literal):
        return found
    poly = prover.poly(expr)
    if len(poly) == 1 and () not in poly:
        ((monomial, factor),) = poly.items()
        for fact in known.facts:
            found = _narrow(found, fact, monomial, factor)
    return found


def _narrow(found: Interval, fact: Constraint, monomial: Monomial, factor: Rational) -> Interval:
    """`found` with what a fact says of factor * monomial alone."""
    if set(fact.poly) - {monomial, ()} or monomial not in fact.poly:
        return found
    bound = float(-Fraction(fact.poly.get((), 0)) / fact.poly[monomial] * factor)
    if (fact.poly[monomial] > 0) == (factor > 0):
        limit = Interval(-INF, bound, False, fact.strict)
    else:
        limit = Interval(bound, INF, fact.strict, False)
    return iv.meet(found, limit)


def _range(prover: Prover, expr: Expr, known: Known) -> Interval:
    def of(part: Expr) -> Interval:
        return prover.range(part, known)

    match expr:
        case Literal(value):
            return iv.point(float(value)) if not isinstance(value, bool) else TOP
        case Index() | Coord() | Rank():
            return NONNEGATIVE
        case Size(of=name):
            axis = prover.axes.get(name)
            fixed = axis is not None and axis.size is not None and axis.role is not Role.BLOCK
            return of(axis.size) if fixed else Interval(1, INF)  # type: ignore[union-attr, arg-type]
        case Last() | GridIndex() | Rope():
            return TOP
        case Random():
            return Interval(0, 1, True, True)
        case Read():
            return _read(prover, expr, known)
        case Apply():
            return _apply(prover, expr, known)
        case Contract(_, left, right):
            if left == right:
                return POSITIVE if of(left).nonzero else NONNEGATIVE
            return _sum(iv.multiply(of(left), of(right)), nonempty=True)
        case Reduce():
            return _reduce(prover, expr, known)
        case Normalize():
            return UNIT
        case Cumsum(_, body, where):
            return _sum(of(body), nonempty=where is None)
        case Concat(_, parts):
            return reduce(iv.hull, (of(part) for _, part in parts))


def _sum(body: Interval, nonempty: bool) -> Interval:
    if body.lo >= 0:
        return POSITIVE if body.positive and nonempty else NONNEGATIVE
    if body.hi <= 0:
        return iv.negate(POSITIVE if body.negative and nonempty else NONNEGATIVE)
    return TOP


def _reduce(prover: Prover, expr: Reduce, known: Known) -> Interval:
    if expr.op in ("any", "all", "logsumexp"):
        return TOP
    if expr.op == "argmax":
        return NONNEGATIVE
    nonempty = expr.where is None and (
        expr.mask is None
        or (expr.mask[0] in known.rows and expr.mask[0] not in expr.axes)
        or (expr.mask[1] in known.columns and expr.mask[1] not in expr.axes)
        or (expr.mask[1] in expr.axes and every_row_has_a_pair(prover))
    )
    inner = prover.rebind(known, expr.axes)
    if expr.mask is not None:
        inner = prover.at_pair(inner, *expr.mask)
    if expr.where is not None:
        inner = prover.assume(inner, expr.where)
    body = prover.range(expr.body, inner)
    match expr.op:
        case "sum":
            return _sum(body, nonempty)
        case "mean":
            return body if nonempty else iv.hull(body, iv.point(0))
        case "prod":
            return UNIT if body.lo >= 0 and body.hi <= 1 else POSITIVE if body.positive else TOP
        case "amax":
            return body if nonempty else Interval(-INF, body.hi, False, body.hi_open)
        case _:
            return body if nonempty else Interval(body.lo, INF, body.lo_open, False)


def _read(prover: Prover, read: Read, known: Known) -> Interval:
    found = TOP
    if read.name in prover.decls:
        monomial = (prover.number(read),)
        for fact in prover.declared(read):
            found = _narrow(found, fact, monomial, 1)
    elif read.name in prover.defs:
        inlined = prover.inlined(read)
        body = inlined if inlined is not None else prover.defs[read.name].expr
        found = prover.range(body, known if inlined is not None else prover.start())
    elif read.name in prover.states:
        found = _state(prover, read.name)
    return iv.hull(found, prover.range(read.pad, known)) if read.pad is not None else found


def _state(prover: Prover, name: str) -> Interval:
    """A range that the initial value has and every step keeps."""
    if name in prover.state_ranges:
        return prover.state_ranges[name]
    state = prover.states[name]
    for candidate in _STATE_RANGES:
        prover.state_ranges[name] = candidate
        start = prover.start()
        if all(_within(prover.range(e, start), candidate) for e in (state.init, state.step)):
            return candidate
    prover.state_ranges[name] = TOP
    return TOP


def _within(a: Interval, b: Interval) -> bool:
    return iv.hull(a, b) == b


def _apply(prover: Prover, expr: Apply, known: Known) -> Interval:
    if expr.kind is Kind.BOOL:
        return TOP
    args = expr.args
    if expr.op == "where":
        yes = prover.range(args[1], prover.assume(known, args[0]))
        no = prover.range(args[2], prover.assume(known, args[0], truth=False))
        return iv.hull(yes, no)
    ranges = [prover.range(arg, known) for arg in args]
    a = ranges[0]
    b = ranges[1] if len(ranges) > 1 else TOP
    match expr.op:
        case "add":
            return iv.add(a, b)
        case "sub":
            return iv.add(a, iv.negate(b))
        case "mul":
            if args[0] == args[1]:
                return iv.power(a, iv.point(2))
            return iv.multiply(a, b)
        case "div":
            return iv.multiply(a, iv.invert(_signed(prover, args[1], b, known)))
        case "floordiv":
            quotient = iv.multiply(a, iv.invert(_signed(prover, args[1], b, known)))
            return iv.FUNCTIONS["floor"](quotient)
        case "mod":
            if prover.positive(args[1], known):
                whole = expr.kind is Kind.INT
                return (
                    Interval(0, b.hi - 1, False, False) if whole else Interval(0, b.hi, False, True)
                )
            return TOP
        case "pow":
            return iv.power(a, b)
        case "max":
            return reduce(iv.maximum, ranges)
        case "min":
            return reduce(iv.minimum, ranges)
        case "clamp":
            return iv.minimum(iv.maximum(a, b), ranges[2])
        case "leaky_relu":
            return NONNEGATIVE if a.lo >= 0 else TOP
        case op:
            return iv.FUNCTIONS[op](a)


def _signed(prover: Prover, expr: Expr, found: Interval, known: Known) -> Interval:
    """The range of a divisor, its sign proved if it does not show."""
    if not found.nonzero and prover.positive(expr, known):
        return iv.meet(found, POSITIVE)
    return found
