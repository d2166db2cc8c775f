"""Loop bounds of a tile from the mask alone.

A mask is read as a union of conjunctions of integer comparisons. In each comparison the loop's
variable is isolated (through sums and floor divisions), which leaves `variable >= L` or
`variable <= U` with L and U free of it. Over a tile of the other
variable the least L and the greatest U bound what can be allowed at all (`first`, `last`), the
greatest L and the least U what is allowed for the whole tile (`full_first`, `full_last`).
Results are expressions over `Index("lo")` and `Index("hi")`, the first and last position of the
tile, so the same result serves every tile size. What cannot be read bounds nothing, and then
no tile counts as full: always sound, not always tight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from attnspec.dsl.analysis.fact import Fact
from attnspec.dsl.ast import Apply, Expr, Index, Kind, Literal, Read, Size, walk
from attnspec.dsl.formula import formula

LO, HI = "lo", "hi"
Range: TypeAlias = "tuple[Expr, Expr]"


@dataclass(frozen=True, slots=True)
class Run:
    """Positions of the loop variable: [first, last] may hold pairs, [full_first, full_last] only.

    None leaves that side open. `full` is false when some tile inside may still have a hole.
    The run is empty where last < first.
    """

    first: Expr | None = None
    last: Expr | None = None
    full_first: Expr | None = None
    full_last: Expr | None = None
    full: bool = True


@dataclass(frozen=True, slots=True)
class Bounds:
    """The union of some runs, which may overlap: what stands in none of them holds no pair.

    `tight` says that every comparison of the mask was read.
    """

    runs: tuple[Run, ...]
    tight: bool


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
    first = "start" if run.first is None else formula(run.first)
    last = "end" if run.last is None else formula(run.last)
    return f"{first} .. {last}"


def integer(value: int) -> Literal:
    """An int literal."""
    return Literal(value, kind=Kind.INT)


def apply(op: str, *args: Expr) -> Expr:
    """An int operation, with the trivial cases folded."""
    match op, args:
        case (("add" | "sub"), (a, Literal(value=0))):
            return a
        case "add", (Literal(value=0), b):
            return b
        case (("mul" | "floordiv"), (a, Literal(value=1))):
            return a
        case _ if all(isinstance(a, Literal) for a in args):
            return integer(_fold(op, [int(a.value) for a in args if isinstance(a, Literal)]))
    return Apply(op, args, kind=Kind.INT)


def _fold(op: str, values: list[int]) -> int:
    match op, values:
        case "add", [a, b]:
            return a + b
        case "sub", [a, b]:
            return a - b
        case "mul", [a, b]:
            return a * b
        case "floordiv", [a, b]:
            return a // b if b else 0
        case "mod", [a, b]:
            return a % b if b else 0
        case "neg", [a]:
            return -a
        case "min", _:
            return min(values)
        case "max", _:
            return max(values)
        case "abs", [a]:
            return abs(a)
    raise ValueError(op)


def bounds(mask: Expr | None, variable: str, other: str) -> Bounds:
    """Bounds of a loop over `variable` for a tile of `other`."""
    found = Run() if mask is None else _run(mask, variable, other)
    return Bounds((found,), found.full)


def hull(found: Bounds) -> Run:
    """The least single run around all runs."""
    if len(found.runs) == 1:
        return found.runs[0]
    return Run(
        first=_hull("min", [r.first for r in found.runs]),
        last=_hull("max", [r.last for r in found.runs]),
        full=False,
    )


def _run(mask: Expr, variable: str, other: str) -> Run:
    """One run around what a mask allows."""
    match mask:
        case Apply(op="and", args=args):
            found = Run()
            for arg in args:
                found = _meet(found, _run(arg, variable, other))
            return found
        case Apply(op="or", args=args):
            parts = [_run(arg, variable, other) for arg in args]
            return Run(
                first=_hull("min", [p.first for p in parts]),
                last=_hull("max", [p.last for p in parts]),
                full=False,
            )
        case Apply(op="not", args=(Apply(op=op, args=args, kind=kind),)) if op in _NEGATED:
            return _run(Apply(_NEGATED[op], args, kind=kind), variable, other)
        case Apply(op=op, args=(a, b)) if op in _FLIPPED:
            return _comparison(op, a, b, variable, other)
        case Literal(value=True):
            return Run()
    return Run(full=False)


_FLIPPED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq"}
_NEGATED = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt"}


def _meet(a: Run, b: Run) -> Run:
    def tighter(op: str, x: Expr | None, y: Expr | None) -> Expr | None:
        if x is None or y is None:
            return y if x is None else x
        return x if x == y else apply(op, x, y)

    return Run(
        tighter("max", a.first, b.first),
        tighter("min", a.last, b.last),
        tighter("max", a.full_first, b.full_first),
        tighter("min", a.full_last, b.full_last),
        a.full and b.full,
    )


def _hull(op: str, values: list[Expr | None]) -> Expr | None:
    found: Expr | None = values[0]
    for value in values[1:]:
        if found is None or value is None:
            return None
        found = found if found == value else apply(op, found, value)
    return found


def _comparison(op: str, a: Expr, b: Expr, variable: str, other: str) -> Run:
    if a.kind is not Kind.INT or b.kind is not Kind.INT:
        return Run(full=False)
    if op == "eq":
        le = _comparison("le", a, b, variable, other)
        return _meet(le, _comparison("ge", a, b, variable, other))
    if op in ("gt", "ge"):
        a, b, op = b, a, _FLIPPED[op]
    return _at_most(a, b, variable, other, gap=1 if op == "lt" else 0)


def _at_most(a: Expr, b: Expr, variable: str, other: str, gap: int) -> Run:
    """Run from a + gap <= b."""

    def each(pairs: list[tuple[Expr, Expr]]) -> Run:
        found = Run()
        for x, y in pairs:
            found = _meet(found, _at_most(x, y, variable, other, gap))
        return found

    match a, b:  # |x| <= b and max(x, y) <= b are conjunctions; so is a <= min(x, y)
        case Apply(op="abs", args=(x,)), _ if variable in x.free:
            return each([(x, b), (apply("neg", x), b)])
        case Apply(op="max", args=args), _ if variable in a.free:
            return each([(x, b) for x in args])
        case _, Apply(op="min", args=args) if variable in b.free:
            return each([(a, x) for x in args])
    terms: list[tuple[int, Expr]] = [(1, integer(gap))] if gap else []
    _flatten(a, 1, terms)
    _flatten(b, -1, terms)
    mine = [(sign, t) for sign, t in terms if variable in t.free]
    rest = [(sign, t) for sign, t in terms if variable not in t.free]
    if not mine:  # a condition on the tile alone: decides no bound, and may leave holes
        return Run(full=False)
    if len(mine) != 1:
        return Run(full=False)
    sign, term = mine[0]
    limit = _total([(-sign * s, t) for s, t in rest])  # sign * term <= -rest
    span = extent(limit, other)
    if span is None:
        return Run(full=False)
    low, high = span
    if sign > 0:  # term <= limit
        last, full_last = _solve_most(term, high, variable), _solve_most(term, low, variable)
        return Run(full=False) if last is None else Run(last=last, full_last=full_last)
    first, full_first = _solve_least(term, low, variable), _solve_least(term, high, variable)
    return Run(full=False) if first is None else Run(first=first, full_first=full_first)


def _flatten(expr: Expr, sign: int, out: list[tuple[int, Expr]]) -> None:
    match expr:
        case Apply(op="add", args=args):
            for arg in args:
                _flatten(arg, sign, out)
        case Apply(op="sub", args=(a, b)):
            _flatten(a, sign, out)
            _flatten(b, -sign, out)
        case Apply(op="neg", args=(a,)):
            _flatten(a, -sign, out)
        case _:
            out.append((sign, expr))


def _total(terms: list[tuple[int, Expr]]) -> Expr:
    total: Expr = integer(0)
    for sign, term in terms:
        if sign > 0:
            total = apply("add", total, term)
    for sign, term in terms:
        if sign < 0:
            total = apply("sub", total, term)
    return total


def _divisor(term: Expr, variable: str) -> tuple[Expr, Expr] | None:
    """(x, c) when `term` is x // c with a positive c and the variable in x alone."""
    match term:
        case Apply(op="floordiv", args=(x, c)) if variable not in c.free and _positive(c):
            return x, c
    return None


