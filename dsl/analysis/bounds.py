"""Loop bounds of a tile from the mask alone.

A mask is read as a union of conjunctions of comparisons. In each comparison the loop's variable
is isolated, through sums, factors, floor divisions, `min`, `max`, `abs`, `clamp` and `where`, which
leaves `variable >= L` or `variable <= U` with L and U free of it. Over a tile of the other variable
the least L and the greatest U bound what can be allowed at all (`first`, `last`), the greatest L
and the least U what is allowed for the whole tile (`full_first`, `full_last`). What cannot be read
bounds nothing, and then no tile counts as full: always sound, not always tight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce

from attnspec.dsl.analysis.claims import FLOAT, INT, Claim, Unread, added
from attnspec.dsl.analysis.extents import Extents
from attnspec.dsl.analysis.fact import Fact
from attnspec.dsl.analysis.linear import Sum, number
from attnspec.dsl.analysis.logic import logic
from attnspec.dsl.analysis.periods import repeat
from attnspec.dsl.analysis.runs import (
    EVERYTHING,
    UNKNOWN,
    Bounds,
    Run,
    Runs,
    bounds_of,
    choose,
    given,
    meet,
    parted,
    shown,
    union,
    without_full,
)
from attnspec.dsl.ast import COMPARISONS, Apply, Expr, Index, Kind, Literal
from attnspec.dsl.check_prover import Prover
from attnspec.dsl.formula import formula

_STEPS = 500  # comparisons solved for one mask
_LOW, _HIGH = (Literal(x, kind=FLOAT) for x in (-(2.0**30), 2.0**30))  # past every position
_LIFTED = frozenset({"min", "max", "abs", "clamp", "where"})


def bounds(mask: Expr | None, variable: str, other: str, prover: Prover) -> Bounds:
    """Bounds of a loop over `variable` for a tile of `other`; `mask` is inlined."""
    if mask is None:
        return Bounds(EVERYTHING, tight=True)
    reader = _Reader(variable, other, prover)
    runs = reader.read(mask)
    return bounds_of(runs, tight=repeat(reader.left_out))


class _Reader(Extents):
    """Reads one mask for a loop over `variable`."""

    def __init__(self, variable: str, other: str, prover: Prover) -> None:
        super().__init__(variable, other, prover)
        self.steps = _STEPS
        self._runs: dict[tuple[int, bool], tuple[Expr, Runs]] = {}

    def read(self, mask: Expr, holds: bool = True) -> Runs:
        """Where a condition holds, or does not."""
        if self.variable not in mask.free:
            return given(*self.chances(mask, holds))
        key = id(mask), holds
        if key not in self._runs:
            self._runs[key] = mask, self._read(mask, holds)
        return self._runs[key][1]

    def _read(self, mask: Expr, holds: bool) -> Runs:
        try:
            found = logic(mask, holds, self.read, _both, _either)
            return self._compared_runs(mask, holds) if found is None else found
        except Unread:
            self.left_out.append(mask)
            return UNKNOWN

    def _compared_runs(self, mask: Expr, holds: bool) -> Runs:
        match mask:
            case Apply(op=op, args=(a, b)) if op in COMPARISONS:
                cases = self.cases(op, a, b, holds)
                return _either([_both([self.solve(claim) for claim in case]) for case in cases])
        raise Unread

    def solve(self, claim: Claim) -> Runs:
        """Where a claim holds."""
        self.steps -= 1
        if self.steps < 0:
            raise Unread
        atoms = claim.total.atoms(self.variable)
        if not atoms:
            return given(*self.decided(claim))
        lifted = next((a for a in atoms if isinstance(a, Apply) and a.op in _LIFTED), None)
        if lifted is not None:
            return self._lifted(claim, lifted)
        if len(atoms) > 1:
            return self.solve(self._relaxed(claim, atoms))
        by, rest = claim.total.parted(atoms[0])
        match atoms[0]:
            case Apply(op="div", args=(x, n)) if self.positive(n):
                whole = self.sum(x).by(by).plus(rest.by(self.sum(n)))
                return self.solve(claim.of(whole))
        up = self.sign(by) > 0
        size = by if up else by.times(-1)
        if claim.real:
            return self._isolated(atoms[0], self._real_limit(rest, size, up), up)
        quotient = self.quotient(rest.times(-1), size)
        return self._isolated(atoms[0], quotient if up else quotient.times(-1), up)

    def _isolated(self, atom: Expr, limit: Sum, up: bool) -> Runs:
        """Where atom <= limit (`up`) or atom >= limit."""
        match atom:
            case Index():
                low, high = (end.expr() for end in self.ends(limit))
                return (Run(last=high, full_last=low) if up else Run(first=low, full_first=high),)
            case Apply(op="floordiv", args=(x, n)) if atom.kind is INT and self.positive(n):
                inside, divisor = self.sum(x), self.sum(n)
                if not up:
                    return self.solve(Claim(limit.by(divisor).minus(inside), real=False))
                over = limit.plus(number(1)).by(divisor)
                return self.solve(Claim(inside.minus(over).plus(number(1)), real=False))
        raise Unread

    def _lifted(self, claim: Claim, atom: Apply) -> Runs:
        """`min`, `max`, `abs`, `clamp` and `where` as unions and conjunctions of their parts."""
        by, rest = claim.total.parted(atom)

        def holds(value: Expr) -> Runs:
            return self.solve(claim.of(added(rest, self.sum(value).by(by))))

        op, args = atom.op, atom.args
        match op, args:
            case "where", (c, a, b):
                yes = meet(self.read(c), holds(a))
                return _either([yes, meet(self.read(c, False), holds(b))])
            case "abs", (x,):
                op, args = "max", (x, Apply("neg", (x,), kind=x.kind))
            case "clamp", (x, low, high):
                op, args = "min", (Apply("max", (x, low), kind=atom.kind), high)
        parts = [holds(arg) for arg in args]
        if (op == "max") == (self.sign(by) > 0):
            return _both(parts)
        for at, _ in enumerate(parts):  # one part is enough only if the others are numbers
            others = (*args[:at], *args[at + 1 :])
            if any(x.kind is FLOAT and not isinstance(x, Literal) for x in others):
                parts[at] = without_full(parts[at])
        return _either(parts)

    def _relaxed(self, claim: Claim, atoms: Sequence[Expr]) -> Claim:
        """x // n as (x - r) / n with some r from 0 to n - 1, where it stands beside others."""
        for atom in atoms:
            match atom:
                case Apply(op="floordiv", args=(x, n)) if self.positive(n) and not claim.real:
                    by, rest = claim.total.parted(atom)
                    divisor = self.sum(n)
                    most = divisor.minus(number(1)).expr()
                    left = self.between(Literal(0, kind=INT), most)
                    whole = rest.by(divisor).plus(self.sum(x).minus(left).by(by))
                    if whole.atoms(self.variable):
                        return claim.of(whole)
        raise Unread

    def _real_limit(self, rest: Sum, size: Sum, up: bool) -> Sum:
        """The limit of a whole number of which size * number + rest <= 0 (`up`), or - size."""
        value = size.literal()
        limit = rest.times(-1 if up else 1)
        if value is not None:
            limit = limit.times(1 / value)
        else:
            one = Literal(1.0, kind=FLOAT)
            limit = limit.times(1, Apply("div", (one, size.expr(FLOAT)), kind=FLOAT))
        low, high = self.ends(limit)
        slack = self.slack(limit)
        return self.between(*_rounded(low.minus(slack), high.plus(slack), up))


