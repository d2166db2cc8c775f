"""Runs: intervals of a loop's positions for a tile of the other side, and their algebra.

The ends are integer expressions over `Index("lo")` and `Index("hi")`, the first and last position
of the tile, so the same result serves every tile size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

from attnspec.dsl.analysis.positions import rebuild
from attnspec.dsl.ast import Apply, Expr, Index, Kind, Literal, walk
from attnspec.dsl.formula import formula

LO, HI = "lo", "hi"
MOST_RUNS = 4  # what a kernel sorts at run time for every tile
_MOST_READ = 16  # while a mask is being read
_MOST_NODES = 300  # of all ends of a run
TRUE, FALSE = Literal(True, kind=Kind.BOOL), Literal(False, kind=Kind.BOOL)
ZERO = Literal(0, kind=Kind.INT)
NOWHERE = Literal(2**30, kind=Kind.INT)  # past every position: a run that begins here is empty


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

    `tight` says that nothing was left out that could empty a tile of 16 by 16 positions away from
    the ends of the runs: every comparison was read, or repeats itself within such a tile.
    """

    runs: tuple[Run, ...]
    tight: bool


Runs: TypeAlias = tuple[Run, ...]  # their union; none at all holds nothing
EVERYTHING, UNKNOWN = (Run(),), (Run(full=False),)


def shown(limit: Expr | None, default: str) -> str:
    """An end of a run as text: `default` where it has none, "end" past every position."""

    def named(node: Expr) -> Expr:
        return Index("end", kind=Kind.INT) if node == NOWHERE else rebuild(node, named)

    return default if limit is None else formula(named(limit))


def given(possible: Expr, certain: Expr) -> Runs:
    """Every position where a condition on the tile alone may hold; full where it must."""
    if possible == FALSE:
        return ()
    first = None if possible == TRUE else choose(possible, ZERO, NOWHERE)
    if certain == FALSE:
        return (Run(first, full=False),)
    return (Run(first, full_first=None if certain == TRUE else choose(certain, ZERO, NOWHERE)),)


def meet(a: Runs, b: Runs) -> Runs:
    """What lies in both."""
    return union([found for x in a for y in b if not _empty(found := _meet(x, y))])


def bounds_of(runs: Runs, tight: bool) -> Bounds:
    """At least one run and at most `MOST_RUNS`."""
    if not runs:
        return Bounds((Run(NOWHERE, full=False),), tight)
    found = _fewer(runs, MOST_RUNS)
    if any(_long(run) for run in found):
        return Bounds(UNKNOWN, tight=False)
    return Bounds(found, tight and len(runs) <= MOST_RUNS)


def hull(found: Bounds) -> Run:
    """The least single run around all runs."""
    run = _fewer(found.runs, 1)[0]
    return UNKNOWN[0] if _long(run) else run


def _long(run: Run) -> bool:
    """Whether the ends take more to compute than they may save."""
    ends = (run.first, run.last, run.full_first, run.full_last)
    return sum(1 for end in ends if end is not None for _ in walk(end)) > _MOST_NODES


def _meet(a: Run, b: Run) -> Run:
    def inner(op: str, x: Expr | None, y: Expr | None) -> Expr | None:
        if x is None or y is None:
            return y if x is None else x
        return extreme(op, x, y)

    first, last = inner("max", a.first, b.first), inner("min", a.last, b.last)
    if not (a.full and b.full):
        return Run(first, last, full=False)
    full = inner("max", a.full_first, b.full_first), inner("min", a.full_last, b.full_last)
    return Run(first, last, *full)


def _empty(run: Run) -> bool:
    match run.first, run.last:
        case Literal(value=first), Literal(value=last):
            return last < first
    return False


def union(runs: Iterable[Run]) -> Runs:
    """What lies in any of the runs; those that together are one are made one."""
    kept: list[Run] = []
    for run in runs:
        merged = run
        while other := next((k for k in kept if _one(k, merged) is not None), None):
            kept.remove(other)
            merged = _one(other, merged) or merged
        kept.append(merged)
    return _fewer(tuple(kept), _MOST_READ)


def without_full(runs: Runs) -> Runs:
    """The same runs, of which no tile is known to be full."""
    return union(Run(run.first, run.last, full=False) for run in runs)


def _fewer(runs: Runs, most: int) -> Runs:
    """At most so many runs: some are joined over what lies between them."""
    while len(runs) > most:
        pairs = list(combinations(runs, 2))
        a, b = next((p for p in pairs if _touching(*p)), pairs[-1])
        runs = (*(r for r in runs if r is not a and r is not b), _around(a, b))
    return runs


def _touching(a: Run, b: Run) -> bool:
    return a.first == b.first or a.last == b.last