def _solve_most(term: Expr, limit: Expr, variable: str) -> Expr | None:
    """The greatest variable with term <= limit."""
    if isinstance(term, Index):
        return limit
    divided = _divisor(term, variable)
    if divided is None:
        return None
    x, c = divided
    most = apply("sub", apply("mul", apply("add", limit, integer(1)), c), integer(1))
    return _solve_most(x, most, variable)


def _solve_least(term: Expr, limit: Expr, variable: str) -> Expr | None:
    """The least variable with term >= limit."""
    if isinstance(term, Index):
        return limit
    divided = _divisor(term, variable)
    if divided is None:
        return None
    x, c = divided
    return _solve_least(x, apply("mul", limit, c), variable)


def _positive(expr: Expr) -> bool:
    match expr:
        case Literal(value=value):
            return value > 0
        case Size():
            return True
        case Apply(op=("mul" | "max" | "add"), args=args):
            return all(_positive(a) for a in args)
    return False


def extent(expr: Expr, axis: str) -> Range | None:
    """Least and greatest value while `axis` runs over [lo, hi]; None when it cannot be read.

    Sound, and exact for sums of monotone terms that share no variable.
    """
    if axis not in expr.free:
        # what depends on batch and head alone is one number for the whole tile
        plain = all(isinstance(n, Literal | Size | Index | Apply | Read) for n in walk(expr))
        return (expr, expr) if plain and expr.free <= {"b", "h"} else None
    match expr:
        case Index():
            return Index(LO, kind=Kind.INT), Index(HI, kind=Kind.INT)
        case Apply(op=op, args=args):
            return _extent_apply(op, args, axis)
    return None


