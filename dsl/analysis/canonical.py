"""A form in which conditions that say the same, term for term, are equal.

Sums are collected, comparisons written as one sum against 0, what may stand in any order sorted,
and the sign of what may be negated (|x|, x == 0, x % n == 0) fixed. Equal forms prove equality;
different ones prove nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, TypeAlias

from attnspec.dsl.ast import Apply, Coord, Expr, Index, Kind, Literal, Read, Size

Form: TypeAlias = tuple[Any, ...]
_Sum: TypeAlias = dict[Form, Fraction]

_ONE: Form = ("1",)
_OPPOSITE = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}


class _Unread(Exception):
    """An expression that is not read here."""


def same(a: Expr, b: Expr) -> bool:
    """Whether two expressions are provably equal wherever both have a value."""
    try:
        return _form(a) == _form(b)
    except _Unread:
        return False


def _form(expr: Expr) -> Form:
    match expr:
        case Index(axis=axis):
            return ("index", axis)
        case Coord(axis=axis, along=along):
            return ("coordinate", axis, along)
        case Size(of=of):
            return ("size", of)
        case Literal(value=bool(value)):
            return ("bool", value)
        case Read(name=name, index=places, pad=None):
            return ("read", name, *(_form(p) for p in places))
        case Apply(op="and" | "or" as op, args=args):
            return (op, *_sorted({_form(a) for a in args}))
        case Apply(op="not", args=(Apply(op=op, args=args, kind=kind),)) if op in _OPPOSITE:
            return _form(Apply(_OPPOSITE[op], args, kind=kind))
        case Apply(op=op, args=(a, b)) if op in _OPPOSITE and Kind.BOOL not in (a.kind, b.kind):
            return _comparison(op, a, b)
        case Apply(op="eq" | "ne" as op, args=args):
            return (op, *_sorted(_form(a) for a in args))
        case Literal() | Apply(op="add" | "sub" | "neg" | "mul"):
            return _summed(_sum(expr))
        case Apply(op="abs", args=(a,)):
            return ("abs", _unsigned(_sum(a)))
        case Apply(op="min" | "max" as op, args=args):
            return (op, *_sorted({_form(a) for a in args}))
        case Apply(op=op, args=args):
            return (op, *(_form(a) for a in args))
    raise _Unread


def _comparison(op: str, a: Expr, b: Expr) -> Form:
    if op in ("gt", "ge"):
        a, b, op = b, a, {"gt": "lt", "ge": "le"}[op]
    if op in ("eq", "ne"):
        match a, b:
            case (Apply(op="mod", args=(x, n)), Literal(value=0)):
                return (op, "mod", _unsigned(_sum(x)), _form(n))
        return (op, _unsigned(_minus(a, b)))
    less = _minus(a, b)
    if op == "le" and a.kind is Kind.INT and b.kind is Kind.INT:  # a <= b is a - 1 < b
        less[_ONE] = less.get(_ONE, Fraction(0)) - 1
        op = "lt"
    return (op, _summed(less))


def _minus(a: Expr, b: Expr) -> _Sum:
    return _plus(_sum(a), _sum(b), Fraction(-1))


def _plus(a: Mapping[Form, Fraction], b: Mapping[Form, Fraction], factor: Fraction) -> _Sum:
    total = dict(a)
    for term, count in b.items():
        total[term] = total.get(term, Fraction(0)) + factor * count
    return total


def _sum(expr: Expr) -> _Sum:
    match expr:
        case Literal(value=value) if not isinstance(value, bool):
            return {_ONE: Fraction(value)}
        case Apply(op="add", args=(a, b)):
            return _plus(_sum(a), _sum(b), Fraction(1))
        case Apply(op="sub", args=(a, b)):
            return _minus(a, b)
        case Apply(op="neg", args=(a,)):
            return _plus({}, _sum(a), Fraction(-1))
        case Apply(op="mul", args=(Literal(value=value), a) | (a, Literal(value=value))):
            return _plus({}, _sum(a), Fraction(value))
        case Apply(op="mul", args=args):
            return {("mul", *_sorted(_form(a) for a in args)): Fraction(1)}
    return {_form(expr): Fraction(1)}


def _summed(terms: Mapping[Form, Fraction]) -> Form:
    left = {term: count for term, count in terms.items() if count}
    if len(left) == 1 and next(iter(left.values())) == 1:
        return next(iter(left))
    return ("sum", *_sorted((count, term) for term, count in left.items()))


def _unsigned(terms: Mapping[Form, Fraction]) -> Form:
    """The form of a sum whose sign does not matter."""
    negated = {term: -count for term, count in terms.items()}
    return min(_summed(terms), _summed(negated), key=repr)


def _sorted(items: Any) -> list[Any]:
    return sorted(items, key=repr)
