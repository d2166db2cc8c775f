"""Sums of terms, each a rational number times a factor that the call fixes times an atom."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from attnspec.dsl.ast import Apply, Expr, Kind, Literal

ONE = Literal(1, kind=Kind.INT)
Factor: TypeAlias = "Expr | None"  # None: 1


@dataclass(frozen=True, slots=True)
class Term:
    """number * factor * atom; `atom` is `ONE` in what the call fixes."""

    number: Fraction
    factor: Factor
    atom: Expr

    @property
    def plain(self) -> bool:
        """Whether it is a number."""
        return self.factor is None and self.atom == ONE


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum of terms that differ in factor or atom, none of them 0."""

    terms: tuple[Term, ...] = ()

    @property
    def kind(self) -> Kind:
        """FLOAT where a factor or an atom is."""
        parts = (x for t in self.terms for x in (t.factor, t.atom) if x is not None)
        return Kind.FLOAT if any(x.kind is Kind.FLOAT for x in parts) else Kind.INT

    def plus(self, other: Sum) -> Sum:
        """The sum of both."""
        return _collected((*self.terms, *other.terms))

    def minus(self, other: Sum) -> Sum:
        """The difference."""
        return self.plus(other.times(-1))

    def times(self, number: Fraction | int, factor: Factor = None) -> Sum:
        """Every term times a number and a factor."""
        return _collected(
            Term(t.number * number, _product(t.factor, factor), t.atom) for t in self.terms
        )

    def by(self, other: Sum) -> Sum:
        """Every term times every term of a sum without atoms."""
        found = Sum()
        for term in other.terms:
            found = found.plus(self.times(term.number, term.factor))
        return found

    def atoms(self, variable: str) -> list[Expr]:
        """The atoms that depend on `variable`, each once."""
        return list(dict.fromkeys(t.atom for t in self.terms if variable in t.atom.free))

    def parted(self, atom: Expr) -> tuple[Sum, Sum]:
        """What `atom` is multiplied by, and the rest."""
        mine = tuple(Term(t.number, t.factor, ONE) for t in self.terms if t.atom == atom)
        return Sum(mine), Sum(tuple(t for t in self.terms if t.atom != atom))

    def literal(self) -> Fraction | None:
        """The value of a sum that is a number."""
        match self.terms:
            case ():
                return Fraction(0)
            case (only,) if only.plain:
                return only.number
        return None

    def expr(self, kind: Kind = Kind.INT) -> Expr:
        """The sum as an expression: what is added, what is taken away, and then the number."""
        ordered = sorted(self.terms, key=lambda t: 2 if t.plain else int(t.number < 0))
        if ordered and ordered[0].number < 0 < ordered[-1].number:
            ordered.insert(0, ordered.pop())
        total: Expr | None = None
        for t in ordered:
            part = _spelled(t, kind)
            if total is not None:
                total = Apply("add" if t.number > 0 else "sub", (total, part), kind=kind)
            else:
                total = part if t.number > 0 else negative(part)
        return literal(Fraction(0), kind) if total is None else total


def literal(value: Fraction, kind: Kind = Kind.INT) -> Literal:
    """A number of `kind`; an int is whole."""
    assert kind is Kind.FLOAT or value.denominator == 1
    return Literal(int(value) if kind is Kind.INT else float(value), kind=kind)


def negative(expr: Expr) -> Expr:
    """-expr."""
    match expr:
        case Literal(value=value):
            return Literal(-value, kind=expr.kind)
        case Apply(op="neg", args=(inner,)):
            return inner
    return Apply("neg", (expr,), kind=expr.kind)


def number(value: Fraction | int) -> Sum:
    """A sum that is a number."""
    return _collected([Term(Fraction(value), None, ONE)])


def fixed(factor: Expr) -> Sum:
    """A sum of one factor that the call fixes."""
    return Sum((Term(Fraction(1), factor, ONE),))


def term(atom: Expr) -> Sum:
    """A sum of one atom."""
    return Sum((Term(Fraction(1), None, atom),))


def _collected(terms: Iterable[Term]) -> Sum:
    found: dict[tuple[Factor, Expr], Fraction] = {}
    for t in terms:
        key = (t.factor, t.atom)
        found[key] = found.get(key, Fraction(0)) + t.number
    return Sum(tuple(Term(n, *key) for key, n in found.items() if n))


def _product(a: Factor, b: Factor) -> Factor:
    if a is None or b is None:
        return b if a is None else a
    kind = Kind.INT if a.kind is b.kind is Kind.INT else Kind.FLOAT
    first, *others = sorted([*_factors(a), *_factors(b)], key=repr)
    for other in others:
        first = Apply("mul", (first, other), kind=kind)
    return first


def _factors(expr: Expr) -> tuple[Expr, ...]:
    if isinstance(expr, Apply) and expr.op == "mul":
        return tuple(factor for arg in expr.args for factor in _factors(arg))
    return (expr,)


def _spelled(t: Term, kind: Kind) -> Expr:
    parts = [x for x in (t.factor, t.atom) if x is not None and x != ONE]
    if abs(t.number) != 1 or not parts:
        parts.insert(0, literal(abs(t.number), kind))
    total = parts[0]
    for part in parts[1:]:
        total = Apply("mul", (total, part), kind=kind)
    return total
