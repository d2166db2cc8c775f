"""Closed-form ranges for masks that compare inputs in ascending order.

Where an input ascends along its tokens, by a fact that the call asserts or as a running sum of
what is not negative, `x[j] <= limit` holds for the first so many j, and a binary search finds how
many. Over a tile of queries the limit lies between its values at the extremes of the tile, so
that each block needs two searches: memory and time in proportion to the blocks of one side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attnspec.dsl.analysis.bounds import bounds
from attnspec.dsl.analysis.boxes import MOST, Boxes, End
from attnspec.dsl.analysis.fact import Fact
from attnspec.dsl.analysis.inlining import PAIR
from attnspec.dsl.analysis.positions import nonnegative
from attnspec.dsl.analysis.runs import Run, meet
from attnspec.dsl.analysis.tensors import tensors
from attnspec.dsl.ast import Apply, Cumsum, Expr, Index, Kind, Literal, Read, Spec, conjuncts
from attnspec.dsl.check_prover import Prover
from attnspec.dsl.formula import formula

INT = Kind.INT
_TURNED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq"}


@dataclass(frozen=True, slots=True)
class Ranges:
    """The loops' runs, over the extreme values `ends` and the first positions `Index("start_i")`
    and `Index("start_j")`. In them `below(x, limit)` is how many of the ascending numbers x over
    one side's tokens are less than `limit`, `upto(x, limit)` how many are not more."""

    rows: tuple[Run, ...]
    columns: tuple[Run, ...]
    ends: tuple[End, ...]


def ranges(spec: Spec, mask: Expr | None, prover: Prover) -> Ranges | None:
    """The ranges of a mask, inlined and with coordinates written out; None where there are none."""
    parts = list(conjuncts(mask)) if mask is not None else []
    inputs = [part for part in parts if tensors(spec, part)]
    others = tuple(part for part in parts if part not in inputs)
    if not inputs:
        return None
    positions = Apply("and", others, kind=Kind.BOOL) if others else None
    boxes = Boxes(spec)
    loops: list[tuple[Run, ...]] = []
    for variable, other in (("j", "i"), ("i", "j")):
        base = bounds(positions, variable, other, prover)
        solved = [_solved(spec, boxes, part, variable) for part in inputs]
        found = [run for run in solved if run is not None]
        if not base.tight or len(found) != len(solved):
            return None
        runs = base.runs
        for run in found:
            runs = meet(runs, (run,))
        loops.append(runs)
    if boxes.most > MOST or not all(loops):
        return None
    return Ranges(loops[0], loops[1], tuple(boxes.ends.values()))


def describe(found: Ranges | None) -> Iterator[Fact]:
    """Ranges as a fact."""
    if found is None:
        return
    read = ", ".join(dict.fromkeys(formula(end.of) for end in found.ends))
    for name, runs in (
        ("keys of a tile of queries, searched for", found.rows),
        ("queries of a tile of keys, searched for", found.columns),
    ):
        spans = [
            " .. ".join(default if end is None else formula(end) for end, default in ends)
            for ends in (((r.first, "start"), (r.last, "end")) for r in runs)
        ]
        yield Fact(
            name,
            " or ".join(spans),
            f"{read} never fall along their tokens",
            "four int32 a block instead of lists; tiles inside the full range need no mask",
        )


def ascending(spec: Spec, expr: Expr, variable: str) -> bool:
    """Whether integers over the tokens of `variable` provably never fall."""
    if not isinstance(expr, Read) or expr.kind is not INT or expr.free & PAIR != {variable}:
        return False
    decl, found = spec.decl(expr.name), spec.definition(expr.name)
    owner = decl or found
    if owner is None or expr.pad is not None:
        return False
    places = [x.axis if isinstance(x, Index) else "" for x in expr.index]
    if variable not in places:
        return False
    own = owner.axes[places.index(variable)]
    if any(x != a for a, x in zip(owner.axes, places, strict=True) if a != own):
        return False
    if found is not None:
        total = found.expr
        return isinstance(total, Cumsum) and total.axis == own and nonnegative(total.body)
    assert decl is not None
    claims = conjuncts(decl.where) if decl.where is not None else iter(())
    return any(_never_falls(claim, decl.name, own) for claim in claims)


def _never_falls(claim: Expr, name: str, axis: str) -> bool:
    """Whether a fact says x[n - 1] <= x[n] along `axis`."""
    match claim:
        case Apply(op=("le" | "lt"), args=(Read() as before, Read() as after)):
            pass
        case Apply(op=("ge" | "gt"), args=(Read() as after, Read() as before)):
            pass
        case _:
            return False
    if before.name != name or after.name != name or after.pad is not None:
        return False
    moved = [(x, y) for x, y in zip(before.index, after.index, strict=True) if x != y]
    here = Index(axis, kind=INT)
    return moved == [(Apply("sub", (here, Literal(1, kind=INT)), kind=INT), here)]


def _solved(spec: Spec, boxes: Boxes, part: Expr, variable: str) -> Run | None:
    """The run of one comparison of ascending numbers with what does not depend on `variable`."""
    match part:
        case Apply(op=op, args=(a, b)) if op in _TURNED and a.kind is INT and b.kind is INT:
            if not ascending(spec, a, variable):
                op, a, b = _TURNED[op], b, a
        case _:
            return None
    if not ascending(spec, a, variable) or variable in b.free:
        return None
    limit = boxes.range(b)
    if limit is None:
        return None

    def found(count: str, end: Expr, back: int) -> Expr:
        start = Index(f"start_{variable}", kind=INT)
        position = Apply("add", (start, Apply(count, (a, end), kind=INT)), kind=INT)
        return Apply("sub", (position, Literal(back, kind=INT)), kind=INT) if back else position

    run = Run()
    if op in ("ge", "gt", "eq"):
        count = "upto" if op == "gt" else "below"
        run = Run(first=found(count, limit.low, 0), full_first=found(count, limit.high, 0))
    if op in ("le", "lt", "eq"):
        count = "below" if op == "lt" else "upto"
        last, full_last = found(count, limit.high, 1), found(count, limit.low, 1)
        run = Run(run.first, last, run.full_first, full_last)
    return run
