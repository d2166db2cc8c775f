"""Least and greatest values over a tile of one side, as expressions of its ends.

Interval arithmetic on sums of terms: exact where the terms grow together, sound always. Positions
of the tile run from `lo` to `hi`; what batch, head and the call fix stands for itself. Signs of
what the call fixes are proved from the `where` and `require` lines, which hold at every call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TypeAlias

from attnspec.dsl.analysis.claims import (
    BOOL,
    INT,
    NEGATED,
    Claim,
    Unread,
    added,
    below_zero,
    denial,
    has_real,
    may_be_below,
    plain,
    surely_below,
)
from attnspec.dsl.analysis.linear import ONE, Sum, fixed, number, term
from attnspec.dsl.analysis.logic import Chances, logic
from attnspec.dsl.analysis.positions import nonnegative
from attnspec.dsl.analysis.runs import FALSE, HI, LO, TRUE, ZERO, choose, every, extreme, some
from attnspec.dsl.analysis.whole import quotient, quotients
from attnspec.dsl.ast import COMPARISONS, Apply, Expr, Index, Literal
from attnspec.dsl.build import constant
from attnspec.dsl.check_prover import Prover
from attnspec.dsl.check_size import tree_size

Range: TypeAlias = "tuple[Expr, Expr]"  # least and greatest
SLACK = Fraction(1, 2**16)  # of all magnitudes: more than a hundred roundings of float32
_MOST_TERMS = 32
_MOST_NODES = 300  # of what is possible and certain of a condition, written out


class Extents:
    """Extents over a tile of `other`; `variable` is that of the loop, which has none."""

    def __init__(self, variable: str, other: str, prover: Prover) -> None:
        self.variable, self.other = variable, other
        self.prover, self.known = prover, prover.start()
        self.sides = frozenset({variable, other})
        self.moving = self.sides | {LO, HI}
        self.left_out: list[Expr] = []  # conditions that could not be read
        self._made = 0
        self._positive: dict[Expr, bool] = {}
        self._decided: dict[tuple[int, bool], tuple[Expr, Chances]] = {}

    # sums

    def sum(self, expr: Expr) -> Sum:
        """A number as a sum of terms; raises `Unread`."""
        value = constant(expr)
        if value is not None and math.isfinite(value):
            return number(Fraction(value))
        match expr:
            case Apply(op="add", args=args):
                total = Sum()
                for arg in args:
                    total = added(total, self.sum(arg))
                return total
            case Apply(op="sub", args=(a, b)):
                return added(self.sum(a), self.sum(b).times(-1))
            case Apply(op="neg", args=(a,)):
                return self.sum(a).times(-1)
            case Apply(op="stopgrad", args=(a,)):
                return self.sum(a)
            case Apply(op="mul", args=args):
                return self._product(expr, args)
            case Apply(op="div", args=(a, Literal(value=value))) if value and math.isfinite(value):
                return self.sum(a).times(1 / Fraction(value))
        if not expr.free & self.moving:
            if not plain(expr):
                raise Unread
            return fixed(expr)
        match expr:
            case Apply(op="mod", args=(a, b)) if (
                expr.kind is INT and self.variable in a.free and self.positive(b)
            ):
                whole = term(Apply("floordiv", (a, b), kind=expr.kind))
                return self.sum(a).minus(whole.by(self.sum(b)))
            case Apply(op=("floor" | "ceil") as op, args=(a,)) if a.free & self.sides:
                return self._rounded(op, a)
        return term(expr)

    def _product(self, expr: Expr, args: Sequence[Expr]) -> Sum:
        sums = [self.sum(arg) for arg in args]
        moving = [s for s in sums if any(t.atom != ONE for t in s.terms)]
        if len(moving) > 1:
            return term(expr)
        total = moving[0] if moving else number(1)
        for part in sums:
            if not moving or part is not moving[0]:
                total = total.by(part)
        if not total.terms and any(has_real(t) for s in sums for t in s.terms):
            raise Unread  # 0 times what is not finite
        return total

    def _rounded(self, op: str, expr: Expr) -> Sum:
        found = quotient(expr)
        if found is None or not self.positive(found[1]):
            raise Unread
        above = self.sum(found[0]).times(1 if op == "floor" else -1)
        return self.quotient(above, self.sum(found[1])).times(1 if op == "floor" else -1)

    def quotient(self, above: Sum, below: Sum) -> Sum:
        """above // below, for a `below` that is above 0."""
        if below.literal() == 1:
            return above
        return self.sum(Apply("floordiv", (above.expr(), below.expr()), kind=INT))

    def between(self, low: Expr, high: Expr) -> Sum:
        """Some whole number from `low` to `high`, each time another one."""
        self._made += 1
        args = (low, high, Literal(self._made, kind=INT), Index(self.other, kind=INT))
        return term(Apply("between", args, kind=INT))

    # signs

    def positive(self, expr: Expr) -> bool:
        """Whether what the call fixes is proved to be above 0."""
        if expr.free & self.moving or not plain(expr):
            return False
        if expr not in self._positive:
            self._positive[expr] = self.prover.positive(expr, self.known)
        return self._positive[expr]

    def sign(self, total: Sum) -> int:
        """1 or -1, where it is proved; raises `Unread`."""
        value = total.literal()
        if value is not None:
            return 1 if value > 0 else -1
        for sign in (1, -1):
            if self.positive(total.times(sign).expr(total.kind)):
                return sign
        raise Unread

    def _at_least_zero(self, fixed: Expr) -> bool:
        return nonnegative(fixed) or self.prover.nonnegative(fixed, self.known)

    # ranges

    def range(self, expr: Expr) -> Range:
        """Least and greatest value of a number free of the variable; raises `Unread`."""
        low, high = self.ends(self.sum(expr))
        return low.expr(expr.kind), high.expr(expr.kind)

    def ends(self, total: Sum) -> tuple[Sum, Sum]:
        """Least and greatest value of a sum free of the variable; raises `Unread`."""
        low, high = Sum(), Sum()
        for t in self._without_remainders(total).terms:
            if self.other not in t.atom.free:
                low, high = low.plus(Sum((t,))), high.plus(Sum((t,)))
                continue
            least, most = (self.sum(x).times(t.number, t.factor) for x in self._extent(t.atom))
            if t.factor is not None and not self._at_least_zero(t.factor):
                kind = t.factor.kind
                one, two = least.expr(kind), most.expr(kind)
                least, most = term(extreme("min", one, two)), term(extreme("max", one, two))
            elif t.number < 0:
                least, most = most, least
            low, high = low.plus(least), high.plus(most)
        return low, high

    def _without_remainders(self, total: Sum) -> Sum:
        """x - x % n is x // n * n, which is read exactly."""
        for t in total.terms:
            match t.atom:
                case Apply(op="mod", args=(x, n)) if self.positive(n) and not has_real(t):
                    whole = term(Apply("floordiv", (x, n), kind=INT))
                    written = self.sum(x).minus(whole.by(self.sum(n))).times(t.number, t.factor)
                    candidate = total.minus(Sum((t,))).plus(written)
                    if len(candidate.terms) < len(total.terms):
                        return self._without_remainders(candidate)
        return total

    def _extent(self, atom: Expr) -> Range:
        """The range of what is no sum."""
        match atom:
            case Index():
                return Index(LO, kind=INT), Index(HI, kind=INT)
            case Apply(op="between", args=(low, high, _, _)):
                return low, high
            case Apply(op="where", args=(c, x, y)):
                return self._picked(self.chances(c), self.range(x), self.range(y))
            case Apply(op=("floordiv" | "div") as op, args=(x, n)) if self.positive(n):
                low, high = self.range(x)
                return Apply(op, (low, n), kind=atom.kind), Apply(op, (high, n), kind=atom.kind)
            case Apply(op=op, args=args) if atom.kind is INT:  # min and max may hide a nan
                return self._whole_extent(op, args)
        raise Unread

    def _whole_extent(self, op: str, args: Sequence[Expr]) -> Range:
        if op == "mod" and self.positive(args[1]):
            return self._remainder(*args)
        ranges = [self.range(x) for x in args]
        lows, highs = [low for low, _ in ranges], [high for _, high in ranges]
        match op, ranges:
            case (("min" | "max"), _):
                return extreme(op, *lows), extreme(op, *highs)
            case "clamp", _:
                return _clamped(*lows), _clamped(*highs)
            case "abs", [(low, high)]:
                below, above = self.sum(low).times(-1).expr(), self.sum(high).times(-1).expr()
                return extreme("max", low, above, ZERO), extreme("max", high, below)
            case "mul", _ if all(nonnegative(x) for x in args):
                return Apply(op, tuple(lows), kind=INT), Apply(op, tuple(highs), kind=INT)
        raise Unread

    def _remainder(self, x: Expr, n: Expr) -> Range:
        """x % n: exact while x stays between two multiples of n."""
        low, high = self.range(x)
        quotients = (Apply("floordiv", (end, n), kind=INT) for end in (low, high))
        same = Apply("eq", tuple(quotients), kind=BOOL)
        most = self.sum(n).minus(number(1)).expr()
        least, greatest = (Apply("mod", (end, n), kind=INT) for end in (low, high))
        return choose(same, least, ZERO), choose(same, greatest, most)

    def _picked(self, c: Chances, x: Range, y: Range) -> Range:
        """`where`: the range of one branch where the tile decides, else of both."""
        low, high = extreme("min", x[0], y[0]), extreme("max", x[1], y[1])
        return (
            choose(c[1], x[0], choose(c[0], low, y[0])),
            choose(c[1], x[1], choose(c[0], high, y[1])),
        )

    def slack(self, total: Sum) -> Sum:
        """More than what rounding can change in a sum of real numbers."""
        if len(total.terms) > _MOST_TERMS:
            raise Unread
        found = number(SLACK)
        for t in total.terms:
            factor = t.factor
            if factor is not None and not self._at_least_zero(factor):
                factor = Apply("abs", (factor,), kind=factor.kind)
            size = number(1) if self.other not in t.atom.free else self.sum(self._size(t.atom))
            found = found.plus(size.times(abs(t.number) * SLACK, factor))
        return found

    def _size(self, atom: Expr) -> Expr:
        low, high = self._extent(atom)
        if nonnegative(atom):
            return high
        ends = (Apply("abs", (low,), kind=low.kind), Apply("abs", (high,), kind=high.kind))
        return extreme("max", *ends)

    # conditions

    def chances(self, expr: Expr, holds: bool = True) -> Chances:
        """Of a condition free of the variable: may it hold in the tile, must it?"""
        key = id(expr), holds
        if key not in self._decided:
            self._decided[key] = expr, self._chances(expr, holds)
        return self._decided[key][1]

    def _chances(self, expr: Expr, holds: bool) -> Chances:
        try:
            found = self._fixed(expr, holds) or logic(expr, holds, self.chances, _every, _some)
            if found is None:
                found = self._compared_chances(expr, holds)
            if sum(map(tree_size, found)) > _MOST_NODES:  # or its parts would double at every level
                raise Unread
            return found
        except Unread:
            self.left_out.append(expr)
            return TRUE, FALSE

    def _fixed(self, expr: Expr, holds: bool) -> Chances | None:
        """Of a condition that is one for the whole tile."""
        match expr:
            case Literal(value=value):
                found = TRUE if bool(value) is holds else FALSE
                return found, found
            case Apply(op="and" | "or" | "not"):
                return None
            case _ if self.other not in expr.free and plain(expr):
                same = expr if holds else denial(expr)
                return same, same
        return None

    def _compared_chances(self, expr: Expr, holds: bool) -> Chances:
        match expr:
            case Apply(op=op, args=(a, b)) if op in COMPARISONS:
                cases = self.cases(op, a, b, holds)
                return _some([_every([self.decided(claim) for claim in case]) for case in cases])
        raise Unread

    def cases(self, op: str, a: Expr, b: Expr, holds: bool) -> list[list[Claim]]:
        """A comparison, or its opposite, as a union of conjunctions."""
        op = op if holds else NEGATED[op]
        found = quotients(a, b)
        real = found is None or not all(self.positive(below) for _, below in found)
        if real and (op == "ne" or not holds):  # what is not a number has no opposite
            raise Unread
        if found is None or real:
            total = added(self.sum(a), self.sum(b).times(-1))
        else:
            (above, below), (over, under) = found
            total = self.sum(above).by(self.sum(under)).minus(self.sum(over).by(self.sum(below)))
        less, more = Claim(total, real), Claim(total.times(-1), real)
        match op:
            case "le":
                return [[less]]
            case "ge":
                return [[more]]
            case "lt":
                return [[less.strictly]]
            case "gt":
                return [[more.strictly]]
            case "eq":
                return [[less, more]]
        return [[less.strictly], [more.strictly]]

    def decided(self, claim: Claim) -> Chances:
        """What is possible and certain of a claim free of the variable."""
        value = claim.total.literal()
        if value is not None:
            found = TRUE if value < 0 or (value == 0 and not claim.strict) else FALSE
            return found, found
        low, high = self.ends(claim.total)
        if not claim.real:
            return below_zero(low, INT), below_zero(high, INT)
        slack = self.slack(claim.total)
        return may_be_below(low.minus(slack)), surely_below(high.plus(slack))


def _every(parts: Sequence[Chances]) -> Chances:
    return every(*(p for p, _ in parts)), every(*(c for _, c in parts))


def _some(parts: Sequence[Chances]) -> Chances:
    return some(*(p for p, _ in parts)), some(*(c for _, c in parts))


def _clamped(x: Expr, low: Expr, high: Expr) -> Expr:
    return extreme("min", extreme("max", x, low), high)
