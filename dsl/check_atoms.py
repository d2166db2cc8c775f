"""The linear facts that come with an atom: where an index lies, what rounding and `min` mean."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from attnspec.dsl import check_linear as lin
from attnspec.dsl.ast import (
    Apply,
    Coord,
    Expr,
    Index,
    Kind,
    Literal,
    Rank,
    Read,
    Reduce,
    Role,
    Size,
)
from attnspec.dsl.build import apply, lit, size
from attnspec.dsl.check_linear import Constraint, Poly

if TYPE_CHECKING:
    from attnspec.dsl.check_known import Known
    from attnspec.dsl.check_prover import Prover


def facts_of_atom(prover: Prover, expr: Expr, known: Known) -> tuple[Constraint, ...]:
    """Everything that is known of `expr` by what it is."""
    return (*_bounds(prover, expr, known), *_structure(prover, expr, known))


def _bounds(prover: Prover, expr: Expr, known: Known) -> Iterator[Constraint]:
    """Its range."""
    itself = prover.poly(expr)
    interval = prover.range(expr, known)
    if math.isfinite(interval.lo):
        yield Constraint(lin.plus(lin.constant(interval.lo), itself, -1), interval.lo_open)
    if math.isfinite(interval.hi):
        yield Constraint(lin.plus(itself, lin.constant(interval.hi), -1), interval.hi_open)


def _at_most(a: Poly, b: Poly, strict: bool = False) -> Constraint:
    return Constraint(lin.plus(a, b, -1), strict)


def _structure(prover: Prover, expr: Expr, known: Known) -> Iterator[Constraint]:
    one = lin.constant(1)
    itself = lin.atom(prover.number(expr))
    match expr:
        case Index(axis):
            of = root(prover, axis)
            first = prover.first(of)
            if first is not None:
                yield _at_most(prover.poly(first), itself)
            yield _at_most(lin.plus(itself, one), prover.poly(end(of, first)))
        case Coord(_, along, grid):
            yield _at_most(lin.plus(itself, one), prover.poly(size(f"{grid}.{along}")))
        case Size(of):
            yield from _size(prover, of, itself)
        case Apply("floordiv", (x, m)):
            yield from _floordiv(prover, itself, x, m, known)
        case Apply("floor", (x,)):
            yield _at_most(itself, prover.poly(x))
            yield _at_most(prover.poly(x), lin.plus(itself, one), strict=True)
        case Apply("ceil", (x,)):
            yield _at_most(prover.poly(x), itself)
            yield _at_most(itself, lin.plus(prover.poly(x), one), strict=True)
        case Apply("max", args):
            for arg in args:
                yield _at_most(prover.poly(arg), itself)
        case Apply("min", args):
            for arg in args:
                yield _at_most(itself, prover.poly(arg))
        case Apply("abs", (x,)):
            yield _at_most(prover.poly(x), itself)
            yield _at_most(lin.scaled(prover.poly(x), -1), itself)
        case Apply("clamp", (_, lo, hi)):
            yield _at_most(itself, prover.poly(hi))
            if prover.nonnegative(Apply("sub", (hi, lo), kind=hi.kind), known):
                yield _at_most(prover.poly(lo), itself)
        case Reduce("argmax", (axis,)) | Rank(axis):
            whole = prover.poly(size(root(prover, axis)))
            last = lin.plus(whole, one, -1) if isinstance(expr, Reduce) else whole
            yield _at_most(itself, last)
        case Reduce("sum", axes, Literal(1)):
            count = one
            for axis in axes:
                count = lin.times(count, prover.poly(size(root(prover, axis))))
            yield _at_most(itself, count)
        case Reduce("amin", axes, body, where, mask) if where is None and mask is None:
            largest = Reduce("amax", axes, body, kind=expr.kind)
            yield _at_most(itself, lin.atom(prover.number(largest)))
        case Read():
            yield from prover.declared(expr)


def end(axis: str, first: Expr | None) -> Expr:
    """The position after the last of an axis that starts at `first`, by default at 0."""
    return size(axis) if first is None else apply("add", first, size(axis))


def root(prover: Prover, axis: str) -> str:
    """The axis whose size an index variable runs to."""
    known = prover.axes.get(axis)
    if known is not None and known.role is Role.ALIAS and known.base is not None:
        return root(prover, known.base)
    return axis


def _size(prover: Prover, of: str, itself: Poly) -> Iterator[Constraint]:
    axis = prover.axes.get(of)
    if axis is not None and axis.role is Role.BLOCK and axis.size is not None and axis.base:
        base = root(prover, axis.base)
        rows = prover.poly(end(base, prover.first(base)))
        covered = lin.times(itself, prover.poly(axis.size))
        yield _at_most(rows, covered)
        yield _at_most(lin.plus(covered, prover.poly(axis.size), -1), rows, strict=True)
    for grid in prover.spec.grids:
        if prover.spec.shared_grid or of.startswith(grid.side):
            area = lin.constant(1)
            for name in grid.names:
                area = lin.times(area, prover.poly(size(f"{grid.side}.{name}")))
            tokens = prover.poly(size(grid.side))
            if of in (grid.side, *(f"{grid.side}.{name}" for name in grid.names)):
                yield _at_most(area, tokens)
                yield _at_most(tokens, area)


def _floordiv(prover: Prover, itself: Poly, x: Expr, m: Expr, known: Known) -> Iterator[Constraint]:
    if not prover.positive(m, known):
        return
    divisor, dividend = prover.poly(m), prover.poly(x)
    whole = lin.times(divisor, itself)
    yield _at_most(whole, dividend)
    yield _at_most(dividend, lin.plus(whole, divisor), strict=True)
    if lin.value_of(divisor) is not None:
        return
    # With a divisor that varies these do not follow linearly.
    if prover.nonnegative(x, known):
        yield Constraint(lin.scaled(itself, -1))
    for parts in _parts(m):
        # x < parts * m, so the quotient is below `parts`: a grid cut in that many windows.
        limit = Apply("mul", (lit(parts), m), kind=Kind.INT)
        if prover.holds(Apply("lt", (x, limit), kind=Kind.BOOL), known):
            yield _at_most(itself, lin.constant(parts - 1))
            return


def _parts(m: Expr) -> Iterator[int]:
    """How many windows of length `m` a whole may be cut in."""
    if isinstance(m, Apply) and m.op == "floordiv" and isinstance(m.args[1], Literal):
        yield int(m.args[1].value)