def _rounded(low: Sum, high: Sum, up: bool) -> tuple[Expr, Expr]:
    """A real limit from `low` to `high` in whole numbers: the greatest up to it, or the least from
    it on. What is not a number allows everything, and nothing for certain."""
    turn, least, most = "floor" if up else "ceil", low.literal(), high.literal()
    if least is not None and most is not None:
        whole = math.floor if up else math.ceil
        return Literal(whole(least), kind=INT), Literal(whole(most), kind=INT)

    def end(total: Sum, lowest: bool) -> Expr:
        """Within all positions, and at the lowest or the highest where it is not a number."""
        near, far, holds, inner = (
            (_LOW, _HIGH, "ge", "min") if lowest else (_HIGH, _LOW, "le", "max")
        )
        x = total.expr(FLOAT)
        known = Apply(holds, (x, near), kind=Kind.BOOL)
        return Apply(turn, (choose(known, Apply(inner, (x, far), kind=FLOAT), near),), kind=INT)

    return end(low, lowest=True), end(high, lowest=False)


def describe(mask: Expr | None, rows: Bounds, columns: Bounds) -> Iterator[Fact]:
    """The loops' bounds as facts."""
    if mask is None:
        yield Fact("mask", "every pair", "there is no mask", "no mask arithmetic")
    for name, found in (
        ("keys of a tile of queries", rows),
        ("queries of a tile of keys", columns),
    ):
        if any(run.first is None and run.last is None for run in found.runs):
            continue
        why = "each comparison of the mask is solved for the loop's position"
        buys = "tiles outside are never visited"
        if any(run.full for run in found.runs):
            buys += ", tiles inside the full range need no mask"
        yield Fact(name, " or ".join(_shown(run) for run in found.runs), why, buys)


def _shown(run: Run) -> str:
    text = _interval(run.first, run.last)
    if run.full:
        text += f" (full: {_interval(run.full_first, run.full_last)})"
    return text


def _interval(first: Expr | None, last: Expr | None) -> str:
    """An interval of positions; the condition for it to begin at all stands after it."""
    only, first = parted(first)
    interval = f"{shown(first, 'start')} .. {shown(last, 'end')}"
    return interval + (f" if {formula(only)}" if only is not None else "")


def _both(parts: Sequence[Runs]) -> Runs:
    return reduce(meet, parts)


def _either(parts: Sequence[Runs]) -> Runs:
    return union(run for part in parts for run in part)