def _one(a: Run, b: Run) -> Run | None:
    """Both runs as one, where they begin or end together and lose nothing by it."""
    for x, y in ((a, b), (b, a)):
        if not x.full and x.first is None and x.last is None:
            return Run(None, None, y.full_first, y.full_last, y.full)
        if x.full and y.full and (anywhere := _anywhere(x)) is not None:
            return _joined(y, *anywhere)
    if not _touching(a, b):
        return None
    around = _around(a, b)
    if not (a.full and b.full):
        whole = a if a.full else b
        full = whole.full_first, whole.full_last
        return Run(around.first, around.last, *full, whole.full)
    if a.first == b.first and a.full_first == b.full_first:
        full = a.full_first, _outer("max", a.full_last, b.full_last)
    elif a.last == b.last and a.full_last == b.full_last:
        full = _outer("min", a.full_first, b.full_first), a.full_last
    else:
        return None
    return Run(around.first, around.last, *full)


def _anywhere(run: Run) -> tuple[Expr, Expr] | None:
    """Where a run is everything or nothing: the conditions for it to hold pairs, and them only."""
    if run.last is not None or run.full_last is not None:
        return None
    found = [TRUE if x is None else _condition(x) for x in (run.first, run.full_first)]
    possible, certain = found
    return None if possible is None or certain is None else (possible, certain)


def _joined(run: Run, possible: Expr, certain: Expr) -> Run:
    """A run that holds any position where one condition does, and only pairs where the other."""

    def ends(c: Expr, first: Expr | None, last: Expr | None) -> tuple[Expr | None, Expr | None]:
        low = None if first is None else choose(c, ZERO, first)
        return low, None if last is None else choose(c, NOWHERE, last)

    return Run(*ends(possible, run.first, run.last), *ends(certain, run.full_first, run.full_last))


def _around(a: Run, b: Run) -> Run:
    first, last = _outer("min", a.first, b.first), a.last
    if a.last != b.last:  # one that does not begin must not reach far
        last = _outer("max", _last(a), _last(b))
    return Run(first, last, full=False)


def _last(run: Run) -> Expr | None:
    """Where a run ends; before every position where the condition to begin at all fails."""
    only, _ = parted(run.first)
    if only is None:
        return run.last
    return choose(only, NOWHERE if run.last is None else run.last, Literal(-1, kind=Kind.INT))


def _outer(op: str, x: Expr | None, y: Expr | None) -> Expr | None:
    return None if x is None or y is None else extreme(op, x, y)


def extreme(op: str, *args: Expr) -> Expr:
    """The least ("min") or the greatest ("max"), without what says the same twice.

    Of where runs begin, several conditions become one; all positions are 0 or more.
    """
    parts: list[Expr] = []
    for arg in args:
        parts += arg.args if isinstance(arg, Apply) and arg.op == op else [arg]
    pick = min if op == "min" else max
    numbers = [p.value for p in parts if isinstance(p, Literal)]
    kept: list[Expr] = list(dict.fromkeys(p for p in parts if not isinstance(p, Literal)))
    conditions = [c for part in kept if (c := _condition(part)) is not None]
    kept = [part for part in kept if _condition(part) is None]
    if numbers:
        kept.append(Literal(pick(numbers), kind=parts[0].kind))
    if conditions and op == "max":
        kept.append(choose(every(*conditions), ZERO, NOWHERE))
    found = kept[0] if len(kept) == 1 else Apply(op, tuple(kept), kind=parts[0].kind)
    if conditions and op == "min":
        return choose(some(*conditions), ZERO, found if kept else NOWHERE)
    return found


def parted(first: Expr | None) -> tuple[Expr | None, Expr | None]:
    """The condition for a run to begin at all, if any, and where it begins then."""
    parts = list(_parts("max", () if first is None else (first,)))
    only = next((c for part in parts if (c := _condition(part)) is not None), None)
    rest = [part for part in parts if _condition(part) is None]
    return only, extreme("max", *rest) if rest else None


def _condition(first: Expr) -> Expr | None:
    """c of `where(c, 0, nowhere)`."""
    match first:
        case Apply(op="where", args=(c, zero, nowhere)) if (zero, nowhere) == (ZERO, NOWHERE):
            return c
    return None


def choose(c: Expr, a: Expr, b: Expr) -> Expr:
    """`a` where `c` holds, else `b`."""
    match c, b:
        case Literal(value=value), _:
            return a if value else b
        case _, Apply(op="where", args=(other, first, second)) if first == a:
            return choose(some(c, other), a, second)
    return a if a == b else Apply("where", (c, a, b), kind=a.kind)


def every(*conditions: Expr) -> Expr:
    """All of the conditions."""
    return _logic("and", TRUE, FALSE, conditions)


def some(*conditions: Expr) -> Expr:
    """Any of the conditions."""
    return _logic("or", FALSE, TRUE, conditions)


def _logic(op: str, neutral: Literal, decided: Literal, conditions: tuple[Expr, ...]) -> Expr:
    kept = list(dict.fromkeys(_parts(op, conditions)))
    if decided in kept:
        return decided
    kept = [c for c in kept if c != neutral]
    match kept:
        case []:
            return neutral
        case [one]:
            return one
    return Apply(op, tuple(kept), kind=Kind.BOOL)


def _parts(op: str, conditions: tuple[Expr, ...]) -> Iterator[Expr]:
    for one in conditions:
        if isinstance(one, Apply) and one.op == op:
            yield from one.args
        else:
            yield one