def _extent_apply(op: str, args: tuple[Expr, ...], axis: str) -> Range | None:
    ranges = [extent(a, axis) for a in args]
    found = [r for r in ranges if r is not None]
    if len(found) != len(ranges):
        if op == "mod" and _positive(args[1]) and axis not in args[1].free:
            return integer(0), apply("sub", args[1], integer(1))
        return None
    match op, found:
        case "add", [(a, b), (c, d)]:
            return apply("add", a, c), apply("add", b, d)
        case "sub", [(a, b), (c, d)]:
            return apply("sub", a, d), apply("sub", b, c)
        case "neg", [(a, b)]:
            return apply("neg", b), apply("neg", a)
        case (("min" | "max"), _):
            low, high = found[0]
            for a, b in found[1:]:
                low, high = apply(op, low, a), apply(op, high, b)
            return low, high
        case "clamp", [(a, b), (c, d), (e, f)]:
            return (
                apply("min", apply("max", a, c), e),
                apply("min", apply("max", b, d), f),
            )
        case "mul", [(a, b), (c, d)]:
            if _positive(args[1]) and axis not in args[1].free:
                return apply("mul", a, c), apply("mul", b, d)
            if _positive(args[0]) and axis not in args[0].free:
                return apply("mul", a, c), apply("mul", b, d)
        case "floordiv", [(a, b), (c, _)] if _positive(args[1]) and axis not in args[1].free:
            return apply("floordiv", a, c), apply("floordiv", b, c)
        case "mod", [_, (c, _)] if _positive(args[1]) and axis not in args[1].free:
            return integer(0), apply("sub", c, integer(1))
    return None
