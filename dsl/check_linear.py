"""Linear inequalities over the rationals and integers: does a set of them contradict itself?

Polynomials are sums of monomials over numbered atoms; products of atoms are monomials of their
own, so that everything is linear in monomials. Fourier-Motzkin elimination with integer
tightening decides; it is complete for none of this, and says "no contradiction found" at a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, gcd, lcm

Rational = int | Fraction  # an int wherever it is one: most are, and fractions are slow
Monomial = tuple[int, ...]
Poly = Mapping[Monomial, Rational]

ONE: Monomial = ()
MAX_CONSTRAINTS = 120


def exact(value: Rational | float) -> Rational:
    """A number as an int where it is one, and as a fraction elsewhere."""
    if isinstance(value, int):
        return value
    fraction = Fraction(value)
    return fraction.numerator if fraction.denominator == 1 else fraction


def constant(value: Rational | float) -> Poly:
    """A constant polynomial."""
    return {ONE: exact(value)} if value else {}


def atom(number: int) -> Poly:
    """The polynomial of one atom."""
    return {(number,): 1}


def plus(a: Poly, b: Poly, factor: Rational = 1) -> Poly:
    """a + factor * b."""
    result = dict(a)
    for monomial, value in b.items():
        total = exact(result.get(monomial, 0) + factor * value)
        if total:
            result[monomial] = total
        else:
            result.pop(monomial, None)
    return result


def times(a: Poly, b: Poly) -> Poly:
    """a * b."""
    result: dict[Monomial, Rational] = {}
    for left, x in a.items():
        for right, y in b.items():
            monomial = tuple(sorted(left + right))
            result[monomial] = exact(result.get(monomial, 0) + x * y)
    return {monomial: value for monomial, value in result.items() if value}


def scaled(a: Poly, factor: Rational) -> Poly:
    """factor * a."""
    return {monomial: exact(value * factor) for monomial, value in a.items()} if factor else {}


def value_of(a: Poly) -> Rational | None:
    """The value of a constant polynomial."""
    if not a:
        return 0
    return a[ONE] if set(a) == {ONE} else None


@dataclass(frozen=True, slots=True)
class Constraint:
    """`poly <= 0`, or `poly < 0` when strict."""

    poly: Poly
    strict: bool = False


def contradictory(
    constraints: Iterable[Constraint],
    is_int: Callable[[Monomial], bool],
    spend: Callable[[int], bool],
) -> bool:
    """Whether the constraints have no solution, as far as this can tell.

    `spend(n)` takes n steps of a budget and says whether they were there.
    """
    rows: dict[Poly_key, Constraint] = {}
    for constraint in constraints:
        if _add(rows, constraint, is_int):
            return True
    while True:
        variable = _cheapest(rows.values())
        if variable is None:
            return False
        rest: dict[Poly_key, Constraint] = {}
        upper: list[Constraint] = []
        lower: list[Constraint] = []
        for row in rows.values():
            factor = row.poly.get(variable)
            if factor is None:
                rest[_key(row.poly)] = row
            else:
                (upper if factor > 0 else lower).append(row)
        if not spend(1 + len(upper) * len(lower)) or len(rest) > MAX_CONSTRAINTS:
            return False
        for u in upper:
            for low in lower:
                combined = plus(scaled(u.poly, -low.poly[variable]), low.poly, u.poly[variable])
                if _add(rest, Constraint(combined, u.strict or low.strict), is_int):
                    return True
        rows = rest


Poly_key = tuple[tuple[Monomial, Rational], ...]


def _key(poly: Poly) -> Poly_key:
    """What two parallel constraints share: the polynomial without its constant."""
    return tuple(sorted((m, v) for m, v in poly.items() if m != ONE))


def _add(
    rows: dict[Poly_key, Constraint], row: Constraint, is_int: Callable[[Monomial], bool]
) -> bool:
    """Add a row, tightened; whether it is a contradiction by itself."""
    variables = [m for m in row.poly if m != ONE]
    const = row.poly.get(ONE, 0)
    if not variables:
        return const > 0 or (row.strict and const == 0)
    shared = lcm(*(row.poly[m].denominator for m in variables))
    factor = gcd(*(int(row.poly[m] * shared) for m in variables))
    whole = shared == factor
    poly = dict(row.poly if whole else scaled(row.poly, exact(Fraction(shared, factor))))
    strict = row.strict
    if all(is_int(m) for m in variables):
        bound = -poly.get(ONE, 0)
        tight = ceil(bound) - 1 if strict else floor(bound)
        poly.pop(ONE, None)
        if tight:
            poly[ONE] = -tight
        strict = False
    key = _key(poly)
    old = rows.get(key)
    new = (poly.get(ONE, 0), strict)
    if old is None or new > (old.poly.get(ONE, 0), old.strict):
        rows[key] = Constraint(poly, strict)
    return False


def _cheapest(rows: Iterable[Constraint]) -> Monomial | None:
    """The variable whose elimination makes the fewest rows."""
    counts: dict[Monomial, list[int]] = {}
    for row in rows:
        for monomial, value in row.poly.items():
            if monomial != ONE:
                counts.setdefault(monomial, [0, 0])[value > 0] += 1
    if not counts:
        return None
    return min(counts, key=lambda m: (counts[m][0] * counts[m][1] - sum(counts[m]), m))
