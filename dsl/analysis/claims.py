"""Claims about sums, and what sums and conditions become once they are decided."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.dsl.analysis.linear import Sum, Term, number
from attnspec.dsl.analysis.positions import nonnegative
from attnspec.dsl.analysis.runs import TRUE
from attnspec.dsl.ast import Apply, Expr, Index, Kind, Literal, Read, Size, walk

INT, FLOAT, BOOL = Kind.INT, Kind.FLOAT, Kind.BOOL
NEGATED = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}


class Unread(Exception):
    """What this analysis does not know."""


@dataclass(frozen=True, slots=True)
class Claim:
    """total <= 0, of whole numbers or of `real` ones; `strict` (reals only): total < 0."""

    total: Sum
    real: bool
    strict: bool = False

    @property
    def strictly(self) -> Claim:
        """total < 0."""
        if self.real:
            return Claim(self.total, real=True, strict=True)
        return Claim(self.total.plus(number(1)), real=False)

    def of(self, total: Sum) -> Claim:
        """The same of another sum."""
        return Claim(total, self.real, self.strict)


def added(a: Sum, b: Sum) -> Sum:
    """The sum of both. `Unread` where real numbers cancel: they may be infinite or not numbers,
    and then so is their difference."""
    kept = {(t.factor, t.atom): t.number for t in a.terms if has_real(t)}
    if any(kept.get((t.factor, t.atom), 0) * t.number < 0 for t in b.terms):
        raise Unread
    return a.plus(b)


def has_real(t: Term) -> bool:
    """Whether a real number that the call gives is in a term."""
    return t.atom.kind is FLOAT or (t.factor is not None and t.factor.kind is FLOAT)


def plain(expr: Expr) -> bool:
    """Whether what reads no token is one number of the call or of a batch, head or channel, in a
    form that kernels hold.

    A real number that reads tensors is that value itself, so that it is rounded nowhere else.
    """
    reads = any(isinstance(n, Read) and n.index for n in walk(expr))
    if expr.kind is FLOAT and reads and not isinstance(expr, Read):
        return False
    return all(isinstance(n, Literal | Size | Index | Apply | Read) for n in walk(expr))


def denial(condition: Expr) -> Expr:
    """The opposite of a condition that the call fixes."""
    match condition:
        case Apply(op=op, args=(a, b)) if op in NEGATED and a.kind is b.kind is INT:
            return Apply(NEGATED[op], (a, b), kind=BOOL)
    return Apply("not", (condition,), kind=BOOL)


def below_zero(total: Sum, kind: Kind) -> Expr:
    """total <= 0, with what is taken away on the other side."""
    left = Sum(tuple(t for t in total.terms if t.number > 0))
    right = left.minus(total)
    if not left.terms and nonnegative(right.expr(kind)):
        return TRUE
    less = number(1)
    if kind is INT and less.terms[0] in left.terms and len(left.terms) > 1:
        return Apply("lt", (left.minus(less).expr(), right.expr()), kind=BOOL)
    return Apply("le", (left.expr(kind), right.expr(kind)), kind=BOOL)


def may_be_below(total: Sum) -> Expr:
    """total <= 0 of real numbers, true as well where that is no number."""
    match below_zero(total, FLOAT):
        case Apply(op="le", args=args):
            return Apply("not", (Apply("gt", args, kind=BOOL),), kind=BOOL)
        case found:
            return found


def surely_below(total: Sum) -> Expr:
    """total < 0 of real numbers; two infinities have no difference."""
    match below_zero(total, FLOAT):
        case Apply(op="le", args=args):
            return Apply("lt", args, kind=BOOL)
        case found:
            return found
